//! An echo server that runs on while its certificates rotate, and prints each revision it moved to.
//!
//! Run a Workload API with short lives (`spiffe up … --entry '…,ttl=30s'`), set `SPIFFE_ENDPOINT_SOCKET`, then
//! `cargo run --bin rotating_acceptor -- --authorize domain:example.org`. Open connections stay open across rotations.

use std::process::ExitCode;

use clap::Parser;
use spiffe_core::{Source, Watch};
use spiffe_examples::{POLICY_FORMS, exit, interrupted, log_to_stderr};
use spiffe_tls::{Listener, Mtls, Policy};
use spiffe_workload_client::X509Source;
use tokio::net::TcpListener;

/// Echoes what mutual TLS clients send, across rotations.
#[derive(Parser)]
struct Arguments {
    /// Address to listen on; port 0 lets the system choose.
    #[arg(long, default_value = "127.0.0.1:8443")]
    listen: String,
    /// Peers to talk to, in the text form of policies.
    #[arg(long, help = format!("Clients that may connect: {POLICY_FORMS}"))]
    authorize: Policy,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    log_to_stderr();
    exit(run(arguments).await)
}

async fn run(arguments: Arguments) -> Result<(), Box<dyn std::error::Error>> {
    let source = X509Source::new().await?;
    let acceptor = Mtls::new(&source, arguments.authorize).acceptor()?;
    let listener = acceptor.listen(TcpListener::bind(&arguments.listen).await?);
    println!("listening on {}", listener.local_addr()?);
    tokio::select! {
        served = echo(listener) => Ok(served?),
        () = report(&source) => Ok(()),
        stopped = interrupted() => Ok(stopped?),
    }
}

/// Prints every revision as it becomes current.
async fn report(source: &X509Source) {
    loop {
        let current = source.current();
        match current.svid() {
            Ok(svid) => println!(
                "revision {}: {} serial {} until {}",
                current.revision(),
                svid.id(),
                svid.serial_hex(),
                svid.not_after()
            ),
            Err(error) => println!("revision {}: {error}", current.revision()),
        }
        source.changed(current.revision()).await;
    }
}

async fn echo(mut listener: Listener) -> std::io::Result<()> {
    loop {
        match listener.accept().await? {
            Ok(stream) => {
                let peer = stream.peer();
                println!("{} connected under revision {}", peer.id(), peer.revision());
                tokio::spawn(async move {
                    let (mut from, mut to) = tokio::io::split(stream);
                    // The end of a connection, however it comes, is the client's affair.
                    let _ = tokio::io::copy(&mut from, &mut to).await;
                });
            }
            Err(error) => println!("refused: {error}"),
        }
    }
}

//! A client that greets a server and prints who it was.
//!
//! Run `helloworld_server` first, set `SPIFFE_ENDPOINT_SOCKET`, then
//! `cargo run --bin helloworld_client -- --connect 127.0.0.1:8443 --authorize domain:example.org`.

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use spiffe_examples::{POLICY_FORMS, exit, greet, log_to_stderr};
use spiffe_tls::{Connector, Mtls, Policy};
use spiffe_workload_client::X509Source;
use tokio::net::TcpStream;

/// Greets a mutual TLS server and prints its SPIFFE ID.
#[derive(Parser)]
struct Arguments {
    /// Address of the server.
    #[arg(long, default_value = "127.0.0.1:8443")]
    connect: String,
    /// Peers to talk to, in the text form of policies.
    #[arg(long, help = format!("Servers to talk to: {POLICY_FORMS}"))]
    authorize: Policy,
    /// How many seconds to wait for an identity, and then for the server.
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    timeout: u64,
    /// How often to greet, each time over a connection of its own, which may resume the session of one before.
    #[arg(long, value_name = "N", default_value_t = 1)]
    times: u32,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    log_to_stderr();
    exit(run(arguments).await)
}

async fn run(arguments: Arguments) -> Result<(), Box<dyn std::error::Error>> {
    let limit = Duration::from_secs(arguments.timeout);
    let source = X509Source::builder().timeout(limit).build().await?;
    let connector = Mtls::new(&source, arguments.authorize).connector()?;
    let address = &arguments.connect;
    let mut resumed = 0;
    for _ in 0..arguments.times {
        let hello = tokio::time::timeout(limit, hello(&connector, address));
        let hello = hello.await.map_err(|_| {
            format!("{address} has not answered within {limit:?}; is the server running?")
        })?;
        resumed += u32::from(hello?);
    }
    if arguments.times > 1 {
        println!("resumed {resumed} of {}", arguments.times);
    }
    Ok(())
}

/// Greets once, and says whether a session was resumed for it.
async fn hello(connector: &Connector, address: &str) -> Result<bool, Box<dyn std::error::Error>> {
    let tcp = TcpStream::connect(address)
        .await
        .map_err(|error| format!("cannot connect to {address}: {error}"))?;
    let mut stream = connector.connect(tcp).await?;
    println!("hello from {}", stream.peer().id());
    println!("{}", greet(&mut stream).await?);
    Ok(stream.peer().is_resumed())
}

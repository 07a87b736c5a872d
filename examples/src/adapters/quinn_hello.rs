//! QUIC with SPIFFE mutual TLS by quinn: a server that greets by SPIFFE ID, and a client of it.
//!
//! Run a Workload API (`spiffe up …`), set `SPIFFE_ENDPOINT_SOCKET`, then
//! `cargo run -p spiffe-examples --example quinn_hello -- --authorize domain:example.org serve` and
//! `… --authorize domain:example.org greet 127.0.0.1:4433`.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use spiffe_examples::{POLICY_FORMS, exit, interrupted, log_to_stderr};
use spiffe_tls::quinn::quinn::{Endpoint, Incoming};
use spiffe_tls::quinn::{Acceptor, Connector};
use spiffe_tls::{Mtls, Policy};
use spiffe_workload_client::X509Source;

/// Speaks QUIC to SPIFFE peers.
#[derive(Parser)]
struct Arguments {
    /// Peers to talk to, in the text form of policies.
    #[arg(long, help = format!("Peers to talk to: {POLICY_FORMS}"))]
    authorize: Policy,
    #[command(subcommand)]
    role: Role,
}

#[derive(Subcommand)]
enum Role {
    /// Answers until interrupted.
    Serve {
        /// Address to listen on.
        #[arg(long, default_value = "127.0.0.1:4433")]
        listen: SocketAddr,
    },
    /// Prints one answer.
    Greet {
        /// Whom to greet.
        address: SocketAddr,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    log_to_stderr();
    exit(run(arguments).await)
}

async fn run(arguments: Arguments) -> Result<(), Box<dyn std::error::Error>> {
    let source = X509Source::new().await?;
    let mtls = Mtls::new(&source, arguments.authorize).alpn([b"hello"]);
    match arguments.role {
        Role::Serve { listen } => {
            let acceptor = Acceptor::new(mtls)?;
            let endpoint = Endpoint::server(acceptor.server_config(), listen)?;
            println!("listening on {}", endpoint.local_addr()?);
            let serving = async {
                while let Some(incoming) = endpoint.accept().await {
                    tokio::spawn(serve(acceptor.clone(), incoming));
                }
            };
            tokio::select! {
                () = serving => {}
                stopped = interrupted() => stopped?,
            }
        }
        Role::Greet { address } => {
            let endpoint = Endpoint::client((Ipv4Addr::UNSPECIFIED, 0).into())?;
            let connection = Connector::new(mtls)?.connect(&endpoint, address).await?;
            let (mut send, mut receive) = connection.open_bi().await?;
            send.write_all(b"hello").await?;
            send.finish()?;
            let answer = receive.read_to_end(4096).await?;
            println!("{}", String::from_utf8_lossy(&answer));
            connection.quic().close(0_u32.into(), b"done");
            endpoint.wait_idle().await;
        }
    }
    Ok(())
}

async fn serve(acceptor: Acceptor, incoming: Incoming) {
    let connection = match acceptor.accept(incoming).await {
        Ok(connection) => connection,
        Err(error) => return println!("refused: {error}"),
    };
    let peer = connection.peer().id().clone();
    // Ends with an error when the peer closes, or when its lease is over.
    while let Ok((mut send, mut receive)) = connection.accept_bi().await {
        let peer = peer.clone();
        tokio::spawn(async move {
            if let Ok(greeting) = receive.read_to_end(100).await {
                let answer = format!("{}, {peer}", String::from_utf8_lossy(&greeting));
                if send.write_all(answer.as_bytes()).await.is_ok() {
                    let _ = send.finish();
                }
            }
        });
    }
}

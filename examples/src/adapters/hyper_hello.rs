//! HTTP over SPIFFE mutual TLS with hyper: a server that greets by SPIFFE ID, and a client of it.
//!
//! Run a Workload API (`spiffe up …`), set `SPIFFE_ENDPOINT_SOCKET`, then
//! `cargo run -p spiffe-examples --example hyper_hello -- --authorize domain:example.org serve` and
//! `… --authorize domain:example.org get https://127.0.0.1:8443/`.

use std::convert::Infallible;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use http_body_util::{BodyExt, Empty};
use spiffe_examples::{POLICY_FORMS, exit, interrupted, log_to_stderr};
use spiffe_tls::hyper::bytes::Bytes;
use spiffe_tls::hyper::http::{Request, Response, Uri};
use spiffe_tls::hyper::{ALPN, Client, Server};
use spiffe_tls::{Mtls, Peer, Policy};
use spiffe_workload_client::X509Source;
use tokio::net::TcpListener;

/// Speaks HTTP to SPIFFE peers.
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
        #[arg(long, default_value = "127.0.0.1:8443")]
        listen: String,
    },
    /// Prints one answer.
    Get {
        /// What to ask for.
        uri: Uri,
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
    let mtls = Mtls::new(&source, arguments.authorize).alpn(ALPN);
    match arguments.role {
        Role::Serve { listen } => serve(mtls, &listen).await,
        Role::Get { uri } => get(mtls, uri).await,
    }
}

async fn serve(mtls: Mtls, listen: &str) -> Result<(), Box<dyn std::error::Error>> {
    let listener = mtls.acceptor()?.listen(TcpListener::bind(listen).await?);
    println!("listening on {}", listener.local_addr()?);
    let hello = tower::service_fn(async |request: Request<_>| {
        let peer: Option<&Peer> = request.extensions().get();
        let id = peer.map(|peer| peer.id().to_string()).unwrap_or_default();
        Ok::<_, Infallible>(Response::new(format!("hello, {id}\n")))
    });
    let stop = async { drop(interrupted().await) };
    Ok(Server::new(hello).serve(listener, stop).await?)
}

async fn get(mtls: Mtls, uri: Uri) -> Result<(), Box<dyn std::error::Error>> {
    let client = Client::new(mtls.connector()?);
    let request = Request::get(uri).body(Empty::<Bytes>::new())?;
    let response = client.request(request).await?;
    let body = response.into_body().collect().await?.to_bytes();
    print!("{}", String::from_utf8_lossy(&body));
    Ok(())
}

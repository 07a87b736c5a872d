//! An axum router over SPIFFE mutual TLS: the peer is an extractor.
//!
//! Run a Workload API (`spiffe up …`), set `SPIFFE_ENDPOINT_SOCKET`, then
//! `cargo run -p spiffe-examples --example axum_hello -- --authorize domain:example.org`.
//! Next: ask it with `hyper_hello … get https://127.0.0.1:8443/`, or see `bearer_hello` for tokens.

use std::process::ExitCode;

use axum::{Router, routing::get};
use clap::Parser;
use spiffe_examples::{POLICY_FORMS, exit, interrupted, log_to_stderr};
use spiffe_tls::hyper::{ALPN, Server};
use spiffe_tls::{Mtls, Peer, Policy};
use spiffe_workload_client::X509Source;
use tokio::net::TcpListener;

/// Greets clients by SPIFFE ID.
#[derive(Parser)]
struct Arguments {
    /// Address to listen on.
    #[arg(long, default_value = "127.0.0.1:8443")]
    listen: String,
    /// Clients that may connect, in the text form of policies.
    #[arg(long, help = format!("Clients that may connect: {POLICY_FORMS}"))]
    authorize: Policy,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    log_to_stderr();
    exit(run(arguments).await)
}

async fn greet(peer: Peer) -> String {
    format!("hello, {}\n", peer.id())
}

async fn run(arguments: Arguments) -> Result<(), Box<dyn std::error::Error>> {
    let source = X509Source::new().await?;
    let acceptor = Mtls::new(&source, arguments.authorize)
        .alpn(ALPN)
        .acceptor()?;
    let listener = acceptor.listen(TcpListener::bind(&arguments.listen).await?);
    println!("listening on {}", listener.local_addr()?);
    let router = Router::new().route("/", get(greet));
    let stop = async { drop(interrupted().await) };
    Ok(Server::new(router).serve(listener, stop).await?)
}

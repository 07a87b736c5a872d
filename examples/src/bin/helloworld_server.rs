//! A server that greets its clients by SPIFFE ID.
//!
//! Run a Workload API (`spiffe up …`), set `SPIFFE_ENDPOINT_SOCKET`, then
//! `cargo run --bin helloworld_server -- --listen 127.0.0.1:8443 --authorize domain:example.org`.
//! Next: `helloworld_client`, and `rotating_acceptor` to watch certificates rotate.

use std::process::ExitCode;

use clap::Parser;
use spiffe_core::{Clock, SystemClock};
use spiffe_examples::{POLICY_FORMS, answer, answer_http, exit, interrupted, log_to_stderr};
use spiffe_tls::{Mtls, Policy};
use spiffe_workload_client::X509Source;
use tokio::net::TcpListener;

/// Greets mutual TLS clients by their SPIFFE ID.
#[derive(Parser)]
struct Arguments {
    /// Address to listen on; port 0 lets the system choose.
    #[arg(long, default_value = "127.0.0.1:8443")]
    listen: String,
    /// Peers to talk to, in the text form of policies.
    #[arg(long, help = format!("Clients that may connect: {POLICY_FORMS}"))]
    authorize: Policy,
    /// Answer HTTP/1.1 requests, for curl.
    #[arg(long)]
    http: bool,
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
    let mut listener = acceptor.listen(TcpListener::bind(&arguments.listen).await?);
    println!("listening on {}", listener.local_addr()?);
    let mut stop = std::pin::pin!(interrupted());
    loop {
        let mut stream = tokio::select! {
            accepted = listener.accept_from() => match accepted? {
                (_, Ok(stream)) => stream,
                (from, Err(error)) => {
                    let time = SystemClock::new().now().truncated();
                    let code = error.rule().map_or("no rule", |rule| rule.code());
                    println!("refused: {time} {from} {code}: {error}");
                    continue;
                }
            },
            stopped = &mut stop => return Ok(stopped?),
        };
        println!("hello from {}", stream.peer().id());
        let http = arguments.http;
        tokio::spawn(async move {
            let answered = match http {
                true => answer_http(&mut stream).await,
                false => answer(&mut stream).await,
            };
            if let Err(error) = answered {
                println!("{} left early: {error}", stream.peer().id());
            }
        });
    }
}

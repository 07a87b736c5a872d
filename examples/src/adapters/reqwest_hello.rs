//! One request over SPIFFE mutual TLS with reqwest.
//!
//! Run a Workload API (`spiffe up …`), set `SPIFFE_ENDPOINT_SOCKET`, start `axum_hello` or `hyper_hello … serve`, then
//! `cargo run -p spiffe-examples --example reqwest_hello -- --authorize domain:example.org https://127.0.0.1:8443/`.

use std::process::ExitCode;

use clap::Parser;
use reqwest::{Method, Request, Url};
use spiffe_examples::{POLICY_FORMS, exit, log_to_stderr};
use spiffe_tls::hyper::ALPN;
use spiffe_tls::reqwest::Client;
use spiffe_tls::{Mtls, Policy};
use spiffe_workload_client::X509Source;

/// Prints one answer.
#[derive(Parser)]
struct Arguments {
    /// Servers to talk to, in the text form of policies.
    #[arg(long, help = format!("Servers to talk to: {POLICY_FORMS}"))]
    authorize: Policy,
    /// What to ask for.
    url: Url,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    log_to_stderr();
    exit(run(arguments).await)
}

async fn run(arguments: Arguments) -> Result<(), Box<dyn std::error::Error>> {
    let source = X509Source::new().await?;
    let client = Client::new(Mtls::new(&source, arguments.authorize).alpn(ALPN))?;
    let response = client
        .execute(Request::new(Method::GET, arguments.url))
        .await?;
    print!("{}", response.text().await?);
    Ok(())
}

//! An echo server that runs on while its certificates rotate, and whose connections end when the trust behind them does.
//!
//! Run a Workload API with short lives (`spiffe up … --entry '…,ttl=30s'`), set `SPIFFE_ENDPOINT_SOCKET`, then
//! `cargo run --bin rotating_acceptor -- --authorize domain:example.org`. It prints each revision that it moves to. Open
//! connections stay open across rotations and rollovers; type another policy on a line, or defederate a trust domain,
//! and those that no longer stand are drained, with the reason.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use spiffe_core::{Source, Watch};
use spiffe_examples::{POLICY_FORMS, exit, interrupted, log_to_stderr};
use spiffe_tls::{LeaseRules, Listener, Mtls, Policy, Terms, TlsStream};
use spiffe_workload_client::{FileSource, Files, X509Source};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// Echoes what mutual TLS clients send, across rotations. Each line of standard input is a policy that takes the place
/// of the one before.
#[derive(Parser)]
struct Arguments {
    /// Address to listen on; port 0 lets the system choose.
    #[arg(long, default_value = "127.0.0.1:8443")]
    listen: String,
    /// Peers to talk to, in the text form of policies.
    #[arg(long, help = format!("Clients that may connect: {POLICY_FORMS}"))]
    authorize: Policy,
    /// Take the files that spiffe-helper keeps in this directory instead of asking a Workload API.
    #[arg(long, value_name = "DIRECTORY")]
    spiffe_helper: Option<PathBuf>,
    /// The same with the files that SPIRE's `api fetch -write` left in this directory.
    #[arg(long, value_name = "DIRECTORY", conflicts_with = "spiffe_helper")]
    spire_fetch: Option<PathBuf>,
    /// Seconds over which connections that lost their lease begin to drain.
    #[arg(long, default_value_t = 5)]
    spread: u64,
    /// Seconds from there until they are cut.
    #[arg(long, default_value_t = 10)]
    grace: u64,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    log_to_stderr();
    exit(run(arguments).await)
}

async fn run(arguments: Arguments) -> Result<(), Box<dyn std::error::Error>> {
    let helper = arguments.spiffe_helper.map(Files::spiffe_helper);
    let files = helper.or_else(|| arguments.spire_fetch.map(Files::spire_fetch));
    let source: Arc<dyn Source> = match files {
        Some(files) => Arc::new(FileSource::new(files).await?),
        None => Arc::new(X509Source::new().await?),
    };
    let terms = Terms::new(arguments.authorize);
    let seconds = Duration::from_secs;
    let acceptor = Mtls::new(&source, terms.clone())
        .lease_rules(LeaseRules::drain(
            seconds(arguments.spread),
            seconds(arguments.grace),
        ))
        .acceptor()?;
    let listener = acceptor.listen(TcpListener::bind(&arguments.listen).await?);
    println!("listening on {}", listener.local_addr()?);
    // Standard input cannot be waited for in a way that ends, so nobody waits for this task.
    tokio::spawn(follow_policies(terms));
    tokio::select! {
        served = serve(listener) => Ok(served?),
        () = report(&source) => Ok(()),
        stopped = interrupted() => Ok(stopped?),
    }
}

/// Prints every revision as it becomes current.
async fn report(source: &Arc<dyn Source>) {
    loop {
        let current = source.current();
        let domains = current.bundles().len();
        match current.svid() {
            Ok(svid) => println!(
                "revision {}: {} serial {} until {}, trust domains: {domains}",
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

async fn follow_policies(terms: Terms) {
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        match line.trim().parse::<Policy>() {
            Ok(policy) => {
                println!("policy {policy}");
                terms.authorize(policy);
            }
            Err(error) => println!("the policy stays: {error}"),
        }
    }
}

async fn serve(mut listener: Listener) -> std::io::Result<()> {
    loop {
        match listener.accept().await? {
            Ok(stream) => {
                let peer = stream.peer();
                println!(
                    "{} connected under revision {}{}",
                    peer.id(),
                    peer.revision(),
                    if peer.is_resumed() { ", resumed" } else { "" }
                );
                tokio::spawn(echo(stream));
            }
            Err(error) => println!("refused: {error}"),
        }
    }
}

/// Echoes until the client ends the connection, or its lease does.
async fn echo(stream: TlsStream<TcpStream>) {
    let peer = stream.peer().clone();
    let (mut from, mut to) = tokio::io::split(stream);
    tokio::select! {
        // The end of a connection, however it comes, is the client's affair.
        _ = tokio::io::copy(&mut from, &mut to) => println!("{} is gone", peer.id()),
        end = peer.lease().over() => {
            println!("{} is let go: {end}", peer.id());
            let _ = to.shutdown().await;
        }
    }
}

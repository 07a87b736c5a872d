//! JWT-SVIDs as bearer tokens over SPIFFE mutual TLS: a server that wants one, and a client that has one.
//!
//! The connection says which workload calls; the token may be of another, whose request it is.
//!
//! Run a Workload API (`spiffe up …`), set `SPIFFE_ENDPOINT_SOCKET`, then
//! `cargo run -p spiffe-examples --example bearer_hello -- --authorize domain:example.org serve` and
//! `… --authorize domain:example.org get https://127.0.0.1:8443/`. `hyper_hello … get` has no token and gets 401.

use std::process::ExitCode;
use std::sync::Arc;

use axum::{Extension, Router, routing::get};
use clap::{Parser, Subcommand};
use http_body_util::{BodyExt, Empty};
use spiffe_core::crypto::aws_lc_rs;
use spiffe_core::{JwtSvid, JwtVerifier};
use spiffe_examples::{POLICY_FORMS, exit, interrupted, log_to_stderr};
use spiffe_tls::bearer::{AttachToken, RequireToken};
use spiffe_tls::hyper::bytes::Bytes;
use spiffe_tls::hyper::http::{Request, Uri};
use spiffe_tls::hyper::{ALPN, Client, Server};
use spiffe_tls::{Mtls, Peer, Policy};
use spiffe_workload_client::{JwtSource, X509Source};
use tokio::net::TcpListener;
use tower::{Layer, ServiceExt};

/// Speaks HTTP to SPIFFE peers, with tokens.
#[derive(Parser)]
struct Arguments {
    /// Peers and subjects to talk to, in the text form of policies.
    #[arg(long, help = format!("Peers and subjects to talk to: {POLICY_FORMS}"))]
    authorize: Policy,
    /// The name that the server goes by.
    #[arg(long, default_value = "hello")]
    audience: String,
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

async fn greet(peer: Peer, Extension(svid): Extension<Arc<JwtSvid>>) -> String {
    format!("hello, {} for {}\n", peer.id(), svid.id())
}

async fn run(arguments: Arguments) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let Arguments {
        authorize,
        audience,
        role,
    } = arguments;
    let source = X509Source::new().await?;
    let tokens = JwtSource::new().await?;
    let mtls = Mtls::new(&source, authorize.clone()).alpn(ALPN);
    match role {
        Role::Serve { listen } => {
            let verifier = JwtVerifier::new(&*aws_lc_rs());
            let tokens = RequireToken::new(&tokens, verifier, audience, authorize);
            let listener = mtls.acceptor()?.listen(TcpListener::bind(&listen).await?);
            println!("listening on {}", listener.local_addr()?);
            let router = Router::new().route("/", get(greet)).layer(tokens);
            let stop = async { drop(interrupted().await) };
            Server::new(router).serve(listener, stop).await?;
        }
        Role::Get { uri } => {
            let client = AttachToken::new(tokens, audience).layer(Client::new(mtls.connector()?));
            let request = Request::get(uri).body(Empty::<Bytes>::new())?;
            let response = client.oneshot(request).await?;
            let status = response.status();
            let body = response.into_body().collect().await?.to_bytes();
            print!("{status}: {}", String::from_utf8_lossy(&body));
        }
    }
    Ok(())
}

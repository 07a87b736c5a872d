//! gRPC over SPIFFE mutual TLS with tonic: a server that greets by SPIFFE ID, and a client of it.
//!
//! Run a Workload API (`spiffe up …`), set `SPIFFE_ENDPOINT_SOCKET`, then
//! `cargo run -p spiffe-examples --example tonic_hello -- --authorize domain:example.org serve` and
//! `… --authorize domain:example.org call https://127.0.0.1:8443`.
//!
//! To do without a code generator, the one method is written as tonic-build would write it.

use std::convert::Infallible;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use spiffe_examples::{POLICY_FORMS, exit, interrupted, log_to_stderr};
use spiffe_tls::hyper::Server;
use spiffe_tls::hyper::http::{self, uri::PathAndQuery};
use spiffe_tls::tonic::{Channel, peer};
use spiffe_tls::{Mtls, Policy};
use spiffe_workload_client::X509Source;
use tokio::net::TcpListener;
use tonic::transport::Endpoint;
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

/// Speaks gRPC to SPIFFE peers.
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
    /// Calls once and prints the answer.
    Call {
        /// Whom to call.
        endpoint: String,
    },
}

/// `rpc Greet(google.protobuf.StringValue) returns (google.protobuf.StringValue)`.
type Text = ProstCodec<String, String>;

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    log_to_stderr();
    exit(run(arguments).await)
}

async fn run(arguments: Arguments) -> Result<(), Box<dyn std::error::Error>> {
    let source = X509Source::new().await?;
    let mtls = Mtls::new(&source, arguments.authorize).alpn([b"h2"]);
    match arguments.role {
        Role::Serve { listen } => serve(mtls, &listen).await,
        Role::Call { endpoint } => call(mtls, endpoint).await,
    }
}

async fn greet(request: Request<String>) -> Result<Response<String>, Status> {
    let peer = peer(&request).ok_or_else(|| Status::internal("nobody"))?;
    Ok(Response::new(format!(
        "{}, {}",
        request.get_ref(),
        peer.id()
    )))
}

async fn serve(mtls: Mtls, listen: &str) -> Result<(), Box<dyn std::error::Error>> {
    let listener = mtls.acceptor()?.listen(TcpListener::bind(listen).await?);
    println!("listening on {}", listener.local_addr()?);
    let greeter = tower::service_fn(async |request: http::Request<_>| {
        let mut grpc = tonic::server::Grpc::new(Text::default());
        Ok::<_, Infallible>(grpc.unary(tower::service_fn(greet), request).await)
    });
    let stop = async { drop(interrupted().await) };
    Ok(Server::new(greeter).serve(listener, stop).await?)
}

async fn call(mtls: Mtls, endpoint: String) -> Result<(), Box<dyn std::error::Error>> {
    let channel = Channel::new(Endpoint::from_shared(endpoint)?, mtls.connector()?);
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await?;
    let method = PathAndQuery::from_static("/hello.Hello/Greet");
    let answer = grpc
        .unary(Request::new("hello".to_owned()), method, Text::default())
        .await?;
    println!("{}", answer.into_inner());
    Ok(())
}

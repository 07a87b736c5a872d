//! The harness of the public conformance suite for Workload API clients, contract version 1.
//!
//! The suite starts it with `SPIFFE_ENDPOINT_SOCKET`, reads two ports from standard output and judges what it sees there: a
//! mutual TLS server that answers with the client's SPIFFE ID, and a control server that passes requests on to the
//! library. Any SPIFFE ID is authorised, and every decision is the library's. `cargo xtask interop conformance` replays
//! the suite's catalogue against it.

use std::process::ExitCode;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::{Value, json};
use spiffe_core::SpiffeId;
use spiffe_core::danger::AuthorizeAny;
use spiffe_examples::{exit, interrupted, log_to_stderr};
use spiffe_tls::{Connector, Listener, Mtls};
use spiffe_workload_client::{JwtSource, WorkloadApiClient, X509Source};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

#[tokio::main]
async fn main() -> ExitCode {
    log_to_stderr();
    exit(run().await)
}

async fn run() -> Result<(), Box<dyn std::error::Error>> {
    let client = WorkloadApiClient::from_env()?;
    let jwt = JwtSource::builder().client(client.clone()).start()?;
    let x509 = X509Source::builder().client(client.clone()).build().await?;
    let any = || Mtls::new(&x509, AuthorizeAny);
    let peers = any().acceptor()?.listen(bind().await?);
    let control = bind().await?;
    let harness = Harness {
        client,
        jwt,
        connector: any().connector()?,
    };
    println!("SPIFFE_HARNESS_VERSION=1");
    println!("SPIFFE_X509_PORT={}", peers.local_addr()?.port());
    println!("SPIFFE_CONTROL_PORT={}", control.local_addr()?.port());
    println!("READY");
    tokio::select! {
        served = serve_peers(peers) => Ok(served?),
        served = serve_control(control, harness) => Ok(served?),
        stopped = interrupted() => Ok(stopped?),
    }
}

async fn bind() -> std::io::Result<TcpListener> {
    TcpListener::bind("127.0.0.1:0").await
}

/// Tells each client the SPIFFE ID that it proved.
async fn serve_peers(mut listener: Listener) -> std::io::Result<()> {
    loop {
        match listener.accept().await? {
            Ok(mut stream) => {
                let line = format!("{}\n", stream.peer().id());
                tokio::spawn(async move {
                    stream.write_all(line.as_bytes()).await?;
                    stream.shutdown().await
                });
            }
            Err(refused) => eprintln!("refused: {refused}"),
        }
    }
}

async fn serve_control(listener: TcpListener, harness: Harness) -> std::io::Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        let harness = harness.clone();
        tokio::spawn(async move {
            let answer = service_fn(|request| harness.answer(request));
            hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), answer)
                .await
        });
    }
}

/// What the control server passes requests on to.
#[derive(Clone)]
struct Harness {
    client: WorkloadApiClient,
    jwt: JwtSource,
    connector: Connector,
}

#[derive(Deserialize)]
struct Validate {
    token: String,
    audience: String,
}

#[derive(Deserialize)]
struct Fetch {
    audience: Vec<String>,
    #[serde(default)]
    spiffe_id: String,
}

#[derive(Deserialize)]
struct Dial {
    address: String,
}

/// What is answered instead of a result.
enum Failure {
    /// The library judged the input and refused it.
    Rejected(String),
    /// The operation could not be performed.
    Error(String),
    /// The harness offers no such operation.
    Unsupported,
}

impl Harness {
    async fn answer(
        &self,
        request: Request<Incoming>,
    ) -> Result<Response<Full<Bytes>>, hyper::http::Error> {
        let (status, body) = match self.perform(request).await {
            Ok(body) => (StatusCode::OK, body),
            Err(Failure::Rejected(why)) => {
                let body = json!({"status": "rejected", "message": why});
                (StatusCode::UNPROCESSABLE_ENTITY, body)
            }
            Err(Failure::Error(why)) => {
                let body = json!({"status": "error", "message": why});
                (StatusCode::INTERNAL_SERVER_ERROR, body)
            }
            Err(Failure::Unsupported) => {
                let body = json!({"status": "unsupported"});
                (StatusCode::NOT_IMPLEMENTED, body)
            }
        };
        Response::builder()
            .status(status)
            .header("content-type", "application/json")
            .body(Full::from(body.to_string()))
    }

    async fn perform(&self, request: Request<Incoming>) -> Result<Value, Failure> {
        let (head, body) = request.into_parts();
        let body = Limited::new(body, MAX_REQUEST_BYTES).collect().await;
        let body = body.map_err(error)?.to_bytes();
        match (head.method, head.uri.path()) {
            (Method::POST, "/v1/jwt/validate") => self.validate(parse(&body)?).await,
            (Method::POST, "/v1/jwt/fetch") => self.fetch(parse(&body)?).await,
            (Method::POST, "/v1/x509/dial") => self.dial(parse(&body)?).await,
            (Method::GET, "/v1/info") => Ok(json!({
                "sdk": "libspiffe",
                "sdk_version": env!("CARGO_PKG_VERSION"),
                "language": "rust",
            })),
            _ => Err(Failure::Unsupported),
        }
    }

    async fn validate(&self, request: Validate) -> Result<Value, Failure> {
        self.jwt.ready(FIRST_BUNDLES).await.map_err(error)?;
        let svid = self
            .jwt
            .verify(&request.token, &request.audience)
            .map_err(|refused| Failure::Rejected(refused.to_string()))?;
        let claims: Value = svid.claims().map_err(error)?;
        Ok(json!({"status": "ok", "spiffe_id": svid.id().as_str(), "claims": claims}))
    }

    async fn fetch(&self, request: Fetch) -> Result<Value, Failure> {
        let asked = Some(&request.spiffe_id).filter(|text| !text.is_empty());
        let id = asked
            .map(|text| SpiffeId::parse(text))
            .transpose()
            .map_err(|refused| Failure::Rejected(refused.to_string()))?;
        let svids = self
            .client
            .fetch_jwt_svids(request.audience, id.as_ref())
            .await
            .map_err(error)?;
        let svids: Vec<Value> = svids
            .iter()
            .map(|svid| {
                json!({
                    "spiffe_id": svid.id().as_str(),
                    "token": svid.secret_token(),
                    "hint": svid.hint().unwrap_or_default(),
                })
            })
            .collect();
        Ok(json!({"status": "ok", "svids": svids}))
    }

    async fn dial(&self, request: Dial) -> Result<Value, Failure> {
        let transport = TcpStream::connect(&request.address).await.map_err(error)?;
        match self.connector.connect(transport).await {
            Ok(stream) => Ok(json!({"status": "ok", "spiffe_id": stream.peer().id().as_str()})),
            Err(refused) if refused.refusal().is_some() => {
                Err(Failure::Rejected(refused.to_string()))
            }
            Err(failed) => Err(error(failed)),
        }
    }
}

fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Failure> {
    serde_json::from_slice(body).map_err(error)
}

fn error(error: impl std::fmt::Display) -> Failure {
    Failure::Error(error.to_string())
}

/// How long a first request waits for the first JWT bundles, which READY does not wait for.
const FIRST_BUNDLES: Duration = Duration::from_secs(10);

/// Room for a token of a megabyte in JSON.
const MAX_REQUEST_BYTES: usize = 2 * 1024 * 1024;

//! The one connection of a client: HTTP/2 over the endpoint's socket, made when it is needed.

use std::error::Error;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::header::{HeaderName, HeaderValue, USER_AGENT};
use http::{Request, Response};
use http_body_util::BodyExt;
use http_body_util::combinators::MapFrame;
use hyper::body::{Bytes, Frame, Incoming};
use hyper::client::conn::{TrySendError, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::runtime::{Handle, Id};
use tokio::sync::Mutex;
use tonic::body::Body;
use tower_service::Service;

use crate::endpoint::Address;

/// The header that no browser or careless proxy sends: Workload Endpoint §3.
const SECURITY_HEADER: HeaderName = HeaderName::from_static("workload.spiffe.io");

/// Who asks, for the logs of the other end.
const NAME: HeaderValue = HeaderValue::from_static(concat!(
    "spiffe-workload-client/",
    env!("CARGO_PKG_VERSION")
));

/// Details of a status: nothing here looks at them, and tonic panics where they are not base64.
const DETAILS: HeaderName = HeaderName::from_static("grpc-status-details-bin");

type BoxError = Box<dyn Error + Send + Sync>;
type Requests = http2::SendRequest<Body>;
type Frames = MapFrame<Incoming, fn(Frame<Bytes>) -> Frame<Bytes>>;

/// Takes requests over one HTTP/2 connection; clones share it.
///
/// It is made by the first call, within that call's tokio runtime, and made again by the next call once it is lost, is
/// being closed by the other end, or belongs to another runtime, which may not be driven any more. It ends with the last
/// clone and the last answer.
#[derive(Clone)]
pub(super) struct Connection(Arc<Shared>);

struct Shared {
    dial: Dial,
    /// Held while connecting, so that calls that come together make one connection.
    open: Mutex<Option<Open>>,
}

struct Open {
    runtime: Id,
    requests: Requests,
}

/// Where a connection leads, and what it keeps to.
pub(super) struct Dial {
    pub(super) address: Address,
    /// Who must own the other end of a Unix socket.
    pub(super) owner: Option<u32>,
    /// How long there may be silence before a sign of life is asked for, and how long that may take.
    pub(super) keep_alive: Duration,
}

impl Connection {
    /// Nothing is connected yet.
    pub(super) fn new(dial: Dial) -> Self {
        Self(Arc::new(Shared {
            dial,
            open: Mutex::default(),
        }))
    }
}

impl Service<Request<Body>> for Connection {
    type Response = Response<Frames>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Frames>, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let shared = self.0.clone();
        Box::pin(async move { shared.send(request).await })
    }
}

impl Shared {
    async fn send(&self, mut request: Request<Body>) -> Result<Response<Frames>, BoxError> {
        let headers = request.headers_mut();
        headers.insert(SECURITY_HEADER, HeaderValue::from_static("true"));
        headers.insert(USER_AGENT, NAME);
        let mut sent = self.requests().await?.try_send_request(request).await;
        // What the connection gives back was not sent, since the other end takes no more: it goes over a new one.
        if let Some(request) = sent.as_mut().err().and_then(TrySendError::take_message) {
            sent = self.requests().await?.try_send_request(request).await;
        }
        let mut response = sent.map_err(TrySendError::into_error)?;
        response.headers_mut().remove(DETAILS);
        Ok(response.map(|body| body.map_frame(without_details as fn(_) -> _)))
    }

    async fn requests(&self) -> Result<Requests, BoxError> {
        let runtime = Handle::current().id();
        let is_usable = |open: &&Open| open.runtime == runtime && !open.requests.is_closed();
        let mut open = self.open.lock().await;
        if let Some(open) = open.as_ref().filter(is_usable) {
            return Ok(open.requests.clone());
        }
        let requests = self.dial.connect().await?;
        let open = open.insert(Open { runtime, requests });
        Ok(open.requests.clone())
    }
}

impl Dial {
    async fn connect(&self) -> Result<Requests, BoxError> {
        let socket = self.socket().await.map_err(Unreachable)?;
        let (requests, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(self.keep_alive)
            .keep_alive_timeout(self.keep_alive)
            .handshake(TokioIo::new(socket))
            .await?;
        // How it ends is told to the calls that are on it.
        tokio::spawn(async { drop(connection.await) });
        Ok(requests)
    }

    async fn socket(&self) -> io::Result<Box<dyn Socket>> {
        match &self.address {
            Address::Tcp(address) => {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                Ok(Box::new(stream))
            }
            Address::Unix(path) => {
                let stream = UnixStream::connect(path).await?;
                if let Some(expected) = self.owner {
                    owned_by(&stream, expected)?;
                }
                Ok(Box::new(stream))
            }
        }
    }
}

/// Either kind of stream, so that HTTP/2 is compiled once for both.
trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Socket for S {}

fn without_details(mut frame: Frame<Bytes>) -> Frame<Bytes> {
    if let Some(trailers) = frame.trailers_mut() {
        trailers.remove(DETAILS);
    }
    frame
}

/// The kernel's word on who listens, as of when that was begun.
fn owned_by(stream: &UnixStream, expected: u32) -> io::Result<()> {
    let found = stream.peer_cred()?.uid();
    if found == expected {
        return Ok(());
    }
    let reason = format!("the socket belongs to user {found}, not to user {expected}");
    Err(io::Error::new(io::ErrorKind::PermissionDenied, reason))
}

/// The socket could not be connected to; marks the cause among those of a status.
#[derive(Debug, thiserror::Error)]
#[error("no connection")]
pub(super) struct Unreachable(#[source] pub(super) io::Error);

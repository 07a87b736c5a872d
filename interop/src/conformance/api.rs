//! A Workload API that says what a case has it say, in that order, and writes down every call.
//!
//! gRPC over HTTP/2 with nothing between the case and the wire: a message may break any rule of the Workload API.

use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, HeaderValue, Request, Response};
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;

use crate::conformance::wire::{JwtBundlesResponse, JwtSvidResponse, X509SvidResponse};

/// A call by its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Rpc {
    JwtBundles,
    JwtSvid,
    Other,
    ValidateJwt,
    X509Svid,
}

impl Rpc {
    fn at(path: &str) -> Self {
        match path.strip_prefix("/SpiffeWorkloadAPI/") {
            Some("FetchJWTBundles") => Self::JwtBundles,
            Some("FetchJWTSVID") => Self::JwtSvid,
            Some("FetchX509SVID") => Self::X509Svid,
            Some("ValidateJWTSVID") => Self::ValidateJwt,
            _ => Self::Other,
        }
    }
}

/// A gRPC status by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    Ok = 0,
    InvalidArgument = 3,
    PermissionDenied = 7,
    Unimplemented = 12,
    Unavailable = 14,
}

/// One call as it arrived.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) rpc: Rpc,
    /// The values of the security header.
    pub(crate) header: Vec<String>,
    pub(crate) request: Bytes,
    pub(crate) at: Instant,
}

/// What a stream says next.
#[derive(Clone, Debug)]
enum Say {
    Message(Bytes),
    End(Code),
}

#[derive(Debug)]
struct Shared {
    /// All that was ever said, by stream; a new call begins with the last.
    x509: watch::Sender<Vec<Say>>,
    jwt_bundles: watch::Sender<Vec<Say>>,
    state: Mutex<State>,
    called: Condvar,
}

#[derive(Debug)]
struct State {
    calls: Vec<Call>,
    refusals: HashMap<Rpc, (u32, Code)>,
    tokens: Say,
}

/// The Workload API; it ends with the value.
#[derive(Debug)]
pub(crate) struct Api {
    shared: Arc<Shared>,
    runtime: Runtime,
}

impl Api {
    /// # Errors
    ///
    /// When the system gives no thread.
    pub(crate) fn new() -> io::Result<Self> {
        let state = State {
            calls: Vec::new(),
            refusals: HashMap::new(),
            tokens: Say::End(Code::PermissionDenied),
        };
        Ok(Self {
            shared: Arc::new(Shared {
                x509: watch::Sender::default(),
                jwt_bundles: watch::Sender::default(),
                state: Mutex::new(state),
                called: Condvar::new(),
            }),
            runtime: Builder::new_multi_thread()
                .worker_threads(1)
                .enable_io()
                .build()?,
        })
    }

    /// Takes calls on a Unix socket from now on.
    ///
    /// # Errors
    ///
    /// As the system says.
    pub(crate) fn listen_unix(&self, path: &Path) -> io::Result<()> {
        let _inside = self.runtime.enter();
        let listener = UnixListener::bind(path)?;
        let shared = self.shared.clone();
        self.runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, shared.clone()));
            }
        });
        Ok(())
    }

    /// Takes calls on a TCP port of the system's choice from now on.
    ///
    /// # Errors
    ///
    /// As the system says.
    pub(crate) fn listen_tcp(&self) -> io::Result<SocketAddr> {
        let listener = self.runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
        let address = listener.local_addr()?;
        let shared = self.shared.clone();
        self.runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, shared.clone()));
            }
        });
        Ok(address)
    }

    /// The next message of FetchX509SVID.
    pub(crate) fn say_x509(&self, message: &X509SvidResponse) {
        let say = Say::Message(frame(message));
        self.shared.x509.send_modify(|said| said.push(say));
    }

    /// The next message of FetchJWTBundles.
    pub(crate) fn say_jwt_bundles(&self, message: &JwtBundlesResponse) {
        let say = Say::Message(frame(message));
        self.shared.jwt_bundles.send_modify(|said| said.push(say));
    }

    /// Ends FetchX509SVID, and refuses it until the next message.
    pub(crate) fn end_x509(&self, code: Code) {
        let say = Say::End(code);
        self.shared.x509.send_modify(|said| said.push(say));
    }

    /// As [`end_x509`](Self::end_x509), of FetchJWTBundles.
    pub(crate) fn end_jwt_bundles(&self, code: Code) {
        let say = Say::End(code);
        self.shared.jwt_bundles.send_modify(|said| said.push(say));
    }

    /// Refuses the first `count` calls.
    pub(crate) fn refuse_first(&self, rpc: Rpc, count: u32, code: Code) {
        self.shared.state().refusals.insert(rpc, (count, code));
    }

    /// What FetchJWTSVID answers from now on.
    pub(crate) fn answer_jwt(&self, answer: Result<&JwtSvidResponse, Code>) {
        self.shared.state().tokens = match answer {
            Ok(message) => Say::Message(frame(message)),
            Err(code) => Say::End(code),
        };
    }

    /// The calls until now.
    pub(crate) fn calls(&self) -> Vec<Call> {
        self.shared.state().calls.clone()
    }

    /// Waits until the calls are as they should be; false when they are not in time.
    pub(crate) fn wait_for_calls(
        &self,
        within: Duration,
        enough: impl Fn(&[Call]) -> bool,
    ) -> bool {
        let state = self.shared.state();
        let waited = self
            .shared
            .called
            .wait_timeout_while(state, within, |state| !enough(&state.calls));
        let (_state, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        !timeout.timed_out()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a call down; says with what it is to be refused at once.
    fn record(&self, call: Call) -> Option<Code> {
        let mut state = self.state();
        let refusal = state.refusals.get_mut(&call.rpc);
        let refusal = refusal.filter(|(left, _)| *left > 0).map(|(left, code)| {
            *left -= 1;
            *code
        });
        state.calls.push(call);
        self.called.notify_all();
        refusal
    }
}

async fn serve(io: impl AsyncRead + AsyncWrite + Unpin, shared: Arc<Shared>) -> Option<()> {
    let mut connection = h2::server::handshake(io).await.ok()?;
    while let Some(Ok((request, respond))) = connection.accept().await {
        tokio::spawn(answer(request, respond, shared.clone()));
    }
    Some(())
}

/// Answers one call; a client that goes away ends it.
async fn answer(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    shared: Arc<Shared>,
) -> Result<(), h2::Error> {
    let (head, mut body) = request.into_parts();
    let mut bytes = BytesMut::new();
    while let Some(chunk) = body.data().await {
        bytes.put(chunk?);
    }
    let rpc = Rpc::at(head.uri.path());
    let header = head.headers.get_all("workload.spiffe.io").iter();
    let refusal = shared.record(Call {
        rpc,
        header: header
            .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
            .collect(),
        request: bytes.freeze().split_off(FRAME_HEAD_BYTES),
        at: Instant::now(),
    });
    if let Some(code) = refusal {
        return refuse(&mut respond, code);
    }
    match rpc {
        Rpc::X509Svid => follow(respond, shared.x509.subscribe()).await,
        Rpc::JwtBundles => follow(respond, shared.jwt_bundles.subscribe()).await,
        Rpc::JwtSvid => {
            let tokens = shared.state().tokens.clone();
            match tokens {
                Say::Message(message) => {
                    let mut stream = respond.send_response(ok(), false)?;
                    stream.send_data(message, false)?;
                    stream.send_trailers(status(Code::Ok))
                }
                Say::End(code) => refuse(&mut respond, code),
            }
        }
        Rpc::Other | Rpc::ValidateJwt => refuse(&mut respond, Code::Unimplemented),
    }
}

/// Says all that is said from the latest on, none left out.
async fn follow(
    mut respond: SendResponse<Bytes>,
    mut said: watch::Receiver<Vec<Say>>,
) -> Result<(), h2::Error> {
    let mut next = said.borrow().len().saturating_sub(1);
    let mut stream: Option<SendStream<Bytes>> = None;
    loop {
        let news: Vec<Say> = said.borrow_and_update()[next..].to_vec();
        next += news.len();
        for say in news {
            match (say, &mut stream) {
                (Say::Message(message), Some(stream)) => stream.send_data(message, false)?,
                (Say::Message(message), None) => {
                    let stream = stream.insert(respond.send_response(ok(), false)?);
                    stream.send_data(message, false)?;
                }
                (Say::End(code), Some(stream)) => return stream.send_trailers(status(code)),
                (Say::End(code), None) => return refuse(&mut respond, code),
            }
        }
        let gone = poll_fn(|context| match &mut stream {
            Some(stream) => stream.poll_reset(context),
            None => respond.poll_reset(context),
        });
        tokio::select! {
            changed = said.changed() => if changed.is_err() { return Ok(()) },
            _ = gone => return Ok(()),
        }
    }
}

/// A status without a message before it, which gRPC sends as headers alone.
fn refuse(respond: &mut SendResponse<Bytes>, code: Code) -> Result<(), h2::Error> {
    let mut response = ok();
    response.headers_mut().extend(status(code));
    respond.send_response(response, true).map(drop)
}

fn ok() -> Response<()> {
    let mut response = Response::new(());
    let kind = HeaderValue::from_static("application/grpc");
    response.headers_mut().insert("content-type", kind);
    response
}

fn status(code: Code) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from(code as i32));
    let text = HeaderValue::from_static("said by a conformance case");
    trailers.insert("grpc-message", text);
    trailers
}

/// A message as gRPC carries it: not compressed, its length, its bytes.
fn frame(message: &impl Message) -> Bytes {
    let body = message.encode_to_vec();
    let mut frame = BytesMut::with_capacity(FRAME_HEAD_BYTES + body.len());
    frame.put_u8(0);
    frame.put_u32(u32::try_from(body.len()).unwrap_or(u32::MAX));
    frame.put_slice(&body);
    frame.freeze()
}

const FRAME_HEAD_BYTES: usize = 5;

//! The Workload API as calls: one lazy connection, the security header on each request, a deadline on each answer.
//!
//! Answers to Workload API §3–§6 and Workload Endpoint §3–§6. What an answer means is `update`'s business, when to ask
//! again the sources'.

mod connection;
mod jwt;
mod x509;

use std::error::Error as _;
use std::fmt;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
#[cfg(feature = "aws-lc-rs")]
use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError, Weak},
};

use futures_util::future::{Either, select};
use http::Uri;
use spiffe_core::crypto::CryptoProvider;
use spiffe_core::verify::X509Verifier;
use spiffe_core::{Clock, SystemClock};
use spiffe_proto::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
#[cfg(feature = "aws-lc-rs")]
use tokio::runtime::{Handle, Id};
use tonic::{Code, Status, Streaming};

pub use jwt::{ClaimValue, JwtBundleUpdates, MAX_CLAIMS_BYTES, ValidatedJwt};
pub use spiffe_proto::codec::MAX_FIELDS as MAX_MESSAGE_FIELDS;
pub use x509::{X509BundleUpdates, X509Updates};

use self::connection::{Connection, Dial, Unreachable};
use crate::endpoint::Endpoint;
use crate::error::{ClientError, one_line};
use crate::source::outages::Outages;
use crate::streams::Streams;

/// The largest message taken by default: thousands of federated bundles, sixteen times gRPC's own default.
pub const DEFAULT_MAX_MESSAGE_BYTES: usize = 64 * 1024 * 1024;

/// How long an answer, or the first message of a stream, may take by default. Later messages may take for ever.
pub const DEFAULT_DEADLINE: Duration = Duration::from_secs(30);

/// How long a connection may be silent by default before it is asked for a sign of life.
pub const DEFAULT_KEEP_ALIVE: Duration = Duration::from_secs(30);

/// A client of one Workload API; clones are handles to the same connection.
///
/// It connects at the first call, inside that call's tokio runtime, and again whenever the connection is lost.
#[derive(Clone)]
pub struct WorkloadApiClient {
    inner: Arc<Inner>,
}

struct Inner {
    endpoint: Endpoint,
    clock: Arc<dyn Clock>,
    crypto: Arc<dyn CryptoProvider>,
    deadline: Duration,
    max_message_bytes: usize,
    keep_alive: Duration,
    owner: Option<u32>,
    stub: OnceLock<Stub>,
    streams: Streams,
    outages: Arc<Outages>,
    verifier: X509Verifier,
    /// Whether the endpoint ever answered in gRPC.
    answered: AtomicBool,
}

type Stub = SpiffeWorkloadApiClient<Connection>;

impl WorkloadApiClient {
    /// A client with default settings.
    #[cfg(feature = "aws-lc-rs")]
    pub fn new(endpoint: Endpoint) -> Self {
        Self::builder(endpoint).build()
    }

    /// A client with default settings of the endpoint that `SPIFFE_ENDPOINT_SOCKET` names.
    ///
    /// # Errors
    ///
    /// [`EndpointError`](crate::EndpointError): Workload Endpoint §4.
    #[cfg(feature = "aws-lc-rs")]
    pub fn from_env() -> Result<Self, crate::EndpointError> {
        Endpoint::from_env().map(Self::new)
    }

    /// Settings to change, with the default cryptography.
    #[cfg(feature = "aws-lc-rs")]
    pub fn builder(endpoint: Endpoint) -> ClientBuilder {
        Self::builder_with_crypto(endpoint, spiffe_core::crypto::aws_lc_rs())
    }

    /// Settings to change, with the cryptography that reads keys.
    pub fn builder_with_crypto(
        endpoint: Endpoint,
        crypto: Arc<dyn CryptoProvider>,
    ) -> ClientBuilder {
        ClientBuilder {
            endpoint,
            crypto,
            clock: Arc::new(SystemClock::new()),
            deadline: DEFAULT_DEADLINE,
            max_message_bytes: DEFAULT_MAX_MESSAGE_BYTES,
            keep_alive: DEFAULT_KEEP_ALIVE,
            owner: None,
        }
    }

    /// The client that all sources with default settings share: one for each endpoint and runtime, for as long as somebody
    /// holds it.
    #[cfg(feature = "aws-lc-rs")]
    pub(crate) fn shared(endpoint: Endpoint, runtime: &Handle) -> Self {
        type Shared = Mutex<HashMap<(Endpoint, Id), Weak<Inner>>>;
        static SHARED: OnceLock<Shared> = OnceLock::new();
        let shared = SHARED.get_or_init(Mutex::default);
        let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
        shared.retain(|_, client| client.strong_count() > 0);
        // A connection ends with the runtime that it was made on.
        let key = (endpoint, runtime.id());
        if let Some(inner) = shared.get(&key).and_then(Weak::upgrade) {
            return Self { inner };
        }
        let client = Self::new(key.0.clone());
        shared.insert(key, Arc::downgrade(&client.inner));
        client
    }

    /// Whom it asks.
    pub fn endpoint(&self) -> &Endpoint {
        &self.inner.endpoint
    }

    pub(crate) fn clock(&self) -> &Arc<dyn Clock> {
        &self.inner.clock
    }

    pub(crate) fn crypto(&self) -> &Arc<dyn CryptoProvider> {
        &self.inner.crypto
    }

    pub(crate) fn streams(&self) -> &Streams {
        &self.inner.streams
    }

    pub(crate) fn outages(&self) -> &Arc<Outages> {
        &self.inner.outages
    }

    /// The verifier that own SVIDs are checked with; all sources share what it remembers.
    pub(crate) fn verifier(&self) -> &X509Verifier {
        &self.inner.verifier
    }

    /// The generated client, over the one connection.
    fn stub(&self) -> Stub {
        let inner = &self.inner;
        inner
            .stub
            .get_or_init(|| {
                let connection = Connection::new(Dial {
                    address: inner.endpoint.address().clone(),
                    owner: inner.owner,
                    keep_alive: inner.keep_alive,
                });
                // HTTP/2 wants an authority; what clients of a Unix socket say is their choice.
                let origin = Uri::from_static("http://localhost");
                SpiffeWorkloadApiClient::with_origin(connection, origin)
                    .max_decoding_message_size(inner.max_message_bytes)
            })
            .clone()
    }

    /// The instant by which an answer to a request sent now must be there.
    fn answer_by(&self) -> Duration {
        self.inner
            .clock
            .monotonic()
            .saturating_add(self.inner.deadline)
    }

    /// One call with its deadline, its errors in our terms.
    async fn call<T>(
        &self,
        rpc: &'static str,
        by: Duration,
        answer: impl Future<Output = Result<T, Status>>,
    ) -> Result<T, ClientError> {
        match select(pin!(answer), self.inner.clock.sleep_until(by)).await {
            Either::Left((Ok(answer), _)) => {
                self.inner.answered.store(true, Ordering::Relaxed);
                Ok(answer)
            }
            Either::Left((Err(status), _)) => Err(self.error(rpc, &status)),
            Either::Right(_) => Err(ClientError::DeadlineExceeded {
                endpoint: self.inner.endpoint.clone(),
                after: self.inner.deadline,
            }),
        }
    }

    /// Opens a stream.
    async fn open<M>(
        &self,
        rpc: &'static str,
        answer: impl Future<Output = Result<tonic::Response<Streaming<M>>, Status>>,
    ) -> Result<Responses<M>, ClientError> {
        let by = self.answer_by();
        let stream = self.call(rpc, by, answer).await?.into_inner();
        Ok(Responses {
            client: self.clone(),
            rpc,
            stream,
            first_by: Some(by),
        })
    }

    /// What a status says, apart from what happened on the way.
    fn error(&self, rpc: &'static str, status: &Status) -> ClientError {
        let endpoint = self.inner.endpoint.clone();
        // A status that the server sent has no cause on this side.
        if let Some(cause) = status.source() {
            let mut root = cause;
            while let Some(deeper) = root.source() {
                if let Some(Unreachable(error)) = root.downcast_ref() {
                    let reason = error.to_string();
                    return ClientError::Unreachable { endpoint, reason };
                }
                root = deeper;
            }
            let reason = one_line(&root.to_string());
            return if self.inner.answered.load(Ordering::Relaxed) {
                ClientError::Transport { endpoint, reason }
            } else {
                ClientError::NotWorkloadApi { endpoint, reason }
            };
        }
        self.inner.answered.store(true, Ordering::Relaxed);
        let message = one_line(status.message());
        match status.code() {
            Code::InvalidArgument => ClientError::InvalidArgument { message },
            Code::PermissionDenied => ClientError::PermissionDenied { message },
            Code::Unavailable => ClientError::Unavailable { message },
            Code::Unimplemented => ClientError::Unimplemented { rpc, message },
            other => ClientError::Status {
                code: code_name(other),
                message,
            },
        }
    }
}

impl fmt::Debug for WorkloadApiClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkloadApiClient")
            .field("endpoint", &self.inner.endpoint)
            .field("deadline", &self.inner.deadline)
            .field("max_message_bytes", &self.inner.max_message_bytes)
            .finish_non_exhaustive()
    }
}

/// Settings of a [`WorkloadApiClient`].
#[derive(Clone, Debug)]
pub struct ClientBuilder {
    endpoint: Endpoint,
    crypto: Arc<dyn CryptoProvider>,
    clock: Arc<dyn Clock>,
    deadline: Duration,
    max_message_bytes: usize,
    keep_alive: Duration,
    owner: Option<u32>,
}

impl ClientBuilder {
    /// The clock that deadlines and back-off run on.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// How long an answer, or the first message of a stream, may take; [`DEFAULT_DEADLINE`] otherwise.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// The largest message taken; [`DEFAULT_MAX_MESSAGE_BYTES`] otherwise.
    #[must_use]
    pub fn max_message_bytes(mut self, limit: usize) -> Self {
        self.max_message_bytes = limit;
        self
    }

    /// How long a connection with open streams may be silent before the other end is asked for a sign of life, and how long
    /// that may take; [`DEFAULT_KEEP_ALIVE`] otherwise. Without one the connection is given up, so that an agent that is
    /// frozen is noticed.
    ///
    /// It runs on tokio's timer, as all of the transport does, and not on the [`clock`](Self::clock): bytes on a socket take
    /// their time whatever a virtual clock says, and an hour that passes on one at once would make every agent a frozen one.
    /// Tests pause tokio's time instead.
    #[must_use]
    pub fn keep_alive(mut self, every: Duration) -> Self {
        self.keep_alive = every;
        self
    }

    /// The user that must own the other end of a Unix socket; anybody otherwise, since agents run under users of their
    /// own and the standard has workloads trust the path. The kernel says who it is.
    #[must_use]
    pub fn owner(mut self, uid: u32) -> Self {
        self.owner = Some(uid);
        self
    }

    /// The client; nothing is connected yet.
    pub fn build(self) -> WorkloadApiClient {
        WorkloadApiClient {
            inner: Arc::new(Inner {
                endpoint: self.endpoint,
                clock: self.clock,
                verifier: X509Verifier::new(&*self.crypto),
                crypto: self.crypto,
                deadline: self.deadline,
                max_message_bytes: self.max_message_bytes,
                keep_alive: self.keep_alive,
                owner: self.owner,
                stub: OnceLock::new(),
                streams: Streams::default(),
                outages: Arc::default(),
                answered: AtomicBool::new(false),
            }),
        }
    }
}

/// The messages of one stream as they travel.
pub(crate) struct Responses<M> {
    client: WorkloadApiClient,
    rpc: &'static str,
    stream: Streaming<M>,
    /// Set until the first message: it is due at once (Workload API §4.3), all others whenever something changes.
    first_by: Option<Duration>,
}

impl<M> Responses<M> {
    /// The next message.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses no message.
    pub(crate) async fn next(&mut self) -> Result<M, ClientError> {
        let message = match self.first_by {
            Some(by) => {
                let message = self.stream.message();
                self.client.call(self.rpc, by, message).await?
            }
            None => self
                .stream
                .message()
                .await
                .map_err(|status| self.client.error(self.rpc, &status))?,
        };
        self.first_by = None;
        message.ok_or(ClientError::StreamEnded)
    }
}

impl<M> fmt::Debug for Responses<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Responses")
            .field("rpc", &self.rpc)
            .finish_non_exhaustive()
    }
}

/// The names that gRPC's documentation gives its codes.
const fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

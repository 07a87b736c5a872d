//! reqwest over SPIFFE TLS, mutual or with a client that shows nothing: feature `reqwest`.
//!
//! [`Client`] hands out and drives [`reqwest::Client`]s. reqwest makes its connections by itself, from a plain rustls
//! configuration, so they are not ours to close, and no session is resumed. What holds instead: each handshake judges
//! the server as everywhere, and a lease is kept on every server that was met.
//!
//! # How a connection ends
//!
//! When the lease on a server is over, the whole `reqwest::Client` for that destination is swapped: the next request
//! goes over a new one with a handshake of its own. The old one's idle connections are dropped at once, and it dies with
//! its last request. What is still under way when the grace is over fails, its body among it. Destinations are told apart by
//! host and port; what redirects lead to counts with where they began.
//!
//! Go by [`Client::execute`] for each request. A `reqwest::Client` from [`Client::client`] that is kept is not swapped,
//! and where it refuses a server its error holds rustls' one line; that of `execute` holds the [`Refusal`].
//!
//! ```no_run
//! use spiffe_tls::reqwest::{Client, reqwest};
//! use spiffe_tls::{Mtls, Policy, Publisher};
//!
//! # async fn example(source: Publisher) -> Result<(), Box<dyn std::error::Error>> {
//! let policy: Policy = "id:spiffe://example.org/db".parse()?;
//! let client = Client::new(Mtls::new(&source, policy).alpn([b"h2".as_slice(), b"http/1.1"]))?;
//! let url: reqwest::Url = "https://db.internal:8443/".parse()?;
//! let response = client.execute(reqwest::Request::new(reqwest::Method::GET, url)).await?;
//! # Ok(())
//! # }
//! ```

use std::collections::HashMap;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use reqwest::{ClientBuilder, Request, Response, ResponseBuilderExt, Url};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::sync::watch;
use tokio::task::AbortHandle;

pub use reqwest;

use crate::config::{ConfigError, Tls};
use crate::digest::Digest;
use crate::error::{LeaseOver, Refusal};
use crate::generation::Generation;
use crate::handshake::End;
use crate::judge::Judged;
use crate::lease::{Granted, Lease, LeaseEnd, Turn};
use crate::modes::{ClientShows, SpiffePeer};
use crate::scene::{self, Scene};
use crate::stream::Guard;
use crate::verifier::{PeerVerifier, Told};

/// The most destinations of which a [`Client`] keeps connections; with one more all are begun anew.
pub const MAX_CLIENTS: usize = 256;

/// The most servers that one `reqwest::Client` keeps leases on: those that its destination's addresses and redirects
/// lead to. With one more it is swapped.
pub const MAX_LEASES: usize = 1024;

/// Further settings of each `reqwest::Client`.
type Set = dyn Fn(ClientBuilder) -> ClientBuilder + Send + Sync;

/// Sends requests by `reqwest::Client`s that are swapped when the lease on their server is over; clones share
/// everything.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

struct Shared {
    end: End,
    tls: Arc<ClientConfig>,
    set: Box<Set>,
    pools: Mutex<HashMap<Destination, Pool>>,
}

/// Host and port.
type Destination = (Option<String>, Option<u16>);

#[derive(Clone)]
struct Pool {
    client: reqwest::Client,
    leases: Arc<Leases>,
}

impl Client {
    /// A client with reqwest's defaults, for `https` only, of an [`Mtls`](crate::Mtls) or a [`TlsClient`](crate::TlsClient).
    /// Give [`ALPN`](crate::hyper::ALPN)'s protocols to the
    /// configuration, or HTTP/1.1 is spoken.
    ///
    /// # Errors
    ///
    /// [`ConfigError`].
    pub fn new(config: Tls<impl ClientShows, SpiffePeer>) -> Result<Self, ConfigError> {
        Self::build(config, |builder| builder)
    }

    /// The same with further settings, which are applied to every `reqwest::Client` that is made. Those about TLS have
    /// no effect.
    ///
    /// # Errors
    ///
    /// [`ConfigError`].
    pub fn build(
        config: Tls<impl ClientShows, SpiffePeer>,
        set: impl Fn(ClientBuilder) -> ClientBuilder + Send + Sync + 'static,
    ) -> Result<Self, ConfigError> {
        let (end, tls) = config.bare_client()?;
        Ok(Self {
            shared: Arc::new(Shared {
                end,
                tls,
                set: Box::new(set),
                pools: Mutex::default(),
            }),
        })
    }

    /// Sends a request, and sees to it that neither it nor its answer's body outlives the grace.
    ///
    /// # Errors
    ///
    /// [`Error`]; a body that is cut fails with reqwest's own error, which holds [`LeaseOver`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops the request.
    pub async fn execute(&self, request: Request) -> Result<Response, Error> {
        let Pool { client, leases } = self.shared.pool(request.url())?;
        let cut = Cut::new(&leases);
        let response = tokio::select! {
            response = asked(client.execute(request)) => response?,
            over = leases.cut() => return Err(Error::LeaseOver(over)),
        };
        let url = response.url().clone();
        let (mut parts, body) = http::Response::from(response).into_parts();
        let with_url = http::Response::builder().url(url).body(());
        if let Ok(with_url) = with_url {
            parts.extensions.extend(with_url.into_parts().0.extensions);
        }
        let body = reqwest::Body::wrap(CutBody { body, cut });
        Ok(http::Response::from_parts(parts, body).into())
    }

    /// The `reqwest::Client` of the moment for this destination. Ask for it anew for each request; it is not swapped
    /// once it is handed out, and what is under way is not cut.
    ///
    /// # Errors
    ///
    /// [`Error::Build`].
    pub fn client(&self, url: &Url) -> Result<reqwest::Client, Error> {
        Ok(self.shared.pool(url)?.client)
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// reqwest cannot make a client of these settings.
    #[error("reqwest cannot make a client of these settings: {0}")]
    Build(#[source] reqwest::Error),
    /// The lease on the server is over, and the grace too.
    #[error(transparent)]
    LeaseOver(LeaseOver),
    /// This side refused the server.
    #[error(transparent)]
    Refused(Box<Refusal>),
    /// The request failed.
    #[error(transparent)]
    Request(reqwest::Error),
}

impl Error {
    /// The refusal, if this side refused the server.
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refused(refusal) => Some(refusal),
            _ => None,
        }
    }
}

/// Waits for a response. reqwest dials inside of the request that needs the connection, so a refusal that the verifier
/// leaves while this is polled is about the server of this request.
async fn asked(
    request: impl Future<Output = reqwest::Result<Response>>,
) -> Result<Response, Error> {
    let mut request = pin!(request);
    let mut place = Some(Box::<Scene>::default());
    let outcome =
        poll_fn(|context| scene::play(&mut place, || request.as_mut().poll(context))).await;
    outcome.map_err(|error| {
        let refused = place.and_then(|scene| scene.refused_server);
        match refused.filter(|_| error.is_connect()) {
            Some(refusal) => Error::Refused(refusal),
            None => Error::Request(error),
        }
    })
}

impl Shared {
    fn pool(self: &Arc<Self>, url: &Url) -> Result<Pool, Error> {
        let key = (
            url.host_str().map(str::to_owned),
            url.port_or_known_default(),
        );
        let mut pools = self.pools();
        if let Some(pool) = pools.get(&key)
            && !pool.leases.generation.is_over()
        {
            return Ok(pool.clone());
        }
        if pools.len() >= MAX_CLIENTS && !pools.contains_key(&key) {
            pools.clear();
        }
        let pool = self.make()?;
        pools.insert(key, pool.clone());
        Ok(pool)
    }

    fn pools(&self) -> MutexGuard<'_, HashMap<Destination, Pool>> {
        self.pools.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets go of what takes no further request, and with it of idle connections.
    fn drop_ended(&self) {
        self.pools()
            .retain(|_, pool| !pool.leases.generation.is_over());
    }

    fn make(self: &Arc<Self>) -> Result<Pool, Error> {
        let leases = Arc::new(Leases {
            end: self.end.clone(),
            shared: Arc::downgrade(self),
            generation: Generation::default(),
            cut: watch::Sender::new(None),
            held: Mutex::default(),
        });
        let mut tls = ClientConfig::clone(&self.tls);
        tls.dangerous().set_certificate_verifier(Arc::new(Leasing {
            verifier: PeerVerifier::new(self.end.keeper.judge.clone(), Told::Request),
            leases: leases.clone(),
        }));
        let client = (self.set)(reqwest::Client::builder())
            // Without TLS nobody would be judged.
            .https_only(true)
            .tls_backend_preconfigured(tls)
            .build()
            .map_err(Error::Build)?;
        Ok(Pool { client, leases })
    }
}

/// The leases on the servers that one `reqwest::Client` has met.
struct Leases {
    end: End,
    shared: Weak<Shared>,
    generation: Generation,
    /// Why the first of them was cut.
    cut: watch::Sender<Option<LeaseOver>>,
    held: Mutex<HashMap<Digest, AbortHandle>>,
}

impl Leases {
    /// Keeps a lease on a server that was verified, unless there is one on the same chain, which ends no later.
    fn keep(&self, judged: Judged, chain: &[CertificateDer<'_>]) -> Result<(), rustls::Error> {
        let general = |error: &dyn fmt::Display| rustls::Error::General(error.to_string());
        let keeper = &self.end.keeper;
        let digest = keeper
            .judge
            .sha256
            .of_parts(chain.iter().map(AsRef::as_ref));
        let mut held = self.held();
        if held.contains_key(&digest) {
            return Ok(());
        }
        if held.len() >= MAX_LEASES {
            self.generation.end();
        }
        let own = self.end.identity().map_err(|error| general(&error))?;
        let own = own.map(|own| (own.svid.id().clone(), own.svid.not_after()));
        let granted = Granted {
            judged,
            own,
            until: None,
        };
        let lease = keeper.grant(granted).map_err(|error| general(&error))?;
        let chain = chain.iter().map(|one| one.clone().into_owned()).collect();
        let task = look_after(
            lease,
            chain,
            self.generation.clone(),
            self.cut.clone(),
            self.shared.clone(),
        );
        held.insert(digest, tokio::spawn(task).abort_handle());
        Ok(())
    }

    /// Resolves when one of the leases is cut.
    fn cut(&self) -> impl Future<Output = LeaseOver> + Send + use<> {
        let mut cut = self.cut.subscribe();
        async move {
            match cut.wait_for(Option::is_some).await.map(|end| end.clone()) {
                Ok(Some(over)) => over,
                // Nobody is left to cut.
                _ => std::future::pending().await,
            }
        }
    }

    fn held(&self) -> MutexGuard<'_, HashMap<Digest, AbortHandle>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Leases {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leases").finish_non_exhaustive()
    }
}

impl Drop for Leases {
    fn drop(&mut self) {
        for task in self.held().values() {
            task.abort();
        }
    }
}

/// Does for the connections to one server what a `TlsStream` does by itself.
async fn look_after(
    lease: Lease,
    chain: Vec<CertificateDer<'static>>,
    generation: Generation,
    cut: watch::Sender<Option<LeaseOver>>,
    shared: Weak<Shared>,
) {
    let lease = Guard(lease);
    let mut turn = Turn::Stands;
    while turn != Turn::Cut {
        turn = lease.0.turn(turn, || Some(chain.clone())).await;
        generation.end();
        if let Some(shared) = shared.upgrade() {
            shared.drop_ended();
        }
    }
    let end = lease.0.end().unwrap_or(LeaseEnd::NotJudged);
    cut.send_modify(|cut| *cut = cut.take().or(Some(LeaseOver { end })));
}

/// Verifies as a plain configuration does, and keeps a lease on who was verified.
#[derive(Debug)]
struct Leasing {
    verifier: PeerVerifier,
    leases: Arc<Leases>,
}

impl ServerCertVerifier for Leasing {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let judged = self.verifier.judge(end_entity, intermediates)?;
        let chain: Vec<_> = std::iter::once(end_entity)
            .chain(intermediates)
            .cloned()
            .collect();
        self.leases.keep(judged, &chain)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        ServerCertVerifier::verify_tls12_signature(&self.verifier, message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        ServerCertVerifier::verify_tls13_signature(&self.verifier, message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ServerCertVerifier::supported_verify_schemes(&self.verifier)
    }
}

/// When a body has to end, and the leases that say so, which are kept for as long as it goes on.
struct Cut {
    over: Mutex<Pin<Box<dyn Future<Output = LeaseOver> + Send>>>,
    _leases: Arc<Leases>,
}

impl Cut {
    fn new(leases: &Arc<Leases>) -> Self {
        Self {
            // In a mutex that nobody waits for, since reqwest wants to share what it polls alone.
            over: Mutex::new(Box::pin(leases.cut())),
            _leases: leases.clone(),
        }
    }
}

/// A body that fails when it is cut.
struct CutBody {
    body: reqwest::Body,
    cut: Cut,
}

impl Body for CutBody {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let over = self.cut.over.get_mut();
        let over = over.unwrap_or_else(PoisonError::into_inner);
        if let Poll::Ready(over) = over.as_mut().poll(context) {
            return Poll::Ready(Some(Err(over.into())));
        }
        let polled = Pin::new(&mut self.body).poll_frame(context);
        polled.map_err(Into::into)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

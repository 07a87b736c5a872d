//! QUIC with SPIFFE TLS, by quinn: feature `quinn`.
//!
//! [`Acceptor`] and [`Connector`] perform handshakes on quinn's endpoints, which the caller opens, and hand out a
//! [`Connection`] that knows its [`Peer`]. TLS 1.3 only, and each handshake is a full one: QUIC resumes sessions before
//! anybody could judge their peer, so resumption and 0-RTT are off. This feature brings AWS-LC, for quinn's own
//! packets.
//!
//! The peer always has a SPIFFE ID, since without one there is nothing to hold a lease on. A server that asks its clients for
//! nothing needs no acceptor of this module: quinn takes the plain configuration of a [`TlsServer`](crate::TlsServer),
//! which rotates by itself.
//!
//! ```no_run
//! use std::sync::Arc;
//! use spiffe_tls::quinn::quinn::{self, crypto::rustls::QuicServerConfig};
//! use spiffe_tls::rustls::version::TLS13;
//! use spiffe_tls::{Publisher, TlsServer};
//!
//! # fn example(source: Publisher) -> Result<(), Box<dyn std::error::Error>> {
//! let tls = TlsServer::new(&source).versions(&[&TLS13]).alpn([b"hello"]).server_config()?;
//! let config = quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls)?));
//! # Ok(())
//! # }
//! ```
//!
//! # How a connection ends
//!
//! When its lease is over ([`Lease::over`](crate::Lease::over)), streams stop: opening and accepting fail with
//! [`StreamError::LeaseOver`], and streams that the peer still opens are reset with the code
//! [`LEASE_OVER`]. What is under way goes on for the grace; then the connection is closed with that code. Each connection
//! has a task of its own that sees to this, also when its handles are dropped: close what is no longer needed, or it
//! lives until quinn's idle timeout.
//!
//! ```no_run
//! use spiffe_tls::quinn::{Acceptor, Connector, quinn};
//! use spiffe_tls::{Mtls, Policy, Publisher};
//!
//! # async fn example(source: Publisher) -> Result<(), Box<dyn std::error::Error>> {
//! let policy: Policy = "domain:example.org".parse()?;
//! let acceptor = Acceptor::new(Mtls::new(&source, policy.clone()).alpn([b"hello"]))?;
//! let endpoint = quinn::Endpoint::server(acceptor.server_config(), "[::]:4433".parse()?)?;
//! let connector = Connector::new(Mtls::new(&source, policy).alpn([b"hello"]))?;
//! let near = connector.connect(&endpoint, "[::1]:4433".parse()?).await?;
//! let (mut send, mut receive) = near.open_bi().await?;
//! # Ok(())
//! # }
//! ```

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, OnceLock};

use quinn::crypto::rustls::{NoInitialCipherSuite, QuicClientConfig, QuicServerConfig};
use quinn::{ConnectionError, RecvStream, SendStream, TransportConfig, VarInt};
use rustls::client::ResolvesClientCert;
use rustls::pki_types::CertificateDer;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{AlertDescription, ClientConfig, HandshakeKind, ProtocolVersion, SignatureScheme};
use spiffe_core::svid::X509Chain;

pub use quinn;

use crate::config::{ConfigError, Tls};
use crate::error::{HandshakeError, LeaseOver, PeerRefused};
use crate::handshake::{End, unproven};
use crate::lease::{Granted, Lease, LeaseEnd, Turn};
use crate::making::ServerRecipe;
use crate::modes::{ClientShows, ServerShows, SpiffePeer};
use crate::peer::Peer;
use crate::stream::Guard;
use crate::verifier::{PeerVerifier, Refused, Told};

/// The application code that streams are reset and connections closed with when a lease is over: `SP` in ASCII.
pub const LEASE_OVER: VarInt = VarInt::from_u32(0x5350);

/// What a server is told by who dials: the name is neither sent nor compared.
const NAME: &str = "spiffe.invalid";

/// The server's side; clones share everything.
#[derive(Clone)]
pub struct Acceptor {
    end: End,
    recipe: Arc<ServerRecipe>,
    quic: quinn::ServerConfig,
}

impl Acceptor {
    /// An acceptor of this configuration, an [`Mtls`](crate::Mtls) or an [`MtlsWebServer`](crate::MtlsWebServer), which must
    /// name an application protocol ([`Tls::alpn`]) that clients offer.
    ///
    /// # Errors
    ///
    /// [`ConfigError`].
    pub fn new(config: Tls<impl ServerShows, SpiffePeer>) -> Result<Self, ConfigError> {
        let (end, recipe) = config.versions(&[&rustls::version::TLS13]).bare_server()?;
        let verifier = PeerVerifier::new(end.keeper.judge.clone(), Told::Nobody);
        let tls = recipe.make(Arc::new(verifier));
        let crypto = QuicServerConfig::try_from(tls).map_err(no_suite)?;
        Ok(Self {
            end,
            recipe: Arc::new(recipe),
            quic: quinn::ServerConfig::with_crypto(Arc::new(crypto)),
        })
    }

    /// Uses these transport parameters.
    #[must_use]
    pub fn transport(mut self, transport: Arc<TransportConfig>) -> Self {
        self.quic.transport_config(transport);
        self
    }

    /// What to open the endpoint with. A connection that is accepted by quinn alone has no lease.
    pub fn server_config(&self) -> quinn::ServerConfig {
        self.quic.clone()
    }

    /// Performs the server's handshake.
    ///
    /// # Errors
    ///
    /// [`HandshakeError`]; a peer that is refused gets the alert that fits.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops the connection.
    pub async fn accept(&self, incoming: quinn::Incoming) -> Result<Connection, HandshakeError> {
        let noted = Noted::default();
        let verifier = Arc::new(noted.verifier(&self.end));
        let mut tls = Arc::unwrap_or_clone(self.recipe.make(verifier));
        tls.cert_resolver = Arc::new(noted.recording(tls.cert_resolver));
        let crypto = QuicServerConfig::try_from(tls).map_err(io::Error::other);
        let mut quic = self.quic.clone();
        quic.crypto = Arc::new(crypto.map_err(HandshakeError::Io)?);
        let connecting = incoming.accept_with(Arc::new(quic)).map_err(sorted)?;
        finish(&self.end, connecting, &noted).await
    }

    /// How many connections of this acceptor are open.
    pub fn open_connections(&self) -> usize {
        self.end.keeper.len()
    }
}

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acceptor")
            .field("end", &self.end)
            .finish_non_exhaustive()
    }
}

/// The client's side; clones share everything.
#[derive(Clone)]
pub struct Connector {
    end: End,
    tls: Arc<ClientConfig>,
    transport: Arc<TransportConfig>,
}

impl Connector {
    /// A connector of this configuration, an [`Mtls`](crate::Mtls) or a [`TlsClient`](crate::TlsClient), which must name an
    /// application protocol ([`Tls::alpn`]) that servers know.
    ///
    /// # Errors
    ///
    /// [`ConfigError`].
    pub fn new(config: Tls<impl ClientShows, SpiffePeer>) -> Result<Self, ConfigError> {
        let (end, tls) = config.versions(&[&rustls::version::TLS13]).bare_client()?;
        QuicClientConfig::try_from(tls.clone()).map_err(no_suite)?;
        Ok(Self {
            end,
            tls,
            transport: Arc::default(),
        })
    }

    /// Uses these transport parameters.
    #[must_use]
    pub fn transport(mut self, transport: Arc<TransportConfig>) -> Self {
        self.transport = transport;
        self
    }

    /// Dials `address` from `endpoint`, and performs the client's handshake.
    ///
    /// Success means that the server is verified. Whether the server accepted this side shows when a stream is used:
    /// [`PeerRefused::in_quic`] finds the alert in quinn's error.
    ///
    /// # Errors
    ///
    /// [`HandshakeError`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops the connection.
    pub async fn connect(
        &self,
        endpoint: &quinn::Endpoint,
        address: SocketAddr,
    ) -> Result<Connection, HandshakeError> {
        // A client without a certificate would be told by the server; it is told here, by name.
        self.end.identity()?;
        let noted = Noted::default();
        let mut tls = ClientConfig::clone(&self.tls);
        let verifier = Arc::new(noted.verifier(&self.end));
        tls.dangerous().set_certificate_verifier(verifier);
        tls.client_auth_cert_resolver = Arc::new(noted.recording(tls.client_auth_cert_resolver));
        let crypto = QuicClientConfig::try_from(tls).map_err(io::Error::other);
        let mut quic = quinn::ClientConfig::new(Arc::new(crypto.map_err(HandshakeError::Io)?));
        quic.transport_config(self.transport.clone());
        let connecting = endpoint
            .connect_with(quic, address, NAME)
            .map_err(|error| HandshakeError::Io(io::Error::other(error)))?;
        finish(&self.end, connecting, &noted).await
    }

    /// How many connections of this connector are open.
    pub fn open_connections(&self) -> usize {
        self.end.keeper.len()
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector")
            .field("end", &self.end)
            .finish_non_exhaustive()
    }
}

/// Waits for the handshake, judges the peer again, and grants the lease.
async fn finish(
    end: &End,
    connecting: quinn::Connecting,
    noted: &Noted,
) -> Result<Connection, HandshakeError> {
    let clock = &end.keeper.judge.clock;
    let until = clock.monotonic().saturating_add(end.timeout);
    let connected = tokio::select! {
        connected = connecting => connected,
        () = clock.sleep_until(until) => {
            return Err(HandshakeError::TimedOut { after: end.timeout });
        }
    };
    if let Some(refusal) = noted.refused.take() {
        return Err(HandshakeError::Refused(refusal));
    }
    let shown = noted.shown.get();
    if let (Some(None), true) = (shown, end.shows_svid) {
        // A server fails with a text of rustls, and a client goes on as nobody; the cause is known here.
        let cause = end.identity().err();
        return Err(cause.unwrap_or(HandshakeError::NonePicked));
    }
    let quic = connected.map_err(sorted)?;
    let chain = chain(&quic).ok_or_else(unproven)?;
    let (end_entity, intermediates) = chain.split_first().ok_or_else(unproven)?;
    let judged = end
        .keeper
        .judge
        .judge(end_entity, intermediates)
        .map_err(|refusal| {
            refusal.log();
            quic.close(LEASE_OVER, b"");
            HandshakeError::Refused(refusal)
        })?;
    let revision = judged.revision;
    // A certificate of the Web PKI is nobody's SPIFFE ID.
    let shown = shown.and_then(Option::as_deref).filter(|_| end.shows_svid);
    let own = shown.map(own).transpose()?;
    let granted = Granted {
        judged,
        own,
        until: None,
    };
    let lease = end
        .keeper
        .grant(granted)
        .map_err(|error| HandshakeError::Io(io::Error::other(error)))?;
    tokio::spawn(look_after(quic.clone(), lease.clone()));
    Ok(Connection {
        quic,
        peer: Peer {
            lease,
            revision,
            version: ProtocolVersion::TLSv1_3,
            group: None,
            kind: HandshakeKind::Full,
            requires_post_quantum: end.requires_post_quantum,
        },
    })
}

/// What the peer has shown.
fn chain(quic: &quinn::Connection) -> Option<Vec<CertificateDer<'static>>> {
    Some(*quic.peer_identity()?.downcast().ok()?)
}

/// Who this side is by what it has shown, and until when.
fn own(
    key: &CertifiedKey,
) -> Result<(spiffe_core::SpiffeId, spiffe_core::Timestamp), HandshakeError> {
    let chain = X509Chain::new(key.cert.clone()).map_err(io::Error::other);
    let chain = chain.map_err(HandshakeError::Io)?;
    Ok((chain.id().clone(), chain.not_after()))
}

/// Does for a connection what a `TlsStream` does by itself: judges again when that is due, and ends it in two steps.
async fn look_after(quic: quinn::Connection, lease: Lease) {
    let lease = Guard(lease);
    let mut turn = Turn::Stands;
    loop {
        tokio::select! {
            next = lease.0.turn(turn, || chain(&quic)) => {
                turn = next;
                if turn == Turn::Cut {
                    quic.close(LEASE_OVER, b"the lease is over");
                    return;
                }
                // No further credit for streams; what the peer has left of it is refused below.
                quic.set_max_concurrent_bi_streams(VarInt::from_u32(0));
                quic.set_max_concurrent_uni_streams(VarInt::from_u32(0));
            }
            _ = quic.closed() => return,
            Ok((mut send, mut receive)) = quic.accept_bi(), if turn == Turn::WindsUp => {
                let _ = send.reset(LEASE_OVER);
                let _ = receive.stop(LEASE_OVER);
            }
            Ok(mut receive) = quic.accept_uni(), if turn == Turn::WindsUp => {
                let _ = receive.stop(LEASE_OVER);
            }
        }
    }
}

/// A QUIC connection that knows its peer, and that ends when its lease does; clones are handles to the same one.
#[derive(Clone, Debug)]
pub struct Connection {
    quic: quinn::Connection,
    peer: Peer,
}

impl Connection {
    /// Who is at the other end. quinn does not tell the key exchange group, so whether it resists a quantum computer is known
    /// only where the configuration [requires](Tls::require_post_quantum) that.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// quinn's own handle, for datagrams, statistics and closing. Streams that are opened or accepted by it are not
    /// stopped when the lease is over, but end with the connection.
    pub fn quic(&self) -> &quinn::Connection {
        &self.quic
    }

    /// Opens a stream in both directions.
    ///
    /// # Errors
    ///
    /// [`StreamError`].
    pub async fn open_bi(&self) -> Result<(SendStream, RecvStream), StreamError> {
        self.unless_over(self.quic.open_bi()).await
    }

    /// Opens a stream to the peer.
    ///
    /// # Errors
    ///
    /// [`StreamError`].
    pub async fn open_uni(&self) -> Result<SendStream, StreamError> {
        self.unless_over(self.quic.open_uni()).await
    }

    /// The next stream in both directions that the peer opens.
    ///
    /// # Errors
    ///
    /// [`StreamError`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses no stream.
    pub async fn accept_bi(&self) -> Result<(SendStream, RecvStream), StreamError> {
        self.unless_over(self.quic.accept_bi()).await
    }

    /// The next stream that the peer opens to this side.
    ///
    /// # Errors
    ///
    /// [`StreamError`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses no stream.
    pub async fn accept_uni(&self) -> Result<RecvStream, StreamError> {
        self.unless_over(self.quic.accept_uni()).await
    }

    async fn unless_over<T>(
        &self,
        stream: impl Future<Output = Result<T, ConnectionError>>,
    ) -> Result<T, StreamError> {
        let lease = self.peer.lease();
        lease.look_by_itself();
        let stream = pin!(stream);
        tokio::select! {
            biased;
            () = lease.winds_up() => Err(StreamError::LeaseOver(LeaseOver {
                end: lease.end().unwrap_or(LeaseEnd::NotJudged),
            })),
            stream = stream => Ok(stream?),
        }
    }
}

/// Why there is no stream.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StreamError {
    /// The lease is over: dial again.
    #[error("no stream is begun on this connection: {0}")]
    LeaseOver(#[source] LeaseOver),
    /// The connection is gone.
    #[error(transparent)]
    Connection(#[from] ConnectionError),
}

/// What is known of one handshake, which quinn drives in a task of its own.
#[derive(Default)]
struct Noted {
    /// What this side showed when it was asked, which may be nothing.
    shown: Arc<OnceLock<Option<Arc<CertifiedKey>>>>,
    refused: Arc<Refused>,
}

impl Noted {
    fn verifier(&self, end: &End) -> PeerVerifier {
        let told = Told::Waiting(self.refused.clone());
        PeerVerifier::new(end.keeper.judge.clone(), told)
    }

    fn recording<R: ?Sized>(&self, inner: Arc<R>) -> Recording<R> {
        Recording {
            shown: self.shown.clone(),
            inner,
        }
    }
}

/// Remembers what was shown in one handshake.
#[derive(Debug)]
struct Recording<R: ?Sized> {
    shown: Arc<OnceLock<Option<Arc<CertifiedKey>>>>,
    inner: Arc<R>,
}

impl<R: ?Sized> Recording<R> {
    fn note(&self, key: Option<Arc<CertifiedKey>>) -> Option<Arc<CertifiedKey>> {
        let _ = self.shown.set(key.clone());
        key
    }
}

impl ResolvesServerCert for Recording<dyn ResolvesServerCert> {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.note(self.inner.resolve(hello))
    }
}

impl ResolvesClientCert for Recording<dyn ResolvesClientCert> {
    fn resolve(
        &self,
        authorities: &[&[u8]],
        schemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        self.note(self.inner.resolve(authorities, schemes))
    }

    fn has_certs(&self) -> bool {
        self.inner.has_certs()
    }
}

fn no_suite(_: NoInitialCipherSuite) -> ConfigError {
    ConfigError::Provider(rustls::Error::General(
        "QUIC needs the cipher suite TLS13_AES_128_GCM_SHA256".into(),
    ))
}

impl PeerRefused {
    /// The alert by which the peer closed a QUIC connection, if that is what it did.
    pub fn in_quic(error: &ConnectionError) -> Option<Self> {
        let ConnectionError::ConnectionClosed(close) = error else {
            return None;
        };
        // RFC 9001 §4.8: alerts are error codes from 0x100 on.
        let alert = u64::from(close.error_code).checked_sub(0x100)?;
        let alert = AlertDescription::from(u8::try_from(alert).ok()?);
        Some(Self { alert })
    }
}

/// Sorts what quinn says of a handshake, for which no verdict of ours is the cause.
fn sorted(error: ConnectionError) -> HandshakeError {
    PeerRefused::in_quic(&error).map_or_else(
        || HandshakeError::Io(io::Error::from(error)),
        HandshakeError::PeerRefused,
    )
}

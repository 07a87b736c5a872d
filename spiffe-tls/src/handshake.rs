//! Handshakes with a deadline and with the verdict that ended them; what comes out is a connection with a lease.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, CommonState, HandshakeKind, ProtocolVersion};
use spiffe_core::snapshot::Derived;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;

use crate::error::HandshakeError;
use crate::hints::Served;
use crate::judge::Judged;
use crate::keeper::Keeper;
use crate::lease::Granted;
use crate::listener::Listener;
use crate::material::{Identity, Ready};
use crate::peer::Peer;
use crate::scene::{self, Scene};
use crate::sessions::ClientSessions;
use crate::stream::TlsStream;

/// The server's side; clones share everything.
///
/// Each handshake presents the identity that is current when it is asked for, and judges the peer by the bundles that
/// are current when the peer's chain arrives. An open connection carries a [`Lease`](crate::Lease).
///
/// Sessions are resumed, in TLS 1.3 and 1.2, unless [`Mtls::resumption`](crate::Mtls::resumption) turns it off. A
/// resumed peer is judged as any other, by the chain that it showed at first, before its connection is handed out.
#[derive(Clone, Debug)]
pub struct Acceptor {
    end: End,
    served: Served,
}

impl Acceptor {
    pub(crate) fn new(end: End, served: Served) -> Self {
        Self { end, served }
    }

    /// Performs the server's handshake over any transport.
    ///
    /// # Errors
    ///
    /// [`HandshakeError`]; the peer has been sent the alert that fits.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops the transport.
    pub async fn accept<IO>(&self, transport: IO) -> Result<TlsStream<IO>, HandshakeError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let mut scene = Some(Box::default());
        let accepting = tokio_rustls::TlsAcceptor::from(self.served.config()).accept(transport);
        let stream = self.end.run(&mut scene, accepting).await?;
        self.end.finish(scene, stream.into(), false)
    }

    /// Accepts TCP connections with their handshakes beside each other.
    pub fn listen(&self, listener: TcpListener) -> Listener {
        Listener::new(listener, self.clone())
    }

    /// How many connections of this acceptor are open.
    pub fn open_connections(&self) -> usize {
        self.end.keeper.len()
    }

    pub(crate) fn end(&self) -> &End {
        &self.end
    }
}

/// The client's side; clones share everything. Revisions, leases and sessions are as with [`Acceptor`].
#[derive(Clone, Debug)]
pub struct Connector {
    end: End,
    config: Arc<ClientConfig>,
    /// Where sessions are kept; none where none are resumed.
    sessions: Option<Arc<ClientSessions>>,
}

impl Connector {
    pub(crate) fn new(
        end: End,
        config: Arc<ClientConfig>,
        sessions: Option<Arc<ClientSessions>>,
    ) -> Self {
        Self {
            end,
            config,
            sessions,
        }
    }

    /// Performs the client's handshake over any transport.
    ///
    /// Under TLS 1.3 success means that the server is verified; whether the server accepted this side shows at the
    /// first read, as an I/O error that holds [`PeerRefused`](crate::PeerRefused).
    ///
    /// # Errors
    ///
    /// [`HandshakeError`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops the transport.
    pub async fn connect<IO>(&self, transport: IO) -> Result<TlsStream<IO>, HandshakeError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        self.connect_to(unused_name(), transport).await
    }

    /// The same for a connector that dials several destinations: sessions are resumed with the destination that they
    /// began with. The name is neither sent nor compared; an address will do.
    ///
    /// [`connect`](Self::connect) takes all its connections for one destination's. Nothing is wrong if they are not,
    /// only fewer sessions are resumed.
    ///
    /// # Errors
    ///
    /// [`HandshakeError`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops the transport.
    pub async fn connect_to<IO>(
        &self,
        destination: ServerName<'static>,
        transport: IO,
    ) -> Result<TlsStream<IO>, HandshakeError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        // A client without a certificate would be told by the server; it is told here, by name.
        self.end.identity()?;
        let mut scene = Some(Box::new(Scene {
            namespace: self.sessions.as_ref().map(|sessions| sessions.namespace()),
            ..Scene::default()
        }));
        let connector = tokio_rustls::TlsConnector::from(self.config.clone());
        // The first message is written here, and with it a session is taken.
        let connecting = scene::play(&mut scene, || connector.connect(destination, transport));
        let stream = self.end.run(&mut scene, connecting).await?;
        self.end.finish(scene, stream.into(), true)
    }

    /// How many connections of this connector are open.
    pub fn open_connections(&self) -> usize {
        self.end.keeper.len()
    }

    /// The clock that handshakes and leases go by.
    #[cfg(feature = "hyper")]
    pub(crate) fn clock(&self) -> &Arc<dyn spiffe_core::Clock> {
        &self.end.keeper.judge.clock
    }
}

/// rustls wants a name; it is neither sent nor compared.
pub(crate) fn unused_name() -> ServerName<'static> {
    std::net::Ipv4Addr::UNSPECIFIED.into()
}

/// What acceptors and connectors have in common.
#[derive(Clone, Debug)]
pub(crate) struct End {
    pub(crate) ready: Derived<Ready>,
    pub(crate) keeper: Arc<Keeper>,
    pub(crate) timeout: Duration,
    /// Whether this side shows an SVID.
    pub(crate) shows_svid: bool,
    /// Whether this side agrees on nothing but post-quantum key exchange.
    pub(crate) requires_post_quantum: bool,
}

impl End {
    /// Drives the handshake until it ends or its time is up.
    async fn run<S>(
        &self,
        scene: &mut Option<Box<Scene>>,
        handshake: impl Future<Output = io::Result<S>>,
    ) -> Result<S, HandshakeError> {
        let clock = &self.keeper.judge.clock;
        let mut handshake = pin!(handshake);
        let until = clock.monotonic().saturating_add(self.timeout);
        let mut deadline = clock.sleep_until(until);
        poll_fn(|context| {
            let polled = scene::play(scene, || handshake.as_mut().poll(context));
            if let Some(refusal) = scene.as_mut().and_then(|scene| scene.refusal()) {
                return Poll::Ready(Err(HandshakeError::Refused(refusal)));
            }
            if scene.as_ref().is_some_and(|scene| scene.declined) {
                // A server would fail with a text of rustls, and a client go on as nobody; the cause is known here.
                let cause = self.identity().err();
                return Poll::Ready(Err(cause.unwrap_or(HandshakeError::NonePicked)));
            }
            if let Poll::Ready(outcome) = polled {
                return Poll::Ready(outcome.map_err(HandshakeError::from_io));
            }
            match deadline.as_mut().poll(context) {
                Poll::Ready(()) => Poll::Ready(Err(HandshakeError::TimedOut {
                    after: self.timeout,
                })),
                Poll::Pending => Poll::Pending,
            }
        })
        .await
    }

    /// The own identity that can be presented now, the first of them if there are several; none where none is shown.
    pub(crate) fn identity(&self) -> Result<Option<Arc<Identity>>, HandshakeError> {
        if !self.shows_svid {
            return Ok(None);
        }
        let (_, ready) = self.ready.load();
        let now = self.keeper.judge.clock.now();
        let mut held = ready.identities.iter();
        if let Some(valid) = held.clone().find(|identity| identity.is_valid_at(now)) {
            return Ok(Some(valid.clone()));
        }
        let expired = held.next().ok_or(HandshakeError::NoIdentity)?;
        Err(HandshakeError::OwnExpired {
            id: expired.svid.id().clone(),
            not_after: expired.svid.not_after(),
        })
    }

    /// Judges a resumed peer, grants the lease, and puts the connection together.
    fn finish<IO>(
        &self,
        scene: Option<Box<Scene>>,
        stream: tokio_rustls::TlsStream<IO>,
        is_client: bool,
    ) -> Result<TlsStream<IO>, HandshakeError> {
        let scene = *scene.unwrap_or_default();
        let connection: &CommonState = match &stream {
            tokio_rustls::TlsStream::Client(stream) => stream.get_ref().1,
            tokio_rustls::TlsStream::Server(stream) => stream.get_ref().1,
        };
        let kind = connection.handshake_kind().unwrap_or(HandshakeKind::Full);
        let group = connection
            .negotiated_key_exchange_group()
            .map(|group| group.name());
        let is_resumed = kind == HandshakeKind::Resumed;
        let until = if is_resumed {
            // Fail closed: a session whose end nobody knows is none of ours.
            Some(scene.until.ok_or_else(unproven)?)
        } else {
            None
        };
        let judged = match scene.verdict {
            Some(Ok(judged)) => judged,
            None if is_resumed => self.judge_resumed(connection)?,
            // Fail closed: a full handshake that ended without a verdict proves nobody.
            _ => return Err(unproven()),
        };
        let own = match (&scene.own, until) {
            (Some(own), _) => Some((own.svid.id().clone(), own.svid.not_after())),
            // A client that resumes shows nothing again: it is who it was when the session began, whoever it is now.
            (None, Some(until)) => scene.resumed_as.map(|id| (id, until)),
            (None, None) => None,
        };
        let revision = judged.revision;
        let version = connection
            .protocol_version()
            .unwrap_or(ProtocolVersion::TLSv1_3);
        let granted = Granted { judged, own, until };
        let lease = self
            .keeper
            .grant(granted)
            .map_err(|error| HandshakeError::Io(io::Error::other(error)))?;
        let peer = Peer {
            lease,
            revision,
            version,
            group,
            kind,
            requires_post_quantum: self.requires_post_quantum,
        };
        let sessions = is_client.then(|| {
            let own = peer.own_id().cloned();
            Scene::of_sessions(peer.lease.expires_at(), own, scene.namespace)
        });
        Ok(TlsStream::new(stream, peer, sessions))
    }

    /// rustls asks no verifier about a resumed peer, but keeps the chain that it showed at first.
    fn judge_resumed(&self, connection: &CommonState) -> Result<Judged, HandshakeError> {
        let (end_entity, intermediates) = connection
            .peer_certificates()
            .and_then(<[_]>::split_first)
            .ok_or_else(unproven)?;
        self.keeper
            .judge
            .judge(end_entity, intermediates)
            .inspect_err(|refusal| refusal.log())
            .map_err(HandshakeError::Refused)
    }
}

pub(crate) fn unproven() -> HandshakeError {
    HandshakeError::Tls(rustls::Error::NoCertificatesPresented)
}

//! Handshakes with the identity of one revision, with a deadline, and with the verdict that ended them.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, CommonState, ProtocolVersion, ServerConfig};
use spiffe_core::Clock;
use spiffe_core::snapshot::{Derived, Revision};
use spiffe_core::verify::VerifiedX509;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;

use crate::config::Ready;
use crate::error::{HandshakeError, Refusal};
use crate::listener::Listener;
use crate::material::Identity;
use crate::peer::Peer;
use crate::stream::TlsStream;

/// The server's side of mutual TLS; clones share everything.
///
/// Each handshake presents the identity of the revision that is current when it begins, and judges the peer by the
/// bundles that are current when the peer's chain arrives. Connections that are open when a revision comes stay open.
#[derive(Clone, Debug)]
pub struct Acceptor {
    ready: Derived<Ready<ServerConfig>>,
    clock: Arc<dyn Clock>,
    timeout: Duration,
}

impl Acceptor {
    pub(crate) fn new(
        ready: Derived<Ready<ServerConfig>>,
        clock: Arc<dyn Clock>,
        timeout: Duration,
    ) -> Self {
        Self {
            ready,
            clock,
            timeout,
        }
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
        let (_, ready) = self.ready.load();
        let accepting = tokio_rustls::TlsAcceptor::from(ready.config.clone()).accept(transport);
        let end = Handshake {
            clock: &*self.clock,
            timeout: self.timeout,
            identity: ready.identity.as_deref(),
        };
        let (stream, verified) = end.run(accepting).await?;
        let peer = end.peer(verified, stream.get_ref().1)?;
        Ok(TlsStream::new(stream.into(), peer))
    }

    /// Accepts TCP connections with their handshakes beside each other.
    pub fn listen(&self, listener: TcpListener) -> Listener {
        Listener::new(listener, self.clone())
    }

    pub(crate) fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }
}

/// The client's side of mutual TLS; clones share everything. Revisions are taken as by [`Acceptor`].
#[derive(Clone, Debug)]
pub struct Connector {
    ready: Derived<Ready<ClientConfig>>,
    clock: Arc<dyn Clock>,
    timeout: Duration,
}

impl Connector {
    pub(crate) fn new(
        ready: Derived<Ready<ClientConfig>>,
        clock: Arc<dyn Clock>,
        timeout: Duration,
    ) -> Self {
        Self {
            ready,
            clock,
            timeout,
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
        let (_, ready) = self.ready.load();
        let end = Handshake {
            clock: &*self.clock,
            timeout: self.timeout,
            identity: ready.identity.as_deref(),
        };
        // A client without a certificate would be told by the server; it is told here, by name.
        end.identity()?;
        let connecting = tokio_rustls::TlsConnector::from(ready.config.clone())
            .connect(unused_name(), transport);
        let (stream, verified) = end.run(connecting).await?;
        let peer = end.peer(verified, stream.get_ref().1)?;
        Ok(TlsStream::new(stream.into(), peer))
    }
}

/// rustls wants a name; it is neither sent nor compared.
fn unused_name() -> ServerName<'static> {
    std::net::Ipv4Addr::UNSPECIFIED.into()
}

/// A verified and authorised peer, and the revision whose bundles judged it.
type Judged = (VerifiedX509, Revision);

/// One handshake of either role.
struct Handshake<'a> {
    clock: &'a dyn Clock,
    timeout: Duration,
    identity: Option<&'a Identity>,
}

impl Handshake<'_> {
    /// Drives the handshake until it ends or its time is up, and picks up the verdict on the peer.
    async fn run<S>(
        &self,
        handshake: impl Future<Output = io::Result<S>>,
    ) -> Result<(S, Option<Judged>), HandshakeError> {
        let mut handshake = pin!(handshake);
        let until = self.clock.monotonic().saturating_add(self.timeout);
        let mut deadline = self.clock.sleep_until(until);
        let mut verified = None;
        let outcome = poll_fn(|context| {
            let (polled, judged) = verdict::during(|| handshake.as_mut().poll(context));
            match judged {
                Some(Ok(peer)) => verified = Some(peer),
                Some(Err(refusal)) => {
                    return Poll::Ready(Err(HandshakeError::Refused(Box::new(refusal))));
                }
                None => {}
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
        });
        match outcome.await {
            Ok(stream) => Ok((stream, verified)),
            // A server that had nothing to present fails with a text of rustls; the cause is known here.
            Err(HandshakeError::Tls(rustls::Error::General(_))) if self.identity().is_err() => {
                Err(self.identity().err().unwrap_or(HandshakeError::NoIdentity))
            }
            Err(error) => Err(error),
        }
    }

    /// The own identity, if it can be presented now.
    fn identity(&self) -> Result<&Identity, HandshakeError> {
        let identity = self.identity.ok_or(HandshakeError::NoIdentity)?;
        if identity.is_valid_at(self.clock.now()) {
            return Ok(identity);
        }
        Err(HandshakeError::OwnExpired {
            id: identity.svid.id().clone(),
            not_after: identity.svid.not_after(),
        })
    }

    fn peer(
        &self,
        verified: Option<Judged>,
        connection: &CommonState,
    ) -> Result<Peer, HandshakeError> {
        // Fail closed: a handshake that ended without a verdict proves nobody.
        let (Some((verified, revision)), Some(identity)) = (verified, self.identity) else {
            return Err(HandshakeError::Tls(rustls::Error::NoCertificatesPresented));
        };
        Ok(Peer {
            verified,
            own: identity.svid.id().clone(),
            revision,
            version: connection
                .protocol_version()
                .unwrap_or(ProtocolVersion::TLSv1_3),
            group: connection
                .negotiated_key_exchange_group()
                .map(|group| group.name()),
        })
    }
}

/// The way from the verifier back to whoever drives the handshake.
///
/// rustls calls the verifier from inside the poll of the handshake and carries back only what fits its error type; so
/// the verdict is left on this thread during the poll and taken by the same poll. Nothing stays behind it.
pub(crate) mod verdict {
    use std::cell::RefCell;

    use super::{Judged, Refusal};

    type Verdict = Result<Judged, Refusal>;

    thread_local! {
        static CURRENT: RefCell<Option<Option<Verdict>>> = const { RefCell::new(None) };
    }

    /// Leaves a verdict, if somebody on this thread is waiting for one.
    pub(crate) fn leave(verdict: Verdict) {
        CURRENT.with_borrow_mut(|current| {
            if let Some(place) = current {
                *place = Some(verdict);
            }
        });
    }

    /// Runs one poll and takes the verdict that was left during it.
    pub(super) fn during<T>(poll: impl FnOnce() -> T) -> (T, Option<Verdict>) {
        // A transport that itself speaks TLS polls one handshake inside another.
        let outer = Outer(CURRENT.replace(Some(None)));
        let result = poll();
        let verdict = CURRENT.take().flatten();
        drop(outer);
        (result, verdict)
    }

    /// What was there before, put back when dropped: also when the poll panics.
    struct Outer(Option<Option<Verdict>>);

    impl Drop for Outer {
        fn drop(&mut self) {
            CURRENT.set(self.0.take());
        }
    }
}

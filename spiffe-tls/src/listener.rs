//! A TCP listener whose handshakes run beside each other, bounded, so that silent peers stop nobody.

use std::io;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use spiffe_core::Clock;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::error::HandshakeError;
use crate::handshake::Acceptor;
use crate::stream::TlsStream;

/// The most handshakes under way at once; further connections wait in the system's queue. Each costs a descriptor and
/// about 20 KiB until its deadline: 18 KiB of resident memory where the peer is silent once its hello is answered, as
/// the test `a_handshake_under_way_costs_little_memory` finds it.
pub const MAX_CONCURRENT_HANDSHAKES: usize = 4096;

/// How long accepting rests when the system has no descriptors left.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(50);

/// What a handshake came to.
type Handshake = Result<TlsStream<TcpStream>, HandshakeError>;

/// Accepts TCP connections and their handshakes.
#[derive(Debug)]
pub struct Listener {
    listener: TcpListener,
    acceptor: Acceptor,
    handshakes: JoinSet<(SocketAddr, Handshake)>,
    most: usize,
}

impl Listener {
    pub(crate) fn new(listener: TcpListener, acceptor: Acceptor) -> Self {
        Self {
            listener,
            acceptor,
            handshakes: JoinSet::new(),
            most: MAX_CONCURRENT_HANDSHAKES,
        }
    }

    /// Allows this many handshakes at once; [`MAX_CONCURRENT_HANDSHAKES`] unless set.
    #[must_use]
    pub fn max_concurrent_handshakes(mut self, most: usize) -> Self {
        self.most = most.max(1);
        self
    }

    /// The address that is listened on.
    ///
    /// # Errors
    ///
    /// As the system says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// The next connection whose handshake ended, well or not.
    ///
    /// # Errors
    ///
    /// The outer error means that the listener itself is broken. The inner one is about one peer: log it and go on.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses no connection; handshakes under way go on.
    pub async fn accept(&mut self) -> io::Result<Result<TlsStream<TcpStream>, HandshakeError>> {
        Ok(self.accept_from().await?.1)
    }

    /// The same, and the address at the other end, for whoever logs what was refused.
    ///
    /// # Errors
    ///
    /// As [`Self::accept`].
    ///
    /// # Cancel safety
    ///
    /// As [`Self::accept`].
    pub async fn accept_from(
        &mut self,
    ) -> io::Result<(SocketAddr, Result<TlsStream<TcpStream>, HandshakeError>)> {
        loop {
            let room = self.handshakes.len() < self.most;
            tokio::select! {
                // A task that was aborted has nothing to tell; none is.
                Some(Ok(handshake)) = self.handshakes.join_next(), if !self.handshakes.is_empty() => {
                    return Ok(handshake);
                }
                accepted = self.listener.accept(), if room => match accepted {
                    Ok((stream, from)) => self.begin(stream, from),
                    Err(error) if is_of_one_connection(&error) => {}
                    Err(error) if is_exhaustion(&error) => {
                        tracing::warn!(%error, "accepting connections rests for want of resources");
                        let clock: Arc<dyn Clock> = self.acceptor.end().keeper.judge.clock.clone();
                        clock.sleep_until(clock.monotonic() + EXHAUSTED_PAUSE).await;
                    }
                    Err(error) => return Err(error),
                },
            }
        }
    }

    fn begin(&mut self, stream: TcpStream, from: SocketAddr) {
        // Small first messages must not wait for an acknowledgement; a failure costs speed only.
        let _ = stream.set_nodelay(true);
        let acceptor = self.acceptor.clone();
        self.handshakes.spawn(async move {
            let handshake = AssertUnwindSafe(acceptor.accept(stream)).catch_unwind();
            let panicked = || HandshakeError::Io(io::Error::other("the handshake panicked"));
            (from, handshake.await.unwrap_or_else(|_| Err(panicked())))
        });
    }
}

/// The connection was gone before it was accepted.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
    )
}

/// EMFILE, ENFILE, ENOBUFS and ENOMEM: resources come back when connections end.
fn is_exhaustion(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(24 | 23 | 105 | 12))
}

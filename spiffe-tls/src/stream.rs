//! A TLS connection that knows its peer, and that ends when its lease does.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::error::{LeaseOver, PeerRefused};
use crate::lease::{Gate, Inner, LeaseEnd, Way};
use crate::peer::Peer;
use crate::scene::{self, Scene};

/// An established connection over the transport `IO`.
///
/// Reading ends with an error that holds [`PeerRefused`] when the peer refused this side, and with one that holds
/// [`LeaseOver`] when the [lease](crate::Lease) has ended and its grace is over; the peer is sent a close_notify then.
/// Shut it down to tell the peer that the end is meant.
#[derive(Debug)]
pub struct TlsStream<IO> {
    inner: tokio_rustls::TlsStream<IO>,
    peer: Peer,
    /// What the sessions that a server hands out inherit. A TLS 1.3 server does so before its first data, and what comes
    /// later is not kept: then there is none, as on the server's side.
    sessions: Option<Box<Scene>>,
    /// Which wakers are with the lease, for reading and for writing.
    left: [WakerId; 2],
    /// How many more polls may pass before the connection looks at its lease by itself.
    unlooked: u8,
    /// Tells the keeper when the connection is gone.
    guard: Guard,
}

/// A connection looks at its lease by itself at one poll of so many: a look costs a tenth of a microsecond, a fiftieth of
/// what a poll that moves 16 KiB does.
const POLLS_PER_LOOK: u8 = 128;

/// Ends the keeping of a lease with its connection, however many handles to the lease are left.
#[derive(Debug)]
pub(crate) struct Guard(pub(crate) crate::lease::Lease);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.inner.close();
    }
}

impl<IO> TlsStream<IO> {
    pub(crate) fn new(
        inner: tokio_rustls::TlsStream<IO>,
        peer: Peer,
        sessions: Option<Box<Scene>>,
    ) -> Self {
        Self {
            inner,
            guard: Guard(peer.lease.clone()),
            peer,
            sessions,
            left: [WakerId::NONE; 2],
            unlooked: 0,
        }
    }

    /// Who is at the other end.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// The transport below.
    pub fn transport(&self) -> &IO {
        self.inner.get_ref().0
    }

    /// The application protocol that was negotiated: RFC 7301.
    pub fn alpn_protocol(&self) -> Option<&[u8]> {
        self.inner.get_ref().1.alpn_protocol()
    }

    fn lease(&self) -> &Arc<Inner> {
        &self.guard.0.inner
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> TlsStream<IO> {
    /// Lets the caller go on, after judging again where that is due, or cuts.
    fn gate(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.lease().gate() == Gate::JudgeAgain {
            let chain = self.inner.get_ref().1.peer_certificates();
            self.lease().judge_again(chain);
        }
        match self.lease().gate() {
            Gate::Shut => Poll::Ready(Err(self.cut(context))),
            Gate::Open => Poll::Ready(Ok(())),
            Gate::JudgeAgain => {
                // Overtaken by a change. Others on this thread come first.
                context.waker().wake_by_ref();
                Poll::Pending
            }
        }
    }

    /// Sends close_notify, as far as the transport takes it now, unless data is queued before it: that would go out first,
    /// after the end.
    fn cut(&mut self, context: &mut Context<'_>) -> io::Error {
        if !self.inner.get_ref().1.wants_write() {
            let _ = Pin::new(&mut self.inner).poll_shutdown(context);
        }
        let end = self.guard.0.end().unwrap_or(LeaseEnd::NotJudged);
        io::Error::new(io::ErrorKind::ConnectionAborted, LeaseOver { end })
    }

    /// Runs one poll of the connection behind the gate.
    fn poll_gated<T>(
        &mut self,
        context: &mut Context<'_>,
        way: Way,
        poll: impl FnOnce(&mut Self, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        match self.unlooked.checked_sub(1) {
            Some(left) => self.unlooked = left,
            None => {
                self.unlooked = POLLS_PER_LOOK;
                self.lease().look_by_itself();
            }
        }
        if !self.lease().stands() {
            ready!(self.gate(context))?;
        }
        let polled = poll(self, context);
        if polled.is_ready() {
            return polled;
        }
        // What closes the gate from here on wakes this task; what closed it before is seen now.
        self.wait(way, context.waker());
        if !self.lease().stands() {
            ready!(self.gate(context))?;
        }
        Poll::Pending
    }

    /// Leaves the waker with the lease, unless it is there.
    fn wait(&mut self, way: Way, waker: &Waker) {
        let id = WakerId::of(waker);
        if std::mem::replace(&mut self.left[way as usize], id) != id {
            self.guard.0.inner.wait(way, waker.clone());
        }
    }
}

/// What a waker is: its data and its table of functions, by address. While a clone of it is with the lease, no other has the
/// same. The clone itself may name another copy of the table, and then never says that it is the waker it was made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct WakerId([usize; 2]);

impl WakerId {
    /// No waker's: tables are not at address zero.
    const NONE: Self = Self([0; 2]);

    fn of(waker: &Waker) -> Self {
        Self([
            waker.data().addr(),
            std::ptr::from_ref(waker.vtable()).addr(),
        ])
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncRead for TlsStream<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        this.poll_gated(context, Way::Read, |this, context| {
            let inner = Pin::new(&mut this.inner);
            // Also without a scene of its own: this may be the transport of a handshake, whose scene is not for the
            // sessions that arrive here.
            let read = scene::play(&mut this.sessions, || inner.poll_read(context, buffer));
            if read.is_ready() {
                this.sessions = None;
            }
            read.map_err(explained)
        })
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncWrite for TlsStream<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        this.poll_gated(context, Way::Write, |this, context| {
            Pin::new(&mut this.inner).poll_write(context, bytes)
        })
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        this.poll_gated(context, Way::Write, |this, context| {
            Pin::new(&mut this.inner).poll_write_vectored(context, bytes)
        })
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        this.poll_gated(context, Way::Write, |this, context| {
            Pin::new(&mut this.inner).poll_flush(context)
        })
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let shut = ready!(this.poll_gated(context, Way::Write, |this, context| {
            Pin::new(&mut this.inner).poll_shutdown(context)
        }));
        if shut.is_ok() || this.lease().gate() != Gate::Shut {
            return Poll::Ready(shut);
        }
        // What is queued when the connection has been cut stays here; closing the transport is the caller's then.
        if this.inner.get_ref().1.wants_write() {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut this.inner).poll_shutdown(context)
    }
}

/// Puts an alert's meaning in place of its name.
fn explained(error: io::Error) -> io::Error {
    match PeerRefused::in_io(&error) {
        Some(refused) => io::Error::new(io::ErrorKind::ConnectionAborted, refused),
        None => error,
    }
}

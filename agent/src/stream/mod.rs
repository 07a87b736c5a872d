//! One accepted connection, as the gRPC server reads and writes it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Buf;
use spiffe_core::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio::sync::OwnedSemaphorePermit;
use tonic::transport::server::Connected;

use crate::authority::AuthorityRepair;
use crate::caller::{Caller, CallerError};

/// A connection to the Workload API: the caller at its other end, and its bytes with a wrong `:authority` repaired.
///
/// tonic puts the [`Caller`] into the extensions of each request. Clients that send the socket's path as the authority
/// (gRPC C-core, grpc-java, grpc-swift) are seen by the server as sending `localhost`; other connections pass through
/// untouched after their first request's headers.
pub struct CallerStream {
    io: UnixStream,
    caller: Caller,
    repair: Option<Box<AuthorityRepair>>,
    /// Passes when the client has kept silent for too long.
    deadline: Option<BoxFuture<'static, ()>>,
    _slot: Option<OwnedSemaphorePermit>,
}

impl CallerStream {
    /// The accepted end of a connection.
    ///
    /// # Errors
    ///
    /// Those of [`Caller::of`].
    pub fn new(io: UnixStream) -> Result<Self, CallerError> {
        Ok(Self {
            caller: Caller::of(&io)?,
            io,
            repair: Some(Box::default()),
            deadline: None,
            _slot: None,
        })
    }

    /// Fails reads once `deadline` resolves, unless the client has sent the HTTP/2 preface by then.
    #[must_use]
    pub fn with_deadline(mut self, deadline: BoxFuture<'static, ()>) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// Keeps `slot` for as long as the connection lives.
    pub(crate) fn with_slot(mut self, slot: OwnedSemaphorePermit) -> Self {
        self._slot = Some(slot);
        self
    }

    /// Who is at the other end.
    pub fn caller(&self) -> &Caller {
        &self.caller
    }

    /// Brings the repair on, by what it still holds or else by what the socket has. `false` is the end of the stream.
    fn poll_repair(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        if self.push(&[])? {
            return Poll::Ready(Ok(true));
        }
        let mut chunk = [0; READ_SIZE];
        let mut chunk = ReadBuf::new(&mut chunk);
        let Poll::Ready(read) = Pin::new(&mut self.io).poll_read(cx, &mut chunk) else {
            let Some(deadline) = &mut self.deadline else {
                return Poll::Pending;
            };
            ready!(deadline.as_mut().poll(cx));
            tracing::debug!(caller = %self.caller, "client said nothing after connecting");
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        };
        read?;
        if chunk.filled().is_empty() {
            return Poll::Ready(Ok(false));
        }
        self.push(chunk.filled())?;
        Poll::Ready(Ok(true))
    }

    /// Whether there is something to read afterwards.
    fn push(&mut self, bytes: &[u8]) -> io::Result<bool> {
        let Some(repair) = &mut self.repair else {
            return Ok(true);
        };
        if let Err(error) = repair.push(bytes) {
            tracing::debug!(caller = %self.caller, %error, "client broke HTTP/2");
            return Err(io::Error::new(io::ErrorKind::InvalidData, error));
        }
        if repair.has_preface() {
            self.deadline = None;
        }
        Ok(!repair.outgoing().is_empty())
    }
}

impl AsyncRead for CallerStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            let Some(repair) = &mut this.repair else {
                return Pin::new(&mut this.io).poll_read(cx, buf);
            };
            let ready = repair.outgoing();
            if !ready.is_empty() {
                let length = ready.len().min(buf.remaining());
                buf.put_slice(&ready[..length]);
                ready.advance(length);
                if repair.is_done() {
                    this.repair = None;
                }
                return Poll::Ready(Ok(()));
            }
            if !ready!(this.poll_repair(cx))? {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl AsyncWrite for CallerStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

impl Connected for CallerStream {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        self.caller.clone()
    }
}

impl std::fmt::Debug for CallerStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CallerStream")
            .field("caller", &self.caller)
            .finish_non_exhaustive()
    }
}

/// How much is read at once while the repair is at work.
const READ_SIZE: usize = 8 * 1024;

#[cfg(test)]
mod tests;

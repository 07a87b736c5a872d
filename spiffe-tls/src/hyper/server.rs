//! A serving loop that can wind up one connection without the others.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::task::{Context, Poll};

use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tower_service::Service;

use super::{BoxError, ClockTimer};
use crate::listener::Listener;
use crate::peer::Peer;
use crate::stream::TlsStream;

/// Serves HTTP/1.1 and HTTP/2, upgrades included, whichever a connection begins with; clones share the service.
///
/// Each request carries the [`Peer`] of its connection in its extensions. A connection whose lease is over is shut down
/// gracefully by itself: HTTP/2 sends GOAWAY, HTTP/1.1 answers what is under way with `connection: close`, and what is
/// still open when the grace is over is cut.
#[derive(Clone, Debug)]
pub struct Server<S> {
    service: S,
    http: auto::Builder<TokioExecutor>,
}

impl<S> Server<S> {
    /// A server of this service, which is cloned for each connection and each request.
    pub fn new(service: S) -> Self {
        Self {
            service,
            http: auto::Builder::new(TokioExecutor::new()),
        }
    }

    /// Changes hyper's own settings: sizes, windows, timeouts. Timers are set by [`serve`](Self::serve), to the clock
    /// of the acceptor.
    #[must_use]
    pub fn http(mut self, set: impl FnOnce(&mut auto::Builder<TokioExecutor>)) -> Self {
        set(&mut self.http);
        self
    }
}

impl<S, B> Server<S>
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    /// Serves every connection of `listener` until `stop` resolves; then takes none any more, shuts all down
    /// gracefully, and waits until the last one is done. Peers that are refused and connections that break are logged.
    ///
    /// # Errors
    ///
    /// When the listener itself breaks, after all connections have been shut down as for `stop`.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes all connections at once.
    pub async fn serve(
        self,
        mut listener: Listener,
        stop: impl Future<Output = ()>,
    ) -> io::Result<()> {
        let mut stop = pin!(stop);
        let (stopping, stopped) = watch::channel(());
        let mut connections = JoinSet::new();
        let ended = loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok(Ok(stream)) => {
                        let (server, mut stopped) = (self.clone(), stopped.clone());
                        connections.spawn(async move {
                            let peer = stream.peer().id().clone();
                            let stop = async move {
                                // Nothing is ever sent: this resolves when the sender is gone.
                                let _ = stopped.changed().await;
                            };
                            if let Err(error) = server.serve_connection(stream, stop).await {
                                tracing::debug!(%peer, error, "a connection broke");
                            }
                        });
                    }
                    Ok(Err(error)) => tracing::info!(%error, "a connection was not accepted"),
                    Err(error) => break Err(error),
                },
                Some(_) = connections.join_next(), if !connections.is_empty() => {}
                () = &mut stop => break Ok(()),
            }
        };
        drop((listener, stopping));
        while connections.join_next().await.is_some() {}
        ended
    }

    /// Serves one connection, over any transport, until it ends; shuts it down gracefully when its lease is over or
    /// `stop` resolves.
    ///
    /// # Errors
    ///
    /// What broke the connection, such as the I/O error that holds [`LeaseOver`](crate::LeaseOver).
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the connection at once.
    pub async fn serve_connection<IO>(
        self,
        stream: TlsStream<IO>,
        stop: impl Future<Output = ()>,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>>
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let peer = stream.peer().clone();
        let lease = peer.lease().clone();
        let timer = ClockTimer::new(lease.clock().clone());
        let mut http = self.http;
        http.http1().timer(timer.clone());
        http.http2().timer(timer);
        let service = TowerToHyperService::new(WithPeer {
            peer,
            service: self.service,
        });
        let mut wind_up = pin!(async {
            tokio::select! {
                () = lease.winds_up() => {}
                () = stop => {}
            }
        });
        let mut connection =
            pin!(http.serve_connection_with_upgrades(TokioIo::new(stream), service));
        let mut is_winding_up = false;
        loop {
            tokio::select! {
                served = connection.as_mut() => return served,
                () = &mut wind_up, if !is_winding_up => {
                    is_winding_up = true;
                    connection.as_mut().graceful_shutdown();
                }
            }
        }
    }
}

/// Puts the peer into the extensions of each request.
#[derive(Clone, Debug)]
struct WithPeer<S> {
    peer: Peer,
    service: S,
}

impl<S, B> Service<Request<B>> for WithPeer<S>
where
    S: Service<Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.service.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<B>) -> S::Future {
        request.extensions_mut().insert(self.peer.clone());
        self.service.call(request)
    }
}

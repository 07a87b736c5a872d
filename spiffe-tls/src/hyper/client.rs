//! A client whose pools are replaced when a connection in them loses its lease.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use http::uri::Authority;
use http::{Request, Response, Uri};
use http_body::Body;
use hyper::body::Incoming;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use tower_service::Service;

use super::{BoxError, ClockTimer};
use crate::generation::Generation;
use crate::handshake::Connector;
use crate::peer::Peer;
use crate::stream::TlsStream;

/// The most destinations of which a [`Client`] keeps connections; with one more all pools are begun anew.
pub const MAX_POOLS: usize = 1024;

/// Dials what a URI names, and performs the handshake: hyper-util's connector, for whatever takes one.
///
/// There is always TLS, whatever the URI's scheme. The peer is known by its SPIFFE ID; the host in the URI is only where
/// to dial, and sessions are resumed with the host that they began with.
///
/// A connection is cut when its lease is over and the grace too. A pool that uses this connector by itself does not know
/// when the drain begins, so new requests go over the connection until then: use [`Client`], or ask
/// [`Lease::over`](crate::Lease::over) by [`HttpsStream::peer`].
#[derive(Clone, Debug)]
pub struct HttpsConnector<C = HttpConnector> {
    connector: Connector,
    transport: C,
    generation: Generation,
}

impl HttpsConnector {
    /// Dials over TCP, by the system's resolver, without Nagle's delay.
    pub fn new(connector: Connector) -> Self {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        // The second small write of an exchange must not wait for an acknowledgement.
        tcp.set_nodelay(true);
        Self::over(connector, tcp)
    }
}

impl<C> HttpsConnector<C> {
    /// Dials by `transport`, which gives any byte stream for a URI: a Unix socket, a proxy's tunnel.
    pub fn over(connector: Connector, transport: C) -> Self {
        Self {
            connector,
            transport,
            generation: Generation::default(),
        }
    }

    /// The same, whose connections end `generation` when their lease is over.
    pub(crate) fn of(mut self, generation: &Generation) -> Self {
        self.generation = generation.clone();
        self
    }

    fn timer(&self) -> ClockTimer {
        ClockTimer::new(self.connector.clock().clone())
    }
}

impl<C> Service<Uri> for HttpsConnector<C>
where
    C: Service<Uri>,
    C::Response: Read + Write + Unpin + Send + 'static,
    C::Error: Into<BoxError>,
    C::Future: Send + 'static,
{
    type Response = HttpsStream<C::Response>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.transport.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let destination = destination(&uri);
        let dialing = self.transport.call(uri);
        let (connector, generation) = (self.connector.clone(), self.generation.clone());
        Box::pin(async move {
            let transport = TokioIo::new(dialing.await.map_err(Into::into)?);
            let stream = match destination {
                Some(destination) => connector.connect_to(destination, transport).await?,
                None => connector.connect(transport).await?,
            };
            Ok(HttpsStream {
                inner: TokioIo::new(stream),
                generation,
            })
        })
    }
}

/// What sessions are kept under.
fn destination(uri: &Uri) -> Option<ServerName<'static>> {
    let host = uri.host()?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    ServerName::try_from(host.to_owned()).ok()
}

/// A connection that [`HttpsConnector`] has made.
#[derive(Debug)]
pub struct HttpsStream<IO> {
    inner: TokioIo<TlsStream<TokioIo<IO>>>,
    generation: Generation,
}

impl<IO> HttpsStream<IO> {
    /// Who is at the other end.
    pub fn peer(&self) -> &Peer {
        self.inner.inner().peer()
    }

    /// Runs one poll, and tells the pool when the lease is over. The keeper wakes whoever waits to read at that moment,
    /// so the look is taken again once the task has been registered.
    fn watched<T>(&mut self, poll: impl FnOnce(&mut Self) -> T) -> T {
        let polled = poll(self);
        if self.peer().lease().is_winding_up() {
            self.generation.end();
        }
        polled
    }
}

impl<IO: Read + Write + Unpin> Read for HttpsStream<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        self.watched(|this| Pin::new(&mut this.inner).poll_read(context, buffer))
    }
}

impl<IO: Read + Write + Unpin> Write for HttpsStream<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.watched(|this| Pin::new(&mut this.inner).poll_write(context, bytes))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.watched(|this| Pin::new(&mut this.inner).poll_write_vectored(context, slices))
    }
}

impl<IO> Connection for HttpsStream<IO> {
    fn connected(&self) -> Connected {
        let connected = Connected::new().extra(self.peer().clone());
        match self.inner.inner().alpn_protocol() {
            Some(b"h2") => connected.negotiated_h2(),
            _ => connected,
        }
    }
}

/// Sends HTTP/1.1 and HTTP/2 requests, and keeps connections for the next ones; clones share everything.
///
/// Each response carries the [`Peer`] of its connection in its extensions. When the lease of a connection is over, its
/// pool takes no further request: the next one to that destination begins a new pool, with a handshake of its own. The
/// old pool dies with its last request, and what is still open when the grace is over is cut.
///
/// It is a tower service, so it also carries generated gRPC clients (`GreeterClient::with_origin`).
pub struct Client<B, C = HttpConnector> {
    shared: Arc<Shared<B, C>>,
}

struct Shared<B, C> {
    connector: HttpsConnector<C>,
    http: legacy::Builder,
    pools: Mutex<HashMap<Option<Authority>, Pool<B, C>>>,
}

/// The connections to one destination.
struct Pool<B, C> {
    generation: Generation,
    client: legacy::Client<HttpsConnector<C>, B>,
}

/// A response that will come.
pub type ResponseFuture = legacy::ResponseFuture;

impl<B> Client<B>
where
    B: Body + Send + 'static + Unpin,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    /// A client over TCP. Give [`ALPN`](super::ALPN) to the connector's configuration.
    pub fn new(connector: Connector) -> Self {
        Self::build(HttpsConnector::new(connector), |_| {})
    }
}

impl<B, C> Client<B, C>
where
    B: Body + Send + 'static + Unpin,
    B::Data: Send,
    B::Error: Into<BoxError>,
    C: Service<Uri> + Clone + Send + Sync + 'static,
    C::Response: Read + Write + Unpin + Send + 'static,
    C::Error: Into<BoxError>,
    C::Future: Send + 'static,
{
    /// A client over any transport, with settings of hyper-util's client. Timers are those of the connector's clock
    /// unless `set` changes them.
    pub fn build(connector: HttpsConnector<C>, set: impl FnOnce(&mut legacy::Builder)) -> Self {
        let mut http = legacy::Client::builder(TokioExecutor::new());
        http.timer(connector.timer()).pool_timer(connector.timer());
        set(&mut http);
        Self {
            shared: Arc::new(Shared {
                connector,
                http,
                pools: Mutex::default(),
            }),
        }
    }

    /// Sends a request whose URI names the destination.
    pub fn request(&self, request: Request<B>) -> ResponseFuture {
        self.pool(request.uri().authority()).request(request)
    }

    fn pool(&self, destination: Option<&Authority>) -> legacy::Client<HttpsConnector<C>, B> {
        let Shared {
            connector,
            http,
            pools,
        } = &*self.shared;
        let key = destination.cloned();
        let mut pools = pools.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pool) = pools.get(&key)
            && !pool.generation.is_over()
        {
            return pool.client.clone();
        }
        if pools.len() >= MAX_POOLS && !pools.contains_key(&key) {
            pools.clear();
        }
        let generation = Generation::default();
        let client = http.build(connector.clone().of(&generation));
        let pool = Pool {
            generation,
            client: client.clone(),
        };
        pools.insert(key, pool);
        client
    }
}

impl<B, C> Service<Request<B>> for Client<B, C>
where
    B: Body + Send + 'static + Unpin,
    B::Data: Send,
    B::Error: Into<BoxError>,
    C: Service<Uri> + Clone + Send + Sync + 'static,
    C::Response: Read + Write + Unpin + Send + 'static,
    C::Error: Into<BoxError>,
    C::Future: Send + 'static,
{
    type Response = Response<Incoming>;
    type Error = legacy::Error;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), legacy::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> ResponseFuture {
        self.request(request)
    }
}

impl<B, C> Clone for Client<B, C> {
    fn clone(&self) -> Self {
        Self {
            shared: self.shared.clone(),
        }
    }
}

impl<B, C> fmt::Debug for Client<B, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

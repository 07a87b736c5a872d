//! gRPC over SPIFFE mutual TLS, by tonic: feature `tonic`.
//!
//! **Server.** A generated service is a tower service, and so are tonic's `Routes` of several: give either to
//! [`hyper::Server`](crate::hyper::Server). [`peer`] tells who calls. tonic's own `Server` is not used: it knows one
//! signal for all connections. What it adds (concurrency limits, timeouts) is there as tower layers.
//!
//! **Client.** [`Channel`] stands where tonic's channel does: `GreeterClient::new(Channel::new(endpoint, connector))`.
//! Give `[b"h2"]` or [`hyper::ALPN`](crate::hyper::ALPN) to the connector's configuration.
//!
//! # How a connection ends
//!
//! On the server each connection whose lease is over gets GOAWAY and finishes its calls, as
//! [`hyper`](crate::hyper#how-a-connection-ends) says. On the client tonic's channel gives no handle to its connection,
//! so the whole channel is swapped: the next call goes over a new one, and the old one dies with its last call. On both
//! sides what is still open when the grace is over is cut, streams that never end among it.
//!
//! ```no_run
//! use spiffe_tls::tonic::{Channel, tonic::transport::Endpoint};
//! use spiffe_tls::{Mtls, Policy, Publisher};
//!
//! # fn example(source: Publisher) -> Result<(), Box<dyn std::error::Error>> {
//! let policy: Policy = "id:spiffe://example.org/greeter".parse()?;
//! let connector = Mtls::new(&source, policy).alpn([b"h2"]).connector()?;
//! let channel = Channel::new(Endpoint::from_static("https://greeter.internal:8443"), connector);
//! // let mut client = GreeterClient::new(channel);
//! # Ok(())
//! # }
//! ```

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use http::Uri;
use hyper::rt::{Read, Write};
use hyper_util::client::legacy::connect::HttpConnector;
use tonic::body::Body;
use tonic::transport::{self, Endpoint};
use tower_service::Service;

pub use tonic;

use crate::generation::Generation;
use crate::handshake::Connector;
use crate::hyper::{BoxError, HttpsConnector};
use crate::peer::Peer;

/// Who calls, where the service is served by [`hyper::Server`](crate::hyper::Server).
pub fn peer<T>(request: &tonic::Request<T>) -> Option<&Peer> {
    request.extensions().get()
}

/// A channel to one endpoint, over connections that keep a lease; clones share them.
///
/// It connects when it is first used, and again whenever its connection is gone. When the lease of its connection is
/// over, the next call goes over a new channel with a handshake of its own; the old one dies with its last call, and is
/// cut when the grace is over.
pub struct Channel<C = HttpConnector> {
    shared: Arc<Shared<C>>,
    current: Pool,
}

struct Shared<C> {
    endpoint: Endpoint,
    connector: HttpsConnector<C>,
    newest: Mutex<Pool>,
}

/// tonic's channel, and whether it may still be used.
#[derive(Clone)]
struct Pool {
    generation: Generation,
    channel: transport::Channel,
}

impl Channel {
    /// A channel over TCP. The endpoint's URI says where to dial; its own TLS settings are not used, and whatever its
    /// scheme there is TLS.
    pub fn new(endpoint: Endpoint, connector: Connector) -> Self {
        Self::over(endpoint, HttpsConnector::new(connector))
    }
}

impl<C> Channel<C>
where
    C: Service<Uri> + Clone + Send + 'static,
    C::Response: Read + Write + Unpin + Send + 'static,
    C::Error: Into<BoxError>,
    C::Future: Send + 'static,
{
    /// A channel over any transport.
    pub fn over(endpoint: Endpoint, connector: HttpsConnector<C>) -> Self {
        let first = pool(&endpoint, &connector);
        Self {
            shared: Arc::new(Shared {
                endpoint,
                connector,
                newest: Mutex::new(first.clone()),
            }),
            current: first,
        }
    }
}

fn pool<C>(endpoint: &Endpoint, connector: &HttpsConnector<C>) -> Pool
where
    C: Service<Uri> + Clone + Send + 'static,
    C::Response: Read + Write + Unpin + Send + 'static,
    C::Error: Into<BoxError>,
    C::Future: Send + 'static,
{
    let generation = Generation::default();
    let connector = connector.clone().of(&generation);
    Pool {
        channel: endpoint.connect_with_connector_lazy(connector),
        generation,
    }
}

impl<C> Shared<C>
where
    C: Service<Uri> + Clone + Send + 'static,
    C::Response: Read + Write + Unpin + Send + 'static,
    C::Error: Into<BoxError>,
    C::Future: Send + 'static,
{
    fn newest(&self) -> Pool {
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        if newest.generation.is_over() {
            *newest = pool(&self.endpoint, &self.connector);
        }
        newest.clone()
    }
}

impl<C> Service<http::Request<Body>> for Channel<C>
where
    C: Service<Uri> + Clone + Send + 'static,
    C::Response: Read + Write + Unpin + Send + 'static,
    C::Error: Into<BoxError>,
    C::Future: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = transport::Error;
    type Future = <transport::Channel as Service<http::Request<Body>>>::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), transport::Error>> {
        if self.current.generation.is_over() {
            self.current = self.shared.newest();
        }
        self.current.channel.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        self.current.channel.call(request)
    }
}

impl<C> Clone for Channel<C> {
    fn clone(&self) -> Self {
        Self {
            shared: self.shared.clone(),
            current: self.current.clone(),
        }
    }
}

impl<C> fmt::Debug for Channel<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel")
            .field("endpoint", &self.shared.endpoint)
            .finish_non_exhaustive()
    }
}

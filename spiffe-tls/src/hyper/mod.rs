//! HTTP/1.1 and HTTP/2 over SPIFFE mutual TLS, by hyper: feature `hyper`.
//!
//! [`Server`] serves any tower service, hence also an axum router or a tonic service, and puts the [`Peer`] of the
//! connection into each request's extensions. [`Client`] sends requests, keeps its connections in a pool for each
//! destination, and puts the peer into each response's extensions.
//!
//! # How a connection ends
//!
//! When its lease is over ([`Lease::over`]), and each side looks at its own lease:
//!
//! - **Server.** Each connection is shut down gracefully by itself: HTTP/2 sends GOAWAY, HTTP/1.1 answers what is under
//!   way with `connection: close`; an idle connection closes at once.
//! - **Client.** The pool that the connection is in takes no further request: it is replaced by an empty one when the
//!   next request to that destination comes, and dies with its last request. A pool that nobody asks again keeps its
//!   idle connections until they are cut.
//! - **Both.** What is still open when the grace is over is cut: reads and writes fail with [`LeaseOver`].
//!
//! Under [`LeaseRules::report`] nothing of this happens.
//!
//! ```no_run
//! use spiffe_tls::hyper::{ALPN, Client, Server, bytes::Bytes, http};
//! use spiffe_tls::{Mtls, Peer, Policy, Publisher};
//! # use std::convert::Infallible;
//!
//! # async fn example(source: Publisher, body: http_body_util::Empty<Bytes>) -> Result<(), Box<dyn std::error::Error>> {
//! let policy: Policy = "domain:example.org".parse()?;
//! let acceptor = Mtls::new(&source, policy.clone()).alpn(ALPN).acceptor()?;
//! let listener = acceptor.listen(tokio::net::TcpListener::bind("127.0.0.1:8443").await?);
//! let greet = tower::service_fn(|request: http::Request<_>| async move {
//!     let peer: Option<&Peer> = request.extensions().get();
//!     let greeting = peer.map_or_else(String::new, |peer| format!("hello, {}", peer.id()));
//!     Ok::<_, Infallible>(http::Response::new(greeting))
//! });
//! let served = tokio::spawn(Server::new(greet).serve(listener, std::future::pending()));
//!
//! let client = Client::new(Mtls::new(&source, policy).alpn(ALPN).connector()?);
//! let request = http::Request::get("https://127.0.0.1:8443/").body(body)?;
//! let response = client.request(request).await?;
//! assert!(response.extensions().get::<Peer>().is_some());
//! # Ok(())
//! # }
//! ```
//!
//! [`Peer`]: crate::Peer
//! [`Lease::over`]: crate::Lease::over
//! [`LeaseOver`]: crate::LeaseOver
//! [`LeaseRules::report`]: crate::LeaseRules::report

mod client;
mod server;
mod timer;

pub use bytes;
pub use http;
pub use http_body;
pub use hyper;
pub use hyper_util;

pub use client::{Client, HttpsConnector, HttpsStream, MAX_POOLS, ResponseFuture};
pub use server::Server;
pub use timer::ClockTimer;

/// HTTP/2 and HTTP/1.1, best first: what to give to [`Mtls::alpn`](crate::Mtls::alpn). Without it peers speak HTTP/1.1.
pub const ALPN: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// What services and transports may fail with.
pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;

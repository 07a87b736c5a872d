//! axum over SPIFFE mutual TLS: feature `axum`.
//!
//! [`Peer`] is an extractor, for handlers of a router that [`hyper::Server`](crate::hyper::Server) serves; `Option<Peer>`
//! too. axum's own `serve` is not used: it knows one signal for all connections.
//!
//! # How a connection ends
//!
//! Each by itself, when its lease is over: HTTP/2 sends GOAWAY, HTTP/1.1 answers what is under way with `connection:
//! close`, and what is still open when the grace is over is cut, WebSockets among it. See
//! [`hyper`](crate::hyper#how-a-connection-ends).
//!
//! ```ignore
//! async fn greet(peer: Peer) -> String {
//!     format!("hello, {}", peer.id())
//! }
//!
//! let router = axum::Router::new().route("/", axum::routing::get(greet));
//! spiffe_tls::hyper::Server::new(router).serve(listener, stop).await?;
//! ```

use std::convert::Infallible;

use axum_core::extract::{FromRequestParts, OptionalFromRequestParts};
use axum_core::response::{IntoResponse, Response};
use http::StatusCode;
use http::request::Parts;

use crate::peer::Peer;

/// A handler wanted a [`Peer`], and its router is not served by [`hyper::Server`](crate::hyper::Server). The caller is
/// answered 500, since the fault is this side's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the peer of the connection is not known: serve the router by spiffe_tls::hyper::Server")]
#[non_exhaustive]
pub struct NoPeer;

impl IntoResponse for NoPeer {
    fn into_response(self) -> Response {
        tracing::error!("{self}");
        StatusCode::INTERNAL_SERVER_ERROR.into_response()
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Peer {
    type Rejection = NoPeer;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, NoPeer> {
        parts.extensions.get().cloned().ok_or(NoPeer)
    }
}

impl<S: Send + Sync> OptionalFromRequestParts<S> for Peer {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>, Infallible> {
        Ok(parts.extensions.get().cloned())
    }
}

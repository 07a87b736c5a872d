//! rustls configurations that rotate by themselves, from any SPIFFE source.
//!
//! - A [`Source`] publishes revisions of SVIDs and bundles. Ready TLS material is derived from each revision before
//!   anybody sees it, so a rotation never meets a handshake without a usable identity.
//! - [`Mtls`] turns a source and an [`Authorizer`] into an [`Acceptor`], a [`Connector`], or plain rustls
//!   configurations. The authorizer is required; nothing defaults to "any". [`TlsClient`] and [`TlsServer`] are for one
//!   side with a SPIFFE ID, [`MtlsWebClient`] and [`MtlsWebServer`] for a server of the Web PKI.
//! - A connection knows its [`Peer`]: the verified SPIFFE ID and the revision it was judged under. It carries a
//!   [`Lease`] and ends when the trust behind it does: an SVID expires, a bundle goes, the [`Terms`] change.
//! - Sessions are resumed, and every resumed peer is judged again before its connection is handed out.
//!
//! ```no_run
//! use spiffe_tls::{Mtls, Policy, Publisher};
//!
//! # async fn server(source: Publisher) -> Result<(), Box<dyn std::error::Error>> {
//! let policy: Policy = "domain:example.org".parse()?;
//! let acceptor = Mtls::new(&source, policy).acceptor()?;
//! let mut listener = acceptor.listen(tokio::net::TcpListener::bind("127.0.0.1:8443").await?);
//! loop {
//!     match listener.accept().await? {
//!         Ok(stream) => println!("{} is here", stream.peer().id()),
//!         Err(refused) => eprintln!("{refused}"),
//!     }
//! }
//! # }
//! ```
//!
//! What this crate will not do: choose a process-wide cryptography provider, skip verification, or let a resumed session
//! go unjudged; plain rustls configurations resume none.
//!
//! # Features
//!
//! - `aws-lc-rs` (default): the default cryptography. Without it a provider must be given to [`Mtls::provider`].
//! - `hyper`: the module `hyper`, HTTP/1.1 and HTTP/2 servers and clients.
//! - `axum`: the module `axum`, the peer as an extractor; with `hyper`.
//! - `tonic`: the module `tonic`, gRPC channels and services; with `hyper`.
//! - `reqwest`: the module `reqwest`, HTTP clients; brings `rustls-platform-verifier`, which is not used.
//! - `quinn`: the module `quinn`, QUIC; brings AWS-LC.
//! - `bearer`: the module `bearer`, JWT-SVIDs as bearer tokens of HTTP requests.
#![forbid(unsafe_code)]

mod asked;
#[cfg(feature = "axum")]
pub mod axum;
#[cfg(feature = "bearer")]
pub mod bearer;
mod config;
pub mod danger;
mod digest;
mod error;
#[cfg(any(feature = "hyper", feature = "reqwest"))]
mod generation;
mod handshake;
mod hints;
#[cfg(feature = "hyper")]
pub mod hyper;
mod judge;
mod keeper;
mod lease;
mod listener;
mod making;
mod material;
pub mod modes;
mod namespace;
mod peer;
#[cfg(feature = "quinn")]
pub mod quinn;
#[cfg(feature = "reqwest")]
pub mod reqwest;
mod resolver;
mod scene;
mod sessions;
mod stream;
mod terms;
#[cfg(feature = "aws-lc-rs")]
mod tickets;
#[cfg(feature = "tonic")]
pub mod tonic;
mod verifier;

pub use asked::Asked;
pub use config::{
    ConfigError, DEFAULT_HANDSHAKE_TIMEOUT, Mtls, MtlsWebClient, MtlsWebServer, Tls, TlsClient,
    TlsServer,
};
pub use error::{HandshakeError, LeaseOver, PeerRefused, Refusal, RefusalReason};
pub use handshake::{Acceptor, Connector};
pub use hints::MAX_AUTHORITY_HINT_BYTES;
pub use judge::MAX_REMEMBERED_CHAINS;
pub use lease::{DEFAULT_GRACE, DEFAULT_SPREAD, Lease, LeaseEnd, LeaseRules, Shown};
pub use listener::{Listener, MAX_CONCURRENT_HANDSHAKES};
pub use peer::Peer;
pub use rustls;
pub use sessions::{MAX_DESTINATIONS, MAX_SESSIONS_PER_DESTINATION};
pub use spiffe_core;
pub use spiffe_core::{Authorizer, Policy, Publisher, Source};
pub use stream::TlsStream;
pub use terms::Terms;
#[cfg(feature = "aws-lc-rs")]
pub use tickets::{MAX_TICKETS_TRIED, TicketKeys};

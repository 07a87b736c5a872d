//! The node side of SPIFFE as a library: Workload API server and caller attestation.
//!
//! Three parts meet in a [`WorkloadApiServer`]: a [`WorkloadListener`](listener::WorkloadListener), whose connections say which process
//! opened them; a [`WorkloadAttestor`](attest::WorkloadAttestor), which says what is true of that process; and a
//! [`SvidAuthority`], which says who is entitled to what and issues it. The server makes the workloads' private keys, keeps one
//! X509-SVID per entry, replaces it in time, and tells every stream what concerns its caller and nothing else.
//!
//! ```no_run
//! use std::sync::Arc;
//!
//! use spiffe_agent::attest::UnixAttestor;
//! use spiffe_agent::listener::{ListenOptions, WorkloadListener};
//! use spiffe_agent::spiffe_core::{SystemClock, crypto};
//! use spiffe_agent::{SvidAuthority, WorkloadApiServer};
//!
//! /// Serves until `stop` resolves.
//! async fn serve(
//!     authority: Arc<dyn SvidAuthority>,
//!     stop: impl Future<Output = ()> + Send,
//! ) -> Result<(), Box<dyn std::error::Error>> {
//!     let clock = Arc::new(SystemClock::new());
//!     let listener = WorkloadListener::bind("/run/spiffe/api.sock", ListenOptions::new(), clock)?;
//!     let attestor = Arc::new(UnixAttestor::new());
//!     WorkloadApiServer::new(authority, attestor, crypto::aws_lc_rs())
//!         .serve(listener, stop)
//!         .await?;
//!     Ok(())
//! }
//! ```
//!
//! Answers to SPIFFE Workload API and SPIFFE Workload Endpoint. It does not issue, and does not keep anything on disk. WIT-SVIDs,
//! revocation lists and gRPC reflection are not implemented. It has no features.
#![forbid(unsafe_code)]

pub mod attest;
mod authority;
mod cache;
pub mod caller;
mod deliveries;
mod error;
mod hpack;
mod limits;
pub mod listener;
mod server;
pub mod stream;
mod svid_authority;
mod workload_api;

pub use deliveries::{Deliveries, Delivery};
pub use error::{AuthorityError, ServeError};
pub use limits::{
    DEFAULT_ATTESTATIONS, DEFAULT_REQUEST_BYTES, DEFAULT_REQUESTS, DEFAULT_REQUESTS_PER_CONNECTION,
    Limits,
};
pub use server::{DRAIN_TIMEOUT, WorkloadApiServer};
pub use svid_authority::{AuthorityState, SvidAuthority};
pub use {spiffe_core, spiffe_registration};

// Integration tests and unit tests share their fixtures, which name this crate as its users do.
#[cfg(test)]
extern crate self as spiffe_agent;
#[cfg(test)]
#[path = "../tests/support/mod.rs"]
mod support;

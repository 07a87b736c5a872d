//! SPIFFE Workload API client and the live sources built on it.
//!
//! A source follows the Workload API and always holds the workload's latest SVIDs and bundles; whatever is built on it
//! (TLS configurations, verification of tokens) rotates by itself. This crate re-exports what its users need beside it:
//! `spiffe_core` and, as [`tls`], `spiffe_tls`.
//!
//! ```no_run
//! use spiffe_workload_client::X509Source;
//! use spiffe_workload_client::spiffe_core::Source;
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! // Finds the endpoint through SPIFFE_ENDPOINT_SOCKET and waits for the first update.
//! let source = X509Source::new().await?;
//! println!("I am {}", source.svid()?.id());
//! # Ok(())
//! # }
//! ```
//!
//! [`X509Source`] is for mutual TLS, [`JwtSource`] for tokens, [`BundleSource`] for verifying without an identity,
//! [`FileSource`] for what other programs write to disk; [`WorkloadApiClient`] makes single requests and opens streams.
//! Each source says through `survives_until` how long it lasts without its endpoint.
//!
//! What this crate will not do: issue, keep anything on disk unasked, publish an update that breaks a rule, or fetch WIT-SVIDs.
//!
//! # Features
//!
//! - `aws-lc-rs` (default): the default cryptography. Without it, pass a
//!   [`CryptoProvider`](spiffe_core::crypto::CryptoProvider) to the builders.
//! - `blocking`: sources for programs without an async runtime.
//! - `prometheus`: `observe::PrometheusMetrics`.
//! - `delivery`: SVIDs, bundles and tokens as files for programs that know nothing of SPIFFE.
#![forbid(unsafe_code)]

#[cfg(feature = "blocking")]
pub mod blocking;
pub mod client;
#[cfg(feature = "delivery")]
pub mod delivery;
pub mod endpoint;
mod error;
pub mod observe;
pub mod source;
mod streams;
mod update;

pub use client::WorkloadApiClient;
pub use endpoint::{Endpoint, EndpointError};
pub use error::{ClientError, ResponseError};
pub use source::{BundleSource, FileSource, Files, JwtSource, StartError, X509Source};
pub use spiffe_core;
pub use spiffe_tls as tls;
pub use update::{
    JwtBundles, MAX_HINT_BYTES, MAX_SVIDS, MAX_TRUST_DOMAINS, Notice, X509Bundles, X509Context,
};

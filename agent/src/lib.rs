//! The node side of SPIFFE as a library: Workload API server and caller attestation.
#![forbid(unsafe_code)]

pub mod attest;
mod authority;
pub mod caller;
mod hpack;
pub mod listener;
pub mod stream;

//! The SPIFFE programs, and the local trust domain they run.
#![forbid(unsafe_code)]
pub mod local;

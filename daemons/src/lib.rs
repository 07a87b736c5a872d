//! The SPIFFE programs, and the local trust domain they run.
#![forbid(unsafe_code)]

pub mod batch;
pub mod local;
pub mod verdict;

//! SPIFFE Workload API client and the live sources built on it.
#![forbid(unsafe_code)]

pub mod endpoint;

pub use endpoint::{Endpoint, EndpointError};

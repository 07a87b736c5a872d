//! The client and the sources against a Workload API that the test plays, on a Unix socket and a virtual clock.
#![expect(
    clippy::unwrap_used,
    reason = "clippy exempts test functions, not what they call"
)]

#[cfg(feature = "blocking")]
mod blocking;
mod bundle_source;
mod client;
#[cfg(feature = "delivery")]
mod delivery;
mod events;
mod file_source;
mod hostile;
mod jwt_source;
mod outage;
mod shared;
mod support;
mod x509_source;

//! For tests: a trust domain in one call, a virtual clock, seeded randomness.
//!
//! - [`TrustDomain`] issues SVIDs and hands out sources for X.509 and JWT, without disk or network; sources rotate as the
//!   clock moves.
//! - [`VirtualClock`] moves only when every task waits, so that a month passes at once.
//! - [`SeededRandom`] makes the same run from the same seed.
//!
//! ```
//! use spiffe_core::Source;
//! use spiffe_testkit::TrustDomain;
//!
//! # tokio::runtime::Builder::new_current_thread().enable_time().build()?.block_on(async {
//! let (here, there) = (TrustDomain::ephemeral("a.example").await, TrustDomain::ephemeral("b.example").await);
//! let source = here.fixed_source("web", &[&there]).await;
//! assert_eq!(source.svid()?.id().as_str(), "spiffe://a.example/web");
//! assert_eq!(source.current().bundles().len(), 2);
//! # Ok::<(), Box<dyn std::error::Error>>(()) })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Use it by path, without a version, from `tests/`: it is made of every other crate, is not published, and has no
//! features. It will not do for anything but tests: its methods panic where a program would have to answer.
#![forbid(unsafe_code)]

mod clock;
mod random;
mod trust_domain;

pub use clock::VirtualClock;
pub use random::SeededRandom;
pub use trust_domain::{JwtSource, TrustDomain};

//! For tests: a trust domain in one call, a virtual clock, seeded randomness.
//!
//! Use it by path, without a version, from `tests/`: it is made of every other crate.
#![forbid(unsafe_code)]

mod clock;
mod random;
mod trust_domain;

pub use clock::VirtualClock;
pub use random::SeededRandom;
pub use trust_domain::TrustDomain;

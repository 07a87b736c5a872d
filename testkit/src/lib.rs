//! For tests: a trust domain in one call, a virtual clock, seeded randomness.
#![forbid(unsafe_code)]

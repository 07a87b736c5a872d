//! One test of rotation and revocation that every adapter must pass: nothing fails while anything rotates, and what
//! loses its trust finishes what is under way and is gone within the budget.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(unreachable_pub, reason = "modules of one test program")]

#[path = "../../../spiffe-tls/tests/support/mod.rs"]
mod support;

mod axum;
mod bare;
mod bearer;
mod grpc;
mod harness;
mod http;
mod quic;
mod reqwest;
mod unix;

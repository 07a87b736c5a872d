//! What the tests share: a fixed time, seeded randomness, and futures that are ready at once.
#![allow(
    clippy::unwrap_used,
    dead_code,
    unreachable_pub,
    reason = "every test file uses its own part of this"
)]

use std::future::Future;
use std::sync::{Arc, Mutex};

use futures_util::FutureExt;
use spiffe_core::crypto::{CryptoProvider, aws_lc_rs};
use spiffe_core::key::{KeyType, Signer};
use spiffe_core::{Random, RandomError, SpiffeId, Timestamp, TrustDomain};
use spiffe_svid_ca::{TrustDomainCa, TrustDomainCaBuilder, X509SvidParams};

/// 2027-01-15T08:00:00Z.
pub const NOW: Timestamp = Timestamp::from_unix_seconds(1_800_000_000);

/// Local keys sign at once, so no executor is needed.
#[track_caller]
pub fn ready<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("local keys sign at once")
}

pub fn trust_domain() -> TrustDomain {
    TrustDomain::parse("example.org").unwrap()
}

pub fn id(text: &str) -> SpiffeId {
    SpiffeId::parse(text).unwrap()
}

pub fn web() -> X509SvidParams {
    X509SvidParams::new(id("spiffe://example.org/web"))
}

pub fn builder() -> TrustDomainCaBuilder {
    TrustDomainCa::builder(trust_domain()).random(Arc::new(Counting::default()))
}

pub fn ca() -> TrustDomainCa {
    ready(builder().build(NOW)).unwrap()
}

pub fn crypto() -> Arc<dyn CryptoProvider> {
    aws_lc_rs()
}

pub fn key(kind: KeyType) -> Arc<dyn Signer> {
    let crypto = crypto();
    crypto
        .load_key(&crypto.generate_key(kind).unwrap())
        .unwrap()
}

/// Fills with 0xf1, 0xf2, ...: the same in every run, and with the first bit set.
#[derive(Debug, Default)]
pub struct Counting(Mutex<u8>);

impl Random for Counting {
    fn fill(&self, bytes: &mut [u8]) -> Result<(), RandomError> {
        let mut count = self.0.lock().unwrap();
        *count = count.wrapping_add(1);
        bytes.fill(0x80 | *count);
        Ok(())
    }
}

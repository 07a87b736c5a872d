//! SPIFFE IDs, bundles, SVIDs, verification, authorisation and explanations: values and rules, no I/O.
#![forbid(unsafe_code)]

mod id;
mod random;
mod rule;
mod time;

pub use id::{
    MAX_ID_BYTES, MAX_TRUST_DOMAIN_BYTES, SpiffeId, SpiffeIdError, SpiffeIdRef, TrustDomain,
    TrustDomainRef,
};
pub use random::{Random, RandomError};
pub use rule::Rule;
pub use rustls_pki_types as pki_types;
#[cfg(feature = "tokio")]
pub use time::SystemClock;
pub use time::{BoxFuture, Clock, Timestamp, TimestampError};

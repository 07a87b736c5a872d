//! SPIFFE IDs, bundles, SVIDs, verification, authorisation and explanations: values and rules, no I/O.
#![forbid(unsafe_code)]

mod authorize;
mod explain;
mod id;
mod random;
mod rule;
mod time;

#[cfg(feature = "svid")]
mod base64;
#[cfg(feature = "svid")]
pub mod bundle;
#[cfg(feature = "svid")]
pub mod crypto;
#[cfg(feature = "svid")]
mod json;
#[cfg(feature = "svid")]
pub mod key;
#[cfg(feature = "svid")]
pub mod snapshot;
#[cfg(feature = "svid")]
pub mod svid;
#[cfg(feature = "svid")]
pub mod verify;
#[cfg(feature = "svid")]
mod x509;

pub use authorize::{
    Authorizer, Denied, MAX_ALTERNATIVES, MAX_POLICY_BYTES, PeerFacts, Policy, PolicyError, danger,
};
#[cfg(feature = "svid")]
pub use bundle::{Bundle, BundleSet};
pub use explain::{Explanation, Outcome};
pub use id::{
    MAX_ID_BYTES, MAX_TRUST_DOMAIN_BYTES, SpiffeId, SpiffeIdError, SpiffeIdRef, TrustDomain,
    TrustDomainRef,
};
pub use random::{Random, RandomError};
pub use rule::Rule;
pub use rustls_pki_types as pki_types;
#[cfg(feature = "svid")]
pub use snapshot::{Publisher, Source, Watch};
#[cfg(feature = "svid")]
pub use svid::{JwtSvid, X509Svid};
#[cfg(feature = "tokio")]
pub use time::SystemClock;
pub use time::{BoxFuture, Clock, Timestamp, TimestampError};
#[cfg(feature = "svid")]
pub use verify::JwtVerifier;
#[cfg(feature = "svid")]
pub use x509::cert::CertificateError;

//! SPIFFE IDs, bundles, SVIDs, verification, authorisation and explanations: values and rules, no I/O.
//!
//! - A [`SpiffeId`] names a workload in a [`TrustDomain`]. A [`Policy`] says which IDs may do something; it is the
//!   [`Authorizer`] that most programs need, and where one is needed none is the default.
//! - A `Bundle` holds the authorities of one trust domain. Verification takes a chain or a token, a `BundleSet` and the
//!   time, picks the bundle of the peer's own trust domain, and returns a proven ID or the first [`Rule`] that is broken.
//!   The same code gives an [`Explanation`]: every rule that was tried, and the nearest thing that would have passed.
//! - A `Source` holds a workload's SVIDs and bundles as one revision. What is derived from a revision becomes visible
//!   together with it, or it never becomes visible.
//!
//! Names and policies need no feature:
//!
//! ```
//! use spiffe_core::{Authorizer, PeerFacts, Policy, Rule, SpiffeId, Timestamp};
//!
//! let id = SpiffeId::parse("spiffe://example.org/ns/prod/web")?;
//! assert_eq!(id.trust_domain().as_str(), "example.org");
//! assert_eq!(id.segments().last(), Some("web"));
//! let refused = SpiffeId::parse("spiffe://example.org/ns//web").unwrap_err();
//! assert_eq!(refused.rule(), Rule::IdEmptySegment);
//!
//! let policy: Policy = "prefix:spiffe://example.org/ns/prod/|id:spiffe://example.org/admin".parse()?;
//! assert!(policy.allows(id.as_ref()));
//!
//! let now = Timestamp::from_unix_seconds(1_800_000_000);
//! let test = SpiffeId::parse("spiffe://example.org/ns/test/web")?;
//! let denied = policy.authorize(&PeerFacts::new(test.as_ref(), now, now, 1)).unwrap_err();
//! assert_eq!(denied.rule(), Rule::NotAuthorized);
//! println!("{denied}; would pass: {:?}", denied.nearest);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Verification needs `svid`, and cryptography, here that of `aws-lc-rs`:
//!
#![cfg_attr(feature = "aws-lc-rs", doc = "```")]
#![cfg_attr(not(feature = "aws-lc-rs"), doc = "```ignore")]
//! use spiffe_core::bundle::X509Authorities;
//! use spiffe_core::crypto::aws_lc_rs;
//! use spiffe_core::verify::{PeerRole, X509Verifier};
//! use spiffe_core::{Bundle, BundleSet, Rule, Timestamp, TrustDomain};
//!
//! # use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, KeyUsagePurpose, SanType};
//! # let mut params = CertificateParams::default();
//! # params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
//! # params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
//! # let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
//! # let mut params = CertificateParams::default();
//! # params.subject_alt_names = vec![SanType::URI("spiffe://example.org/web".try_into()?)];
//! # params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
//! # let chain = [params.signed_by(&KeyPair::generate()?, &authority)?.der().clone()];
//! # let authority = authority.der().clone();
//! // One authority, and a peer's chain as it arrived, leaf first.
//! let bundle = Bundle::new(TrustDomain::parse("example.org")?)
//!     .with_x509_authorities(X509Authorities::from_certificates([authority]));
//! let bundles: BundleSet = [bundle].into_iter().collect();
//! let verifier = X509Verifier::new(&*aws_lc_rs());
//!
//! let now = Timestamp::from_unix_seconds(1_800_000_000);
//! let peer = verifier.verify(&chain, &bundles, now, PeerRole::Client)?;
//! assert_eq!(peer.id, "spiffe://example.org/web");
//!
//! // Nobody is trusted by an empty set; the explanation says which rules held until then.
//! let (verdict, explanation) = verifier.explain(&chain, &BundleSet::new(), now, PeerRole::Client);
//! assert_eq!(verdict.unwrap_err().rule(), Rule::TrustDomainUnknown);
//! println!("{explanation}");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! What this crate will not do: open a socket or a file, spawn a task, read a clock or draw randomness on its own, pool
//! the authorities of two trust domains, or allow anybody without being told so. Connections are `spiffe-tls`'s, the
//! Workload API `spiffe-workload-client`'s, issuing `spiffe-svid-ca`'s.
//!
//! # Features
//!
//! None is on by default.
//!
//! - `svid`: bundles, SVIDs, their verification, snapshots and sources.
//! - `aws-lc-rs`: with `svid`, AWS-LC as cryptography and the system's randomness.
//! - `serde`: the names as texts in other formats.
//! - `tokio`: `SystemClock`, the operating system's clock on tokio's timer.
#![forbid(unsafe_code)]

mod authorize;
mod explain;
mod id;
mod random;
mod rule;
pub mod schedule;
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

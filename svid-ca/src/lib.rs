//! The issuing side of a SPIFFE trust domain: authorities and their life, X.509- and JWT-SVID issuance, keys and journal.
//!
//! [`TrustDomainCa`] is a whole trust domain's signing side as one cheap handle: it issues, it holds the bundle, and
//! its authorities follow each other as [`TrustDomainCa::tick`] is called. [`InProcessSource`] holds one workload's
//! SVID from it, for a program that is its own CA. Below them, each usable alone: [`issuer::X509Issuer`] and
//! [`jwt::JwtIssuer`] sign under one authority, [`authority::State`] is the life cycle as a pure function,
//! [`keys::KeyManager`] keeps private keys, [`state::StateDir`] what must survive a restart,
//! [`log::IssuanceLog`] what was signed, and an
//! [`upstream::UpstreamAuthority`] certifies authorities that are not their own root.
//!
//! ```
//! # use futures_util::FutureExt;
//! # async {
//! use spiffe_core::{SpiffeId, Timestamp, TrustDomain};
//! use spiffe_core::key::KeyType;
//! use spiffe_svid_ca::{TrustDomainCa, X509SvidParams};
//!
//! let now = Timestamp::from_unix_seconds(1_800_000_000);
//! let ca = TrustDomainCa::builder(TrustDomain::parse("example.org")?).build(now).await?;
//! let params = X509SvidParams::new(SpiffeId::parse("spiffe://example.org/web")?);
//! let svid = ca.issue_x509_svid(&params, KeyType::EcP256, now).await?;
//! assert_eq!(svid.id(), "spiffe://example.org/web");
//! assert_eq!(ca.bundle().x509_authorities().len(), 1);
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! # }.now_or_never().transpose()?;
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! ```
//!
//! Nothing here reads a clock, draws randomness of its own or speaks a protocol: `now` and a
//! [`Random`](spiffe_core::Random) are arguments, and gRPC lies elsewhere.
//!
//! Features:
//! - `aws-lc-rs` (default): AWS-LC as the default cryptography and randomness.
//! - `pkcs11`: authorities' keys in a PKCS#11 token, an HSM or SoftHSM.
#![forbid(unsafe_code)]

pub mod authority;
mod ca;
mod certificate;
pub mod csr;
mod der;
pub mod error;
pub mod issuer;
pub mod jwt;
pub mod keys;
pub mod log;
mod name;
pub mod params;
mod profile;
mod public_key;
mod source;
pub mod state;
pub mod storage;
pub mod upstream;

pub use ca::{
    DEFAULT_LONGEST_STOP, Event, MAX_STEP_BACK, MIN_AUTHORITY_LIFETIME, TrustDomainCa,
    TrustDomainCaBuilder,
};
pub use csr::Csr;
pub use error::{CaError, IssueError};
pub use issuer::{IssuedIntermediate, IssuedX509};
pub use jwt::IssuedJwt;
pub use name::{DistinguishedName, MAX_NAME_ATTRIBUTE_CHARS};
pub use params::{DnsName, IntermediateParams, JwtSvidParams, X509SvidParams};
pub use profile::Profile;
pub use public_key::{KeyPolicy, PublicKeyKind};
pub use source::InProcessSource;
pub use spiffe_core;
pub use spiffe_core::schedule;
pub use state::StateDir;

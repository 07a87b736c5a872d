//! Verification: from bytes of a peer to a SPIFFE ID, or to the first rule that is broken.

mod algorithms;
mod cache;
mod error;
mod issuers;
mod jwt;
mod leaf;
mod revocation;
mod x509;

pub use cache::{DEFAULT_CACHED_ISSUERS, IssuerCache};
pub use error::{Holder, X509Error};
pub use jwt::{DEFAULT_JWT_LEEWAY, JwtVerifier, LeewayError, MAX_JWT_KEYS_TRIED, MAX_JWT_LEEWAY};
pub(crate) use leaf::Leaf;
pub use leaf::LeafError;
pub use revocation::{MAX_REVOCATION_LIST_BYTES, MAX_REVOCATION_LISTS, Revocations};
pub use x509::{
    MAX_CERTIFICATE_BYTES, MAX_CERTIFICATES, MAX_INTERMEDIATES, MAX_SIGNATURE_CHECKS, PeerRole,
    VerifiedX509, X509Limits, X509Verifier,
};

pub use crate::x509::names::{MAX_NAME_COMPARISONS, NameConstraintError};

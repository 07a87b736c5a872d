//! Verification: from bytes of a peer to a SPIFFE ID, or to the first rule that is broken.

mod jwt;
mod leaf;
mod x509;

pub use jwt::{DEFAULT_JWT_LEEWAY, JwtVerifier, LeewayError, MAX_JWT_KEYS_TRIED, MAX_JWT_LEEWAY};
pub(crate) use leaf::Leaf;
pub use leaf::LeafError;
pub use x509::{
    Holder, MAX_CERTIFICATES, MAX_INTERMEDIATES, PeerRole, VerifiedX509, X509Error, X509Limits,
    X509Verifier,
};

//! SVIDs: documents that prove a SPIFFE ID.

mod chain;
mod jwt;
mod x509;

pub use chain::X509Chain;
pub use jwt::{BearerError, ClaimsError, JwtError, JwtSvid, MAX_TOKEN_BYTES, bearer_token};
pub(crate) use jwt::{Claims, JwsAlgorithm, Shape, Token};
pub use x509::{Backing, MAX_CHAIN_BYTES, MAX_CHAIN_CERTIFICATES, SvidError, X509Svid};

//! SVIDs: documents that prove a SPIFFE ID.

mod x509;

pub use x509::{MAX_CHAIN_BYTES, MAX_CHAIN_CERTIFICATES, SvidError, X509Svid};

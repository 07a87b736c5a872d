//! Verification: from bytes of a peer to a SPIFFE ID, or to the first rule that is broken.

mod leaf;

pub(crate) use leaf::Leaf;
pub use leaf::LeafError;

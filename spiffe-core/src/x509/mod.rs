//! Certificates as bytes: a strict reader of DER and of the parts of a certificate that SPIFFE judges.

pub(crate) mod cert;
pub(crate) mod der;
pub(crate) mod names;
pub(crate) mod profile;

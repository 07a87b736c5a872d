//! Why a text is no SPIFFE ID or trust domain name.

use super::{MAX_ID_BYTES, MAX_TRUST_DOMAIN_BYTES};
use crate::Rule;

/// Why a text is no SPIFFE ID or trust domain name; positions count bytes from the start of the text, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SpiffeIdError {
    /// A path segment is `.` or `..`.
    #[error("path segment at byte {at} is a dot segment; write the path without '.' and '..'")]
    DotSegment {
        /// Where the segment begins.
        at: usize,
    },
    /// Two slashes follow each other.
    #[error("path has an empty segment at byte {at}")]
    EmptySegment {
        /// Where the segment would begin.
        at: usize,
    },
    /// No trust domain is named.
    #[error("the trust domain is missing")]
    EmptyTrustDomain,
    /// A byte that no path may hold.
    #[error("byte {} at {at} is not allowed in a path; letters, digits, '.', '-' and '_' are", Byte(*.byte))]
    PathByte {
        /// The byte.
        byte: u8,
        /// Its position.
        at: usize,
    },
    /// The text does not begin with `spiffe://`.
    #[error("the scheme is not 'spiffe://', in lower case")]
    Scheme,
    /// More than [`MAX_ID_BYTES`].
    #[error("the ID has {bytes} bytes; {MAX_ID_BYTES} is the limit")]
    TooLong {
        /// How many it has.
        bytes: usize,
    },
    /// The path ends in a slash.
    #[error("the path ends in a slash at byte {at}")]
    TrailingSlash {
        /// Where the slash is.
        at: usize,
    },
    /// A byte that no trust domain name may hold.
    #[error(
        "byte {} at {at} is not allowed in a trust domain name; lower-case letters, digits, '.', '-' and '_' are",
        Byte(*.byte)
    )]
    TrustDomainByte {
        /// The byte.
        byte: u8,
        /// Its position.
        at: usize,
    },
    /// More than [`MAX_TRUST_DOMAIN_BYTES`].
    #[error("the trust domain name has {bytes} bytes; {MAX_TRUST_DOMAIN_BYTES} is the limit")]
    TrustDomainTooLong {
        /// How many it has.
        bytes: usize,
    },
}

impl SpiffeIdError {
    /// The rule that was broken.
    pub const fn rule(&self) -> Rule {
        match self {
            Self::DotSegment { .. } => Rule::IdDotSegment,
            Self::EmptySegment { .. } => Rule::IdEmptySegment,
            Self::EmptyTrustDomain => Rule::IdTrustDomainMissing,
            Self::PathByte { .. } => Rule::IdPathByte,
            Self::Scheme => Rule::IdScheme,
            Self::TooLong { .. } => Rule::IdTooLong,
            Self::TrailingSlash { .. } => Rule::IdTrailingSlash,
            Self::TrustDomainByte { .. } => Rule::IdTrustDomainByte,
            Self::TrustDomainTooLong { .. } => Rule::IdTrustDomainTooLong,
        }
    }
}

/// A byte as people read it: printable ASCII quoted, the rest in hexadecimal.
struct Byte(u8);

impl std::fmt::Display for Byte {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            printable @ 0x21..=0x7e => write!(f, "'{}'", printable as char),
            other => write!(f, "0x{other:02x}"),
        }
    }
}

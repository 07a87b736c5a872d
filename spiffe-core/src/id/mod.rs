//! SPIFFE IDs: `spiffe://<trust domain>[/<path>]`, owned and borrowed.
//!
//! Answers to SPIFFE-ID §2. Parsing is strict: one spelling for each ID, so equality is byte equality.
//! The lenient parser for configuration input is [`SpiffeId::parse_normalizing`]; nothing else normalises.

mod error;
mod path;
mod scan;
mod trust_domain;

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

pub use error::SpiffeIdError;
pub use trust_domain::{TrustDomain, TrustDomainRef};

/// The most bytes an ID may have, scheme included: SPIFFE-ID §2.3.
pub const MAX_ID_BYTES: usize = 2048;

/// The most bytes a trust domain name may have: SPIFFE-ID §2.3.
pub const MAX_TRUST_DOMAIN_BYTES: usize = 255;

pub(crate) const SCHEME: &str = "spiffe://";

/// A SPIFFE ID that borrows its text; parsing allocates nothing.
///
/// ```
/// use spiffe_core::SpiffeIdRef;
///
/// const WEB: SpiffeIdRef<'static> = SpiffeIdRef::literal("spiffe://example.org/web");
/// assert_eq!(WEB.trust_domain().as_str(), "example.org");
/// assert_eq!(WEB.path(), "/web");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpiffeIdRef<'a> {
    text: &'a str,
}

impl<'a> SpiffeIdRef<'a> {
    /// Parses the exact text of an ID: SPIFFE-ID §2.
    ///
    /// # Errors
    ///
    /// The first rule broken, with the byte and its position where one byte is to blame.
    pub const fn parse(text: &'a str) -> Result<Self, SpiffeIdError> {
        match scan::id(text.as_bytes()) {
            Ok(_) => Ok(Self { text }),
            Err(error) => Err(error),
        }
    }

    /// Parses bytes that need not be UTF-8, such as a certificate's name; every byte outside ASCII is refused.
    ///
    /// # Errors
    ///
    /// As [`Self::parse`].
    pub const fn parse_bytes(text: &'a [u8]) -> Result<Self, SpiffeIdError> {
        match scan::id(text) {
            Ok(_) => match std::str::from_utf8(text) {
                Ok(text) => Ok(Self { text }),
                // The scanner accepts ASCII only.
                Err(_) => Err(SpiffeIdError::Scheme),
            },
            Err(error) => Err(error),
        }
    }

    /// An ID written in the source; made for `const`.
    ///
    /// # Panics
    ///
    /// When `text` is no SPIFFE ID; in a `const` that is a compile error.
    pub const fn literal(text: &'a str) -> Self {
        match Self::parse(text) {
            Ok(id) => id,
            Err(_) => panic!("not a SPIFFE ID"),
        }
    }

    /// The whole ID, as it was parsed.
    pub const fn as_str(&self) -> &'a str {
        self.text
    }

    /// The trust domain this ID belongs to.
    pub fn trust_domain(&self) -> TrustDomainRef<'a> {
        TrustDomainRef::trusted(&self.text[SCHEME.len()..self.trust_domain_end()])
    }

    /// The path with its leading slash; empty for a trust domain's own ID.
    pub fn path(&self) -> &'a str {
        &self.text[self.trust_domain_end()..]
    }

    /// The path's segments, without slashes.
    pub fn segments(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        self.path().split('/').skip(1)
    }

    /// Whether this ID belongs to `trust_domain`.
    pub fn is_member_of(&self, trust_domain: TrustDomainRef<'_>) -> bool {
        self.trust_domain() == trust_domain
    }

    /// An owned copy.
    pub fn to_owned(&self) -> SpiffeId {
        SpiffeId {
            text: Arc::from(self.text),
        }
    }

    fn trust_domain_end(&self) -> usize {
        let name = &self.text.as_bytes()[SCHEME.len()..];
        SCHEME.len()
            + name
                .iter()
                .position(|byte| *byte == b'/')
                .unwrap_or(name.len())
    }
}

impl fmt::Display for SpiffeIdRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text)
    }
}

impl fmt::Debug for SpiffeIdRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.text, f)
    }
}

/// A SPIFFE ID that owns its text; clones share it.
///
/// ```
/// use spiffe_core::SpiffeId;
///
/// let id: SpiffeId = "spiffe://example.org/ns/prod/web".parse()?;
/// assert_eq!(id.path(), "/ns/prod/web");
/// assert_eq!(id.segments().last(), Some("web"));
/// # Ok::<(), spiffe_core::SpiffeIdError>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpiffeId {
    text: Arc<str>,
}

impl SpiffeId {
    /// Parses the exact text of an ID: SPIFFE-ID §2.
    ///
    /// # Errors
    ///
    /// As [`SpiffeIdRef::parse`].
    pub fn parse(text: &str) -> Result<Self, SpiffeIdError> {
        Ok(SpiffeIdRef::parse(text)?.to_owned())
    }

    /// Parses configuration input, folding scheme and trust domain to lower case first.
    ///
    /// SPIFFE-ID §2.4 compares both without regard to case while §2.1 demands lower case; this parser is for text
    /// that people write. Never use it on a certificate's name or a token's subject.
    ///
    /// # Errors
    ///
    /// As [`SpiffeIdRef::parse`], about the folded text.
    pub fn parse_normalizing(text: &str) -> Result<Self, SpiffeIdError> {
        let authority = text.find("://").map_or(0, |colon| colon + 3);
        let path = text[authority..]
            .find('/')
            .map_or(text.len(), |slash| authority + slash);
        let mut folded = text[..path].to_ascii_lowercase();
        folded.push_str(&text[path..]);
        Self::parse(&folded)
    }

    /// Joins a trust domain and path segments; no segments give the trust domain's own ID.
    ///
    /// # Errors
    ///
    /// A segment that is empty, `.`, `..`, holds a byte outside `A-Z a-z 0-9 . - _`, or a result over
    /// [`MAX_ID_BYTES`]. Positions count from the start of the joined ID.
    pub fn from_segments<'s>(
        trust_domain: TrustDomainRef<'_>,
        segments: impl IntoIterator<Item = &'s str>,
    ) -> Result<Self, SpiffeIdError> {
        let text = path::join(format!("{SCHEME}{trust_domain}"), segments)?;
        Self::parse(&text)
    }

    /// This ID with more path segments behind it.
    ///
    /// # Errors
    ///
    /// As [`Self::from_segments`].
    pub fn join<'s>(
        &self,
        segments: impl IntoIterator<Item = &'s str>,
    ) -> Result<Self, SpiffeIdError> {
        Self::parse(&path::join(self.text.to_string(), segments)?)
    }

    /// The same ID, borrowed.
    pub fn as_ref(&self) -> SpiffeIdRef<'_> {
        SpiffeIdRef { text: &self.text }
    }

    /// The whole ID.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The trust domain this ID belongs to.
    pub fn trust_domain(&self) -> TrustDomainRef<'_> {
        self.as_ref().trust_domain()
    }

    /// The path with its leading slash; empty for a trust domain's own ID.
    pub fn path(&self) -> &str {
        self.as_ref().path()
    }

    /// The path's segments, without slashes.
    pub fn segments(&self) -> impl Iterator<Item = &str> {
        self.as_ref().segments()
    }

    /// Whether this ID belongs to `trust_domain`.
    pub fn is_member_of(&self, trust_domain: TrustDomainRef<'_>) -> bool {
        self.as_ref().is_member_of(trust_domain)
    }
}

impl FromStr for SpiffeId {
    type Err = SpiffeIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl TryFrom<&str> for SpiffeId {
    type Error = SpiffeIdError;

    fn try_from(text: &str) -> Result<Self, Self::Error> {
        Self::parse(text)
    }
}

impl From<SpiffeIdRef<'_>> for SpiffeId {
    fn from(id: SpiffeIdRef<'_>) -> Self {
        id.to_owned()
    }
}

impl From<&TrustDomain> for SpiffeId {
    fn from(trust_domain: &TrustDomain) -> Self {
        trust_domain.id()
    }
}

impl Borrow<str> for SpiffeId {
    fn borrow(&self) -> &str {
        &self.text
    }
}

impl AsRef<str> for SpiffeId {
    fn as_ref(&self) -> &str {
        &self.text
    }
}

impl PartialEq<SpiffeIdRef<'_>> for SpiffeId {
    fn eq(&self, other: &SpiffeIdRef<'_>) -> bool {
        *self.text == *other.text
    }
}

impl PartialEq<SpiffeId> for SpiffeIdRef<'_> {
    fn eq(&self, other: &SpiffeId) -> bool {
        *self.text == *other.text
    }
}

impl PartialEq<str> for SpiffeId {
    fn eq(&self, other: &str) -> bool {
        *self.text == *other
    }
}

impl PartialEq<&str> for SpiffeId {
    fn eq(&self, other: &&str) -> bool {
        *self.text == **other
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.text, f)
    }
}

#[cfg(feature = "serde")]
mod serde_impls {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    use super::{SpiffeId, SpiffeIdRef, TrustDomain, TrustDomainRef};

    /// A name is its text, and no other text is one.
    macro_rules! as_text {
        ($owned:ty, $borrowed:ty) => {
            impl Serialize for $borrowed {
                fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                    serializer.serialize_str(self.as_str())
                }
            }

            impl Serialize for $owned {
                fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                    serializer.serialize_str(self.as_str())
                }
            }

            impl<'de> Deserialize<'de> for $owned {
                fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                    let text = String::deserialize(deserializer)?;
                    Self::parse(&text).map_err(D::Error::custom)
                }
            }
        };
    }

    as_text!(SpiffeId, SpiffeIdRef<'_>);
    as_text!(TrustDomain, TrustDomainRef<'_>);
}

#[cfg(test)]
mod tests;

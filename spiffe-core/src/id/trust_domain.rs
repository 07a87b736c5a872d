//! Trust domain names, owned and borrowed.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::{SCHEME, SpiffeId, SpiffeIdError, SpiffeIdRef, scan};

/// A trust domain name that borrows its text: SPIFFE-ID §2.1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrustDomainRef<'a> {
    name: &'a str,
}

impl<'a> TrustDomainRef<'a> {
    /// Parses a bare name such as `example.org`.
    ///
    /// # Errors
    ///
    /// The first rule broken, with the byte and its position where one byte is to blame.
    pub const fn parse(name: &'a str) -> Result<Self, SpiffeIdError> {
        match scan::trust_domain(name.as_bytes()) {
            Ok(()) => Ok(Self { name }),
            Err(error) => Err(error),
        }
    }

    /// Parses bytes that need not be UTF-8; every byte outside ASCII is refused.
    ///
    /// # Errors
    ///
    /// As [`Self::parse`].
    pub const fn parse_bytes(name: &'a [u8]) -> Result<Self, SpiffeIdError> {
        match scan::trust_domain(name) {
            Ok(()) => match std::str::from_utf8(name) {
                Ok(name) => Ok(Self { name }),
                // The scanner accepts ASCII only.
                Err(_) => Err(SpiffeIdError::EmptyTrustDomain),
            },
            Err(error) => Err(error),
        }
    }

    /// A name written in the source; made for `const`.
    ///
    /// # Panics
    ///
    /// When `name` is no trust domain name; in a `const` that is a compile error.
    pub const fn literal(name: &'a str) -> Self {
        match Self::parse(name) {
            Ok(name) => name,
            Err(_) => panic!("not a trust domain name"),
        }
    }

    /// The bare name.
    pub const fn as_str(&self) -> &'a str {
        self.name
    }

    /// The trust domain's own SPIFFE ID, `spiffe://<name>`.
    pub fn id(&self) -> SpiffeId {
        SpiffeId {
            text: format!("{SCHEME}{}", self.name).into(),
        }
    }

    /// An owned copy.
    pub fn to_owned(&self) -> TrustDomain {
        TrustDomain {
            name: Arc::from(self.name),
        }
    }

    /// A name that is part of a checked ID.
    pub(super) const fn trusted(name: &'a str) -> Self {
        Self { name }
    }
}

impl fmt::Display for TrustDomainRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl fmt::Debug for TrustDomainRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.name, f)
    }
}

/// A trust domain name that owns its text; clones share it.
///
/// ```
/// use spiffe_core::TrustDomain;
///
/// let domain: TrustDomain = "example.org".parse()?;
/// assert_eq!(domain.id().as_str(), "spiffe://example.org");
/// # Ok::<(), spiffe_core::SpiffeIdError>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrustDomain {
    name: Arc<str>,
}

impl TrustDomain {
    /// Parses a bare name such as `example.org`.
    ///
    /// # Errors
    ///
    /// As [`TrustDomainRef::parse`].
    pub fn parse(name: &str) -> Result<Self, SpiffeIdError> {
        Ok(TrustDomainRef::parse(name)?.to_owned())
    }

    /// Parses a name, or an ID whose trust domain is meant; bytes need not be UTF-8.
    ///
    /// # Errors
    ///
    /// As [`TrustDomainRef::parse`] for a name, as [`SpiffeIdRef::parse`] for a text that holds `:/`.
    pub fn from_name_or_id(text: impl AsRef<[u8]>) -> Result<Self, SpiffeIdError> {
        let text = text.as_ref();
        if text.windows(2).any(|pair| pair == b":/") {
            return Ok(SpiffeIdRef::parse_bytes(text)?.trust_domain().to_owned());
        }
        Ok(TrustDomainRef::parse_bytes(text)?.to_owned())
    }

    /// The same name, borrowed.
    pub fn as_ref(&self) -> TrustDomainRef<'_> {
        TrustDomainRef::trusted(&self.name)
    }

    /// The bare name.
    pub fn as_str(&self) -> &str {
        &self.name
    }

    /// The trust domain's own SPIFFE ID, `spiffe://<name>`.
    pub fn id(&self) -> SpiffeId {
        self.as_ref().id()
    }
}

impl FromStr for TrustDomain {
    type Err = SpiffeIdError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::parse(name)
    }
}

impl TryFrom<&str> for TrustDomain {
    type Error = SpiffeIdError;

    fn try_from(name: &str) -> Result<Self, Self::Error> {
        Self::parse(name)
    }
}

impl From<TrustDomainRef<'_>> for TrustDomain {
    fn from(name: TrustDomainRef<'_>) -> Self {
        name.to_owned()
    }
}

impl Borrow<str> for TrustDomain {
    fn borrow(&self) -> &str {
        &self.name
    }
}

impl AsRef<str> for TrustDomain {
    fn as_ref(&self) -> &str {
        &self.name
    }
}

impl PartialEq<TrustDomainRef<'_>> for TrustDomain {
    fn eq(&self, other: &TrustDomainRef<'_>) -> bool {
        *self.name == *other.name
    }
}

impl PartialEq<TrustDomain> for TrustDomainRef<'_> {
    fn eq(&self, other: &TrustDomain) -> bool {
        *self.name == *other.name
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl fmt::Debug for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.name, f)
    }
}

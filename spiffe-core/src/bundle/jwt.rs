//! JWT authorities: the public keys that JWT-SVIDs of one trust domain are verified with.
//!
//! Answers to JWT-SVID §6.

use std::fmt;
use std::ops::Range;

use rustls_pki_types::SubjectPublicKeyInfoDer;

use super::Ignored;
use super::check::ParsedForms;
use super::jwks::{KeyKind, PublicKey};
use crate::svid::JwsAlgorithm;

/// One public key with its key ID.
#[derive(Clone, PartialEq, Eq)]
pub struct JwtAuthority {
    key_id: String,
    public_key: SubjectPublicKeyInfoDer<'static>,
    kind: KeyKind,
    /// Where in `public_key` the subjectPublicKey lies.
    bits: Range<usize>,
    algorithm: Option<String>,
    tainted: bool,
    forms: ParsedForms,
}

impl fmt::Debug for JwtAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JwtAuthority")
            .field("key_id", &self.key_id)
            .field("kind", &self.kind)
            .field("tainted", &self.tainted)
            .finish_non_exhaustive()
    }
}

impl JwtAuthority {
    /// A key under its ID.
    ///
    /// `None` if the ID is empty (JWT-SVID §6.1) or the key is not one that a JWT-SVID algorithm uses: P-256, P-384,
    /// P-521, or RSA of 2048 to 8192 bits.
    pub fn new(
        key_id: impl Into<String>,
        public_key: SubjectPublicKeyInfoDer<'static>,
    ) -> Option<Self> {
        let key_id = key_id.into();
        if key_id.is_empty() {
            return None;
        }
        let key = PublicKey::from_spki(&public_key)?;
        let kind = key.kind();
        if kind == KeyKind::Ed25519 {
            return None;
        }
        // The subjectPublicKey is the last thing in the structure.
        let bits = public_key.len() - key.bits().len()..public_key.len();
        Some(Self {
            key_id,
            public_key,
            kind,
            bits,
            algorithm: None,
            tainted: false,
            forms: ParsedForms::default(),
        })
    }

    /// The same key, for one algorithm only, by its JWS name (`alg` of a JWK: RFC 7517 §4.4). One that does not fit the
    /// key makes it verify nothing; the only one that a curve has restricts nothing and is not kept.
    #[must_use]
    pub fn for_algorithm(mut self, algorithm: impl Into<String>) -> Self {
        let algorithm = algorithm.into();
        let mut fitting = JwsAlgorithm::ALL
            .iter()
            .filter(|one| one.key_kind() == self.kind);
        let only = fitting.next().filter(|_| fitting.next().is_none());
        self.algorithm = Some(algorithm).filter(|name| only.is_none_or(|only| only.name() != name));
        self
    }

    /// The same key, marked as no longer to be used for new SVIDs.
    #[must_use]
    pub fn into_tainted(mut self) -> Self {
        self.tainted = true;
        self
    }

    /// The key ID, never empty.
    pub fn key_id(&self) -> &str {
        &self.key_id
    }

    /// The key as SubjectPublicKeyInfo in DER.
    pub fn public_key(&self) -> &SubjectPublicKeyInfoDer<'static> {
        &self.public_key
    }

    /// What kind of key it is.
    pub(crate) fn kind(&self) -> KeyKind {
        self.kind
    }

    /// The subjectPublicKey, as signature algorithms take it.
    pub(crate) fn key_bits(&self) -> &[u8] {
        &self.public_key[self.bits.clone()]
    }

    /// The key with its numbers.
    pub(crate) fn key(&self) -> PublicKey<'_> {
        PublicKey::trusted(self.kind, self.key_bits()).with_forms(&self.forms)
    }

    /// The one algorithm that the key is restricted to, where its document says so.
    pub fn algorithm(&self) -> Option<&str> {
        self.algorithm.as_deref()
    }

    /// Whether what it signed is to be replaced.
    pub fn is_tainted(&self) -> bool {
        self.tainted
    }
}

/// The JWT authorities of one trust domain, each under its own key ID.
#[derive(Clone, Debug, Default)]
pub struct JwtAuthorities {
    authorities: Vec<JwtAuthority>,
    ignored: Vec<Ignored>,
}

impl JwtAuthorities {
    /// What a document's parser found: usable keys, and what it left out.
    pub(crate) fn new(authorities: Vec<JwtAuthority>, ignored: Vec<Ignored>) -> Self {
        Self {
            authorities,
            ignored,
        }
    }

    /// The keys, in the document's order.
    pub fn iter(&self) -> std::slice::Iter<'_, JwtAuthority> {
        self.authorities.iter()
    }

    /// The key with this ID; key IDs are compared byte by byte.
    pub fn find(&self, key_id: &str) -> Option<&JwtAuthority> {
        self.iter().find(|authority| authority.key_id == key_id)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.authorities.len()
    }

    /// Whether there is none: then every JWT-SVID of the trust domain is refused.
    pub fn is_empty(&self) -> bool {
        self.authorities.is_empty()
    }

    /// The entries that were left out, and why.
    pub fn ignored(&self) -> &[Ignored] {
        &self.ignored
    }

    /// Adds entries that were left out for what they are of no kind.
    pub(crate) fn report(&mut self, ignored: Vec<Ignored>) {
        self.ignored.extend(ignored);
        self.ignored.sort_by_key(|entry| entry.index);
    }

    /// Whether both hold the same keys in whatever order.
    pub(crate) fn same(&self, other: &Self) -> bool {
        self.len() == other.len()
            && self
                .iter()
                .all(|authority| other.find(&authority.key_id) == Some(authority))
    }
}

impl FromIterator<JwtAuthority> for JwtAuthorities {
    /// Of several keys under one ID the last stays.
    fn from_iter<T: IntoIterator<Item = JwtAuthority>>(authorities: T) -> Self {
        let mut all = Self::default();
        for authority in authorities {
            all.authorities
                .retain(|known| known.key_id != authority.key_id);
            all.authorities.push(authority);
        }
        all
    }
}

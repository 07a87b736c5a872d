//! JWT authorities: the public keys that JWT-SVIDs of one trust domain are verified with.
//!
//! Answers to JWT-SVID §6.

use rustls_pki_types::SubjectPublicKeyInfoDer;

use super::Ignored;

/// One public key with its key ID.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwtAuthority {
    key_id: String,
    public_key: SubjectPublicKeyInfoDer<'static>,
    algorithm: Option<String>,
    tainted: bool,
}

impl JwtAuthority {
    /// A key under its ID, which must not be empty; `None` if it is (JWT-SVID §6.1).
    pub fn new(
        key_id: impl Into<String>,
        public_key: SubjectPublicKeyInfoDer<'static>,
    ) -> Option<Self> {
        let key_id = key_id.into();
        if key_id.is_empty() {
            return None;
        }
        Some(Self {
            key_id,
            public_key,
            algorithm: None,
            tainted: false,
        })
    }

    /// The same key, for one algorithm only, by its JWS name (`alg` of a JWK: RFC 7517 §4.4).
    #[must_use]
    pub fn for_algorithm(mut self, algorithm: impl Into<String>) -> Self {
        self.algorithm = Some(algorithm.into());
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

    /// The one algorithm the key is for, where its document names one.
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
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "the document parser is its only caller")
    )]
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

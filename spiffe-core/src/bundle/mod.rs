//! Bundles: the public authorities of one trust domain, and sets of them by trust domain.
//!
//! Answers to SPIFFE Trust Domain and Bundle §3–§4. A bundle never meets another trust domain's: there is no
//! operation that pools authorities. Keys and certificates are parsed when a bundle is built, never per verification.

mod check;
mod diff;
mod jwks;
mod jwt;
mod set;
mod x509;

use std::sync::Arc;
use std::time::Duration;

pub(crate) use check::Check;
pub use diff::{BundleDiff, Changes};
pub use jwks::MAX_BUNDLE_DOCUMENT_BYTES;
pub(crate) use jwks::{KeyKind, PublicKey};
pub use jwt::{JwtAuthorities, JwtAuthority};
pub use set::BundleSet;
pub use x509::{
    MAX_AUTHORITIES, MAX_CERTIFICATES_DOCUMENT_BYTES, X509Authorities, X509Authority,
    certificates_from_concatenated_der, certificates_from_pem, certificates_to_pem,
};

use crate::{Rule, TrustDomain};

/// The authorities of one trust domain.
///
/// The two halves are shared: a bundle that changes one keeps the other's parsed keys.
#[derive(Clone, Debug)]
pub struct Bundle {
    trust_domain: TrustDomain,
    x509: Arc<X509Authorities>,
    jwt: Arc<JwtAuthorities>,
    sequence: Option<u64>,
    refresh_hint: Option<Duration>,
    /// Entries of its document that are of neither kind.
    ignored: Arc<[Ignored]>,
}

impl Bundle {
    /// A bundle without authorities: everything of its trust domain is untrusted.
    pub fn new(trust_domain: TrustDomain) -> Self {
        Self {
            trust_domain,
            x509: Arc::default(),
            jwt: Arc::default(),
            sequence: None,
            refresh_hint: None,
            ignored: Arc::default(),
        }
    }

    /// The same bundle with these X.509 authorities.
    #[must_use]
    pub fn with_x509_authorities(mut self, authorities: impl Into<Arc<X509Authorities>>) -> Self {
        self.x509 = authorities.into();
        self
    }

    /// The same bundle with these JWT authorities.
    #[must_use]
    pub fn with_jwt_authorities(mut self, authorities: impl Into<Arc<JwtAuthorities>>) -> Self {
        self.jwt = authorities.into();
        self
    }

    /// The same bundle with this sequence number: Trust Domain and Bundle §4.1.1.
    #[must_use]
    pub fn with_sequence(mut self, sequence: Option<u64>) -> Self {
        self.sequence = sequence;
        self
    }

    /// The same bundle with this refresh hint, whole seconds on the wire: Trust Domain and Bundle §4.1.2.
    #[must_use]
    pub fn with_refresh_hint(mut self, hint: Option<Duration>) -> Self {
        self.refresh_hint = hint;
        self
    }

    /// The trust domain whose authorities these are.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The authorities that verify X509-SVIDs.
    pub fn x509_authorities(&self) -> &Arc<X509Authorities> {
        &self.x509
    }

    /// The authorities that verify JWT-SVIDs.
    pub fn jwt_authorities(&self) -> &Arc<JwtAuthorities> {
        &self.jwt
    }

    /// The sequence number, if the document had one.
    pub fn sequence(&self) -> Option<u64> {
        self.sequence
    }

    /// The refresh hint as the document says it, unclamped.
    pub fn refresh_hint(&self) -> Option<Duration> {
        self.refresh_hint
    }

    /// Every entry of the bundle's documents that was left out, and why, ordered by its position.
    pub fn ignored(&self) -> impl Iterator<Item = &Ignored> {
        let mut all: Vec<_> = [self.x509.ignored(), self.jwt.ignored(), &self.ignored]
            .into_iter()
            .flatten()
            .collect();
        all.sort_by_key(|entry| entry.index);
        all.into_iter()
    }

    /// Whether both bundles hold the same authorities in whatever order, taints included; sequence and hint do not count.
    pub fn same_authorities(&self, other: &Self) -> bool {
        self.trust_domain == other.trust_domain
            && (Arc::ptr_eq(&self.x509, &other.x509) || self.x509.same(&other.x509))
            && (Arc::ptr_eq(&self.jwt, &other.jwt) || self.jwt.same(&other.jwt))
    }

    /// What this bundle, just fetched, is to the one that is held of the same trust domain: Federation §4.2.
    ///
    /// Whoever keeps bundles replaces the held one unless this one is [`Succession::Older`], and reports
    /// [`Succession::Reissued`].
    pub fn succession(&self, held: &Self) -> Succession {
        let is_same = self.same_authorities(held);
        match (self.sequence, held.sequence) {
            (Some(fetched), Some(held)) if fetched < held => Succession::Older,
            (Some(fetched), Some(held)) if fetched == held && !is_same => Succession::Reissued,
            _ if is_same => Succession::Same,
            _ => Succession::Newer,
        }
    }
}

/// What a fetched bundle is to the one that is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Succession {
    /// Other authorities, and nothing says that they are older: it replaces the held one.
    Newer,
    /// A lower sequence number: the held one stays until an operator says otherwise, for a publisher that was set back
    /// must not bring revoked authorities back.
    Older,
    /// The same sequence number and yet other authorities, against the standard: it replaces the held one, with a
    /// warning.
    Reissued,
    /// The same authorities.
    Same,
}

/// An entry of a document that was left out, as the standards demand, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Ignored {
    /// Its position in the document, from 0.
    pub index: usize,
    /// The rule that it broke.
    pub rule: Rule,
    /// What was found, in one line.
    pub reason: String,
}

impl Ignored {
    pub(crate) fn new(index: usize, rule: Rule, reason: impl Into<String>) -> Self {
        Self {
            index,
            rule,
            reason: reason.into(),
        }
    }
}

/// Why a bundle document cannot be read as a whole.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
#[non_exhaustive]
pub struct BundleError {
    /// The rule that was broken.
    rule: Rule,
    message: String,
}

impl BundleError {
    pub(crate) fn new(rule: Rule, message: impl Into<String>) -> Self {
        Self {
            rule,
            message: message.into(),
        }
    }

    /// The rule that was broken.
    pub const fn rule(&self) -> Rule {
        self.rule
    }
}

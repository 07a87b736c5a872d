//! The leaf rules that need neither time nor bundle: X509-SVID §2, §4, §5.2.
//!
//! Own SVIDs are loaded and peers' chains are verified with the same rules.

use crate::bundle::PublicKey;
use crate::x509::cert::{Cert, KeyUsage, dotted};
use crate::{Rule, SpiffeId, SpiffeIdError, SpiffeIdRef};

/// What a leaf that keeps the rules says of itself; its signature is not part of this.
#[derive(Clone, Debug)]
pub(crate) struct Leaf {
    pub(crate) id: SpiffeId,
}

impl Leaf {
    /// Judges a leaf rule by rule and stops at the first that is broken.
    pub(crate) fn judge(cert: &Cert<'_>) -> Result<Self, LeafError> {
        let names = cert.alternative_names;
        // X509-SVID §5.2: any second URI name is refused, whatever it says.
        if names.uris != 1 {
            return Err(LeafError::UriCount { found: names.uris });
        }
        let id = std::str::from_utf8(names.first_uri)
            .map_err(|_| LeafError::NotSpiffeId {
                source: SpiffeIdError::Scheme,
            })
            .and_then(|text| {
                SpiffeIdRef::parse(text).map_err(|source| LeafError::NotSpiffeId { source })
            })?;
        if id.path().is_empty() {
            return Err(LeafError::PathMissing { id: id.to_owned() });
        }
        if cert.basic_constraints.is_some_and(|basic| basic.ca) {
            return Err(LeafError::IsCa);
        }
        if cert.key_usage.is_some_and(KeyUsage::key_cert_sign) {
            return Err(LeafError::KeyCertSign);
        }
        if cert.key_usage.is_some_and(KeyUsage::crl_sign) {
            return Err(LeafError::CrlSign);
        }
        if !cert.key_usage.is_none_or(KeyUsage::digital_signature) {
            return Err(LeafError::DigitalSignature);
        }
        if let Some(oid) = cert.unknown_critical {
            return Err(LeafError::UnknownCritical { oid: dotted(oid) });
        }
        if PublicKey::from_spki(cert.spki).is_none() {
            return Err(LeafError::Key);
        }
        Ok(Self { id: id.to_owned() })
    }
}

/// Why a certificate is no X509-SVID leaf.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LeafError {
    /// cRLSign is set.
    #[error("the leaf's key usage has cRLSign; only signing certificates may")]
    CrlSign,
    /// Key usage is present and lacks digitalSignature.
    #[error("the leaf's key usage lacks digitalSignature")]
    DigitalSignature,
    /// cA is true.
    #[error("the leaf is a CA certificate; only leaves identify a workload")]
    IsCa,
    /// The key is none that is accepted.
    #[error("the leaf's key is none of P-256, P-384, P-521, Ed25519 and RSA of 2048 to 8192 bits")]
    Key,
    /// keyCertSign is set.
    #[error("the leaf's key usage has keyCertSign; only signing certificates may")]
    KeyCertSign,
    /// The one URI name is no SPIFFE ID.
    #[error("the leaf's URI name is no SPIFFE ID: {source}")]
    NotSpiffeId {
        /// What is wrong with it.
        source: SpiffeIdError,
    },
    /// The SPIFFE ID is its trust domain's own.
    #[error("the leaf's SPIFFE ID {id} has no path; such an ID belongs to an authority")]
    PathMissing {
        /// The ID.
        id: SpiffeId,
    },
    /// A critical extension that is not understood.
    #[error("the leaf has the critical extension {oid}, which is not understood")]
    UnknownCritical {
        /// The extension's object identifier, dotted.
        oid: String,
    },
    /// Not exactly one URI name.
    #[error("the leaf has {found} URI names; exactly one is required")]
    UriCount {
        /// How many it has.
        found: usize,
    },
}

impl LeafError {
    /// The rule that was broken.
    pub const fn rule(&self) -> Rule {
        match self {
            Self::CrlSign => Rule::LeafCrlSign,
            Self::DigitalSignature => Rule::LeafDigitalSignature,
            Self::IsCa => Rule::LeafIsCa,
            Self::Key => Rule::CertAlgorithm,
            Self::KeyCertSign => Rule::LeafKeyCertSign,
            Self::NotSpiffeId { .. } => Rule::LeafUriScheme,
            Self::PathMissing { .. } => Rule::LeafPathMissing,
            Self::UnknownCritical { .. } => Rule::CertUnknownCriticalExtension,
            Self::UriCount { .. } => Rule::LeafUriCount,
        }
    }
}

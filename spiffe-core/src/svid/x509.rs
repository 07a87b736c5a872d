//! An X509-SVID with its private key: what a workload presents.
//!
//! Answers to X509-SVID §2–§5 and Workload API §5.1. Loading applies the leaf rules of verification that need
//! neither time nor bundle; every further certificate must be a signing certificate, the chain must be linked and
//! the key the leaf's.

use std::fmt;
use std::sync::Arc;

use rustls_pki_types::CertificateDer;

use super::X509Chain;
use crate::bundle::{BundleError, X509Authorities, certificates_to_pem};
use crate::crypto::CryptoProvider;
use crate::key::{KeyError, PrivateKey, Signer, SvidKey};
use crate::verify::LeafError;
use crate::x509::cert::{Cert, CertificateError};
use crate::{Rule, SpiffeId, Timestamp, TrustDomainRef};

/// The most certificates of an own chain, leaf included.
pub const MAX_CHAIN_CERTIFICATES: usize = 16;

/// The most bytes of a chain, in DER or PEM.
pub const MAX_CHAIN_BYTES: usize = 1024 * 1024;

/// A chain of certificates, leaf first, and the leaf's private key.
#[derive(Clone)]
pub struct X509Svid {
    id: SpiffeId,
    chain: Vec<CertificateDer<'static>>,
    key: SvidKey,
    hint: Option<String>,
    not_before: Timestamp,
    not_after: Timestamp,
    serial: Vec<u8>,
}

/// What a trust domain's own authorities make of an SVID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "callers act on each")]
pub enum Backing {
    /// Its authority is in the bundle.
    Trusted,
    /// Its authority is in the bundle and tainted: it is to be replaced while it is still accepted.
    Tainted,
    /// Its authority is not in the bundle any more, or not yet: verifiers refuse it.
    Withdrawn,
}

impl X509Svid {
    /// Takes certificates, leaf first, and the leaf's key.
    ///
    /// # Errors
    ///
    /// [`SvidError`] names the certificate and the rule.
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKey,
        crypto: &dyn CryptoProvider,
    ) -> Result<Self, SvidError> {
        let signer = crypto.load_key(&key)?;
        Self::assemble(chain, SvidKey::Local(Arc::new(key)), &*signer)
    }

    /// Takes certificates, leaf first, whose key lies elsewhere.
    ///
    /// # Errors
    ///
    /// As [`Self::new`].
    pub fn with_signer(
        chain: Vec<CertificateDer<'static>>,
        signer: Arc<dyn Signer>,
    ) -> Result<Self, SvidError> {
        Self::assemble(chain, SvidKey::Remote(signer.clone()), &*signer)
    }

    /// Takes certificates in DER one behind the other, leaf first: the Workload API's form.
    ///
    /// # Errors
    ///
    /// As [`Self::new`], and [`SvidError::NotConcatenated`].
    pub fn from_concatenated_der(
        chain: &[u8],
        key: PrivateKey,
        crypto: &dyn CryptoProvider,
    ) -> Result<Self, SvidError> {
        let chain = X509Chain::from_concatenated_der(chain)?;
        Self::new(chain.certificates, key, crypto)
    }

    /// Parses PEM: every certificate of `chain`, leaf first, and the one PKCS#8 key of `key`; both may be the same text.
    ///
    /// # Errors
    ///
    /// As [`Self::new`], and [`SvidError::Pem`].
    pub fn from_pem(
        chain: &str,
        key: &str,
        crypto: &dyn CryptoProvider,
    ) -> Result<Self, SvidError> {
        let key = PrivateKey::from_pem(key)?;
        Self::new(X509Chain::from_pem(chain)?.certificates, key, crypto)
    }

    /// The same SVID with the operator's hint: Workload API §5.2.1.
    #[must_use]
    pub fn with_hint(mut self, hint: Option<String>) -> Self {
        self.hint = hint.filter(|hint| !hint.is_empty());
        self
    }

    /// The SPIFFE ID that the leaf names.
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// The trust domain of that ID.
    pub fn trust_domain(&self) -> TrustDomainRef<'_> {
        self.id.trust_domain()
    }

    /// The chain, leaf first, without the authority.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// The leaf.
    pub fn leaf(&self) -> &CertificateDer<'static> {
        // A chain without a leaf is refused when the SVID is made.
        &self.chain[0]
    }

    /// The certificates above the leaf, its issuer first; often none.
    pub fn intermediates(&self) -> &[CertificateDer<'static>] {
        &self.chain[1..]
    }

    /// SHA-256 of the leaf's DER, as people compare certificates by.
    pub fn fingerprint(&self, crypto: &dyn CryptoProvider) -> [u8; 32] {
        crypto.sha256(self.leaf())
    }

    /// The names of the certificates' issuers, from the leaf's to the authority's: the DER of each `Name` without its tag
    /// and length, as trust anchors hold theirs (RFC 5280 §4.1.2.4).
    pub fn issuer_names(&self) -> impl Iterator<Item = &[u8]> {
        // Every certificate of the chain was read when the SVID was made.
        self.chain
            .iter()
            .filter_map(|der| Some(Cert::parse(der).ok()?.issuer))
    }

    /// The private key.
    pub fn key(&self) -> &SvidKey {
        &self.key
    }

    /// The operator's hint, never empty.
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// The first instant of the leaf's validity.
    pub fn not_before(&self) -> Timestamp {
        self.not_before
    }

    /// The last instant of the leaf's validity.
    pub fn not_after(&self) -> Timestamp {
        self.not_after
    }

    /// The leaf's serial number: big-endian, as the certificate encodes it.
    pub fn serial(&self) -> &[u8] {
        &self.serial
    }

    /// The leaf's serial number in lower-case hexadecimal, without leading zeros.
    pub fn serial_hex(&self) -> String {
        let hex: String = self
            .serial
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let digits = hex.trim_start_matches('0');
        if digits.is_empty() {
            "0".into()
        } else {
            digits.into()
        }
    }

    /// The key identifier of whoever signed the leaf: RFC 5280 §4.2.1.1.
    pub fn authority_key_id(&self) -> Option<&[u8]> {
        authority_key_id(self.leaf())
    }

    /// The key identifier of the authority that the chain ends at, which is not part of it.
    pub fn root_key_id(&self) -> Option<&[u8]> {
        authority_key_id(self.chain.last()?)
    }

    /// What the trust domain's own authorities make of the SVID. Told by key identifiers, so it says when to replace an
    /// SVID and proves nothing; one that names no identifier counts as trusted.
    pub fn backing(&self, authorities: &X509Authorities) -> Backing {
        let Some(root) = self.root_key_id() else {
            return Backing::Trusted;
        };
        let mut backing = Backing::Withdrawn;
        for authority in authorities.iter() {
            match authority.subject_key_id() {
                Some(id) if id == root && authority.is_tainted() => return Backing::Tainted,
                Some(id) if id != root => {}
                _ => backing = Backing::Trusted,
            }
        }
        backing
    }

    /// The chain as PEM, leaf first.
    pub fn to_pem(&self) -> String {
        certificates_to_pem(&self.chain)
    }

    /// The chain one behind the other in DER.
    pub fn to_concatenated_der(&self) -> Vec<u8> {
        self.chain
            .iter()
            .flat_map(|certificate| certificate.iter().copied())
            .collect()
    }

    fn assemble(
        chain: Vec<CertificateDer<'static>>,
        key: SvidKey,
        signer: &dyn Signer,
    ) -> Result<Self, SvidError> {
        let chain = X509Chain::judge(chain, |public_key| {
            let is_the_leafs = public_key == signer.public_key().as_ref();
            is_the_leafs.then_some(()).ok_or(SvidError::KeyMismatch)
        })?;
        Ok(Self {
            id: chain.id,
            not_before: chain.not_before,
            not_after: chain.not_after,
            serial: chain.serial,
            key,
            hint: None,
            chain: chain.certificates,
        })
    }
}

fn authority_key_id<'a>(certificate: &'a CertificateDer<'_>) -> Option<&'a [u8]> {
    // Every certificate of a chain was read when the SVID was made.
    Cert::parse(certificate).ok()?.authority_key_id
}

impl fmt::Debug for X509Svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("X509Svid")
            .field("id", &self.id)
            .field("serial", &self.serial_hex())
            .field("not_before", &self.not_before)
            .field("not_after", &self.not_after)
            .field("chain_length", &self.chain.len())
            .field("hint", &self.hint)
            .finish_non_exhaustive()
    }
}

/// Why a chain and a key are no X509-SVID.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SvidError {
    /// A certificate cannot be read.
    #[error("certificate {at} of the chain cannot be read: {source}")]
    Certificate {
        /// Its position, the leaf being 0.
        at: usize,
        /// What is wrong with it.
        source: CertificateError,
    },
    /// No certificate at all.
    #[error("the chain is empty")]
    Empty,
    /// The private key cannot be used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The private key is not the leaf's.
    #[error("the private key does not belong to the leaf certificate")]
    KeyMismatch,
    /// The leaf breaks a rule of the X509-SVID profile.
    #[error(transparent)]
    Leaf(#[from] LeafError),
    /// The bytes do not divide into certificates.
    #[error("the chain is not certificates in DER one behind the other")]
    NotConcatenated,
    /// A certificate did not issue the one before it.
    #[error("certificate {at} of the chain is not the issuer of the one before it")]
    NotLinked {
        /// Its position, the leaf being 0.
        at: usize,
    },
    /// A certificate above the leaf may not sign certificates.
    #[error("certificate {at} of the chain is no CA that may sign certificates")]
    NotSigning {
        /// Its position, the leaf being 0.
        at: usize,
    },
    /// The PEM text cannot be read.
    #[error(transparent)]
    Pem(#[from] BundleError),
    /// More than [`MAX_CHAIN_CERTIFICATES`] or [`MAX_CHAIN_BYTES`].
    #[error(
        "the chain has more than {MAX_CHAIN_CERTIFICATES} certificates or {MAX_CHAIN_BYTES} bytes"
    )]
    TooLarge,
}

impl SvidError {
    /// The rule that was broken.
    pub fn rule(&self) -> Rule {
        match self {
            Self::Certificate { source, .. } => source.rule(),
            Self::Empty => Rule::ChainEmpty,
            Self::Key(error) => error.rule(),
            Self::KeyMismatch => Rule::KeyMismatch,
            Self::Leaf(error) => error.rule(),
            Self::NotConcatenated => Rule::CertMalformed,
            Self::NotLinked { .. } => Rule::ChainNotLinked,
            Self::NotSigning { .. } => Rule::ChainIssuerNotSigning,
            Self::Pem(error) => error.rule(),
            Self::TooLarge => Rule::ChainTooLarge,
        }
    }
}

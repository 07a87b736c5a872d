//! What core needs of a cryptography library, as a value.
//!
//! Nothing is installed process-wide; a provider is passed to whoever needs one. The default is AWS-LC, by feature.

#[cfg(feature = "aws-lc-rs")]
pub(crate) mod aws_lc;

use std::fmt;
use std::sync::Arc;

use rustls_pki_types::{SignatureVerificationAlgorithm, SubjectPublicKeyInfoDer};

use crate::key::{KeyError, KeyType, PrivateKey, Signer};

/// A cryptography library: signature checks, keys and a hash.
pub trait CryptoProvider: fmt::Debug + Send + Sync + 'static {
    /// The signature algorithms it can check.
    fn signature_algorithms(&self) -> &'static [&'static dyn SignatureVerificationAlgorithm];

    /// Whether [`Self::signature_algorithms`] are AWS-LC's. With the feature `aws-lc-rs`, authorities then keep
    /// their keys in its parsed form, which spares a sixth of an RSA check; no verdict depends on it.
    fn is_aws_lc(&self) -> bool {
        false
    }

    /// Loads a key for signing; also how a key is matched with its certificate.
    ///
    /// # Errors
    ///
    /// [`KeyError::Malformed`] and [`KeyError::Unsupported`].
    fn load_key(&self, key: &PrivateKey) -> Result<Arc<dyn Signer>, KeyError>;

    /// Generates a key.
    ///
    /// # Errors
    ///
    /// [`KeyError::Unsupported`] and [`KeyError::Generation`].
    fn generate_key(&self, kind: KeyType) -> Result<PrivateKey, KeyError>;

    /// Whether an EC public key, SubjectPublicKeyInfo in DER, is a point of its curve (SEC 1 §3.2.2.1); `false` for any
    /// other kind of key.
    fn is_on_curve(&self, key: &SubjectPublicKeyInfoDer<'_>) -> bool;

    /// SHA-256 of `data`.
    fn sha256(&self, data: &[u8]) -> [u8; 32];

    /// Seals `data` in place: encrypts it and appends what tells an alteration of it or of `bound`, which is not kept. A
    /// nonce is random and used once. How data is sealed is the provider's choice; what one seals that one opens.
    ///
    /// # Errors
    ///
    /// [`SealingError`], from a provider that does not seal, which is the default.
    fn seal(
        &self,
        _key: &[u8; SEAL_KEY_BYTES],
        _nonce: &[u8; SEAL_NONCE_BYTES],
        _bound: &[u8],
        _data: &mut Vec<u8>,
    ) -> Result<(), SealingError> {
        Err(SealingError::new())
    }

    /// Opens what [`seal`](Self::seal) sealed, in place.
    ///
    /// # Errors
    ///
    /// [`SealingError`], when anything differs from what was sealed; nothing may be made of `data` then.
    fn open(
        &self,
        _key: &[u8; SEAL_KEY_BYTES],
        _nonce: &[u8; SEAL_NONCE_BYTES],
        _bound: &[u8],
        _data: &mut Vec<u8>,
    ) -> Result<(), SealingError> {
        Err(SealingError::new())
    }
}

/// Bytes of a key that data is sealed with.
pub const SEAL_KEY_BYTES: usize = 32;

/// Bytes of a nonce that data is sealed with.
pub const SEAL_NONCE_BYTES: usize = 12;

/// Data was not sealed or does not open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it cannot be sealed or opened with this cryptography and key")]
#[non_exhaustive]
pub struct SealingError;

impl SealingError {
    /// The error, for implementors of [`CryptoProvider`].
    pub const fn new() -> Self {
        Self
    }
}

impl Default for SealingError {
    fn default() -> Self {
        Self::new()
    }
}

/// The default provider, AWS-LC through aws-lc-rs.
#[cfg(feature = "aws-lc-rs")]
pub fn aws_lc_rs() -> Arc<dyn CryptoProvider> {
    Arc::new(aws_lc::AwsLc)
}

/// The operating system's randomness, through AWS-LC's generator.
#[cfg(feature = "aws-lc-rs")]
pub fn system_random() -> Arc<dyn crate::Random> {
    Arc::new(aws_lc::SystemRandom)
}

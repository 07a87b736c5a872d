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

    /// Whether [`Self::signature_algorithms`] are AWS-LC's. With the feature `aws-lc-rs`, JWT authorities then keep
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

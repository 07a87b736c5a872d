//! SHA-256 by the provider's own code, so that no second cryptography comes along.

use rustls::crypto::CryptoProvider;
use rustls::crypto::hash::{Hash, HashAlgorithm};

/// A SHA-256 value.
pub(crate) type Digest = [u8; 32];

/// The provider's SHA-256.
#[derive(Clone, Copy)]
pub(crate) struct Sha256(&'static dyn Hash);

impl Sha256 {
    /// Takes it from a cipher suite; without one that uses it, the provider cannot speak TLS 1.2 or 1.3 to everybody.
    pub(crate) fn of(provider: &CryptoProvider) -> Option<Self> {
        provider
            .cipher_suites
            .iter()
            .map(|suite| match suite {
                rustls::SupportedCipherSuite::Tls12(suite) => suite.common.hash_provider,
                rustls::SupportedCipherSuite::Tls13(suite) => suite.common.hash_provider,
            })
            .find(|hash| hash.algorithm() == HashAlgorithm::SHA256)
            .map(Self)
    }

    /// The digest of parts, each with its length before it, so that no two lists of parts read the same.
    pub(crate) fn of_parts<'p>(self, parts: impl IntoIterator<Item = &'p [u8]>) -> Digest {
        let mut context = self.0.start();
        for part in parts {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        let mut digest = [0; 32];
        digest.copy_from_slice(context.finish().as_ref());
        digest
    }
}

impl std::fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sha256")
    }
}

//! Signature checks with the keys of authorities, which AWS-LC keeps in its own parsed form from the first check on.
//!
//! No verdict depends on the form: it spares a sixth of an RSA check and a hundredth of one on P-256.

use std::fmt;

use rustls_pki_types::SignatureVerificationAlgorithm;

use super::jwks::PublicKey;
use crate::crypto::CryptoProvider;
use crate::svid::JwsAlgorithm;

/// How signatures of one algorithm are checked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Check {
    /// The algorithm, which parses the key each time.
    algorithm: &'static dyn SignatureVerificationAlgorithm,
    /// What keys are parsed for, where the algorithm is AWS-LC's.
    #[cfg(feature = "aws-lc-rs")]
    parsed: Option<JwsAlgorithm>,
}

impl Check {
    /// A check with an algorithm that need not be AWS-LC's.
    pub(crate) fn by(algorithm: &'static dyn SignatureVerificationAlgorithm) -> Self {
        Self {
            algorithm,
            #[cfg(feature = "aws-lc-rs")]
            parsed: None,
        }
    }

    /// A check with an algorithm of this provider.
    pub(crate) fn of_provider(
        algorithm: &'static dyn SignatureVerificationAlgorithm,
        crypto: &dyn CryptoProvider,
    ) -> Self {
        #[cfg(feature = "aws-lc-rs")]
        if crypto.is_aws_lc() {
            let parsed = JwsAlgorithm::ALL
                .into_iter()
                .find(|one| does(algorithm, *one));
            return Self { algorithm, parsed };
        }
        let _ = crypto;
        Self::by(algorithm)
    }

    /// The one of a provider's algorithms that checks what `algorithm` signs.
    pub(crate) fn find(algorithm: JwsAlgorithm, crypto: &dyn CryptoProvider) -> Option<Self> {
        let offered = crypto.signature_algorithms();
        let found = offered.iter().find(|one| does(**one, algorithm))?;
        Some(Self::of_provider(*found, crypto))
    }

    /// What is checked.
    pub(crate) fn algorithm(&self) -> &'static dyn SignatureVerificationAlgorithm {
        self.algorithm
    }

    /// Whether `key`, which is of the algorithm's kind, made this signature, in X.509's form, over `message`.
    pub(crate) fn holds(&self, key: PublicKey<'_>, message: &[u8], signature: &[u8]) -> bool {
        #[cfg(feature = "aws-lc-rs")]
        if let (Some(algorithm), Some(forms)) = (self.parsed, key.forms()) {
            return forms.verify(algorithm, key.bits(), message, signature);
        }
        self.algorithm
            .verify_signature(key.bits(), message, signature)
            .is_ok()
    }
}

/// Whether what is offered is the algorithm of a JWT-SVID, as X.509 names it.
fn does(offered: &dyn SignatureVerificationAlgorithm, algorithm: JwsAlgorithm) -> bool {
    offered.public_key_alg_id() == algorithm.key_kind().identifier()
        && offered.signature_alg_id() == algorithm.identifier()
}

/// One key in AWS-LC's parsed form, by algorithm: made at the first use, and shared by the clones made after it.
#[derive(Clone, Default)]
pub(crate) struct ParsedForms {
    #[cfg(feature = "aws-lc-rs")]
    by_algorithm: std::sync::OnceLock<std::sync::Arc<parsed::ByAlgorithm>>,
}

/// The forms follow from the key and say nothing of their own.
impl fmt::Debug for ParsedForms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ParsedForms").finish_non_exhaustive()
    }
}

impl PartialEq for ParsedForms {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for ParsedForms {}

#[cfg(feature = "aws-lc-rs")]
mod parsed {
    use std::sync::OnceLock;

    use aws_lc_rs::signature::ParsedPublicKey;

    use super::{JwsAlgorithm, ParsedForms};
    use crate::crypto::aws_lc::verification;

    /// A form is `None` when the key cannot be parsed for its algorithm.
    pub(super) type ByAlgorithm = [OnceLock<Option<ParsedPublicKey>>; JwsAlgorithm::ALL.len()];

    impl ParsedForms {
        pub(super) fn verify(
            &self,
            algorithm: JwsAlgorithm,
            bits: &[u8],
            message: &[u8],
            signature: &[u8],
        ) -> bool {
            self.by_algorithm.get_or_init(Default::default)[algorithm as usize]
                .get_or_init(|| ParsedPublicKey::new(verification(algorithm), bits).ok())
                .as_ref()
                .is_some_and(|key| key.verify_sig(message, signature).is_ok())
        }
    }
}

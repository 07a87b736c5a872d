//! The closed list of algorithms, whatever the cryptography library offers.
//!
//! No standard lists them. Keys: P-256, P-384, P-521, Ed25519, RSA of 2,048 to 8,192 bits. Signatures: ECDSA, PKCS#1
//! v1.5 and PSS with SHA-256, SHA-384 or SHA-512, and Ed25519. The list of key kinds is the bundles'.

use std::sync::Arc;

use rustls_pki_types::{AlgorithmIdentifier, SignatureVerificationAlgorithm, alg_id};

use super::X509Error;
use crate::bundle::{Check, KeyKind, PublicKey};
use crate::crypto::CryptoProvider;
use crate::x509::cert::Signed;

/// What a library offers of the closed list.
#[derive(Clone, Debug)]
pub(super) struct Algorithms {
    accepted: Arc<[&'static dyn SignatureVerificationAlgorithm]>,
    /// The same, as authorities' keys are checked with.
    checks: Arc<[Check]>,
}

impl Algorithms {
    pub(super) fn of_provider(crypto: &dyn CryptoProvider) -> Self {
        let mut all = Self::new(crypto.signature_algorithms());
        all.checks = all
            .accepted
            .iter()
            .map(|one| Check::of_provider(*one, crypto))
            .collect();
        all
    }

    pub(super) fn new(offered: &[&'static dyn SignatureVerificationAlgorithm]) -> Self {
        let accepted: Arc<[_]> = offered
            .iter()
            .filter(|one| {
                let key = one.public_key_alg_id();
                KeyKind::ALL.iter().any(|kind| kind.identifier() == key)
                    && is_accepted(&one.signature_alg_id())
            })
            .copied()
            .collect();
        let checks = accepted.iter().map(|one| Check::by(*one)).collect();
        Self { accepted, checks }
    }

    /// The list as path building takes it.
    pub(super) fn as_slice(&self) -> &[&'static dyn SignatureVerificationAlgorithm] {
        &self.accepted
    }

    /// One signature check, or none where key and algorithm do not fit.
    pub(super) fn check(&self, key: PublicKey<'_>, signed: &Signed<'_>) -> Result<(), X509Error> {
        let identifier = key.kind().identifier();
        let check = self
            .checks
            .iter()
            .find(|check| {
                let one = check.algorithm();
                one.signature_alg_id().as_ref() == signed.algorithm
                    && one.public_key_alg_id() == identifier
            })
            .ok_or_else(|| X509Error::Algorithm {
                detail: "a signature's algorithm is not accepted, or does not fit its issuer's key"
                    .into(),
            })?;
        check
            .holds(key, signed.message, signed.signature)
            .then_some(())
            .ok_or(X509Error::BadSignature)
    }
}

/// Whether a signature algorithm is on the list. RFC 4055 §5 gives PKCS#1 v1.5 a NULL parameter; verifiers take it as
/// well without.
fn is_accepted(offered: &AlgorithmIdentifier) -> bool {
    let offered = offered.as_ref();
    SIGNATURES.iter().any(|listed| {
        let listed = listed.as_ref();
        offered == listed || listed.strip_suffix(NULL) == Some(offered)
    })
}

const NULL: &[u8] = &[5, 0];

const SIGNATURES: [AlgorithmIdentifier; 10] = [
    alg_id::ECDSA_SHA256,
    alg_id::ECDSA_SHA384,
    alg_id::ECDSA_SHA512,
    alg_id::ED25519,
    alg_id::RSA_PKCS1_SHA256,
    alg_id::RSA_PKCS1_SHA384,
    alg_id::RSA_PKCS1_SHA512,
    alg_id::RSA_PSS_SHA256,
    alg_id::RSA_PSS_SHA384,
    alg_id::RSA_PSS_SHA512,
];

#[cfg(test)]
mod tests {
    use rustls_pki_types::InvalidSignature;

    use super::*;

    /// An algorithm that finds every signature good.
    #[derive(Debug)]
    struct Offered(AlgorithmIdentifier, AlgorithmIdentifier);

    impl SignatureVerificationAlgorithm for Offered {
        fn verify_signature(&self, _: &[u8], _: &[u8], _: &[u8]) -> Result<(), InvalidSignature> {
            Ok(())
        }

        fn public_key_alg_id(&self) -> AlgorithmIdentifier {
            self.0
        }

        fn signature_alg_id(&self) -> AlgorithmIdentifier {
            self.1
        }
    }

    #[track_caller]
    fn check(key: AlgorithmIdentifier, signature: AlgorithmIdentifier, used: bool) {
        let offered: &'static Offered = Box::leak(Box::new(Offered(key, signature)));
        let accepted = Algorithms::new(&[offered]);
        assert_eq!(accepted.as_slice().len(), usize::from(used));
    }

    #[test]
    fn what_is_offered_beyond_the_list_is_not_used() {
        const SHA1_RSA: AlgorithmIdentifier = AlgorithmIdentifier::from_slice(
            b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x05\x05\x00",
        );
        const SHA256_RSA_BARE: AlgorithmIdentifier =
            AlgorithmIdentifier::from_slice(b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0b");
        const SHA1_ECDSA: AlgorithmIdentifier =
            AlgorithmIdentifier::from_slice(b"\x06\x07\x2a\x86\x48\xce\x3d\x04\x01");
        const P224: AlgorithmIdentifier = AlgorithmIdentifier::from_slice(
            b"\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00\x21",
        );
        check(alg_id::ECDSA_P256, alg_id::ECDSA_SHA256, true);
        check(alg_id::ECDSA_P256, SHA1_ECDSA, false);
        check(P224, alg_id::ECDSA_SHA256, false);
        check(alg_id::ECDSA_P256K1, alg_id::ECDSA_SHA256, false);
        check(alg_id::RSA_ENCRYPTION, alg_id::RSA_PKCS1_SHA256, true);
        check(alg_id::RSA_ENCRYPTION, SHA256_RSA_BARE, true);
        check(alg_id::RSA_ENCRYPTION, alg_id::RSA_PSS_SHA512, true);
        check(alg_id::RSA_ENCRYPTION, SHA1_RSA, false);
        check(alg_id::ED25519, alg_id::ED25519, true);
        check(alg_id::ED448, alg_id::ED448, false);
        check(alg_id::ML_DSA_65, alg_id::ML_DSA_65, false);
    }
}

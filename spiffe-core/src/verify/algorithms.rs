//! The closed list of algorithms, whatever the cryptography library offers.
//!
//! No standard lists them. Keys: P-256, P-384, P-521, Ed25519, RSA of 2,048 to 8,192 bits. Signatures: ECDSA, PKCS#1
//! v1.5 and PSS with SHA-256, SHA-384 or SHA-512, and Ed25519. The list of key kinds is the bundles'.

use std::sync::Arc;

use rustls_pki_types::{AlgorithmIdentifier, SignatureVerificationAlgorithm, alg_id};

use super::X509Error;
use crate::bundle::{KeyKind, PublicKey};
use crate::x509::cert::Signed;

/// What a library offers of the closed list.
#[derive(Clone, Debug)]
pub(super) struct Algorithms {
    accepted: Arc<[&'static dyn SignatureVerificationAlgorithm]>,
}

impl Algorithms {
    pub(super) fn new(offered: &[&'static dyn SignatureVerificationAlgorithm]) -> Self {
        let accepted = offered
            .iter()
            .filter(|one| {
                let key = one.public_key_alg_id();
                KeyKind::ALL.iter().any(|kind| kind.identifier() == key)
                    && is_accepted(&one.signature_alg_id())
            })
            .copied()
            .collect();
        Self { accepted }
    }

    /// The list as path building takes it.
    pub(super) fn as_slice(&self) -> &[&'static dyn SignatureVerificationAlgorithm] {
        &self.accepted
    }

    /// One signature check, or none where key and algorithm do not fit.
    pub(super) fn check(&self, key: PublicKey<'_>, signed: &Signed<'_>) -> Result<(), X509Error> {
        let identifier = key.kind().identifier();
        let algorithm = self
            .accepted
            .iter()
            .find(|one| {
                one.signature_alg_id().as_ref() == signed.algorithm
                    && one.public_key_alg_id() == identifier
            })
            .ok_or_else(|| X509Error::Algorithm {
                detail: "a signature's algorithm is not accepted, or does not fit its issuer's key"
                    .into(),
            })?;
        algorithm
            .verify_signature(key.bits(), signed.message, signed.signature)
            .map_err(|_| X509Error::BadSignature)
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

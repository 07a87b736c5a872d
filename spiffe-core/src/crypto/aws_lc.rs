//! The provider on AWS-LC.

use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rand::{self, SecureRandom};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING,
    ECDSA_P521_SHA512_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256,
    VerificationAlgorithm,
};
use aws_lc_rs::{digest, rsa};
use rustls_pki_types::{SignatureVerificationAlgorithm, SubjectPublicKeyInfoDer};

use super::{CryptoProvider, SEAL_KEY_BYTES, SEAL_NONCE_BYTES, SealingError};
use crate::key::{KeyError, KeyType, PrivateKey, SignError, SignatureAlgorithm, Signer};
use crate::svid::JwsAlgorithm;
use crate::time::BoxFuture;
use crate::{Random, RandomError};

#[derive(Debug)]
pub(super) struct AwsLc;

/// What checks a JWT-SVID algorithm's signatures, in X.509's form, with a key that is parsed ahead.
pub(crate) fn verification(algorithm: JwsAlgorithm) -> &'static dyn VerificationAlgorithm {
    use aws_lc_rs::signature as aws;

    match algorithm {
        JwsAlgorithm::Rs256 => &aws::RSA_PKCS1_2048_8192_SHA256,
        JwsAlgorithm::Rs384 => &aws::RSA_PKCS1_2048_8192_SHA384,
        JwsAlgorithm::Rs512 => &aws::RSA_PKCS1_2048_8192_SHA512,
        JwsAlgorithm::Es256 => &aws::ECDSA_P256_SHA256_ASN1,
        JwsAlgorithm::Es384 => &aws::ECDSA_P384_SHA384_ASN1,
        JwsAlgorithm::Es512 => &aws::ECDSA_P521_SHA512_ASN1,
        JwsAlgorithm::Ps256 => &aws::RSA_PSS_2048_8192_SHA256,
        JwsAlgorithm::Ps384 => &aws::RSA_PSS_2048_8192_SHA384,
        JwsAlgorithm::Ps512 => &aws::RSA_PSS_2048_8192_SHA512,
    }
}

impl CryptoProvider for AwsLc {
    fn signature_algorithms(&self) -> &'static [&'static dyn SignatureVerificationAlgorithm] {
        webpki::ALL_VERIFICATION_ALGS
    }

    fn is_aws_lc(&self) -> bool {
        true
    }

    fn load_key(&self, key: &PrivateKey) -> Result<Arc<dyn Signer>, KeyError> {
        let pkcs8 = key.secret_pkcs8_der();
        let (pair, algorithm) = Pair::load(pkcs8)?;
        let public = pair.public_key()?;
        Ok(Arc::new(LocalSigner {
            pair,
            algorithm,
            public,
        }))
    }

    fn generate_key(&self, kind: KeyType) -> Result<PrivateKey, KeyError> {
        let pkcs8 = match kind {
            KeyType::EcP256 => ecdsa_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING)?,
            KeyType::EcP384 => ecdsa_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING)?,
            KeyType::EcP521 => ecdsa_pkcs8(&ECDSA_P521_SHA512_FIXED_SIGNING)?,
            KeyType::Ed25519 => Ed25519KeyPair::generate()
                .and_then(|pair| pair.to_pkcs8v1())
                .map(|der| der.as_ref().to_vec())
                .map_err(|_| KeyError::Generation)?,
            KeyType::Rsa2048 => rsa_pkcs8(rsa::KeySize::Rsa2048)?,
            KeyType::Rsa4096 => rsa_pkcs8(rsa::KeySize::Rsa4096)?,
        };
        Ok(PrivateKey::from_pkcs8_der(pkcs8))
    }

    fn is_on_curve(&self, key: &SubjectPublicKeyInfoDer<'_>) -> bool {
        use aws_lc_rs::signature as aws;

        // Parsing is what checks the point.
        let curves: [&'static dyn VerificationAlgorithm; 3] = [
            &aws::ECDSA_P256_SHA256_ASN1,
            &aws::ECDSA_P384_SHA384_ASN1,
            &aws::ECDSA_P521_SHA512_ASN1,
        ];
        curves
            .into_iter()
            .any(|curve| aws::ParsedPublicKey::new(curve, key.as_ref()).is_ok())
    }

    fn sha256(&self, data: &[u8]) -> [u8; 32] {
        let mut out = [0; 32];
        out.copy_from_slice(digest::digest(&digest::SHA256, data).as_ref());
        out
    }

    fn seal(
        &self,
        key: &[u8; SEAL_KEY_BYTES],
        nonce: &[u8; SEAL_NONCE_BYTES],
        bound: &[u8],
        data: &mut Vec<u8>,
    ) -> Result<(), SealingError> {
        sealing_key(key)?
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(*nonce), Aad::from(bound), data)
            .map_err(|_| SealingError::new())
    }

    fn open(
        &self,
        key: &[u8; SEAL_KEY_BYTES],
        nonce: &[u8; SEAL_NONCE_BYTES],
        bound: &[u8],
        data: &mut Vec<u8>,
    ) -> Result<(), SealingError> {
        let length = sealing_key(key)?
            .open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::from(bound), data)
            .map_err(|_| SealingError::new())?
            .len();
        data.truncate(length);
        Ok(())
    }
}

/// AES-256-GCM-SIV (RFC 8452): were a nonce ever drawn twice, no more would be told than that the data were the same.
fn sealing_key(key: &[u8; SEAL_KEY_BYTES]) -> Result<LessSafeKey, SealingError> {
    UnboundKey::new(&AES_256_GCM_SIV, key)
        .map(LessSafeKey::new)
        .map_err(|_| SealingError::new())
}

#[derive(Debug)]
pub(super) struct SystemRandom;

impl Random for SystemRandom {
    fn fill(&self, bytes: &mut [u8]) -> Result<(), RandomError> {
        rand::SystemRandom::new()
            .fill(bytes)
            .map_err(|_| RandomError::new())
    }
}

fn ecdsa_pkcs8(
    algorithm: &'static aws_lc_rs::signature::EcdsaSigningAlgorithm,
) -> Result<Vec<u8>, KeyError> {
    EcdsaKeyPair::generate(algorithm)
        .and_then(|pair| pair.to_pkcs8v1())
        .map(|der| der.as_ref().to_vec())
        .map_err(|_| KeyError::Generation)
}

fn rsa_pkcs8(size: rsa::KeySize) -> Result<Vec<u8>, KeyError> {
    rsa::KeyPair::generate(size)
        .and_then(|pair| AsDer::<Pkcs8V1Der<'static>>::as_der(&pair))
        .map(|der| der.as_ref().to_vec())
        .map_err(|_| KeyError::Generation)
}

enum Pair {
    Ecdsa(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
    Rsa(rsa::KeyPair),
}

impl Pair {
    /// Loads whatever kind of key the structure names.
    fn load(pkcs8: &[u8]) -> Result<(Self, SignatureAlgorithm), KeyError> {
        let object = key_algorithm(pkcs8).ok_or(KeyError::Malformed)?;
        let ecdsa = |signing, algorithm| {
            EcdsaKeyPair::from_pkcs8(signing, pkcs8)
                .map(|pair| (Self::Ecdsa(pair), algorithm))
                .map_err(|_| KeyError::Malformed)
        };
        match object {
            (EC, Some(P256)) => ecdsa(
                &ECDSA_P256_SHA256_FIXED_SIGNING,
                SignatureAlgorithm::EcdsaP256Sha256,
            ),
            (EC, Some(P384)) => ecdsa(
                &ECDSA_P384_SHA384_FIXED_SIGNING,
                SignatureAlgorithm::EcdsaP384Sha384,
            ),
            (EC, Some(P521)) => ecdsa(
                &ECDSA_P521_SHA512_FIXED_SIGNING,
                SignatureAlgorithm::EcdsaP521Sha512,
            ),
            (ED25519, None) => Ed25519KeyPair::from_pkcs8_maybe_unchecked(pkcs8)
                .map(|pair| (Self::Ed25519(pair), SignatureAlgorithm::Ed25519))
                .map_err(|_| KeyError::Malformed),
            (RSA, _) => rsa::KeyPair::from_pkcs8(pkcs8)
                .map(|pair| (Self::Rsa(pair), SignatureAlgorithm::RsaPkcs1Sha256))
                .map_err(|_| KeyError::Malformed),
            _ => Err(KeyError::Unsupported),
        }
    }

    fn public_key(&self) -> Result<SubjectPublicKeyInfoDer<'static>, KeyError> {
        let der: Result<PublicKeyX509Der<'_>, _> = match self {
            Self::Ecdsa(pair) => pair.public_key().as_der(),
            Self::Ed25519(pair) => pair.public_key().as_der(),
            Self::Rsa(pair) => pair.public_key().as_der(),
        };
        der.map(|der| SubjectPublicKeyInfoDer::from(der.as_ref().to_vec()))
            .map_err(|_| KeyError::Malformed)
    }
}

struct LocalSigner {
    pair: Pair,
    algorithm: SignatureAlgorithm,
    public: SubjectPublicKeyInfoDer<'static>,
}

impl LocalSigner {
    fn sign_now(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        let random = rand::SystemRandom::new();
        match &self.pair {
            Pair::Ecdsa(pair) => pair
                .sign(&random, message)
                .map(|signature| signature.as_ref().to_vec()),
            Pair::Ed25519(pair) => Ok(pair.sign(message).as_ref().to_vec()),
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature)
                    .map(|()| signature)
            }
        }
        .map_err(|_| SignError::new("the key could not sign"))
    }
}

impl Signer for LocalSigner {
    fn public_key(&self) -> &SubjectPublicKeyInfoDer<'static> {
        &self.public
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        self.algorithm
    }

    fn sign<'a>(&'a self, message: &'a [u8]) -> BoxFuture<'a, Result<Vec<u8>, SignError>> {
        Box::pin(std::future::ready(self.sign_now(message)))
    }
}

impl std::fmt::Debug for LocalSigner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "LocalSigner({:?}, [secret key elided])", self.algorithm)
    }
}

/// The key algorithm and the curve, if any, that a PKCS#8 structure names: RFC 5958 §2.
fn key_algorithm(pkcs8: &[u8]) -> Option<(&[u8], Option<&[u8]>)> {
    use crate::x509::der::{INTEGER, OBJECT_IDENTIFIER, Reader, SEQUENCE};

    let mut outer = Reader::new(pkcs8);
    let mut info = Reader::new(outer.value(SEQUENCE).ok()?);
    if !outer.is_at_end() {
        return None;
    }
    info.value(INTEGER).ok()?;
    let mut algorithm = Reader::new(info.value(SEQUENCE).ok()?);
    let object = algorithm.value(OBJECT_IDENTIFIER).ok()?;
    Some((object, algorithm.value(OBJECT_IDENTIFIER).ok()))
}

// Object identifiers without tag and length.
const EC: &[u8] = b"\x2a\x86\x48\xce\x3d\x02\x01";
const P256: &[u8] = b"\x2a\x86\x48\xce\x3d\x03\x01\x07";
const P384: &[u8] = b"\x2b\x81\x04\x00\x22";
const P521: &[u8] = b"\x2b\x81\x04\x00\x23";
const ED25519: &[u8] = b"\x2b\x65\x70";
const RSA: &[u8] = b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_type_signs_and_is_recognised() {
        for (kind, algorithm) in [
            (KeyType::EcP256, SignatureAlgorithm::EcdsaP256Sha256),
            (KeyType::EcP384, SignatureAlgorithm::EcdsaP384Sha384),
            (KeyType::EcP521, SignatureAlgorithm::EcdsaP521Sha512),
            (KeyType::Ed25519, SignatureAlgorithm::Ed25519),
            (KeyType::Rsa2048, SignatureAlgorithm::RsaPkcs1Sha256),
        ] {
            let key = AwsLc.generate_key(kind).unwrap();
            let signer = AwsLc.load_key(&key).unwrap();
            assert_eq!(signer.algorithm(), algorithm);
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            let ready = signer.sign(b"message").as_mut().poll(&mut context);
            assert!(matches!(ready, std::task::Poll::Ready(Ok(_))), "{kind:?}");
        }
    }

    #[test]
    fn randomness_does_not_repeat() {
        let mut bytes = [[0; 16]; 2];
        for half in &mut bytes {
            SystemRandom.fill(half).unwrap();
        }
        assert_ne!(bytes[0], bytes[1]);
        assert_ne!(bytes[0], [0; 16]);
    }

    #[test]
    fn nonsense_is_no_key() {
        for bytes in [&b""[..], b"\x30\x00", b"-----BEGIN PRIVATE KEY-----"] {
            let key = PrivateKey::from_pkcs8_der(bytes.to_vec());
            assert_eq!(AwsLc.load_key(&key).unwrap_err(), KeyError::Malformed);
        }
    }
}

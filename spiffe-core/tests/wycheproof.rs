//! Project Wycheproof's signatures, through what checks those of certificates and through the JWT verifier.
//!
//! A token's message is its own, so the verifier is given a provider that puts the vector's message in its place: keys,
//! base64url, lengths and forms of signatures are the verifier's.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod jose;

use std::cell::RefCell;
use std::sync::Arc;

use spiffe_core::bundle::{JwtAuthorities, JwtAuthority};
use spiffe_core::crypto::{CryptoProvider, aws_lc_rs};
use spiffe_core::key::{KeyError, KeyType, PrivateKey, Signer};
use spiffe_core::pki_types::{
    AlgorithmIdentifier, InvalidSignature, SignatureVerificationAlgorithm, SubjectPublicKeyInfoDer,
    alg_id,
};
use spiffe_core::{Bundle, BundleSet, JwtVerifier, Rule, Timestamp};
use wycheproof::TestResult;
use wycheproof::ecdsa::{TestName as Ecdsa, TestSet as EcdsaSet};
use wycheproof::rsa_pkcs1_verify::{TestName as Pkcs1, TestSet as Pkcs1Set};
use wycheproof::rsa_pss_verify::{Test as PssTest, TestName as Pss, TestSet as PssSet};

use self::jose::url64;

/// How many vectors were judged; "acceptable" ones may go either way and are not.
#[derive(Debug, Default, PartialEq, Eq)]
struct Count {
    valid: usize,
    invalid: usize,
}

impl Count {
    fn judge(&mut self, what: &str, id: usize, expected: TestResult, accepted: bool) {
        match expected {
            TestResult::Valid => {
                assert!(accepted, "{what}: {id} is valid");
                self.valid += 1;
            }
            TestResult::Invalid => {
                assert!(!accepted, "{what}: {id} is invalid");
                self.invalid += 1;
            }
            TestResult::Acceptable => {}
        }
    }

    #[track_caller]
    fn at_least(&self, valid: usize, invalid: usize) {
        assert!(self.valid >= valid && self.invalid >= invalid, "{self:?}");
    }
}

fn algorithm(
    key: AlgorithmIdentifier,
    signature: AlgorithmIdentifier,
) -> &'static dyn SignatureVerificationAlgorithm {
    let all = aws_lc_rs().signature_algorithms();
    let found = all
        .iter()
        .find(|one| one.public_key_alg_id() == key && one.signature_alg_id() == signature);
    *found.unwrap()
}

#[test]
fn ecdsa_signatures_as_certificates_carry_them() {
    let mut count = Count::default();
    for (name, key, signature) in [
        (
            Ecdsa::EcdsaSecp256r1Sha256,
            alg_id::ECDSA_P256,
            alg_id::ECDSA_SHA256,
        ),
        (
            Ecdsa::EcdsaSecp384r1Sha256,
            alg_id::ECDSA_P384,
            alg_id::ECDSA_SHA256,
        ),
        (
            Ecdsa::EcdsaSecp384r1Sha384,
            alg_id::ECDSA_P384,
            alg_id::ECDSA_SHA384,
        ),
        (
            Ecdsa::EcdsaSecp521r1Sha512,
            alg_id::ECDSA_P521,
            alg_id::ECDSA_SHA512,
        ),
    ] {
        let algorithm = algorithm(key, signature);
        for group in EcdsaSet::load(name).unwrap().test_groups {
            for test in group.tests {
                let verdict = algorithm.verify_signature(&group.key.key, &test.msg, &test.sig);
                count.judge(
                    &format!("{name:?}"),
                    test.tc_id,
                    test.result,
                    verdict.is_ok(),
                );
            }
        }
    }
    count.at_least(500, 900);
}

#[test]
fn rsa_signatures_as_certificates_carry_them() {
    let mut count = Count::default();
    for (name, signature) in PKCS1 {
        let signature = match signature {
            "RS256" => alg_id::RSA_PKCS1_SHA256,
            "RS384" => alg_id::RSA_PKCS1_SHA384,
            _ => alg_id::RSA_PKCS1_SHA512,
        };
        let algorithm = algorithm(alg_id::RSA_ENCRYPTION, signature);
        for group in Pkcs1Set::load(name).unwrap().test_groups {
            for test in group.tests {
                let verdict = algorithm.verify_signature(&group.asn_key, &test.msg, &test.sig);
                count.judge(
                    &format!("{name:?}"),
                    test.tc_id,
                    test.result,
                    verdict.is_ok(),
                );
            }
        }
    }
    count.at_least(50, 1000);
}

const PKCS1: [(Pkcs1, &str); 11] = [
    (Pkcs1::Rsa2048Sha256, "RS256"),
    (Pkcs1::Rsa2048Sha384, "RS384"),
    (Pkcs1::Rsa2048Sha512, "RS512"),
    (Pkcs1::Rsa3072Sha256, "RS256"),
    (Pkcs1::Rsa3072Sha384, "RS384"),
    (Pkcs1::Rsa3072Sha512, "RS512"),
    (Pkcs1::Rsa4096Sha256, "RS256"),
    (Pkcs1::Rsa4096Sha384, "RS384"),
    (Pkcs1::Rsa4096Sha512, "RS512"),
    (Pkcs1::Rsa8192Sha256, "RS256"),
    (Pkcs1::Rsa8192Sha512, "RS512"),
];

thread_local! {
    /// What is signed instead of the token.
    static MESSAGE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// An algorithm that checks signatures of [`MESSAGE`].
#[derive(Debug)]
struct Substituting(&'static dyn SignatureVerificationAlgorithm);

impl SignatureVerificationAlgorithm for Substituting {
    fn verify_signature(
        &self,
        public_key: &[u8],
        _token: &[u8],
        signature: &[u8],
    ) -> Result<(), InvalidSignature> {
        MESSAGE.with_borrow(|message| self.0.verify_signature(public_key, message, signature))
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        self.0.public_key_alg_id()
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        self.0.signature_alg_id()
    }
}

#[derive(Debug)]
struct Provider;

impl CryptoProvider for Provider {
    fn signature_algorithms(&self) -> &'static [&'static dyn SignatureVerificationAlgorithm] {
        let wrap = |one: &&'static dyn SignatureVerificationAlgorithm| {
            let wrapped: &'static Substituting = Box::leak(Box::new(Substituting(*one)));
            wrapped as &'static dyn SignatureVerificationAlgorithm
        };
        let all: Vec<_> = aws_lc_rs()
            .signature_algorithms()
            .iter()
            .map(wrap)
            .collect();
        Vec::leak(all)
    }

    fn load_key(&self, key: &PrivateKey) -> Result<Arc<dyn Signer>, KeyError> {
        aws_lc_rs().load_key(key)
    }

    fn generate_key(&self, kind: KeyType) -> Result<PrivateKey, KeyError> {
        aws_lc_rs().generate_key(kind)
    }

    fn is_on_curve(&self, key: &SubjectPublicKeyInfoDer<'_>) -> bool {
        aws_lc_rs().is_on_curve(key)
    }

    fn sha256(&self, data: &[u8]) -> [u8; 32] {
        aws_lc_rs().sha256(data)
    }
}

/// The verifier with one key.
struct Tokens {
    verifier: JwtVerifier,
    bundles: BundleSet,
}

impl Tokens {
    /// `None` when no JWT-SVID may be signed with this key.
    fn with_key(public_key: &[u8]) -> Option<Self> {
        let key = SubjectPublicKeyInfoDer::from(public_key.to_vec());
        let keys: JwtAuthorities = [JwtAuthority::new("k", key)?].into_iter().collect();
        let bundle = Bundle::new("a".parse().unwrap()).with_jwt_authorities(keys);
        Some(Self {
            verifier: JwtVerifier::new(&Provider),
            bundles: [bundle].into_iter().collect(),
        })
    }

    fn accept(&self, algorithm: &str, message: &[u8], signature: &[u8]) -> bool {
        MESSAGE.set(message.to_vec());
        let header = url64(format!(r#"{{"alg":"{algorithm}","kid":"k"}}"#));
        let claims = url64(r#"{"sub":"spiffe://a/x","aud":"db","exp":2000000000}"#);
        let token = format!("{header}.{claims}.{}", url64(signature));
        let now = Timestamp::from_unix_seconds(1_800_000_000);
        match self.verifier.verify(&token, "db", &self.bundles, now) {
            Ok(_) => true,
            // An empty signature is no part of a token at all.
            Err(error) => {
                let expected = [Rule::JwtSignature, Rule::JwtMalformed];
                assert!(expected.contains(&error.rule()), "{error}");
                assert!(error.rule() == Rule::JwtSignature || signature.is_empty());
                false
            }
        }
    }
}

#[test]
fn ecdsa_signatures_as_tokens_carry_them() {
    let mut count = Count::default();
    for (name, algorithm) in [
        (Ecdsa::EcdsaSecp256r1Sha256P1363, "ES256"),
        (Ecdsa::EcdsaSecp384r1Sha384P1363, "ES384"),
        (Ecdsa::EcdsaSecp521r1Sha512P1363, "ES512"),
    ] {
        for group in EcdsaSet::load(name).unwrap().test_groups {
            let tokens = Tokens::with_key(&group.der).unwrap();
            for test in group.tests {
                let accepted = tokens.accept(algorithm, &test.msg, &test.sig);
                count.judge(&format!("{name:?}"), test.tc_id, test.result, accepted);
            }
        }
    }
    count.at_least(500, 250);
}

#[test]
fn rsa_signatures_as_tokens_carry_them() {
    let mut count = Count::default();
    for (name, algorithm) in PKCS1 {
        for group in Pkcs1Set::load(name).unwrap().test_groups {
            let tokens = Tokens::with_key(&group.der).unwrap();
            for test in group.tests {
                let accepted = tokens.accept(algorithm, &test.msg, &test.sig);
                count.judge(&format!("{name:?}"), test.tc_id, test.result, accepted);
            }
        }
    }
    count.at_least(50, 1000);
}

#[test]
fn pss_signatures_as_tokens_carry_them() {
    let mut count = Count::default();
    for (name, algorithm) in [
        (Pss::RsaPss2048Sha256Mgf1SaltLen32, "PS256"),
        (Pss::RsaPss2048Sha384Mgf1SaltLen48, "PS384"),
        (Pss::RsaPss3072Sha256Mgf1SaltLen32, "PS256"),
        (Pss::RsaPss4096Sha256Mgf1SaltLen32, "PS256"),
        (Pss::RsaPss4096Sha384Mgf1SaltLen48, "PS384"),
        (Pss::RsaPss4096Sha512Mgf1SaltLen64, "PS512"),
    ] {
        for group in PssSet::load(name).unwrap().test_groups {
            let tokens = Tokens::with_key(&group.der).unwrap();
            for test in group.tests {
                let accepted = tokens.accept(algorithm, &test.msg, &test.sig);
                count.judge(&format!("{name:?}"), test.tc_id, test.result, accepted);
            }
        }
    }
    count.at_least(100, 200);
}

/// RFC 7518 §3.5: the salt is as long as the hash, and one hash serves both purposes.
#[test]
fn pss_signatures_with_other_parameters_are_refused_however_valid() {
    let mut valid = 0;
    for (name, algorithm) in [
        (Pss::RsaPss2048Sha256Mgf1SaltLen0, "PS256"),
        (Pss::RsaPss2048Sha256Mgf1Sha1_20, "PS256"),
        (Pss::RsaPss4096Sha512Mgf1SaltLen32, "PS512"),
    ] {
        for group in PssSet::load(name).unwrap().test_groups {
            let tokens = Tokens::with_key(&group.der).unwrap();
            // The invalid ones of these sets may be good by the rules of tokens.
            let good = |test: &&PssTest| test.result == TestResult::Valid;
            for test in group.tests.iter().filter(good) {
                let accepted = tokens.accept(algorithm, &test.msg, &test.sig);
                assert!(!accepted, "{name:?}: {}", test.tc_id);
                valid += 1;
            }
        }
    }
    assert!(valid > 50, "{valid}");
}

/// A key that is confined to PSS by its own identifier is of a kind that JWKs do not have.
#[test]
fn keys_with_parameters_are_no_jwt_authorities() {
    for group in PssSet::load(Pss::RsaPss2048Sha256Mgf1SaltLen32WithParams)
        .unwrap()
        .test_groups
    {
        assert!(Tokens::with_key(&group.der).is_none());
    }
}

//! Every signature algorithm with every kind of issuer's key: what fits is checked with that key, what does not is refused.
//! Signatures themselves are other tests'; here every one is good, so that nothing but the fit decides.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use rcgen::{CertificateParams, CertifiedIssuer, KeyPair};
use spiffe_core::pki_types::{
    AlgorithmIdentifier, CertificateDer, InvalidSignature, SignatureVerificationAlgorithm, alg_id,
};
use spiffe_core::verify::{PeerRole, X509Verifier};
use spiffe_core::{BundleSet, Rule};
use support::*;

const ID: &str = "spiffe://a/x";

/// An algorithm of the provider that finds every signature good, once its key is one of the right kind.
#[derive(Debug)]
struct Good(&'static dyn SignatureVerificationAlgorithm);

impl SignatureVerificationAlgorithm for Good {
    fn verify_signature(&self, key: &[u8], _: &[u8], _: &[u8]) -> Result<(), InvalidSignature> {
        // An uncompressed point of the curve, an Ed25519 key, or the SEQUENCE of an RSA key.
        let kind = self.0.public_key_alg_id();
        let fits = match key.len() {
            65 => kind == alg_id::ECDSA_P256,
            97 => kind == alg_id::ECDSA_P384,
            133 => kind == alg_id::ECDSA_P521,
            32 => kind == alg_id::ED25519,
            _ => kind == alg_id::RSA_ENCRYPTION,
        };
        fits.then_some(()).ok_or(InvalidSignature)
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        self.0.public_key_alg_id()
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        self.0.signature_alg_id()
    }
}

/// Everything that this library accepts, and what is close to it.
const SIGNATURES: &[(&str, AlgorithmIdentifier)] = &[
    ("ecdsa", alg_id::ECDSA_SHA256),
    ("ecdsa", alg_id::ECDSA_SHA384),
    ("ecdsa", alg_id::ECDSA_SHA512),
    ("ed25519", alg_id::ED25519),
    ("rsa", alg_id::RSA_PKCS1_SHA256),
    ("rsa", alg_id::RSA_PKCS1_SHA384),
    ("rsa", alg_id::RSA_PKCS1_SHA512),
    ("rsa", alg_id::RSA_PSS_SHA256),
    ("rsa", alg_id::RSA_PSS_SHA384),
    ("rsa", alg_id::RSA_PSS_SHA512),
    ("none", alg_id::ED448),
    ("none", alg_id::ML_DSA_65),
    // ecdsa-with-SHA1, sha1WithRSAEncryption, md5WithRSAEncryption.
    (
        "none",
        AlgorithmIdentifier::from_slice(b"\x06\x07\x2a\x86\x48\xce\x3d\x04\x01"),
    ),
    (
        "none",
        AlgorithmIdentifier::from_slice(b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x05\x05\x00"),
    ),
    (
        "none",
        AlgorithmIdentifier::from_slice(b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x04\x05\x00"),
    ),
    // SHA-256 with ECDSA, with a parameter that it does not have.
    (
        "none",
        AlgorithmIdentifier::from_slice(b"\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x02\x05\x00"),
    ),
];

/// The certificate with another signature algorithm, inside and outside.
fn signed_as(der: &[u8], algorithm: &AlgorithmIdentifier) -> CertificateDer<'static> {
    let [signed, _, signature] = elements(content(der))[..] else {
        panic!("a certificate has three parts");
    };
    let algorithm = element(0x30, algorithm.as_ref());
    let mut fields = elements(content(signed));
    // Version, serial number, then the algorithm.
    fields[2] = &algorithm;
    let signed = element(0x30, &fields.concat());
    CertificateDer::from(element(0x30, &[&signed, &algorithm, signature].concat()))
}

fn content(der: &[u8]) -> &[u8] {
    &der[header(der)..]
}

fn header(der: &[u8]) -> usize {
    match der[1] {
        0x81 => 3,
        0x82 => 4,
        _ => 2,
    }
}

fn elements(mut rest: &[u8]) -> Vec<&[u8]> {
    let mut all = Vec::new();
    while !rest.is_empty() {
        let header = header(rest);
        let length = match header {
            2 => usize::from(rest[1]),
            _ => rest[2..header]
                .iter()
                .fold(0, |length, byte| length << 8 | usize::from(*byte)),
        };
        let (one, behind) = rest.split_at(header + length);
        all.push(one);
        rest = behind;
    }
    all
}

#[test]
fn every_algorithm_with_every_kind_of_key() {
    let good: Vec<&'static dyn SignatureVerificationAlgorithm> = crypto()
        .signature_algorithms()
        .iter()
        .map(|one| &*Box::leak(Box::new(Good(*one))) as &'static dyn SignatureVerificationAlgorithm)
        .collect();
    let verifier = X509Verifier::with_algorithms(Vec::leak(good));
    let judge = |chain: &[CertificateDer<'_>], bundles: &BundleSet, expected| {
        check_with(&verifier, chain, bundles, NOW, PeerRole::Client, expected);
    };
    let keys = [
        ("ecdsa", &rcgen::PKCS_ECDSA_P256_SHA256),
        ("ecdsa", &rcgen::PKCS_ECDSA_P384_SHA384),
        ("ecdsa", &rcgen::PKCS_ECDSA_P521_SHA512),
        ("ed25519", &rcgen::PKCS_ED25519),
        ("rsa", &rcgen::PKCS_RSA_SHA256),
    ];
    for (family, kind) in keys {
        let pair = || KeyPair::generate_for(kind).unwrap();
        let top = CertifiedIssuer::self_signed(ca_params("root"), pair()).unwrap();
        let of_a = bundles(&[("a", &[&top])]);
        let issued = |params: CertificateParams, issuer: &Authority| {
            params.signed_by(&key(), issuer).unwrap().der().clone()
        };
        let leaf = issued(leaf_params(ID), &top);
        let middle = intermediate(ca_params("middle"), &top);
        let below = issued(leaf_params(ID), &middle);
        for (signature, algorithm) in SIGNATURES {
            let expected = if *signature == family {
                Ok(ID)
            } else {
                Err(Rule::CertAlgorithm)
            };
            judge(&[signed_as(&leaf, algorithm)], &of_a, expected);
            let chain = [below.clone(), signed_as(middle.der(), algorithm)];
            judge(&chain, &of_a, expected);
        }
    }
}

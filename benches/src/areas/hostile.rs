//! The chain that costs most under the default limits.
//!
//! Sixteen certificates, as large as they may be, all bear one name that eight authorities bear as well, none says which
//! key signed it, and none leads anywhere: whoever looks for a path must try every key on every certificate, until the
//! limit on signature checks stops the search. A failing check costs what a good one does.

use std::error::Error;
use std::hint::black_box;

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P521_SHA512_ASN1, RSA_PKCS1_2048_8192_SHA512, UnparsedPublicKey,
    VerificationAlgorithm,
};
use rcgen::{
    CertificateParams, CustomExtension, Issuer, KeyPair, PKCS_ECDSA_P256_SHA256,
    PKCS_ECDSA_P521_SHA512, PKCS_RSA_SHA512, PublicKeyData, SignatureAlgorithm, SigningKey,
};
use spiffe_core::bundle::X509Authorities;
use spiffe_core::pki_types::CertificateDer;
use spiffe_core::verify::{
    MAX_CERTIFICATE_BYTES, MAX_CERTIFICATES, MAX_SIGNATURE_CHECKS, PeerRole, X509Error,
};
use spiffe_core::{Bundle, BundleSet, TrustDomain};

use super::Measured;
use super::verify::cold_verifier;
use crate::Effort;
use crate::fixtures::{authority, leaf, now};
use crate::measure::{contender, in_turns};
use crate::report::{Budget, Row};

pub(crate) const P256: &str = "verify/x509/hostile/p256";
pub(crate) const P521: &str = "verify/x509/hostile/p521";
pub(crate) const RSA_8192: &str = "verify/x509/hostile/rsa8192";

pub(crate) fn p256(effort: Effort) -> Measured {
    let key = || KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256);
    hostile(effort, P256, key, &ECDSA_P256_SHA256_ASN1, 10.0)
}

pub(crate) fn p521(effort: Effort) -> Measured {
    let key = || KeyPair::generate_for(&PKCS_ECDSA_P521_SHA512);
    hostile(effort, P521, key, &ECDSA_P521_SHA512_ASN1, 30.0)
}

pub(crate) fn rsa_8192(effort: Effort) -> Measured {
    let mut serial = 0;
    let key = || {
        serial += 1;
        Ok(Rsa::new(serial))
    };
    hostile(effort, RSA_8192, key, &RSA_PKCS1_2048_8192_SHA512, 30.0)
}

/// The floor is as many signature checks of such a certificate as the limit allows.
fn hostile<K: SigningKey>(
    effort: Effort,
    row: &str,
    mut key: impl FnMut() -> Result<K, rcgen::Error>,
    algorithm: &'static dyn VerificationAlgorithm,
    budget: f64,
) -> Measured {
    let mut authorities = Vec::with_capacity(AUTHORITIES);
    let mut authority_key = Vec::new();
    for _ in 0..AUTHORITIES {
        let key = key()?;
        authorities.push(authority(NAME).self_signed(&key)?.der().clone());
        authority_key = key.der_bytes().to_vec();
    }
    let stranger = Issuer::new(authority(NAME), key()?);
    let mut chain = vec![padded(
        leaf("spiffe://example.org/web")?,
        &key()?,
        &stranger,
    )?];
    for _ in 1..MAX_CERTIFICATES {
        chain.push(padded(authority(NAME), &key()?, &stranger)?);
    }
    let bundle = Bundle::new(TrustDomain::parse("example.org")?)
        .with_x509_authorities(X509Authorities::from_certificates(authorities));
    if bundle.x509_authorities().len() != AUTHORITIES {
        return Err("an authority was left out".into());
    }
    let bundles: BundleSet = [bundle].into_iter().collect();
    let verifier = cold_verifier();
    let now = now();
    let verify = || verifier.verify(black_box(&chain), &bundles, now, PeerRole::Client);
    match verify() {
        Err(X509Error::TooComplex { .. }) => {}
        verdict => return Err(format!("the search was not stopped: {verdict:?}").into()),
    }
    let (message, signature) = signed(&chain[1])?;
    let check = || {
        UnparsedPublicKey::new(algorithm, black_box(&authority_key)).verify(&message, &signature)
    };
    if check().is_ok() {
        return Err("a stranger's signature was found good".into());
    }
    let [ours, floor] = in_turns(
        effort.span,
        [
            contender(verify),
            contender(|| {
                (0..MAX_SIGNATURE_CHECKS)
                    .filter(|_| check().is_ok())
                    .count()
            }),
        ],
    );
    Ok(vec![Row::new(
        row,
        "ms",
        ours / 1e6,
        &format!("{MAX_SIGNATURE_CHECKS} signature checks of such a certificate"),
        floor / 1e6,
        Budget::AtMost(budget),
    )])
}

/// A certificate that is nearly as large as is looked at, and names no key that signed it.
fn padded<K: SigningKey>(
    mut params: CertificateParams,
    key: &K,
    issuer: &Issuer<'_, K>,
) -> Result<CertificateDer<'static>, Box<dyn Error>> {
    params.use_authority_key_identifier_extension = false;
    let bare = params.clone().signed_by(key, issuer)?.der().len();
    // What the extension itself takes besides its content, and longer lengths around it.
    let room = MAX_CERTIFICATE_BYTES - bare - 64;
    params
        .custom_extensions
        .push(CustomExtension::from_oid_content(
            &[1, 3, 6, 1, 4, 1, 99999, 2],
            element(OCTET_STRING, &vec![0; room]),
        ));
    Ok(params.signed_by(key, issuer)?.der().clone())
}

/// What was signed of a certificate, and the signature.
fn signed(certificate: &CertificateDer<'_>) -> Result<(Vec<u8>, Vec<u8>), Box<dyn Error>> {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate)?;
    Ok((
        certificate.tbs_certificate.as_ref().to_vec(),
        certificate.signature_value.data.to_vec(),
    ))
}

/// A key of 8,192 bits with the largest exponent that is taken, of 32 bits, and no private half: what it signs is never good.
struct Rsa(Vec<u8>);

impl Rsa {
    fn new(serial: u8) -> Self {
        // Odd, and without a leading zero bit; that it is no product of two primes makes no check cheaper.
        let mut modulus = vec![0, 0xc3, serial];
        modulus.resize(1 + RSA_BYTES, 0x5b);
        let numbers = [
            element(INTEGER, &modulus),
            element(INTEGER, &[0, 0xff, 0xff, 0xff, 0xff]),
        ];
        Self(element(SEQUENCE, &numbers.concat()))
    }
}

impl PublicKeyData for Rsa {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_RSA_SHA512
    }
}

impl SigningKey for Rsa {
    fn sign(&self, _: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        // Smaller than the modulus, so that it is raised to the exponent before it is refused.
        Ok(vec![0x5a; RSA_BYTES])
    }
}

/// A DER element of any length below 64 KiB.
fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len() as u16;
    let mut der = vec![tag, 0x82];
    der.extend(length.to_be_bytes());
    if length < 0x80 {
        der = vec![tag, length as u8];
    } else if length < 0x100 {
        der = vec![tag, 0x81, length as u8];
    }
    der.extend_from_slice(content);
    der
}

const NAME: &str = "an authority";
const AUTHORITIES: usize = 8;
const RSA_BYTES: usize = 1024;
const INTEGER: u8 = 0x02;
const OCTET_STRING: u8 = 0x04;
const SEQUENCE: u8 = 0x30;

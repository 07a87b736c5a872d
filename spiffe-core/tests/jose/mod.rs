//! Keys of every type a JWT-SVID may be signed with, and tokens and key entries made of them by hand.
#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "shared by test programs, each of which uses its own part"
)]

use std::sync::LazyLock;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING,
    ECDSA_P521_SHA512_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm, KeyPair,
    RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256, RSA_PSS_SHA384,
    RSA_PSS_SHA512, RsaEncoding, RsaKeyPair,
};
use base64ct::{Base64UrlUnpadded, Encoding};

pub(crate) struct Keys {
    pub(crate) es256: EcdsaKeyPair,
    pub(crate) es384: EcdsaKeyPair,
    pub(crate) es512: EcdsaKeyPair,
    pub(crate) rsa: RsaKeyPair,
}

pub(crate) static KEYS: LazyLock<Keys> = LazyLock::new(|| Keys {
    es256: ec(&ECDSA_P256_SHA256_FIXED_SIGNING),
    es384: ec(&ECDSA_P384_SHA384_FIXED_SIGNING),
    es512: ec(&ECDSA_P521_SHA512_FIXED_SIGNING),
    rsa: RsaKeyPair::generate(KeySize::Rsa2048).unwrap(),
});

pub(crate) fn ec(algorithm: &'static EcdsaSigningAlgorithm) -> EcdsaKeyPair {
    EcdsaKeyPair::generate(algorithm).unwrap()
}

pub(crate) fn url64(bytes: impl AsRef<[u8]>) -> String {
    Base64UrlUnpadded::encode_string(bytes.as_ref())
}

/// `kty` and key members of an EC key, without braces.
pub(crate) fn ec_members(pair: &EcdsaKeyPair) -> String {
    let point = &pair.public_key().as_ref()[1..];
    let (x, y) = point.split_at(point.len() / 2);
    let curve = match x.len() {
        32 => "P-256",
        48 => "P-384",
        _ => "P-521",
    };
    let (x, y) = (url64(x), url64(y));
    format!(r#""kty":"EC","crv":"{curve}","x":"{x}","y":"{y}""#)
}

/// `kty` and key members of an RSA key, without braces.
pub(crate) fn rsa_members(pair: &RsaKeyPair) -> String {
    let public = pair.public_key();
    let n = url64(public.modulus().big_endian_without_leading_zero());
    let e = url64(public.exponent().big_endian_without_leading_zero());
    format!(r#""kty":"RSA","n":"{n}","e":"{e}""#)
}

/// A raw signature as JWS carries it.
pub(crate) fn sign(algorithm: &str, message: &[u8]) -> Vec<u8> {
    let rsa = |encoding: &'static dyn RsaEncoding| {
        let mut signature = vec![0; KEYS.rsa.public_modulus_len()];
        KEYS.rsa
            .sign(encoding, &SystemRandom::new(), message, &mut signature)
            .unwrap();
        signature
    };
    match algorithm {
        "ES256" => sign_ec(&KEYS.es256, message),
        "ES384" => sign_ec(&KEYS.es384, message),
        "ES512" => sign_ec(&KEYS.es512, message),
        "RS256" => rsa(&RSA_PKCS1_SHA256),
        "RS384" => rsa(&RSA_PKCS1_SHA384),
        "RS512" => rsa(&RSA_PKCS1_SHA512),
        "PS256" => rsa(&RSA_PSS_SHA256),
        "PS384" => rsa(&RSA_PSS_SHA384),
        "PS512" => rsa(&RSA_PSS_SHA512),
        other => panic!("{other} is no JWT-SVID algorithm"),
    }
}

pub(crate) fn sign_ec(pair: &EcdsaKeyPair, message: &[u8]) -> Vec<u8> {
    let signature = pair.sign(&SystemRandom::new(), message).unwrap();
    signature.as_ref().to_vec()
}

/// A token of this header and these claims, signed as `algorithm` says whatever the header does.
pub(crate) fn token(algorithm: &str, header: &str, claims: impl AsRef<[u8]>) -> String {
    let message = format!("{}.{}", url64(header), url64(claims));
    let signature = url64(sign(algorithm, message.as_bytes()));
    format!("{message}.{signature}")
}

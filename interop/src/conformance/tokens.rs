//! Keys, key sets and tokens of every shape that a case needs, right or wrong.

use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    self, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair, RsaEncoding, RsaKeyPair,
};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Map, Value, json};

/// The audience that tokens are for and verified with.
pub(crate) const AUDIENCE: &str = "conformance";

/// A key that signs tokens, and its name in the bundle.
#[derive(Debug)]
pub(crate) struct Key {
    kid: &'static str,
    pair: Pair,
}

#[derive(Debug)]
enum Pair {
    Ec(EcdsaKeyPair, &'static str),
    Ed25519(Ed25519KeyPair),
    Rsa(RsaKeyPair),
}

/// The keys of all cases; making them takes longer than any case.
#[derive(Debug)]
pub(crate) struct Keys {
    pub(crate) p256: Key,
    pub(crate) p384: Key,
    pub(crate) p521: Key,
    pub(crate) rsa: Key,
    pub(crate) ed25519: Key,
    /// Of the federated trust domain.
    pub(crate) federated: Key,
    /// In nobody's bundle to begin with.
    pub(crate) other: Key,
}

impl Keys {
    pub(crate) fn get() -> &'static Self {
        static KEYS: OnceLock<Keys> = OnceLock::new();
        KEYS.get_or_init(|| Self {
            p256: Key::ec("p256", &signature::ECDSA_P256_SHA256_FIXED_SIGNING, "P-256"),
            p384: Key::ec("p384", &signature::ECDSA_P384_SHA384_FIXED_SIGNING, "P-384"),
            p521: Key::ec("p521", &signature::ECDSA_P521_SHA512_FIXED_SIGNING, "P-521"),
            rsa: Key {
                kid: "rsa",
                pair: Pair::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).expect(KEYS_CAN_BE_MADE)),
            },
            ed25519: Key {
                kid: "ed25519",
                pair: Pair::Ed25519(Ed25519KeyPair::generate().expect(KEYS_CAN_BE_MADE)),
            },
            federated: Key::ec(
                "federated",
                &signature::ECDSA_P256_SHA256_FIXED_SIGNING,
                "P-256",
            ),
            other: Key::ec(
                "other",
                &signature::ECDSA_P256_SHA256_FIXED_SIGNING,
                "P-256",
            ),
        })
    }

    /// The keys of the own trust domain.
    pub(crate) fn own(&self) -> [&Key; 5] {
        [&self.p256, &self.p384, &self.p521, &self.rsa, &self.ed25519]
    }
}

impl Key {
    fn ec(
        kid: &'static str,
        algorithm: &'static EcdsaSigningAlgorithm,
        curve: &'static str,
    ) -> Self {
        let pair = EcdsaKeyPair::generate(algorithm).expect(KEYS_CAN_BE_MADE);
        Self {
            kid,
            pair: Pair::Ec(pair, curve),
        }
    }

    /// Its public half, for `use` jwt-svid.
    pub(crate) fn jwk(&self) -> Value {
        let mut jwk = match &self.pair {
            Pair::Ec(pair, curve) => {
                // An uncompressed point: 4, then both coordinates.
                let point = &pair.public_key().as_ref()[1..];
                let (x, y) = point.split_at(point.len() / 2);
                json!({"kty": "EC", "crv": curve, "x": base64url(x), "y": base64url(y)})
            }
            Pair::Ed25519(pair) => {
                json!({"kty": "OKP", "crv": "Ed25519", "x": base64url(pair.public_key().as_ref())})
            }
            Pair::Rsa(pair) => {
                let public = pair.public_key();
                json!({
                    "kty": "RSA",
                    "n": base64url(public.modulus().big_endian_without_leading_zero()),
                    "e": base64url(public.exponent().big_endian_without_leading_zero()),
                })
            }
        };
        jwk["kid"] = self.kid.into();
        jwk["use"] = "jwt-svid".into();
        jwk
    }

    fn public_pem(&self) -> String {
        let der: PublicKeyX509Der<'_> = match &self.pair {
            Pair::Ec(pair, _) => pair.public_key().as_der().expect(KEYS_CAN_BE_MADE),
            Pair::Ed25519(pair) => pair.public_key().as_der().expect(KEYS_CAN_BE_MADE),
            Pair::Rsa(pair) => pair.public_key().as_der().expect(KEYS_CAN_BE_MADE),
        };
        let text = STANDARD.encode(der.as_ref());
        let lines: Vec<&str> = text
            .as_bytes()
            .chunks(64)
            .filter_map(|line| std::str::from_utf8(line).ok())
            .collect();
        let body = lines.join("\n");
        format!("-----BEGIN PUBLIC KEY-----\n{body}\n-----END PUBLIC KEY-----\n")
    }

    /// Signs as `alg` where the key can, and with its own algorithm where it cannot.
    fn sign(&self, alg: &str, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match &self.pair {
            Pair::Ec(pair, _) => pair.sign(&random, message).map(|it| it.as_ref().to_vec()),
            Pair::Ed25519(pair) => Ok(pair.sign(message).as_ref().to_vec()),
            Pair::Rsa(pair) => {
                let padding: &dyn RsaEncoding = match alg {
                    "PS256" => &signature::RSA_PSS_SHA256,
                    "PS384" => &signature::RSA_PSS_SHA384,
                    "PS512" => &signature::RSA_PSS_SHA512,
                    "RS384" => &signature::RSA_PKCS1_SHA384,
                    "RS512" => &signature::RSA_PKCS1_SHA512,
                    _ => &signature::RSA_PKCS1_SHA256,
                };
                let mut signed = vec![0; pair.public_modulus_len()];
                pair.sign(padding, &random, message, &mut signed)
                    .map(|()| signed)
            }
        }
        .expect("a good key signs")
    }
}

/// A bundle of these keys.
pub(crate) fn jwks(keys: &[Value]) -> Vec<u8> {
    json!({ "keys": keys }).to_string().into_bytes()
}

/// A token before it is signed; by default one that is good for [`AUDIENCE`].
#[derive(Clone, Debug)]
pub(crate) struct Token<'k> {
    pub(crate) key: &'k Key,
    pub(crate) header: Map<String, Value>,
    pub(crate) claims: Map<String, Value>,
}

impl<'k> Token<'k> {
    pub(crate) fn new(subject: &str, key: &'k Key, alg: &str) -> Self {
        let now = now();
        let Value::Object(header) = json!({"alg": alg, "kid": key.kid, "typ": "JWT"}) else {
            unreachable!("the literal is an object")
        };
        let Value::Object(claims) =
            json!({"sub": subject, "aud": [AUDIENCE], "iat": now, "exp": now + MINUTES_5})
        else {
            unreachable!("the literal is an object")
        };
        Self {
            key,
            header,
            claims,
        }
    }

    pub(crate) fn header(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.header.insert(name.into(), value.into());
        self
    }

    pub(crate) fn claim(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.claims.insert(name.into(), value.into());
        self
    }

    pub(crate) fn without_header(mut self, name: &str) -> Self {
        self.header.remove(name);
        self
    }

    pub(crate) fn without_claim(mut self, name: &str) -> Self {
        self.claims.remove(name);
        self
    }

    /// Header and claims as they are signed.
    fn message(&self) -> String {
        let part = |members: &Map<String, Value>| {
            base64url(Value::Object(members.clone()).to_string().as_bytes())
        };
        format!("{}.{}", part(&self.header), part(&self.claims))
    }

    /// The compact form, signed by the key as the header says.
    pub(crate) fn sign(&self) -> String {
        let message = self.message();
        let alg = self.header.get("alg").and_then(Value::as_str);
        let signed = self.key.sign(alg.unwrap_or_default(), message.as_bytes());
        format!("{message}.{}", base64url(&signed))
    }

    /// The compact form with an empty signature.
    pub(crate) fn unsigned(&self) -> String {
        format!("{}.", self.message())
    }

    /// The compact form, authenticated with the PEM of the key's public half as an HMAC's secret.
    pub(crate) fn sign_with_public_key(&self, algorithm: hmac::Algorithm) -> String {
        let message = self.message();
        let secret = hmac::Key::new(algorithm, self.key.public_pem().as_bytes());
        let tag = hmac::sign(&secret, message.as_bytes());
        format!("{message}.{}", base64url(tag.as_ref()))
    }

    /// The same claims under the signature of others.
    pub(crate) fn with_signature_of(&self, other: &str) -> String {
        let signature = other.rsplit('.').next().unwrap_or_default();
        format!("{}.{signature}", self.message())
    }
}

/// A token whose signature differs in one bit.
pub(crate) fn turn_a_bit(token: &str) -> String {
    let (message, signature) = token.rsplit_once('.').unwrap_or_default();
    let mut bytes = URL_SAFE_NO_PAD.decode(signature).unwrap_or_default();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    format!("{message}.{}", base64url(&bytes))
}

/// A token in the flattened JSON serialisation (RFC 7515 §7.2.2).
pub(crate) fn as_json(token: &str) -> String {
    let parts: Vec<&str> = token.split('.').collect();
    json!({"protected": parts[0], "payload": parts[1], "signature": parts[2]}).to_string()
}

pub(crate) fn base64url(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Seconds since the epoch.
pub(crate) fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

pub(crate) const MINUTES_5: u64 = 300;

const KEYS_CAN_BE_MADE: &str = "the system gives randomness";

//! Verifying JWT-SVIDs.

use std::error::Error;
use std::hint::black_box;
use std::sync::Arc;

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, VerificationAlgorithm,
};
use base64ct::{Base64UrlUnpadded, Encoding};
use spiffe_core::bundle::{JwtAuthorities, JwtAuthority};
use spiffe_core::crypto::aws_lc_rs;
use spiffe_core::key::{KeyType, Signer};
use spiffe_core::svid::{JwtError, JwtSvid};
use spiffe_core::verify::JwtVerifier;
use spiffe_core::{Bundle, BundleSet, Timestamp, TrustDomain};
use x509_parser::prelude::{FromDer, SubjectPublicKeyInfo};

use super::Measured;
use crate::Effort;
use crate::fixtures::{now, ready};
use crate::measure::{contender, in_turns};
use crate::report::{Budget, Row};

pub(crate) const ES256: &str = "jwt/verify/es256";
pub(crate) const RS256: &str = "jwt/verify/rs256";

pub(crate) fn es256(effort: Effort) -> Measured {
    verify(
        effort,
        ES256,
        KeyType::EcP256,
        &ECDSA_P256_SHA256_FIXED,
        Budget::RatioAndBeyond(1.05, 1.5),
    )
}

pub(crate) fn rs256(effort: Effort) -> Measured {
    verify(
        effort,
        RS256,
        KeyType::Rsa2048,
        &RSA_PKCS1_2048_8192_SHA256,
        Budget::Ratio(1.15),
    )
}

/// The floor is the check alone, with the key parsed beforehand: no base64, no JSON, no claims.
fn verify(
    effort: Effort,
    row: &str,
    key_type: KeyType,
    algorithm: &'static dyn VerificationAlgorithm,
    budget: Budget,
) -> Measured {
    let token = Token::new(key_type)?;
    let (_, spki) = SubjectPublicKeyInfo::from_der(token.signer.public_key())?;
    let key = ParsedPublicKey::new(algorithm, &spki.subject_public_key.data)?;
    let (message, signature) = (token.message.as_bytes(), &token.signature);
    key.verify_sig(message, signature)?;
    let [ours, floor] = in_turns(
        effort.span,
        [
            contender(|| black_box(&token).verify()),
            contender(|| key.verify_sig(black_box(message), signature)),
        ],
    );
    Ok(vec![Row::new(
        row,
        "µs",
        ours / 1e3,
        "the signature check, key parsed",
        floor / 1e3,
        budget,
    )])
}

/// A JWT-SVID and what verifies it.
pub(crate) struct Token {
    pub(crate) token: String,
    message: String,
    signature: Vec<u8>,
    signer: Arc<dyn Signer>,
    pub(crate) bundles: BundleSet,
    verifier: JwtVerifier,
    now: Timestamp,
}

impl Token {
    pub(crate) fn new(key_type: KeyType) -> Result<Self, Box<dyn Error>> {
        let crypto = aws_lc_rs();
        let signer = crypto.load_key(&crypto.generate_key(key_type)?)?;
        let name = signer
            .algorithm()
            .jws_name()
            .ok_or("no JWT-SVID algorithm has such keys")?;
        let now = now();
        let issued = now.unix_seconds();
        let encode = |text: String| Base64UrlUnpadded::encode_string(text.as_bytes());
        let message = format!(
            "{}.{}",
            encode(format!(
                r#"{{"alg":"{name}","kid":"{KEY_ID}","typ":"JWT"}}"#
            )),
            encode(format!(
                r#"{{"aud":["{AUDIENCE}"],"exp":{},"iat":{issued},"sub":"spiffe://example.org/ns/prod/sa/web"}}"#,
                issued + 300
            ))
        );
        let signature = ready(signer.sign(message.as_bytes()))??;
        let authority = JwtAuthority::new(KEY_ID, signer.public_key().clone())
            .ok_or("the key is not one for JWT-SVIDs")?;
        let bundle = Bundle::new(TrustDomain::parse("example.org")?)
            .with_jwt_authorities(JwtAuthorities::from_iter([authority]));
        let token = Self {
            token: format!("{message}.{}", Base64UrlUnpadded::encode_string(&signature)),
            bundles: [bundle].into_iter().collect(),
            verifier: JwtVerifier::new(&*crypto),
            message,
            signature,
            signer,
            now,
        };
        token.verify()?;
        Ok(token)
    }

    pub(crate) fn verify(&self) -> Result<JwtSvid, JwtError> {
        self.verifier
            .verify(&self.token, AUDIENCE, &self.bundles, self.now)
    }
}

const KEY_ID: &str = "BzTsdkO4BPfjsBLbnKcwmz8yBbPbxvzZ";
pub(crate) const AUDIENCE: &str = "spiffe://example.org/db";

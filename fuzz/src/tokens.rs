//! One JWT authority of trust domain `a`, and tokens signed with it.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64ct::{Base64UrlUnpadded, Encoding};
use spiffe_core::{Bundle, BundleSet};

use crate::{domain, set};

/// Whom the tokens are for.
pub const AUDIENCE: &str = "db";

/// The claims of the one token that is good.
pub const CLAIMS: &str =
    r#"{"sub":"spiffe://a/x","aud":["db","cache"],"exp":1795000300,"iat":1795000000}"#;

const HEADER: &str = r#"{"alg":"ES256","kid":"k","typ":"JWT"}"#;

/// The authority's key, whose number is 0x0707…07.
fn key() -> EcdsaKeyPair {
    // PKCS#8: version, ecPublicKey on P-256, then RFC 5915's key without the public one.
    let head = b"\x30\x41\x02\x01\x00\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x04\x27\x30\x25\x02\x01\x01\x04\x20";
    let der = [&head[..], &[7; 32]].concat();
    EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &der).expect("a good key")
}

/// The authority as an entry of a bundle document, without its use.
pub(crate) fn jwk_members() -> String {
    let point = key();
    let point = &point.public_key().as_ref()[1..];
    let (x, y) = point.split_at(32);
    let (x, y) = (url64(x), url64(y));
    format!(r#""kty":"EC","crv":"P-256","kid":"k","x":"{x}","y":"{y}""#)
}

/// The bundle with the authority.
pub fn token_bundle() -> BundleSet {
    let document = format!(r#"{{"keys":[{{"use":"jwt-svid",{}}}]}}"#, jwk_members());
    set([Bundle::from_spiffe_json(domain(), document).expect("a good document")])
}

/// A token of these claims.
pub fn signed(claims: &str) -> String {
    let message = format!("{}.{}", url64(HEADER), url64(claims));
    let signature = key().sign(&SystemRandom::new(), message.as_bytes());
    let signature = signature.expect("randomness");
    format!("{message}.{}", url64(signature.as_ref()))
}

pub(crate) fn url64(bytes: impl AsRef<[u8]>) -> String {
    Base64UrlUnpadded::encode_string(bytes.as_ref())
}

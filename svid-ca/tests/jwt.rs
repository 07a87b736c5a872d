//! JWT-SVIDs as issued: header, claims, signature and refusals.
#![cfg(feature = "aws-lc-rs")]
#![allow(clippy::unwrap_used, reason = "these are tests")]

mod common;

use std::time::Duration;

use base64ct::{Base64UrlUnpadded, Encoding};
use common::{NOW, builder, ca, crypto, id, ready};
use serde_json::{Value, json};
use spiffe_core::key::{KeyType, ecdsa_to_der};
use spiffe_svid_ca::authority::Kind;
use spiffe_svid_ca::error::{CaError, IssueError, IssuerError};
use spiffe_svid_ca::{IssuedJwt, JwtSvidParams, TrustDomainCa};

fn params() -> JwtSvidParams {
    JwtSvidParams::new(id("spiffe://example.org/web"), "db")
}

fn issue(ca: &TrustDomainCa, params: &JwtSvidParams) -> Result<IssuedJwt, IssueError> {
    ready(ca.issue_jwt(params, NOW))
}

fn part(token: &str, at: usize) -> Vec<u8> {
    Base64UrlUnpadded::decode_vec(token.split('.').nth(at).unwrap()).unwrap()
}

fn json(token: &str, at: usize) -> Value {
    serde_json::from_slice(&part(token, at)).unwrap()
}

#[test]
fn header_and_claims_are_those_of_the_standard_and_no_others() {
    let ca = ca();
    let issued = issue(&ca, &params()).unwrap();
    let state = ca.state();
    let kid = state.slots(Kind::Jwt).active().unwrap().id();
    assert_eq!(issued.token.split('.').count(), 3);
    assert_eq!(
        json(&issued.token, 0),
        json!({"alg": "ES256", "kid": kid, "typ": "JWT"})
    );
    assert_eq!(
        json(&issued.token, 1),
        json!({
            "sub": "spiffe://example.org/web",
            "aud": ["db"],
            "exp": NOW.unix_seconds() + 300,
            "iat": NOW.unix_seconds(),
        })
    );
    assert_eq!(
        ca.bundle().jwt_authorities().find(kid).unwrap().key_id(),
        issued.authority
    );
}

#[test]
fn several_audiences_and_an_identifier_are_written_when_asked() {
    let ca = ca();
    let odd = "a \"quoted\" \u{e9}";
    let asked = params().with_audiences(["db", odd]).with_token_id();
    let first = json(&issue(&ca, &asked).unwrap().token, 1);
    let second = json(&issue(&ca, &asked).unwrap().token, 1);
    assert_eq!(first["aud"], json!(["db", odd]));
    assert_eq!(first["jti"].as_str().unwrap().len(), 32);
    assert_ne!(first["jti"], second["jti"]);
}

#[test]
fn further_claims_are_written_when_they_are_allowed_and_never_in_place_of_the_issuers_own() {
    let ca = ready(builder().jwt_claims(["iss", "tier"]).build(NOW)).unwrap();
    let asked = params()
        .with_claim("iss", "https://oidc.example.org")
        .with_claim("tier", json!(["gold", 1]));
    let claims = json(&issue(&ca, &asked).unwrap().token, 1);
    assert_eq!(claims["iss"], "https://oidc.example.org");
    assert_eq!(claims["tier"], json!(["gold", 1]));
    assert_eq!(claims["sub"], "spiffe://example.org/web");

    for name in ["role", "sub", "aud", "exp", "iat", "nbf", "jti", "", "Iss"] {
        let refused = issue(&ca, &params().with_claim(name, "x")).unwrap_err();
        assert!(
            matches!(&refused, IssueError::ClaimNotAllowed { name: found } if found == name),
            "{name}: {refused}"
        );
    }
    // Without a list nothing is allowed, and the own claims cannot be put on one.
    assert!(issue(&common::ca(), &params().with_claim("iss", "x")).is_err());
    let error = ready(builder().jwt_claims(["sub"]).build(NOW)).unwrap_err();
    assert!(matches!(error, CaError::Setting { .. }), "{error}");
    let long = |length| issue(&ca, &params().with_claim("iss", "x".repeat(length)));
    assert!(long(4000).is_ok());
    assert!(matches!(long(4096), Err(IssueError::ClaimsTooLong)));
}

#[test]
fn signatures_of_every_kind_verify_under_the_bundles_key() {
    for (kind, algorithm) in [
        (KeyType::EcP256, "ES256"),
        (KeyType::EcP384, "ES384"),
        (KeyType::EcP521, "ES512"),
        (KeyType::Rsa2048, "RS256"),
    ] {
        let ca = ready(builder().jwt_key_type(kind).build(NOW)).unwrap();
        let token = issue(&ca, &params()).unwrap().token;
        assert_eq!(json(&token, 0)["alg"], algorithm);
        let bundle = ca.bundle();
        let key = bundle.jwt_authorities().iter().next().unwrap().public_key();
        let (_, spki) = <x509_parser::x509::SubjectPublicKeyInfo<'_> as x509_parser::prelude::FromDer<_>>::from_der(key).unwrap();
        let raw = part(&token, 2);
        let signature = if kind == KeyType::Rsa2048 {
            raw
        } else {
            ecdsa_to_der(&raw)
        };
        let signed = &token[..token.rfind('.').unwrap()];
        let verify = |message: &str| {
            crypto().signature_algorithms().iter().any(|candidate| {
                candidate
                    .verify_signature(
                        &spki.subject_public_key.data,
                        message.as_bytes(),
                        &signature,
                    )
                    .is_ok()
            })
        };
        assert!(verify(signed), "{algorithm}");
        assert!(!verify(&signed[1..]), "{algorithm}");
    }
}

#[test]
fn audiences_are_required_named_and_bounded() {
    let ca = ca();
    let ask = |audiences: Vec<String>| issue(&ca, &params().with_audiences(audiences));
    assert!(ask(vec!["a".repeat(4096)]).is_ok());
    assert!(matches!(ask(vec![]), Err(IssueError::AudienceMissing)));
    assert!(matches!(
        ask(vec!["db".into(), String::new()]),
        Err(IssueError::AudienceEmpty)
    ));
    assert!(matches!(
        ask(vec!["a".repeat(4097)]),
        Err(IssueError::AudienceTooLong)
    ));
}

#[test]
fn the_subject_is_a_workload_of_the_own_trust_domain() {
    let ca = ca();
    let ask = |text| issue(&ca, &JwtSvidParams::new(id(text), "db"));
    assert!(ask("spiffe://example.org/web").is_ok());
    assert!(matches!(
        ask("spiffe://example.org"),
        Err(IssueError::PathMissing { .. })
    ));
    assert!(matches!(
        ask("spiffe://other.example/web"),
        Err(IssueError::ForeignTrustDomain { .. })
    ));
}

#[test]
fn a_lifetime_is_cut_to_the_authoritys_and_the_result_says_so() {
    let ca = ca();
    let end = NOW + Duration::from_secs(86_400);
    let ask = |seconds| issue(&ca, &params().with_ttl(Duration::from_secs(seconds))).unwrap();
    let (within, beyond) = (ask(86_400), ask(86_401));
    assert_eq!((within.expires_at, within.capped), (end, false));
    assert_eq!((beyond.expires_at, beyond.capped), (end, true));
    assert!(matches!(
        issue(&ca, &params().with_ttl(Duration::ZERO)),
        Err(IssueError::TtlTooShort)
    ));
}

#[test]
fn no_jwt_authority_has_an_ed25519_key() {
    let built = ready(builder().jwt_key_type(KeyType::Ed25519).build(NOW));
    assert!(matches!(
        built.unwrap_err(),
        CaError::Issuer(IssuerError::JwtAlgorithm)
    ));
}

#[test]
fn tokens_are_not_printed() {
    let issued = issue(&ca(), &params()).unwrap();
    assert!(!format!("{issued:?}").contains(&issued.token));
}

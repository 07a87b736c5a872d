//! JWT-SVIDs: every algorithm, and every rule broken one at a time, each beside a token that keeps it.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod jose;

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use proptest::prelude::*;
use spiffe_core::crypto::{CryptoProvider, aws_lc_rs};
use spiffe_core::key::{KeyError, KeyType, PrivateKey, Signer};
use spiffe_core::pki_types::{SignatureVerificationAlgorithm, SubjectPublicKeyInfoDer};
use spiffe_core::svid::{JwtError, JwtSvid, MAX_TOKEN_BYTES};
use spiffe_core::verify::{JwtVerifier, MAX_JWT_KEYS_TRIED};
use spiffe_core::{Bundle, BundleSet, Explanation, Outcome, Rule, Timestamp, TrustDomain};

use self::jose::{KEYS, ec, ec_members, rsa_members, sign, sign_ec, token, url64};

/// The time of every verification unless said otherwise.
const NOW: i64 = 1_800_000_000;
const AUDIENCE: &str = "db";
const HEADER: &str = r#"{"alg":"ES256","kid":"es256","typ":"JWT"}"#;
const CLAIMS: &str =
    r#"{"sub":"spiffe://example.org/web","aud":["db","cache"],"exp":1800000300,"iat":1800000000}"#;

fn bundle(trust_domain: &str, entries: &[String]) -> Bundle {
    let document = format!("{{\"keys\":[{}]}}", entries.join(","));
    let trust_domain = trust_domain.parse::<TrustDomain>().unwrap();
    let bundle = Bundle::from_spiffe_json(trust_domain, document).unwrap();
    assert_eq!(bundle.jwt_authorities().len(), entries.len());
    bundle
}

fn entry(kid: &str, members: &str) -> String {
    format!(r#"{{"use":"jwt-svid","kid":"{kid}",{members}}}"#)
}

/// example.org with a key of every type, other.org with none.
fn bundles() -> BundleSet {
    let keys = [
        entry("es256", &ec_members(&KEYS.es256)),
        entry("es384", &ec_members(&KEYS.es384)),
        entry("es512", &ec_members(&KEYS.es512)),
        entry("rsa", &rsa_members(&KEYS.rsa)),
    ];
    [bundle("example.org", &keys), bundle("other.org", &[])]
        .into_iter()
        .collect()
}

fn verifier() -> JwtVerifier {
    JwtVerifier::new(&*aws_lc_rs())
}

fn verify(token: &str) -> Result<JwtSvid, JwtError> {
    let now = Timestamp::from_unix_seconds(NOW);
    verifier().verify(token, AUDIENCE, &bundles(), now)
}

fn explain(token: &str) -> (Result<JwtSvid, JwtError>, Explanation) {
    let now = Timestamp::from_unix_seconds(NOW);
    verifier().explain(token, AUDIENCE, &bundles(), now)
}

#[track_caller]
fn accepted(token: &str) -> JwtSvid {
    verify(token).unwrap()
}

/// The token is refused for `rule`, the explanation agrees, and neither tells anything that it must not.
#[track_caller]
fn refused(token: &str, rule: Rule) {
    let error = verify(token).unwrap_err();
    let (verdict, tree) = explain(token);
    assert_eq!(verdict.unwrap_err(), error);
    let first = tree.first_failure().unwrap();
    assert_eq!((first.rule, &first.facts), (rule, &error.to_string()));
    assert!(tree.to_string().len() < 10_000, "{tree}");
    let long = token.split('.').filter(|part| part.len() > 20);
    assert!(
        !long.into_iter().any(|part| tree.to_string().contains(part)),
        "{tree}"
    );
    assert_eq!(error.rule(), rule, "{error}");
    let message = format!("{error} {error:?}");
    assert!(message.len() < 1500, "{message}");
    for part in token.split('.').filter(|part| part.len() > 20) {
        assert!(!message.contains(part), "{message}");
    }
}

fn with_claims(claims: impl AsRef<[u8]>) -> String {
    token("ES256", HEADER, claims)
}

fn with_header(header: &str) -> String {
    token("ES256", header, CLAIMS)
}

/// The claims with one member more; a repeated name is the caller's to avoid.
fn and(member: &str) -> String {
    with_claims(CLAIMS.replacen('{', &format!("{{{member},"), 1))
}

fn signed_by(pair: &EcdsaKeyPair, header: &str) -> String {
    let message = format!("{}.{}", url64(header), url64(CLAIMS));
    let signature = url64(sign_ec(pair, message.as_bytes()));
    format!("{message}.{signature}")
}

#[test]
fn every_algorithm_of_the_standard_verifies_with_and_without_a_key_id() {
    for (algorithm, kid) in [
        ("RS256", "rsa"),
        ("RS384", "rsa"),
        ("RS512", "rsa"),
        ("ES256", "es256"),
        ("ES384", "es384"),
        ("ES512", "es512"),
        ("PS256", "rsa"),
        ("PS384", "rsa"),
        ("PS512", "rsa"),
    ] {
        for header in [
            format!(r#"{{"alg":"{algorithm}","kid":"{kid}"}}"#),
            format!(r#"{{"alg":"{algorithm}"}}"#),
        ] {
            let svid = accepted(&token(algorithm, &header, CLAIMS));
            assert_eq!(svid.id().as_str(), "spiffe://example.org/web");
        }
        // The first character of a signature carries six of its bits, so another one is another signature.
        let honest = token(algorithm, &format!(r#"{{"alg":"{algorithm}"}}"#), CLAIMS);
        let (signed, signature) = honest.rsplit_once('.').unwrap();
        let other = if signature.starts_with('A') { 'B' } else { 'A' };
        let forged = format!("{signed}.{other}{}", &signature[1..]);
        refused(&forged, Rule::JwtSignature);
    }
}

#[test]
fn every_algorithm_is_refused_with_every_other_kind_of_key() {
    let kinds = |algorithm: &str| match algorithm {
        "ES256" => "es256",
        "ES384" => "es384",
        "ES512" => "es512",
        _ => "rsa",
    };
    for algorithm in ["RS256", "PS512", "ES256", "ES384", "ES512"] {
        for kid in ["es256", "es384", "es512", "rsa"] {
            if kid != kinds(algorithm) {
                let header = format!(r#"{{"alg":"{algorithm}","kid":"{kid}"}}"#);
                refused(&token(algorithm, &header, CLAIMS), Rule::JwtKeyAlgorithm);
            }
        }
    }
}

#[test]
fn the_svid_tells_its_claims() {
    let claims = r#"{"sub":"spiffe://example.org/web","aud":"db","exp":1800000300.75,"nbf":1799999999,
        "iat":1800000000,"iss":"x","jti":"y","x.example.org/role":{"level":9007199254740993}}"#;
    let token = with_claims(claims);
    let svid = accepted(&token);
    assert_eq!(svid.trust_domain().as_str(), "example.org");
    assert_eq!(svid.audience(), ["db"]);
    assert_eq!(svid.expires_at().to_string(), "2027-01-15T08:05:00.75Z");
    assert_eq!(
        svid.not_before(),
        Some(Timestamp::from_unix_seconds(NOW - 1))
    );
    assert_eq!(svid.issued_at(), Some(Timestamp::from_unix_seconds(NOW)));
    assert_eq!(svid.claims_json(), claims);
    assert_eq!(svid.secret_token(), token);
    assert_eq!(*svid.secret_authorization(), format!("Bearer {token}"));
    let all: serde_json::Map<String, serde_json::Value> = svid.claims().unwrap();
    assert_eq!(
        all["x.example.org/role"]["level"],
        9_007_199_254_740_993_u64
    );
    assert!(svid.claims::<Vec<String>>().is_err());
    assert_eq!(svid.hint(), None);
    assert_eq!(
        svid.with_hint(Some("internal".into())).hint(),
        Some("internal")
    );
}

#[test]
fn a_good_tokens_explanation_lists_every_rule_as_kept() {
    let (verdict, tree) = explain(&and(r#""nbf":5"#));
    assert!(verdict.is_ok() && tree.outcome == Outcome::Pass);
    assert!(
        tree.children
            .iter()
            .all(|node| node.outcome == Outcome::Pass)
    );
    let rules: Vec<_> = tree.children.iter().map(|node| node.rule).collect();
    for pair in [
        [Rule::JwtAlgorithm, Rule::JwtHeader],
        [Rule::JwtHeader, Rule::JwtSubject],
        [Rule::JwtSubject, Rule::JwtSignature],
        [Rule::JwtSignature, Rule::JwtAudience],
        [Rule::JwtAudience, Rule::JwtExpired],
        [Rule::JwtExpired, Rule::JwtNotYetValid],
    ] {
        let at = pair.map(|rule| rules.iter().position(|one| *one == rule));
        assert!(at[0].is_some() && at[0] < at[1], "{pair:?} in {rules:?}");
    }
}

#[test]
fn an_explanation_names_the_nearest_that_would_have_passed() {
    let nearest = |token: &str| {
        let (_, tree) = explain(token);
        tree.first_failure()
            .and_then(|node| node.nearest.clone())
            .unwrap()
    };
    let claims = |id: &str, aud: &str| {
        with_claims(format!(
            r#"{{"sub":"{id}","aud":"{aud}","exp":1800000300}}"#
        ))
    };
    assert_eq!(
        nearest(&claims("spiffe://example.org/web", "x")),
        "a token for \"db\""
    );
    assert_eq!(
        nearest(&claims("spiffe://unknown.org/web", "db")),
        "a JWT-SVID of example.org or other.org"
    );
    let unknown = with_header(r#"{"alg":"ES256","kid":"old"}"#);
    assert!(nearest(&unknown).contains("\"es256\" or \"es384\""));
    let at = |exp: i64, nbf: i64| {
        with_claims(format!(
            r#"{{"sub":"spiffe://example.org/web","aud":"db","exp":{exp},"nbf":{nbf}}}"#
        ))
    };
    let honest = with_claims(CLAIMS);
    let (signed, _) = honest.rsplit_once('.').unwrap();
    let (_, of_another) = with_header(r#"{"alg":"ES256"}"#)
        .rsplit_once('.')
        .map(|(a, b)| (a.to_owned(), b.to_owned()))
        .unwrap();
    for (token, told) in [
        (
            with_header(r#"{"alg":"none"}"#),
            "a token signed with ES256",
        ),
        (
            at(NOW - 61, 0),
            "the same token before 2027-01-15T07:58:59Z",
        ),
        (
            at(NOW + 300, NOW + 61),
            "the same token from 2027-01-15T08:01:01Z on",
        ),
        (
            with_header(r#"{"alg":"ES256","jku":"https://x"}"#),
            "the same token without \"jku\"",
        ),
        (
            format!("{signed}.{of_another}"),
            "signed with one of the JWT authorities",
        ),
    ] {
        assert!(nearest(&token).contains(told), "{}", nearest(&token));
    }
    let now = Timestamp::from_unix_seconds(NOW);
    let (_, tree) = verifier().explain(&honest, AUDIENCE, &BundleSet::new(), now);
    let failed = tree.first_failure().and_then(|node| node.nearest.clone());
    assert!(failed.unwrap().contains("no bundle is known at all"));
}

#[test]
fn a_refused_audience_is_told_with_a_few_of_the_tokens() {
    for (audiences, told) in [
        (1, r#""a0""#),
        (4, r#""a0", "a1", "a2", "a3""#),
        (6, r#""a0", "a1", "a2", "a3" and 2 more"#),
    ] {
        let all: Vec<_> = (0..audiences).map(|at| format!("\"a{at}\"")).collect();
        let token = with_claims(format!(
            r#"{{"sub":"spiffe://example.org/web","aud":[{}],"exp":1800000300}}"#,
            all.join(",")
        ));
        let error = verify(&token).unwrap_err();
        assert_eq!(error.rule(), Rule::JwtAudience);
        let text = error.to_string();
        assert!(
            text.contains(told) && (audiences > 4 || !text.contains("more")),
            "{text}"
        );
    }
}

/// AWS-LC as a stranger's provider, which checks through the algorithms it hands out, and only some of them.
#[derive(Debug)]
struct Stranger {
    algorithms: &'static [&'static dyn SignatureVerificationAlgorithm],
}

impl CryptoProvider for Stranger {
    fn signature_algorithms(&self) -> &'static [&'static dyn SignatureVerificationAlgorithm] {
        self.algorithms
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

#[test]
fn any_providers_algorithms_give_the_same_verdicts() {
    let now = Timestamp::from_unix_seconds(NOW);
    let algorithms = aws_lc_rs().signature_algorithms();
    let stranger = JwtVerifier::new(&Stranger { algorithms });
    let none = JwtVerifier::new(&Stranger { algorithms: &[] });
    // One set of bundles for all, so that what one verifier parses is there for the others.
    let bundles = bundles();
    for algorithm in [
        "RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "PS256", "PS384", "PS512",
    ] {
        let good = token(algorithm, &format!(r#"{{"alg":"{algorithm}"}}"#), CLAIMS);
        let (message, signature) = good.rsplit_once('.').unwrap();
        let forged = format!("{message}.{}", url64(vec![9; signature.len() * 3 / 4]));
        for verifier in [&verifier(), &stranger, &verifier()] {
            assert!(
                verifier.verify(&good, AUDIENCE, &bundles, now).is_ok(),
                "{algorithm}"
            );
            let error = verifier
                .verify(&forged, AUDIENCE, &bundles, now)
                .unwrap_err();
            assert_eq!(error.rule(), Rule::JwtSignature);
        }
        let error = none.verify(&good, AUDIENCE, &bundles, now).unwrap_err();
        assert_eq!(error.rule(), Rule::JwtAlgorithmUnsupported);
    }
}

#[test]
fn nothing_prints_the_token() {
    let token = with_claims(CLAIMS);
    let printed = format!("{:?}", accepted(&token));
    assert!(printed.contains("[token elided]") && printed.contains("example.org/web"));
    assert!(
        token.split('.').all(|part| !printed.contains(part)),
        "{printed}"
    );
}

#[test]
fn only_the_nine_algorithms_are_allowed() {
    for found in [
        r#""none""#,
        r#""None""#,
        r#""HS256""#,
        r#""HS384""#,
        r#""HS512""#,
        r#""EdDSA""#,
        r#""Ed25519""#,
        r#""ES256K""#,
        r#""es256""#,
        r#""ES256 ""#,
        r#""""#,
        "null",
        r#"["ES256"]"#,
        "256",
    ] {
        refused(
            &with_header(&format!(r#"{{"alg":{found},"kid":"es256"}}"#)),
            Rule::JwtAlgorithm,
        );
    }
    refused(
        &with_header(r#"{"kid":"es256","typ":"JWT"}"#),
        Rule::JwtAlgorithm,
    );
}

#[test]
fn the_algorithm_is_judged_before_anything_else() {
    let header = url64(r#"{"alg":"none","typ":7,"crit":1,"kid":[]}"#);
    for rest in ["", ".", "%%%.", "%%%", "e30.e30.e30.e30"] {
        refused(&format!("{header}.{rest}"), Rule::JwtAlgorithm);
    }
    // Of a good algorithm the same rests are told for what they are.
    let header = url64(HEADER);
    for rest in ["", "%%%", "e30.e30.e30.e30"] {
        refused(&format!("{header}.{rest}"), Rule::JwtMalformed);
    }
}

#[test]
fn a_token_is_three_parts_of_strict_base64url() {
    let good = with_claims(CLAIMS);
    accepted(&good);
    let (message, signature) = good.rsplit_once('.').unwrap();
    let json = r#"{"payload":"e30","signatures":[{"protected":"e30","signature":"AA"}]}"#;
    for token in [
        "",
        "abc",
        json,
        message,
        &format!("{message}."),
        &format!("{good}."),
        &format!("{good}.e30.e30"),
        &format!("{good}="),
        &format!(" {good}"),
        &format!("{good}\n"),
        &format!("{message}.{}", signature.replacen(&signature[..1], "+", 1)),
        &format!("{message}.{}", signature.replacen(&signature[..1], "/", 1)),
        &format!("{}=.{}", url64(HEADER), url64(CLAIMS)),
    ] {
        refused(token, Rule::JwtMalformed);
    }
}

#[test]
fn stray_bits_behind_the_last_byte_are_refused() {
    // 64 bytes leave 4 bits of the last digit unused.
    let good = with_claims(CLAIMS);
    let (rest, last) = good.split_at(good.len() - 1);
    let digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let value = digits.find(last).unwrap();
    assert_eq!(value & 0xf, 0);
    refused(
        &format!("{rest}{}", &digits[value + 1..value + 2]),
        Rule::JwtMalformed,
    );
}

#[test]
fn header_and_claims_are_json_objects_without_repeated_members() {
    for header in [
        "",
        "[]",
        "null",
        "{",
        r#"{"alg":"ES256","alg":"none"}"#,
        "\u{feff}{\"alg\":\"ES256\"}",
        r#"{"alg":"ES256","x":{"a":1,"a":2}}"#,
    ] {
        refused(&with_header(header), Rule::JwtJson);
    }
    for claims in [
        "",
        "[]",
        "7",
        "{",
        r#"{"a":1}{"#,
        r#"{"exp":1e400}"#,
        r#"{"sub":"spiffe://example.org/web","aud":"db","exp":1800000300,"exp":1}"#,
        r#"{"sub":"spiffe://example.org/web","aud":"db","exp":1800000300,"\u0065xp":1}"#,
        r#"{"sub":"spiffe://example.org/web","aud":"db","exp":1800000300,"x":[{"a":1,"a":1}]}"#,
    ] {
        refused(&with_claims(claims), Rule::JwtJson);
    }
    refused(&with_claims(b"{\"\xff\":1}"), Rule::JwtJson);
    refused(&with_claims("[".repeat(10_000)), Rule::JwtJson);
    accepted(&and(r#""a":{"b":1},"c":{"b":1}"#));
}

#[test]
fn header_members_that_change_the_processing_are_refused() {
    for member in [
        r#""crit":["exp"]"#,
        r#""crit":[]"#,
        r#""b64":false"#,
        r#""b64":"true""#,
        r#""zip":"DEF""#,
        r#""enc":"A256GCM""#,
        r#""jwk":{}"#,
        r#""jku":"https://x""#,
        r#""x5u":"https://x""#,
        r#""x5c":[]"#,
        r#""x5t":"AA""#,
        r##""x5t#S256":"AA""##,
    ] {
        let header = format!(r#"{{"alg":"ES256","kid":"es256",{member}}}"#);
        refused(&with_header(&header), Rule::JwtHeader);
    }
}

#[test]
fn other_header_members_are_refused_by_a_strict_verifier_only() {
    let now = Timestamp::from_unix_seconds(NOW);
    for (member, strict_takes_it) in [
        (r#""typ":"JWT""#, true),
        (r#""typ":"JOSE""#, true),
        (r#""cty":"JWT""#, false),
        (r#""b64":true"#, false),
        (r#""iss":"x""#, false),
    ] {
        let token = with_header(&format!(r#"{{"alg":"ES256","kid":"es256",{member}}}"#));
        accepted(&token);
        let strict = verifier().with_strict_header();
        let verdict = strict.verify(&token, AUDIENCE, &bundles(), now);
        assert_eq!(verdict.is_ok(), strict_takes_it, "{member}");
        if let Err(error) = verdict {
            assert_eq!(error.rule(), Rule::JwtHeader);
        }
    }
}

#[test]
fn typ_is_jwt_or_jose_where_present() {
    for typ in [
        r#""jwt""#,
        r#""at+jwt""#,
        r#""wit+jwt""#,
        r#""application/jwt""#,
        r#""""#,
        "7",
        "null",
    ] {
        let header = format!(r#"{{"alg":"ES256","kid":"es256","typ":{typ}}}"#);
        refused(&with_header(&header), Rule::JwtType);
    }
}

#[test]
fn the_key_id_is_a_string_and_names_an_authority_of_the_subjects_domain() {
    for kid in ["null", "7", r#"["es256"]"#] {
        refused(
            &with_header(&format!(r#"{{"alg":"ES256","kid":{kid}}}"#)),
            Rule::JwtKeyId,
        );
    }
    for kid in ["", "ES256", "es256 ", "../es256"] {
        refused(
            &with_header(&format!(r#"{{"alg":"ES256","kid":"{kid}"}}"#)),
            Rule::JwtKeyUnknown,
        );
    }
}

#[test]
fn the_subject_is_a_spiffe_id() {
    let claims = |sub: &str| with_claims(format!(r#"{{"sub":{sub},"aud":"db","exp":1800000300}}"#));
    accepted(&claims(r#""spiffe://example.org/web""#));
    accepted(&claims(r#""spiffe://example.org""#));
    for sub in [
        r#""""#,
        r#""workload""#,
        r#""SPIFFE://example.org/web""#,
        r#""spiffe://""#,
        r#""spiffe://example.org/""#,
        r#""spiffe://example.org/web?a=b""#,
        r#""spiffe://example.org/../web""#,
    ] {
        refused(&claims(sub), Rule::JwtSubject);
    }
    refused(
        &claims(&format!("\"spiffe://example.org/{}\"", "a".repeat(2048))),
        Rule::JwtSubject,
    );
    refused(
        &with_claims(r#"{"aud":"db","exp":1800000300}"#),
        Rule::JwtSubject,
    );
    for sub in ["null", "7", r#"["spiffe://example.org/web"]"#] {
        refused(&claims(sub), Rule::JwtClaimType);
    }
    let now = Timestamp::from_unix_seconds(NOW);
    let demanding = verifier().with_path_required();
    let verdict = |sub| demanding.verify(&claims(sub), AUDIENCE, &bundles(), now);
    assert!(verdict(r#""spiffe://example.org/web""#).is_ok());
    let error = verdict(r#""spiffe://example.org""#).unwrap_err();
    assert_eq!(error.rule(), Rule::JwtSubjectPath);
    let rootish = claims(r#""spiffe://example.org""#);
    let (_, tree) = demanding.explain(&rootish, AUDIENCE, &bundles(), now);
    let failed = tree.first_failure().unwrap();
    assert_eq!(failed.nearest.as_deref(), Some("a subject with a path"));
}

#[test]
fn the_expected_audience_is_among_the_tokens() {
    let claims = |aud: &str| {
        with_claims(format!(
            r#"{{"sub":"spiffe://example.org/web","aud":{aud},"exp":1800000300}}"#
        ))
    };
    for aud in [r#""db""#, r#"["db"]"#, r#"["cache","db"]"#] {
        accepted(&claims(aud));
    }
    let many: Vec<_> = (0..500).map(|n| format!("\"audience-{n}\"")).collect();
    for aud in [
        r#""DB""#,
        r#""db ""#,
        r#"["cache"]"#,
        r#""""#,
        r#"["d","b"]"#,
        r#""db,cache""#,
        &format!("[{}]", many.join(",")),
        &format!("\"{}\"", "x".repeat(5000)),
    ] {
        let error = verify(&claims(aud)).unwrap_err();
        assert_eq!(error.rule(), Rule::JwtAudience);
        assert!(error.to_string().len() < 500, "{error}");
    }
    refused(&claims("[]"), Rule::JwtAudienceMissing);
    refused(
        &with_claims(r#"{"sub":"spiffe://example.org/web","exp":1800000300}"#),
        Rule::JwtAudienceMissing,
    );
    for aud in [
        "null",
        "7",
        "{}",
        r#"["db",7]"#,
        r#"["db",null]"#,
        r#"[["db"]]"#,
    ] {
        refused(&claims(aud), Rule::JwtClaimType);
    }
    let now = Timestamp::from_unix_seconds(NOW);
    let error = verifier()
        .verify(&claims(r#""""#), "", &bundles(), now)
        .unwrap_err();
    assert_eq!(error.rule(), Rule::JwtExpectedAudience);
}

#[test]
fn a_token_expires_at_its_exp_plus_leeway_exactly() {
    let claims = |exp: &str| {
        with_claims(format!(
            r#"{{"sub":"spiffe://example.org/web","aud":"db","exp":{exp}}}"#
        ))
    };
    // The default leeway is 60 s.
    for exp in ["1799999941", "1799999940.000001", "1.9e9", "253402300799"] {
        accepted(&claims(exp));
    }
    for exp in [
        "1799999940",
        "1799999939.9",
        "1",
        "0",
        "-1",
        "-1e300",
        "-9223372036854775808",
    ] {
        refused(&claims(exp), Rule::JwtExpired);
    }
    for exp in ["null", r#""1800000300""#, "[1800000300]", "true", "{}"] {
        refused(&claims(exp), Rule::JwtClaimType);
    }
    for exp in [
        "253402300800",
        "9223372036854775808",
        "18446744073709551616",
        "1e300",
    ] {
        refused(&claims(exp), Rule::JwtClaimType);
    }
    refused(
        &with_claims(r#"{"sub":"spiffe://example.org/web","aud":"db"}"#),
        Rule::JwtExpiryMissing,
    );
}

#[test]
fn nbf_is_honoured_with_the_same_leeway() {
    for nbf in ["1800000060", "1800000000", "0", "1800000059.5", "-5"] {
        accepted(&and(&format!(r#""nbf":{nbf}"#)));
    }
    for nbf in [
        "1800000061",
        "1800000060.5",
        "1e300",
        "18446744073709551615",
    ] {
        refused(&and(&format!(r#""nbf":{nbf}"#)), Rule::JwtNotYetValid);
    }
    for nbf in ["null", r#""0""#, "[]", "false"] {
        refused(&and(&format!(r#""nbf":{nbf}"#)), Rule::JwtClaimType);
    }
}

#[test]
fn other_registered_claims_are_typed_and_the_rest_is_free() {
    let without_iat = |member: &str| {
        with_claims(format!(
            r#"{{"sub":"spiffe://example.org/web","aud":"db","exp":1800000300,{member}}}"#
        ))
    };
    for member in [
        r#""iat":99999999999"#,
        r#""iat":1.5"#,
        r#""iss":"x","jti":"""#,
        r#""role":null"#,
        r#""x":[1,"two",{"three":3}]"#,
    ] {
        accepted(&without_iat(member));
    }
    for member in [
        r#""iat":"0""#,
        r#""iat":null"#,
        r#""iss":7"#,
        r#""iss":null"#,
        r#""jti":[]"#,
    ] {
        refused(&without_iat(member), Rule::JwtClaimType);
    }
}

#[test]
fn the_leeway_can_be_set_from_nothing_to_five_minutes() {
    let at = |leeway: u64, now: i64| {
        let verifier = verifier().with_leeway(Duration::from_secs(leeway)).unwrap();
        let now = Timestamp::from_unix_seconds(now);
        verifier
            .verify(&with_claims(CLAIMS), AUDIENCE, &bundles(), now)
            .map_err(|error| error.rule())
            .map(|_| ())
    };
    assert_eq!(at(0, NOW + 299), Ok(()));
    assert_eq!(at(0, NOW + 300), Err(Rule::JwtExpired));
    assert_eq!(at(300, NOW + 599), Ok(()));
    assert_eq!(at(300, NOW + 600), Err(Rule::JwtExpired));
    let error = verifier()
        .with_leeway(Duration::from_millis(300_001))
        .unwrap_err();
    assert_eq!(error.rule(), Rule::JwtLeeway);
}

#[test]
fn the_subjects_trust_domain_picks_the_bundle() {
    let claims = |id: &str| with_claims(format!(r#"{{"sub":"{id}","aud":"db","exp":1800000300}}"#));
    accepted(&claims("spiffe://example.org/web"));
    refused(
        &claims("spiffe://unknown.org/web"),
        Rule::JwtTrustDomainUnknown,
    );
    refused(&claims("spiffe://other.org/web"), Rule::NoJwtAuthorities);
}

#[test]
fn a_key_of_one_domain_says_nothing_about_another() {
    let foreign = ec(&ECDSA_P256_SHA256_FIXED_SIGNING);
    let set: BundleSet = [
        bundle("example.org", &[entry("es256", &ec_members(&KEYS.es256))]),
        bundle("other.org", &[entry("es256", &ec_members(&foreign))]),
    ]
    .into_iter()
    .collect();
    let now = Timestamp::from_unix_seconds(NOW);
    let verdict = |token: &str| verifier().verify(token, AUDIENCE, &set, now);
    assert!(verdict(&signed_by(&KEYS.es256, HEADER)).is_ok());
    for header in [HEADER, r#"{"alg":"ES256"}"#] {
        let error = verdict(&signed_by(&foreign, header)).unwrap_err();
        assert_eq!(error.rule(), Rule::JwtSignature);
    }
}

#[test]
fn forged_signatures_are_refused() {
    let message = format!("{}.{}", url64(HEADER), url64(CLAIMS));
    let good = sign("ES256", message.as_bytes());
    accepted(&format!("{message}.{}", url64(&good)));
    let der = spiffe_core::key::ecdsa_to_der(&good);
    for signature in [
        vec![0; 64],
        vec![0xff; 64],
        der,
        good[..63].to_vec(),
        [&good[..], &[0]].concat(),
        vec![0],
    ] {
        refused(
            &format!("{message}.{}", url64(signature)),
            Rule::JwtSignature,
        );
    }
    let other = format!("{}.{}", url64(HEADER), url64(CLAIMS.replace("web", "db")));
    refused(&format!("{other}.{}", url64(&good)), Rule::JwtSignature);
}

#[test]
fn a_forged_token_is_told_no_more_than_that() {
    // Expired and for somebody else, but neither is known before the signature is.
    let claims = r#"{"sub":"spiffe://example.org/web","aud":"x","exp":1,"nbf":9999999999}"#;
    let genuine = with_claims(claims);
    refused(&genuine, Rule::JwtAudience);
    let (message, _) = genuine.rsplit_once('.').unwrap();
    refused(&format!("{message}.{}", url64([7; 64])), Rule::JwtSignature);
}

#[test]
fn a_key_for_one_algorithm_verifies_only_that() {
    let members = format!(r#""alg":"PS256",{}"#, rsa_members(&KEYS.rsa));
    let set: BundleSet = [bundle("example.org", &[entry("rsa", &members)])]
        .into_iter()
        .collect();
    let now = Timestamp::from_unix_seconds(NOW);
    for header in [r#"{"alg":"$","kid":"rsa"}"#, r#"{"alg":"$"}"#] {
        for (algorithm, expected) in [("PS256", None), ("RS256", Some(Rule::JwtKeyAlgorithm))] {
            let token = token(algorithm, &header.replace('$', algorithm), CLAIMS);
            let verdict = verifier().verify(&token, AUDIENCE, &set, now);
            assert_eq!(
                verdict.err().map(|error| error.rule()),
                expected,
                "{header}"
            );
        }
    }
}

#[test]
fn a_token_without_a_key_id_is_tried_with_a_bounded_number_of_keys() {
    let pairs: Vec<_> = (0..=MAX_JWT_KEYS_TRIED)
        .map(|_| ec(&ECDSA_P256_SHA256_FIXED_SIGNING))
        .collect();
    // Keys of other kinds do not count.
    let mut entries = vec![
        entry("es384", &ec_members(&KEYS.es384)),
        entry("rsa", &rsa_members(&KEYS.rsa)),
    ];
    entries.extend(
        (0..)
            .zip(&pairs)
            .map(|(n, pair)| entry(&n.to_string(), &ec_members(pair))),
    );
    let set: BundleSet = [bundle("example.org", &entries)].into_iter().collect();
    let now = Timestamp::from_unix_seconds(NOW);
    let verdict = |pair, header| {
        let verdict = verifier().verify(&signed_by(pair, header), AUDIENCE, &set, now);
        verdict.map(|_| ()).map_err(|error| error.rule())
    };
    let anonymous = r#"{"alg":"ES256"}"#;
    assert_eq!(verdict(&pairs[MAX_JWT_KEYS_TRIED - 1], anonymous), Ok(()));
    assert_eq!(
        verdict(&pairs[MAX_JWT_KEYS_TRIED], anonymous),
        Err(Rule::JwtSignature)
    );
    assert_eq!(
        verdict(&pairs[MAX_JWT_KEYS_TRIED], r#"{"alg":"ES256","kid":"16"}"#),
        Ok(())
    );
}

#[test]
fn clashing_keys_verify_nothing_with_or_without_a_key_id() {
    let other = ec(&ECDSA_P256_SHA256_FIXED_SIGNING);
    let document = format!(
        r#"{{"keys":[{},{},{}]}}"#,
        entry("es256", &ec_members(&KEYS.es256)),
        entry("es256", &ec_members(&other)),
        entry("es384", &ec_members(&KEYS.es384)),
    );
    let bundle = Bundle::from_spiffe_json("example.org".parse().unwrap(), document).unwrap();
    let set: BundleSet = [bundle].into_iter().collect();
    let now = Timestamp::from_unix_seconds(NOW);
    for (header, rule) in [
        (HEADER, Rule::JwtKeyUnknown),
        (r#"{"alg":"ES256"}"#, Rule::JwtKeyAlgorithm),
    ] {
        let error = verifier()
            .verify(&with_header(header), AUDIENCE, &set, now)
            .unwrap_err();
        assert_eq!(error.rule(), rule);
    }
}

#[test]
fn the_insecure_parser_applies_every_rule_but_signature_time_and_audience() {
    let claims = r#"{"sub":"spiffe://unknown.org/web","aud":"x","exp":1,"nbf":9999999999}"#;
    let (message, _) = with_claims(claims)
        .rsplit_once('.')
        .map(|(m, s)| (m.to_owned(), s.len()))
        .unwrap();
    let svid = JwtSvid::parse_insecure(&format!("{message}.AAAA")).unwrap();
    assert_eq!(svid.id().as_str(), "spiffe://unknown.org/web");
    assert_eq!(svid.expires_at(), Timestamp::from_unix_seconds(1));
    for (token, rule) in [
        (with_header(r#"{"alg":"none"}"#), Rule::JwtAlgorithm),
        (with_header(r#"{"alg":"ES256","typ":"x"}"#), Rule::JwtType),
        (
            with_claims(r#"{"sub":"x","aud":"x","exp":1}"#),
            Rule::JwtSubject,
        ),
        (
            with_claims(r#"{"sub":"spiffe://a/b","exp":1}"#),
            Rule::JwtAudienceMissing,
        ),
        (
            with_claims(r#"{"sub":"spiffe://a/b","aud":"x"}"#),
            Rule::JwtExpiryMissing,
        ),
        (format!("{message}."), Rule::JwtMalformed),
    ] {
        let error = JwtSvid::parse_insecure(&token).unwrap_err();
        assert_eq!(error.rule(), rule);
    }
}

#[test]
fn the_size_of_a_token_is_bounded() {
    let padded = |bytes: usize| and(&format!(r#""pad":"{}""#, "x".repeat(bytes)));
    accepted(&padded(MAX_TOKEN_BYTES * 3 / 4 - 500));
    refused(&padded(MAX_TOKEN_BYTES * 3 / 4), Rule::JwtTooLarge);
    refused(&"a.".repeat(1 << 19), Rule::JwtTooLarge);
    refused(&".".repeat(MAX_TOKEN_BYTES), Rule::JwtJson);
    let token = with_claims(CLAIMS);
    let now = Timestamp::from_unix_seconds(NOW);
    for (limit, good) in [
        (token.len(), true),
        (token.len() - 1, false),
        (usize::MAX, true),
    ] {
        let verifier = verifier().with_max_token_bytes(limit);
        let verdict = verifier.verify(&token, AUDIENCE, &bundles(), now);
        assert_eq!(verdict.is_ok(), good, "{limit}");
    }
}

proptest! {
    #[test]
    fn no_text_makes_the_verifier_panic(
        text in prop_oneof![
            ".{0,200}",
            "[A-Za-z0-9_-]{0,40}\\.[A-Za-z0-9_-]{0,40}\\.[A-Za-z0-9_-]{0,90}",
        ]
    ) {
        prop_assert!(verify(&text).is_err());
    }

    #[test]
    fn no_claims_make_the_verifier_panic(claims in any::<Vec<u8>>(), member in "[a-z\"\\\\{}\\[\\]:,0-9.eE+-]{0,40}") {
        prop_assert!(verify(&with_claims(claims)).is_err());
        let _ = verify(&and(&member));
    }

    #[test]
    fn a_changed_token_is_never_another_identity(at in any::<prop::sample::Index>(), byte in b'!'..=b'~') {
        let token = signed_by(&KEYS.es256, HEADER);
        let mut changed = token.clone().into_bytes();
        let at = at.index(changed.len());
        changed[at] = byte;
        let changed = String::from_utf8(changed).unwrap();
        if changed != token {
            prop_assert!(verify(&changed).is_err());
        }
    }
}

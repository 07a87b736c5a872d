//! Rows of the conformance table that concern SPIFFE IDs and tokens and that no other test shows.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod jose;

use spiffe_core::crypto::aws_lc_rs;
use spiffe_core::pki_types::CertificateDer;
use spiffe_core::svid::{X509Chain, bearer_token};
use spiffe_core::{
    Bundle, BundleSet, JwtVerifier, Policy, Rule, SpiffeId, Timestamp, TrustDomain, TrustDomainRef,
};

use self::jose::{KEYS, ec_members, token, url64};

const CLAIMS: &str = r#"{"sub":"spiffe://example.org/web","aud":"db","exp":1800000300}"#;
const ES256: &str = r#"{"alg":"ES256","kid":"e"}"#;

fn judge_with(key_use: &str, token: &str) -> Result<String, Rule> {
    let keys = ec_members(&KEYS.es256);
    let document = format!(r#"{{"keys":[{{{key_use}"kid":"e",{keys}}}]}}"#);
    let bundle = Bundle::from_spiffe_json("example.org".parse().unwrap(), document).unwrap();
    let bundles: BundleSet = [bundle].into_iter().collect();
    let now = Timestamp::from_unix_seconds(1_800_000_000);
    JwtVerifier::new(&*aws_lc_rs())
        .verify(token, "db", &bundles, now)
        .map(|svid| svid.id().to_string())
        .map_err(|error| error.rule())
}

fn judge(token: &str) -> Result<String, Rule> {
    judge_with(r#""use":"jwt-svid","#, token)
}

fn web() -> Result<String, Rule> {
    Ok("spiffe://example.org/web".into())
}

#[test]
fn a_path_may_be_a_hierarchy_or_opaque() {
    for (text, segments) in [
        (
            "spiffe://td/ns/staging/sa/default",
            &["ns", "staging", "sa", "default"][..],
        ),
        (
            "spiffe://td/9eebccd2-12bf-40a6-b262-65fe0487d453",
            &["9eebccd2-12bf-40a6-b262-65fe0487d453"],
        ),
        ("spiffe://td", &[]),
    ] {
        let id = SpiffeId::parse(text).unwrap();
        assert!(id.segments().eq(segments.iter().copied()), "{text}");
        assert_eq!(
            SpiffeId::from_segments(id.trust_domain(), segments.iter().copied()).unwrap(),
            id
        );
    }
}

#[test]
fn a_trust_domain_round_trips_through_its_own_id() {
    let name = TrustDomain::parse("example.org").unwrap();
    assert_eq!(name.id().to_string(), "spiffe://example.org");
    let id = SpiffeId::parse("spiffe://example.org").unwrap();
    assert_eq!((id.path(), id.trust_domain().to_owned()), ("", name));
}

#[test]
fn paths_differ_by_case_and_names_by_every_byte() {
    let parse = |text| SpiffeId::parse(text).unwrap();
    let lower = parse("spiffe://td/a");
    assert_eq!(lower, parse("spiffe://td/a"));
    assert_ne!(lower, parse("spiffe://td/A"));
    assert!(!Policy::id(lower.clone()).allows(parse("spiffe://td/A").as_ref()));
    assert!(Policy::id(lower.clone()).allows(lower.as_ref()));
    // No case is left to fold, and a trailing dot is a byte like any other.
    assert_ne!(
        TrustDomainRef::literal("td"),
        TrustDomainRef::literal("td.")
    );
    assert!(TrustDomain::parse("TD").is_err());
}

/// The same claim made in another trust domain is another claim.
#[test]
fn a_policy_for_one_trust_domain_says_nothing_about_another() {
    let here = SpiffeId::parse("spiffe://a/db").unwrap();
    let there = SpiffeId::parse("spiffe://b/db").unwrap();
    let longer = SpiffeId::parse("spiffe://a.b/db").unwrap();
    for policy in [
        Policy::id(here.clone()),
        Policy::trust_domain(here.trust_domain().to_owned()),
        Policy::below(TrustDomain::parse("a").unwrap().id()),
    ] {
        assert!(policy.allows(here.as_ref()), "{policy}");
        assert!(!policy.allows(there.as_ref()), "{policy}");
        assert!(!policy.allows(longer.as_ref()), "{policy}");
    }
}

#[test]
fn only_documents_with_a_spiffe_standard_are_svids() {
    assert_eq!(judge(&token("ES256", ES256, CLAIMS)), web());
    let jwe = format!(
        "{}.e30.e30.e30.e30",
        url64(r#"{"alg":"RSA-OAEP","enc":"A256GCM"}"#)
    );
    assert_eq!(judge(&jwe), Err(Rule::JwtAlgorithm));
    for text in [
        "v4.public.eyJzdWIiOiJzcGlmZmU6Ly9leGFtcGxlLm9yZy93ZWIifQ",
        "<saml:Assertion xmlns:saml=\"urn:oasis:names:tc:SAML:2.0:assertion\"/>",
        "ssh-ed25519-cert-v01@openssh.com AAAAIHNzaC1lZDI1NTE5",
        "-----BEGIN CERTIFICATE-----",
    ] {
        let refused = judge(text).unwrap_err();
        assert!(
            [Rule::JwtMalformed, Rule::JwtJson].contains(&refused),
            "{text}: {refused:?}"
        );
        let certificate = CertificateDer::from(text.as_bytes().to_vec());
        let error = X509Chain::new(vec![certificate]).unwrap_err();
        assert_eq!(error.rule(), Rule::CertMalformed, "{text}");
    }
}

#[test]
fn the_subject_counts_in_the_claims_alone() {
    let header = r#"{"alg":"ES256","kid":"e","sub":"spiffe://example.org/admin"}"#;
    assert_eq!(judge(&token("ES256", header, CLAIMS)), web());
    let without = CLAIMS.replace(r#""sub":"spiffe://example.org/web","#, "");
    assert_eq!(
        judge(&token("ES256", header, without)),
        Err(Rule::JwtSubject)
    );
}

#[test]
fn only_keys_for_jwt_svids_verify_them() {
    let good = token("ES256", ES256, CLAIMS);
    assert_eq!(judge_with(r#""use":"jwt-svid","#, &good), web());
    for key_use in [
        r#""use":"x509-svid","#,
        r#""use":"wit-svid","#,
        r#""use":"sig","#,
        "",
    ] {
        let refused = judge_with(key_use, &good);
        assert_eq!(refused, Err(Rule::NoJwtAuthorities), "{key_use}");
    }
}

#[test]
fn a_token_may_be_shown_twice() {
    let claims = CLAIMS.replacen('{', r#"{"jti":"once","#, 1);
    let token = token("ES256", ES256, claims);
    assert_eq!(judge(&token), web());
    assert_eq!(judge(&token), web());
}

/// A WIT-SVID is refused for its type alone, and for the audience that it lacks alone.
#[test]
fn a_wit_svid_is_no_jwt_svid() {
    assert_eq!(judge(&token("ES256", ES256, CLAIMS)), web());
    let typed = r#"{"alg":"ES256","kid":"e","typ":"wit+jwt"}"#;
    assert_eq!(judge(&token("ES256", typed, CLAIMS)), Err(Rule::JwtType));
    let claims = CLAIMS.replace(r#""aud":"db""#, r#""cnf":{"jwk":{"kty":"EC"}}"#);
    assert_eq!(
        judge(&token("ES256", ES256, &claims)),
        Err(Rule::JwtAudienceMissing)
    );
    assert_eq!(judge(&token("ES256", typed, &claims)), Err(Rule::JwtType));
}

#[test]
fn a_header_value_is_written_and_read_back() {
    let token = token("ES256", ES256, CLAIMS);
    let svid = spiffe_core::JwtSvid::parse_insecure(&token).unwrap();
    let value = svid.secret_authorization();
    assert!(value.starts_with("Bearer "));
    assert_eq!(bearer_token(&value).unwrap(), token);
}

#[test]
fn a_subject_of_the_greatest_length_is_proven() {
    let subject = |bytes: usize| {
        let head = "spiffe://example.org/";
        format!("{head}{}", "x".repeat(bytes - head.len()))
    };
    let judge = |bytes| {
        let claims = CLAIMS.replace("spiffe://example.org/web", &subject(bytes));
        judge(&token("ES256", ES256, claims))
    };
    assert_eq!(judge(2048), Ok(subject(2048)));
    assert_eq!(judge(2049), Err(Rule::JwtSubject));
}

//! Known faults of JOSE and SPIFFE libraries, replayed: each input that got through somewhere, beside a token that is
//! good here.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod jose;

use aws_lc_rs::hmac;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, KeyPair};
use spiffe_core::crypto::aws_lc_rs;
use spiffe_core::svid::MAX_TOKEN_BYTES;
use spiffe_core::{Bundle, BundleSet, JwtVerifier, Rule, Timestamp};

use self::jose::{KEYS, ec, ec_members, rsa_members, sign_ec, token, url64};

const CLAIMS: &str = r#"{"sub":"spiffe://example.org/web","aud":"db","exp":1800000300}"#;
const ES256: &str = r#"{"alg":"ES256","kid":"e"}"#;

fn judge(token: &str) -> Result<(), Rule> {
    let document = format!(
        r#"{{"keys":[{{"use":"jwt-svid","kid":"e",{}}},{{"use":"jwt-svid","kid":"r",{}}}]}}"#,
        ec_members(&KEYS.es256),
        rsa_members(&KEYS.rsa),
    );
    let bundle = Bundle::from_spiffe_json("example.org".parse().unwrap(), document).unwrap();
    let bundles: BundleSet = [bundle].into_iter().collect();
    let now = Timestamp::from_unix_seconds(1_800_000_000);
    JwtVerifier::new(&*aws_lc_rs())
        .verify(token, "db", &bundles, now)
        .map(|_| ())
        .map_err(|error| error.rule())
}

fn with_claims(claims: &str) -> Result<(), Rule> {
    judge(&token("ES256", ES256, claims))
}

/// A public key used as the secret of an HMAC.
#[test]
fn cve_2015_9235_a_public_key_is_no_secret() {
    let good = token("RS256", r#"{"alg":"RS256","kid":"r"}"#, CLAIMS);
    assert_eq!(judge(&good), Ok(()));
    let public = KEYS.rsa.public_key();
    let modulus = public.modulus().big_endian_without_leading_zero();
    for secret in [public.as_ref(), modulus, KEYS.es256.public_key().as_ref()] {
        for header in [
            r#"{"alg":"HS256","kid":"r"}"#,
            r#"{"alg":"HS256","kid":"e"}"#,
            r#"{"alg":"HS256"}"#,
        ] {
            let message = format!("{}.{}", url64(header), url64(CLAIMS));
            let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
            let tag = hmac::sign(&key, message.as_bytes());
            let forged = format!("{message}.{}", url64(tag));
            assert_eq!(judge(&forged), Err(Rule::JwtAlgorithm));
            // The same tag under an algorithm that is allowed.
            let claimed = forged.replacen(&url64(header), &url64(ES256), 1);
            assert_eq!(judge(&claimed), Err(Rule::JwtSignature));
        }
    }
    let unsigned = format!("{}.{}.", url64(r#"{"alg":"none"}"#), url64(CLAIMS));
    assert_eq!(judge(&unsigned), Err(Rule::JwtAlgorithm));
}

/// A key that the token brings along.
#[test]
fn cve_2018_0114_an_embedded_key_is_refused() {
    assert_eq!(with_claims(CLAIMS), Ok(()));
    let own = ec(&ECDSA_P256_SHA256_FIXED_SIGNING);
    for member in [
        format!(r#""jwk":{{{}}}"#, ec_members(&own)),
        r#""jku":"https://attacker.example/keys""#.into(),
        r#""x5c":["AAAA"]"#.into(),
        r#""x5u":"https://attacker.example/chain""#.into(),
    ] {
        let header = format!(r#"{{"alg":"ES256",{member}}}"#);
        let message = format!("{}.{}", url64(header), url64(CLAIMS));
        let signature = url64(sign_ec(&own, message.as_bytes()));
        let forged = format!("{message}.{signature}");
        assert_eq!(judge(&forged), Err(Rule::JwtHeader));
    }
}

/// An audience of another type that counted as none, and so as fitting.
#[test]
fn cve_2020_26160_an_audience_of_another_type_fits_nobody() {
    let aud = |aud: &str| with_claims(&CLAIMS.replace(r#""db""#, aud));
    assert_eq!(aud(r#"["x","db"]"#), Ok(()));
    assert_eq!(aud("[]"), Err(Rule::JwtAudienceMissing));
    for wrong in [r#"{"0":"db"}"#, "[[\"db\"]]", "[\"db\",1]", "null", "true"] {
        assert_eq!(aud(wrong), Err(Rule::JwtClaimType), "{wrong}");
    }
}

/// ECDSA signatures of zeros, and of other values outside the group's order.
#[test]
fn cve_2022_21449_zeros_are_no_signature() {
    assert_eq!(with_claims(CLAIMS), Ok(()));
    let message = format!("{}.{}", url64(ES256), url64(CLAIMS));
    let order = [
        0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xbc,
        0xe6, 0xfa, 0xad, 0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
    ];
    let one = std::array::from_fn(|at| u8::from(at == 31));
    let values = [[0; 32], one, order, [0xff; 32]];
    for r in values {
        for s in values {
            let forged = format!("{message}.{}", url64([r, s].concat()));
            assert_eq!(judge(&forged), Err(Rule::JwtSignature));
        }
    }
}

/// Tokens that are nothing but separators.
#[test]
fn cve_2025_27144_and_2025_30204_many_dots_cost_nothing() {
    assert_eq!(with_claims(CLAIMS), Ok(()));
    assert_eq!(judge(&".".repeat(10 << 20)), Err(Rule::JwtTooLarge));
    let dots = ".".repeat(MAX_TOKEN_BYTES - 100);
    assert_eq!(judge(&dots), Err(Rule::JwtJson));
    let after = format!("{}{dots}", url64(ES256));
    assert_eq!(judge(&after), Err(Rule::JwtMalformed));
}

/// "Expired" said of a token whose signature is wrong, and taken for the only thing wrong with it.
#[test]
fn cve_2024_51744_a_forged_token_is_never_called_expired() {
    let expired = token("ES256", ES256, CLAIMS.replace("1800000300", "1"));
    assert_eq!(judge(&expired), Err(Rule::JwtExpired));
    let (message, _) = expired.rsplit_once('.').unwrap();
    let forged = format!("{message}.{}", url64([1; 64]));
    assert_eq!(judge(&forged), Err(Rule::JwtSignature));
}

/// A JSON serialisation without a part that the parser took for granted.
#[test]
fn cve_2024_21664_json_serialisation_is_no_token() {
    assert_eq!(with_claims(CLAIMS), Ok(()));
    for text in [
        r#"{"signatures":[{"protected":"e30"}]}"#,
        r#"{"payload":"e30","protected":"e30"}"#,
        "{}",
        r#"{"a":"1.2.3"}"#,
    ] {
        assert_eq!(judge(text), Err(Rule::JwtMalformed), "{text}");
    }
}

/// Claims of a wrong type that counted as absent.
#[test]
fn cve_2026_25537_a_claim_of_a_wrong_type_is_not_absent() {
    let with = |member: &str| with_claims(&CLAIMS.replacen('{', &format!("{{{member},"), 1));
    for claim in ["nbf", "iat"] {
        assert_eq!(with(&format!("\"{claim}\":1700000000")), Ok(()));
        for value in ["\"9999999999\"", "null", "[]", "{}", "false", "\"\""] {
            let verdict = with(&format!("\"{claim}\":{value}"));
            assert_eq!(verdict, Err(Rule::JwtClaimType), "{claim} {value}");
        }
    }
    for value in ["\"1800000300\"", "null", "[1800000300]", "{}", "true"] {
        let verdict = with_claims(&CLAIMS.replace("1800000300", value));
        assert_eq!(verdict, Err(Rule::JwtClaimType), "{value}");
    }
}

/// SPIRE before 1.12.3 let tokens without `exp` pass.
#[test]
fn spire_1_12_3_a_token_without_expiry_is_refused() {
    assert_eq!(with_claims(CLAIMS), Ok(()));
    let without = CLAIMS.replace(r#","exp":1800000300"#, "");
    assert_eq!(with_claims(&without), Err(Rule::JwtExpiryMissing));
    let huge = CLAIMS.replace("1800000300", &"9".repeat(300));
    assert_eq!(with_claims(&huge), Err(Rule::JwtClaimType));
}

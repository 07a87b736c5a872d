//! Bundle documents and JWKS: what counts, what is ignored with which reason, and what refuses the whole document.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod jose;
mod support;

use std::time::Duration;

use aws_lc_rs::signature::ECDSA_P256_SHA256_FIXED_SIGNING;
use base64ct::{Base64, Encoding};
use proptest::prelude::*;
use rcgen::{CertifiedIssuer, KeyPair, PublicKeyData, SignatureAlgorithm};
use spiffe_core::bundle::{
    JwtAuthorities, JwtAuthority, MAX_AUTHORITIES, MAX_BUNDLE_DOCUMENT_BYTES, Succession,
    X509Authorities, X509Authority,
};
use spiffe_core::pki_types::SubjectPublicKeyInfoDer;
use spiffe_core::{Bundle, BundleSet, Rule, TrustDomain, TrustDomainRef};

use self::jose::{KEYS, ec, ec_members, rsa_members, url64};
use self::support::{Authority, ca_params, leaf_params, root};

fn domain() -> TrustDomain {
    "example.org".parse().unwrap()
}

fn parse(document: impl AsRef<[u8]>) -> Bundle {
    Bundle::from_spiffe_json(domain(), document).unwrap()
}

#[track_caller]
fn refused(document: impl AsRef<[u8]>, rule: Rule) {
    let error = Bundle::from_spiffe_json(domain(), document.as_ref()).unwrap_err();
    assert_eq!(error.rule(), rule, "{error}");
    assert!(error.to_string().len() < 600, "{error}");
}

fn document(entries: &[String]) -> String {
    format!("{{\"keys\":[{}]}}", entries.join(","))
}

/// The one entry is left out for `rule`; beside it a good one stands.
#[track_caller]
fn ignored(entry: &str, rule: Rule) {
    let bundle = parse(document(&[good(), entry.to_owned()]));
    let found: Vec<_> = bundle.ignored().map(|one| (one.index, one.rule)).collect();
    assert_eq!(found, [(1, rule)], "{:?}", bundle.ignored().next());
    assert_eq!(jwt_ids(&bundle), ["good"]);
    assert!(bundle.x509_authorities().is_empty());
}

/// The entry counts, beside a good one.
#[track_caller]
fn counted(entry: &str) -> Bundle {
    let bundle = parse(document(&[good(), entry.to_owned()]));
    assert_eq!(bundle.ignored().next(), None);
    let all = bundle.x509_authorities().len() + bundle.jwt_authorities().len();
    assert_eq!(all, 2);
    bundle
}

fn good() -> String {
    jwt("good", &ec_members(&KEYS.es256))
}

fn jwt(kid: &str, members: &str) -> String {
    format!(r#"{{"use":"jwt-svid","kid":"{kid}",{members}}}"#)
}

fn x509(members: &str, authority: &Authority) -> String {
    let x5c = Base64::encode_string(authority.der());
    format!(r#"{{"use":"x509-svid",{members}"x5c":["{x5c}"]}}"#)
}

fn authority() -> Authority {
    root(ca_params("root"))
}

/// `kty`, `crv`, `x`, `y` of an authority on P-256.
fn authority_members(authority: &Authority) -> String {
    let spki = authority.key().subject_public_key_info();
    let (x, y) = spki[spki.len() - 64..].split_at(32);
    let (x, y) = (url64(x), url64(y));
    format!(r#""kty":"EC","crv":"P-256","x":"{x}","y":"{y}","#)
}

fn jwt_ids(bundle: &Bundle) -> Vec<&str> {
    let keys = bundle.jwt_authorities().iter();
    keys.map(JwtAuthority::key_id).collect()
}

#[test]
fn a_document_gives_authorities_sequence_and_hint() {
    let root = authority();
    let bundle = parse(format!(
        r#" {{"spiffe_sequence":18446744073709551615,"keys":[{},{}],"spiffe_refresh_hint":2419200,"more":{{}}}} "#,
        x509(&authority_members(&root), &root),
        good(),
    ));
    assert_eq!(bundle.trust_domain(), &domain());
    assert_eq!(bundle.sequence(), Some(u64::MAX));
    assert_eq!(
        bundle.refresh_hint(),
        Some(Duration::from_secs(28 * 86_400))
    );
    let certificates: Vec<_> = bundle.x509_authorities().iter().collect();
    assert_eq!(certificates.len(), 1);
    assert_eq!(certificates[0].certificate(), root.der());
    assert_eq!(jwt_ids(&bundle), ["good"]);
    assert_eq!(bundle.ignored().count(), 0);
}

#[test]
fn a_document_without_usable_keys_is_a_bundle_that_trusts_nobody() {
    for text in [r#"{"keys":[]}"#, r#"{"keys":[{"kty":"AKP","use":"x"}]}"#] {
        let bundle = parse(text);
        assert!(bundle.x509_authorities().is_empty() && bundle.jwt_authorities().is_empty());
        assert_eq!((bundle.sequence(), bundle.refresh_hint()), (None, None));
    }
}

#[test]
fn a_document_is_an_object_with_an_array_of_keys() {
    for text in [
        "",
        "null",
        "[]",
        "7",
        "\"x\"",
        "{",
        r#"{"keys":[]"#,
        r#"{"keys":[]}x"#,
        "\u{feff}{\"keys\":[]}",
        "{'keys':[]}",
        r#"{"keys":[],}"#,
    ] {
        refused(text, Rule::BundleJson);
    }
    refused(b"{\"keys\":[],\"\xff\":1}", Rule::BundleJson);
    for text in [
        "{}",
        r#"{"keys":null}"#,
        r#"{"keys":{}}"#,
        r#"{"keys":"x"}"#,
        r#"{"Keys":[]}"#,
    ] {
        refused(text, Rule::BundleKeys);
    }
}

#[test]
fn a_repeated_member_refuses_the_document() {
    for text in [
        r#"{"keys":[],"keys":[]}"#,
        r#"{"keys":[],"\u006beys":[]}"#,
        r#"{"keys":[],"spiffe_sequence":1,"spiffe_sequence":1}"#,
        r#"{"keys":[{"use":"x","use":"x"}]}"#,
        r#"{"keys":[{"kid":"a","kid":"b","use":"jwt-svid"}]}"#,
        r#"{"keys":[],"more":[{"deep":{"a":1,"b":2,"a":3}}]}"#,
    ] {
        refused(text, Rule::BundleDuplicateMember);
    }
    refused(
        format!(r#"{{"keys":[],"{0}":1,"{0}":2}}"#, "\u{202e}x".repeat(1000)),
        Rule::BundleDuplicateMember,
    );
}

#[test]
fn a_fetched_bundle_replaces_the_held_one_unless_its_sequence_is_lower() {
    let key = r#"{"kty":"EC","use":"jwt-svid","kid":"k","crv":"P-256",
        "x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4","y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"}"#;
    let of = |keys: &str, sequence: Option<u64>| {
        parse(format!(r#"{{"keys":[{keys}]}}"#)).with_sequence(sequence)
    };
    let one = |sequence| of(key, sequence);
    let none = |sequence| of("", sequence);
    assert_eq!(one(None).jwt_authorities().len(), 1);
    for (fetched, held, expected) in [
        (one(Some(8)), none(Some(7)), Succession::Newer),
        (one(Some(6)), none(Some(7)), Succession::Older),
        (one(Some(6)), one(Some(7)), Succession::Older),
        (one(Some(7)), none(Some(7)), Succession::Reissued),
        (one(Some(7)), one(Some(7)), Succession::Same),
        (one(Some(8)), one(Some(7)), Succession::Same),
        (one(None), none(Some(7)), Succession::Newer),
        (one(Some(1)), none(None), Succession::Newer),
        (one(None), one(None), Succession::Same),
    ] {
        assert_eq!(fetched.succession(&held), expected, "{fetched:?} {held:?}");
    }
}

#[test]
fn sequence_and_hint_are_exact_unsigned_integers() {
    let sequence = |text: &str| format!(r#"{{"keys":[],"spiffe_sequence":{text}}}"#);
    for (text, value) in [("0", 0), ("9007199254740993", 9_007_199_254_740_993)] {
        assert_eq!(parse(sequence(text)).sequence(), Some(value));
    }
    let hint = |text: &str| format!(r#"{{"keys":[],"spiffe_refresh_hint":{text}}}"#);
    let read = |text: &str| parse(hint(text)).refresh_hint();
    assert_eq!(read("300"), Some(Duration::from_secs(300)));
    assert_eq!(read("0"), None);
    assert_eq!(
        read("18446744073709551615"),
        Some(Duration::from_secs(u64::MAX))
    );
    for text in [
        "-1",
        "1.5",
        "\"1\"",
        "1e3",
        "null",
        "[]",
        "18446744073709551616",
        "true",
        "-0",
    ] {
        refused(sequence(text), Rule::BundleSequence);
        refused(hint(text), Rule::BundleRefreshHint);
    }
}

#[test]
fn entries_of_unknown_type_or_use_are_ignored() {
    let members = ec_members(&KEYS.es384);
    let rest = &members[r#""kty":"EC","#.len()..];
    for kty in [
        r#""AKP""#, r#""ec""#, r#""oct""#, r#""""#, "null", "7", "[]",
    ] {
        let entry = format!(r#"{{"kty":{kty},"use":"jwt-svid","kid":"a",{rest}}}"#);
        ignored(&entry, Rule::JwkKty);
    }
    ignored(
        &format!(r#"{{"use":"jwt-svid","kid":"a",{rest}}}"#),
        Rule::JwkKty,
    );
    for key_use in [
        r#""X509-SVID""#,
        r#""jwt_svid""#,
        r#""JWT-SVID""#,
        r#""sig""#,
        r#""enc""#,
        r#""""#,
        "null",
        "7",
        r#"["jwt-svid"]"#,
    ] {
        ignored(
            &format!(r#"{{"use":{key_use},"kid":"a",{members}}}"#),
            Rule::JwkUse,
        );
    }
    ignored(&format!(r#"{{"kid":"a",{members}}}"#), Rule::JwkUse);
    for entry in ["null", "7", "[]", "\"x\""] {
        ignored(entry, Rule::JwkKey);
    }
    counted(&format!(
        r#"{{"use":"jwt-svid","kid":"a","odd":[null],{members}}}"#
    ));
}

#[test]
fn wit_keys_are_known_and_not_kept() {
    let wit = format!(
        r#"{{"use":"wit-svid","kid":"w",{}}}"#,
        ec_members(&KEYS.es384)
    );
    let bundle = parse(document(&[good(), wit]));
    assert_eq!(bundle.ignored().count(), 0);
    assert_eq!(jwt_ids(&bundle), ["good"]);
}

#[test]
fn jwt_keys_need_a_key_id() {
    let members = ec_members(&KEYS.es384);
    ignored(&format!(r#"{{"use":"jwt-svid",{members}}}"#), Rule::JwkKid);
    for kid in [r#""""#, "null", "7", "[]"] {
        ignored(
            &format!(r#"{{"use":"jwt-svid","kid":{kid},{members}}}"#),
            Rule::JwkKid,
        );
    }
    counted(&jwt(" ", &members));
}

#[test]
fn jwt_keys_are_of_the_kinds_that_the_algorithms_use() {
    for members in [
        ec_members(&KEYS.es384),
        ec_members(&KEYS.es512),
        rsa_members(&KEYS.rsa),
    ] {
        counted(&jwt("a", &members));
    }
    let zeros = |bytes| url64(vec![0; bytes]);
    let point = |curve: &str, x: usize, y: usize| {
        let (x, y) = (zeros(x), zeros(y));
        format!(r#""kty":"EC","crv":"{curve}","x":"{x}","y":"{y}""#)
    };
    for members in [
        point("secp256k1", 32, 32),
        point("P-224", 28, 28),
        point("p-256", 32, 32),
        format!(r#""kty":"OKP","crv":"Ed25519","x":"{}""#, zeros(32)),
        format!(r#""kty":"OKP","crv":"Ed448","x":"{}""#, zeros(57)),
        format!(r#""kty":"RSA","e":"AQAB","n":"{}""#, url64([0x7f; 256])),
        format!(r#""kty":"RSA","e":"AQAB","n":"{}""#, url64([0xff; 128])),
        format!(r#""kty":"RSA","e":"AQAB","n":"{}""#, url64([0xff; 1025])),
    ] {
        ignored(&jwt("a", &members), Rule::JwkAlgorithm);
    }
    counted(&jwt(
        "a",
        &format!(r#""kty":"RSA","e":"AQAB","n":"{}""#, url64([0xff; 1024])),
    ));
    for (curve, width) in [("P-256", 32), ("P-384", 48), ("P-521", 66)] {
        counted(&jwt("a", &point(curve, width, width)));
        for (x, y) in [
            (width - 1, width),
            (width, width + 1),
            (0, width),
            (width, 0),
        ] {
            ignored(&jwt("a", &point(curve, x, y)), Rule::JwkKey);
        }
    }
}

#[test]
fn key_members_are_strict_base64url() {
    let members = ec_members(&KEYS.es384);
    let x = members.split('"').nth(11).unwrap();
    assert_eq!(x.len(), 64);
    counted(&jwt("a", &members));
    for bad in [
        format!("\"{x}=\""),
        format!("\"{}+\"", &x[1..]),
        format!("\" {x}\""),
        format!("\"{x}\\n\""),
        "null".into(),
        "7".into(),
        "[]".into(),
        "\"\"".into(),
    ] {
        let entry = jwt("a", &members.replace(&format!("\"{x}\""), &bad));
        ignored(&entry, Rule::JwkKey);
    }
    let n = url64([0xff; 256]);
    let rsa = |n: &str, e: &str| jwt("a", &format!(r#""kty":"RSA","n":{n},"e":{e}"#));
    let n = &format!("\"{n}\"");
    counted(&rsa(n, "\"AQAB\""));
    let leading_zero = format!("\"{}\"", url64([vec![0], vec![0xff; 256]].concat()));
    for (n, e) in [
        (n.as_str(), "\"AAEAAQ\""),
        (n, "\"AQ\""),
        (n, "\"AA\""),
        (n, "\"Ag\""),
        (n, "\"AQAAAAE\""),
        (n, "\"AQAC\""),
        // The last digit carries a bit of nothing.
        (n, "\"AR\""),
        (n, "65537"),
        (n, "null"),
        (&leading_zero, "\"AQAB\""),
        ("null", "\"AQAB\""),
    ] {
        ignored(&rsa(n, e), Rule::JwkKey);
    }
    for missing in [
        r#""kty":"RSA","e":"AQAB""#,
        &format!(r#""kty":"RSA","n":{n}"#),
        r#""kty":"EC","crv":"P-256","x":"AA""#,
        r#""kty":"EC","x":"AA","y":"AA""#,
        r#""kty":"EC","crv":7,"x":"AA","y":"AA""#,
    ] {
        ignored(&jwt("a", missing), Rule::JwkKey);
    }
    ignored(&jwt("a", &format!(r#""alg":7,{members}"#)), Rule::JwkKey);
    let bundle = counted(&jwt("a", &format!(r#""alg":"ES256",{members}"#)));
    let key = bundle.jwt_authorities().find("a").unwrap();
    assert_eq!(key.algorithm(), Some("ES256"));
}

#[test]
fn the_first_value_of_x5c_is_the_authority() {
    let root = authority();
    let x5c = |value: &str| format!(r#"{{"use":"x509-svid","kty":"EC","x5c":{value}}}"#);
    let der = Base64::encode_string(root.der());
    let other = Base64::encode_string(authority().der());
    for value in [
        format!("[\"{der}\"]"),
        format!("[\"{der}\",\"{other}\"]"),
        format!("[\"{der}\",\"garbage\",7,null]"),
    ] {
        let bundle = counted(&x5c(&value));
        let first = bundle.x509_authorities().iter().next().unwrap();
        assert_eq!(first.certificate(), root.der());
    }
    let url = url64(root.der());
    for value in [
        "[]",
        "null",
        "7",
        "{}",
        "\"x\"",
        "[7]",
        "[null]",
        "[\"%\"]",
        &format!("\"{der}\""),
        &format!("[\"{url}\"]"),
        &format!("[\" {der}\"]"),
        &format!("[\"{der}\\n\"]"),
        &format!("[\"{}\"]", der.trim_end_matches('=').to_owned() + "===="),
    ] {
        ignored(&x5c(value), Rule::JwkX5c);
    }
    ignored(r#"{"use":"x509-svid","kty":"EC"}"#, Rule::JwkX5c);
    for value in ["[\"\"]", "[\"AAAA\"]", &format!("[\"{}\"]", &der[..400])] {
        ignored(&x5c(value), Rule::CertMalformed);
    }
}

#[test]
fn what_is_no_ca_is_no_authority() {
    let leaf = root(leaf_params("spiffe://example.org/web"));
    ignored(&x509(r#""kty":"EC","#, &leaf), Rule::AuthorityNotCa);
}

#[test]
fn key_members_beside_x5c_are_the_certificates() {
    let root = authority();
    let members = authority_members(&root);
    counted(&x509(&members, &root));
    counted(&x509(r#""kty":"EC","#, &root));
    counted(&x509(
        r#""kty":"EC","crv":"P-256","kid":"tolerated","#,
        &root,
    ));
    for wrong in [
        authority_members(&authority()),
        r#""kty":"RSA","#.to_owned(),
        r#""kty":"OKP","#.to_owned(),
        r#""kty":"EC","crv":"P-384","#.to_owned(),
        r#""kty":"EC","crv":7,"#.to_owned(),
        r#""kty":"EC","x":"AA","#.to_owned(),
        r#""kty":"EC","y":null,"#.to_owned(),
    ] {
        ignored(&x509(&wrong, &root), Rule::JwkX5cKey);
    }
    ignored(&x509(r#""kty":"EC","kid":7,"#, &root), Rule::JwkKid);
}

#[test]
fn the_same_authority_twice_counts_once() {
    let root = authority();
    let entry = x509(r#""kty":"EC","#, &root);
    let key = good();
    let bundle = parse(document(&[entry.clone(), key.clone(), entry, key]));
    assert_eq!(bundle.x509_authorities().len(), 1);
    assert_eq!(jwt_ids(&bundle), ["good"]);
    let found: Vec<_> = bundle.ignored().map(|one| (one.index, one.rule)).collect();
    assert_eq!(
        found,
        [(2, Rule::AuthorityRepeated), (3, Rule::AuthorityRepeated)]
    );
}

#[test]
fn authorities_are_equal_by_certificate_and_taint() {
    let [first, second] =
        [authority(), authority()].map(|one| X509Authority::from_der(one.der().clone()).unwrap());
    assert_eq!(first, first.clone());
    assert_ne!(first, second);
    assert_ne!(first, first.clone().into_tainted());
    let both = [&first, &second]
        .map(|one| one.certificate().as_ref())
        .concat();
    let read = X509Authorities::from_concatenated_der(&both).unwrap();
    assert_eq!(read.iter().collect::<Vec<_>>(), [&first, &second]);
    assert_eq!((&read).into_iter().count(), 2);
    assert_eq!(read.to_concatenated_der(), both);
    let bundle = parse(document(&[good()]));
    let key = bundle.jwt_authorities().find("good").unwrap().clone();
    assert!(!key.is_tainted());
    assert!(key.clone().into_tainted().is_tainted());
    let mut set: BundleSet = [bundle].into_iter().collect();
    let name = domain();
    assert!(set.remove(name.as_ref()).is_some());
    assert!(set.remove(name.as_ref()).is_none() && set.is_empty());
}

#[test]
fn a_key_id_of_different_keys_names_none_of_them() {
    let first = ec_members(&KEYS.es256);
    let second = ec_members(&ec(&ECDSA_P256_SHA256_FIXED_SIGNING));
    let wit = format!(r#"{{"use":"wit-svid","kid":"b",{second}}}"#);
    let bundle = parse(document(&[
        jwt("a", &first),
        jwt("a", &second),
        jwt("a", &first),
        jwt("b", &first),
        wit,
        jwt("c", &first),
        jwt("A", &second),
        // A key that cannot be read is no other key.
        jwt("c", r#""kty":"EC","crv":"P-256","x":"AA","y":"AA""#),
    ]));
    assert_eq!(jwt_ids(&bundle), ["c", "A"]);
    let clashes: Vec<_> = bundle
        .ignored()
        .filter(|one| one.rule == Rule::JwkKidClash)
        .map(|one| one.index)
        .collect();
    assert_eq!(clashes, [0, 1, 2, 3, 4]);
    // The same key may serve both kinds of tokens.
    let same = format!(r#"{{"use":"wit-svid","kid":"a",{first}}}"#);
    let bundle = parse(document(&[same, jwt("a", &first)]));
    assert_eq!((jwt_ids(&bundle), bundle.ignored().count()), (vec!["a"], 0));
}

#[test]
fn a_workload_api_jwks_may_leave_use_out() {
    let keys = |key_use: &str| {
        let entry = format!(r#"{{{key_use}"kid":"a",{}}}"#, ec_members(&KEYS.es384));
        JwtAuthorities::from_workload_api_jwks(document(&[good(), entry])).unwrap()
    };
    for key_use in ["", r#""use":"sig","#, r#""use":"jwt-svid","#] {
        let keys = keys(key_use);
        assert!(
            keys.find("a").is_some() && keys.ignored().is_empty(),
            "{key_use}"
        );
    }
    for key_use in [
        r#""use":"x509-svid","#,
        r#""use":"wit-svid","#,
        r#""use":"enc","#,
        r#""use":"","#,
        r#""use":null,"#,
    ] {
        let keys = keys(key_use);
        assert!(keys.find("a").is_none() && keys.find("good").is_some());
        let found: Vec<_> = keys
            .ignored()
            .iter()
            .map(|one| (one.index, one.rule))
            .collect();
        assert_eq!(found, [(1, Rule::JwkUse)], "{key_use}");
    }
}

#[test]
fn a_workload_api_jwks_is_as_strict_as_a_bundle_document() {
    let parse = |text: &str| JwtAuthorities::from_workload_api_jwks(text);
    assert!(
        parse(r#"{"keys":[],"spiffe_sequence":"ignored"}"#)
            .unwrap()
            .is_empty()
    );
    for (text, rule) in [
        ("", Rule::BundleJson),
        ("{}", Rule::BundleKeys),
        (r#"{"keys":[],"keys":[]}"#, Rule::BundleDuplicateMember),
    ] {
        assert_eq!(parse(text).unwrap_err().rule(), rule);
    }
    let (members, other) = (ec_members(&KEYS.es256), ec_members(&KEYS.es384));
    let keys = parse(&document(&[
        format!("{{{members}}}"),
        format!(r#"{{"kid":"a",{members}}}"#),
        format!(r#"{{"kid":"a",{other}}}"#),
        format!(r#"{{"kid":"b",{other}}}"#),
    ]))
    .unwrap();
    assert_eq!(
        keys.iter().map(JwtAuthority::key_id).collect::<Vec<_>>(),
        ["b"]
    );
    let found: Vec<_> = keys
        .ignored()
        .iter()
        .map(|one| (one.index, one.rule))
        .collect();
    let clash = Rule::JwkKidClash;
    assert_eq!(found, [(0, Rule::JwkKid), (1, clash), (2, clash)]);
}

#[test]
fn written_documents_have_exactly_the_members_of_the_standard() {
    let root = authority();
    let bundle = parse(document(&[
        x509(r#""kty":"EC","kid":"tolerated","#, &root),
        jwt(
            "a\\\"",
            &format!(r#""key_ops":["verify"],{}"#, rsa_members(&KEYS.rsa)),
        ),
    ]))
    .with_sequence(Some(7))
    .with_refresh_hint(Some(Duration::from_millis(300_900)));
    let x5c = Base64::encode_string(root.der());
    let x509 = format!(
        r#"{{{}"use":"x509-svid","x5c":["{x5c}"]}}"#,
        authority_members(&root)
    );
    let jwt = format!(
        r#"{{{},"use":"jwt-svid","kid":"a\""}}"#,
        rsa_members(&KEYS.rsa)
    );
    assert_eq!(
        bundle.to_spiffe_json(),
        format!(r#"{{"keys":[{x509},{jwt}],"spiffe_sequence":7,"spiffe_refresh_hint":300}}"#)
    );
    assert_eq!(
        bundle.jwt_authorities().to_workload_api_jwks(),
        format!(r#"{{"keys":[{jwt}]}}"#)
    );
    assert_eq!(Bundle::new(domain()).to_spiffe_json(), r#"{"keys":[]}"#);
}

#[test]
fn a_restriction_to_one_algorithm_is_written_where_it_restricts_something() {
    let rsa = rsa_members(&KEYS.rsa);
    let ec = ec_members(&KEYS.es256);
    for (members, algorithm, kept) in [
        (&rsa, "RS256", true),
        (&rsa, "PS512", true),
        (&rsa, "ES256", true),
        (&rsa, "odd\\\"", true),
        (&ec, "ES256", false),
        (&ec, "ES384", true),
        (&ec, "RS256", true),
        (&ec, "", true),
    ] {
        let bundle = parse(document(&[jwt(
            "a",
            &format!(r#""alg":"{algorithm}",{members}"#),
        )]));
        let free = parse(document(&[jwt("a", members)]));
        assert_eq!(free.same_authorities(&bundle), !kept, "{algorithm}");
        let written = bundle.to_spiffe_json();
        let alg = format!(r#","alg":"{algorithm}"}}"#);
        assert_eq!(written.contains(&alg), kept, "{written}");
        assert!(parse(&written).same_authorities(&bundle), "{written}");
        let jwks = bundle.jwt_authorities().to_workload_api_jwks();
        assert_eq!(jwks.contains(&alg), kept, "{jwks}");
        assert!(!free.to_spiffe_json().contains("alg"));
    }
}

#[test]
fn authorities_of_every_kind_of_key_are_written_and_read_back() {
    let algorithms: [&'static SignatureAlgorithm; 5] = [
        &rcgen::PKCS_ECDSA_P256_SHA256,
        &rcgen::PKCS_ECDSA_P384_SHA384,
        &rcgen::PKCS_ECDSA_P521_SHA512,
        &rcgen::PKCS_ED25519,
        &rcgen::PKCS_RSA_SHA256,
    ];
    let pairs = algorithms.map(|algorithm| KeyPair::generate_for(algorithm).unwrap());
    let jwt: JwtAuthorities = (0..)
        .zip(&pairs)
        .filter_map(|(n, pair)| {
            let spki = SubjectPublicKeyInfoDer::from(pair.subject_public_key_info());
            JwtAuthority::new(format!("key-{n}"), spki)
        })
        .collect();
    assert_eq!(jwt.len(), 4, "all but Ed25519");
    let certificates = pairs.map(|pair| {
        let root = CertifiedIssuer::self_signed(ca_params("root"), pair).unwrap();
        root.der().clone()
    });
    let x509 = X509Authorities::from_certificates(certificates);
    assert_eq!((x509.len(), x509.ignored().len()), (5, 0));
    let bundle = Bundle::new(domain())
        .with_x509_authorities(x509)
        .with_jwt_authorities(jwt);
    let written = bundle.to_spiffe_json();
    let read = parse(&written);
    assert!(read.same_authorities(&bundle));
    assert_eq!(read.ignored().next(), None);
    assert_eq!(read.to_spiffe_json(), written);
    let jwks = bundle.jwt_authorities().to_workload_api_jwks();
    let read = JwtAuthorities::from_workload_api_jwks(jwks).unwrap();
    let again = Bundle::new(domain()).with_jwt_authorities(read);
    let only_jwt = Bundle::new(domain()).with_jwt_authorities(bundle.jwt_authorities().clone());
    assert!(again.same_authorities(&only_jwt));
}

#[test]
fn a_bundle_map_holds_bundles_by_the_names_of_trust_domains() {
    let text = format!(
        r#"{{"trust_domains":{{"b.org":{{"keys":[{}],"spiffe_sequence":3,"spiffe_refresh_hint":1}},"a.org":{{"keys":[]}}}},"more":1}}"#,
        good()
    );
    let set = BundleSet::from_bundle_map_json(&text).unwrap();
    let names: Vec<_> = set
        .iter()
        .map(|bundle| bundle.trust_domain().as_str())
        .collect();
    assert_eq!(names, ["a.org", "b.org"]);
    let bundle = set.get(TrustDomainRef::literal("b.org")).unwrap();
    assert_eq!(jwt_ids(bundle), ["good"]);
    assert_eq!(bundle.refresh_hint(), Some(Duration::from_secs(1)));
    let written = set.to_bundle_map_json();
    assert!(written.contains("\"spiffe_sequence\":3") && !written.contains("refresh_hint"));
    let read = BundleSet::from_bundle_map_json(&written).unwrap();
    assert!(read.same_authorities(&set));
    let empty = r#"{"trust_domains":{}}"#;
    assert!(BundleSet::from_bundle_map_json(empty).unwrap().is_empty());
    assert_eq!(BundleSet::new().to_bundle_map_json(), empty);
}

#[test]
fn a_bundle_map_is_good_as_a_whole_or_not_at_all() {
    let good = r#""a.org":{"keys":[]}"#;
    let map = |entry: &str| format!(r#"{{"trust_domains":{{{good}{entry}}}}}"#);
    assert_eq!(BundleSet::from_bundle_map_json(map("")).unwrap().len(), 1);
    for (text, rule) in [
        ("{}".to_owned(), Rule::BundleMap),
        (r#"{"trust_domains":null}"#.into(), Rule::BundleMap),
        (r#"{"trust_domains":[]}"#.into(), Rule::BundleMap),
        ("[]".into(), Rule::BundleJson),
        (
            format!(r#"{{"trust_domains":{{{good}}},"trust_domains":{{}}}}"#),
            Rule::BundleDuplicateMember,
        ),
        (map(&format!(",{good}")), Rule::BundleDuplicateMember),
        (
            map(r#","spiffe://b.org":{"keys":[]}"#),
            Rule::BundleTrustDomain,
        ),
        (map(r#","B.org":{"keys":[]}"#), Rule::BundleTrustDomain),
        (map(r#","":{"keys":[]}"#), Rule::BundleTrustDomain),
        (map(r#","b.org":{}"#), Rule::BundleKeys),
        (map(r#","b.org":[]"#), Rule::BundleJson),
        (
            map(r#","b.org":{"keys":[],"spiffe_sequence":-1}"#),
            Rule::BundleSequence,
        ),
    ] {
        let error = BundleSet::from_bundle_map_json(&text).unwrap_err();
        assert_eq!(error.rule(), rule, "{text}: {error}");
    }
}

#[test]
fn keys_that_no_algorithm_uses_are_no_jwt_authority() {
    for bytes in [&b""[..], b"\x30\x00", &[0x30; 91]] {
        let spki = SubjectPublicKeyInfoDer::from(bytes.to_vec());
        assert_eq!(JwtAuthority::new("a", spki), None);
    }
    let pair = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let spki = pair.subject_public_key_info();
    let mut compressed = spki.clone();
    compressed[26] = 2;
    assert!(JwtAuthority::new("a", SubjectPublicKeyInfoDer::from(spki.clone())).is_some());
    assert_eq!(
        JwtAuthority::new("", SubjectPublicKeyInfoDer::from(spki)),
        None
    );
    assert_eq!(
        JwtAuthority::new("a", SubjectPublicKeyInfoDer::from(compressed)),
        None
    );
}

#[test]
fn the_number_of_certificates_of_a_document_is_bounded() {
    // Elements of DER, though no certificates.
    let many = |count: usize| X509Authorities::from_concatenated_der(&[0x30, 0].repeat(count));
    let most = many(MAX_AUTHORITIES).unwrap();
    assert_eq!((most.len(), most.ignored().len()), (0, MAX_AUTHORITIES));
    for count in [MAX_AUTHORITIES + 1, MAX_AUTHORITIES + 2] {
        assert_eq!(many(count).unwrap_err().rule(), Rule::DocumentTooLarge);
    }
}

#[test]
fn size_depth_and_number_of_entries_are_bounded() {
    let entries = |number: usize| format!("{{\"keys\":[{}{{}}]}}", "{},".repeat(number - 1));
    let most = parse(entries(MAX_AUTHORITIES));
    assert_eq!(most.ignored().count(), MAX_AUTHORITIES);
    refused(entries(MAX_AUTHORITIES + 1), Rule::DocumentTooLarge);
    refused(document(&vec![good(); 100_000]), Rule::DocumentTooLarge);
    refused(
        format!("{{\"keys\":[{}]}}", "0,".repeat(1 << 20) + "0"),
        Rule::DocumentTooLarge,
    );
    refused(
        " ".repeat(MAX_BUNDLE_DOCUMENT_BYTES + 1),
        Rule::DocumentTooLarge,
    );
    refused("[".repeat(1 << 20), Rule::BundleJson);
    refused("{\"a\":".repeat(1 << 20), Rule::BundleJson);
    let names: String = (0..100_000).map(|n| format!(",\"{n}\":0")).collect();
    parse(format!("{{\"keys\":[]{names}}}"));
}

/// A key under a key ID of any text.
fn any_jwt_authority() -> impl Strategy<Value = JwtAuthority> {
    (".{1,20}", 0..4_usize).prop_map(|(kid, kind)| {
        let members = match kind {
            0 => ec_members(&KEYS.es256),
            1 => ec_members(&KEYS.es384),
            2 => ec_members(&KEYS.es512),
            _ => rsa_members(&KEYS.rsa),
        };
        let bundle = parse(document(&[jwt("a", &members)]));
        let key = bundle.jwt_authorities().find("a").unwrap();
        JwtAuthority::new(kid, key.public_key().clone()).unwrap()
    })
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(
        keys in prop::collection::vec(any_jwt_authority(), 0..6),
        roots in 0..3_usize,
        sequence in any::<Option<u64>>(),
        hint in prop::option::of(1..=u64::MAX),
    ) {
        let certificates = (0..roots).map(|_| authority().der().clone());
        let bundle = Bundle::new(domain())
            .with_x509_authorities(X509Authorities::from_certificates(certificates))
            .with_jwt_authorities(keys.into_iter().collect::<JwtAuthorities>())
            .with_sequence(sequence)
            .with_refresh_hint(hint.map(Duration::from_secs));
        let read = parse(bundle.to_spiffe_json());
        prop_assert!(read.same_authorities(&bundle));
        prop_assert_eq!(read.sequence(), bundle.sequence());
        prop_assert_eq!(read.refresh_hint(), bundle.refresh_hint());
        prop_assert_eq!(read.ignored().count(), 0);
    }

    #[test]
    fn no_bytes_make_the_readers_panic(bytes in any::<Vec<u8>>(), cut in any::<prop::sample::Index>(), byte: u8) {
        let _ = Bundle::from_spiffe_json(domain(), &bytes);
        let mut changed = document(&[good(), x509(r#""kty":"EC","#, &authority())]).into_bytes();
        let at = cut.index(changed.len());
        changed[at] = byte;
        let _ = Bundle::from_spiffe_json(domain(), &changed);
        let _ = JwtAuthorities::from_workload_api_jwks(&changed[..at]);
    }
}

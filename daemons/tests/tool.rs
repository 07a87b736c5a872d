//! The verbs for people: what they print, in both forms, and how they end.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod fixtures;

use std::path::Path;
use std::process::{Command, Output};

use fixtures::{AT, AT_SECONDS, authority, certificate, jwk, leaf, private_key, token};
use rcgen::{CertificateParams, DnType, KeyPair};
use serde_json::{Value, json};

fn spiffe(directory: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_spiffe"))
        .current_dir(directory)
        .args(arguments)
        .output()
        .unwrap()
}

/// Runs a verb and checks its exit status, and that an error is one line on standard error; gives standard output.
#[track_caller]
fn run(directory: &Path, arguments: &[&str], status: i32) -> String {
    let output = spiffe(directory, arguments);
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(
        output.status.code(),
        Some(status),
        "{arguments:?}: {errors}"
    );
    if status != 0 && !errors.is_empty() {
        assert!(
            errors.starts_with("error: ") && errors.lines().count() == 1,
            "{errors}"
        );
    }
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn data(directory: &Path, arguments: &[&str], status: i32) -> Value {
    let arguments: Vec<_> = arguments
        .iter()
        .copied()
        .chain(["--output", "json"])
        .collect();
    let text = run(directory, &arguments, status);
    let value: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["ok"], json!(status == 0), "{text}");
    value
}

/// A directory with a chain, its key, its bundle, another's bundle, and a token with its bundle.
fn files() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
    let (root, other) = (authority("root"), authority("other"));
    let (svid, key) = leaf("spiffe://a/x", &root);
    write("chain.pem", &certificate(svid.der()));
    write("key.pem", &private_key(&key));
    write("bundle.pem", &certificate(root.der()));
    write("other.pem", &certificate(other.der()));
    write(
        "both.pem",
        &(certificate(root.der()) + &certificate(other.der())),
    );
    let signer = KeyPair::generate().unwrap();
    let claims = json!({"sub": "spiffe://a/x", "aud": ["here"], "exp": AT_SECONDS});
    write("token.jwt", &token(&signer, &claims));
    write(
        "bundle.json",
        &json!({"keys": [jwk(&signer, Some("jwt-svid"))]}).to_string(),
    );
    directory
}

#[test]
fn an_id_is_taken_apart() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    assert_eq!(
        run(here, &["id", "parse", "spiffe://a.b/x"], 0),
        "id            spiffe://a.b/x\ntrust domain  a.b\npath          /x\n"
    );
    run(here, &["id", "parse", "SPIFFE://A.b/x"], 1);
    run(here, &["id", "parse", "--normalize", "SPIFFE://A.b/x"], 0);
    let refused = data(here, &["id", "parse", "spiffe://a/"], 1);
    assert_eq!(refused["error"]["code"], "id-trailing-slash");
    assert_eq!(refused["error"]["section"], "SPIFFE-ID §2.2");
}

#[test]
fn a_chain_is_verified_and_explained() {
    let files = files();
    let here = files.path();
    let ask = |verb: &[&'static str], more: &[&'static str]| {
        [verb, &["chain.pem", "--at", AT], more].concat()
    };
    let verify = |more| ask(&["x509", "verify"], more);
    let why = |more| ask(&["why"], more);
    let verified = run(here, &verify(&["--bundle", "a=bundle.pem"]), 0);
    assert!(
        verified.starts_with("verified      spiffe://a/x\n"),
        "{verified}"
    );
    let peer = data(
        here,
        &verify(&["--bundle", "a=bundle.pem", "--authorize", "domain:a"]),
        0,
    );
    assert_eq!(
        peer["value"],
        json!({"id": "spiffe://a/x", "chain_length": 1})
    );
    for (more, code) in [
        (&["--bundle", "a=other.pem"][..], "x509-untrusted"),
        (&["--bundle", "b=bundle.pem"], "x509-trust-domain-unknown"),
        (
            &["--bundle", "a=bundle.pem", "--authorize", "domain:b"],
            "not-authorized",
        ),
    ] {
        let refused = data(here, &verify(more), 1);
        assert_eq!(refused["error"]["code"], code);
        let explained = data(here, &why(more), 1);
        assert_eq!(explained["error"], refused["error"]);
        assert_eq!(explained["explain"]["outcome"], "fail");
        let drawn = run(here, &why(more), 1);
        assert!(
            drawn.contains("└─ FAIL") && drawn.contains("would pass: "),
            "{drawn}"
        );
    }
    let drawn = run(here, &why(&["--bundle", "a=bundle.pem"]), 0);
    assert!(
        drawn.contains("├─ ok") && !drawn.contains("FAIL"),
        "{drawn}"
    );
}

#[test]
fn a_token_is_verified_and_explained_and_never_shown() {
    let files = files();
    let here = files.path();
    let verify = [
        "jwt",
        "verify",
        "token.jwt",
        "--bundle",
        "a=bundle.json",
        "--at",
        AT,
        "--audience",
    ];
    let verified = run(here, &[&verify[..], &["here"]].concat(), 0);
    assert!(
        verified.starts_with("verified    spiffe://a/x\n"),
        "{verified}"
    );
    let refused = data(here, &[&verify[..], &["there"]].concat(), 1);
    assert_eq!(refused["error"]["code"], "jwt-audience");
    run(here, &[&verify[..], &["here", "--leeway", "0"]].concat(), 1);

    let why = ["why", "token.jwt", "--bundle", "a=bundle.json", "--at", AT];
    run(here, &why, 2);
    let explained = data(here, &[&why[..], &["--audience", "there"]].concat(), 1);
    assert_eq!(explained["explain"]["children"][0]["rule"], "jwt-verify");
    let drawn = run(here, &[&why[..], &["--audience", "here"]].concat(), 0);
    assert!(
        drawn.contains("├─ ok") && !drawn.contains("FAIL"),
        "{drawn}"
    );

    let inspected = data(here, &["jwt", "inspect", "token.jwt"], 0);
    assert_eq!(inspected["value"]["header"]["alg"], "ES256");
    assert_eq!(inspected["value"]["id"], "spiffe://a/x");
    let secret = std::fs::read_to_string(here.join("token.jwt")).unwrap();
    let signature = secret.rsplit('.').next().unwrap();
    for shown in [
        verified,
        drawn,
        explained.to_string(),
        inspected.to_string(),
    ] {
        assert!(!shown.contains(signature));
    }
}

#[test]
fn bundles_are_shown_converted_and_compared() {
    let files = files();
    let here = files.path();
    let shown = data(here, &["bundle", "show", "both.pem"], 0);
    assert_eq!(shown["value"]["x509_authorities"], 2);
    assert_eq!(
        shown["value"]["authorities"]["x509"]
            .as_array()
            .map(Vec::len),
        Some(2)
    );
    assert!(run(here, &["bundle", "show", "bundle.json"], 0).contains("\n  jwt   k1"));
    run(here, &["bundle", "show", "token.jwt"], 1);

    let document = run(
        here,
        &["bundle", "convert", "both.pem", "--to", "spiffe"],
        0,
    );
    std::fs::write(here.join("both.json"), document).unwrap();
    assert_eq!(
        run(here, &["bundle", "diff", "both.pem", "both.json"], 0),
        ""
    );
    let again = run(here, &["bundle", "convert", "both.json", "--to", "pem"], 0);
    assert_eq!(
        again,
        std::fs::read_to_string(here.join("both.pem")).unwrap()
    );
    let lossy = spiffe(here, &["bundle", "convert", "bundle.json", "--to", "pem"]);
    assert!(lossy.status.success() && lossy.stdout.is_empty());
    assert_eq!(
        String::from_utf8(lossy.stderr).unwrap(),
        "note: the form pem cannot hold: jwt_authorities\n"
    );

    assert!(run(here, &["bundle", "diff", "bundle.pem", "both.pem"], 1).starts_with("+ x509"));
    assert!(run(here, &["bundle", "diff", "both.pem", "bundle.pem"], 1).starts_with("- x509"));
}

#[test]
fn certificates_are_shown_and_cannot_act_on_the_terminal() {
    let files = files();
    let here = files.path();
    let inspected = data(
        here,
        &["x509", "inspect", "chain.pem", "--key", "key.pem"],
        0,
    );
    let certificate_of = &inspected["value"]["described"][0];
    assert_eq!(certificate_of["names"], json!(["URI:spiffe://a/x"]));
    assert_eq!(inspected["value"]["svid"]["id"], "spiffe://a/x");
    let root = data(here, &["x509", "inspect", "bundle.pem"], 0);
    // Each is found by the other's.
    let key_id = &root["value"]["described"][0]["subject_key_id"];
    assert_eq!(key_id.as_str().unwrap().len(), 40);
    assert_eq!(&certificate_of["authority_key_id"], key_id);
    assert_eq!(certificate_of["subject_key_id"], "");
    let text = run(here, &["x509", "inspect", "chain.pem"], 0);
    assert!(
        text.contains(&format!("issuer key id  {}", key_id.as_str().unwrap())),
        "{text}"
    );
    assert_eq!(root["value"]["no_svid"]["code"], "x509-uri-san-count");
    run(here, &["x509", "inspect", "token.jwt"], 1);

    let mut params = CertificateParams::default();
    params
        .distinguished_name
        .push(DnType::CommonName, "\u{1b}[2Jx");
    let hostile = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
    std::fs::write(here.join("hostile.pem"), certificate(hostile.der())).unwrap();
    let shown = run(here, &["x509", "inspect", "hostile.pem"], 0);
    assert!(
        !shown.contains('\u{1b}') && shown.contains("[2Jx"),
        "{shown}"
    );
}

#[test]
fn wrong_usage_ends_with_2_and_failure_with_1() {
    let files = files();
    let here = files.path();
    run(here, &["nothing"], 2);
    run(here, &["x509", "verify", "chain.pem"], 2);
    run(
        here,
        &["x509", "verify", "chain.pem", "--bundle", "bundle.pem"],
        2,
    );
    run(
        here,
        &[
            "x509",
            "verify",
            "chain.pem",
            "--bundle",
            "a=bundle.pem",
            "--at",
            "now",
        ],
        2,
    );
    run(
        here,
        &[
            "x509",
            "verify",
            "chain.pem",
            "--bundle",
            "a=bundle.pem",
            "--authorize",
            "*",
        ],
        2,
    );
    run(
        here,
        &["x509", "verify", "missing.pem", "--bundle", "a=bundle.pem"],
        1,
    );
    run(here, &["--help"], 0);
}

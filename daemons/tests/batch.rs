//! `spiffe batch` as a process: every operation, what is refused and how, and what a hostile line does to the next one.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod fixtures;

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use base64ct::{Base64, Encoding};
use fixtures::{AT, AT_SECONDS, authority, certificate, jwk, leaf, private_key, token};
use rcgen::KeyPair;
use serde_json::{Value, json};

/// A running `spiffe batch`; dropping it checks that it ends well.
struct Batch {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Batch {
    fn start(arguments: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_spiffe"))
            .arg("batch")
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Self {
            input: child.stdin.take(),
            output: BufReader::new(child.stdout.take().unwrap()),
            child,
        }
    }

    /// Asks with one line and waits for its answer, which shows that answers are flushed.
    fn ask_bytes(&mut self, line: &[u8]) -> Value {
        let input = self.input.as_mut().unwrap();
        input.write_all(line).unwrap();
        input.write_all(b"\n").unwrap();
        input.flush().unwrap();
        let mut answer = String::new();
        self.output.read_line(&mut answer).unwrap();
        serde_json::from_str(&answer).unwrap()
    }

    #[track_caller]
    fn ask(&mut self, mut question: Value) -> Value {
        question["case"] = json!("c");
        let answer = self.ask_bytes(question.to_string().as_bytes());
        assert_eq!(answer["case"], "c", "{answer}");
        answer
    }

    #[track_caller]
    fn good(&mut self, question: Value, value: Value) {
        let answer = self.ask(question);
        assert_eq!(
            (&answer["ok"], &answer["value"]),
            (&json!(true), &value),
            "{answer}"
        );
    }

    #[track_caller]
    fn bad(&mut self, question: Value, code: &str) {
        let answer = self.ask(question);
        assert_eq!(
            (&answer["ok"], &answer["error"]["code"]),
            (&json!(false), &json!(code)),
            "{answer}"
        );
        assert!(
            answer["error"]["message"]
                .as_str()
                .is_some_and(|line| !line.contains('\n'))
        );
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        drop(self.input.take());
        let status = self.child.wait().unwrap();
        if !std::thread::panicking() {
            assert_eq!(status.code(), Some(0));
        }
    }
}

#[test]
fn names_are_judged() {
    let mut batch = Batch::start(&[]);
    let parse = |text: &str| json!({"op": "id.parse", "text": text});
    batch.good(
        parse("spiffe://a.b/x/y"),
        json!({"id": "spiffe://a.b/x/y", "trust_domain": "a.b", "path": "/x/y"}),
    );
    batch.good(
        parse("spiffe://a"),
        json!({"id": "spiffe://a", "trust_domain": "a", "path": ""}),
    );
    for (text, code) in [
        ("http://a/x", "id-scheme"),
        ("", "id-scheme"),
        ("SPIFFE://a/x", "id-scheme"),
        ("spiffe://", "id-trust-domain-missing"),
        ("spiffe:///x", "id-trust-domain-missing"),
        ("spiffe://A/x", "id-trust-domain-byte"),
        ("spiffe://a:1/x", "id-trust-domain-byte"),
        ("spiffe://a/x?q", "id-path-byte"),
        ("spiffe://a/%61", "id-path-byte"),
        ("spiffe://a//x", "id-empty-segment"),
        ("spiffe://a/../x", "id-dot-segment"),
        ("spiffe://a/", "id-trailing-slash"),
        ("spiffe://a/x\n", "id-path-byte"),
    ] {
        batch.bad(parse(text), code);
    }
    batch.bad(
        parse(&format!("spiffe://a/{}", "x".repeat(2048))),
        "id-too-long",
    );
    batch.good(
        json!({"op": "id.parse", "text_b64": Base64::encode_string(b"spiffe://a/x")}),
        json!({"id": "spiffe://a/x", "trust_domain": "a", "path": "/x"}),
    );
    batch.bad(
        json!({"op": "id.parse", "text_b64": Base64::encode_string(b"spiffe://a/\xff")}),
        "id-path-byte",
    );
    for text in ["a.b", "spiffe://a.b", "spiffe://a.b/x"] {
        batch.good(
            json!({"op": "trust_domain.parse", "text": text}),
            json!({"trust_domain": "a.b"}),
        );
    }
    batch.bad(
        json!({"op": "trust_domain.parse", "text": "A"}),
        "id-trust-domain-byte",
    );
    batch.bad(
        json!({"op": "trust_domain.parse", "text": "x://a"}),
        "id-scheme",
    );
    let join =
        |segments: Value| json!({"op": "id.join", "trust_domain": "a", "segments": segments});
    batch.good(join(json!(["x", "y"])), json!({"id": "spiffe://a/x/y"}));
    batch.good(join(json!([])), json!({"id": "spiffe://a"}));
    batch.bad(join(json!(["x/y"])), "id-path-byte");
    batch.bad(join(json!([""])), "id-empty-segment");
    batch.bad(join(json!([".."])), "id-dot-segment");
    batch.bad(join(json!(vec!["x"; 5000])), "id-too-long");
}

#[test]
fn policies_are_asked() {
    let mut batch = Batch::start(&[]);
    let ask = |policy: &str| json!({"op": "match", "policy": policy, "id": "spiffe://a/ns/x"});
    for (policy, allowed) in [
        ("any", true),
        ("id:spiffe://a/ns/x", true),
        ("id:spiffe://a/ns", false),
        ("domain:a", true),
        ("domain:b", false),
        ("prefix:spiffe://a/ns/", true),
        ("prefix:spiffe://a/n/", false),
        ("pattern:spiffe://a/*/x", true),
        ("pattern:spiffe://a/*", false),
        ("pattern:spiffe://a/**", true),
        ("domain:b|ids:spiffe://a/q,spiffe://a/ns/x", true),
    ] {
        batch.good(ask(policy), json!({"allowed": allowed}));
    }
    for policy in [
        "",
        "Any",
        "any ",
        "domain:spiffe://a",
        "prefix:spiffe://a/ns",
        "regex:.*",
    ] {
        batch.bad(ask(policy), "bad-policy");
    }
    batch.bad(
        json!({"op": "match", "policy": "any", "id": "x"}),
        "id-scheme",
    );
}

#[test]
fn chains_are_judged() {
    let mut batch = Batch::start(&[]);
    let (root, other, double) = (authority("root"), authority("other"), authority("root"));
    let (leaf, key) = leaf("spiffe://a/x", &root);
    let ask = |more: Value| {
        let mut question = json!({
            "op": "x509.verify", "chain_pem": certificate(leaf.der()), "bundles": {"a": certificate(root.der())}, "at": AT,
        });
        for (name, value) in more.as_object().unwrap() {
            question[name] = value.clone();
        }
        question
    };
    let peer = json!({"id": "spiffe://a/x", "chain_length": 1});
    batch.good(ask(json!({})), peer.clone());
    batch.good(ask(json!({"authorize": "domain:a"})), peer.clone());
    batch.bad(ask(json!({"authorize": "domain:b"})), "not-authorized");
    batch.bad(ask(json!({"authorize": "*"})), "bad-policy");
    batch.bad(
        ask(json!({"bundles": {"a": certificate(other.der())}})),
        "x509-untrusted",
    );
    batch.bad(
        ask(json!({"bundles": {"a": certificate(double.der())}})),
        "x509-bad-signature",
    );
    batch.bad(
        ask(json!({"bundles": {"b": certificate(root.der())}})),
        "x509-trust-domain-unknown",
    );
    batch.bad(
        ask(json!({"bundles": {"spiffe://a": certificate(root.der())}})),
        "bundle-trust-domain",
    );
    batch.bad(ask(json!({"bundles": {"a": ""}})), "x509-no-authorities");
    // A bundle that cannot be read affects its own trust domain only.
    batch.good(
        ask(json!({"bundles": {"a": certificate(root.der()), "b": "{"}})),
        peer.clone(),
    );
    batch.bad(
        ask(json!({"bundles": {"a": "{", "b": certificate(root.der())}})),
        "bundle-json",
    );
    batch.bad(
        ask(json!({"at": "2026-11-20T08:30:00.001Z"})),
        "x509-expired",
    );
    batch.good(ask(json!({"at": "2026-11-20T08:30:00Z"})), peer.clone());
    batch.bad(
        ask(json!({"at": "2026-11-20T07:29:59Z"})),
        "x509-not-yet-valid",
    );
    batch.bad(ask(json!({"chain_pem": ""})), "x509-chain-empty");
    batch.bad(
        ask(json!({"chain_pem": private_key(&key)})),
        "pem-no-certificate",
    );
    batch.bad(
        ask(json!({"limits": {"max_document_bytes": 10}})),
        "document-too-large",
    );
    batch.bad(
        ask(json!({"limits": {"max_certificates": 0}})),
        "x509-chain-empty",
    );
    batch.good(
        ask(json!({"limits": {"max_certificates": 1_000_000}})),
        peer.clone(),
    );
    // Others of the issuer's name do no harm, however many there are: the key identifier leads past them.
    let others: String = (0..5000)
        .map(|_| certificate(authority("root").der()))
        .collect();
    let chain = certificate(leaf.der()) + &others;
    batch.good(ask(json!({"chain_pem": chain})), peer.clone());
    let bundle = others + &certificate(root.der());
    batch.good(ask(json!({"bundles": {"a": bundle}})), peer);

    let own = |more: Value| {
        let mut question = json!({"op": "x509.parse", "chain_pem": certificate(leaf.der())});
        for (name, value) in more.as_object().unwrap() {
            question[name] = value.clone();
        }
        question
    };
    let parsed = json!({
        "id": "spiffe://a/x", "chain_length": 1,
        "not_before": "2026-11-20T07:30:00Z", "not_after": "2026-11-20T08:30:00Z",
    });
    batch.good(own(json!({})), parsed.clone());
    batch.good(own(json!({"key_pem": private_key(&key)})), parsed.clone());
    let der = Base64::encode_string(&key.serialize_der());
    batch.good(own(json!({"key_der_b64": der})), parsed.clone());
    batch.good(
        json!({"op": "x509.parse", "chain_der_b64": Base64::encode_string(leaf.der())}),
        parsed,
    );
    let stranger = private_key(&KeyPair::generate().unwrap());
    batch.bad(own(json!({"key_pem": stranger})), "key-mismatch");
    batch.bad(own(json!({"key_pem": "x"})), "key-malformed");
    let twice = format!("{}{}", certificate(leaf.der()), certificate(leaf.der()));
    batch.bad(own(json!({"chain_pem": twice})), "x509-chain-not-signing");
    batch.bad(
        json!({"op": "x509.parse", "chain_der_b64": "MAA="}),
        "x509-malformed",
    );
    batch.bad(
        json!({"op": "x509.parse", "chain_pem": certificate(root.der())}),
        "x509-uri-san-count",
    );
}

#[test]
fn tokens_are_judged() {
    let mut batch = Batch::start(&[]);
    let key = KeyPair::generate().unwrap();
    let claims = json!({"sub": "spiffe://a/x", "aud": ["one", "two"], "exp": AT_SECONDS, "big": 18446744073709551615_u64});
    let good = token(&key, &claims);
    let value = json!({
        "id": "spiffe://a/x", "audience": ["one", "two"], "expires_at": AT, "claims": claims,
    });
    batch.good(json!({"op": "jwt.parse", "token": good}), value.clone());
    batch.bad(json!({"op": "jwt.parse", "token": "x"}), "jwt-malformed");
    let spiffe = json!({"keys": [jwk(&key, Some("jwt-svid"))]}).to_string();
    let jwks = json!({"keys": [jwk(&key, None)]}).to_string();
    let ask = |more: Value| {
        let mut question = json!({
            "op": "jwt.verify", "token": good, "audience": "two", "bundles": {"a": spiffe}, "at": AT,
        });
        for (name, value) in more.as_object().unwrap() {
            question[name] = value.clone();
        }
        question
    };
    batch.good(ask(json!({})), value.clone());
    batch.good(ask(json!({"authorize": "id:spiffe://a/x"})), value.clone());
    batch.bad(
        ask(json!({"authorize": "id:spiffe://a/y"})),
        "not-authorized",
    );
    batch.bad(ask(json!({"audience": "three"})), "jwt-audience");
    batch.bad(ask(json!({"audience": ""})), "jwt-expected-audience");
    batch.bad(ask(json!({"leeway_s": 0})), "jwt-expired");
    batch.bad(ask(json!({"leeway_s": 301})), "jwt-leeway");
    batch.bad(ask(json!({"leeway_s": -1})), "usage");
    batch.bad(ask(json!({"at": "2026-11-20T08:01:00Z"})), "jwt-expired");
    batch.good(
        ask(json!({"at": "2026-11-20T08:00:59.999Z"})),
        value.clone(),
    );
    batch.good(
        ask(json!({"format": "workload-api", "bundles": {"a": jwks}})),
        value,
    );
    batch.bad(ask(json!({"bundles": {"a": jwks}})), "jwt-no-authorities");
    batch.bad(
        ask(json!({"bundles": {"b": spiffe}})),
        "jwt-trust-domain-unknown",
    );
    batch.bad(ask(json!({"bundles": {"a": "[]"}})), "bundle-json");
    let forged = token(&KeyPair::generate().unwrap(), &claims);
    batch.bad(ask(json!({"token": forged})), "jwt-signature");
    let fractional = json!({"sub": "spiffe://a/x", "aud": "one", "exp": AT_SECONDS as f64 + 0.75});
    let answer = batch.ask(json!({"op": "jwt.parse", "token": token(&key, &fractional)}));
    assert_eq!(answer["value"]["expires_at"], AT, "{answer}");
}

#[test]
fn bundles_are_read_and_written() {
    let mut batch = Batch::start(&[]);
    let (root, key) = (authority("root"), KeyPair::generate().unwrap());
    let document = json!({
        "keys": [
            jwk(&key, Some("jwt-svid")),
            {"kty": "EC", "use": "x509-svid", "x5c": [Base64::encode_string(root.der())]},
            {"kty": "EC"},
        ],
        "spiffe_sequence": 7, "spiffe_refresh_hint": 300,
    });
    let ask = |op: &str, document: &str, format: &str| json!({"op": op, "trust_domain": "a", "document": document, "format": format});
    let answer = batch.ask(ask("bundle.parse", &document.to_string(), "spiffe"));
    let value = &answer["value"];
    assert_eq!(value["x509_authorities"], 1, "{answer}");
    assert_eq!(value["jwt_authorities"], json!(["k1"]));
    assert_eq!(
        (&value["sequence"], &value["refresh_hint_s"]),
        (&json!(7), &json!(300))
    );
    assert_eq!(value["ignored"][0]["index"], 2);
    assert!(
        value["ignored"][0]["reason"]
            .as_str()
            .unwrap()
            .starts_with("jwk-use: ")
    );
    batch.good(
        ask("bundle.parse", &certificate(root.der()), "pem"),
        json!({"x509_authorities": 1, "jwt_authorities": [], "sequence": null, "refresh_hint_s": null, "ignored": []}),
    );
    for (document, code) in [
        ("[]", "bundle-json"),
        ("{}", "bundle-keys"),
        (r#"{"keys":[],"keys":[]}"#, "bundle-duplicate-member"),
        (r#"{"keys":[],"spiffe_sequence":-1}"#, "bundle-sequence"),
        (
            r#"{"keys":[],"spiffe_refresh_hint":1.5}"#,
            "bundle-refresh-hint",
        ),
        ("\u{feff}{\"keys\":[]}", "bundle-json"),
    ] {
        batch.bad(ask("bundle.parse", document, "spiffe"), code);
    }
    let mut bad_name = ask("bundle.parse", "{\"keys\":[]}", "spiffe");
    bad_name["trust_domain"] = json!("spiffe://a");
    batch.bad(bad_name, "id-trust-domain-byte");

    let mut convert = |to: &str| {
        let mut question = ask("bundle.convert", &document.to_string(), "spiffe");
        question["to"] = json!(to);
        batch.ask(question)["value"].clone()
    };
    let pem = convert("pem");
    assert_eq!(
        pem["lost"],
        json!(["jwt_authorities", "sequence", "refresh_hint_s"])
    );
    let der = convert("der");
    assert_eq!(der["document_b64"], Base64::encode_string(root.der()));
    assert_eq!(der["document"], Value::Null);
    let jwks = convert("workload-api-jwks");
    assert_eq!(
        jwks["lost"],
        json!(["x509_authorities", "sequence", "refresh_hint_s"])
    );
    let spiffe = convert("spiffe");
    assert_eq!(spiffe["lost"], json!([]));
    for (document, format, x509, jwt) in [
        (&pem, "pem", 1, json!([])),
        (&jwks, "workload-api-jwks", 0, json!(["k1"])),
        (&spiffe, "spiffe", 1, json!(["k1"])),
    ] {
        let text = document["document"].as_str().unwrap();
        let value = batch.ask(ask("bundle.parse", text, format))["value"].clone();
        assert_eq!(
            (&value["x509_authorities"], &value["jwt_authorities"]),
            (&json!(x509), &jwt)
        );
        assert_eq!(value["ignored"], json!([]));
    }
    let from_der = json!({"op": "bundle.parse", "trust_domain": "a", "document_b64": der["document_b64"], "format": "der"});
    assert_eq!(batch.ask(from_der)["value"]["x509_authorities"], 1);
}

#[test]
fn questions_that_cannot_be_asked_so_are_usage() {
    let mut batch = Batch::start(&[]);
    for question in [
        json!({"op": "nothing"}),
        json!({"op": 5}),
        json!({}),
        json!({"op": "id.parse"}),
        json!({"op": "id.parse", "text": 5}),
        json!({"op": "id.parse", "text": null}),
        json!({"op": "id.parse", "text": "spiffe://a", "more": 1}),
        json!({"op": "id.parse", "text": "spiffe://a", "text_b64": "YQ=="}),
        json!({"op": "id.parse", "text_b64": "YQ"}),
        json!({"op": "id.parse", "text_b64": "_w=="}),
        json!({"op": "id.join", "trust_domain": "a", "segments": "x"}),
        json!({"op": "id.join", "trust_domain": "a", "segments": ["x", 1]}),
        json!({"op": "x509.verify", "chain_pem": "", "bundles": {}}),
        json!({"op": "x509.verify", "chain_pem": "", "bundles": {}, "at": "today"}),
        json!({"op": "x509.verify", "chain_pem": "", "bundles": {"a": 1}, "at": AT}),
        json!({"op": "x509.verify", "chain_pem": "", "bundles": {}, "at": AT, "limits": {"max_depth": 1}}),
        json!({"op": "x509.verify", "chain_pem": "", "bundles": {}, "at": AT, "limits": {"max_certificates": -1}}),
        json!({"op": "bundle.parse", "trust_domain": "a", "document": "", "format": "der"}),
        json!({"op": "bundle.parse", "trust_domain": "a", "document_b64": "", "format": "pem"}),
        json!({"op": "bundle.parse", "trust_domain": "a", "document": "", "format": "text"}),
        json!({"op": "bundle.convert", "trust_domain": "a", "document": "", "format": "pem"}),
    ] {
        batch.bad(question, "usage");
    }
    for line in [
        "",
        " ",
        "x",
        "[]",
        "1",
        "{",
        "{\"case\":\"1\"",
        "{}{}",
        "\u{feff}{}",
        "{\"case\":1,\"op\":\"id.parse\",\"text\":\"\"}",
        "{\"op\":\"id.parse\"}",
    ] {
        let answer = batch.ask_bytes(line.as_bytes());
        assert_eq!(
            (&answer["case"], &answer["error"]["code"]),
            (&Value::Null, &json!("usage")),
            "{line}"
        );
    }
    let answer = batch.ask_bytes(b"{\"case\":\"\xff\"}");
    assert_eq!(answer["error"]["code"], "usage");
    let twice = br#"{"case":"c","op":"id.parse","text":"spiffe://a","text":"spiffe://b"}"#;
    assert_eq!(batch.ask_bytes(twice)["error"]["code"], "usage");
    // Without a case there is nothing to repeat, but a question is a question.
    let answer = batch.ask_bytes(br#"{"op":"id.parse","text":"spiffe://a"}"#);
    assert_eq!(
        (&answer["case"], &answer["ok"]),
        (&Value::Null, &json!(true))
    );
}

#[test]
fn hostile_lines_are_answered_and_the_next_one_too() {
    let mut batch = Batch::start(&["--explain"]);
    let alive = json!({"op": "match", "policy": "any", "id": "spiffe://a/x"});
    let mut hostile = |line: &[u8], code: &str| {
        let answer = batch.ask_bytes(line);
        assert_eq!(answer["error"]["code"], code);
        assert!(answer["explain"].to_string().len() <= 64 * 1024);
        batch.good(alive.clone(), json!({"allowed": true}));
    };
    hostile(&vec![b' '; 64 * 1024 * 1024 + 1], "usage");
    hostile(&vec![b'['; 8 * 1024 * 1024], "usage");
    let nested = format!(
        "{{\"op\":\"id.parse\",\"text\":{}",
        "[".repeat(4 * 1024 * 1024)
    );
    hostile(nested.as_bytes(), "usage");
    let wide = format!(
        "{{\"op\":\"id.join\",\"trust_domain\":\"a\",\"segments\":[{}1]}}",
        "1,".repeat(2_000_000)
    );
    hostile(wide.as_bytes(), "usage");
    let members: String = (0..500_000).map(|n| format!("\"{n}\":0,")).collect();
    hostile(
        format!("{{{members}\"op\":\"id.parse\"}}").as_bytes(),
        "usage",
    );

    let root = authority("root");
    let pem = certificate(root.der()).repeat(10 * 1024 * 1024 / certificate(root.der()).len());
    let verify = |chain: &str, bundle: &str| {
        let bundles = json!({"a": bundle});
        json!({"op": "x509.verify", "chain_pem": chain, "bundles": bundles, "at": AT}).to_string()
    };
    hostile(verify(&pem, "").as_bytes(), "document-too-large");
    let own = json!({"op": "x509.parse", "chain_pem": pem}).to_string();
    hostile(own.as_bytes(), "x509-chain-too-large");
    let text = "x".repeat(10 * 1024 * 1024);
    hostile(verify(&text, "").as_bytes(), "pem-no-certificate");
    let (leaf, _) = leaf("spiffe://a/x", &root);
    hostile(
        verify(&certificate(leaf.der()), &pem).as_bytes(),
        "document-too-large",
    );
    let parse = |document: &str| {
        json!({"op": "bundle.parse", "trust_domain": "a", "format": "spiffe", "document": document})
            .to_string()
    };
    hostile(parse(&"[".repeat(1024 * 1024)).as_bytes(), "bundle-json");
    let keys = format!("{{\"keys\":[{}{{}}]}}", "{},".repeat(100_000));
    hostile(parse(&keys).as_bytes(), "document-too-large");
    let token = json!({"op": "jwt.parse", "token": "x".repeat(1024 * 1024)}).to_string();
    hostile(token.as_bytes(), "jwt-too-large");
    let policy =
        json!({"op": "match", "policy": "any|".repeat(100_000), "id": "spiffe://a"}).to_string();
    hostile(policy.as_bytes(), "bad-policy");
    let id = json!({"op": "id.parse", "text": "x".repeat(32 * 1024 * 1024)}).to_string();
    hostile(id.as_bytes(), "id-too-long");
}

#[test]
fn explanations_say_what_the_verdict_says() {
    let mut batch = Batch::start(&["--explain"]);
    let root = authority("root");
    let (leaf, _) = leaf("spiffe://a/x", &root);
    let ask = |authorize: &str, at: &str| {
        json!({
            "op": "x509.verify", "chain_pem": certificate(leaf.der()), "bundles": {"a": certificate(root.der())}, "at": at,
            "authorize": authorize,
        })
    };
    let answer = batch.ask(ask("domain:a", AT));
    assert_eq!(
        (&answer["ok"], &answer["explain"]["outcome"]),
        (&json!(true), &json!("pass"))
    );
    assert_eq!(answer["explain"]["children"][0]["rule"], "x509-verify");
    for (question, code) in [
        (ask("domain:b", AT), "not-authorized"),
        (ask("domain:a", "2027-01-01T00:00:00Z"), "x509-expired"),
        (ask("nobody", AT), "bad-policy"),
        (json!({"op": "id.parse", "text": "x"}), "id-scheme"),
        (json!({"op": "nothing"}), "usage"),
    ] {
        let answer = batch.ask(question);
        assert_eq!(
            (&answer["error"]["code"], &answer["explain"]["outcome"]),
            (&json!(code), &json!("fail"))
        );
        assert!(
            answer["explain"]
                .to_string()
                .contains(&format!("\"rule\":\"{code}\"")),
            "{answer}"
        );
    }
    let mut silent = Batch::start(&[]);
    assert_eq!(silent.ask(ask("domain:a", AT)).get("explain"), None);
}

#[test]
fn a_last_line_needs_no_break_and_wrong_arguments_end_with_2() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_spiffe"))
        .arg("batch")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let line = br#"{"case":"c","op":"id.parse","text":"spiffe://a"}"#;
    child.stdin.take().unwrap().write_all(line).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(
        output.stdout.iter().filter(|byte| **byte == b'\n').count(),
        1
    );
    assert_eq!(output.status.code(), Some(0));
    let wrong = Command::new(env!("CARGO_BIN_EXE_spiffe"))
        .args(["batch", "--nothing"])
        .output()
        .unwrap();
    assert_eq!((wrong.status.code(), wrong.stdout.len()), (Some(2), 0));
}

//! Foreign judges beside `spiffe batch`: go-spiffe with Go's crypto/x509 on names, chains, tokens and bundles, and OpenSSL on
//! the same chains, with one reviewed list of where verdicts differ. The Go peer makes the inputs, so certificates, signatures
//! and documents are another library's.

use std::fs;
use std::process::Command;

use serde_json::Value;

use crate::Check;
use crate::lab::{Lab, program, short_temporary_folder};
use crate::outcome::{Trouble, ensure};
use crate::process::Process;
use crate::world::SOON;

pub(crate) const CASES: &[(&str, Check)] = &[
    ("go-oracle", |lab| {
        compare(lab, GoSpiffe, 45, |judged| {
            Ok(Some(
                (judged["ok"] == true).then(|| text(&judged["facts"]).to_owned()),
            ))
        })
    }),
    ("openssl-oracle", |lab| {
        compare(lab, OpenSsl, 25, openssl_on_a_chain)
    }),
];

/// Who judges beside us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Judge {
    GoSpiffe,
    /// `openssl verify -x509_strict`, for a TLS server or client. It knows nothing of SPIFFE, so its verdict is on the path.
    OpenSsl,
}

use Judge::{GoSpiffe, OpenSsl};

/// Every input on which a judge and ours differ, and why ours is right. What agrees again must leave the list.
const REVIEWED: &[(Judge, &str, &str)] = &[
    // Refused here, accepted there.
    (
        GoSpiffe,
        "id of 2049 bytes",
        "2,048 bytes are the most: DEC-24",
    ),
    (
        GoSpiffe,
        "id of 267 bytes",
        "a trust domain's name has 255 bytes at the most: DEC-03",
    ),
    (
        GoSpiffe,
        "chain-no-path",
        "a leaf's ID has a path: X509-35, which go-spiffe applies to its own SVID alone",
    ),
    (
        GoSpiffe,
        "chain-leaf-as-authority",
        "what is no CA is no authority, not even of itself: DEC-27",
    ),
    (
        GoSpiffe,
        "chain-leaf-key-encipherment-only",
        "a key usage that is there has digitalSignature: DEC-05",
    ),
    (
        GoSpiffe,
        "chain-leaf-code-signing",
        "an extended key usage that is there allows a role in TLS: DEC-28",
    ),
    (
        GoSpiffe,
        "chain-intermediate-code-signing",
        "the same, of what stands above the leaf: DEC-28",
    ),
    (
        GoSpiffe,
        "chain-usages-do-not-meet",
        "the same, of both together: DEC-28",
    ),
    (GoSpiffe, "chain-p224", "no key that is accepted: DEC-25"),
    (GoSpiffe, "chain-rsa-1024", "the same"),
    (
        GoSpiffe,
        "chain-seven-intermediates",
        "six intermediates are the most: DEC-31",
    ),
    (
        GoSpiffe,
        "token-jku",
        "a header that would change the processing: DEC-06",
    ),
    (GoSpiffe, "bundle-keys-twice", "a repeated member: DEC-32"),
    (
        GoSpiffe,
        "bundle-hint-negative",
        "no number of seconds: DEC-12",
    ),
    (
        OpenSsl,
        "chain-no-uri",
        "a leaf has one URI name: X509-01. OpenSSL knows no SPIFFE IDs",
    ),
    (OpenSsl, "chain-two-uris", "the same: X509-02"),
    (OpenSsl, "chain-https-uri", "it is a SPIFFE ID: X509-34"),
    (OpenSsl, "chain-no-path", "it has a path: X509-35"),
    (
        OpenSsl,
        "chain-trailing-slash",
        "it is one by its grammar: SPIFFE-ID-17",
    ),
    (OpenSsl, "chain-upper-case-domain", "the same: SPIFFE-ID-09"),
    (
        OpenSsl,
        "chain-leaf-is-ca",
        "a leaf is no CA: X509-32, which nothing but SPIFFE asks",
    ),
    (
        OpenSsl,
        "chain-leaf-crl-sign",
        "a leaf signs no lists: X509-33; the same",
    ),
    (
        OpenSsl,
        "chain-leaf-key-encipherment-only",
        "a key usage that is there has digitalSignature: DEC-05; a TLS server could do with encipherment",
    ),
    (OpenSsl, "chain-p224", "no key that is accepted: DEC-25"),
    (
        OpenSsl,
        "chain-rsa-1024",
        "the same; OpenSSL's default level lets it in",
    ),
    (
        OpenSsl,
        "chain-seven-intermediates",
        "six intermediates are the most: DEC-31",
    ),
    // Accepted here, refused there.
    (
        GoSpiffe,
        "chain-self-issued-below-path-length",
        "self-issued certificates do not count: RFC 5280 §6.1.4 (l), which Go leaves out",
    ),
    (GoSpiffe, "token-no-kid", "kid is optional: DEC-07"),
    (
        GoSpiffe,
        "token-issued-later",
        "iat does not limit validity: DEC-34",
    ),
    (
        GoSpiffe,
        "bundle-unknown-type",
        "the entry is ignored, the rest stands: BNDL-13",
    ),
    (GoSpiffe, "bundle-no-kid", "the same: DEC-32"),
    (GoSpiffe, "bundle-no-x5c", "the same: X509-42"),
    (
        GoSpiffe,
        "bundle-x5c-twice",
        "the first one counts, without members for its key: X509-43, DEC-32",
    ),
    (
        OpenSsl,
        "chain-cross-signed-other-first",
        "a path is there; OpenSSL takes the first issuer of the name and does not turn back",
    ),
    (
        OpenSsl,
        "chain-intermediate-no-key-usage",
        "key usage is judged where it is present: X509-08, DEC-05; strict OpenSSL asks for it",
    ),
    (
        OpenSsl,
        "chain-leaf-any-usage",
        "anyExtendedKeyUsage allows every purpose: RFC 5280 §4.2.1.12, which OpenSSL leaves to the caller",
    ),
];

/// Judges every input of the Go peer that `judge` has a verdict on: `None` where it has none, else what it says of an accepted
/// input. Of an oracle that refuses everything nothing could be learnt, so at least so many must be accepted by both.
fn compare(
    lab: &Lab,
    by: Judge,
    at_least: usize,
    mut judge: impl FnMut(&Value) -> Result<Option<Option<String>>, Trouble>,
) -> Result<(), Trouble> {
    let mut command = Command::new(lab.go_peer()?);
    command.arg("oracle");
    let inputs = Process::run("gopeer oracle", command, SOON)?.expect_success()?;
    let mut batch = Process::spawn("spiffe batch", lab.ours()?.batch())?;
    let mut differing = Vec::new();
    let mut unexpected = Vec::new();
    let mut accepted = 0;
    for line in inputs.lines() {
        let judged: Value = json(line)?;
        let Some(theirs) = judge(&judged)? else {
            continue;
        };
        batch.send(&format!("{}\n", judged["line"]))?;
        let answer = batch.wait_for_stdout("an answer", SOON, |line| Some(line.to_owned()))?;
        let answer = json(&answer)?;
        let case = text(&judged["line"]["case"]);
        ensure(text(&answer["case"]) == case, || {
            format!("{case} was answered with {answer}")
        })?;
        let ours = (answer["ok"] == true).then(|| facts(&answer["value"]));
        // OpenSSL has no facts to compare.
        let alike = match by {
            GoSpiffe => ours == theirs,
            OpenSsl => ours.is_some() == theirs.is_some(),
        };
        accepted += usize::from(ours.is_some() && alike);
        if !alike {
            differing.push(case.to_owned());
            if !REVIEWED
                .iter()
                .any(|(of, known, _)| *of == by && *known == case)
            {
                unexpected.push(format!(
                    "{case}: here {ours:?} {}, there {theirs:?} {}",
                    text(&answer["error"]["code"]),
                    text(&judged["why"])
                ));
            }
        }
    }
    ensure(unexpected.is_empty(), || unexpected.join("; "))?;
    for (_, known, _) in REVIEWED.iter().filter(|(of, ..)| *of == by) {
        ensure(differing.iter().any(|case| case == known), || {
            format!(
                "{known} is on the reviewed list, but the verdicts agree or there is no such case"
            )
        })?;
    }
    ensure(accepted >= at_least, || {
        format!("only {accepted} inputs were accepted by both")
    })
}

/// OpenSSL's strictest verdict on an input that is a chain. Like ours, whose role is open there, it is good for either role.
fn openssl_on_a_chain(judged: &Value) -> Result<Option<Option<String>>, Trouble> {
    let Some((leaf, others)) = judged["chain"].as_array().and_then(|all| all.split_first()) else {
        return Ok(None);
    };
    let openssl = program("openssl", "openssl")?;
    let folder = short_temporary_folder()?;
    let file = |name: &str, contents: &str| -> Result<_, Trouble> {
        let path = folder.path().join(name);
        fs::write(&path, contents)?;
        Ok(path)
    };
    let leaf = file("leaf.pem", text(leaf))?;
    let others: String = others.iter().map(text).collect();
    let sent = file("sent.pem", &others)?;
    let authorities = file("authorities.pem", text(&judged["line"]["bundles"]["a"]))?;
    for purpose in ["sslserver", "sslclient"] {
        let mut command = Command::new(&openssl);
        command
            .args(["verify", "-x509_strict", "-no-CApath", "-no-CAstore"])
            .args(["-purpose", purpose, "-attime", &judged["at"].to_string()])
            .arg("-CAfile")
            .arg(&authorities);
        // A file without a certificate would be an error of its own.
        if !others.is_empty() {
            command.arg("-untrusted").arg(&sent);
        }
        command.arg(&leaf);
        if Process::run("openssl verify", command, SOON)?
            .status
            .success()
        {
            return Ok(Some(Some("a path".into())));
        }
    }
    Ok(Some(None))
}

/// What both say of an accepted input: the ID, or the numbers of a bundle's authorities.
fn facts(value: &Value) -> String {
    match value["jwt_authorities"].as_array() {
        Some(keys) => format!("{} {}", value["x509_authorities"], keys.len()),
        None => text(&value["id"]).to_owned(),
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn json(line: &str) -> Result<Value, Trouble> {
    serde_json::from_str(line)
        .map_err(|error| Trouble::failed(format!("`{line}` is no JSON: {error}")))
}

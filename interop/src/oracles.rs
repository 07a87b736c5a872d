//! go-spiffe and Go's crypto/x509 beside `spiffe batch`: the same names, chains, tokens and bundles, and one reviewed list of
//! where the verdicts differ. The Go peer makes the inputs, so certificates, signatures and documents are another library's.

use serde_json::Value;

use crate::Case;
use crate::lab::Lab;
use crate::outcome::{Trouble, ensure};
use crate::process::Process;
use crate::world::SOON;

pub(crate) const CASES: &[Case] = &[Case::new(
    "go-oracle",
    verdicts_agree_but_for_the_reviewed_differences,
)];

/// Every input on which go-spiffe 2.8 and ours differ, and why that is right. What agrees again must leave the list.
const REVIEWED: &[(&str, &str)] = &[
    // Refused here, accepted there.
    ("id of 2049 bytes", "2,048 bytes are the most: DEC-24"),
    (
        "id of 267 bytes",
        "a trust domain's name has 255 bytes at the most: DEC-03",
    ),
    (
        "chain-no-path",
        "a leaf's ID has a path: X509-35, which go-spiffe applies to its own SVID alone",
    ),
    (
        "chain-leaf-as-authority",
        "what is no CA is no authority, not even of itself: DEC-27",
    ),
    (
        "chain-leaf-key-encipherment-only",
        "a key usage that is there has digitalSignature: DEC-05",
    ),
    (
        "chain-leaf-code-signing",
        "an extended key usage that is there allows a role in TLS: DEC-28",
    ),
    (
        "chain-intermediate-code-signing",
        "the same, of what stands above the leaf: DEC-28",
    ),
    (
        "token-jku",
        "a header that would change the processing: DEC-06",
    ),
    ("bundle-keys-twice", "a repeated member: DEC-32"),
    ("bundle-hint-negative", "no number of seconds: DEC-12"),
    // Accepted here, refused there.
    ("token-no-kid", "kid is optional: DEC-07"),
    ("token-issued-later", "iat does not limit validity: DEC-34"),
    (
        "bundle-unknown-type",
        "the entry is ignored, the rest stands: BNDL-13",
    ),
    ("bundle-no-kid", "the same: DEC-32"),
    ("bundle-no-x5c", "the same: X509-42"),
    (
        "bundle-x5c-twice",
        "the first one counts, without members for its key: X509-43, DEC-32",
    ),
];

fn verdicts_agree_but_for_the_reviewed_differences(lab: &Lab) -> Result<(), Trouble> {
    let mut command = std::process::Command::new(lab.go_peer()?);
    command.arg("oracle");
    let theirs = Process::run("gopeer oracle", command, SOON)?.expect_success()?;
    let mut batch = Process::spawn("spiffe batch", lab.ours()?.batch())?;
    let mut differing = Vec::new();
    let mut unexpected = Vec::new();
    let mut accepted = 0;
    for line in theirs.lines() {
        let judged: Value = json(line)?;
        batch.send(&format!("{}\n", judged["line"]))?;
        let answer = batch.wait_for_stdout("an answer", SOON, |line| Some(line.to_owned()))?;
        let answer = json(&answer)?;
        let case = text(&judged["line"]["case"]);
        ensure(text(&answer["case"]) == case, || {
            format!("{case} was answered with {answer}")
        })?;
        let ours = (answer["ok"] == true).then(|| facts(&answer["value"]));
        let theirs = (judged["ok"] == true).then(|| text(&judged["facts"]).to_owned());
        accepted += usize::from(ours.is_some() && ours == theirs);
        if ours != theirs {
            differing.push(case.to_owned());
            if REVIEWED.iter().all(|(known, _)| *known != case) {
                unexpected.push(format!(
                    "{case}: here {ours:?} {}, there {theirs:?} {}",
                    text(&answer["error"]["code"]),
                    text(&judged["why"])
                ));
            }
        }
    }
    ensure(unexpected.is_empty(), || unexpected.join("; "))?;
    for (known, _) in REVIEWED {
        ensure(differing.iter().any(|case| case == known), || {
            format!(
                "{known} is on the reviewed list, but the verdicts agree or there is no such case"
            )
        })?;
    }
    // Oracles that refuse everything would agree as well.
    ensure(accepted > 30, || {
        format!("only {accepted} inputs were accepted by both")
    })
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

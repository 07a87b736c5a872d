//! What we issue, by everybody else's judgement: OpenSSL, Go's crypto/x509, go-spiffe, and the linters zlint and
//! pkilint, whose every finding is on one reviewed list. (webpki judges the same chains in `svid-ca/tests/judges.rs`.)

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::Check;
use crate::lab::{Lab, short_temporary_folder};
use crate::openssl;
use crate::outcome::{Trouble, ensure};
use crate::process::Process;
use crate::world::SOON;

pub(crate) const CASES: &[(&str, Check)] = &[("judges", |lab| {
    judge_all(lab, &ONE_PER_KEY)?;
    Ok(())
})];

/// Run when they are named.
pub(crate) const LONG: &[(&str, Check)] = &[("judges-everything", everything)];

/// Kind of key, authorities above the leaf, whether those are confined to the trust domain.
type Chain = (&'static str, u8, bool);

const ONE_PER_KEY: [Chain; 6] = [
    ("ec-p256", 2, false),
    ("ec-p384", 3, true),
    ("ec-p521", 1, false),
    ("ed25519", 4, false),
    ("rsa-2048", 2, true),
    ("rsa-4096", 1, false),
];

/// Every finding of the linters on a certificate of ours, and why it stands. What is found no more must leave the list.
const REVIEWED: &[(&str, &str)] = &[
    // The names.
    (
        "pkix.invalid_uri_syntax",
        "pkilint knows no scheme spiffe:; SPIFFE-ID §2 defines it",
    ),
    (
        "e_ext_san_uniform_resource_identifier_present",
        "web PKI; the URI is what an SVID is: X509-SVID §2",
    ),
    (
        "e_ca_common_name_missing",
        "web PKI; the subject of an authority says nothing: X509-SVID §4.1",
    ),
    (
        "e_subj_orgunit_in_ca_cert",
        "web PKI; OU=DOWNSTREAM-n is SPIRE's, and tells nested authorities apart",
    ),
    (
        "w_ext_subject_key_identifier_not_recommended_subscriber",
        "web PKI; RFC 5280 §4.2.1.2 recommends it for leaves",
    ),
    // No revocation service, no policies: SVIDs are replaced before lists would be read.
    (
        "e_sub_cert_aia_missing",
        "web PKI; chains are handed over whole: X509-SVID §5.1",
    ),
    (
        "w_sub_cert_aia_does_not_contain_issuing_ca_url",
        "web PKI; the same",
    ),
    ("w_sub_ca_aia_missing", "web PKI; the same"),
    (
        "e_sub_ca_crl_distribution_points_missing",
        "web PKI; an authority is withdrawn by the bundle: Federation §4.1",
    ),
    (
        "e_sub_cert_cert_policy_empty",
        "web PKI; SPIFFE knows no certificate policies",
    ),
    (
        "e_sub_cert_certificate_policies_missing",
        "web PKI; the same",
    ),
    ("e_sub_ca_certificate_policies_missing", "web PKI; the same"),
    ("e_invalid_ca_certificate_policies", "web PKI; the same"),
    (
        "n_ct_sct_policy_count_unsatisfied",
        "web PKI; workloads are in no public log",
    ),
    // Key usages.
    (
        "n_ca_digital_signature_not_set",
        "authorities sign no OCSP answers: X509-SVID §4.3 wants keyCertSign",
    ),
    (
        "n_mp_allowed_eku",
        "web PKI; an authority has no extended key usage: X509-SVID §4.4",
    ),
    ("n_sub_ca_eku_missing", "web PKI; the same"),
    // Kinds of keys that browsers do not take.
    (
        "e_algorithm_identifier_improper_encoding",
        "web PKI; Ed25519 is encoded as RFC 8410 §3 says",
    ),
    (
        "e_signature_algorithm_not_supported",
        "web PKI; Ed25519 signatures are RFC 8410's",
    ),
];

fn everything(lab: &Lab) -> Result<(), Trouble> {
    let mut all = Vec::new();
    for (key, ..) in ONE_PER_KEY {
        for depth in 1..=4 {
            all.extend([(key, depth, false), (key, depth, true)]);
        }
    }
    let found = judge_all(lab, &all)?;
    let gone: Vec<_> = REVIEWED
        .iter()
        .filter(|(code, _)| !found.contains(*code))
        .collect();
    ensure(gone.is_empty(), || {
        format!("reviewed, but found no more: {gone:?}")
    })
}

/// The codes of all findings, each of which has been reviewed.
fn judge_all(lab: &Lab, chains: &[Chain]) -> Result<BTreeSet<String>, Trouble> {
    let place = short_temporary_folder()?;
    let mut found = BTreeSet::new();
    let mut before: Option<PathBuf> = None;
    for (key, depth, confined) in chains {
        let folder = place.path().join(format!("{key}-{depth}-{confined}"));
        let nested = lab.ours()?.nested(&folder, key, *depth, *confined);
        Process::run("nested_authorities", nested, SOON)?.expect_success()?;
        let judged = judge(lab, &folder, *depth, before.as_deref());
        found.extend(judged.map_err(|trouble| {
            trouble.during(&format!("{key}, depth {depth}, confined: {confined}"))
        })?);
        before = Some(folder);
    }
    Ok(found)
}

fn judge(
    lab: &Lab,
    folder: &Path,
    depth: u8,
    other: Option<&Path>,
) -> Result<BTreeSet<String>, Trouble> {
    let (bundle, svid) = (folder.join("bundle.pem"), folder.join("svid.pem"));
    openssl::verify_strictly(&bundle, &svid)?;
    go(lab, &bundle, &svid)?
        .expect_success()?
        .expect_line("x509 spiffe://example.org/web")?
        .expect_line("go-spiffe spiffe://example.org/web")?;
    if let Some(other) = other {
        go(lab, &other.join("bundle.pem"), &svid)?
            .expect_refusal()?
            .expect_mention("unknown authority")?;
    }
    // Leaf first, the root last.
    let text = fs::read_to_string(&svid)? + &fs::read_to_string(&bundle)?;
    let mut files = Vec::new();
    for (number, one) in text.split_inclusive(END).enumerate() {
        if one.contains(END) {
            let file = folder.join(format!("{number}.pem"));
            fs::write(&file, one)?;
            files.push(file);
        }
    }
    ensure(files.len() == usize::from(depth) + 1, || {
        format!("{} certificates", files.len())
    })?;
    let mut found = BTreeSet::new();
    for file in &files {
        let mut parse = Command::new(openssl::openssl()?);
        parse.args(["asn1parse", "-noout", "-in"]).arg(file);
        Process::run("openssl asn1parse", parse, SOON)?.expect_success()?;
        found.extend(zlint(lab, file)?);
        found.extend(pkilint(lab, "lint_pkix_cert", &[file])?);
    }
    for pair in files.windows(2) {
        let [below, above] = pair else { continue };
        found.extend(pkilint(
            lab,
            "lint_pkix_signer_signee_cert_chain",
            &[above, below],
        )?);
    }
    let is_reviewed = |code: &&String| REVIEWED.iter().any(|(known, _)| known == code);
    let new: Vec<_> = found.iter().filter(|code| !is_reviewed(code)).collect();
    ensure(new.is_empty(), || {
        format!("found and not reviewed: {new:?}")
    })?;
    Ok(found)
}

fn go(lab: &Lab, bundle: &Path, svid: &Path) -> Result<crate::process::Finished, Trouble> {
    let mut command = Command::new(lab.go_peer()?);
    command.arg("judge").arg(bundle).arg(svid);
    Process::run("gopeer judge", command, SOON)
}

fn zlint(lab: &Lab, file: &Path) -> Result<BTreeSet<String>, Trouble> {
    let mut command = Command::new(lab.zlint()?);
    command.arg(file);
    let ended = Process::run("zlint", command, SOON)?.expect_success()?;
    let lints: Value = json(&ended.stdout.join("\n"))?;
    let lints = lints.as_object().filter(|lints| lints.len() > 100);
    let lints = lints.ok_or_else(|| Trouble::failed("zlint has looked at next to nothing"))?;
    Ok(lints
        .iter()
        .filter(|(_, lint)| !matches!(lint["result"].as_str(), Some("pass" | "NA" | "NE")))
        .map(|(code, _)| code.clone())
        .collect())
}

fn pkilint(lab: &Lab, tool: &str, files: &[&PathBuf]) -> Result<BTreeSet<String>, Trouble> {
    let mut command = Command::new(lab.pkilint()?.join(tool));
    command
        .args(["lint", "-f", "JSON", "-s", "NOTICE"])
        .args(files);
    // The exit status is the number of findings.
    let ended = Process::run(tool, command, SOON)?;
    let report: Value = json(&ended.stdout.join("\n"))?;
    let results = report["results"].as_array();
    let results = results.ok_or_else(|| Trouble::failed(ended.describe("gives no results,")))?;
    Ok(results
        .iter()
        .filter_map(|result| result["finding_descriptions"].as_array())
        .flatten()
        .map(|finding| {
            finding["code"]
                .as_str()
                .unwrap_or("a finding without code")
                .to_owned()
        })
        .collect())
}

fn json(text: &str) -> Result<Value, Trouble> {
    serde_json::from_str(text).map_err(|error| Trouble::Failed(format!("`{text}`: {error}")))
}

const END: &str = "-----END CERTIFICATE-----\n";

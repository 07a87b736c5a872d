//! `spiffe ca` as processes over a directory: from nothing to files, rotations, refusals, and what a rehearsal leaves.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::{Value, json};
use spiffe_core::key::KeyType;
use spiffe_core::{Clock, Source, SystemClock, TrustDomain};
use spiffe_daemons::ca::{AUTHORITY_LIFETIME, CaDirectory};
use spiffe_svid_ca::X509SvidParams;
use spiffe_svid_ca::authority::Kind;
use spiffe_workload_client::{FileSource, Files};

/// A directory to work in.
struct Desk {
    directory: tempfile::TempDir,
}

impl Desk {
    fn new() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
        }
    }

    /// One with a trust domain.
    fn with_ca() -> Self {
        let desk = Self::new();
        desk.run(&["ca", "init", "example.org"], 0);
        desk
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.file(name)).unwrap()
    }

    fn spiffe(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_spiffe"))
            .current_dir(self.path())
            .env_remove("SPIFFE_CA_STATE")
            .args(arguments)
            .output()
            .unwrap()
    }

    /// Standard output, after a check of the exit status and that an error is one line.
    #[track_caller]
    fn run(&self, arguments: &[&str], status: i32) -> String {
        let output = self.spiffe(arguments);
        let errors = String::from_utf8(output.stderr).unwrap();
        assert_eq!(
            output.status.code(),
            Some(status),
            "{arguments:?}: {errors}"
        );
        if status != 0 {
            assert!(
                errors.starts_with("error: ") && errors.lines().count() == 1,
                "{errors}"
            );
        }
        String::from_utf8(output.stdout).unwrap()
    }

    #[track_caller]
    fn data(&self, arguments: &[&str]) -> Value {
        let arguments = [arguments, &["--output", "json"]].concat();
        let document: Value = serde_json::from_str(&self.run(&arguments, 0)).unwrap();
        assert_eq!(document["ok"], json!(true));
        document["value"].clone()
    }

    #[track_caller]
    fn error(&self, arguments: &[&str], status: i32) -> String {
        let output = self.spiffe(arguments);
        assert_eq!(output.status.code(), Some(status), "{arguments:?}");
        assert!(output.stdout.is_empty());
        String::from_utf8(output.stderr).unwrap()
    }

    /// All files below the directory but the lock, with their modes.
    fn contents(&self) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
        let mut files = BTreeMap::new();
        let mut left = vec![self.path().to_owned()];
        while let Some(directory) = left.pop() {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    left.push(path);
                } else if !path.ends_with("lock") {
                    let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
                    files.insert(path.clone(), (mode, fs::read(path).unwrap()));
                }
            }
        }
        files
    }

    fn mode(&self, name: &str) -> u32 {
        fs::metadata(self.file(name)).unwrap().permissions().mode() & 0o777
    }

    /// The ID of the X.509 authority of this status.
    fn authority(&self, kind: &str, status: &str) -> Option<String> {
        let report = self.data(&["ca", "status"]);
        let authorities = report["authorities"].as_array().unwrap();
        authorities
            .iter()
            .find(|one| one["kind"] == kind && one["status"] == status)
            .map(|one| one["id"].as_str().unwrap().to_owned())
    }

    /// Whether svid.pem verifies with these authorities.
    fn verifies(&self, bundle: &str) -> bool {
        let trust = format!("example.org={bundle}");
        let output = self.spiffe(&["x509", "verify", "svid.pem", "--bundle", &trust]);
        output.status.success()
    }
}

#[tokio::test]
async fn two_commands_make_an_identity_in_files() {
    let desk = Desk::new();
    desk.run(&["ca", "init", "example.org"], 0);
    let id = "spiffe://example.org/web";
    let text = desk.run(&["ca", "issue", id, "--dns", "web.example.org"], 0);
    assert!(text.contains(id) && text.contains("svid.pem"), "{text}");
    assert!(desk.verifies("bundle.pem"));
    for (file, mode) in [
        ("svid.pem", 0o644),
        ("bundle.pem", 0o644),
        ("key.pem", 0o600),
        ("spiffe-ca", 0o700),
        ("spiffe-ca/keys.json", 0o600),
        ("spiffe-ca/issuance.log", 0o600),
    ] {
        assert_eq!(desk.mode(file), mode, "{file}");
    }
    // The key is the certificate's, or core would not load them together.
    let svid = spiffe_core::X509Svid::from_pem(
        &desk.read("svid.pem"),
        &desk.read("key.pem"),
        &*spiffe_core::crypto::aws_lc_rs(),
    )
    .unwrap();
    assert_eq!(svid.id(), id);
    let life = svid.not_after().saturating_since(svid.not_before());
    assert_eq!(life.as_secs(), 86_400 + 10);
    let source = FileSource::new(Files::spiffe_ca(desk.path()))
        .await
        .unwrap();
    assert_eq!(source.svid().unwrap().chain(), svid.chain());
    assert!(source.bundle(svid.id().trust_domain()).is_ok());
    // Nothing else is left lying about.
    let names: Vec<_> = fs::read_dir(desk.path()).unwrap().collect();
    assert_eq!(names.len(), 4);
}

#[test]
fn another_trust_domains_bundle_verifies_nothing() {
    let (desk, other) = (Desk::with_ca(), Desk::with_ca());
    desk.run(&["ca", "issue", "spiffe://example.org/web"], 0);
    fs::write(
        desk.file("other.pem"),
        other.run(&["ca", "bundle", "--to", "pem"], 0),
    )
    .unwrap();
    assert!(desk.verifies("bundle.pem"));
    assert!(!desk.verifies("other.pem"));
}

#[test]
fn the_bundle_comes_in_every_form() {
    let desk = Desk::with_ca();
    let document: Value = serde_json::from_str(&desk.run(&["ca", "bundle"], 0)).unwrap();
    assert_eq!(document["spiffe_sequence"], 2);
    assert_eq!(document["keys"].as_array().unwrap().len(), 2);
    let jwks = desk.run(&["ca", "bundle", "--to", "workload-api-jwks"], 0);
    let jwks: Value = serde_json::from_str(&jwks).unwrap();
    assert_eq!(jwks["keys"].as_array().unwrap().len(), 1);
    let pem = desk.run(&["ca", "bundle", "--to", "pem"], 0);
    desk.run(&["ca", "issue", "spiffe://example.org/web"], 0);
    assert_eq!(pem, desk.read("bundle.pem"));
}

#[test]
fn nothing_is_overwritten_unless_forced() {
    let desk = Desk::with_ca();
    let issue = ["ca", "issue", "spiffe://example.org/web"];
    desk.run(&issue, 0);
    let before = desk.contents();
    for file in ["key.pem", "svid.pem", "bundle.pem"] {
        let kept = fs::read(desk.file(file)).unwrap();
        let error = desk.error(&issue, 1);
        assert!(error.contains("--force"), "{error}");
        assert_eq!(desk.contents(), before, "not even the log");
        fs::write(desk.file(file), kept).unwrap();
    }
    desk.run(&[&issue[..], &["--force"]].concat(), 0);
    assert_ne!(desk.contents(), before);
    assert_eq!(
        (desk.mode("key.pem"), desk.mode("svid.pem")),
        (0o600, 0o644)
    );
    assert!(desk.verifies("bundle.pem"));
    let error = desk.error(&["ca", "init", "other.example"], 1);
    assert!(error.contains("holds the trust domain example.org already"));
}

#[test]
fn a_dry_run_says_what_would_be_and_changes_nothing() {
    let desk = Desk::new();
    desk.run(&["ca", "init", "example.org", "--dry-run"], 0);
    assert!(desk.contents().is_empty() && !desk.file("spiffe-ca").exists());
    desk.run(&["ca", "init", "example.org"], 0);
    desk.run(&["ca", "rotate", "--force"], 0);
    let old = desk.authority("x509", "old").unwrap();
    let before = desk.contents();
    let token = desk.run(
        &[
            "ca",
            "jwt",
            "spiffe://example.org/web",
            "--audience",
            "db",
            "--dry-run",
        ],
        0,
    );
    assert!(token.starts_with("would issue") && !token.contains("ey"));
    let issued = desk.data(&["ca", "issue", "spiffe://example.org/web", "--dry-run"]);
    assert_eq!(issued["dry_run"], true);
    desk.run(&["ca", "intermediate", "--dry-run"], 0);
    let rotated = desk.data(&["ca", "rotate", "--dry-run"]);
    assert!(rotated["authorities"].to_string().contains("prepared"));
    let tainted = desk.data(&["ca", "taint", &old, "--dry-run"]);
    assert!(tainted["authorities"].to_string().contains("tainted"));
    assert_eq!(desk.contents(), before);
    // What would fail, fails in the rehearsal.
    let error = desk.error(
        &["ca", "issue", "spiffe://other.example/web", "--dry-run"],
        1,
    );
    assert!(error.contains("not in the trust domain"), "{error}");
}

#[test]
fn a_rotation_publishes_first_and_signs_once_everybody_knows() {
    let desk = Desk::with_ca();
    let issue = ["ca", "issue", "spiffe://example.org/web", "--force"];
    desk.run(&issue, 0);
    fs::copy(desk.file("bundle.pem"), desk.file("first.pem")).unwrap();
    let first = desk.authority("x509", "active").unwrap();
    let rotate = ["ca", "rotate", "--kind", "x509"];
    desk.run(&rotate, 0);
    let second = desk.authority("x509", "prepared").unwrap();
    assert_eq!(desk.authority("x509", "active"), Some(first.clone()));
    assert_eq!(desk.authority("jwt", "prepared"), None);
    desk.run(&issue, 0);
    assert!(desk.verifies("first.pem"), "the first still signs");

    let error = desk.error(&rotate, 1);
    assert!(
        error.contains("run 'spiffe ca rotate --acknowledged'") && !error.contains("wait"),
        "{error}"
    );
    desk.run(&[&rotate[..], &["--acknowledged"]].concat(), 0);
    assert_eq!(desk.authority("x509", "active"), Some(second));
    assert_eq!(desk.authority("x509", "old"), Some(first.clone()));
    desk.run(&issue, 0);
    assert!(desk.verifies("bundle.pem") && !desk.verifies("first.pem"));

    let error = desk.error(&["ca", "taint", "0000"], 1);
    assert!(error.contains("no authority 0000"), "{error}");
    desk.run(&["ca", "taint", &first], 0);
    assert_eq!(desk.authority("x509", "tainted"), Some(first.clone()));
    desk.run(&["ca", "taint", &first, "--revoke"], 0);
    assert_eq!(desk.authority("x509", "tainted"), None);
    assert!(!desk.run(&["ca", "status"], 0).contains(&first));
}

#[test]
fn a_token_is_what_the_bundle_verifies() {
    let desk = Desk::with_ca();
    let jwt = ["ca", "jwt", "spiffe://example.org/web", "--audience", "db"];
    let token = desk.run(&jwt, 0);
    fs::write(desk.file("token"), &token).unwrap();
    fs::write(desk.file("bundle.json"), desk.run(&["ca", "bundle"], 0)).unwrap();
    let verify = |audience, status| {
        let trust = "example.org=bundle.json";
        let arguments = [
            "jwt",
            "verify",
            "token",
            "--audience",
            audience,
            "--bundle",
            trust,
        ];
        desk.run(&arguments, status);
    };
    verify("db", 0);
    verify("web", 1);
    let issued = desk.data(&jwt);
    assert_eq!(issued["id"], "spiffe://example.org/web");
    assert_eq!(issued["token"].as_str().unwrap().split('.').count(), 3);
}

#[test]
fn a_signing_request_is_certified_and_no_key_is_written() {
    let desk = Desk::with_ca();
    let key = rcgen::KeyPair::generate().unwrap();
    let request = rcgen::CertificateParams::new(vec!["asked.example".into()])
        .unwrap()
        .serialize_request(&key)
        .unwrap();
    let text = <base64ct::Base64 as base64ct::Encoding>::encode_string(request.der());
    let (begin, end) = ["BEGIN", "END"]
        .map(|side| format!("-----{side} CERTIFICATE REQUEST-----"))
        .into();
    fs::write(
        desk.file("request.pem"),
        format!("{begin}\n{text}\n{end}\n"),
    )
    .unwrap();
    fs::write(desk.file("request.der"), request.der()).unwrap();
    for file in ["request.pem", "request.der"] {
        let id = "spiffe://example.org/web";
        desk.run(&["ca", "issue", id, "--csr", file, "--force"], 0);
        assert!(desk.verifies("bundle.pem"));
        assert!(!desk.file("key.pem").exists());
    }
    let mut bad = request.der().to_vec();
    let last = bad.len() - 1;
    bad[last] ^= 1;
    fs::write(desk.file("request.der"), bad).unwrap();
    let before = desk.contents();
    let arguments = [
        "ca",
        "issue",
        "spiffe://example.org/web",
        "--csr",
        "request.der",
        "--force",
    ];
    let error = desk.error(&arguments, 1);
    assert!(error.contains("signature is not by the key"), "{error}");
    assert_eq!(desk.contents(), before);
}

#[test]
fn an_intermediate_comes_with_its_key_and_the_roots() {
    let desk = Desk::with_ca();
    desk.run(&["ca", "intermediate", "--path-length", "0"], 0);
    assert_eq!(
        (desk.mode("ca.pem"), desk.mode("ca-key.pem")),
        (0o644, 0o600)
    );
    // They serve as an upstream authority, which proves chain, key and roots.
    let now = SystemClock::new().now();
    let crypto = spiffe_core::crypto::aws_lc_rs();
    let random = spiffe_core::crypto::system_random();
    let settings = spiffe_svid_ca::issuer::IssuerSettings::new(crypto, random);
    let files = |bundle: PathBuf| {
        spiffe_svid_ca::upstream::DiskFiles::new(desk.file("ca.pem"), desk.file("ca-key.pem"))
            .with_bundle(bundle)
    };
    let open = |bundle: PathBuf| {
        let domain = TrustDomain::parse("example.org").unwrap();
        let opened = spiffe_svid_ca::upstream::DiskUpstream::open(
            domain,
            files(bundle),
            settings.clone(),
            now,
        );
        tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap()
            .block_on(opened)
    };
    assert!(open(desk.file("bundle.pem")).is_ok());
    let other = Desk::with_ca();
    let pem = other.run(&["ca", "bundle", "--to", "pem"], 0);
    fs::write(desk.file("other.pem"), pem).unwrap();
    assert!(open(desk.file("other.pem")).is_err());
}

#[test]
fn the_log_tells_what_was_issued_and_shows_a_change() {
    let desk = Desk::with_ca();
    let id = "spiffe://example.org/web";
    desk.run(&["ca", "issue", id, "--reason", "ticket 7"], 0);
    desk.run(&["ca", "jwt", id, "--audience", "db"], 0);
    let verified = desk.data(&["ca", "log", "verify"]);
    assert_eq!(verified["records"], 3);
    let head = verified["head"].as_str().unwrap().to_owned();
    desk.run(&["ca", "log", "verify", "--head", &head], 0);
    let shown = desk.run(&["ca", "log", "show"], 0);
    let records: Vec<Value> = shown
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(records[1]["what"], "x509");
    assert_eq!(
        (&records[1]["id"], &records[1]["reason"]),
        (&json!(id), &json!("ticket 7"))
    );
    assert_eq!(records[2]["what"], "jwt");

    let log = desk.file("spiffe-ca/issuance.log");
    let good = fs::read_to_string(&log).unwrap();
    fs::write(&log, good.replace("ticket 7", "ticket 8")).unwrap();
    let error = desk.error(&["ca", "log", "verify"], 1);
    assert!(error.contains("broken at line 3"), "{error}");
    let cut = good.lines().take(2).collect::<Vec<_>>().join("\n") + "\n";
    fs::write(&log, cut).unwrap();
    desk.run(&["ca", "log", "verify"], 0);
    let error = desk.error(&["ca", "log", "verify", "--head", &head], 1);
    assert!(error.contains("records are missing"), "{error}");
}

#[test]
fn a_log_that_was_removed_or_replaced_is_no_new_beginning() {
    let (desk, other) = (Desk::with_ca(), Desk::with_ca());
    let issue = ["ca", "issue", "spiffe://example.org/web", "--force"];
    desk.run(&issue, 0);
    let log = desk.file("spiffe-ca/issuance.log");
    let good = fs::read(&log).unwrap();
    fs::remove_file(&log).unwrap();
    let behind = || {
        for verb in [&issue[..], &["ca", "log", "verify"], &["ca", "rotate"]] {
            let error = desk.error(verb, 1);
            assert!(
                error.contains("the journal knows record 1") && error.contains("take \"log\" out"),
                "{error}"
            );
        }
    };
    behind();
    fs::copy(other.file("spiffe-ca/issuance.log"), &log).unwrap();
    behind();
    fs::write(&log, &good).unwrap();
    desk.run(&issue, 0);
    desk.run(&["ca", "log", "verify"], 0);
    let mut journal: Value = serde_json::from_str(&desk.read("spiffe-ca/journal.json")).unwrap();
    let mut ahead = journal.clone();
    ahead["log"]["records"] = u64::MAX.into();
    let ahead = serde_json::to_vec(&ahead).unwrap();
    fs::write(desk.file("spiffe-ca/journal.json"), ahead).unwrap();
    let error = desk.error(&["ca", "log", "verify"], 1);
    let says = format!("the journal knows record {}", u64::MAX);
    assert!(error.contains(&says), "{error}");
    // What the error says to do about one that is lost for good.
    fs::remove_file(&log).unwrap();
    assert_eq!(journal["log"]["records"], 1);
    journal.as_object_mut().unwrap().remove("log");
    let journal = serde_json::to_vec(&journal).unwrap();
    fs::write(desk.file("spiffe-ca/journal.json"), journal).unwrap();
    desk.run(&issue, 0);
    assert_eq!(desk.data(&["ca", "log", "verify"])["records"], 1);
}

#[test]
fn keys_that_are_gone_or_anothers_are_seen() {
    let (desk, other) = (Desk::with_ca(), Desk::with_ca());
    let status = desk.data(&["ca", "status"]);
    for authority in status["authorities"].as_array().unwrap() {
        assert_eq!(authority["key"], "present", "{authority}");
    }
    let keys = desk.file("spiffe-ca/keys.json");
    let good = fs::read(&keys).unwrap();
    fs::copy(other.file("spiffe-ca/keys.json"), &keys).unwrap();
    let shown = desk.run(&["ca", "status"], 1);
    assert_eq!(
        shown.matches(", its key is another one").count(),
        2,
        "{shown}"
    );
    fs::remove_file(&keys).unwrap();
    let shown = desk.run(&["ca", "status"], 1);
    assert_eq!(shown.matches(", its key is missing").count(), 2, "{shown}");
    fs::write(&keys, good).unwrap();
    fs::set_permissions(&keys, fs::Permissions::from_mode(0o600)).unwrap();
    desk.run(&["ca", "status"], 0);
}

#[tokio::test]
async fn a_clock_past_every_authority_is_believed_only_when_told_so() {
    let now = SystemClock::new().now();
    let desk = Desk::new();
    let directory = CaDirectory::new(desk.file("spiffe-ca"));
    let (domain, year) = (
        TrustDomain::parse("example.org").unwrap(),
        AUTHORITY_LIFETIME,
    );
    let made = directory.init(&domain, year, KeyType::EcP256, now - year * 2);
    made.await.unwrap();
    let files = desk.contents();
    let issue = ["ca", "issue", "spiffe://example.org/web", "--force"];
    let jwt = ["ca", "jwt", "spiffe://example.org/web", "--audience", "db"];
    for verb in [&issue[..], &jwt, &["ca", "rotate"]] {
        let error = desk.error(verb, 1);
        assert!(
            error.contains("the last authority") && error.contains("--believe-clock"),
            "{error}"
        );
        assert_eq!(desk.contents(), files);
    }
    let output = desk.spiffe(&[&issue[..], &["--believe-clock"]].concat());
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}");
    assert!(said.contains("note: the X.509 authority") && said.contains("is new, and active"));
    let output = desk.spiffe(&issue);
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
}

#[tokio::test]
async fn a_clock_before_the_last_record_is_believed_only_when_told_so() {
    let now = SystemClock::new().now();
    let desk = Desk::new();
    let directory = CaDirectory::new(desk.file("spiffe-ca"));
    let domain = TrustDomain::parse("example.org").unwrap();
    let made = directory.init(&domain, AUTHORITY_LIFETIME, KeyType::EcP256, now);
    made.await.unwrap();
    let ca = directory.open(|builder| builder, now).await.unwrap();
    let params = X509SvidParams::new("spiffe://example.org/web".parse().unwrap());
    let later = now + Duration::from_secs(3600);
    let issued = ca.issue_x509_svid(&params, KeyType::EcP256, later);
    issued.await.unwrap();
    drop(ca);
    let issue = ["ca", "issue", "spiffe://example.org/web", "--force"];
    let error = desk.error(&issue, 1);
    assert!(
        error.contains("something was recorded at") && error.contains("--believe-clock"),
        "{error}"
    );
    desk.run(&[&issue[..], &["--believe-clock"]].concat(), 0);
    // What was recorded last is of this time now.
    desk.run(&issue, 0);
}

#[test]
fn what_cannot_be_is_said_in_one_line() {
    let desk = Desk::new();
    let error = desk.error(&["ca", "status"], 1);
    assert!(error.contains("spiffe ca init TRUST_DOMAIN"), "{error}");
    desk.run(&["ca", "init", "example.org"], 0);
    let issue = |more: &[&str], status| {
        let arguments = [
            &["ca", "issue", "spiffe://example.org/web", "--dry-run"],
            more,
        ]
        .concat();
        desk.run(&arguments, status)
    };
    issue(&["--ttl", "1h30m"], 0);
    issue(&["--ttl", "soon"], 2);
    issue(&["--ttl", "0s"], 2);
    issue(&["--ttl", "99999999999999999999d"], 2);
    issue(&["--dns", "-bad"], 2);
    issue(&["--csr", "x", "--key-type", "ed25519"], 2);
    desk.run(&["ca", "issue", "spiffe://example.org", "--dry-run"], 1);
    let capped = desk.data(&[
        "ca",
        "issue",
        "spiffe://example.org/a",
        "--ttl",
        "999d",
        "--dry-run",
    ]);
    assert_eq!(capped["capped"], true);
    // Another trust domain's intermediate that no name constraint can express.
    let other = Desk::new();
    other.run(&["ca", "init", "a_b.example"], 0);
    other.run(&["ca", "intermediate", "--dry-run"], 0);
    let error = other.error(&["ca", "intermediate", "--confined", "--dry-run"], 1);
    assert!(error.contains("holds no '_'"), "{error}");
}

#[test]
fn keys_of_every_kind_sign_and_are_certified() {
    for authority in ["ec-p384", "ed25519", "rsa-2048"] {
        let desk = Desk::new();
        desk.run(&["ca", "init", "example.org", "--key-type", authority], 0);
        for key in ["ec-p256", "ed25519"] {
            let id = "spiffe://example.org/web";
            desk.run(&["ca", "issue", id, "--key-type", key, "--force"], 0);
            assert!(desk.verifies("bundle.pem"), "{key} under {authority}");
        }
    }
}

#[tokio::test]
async fn a_running_trust_domain_is_looked_at_and_left_alone() {
    let desk = Desk::new();
    let socket = desk.file("s");
    let uid = nix::unistd::getuid();
    let entry = format!("id=spiffe://example.org/web,selector=unix:uid:{uid}");
    let state = desk.file("spiffe-ca");
    let arguments = ["--entry", &entry, "--state", state.to_str().unwrap()];
    let up = support::Up::start(&socket, &arguments);
    let endpoint = spiffe_workload_client::Endpoint::unix(&socket).unwrap();
    let client = spiffe_workload_client::WorkloadApiClient::new(endpoint);
    client.fetch_x509().await.unwrap();
    assert!(desk.authority("x509", "active").is_some());
    let shown = desk.run(&["ca", "log", "show"], 0);
    let last: Value = serde_json::from_str(shown.lines().last().unwrap()).unwrap();
    assert_eq!(last["id"], "spiffe://example.org/web");
    let reason = last["reason"].as_str().unwrap();
    assert!(reason.starts_with("entry "), "{reason}");
    let error = desk.error(&["ca", "rotate"], 1);
    assert!(error.contains("is in use by process"), "{error}");
    // Killed, it has logged all that it released.
    up.kill();
    assert_eq!(desk.run(&["ca", "log", "show"], 0), shown);
    desk.run(&["ca", "issue", "spiffe://example.org/db"], 0);
    assert!(desk.verifies("bundle.pem"));
}

#[tokio::test]
async fn what_is_over_leaves_the_bundle_when_somebody_rotates_and_not_before() {
    let desk = Desk::new();
    let directory = CaDirectory::new(desk.file("spiffe-ca"));
    let name = TrustDomain::parse("example.org").unwrap();
    let (start, day) = (SystemClock::new().now(), Duration::from_secs(86_400));
    let made = directory
        .init(&name, day * 10, KeyType::EcP256, start)
        .await;
    let first = made.unwrap().authorities[0].id.clone();
    let kinds = [Kind::X509];
    let forced = directory.rotate(&kinds, false, true, start + day).await;
    forced.unwrap();
    let over = start + day * 10 + Duration::from_secs(3600);
    let is_there = async || {
        let status = directory.status(over).await.unwrap();
        status.authorities.iter().any(|one| one.id == first)
    };
    directory.open(|builder| builder, over).await.unwrap();
    assert!(is_there().await);
    let rotated = directory.rotate(&kinds, true, false, over).await;
    rotated.unwrap();
    assert!(!is_there().await);
}

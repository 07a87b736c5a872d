//! `spiffe fetch` against `spiffe up`: shown, delivered once, and followed.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use spiffe_core::crypto::aws_lc_rs;
use spiffe_core::{BoxFuture, Clock, JwtSvid, SystemClock, Timestamp, X509Svid};
use spiffe_daemons::local::{LocalApi, LocalTrustDomain};
use spiffe_registration::Entry;
use spiffe_workload_client::delivery::{OpenRevision, read_flat};
use support::{Running, Up, own_entry, run, spiffe};
use tempfile::TempDir;

/// A trust domain, and a directory to deliver into.
struct World {
    up: Option<Up>,
    place: TempDir,
    socket: String,
}

impl World {
    fn new(more: &str) -> Self {
        let place = tempfile::tempdir().unwrap();
        let socket = place.path().join("s");
        Self {
            up: Some(Up::start(&socket, &["--entry", &own_entry("web", more)])),
            socket: socket.to_str().unwrap().into(),
            place,
        }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.at(name).to_str().unwrap().into()
    }

    #[track_caller]
    fn good(&self, arguments: &[&str]) -> String {
        let all = [&["fetch"], arguments, &["--socket", &self.socket]].concat();
        let (status, out, errors) = run(&all);
        assert_eq!((status, errors.as_str()), (0, ""), "{out}");
        out
    }

    #[track_caller]
    fn bad(&self, status: i32, arguments: &[&str]) -> String {
        let all = [&["fetch"], arguments, &["--socket", &self.socket]].concat();
        let (found, out, errors) = run(&all);
        assert_eq!((found, out.as_str()), (status, ""), "{errors}");
        let line = errors.strip_prefix("error: ").unwrap().trim_end();
        assert!(!line.contains('\n'), "{line}");
        line.into()
    }

    /// A `spiffe fetch` that goes on.
    fn follow(&self, arguments: &[&str]) -> Running {
        let mut command = spiffe();
        command
            .arg("fetch")
            .args(arguments)
            .args(["--watch", "--socket", &self.socket]);
        Running::start(command)
    }
}

fn svid(directory: &Path) -> X509Svid {
    let names = ["svid.0.pem", "svid.0.key"];
    let files = read_flat(directory, &names).unwrap();
    let text = |at: usize| String::from_utf8(files[at].to_vec()).unwrap();
    X509Svid::from_pem(&text(0), &text(1), &*aws_lc_rs()).unwrap()
}

#[test]
fn svids_tokens_and_bundles_are_shown() {
    let w = World::new(",hint=outer");
    let text = w.good(&[]);
    for says in [
        "spiffe id    spiffe://example.org/web",
        "hint         outer",
        "bundle of example.org: 1 x509",
    ] {
        assert!(text.contains(says), "{says} is not in {text}");
    }
    assert!(!text.contains("PRIVATE KEY"));
    let json: Value = serde_json::from_str(&w.good(&["x509", "--output", "json"])).unwrap();
    assert_eq!(json["ok"], true);
    assert_eq!(json["value"]["svids"][0]["id"], "spiffe://example.org/web");
    assert!(
        json["value"]["svids"][0]["chain"]
            .as_str()
            .unwrap()
            .starts_with("-----BEGIN CERTIFICATE")
    );

    let token = w.good(&["jwt", "--audience", "a,b"]);
    let token = JwtSvid::parse_insecure(token.trim()).unwrap();
    assert_eq!(token.audience(), ["a", "b"]);
    let two: Value = serde_json::from_str(&w.good(&[
        "jwt",
        "--audience",
        "a",
        "--audience",
        "b",
        "--id",
        "spiffe://example.org/web",
        "--output",
        "json",
    ]))
    .unwrap();
    assert_eq!(two["value"]["tokens"][1]["audience"][0], "b");

    let bundles: Value = serde_json::from_str(&w.good(&["bundles", "--output", "json"])).unwrap();
    let bundle = &bundles["value"]["bundles"][0];
    assert_eq!(
        (&bundle["x509_authorities"], &bundle["jwt_authorities"]),
        (&1.into(), &1.into())
    );
}

#[test]
fn files_are_delivered_once_and_again_only_when_new() {
    let w = World::new("");
    let directory = w.text("svid");
    let said = w.good(&[
        "--write",
        &directory,
        "--audience",
        "reports",
        "--exec",
        "cp $SPIFFE_KEY_FILE $SPIFFE_DIR/../copy",
    ]);
    assert!(
        said.contains("revision 1 is in") && said.contains("told of"),
        "{said}"
    );
    let first = svid(&w.at("svid"));
    assert_eq!(first.id().as_str(), "spiffe://example.org/web");
    let open = OpenRevision::open(w.at("svid")).unwrap();
    assert_eq!(
        open.read("svid.0.key").unwrap().to_vec(),
        fs::read(w.at("copy")).unwrap()
    );
    let token = String::from_utf8(open.read("jwt.0.token").unwrap().to_vec()).unwrap();
    assert_eq!(
        JwtSvid::parse_insecure(&token).unwrap().audience(),
        ["reports"]
    );
    open.read("bundles/example.org.json").unwrap();
    let mode = |name| fs::metadata(w.at(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!(
        (mode("svid/svid.0.key"), mode("svid/svid.0.pem")),
        (0o600, 0o644)
    );

    // The agent gives the same SVID as long as it is fresh.
    let json = w.good(&[
        "--write",
        &directory,
        "--key-mode",
        "640",
        "--output",
        "json",
    ]);
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(
        json["value"]["revision"], 2,
        "without the token it is another revision"
    );
    let again = w.good(&["--write", &directory]);
    assert!(again.contains("revision 2 is in"), "{again}");
    assert_eq!(svid(&w.at("svid")).serial_hex(), first.serial_hex());
    assert_eq!(
        mode("svid/svid.0.key"),
        0o600,
        "the mode is that of the last delivery"
    );

    w.good(&["bundles", "--write", &w.text("bundles")]);
    assert!(w.at("bundles/bundles/example.org.pem").exists());
    assert!(!w.at("bundles/svid.0.key").exists());
    w.good(&["jwt", "--audience", "x", "--write", &w.text("jwt")]);
    assert!(w.at("jwt/jwt.0.token").exists() && !w.at("jwt/svid.0.key").exists());
}

#[test]
fn files_are_given_to_whom_they_are_for() {
    let w = World::new("");
    let (directory, own) = (w.text("svid"), fs::metadata(w.place.path()).unwrap());
    // Others than this user take root.
    let (uid, gid) = match own.uid() {
        0 => (54_321, 54_322),
        uid => (uid, own.gid()),
    };
    let owner = |arguments: &[&str]| {
        w.good(&[&["--write", &directory], arguments].concat());
        let key = fs::metadata(w.at("svid/svid.0.key")).unwrap();
        (key.uid(), key.gid())
    };
    assert_eq!(owner(&[]), (own.uid(), own.gid()));
    assert_eq!(owner(&["--owner", &uid.to_string()]), (uid, own.gid()));
    let both = format!("{uid}:{gid}");
    assert_eq!(owner(&["--owner", &both]), (uid, gid));
    let error = w.bad(2, &["--write", &directory, "--owner", "nobody"]);
    assert!(error.contains("UID"), "{error}");
}

#[test]
fn rotations_are_followed_and_a_process_is_signalled() {
    let w = World::new(",ttl=4s");
    let directory = w.text("svid");
    let mut told = Command::new("sh")
        .args([
            "-c",
            "trap 'echo HUP' HUP; echo ready; while :; do sleep 0.05; done",
        ])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let heard = support::lines(told.stdout.take().unwrap());
    support::wait(&heard, "ready");
    let pid = w.at("pid");
    fs::write(&pid, told.id().to_string()).unwrap();
    let follow = w.follow(&["--write", &directory, "--signal", pid.to_str().unwrap()]);
    let mut serials = BTreeSet::new();
    for revision in 1..=3 {
        follow.line(&format!(
            "revision {revision} is in {directory}, and told of"
        ));
        support::wait(&heard, "HUP");
        serials.insert(svid(&w.at("svid")).serial_hex());
    }
    assert_eq!(serials.len(), 3);
    told.kill().unwrap();
    told.wait().unwrap();
    // Nobody to be told: reported, and delivery goes on.
    follow.line("could not be signalled");
    follow.line("revision 5");
    assert!(follow.interrupt().success());
    svid(&w.at("svid"));
}

#[test]
fn a_workload_api_that_comes_later_is_waited_for() {
    let place = tempfile::tempdir().unwrap();
    let (socket, directory) = (place.path().join("s"), place.path().join("svid"));
    let mut command = spiffe();
    command
        .args(["fetch", "--watch", "--output", "json", "--socket"])
        .arg(&socket)
        .arg("--write")
        .arg(&directory);
    let follow = Running::start(command);
    follow.log_line("no updates from the Workload API; asking again");
    let _up = Up::start(&socket, &["--entry", &own_entry("web", "")]);
    let line: Value = serde_json::from_str(&follow.line("revision\":1")).unwrap();
    assert_eq!(line["directory"], directory.to_str().unwrap());
    svid(&directory);
    assert_eq!(follow.terminate().code(), Some(0));
}

#[test]
fn what_was_withdrawn_while_nobody_looked_is_removed() {
    let mut w = World::new("");
    let directory = w.text("svid");
    w.good(&["--write", &directory]);
    drop(w.up.take());
    w.up = Some(Up::start(&w.at("s"), &[]));
    let follow = w.follow(&["--write", &directory]);
    follow.line("the identity was withdrawn, and the files are removed from");
    let left = fs::read_dir(w.at("svid")).unwrap();
    let mut left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, [".delivery", "current"]);
    let key = Command::new("grep")
        .args(["-rq", "PRIVATE KEY", &directory])
        .status()
        .unwrap();
    assert_eq!(key.code(), Some(1), "no key is left anywhere below");
}

#[test]
fn a_withdrawal_is_said_and_so_is_what_comes_after_it() {
    let mut w = World::new("");
    let directory = w.text("svid");
    let follow = w.follow(&["--write", &directory]);
    let json = w.text("json");
    let json = w.follow(&["--write", &json, "--output", "json"]);
    follow.line(&format!("revision 1 is in {directory}"));
    json.line("\"revision\":1,\"withdrawn\":false");
    drop(w.up.take());
    w.up = Some(Up::start(&w.at("s"), &[]));
    let said = follow.log_line("when it is withdrawn");
    assert!(said.contains("has nothing for this workload"), "{said}");
    let said = follow.log_line("event=\"withdrawn\"");
    assert!(said.contains("WARN"), "{said}");
    let said = follow.log_line("withdrawn: the files are removed");
    assert!(said.contains("WARN"), "{said}");
    follow.line(&format!(
        "the identity was withdrawn, and the files are removed from {directory} (revision 2)"
    ));
    json.line("\"revision\":2,\"withdrawn\":true");
    drop(w.up.take());
    w.up = Some(Up::start(&w.at("s"), &["--entry", &own_entry("web", "")]));
    follow.line(&format!("revision 3 is in {directory}"));
    json.line("\"revision\":3,\"withdrawn\":false");
}

#[test]
fn a_directory_that_another_process_delivers_into_is_named_as_such() {
    let w = World::new("");
    let directory = w.text("svid");
    let follow = w.follow(&["--write", &directory]);
    follow.line("revision 1 is in");
    let line = w.bad(1, &["--write", &directory]);
    let holder = format!("{directory} is locked: process {} delivers", follow.id());
    assert!(line.contains(&holder), "{line}");
    let second = w.follow(&["--write", &directory]);
    second.line(&holder);
    assert!(follow.terminate().success());
    second.line("revision 1 is in");
    w.good(&["--write", &w.text("another")]);
}

/// The system's clock, set ahead or back.
#[derive(Debug)]
struct Skewed {
    system: SystemClock,
    ahead: Duration,
    back: Duration,
}

impl Clock for Skewed {
    fn now(&self) -> Timestamp {
        self.system.now() + self.ahead - self.back
    }

    fn monotonic(&self) -> Duration {
        self.system.monotonic()
    }

    fn sleep_until(&self, deadline: Duration) -> BoxFuture<'static, ()> {
        self.system.sleep_until(deadline)
    }
}

/// A trust domain in this process, whose clock is so far ahead of the system's, or behind it.
async fn skewed(ahead: Duration, back: Duration) -> (LocalTrustDomain, LocalApi, TempDir) {
    let place = tempfile::tempdir().unwrap();
    let system = SystemClock::new();
    let clock = Skewed {
        system,
        ahead,
        back,
    };
    let entry = Entry::from_text(&own_entry("web", ""), || "1".into()).unwrap();
    let domain = LocalTrustDomain::builder("example.org".parse().unwrap());
    let domain = domain.entries([entry]).clock(Arc::new(clock));
    let domain = domain.build().await.unwrap();
    let api = domain.serve(place.path().join("s")).unwrap();
    (domain, api, place)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_not_the_issuers_is_named_with_both_times() {
    let two_hours = Duration::from_secs(7200);
    let within = |timeout: &str, what: &[&str], place: &TempDir| {
        let mut command = spiffe();
        command.args(["fetch", "--timeout", timeout]).args(what);
        command.arg("--socket").arg(place.path().join("s"));
        let output = tokio::task::block_in_place(|| command.output().unwrap());
        let errors = String::from_utf8(output.stderr).unwrap();
        (output.status.code(), errors)
    };
    let run = |what: &[&str], place: &TempDir| within("90s", what, place);
    let token = ["jwt", "--audience", "reports"];
    let none = Duration::ZERO;
    let (_domain, _api, place) = skewed(two_hours, none).await;
    let (status, errors) = run(&[], &place);
    assert_eq!(status, Some(0), "{errors}");
    assert!(
        errors.starts_with("warning: the SVID of spiffe://example.org/web is valid from 2")
            && errors.contains(" here: check this machine's clock")
            && errors.lines().count() == 1,
        "{errors}"
    );
    let (_domain, _api, place) = skewed(none, two_hours).await;
    // What is expired already is waited for in vain.
    let (status, errors) = within("2s", &[], &place);
    assert_eq!(status, Some(1), "{errors}");
    assert!(
        errors.contains("the SVID of spiffe://example.org/web expired at 2")
            && errors.contains(" here: check this machine's clock")
            && errors.lines().count() == 1,
        "{errors}"
    );
    let (status, errors) = run(&token, &place);
    assert_eq!(status, Some(0), "{errors}");
    assert!(
        errors.starts_with("warning: the token of spiffe://example.org/web expired at 2")
            && errors.contains(" here: check this machine's clock"),
        "{errors}"
    );
    let (_domain, _api, place) = skewed(none, none).await;
    let (status, errors) = run(&[], &place);
    assert_eq!((status, errors.as_str()), (Some(0), ""));
    let (status, errors) = run(&token, &place);
    assert_eq!((status, errors.as_str()), (Some(0), ""));
}

#[test]
fn what_goes_wrong_is_one_line() {
    let w = World::new("");
    let directory = w.text("svid");
    for (arguments, says) in [
        (&["jwt"] as &[&str], "--audience"),
        (&["--audience", "a"], "--write"),
        (&["bundles", "--audience", "a"], "--audience"),
        (&["--watch"], "--write"),
        (&["--exec", "true"], "--write"),
        (
            &["--write", "x", "--exec", "true", "--signal", "1"],
            "--exec",
        ),
        (&["--write", "x", "--signal", "0"], "by its number"),
        (&["--write", "x", "--signal", "1:KILL"], "KILL"),
        (&["--write", "x", "--key-mode", "999"], "octal"),
        (&["--timeout", "soon"], "duration"),
        (&["everything"], "everything"),
    ] {
        let line = w.bad(2, arguments);
        assert!(line.contains(says), "{arguments:?}: {line}");
    }
    let line = w.bad(1, &["--write", &directory, "--exec", "exit 7"]);
    assert_eq!(
        line,
        "the files are in place, but the command \"exit 7\" failed: exit status: 7"
    );
    svid(&w.at("svid"));
    fs::write(w.at("file"), "precious").unwrap();
    let line = w.bad(1, &["--write", &w.text("file")]);
    assert!(line.contains("Not a directory"), "{line}");
    assert_eq!(fs::read_to_string(w.at("file")).unwrap(), "precious");
    let line = w.bad(1, &["--write", &w.text("missing/deep")]);
    assert!(line.contains("make its directory"), "{line}");

    let (status, _, errors) = run(&["fetch", "--socket", "/no/such/socket", "--timeout", "1s"]);
    assert_eq!(status, 1);
    assert!(
        errors.contains("/no/such/socket") && errors.lines().count() == 1,
        "{errors}"
    );
    let output = spiffe()
        .arg("fetch")
        .env("SPIFFE_ENDPOINT_SOCKET", "/run/agent.sock")
        .output()
        .unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(
        errors
            .contains("SPIFFE_ENDPOINT_SOCKET is \"/run/agent.sock\": the endpoint has no scheme")
            && errors.lines().count() == 1,
        "{errors}"
    );
    let (status, _, errors) = run(&["fetch"]);
    assert_eq!(status, 2);
    assert!(
        errors.contains("SPIFFE_ENDPOINT_SOCKET") && errors.contains("--socket"),
        "{errors}"
    );
}

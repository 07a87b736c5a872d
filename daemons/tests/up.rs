//! `spiffe up` as a process: who gets what, killed and restarted, stopped, and given bad input.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use spiffe_core::key::KeyType;
use spiffe_core::{Clock, Source, SystemClock, TrustDomain, Watch};
use spiffe_daemons::ca::{AUTHORITY_LIFETIME, CaDirectory};
use spiffe_tls::{Mtls, Policy, TlsStream};
use spiffe_workload_client::{Endpoint, X509Source};
use support::{PATIENCE, Running, Up, own_entry, run};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

async fn source(socket: &Path) -> X509Source {
    X509Source::builder()
        .endpoint(Endpoint::unix(socket).unwrap())
        .timeout(PATIENCE)
        .build()
        .await
        .unwrap()
}

/// Both ends of a connection between two workloads that share a source.
async fn connect(source: &X509Source) -> (TlsStream<DuplexStream>, TlsStream<DuplexStream>) {
    let mtls = Mtls::new(source, "domain:example.org".parse::<Policy>().unwrap());
    let (acceptor, connector) = (mtls.clone().acceptor().unwrap(), mtls.connector().unwrap());
    let (near, far) = tokio::io::duplex(64 * 1024);
    let (near, far) = tokio::join!(connector.connect(near), acceptor.accept(far));
    (near.unwrap(), far.unwrap())
}

async fn exchange(pair: &mut (TlsStream<DuplexStream>, TlsStream<DuplexStream>)) {
    pair.0.write_all(b"x").await.unwrap();
    pair.0.flush().await.unwrap();
    assert_eq!(pair.1.read_u8().await.unwrap(), b'x');
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap()
}

#[tokio::test]
async fn killed_and_restarted_it_is_the_same_trust_domain_and_nobody_notices() {
    let directory = tempfile::tempdir().unwrap();
    let (socket, state) = (directory.path().join("s"), directory.path().join("state"));
    let entry = own_entry("web", "");
    let arguments = ["--entry", &entry, "--state", state.to_str().unwrap()];
    let up = Up::start(&socket, &arguments);
    let source = source(&socket).await;
    let before = source.current();
    let own = before.svid().unwrap().clone();
    let authorities = |source: &X509Source| {
        let bundle = source.bundle(own.trust_domain()).unwrap();
        bundle.x509_authorities().to_concatenated_der()
    };
    let authority = authorities(&source);
    let mut open = connect(&source).await;
    exchange(&mut open).await;

    up.kill();
    assert!(
        socket.exists(),
        "a killed process leaves its socket file behind"
    );
    exchange(&mut open).await;
    for _ in 0..5 {
        connect(&source).await;
    }

    let _again = Up::start(&socket, &arguments);
    within(source.changed(before.revision())).await;
    let after = source.current();
    assert_ne!(after.svid().unwrap().serial(), own.serial());
    assert_eq!(authorities(&source), authority);
    exchange(&mut open).await;
    connect(&source).await;
    for (file, mode) in [("", 0o700), ("journal.json", 0o600), ("keys.json", 0o600)] {
        let metadata = fs::metadata(state.join(file)).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o777, mode, "{file}");
    }
}

#[tokio::test]
async fn a_caller_without_an_entry_is_denied_and_the_log_says_what_is_missing() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("s");
    let uid = nix::unistd::getuid();
    let entry =
        format!("id=spiffe://example.org/web,selector=unix:uid:{uid},selector=unix:gid:54321");
    let up = Up::start(&socket, &["--entry", &entry]);
    let client = spiffe_workload_client::WorkloadApiClient::new(Endpoint::unix(&socket).unwrap());
    let denied = client.fetch_x509().await.unwrap_err().to_string();
    assert!(denied.contains("no identity issued"), "{denied}");
    let line = up.log_line("nearest");
    assert!(line.contains(&format!("unix:uid:{uid}")), "{line}");
    assert!(line.contains("unix:gid:54321"), "{line}");
}

#[tokio::test]
async fn short_lived_svids_rotate_by_themselves_and_names_and_hints_arrive() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("s");
    let first = own_entry("web", ",ttl=3s,hint=outer,dns=web.example.org");
    let second = own_entry("db", ",ttl=1h");
    let _up = Up::start(&socket, &["--entry", &first, "--entry", &second]);
    let source = source(&socket).await;
    let current = source.current();
    let ids: Vec<_> = current
        .svids()
        .iter()
        .map(|svid| svid.id().path())
        .collect();
    assert_eq!(
        ids,
        ["/web", "/db"],
        "the first entry is the default identity"
    );
    assert_eq!(current.svid().unwrap().hint(), Some("outer"));
    let serial = current.svid().unwrap().serial().to_vec();
    within(source.changed(current.revision())).await;
    assert_ne!(source.svid().unwrap().serial(), serial);
}

#[test]
fn it_takes_the_descriptors_it_may_and_interrupted_drains_and_removes_its_socket() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("s");
    let up = Up::start(
        &socket,
        &["--entry", &own_entry("web", ""), "--socket-mode", "700"],
    );
    let limits = fs::read_to_string(format!("/proc/{}/limits", up.id())).unwrap();
    let files: Vec<_> = limits
        .lines()
        .find(|line| line.starts_with("Max open files"))
        .unwrap()
        .split_whitespace()
        .collect();
    assert_eq!(files[3], files[4], "soft and hard limit of descriptors");
    let metadata = fs::metadata(&socket).unwrap();
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.permissions().mode() & 0o777, 0o700);
    assert!(up.interrupt().success());
    assert!(!socket.exists());
}

#[track_caller]
fn refused(status: i32, arguments: &[&str], texts: &[&str]) {
    let (found, _, errors) = run(arguments);
    assert_eq!(found, status, "{errors}");
    let line = errors
        .lines()
        .find(|line| line.starts_with("error: "))
        .unwrap_or(&errors);
    for text in texts {
        assert!(line.contains(text), "{text:?} is not in {line:?}");
    }
}

fn up<'a>(socket: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [
        &["up", "--trust-domain", "example.org", "--socket", socket],
        more,
    ]
    .concat()
}

#[test]
fn wrong_usage_is_one_line_and_exit_status_2() {
    refused(2, &["up", "--no-such-flag"], &["--no-such-flag"]);
    refused(
        2,
        &["up", "--trust-domain", "Example.org", "--socket", "/x"],
        &["byte 'E' at 0"],
    );
    let entry = |text| {
        up("/tmp/never", &["--entry", text])
            .iter()
            .map(|s| s.to_string())
            .collect::<Vec<_>>()
    };
    for (text, says) in [
        ("id=spiffe://example.org/web", "selector"),
        ("id=spiffe://example.org/web,selctor=unix:uid:1", "selector"),
        ("id=example.org/web,selector=unix:uid:1", "spiffe://"),
        (
            "id=spiffe://example.org/web,selector=unix:uid:1,ttl=soon",
            "ttl",
        ),
    ] {
        let arguments = entry(text);
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        refused(2, &arguments, &[says]);
    }
    refused(
        1,
        &up(
            "/tmp/never",
            &["--entry", "id=spiffe://other.org/web,selector=unix:uid:1"],
        ),
        &["other.org"],
    );
    refused(
        1,
        &up("/tmp/never", &["--entries", "/no/such/file"]),
        &["/no/such/file"],
    );
    assert!(!Path::new("/tmp/never").exists());
}

#[test]
fn socket_paths_that_cannot_be_used_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    refused(1, &up(&at(&"x".repeat(120)), &[]), &["107"]);
    refused(1, &up(&at("missing/s"), &[]), &["missing"]);
    fs::write(at("file"), "precious").unwrap();
    refused(1, &up(&at("file"), &[]), &["not a socket"]);
    assert_eq!(fs::read_to_string(at("file")).unwrap(), "precious");
    let live = Up::start(Path::new(&at("live")), &["--entry", &own_entry("web", "")]);
    refused(1, &up(&at("live"), &[]), &["in use"]);
    assert!(live.interrupt().success(), "the first one serves on");
}

#[test]
fn a_state_directory_that_cannot_be_used_is_left_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("state");
    let socket = directory.path().join("s");
    let (state_text, socket_text) = (state.to_str().unwrap(), socket.to_str().unwrap());
    let arguments = up(socket_text, &["--state", state_text]);
    let first = Up::start(&socket, &["--state", state_text]);
    let other = directory.path().join("other");
    refused(
        1,
        &up(other.to_str().unwrap(), &["--state", state_text]),
        &["state"],
    );
    assert!(first.interrupt().success());

    let files = || ["journal.json", "keys.json"].map(|file| fs::read(state.join(file)).unwrap());
    let good = files();
    let mut foreign = arguments.clone();
    foreign[2] = "other.org";
    refused(1, &foreign, &["example.org", "other.org"]);
    for (file, text) in [
        ("journal.json", "{}"),
        ("journal.json", "nonsense"),
        ("keys.json", "nonsense"),
        ("keys.json", r#"{"keys":{}}"#),
    ] {
        fs::write(state.join(file), text).unwrap();
        let damaged = files();
        refused(1, &arguments, &[state_text]);
        assert_eq!(files(), damaged, "{file} {text}");
        for (file, bytes) in ["journal.json", "keys.json"].iter().zip(&good) {
            fs::write(state.join(file), bytes).unwrap();
        }
    }
    fs::set_permissions(&state, fs::Permissions::from_mode(0o755)).unwrap();
    refused(1, &arguments, &["chmod 700"]);
    fs::set_permissions(&state, fs::Permissions::from_mode(0o700)).unwrap();
    assert!(
        Up::start(&socket, &["--state", state_text])
            .interrupt()
            .success()
    );
}

#[tokio::test]
async fn an_endpoint_that_is_no_workload_api_is_one_clear_error() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("s");
    let listener = tokio::net::UnixListener::bind(&socket).unwrap();
    let serving = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            // The peer may have gone.
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    let error = X509Source::builder()
        .endpoint(Endpoint::unix(&socket).unwrap())
        .timeout(Duration::from_millis(500))
        .build()
        .await
        .unwrap_err()
        .to_string();
    assert!(!error.contains('\n'), "{error}");
    serving.abort();
    let missing = directory.path().join("missing");
    let error = X509Source::builder()
        .endpoint(Endpoint::unix(&missing).unwrap())
        .timeout(Duration::from_millis(100))
        .build()
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("missing"), "{error}");
}

#[test]
fn entries_that_can_never_match_are_warned_of() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("s");
    let named = "id=spiffe://example.org/a,selector=unix:uid:root";
    let nobody = "id=spiffe://example.org/c,selector=unix:user:nosuch";
    let foreign = own_entry("b", ",federates_with=other.org");
    let mut child = support::spiffe()
        .args(["up", "--trust-domain", "example.org", "--socket"])
        .arg(&socket)
        .args(["--entry", named, "--entry", nobody, "--entry", &foreign])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufRead::lines(BufReader::new(child.stdout.take().unwrap()));
    let said: Vec<_> = lines
        .map_while(Result::ok)
        .take_while(|line| line != "ready")
        .filter(|line| line.starts_with("warning: "))
        .collect();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(said.len(), 3, "{said:?}");
    assert!(
        said[0].contains("no caller has unix:uid:root: it takes a number"),
        "{said:?}"
    );
    assert!(
        said[1].contains("no caller has unix:user:nosuch: this machine has no such user"),
        "{said:?}"
    );
    assert!(said[2].contains("other.org"), "{said:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_long_past_the_authorities_is_believed_only_when_told_so() {
    let place = tempfile::tempdir().unwrap();
    let (socket, state) = (place.path().join("s"), place.path().join("state"));
    let (now, year) = (SystemClock::new().now(), AUTHORITY_LIFETIME);
    let domain = TrustDomain::parse("example.org").unwrap();
    let directory = CaDirectory::new(&state);
    let made = directory.init(&domain, year, KeyType::EcP256, now - year * 2);
    made.await.unwrap();
    let state = state.to_str().unwrap();
    let arguments = ["up", "--trust-domain", "example.org", "--state", state];
    let socket_argument = ["--socket", socket.to_str().unwrap()];
    let (status, _, errors) = run(&[&arguments[..], &socket_argument].concat());
    assert_eq!(status, 1);
    assert!(
        errors.contains("the last authority") && errors.contains("--believe-clock"),
        "{errors}"
    );
    Up::start(&socket, &["--state", state, "--believe-clock"]).kill();
    // It has authorities of this time now.
    Up::start(&socket, &["--state", state]).kill();
}

/// Gives a command that waits for others to know what came before, until it is done.
fn in_time(up: &mut Up, command: &str, refused: &str) -> String {
    loop {
        let answer = up.tell(command);
        if answer.starts_with("ok: ") {
            return answer;
        }
        assert!(answer.contains(refused), "{command}: {answer}");
    }
}

/// Waits until what the source holds is as it should be.
async fn until(source: &X509Source, is_good: impl Fn(&X509Source) -> bool) {
    loop {
        let seen = source.current().revision();
        if is_good(source) {
            return;
        }
        within(source.changed(seen)).await;
    }
}

#[tokio::test]
async fn an_authority_is_rolled_over_by_commands_and_every_handshake_holds() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("s");
    let mut up = Up::commanded(&socket, &["--entry", &own_entry("web", "")]);
    let source = source(&socket).await;
    let own = source.svid().unwrap();
    let authorities = |source: &X509Source| {
        let bundle = source.bundle(own.trust_domain()).unwrap();
        bundle.x509_authorities().len()
    };
    let signer = |source: &X509Source| {
        source
            .svid()
            .unwrap()
            .authority_key_id()
            .map(<[u8]>::to_vec)
    };
    let serial = |source: &X509Source| source.svid().unwrap().serial().to_vec();
    let (first, before) = (signer(&source), serial(&source));
    connect(&source).await;

    assert_eq!(up.tell("reissue"), "ok: every X509-SVID is being replaced");
    until(&source, |source| serial(source) != before).await;
    assert_eq!(signer(&source), first);
    connect(&source).await;

    let prepared = up.tell("x509 prepare");
    assert!(
        prepared.starts_with("ok: ") && prepared.ends_with(" is prepared"),
        "{prepared}"
    );
    until(&source, |source| authorities(source) == 2).await;
    connect(&source).await;

    let active = in_time(&mut up, "x509 activate", "is not yet known to");
    assert!(active.ends_with(" is active"), "{active}");
    up.tell("reissue");
    until(&source, |source| signer(source) != first).await;
    connect(&source).await;

    let tainted = up.tell("x509 taint");
    assert!(tainted.ends_with(" is tainted"), "{tainted}");
    let shown = up.tell("x509 show");
    assert!(
        shown.contains(" is tainted until ") && shown.contains(" is active until "),
        "{shown}"
    );
    for command in ["x509 retire", "x509 taint"] {
        let refused = up.tell(command);
        assert!(
            refused.starts_with("error: no X.509 authority is old; ")
                && refused.ends_with(" is tainted: revoke it"),
            "{command}: {refused}"
        );
    }
    let gone = in_time(&mut up, "x509 revoke", "wait, or force it");
    assert!(gone.ends_with(" is out of the bundle"), "{gone}");
    until(&source, |source| authorities(source) == 1).await;
    connect(&source).await;

    // The same again, the old one taken away unmarked.
    up.tell("x509 prepare");
    in_time(&mut up, "x509 activate", "is not yet known to");
    let second = signer(&source);
    up.tell("reissue");
    until(&source, |source| signer(source) != second).await;
    // It waits for nobody: whether the agent has noted already what the source holds is open.
    let gone = up.tell("x509 retire");
    assert!(
        gone.starts_with("ok: ") && gone.contains(" is out of the bundle"),
        "{gone}"
    );
    until(&source, |source| authorities(source) == 1).await;
    connect(&source).await;
    assert!(up.interrupt().success());
}

#[tokio::test]
async fn an_identity_is_withdrawn_by_command_and_another_one_stays() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("s");
    let (web, db) = (own_entry("web", ""), own_entry("db", ""));
    let mut up = Up::commanded(&socket, &["--entry", &web, "--entry", &db]);
    let source = source(&socket).await;
    let paths = |source: &X509Source| {
        let current = source.current();
        let svids = current.svids().iter();
        svids
            .map(|svid| svid.id().path().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(paths(&source), ["/web", "/db"]);
    let gone = up.tell("withdraw spiffe://example.org/web");
    assert_eq!(gone, "ok: the entry with spiffe://example.org/web is gone");
    until(&source, |source| paths(source) == ["/db"]).await;
    up.tell("withdraw spiffe://example.org/db");
    until(&source, |source| paths(source).is_empty()).await;
    let again = up.tell("withdraw spiffe://example.org/db");
    assert_eq!(again, "error: no entry has spiffe://example.org/db");
}

/// One worker, which must not be the one that waits for the reader.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_reads_no_answers_stalls_neither_the_workload_api_nor_the_end() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("s");
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_read_timeout(Some(PATIENCE)).unwrap();
    let full = theirs.try_clone().unwrap();
    let fill = || {
        // Both clones share the flag; nothing is being written meanwhile.
        full.set_nonblocking(true).unwrap();
        let stop = loop {
            if let Err(stop) = (&full).write(&[b'\n'; 4096]) {
                break stop;
            }
        };
        assert_eq!(stop.kind(), ErrorKind::WouldBlock);
        full.set_nonblocking(false).unwrap();
    };
    let mut command = support::spiffe();
    command
        .env("TOKIO_WORKER_THREADS", "1")
        .args(["up", "--trust-domain", "example.org", "--commands"])
        .arg("--socket")
        .arg(&socket)
        .stdin(Stdio::piped());
    for path in ["web", "db", "cache"] {
        command.args(["--entry", &own_entry(path, "")]);
    }
    let mut up = Running::writing_to(command, OwnedFd::from(theirs));
    let mut said = BufReader::new(ours).lines().map(Result::unwrap);
    assert!(said.any(|line| line == "ready"));

    fill();
    up.tell("withdraw spiffe://example.org/web");
    let source = source(&socket).await;
    let paths = |source: &X509Source| {
        let current = source.current();
        let svids = current.svids().iter();
        svids
            .map(|svid| svid.id().path().to_owned())
            .collect::<Vec<_>>()
    };
    until(&source, |source| paths(source) == ["/db", "/cache"]).await;
    // Far more than there is room for.
    for _ in 0..100 {
        up.tell("x509 show");
    }
    up.tell("withdraw spiffe://example.org/db");
    self::source(&socket).await.svid().unwrap();

    // Once they are read, every answer comes, and in order.
    let mut answers = said.by_ref().filter(|line| !line.is_empty());
    let first = answers.next().unwrap();
    assert_eq!(first, "ok: the entry with spiffe://example.org/web is gone");
    for _ in 0..100 {
        let shown = answers.next().unwrap();
        assert!(shown.contains(" is active until "), "{shown}");
    }
    let last = answers.next().unwrap();
    assert_eq!(last, "ok: the entry with spiffe://example.org/db is gone");
    until(&source, |source| paths(source) == ["/cache"]).await;

    fill();
    up.tell("withdraw spiffe://example.org/cache");
    until(&source, |source| paths(source).is_empty()).await;
    // Otherwise its connection would be drained for a while.
    drop(source);
    up.signal("TERM");
    up.log_end();
    assert!(up.end().success());
    assert!(!socket.exists());
}

#[tokio::test]
async fn a_wrong_command_is_one_line_and_neither_it_nor_the_end_of_commands_ends_anything() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("s");
    let mut up = Up::commanded(&socket, &["--entry", &own_entry("web", "")]);
    let long = "x".repeat(5000);
    for (command, says) in [
        (
            "x509 frobnicate",
            "\"x509 frobnicate\" is no command; there are: reissue,",
        ),
        ("activate", "x509 activate [force]"),
        ("x509 revoke one two", "is no command"),
        ("\n  \nwithdraw", "\"withdraw\" is no command"),
        ("withdraw example.org/web", "spiffe://"),
        (
            "x509 activate",
            "no authority is prepared; prepare one first",
        ),
        (
            "x509 taint",
            "no X.509 authority is old; prepare and activate the next one first",
        ),
        ("x509 taint 0abc", "the trust domain has no authority 0abc"),
        (
            "x509 revoke",
            "no X.509 authority is tainted; taint an old one first",
        ),
        (
            "x509 retire",
            "no X.509 authority is old; prepare and activate the next one first",
        ),
        (&long, "a command has at most 4096 bytes"),
    ] {
        let answer = up.tell(command);
        assert!(answer.starts_with("error: "), "{command}: {answer}");
        assert!(answer.contains(says), "{command}: {answer}");
    }
    let prepared = up.tell("  x509   prepare ");
    assert!(prepared.ends_with(" is prepared"), "{prepared}");
    let twice = up.tell("x509 prepare");
    assert!(
        twice.starts_with("error: ") && twice.contains("is already prepared; activate it"),
        "{twice}"
    );
    up.tell_no_more();
    source(&socket).await.svid().unwrap();
    assert!(up.interrupt().success());
}

#[test]
fn what_is_up_and_what_came_of_commands_is_told_as_json_too() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("s");
    let json = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap();
    let mut command = support::spiffe();
    command
        .args([
            "--output",
            "json",
            "up",
            "--trust-domain",
            "example.org",
            "--commands",
            "--socket",
        ])
        .arg(&socket)
        .args(["--entry", &own_entry("web", "")])
        .stdin(Stdio::piped());
    let mut up = Running::start(command);
    let ready = json(&up.line(""));
    assert_eq!(ready["ready"], true);
    assert_eq!(ready["entries"][0]["spiffe_id"], "spiffe://example.org/web");
    assert_eq!(ready["socket"], format!("unix://{}", socket.display()));
    up.tell("x509 prepare");
    let prepared = json(&up.line(""));
    assert_eq!(prepared["ok"], true);
    let authorities = prepared["value"]["authorities"].as_array().unwrap();
    let found: Vec<_> = authorities
        .iter()
        .map(|one| {
            (
                one["kind"].as_str().unwrap(),
                one["status"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        found,
        [("x509", "active"), ("x509", "prepared"), ("jwt", "active")]
    );
    up.tell("prepare");
    let wrong = json(&up.line(""));
    assert_eq!(wrong["ok"], false);
    assert!(
        wrong["error"]["message"]
            .as_str()
            .unwrap()
            .contains("is no command")
    );
}

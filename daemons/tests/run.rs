//! `spiffe run`, `spiffe watch` and `spiffe drill` against `spiffe up`.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use support::terminal::{CTRL_BACKSLASH, CTRL_C, Terminal};
use support::{Running, Up, own_entry, run, spiffe};
use tempfile::TempDir;

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

    /// Another trust domain of the same name at the same socket.
    fn restart(&mut self, arguments: &[&str]) {
        drop(self.up.take());
        self.up = Some(Up::start(Path::new(&self.socket), arguments));
    }

    /// A verb of this trust domain, whose temporary files are in the test's own directory.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = spiffe();
        command
            .args(arguments)
            .env("SPIFFE_ENDPOINT_SOCKET", format!("unix://{}", self.socket))
            .env("XDG_RUNTIME_DIR", self.place.path());
        command
    }

    /// `spiffe run` of a line for the shell.
    fn start(&self, options: &[&str], line: &str) -> Running {
        let arguments = [&["run"], options, &["--", "sh", "-c", line]].concat();
        Running::start(self.command(&arguments))
    }

    fn left_behind(&self) -> usize {
        let names = fs::read_dir(self.place.path()).unwrap();
        names
            .filter(|entry| {
                entry
                    .as_ref()
                    .unwrap()
                    .file_name()
                    .to_str()
                    .unwrap()
                    .starts_with("spiffe-run-")
            })
            .count()
    }
}

#[test]
fn a_program_finds_its_files_and_its_status_is_passed_on() {
    let w = World::new("");
    let line = "ls -ld $SPIFFE_DIR/.. ; openssl x509 -in $SPIFFE_CERT_FILE -noout -ext subjectAltName; \
        head -1 $SPIFFE_KEY_FILE; cat $SPIFFE_BUNDLES_DIR/example.org.pem | head -1; cat $SPIFFE_JWT_FILE; echo; env; exit 7";
    let running = w.start(&["--audience", "reports"], line);
    assert!(running.line("spiffe-run-").starts_with("drwx------"));
    running.line("URI:spiffe://example.org/web");
    running.line("-----BEGIN PRIVATE KEY-----");
    running.line("-----BEGIN CERTIFICATE-----");
    running.line("eyJ");
    assert_eq!(running.end().code(), Some(7));
    assert_eq!(w.left_behind(), 0);

    let killed = w.start(&[], "kill -KILL $$");
    assert_eq!(killed.end().code(), Some(128 + 9));
    let good = w.start(&[], "exit 0");
    assert_eq!(good.end().code(), Some(0));
}

#[test]
fn a_rotation_restarts_it_or_signals_it_or_lets_it_be() {
    let w = World::new(",ttl=4s");
    let serial = "openssl x509 -in $SPIFFE_CERT_FILE -noout -serial";
    let waits = "while :; do sleep 0.05; done";
    let restarted = w.start(&[], &format!("{serial}; {waits}"));
    let first = restarted.line("serial=");
    assert_ne!(restarted.line("serial="), first);

    let trap = format!("trap '{serial}' USR1; {serial}; {waits}");
    let signalled = w.start(&["--on-rotation", "USR1"], &trap);
    let first = signalled.line("serial=");
    assert_ne!(signalled.line("serial="), first);

    let line = format!(
        "trap 'exit 9' TERM HUP; a=$({serial}); while [ \"$a\" = \"$({serial})\" ]; do sleep 0.05; done; exit 3"
    );
    let let_be = w.start(&["--on-rotation", "nothing"], &line);
    assert_eq!(
        let_be.end().code(),
        Some(3),
        "it has seen the new files itself"
    );

    // The end of the one that is restarted again and again is the end of its last life.
    assert_eq!(restarted.terminate().code(), Some(128 + 15));
    assert_eq!(signalled.interrupt().code(), Some(128 + 2));
    assert_eq!(w.left_behind(), 0);
}

#[test]
fn a_program_runs_only_while_there_is_an_identity() {
    let mut w = World::new("");
    let line =
        "trap 'echo stopped; exit 5' TERM; ls $SPIFFE_KEY_FILE; while :; do sleep 0.05; done";
    let restarted = w.start(&[], line);
    let mut looks_itself = w.command(&["run", "--on-rotation", "nothing", "--", "sh", "-c", line]);
    looks_itself.env("RUST_LOG", "info");
    let looks_itself = Running::start(looks_itself);
    for running in [&restarted, &looks_itself] {
        running.line("svid.0.key");
    }
    w.restart(&[]);
    for running in [&restarted, &looks_itself] {
        let said = running.log_line("the identity was withdrawn");
        assert!(said.contains("WARN"), "{said}");
        running.line("stopped");
    }
    // Once it is gone there is nothing to pass a signal on to; that ends the waiting.
    looks_itself.log_line("stopped; waiting for an identity");
    assert_eq!(looks_itself.terminate().code(), Some(128 + 15));
    w.restart(&["--entry", &own_entry("web", "")]);
    restarted.line("svid.0.key");
    restarted.signal("TERM");
    restarted.line("stopped");
    assert_eq!(restarted.end().code(), Some(5));
    assert_eq!(w.left_behind(), 0);
}

#[test]
fn signals_reach_the_program_and_what_it_has_started() {
    let w = World::new("");
    let line = "(trap 'echo child; exit 0' TERM; echo one; while :; do sleep 0.05; done) & \
        trap 'wait; echo parent; exit 5' TERM; echo two; while :; do sleep 0.05; done";
    let running = w.start(&[], line);
    running.line("");
    running.line("");
    running.signal("TERM");
    running.line("child");
    running.line("parent");
    assert_eq!(running.end().code(), Some(5));
}

#[test]
fn a_program_that_cannot_be_run_is_one_line() {
    let w = World::new("");
    let output = w
        .command(&["run", "--", "/no/such/program"])
        .output()
        .unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        errors.contains("/no/such/program") && errors.lines().count() == 1,
        "{errors}"
    );
    assert_eq!(w.left_behind(), 0);
    for (arguments, says) in [
        (&["run"] as &[&str], "COMMAND"),
        (
            &["run", "--on-rotation", "dance", "--", "true"],
            "restart, nothing",
        ),
        (&["drill", "outage", "--speed", "0"], "0 is not in"),
        (&["watch", "--socket", ""], "--socket"),
    ] {
        let (status, _, errors) = run(arguments);
        assert_eq!(status, 2, "{errors}");
        assert!(
            errors.contains(says) && errors.lines().count() == 1,
            "{arguments:?}: {errors}"
        );
    }
    for verb in [&["run", "--", "true"] as &[&str], &["drill", "outage"]] {
        let output = w
            .command(verb)
            .env("XDG_RUNTIME_DIR", "/no/such/place")
            .output()
            .unwrap();
        let errors = String::from_utf8(output.stderr).unwrap();
        assert!(
            errors.contains("cannot make a private directory in /no/such/place")
                && errors.contains("set XDG_RUNTIME_DIR")
                && errors.lines().count() == 1,
            "{errors}"
        );
    }
    let (status, _, errors) = run(&[
        "drill",
        "outage",
        "--socket",
        "/no/such/socket",
        "--timeout",
        "1s",
    ]);
    assert_eq!(status, 1);
    assert!(
        errors.contains("/no/such/socket") && !errors.contains("spiffe-drill-"),
        "{errors}"
    );
    let (status, _, errors) = run(&[
        "run",
        "--socket",
        "/no/such/socket",
        "--timeout",
        "1s",
        "--",
        "true",
    ]);
    assert_eq!(status, 1);
    assert!(errors.contains("/no/such/socket"), "{errors}");
}

#[test]
fn a_watcher_tells_of_rotations_and_of_a_workload_api_that_goes() {
    let mut w = World::new(",ttl=4s");
    let text = Running::start(w.command(&["watch"]));
    let json = Running::start(w.command(&["watch", "--output", "json"]));
    text.line("revision 1 following");
    let line = text.line("revision 2 following");
    assert!(line.contains("; spiffe://example.org/web until "), "{line}");
    let line: Value =
        serde_json::from_str(&json.line("\"revision\":2,\"endpoint\":\"following\"")).unwrap();
    assert_eq!(line["svids"][0]["id"], "spiffe://example.org/web");
    assert_eq!(line["bundles"][0]["trust_domain"], "example.org");
    assert!(line["survives_until"].is_string(), "{line}");
    drop(w.up.take());
    text.line("waiting");
    let expired: Value = serde_json::from_str(&json.line("\"readiness\":\"expired\"")).unwrap();
    assert!(
        expired["error"].as_str().unwrap().contains("no connection"),
        "{expired}"
    );
    assert_eq!(text.terminate().code(), Some(0));
    assert_eq!(json.interrupt().code(), Some(0));
}

#[test]
fn on_a_terminal_a_watcher_draws_a_table_until_ctrl_c() {
    let mut w = World::new(",ttl=1h");
    let mut terminal = Terminal::run(&w.command(&["watch"]));
    let parts = [
        "  following  revision 1  ready\r\n",
        "\r\n  spiffe://example.org/web\r\n    until ",
        " left  serial ",
        "\r\n  bundle of example.org  1 authorities  ",
        "\r\nwithout the Workload API: 5",
    ];
    let first = terminal.screen(&parts);
    assert!(
        first.starts_with(&format!("unix://{}", w.socket)),
        "{first}"
    );
    // Drawn anew as time goes by, and as the Workload API goes.
    terminal.until(|shown| {
        shown
            .split("\x1b[H\x1b[J")
            .any(|screen| screen.contains(" left") && screen != first)
    });
    drop(w.up.take());
    let away = terminal.screen(&["  waiting  revision 1  ready\r\n", "no connection"]);
    assert!(away.contains("spiffe://example.org/web"), "{away}");
    terminal.press(CTRL_C);
    let (ended, shown) = terminal.end();
    assert_eq!(ended.code(), Some(0));
    // Nothing was switched on that would have to be switched off again.
    let left = shown.replace("\x1b[H\x1b[J", "");
    assert!(!left.contains('\x1b'), "{left:?}");
}

#[test]
fn on_a_terminal_a_program_has_the_terminal_and_its_keys() {
    let w = World::new("");
    let line = "trap 'echo interrupted' INT; trap 'echo terminated; exit 5' TERM; \
        tty; stty size; test -f $SPIFFE_KEY_FILE && echo ready; \
        while :; do read -r line && echo \"got $line\"; done";
    let mut terminal = Terminal::run(&w.command(&["run", "--", "sh", "-c", line]));
    terminal.shows("/dev/pts/");
    terminal.shows("24 100\r\n");
    terminal.shows("ready\r\n");
    terminal.press(b"one\n");
    terminal.shows("got one\r\n");
    // The terminal's signal reaches it once: it is not passed on a second time.
    terminal.press(CTRL_C);
    terminal.shows("interrupted\r\n");
    terminal.press(b"two\n");
    terminal.shows("got two\r\n");
    let pid = terminal.id().to_string();
    let sent = Command::new("kill").args(["-s", "TERM", &pid]).status();
    assert!(sent.unwrap().success());
    let (ended, shown) = terminal.end();
    assert_eq!(ended.code(), Some(5), "{shown}");
    assert_eq!(shown.matches("interrupted\r\n").count(), 1, "{shown}");
    assert_eq!(w.left_behind(), 0);

    // One that does not mind the keys ends by them, and that is its status.
    let mut terminal =
        Terminal::run(&w.command(&["run", "--", "sh", "-c", "echo ready; exec cat"]));
    terminal.shows("ready\r\n");
    terminal.press(CTRL_C);
    assert_eq!(terminal.end().0.code(), Some(128 + 2));
    assert_eq!(w.left_behind(), 0);
}

#[test]
fn on_a_terminal_whatever_ends_a_program_ends_the_wait_for_an_identity() {
    let mut w = World::new("");
    let mut command = w.command(&["run", "--", "sh", "-c", "echo ready; exec cat"]);
    command.env("RUST_LOG", "info");
    let mut terminals = [(); 3].map(|()| Terminal::run(&command));
    for terminal in &mut terminals {
        terminal.shows("ready\r\n");
    }
    w.restart(&[]);
    for terminal in &mut terminals {
        terminal.shows("stopped; waiting for an identity");
    }
    let [mut interrupted, mut quit, hung_up] = terminals;
    interrupted.press(CTRL_C);
    assert_eq!(interrupted.end().0.code(), Some(128 + 2));
    quit.press(CTRL_BACKSLASH);
    assert_eq!(quit.end().0.code(), Some(128 + 3));
    let pid = hung_up.id().to_string();
    let sent = Command::new("kill").args(["-s", "HUP", &pid]).status();
    assert!(sent.unwrap().success());
    assert_eq!(hung_up.end().0.code(), Some(128 + 1));
    assert_eq!(w.left_behind(), 0);
}

#[test]
fn an_outage_lasts_as_long_as_predicted() {
    let w = World::new(",ttl=1h");
    let drill = |arguments: &[&str]| {
        let output = w
            .command(&[&["drill", "outage"], arguments].concat())
            .output()
            .unwrap();
        let errors = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), errors.as_str()), (Some(0), ""));
        String::from_utf8(output.stdout).unwrap()
    };
    let report: Value =
        serde_json::from_str(&drill(&["--speed", "5000", "--output", "json"])).unwrap();
    let report = &report["value"];
    assert_eq!(report["id"], "spiffe://example.org/web");
    assert_eq!(
        (&report["survived"], &report["agree"]),
        (&false.into(), &true.into())
    );
    let (predicted, observed) = (
        report["predicted_s"].as_u64().unwrap(),
        report["observed_s"].as_u64().unwrap(),
    );
    assert!(predicted.abs_diff(observed) <= 1, "{report}");
    assert!((3500..=3600).contains(&observed), "{report}");
    let text = drill(&["--for", "10m", "--speed", "5000"]);
    assert!(
        text.contains("at least 10m 0s: the outage ended first"),
        "{text}"
    );
    assert!(
        text.contains("when the SVID of spiffe://example.org/web ends"),
        "{text}"
    );
    assert!(
        Path::new(&w.socket).exists(),
        "the endpoint itself is untouched"
    );
}

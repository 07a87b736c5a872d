//! The `spiffe` program as a process: started, listened to, and never left behind.
#![allow(
    clippy::unwrap_used,
    dead_code,
    unreachable_pub,
    reason = "shared by test programs, each of which uses its own part"
)]

pub mod terminal;

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

/// How long anything that must happen may take. A source that was denied asks again after up to half a minute.
pub const PATIENCE: Duration = Duration::from_secs(90);

pub fn spiffe() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_spiffe"));
    command
        .stdin(Stdio::null())
        .env_remove("RUST_LOG")
        .env_remove("SPIFFE_ENDPOINT_SOCKET");
    command
}

/// An entry for this user.
pub fn own_entry(path: &str, more: &str) -> String {
    let uid = nix::unistd::getuid();
    format!("id=spiffe://example.org/{path},selector=unix:uid:{uid}{more}")
}

/// A running verb, listened to.
pub struct Running {
    child: Child,
    lines: Receiver<String>,
    log: Receiver<String>,
}

impl Running {
    pub fn start(command: Command) -> Self {
        Self::writing_to(command, Stdio::piped())
    }

    /// The same; what it writes goes elsewhere.
    pub fn writing_to(mut command: Command, output: impl Into<Stdio>) -> Self {
        let mut child = command
            .stdout(output)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let output = child.stdout.take();
        let output = output.map_or_else(|| channel().1, lines);
        let log = lines_of_log(&mut child);
        Self {
            child,
            lines: output,
            log,
        }
    }

    /// Waits for a line of standard output that holds `text`.
    pub fn line(&self, text: &str) -> String {
        wait(&self.lines, text)
    }

    /// Waits for a line of standard error that holds `text`.
    pub fn log_line(&self, text: &str) -> String {
        wait(&self.log, text)
    }

    /// Waits for the end of standard error, which is that of the process.
    pub fn log_end(&self) {
        let end = loop {
            if let Err(end) = self.log.recv_timeout(PATIENCE) {
                break end;
            }
        };
        assert_eq!(end, RecvTimeoutError::Disconnected, "it has not ended");
    }

    /// Writes a line to its standard input.
    pub fn tell(&mut self, line: &str) {
        let input = self.child.stdin.as_mut().unwrap();
        writeln!(input, "{line}").unwrap();
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &pid]).status();
        assert!(sent.unwrap().success());
    }

    /// Waits for its end.
    pub fn end(mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }

    pub fn interrupt(self) -> ExitStatus {
        self.signal("INT");
        self.end()
    }

    pub fn terminate(self) -> ExitStatus {
        self.signal("TERM");
        self.end()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A running `spiffe up`.
pub struct Up {
    child: Child,
    lines: Receiver<String>,
    log: Receiver<String>,
}

impl Up {
    /// Starts one and waits until it is ready.
    pub fn start(socket: &Path, arguments: &[&str]) -> Self {
        Self::with_input(socket, arguments, Stdio::null())
    }

    /// The same, taking commands.
    pub fn commanded(socket: &Path, arguments: &[&str]) -> Self {
        let arguments = [arguments, &["--commands"]].concat();
        Self::with_input(socket, &arguments, Stdio::piped())
    }

    fn with_input(socket: &Path, arguments: &[&str], input: Stdio) -> Self {
        let mut child = spiffe()
            .args(["up", "--trust-domain", "example.org", "--socket"])
            .arg(socket)
            .args(arguments)
            .stdin(input)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = lines(child.stdout.take().unwrap());
        let log = lines_of_log(&mut child);
        let up = Self { child, lines, log };
        up.line("ready");
        up
    }

    /// Waits for a line of standard output that holds `text`.
    pub fn line(&self, text: &str) -> String {
        wait(&self.lines, text)
    }

    /// Waits for a line of the log that holds `text`.
    pub fn log_line(&self, text: &str) -> String {
        wait(&self.log, text)
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Gives it a command, and returns the line that comes next.
    pub fn tell(&mut self, command: &str) -> String {
        let input = self.child.stdin.as_mut().unwrap();
        writeln!(input, "{command}").unwrap();
        wait(&self.lines, "")
    }

    /// Ends its input.
    pub fn tell_no_more(&mut self) {
        drop(self.child.stdin.take());
    }

    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sends SIGINT, as Ctrl-C does, and waits for the end.
    pub fn interrupt(mut self) -> ExitStatus {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args(["-INT", &pid]).status().unwrap();
        assert!(sent.success());
        self.child.wait().unwrap()
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lines_of_log(child: &mut Child) -> Receiver<String> {
    lines(child.stderr.take().unwrap())
}

pub fn lines(from: impl Read + Send + 'static) -> Receiver<String> {
    let (to, lines) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            if to.send(line).is_err() {
                return;
            }
        }
    });
    lines
}

pub fn wait(lines: &Receiver<String>, text: &str) -> String {
    let mut seen = Vec::new();
    loop {
        match lines.recv_timeout(PATIENCE) {
            Ok(line) if line.contains(text) => return line,
            Ok(line) => seen.push(line),
            Err(_) => panic!("{text:?} did not come; what came: {seen:#?}"),
        }
    }
}

/// Runs `spiffe` to its end: exit status, standard output, standard error.
#[track_caller]
pub fn run(arguments: &[&str]) -> (i32, String, String) {
    let output = spiffe().args(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let status = output.status.code().unwrap();
    (status, text(output.stdout), text(output.stderr))
}

//! One child process: its output arrives line by line on a channel, every wait has a deadline, a failure quotes the last
//! lines it wrote, and it never outlives the value. Nothing inherits our standard input.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::outcome::{Trouble, ensure};

/// A running program.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    child: Child,
    leads_group: bool,
    input: Option<ChildStdin>,
    lines: Receiver<Line>,
    stdout: Vec<String>,
    stderr: Vec<String>,
}

/// What a program that has ended left behind.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) name: String,
    pub(crate) status: ExitStatus,
    pub(crate) stdout: Vec<String>,
    pub(crate) stderr: Vec<String>,
}

#[derive(Debug)]
enum Line {
    Stdout(String),
    Stderr(String),
}

impl Process {
    /// Starts `command`; `name` is what messages call it.
    ///
    /// # Errors
    ///
    /// When the program cannot be started.
    pub(crate) fn spawn(name: &str, command: Command) -> Result<Self, Trouble> {
        Self::start(name, command, false)
    }

    /// The same for a program that starts others: it leads a process group, and the whole of it ends with this value.
    ///
    /// # Errors
    ///
    /// When the program cannot be started.
    pub(crate) fn lead(name: &str, mut command: Command) -> Result<Self, Trouble> {
        command.process_group(0);
        Self::start(name, command, true)
    }

    fn start(name: &str, mut command: Command, leads_group: bool) -> Result<Self, Trouble> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| {
                let program = command.get_program().to_string_lossy();
                Trouble::Failed(format!("cannot start {name} ({program}): {error}"))
            })?;
        let (sender, lines) = channel();
        if let Some(stdout) = child.stdout.take() {
            forward(stdout, Line::Stdout, sender.clone());
        }
        if let Some(stderr) = child.stderr.take() {
            forward(stderr, Line::Stderr, sender);
        }
        Ok(Self {
            name: name.to_owned(),
            input: child.stdin.take(),
            child,
            leads_group,
            lines,
            stdout: Vec::new(),
            stderr: Vec::new(),
        })
    }

    /// Starts `command` with nothing to read, waits for its end.
    ///
    /// # Errors
    ///
    /// When it cannot be started or has not ended in time. Its exit status is the caller's to judge.
    pub(crate) fn run(name: &str, command: Command, within: Duration) -> Result<Finished, Trouble> {
        let mut process = Self::spawn(name, command)?;
        process.input = None;
        process.finish(within)
    }

    /// Waits for a line on standard output that `pick` takes. Lines are looked at once: what an earlier wait passed over is gone.
    ///
    /// # Errors
    ///
    /// When the program ends or the time is up before such a line.
    pub(crate) fn wait_for_stdout<T>(
        &mut self,
        what: &str,
        within: Duration,
        pick: impl Fn(&str) -> Option<T>,
    ) -> Result<T, Trouble> {
        self.wait(what, within, |line| match line {
            Line::Stdout(text) => pick(text),
            Line::Stderr(_) => None,
        })
    }

    /// As [`wait_for_stdout`](Self::wait_for_stdout), on either stream: for a line that may be a fact or a log line.
    ///
    /// # Errors
    ///
    /// When the program ends or the time is up before such a line.
    pub(crate) fn wait_for_mention(
        &mut self,
        of: &str,
        within: Duration,
    ) -> Result<String, Trouble> {
        self.wait(&format!("a line with `{of}`"), within, |line| {
            let (Line::Stdout(text) | Line::Stderr(text)) = line;
            text.contains(of).then(|| text.clone())
        })
    }

    /// Writes to its standard input, which stays open.
    ///
    /// # Errors
    ///
    /// When it no longer reads.
    pub(crate) fn send(&mut self, text: &str) -> Result<(), Trouble> {
        let Some(input) = self.input.as_mut() else {
            return Err(Trouble::Failed(format!(
                "{} has no open standard input",
                self.name
            )));
        };
        input.write_all(text.as_bytes()).map_err(|error| {
            Trouble::Failed(format!("{} does not read its input: {error}", self.name))
        })
    }

    /// Asks it to stop as Ctrl-C does.
    ///
    /// # Errors
    ///
    /// When there is no such process any more.
    pub(crate) fn interrupt(&self) -> Result<(), Trouble> {
        self.signal("INT")
    }

    /// Asks it to stop as a service manager does.
    ///
    /// # Errors
    ///
    /// When there is no such process any more.
    pub(crate) fn terminate(&self) -> Result<(), Trouble> {
        self.signal("TERM")
    }

    fn signal(&self, name: &str) -> Result<(), Trouble> {
        // The standard library sends SIGKILL only; the shell's own `kill` is on every system that has a shell.
        let pid = self.child.id().to_string();
        let status = Command::new("sh")
            .args(["-c", "kill -s \"$0\" \"$1\"", name, &pid])
            .stdin(Stdio::null())
            .status()?;
        ensure(status.success(), || {
            format!("cannot send SIG{name} to {} (pid {pid})", self.name)
        })
    }

    /// Waits for its end. Standard input stays open until then.
    ///
    /// # Errors
    ///
    /// When it has not ended in time; it is killed then.
    pub(crate) fn finish(mut self, within: Duration) -> Result<Finished, Trouble> {
        let deadline = Instant::now() + within;
        let status = loop {
            self.drain(POLL);
            if let Some(status) = self.child.try_wait()? {
                self.end_group();
                break status;
            }
            if Instant::now() >= deadline {
                return Err(self.failure(&format!("has not ended after {} s", within.as_secs())));
            }
        };
        // What it wrote last may still be on its way; a grandchild that holds the pipes open is not waited for.
        let last_words = Instant::now() + LAST_WORDS;
        while self.drain(POLL) && Instant::now() < last_words {}
        Ok(Finished {
            name: std::mem::take(&mut self.name),
            status,
            stdout: std::mem::take(&mut self.stdout),
            stderr: std::mem::take(&mut self.stderr),
        })
    }

    fn wait<T>(
        &mut self,
        what: &str,
        within: Duration,
        pick: impl Fn(&Line) -> Option<T>,
    ) -> Result<T, Trouble> {
        let deadline = Instant::now() + within;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => {
                    let picked = pick(&line);
                    self.keep(line);
                    if let Some(picked) = picked {
                        return Ok(picked);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    return Err(self.failure(&format!(
                        "has not printed {what} after {} s",
                        within.as_secs()
                    )));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(self.failure(&format!("ended without printing {what}")));
                }
            }
        }
    }

    /// Takes what has arrived, waiting at most `patience` for the first line. False when there is no more to come.
    fn drain(&mut self, patience: Duration) -> bool {
        match self.lines.recv_timeout(patience) {
            Ok(line) => self.keep(line),
            Err(RecvTimeoutError::Timeout) => return true,
            Err(RecvTimeoutError::Disconnected) => {
                // The pipes are closed but the process may live on: without this the caller's loop would spin.
                thread::sleep(patience);
                return false;
            }
        }
        while let Ok(line) = self.lines.try_recv() {
            self.keep(line);
        }
        true
    }

    fn keep(&mut self, line: Line) {
        match line {
            Line::Stdout(text) => self.stdout.push(text),
            Line::Stderr(text) => self.stderr.push(text),
        }
    }

    /// Ends whatever is left of its group, once: its number is nobody else's as long as somebody is in the group, or for the
    /// moment after its end.
    fn end_group(&mut self) {
        if !std::mem::take(&mut self.leads_group) {
            return;
        }
        // That nobody is left in the group is what it is to achieve.
        let group = format!("-{}", self.child.id());
        let _ = Command::new("sh")
            .args(["-c", "kill -s KILL -- \"$0\" 2>/dev/null", &group])
            .stdin(Stdio::null())
            .status();
    }

    fn failure(&mut self, what: &str) -> Trouble {
        while let Ok(line) = self.lines.try_recv() {
            self.keep(line);
        }
        let end = quote_ends(&self.stdout, &self.stderr);
        Trouble::Failed(format!("{} {what}{end}", self.name))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end_group();
        // Both fail only when the process has been waited for, which is what they are to achieve.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Finished {
    /// Itself when the exit status is 0.
    ///
    /// # Errors
    ///
    /// When it is another.
    pub(crate) fn expect_success(self) -> Result<Self, Trouble> {
        ensure(self.status.success(), || self.describe("ended with"))?;
        Ok(self)
    }

    /// Itself when the program ended by itself with a status other than 0: a crash is no refusal.
    ///
    /// # Errors
    ///
    /// When it succeeded or was ended by a signal.
    pub(crate) fn expect_refusal(self) -> Result<Self, Trouble> {
        let refused = self.status.code().is_some_and(|code| code != 0);
        ensure(refused, || {
            self.describe("should have been refused but ended with")
        })?;
        Ok(self)
    }

    /// Itself when standard output has exactly this line.
    ///
    /// # Errors
    ///
    /// When it has not.
    pub(crate) fn expect_line(self, line: &str) -> Result<Self, Trouble> {
        ensure(self.stdout.iter().any(|text| text == line), || {
            self.describe(&format!("printed no line `{line}` and ended with"))
        })?;
        Ok(self)
    }

    /// Itself when either stream mentions `text`.
    ///
    /// # Errors
    ///
    /// When neither does.
    pub(crate) fn expect_mention(self, text: &str) -> Result<Self, Trouble> {
        ensure(self.mentions(text), || {
            self.describe(&format!("nowhere mentions `{text}` and ended with"))
        })?;
        Ok(self)
    }

    pub(crate) fn mentions(&self, text: &str) -> bool {
        self.stdout
            .iter()
            .chain(&self.stderr)
            .any(|line| line.contains(text))
    }

    /// Standard output, line by line.
    pub(crate) fn lines(&self) -> impl Iterator<Item = &str> {
        self.stdout.iter().map(String::as_str)
    }

    /// The words after `word` of each line of standard output that begins with it.
    pub(crate) fn facts<'a>(&'a self, word: &'a str) -> impl Iterator<Item = &'a str> {
        self.stdout
            .iter()
            .filter_map(move |line| line.strip_prefix(word)?.strip_prefix(' '))
    }

    /// "NAME WHAT STATUS; last lines ...", for messages.
    pub(crate) fn describe(&self, what: &str) -> String {
        let end = quote_ends(&self.stdout, &self.stderr);
        format!("{} {what} {}{end}", self.name, self.status)
    }
}

fn forward(stream: impl Read + Send + 'static, line: fn(String) -> Line, sender: Sender<Line>) {
    thread::spawn(move || {
        let mut reader = BufReader::new(stream);
        let mut bytes = Vec::new();
        while reader.read_until(b'\n', &mut bytes).is_ok_and(|n| n > 0) {
            let text = String::from_utf8_lossy(&bytes).trim_end().to_owned();
            bytes.clear();
            // Nobody listens any more once the process was dropped; reading on would be for nothing.
            if sender.send(line(text)).is_err() {
                return;
            }
        }
    });
}

/// The ends of both streams: some programs log to the one, some to the other.
fn quote_ends(stdout: &[String], stderr: &[String]) -> String {
    quote_end("of standard error", stderr) + &quote_end("of standard output", stdout)
}

fn quote_end(of: &str, lines: &[String]) -> String {
    let end: Vec<&str> = lines
        .iter()
        .map(|line| line.trim())
        .filter(|line| !line.is_empty())
        .collect();
    match end.len() {
        0 => String::new(),
        n => format!(
            "; last lines {of}: {}",
            end[n.saturating_sub(QUOTED_LINES)..].join(" | ")
        ),
    }
}

/// How often a child is asked whether it has ended.
const POLL: Duration = Duration::from_millis(10);

/// How long output is awaited after the process itself has ended.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Enough for an error and its context, short enough for a message of one line.
const QUOTED_LINES: usize = 6;

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn output_and_status_are_collected() {
        let finished =
            Process::run("sh", shell("echo fact one; echo why >&2; exit 3"), SOON).unwrap();
        assert_eq!(finished.facts("fact").collect::<Vec<_>>(), ["one"]);
        let finished = finished.expect_refusal().unwrap();
        assert_eq!(
            finished.expect_success().unwrap_err(),
            Trouble::failed(
                "sh ended with exit status: 3; last lines of standard error: why; last lines of standard output: fact one"
            )
        );
    }

    #[test]
    fn a_crash_is_no_refusal() {
        let finished = Process::run("sh", shell("kill -9 $$"), SOON).unwrap();
        assert!(finished.expect_refusal().is_err());
    }

    #[test]
    fn an_awaited_line_is_found_and_input_reaches_the_process() {
        let mut process =
            Process::spawn("sh", shell("echo ready; read word; echo got $word")).unwrap();
        process
            .wait_for_stdout("ready", SOON, |line| (line == "ready").then_some(()))
            .unwrap();
        process.send("it\n").unwrap();
        process.finish(SOON).unwrap().expect_line("got it").unwrap();
    }

    #[test]
    fn the_end_of_the_process_ends_a_wait_with_its_last_words() {
        let mut process = Process::spawn("sh", shell("echo broken >&2")).unwrap();
        let why = process
            .wait_for_stdout("ready", SOON, |line| (line == "ready").then_some(()))
            .unwrap_err();
        assert_eq!(
            why,
            Trouble::failed(
                "sh ended without printing ready; last lines of standard error: broken"
            )
        );
    }

    #[test]
    fn what_the_leader_of_a_group_has_started_ends_with_it() {
        let script = "sleep 600 & echo $!; wait";
        let children = |leads: bool| {
            let shell = shell(script);
            let mut process = match leads {
                true => Process::lead("sh", shell).unwrap(),
                false => Process::spawn("sh", shell).unwrap(),
            };
            let pid = process.wait_for_stdout("a number", SOON, |line| line.parse::<u32>().ok());
            let pid = pid.unwrap();
            drop(process);
            // A process that was killed takes a moment to end, and may stay until somebody waits for it.
            let lives = || {
                let state = std::fs::read_to_string(format!("/proc/{pid}/stat"));
                state.is_ok_and(|stat| !stat.contains(") Z ") && !stat.contains(") X "))
            };
            let deadline = Instant::now() + SOON;
            while leads && lives() && Instant::now() < deadline {
                thread::sleep(POLL);
            }
            let lives = lives();
            (pid, lives)
        };
        assert!(!children(true).1);
        let (orphan, lives) = children(false);
        assert!(lives, "without a group nothing ends it");
        let kill = format!("kill -KILL {orphan}");
        assert!(shell(&kill).status().unwrap().success());
    }

    #[test]
    fn a_deadline_ends_a_wait_and_the_process() {
        let process = Process::spawn("sh", shell("exec sleep 600")).unwrap();
        let why = process.finish(Duration::ZERO).unwrap_err();
        assert_eq!(why, Trouble::failed("sh has not ended after 0 s"));
    }

    #[test]
    fn an_interrupt_arrives() {
        let mut process = Process::spawn(
            "sh",
            shell("trap 'exit 7' INT; echo ready; while :; do sleep 0.01; done"),
        )
        .unwrap();
        process
            .wait_for_stdout("ready", SOON, |line| (line == "ready").then_some(()))
            .unwrap();
        process.interrupt().unwrap();
        assert_eq!(process.finish(SOON).unwrap().status.code(), Some(7));
    }
}

//! Telling a program that its files are new.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{Either, select};
use rustix::process::{Pid, Signal};
use spiffe_core::{BoxFuture, Clock};
use tokio::process::Command;

use super::DeliveryError;

/// How long a command may take by default.
pub const DEFAULT_COMMAND_TIMEOUT: Duration = Duration::from_secs(30);

/// Tells somebody of new files. It is asked again, with back-off, until it succeeds; also after a restart.
pub trait Notifier: fmt::Debug + Send + Sync + 'static {
    /// Tells of a revision in a directory.
    ///
    /// # Errors
    ///
    /// [`DeliveryError`], when it has to be told again.
    fn notify<'a>(
        &'a self,
        directory: &'a Path,
        revision: u64,
    ) -> BoxFuture<'a, Result<(), DeliveryError>>;
}

/// The environment variables that name delivered files to a program: paths, never contents.
///
/// | variable | names |
/// |---|---|
/// | `SPIFFE_DIR` | the directory |
/// | `SPIFFE_CERT_FILE` | the chain, `svid.0.pem` |
/// | `SPIFFE_KEY_FILE` | its key, `svid.0.key` |
/// | `SPIFFE_CREDENTIAL_FILE` | both in one, `credential_bundle.0.pem` |
/// | `SPIFFE_BUNDLE_FILE` | the authorities of its trust domain, `bundle.0.pem` |
/// | `SPIFFE_BUNDLES_DIR` | all bundles by trust domain, `bundles` |
/// | `SPIFFE_JWT_FILE` | the first token, `jwt.0.token` |
///
/// All of them are set, whether the file is delivered or not.
pub fn environment(directory: &Path) -> [(&'static str, PathBuf); 7] {
    [
        ("SPIFFE_DIR", directory.to_owned()),
        ("SPIFFE_CERT_FILE", directory.join("svid.0.pem")),
        ("SPIFFE_KEY_FILE", directory.join("svid.0.key")),
        (
            "SPIFFE_CREDENTIAL_FILE",
            directory.join("credential_bundle.0.pem"),
        ),
        ("SPIFFE_BUNDLE_FILE", directory.join("bundle.0.pem")),
        ("SPIFFE_BUNDLES_DIR", directory.join("bundles")),
        ("SPIFFE_JWT_FILE", directory.join("jwt.0.token")),
    ]
}

/// Runs a command after each switch, and waits for it.
///
/// It gets the variables of [`environment`] and `SPIFFE_REVISION`, nothing on standard input, and no secret. What it prints
/// goes to standard error. One that does not end in time is killed with the process group that it leads.
#[derive(Clone, Debug)]
pub struct RunCommand {
    program: PathBuf,
    arguments: Vec<String>,
    timeout: Duration,
    clock: Arc<dyn Clock>,
}

impl RunCommand {
    /// A program and its arguments; no shell is between.
    pub fn new(
        program: impl Into<PathBuf>,
        arguments: impl IntoIterator<Item = impl Into<String>>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            program: program.into(),
            arguments: arguments.into_iter().map(Into::into).collect(),
            timeout: DEFAULT_COMMAND_TIMEOUT,
            clock,
        }
    }

    /// A line for the system's shell, `/bin/sh -c`.
    pub fn shell(line: impl Into<String>, clock: Arc<dyn Clock>) -> Self {
        Self::new("/bin/sh", ["-c".into(), line.into()], clock)
    }

    /// How long it may take; [`DEFAULT_COMMAND_TIMEOUT`] otherwise.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    async fn run(&self, directory: &Path, revision: u64) -> Result<(), String> {
        let mut child = Command::new(&self.program)
            .args(&self.arguments)
            .envs(environment(directory))
            .env("SPIFFE_REVISION", revision.to_string())
            .stdin(Stdio::null())
            .stdout(io::stderr())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("it cannot be started: {error}"))?;
        let group = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        let until = self.clock.monotonic().saturating_add(self.timeout);
        let ended = match select(pin!(child.wait()), self.clock.sleep_until(until)).await {
            Either::Left((ended, _)) => Some(ended),
            Either::Right(_) => None,
        };
        match ended {
            Some(Ok(status)) if status.success() => Ok(()),
            Some(Ok(status)) => Err(status.to_string()),
            Some(Err(error)) => Err(error.to_string()),
            None => {
                if let Some(group) = group {
                    // It may have ended this moment.
                    let _ = rustix::process::kill_process_group(group, Signal::KILL);
                }
                let _ = child.wait().await;
                Err(format!(
                    "it took longer than {:?} and was killed",
                    self.timeout
                ))
            }
        }
    }
}

impl Notifier for RunCommand {
    fn notify<'a>(
        &'a self,
        directory: &'a Path,
        revision: u64,
    ) -> BoxFuture<'a, Result<(), DeliveryError>> {
        Box::pin(async move {
            let ran = self.run(directory, revision).await;
            ran.map_err(|reason| DeliveryError::Command {
                command: match self.arguments.as_slice() {
                    [first, line] if first == "-c" => line.clone(),
                    _ => self.program.display().to_string(),
                },
                reason,
            })
        })
    }
}

/// Sends a process a signal after each switch.
#[derive(Clone, Debug)]
pub struct SendSignal {
    whom: Whom,
    signal: Signal,
    name: &'static str,
}

#[derive(Clone, Debug)]
enum Whom {
    Process(Pid),
    /// The process whose number is in the file, read anew each time.
    File(PathBuf),
}

/// What is wrong with the words that say whom to signal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendSignalError {
    /// Nobody is named.
    #[error("name a process by its number, or by the path of the file that holds it")]
    Nobody,
    /// No such signal is sent here.
    #[error(
        "{name:?} is no signal that is sent here; it is one of HUP, USR1, USR2, TERM, INT, QUIT, WINCH"
    )]
    Unknown {
        /// The name as given.
        name: String,
    },
}

impl SendSignal {
    /// From `NUMBER` or `FILE`, and with `:NAME` behind it another signal than HUP: `4711`, `/run/nginx.pid`,
    /// `/run/haproxy.pid:USR2`.
    ///
    /// # Errors
    ///
    /// [`SendSignalError`].
    pub fn parse(text: &str) -> Result<Self, SendSignalError> {
        let (whom, name) = text.rsplit_once(':').unwrap_or((text, "HUP"));
        let (name, signal) = signal(name)?;
        let whom = match whom.parse() {
            Ok(number) => process(number)
                .map(Whom::Process)
                .ok_or(SendSignalError::Nobody)?,
            Err(_) if whom.is_empty() => return Err(SendSignalError::Nobody),
            Err(_) => Whom::File(whom.into()),
        };
        Ok(Self { whom, signal, name })
    }

    fn send(&self) -> Result<(), String> {
        let pid = match &self.whom {
            Whom::Process(pid) => *pid,
            Whom::File(path) => {
                let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
                text.trim()
                    .parse()
                    .ok()
                    .and_then(process)
                    .ok_or("it holds no process number")?
            }
        };
        rustix::process::kill_process(pid, self.signal)
            .map_err(|error| format!("{}: {error}", self.name))
    }
}

impl Notifier for SendSignal {
    fn notify<'a>(&'a self, _: &'a Path, _: u64) -> BoxFuture<'a, Result<(), DeliveryError>> {
        let sent = self.send().map_err(|reason| DeliveryError::Signal {
            whom: match &self.whom {
                Whom::Process(pid) => format!("process {pid}"),
                Whom::File(path) => format!("the process named in {}", path.display()),
            },
            reason,
        });
        Box::pin(async { sent })
    }
}

/// A process by its number; zero and less would mean whole groups.
fn process(number: i32) -> Option<Pid> {
    if number <= 0 {
        return None;
    }
    Pid::from_raw(number)
}

/// A signal by its name, with or without `SIG`.
pub(super) fn signal(name: &str) -> Result<(&'static str, Signal), SendSignalError> {
    let bare = name.strip_prefix("SIG").unwrap_or(name);
    let known = SIGNALS.iter().find(|(known, _)| *known == bare);
    known
        .copied()
        .ok_or_else(|| SendSignalError::Unknown { name: name.into() })
}

const SIGNALS: [(&str, Signal); 7] = [
    ("HUP", Signal::HUP),
    ("USR1", Signal::USR1),
    ("USR2", Signal::USR2),
    ("TERM", Signal::TERM),
    ("INT", Signal::INT),
    ("QUIT", Signal::QUIT),
    ("WINCH", Signal::WINCH),
];

//! A program that knows nothing of SPIFFE: started once its files are there, restarted or signalled when they change, and
//! stopped while there is no identity.

use std::ffi::OsString;
use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use spiffe_core::Clock;
use spiffe_workload_client::delivery::{Delivery, DeliveryError, DeliveryStatus, environment};
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::sync::mpsc;

/// How long a program that is to be restarted has to end before it is killed.
pub const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// What happens to a running program when its files change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnRotation {
    /// Nothing: it looks for itself.
    Nothing,
    /// SIGTERM, and a new start once it has ended.
    Restart,
    /// This signal.
    Signal(Signal),
}

/// A program and how it is run.
#[derive(Clone, Debug)]
pub struct Program {
    program: OsString,
    arguments: Vec<OsString>,
    directory: PathBuf,
    on_rotation: OnRotation,
    own_group: bool,
    clock: Arc<dyn Clock>,
}

/// Why a program could not be run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProgramError {
    /// Its files could not be delivered.
    #[error(transparent)]
    Delivery(#[from] DeliveryError),
    /// The delivery ended.
    #[error("the delivery of files ended by itself")]
    Ended,
    /// It could not be started or waited for.
    #[error("cannot run {program:?}: {source}; name a program that exists and may be run")]
    Run {
        /// The program.
        program: OsString,
        /// What the system says.
        source: io::Error,
    },
}

impl Program {
    /// A program whose files are delivered into `directory`.
    pub fn new(
        program: impl Into<OsString>,
        arguments: impl IntoIterator<Item = OsString>,
        directory: impl Into<PathBuf>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            program: program.into(),
            arguments: arguments.into_iter().collect(),
            directory: directory.into(),
            on_rotation: OnRotation::Restart,
            own_group: true,
            clock,
        }
    }

    /// What happens when its files change; a restart otherwise.
    #[must_use]
    pub fn on_rotation(mut self, on_rotation: OnRotation) -> Self {
        self.on_rotation = on_rotation;
        self
    }

    /// Whether it leads a process group of its own, so that signals reach what it starts as well; it does otherwise. One
    /// that shares a terminal must not: it is then not sent the SIGINT and SIGQUIT that come, which the terminal's keys have
    /// sent it already.
    #[must_use]
    pub fn own_group(mut self, own_group: bool) -> Self {
        self.own_group = own_group;
        self
    }

    /// Runs the program until it ends by itself, or by a signal that was passed on. It gets the variables of
    /// [`environment`].
    ///
    /// It runs only while there is an identity: when that is withdrawn it is stopped, whatever else its files' changes do to
    /// it, and started again once there is one. While none runs, SIGHUP, SIGINT, SIGQUIT and SIGTERM end the waiting.
    ///
    /// # Errors
    ///
    /// [`ProgramError`].
    pub async fn supervise(
        &self,
        delivery: &mut Delivery,
        signals: &mut mpsc::Receiver<Signal>,
    ) -> Result<ExitStatus, ProgramError> {
        let mut status = self.first_delivery(delivery).await?;
        let mut revision = status.revision;
        let mut running: Option<Child> = None;
        loop {
            let is_new = status.revision != revision;
            revision = status.revision;
            match &mut running {
                None if status.svids > 0 => running = Some(self.start()?),
                None => {}
                Some(child) if status.svids == 0 || (is_new && self.restarts()) => {
                    if status.svids == 0 {
                        tracing::warn!(
                            program = ?self.program,
                            "the identity was withdrawn: stopping the program until there is one again"
                        );
                    } else {
                        tracing::info!(program = ?self.program, "restarting");
                    }
                    if let Some(ended) = self.stop(child, signals).await? {
                        return Ok(ended);
                    }
                    running = None;
                    // Its end took a while: whether there is an identity is decided by what is so now.
                    status = delivery.status();
                    if status.svids == 0 {
                        tracing::info!(program = ?self.program, "stopped; waiting for an identity");
                    }
                    continue;
                }
                Some(child) if is_new => {
                    if let OnRotation::Signal(signal) = self.on_rotation {
                        self.send(child, signal);
                    }
                }
                Some(_) => {}
            }
            status = loop {
                tokio::select! {
                    biased;
                    ended = ended(&mut running) => return ended.map_err(|error| self.failed(error)),
                    Some(signal) = signals.recv() => match &running {
                        Some(child) => self.pass_on(child, signal),
                        None if ENDINGS.contains(&signal) || signal == Signal::SIGHUP => {
                            return Ok(ExitStatus::from_raw(signal as i32));
                        }
                        None => {}
                    },
                    status = delivery.changed() => break status.ok_or(ProgramError::Ended)?,
                }
            };
        }
    }

    async fn first_delivery(
        &self,
        delivery: &mut Delivery,
    ) -> Result<DeliveryStatus, ProgramError> {
        let mut status = delivery.status();
        loop {
            if let Some(error) = status.last_error {
                return Err(error.into());
            }
            if status.revision.is_some() {
                return Ok(status);
            }
            status = delivery.changed().await.ok_or(ProgramError::Ended)?;
        }
    }

    fn start(&self) -> Result<Child, ProgramError> {
        let mut command = Command::new(&self.program);
        command
            .args(&self.arguments)
            .envs(environment(&self.directory))
            .kill_on_drop(true);
        if self.own_group {
            command.process_group(0);
        }
        command.spawn().map_err(|error| self.failed(error))
    }

    /// Ends the program; its status when somebody else wants its end as well.
    async fn stop(
        &self,
        child: &mut Child,
        signals: &mut mpsc::Receiver<Signal>,
    ) -> Result<Option<ExitStatus>, ProgramError> {
        self.send(child, Signal::SIGTERM);
        let mut deadline = self
            .clock
            .sleep_until(self.clock.monotonic() + STOP_TIMEOUT);
        let mut is_last = false;
        loop {
            tokio::select! {
                ended = child.wait() => {
                    let ended = ended.map_err(|error| self.failed(error))?;
                    return Ok(is_last.then_some(ended));
                }
                Some(signal) = signals.recv() => {
                    // From a terminal that is gone, SIGHUP is an end as well; otherwise it may ask for another configuration.
                    is_last |= ENDINGS.contains(&signal)
                        || (signal == Signal::SIGHUP && !self.own_group);
                    self.pass_on(child, signal);
                }
                () = &mut deadline => {
                    self.send(child, Signal::SIGKILL);
                    deadline = Box::pin(std::future::pending());
                }
            }
        }
    }

    fn restarts(&self) -> bool {
        self.on_rotation == OnRotation::Restart
    }

    /// Sends on a signal that has come, unless it came from the terminal, which sends its own to everybody in front of it.
    fn pass_on(&self, child: &Child, signal: Signal) {
        let has_it = !self.own_group && matches!(signal, Signal::SIGINT | Signal::SIGQUIT);
        if !has_it {
            self.send(child, signal);
        }
    }

    /// Sends a signal to the program, and to its group where it has one. It may have ended this moment.
    fn send(&self, child: &Child, signal: Signal) {
        let Some(pid) = child.id().map(|id| Pid::from_raw(id.cast_signed())) else {
            return;
        };
        let sent = if self.own_group {
            killpg(pid, signal)
        } else {
            kill(pid, signal)
        };
        if let Err(error) = sent {
            tracing::debug!(%signal, %error, "a signal was not passed on");
        }
    }

    fn failed(&self, source: io::Error) -> ProgramError {
        ProgramError::Run {
            program: self.program.clone(),
            source,
        }
    }
}

/// Waits for the end of a program; for ever where none runs.
async fn ended(running: &mut Option<Child>) -> io::Result<ExitStatus> {
    match running {
        Some(child) => child.wait().await,
        None => std::future::pending().await,
    }
}

/// A directory for this user alone, removed when dropped: in `XDG_RUNTIME_DIR`, which is in memory, or else among temporary
/// files.
///
/// # Errors
///
/// [`PlaceError`].
pub fn private_directory(prefix: &str) -> Result<TempDir, PlaceError> {
    let mut builder = tempfile::Builder::new();
    builder
        .prefix(prefix)
        .permissions(Permissions::from_mode(0o700));
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").filter(|path| !path.is_empty());
    let (variable, place) = match runtime {
        Some(runtime) => ("XDG_RUNTIME_DIR", PathBuf::from(runtime)),
        None => ("TMPDIR", std::env::temp_dir()),
    };
    builder.tempdir_in(&place).map_err(|error| PlaceError {
        place,
        variable,
        // Without the path that was tried, which nobody has chosen.
        reason: error.kind().to_string(),
    })
}

/// No private directory could be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "cannot make a private directory in {}: {reason}; set {variable} to a directory that this user may write in",
    place.display()
)]
#[non_exhaustive]
pub struct PlaceError {
    /// Where it was to be.
    pub place: PathBuf,
    /// The environment variable that chooses.
    pub variable: &'static str,
    /// What the system says.
    pub reason: String,
}

/// The signals by which somebody says that it is over.
const ENDINGS: [Signal; 3] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT];

//! Who is at the other end of a Unix socket: credentials from the kernel, and a hold on the process.
//!
//! A process ID is only a number; once its process is gone the kernel gives it to another. A [`Caller`] therefore holds
//! a pidfd, which stays with the process it was made for, and what is read under `/proc/PID` counts only
//! if that process is still alive afterwards: then the number cannot have passed on in between.
//!
//! This does not stop a process from running another program after it connected; see
//! [`UnixAttestor`](crate::attest::UnixAttestor) for what is done about that.

use std::fmt;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{getsockopt, sockopt};

/// The process that opened a connection. Clones share one hold on it.
#[derive(Clone, Debug)]
pub struct Caller {
    uid: u32,
    gid: u32,
    pid: u32,
    process: Arc<OwnedFd>,
    hold: ProcessHold,
}

impl Caller {
    /// The process that connected the socket whose accepted end is given.
    ///
    /// # Errors
    ///
    /// - [`CallerError::Gone`]: it ended meanwhile.
    /// - [`CallerError::OtherPidNamespace`]: it cannot be seen from here.
    /// - [`CallerError::Os`]: the kernel does not say who it is, or is older than Linux 5.3.
    pub fn of(stream: &impl AsFd) -> Result<Self, CallerError> {
        let peer =
            getsockopt(stream, sockopt::PeerCredentials).map_err(os("reading SO_PEERCRED"))?;
        let pid = match u32::try_from(peer.pid()) {
            Ok(0) | Err(_) => return Err(CallerError::OtherPidNamespace),
            Ok(pid) => pid,
        };
        let (process, hold) = match getsockopt(stream, sockopt::PeerPidfd) {
            Ok(process) => (process, ProcessHold::PeerPidfd),
            Err(Errno::ENOPROTOOPT) => (open_process(pid)?, ProcessHold::PidfdOpen),
            // The kernels that know the option say either of these of a process that was reaped.
            Err(Errno::ESRCH | Errno::EINVAL) => return Err(CallerError::Gone { pid }),
            Err(error) => return Err(os("reading SO_PEERPIDFD")(error)),
        };
        Ok(Self {
            uid: peer.uid(),
            gid: peer.gid(),
            pid,
            process: Arc::new(process),
            hold,
        })
    }

    /// A caller of the given credentials, held as on older kernels.
    #[cfg(test)]
    pub(crate) fn with_open_process(uid: u32, gid: u32, pid: u32) -> Result<Self, CallerError> {
        Ok(Self {
            uid,
            gid,
            pid,
            process: Arc::new(open_process(pid)?),
            hold: ProcessHold::PidfdOpen,
        })
    }

    /// Its effective user ID when it connected.
    pub fn uid(&self) -> u32 {
        self.uid
    }

    /// Its effective group ID when it connected.
    pub fn gid(&self) -> u32 {
        self.gid
    }

    /// Its process ID, as seen from here. Names it only while [`is_alive`](Self::is_alive).
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// How the process is held.
    pub fn hold(&self) -> ProcessHold {
        self.hold
    }

    /// Whether the process still runs. One that ended but was not yet waited for does not.
    pub fn is_alive(&self) -> bool {
        is_alive(&self.process)
    }

    /// Gives what `read` learned under the process's directory in `/proc`, if it can only have been about this process.
    ///
    /// # Errors
    ///
    /// - [`CallerError::Gone`]: the process ended before `read` was through, whatever `read` returned.
    /// - What `read` returned as an error.
    pub fn read_proc<T, E: From<CallerError>>(
        &self,
        read: impl FnOnce(&Path) -> Result<T, E>,
    ) -> Result<T, E> {
        let learned = read(&proc_directory(self.pid));
        if !self.is_alive() {
            return Err(CallerError::Gone { pid: self.pid }.into());
        }
        learned
    }
}

/// Names the process and its credentials, for logs.
impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pid {} uid {} gid {}", self.pid, self.uid, self.gid)
    }
}

/// How a [`Caller`]'s process is kept apart from a later one with the same number.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum ProcessHold {
    /// By the socket's own pidfd (Linux 6.5): the process that connected and no other.
    PeerPidfd,
    /// By `pidfd_open` on the process ID, with the start time read before and after (older kernels). A process that
    /// ended before the connection was accepted, and whose number was reused by then, is not noticed.
    PidfdOpen,
}

/// Why it cannot be said who called.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallerError {
    /// The process ended before everything about it was known.
    #[error("caller with process id {pid} is gone")]
    Gone {
        /// The number it had.
        pid: u32,
    },

    /// The process is in a PID namespace that is not below ours.
    #[error("caller is in another PID namespace: run the agent in the host's (hostPID)")]
    OtherPidNamespace,

    /// The kernel refused.
    #[error("{doing} failed")]
    Os {
        /// What was being done.
        doing: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

fn os(doing: &'static str) -> impl FnOnce(Errno) -> CallerError {
    move |errno| CallerError::Os {
        doing,
        source: errno.into(),
    }
}

fn open_process(pid: u32) -> Result<OwnedFd, CallerError> {
    let gone = || CallerError::Gone { pid };
    let before = start_time(pid).ok_or_else(gone)?;
    let process = i32::try_from(pid)
        .ok()
        .and_then(rustix::process::Pid::from_raw)
        .ok_or_else(gone)
        .and_then(|pid| {
            rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).map_err(
                |errno| match errno {
                    rustix::io::Errno::SRCH => gone(),
                    errno => CallerError::Os {
                        doing: "pidfd_open",
                        source: errno.into(),
                    },
                },
            )
        })?;
    match start_time(pid) {
        Some(after) if after == before && is_alive(&process) => Ok(process),
        _ => Err(gone()),
    }
}

/// When the process began, in clock ticks since boot: field 22 of `/proc/PID/stat`.
fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read(proc_directory(pid).join("stat")).ok()?;
    // The second field is the program's name in parentheses and may itself hold spaces and parentheses.
    let name_end = stat.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(&stat[name_end + 1..]).ok()?;
    rest.split_ascii_whitespace().nth(19)?.parse().ok()
}

fn is_alive(process: &OwnedFd) -> bool {
    // A pidfd becomes readable when its process ends.
    let mut fds = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
    loop {
        match poll(&mut fds, PollTimeout::ZERO) {
            Err(Errno::EINTR) => {}
            polled => return polled == Ok(0),
        }
    }
}

fn proc_directory(pid: u32) -> PathBuf {
    Path::new("/proc").join(pid.to_string())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::process::{Child, Command, Stdio};

    use super::*;

    /// Another process, alive until its standard input is closed.
    fn child() -> Child {
        Command::new("cat")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap()
    }

    fn end(mut child: Child) {
        drop(child.stdin.take());
        child.wait().unwrap();
    }

    #[test]
    fn caller_is_the_connecting_process() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let _client = UnixStream::connect(&path).unwrap();
        let caller = Caller::of(&listener.accept().unwrap().0).unwrap();
        assert_eq!(caller.pid(), std::process::id());
        assert_eq!(caller.uid(), nix::unistd::geteuid().as_raw());
        assert_eq!(caller.gid(), nix::unistd::getegid().as_raw());
        assert!(caller.is_alive());
        let comm: Result<_, CallerError> =
            caller.read_proc(|proc| Ok(fs::read(proc.join("comm")).unwrap()));
        assert!(!comm.unwrap().is_empty());
    }

    #[test]
    fn ended_process_is_not_alive_even_before_it_is_reaped() {
        let mut child = child();
        let caller = Caller::with_open_process(0, 0, child.id()).unwrap();
        assert!(caller.is_alive());
        drop(child.stdin.take());
        // Becomes readable at the end, which is what `is_alive` looks at; waiting for it takes no sleep.
        poll(
            &mut [PollFd::new(caller.process.as_fd(), PollFlags::POLLIN)],
            PollTimeout::NONE,
        )
        .unwrap();
        assert!(proc_directory(child.id()).exists());
        assert!(!caller.is_alive());
        child.wait().unwrap();
        assert!(!caller.is_alive());
    }

    #[test]
    fn what_was_read_of_a_process_that_ended_meanwhile_is_dropped() {
        let child = child();
        let caller = Caller::with_open_process(0, 0, child.id()).unwrap();
        let read: Result<&str, CallerError> = caller.read_proc(|_| {
            end(child);
            Ok("another process's facts")
        });
        assert!(matches!(read, Err(CallerError::Gone { pid }) if pid == caller.pid()));
    }

    #[test]
    fn end_of_the_process_comes_before_what_reading_it_met() {
        let child = child();
        let caller = Caller::with_open_process(0, 0, child.id()).unwrap();
        end(child);
        let read: Result<(), CallerError> =
            caller.read_proc(|_| Err(CallerError::OtherPidNamespace));
        assert!(matches!(read, Err(CallerError::Gone { .. })));
    }

    #[test]
    fn ended_process_cannot_be_held() {
        let child = child();
        let pid = child.id();
        end(child);
        assert!(matches!(open_process(pid), Err(CallerError::Gone { .. })));
    }

    #[test]
    fn start_time_is_of_the_process() {
        let first = start_time(std::process::id()).unwrap();
        assert_eq!(start_time(std::process::id()), Some(first));
        let child = child();
        assert!(start_time(child.id()).unwrap() >= first);
        end(child);
    }
}

//! The Unix socket of the Workload API: binding it without disturbing anyone, and accepting for ever.
//!
//! Two starts at one path are kept apart by a lock on a file beside the socket, `NAME.lock`, held for the life of the
//! listener and removed with it. The kernel gives the lock up however the process ends, so it never goes stale. Renaming a socket into
//! place would need no second file, but the later of two starts would silently take the path from the earlier. The
//! lock cannot speak for programs that do not take it; against those, whoever answers at the path is left alone.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::Stream;
use futures_util::stream;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use spiffe_core::Clock;
use tokio::net::{UnixListener, UnixSocket, UnixStream};
use tokio::sync::Semaphore;

use crate::stream::CallerStream;

/// A bound Workload API socket. Dropping it removes the socket file, unless another has taken its place.
#[derive(Debug)]
pub struct WorkloadListener {
    socket: UnixListener,
    file: SocketFile,
    slots: Arc<Semaphore>,
    full: AtomicBool,
    preface_timeout: Duration,
    clock: Arc<dyn Clock>,
}

impl WorkloadListener {
    /// Binds the socket at `path`, in place of one that nobody serves any more. Needs a tokio runtime around it.
    ///
    /// # Errors
    ///
    /// [`ListenError`] says what stands in the way and what to do; whatever was at the path is still there.
    pub fn bind(
        path: impl Into<PathBuf>,
        options: ListenOptions,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, ListenError> {
        let path = path.into();
        let length = path.as_os_str().len();
        if length > MAX_PATH {
            return Err(ListenError::PathTooLong { path, length });
        }
        let lock = LockFile::take(&path)?;
        remove_stale(&path)?;

        let failed = |doing| ListenError::at(&path, doing);
        let socket = UnixSocket::new_stream().map_err(failed("creating"))?;
        socket.bind(&path).map_err(failed("binding"))?;
        // Nobody can connect before `listen`, so nobody meets the wrong mode or owner.
        let file = SocketFile::created(&path, lock).map_err(failed("inspecting"))?;
        if options.uid.is_some() || options.gid.is_some() {
            std::os::unix::fs::lchown(&path, options.uid, options.gid)
                .map_err(failed("changing the owner of"))?;
        }
        fs::set_permissions(&path, Permissions::from_mode(options.mode))
            .map_err(failed("changing the mode of"))?;
        let socket = socket.listen(BACKLOG).map_err(failed("listening on"))?;
        Ok(Self {
            socket,
            file,
            slots: Arc::new(Semaphore::new(options.max_connections)),
            full: AtomicBool::new(false),
            preface_timeout: options.preface_timeout,
            clock,
        })
    }

    /// Where it is bound.
    pub fn path(&self) -> &Path {
        &self.file.path
    }

    /// The next connection. Failures to accept are logged and waited out: this never gives up.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses no connection.
    pub async fn accept(&self) -> CallerStream {
        self.accept_by(|cx| self.socket.poll_accept(cx).map_ok(|(io, _)| io))
            .await
    }

    /// All connections, in the form that tonic's `serve_with_incoming` takes.
    pub fn incoming(self) -> impl Stream<Item = io::Result<CallerStream>> + Send {
        stream::unfold(self, |listener| async move {
            let stream = listener.accept().await;
            Some((Ok(stream), listener))
        })
    }

    async fn accept_by(
        &self,
        mut accept: impl FnMut(&mut Context<'_>) -> Poll<io::Result<UnixStream>>,
    ) -> CallerStream {
        let mut failures = 0;
        loop {
            match std::future::poll_fn(&mut accept).await {
                Ok(io) => {
                    failures = 0;
                    if let Some(stream) = self.admit(io) {
                        return stream;
                    }
                }
                Err(error) if is_of_one_connection(&error) => {
                    tracing::debug!(%error, "client gave up before it was accepted");
                }
                Err(error) => {
                    let pause = MAX_PAUSE.min(MIN_PAUSE * 2_u32.saturating_pow(failures));
                    failures += 1;
                    if failures == 1 {
                        tracing::warn!(%error, path = %self.path().display(), "cannot accept connections: trying again");
                    }
                    self.clock.sleep_until(self.clock.monotonic() + pause).await;
                }
            }
        }
    }

    fn admit(&self, io: UnixStream) -> Option<CallerStream> {
        let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned() else {
            // Closing tells the client at once; leaving it in the backlog would let it hang.
            if !self.full.swap(true, Ordering::Relaxed) {
                tracing::warn!(path = %self.path().display(), "all connections are in use: closing new ones");
            }
            return None;
        };
        self.full.store(false, Ordering::Relaxed);
        let deadline = self.clock.monotonic().saturating_add(self.preface_timeout);
        match CallerStream::new(io) {
            Ok(stream) => Some(
                stream
                    .with_slot(slot)
                    .with_deadline(self.clock.sleep_until(deadline)),
            ),
            Err(error) => {
                tracing::debug!(%error, "closing a connection of nobody");
                None
            }
        }
    }
}

/// How a [`WorkloadListener`] is set up.
#[derive(Clone, Debug)]
pub struct ListenOptions {
    mode: u32,
    uid: Option<u32>,
    gid: Option<u32>,
    max_connections: usize,
    preface_timeout: Duration,
}

impl ListenOptions {
    /// The defaults given at each option.
    pub fn new() -> Self {
        Self {
            mode: DEFAULT_MODE,
            uid: None,
            gid: None,
            max_connections: DEFAULT_MAX_CONNECTIONS,
            preface_timeout: DEFAULT_PREFACE_TIMEOUT,
        }
    }

    /// The socket file's permission bits; connecting takes write permission. [`DEFAULT_MODE`] unless set.
    #[must_use]
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    /// The socket file's owner: a user ID, a group ID, or both. Our own unless set; another's takes root.
    #[must_use]
    pub fn owner(mut self, uid: Option<u32>, gid: Option<u32>) -> Self {
        self.uid = uid;
        self.gid = gid;
        self
    }

    /// How many connections may be open at once; further ones are closed when they come. [`DEFAULT_MAX_CONNECTIONS`]
    /// unless set.
    #[must_use]
    pub fn max_connections(mut self, connections: usize) -> Self {
        self.max_connections = connections.min(Semaphore::MAX_PERMITS);
        self
    }

    /// How long a client may say nothing after connecting. [`DEFAULT_PREFACE_TIMEOUT`] unless set.
    #[must_use]
    pub fn preface_timeout(mut self, timeout: Duration) -> Self {
        self.preface_timeout = timeout;
        self
    }
}

impl Default for ListenOptions {
    fn default() -> Self {
        Self::new()
    }
}

/// Everyone may connect, as with SPIRE's agent: who calls is told by attestation, not by the file's mode.
pub const DEFAULT_MODE: u32 = 0o777;

/// Connections open at once, unless set: more than workloads on any node, and 2 descriptors each.
pub const DEFAULT_MAX_CONNECTIONS: usize = 16_384;

/// A gRPC client sends its preface in the same breath as it connects.
pub const DEFAULT_PREFACE_TIMEOUT: Duration = Duration::from_secs(10);

/// Why the socket could not be bound.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListenError {
    /// Somebody serves at the path.
    #[error("socket {} is in use by a running process: stop that process or choose another path", path.display())]
    InUse {
        /// The socket.
        path: PathBuf,
    },

    /// The directory is missing.
    #[error("directory of socket {} does not exist: create it or choose another path", path.display())]
    NoDirectory {
        /// The socket.
        path: PathBuf,
    },

    /// Something else is at the path, a symbolic link included. It is not touched.
    #[error("{} exists and is not a socket: remove it or choose another path", path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },

    /// The kernel refused for another reason.
    #[error("{doing} socket {} failed: {source}", path.display())]
    Os {
        /// The socket.
        path: PathBuf,
        /// What was being done.
        doing: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },

    /// Its file system takes no writes.
    #[error("{doing} socket {} is impossible, for its file system is read-only: choose a path in one that can be written", path.display())]
    ReadOnly {
        /// The socket.
        path: PathBuf,
        /// What was being done.
        doing: &'static str,
    },

    /// Too long for a socket address.
    #[error("socket path of {length} bytes is too long, at most {MAX_PATH} are possible: choose a shorter path than {}", path.display())]
    PathTooLong {
        /// The path.
        path: PathBuf,
        /// Its length in bytes.
        length: usize,
    },

    /// The kernel does not let us.
    #[error("{doing} socket {} is not permitted: run as its owner or choose another path", path.display())]
    PermissionDenied {
        /// The socket.
        path: PathBuf,
        /// What was being done.
        doing: &'static str,
    },
}

impl ListenError {
    fn at(path: &Path, doing: &'static str) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| match source.kind() {
            io::ErrorKind::AddrInUse => Self::InUse { path },
            io::ErrorKind::NotFound => Self::NoDirectory { path },
            io::ErrorKind::PermissionDenied => Self::PermissionDenied { path, doing },
            io::ErrorKind::ReadOnlyFilesystem => Self::ReadOnly { path, doing },
            _ => Self::Os {
                path,
                doing,
                source,
            },
        }
    }
}

/// The socket's file, removed when dropped if it is still the one that was made.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    inode: (u64, u64),
    /// After the socket's removal in order, so that the next to start does not meet a dying one.
    _lock: LockFile,
}

impl SocketFile {
    fn created(path: &Path, lock: LockFile) -> io::Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            inode: inode(&fs::symlink_metadata(path)?),
            _lock: lock,
        })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let is_ours = |found: fs::Metadata| inode(&found) == self.inode;
        if fs::symlink_metadata(&self.path).is_ok_and(is_ours)
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::warn!(%error, path = %self.path.display(), "cannot remove the socket file");
        }
    }
}

/// `NAME.lock`, locked; removed when dropped.
#[derive(Debug)]
struct LockFile {
    path: PathBuf,
    _file: Flock<File>,
}

impl LockFile {
    fn take(socket: &Path) -> Result<Self, ListenError> {
        let mut path = socket.as_os_str().to_owned();
        path.push(".lock");
        let path = PathBuf::from(path);
        let failed = || ListenError::at(socket, "locking");
        for _ in 0..LOCK_ATTEMPTS {
            let file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .custom_flags(OFlag::O_NOFOLLOW.bits())
                .open(&path)
                .map_err(failed())?;
            let file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(file) => file,
                Err((_, Errno::EWOULDBLOCK)) => break,
                Err((_, errno)) => return Err(failed()(errno.into())),
            };
            // Its last holder may have removed it between our opening and locking it.
            let locked = file.metadata().map_err(failed())?;
            if fs::symlink_metadata(&path).is_ok_and(|found| inode(&found) == inode(&locked)) {
                return Ok(Self { path, _file: file });
            }
        }
        Err(ListenError::InUse {
            path: socket.to_owned(),
        })
    }
}

impl Drop for LockFile {
    fn drop(&mut self) {
        // Still locked here: nobody else's can be at the path. A file that stays behind does no harm.
        let _ = fs::remove_file(&self.path);
    }
}

/// Removes a socket that nobody answers at.
fn remove_stale(path: &Path) -> Result<(), ListenError> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(ListenError::at(path, "inspecting")(error)),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(ListenError::NotASocket {
                path: path.to_owned(),
            });
        }
        Ok(_) => {}
    }
    match knock(path) {
        Err(Errno::ECONNREFUSED) => {
            fs::remove_file(path).map_err(ListenError::at(path, "removing stale"))
        }
        Err(Errno::ENOENT) => Ok(()),
        // A full backlog, or a socket of another kind: somebody has it.
        Ok(()) | Err(Errno::EAGAIN | Errno::EPROTOTYPE) => Err(ListenError::InUse {
            path: path.to_owned(),
        }),
        Err(errno) => Err(ListenError::at(path, "connecting to existing")(
            errno.into(),
        )),
    }
}

/// Connects, without waiting, and hangs up.
fn knock(path: &Path) -> nix::Result<()> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    connect(
        socket.as_raw_fd(),
        &UnixAddr::new(path.as_os_str().as_bytes())?,
    )
}

/// Whether a failure to accept is about the one connection only, so that the next may follow at once (accept(2)).
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
    )
}

fn inode(metadata: &fs::Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

/// `sun_path` less its terminating zero, unix(7).
const MAX_PATH: usize = 107;

/// Connections that may wait to be accepted; the kernel lowers it to net.core.somaxconn.
const BACKLOG: u32 = 1024;

/// The pause after the first failure to accept, such as EMFILE, and the longest after many: long enough not to spin, short
/// enough that workloads hardly notice once descriptors are free again.
const MIN_PAUSE: Duration = Duration::from_millis(10);
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// How often the lock file may vanish under us before we say that the path is in use.
const LOCK_ATTEMPTS: usize = 16;

#[cfg(test)]
mod tests;

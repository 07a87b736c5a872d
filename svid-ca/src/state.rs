//! The state directory of a trust domain: `lock`, `journal.json` and `keys.json`.
//!
//! One process uses it at a time; the kernel frees the lock when that process ends, however it ends. A directory that
//! cannot be used as it is, is left as it is.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::unistd::Uid;
use spiffe_core::TrustDomain;

use crate::authority::State;
use crate::authority::journal::{self, JOURNAL_FILE, MAX_JOURNAL_BYTES};
use crate::error::StateError;
use crate::keys::{KEYS_FILE, MAX_KEYS_FILE_BYTES};
use crate::storage::{Directory, Storage, replace, told};

/// The file that is locked while the directory is in use.
pub const LOCK_FILE: &str = "lock";

/// A directory that holds the state of one trust domain, locked for this process as long as the value lives.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    trust_domain: TrustDomain,
    storage: Arc<dyn Storage>,
    _lock: Flock<File>,
}

impl StateDir {
    /// Opens the state directory of a trust domain, creating it with mode 0700 when there is none and
    /// giving an empty one that mode.
    ///
    /// # Errors
    ///
    /// [`StateError`]: in use, open to others, of another trust domain, damaged, or not accessible. Nothing in the
    /// directory was changed then.
    pub fn open(path: impl AsRef<Path>, trust_domain: &TrustDomain) -> Result<Self, StateError> {
        let path = path.as_ref();
        Self::open_with(path, trust_domain, Arc::new(Directory::new(path)))
    }

    /// As [`Self::open`], with files read and written through `storage`: for tests that let it fail.
    ///
    /// # Errors
    ///
    /// As [`Self::open`].
    pub fn open_with(
        path: impl AsRef<Path>,
        trust_domain: &TrustDomain,
        storage: Arc<dyn Storage>,
    ) -> Result<Self, StateError> {
        let path = path.as_ref();
        create(path)?;
        let directory = Self {
            path: path.into(),
            trust_domain: trust_domain.clone(),
            storage,
            _lock: lock(path)?,
        };
        directory.load()?;
        Ok(directory)
    }

    /// Whose state the directory holds, and that state, without locking it: the journal is always whole, also while
    /// another process uses the directory. `None` where there is no journal.
    ///
    /// # Errors
    ///
    /// [`StateError::Damaged`], [`StateError::UnknownFormat`] and [`StateError::Io`].
    pub fn look(path: impl AsRef<Path>) -> Result<Option<(TrustDomain, State)>, StateError> {
        let storage = Directory::new(path.as_ref());
        let file = storage.path(JOURNAL_FILE);
        let Some(journal) = storage
            .read(JOURNAL_FILE, MAX_JOURNAL_BYTES)
            .map_err(|error| io_error(&file, "read", &error))?
        else {
            return Ok(None);
        };
        let trust_domain = journal::trust_domain(&journal.contents, &file)?;
        let state = journal::decode(&journal.contents, &trust_domain, &file)?;
        Ok(Some((trust_domain, state)))
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The trust domain whose state it holds.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// Its files, for a key manager.
    pub fn storage(&self) -> &Arc<dyn Storage> {
        &self.storage
    }

    /// The journal's state; `None` in a new directory.
    ///
    /// # Errors
    ///
    /// [`StateError`].
    pub fn load(&self) -> Result<Option<State>, StateError> {
        let read = |name, limit| {
            self.storage
                .read(name, limit)
                .map_err(|error| io_error(&self.storage.path(name), "read", &error))
        };
        if let Some(journal) = read(JOURNAL_FILE, MAX_JOURNAL_BYTES)? {
            let path = self.storage.path(JOURNAL_FILE);
            return journal::decode(&journal.contents, &self.trust_domain, &path).map(Some);
        }
        // A journal is written before the first key, so keys alone mean that it was lost.
        if read(KEYS_FILE, MAX_KEYS_FILE_BYTES)?.is_some() {
            return Err(StateError::JournalMissing {
                path: self.path.clone(),
            });
        }
        Ok(None)
    }

    /// Replaces the journal, atomically.
    ///
    /// # Errors
    ///
    /// [`StateError::Io`]; the old journal is then still there.
    pub fn store(&self, state: &State) -> Result<(), StateError> {
        let contents = journal::encode(&self.trust_domain, state);
        replace(&*self.storage, JOURNAL_FILE, &contents)
            .map_err(|error| io_error(&self.storage.path(JOURNAL_FILE), "written", &error))
    }
}

/// Makes the directory, or looks whether it is this user's, and for its owner alone. An empty one that is not was made a moment ago
/// for this purpose and is closed; one with contents may hold what others already read.
fn create(path: &Path) -> Result<(), StateError> {
    let metadata = match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(path)
                .map_err(|error| io_error(path, "created", &error));
        }
        found => found.map_err(|error| io_error(path, "read", &error))?,
    };
    if !metadata.is_dir() {
        return Err(StateError::Io {
            path: path.into(),
            action: "used as a state directory",
            reason: "it is not a directory".into(),
        });
    }
    let (owner, user) = (metadata.uid(), Uid::effective().as_raw());
    if owner != user {
        return Err(StateError::Owner {
            path: path.into(),
            owner,
            user,
        });
    }
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 == 0 {
        return Ok(());
    }
    let mut contents = fs::read_dir(path).map_err(|error| io_error(path, "read", &error))?;
    if contents.next().is_some() {
        return Err(StateError::Permissions {
            path: path.into(),
            mode,
        });
    }
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))
        .map_err(|error| io_error(path, "closed to others", &error))
}

/// Locks the directory and leaves the process's number for whoever comes second.
fn lock(directory: &Path) -> Result<Flock<File>, StateError> {
    let path = directory.join(LOCK_FILE);
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(|error| io_error(&path, "opened", &error))?;
    let mut lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => lock,
        Err((mut file, Errno::EWOULDBLOCK)) => {
            let mut text = String::new();
            let holder = match file.read_to_string(&mut text) {
                Ok(_) if text.trim().parse::<u32>().is_ok() => format!("process {}", text.trim()),
                // It may be about to write its number.
                _ => "another process".into(),
            };
            return Err(StateError::InUse {
                path: directory.into(),
                holder,
            });
        }
        Err((_, errno)) => return Err(io_error(&path, "locked", &errno.into())),
    };
    lock.set_len(0)
        .and_then(|()| lock.rewind())
        .and_then(|()| writeln!(lock, "{}", std::process::id()))
        .map_err(|error| io_error(&path, "written", &error))?;
    Ok(lock)
}

fn io_error(path: &Path, action: &'static str, error: &io::Error) -> StateError {
    StateError::Io {
        path: path.into(),
        action,
        reason: told(error),
    }
}

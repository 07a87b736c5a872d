//! What is handed out as files: each whole or not at all, and none overwritten unasked.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use spiffe_svid_ca::storage::told;

/// The mode of a file that everybody may read.
pub const PUBLIC: u32 = 0o644;

/// The mode of a file with a secret.
pub const PRIVATE: u32 = 0o600;

/// Files to be written into one directory.
#[derive(Debug)]
pub struct Delivery {
    directory: PathBuf,
    force: bool,
    files: Vec<Pending>,
}

#[derive(Debug)]
struct Pending {
    path: PathBuf,
    mode: u32,
}

impl Delivery {
    /// Into `directory`, which is made where it is missing; with `force`, over what is there.
    pub fn new(directory: impl Into<PathBuf>, force: bool) -> Self {
        Self {
            directory: directory.into(),
            force,
            files: Vec::new(),
        }
    }

    /// The same with one more file, to be written in this order.
    #[must_use]
    pub fn file(mut self, name: &str, mode: u32) -> Self {
        let path = self.directory.join(name);
        self.files.push(Pending { path, mode });
        self
    }

    /// Where the files go.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|file| file.path.as_path())
    }

    /// Looks whether a file is in the way, before anything is issued.
    ///
    /// # Errors
    ///
    /// [`FileError::Exists`].
    pub fn check(&self) -> Result<(), FileError> {
        let in_the_way = self.paths().find(|path| path.symlink_metadata().is_ok());
        match in_the_way {
            Some(path) if !self.force => Err(FileError::Exists { path: path.into() }),
            _ => Ok(()),
        }
    }

    /// Writes the files, with these contents in their order.
    ///
    /// # Errors
    ///
    /// [`FileError`]; the files before the one that failed are there.
    pub fn write(&self, contents: &[&[u8]]) -> Result<(), FileError> {
        let failed = |path: &Path, error: io::Error| match error.kind() {
            io::ErrorKind::AlreadyExists => FileError::Exists { path: path.into() },
            _ => FileError::Io {
                path: path.into(),
                reason: told(&error),
            },
        };
        fs::create_dir_all(&self.directory).map_err(|error| failed(&self.directory, error))?;
        for (file, contents) in self.files.iter().zip(contents) {
            put(&file.path, file.mode, contents, self.force)
                .map_err(|error| failed(&file.path, error))?;
        }
        File::open(&self.directory)
            .and_then(|directory| directory.sync_all())
            .map_err(|error| failed(&self.directory, error))
    }
}

/// Writes beside the place and then moves there, so that no reader sees half a file.
fn put(path: &Path, mode: u32, contents: &[u8], force: bool) -> io::Result<()> {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}.new", std::process::id()));
    let temporary = path.with_file_name(name);
    let written = || -> io::Result<()> {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&temporary)?;
        file.write_all(contents)?;
        file.sync_all()?;
        if force {
            fs::rename(&temporary, path)
        } else {
            // Unlike a rename, a link replaces nothing.
            fs::hard_link(&temporary, path)
        }
    };
    let outcome = written();
    if !force || outcome.is_err() {
        // It has served, or it failed; either way only the file in its place counts.
        let _ = fs::remove_file(&temporary);
    }
    outcome
}

/// Why a file was not written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// Something is there already.
    #[error("{path} exists; give --force to replace it, or --out to write elsewhere")]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The file system refused.
    #[error("cannot write {path}: {reason}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system says.
        reason: String,
    },
}

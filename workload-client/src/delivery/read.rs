//! Readers that never have a mix.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use zeroize::Zeroizing;

use super::CURRENT;
use crate::source::MAX_FILE_BYTES;

/// How often a reader of flat names starts again: a writer that switches faster than two files are read does nothing else.
const MAX_STRADDLES: usize = 100;

/// One revision, found once: everything read from it belongs together.
///
/// The writer keeps the revision before the current one. Only a reader that is slower than two switches finds files gone,
/// with [`io::ErrorKind::NotFound`], and opens anew.
#[derive(Debug)]
pub struct OpenRevision {
    directory: OwnedFd,
}

impl OpenRevision {
    /// Opens what `current` in this directory leads to.
    ///
    /// # Errors
    ///
    /// What the system says; [`io::ErrorKind::NotFound`] when nothing has been delivered.
    pub fn open(directory: impl AsRef<Path>) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let path = directory.as_ref().join(CURRENT);
        Ok(Self {
            directory: rustix::fs::open(path, flags, Mode::empty())?,
        })
    }

    /// A file of this revision, such as `svid.0.pem` or `bundles/example.org.pem`.
    ///
    /// # Errors
    ///
    /// What the system says, or that the file has more than [`MAX_FILE_BYTES`](crate::source::MAX_FILE_BYTES).
    pub fn read(&self, name: &str) -> io::Result<Zeroizing<Vec<u8>>> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.directory, name, flags, Mode::empty())?;
        read_bounded(File::from(file))
    }
}

/// Reads files by their flat names, all of one revision: reads again when a switch came between the first and the last.
///
/// The names of revisions are never used twice, so that the same link before and after means that it was the same all the
/// time.
///
/// # Errors
///
/// What the system says, that a file has more than [`MAX_FILE_BYTES`](crate::source::MAX_FILE_BYTES), or [`io::ErrorKind::Interrupted`] after too many
/// switches in a row.
pub fn read_flat(
    directory: impl AsRef<Path>,
    names: &[&str],
) -> io::Result<Vec<Zeroizing<Vec<u8>>>> {
    read_flat_by(directory.as_ref(), names, |path| {
        read_bounded(File::open(path)?)
    })
}

pub(super) fn read_flat_by(
    directory: &Path,
    names: &[&str],
    mut read: impl FnMut(&Path) -> io::Result<Zeroizing<Vec<u8>>>,
) -> io::Result<Vec<Zeroizing<Vec<u8>>>> {
    let link = directory.join(CURRENT);
    for _ in 0..MAX_STRADDLES {
        let before = std::fs::read_link(&link)?;
        let read: io::Result<Vec<_>> = names
            .iter()
            .map(|name| read(&directory.join(name)))
            .collect();
        if std::fs::read_link(&link)? == before {
            return read;
        }
    }
    Err(io::Error::new(
        io::ErrorKind::Interrupted,
        "the files changed all the time while they were read",
    ))
}

pub(super) fn read_bounded(mut file: File) -> io::Result<Zeroizing<Vec<u8>>> {
    let length = file.metadata()?.len();
    if length > MAX_FILE_BYTES {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("it has more than {MAX_FILE_BYTES} bytes"),
        ));
    }
    // Of its size at once, so that no copy of a secret is left behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(length as usize + 1));
    file.by_ref().take(MAX_FILE_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

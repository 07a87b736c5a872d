//! The single steps that change a directory, behind a trait so that tests can let each of them fail.
//!
//! Everything is named relative to a directory that is held open: whoever may rename things beside it cannot make a secret
//! land elsewhere.

use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt, fchown};

use rustix::fs::{AtFlags, Mode, OFlags, Stat};

/// Who may do what with a file or directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Access {
    /// Permission bits.
    pub(super) mode: u32,
    /// The owner; whoever writes when `None`.
    pub(super) uid: Option<u32>,
    /// The group; whoever writes when `None`.
    pub(super) gid: Option<u32>,
}

impl Access {
    /// Whether a file has this mode and owner.
    pub(super) fn is_of(&self, found: &Stat) -> bool {
        self.is_owner_of(found) && found.st_mode & 0o7777 == self.mode
    }

    fn is_owner_of(&self, found: &Stat) -> bool {
        self.uid.is_none_or(|uid| uid == found.st_uid)
            && self.gid.is_none_or(|gid| gid == found.st_gid)
    }
}

pub(super) trait Disk: fmt::Debug + Send + Sync {
    /// Makes a directory that only its owner can enter.
    fn make_directory(&self, at: &OwnedFd, name: &str) -> io::Result<()>;

    /// Makes a file: closed to others until it has its owner and mode, and on disk when this returns.
    fn write(&self, at: &OwnedFd, name: &str, bytes: &[u8], access: Access) -> io::Result<()>;

    /// Gives an open file or directory its owner and mode where they are others.
    fn settle(&self, file: &OwnedFd, access: Access) -> io::Result<()>;

    /// Makes a symbolic link.
    fn link(&self, target: &str, at: &OwnedFd, name: &str) -> io::Result<()>;

    /// Moves something over whatever has the name.
    fn rename(&self, from: (&OwnedFd, &str), to: (&OwnedFd, &str)) -> io::Result<()>;

    /// Makes the names in a directory survive a crash.
    fn sync(&self, directory: &OwnedFd) -> io::Result<()>;

    /// Removes a file or link.
    fn remove_file(&self, at: &OwnedFd, name: &str) -> io::Result<()>;

    /// Removes an empty directory.
    fn remove_directory(&self, at: &OwnedFd, name: &str) -> io::Result<()>;
}

/// The operating system's.
#[derive(Clone, Copy, Debug)]
pub(super) struct System;

impl Disk for System {
    fn make_directory(&self, at: &OwnedFd, name: &str) -> io::Result<()> {
        Ok(rustix::fs::mkdirat(at, name, Mode::RWXU)?)
    }

    fn write(&self, at: &OwnedFd, name: &str, bytes: &[u8], access: Access) -> io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = rustix::fs::openat(at, name, flags, Mode::RUSR | Mode::WUSR)?;
        let mut file = File::from(file);
        file.write_all(bytes)?;
        let file = OwnedFd::from(file);
        self.settle(&file, access)?;
        Ok(rustix::fs::fsync(&file)?)
    }

    fn settle(&self, file: &OwnedFd, access: Access) -> io::Result<()> {
        let found = rustix::fs::fstat(file)?;
        if access.is_of(&found) {
            return Ok(());
        }
        // The owner first: to give a file away clears some bits of its mode. Where it stays there is no call at all: some
        // sandboxes and file systems refuse each.
        if !access.is_owner_of(&found) {
            fchown(file, access.uid, access.gid)?;
        }
        // Unlike the mode at creation, this one is not cut by the umask.
        let file = File::from(file.try_clone()?);
        file.set_permissions(std::fs::Permissions::from_mode(access.mode))
    }

    fn link(&self, target: &str, at: &OwnedFd, name: &str) -> io::Result<()> {
        Ok(rustix::fs::symlinkat(target, at, name)?)
    }

    fn rename(&self, from: (&OwnedFd, &str), to: (&OwnedFd, &str)) -> io::Result<()> {
        Ok(rustix::fs::renameat(from.0, from.1, to.0, to.1)?)
    }

    fn sync(&self, directory: &OwnedFd) -> io::Result<()> {
        Ok(rustix::fs::fsync(directory)?)
    }

    fn remove_file(&self, at: &OwnedFd, name: &str) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(at, name, AtFlags::empty())?)
    }

    fn remove_directory(&self, at: &OwnedFd, name: &str) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(at, name, AtFlags::REMOVEDIR)?)
    }
}

/// Opens a directory below another one, and nothing else, nor through a link.
pub(super) fn open_directory(at: &OwnedFd, name: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(at, name, flags, Mode::empty())?)
}

/// The names in a directory that are text.
pub(super) fn list(directory: &OwnedFd) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(directory)? {
        match entry?.file_name().to_str() {
            Ok("." | "..") | Err(_) => {}
            Ok(name) => names.push(name.to_owned()),
        }
    }
    Ok(names)
}

/// What a name is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    Nothing,
    Link(String),
    Other,
}

/// Looks at a name without following it.
pub(super) fn look(at: &OwnedFd, name: &str) -> io::Result<Found> {
    match rustix::fs::readlinkat(at, name, Vec::new()) {
        // A target that is no text is nobody's of ours.
        Ok(target) => Ok(target.into_string().map_or(Found::Other, Found::Link)),
        Err(rustix::io::Errno::NOENT) => Ok(Found::Nothing),
        Err(rustix::io::Errno::INVAL) => Ok(Found::Other),
        Err(error) => Err(error.into()),
    }
}

//! One directory per revision, and a link that is switched from one to the next.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags, Stat};
use zeroize::Zeroizing;

use super::disk::{Access, Disk, Found, System, list, look, open_directory};
use super::files::{Content, FileSet, is_secret};
use super::read::read_bounded;
use super::{CURRENT, DeliveryError, PRIVATE};

/// The modes of what is delivered, exactly: the umask has no part in them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Modes {
    /// Certificates and bundles; 0644 by default.
    pub public: u32,
    /// Keys, credential bundles and tokens; 0600 by default.
    pub secret: u32,
    /// Directories, but that nobody else is ever let write in them; 0755 by default.
    pub directory: u32,
}

impl Default for Modes {
    fn default() -> Self {
        Self {
            public: 0o644,
            secret: 0o600,
            directory: 0o755,
        }
    }
}

/// What became of a delivery that succeeded.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Written {
    /// The number of the revision that counts now.
    pub revision: u64,
    /// Whether it was written for this delivery; otherwise the same files were there already, with modes and owner as they
    /// should be, or mended.
    pub is_new: bool,
    /// What could not be tidied away afterwards. The delivery is whole nevertheless.
    pub leftover: Option<DeliveryError>,
}

/// A directory that revisions are delivered into; one process at a time.
///
/// ```
/// use spiffe_workload_client::delivery::{DeliveryDirectory, FileSet, Material, OpenRevision};
///
/// # let place = tempfile::tempdir()?;
/// let mut directory = DeliveryDirectory::new(place.path().join("svid"));
/// let written = directory.write(&FileSet::new(&Material::default())?)?;
/// assert!(written.is_new);
/// OpenRevision::open(directory.path())?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct DeliveryDirectory {
    path: PathBuf,
    modes: Modes,
    uid: Option<u32>,
    gid: Option<u32>,
    disk: Arc<dyn Disk>,
    open: Option<Open>,
}

/// The directories held open, and the lock.
#[derive(Debug)]
struct Open {
    outer: OwnedFd,
    /// [`PRIVATE`] inside of it.
    inner: OwnedFd,
    _lock: Lock,
}

/// A lock that ends when this does. To close it would not be enough: a process that is being started at that moment has a
/// copy of the descriptor until it runs its program.
#[derive(Debug)]
struct Lock(OwnedFd);

impl Lock {
    /// Leaves the process's number for whoever comes second. That it cannot be left, on a full disk say, hinders nothing.
    fn taken(lock: OwnedFd) -> Self {
        let number = format!("{}\n", std::process::id());
        let _ = rustix::fs::ftruncate(&lock, 0)
            .and_then(|()| rustix::io::pwrite(&lock, number.as_bytes(), 0));
        Self(lock)
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Nothing is left to be done about a lock that cannot be released; it ends with the process.
        let _ = rustix::fs::flock(&self.0, FlockOperation::Unlock);
    }
}

impl DeliveryDirectory {
    /// The directory at `path`; nothing is touched before the first delivery, which makes it where it is missing.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self::with_disk(path, Arc::new(System))
    }

    pub(super) fn with_disk(path: impl Into<PathBuf>, disk: Arc<dyn Disk>) -> Self {
        Self {
            path: path.into(),
            modes: Modes::default(),
            uid: None,
            gid: None,
            disk,
            open: None,
        }
    }

    /// Other modes.
    #[must_use]
    pub fn modes(mut self, modes: Modes) -> Self {
        self.modes = modes;
        self
    }

    /// The owner and group of the files, and the group of the directories; this process's where `None`. Another owner takes
    /// root.
    #[must_use]
    pub fn owner(mut self, uid: Option<u32>, gid: Option<u32>) -> Self {
        (self.uid, self.gid) = (uid, gid);
        self
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes `files` the revision that counts: written and synced beside the one before, then switched to by one rename.
    ///
    /// The same files as before are no new revision; their modes and owner are mended. The revision before stays for those
    /// who read it, unless it holds a secret whose name is in `files` no more: what was withdrawn is removed at once.
    ///
    /// It blocks: file systems know no other way.
    ///
    /// # Errors
    ///
    /// [`DeliveryError`]; the revision before stays.
    pub fn write(&mut self, files: &FileSet) -> Result<Written, DeliveryError> {
        let mut numbers = self.revisions()?;
        let current = self.current()?;
        self.check_names(files)?;
        if let Some(revision) = current
            && self.holds(revision, files)?
        {
            self.link(files)?;
            return Ok(Written {
                revision,
                is_new: false,
                leftover: self.tidy(files, revision).err(),
            });
        }
        numbers.extend(current);
        let revision = numbers
            .iter()
            .max()
            .map_or(1, |last| last.saturating_add(1));
        // Makes room first, and needs none itself.
        self.remove_revisions(|number| Some(number) != current)?;
        let name = revision.to_string();
        if let Err(error) = self.fill(&name, files) {
            // What can be removed now, is; the rest at the next attempt.
            let _ = self.remove_revision(&name);
            return Err(error);
        }
        self.link(files)?;
        self.switch(&name)?;
        Ok(Written {
            revision,
            is_new: true,
            leftover: self.tidy(files, revision).err(),
        })
    }

    /// The revision that somebody was told of last, across restarts.
    ///
    /// # Errors
    ///
    /// [`DeliveryError`].
    pub fn told(&mut self) -> Result<Option<u64>, DeliveryError> {
        let open = self.open()?;
        let read = read_file(&open.inner, TOLD).map_err(self.io("read", &[PRIVATE, TOLD]))?;
        let number = read.and_then(|text| std::str::from_utf8(&text).ok()?.trim().parse().ok());
        Ok(number)
    }

    /// Notes that somebody was told of this revision.
    ///
    /// # Errors
    ///
    /// [`DeliveryError`].
    pub fn set_told(&mut self, revision: u64) -> Result<(), DeliveryError> {
        let (disk, access) = (self.disk.clone(), self.access(self.modes.public));
        let inner = &self.open()?.inner;
        let write = || {
            remove_if_there(&*disk, inner, NEW)?;
            disk.write(inner, NEW, revision.to_string().as_bytes(), access)?;
            disk.rename((inner, NEW), (inner, TOLD))?;
            disk.sync(inner)
        };
        write().map_err(self.io("write", &[PRIVATE, TOLD]))
    }

    /// Opens the directories and takes the lock, unless that was done and they are still where they were.
    fn open(&mut self) -> Result<&Open, DeliveryError> {
        if let Some(open) = &self.open {
            let here = rustix::fs::stat(self.path.join(PRIVATE));
            let held = rustix::fs::fstat(&open.inner);
            if !matches!((here, held), (Ok(here), Ok(held)) if same_file(&here, &held)) {
                self.open = None;
            }
        }
        if self.open.is_none() {
            self.open = Some(self.open_anew()?);
        }
        Ok(self.open.as_ref().expect("it was opened above"))
    }

    fn open_anew(&self) -> Result<Open, DeliveryError> {
        let failed = self.io("open", &[]);
        let mut name = self.path.as_path();
        let parent = match (name.parent(), name.file_name()) {
            (Some(parent), Some(last)) => {
                name = Path::new(last);
                if parent.as_os_str().is_empty() {
                    Path::new(".")
                } else {
                    parent
                }
            }
            // The root, or a name that ends in dots: there already, or of no use.
            _ => Path::new("/"),
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let outer = match rustix::fs::open(&self.path, flags, Mode::empty()) {
            Err(rustix::io::Errno::NOENT) => {
                let parent = rustix::fs::open(parent, flags, Mode::empty())
                    .map_err(|error| DeliveryError::io("open", parent, &error.into()))?;
                let name = name.to_str().ok_or_else(|| {
                    DeliveryError::io("make", &self.path, &io::ErrorKind::InvalidFilename.into())
                })?;
                self.make_directory(&parent, name)
                    .map_err(self.io("make", &[]))?
            }
            opened => opened.map_err(|error| failed(error.into()))?,
        };
        let failed = self.io("open", &[PRIVATE]);
        let inner = match open_directory(&outer, PRIVATE) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => self
                .make_directory(&outer, PRIVATE)
                .map_err(self.io("make", &[PRIVATE]))?,
            opened => opened.map_err(failed)?,
        };
        let found = rustix::fs::fstat(&inner).map_err(|error| failed(error.into()))?;
        if found.st_uid != rustix::process::geteuid().as_raw()
            || found.st_mode & WRITE_BY_OTHERS != 0
        {
            let path = self.path.join(PRIVATE);
            return Err(DeliveryError::NotPrivate { path });
        }
        let failed = self.io("lock", &[PRIVATE, LOCK]);
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let lock = rustix::fs::openat(&inner, LOCK, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|error| failed(error.into()))?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let (path, holder) = (self.path.clone(), holder(lock));
                return Err(DeliveryError::Locked { path, holder });
            }
            locked => locked.map_err(|error| failed(error.into()))?,
        }
        Ok(Open {
            outer,
            inner,
            _lock: Lock::taken(lock),
        })
    }

    fn make_directory(&self, at: &OwnedFd, name: &str) -> io::Result<OwnedFd> {
        self.disk.make_directory(at, name)?;
        let made = open_directory(at, name)?;
        self.disk.settle(&made, self.directories())?;
        Ok(made)
    }

    fn opened(&self) -> &Open {
        self.open.as_ref().expect("every delivery opens first")
    }

    /// The numbers of the revisions that are there.
    fn revisions(&mut self) -> Result<Vec<u64>, DeliveryError> {
        self.open()?;
        self.numbers()
    }

    fn numbers(&self) -> Result<Vec<u64>, DeliveryError> {
        let names = list(&self.opened().inner).map_err(self.io("list", &[PRIVATE]))?;
        Ok(names.iter().filter_map(|name| number(name)).collect())
    }

    /// The revision that counts.
    fn current(&self) -> Result<Option<u64>, DeliveryError> {
        let found = look(&self.opened().outer, CURRENT).map_err(self.io("read", &[CURRENT]))?;
        match found {
            Found::Nothing => Ok(None),
            Found::Link(target) => target
                .strip_prefix(PRIVATE)
                .and_then(|rest| number(rest.strip_prefix('/')?))
                .map(Some)
                .ok_or_else(|| self.in_the_way(CURRENT)),
            Found::Other => Err(self.in_the_way(CURRENT)),
        }
    }

    /// Looks whether somebody else's files have the names of links, before anything is written.
    fn check_names(&self, files: &FileSet) -> Result<(), DeliveryError> {
        for name in files.top_level() {
            match self.flat(name)? {
                Found::Link(target) if target == flat_target(name) => {}
                Found::Nothing => {}
                _ => return Err(self.in_the_way(name)),
            }
        }
        Ok(())
    }

    fn flat(&self, name: &str) -> Result<Found, DeliveryError> {
        look(&self.opened().outer, name).map_err(self.io("read", &[name]))
    }

    /// Whether a revision is these files; gives them their modes and owner where they have lost them.
    fn holds(&self, revision: u64, files: &FileSet) -> Result<bool, DeliveryError> {
        let name = revision.to_string();
        let compare = || -> io::Result<bool> {
            let directory = open_directory(&self.opened().inner, &name)?;
            let mut names = Vec::new();
            for name in list(&directory)? {
                match open_directory(&directory, &name) {
                    Ok(within) => {
                        names.extend(list(&within)?.iter().map(|inner| format!("{name}/{inner}")));
                        self.mend(&within, self.directories())?;
                    }
                    Err(_) => names.push(name),
                }
            }
            names.sort_unstable();
            if !names.iter().eq(files.names()) {
                return Ok(false);
            }
            for (name, content) in files.entries() {
                if !self.same(&directory, name, content)? {
                    return Ok(false);
                }
            }
            self.mend(&directory, self.directories())?;
            self.mend(&self.opened().inner, self.directories())?;
            Ok(true)
        };
        match compare() {
            // What cannot be read is written anew.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied
                ) =>
            {
                Ok(false)
            }
            compared => compared.map_err(self.io("compare with", &[PRIVATE, &name])),
        }
    }

    fn same(&self, directory: &OwnedFd, name: &str, content: &Content) -> io::Result<bool> {
        let (bytes, mode) = match content {
            Content::Link(target) => {
                return Ok(look(directory, name)? == Found::Link(target.clone()));
            }
            Content::Public(bytes) => (bytes, self.modes.public),
            Content::Secret(bytes) => (&**bytes, self.modes.secret),
        };
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(directory, name, flags, Mode::empty()) {
            Err(rustix::io::Errno::LOOP) => return Ok(false),
            opened => opened?,
        };
        if *read_bounded(File::from(file.try_clone()?))? != *bytes {
            return Ok(false);
        }
        self.mend(&file, self.access(mode))?;
        Ok(true)
    }

    /// Gives a file its mode and owner where they are others.
    fn mend(&self, file: &OwnedFd, access: Access) -> io::Result<()> {
        if access.is_of(&rustix::fs::fstat(file)?) {
            return Ok(());
        }
        self.disk.settle(file, access)
    }

    /// Writes a whole revision, on disk when this returns.
    fn fill(&self, name: &str, files: &FileSet) -> Result<(), DeliveryError> {
        let (disk, inner) = (&*self.disk, &self.opened().inner);
        let at = [PRIVATE, name];
        disk.make_directory(inner, name)
            .map_err(self.io("make", &at))?;
        let directory = open_directory(inner, name).map_err(self.io("open", &at))?;
        let mut within: Option<(&str, OwnedFd)> = None;
        for (path, content) in files.entries() {
            let (at, file) = match path.split_once('/') {
                None => (&directory, path),
                Some((sub, file)) => {
                    if within.as_ref().is_none_or(|(open, _)| *open != sub) {
                        let made = disk
                            .make_directory(&directory, sub)
                            .and_then(|()| open_directory(&directory, sub))
                            .map_err(self.io("make", &[PRIVATE, name, sub]))?;
                        if let Some((_, done)) = within.replace((sub, made)) {
                            self.finish(&done, name)?;
                        }
                    }
                    let (_, open) = within.as_ref().expect("it was opened above");
                    (open, file)
                }
            };
            let written = match content {
                Content::Link(target) => disk.link(target, at, file),
                Content::Public(bytes) => {
                    disk.write(at, file, bytes, self.access(self.modes.public))
                }
                Content::Secret(bytes) => {
                    disk.write(at, file, bytes, self.access(self.modes.secret))
                }
            };
            written.map_err(self.io("write", &[PRIVATE, name, path]))?;
        }
        if let Some((_, done)) = within {
            self.finish(&done, name)?;
        }
        self.finish(&directory, name)?;
        disk.sync(inner).map_err(self.io("sync", &[PRIVATE]))
    }

    /// A directory is complete.
    fn finish(&self, directory: &OwnedFd, name: &str) -> Result<(), DeliveryError> {
        self.disk
            .settle(directory, self.directories())
            .and_then(|()| self.disk.sync(directory))
            .map_err(self.io("write", &[PRIVATE, name]))
    }

    /// Makes the flat names that are missing. They lead nowhere until the switch.
    fn link(&self, files: &FileSet) -> Result<(), DeliveryError> {
        for name in files.top_level() {
            if self.flat(name)? == Found::Nothing {
                self.disk
                    .link(&flat_target(name), &self.opened().outer, name)
                    .map_err(self.io("link", &[name]))?;
            }
        }
        Ok(())
    }

    fn switch(&self, name: &str) -> Result<(), DeliveryError> {
        let (disk, open) = (&*self.disk, self.opened());
        let switch = || {
            remove_if_there(disk, &open.inner, NEW)?;
            disk.link(&format!("{PRIVATE}/{name}"), &open.inner, NEW)?;
            disk.rename((&open.inner, NEW), (&open.outer, CURRENT))?;
            disk.sync(&open.outer)
        };
        switch().map_err(self.io("switch", &[CURRENT]))
    }

    /// Removes flat names that lead nowhere any more and all revisions but the current one and the one before.
    fn tidy(&self, files: &FileSet, current: u64) -> Result<(), DeliveryError> {
        let outer = &self.opened().outer;
        for name in list(outer).map_err(self.io("list", &[]))? {
            let is_ours =
                matches!(look(outer, &name), Ok(Found::Link(to)) if to == flat_target(&name));
            if is_ours && !files.top_level().any(|kept| kept == name) {
                self.disk
                    .remove_file(outer, &name)
                    .map_err(self.io("remove", &[&name]))?;
            }
        }
        let before = self.numbers()?.into_iter().filter(|n| *n < current).max();
        let kept = before.filter(|before| !self.was_withdrawn(*before, files));
        self.remove_revisions(|number| number != current && Some(number) != kept)
    }

    /// Whether a revision holds a secret that is not in `files` under its name.
    fn was_withdrawn(&self, revision: u64, files: &FileSet) -> bool {
        let inner = &self.opened().inner;
        let names = open_directory(inner, &revision.to_string()).and_then(|open| list(&open));
        names.is_ok_and(|names| {
            let mut secrets = names.iter().filter(|name| is_secret(name));
            secrets.any(|name| !files.names().any(|kept| kept == name))
        })
    }

    fn remove_revisions(&self, which: impl Fn(u64) -> bool) -> Result<(), DeliveryError> {
        for number in self.numbers()? {
            if which(number) {
                let name = number.to_string();
                self.remove_revision(&name)
                    .map_err(self.io("remove", &[PRIVATE, &name]))?;
            }
        }
        Ok(())
    }

    fn remove_revision(&self, name: &str) -> io::Result<()> {
        let (disk, inner) = (&*self.disk, &self.opened().inner);
        remove_contents(disk, inner, name, 1)?;
        disk.remove_directory(inner, name)
    }

    /// Directories stay this process's own: their owner could put other files in.
    fn directories(&self) -> Access {
        Access {
            mode: self.modes.directory & !WRITE_BY_OTHERS,
            uid: Some(rustix::process::geteuid().as_raw()),
            gid: self.gid,
        }
    }

    fn access(&self, mode: u32) -> Access {
        Access {
            mode,
            uid: self.uid,
            gid: self.gid,
        }
    }

    fn in_the_way(&self, name: &str) -> DeliveryError {
        DeliveryError::InTheWay {
            path: self.path.join(name),
        }
    }

    /// What turns an error of the system's into ours.
    fn io<'a>(
        &'a self,
        doing: &'static str,
        below: &'a [&'a str],
    ) -> impl Fn(io::Error) -> DeliveryError + Copy + 'a {
        move |error| {
            let path = below
                .iter()
                .fold(self.path.clone(), |path, name| path.join(name));
            DeliveryError::io(doing, &path, &error)
        }
    }
}

/// Removes what is in a directory, and in directories `deeper` levels below.
fn remove_contents(disk: &dyn Disk, at: &OwnedFd, name: &str, deeper: usize) -> io::Result<()> {
    let directory = open_directory(at, name)?;
    for entry in list(&directory)? {
        let found = rustix::fs::statat(&directory, &entry, AtFlags::SYMLINK_NOFOLLOW)?;
        if FileType::from_raw_mode(found.st_mode) != FileType::Directory || deeper == 0 {
            disk.remove_file(&directory, &entry)?;
        } else {
            remove_contents(disk, &directory, &entry, deeper - 1)?;
            disk.remove_directory(&directory, &entry)?;
        }
    }
    Ok(())
}

/// Who has the lock, by the number in its file.
fn holder(lock: OwnedFd) -> String {
    let text = read_bounded(File::from(lock)).unwrap_or_default();
    match std::str::from_utf8(&text).map(|text| text.trim().parse::<u32>()) {
        Ok(Ok(number)) => format!("process {number}"),
        // It may be about to write its number.
        _ => "another process".into(),
    }
}

fn remove_if_there(disk: &dyn Disk, at: &OwnedFd, name: &str) -> io::Result<()> {
    match look(at, name)? {
        Found::Nothing => Ok(()),
        _ => disk.remove_file(at, name),
    }
}

/// A small file's contents; `None` where there is none.
fn read_file(at: &OwnedFd, name: &str) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(at, name, flags, Mode::empty()) {
        Err(rustix::io::Errno::NOENT) => Ok(None),
        opened => read_bounded(File::from(opened?)).map(Some),
    }
}

fn same_file(one: &Stat, other: &Stat) -> bool {
    (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)
}

/// Where a flat name leads.
fn flat_target(name: &str) -> String {
    format!("{CURRENT}/{name}")
}

/// The number that a revision's directory is named by.
fn number(name: &str) -> Option<u64> {
    let number: u64 = name.parse().ok()?;
    (number.to_string() == name).then_some(number)
}

/// Permission of group and others to write.
const WRITE_BY_OTHERS: u32 = 0o022;

/// The file that is locked while somebody delivers.
const LOCK: &str = "lock";

/// The file with the number of the revision that somebody was told of last.
const TOLD: &str = "told";

/// What is about to be renamed.
const NEW: &str = "new";

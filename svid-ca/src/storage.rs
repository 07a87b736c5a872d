//! Files that must survive being killed: a directory behind a trait of single steps, so that tests can let any step
//! fail.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// One directory's files, by name.
pub trait Storage: fmt::Debug + Send + Sync + 'static {
    /// Where a file lies, for messages.
    fn path(&self, name: &str) -> PathBuf;

    /// A file's contents, at most `limit` bytes, and its permission bits; `None` when there is no such file.
    ///
    /// # Errors
    ///
    /// What the system says, or that the file is larger.
    fn read(&self, name: &str, limit: usize) -> io::Result<Option<Stored>>;

    /// Writes a file anew, for its owner alone; it need not survive a crash before [`Self::sync`].
    ///
    /// # Errors
    ///
    /// What the system says.
    fn write(&self, name: &str, contents: &[u8]) -> io::Result<()>;

    /// Makes a file's contents survive a crash.
    ///
    /// # Errors
    ///
    /// What the system says.
    fn sync(&self, name: &str) -> io::Result<()>;

    /// Puts a file in the place of another, for every reader at once.
    ///
    /// # Errors
    ///
    /// What the system says.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Makes renames survive a crash.
    ///
    /// # Errors
    ///
    /// What the system says.
    fn sync_directory(&self) -> io::Result<()>;

    /// Writes at a file's end, making it for its owner alone where there is none. What a failure leaves there, is cut
    /// off with [`Self::truncate`].
    ///
    /// # Errors
    ///
    /// What the system says.
    fn append(&self, name: &str, contents: &[u8]) -> io::Result<()>;

    /// A file's length in bytes; `None` when there is no such file.
    ///
    /// # Errors
    ///
    /// What the system says.
    fn length(&self, name: &str) -> io::Result<Option<u64>>;

    /// At most `limit` bytes of a file from `offset` on; fewer only at its end, none when there is no such file.
    ///
    /// # Errors
    ///
    /// What the system says.
    fn read_at(&self, name: &str, offset: u64, limit: usize) -> io::Result<Vec<u8>>;

    /// Cuts a file to this length.
    ///
    /// # Errors
    ///
    /// What the system says.
    fn truncate(&self, name: &str, length: u64) -> io::Result<()>;

    /// Deletes a file.
    ///
    /// # Errors
    ///
    /// What the system says.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// The names of all files, in no order.
    ///
    /// # Errors
    ///
    /// What the system says.
    fn list(&self) -> io::Result<Vec<String>>;
}

/// A file as it was read.
#[derive(Clone)]
#[expect(
    clippy::exhaustive_structs,
    reason = "storages outside this crate build it, and it is all there is to know"
)]
pub struct Stored {
    /// Its bytes, which may be secret.
    pub contents: Vec<u8>,
    /// Its permission bits.
    pub mode: u32,
}

impl fmt::Debug for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stored")
            .field("bytes", &self.contents.len())
            .field("mode", &self.mode)
            .finish_non_exhaustive()
    }
}

/// What the system said and what to do about it, in one line.
pub fn told(error: &io::Error) -> String {
    let remedy = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "make room there",
        io::ErrorKind::ReadOnlyFilesystem => "make it writable, or choose another directory",
        io::ErrorKind::PermissionDenied => {
            "run as its owner, or give this user the directory with: chown -R"
        }
        io::ErrorKind::FileTooLarge => "move it away if it is not of this program's making",
        _ => "see to the disk",
    };
    format!("{error}; {remedy}")
}

/// Replaces a file so that a crash at any moment leaves the old contents or the new: write a temporary file in the
/// same directory, sync it, rename it, sync the directory. A failure takes the temporary file away again.
///
/// # Errors
///
/// What the first step that fails says. The old contents are then still there, unless only the last step failed: then
/// the new ones are, and may be lost in a crash.
pub fn replace(storage: &dyn Storage, name: &str, contents: &[u8]) -> io::Result<()> {
    let temporary = format!(".{name}.new");
    let placed = storage
        .write(&temporary, contents)
        .and_then(|()| storage.sync(&temporary))
        .and_then(|()| storage.rename(&temporary, name));
    if let Err(error) = placed {
        // Half a file serves nobody, and takes room on a disk that may be full. What went wrong first is what counts.
        let _ = storage.remove(&temporary);
        return Err(error);
    }
    storage.sync_directory()
}

/// A directory of the file system.
#[derive(Clone, Debug)]
pub struct Directory {
    path: PathBuf,
}

impl Directory {
    /// The directory at `path`, which must exist.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Its path.
    pub fn as_path(&self) -> &Path {
        &self.path
    }
}

impl Storage for Directory {
    fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    fn read(&self, name: &str, limit: usize) -> io::Result<Option<Stored>> {
        let file = match File::open(self.path(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        let mode = file.metadata()?.permissions().mode() & 0o7777;
        let mut contents = Vec::new();
        file.take(limit as u64 + 1).read_to_end(&mut contents)?;
        if contents.len() > limit {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                format!("it has more than {limit} bytes"),
            ));
        }
        Ok(Some(Stored { contents, mode }))
    }

    fn write(&self, name: &str, contents: &[u8]) -> io::Result<()> {
        let path = self.path(name);
        // Left by a crash; creating anew keeps its mode and links out of it.
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?
            .write_all(contents)
    }

    fn sync(&self, name: &str) -> io::Result<()> {
        File::open(self.path(name))?.sync_all()
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path(from), self.path(to))
    }

    fn sync_directory(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }

    fn append(&self, name: &str, contents: &[u8]) -> io::Result<()> {
        OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(self.path(name))?
            .write_all(contents)
    }

    fn length(&self, name: &str) -> io::Result<Option<u64>> {
        match fs::metadata(self.path(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            found => Ok(Some(found?.len())),
        }
    }

    fn read_at(&self, name: &str, offset: u64, limit: usize) -> io::Result<Vec<u8>> {
        let mut file = match File::open(self.path(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            opened => opened?,
        };
        file.seek(SeekFrom::Start(offset))?;
        let mut contents = Vec::new();
        file.take(limit as u64).read_to_end(&mut contents)?;
        Ok(contents)
    }

    fn truncate(&self, name: &str, length: u64) -> io::Result<()> {
        let file = OpenOptions::new().write(true).open(self.path(name))?;
        file.set_len(length)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path(name))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let names = fs::read_dir(&self.path)?
            .map(|entry| Ok(entry?.file_name().into_string().ok()))
            .collect::<io::Result<Vec<_>>>()?;
        Ok(names.into_iter().flatten().collect())
    }
}

/// A directory that is read, and written in memory alone: for a rehearsal that changes nothing.
#[derive(Debug)]
pub struct Rehearsal {
    directory: Directory,
    /// What was written; `None` for what was removed.
    changed: Mutex<BTreeMap<String, Option<Stored>>>,
}

impl Rehearsal {
    /// A rehearsal over this directory.
    pub fn new(directory: Directory) -> Self {
        Self {
            directory,
            changed: Mutex::default(),
        }
    }

    fn changed(&self) -> MutexGuard<'_, BTreeMap<String, Option<Stored>>> {
        // Every change is one call, so a panic elsewhere leaves the map whole.
        self.changed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn whole(&self, name: &str) -> io::Result<Option<Stored>> {
        match self.changed().get(name) {
            Some(changed) => Ok(changed.clone()),
            None => self.directory.read(name, usize::MAX >> 1),
        }
    }

    fn put(&self, name: &str, contents: Option<Vec<u8>>) {
        let stored = contents.map(|contents| Stored {
            contents,
            mode: 0o600,
        });
        self.changed().insert(name.into(), stored);
    }
}

impl Storage for Rehearsal {
    fn path(&self, name: &str) -> PathBuf {
        self.directory.path(name)
    }

    fn read(&self, name: &str, limit: usize) -> io::Result<Option<Stored>> {
        if self.changed().contains_key(name) {
            return self.whole(name);
        }
        self.directory.read(name, limit)
    }

    fn write(&self, name: &str, contents: &[u8]) -> io::Result<()> {
        self.put(name, Some(contents.to_vec()));
        Ok(())
    }

    fn sync(&self, _: &str) -> io::Result<()> {
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let moved = self.whole(from)?.ok_or(io::ErrorKind::NotFound)?;
        self.put(to, Some(moved.contents));
        self.put(from, None);
        Ok(())
    }

    fn sync_directory(&self) -> io::Result<()> {
        Ok(())
    }

    fn append(&self, name: &str, contents: &[u8]) -> io::Result<()> {
        let mut whole = self
            .whole(name)?
            .map_or_else(Vec::new, |file| file.contents);
        whole.extend_from_slice(contents);
        self.put(name, Some(whole));
        Ok(())
    }

    fn length(&self, name: &str) -> io::Result<Option<u64>> {
        Ok(self.whole(name)?.map(|file| file.contents.len() as u64))
    }

    fn read_at(&self, name: &str, offset: u64, limit: usize) -> io::Result<Vec<u8>> {
        let contents = self
            .whole(name)?
            .map_or_else(Vec::new, |file| file.contents);
        let start = contents.len().min(offset as usize);
        let end = contents.len().min(start.saturating_add(limit));
        Ok(contents[start..end].to_vec())
    }

    fn truncate(&self, name: &str, length: u64) -> io::Result<()> {
        let mut whole = self.whole(name)?.ok_or(io::ErrorKind::NotFound)?;
        whole.contents.truncate(length as usize);
        self.put(name, Some(whole.contents));
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.put(name, None);
        Ok(())
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = self.directory.list()?;
        for (name, stored) in &*self.changed() {
            names.retain(|known| known != name);
            if stored.is_some() {
                names.push(name.clone());
            }
        }
        Ok(names)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Notes the steps and fails at one of them.
    #[derive(Debug, Default)]
    struct Recording {
        steps: Mutex<Vec<String>>,
        asked: AtomicUsize,
        fail_at: Option<usize>,
    }

    impl Recording {
        fn step(&self, step: String) -> io::Result<()> {
            let mut steps = self.steps.lock().unwrap();
            if self.fail_at == Some(self.asked.fetch_add(1, Ordering::Relaxed)) {
                return Err(io::Error::from(io::ErrorKind::StorageFull));
            }
            steps.push(step);
            Ok(())
        }
    }

    impl Storage for Recording {
        fn path(&self, name: &str) -> PathBuf {
            name.into()
        }

        fn read(&self, _: &str, _: usize) -> io::Result<Option<Stored>> {
            Ok(None)
        }

        fn write(&self, name: &str, _: &[u8]) -> io::Result<()> {
            self.step(format!("write {name}"))
        }

        fn sync(&self, name: &str) -> io::Result<()> {
            self.step(format!("sync {name}"))
        }

        fn rename(&self, from: &str, to: &str) -> io::Result<()> {
            self.step(format!("rename {from} {to}"))
        }

        fn sync_directory(&self) -> io::Result<()> {
            self.step("sync directory".into())
        }

        fn append(&self, name: &str, _: &[u8]) -> io::Result<()> {
            self.step(format!("append {name}"))
        }

        fn length(&self, _: &str) -> io::Result<Option<u64>> {
            Ok(None)
        }

        fn read_at(&self, _: &str, _: u64, _: usize) -> io::Result<Vec<u8>> {
            Ok(Vec::new())
        }

        fn truncate(&self, name: &str, _: u64) -> io::Result<()> {
            self.step(format!("truncate {name}"))
        }

        fn remove(&self, name: &str) -> io::Result<()> {
            self.step(format!("remove {name}"))
        }

        fn list(&self) -> io::Result<Vec<String>> {
            Ok(Vec::new())
        }
    }

    const STEPS: [&str; 4] = [
        "write .keys.json.new",
        "sync .keys.json.new",
        "rename .keys.json.new keys.json",
        "sync directory",
    ];

    #[test]
    fn a_file_is_synced_before_it_takes_the_place_and_the_directory_after() {
        let storage = Recording::default();
        replace(&storage, "keys.json", b"{}").unwrap();
        assert_eq!(*storage.steps.lock().unwrap(), STEPS);
    }

    #[test]
    fn after_a_step_that_failed_only_the_temporary_file_is_taken_away() {
        for step in 0..STEPS.len() {
            let storage = Recording {
                fail_at: Some(step),
                ..Recording::default()
            };
            let error = replace(&storage, "keys.json", b"{}").unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::StorageFull);
            let mut expected = STEPS[..step].to_vec();
            if step < 3 {
                expected.push("remove .keys.json.new");
            }
            assert_eq!(*storage.steps.lock().unwrap(), expected);
        }
    }

    #[test]
    fn files_are_their_owners_alone_and_bounded() {
        let directory = tempfile::tempdir().unwrap();
        let storage = Directory::new(directory.path());
        assert!(storage.read("a", 9).unwrap().is_none());
        replace(&storage, "a", b"one").unwrap();
        replace(&storage, "a", b"two").unwrap();
        let read = storage.read("a", 3).unwrap().unwrap();
        assert_eq!((&read.contents[..], read.mode), (&b"two"[..], 0o600));
        assert_eq!(
            storage.read("a", 2).unwrap_err().kind(),
            io::ErrorKind::FileTooLarge
        );
        // A temporary file that a crash left behind is in nobody's way.
        storage.write(".a.new", b"half").unwrap();
        replace(&storage, "a", b"three").unwrap();
        assert_eq!(storage.read("a", 9).unwrap().unwrap().contents, b"three");
    }
}

//! A source's last good state on disk, sealed, so that a restart while the endpoint is away comes up with what is still
//! valid.
//!
//! What is kept is the message itself, a file for each stream; at a start it is read and judged as if it had just come, so
//! nothing that has expired is served. Tokens are not kept: half of one's few minutes has passed when it is renewed, and
//! every renewal would be a write of them all. The file is sealed under a [`SealKey`] and bound to the machine, the user and its own path: a copy
//! elsewhere, another user's, or one that was altered does not open. This guards against files that travel by accident (a
//! backup, an image, a shared volume); it does not guard against root or the same user, who can read the key as the
//! program does.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use spiffe_core::Random;
use spiffe_core::crypto::{CryptoProvider, SEAL_KEY_BYTES, SEAL_NONCE_BYTES};
use zeroize::Zeroizing;

use crate::client::DEFAULT_MAX_MESSAGE_BYTES;

/// The key that a last good state is sealed with, wiped on drop and never printed.
#[derive(Clone)]
pub struct SealKey {
    key: Arc<Zeroizing<[u8; SEAL_KEY_BYTES]>>,
}

impl SealKey {
    /// A key that is kept elsewhere, such as in a keyring or an HSM's wrapped blob.
    pub fn from_secret_bytes(key: [u8; SEAL_KEY_BYTES]) -> Self {
        Self {
            key: Arc::new(Zeroizing::new(key)),
        }
    }

    /// The key in a file, which is made with a random key and mode 0600 where there is none.
    ///
    /// # Errors
    ///
    /// [`SealError`]: the file cannot be read or made, others may read it, or it holds no key.
    pub fn in_file(path: impl AsRef<Path>, random: &dyn Random) -> Result<Self, SealError> {
        let path = path.as_ref();
        match File::open(path) {
            Ok(file) => Self::read(path, file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let mut key = Zeroizing::new([0; SEAL_KEY_BYTES]);
                random
                    .fill(&mut *key)
                    .map_err(|error| SealError::new(path, &error))?;
                write_new(path, &*key).map_err(|error| SealError::new(path, &error))?;
                Ok(Self { key: Arc::new(key) })
            }
            Err(error) => Err(SealError::new(path, &error)),
        }
    }

    fn read(path: &Path, mut file: File) -> Result<Self, SealError> {
        let mode = file
            .metadata()
            .map_err(|error| SealError::new(path, &error))?;
        if mode.mode() & 0o077 != 0 {
            let reason = "others may read it; remove it, and a new key is made";
            return Err(SealError::new(path, &reason));
        }
        let mut key = Zeroizing::new([0; SEAL_KEY_BYTES]);
        file.read_exact(&mut *key)
            .map_err(|error| SealError::new(path, &error))?;
        Ok(Self { key: Arc::new(key) })
    }
}

impl fmt::Debug for SealKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealKey([secret key elided])")
    }
}

/// A file that cannot be used for a last good state or its key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {reason}", path = path.display())]
#[non_exhaustive]
pub struct SealError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub reason: String,
}

impl SealError {
    fn new(path: &Path, reason: &dyn fmt::Display) -> Self {
        Self {
            path: path.into(),
            reason: reason.to_string(),
        }
    }
}

/// Where a source keeps its last good state, and under which key. Off unless a source is given one.
///
/// PERMISSION_DENIED erases the file before anything else is done about it, and before any grace: a restart within the
/// grace holds nothing.
#[derive(Clone, Debug)]
pub struct LastGood {
    path: PathBuf,
    key: SealKey,
    crypto: Option<Arc<dyn CryptoProvider>>,
    random: Arc<dyn Random>,
    stream: Option<&'static str>,
    machine: String,
}

impl LastGood {
    /// A state in the file `path`, which is made with mode 0600 and replaced as a whole; its directory must exist, and two
    /// sources must not share a file. `random` must be cryptographic, as
    /// [`system_random`](spiffe_core::crypto::system_random) is.
    pub fn new(path: impl Into<PathBuf>, key: SealKey, random: Arc<dyn Random>) -> Self {
        Self {
            path: path.into(),
            key,
            crypto: None,
            random,
            stream: None,
            machine: fs::read_to_string(MACHINE_ID).unwrap_or_default(),
        }
    }

    /// As [`Self::new`], with the default cryptography's randomness and the key in `key_file`, which should lie in a
    /// directory that is not copied along with the state's.
    ///
    /// # Errors
    ///
    /// As [`SealKey::in_file`].
    #[cfg(feature = "aws-lc-rs")]
    pub fn in_files(
        path: impl Into<PathBuf>,
        key_file: impl AsRef<Path>,
    ) -> Result<Self, SealError> {
        let random = spiffe_core::crypto::system_random();
        let key = SealKey::in_file(key_file, &*random)?;
        Ok(Self::new(path, key, random))
    }

    /// For one stream, with the client's cryptography.
    pub(super) fn bound(mut self, stream: &'static str, crypto: Arc<dyn CryptoProvider>) -> Self {
        self.stream = Some(stream);
        self.crypto = Some(crypto);
        self
    }

    /// The message that was kept; `None` where there is none.
    pub(super) fn load(&self) -> Result<Option<Zeroizing<Vec<u8>>>, SealError> {
        let failed = |reason: &dyn fmt::Display| SealError::new(&self.path, reason);
        let file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(&error)),
        };
        let owner = file.metadata().map_err(|error| failed(&error))?.uid();
        let mut sealed = Vec::new();
        let limit = DEFAULT_MAX_MESSAGE_BYTES as u64 + 1024;
        file.take(limit)
            .read_to_end(&mut sealed)
            .map_err(|error| failed(&error))?;
        let nonce = sealed.split_off(sealed.len().saturating_sub(SEAL_NONCE_BYTES));
        let nonce: [u8; SEAL_NONCE_BYTES] = nonce.try_into().map_err(|_| failed(&REFUSED))?;
        let mut message = Zeroizing::new(sealed);
        self.crypto()
            .and_then(|crypto| {
                let bound = self.bound_to(owner);
                crypto
                    .open(&self.key.key, &nonce, &bound, &mut message)
                    .map_err(|_| failed(&REFUSED))
            })
            .map(|()| Some(message))
    }

    /// Keeps a message in place of the last one.
    pub(super) fn store(&self, message: &[u8]) -> Result<(), SealError> {
        let failed = |reason: &dyn fmt::Display| SealError::new(&self.path, reason);
        let next = self.next();
        let _ = fs::remove_file(&next);
        let mut file = create(&next).map_err(|error| SealError::new(&next, &error))?;
        let owner = file.metadata().map_err(|error| failed(&error))?.uid();
        let mut nonce = [0; SEAL_NONCE_BYTES];
        self.random
            .fill(&mut nonce)
            .map_err(|error| failed(&error))?;
        let mut sealed = Zeroizing::new(Vec::with_capacity(message.len() + 64));
        sealed.extend_from_slice(message);
        self.crypto()?
            .seal(&self.key.key, &nonce, &self.bound_to(owner), &mut sealed)
            .map_err(|error| failed(&error))?;
        sealed.extend_from_slice(&nonce);
        let written = file
            .write_all(&sealed)
            .and_then(|()| file.sync_all())
            .and_then(|()| fs::rename(&next, &self.path))
            .and_then(|()| self.sync_directory());
        written.map_err(|error| {
            let _ = fs::remove_file(&next);
            failed(&error)
        })
    }

    /// Leaves nothing to come back to.
    pub(super) fn erase(&self) -> Result<(), SealError> {
        // What a process that was killed had not finished goes too.
        let unfinished = self.remove(&self.next());
        self.remove(&self.path).and(unfinished)
    }

    /// Removes a file, or empties it where its directory does not let it go.
    fn remove(&self, path: &Path) -> Result<(), SealError> {
        let removed = match fs::remove_file(path) {
            Ok(()) => self.sync_directory(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            // Where it cannot be emptied either, the first error says what to mend.
            Err(error) => empty(path).map_err(|_| error),
        };
        removed.map_err(|error| SealError::new(path, &error))
    }

    /// What the seal holds to: machine, user, path and stream. A file that came from elsewhere differs in one of them.
    fn bound_to(&self, owner: u32) -> Vec<u8> {
        let path = std::path::absolute(&self.path).unwrap_or_else(|_| self.path.clone());
        let stream = self.stream.unwrap_or_default();
        format!(
            "{FORMAT}\n{}\n{owner}\n{stream}\n{}",
            self.machine.trim(),
            path.display()
        )
        .into_bytes()
    }

    fn crypto(&self) -> Result<&Arc<dyn CryptoProvider>, SealError> {
        let missing = || SealError::new(&self.path, &"it belongs to no source");
        self.crypto.as_ref().ok_or_else(missing)
    }

    /// For one stream of several: the path with `.` and `name` behind it.
    pub(super) fn part(&self, name: &str) -> Self {
        Self {
            path: self.beside(name),
            ..self.clone()
        }
    }

    fn next(&self) -> PathBuf {
        self.beside("new")
    }

    fn beside(&self, ending: &str) -> PathBuf {
        let mut name = self.path.file_name().unwrap_or_default().to_owned();
        name.push(".");
        name.push(ending);
        self.path.with_file_name(name)
    }

    fn sync_directory(&self) -> io::Result<()> {
        let directory = self.path.parent().filter(|it| !it.as_os_str().is_empty());
        File::open(directory.unwrap_or_else(|| Path::new(".")))?.sync_all()
    }
}

/// Why nothing is said about what does not open: which part is wrong cannot be told.
const REFUSED: &str =
    "it was altered, copied from elsewhere, or sealed under another key; remove it";

/// What the seal begins with; another meaning gets another one.
const FORMAT: &str = "spiffe last good state 1";

/// Where Linux keeps what tells one machine from another; empty where there is none.
const MACHINE_ID: &str = "/etc/machine-id";

/// A file that did not exist, for its owner only.
fn create(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    options.open(path)
}

fn empty(path: &Path) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(path)?;
    file.set_len(0)?;
    file.sync_all()
}

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(all(test, feature = "aws-lc-rs"))]
#[expect(
    clippy::unwrap_used,
    reason = "clippy exempts test functions, not what they call"
)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use spiffe_core::crypto::{aws_lc_rs, system_random};

    use super::*;

    struct Place {
        directory: tempfile::TempDir,
    }

    impl Place {
        fn new() -> Self {
            Self {
                directory: tempfile::tempdir().unwrap(),
            }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.directory.path().join(name)
        }

        fn last_good(&self, name: &str, stream: &'static str) -> LastGood {
            let last_good = LastGood::in_files(self.path(name), self.path("key")).unwrap();
            last_good.bound(stream, aws_lc_rs())
        }
    }

    #[test]
    fn what_was_kept_comes_back_and_can_be_erased() {
        let place = Place::new();
        assert!(place.last_good("a", "x509").load().unwrap().is_none());
        place.last_good("a", "x509").store(b"first").unwrap();
        place.last_good("a", "x509").store(b"second").unwrap();
        let kept = place.last_good("a", "x509").load().unwrap().unwrap();
        assert_eq!(kept.as_slice(), b"second");
        for name in ["a", "key"] {
            let mode = fs::metadata(place.path(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        let sealed = fs::read(place.path("a")).unwrap();
        assert!(!sealed.windows(6).any(|part| part == b"second"));
        place.last_good("a", "x509").erase().unwrap();
        assert!(place.last_good("a", "x509").load().unwrap().is_none());
        place.last_good("a", "x509").erase().unwrap();
    }

    #[test]
    fn what_was_not_finished_is_erased_too() {
        let place = Place::new();
        let last_good = place.last_good("a", "x509");
        last_good.store(b"state").unwrap();
        let unfinished = place.path("a.new");
        fs::copy(place.path("a"), &unfinished).unwrap();
        last_good.erase().unwrap();
        assert!(!unfinished.exists() && !place.path("a").exists());
        fs::write(&unfinished, b"half").unwrap();
        last_good.erase().unwrap();
        assert!(!unfinished.exists());
    }

    /// Nothing is ever removed from `/proc`, from no user's.
    #[cfg(target_os = "linux")]
    #[test]
    fn what_cannot_be_removed_is_emptied() {
        use std::os::fd::AsRawFd;

        let place = Place::new();
        place.last_good("a", "x509").store(b"state").unwrap();
        let file = File::open(place.path("a")).unwrap();
        assert_ne!(file.metadata().unwrap().len(), 0);
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let last_good = LastGood::in_files(path, place.path("key")).unwrap();
        last_good.erase().unwrap();
        assert_eq!(file.metadata().unwrap().len(), 0);
        refused(&place.last_good("a", "x509"));

        // A directory cannot be emptied in that way, and is no success.
        fs::create_dir(place.path("d")).unwrap();
        place.last_good("d", "x509").erase().unwrap_err();
    }

    #[track_caller]
    fn refused(last_good: &LastGood) {
        let error = last_good.load().unwrap_err();
        assert_eq!(error.reason, REFUSED);
    }

    #[test]
    fn a_copy_an_alteration_and_another_key_are_refused() {
        let place = Place::new();
        let last_good = place.last_good("a", "x509");
        last_good.store(b"state").unwrap();
        fs::copy(place.path("a"), place.path("b")).unwrap();
        refused(&place.last_good("b", "x509"));
        refused(&place.last_good("a", "jwt"));
        let other = SealKey::from_secret_bytes([7; SEAL_KEY_BYTES]);
        let other = LastGood::new(place.path("a"), other, system_random());
        refused(&other.bound("x509", aws_lc_rs()));

        let whole = fs::read(place.path("a")).unwrap();
        for at in 0..whole.len() {
            let mut altered = whole.clone();
            altered[at] ^= 1;
            fs::write(place.path("a"), altered).unwrap();
            refused(&last_good);
            fs::write(place.path("a"), &whole[..at]).unwrap();
            refused(&last_good);
        }
        fs::write(place.path("a"), whole).unwrap();
        assert_eq!(last_good.load().unwrap().unwrap().as_slice(), b"state");
    }

    #[test]
    fn a_state_of_another_machine_or_user_is_refused() {
        let place = Place::new();
        let last_good = place.last_good("a", "x509");
        last_good.store(b"state").unwrap();
        let mut elsewhere = last_good.clone();
        elsewhere.machine = "another".into();
        refused(&elsewhere);
        assert_eq!(last_good.load().unwrap().unwrap().as_slice(), b"state");

        // Only root gives files away.
        let own = fs::metadata(place.path("a")).unwrap().uid();
        assert_ne!(last_good.bound_to(own), last_good.bound_to(own + 1));
        if own == 0 {
            std::os::unix::fs::chown(place.path("a"), Some(1), None).unwrap();
            refused(&last_good);
            std::os::unix::fs::chown(place.path("a"), Some(own), None).unwrap();
        }
        assert_eq!(last_good.load().unwrap().unwrap().as_slice(), b"state");
    }

    #[test]
    fn a_key_that_others_may_read_is_refused() {
        let place = Place::new();
        place.last_good("a", "x509");
        let key = place.path("key");
        fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
        let error = LastGood::in_files(place.path("a"), &key).unwrap_err();
        assert!(error.reason.contains("others may read it"), "{error}");
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&key, b"short").unwrap();
        assert!(LastGood::in_files(place.path("a"), &key).is_err());
    }
}

//! The state directory: what survives, what is refused, and that a refusal changes nothing.
#![cfg(feature = "aws-lc-rs")]
#![allow(clippy::unwrap_used, reason = "these are tests")]

mod common;

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::{NOW, builder, crypto, ready, trust_domain, web};
use spiffe_core::TrustDomain;
use spiffe_core::key::{KeyType, PrivateKey};
use spiffe_svid_ca::authority::{Evidence, Kind, Status};
use spiffe_svid_ca::error::{CaError, KeyManagerError, StateError};
use spiffe_svid_ca::keys::{DiskKeys, KeyManager};
use spiffe_svid_ca::storage::{Directory, Storage, Stored};
use spiffe_svid_ca::{MAX_STEP_BACK, StateDir, TrustDomainCa};

/// A place for a state directory that does not exist yet.
struct Place {
    root: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self {
            root: tempfile::tempdir().unwrap(),
        }
    }

    /// A place whose directory holds a trust domain's state.
    fn used() -> Self {
        let place = Self::new();
        place.ca().unwrap();
        place
    }

    fn path(&self) -> PathBuf {
        self.root.path().join("state")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    fn open(&self) -> Result<StateDir, StateError> {
        StateDir::open(self.path(), &trust_domain())
    }

    fn ca(&self) -> Result<TrustDomainCa, CaError> {
        ready(builder().state_dir(self.open()?).build(NOW))
    }

    /// All files but the lock.
    fn contents(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let mut files: Vec<_> = fs::read_dir(self.path())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| !path.ends_with("lock"))
            .map(|path| (path.clone(), fs::read(path).unwrap()))
            .collect();
        files.sort();
        files
    }

    fn edit_journal(&self, edit: impl FnOnce(&mut serde_json::Value)) {
        let path = self.file("journal.json");
        let mut journal = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        edit(&mut journal);
        fs::write(&path, serde_json::to_vec(&journal).unwrap()).unwrap();
    }

    /// Opening fails, says so, and leaves every byte as it was.
    #[track_caller]
    fn refused(&self) -> CaError {
        let before = self.contents();
        let error = self.ca().unwrap_err();
        assert_eq!(self.contents(), before);
        let message = error.to_string();
        assert!(!message.contains('\n'), "{message}");
        error
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn the_directory_and_its_files_are_their_owners_alone() {
    let place = Place::used();
    assert_eq!(mode(&place.path()), 0o700);
    for name in ["lock", "journal.json", "keys.json", "issuance.log"] {
        assert_eq!(mode(&place.file(name)), 0o600, "{name}");
    }
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 4);
}

#[test]
fn a_restart_keeps_the_trust_domain() {
    let place = Place::new();
    let ca = place.ca().unwrap();
    let (bundle, state) = (ca.bundle(), ca.state());
    let svid = ready(ca.issue_x509_svid(&web(), KeyType::EcP256, NOW)).unwrap();
    drop(ca);
    let again = place.ca().unwrap();
    assert!(again.bundle().same_authorities(&bundle));
    assert_eq!(again.bundle().sequence(), bundle.sequence());
    let active = |state: &spiffe_svid_ca::authority::State, kind| {
        state.slots(kind).active().unwrap().id().to_owned()
    };
    for kind in [Kind::Jwt, Kind::X509] {
        assert_eq!(active(&again.state(), kind), active(&state, kind));
    }
    // The same key signs.
    let other = ready(again.issue_x509_svid(&web(), KeyType::EcP256, NOW)).unwrap();
    let authority = bundle.x509_authorities().iter().next().unwrap().clone();
    let anchor = webpki::anchor_from_trusted_cert(authority.certificate()).unwrap();
    for svid in [svid, other] {
        let leaf = webpki::EndEntityCert::try_from(svid.leaf()).unwrap();
        let time = spiffe_core::pki_types::UnixTime::since_unix_epoch(Duration::from_secs(
            NOW.unix_seconds() as u64,
        ));
        leaf.verify_for_usage(
            crypto().signature_algorithms(),
            std::slice::from_ref(&anchor),
            &[],
            time,
            webpki::KeyUsage::client_auth(),
            None,
            None,
        )
        .unwrap();
    }
}

#[test]
fn a_restart_in_the_middle_of_a_rollover_goes_on() {
    let place = Place::new();
    let ca = place.ca().unwrap();
    ready(ca.prepare(Kind::X509, NOW)).unwrap();
    let prepared = ca
        .state()
        .slots(Kind::X509)
        .prepared()
        .unwrap()
        .id()
        .to_owned();
    drop(ca);
    let ca = place.ca().unwrap();
    ready(ca.activate(Kind::X509, &Evidence::complete([]), false, NOW)).unwrap();
    assert_eq!(
        ca.state().slots(Kind::X509).active().unwrap().id(),
        prepared
    );
    assert!(ready(ca.issue_x509_svid(&web(), KeyType::EcP256, NOW)).is_ok());
    drop(ca);
    // The old one stays in the bundle to its end, since nobody knows any more what it signed before the restart.
    let ca = place.ca().unwrap();
    let state = ca.state();
    let old = state.slots(Kind::X509).iter().next().unwrap();
    assert_eq!(old.status(), Status::Old);
    assert_eq!(old.signed_until(), old.not_after());
    assert_eq!(ca.bundle().x509_authorities().len(), 2);
}

#[test]
fn a_second_opener_is_told_who_has_it() {
    let place = Place::new();
    let first = place.ca().unwrap();
    let error = place.open().unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "the state directory {} is in use by process {}; stop that process or choose another directory",
            place.path().display(),
            std::process::id()
        )
    );
    drop(first);
    assert!(place.open().is_ok());
}

#[test]
fn a_directory_of_another_trust_domain_is_refused() {
    let place = Place::used();
    let other = TrustDomain::parse("other.example").unwrap();
    let error = StateDir::open(place.path(), &other).unwrap_err();
    assert!(
        matches!(error, StateError::ForeignTrustDomain { .. }),
        "{error}"
    );
    assert!(place.ca().is_ok());
    // A directory that is handed to the CA of another trust domain as well.
    let build = ready(
        TrustDomainCa::builder(other)
            .state_dir(place.open().unwrap())
            .build(NOW),
    );
    assert!(matches!(
        build.unwrap_err(),
        CaError::State(StateError::ForeignTrustDomain { .. })
    ));
}

#[test]
fn an_unknown_format_is_refused() {
    let place = Place::used();
    place.edit_journal(|journal| {
        journal["format"] = 2.into();
        journal["something"] = "new".into();
    });
    assert!(matches!(
        place.refused(),
        CaError::State(StateError::UnknownFormat { known: 1, .. })
    ));
    place.edit_journal(|journal| journal["format"] = "1".into());
    assert!(matches!(
        place.refused(),
        CaError::State(StateError::UnknownFormat { .. })
    ));
}

#[test]
fn a_damaged_journal_is_refused_wherever_it_is_cut() {
    let place = Place::used();
    let whole = fs::read(place.file("journal.json")).unwrap();
    for length in (0..whole.len()).step_by(37) {
        fs::write(place.file("journal.json"), &whole[..length]).unwrap();
        let error = place.refused();
        assert!(
            matches!(error, CaError::State(StateError::Damaged { .. })),
            "{error}"
        );
    }
    fs::write(place.file("journal.json"), &whole).unwrap();
    assert!(place.ca().is_ok());
}

#[test]
fn a_journal_that_says_what_cannot_be_is_refused() {
    type Edit = fn(&mut serde_json::Value);
    let edits: [(&str, Edit); 14] = [
        ("no format", |journal| {
            journal.as_object_mut().unwrap().remove("format");
        }),
        ("a member too many", |journal| journal["extra"] = 1.into()),
        ("a list missing", |journal| {
            journal.as_object_mut().unwrap().remove("jwt");
        }),
        ("two active", |journal| {
            let mut second = journal["jwt"][0].clone();
            second["id"] = "other".into();
            second["slot"] = "B".into();
            journal["jwt"].as_array_mut().unwrap().push(second);
        }),
        ("the same twice", |journal| {
            let second = journal["x509"][0].clone();
            journal["x509"].as_array_mut().unwrap().push(second);
        }),
        ("one slot for two", |journal| {
            let mut second = journal["jwt"][0].clone();
            second["id"] = "other".into();
            second["status"] = "old".into();
            journal["jwt"].as_array_mut().unwrap().push(second);
        }),
        ("active without a slot", |journal| {
            journal["jwt"][0].as_object_mut().unwrap().remove("slot");
        }),
        ("newer than the bundle", |journal| {
            journal["sequence"] = 0.into()
        }),
        ("another status", |journal| {
            journal["jwt"][0]["status"] = "new".into()
        }),
        ("another id", |journal| {
            journal["x509"][0]["id"] = "00".into()
        }),
        ("another end", |journal| {
            journal["x509"][0]["not_after"] = "2030-01-01T00:00:00Z".into();
        }),
        ("no time", |journal| {
            journal["jwt"][0]["signed_until"] = "soon".into()
        }),
        ("no base64", |journal| {
            journal["x509"][0]["certificate"] = "?".into()
        }),
        ("a key for a certificate", |journal| {
            let key = journal["jwt"][0]["public_key"].clone();
            let authority = journal["x509"][0].as_object_mut().unwrap();
            authority.remove("certificate");
            authority.insert("public_key".into(), key);
        }),
    ];
    for (what, edit) in edits {
        let place = Place::used();
        place.edit_journal(edit);
        let error = place.refused();
        assert!(
            matches!(error, CaError::State(StateError::Damaged { .. })),
            "{what}: {error}"
        );
    }
    // An edit that changes nothing is none.
    let place = Place::used();
    place.edit_journal(|_| ());
    assert!(place.ca().is_ok());
}

#[test]
fn keys_without_a_journal_are_refused() {
    let place = Place::used();
    fs::remove_file(place.file("journal.json")).unwrap();
    assert!(matches!(
        place.refused(),
        CaError::State(StateError::JournalMissing { .. })
    ));
}

#[test]
fn a_journal_without_its_keys_is_refused() {
    let place = Place::used();
    let keys = fs::read(place.file("keys.json")).unwrap();
    fs::remove_file(place.file("keys.json")).unwrap();
    let error = place.refused();
    assert!(
        matches!(
            error,
            CaError::State(StateError::KeyLost {
                key: "x509-CA-A",
                what: "missing",
                ..
            })
        ),
        "{error}"
    );
    fs::write(place.file("keys.json"), &keys).unwrap();
    fs::set_permissions(place.file("keys.json"), fs::Permissions::from_mode(0o600)).unwrap();
    assert!(place.ca().is_ok());
}

#[test]
fn keys_of_another_directory_are_refused() {
    let (place, other) = (Place::used(), Place::used());
    fs::copy(other.file("keys.json"), place.file("keys.json")).unwrap();
    let error = place.refused();
    assert!(
        matches!(
            error,
            CaError::State(StateError::KeyLost {
                what: "another one",
                ..
            })
        ),
        "{error}"
    );
}

#[test]
fn a_damaged_key_file_is_refused_and_its_secrets_are_not_told() {
    let place = Place::used();
    let whole = fs::read_to_string(place.file("keys.json")).unwrap();
    let secret = whole.split('"').nth(5).unwrap().to_owned();
    assert!(secret.len() > 100);
    let damaged = [
        whole[..whole.len() / 2].to_owned(),
        String::new(),
        "{}".into(),
        format!(r#"{{"keys": "{secret}"}}"#),
        format!(r#"{{"keys": {{"x509-CA-A": ["{secret}"]}}}}"#),
        whole.replace(&secret, &secret[..40]),
        whole.replace(&secret, "AAAA"),
    ];
    for contents in damaged {
        fs::write(place.file("keys.json"), &contents).unwrap();
        let error = place.refused();
        let message = error.to_string();
        assert!(
            matches!(error, CaError::Keys(KeyManagerError::Damaged { .. })),
            "{message}"
        );
        assert!(message.contains("keys.json") && message.contains("restore it"));
        assert!(!message.contains(&secret[..20]), "{message}");
    }
    fs::write(place.file("keys.json"), whole).unwrap();
    assert!(place.ca().is_ok());
}

#[test]
fn what_others_may_read_is_refused() {
    let place = Place::used();
    let set = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    set(&place.file("keys.json"), 0o640);
    let error = place.refused();
    assert!(error.to_string().contains("chmod 600"), "{error}");
    set(&place.file("keys.json"), 0o600);
    set(&place.path(), 0o755);
    let error = place.refused();
    assert!(error.to_string().contains("chmod 700"), "{error}");
    set(&place.path(), 0o700);
    assert!(place.ca().is_ok());
}

#[test]
fn an_empty_directory_is_closed_to_others() {
    let place = Place::new();
    fs::create_dir(place.path()).unwrap();
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755)).unwrap();
    assert!(place.ca().is_ok());
    assert_eq!(mode(&place.path()), 0o700);
}

#[test]
fn a_file_is_no_directory() {
    let place = Place::new();
    fs::write(place.path(), "").unwrap();
    let error = place.open().unwrap_err();
    assert!(matches!(error, StateError::Io { .. }), "{error}");
}

#[test]
fn spires_key_file_is_read_and_kept() {
    let place = Place::new();
    fs::create_dir(place.path()).unwrap();
    let key = crypto().generate_key(KeyType::Rsa2048).unwrap();
    let text = <base64ct::Base64 as base64ct::Encoding>::encode_string(key.secret_pkcs8_der());
    let file = format!("{{\n\t\"keys\": {{\n\t\t\"x509-CA-A\": \"{text}\"\n\t}}\n}}");
    fs::write(place.file("keys.json"), file).unwrap();
    fs::set_permissions(place.file("keys.json"), fs::Permissions::from_mode(0o600)).unwrap();
    let storage = Arc::new(Directory::new(place.path()));
    let keys = DiskKeys::open(storage.clone(), crypto()).unwrap();
    let taken = ready(keys.signer("x509-CA-A")).unwrap().unwrap();
    let expected = crypto()
        .load_key(&PrivateKey::from_pkcs8_der(key.secret_pkcs8_der().to_vec()))
        .unwrap();
    assert_eq!(taken.public_key(), expected.public_key());

    ready(keys.generate("x509-CA-B", KeyType::EcP384)).unwrap();
    let again = DiskKeys::open(storage.clone(), crypto()).unwrap();
    assert_eq!(ready(again.list()).unwrap(), ["x509-CA-A", "x509-CA-B"]);
    let kept = ready(again.signer("x509-CA-A")).unwrap().unwrap();
    assert_eq!(kept.public_key(), expected.public_key());
    assert!(ready(again.remove("x509-CA-A")).unwrap());
    assert!(!ready(again.remove("x509-CA-A")).unwrap());
    let last = DiskKeys::open(storage, crypto()).unwrap();
    assert_eq!(ready(last.list()).unwrap(), ["x509-CA-B"]);
    assert!(!format!("{last:?}").contains(&text[..20]));
}

/// A directory that can be full, or refuse for another reason.
#[derive(Debug)]
struct Full {
    directory: Directory,
    full: AtomicBool,
    error: io::ErrorKind,
}

impl Full {
    fn new(place: &Place, error: io::ErrorKind) -> Arc<Self> {
        Arc::new(Self {
            directory: Directory::new(place.path()),
            full: AtomicBool::new(false),
            error,
        })
    }
}

impl Storage for Full {
    fn path(&self, name: &str) -> PathBuf {
        self.directory.path(name)
    }

    fn read(&self, name: &str, limit: usize) -> io::Result<Option<Stored>> {
        self.directory.read(name, limit)
    }

    fn write(&self, name: &str, contents: &[u8]) -> io::Result<()> {
        if self.full.load(Ordering::Relaxed) {
            self.directory
                .write(name, &contents[..contents.len() / 2])?;
            return Err(self.error.into());
        }
        self.directory.write(name, contents)
    }

    fn sync(&self, name: &str) -> io::Result<()> {
        self.directory.sync(name)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.directory.rename(from, to)
    }

    fn sync_directory(&self) -> io::Result<()> {
        self.directory.sync_directory()
    }

    fn append(&self, name: &str, contents: &[u8]) -> io::Result<()> {
        self.directory.append(name, contents)
    }

    fn length(&self, name: &str) -> io::Result<Option<u64>> {
        self.directory.length(name)
    }

    fn read_at(&self, name: &str, offset: u64, limit: usize) -> io::Result<Vec<u8>> {
        self.directory.read_at(name, offset, limit)
    }

    fn truncate(&self, name: &str, length: u64) -> io::Result<()> {
        self.directory.truncate(name, length)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.directory.remove(name)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.directory.list()
    }
}

#[test]
fn a_full_disk_changes_nothing_and_hinders_no_issuance() {
    let place = Place::new();
    let storage = Full::new(&place, io::ErrorKind::StorageFull);
    let directory = StateDir::open_with(place.path(), &trust_domain(), storage.clone()).unwrap();
    let ca = ready(builder().state_dir(directory).build(NOW)).unwrap();
    let (state, files) = (ca.state(), place.contents());
    storage.full.store(true, Ordering::Relaxed);
    assert!(ready(ca.prepare(Kind::X509, NOW)).is_err());
    let due = NOW + Duration::from_secs(12 * 3600);
    assert!(ready(ca.tick(due, &Evidence::unknown())).is_err());
    assert_eq!(ca.state(), state);
    assert_eq!(place.contents(), files);
    assert!(ready(ca.issue_x509_svid(&web(), KeyType::EcP256, due)).is_ok());
    storage.full.store(false, Ordering::Relaxed);
    assert!(ready(ca.tick(due, &Evidence::unknown())).is_ok());
    assert!(ca.state().slots(Kind::X509).prepared().is_some());
}

#[test]
fn a_disk_that_refuses_is_told_with_a_remedy() {
    for (kind, remedy) in [
        (io::ErrorKind::StorageFull, "; make room there"),
        (io::ErrorKind::ReadOnlyFilesystem, "; make it writable"),
        (io::ErrorKind::PermissionDenied, "; run as its owner"),
    ] {
        let place = Place::new();
        let storage = Full::new(&place, kind);
        let directory =
            StateDir::open_with(place.path(), &trust_domain(), storage.clone()).unwrap();
        let ca = ready(builder().state_dir(directory).build(NOW)).unwrap();
        let files = place.contents();
        storage.full.store(true, Ordering::Relaxed);
        let error = ready(ca.prepare(Kind::X509, NOW)).unwrap_err().to_string();
        assert!(error.contains(remedy), "{error}");
        assert!(error.contains("keys.json cannot be written: "), "{error}");
        assert!(!error.contains('\n'), "{error}");
        // No half of a temporary file either.
        assert_eq!(place.contents(), files);
    }
}

#[test]
fn somebody_elses_directory_is_refused() {
    let place = Place::used();
    let user = nix::unistd::Uid::effective().as_raw();
    // Only root can give a directory away; everybody else finds one of root's.
    let path = if user == 0 {
        std::os::unix::fs::chown(place.path(), Some(1), None).unwrap();
        place.path()
    } else {
        PathBuf::from("/")
    };
    let files = place.contents();
    let owner = u32::from(user == 0);
    assert_eq!(
        StateDir::open(&path, &trust_domain()).unwrap_err(),
        StateError::Owner { path, owner, user }
    );
    assert_eq!(place.contents(), files);
}

const DAY: Duration = Duration::from_secs(86_400);

#[test]
fn a_clock_far_ahead_at_a_start_is_not_believed() {
    let place = Place::used();
    let files = place.contents();
    let start = |now| ready(builder().state_dir(place.open().unwrap()).build(now));
    let error = start(NOW + DAY * 31).unwrap_err();
    assert!(matches!(error, CaError::ClockAhead { .. }), "{error}");
    assert_eq!(place.contents(), files);
    // Unless somebody knows that it stood still for so long; and a week is nothing unusual.
    let rested = builder()
        .longest_stop(Duration::MAX)
        .state_dir(place.open().unwrap());
    assert!(ready(rested.build(NOW + DAY * 31)).is_ok());
    let place = Place::used();
    let start = |now| ready(builder().state_dir(place.open().unwrap()).build(now));
    assert!(start(NOW + DAY * 7).is_ok());
}

#[test]
fn a_clock_before_what_was_recorded_is_not_believed_at_a_start() {
    let place = Place::used();
    let files = place.contents();
    let start = |now| ready(builder().state_dir(place.open().unwrap()).build(now));
    let error = start(NOW - MAX_STEP_BACK - Duration::from_secs(1)).unwrap_err();
    assert!(matches!(error, CaError::ClockBehind { .. }), "{error}");
    assert!(!error.to_string().contains('\n'), "{error}");
    assert_eq!(place.contents(), files);
    assert!(start(NOW - MAX_STEP_BACK).is_ok());
    let believing = builder()
        .longest_stop(Duration::MAX)
        .state_dir(place.open().unwrap());
    assert!(ready(believing.build(NOW - DAY)).is_ok());
}

#[test]
fn a_clock_that_steps_while_the_ca_runs_changes_no_authority() {
    let place = Place::used();
    let ca = place.ca().unwrap();
    let (state, journal) = (ca.state(), fs::read(place.file("journal.json")).unwrap());
    let issue = |now| ready(ca.issue_x509_svid(&web(), KeyType::EcP256, now));
    for (now, told) in [
        (NOW - Duration::from_secs(3600), "set the clock"),
        (NOW + DAY * 30, "expired at"),
    ] {
        let error = issue(now).unwrap_err().to_string();
        assert!(error.contains(told), "{error}");
    }
    assert_eq!(ca.state(), state);
    assert_eq!(fs::read(place.file("journal.json")).unwrap(), journal);
    assert!(issue(NOW).is_ok());
}

#[test]
fn a_restart_takes_no_authority_out_before_the_clock_has_settled() {
    let place = Place::new();
    let ca = place.ca().unwrap();
    let old = ca
        .state()
        .slots(Kind::X509)
        .active()
        .unwrap()
        .id()
        .to_owned();
    ready(ca.prepare(Kind::X509, NOW)).unwrap();
    ready(ca.activate(Kind::X509, &Evidence::unknown(), true, NOW)).unwrap();
    drop(ca);
    // It signed nothing, so its time is over; but is this the time?
    let (later, minute) = (NOW + DAY / 4, Duration::from_secs(60));
    let ca = ready(builder().state_dir(place.open().unwrap()).build(later)).unwrap();
    let is_there = || ca.state().slots(Kind::X509).find(&old).is_some();
    ready(ca.tick(later + minute * 9, &Evidence::unknown())).unwrap();
    assert!(is_there());
    ready(ca.tick(later + minute * 10, &Evidence::unknown())).unwrap();
    assert!(!is_there());
}

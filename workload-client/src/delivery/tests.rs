//! Deliveries on a disk that fails at every single step, in a writer that is killed, and before readers that do not stop.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::{env, io};

use rustix::io::Errno;
use spiffe_core::bundle::X509Authorities;
use spiffe_core::crypto::aws_lc_rs;
use spiffe_core::verify::{PeerRole, X509Verifier};
use spiffe_core::{Bundle, BundleSet, JwtSvid, Random, TrustDomain, X509Svid};
use spiffe_testkit::{SeededRandom, TrustDomain as Authority};
use tempfile::TempDir;

use super::disk::{Access, Disk, System};
use super::read::{read_bounded, read_flat_by};
use super::*;

/// An authority, and what it issues as material.
pub(super) struct Issuer(Authority);

impl Issuer {
    pub(super) async fn new() -> Self {
        Self(Authority::ephemeral("example.org").await)
    }

    pub(super) async fn material(&self, paths: &[&str]) -> Material {
        let mut svids = Vec::new();
        for path in paths {
            svids.push(Arc::new(self.0.svid(path).await));
        }
        Material {
            svids,
            bundles: Arc::new([self.0.bundle()].into_iter().collect()),
            ..Material::default()
        }
    }

    pub(super) async fn files(&self) -> FileSet {
        FileSet::new(&self.material(&["web"]).await).unwrap()
    }
}

/// A directory to deliver into, beside nothing else.
pub(super) struct Place(TempDir);

impl Place {
    pub(super) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(super) fn path(&self) -> PathBuf {
        self.0.path().join("svid")
    }

    pub(super) fn directory(&self) -> DeliveryDirectory {
        DeliveryDirectory::new(self.path())
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path().join(name)).unwrap()
    }

    fn mode(&self, name: &str) -> u32 {
        fs::metadata(self.path().join(name)).unwrap().mode() & 0o7777
    }

    /// Every path below, links not followed.
    pub(super) fn everything(&self) -> BTreeSet<String> {
        fn walk(at: &Path, root: &Path, found: &mut BTreeSet<String>) {
            for entry in fs::read_dir(at).unwrap() {
                let entry = entry.unwrap();
                let path = entry.path();
                found.insert(path.strip_prefix(root).unwrap().to_str().unwrap().into());
                if entry.file_type().unwrap().is_dir() {
                    walk(&path, root, found);
                }
            }
        }
        let mut found = BTreeSet::new();
        walk(&self.path(), &self.path(), &mut found);
        found
    }

    fn revisions(&self) -> BTreeSet<String> {
        let of = |path: &String| path.strip_prefix(".delivery/").map(str::to_owned);
        let mut inside: BTreeSet<_> = self.everything().iter().filter_map(of).collect();
        inside.retain(|name| !name.contains('/') && name != "lock" && name != "told");
        inside
    }
}

/// What one revision's files say, checked against each other.
#[track_caller]
fn check(chain: &[u8], key: &[u8], bundle: &[u8]) -> String {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let svid = X509Svid::from_pem(&text(chain), &text(key), &*aws_lc_rs()).unwrap();
    let authorities = X509Authorities::from_pem(&text(bundle)).unwrap();
    let own = Bundle::new(svid.trust_domain().to_owned()).with_x509_authorities(authorities);
    let bundles: BundleSet = [Arc::new(own)].into_iter().collect();
    X509Verifier::new(&*aws_lc_rs())
        .verify(
            svid.chain(),
            &bundles,
            svid.not_before(),
            PeerRole::Unspecified,
        )
        .unwrap();
    svid.serial_hex()
}

#[track_caller]
pub(super) fn serial(place: &Place) -> String {
    check(
        &place.read("svid.0.pem"),
        &place.read("svid.0.key"),
        &place.read("bundle.0.pem"),
    )
}

#[tokio::test]
async fn spires_names_lead_into_one_revision() {
    let (issuer, west) = (
        Issuer::new().await,
        Authority::ephemeral("west.example").await,
    );
    let mut material = issuer.material(&["web", "db"]).await;
    material.bundles = Arc::new([issuer.0.bundle(), west.bundle()].into_iter().collect());
    let token = issuer.0.token("web", "west").await;
    material.tokens = vec![
        None,
        Some(Arc::new(JwtSvid::parse_insecure(&token).unwrap())),
    ];
    let place = Place::new();
    let files = FileSet::new(&material).unwrap();
    let written = place.directory().write(&files).unwrap();
    assert_eq!((written.revision, written.is_new), (1, true));
    assert!(written.leftover.is_none());
    let flat: Vec<_> = [
        ".delivery",
        "bundle.0.pem",
        "bundle.1.pem",
        "bundles",
        "credential_bundle.0.pem",
        "credential_bundle.1.pem",
        "current",
        "federated_bundle.0.0.pem",
        "federated_bundle.1.0.pem",
        "jwt.1.token",
        "svid.0.key",
        "svid.0.pem",
        "svid.1.key",
        "svid.1.pem",
    ]
    .into();
    let everything = place.everything();
    let top: Vec<_> = everything
        .iter()
        .filter(|path| !path.contains('/'))
        .collect();
    assert_eq!(top, flat);

    for (number, svid) in material.svids.iter().enumerate() {
        let name = |kind: &str| kind.replace('N', &number.to_string());
        let (chain, key) = (
            place.read(&name("svid.N.pem")),
            place.read(&name("svid.N.key")),
        );
        let serial = check(&chain, &key, &place.read(&name("bundle.N.pem")));
        assert_eq!(serial, svid.serial_hex());
        let both = place.read(&name("credential_bundle.N.pem"));
        assert_eq!(both, [key, chain].concat());
    }
    let foreign = place.read("federated_bundle.0.0.pem");
    assert_eq!(
        foreign,
        west.bundle().x509_authorities().to_pem().as_bytes()
    );
    assert_eq!(foreign, place.read("bundles/west.example.pem"));
    let document = place.read("bundles/example.org.json");
    let name = TrustDomain::parse("example.org").unwrap();
    let read = Bundle::from_spiffe_json(name, &document).unwrap();
    assert!(read.same_authorities(&issuer.0.bundle()));
    assert_eq!(place.read("jwt.1.token"), token.as_bytes());
}

#[tokio::test]
async fn x509_and_jwt_authorities_of_a_trust_domain_share_a_document() {
    let whole = Authority::ephemeral("example.org").await.bundle();
    let name = whole.trust_domain().clone();
    let x509 = Bundle::new(name.clone()).with_x509_authorities(whole.x509_authorities().clone());
    let jwt = Bundle::new(name.clone()).with_jwt_authorities(whole.jwt_authorities().clone());
    let set = |bundle| Arc::new([Arc::new(bundle)].into_iter().collect::<BundleSet>());
    let place = Place::new();
    let material = Material {
        bundles: set(x509),
        jwt_bundles: set(jwt),
        ..Material::default()
    };
    place
        .directory()
        .write(&FileSet::new(&material).unwrap())
        .unwrap();
    let document = place.read("bundles/example.org.json");
    let read = Bundle::from_spiffe_json(name, document).unwrap();
    assert!(read.same_authorities(&whole));
    assert!(!read.x509_authorities().is_empty() && !read.jwt_authorities().is_empty());
}

#[tokio::test]
async fn only_what_becomes_no_file_is_empty() {
    let issuer = Issuer::new().await;
    let whole = issuer.material(&["web"]).await;
    let none = Material {
        tokens: vec![None],
        ..Material::default()
    };
    let (mut svids, mut bundles, mut jwt) = (none.clone(), none.clone(), none.clone());
    svids.svids.clone_from(&whole.svids);
    bundles.bundles.clone_from(&whole.bundles);
    jwt.jwt_bundles.clone_from(&whole.bundles);
    let mut tokens = none.clone();
    let token = issuer.0.token("web", "db").await;
    tokens.tokens = vec![Some(Arc::new(JwtSvid::parse_insecure(&token).unwrap()))];
    assert!(none.is_empty());
    for some in [svids, bundles, jwt, tokens, whole] {
        assert!(!some.is_empty(), "{some:?}");
    }
}

#[tokio::test]
async fn a_name_too_long_for_a_file_is_in_the_numbered_files() {
    let long = Authority::ephemeral(&"a".repeat(255)).await;
    let issuer = Issuer::new().await;
    let mut material = issuer.material(&["web"]).await;
    material.bundles = Arc::new([issuer.0.bundle(), long.bundle()].into_iter().collect());
    let place = Place::new();
    place
        .directory()
        .write(&FileSet::new(&material).unwrap())
        .unwrap();
    let pem = long.bundle().x509_authorities().to_pem();
    assert_eq!(place.read("federated_bundle.0.0.pem"), pem.as_bytes());
    serial(&place);
}

#[tokio::test]
async fn modes_are_exact_and_mended_without_a_new_revision() {
    let (issuer, place) = (Issuer::new().await, Place::new());
    let files = issuer.files().await;
    let mut directory = place.directory();
    directory.write(&files).unwrap();
    let modes = [
        ("svid.0.pem", 0o644),
        ("svid.0.key", 0o600),
        ("credential_bundle.0.pem", 0o600),
        ("bundles/example.org.pem", 0o644),
        ("bundles", 0o755),
        ("current", 0o755),
        (".delivery", 0o755),
    ];
    for (name, mode) in modes {
        assert_eq!(place.mode(name), mode, "{name}");
        fs::set_permissions(place.path().join(name), fs::Permissions::from_mode(0o700)).unwrap();
    }
    let again = directory.write(&files).unwrap();
    assert_eq!((again.revision, again.is_new), (1, false));
    for (name, mode) in modes {
        assert_eq!(place.mode(name), mode, "{name}");
    }

    // More than any usual umask leaves, but for the directories.
    let mut modes = Modes::default();
    (modes.public, modes.secret, modes.directory) = (0o666, 0o660, 0o777);
    drop(directory);
    place.directory().modes(modes).write(&files).unwrap();
    assert_eq!(place.mode("svid.0.pem"), 0o666);
    assert_eq!(place.mode("svid.0.key"), 0o660);
    assert_eq!(place.mode("current"), 0o755);
}

#[tokio::test]
async fn files_get_another_owner_from_root_alone() {
    const SOMEBODY: u32 = 54_321;
    let (issuer, place) = (Issuer::new().await, Place::new());
    let mut directory = place.directory().owner(Some(SOMEBODY), Some(SOMEBODY));
    let files = issuer.files().await;
    let written = directory.write(&files);
    if !rustix::process::geteuid().is_root() {
        let error = written.unwrap_err().to_string();
        assert!(error.contains("cannot make"), "{error}");
        return;
    }
    written.unwrap();
    let owner = |name: &str| {
        let found = fs::metadata(place.path().join(name)).unwrap();
        (found.uid(), found.gid())
    };
    let is_settled = || {
        assert_eq!(owner("svid.0.key"), (SOMEBODY, SOMEBODY));
        assert_eq!(owner("svid.0.pem"), (SOMEBODY, SOMEBODY));
        assert_eq!(owner("current"), (0, SOMEBODY));
    };
    is_settled();
    // Who gave them to somebody else does not keep that, though nothing else has changed.
    for name in ["svid.0.key", "current"] {
        let other = Some(SOMEBODY + 1);
        std::os::unix::fs::chown(place.path().join(name), other, other).unwrap();
    }
    let again = directory.write(&files).unwrap();
    assert_eq!((again.revision, again.is_new), (1, false));
    is_settled();
}

/// A change of owner is refused in some sandboxes even where it changes nothing.
#[cfg(target_os = "linux")]
#[test]
fn what_is_as_it_should_be_is_not_touched() {
    use rustix::fs::inotify::{CreateFlags, Reader, WatchFlags, add_watch, init};

    let file = OwnedFd::from(tempfile::tempfile().unwrap());
    let number = std::os::fd::AsRawFd::as_raw_fd(&file);
    let events = init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).unwrap();
    let path = format!("/proc/self/fd/{number}");
    add_watch(&events, path, WatchFlags::ATTRIB).unwrap();
    let is_touched = || {
        let mut buffer = [std::mem::MaybeUninit::uninit(); 1024];
        match Reader::new(&events, &mut buffer).next() {
            Ok(_) => true,
            Err(error) => {
                assert_eq!(error, Errno::AGAIN);
                false
            }
        }
    };
    let found = rustix::fs::fstat(&file).unwrap();
    let (uid, gid) = (Some(found.st_uid), Some(found.st_gid));
    for (uid, gid) in [(None, None), (uid, None), (None, gid), (uid, gid)] {
        for mode in [0o640, 0o600] {
            let access = Access { mode, uid, gid };
            System.settle(&file, access).unwrap();
            assert!(is_touched());
            System.settle(&file, access).unwrap();
            assert!(!is_touched(), "{access:?}");
        }
    }
}

/// Linux takes a file's capabilities from it at each change of owner, to the same one too, and at no change of mode.
#[cfg(target_os = "linux")]
#[test]
fn another_mode_alone_is_no_change_of_owner() {
    use rustix::fs::{XattrFlags, fgetxattr, fsetxattr};

    const NAME: &str = "security.capability";
    // Revision 2 of its layout: CAP_CHOWN, permitted.
    let capability = [0x0200_0000, 1, 0, 0, 0].map(u32::to_le_bytes).concat();
    let file = OwnedFd::from(tempfile::tempfile().unwrap());
    let set = || fsetxattr(&file, NAME, &capability, XattrFlags::empty());
    // Only root may, and not everywhere.
    if set().is_err() {
        return;
    }
    let is_kept = || fgetxattr(&file, NAME, &mut [0_u8; 20]).is_ok();
    let found = rustix::fs::fstat(&file).unwrap();
    let mut access = Access {
        mode: 0o640,
        uid: Some(found.st_uid),
        gid: Some(found.st_gid),
    };
    System.settle(&file, access).unwrap();
    assert!(is_kept());
    assert!(access.is_of(&rustix::fs::fstat(&file).unwrap()));
    access.gid = Some(found.st_gid + 1);
    System.settle(&file, access).unwrap();
    assert!(!is_kept());
}

/// Nothing can be changed any more, for each reason that a system gives.
#[tokio::test]
async fn a_target_that_cannot_be_written_is_named_with_what_to_do() {
    let issuer = Issuer::new().await;
    let room = "make room there";
    let rights = "let this user do so, or deliver elsewhere";
    for (refusal, says, remedy) in [
        (Errno::ACCESS, "Permission denied", rights),
        (Errno::DQUOT, "quota exceeded", room),
        (Errno::IO, "Input/output error", "look at that directory"),
        (Errno::NOSPC, "No space left", room),
        (Errno::PERM, "Operation not permitted", rights),
        (Errno::ROFS, "Read-only file system", "that can be written"),
    ] {
        let place = Place::new();
        place.directory().write(&issuer.files().await).unwrap();
        let (before, listed) = (serial(&place), place.everything());
        let disk = Faulty::refusing(refusal);
        let mut directory = DeliveryDirectory::with_disk(place.path(), disk);
        let next = issuer.files().await;
        let text = directory.write(&next).unwrap_err().to_string();
        let path = place.path();
        let path = path.to_str().unwrap();
        assert!(
            text.starts_with("cannot ") && [path, says, remedy].iter().all(|it| text.contains(it)),
            "{text}"
        );
        assert!(!text.contains('\n'), "{text}");
        assert_eq!((serial(&place), place.everything()), (before, listed));
        drop(directory);
        assert!(place.directory().write(&next).unwrap().is_new);
    }
}

#[tokio::test]
async fn changed_files_are_a_new_revision_and_the_one_before_stays() {
    let (issuer, place) = (Issuer::new().await, Place::new());
    let mut directory = place.directory();
    for revision in 1..=4 {
        let before = OpenRevision::open(place.path()).ok();
        let files = issuer.files().await;
        let written = directory.write(&files).unwrap();
        assert_eq!((written.revision, written.is_new), (revision, true));
        if let Some(before) = before {
            let read = |name| before.read(name).unwrap();
            let old = check(
                &read("svid.0.pem"),
                &read("svid.0.key"),
                &read("bundle.0.pem"),
            );
            assert_ne!(old, serial(&place));
        }
        assert!(place.revisions().len() <= 2);
    }
    // What somebody has changed is written anew as well.
    let files = issuer.files().await;
    directory.write(&files).unwrap();
    fs::write(place.path().join("svid.0.pem"), "scribble").unwrap();
    assert!(directory.write(&files).unwrap().is_new);
    fs::remove_file(place.path().join("current/bundles/example.org.pem")).unwrap();
    assert!(directory.write(&files).unwrap().is_new);
    assert!(!directory.write(&files).unwrap().is_new);
    serial(&place);
}

#[tokio::test]
async fn what_is_withdrawn_is_gone_from_the_disk() {
    let (issuer, place) = (Issuer::new().await, Place::new());
    let mut directory = place.directory();
    directory.write(&issuer.files().await).unwrap();
    directory.write(&issuer.files().await).unwrap();
    assert_eq!(place.revisions().len(), 2);
    directory.write(&FileSet::default()).unwrap();
    let left: Vec<_> = place.everything().into_iter().collect();
    assert_eq!(
        left,
        [".delivery", ".delivery/3", ".delivery/lock", "current"]
    );
}

#[tokio::test]
async fn what_others_have_there_is_left_alone_or_refused() {
    let (issuer, place) = (Issuer::new().await, Place::new());
    let files = issuer.files().await;
    let mut directory = place.directory();
    directory.write(&files).unwrap();
    let at = |name: &str| place.path().join(name);
    fs::write(at("notes.txt"), "precious").unwrap();
    symlink("notes.txt", at("link")).unwrap();
    fs::write(at("svid.1.pem"), "somebody's").unwrap();
    let before = serial(&place);

    directory.write(&issuer.files().await).unwrap();
    assert_ne!(serial(&place), before);
    let two = FileSet::new(&issuer.material(&["web", "db"]).await).unwrap();
    let (before, listed) = (serial(&place), place.everything());
    let error = directory.write(&two).unwrap_err();
    assert_eq!(
        error,
        DeliveryError::InTheWay {
            path: at("svid.1.pem")
        }
    );
    assert_eq!((serial(&place), place.everything()), (before, listed));
    fs::remove_file(at("svid.1.pem")).unwrap();
    directory.write(&two).unwrap();
    assert_eq!(place.read("notes.txt"), b"precious");
    assert_eq!(fs::read_link(at("link")).unwrap(), Path::new("notes.txt"));

    fs::remove_file(at("current")).unwrap();
    symlink("/etc", at("current")).unwrap();
    let error = directory.write(&two).unwrap_err();
    assert_eq!(
        error,
        DeliveryError::InTheWay {
            path: at("current")
        }
    );
}

#[tokio::test]
async fn one_writer_at_a_time() {
    let (issuer, place) = (Issuer::new().await, Place::new());
    let files = issuer.files().await;
    let mut first = place.directory();
    first.write(&files).unwrap();
    let error = place.directory().write(&files).unwrap_err();
    let (path, holder) = (place.path(), format!("process {}", std::process::id()));
    assert_eq!(error, DeliveryError::Locked { path, holder });
    drop(first);
    place.directory().write(&files).unwrap();
}

#[tokio::test]
async fn a_private_directory_that_others_may_write_in_is_refused() {
    let (issuer, place) = (Issuer::new().await, Place::new());
    let inner = place.path().join(".delivery");
    fs::create_dir_all(&inner).unwrap();
    fs::set_permissions(&inner, fs::Permissions::from_mode(0o777)).unwrap();
    let error = place.directory().write(&issuer.files().await).unwrap_err();
    assert_eq!(
        error,
        DeliveryError::NotPrivate {
            path: inner.clone()
        }
    );
    fs::remove_dir(&inner).unwrap();
    let elsewhere = place.0.path().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    symlink(&elsewhere, &inner).unwrap();
    place.directory().write(&issuer.files().await).unwrap_err();
    assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0);
    fs::remove_file(&inner).unwrap();
    place.directory().write(&issuer.files().await).unwrap();
}

#[tokio::test]
async fn a_directory_that_was_removed_is_made_again() {
    let (issuer, place) = (Issuer::new().await, Place::new());
    let files = issuer.files().await;
    let mut directory = place.directory();
    directory.write(&files).unwrap();
    fs::remove_dir_all(place.path()).unwrap();
    assert!(directory.write(&files).unwrap().is_new);
    serial(&place);
    let missing = place.path().join("missing/deep");
    let error = DeliveryDirectory::new(missing).write(&files).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("missing: No such file"), "{text}");
    assert!(text.contains("make its directory"), "{text}");
}

#[tokio::test]
async fn who_was_told_is_known_across_restarts() {
    let (issuer, place) = (Issuer::new().await, Place::new());
    let mut directory = place.directory();
    directory.write(&issuer.files().await).unwrap();
    assert_eq!(directory.told().unwrap(), None);
    directory.set_told(1).unwrap();
    directory.set_told(2).unwrap();
    drop(directory);
    assert_eq!(place.directory().told().unwrap(), Some(2));
}

#[tokio::test]
async fn a_reader_of_flat_names_notices_a_switch_and_reads_again() {
    let (issuer, place) = (Issuer::new().await, Place::new());
    let mut directory = place.directory();
    directory.write(&issuer.files().await).unwrap();
    let next = issuer.files().await;
    let names = ["svid.0.pem", "svid.0.key", "bundle.0.pem"];
    let mut opened = 0;
    let read = read_flat_by(&place.path(), &names, |path| {
        opened += 1;
        let read = read_bounded(fs::File::open(path)?);
        if opened == 1 {
            directory.write(&next).unwrap();
        }
        read
    })
    .unwrap();
    assert_eq!(opened, 6, "all three were read twice");
    assert_eq!(check(&read[0], &read[1], &read[2]), serial(&place));

    // A writer that never rests is told from one that does.
    let mut turn = 0;
    let (one, two) = (issuer.files().await, issuer.files().await);
    let error = read_flat_by(&place.path(), &names, |path| {
        turn += 1;
        directory
            .write(if turn % 2 == 0 { &one } else { &two })
            .unwrap();
        read_bounded(fs::File::open(path)?)
    });
    assert_eq!(error.unwrap_err().kind(), io::ErrorKind::Interrupted);
}

/// What happens at the step at which something happens.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fault {
    /// This step alone fails, done half.
    Once,
    /// From here on nothing is done any more, as if the process were gone.
    Gone,
    /// The process is killed.
    Killed,
}

/// The system's disk, with a fault at one step.
#[derive(Debug)]
pub(super) struct Faulty {
    at: usize,
    fault: Fault,
    error: Errno,
    done: AtomicUsize,
    steps: Mutex<Vec<String>>,
}

impl Faulty {
    /// One that is full.
    pub(super) fn new(at: usize, fault: Fault) -> Arc<Self> {
        Self::with(at, fault, Errno::NOSPC)
    }

    /// One that lets nothing be changed.
    fn refusing(error: Errno) -> Arc<Self> {
        Self::with(0, Fault::Gone, error)
    }

    fn with(at: usize, fault: Fault, error: Errno) -> Arc<Self> {
        Arc::new(Self {
            at,
            fault,
            error,
            done: AtomicUsize::new(0),
            steps: Mutex::default(),
        })
    }

    /// One step, or half of it where there is such a thing.
    fn step(
        &self,
        name: String,
        whole: impl FnOnce() -> io::Result<()>,
        half: impl FnOnce(),
    ) -> io::Result<()> {
        let number = self.done.fetch_add(1, Ordering::Relaxed);
        let fails = match self.fault {
            Fault::Once | Fault::Killed => number == self.at,
            Fault::Gone => number >= self.at,
        };
        if !fails {
            self.steps.lock().unwrap().push(name);
            return whole();
        }
        if number == self.at {
            half();
        }
        if matches!(self.fault, Fault::Killed) {
            let this = rustix::process::getpid();
            rustix::process::kill_process(this, rustix::process::Signal::KILL).unwrap();
        }
        Err(self.error.into())
    }
}

impl Disk for Faulty {
    fn make_directory(&self, at: &OwnedFd, name: &str) -> io::Result<()> {
        self.step(
            format!("make {name}"),
            || System.make_directory(at, name),
            || (),
        )
    }

    fn write(&self, at: &OwnedFd, name: &str, bytes: &[u8], access: Access) -> io::Result<()> {
        self.step(
            format!("write {name}"),
            || System.write(at, name, bytes, access),
            || {
                System
                    .write(at, name, &bytes[..bytes.len() / 2], access)
                    .unwrap()
            },
        )
    }

    fn settle(&self, file: &OwnedFd, access: Access) -> io::Result<()> {
        self.step("settle".into(), || System.settle(file, access), || ())
    }

    fn link(&self, target: &str, at: &OwnedFd, name: &str) -> io::Result<()> {
        let step = format!("link {name} to {target}");
        self.step(step, || System.link(target, at, name), || ())
    }

    fn rename(&self, from: (&OwnedFd, &str), to: (&OwnedFd, &str)) -> io::Result<()> {
        let step = format!("rename {} to {}", from.1, to.1);
        self.step(step, || System.rename(from, to), || ())
    }

    fn sync(&self, directory: &OwnedFd) -> io::Result<()> {
        self.step("sync".into(), || System.sync(directory), || ())
    }

    fn remove_file(&self, at: &OwnedFd, name: &str) -> io::Result<()> {
        self.step(
            format!("remove {name}"),
            || System.remove_file(at, name),
            || (),
        )
    }

    fn remove_directory(&self, at: &OwnedFd, name: &str) -> io::Result<()> {
        self.step(
            format!("remove {name}"),
            || System.remove_directory(at, name),
            || (),
        )
    }
}

/// The first revision without faults, another with one; then what is there, and a third without again.
async fn with_fault(issuer: &Issuer, at: usize, fault: Fault) -> bool {
    let place = Place::new();
    let mut directory = place.directory();
    directory.write(&issuer.files().await).unwrap();
    directory.write(&issuer.files().await).unwrap();
    drop(directory);
    fs::write(place.path().join("notes.txt"), "precious").unwrap();
    let before = serial(&place);

    let disk = Faulty::new(at, fault);
    let mut directory = DeliveryDirectory::with_disk(place.path(), disk.clone());
    let second = issuer.files().await;
    let written = directory.write(&second);
    let after = serial(&place);
    let reached = disk.done.load(Ordering::Relaxed) > at;
    match &written {
        Ok(written) => {
            assert_ne!(after, before);
            assert_eq!(written.leftover.is_some(), reached, "step {at}");
        }
        // The last sync may fail after the switch.
        Err(error) => assert!(
            error.to_string().contains("make room"),
            "step {at}: {error}"
        ),
    }
    if matches!(fault, Fault::Once) {
        let again = directory.write(&second).unwrap();
        assert!(again.leftover.is_none());
        assert_eq!(place.revisions().len(), 2, "step {at}");
    }
    drop(directory);

    let third = place.directory().write(&issuer.files().await).unwrap();
    assert!(third.is_new && third.leftover.is_none());
    serial(&place);
    assert_eq!(
        place.revisions().len(),
        2,
        "step {at}: {:?}",
        place.everything()
    );
    assert_eq!(place.read("notes.txt"), b"precious");
    reached
}

#[tokio::test]
async fn whichever_step_fails_there_is_a_whole_revision_and_the_next_attempt_succeeds() {
    let issuer = Issuer::new().await;
    for fault in [Fault::Once, Fault::Gone] {
        let mut at = 0;
        while with_fault(&issuer, at, fault).await {
            at += 1;
        }
        assert!(at > 20, "{at} steps were tried");
    }
}

#[tokio::test]
async fn everything_is_on_disk_before_the_switch() {
    let (issuer, place) = (Issuer::new().await, Place::new());
    let disk = Faulty::new(usize::MAX, Fault::Once);
    let mut directory = DeliveryDirectory::with_disk(place.path(), disk.clone());
    directory.write(&issuer.files().await).unwrap();
    let steps = disk.steps.lock().unwrap().join("\n");
    // Writing a file syncs it; each directory is synced once complete, and the outer one after the rename.
    assert_eq!(
        steps,
        "make svid
settle
make .delivery
settle
make 1
link bundle.0.pem to bundles/example.org.pem
make bundles
write example.org.json
write example.org.pem
write credential_bundle.0.pem
write svid.0.key
write svid.0.pem
settle
sync
settle
sync
sync
link bundle.0.pem to current/bundle.0.pem
link bundles to current/bundles
link credential_bundle.0.pem to current/credential_bundle.0.pem
link svid.0.key to current/svid.0.key
link svid.0.pem to current/svid.0.pem
link new to .delivery/1
rename new to current
sync"
    );
}

/// Where a writer that is to be killed delivers, and at which of its steps.
const WRITER: &str = "SPIFFE_TEST_DELIVERY";

/// Delivers one revision after the other until it is killed.
async fn be_the_writer(task: &str) {
    let (at, path) = task.split_once(' ').unwrap();
    let issuer = Issuer::new().await;
    let disk = Faulty::new(at.parse().unwrap(), Fault::Killed);
    let mut directory = DeliveryDirectory::with_disk(path, disk);
    loop {
        directory.write(&issuer.files().await).unwrap();
    }
}

/// Reads as fast as it can until told to stop, then once more; says how often it had a whole set.
fn keep_reading(stop: &AtomicBool, mut read: impl FnMut() -> io::Result<()>) -> usize {
    let mut whole = 0;
    loop {
        let last = stop.load(Ordering::Acquire);
        match read() {
            Ok(()) => whole += 1,
            // Not there yet, or gone because this reader was slower than two switches: nothing, rather than a mix.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => panic!("{error}"),
        }
        if last {
            return whole;
        }
    }
}

/// Starts a writer, which kills itself in the middle of this step.
fn run_a_writer(path: &Path, at: usize) {
    let ended = Command::new(env::current_exe().unwrap())
        .args(["--exact", "--quiet"])
        .arg("delivery::tests::readers_never_see_a_mix_while_writers_are_killed_at_random_points")
        .env(WRITER, format!("{at} {}", path.display()))
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert_eq!(ended.signal(), Some(9), "{ended}");
}

#[tokio::test]
async fn readers_never_see_a_mix_while_writers_are_killed_at_random_points() {
    if let Ok(task) = env::var(WRITER) {
        return be_the_writer(&task).await;
    }
    const REVISIONS: u64 = 1000;
    const NAMES: [&str; 3] = ["svid.0.pem", "svid.0.key", "bundle.0.pem"];
    let place = Place::new();
    let path = place.path();
    let random = SeededRandom::new(7);
    let stop = AtomicBool::new(false);
    let (path, stop) = (&*path, &stop);
    std::thread::scope(|scope| {
        let opens_once = || {
            let open = OpenRevision::open(path)?;
            let read: io::Result<Vec<_>> = NAMES.iter().map(|name| open.read(name)).collect();
            let read = read?;
            check(&read[0], &read[1], &read[2]);
            Ok(())
        };
        let one_file = || {
            let both = fs::read_to_string(path.join("credential_bundle.0.pem"))?;
            assert!(both.ends_with("-----END CERTIFICATE-----\n"));
            X509Svid::from_pem(&both, &both, &*aws_lc_rs()).unwrap();
            Ok(())
        };
        let flat_names = || {
            let read = read_flat(path, &NAMES)?;
            check(&read[0], &read[1], &read[2]);
            Ok(())
        };
        let readers = [
            scope.spawn(move || keep_reading(stop, opens_once)),
            scope.spawn(move || keep_reading(stop, one_file)),
            scope.spawn(move || keep_reading(stop, flat_names)),
        ];
        let mut revision = 0;
        while revision < REVISIONS {
            let mut bytes = [0; 2];
            random.fill(&mut bytes).unwrap();
            // Up to some fifty revisions in one life.
            run_a_writer(path, usize::from(u16::from_be_bytes(bytes)) % 2000);
            if let Ok(link) = fs::read_link(path.join(CURRENT)) {
                let number = link.file_name().unwrap().to_str().unwrap();
                revision = number.parse().unwrap();
            }
        }
        stop.store(true, Ordering::Release);
        for reader in readers {
            assert!(reader.join().unwrap() > 0);
        }
    });
}

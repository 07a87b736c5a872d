//! The issuance log: what it says, what shows a change, and what a crash or a full disk leaves.
#![cfg(feature = "aws-lc-rs")]
#![allow(clippy::unwrap_used, reason = "these are tests")]

mod common;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::{fs, io};

use common::{NOW, builder, crypto, id, key, ready, trust_domain, web};
use spiffe_core::key::KeyType;
use spiffe_svid_ca::error::LogError;
use spiffe_svid_ca::log::{Entry, IssuanceLog, LogLimits, Record, Verified, What, verify};
use spiffe_svid_ca::storage::{Directory, Storage, Stored};
use spiffe_svid_ca::{IntermediateParams, JwtSvidParams, StateDir, TrustDomainCa};

struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
        }
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("issuance.log")
    }

    fn open(&self, limits: LogLimits) -> Result<IssuanceLog, LogError> {
        let storage = Arc::new(Directory::new(self.directory.path()));
        IssuanceLog::open(storage, crypto(), limits)
    }

    fn verify(&self) -> Result<(Verified, Vec<Record>), LogError> {
        let mut records = Vec::new();
        let storage = Directory::new(self.directory.path());
        let verified = verify(&storage, &*crypto(), |record| records.push(record.clone()))?;
        Ok((verified, records))
    }

    fn ca(&self) -> TrustDomainCa {
        let state = StateDir::open(self.directory.path(), &trust_domain()).unwrap();
        ready(builder().state_dir(state).build(NOW)).unwrap()
    }
}

const ENTRY: Entry<'static> = Entry {
    what: What::X509,
    id: "spiffe://example.org/web",
    reason: Some("a test"),
    authority: "aa",
    expires: NOW,
    serial: Some(&[1, 2]),
    signed: b"signed",
};

fn fill(log: &IssuanceLog, count: usize) {
    for _ in 0..count {
        log.append(&ENTRY, NOW).unwrap();
    }
}

#[test]
fn everything_that_is_signed_is_in_the_log_and_no_secret() {
    let place = Place::new();
    let ca = place.ca();
    let public = key(KeyType::EcP256);
    let params = web().with_reason("entry 7".to_owned());
    let svid = ready(ca.issue_x509(&params, public.public_key(), NOW)).unwrap();
    let params = JwtSvidParams::new(id("spiffe://example.org/db"), "secret-audience");
    let token = ready(ca.issue_jwt(&params, NOW)).unwrap();
    let below =
        ready(ca.issue_intermediate(&IntermediateParams::new(), public.public_key(), NOW)).unwrap();
    let head = ca.issuance_log().unwrap().head();
    drop(ca);
    let (verified, records) = place.verify().unwrap();
    assert_eq!((verified.records, verified.first), (4, 1));
    assert_eq!(verified.head, head);
    let what: Vec<_> = records.iter().map(|record| record.what).collect();
    assert_eq!(
        what,
        [What::Authority, What::X509, What::Jwt, What::Intermediate]
    );
    let x509 = &records[1];
    assert_eq!(x509.id, "spiffe://example.org/web");
    assert_eq!(x509.reason.as_deref(), Some("entry 7"));
    assert_eq!(x509.authority, svid.authority);
    assert_eq!(x509.expires, svid.not_after.to_string());
    assert_eq!(x509.time, NOW.to_string());
    let digest: String = crypto()
        .sha256(&svid.chain[0])
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    assert_eq!(x509.sha256, digest);
    assert_eq!(records[3].expires, below.not_after.to_string());
    let text = fs::read_to_string(place.file()).unwrap();
    let signature = token.token.rsplit('.').next().unwrap();
    assert!(!text.contains(signature) && !text.contains("secret-audience"));
}

#[test]
fn a_restart_continues_the_chain() {
    let place = Place::new();
    for _ in 0..3 {
        fill(&place.open(LogLimits::default()).unwrap(), 2);
    }
    let (verified, records) = place.verify().unwrap();
    assert_eq!(verified.records, 6);
    let numbers: Vec<_> = records.iter().map(|record| record.number).collect();
    assert_eq!(numbers, [1, 2, 3, 4, 5, 6]);
}

#[test]
fn every_changed_missing_or_swapped_line_is_found() {
    let place = Place::new();
    fill(&place.open(LogLimits::default()).unwrap(), 5);
    let good = fs::read_to_string(place.file()).unwrap();
    let lines: Vec<&str> = good.lines().collect();
    assert!(place.verify().is_ok());
    let broken = |lines: &[&str], at: u64| {
        fs::write(place.file(), lines.join("\n") + "\n").unwrap();
        match place.verify().unwrap_err() {
            LogError::Broken { line, .. } => assert_eq!(line, at),
            other => panic!("{other}"),
        }
    };
    let changed = lines[1].replace("/web", "/dbx");
    broken(&[lines[0], &changed, lines[2], lines[3], lines[4]], 3);
    broken(&[lines[0], lines[2], lines[3], lines[4]], 2);
    broken(&[lines[0], lines[2], lines[1], lines[3], lines[4]], 2);
    broken(&[lines[0], lines[1], lines[1]], 3);
    broken(&[lines[0], "", lines[1]], 2);
    let renumbered = lines[0].replace("\"number\":1,", "\"number\":2,");
    broken(&[&renumbered, lines[1]], 2);
    // The newest records can be cut off unseen, except by whoever knows the head.
    fs::write(place.file(), lines[..4].join("\n") + "\n").unwrap();
    let (verified, _) = place.verify().unwrap();
    assert_eq!(verified.records, 4);
}

#[test]
fn half_a_record_is_told_and_cut_off_at_the_next_start() {
    let place = Place::new();
    fill(&place.open(LogLimits::default()).unwrap(), 3);
    let good = fs::read(place.file()).unwrap();
    let last = good[..good.len() - 1]
        .iter()
        .rposition(|b| *b == b'\n')
        .unwrap()
        + 1;
    for cut in (last..good.len()).step_by(7) {
        fs::write(place.file(), &good[..cut]).unwrap();
        let (verified, _) = place.verify().unwrap();
        assert_eq!((verified.records, verified.torn), (2, cut > last));
        fill(&place.open(LogLimits::default()).unwrap(), 1);
        let (verified, _) = place.verify().unwrap();
        assert_eq!((verified.records, verified.torn), (3, false));
    }
    fs::write(place.file(), vec![b'x'; 40_000]).unwrap();
    assert!(matches!(
        place.open(LogLimits::default()),
        Err(LogError::Damaged { .. })
    ));
}

#[test]
fn full_files_are_closed_and_the_oldest_deleted_and_the_chain_goes_through_all() {
    let place = Place::new();
    let mut limits = LogLimits::default();
    limits.file_bytes = 1200;
    limits.closed_files = 3;
    let files = || fs::read_dir(place.directory.path()).unwrap().count();
    fill(&place.open(limits).unwrap(), 5);
    assert_eq!(files(), 2);
    let (verified, _) = place.verify().unwrap();
    assert_eq!((verified.first, verified.records), (1, 5));
    for _ in 0..10 {
        fill(&place.open(limits).unwrap(), 5);
    }
    assert_eq!(files(), 4);
    let (verified, _) = place.verify().unwrap();
    assert!(verified.first > 1);
    assert_eq!(verified.first + verified.records - 1, 55);
    // A crash right after a file was closed.
    let last = place.verify().unwrap().1.pop().unwrap();
    let current = fs::read_to_string(place.file()).unwrap();
    let first: Record = serde_json::from_str(current.lines().next().unwrap()).unwrap();
    let closed = format!("issuance-{:020}.log", first.number);
    fs::rename(place.file(), place.directory.path().join(closed)).unwrap();
    fill(&place.open(limits).unwrap(), 1);
    let (verified, records) = place.verify().unwrap();
    assert_eq!(records.last().unwrap().number, last.number + 1);
    assert!(!verified.torn);
    // A file in the middle is missed.
    let mut closed: Vec<_> = fs::read_dir(place.directory.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| *path != place.file())
        .collect();
    closed.sort();
    fs::remove_file(&closed[1]).unwrap();
    assert!(matches!(place.verify(), Err(LogError::Broken { .. })));
}

/// A directory that counts what was appended and not synced yet: what a loss of power may take.
#[derive(Debug)]
struct Counted {
    directory: Directory,
    syncs: AtomicU32,
    unsynced: AtomicU32,
    worst: AtomicU32,
}

impl Storage for Counted {
    fn path(&self, name: &str) -> PathBuf {
        self.directory.path(name)
    }

    fn read(&self, name: &str, limit: usize) -> io::Result<Option<Stored>> {
        self.directory.read(name, limit)
    }

    fn write(&self, name: &str, contents: &[u8]) -> io::Result<()> {
        self.directory.write(name, contents)
    }

    fn sync(&self, name: &str) -> io::Result<()> {
        self.syncs.fetch_add(1, Ordering::Relaxed);
        self.unsynced.store(0, Ordering::Relaxed);
        self.directory.sync(name)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        assert_eq!(
            self.unsynced.load(Ordering::Relaxed),
            0,
            "closed when it is safe"
        );
        self.directory.rename(from, to)
    }

    fn sync_directory(&self) -> io::Result<()> {
        self.directory.sync_directory()
    }

    fn append(&self, name: &str, contents: &[u8]) -> io::Result<()> {
        let unsynced = self.unsynced.fetch_add(1, Ordering::Relaxed) + 1;
        self.worst.fetch_max(unsynced, Ordering::Relaxed);
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
fn a_last_number_that_none_follows_is_damage() {
    let place = Place::new();
    fill(&place.open(LogLimits::default()).unwrap(), 1);
    let good = fs::read_to_string(place.file()).unwrap();
    for (number, goes_on) in [(u64::MAX - 1, true), (u64::MAX, false)] {
        let other = good.replace("\"number\":1,", &format!("\"number\":{number},"));
        fs::write(place.file(), &other).unwrap();
        match place.open(LogLimits::default()) {
            Ok(log) => drop(log),
            Err(LogError::Damaged { .. }) if !goes_on => continue,
            Err(error) => panic!("{number}: {error}"),
        }
        assert!(goes_on, "{number}");
    }
}

#[test]
fn records_are_synced_in_groups_and_no_more_than_one_group_can_be_lost() {
    let place = Place::new();
    let storage = Arc::new(Counted {
        directory: Directory::new(place.directory.path()),
        syncs: AtomicU32::new(0),
        unsynced: AtomicU32::new(0),
        worst: AtomicU32::new(0),
    });
    let mut limits = LogLimits::default();
    limits.unsynced_records = 10;
    limits.file_bytes = 20 * 1024;
    let log = IssuanceLog::open(storage.clone(), crypto(), limits).unwrap();
    fill(&log, 995);
    let closed = fs::read_dir(place.directory.path()).unwrap().count() as u32 - 1;
    assert!(closed > 10, "{closed} files were closed on the way");
    let syncs = storage.syncs.load(Ordering::Relaxed);
    assert!((99..=99 + closed).contains(&syncs), "{syncs} syncs");
    assert_eq!(storage.worst.load(Ordering::Relaxed), 10);
    // What is left is synced when somebody asks, as each tick does.
    assert!(storage.unsynced.load(Ordering::Relaxed) > 0);
    log.sync().unwrap();
    assert_eq!(storage.unsynced.load(Ordering::Relaxed), 0);
}

#[test]
fn what_cannot_be_recorded_is_not_released() {
    let place = Place::new();
    let ca = place.ca();
    assert!(ready(ca.issue_x509_svid(&web(), KeyType::EcP256, NOW)).is_ok());
    // A directory in the file's place, as root may write everywhere else.
    fs::remove_file(place.file()).unwrap();
    fs::create_dir(place.file()).unwrap();
    let error = ready(ca.issue_x509_svid(&web(), KeyType::EcP256, NOW)).unwrap_err();
    assert!(error.to_string().contains("cannot be written"), "{error}");
}

#[test]
fn a_long_reason_is_cut_and_the_record_stays_bounded() {
    let place = Place::new();
    let log = place.open(LogLimits::default()).unwrap();
    let reason = "\u{1}".repeat(5000);
    let name = format!("spiffe://example.org/{}", "a".repeat(2000));
    let entry = Entry {
        reason: Some(&reason),
        id: &name,
        ..ENTRY
    };
    log.append(&entry, NOW).unwrap();
    assert!(fs::metadata(place.file()).unwrap().len() < 16 * 1024);
    assert_eq!(place.verify().unwrap().1[0].id, name);
}

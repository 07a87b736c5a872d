//! A disk that fails: power lost or the process killed at every single step, full disks and failing syncs, and in
//! every case the same trust domain afterwards.
//!
//! The disk is a model: a file's contents survive a loss of power once the file was synced, names once the directory
//! was; whether what was not synced survives as well is nobody's promise, so each case is tried.
#![cfg(feature = "aws-lc-rs")]
#![allow(clippy::unwrap_used, reason = "these are tests")]

mod common;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use common::{NOW, crypto, key, ready, trust_domain, web};
use spiffe_core::key::KeyType;
use spiffe_core::verify::{PeerRole, X509Verifier};
use spiffe_core::{BundleSet, Timestamp};
use spiffe_svid_ca::authority::{Evidence, Kind};
use spiffe_svid_ca::error::CaError;
use spiffe_svid_ca::log::verify;
use spiffe_svid_ca::storage::{Storage, Stored};
use spiffe_svid_ca::{IssuedX509, StateDir, TrustDomainCa};

const HOUR: Duration = Duration::from_secs(3600);

/// What a loss of power leaves of what was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loss {
    /// Everything: only the process was killed.
    None,
    /// Contents are gone, names are there: the order that file systems are free to choose.
    Contents,
    /// Names are gone, contents are there.
    Names,
    /// Both are gone.
    Both,
    /// Names are there, and the first half of what was written since the last sync.
    HalfContents,
}

const LOSSES: [Loss; 5] = [
    Loss::None,
    Loss::Contents,
    Loss::Names,
    Loss::Both,
    Loss::HalfContents,
];

/// What goes wrong, and when.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// From this step on nothing reaches the disk; that step itself is done half.
    Off { from: usize },
    /// This step alone fails, done half.
    Once { at: usize },
}

#[derive(Debug, Default)]
struct Disk {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    files: Vec<Contents>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    steps: usize,
    fault: Option<Fault>,
}

#[derive(Clone, Debug, Default)]
struct Contents {
    now: Vec<u8>,
    durable: Vec<u8>,
    /// After a sync that failed, what was there then counts as written, and no later sync writes it.
    let_go: usize,
}

impl Contents {
    fn sync(&mut self) {
        let kept = self.let_go.min(self.now.len());
        // What was let go and never written since reads as zeros after a loss of power.
        self.durable.resize(kept, 0);
        self.durable.extend_from_slice(&self.now[kept..]);
    }
}

impl Disk {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    fn with_fault(fault: Fault) -> Arc<Self> {
        let disk = Self::default();
        disk.inner().fault = Some(fault);
        Arc::new(disk)
    }

    fn steps(&self) -> usize {
        self.inner().steps
    }

    /// The disk after the machine came back.
    fn restarted(&self, loss: Loss) -> Arc<Self> {
        let before = self.inner();
        let survives = |contents: &Contents| match loss {
            Loss::None | Loss::Names => contents.now.clone(),
            Loss::Contents | Loss::Both => contents.durable.clone(),
            Loss::HalfContents => {
                let (old, new) = (&contents.durable, &contents.now);
                let appended = new.len().saturating_sub(old.len());
                new[..new.len() - appended.div_ceil(2)].to_vec()
            }
        };
        let files = before
            .files
            .iter()
            .map(|contents| {
                let now = survives(contents);
                let durable = now.clone();
                Contents {
                    now,
                    durable,
                    let_go: 0,
                }
            })
            .collect();
        let names = match loss {
            Loss::Names | Loss::Both => before.durable_names.clone(),
            Loss::None | Loss::Contents | Loss::HalfContents => before.names.clone(),
        };
        let disk = Self::default();
        *disk.inner() = Inner {
            files,
            durable_names: names.clone(),
            names,
            steps: 0,
            fault: None,
        };
        Arc::new(disk)
    }
}

impl Inner {
    /// Counts a step; whether it is done whole.
    fn step(&mut self) -> Result<(), (bool, io::Error)> {
        let step = self.steps;
        self.steps += 1;
        match self.fault {
            Some(Fault::Off { from }) if step >= from => {
                Err((step == from, io::Error::from(io::ErrorKind::Other)))
            }
            Some(Fault::Once { at }) if step == at => {
                Err((true, io::Error::from(io::ErrorKind::StorageFull)))
            }
            _ => Ok(()),
        }
    }

    fn file(&mut self, name: &str) -> io::Result<&mut Contents> {
        let at = *self.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(&mut self.files[at])
    }

    fn create(&mut self, name: &str) -> &mut Contents {
        self.files.push(Contents::default());
        let at = self.files.len() - 1;
        self.names.insert(name.into(), at);
        &mut self.files[at]
    }
}

impl Storage for Disk {
    fn path(&self, name: &str) -> PathBuf {
        name.into()
    }

    fn read(&self, name: &str, _: usize) -> io::Result<Option<Stored>> {
        let mut inner = self.inner();
        Ok(inner.file(name).ok().map(|file| Stored {
            contents: file.now.clone(),
            mode: 0o600,
        }))
    }

    fn write(&self, name: &str, contents: &[u8]) -> io::Result<()> {
        let mut inner = self.inner();
        match inner.step() {
            Ok(()) => inner.create(name).now = contents.to_vec(),
            Err((half, error)) => {
                if half {
                    inner.create(name).now = contents[..contents.len() / 2].to_vec();
                }
                return Err(error);
            }
        }
        Ok(())
    }

    fn sync(&self, name: &str) -> io::Result<()> {
        let mut inner = self.inner();
        let synced = inner.step();
        let file = inner.file(name)?;
        match synced {
            Ok(()) => file.sync(),
            Err(_) => file.let_go = file.now.len(),
        }
        synced.map_err(|(_, error)| error)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut inner = self.inner();
        inner.step().map_err(|(_, error)| error)?;
        let at = inner.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        inner.names.insert(to.into(), at);
        Ok(())
    }

    fn sync_directory(&self) -> io::Result<()> {
        let mut inner = self.inner();
        inner.step().map_err(|(_, error)| error)?;
        inner.durable_names = inner.names.clone();
        Ok(())
    }

    fn append(&self, name: &str, contents: &[u8]) -> io::Result<()> {
        let mut inner = self.inner();
        let done = inner.step();
        let part = match &done {
            Ok(()) => contents,
            Err((true, _)) => &contents[..contents.len() / 2],
            Err((false, _)) => &[],
        };
        if !part.is_empty() {
            if inner.file(name).is_err() {
                inner.create(name);
            }
            inner.file(name)?.now.extend_from_slice(part);
        }
        done.map_err(|(_, error)| error)
    }

    fn length(&self, name: &str) -> io::Result<Option<u64>> {
        let mut inner = self.inner();
        Ok(inner.file(name).ok().map(|file| file.now.len() as u64))
    }

    fn read_at(&self, name: &str, offset: u64, limit: usize) -> io::Result<Vec<u8>> {
        let mut inner = self.inner();
        let Ok(file) = inner.file(name) else {
            return Ok(Vec::new());
        };
        let start = file.now.len().min(offset as usize);
        let end = file.now.len().min(start + limit);
        Ok(file.now[start..end].to_vec())
    }

    fn truncate(&self, name: &str, length: u64) -> io::Result<()> {
        let mut inner = self.inner();
        inner.step().map_err(|(_, error)| error)?;
        let file = inner.file(name)?;
        file.now.truncate(length as usize);
        file.let_go = file.let_go.min(length as usize);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut inner = self.inner();
        inner.step().map_err(|(_, error)| error)?;
        inner.names.remove(name);
        Ok(())
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.inner().names.keys().cloned().collect())
    }
}

/// What the world has seen of a CA.
#[derive(Default)]
struct Seen {
    released: Vec<IssuedX509>,
    sequence: u64,
    /// Steps of the life that failed.
    failed: usize,
    /// Whether the log took nothing for a while, since a sync of it had failed.
    log_lost: bool,
}

impl Seen {
    fn note<T>(&mut self, outcome: Result<T, String>) {
        if let Err(error) = outcome {
            self.failed += 1;
            self.log_lost |= error.contains("may have lost records");
        }
    }
}

fn open(
    disk: &Arc<Disk>,
    lock: &tempfile::TempDir,
    now: Timestamp,
) -> Result<TrustDomainCa, CaError> {
    let state = StateDir::open_with(lock.path(), &trust_domain(), disk.clone())?;
    ready(
        TrustDomainCa::builder(trust_domain())
            .state_dir(state)
            .build(now),
    )
}

/// A day and a half of a CA: issuance, rollovers of both kinds in both slots, a retired authority.
fn live(ca: &TrustDomainCa, seen: &mut Seen) -> Timestamp {
    let mut now = NOW;
    for hour in 0..36_u32 {
        now = NOW + HOUR * hour;
        let ticked = ready(ca.tick(now, &Evidence::complete([])));
        seen.note(ticked.map_err(|error| error.to_string()));
        if hour == BY_HAND {
            seen.note(roll(ca, now).map_err(|error| error.to_string()));
        }
        let issued = ready(ca.issue_x509(
            &web().with_ttl(HOUR * 6),
            key(KeyType::EcP256).public_key(),
            now,
        ));
        match issued {
            Ok(issued) => seen.released.push(issued),
            Err(error) => seen.note(Err::<(), _>(error.to_string())),
        }
        seen.sequence = seen.sequence.max(ca.bundle().sequence().unwrap());
    }
    now
}

/// A rollover by hand, with nothing after it that would sync the disk.
fn roll(ca: &TrustDomainCa, now: Timestamp) -> Result<(), CaError> {
    ready(ca.prepare(Kind::X509, now))?;
    ready(ca.activate(Kind::X509, &Evidence::complete([]), false, now))?;
    Ok(())
}

/// The hour of the rollover by hand, when nothing else is due.
const BY_HAND: u32 = 5;

#[track_caller]
fn check(ca: &TrustDomainCa, seen: &Seen, now: Timestamp, case: &str) {
    assert!(
        ca.bundle().sequence().unwrap() >= seen.sequence,
        "the bundle's number never goes back: {case}"
    );
    let bundles: BundleSet = [ca.bundle()].into_iter().collect();
    let verifier = X509Verifier::new(&*crypto());
    for issued in &seen.released {
        if issued.not_after > now {
            let verdict = verifier.verify(&issued.chain, &bundles, now, PeerRole::Client);
            assert!(
                verdict.is_ok(),
                "what was released verifies: {case}: {verdict:?}"
            );
        }
    }
    let issued = ready(ca.issue_x509(&web(), key(KeyType::EcP256).public_key(), now));
    assert!(issued.is_ok(), "it goes on: {case}: {issued:?}");
    for kind in [Kind::X509, Kind::Jwt] {
        assert!(ca.state().slots(kind).active().is_some(), "{case}");
    }
}

/// Serial numbers of the log that holds together.
#[track_caller]
fn logged(disk: &Disk, case: &str) -> Vec<String> {
    let mut serials = Vec::new();
    let verified = verify(disk, &*crypto(), |record| {
        serials.extend(record.serial.clone());
    });
    verified.unwrap_or_else(|error| panic!("{case}: {error}"));
    serials
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn power_lost_or_killed_at_any_step_leaves_the_same_trust_domain() {
    let lock = tempfile::tempdir().unwrap();
    let disk = Arc::new(Disk::default());
    let mut seen = Seen::default();
    let ca = open(&disk, &lock, NOW).unwrap();
    live(&ca, &mut seen);
    drop(ca);
    assert_eq!((seen.failed, seen.released.len()), (0, 36));
    let steps = disk.steps();
    assert!(steps > 60, "{steps}");

    for from in 0..steps {
        let disk = Disk::with_fault(Fault::Off { from });
        let mut seen = Seen::default();
        // The first start may be the one that the power ends.
        let now = match open(&disk, &lock, NOW) {
            Ok(ca) => live_until_off(&ca, &disk, from, &mut seen),
            Err(_) => NOW,
        };
        for loss in LOSSES {
            let case = format!("step {from} of {steps}, lost: {loss:?}");
            let disk = disk.restarted(loss);
            let ca = open(&disk, &lock, now).unwrap_or_else(|error| panic!("{case}: {error}"));
            check(&ca, &seen, now, &case);
            drop(ca);
            let serials = logged(&disk, &case);
            let mut unique = serials.clone();
            unique.sort();
            unique.dedup();
            assert_eq!(unique.len(), serials.len(), "{case}");
            if loss == Loss::None {
                for issued in &seen.released {
                    assert!(serials.contains(&hex(&issued.serial)), "{case}");
                }
            }
        }
    }
}

/// As [`live`], until the disk is off: what comes later, no crashed process would have done.
fn live_until_off(ca: &TrustDomainCa, disk: &Disk, from: usize, seen: &mut Seen) -> Timestamp {
    for hour in 0..36_u32 {
        let now = NOW + HOUR * hour;
        seen.sequence = seen.sequence.max(ca.bundle().sequence().unwrap());
        let _ = ready(ca.tick(now, &Evidence::complete([])));
        if hour == BY_HAND {
            let _ = roll(ca, now);
        }
        if disk.steps() > from {
            return now;
        }
        let issued = ready(ca.issue_x509(
            &web().with_ttl(HOUR * 6),
            key(KeyType::EcP256).public_key(),
            now,
        ));
        if disk.steps() > from {
            return now;
        }
        seen.released.push(issued.unwrap());
    }
    NOW + HOUR * 35
}

#[test]
fn a_step_that_fails_once_costs_that_step_alone() {
    let lock = tempfile::tempdir().unwrap();
    let disk = Arc::new(Disk::default());
    live(&open(&disk, &lock, NOW).unwrap(), &mut Seen::default());
    let mut logs_lost = 0;
    for at in 0..disk.steps() {
        let disk = Disk::with_fault(Fault::Once { at });
        let mut seen = Seen::default();
        let case = format!("step {at}");
        let ca = match open(&disk, &lock, NOW) {
            Ok(ca) => ca,
            // It is told, and the next try begins where that one ended.
            Err(_) => open(&disk, &lock, NOW).unwrap_or_else(|error| panic!("{case}: {error}")),
        };
        let now = live(&ca, &mut seen);
        disk.inner().fault = None;
        // A log whose sync failed takes nothing more until what it lost is written again, which the next tick does; a
        // rollover by hand and an issuance may come before that.
        logs_lost += usize::from(seen.log_lost);
        let failed = if seen.log_lost { 3 } else { 1 };
        assert!(
            seen.failed <= failed,
            "{case}: {} steps failed",
            seen.failed
        );
        let ticked = ready(ca.tick(now, &Evidence::complete([])));
        assert!(ticked.is_ok(), "{case}: {ticked:?}");
        check(&ca, &seen, now, &case);
        drop(ca);
        for loss in [Loss::None, Loss::Both] {
            let disk = disk.restarted(loss);
            let again = open(&disk, &lock, now).unwrap_or_else(|error| panic!("{case}: {error}"));
            check(&again, &seen, now, &case);
            drop(again);
            logged(&disk, &case);
        }
    }
    assert!(logs_lost > 0, "some of the steps are syncs of the log");
}

#[test]
fn what_a_killed_process_left_unsynced_is_safe_before_the_journal_counts_on_it() {
    let lock = tempfile::tempdir().unwrap();
    let disk = Arc::new(Disk::default());
    let issue = |ca: &TrustDomainCa| {
        ready(ca.issue_x509(&web(), key(KeyType::EcP256).public_key(), NOW)).unwrap()
    };
    let ca = open(&disk, &lock, NOW).unwrap();
    let issued = issue(&ca);
    // Killed: its end syncs nothing, and the system still holds all that was written.
    let steps = disk.steps();
    disk.inner().fault = Some(Fault::Off { from: steps });
    drop(ca);
    let mut inner = disk.inner();
    inner.fault = None;
    for file in &mut inner.files {
        file.let_go = 0;
    }
    drop(inner);
    let is_safe = |disk: &Disk, issued: &IssuedX509| {
        let lost = disk.restarted(Loss::Contents);
        logged(&lost, "after a loss of power").contains(&hex(&issued.serial))
    };
    assert!(!is_safe(&disk, &issued), "until somebody syncs it");

    let ca = open(&disk, &lock, NOW).unwrap();
    ready(ca.prepare(Kind::Jwt, NOW)).unwrap();
    ready(ca.tick(NOW, &Evidence::complete([]))).unwrap();
    // Before the end of this process, which syncs what is left.
    let disk = disk.restarted(Loss::Contents);
    drop(ca);
    for loss in LOSSES {
        let after = disk.restarted(loss);
        let again = open(&after, &lock, NOW).unwrap_or_else(|error| panic!("{loss:?}: {error}"));
        issue(&again);
    }
    assert!(is_safe(&disk, &issued));
}

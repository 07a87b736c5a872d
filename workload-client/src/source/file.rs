//! The file source: an SVID and bundles from files that another program writes and replaces.
//!
//! Such programs write one file after the other, some of them in place, so a reader can see a new certificate beside an
//! old key, or half a file. Nothing of that is published: the key must be the leaf's, the SVID must verify with the
//! bundle beside it, and no file may have changed while it was read. Until all that is so the files are read again, and
//! what was published last stays.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use spiffe_core::bundle::X509Authorities;
use spiffe_core::crypto::CryptoProvider;
use spiffe_core::verify::X509Verifier;
use spiffe_core::{
    Bundle, BundleSet, Clock, Publisher, Source, SystemClock, TrustDomain, X509Svid,
};
use tokio::sync::watch;
use zeroize::Zeroizing;

use super::aging::{Aging, NotYetValid, is_same};
use super::builder::default_crypto;
use super::follow::{EndpointState, Following, Running, State, runtime};
use super::survival::{Outlook, Readiness, Survival};
use super::x509::{check, usable};
use super::{DEFAULT_START_TIMEOUT, SourceStatus, StartError};
use crate::observe::{Event, Metrics, Observer};
use crate::update::MAX_SVIDS;

/// How often the files are looked at by default.
pub const DEFAULT_POLL_INTERVAL: Duration = Duration::from_secs(1);

/// The most bytes of one file: what a bundle document may have.
pub const MAX_FILE_BYTES: u64 = spiffe_core::bundle::MAX_BUNDLE_DOCUMENT_BYTES as u64;

/// The link of a delivery to the revision that counts.
pub(crate) const CURRENT: &str = "current";

/// How soon files that do not fit together are read again.
const TORN_RETRY: Duration = Duration::from_millis(50);

/// How many times before that is reported: whoever writes them takes milliseconds.
const TORN_RETRIES: u32 = 20;

/// Which files hold what. Paths are followed through symbolic links at every look.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Files {
    layout: Layout,
    federated: Vec<(TrustDomain, PathBuf)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Layout {
    /// A directory whose revisions are switched as a whole.
    Delivered(PathBuf),
    Named {
        svid: PathBuf,
        key: PathBuf,
        bundle: PathBuf,
    },
}

impl Files {
    /// Certificates in PEM, leaf first; the key in PEM (PKCS#8); and the bundle of the SVID's own trust domain, in PEM or
    /// as a SPIFFE bundle document. `svid` and `key` may be one file.
    pub fn new(
        svid: impl Into<PathBuf>,
        key: impl Into<PathBuf>,
        bundle: impl Into<PathBuf>,
    ) -> Self {
        Self::with(Layout::Named {
            svid: svid.into(),
            key: key.into(),
            bundle: bundle.into(),
        })
    }

    /// What `spiffe fetch --write DIRECTORY` and the module `delivery` keep: all SVIDs in their order, and the bundles of
    /// all trust domains with their X.509 and JWT authorities.
    ///
    /// Each look reads one revision, so nothing is ever torn, and a revision without SVIDs is what it says: they are
    /// withdrawn. Hints are not on disk.
    pub fn delivered(directory: impl Into<PathBuf>) -> Self {
        Self::with(Layout::Delivered(directory.into()))
    }

    /// The names of spiffe-helper's own examples in its `cert_dir`: `svid.pem`, `svid_key.pem`, `svid_bundle.pem`.
    ///
    /// Its `include_federated_domains` must be off: it writes the authorities of all trust domains into one file, and
    /// all would be taken as the own trust domain's.
    pub fn spiffe_helper(directory: impl AsRef<Path>) -> Self {
        Self::named(directory, ["svid.pem", "svid_key.pem", "svid_bundle.pem"])
    }

    /// The names of cert-manager's CSI driver for SPIFFE: `tls.crt`, `tls.key`, `ca.crt`.
    pub fn cert_manager(directory: impl AsRef<Path>) -> Self {
        Self::named(directory, ["tls.crt", "tls.key", "ca.crt"])
    }

    /// The names that `spiffe ca issue` writes: `svid.pem`, `key.pem`, `bundle.pem`.
    pub fn spiffe_ca(directory: impl AsRef<Path>) -> Self {
        Self::named(directory, ["svid.pem", "key.pem", "bundle.pem"])
    }

    /// The names of SPIRE's `api fetch -write`: `svid.0.pem`, `svid.0.key`, `bundle.0.pem`.
    pub fn spire_fetch(directory: impl AsRef<Path>) -> Self {
        Self::named(directory, ["svid.0.pem", "svid.0.key", "bundle.0.pem"])
    }

    fn named(directory: impl AsRef<Path>, [svid, key, bundle]: [&str; 3]) -> Self {
        let directory = directory.as_ref();
        Self::new(
            directory.join(svid),
            directory.join(key),
            directory.join(bundle),
        )
    }

    fn with(layout: Layout) -> Self {
        Self {
            layout,
            federated: Vec::new(),
        }
    }

    /// The bundle of a foreign trust domain, in PEM or as a SPIFFE bundle document. While it cannot be read that trust
    /// domain's last good bundle stays, and nothing else is held up.
    pub fn federated(mut self, trust_domain: TrustDomain, bundle: impl Into<PathBuf>) -> Self {
        self.federated.push((trust_domain, bundle.into()));
        self
    }

    fn is_delivered(&self) -> bool {
        matches!(self.layout, Layout::Delivered(_))
    }

    /// What is looked at for changes, each path once.
    fn paths(&self) -> Vec<PathBuf> {
        let mut paths = match &self.layout {
            Layout::Delivered(directory) => vec![directory.join(CURRENT)],
            Layout::Named { svid, key, bundle } => vec![svid.clone(), key.clone(), bundle.clone()],
        };
        paths.extend(self.federated.iter().map(|(_, path)| path.clone()));
        paths.sort_unstable();
        paths.dedup();
        paths
    }
}

/// Watches files and publishes what they hold whenever it fits together; clones are handles to the same task.
///
/// - A file is missing, unreadable, half written, or does not fit the others: what is published stays, the files are
///   read again at once and then at every look, and [`status`](Self::status) says why.
/// - The own bundle is empty: the same, since an emptied file is what a writer leaves between two writes.
/// - The SVID does not verify with the bundle for longer than a writer takes: the bundle counts all the same, and the
///   SVID that is held stays.
/// - There is no withdrawal: removing the files takes nothing back, and the SVID serves until it expires. Only
///   [`Files::delivered`] knows one.
///
/// - An SVID in a revision of [`Files::delivered`] has expired or does not verify: the others rotate all the same, and
///   what stands in for it is what [`X509Source`](super::X509Source) would use.
///
/// Files are looked at by their identity, size and times, and read only after a change, or again at every look while some
/// of what they hold cannot be used.
#[derive(Clone)]
pub struct FileSource {
    publisher: Publisher,
    following: Arc<Following>,
}

impl FileSource {
    /// Starts with defaults and waits up to [`DEFAULT_START_TIMEOUT`](super::DEFAULT_START_TIMEOUT) for files that fit
    /// together.
    ///
    /// # Errors
    ///
    /// [`StartError`].
    #[cfg(feature = "aws-lc-rs")]
    pub async fn new(files: Files) -> Result<Self, StartError> {
        Self::builder(files).build().await
    }

    /// Settings to change.
    pub fn builder(files: Files) -> FileSourceBuilder {
        FileSourceBuilder {
            files,
            clock: None,
            crypto: None,
            interval: DEFAULT_POLL_INTERVAL,
            timeout: DEFAULT_START_TIMEOUT,
            metrics: None,
        }
    }

    /// Waits, up to `within`, until files that fit together have been published.
    ///
    /// # Errors
    ///
    /// [`StartError`].
    pub async fn ready(&self, within: Duration) -> Result<(), StartError> {
        self.following.ready(within).await
    }

    /// How the source fares; [`EndpointState::Following`] while the files are good, [`EndpointState::Waiting`] while they
    /// are not.
    pub fn status(&self) -> SourceStatus {
        super::status(&self.following, &self.publisher, Readiness::of_svid)
    }

    /// Until when the source serves if the files never change again, and what ends first; `None` while it holds nothing.
    /// One atomic load.
    pub fn survives_until(&self) -> Option<Arc<Survival>> {
        self.following.survival()
    }

    /// Stops watching and returns once nothing runs any more. What is published stays as it is.
    pub async fn shutdown(&self) {
        self.following.shutdown().await;
    }
}

impl Source for FileSource {
    fn publisher(&self) -> &Publisher {
        &self.publisher
    }
}

impl fmt::Debug for FileSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileSource")
            .field("status", &self.status())
            .finish_non_exhaustive()
    }
}

/// Settings of a [`FileSource`].
#[derive(Debug)]
#[must_use]
pub struct FileSourceBuilder {
    files: Files,
    clock: Option<Arc<dyn Clock>>,
    crypto: Option<Arc<dyn CryptoProvider>>,
    interval: Duration,
    timeout: Duration,
    metrics: Option<Arc<dyn Metrics>>,
}

impl FileSourceBuilder {
    /// The clock; the system's otherwise.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = Some(clock);
        self
    }

    /// The cryptography that reads keys and checks signatures; AWS-LC otherwise, by the feature `aws-lc-rs`.
    pub fn crypto(mut self, crypto: Arc<dyn CryptoProvider>) -> Self {
        self.crypto = Some(crypto);
        self
    }

    /// How often the files are looked at; [`DEFAULT_POLL_INTERVAL`] otherwise.
    pub fn poll_interval(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }

    /// How long [`build`](Self::build) waits for files that fit together;
    /// [`DEFAULT_START_TIMEOUT`](super::DEFAULT_START_TIMEOUT) otherwise.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Where the events of the source are counted; nowhere otherwise.
    pub fn metrics(mut self, metrics: Arc<dyn Metrics>) -> Self {
        self.metrics = Some(metrics);
        self
    }

    /// Starts and waits until files that fit together have been published.
    ///
    /// # Errors
    ///
    /// [`StartError`]; the source is then stopped.
    pub async fn build(self) -> Result<FileSource, StartError> {
        let timeout = self.timeout;
        let source = self.start()?;
        source.ready(timeout).await?;
        Ok(source)
    }

    /// Starts without waiting: the source is empty until files fit together.
    ///
    /// # Errors
    ///
    /// [`StartError::NoCrypto`] or [`StartError::NoRuntime`].
    pub fn start(self) -> Result<FileSource, StartError> {
        let crypto = self
            .crypto
            .or_else(default_crypto)
            .ok_or(StartError::NoCrypto)?;
        let clock = self.clock.unwrap_or_else(|| Arc::new(SystemClock::new()));
        let publisher = Publisher::new();
        let outlook: Arc<Outlook> = Arc::default();
        let (state, states) = watch::channel(State::default());
        let watching = Watching {
            files: Arc::new(self.files),
            verifier: X509Verifier::new(&*crypto),
            crypto,
            clock: clock.clone(),
            interval: self.interval,
            publisher: publisher.clone(),
            report: Report {
                state,
                outlook: outlook.clone(),
                observer: Observer::new("files", self.metrics),
            },
            seen: None,
            failures: 0,
            aging: Aging::of_files(),
        };
        let running = Running::spawn(&runtime()?, watching.run());
        Ok(FileSource {
            publisher,
            following: Arc::new(Following {
                clock,
                state: states,
                outlook,
                keeper: Box::new(running),
            }),
        })
    }
}

/// What the task reports to; says that the task is gone when it is.
struct Report {
    state: watch::Sender<State>,
    outlook: Arc<Outlook>,
    observer: Observer,
}

impl Drop for Report {
    fn drop(&mut self) {
        self.state
            .send_modify(|state| state.endpoint = EndpointState::Stopped);
    }
}

/// What tells a file's contents from others without reading them.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mark {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Mark {
    /// `None` for a file that cannot be looked at, such as a missing one.
    fn of(path: &Path) -> Option<Self> {
        let metadata = std::fs::metadata(path).ok()?;
        Some(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

/// One reading of all files.
struct Reading {
    marks: Vec<Option<Mark>>,
    /// `None` when the files are those of the last good reading.
    found: Option<Result<Found, String>>,
}

struct Found {
    svids: Vec<X509Svid>,
    /// Of two bundles of one trust domain the later one counts.
    bundles: Vec<(TrustDomain, Result<Bundle, String>)>,
}

struct Watching {
    files: Arc<Files>,
    crypto: Arc<dyn CryptoProvider>,
    verifier: X509Verifier,
    clock: Arc<dyn Clock>,
    interval: Duration,
    publisher: Publisher,
    report: Report,
    /// The files that were published last, unless they are to be read again.
    seen: Option<Vec<Option<Mark>>>,
    /// Readings in a row that did not fit together.
    failures: u32,
    aging: Aging,
}

impl Watching {
    async fn run(mut self) {
        loop {
            self.look().await;
            self.age();
            let wait = if (1..TORN_RETRIES).contains(&self.failures) {
                TORN_RETRY
            } else {
                self.interval
            };
            let until = self.clock.monotonic().saturating_add(wait);
            self.clock.sleep_until(until).await;
        }
    }

    async fn look(&mut self) {
        let (files, crypto, seen) = (self.files.clone(), self.crypto.clone(), self.seen.clone());
        // A file may lie where reading it takes its time.
        let reading = tokio::task::spawn_blocking(move || read(&files, &*crypto, seen.as_ref()));
        let result = match reading.await {
            Ok(Reading { found: None, .. }) => return,
            Ok(Reading {
                marks,
                found: Some(found),
            }) => found
                .and_then(|found| self.publish(found))
                // What could not be used may be usable at the next look, without a change of the files.
                .map(|is_usable| is_usable.then_some(marks)),
            Err(error) => Err(format!("the files were not read: {error}")),
        };
        match result {
            Ok(marks) => {
                self.seen = marks;
                self.failures = 0;
            }
            Err(error) => {
                // The same files may come back, and then they are good again.
                self.seen = None;
                self.failures = self.failures.saturating_add(1);
                if self.failures >= TORN_RETRIES || !self.is_started() {
                    self.reported(error);
                }
            }
        }
    }

    /// Tells how what is held ages.
    fn age(&mut self) {
        let (current, survival) = (self.publisher.load(), self.report.outlook.load());
        let (survival, observer) = (survival.as_deref(), &self.report.observer);
        let (received, now) = (self.report.state.borrow().received, self.clock.now());
        let news = self.aging.look(&current, received, survival, now);
        if let Some(event) = news.as_ref().and_then(|news| news.event(survival)) {
            observer.event(&event);
        } else if news.is_some() {
            let away = None;
            observer.event(&Event::Recovered { away, survival });
        }
    }

    fn is_started(&self) -> bool {
        self.report.state.borrow().ready
    }

    fn reported(&self, error: String) {
        let is_new = self.report.state.send_if_modified(|state| {
            let is_new = state.last_error.as_ref() != Some(&error);
            state.last_error = Some(error.clone());
            state.endpoint = EndpointState::Waiting;
            is_new
        });
        if is_new {
            self.report
                .observer
                .event(&Event::Discarded { error: &error });
        }
    }

    /// Publishes what was found; says whether all of it could be used.
    fn publish(&mut self, found: Found) -> Result<bool, String> {
        let current = self.publisher.load();
        let now = self.clock.now();
        let mut bundles = BundleSet::new();
        let mut problem = None;
        for (trust_domain, bundle) in found.bundles {
            match bundle {
                Ok(bundle) => bundles.insert(bundle),
                Err(reason) => {
                    if let Some(held) = current.bundles().get(trust_domain.as_ref()) {
                        bundles.insert(held.clone());
                    }
                    problem.get_or_insert(reason);
                }
            }
        }
        let bundles = if bundles.same_authorities(current.bundles()) {
            current.bundles().clone()
        } else {
            Arc::new(bundles)
        };
        let known = |svid: X509Svid| {
            let held = current.svids().iter().find(|held| is_same(held, &svid));
            held.cloned().unwrap_or_else(|| Arc::new(svid))
        };
        let offered: Vec<_> = found.svids.into_iter().map(known).collect();
        let is_withdrawn = offered.is_empty();
        let svids = if self.files.is_delivered() {
            // Nothing is torn in a revision: what cannot be used in it is what was delivered.
            let held = current.svids();
            let (svids, unusable) = usable(&self.verifier, &offered, held, &bundles, now);
            problem = unusable.or(problem);
            svids.unwrap_or_else(|| held.to_vec())
        } else {
            let check = |svid: &Arc<X509Svid>| check(&self.verifier, svid, &bundles, now);
            if let Err(error) = offered.iter().try_for_each(check) {
                if self.failures + 1 >= TORN_RETRIES {
                    // No writer takes so long: an authority that is gone must not stay trusted for the SVID's sake.
                    self.published(current.svids().to_vec(), bundles)?;
                }
                return Err(error);
            }
            offered
        };
        let is_enough = !svids.is_empty();
        let is_new = self.published(svids, bundles)?;
        if is_withdrawn && !current.svids().is_empty() {
            self.report.observer.event(&Event::Withdrawn);
        }
        let is_usable = problem.is_none();
        if !is_new && !is_usable && self.report.state.borrow().last_error == problem {
            return Ok(false);
        }
        if let Some(problem) = &problem {
            self.report.observer.event(&Event::UsedInPart { problem });
        }
        self.report.state.send_modify(|state| {
            state.endpoint = EndpointState::Following;
            state.ready |= is_enough;
            state.withdrawn = is_withdrawn;
            state.last_update = Some(now);
            state.last_error = problem;
        });
        Ok(is_usable)
    }

    /// Publishes a set unless it is published already; says whether it was not.
    fn published(
        &self,
        svids: Vec<Arc<X509Svid>>,
        bundles: Arc<BundleSet>,
    ) -> Result<bool, String> {
        let current = self.publisher.load();
        let is_known = Arc::ptr_eq(&bundles, current.bundles())
            && svids.len() == current.svids().len()
            && svids
                .iter()
                .zip(current.svids())
                .all(|(a, b)| Arc::ptr_eq(a, b));
        if is_known {
            return Ok(false);
        }
        let published = self.publisher.publish(svids, bundles);
        published.map_err(|error| format!("the files were refused: {error}"))?;
        let now = self.clock.now();
        let published = self.publisher.load();
        let survival = Survival::of(&published, &self.verifier, now);
        self.report.observer.event(&Event::Updated {
            published: &published,
            survival: survival.as_ref(),
        });
        if let Some(svid) = &NotYetValid::of(&published, now) {
            self.report.observer.event(&Event::NotYetValid { svid });
        }
        self.report.outlook.holds(survival);
        let state = |state: &mut State| state.published(&current, &published, Some(now));
        self.report.state.send_modify(state);
        Ok(true)
    }
}

/// Reads all files, unless they are those that were `seen`.
fn read(files: &Files, crypto: &dyn CryptoProvider, seen: Option<&Vec<Option<Mark>>>) -> Reading {
    let marks = || -> Vec<_> { files.paths().iter().map(|path| Mark::of(path)).collect() };
    let before = marks();
    if seen == Some(&before) {
        return Reading {
            marks: before,
            found: None,
        };
    }
    let found = match &files.layout {
        Layout::Delivered(directory) => parse_delivered(directory, crypto),
        Layout::Named { svid, key, bundle } => {
            parse([svid, key, bundle], crypto).and_then(|found| {
                if marks() == before {
                    Ok(found)
                } else {
                    Err("the files changed while they were read".into())
                }
            })
        }
    };
    let found = found.map(|mut found| {
        let federated = files.federated.iter().map(|(trust_domain, path)| {
            let bundle = bundle(path, trust_domain.clone());
            (trust_domain.clone(), bundle)
        });
        found.bundles.splice(..0, federated);
        found
    });
    Reading {
        marks: before,
        found: Some(found),
    }
}

fn parse([svid, key, own]: [&Path; 3], crypto: &dyn CryptoProvider) -> Result<Found, String> {
    let found = self::svid(svid, key, crypto)?;
    let trust_domain = found.trust_domain().to_owned();
    let own = own_bundle(own, trust_domain.clone())?;
    Ok(Found {
        svids: vec![found],
        bundles: vec![(trust_domain, Ok(own))],
    })
}

/// One revision of a delivery, found once: the names of revisions are never used twice.
fn parse_delivered(directory: &Path, crypto: &dyn CryptoProvider) -> Result<Found, String> {
    let current = directory.join(CURRENT);
    let failed = |error: io::Error| format!("{} cannot be read: {error}", current.display());
    let revision = std::fs::canonicalize(&current).map_err(failed)?;
    let mut svids = Vec::new();
    while svids.len() < MAX_SVIDS {
        let path = revision.join(format!("credential_bundle.{}.pem", svids.len()));
        if !path.try_exists().map_err(failed)? {
            break;
        }
        svids.push(svid(&path, &path, crypto)?);
    }
    let mut bundles = BTreeMap::new();
    let entries = match std::fs::read_dir(revision.join("bundles")) {
        Ok(entries) => Some(entries),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(failed(error)),
    };
    for entry in entries.into_iter().flatten() {
        let name = entry.map_err(failed)?.file_name();
        let stem = name.to_str().and_then(|name| name.strip_suffix(".json"));
        let Some(Ok(trust_domain)) = stem.map(TrustDomain::parse) else {
            continue;
        };
        let path = revision.join("bundles").join(&name);
        bundles.insert(trust_domain.clone(), bundle(&path, trust_domain));
    }
    for (number, svid) in svids.iter().enumerate() {
        let own = svid.trust_domain().to_owned();
        match bundles.get(&own) {
            Some(Ok(_)) => {}
            Some(Err(reason)) => return Err(reason.clone()),
            // A name too long for that of a file has its authorities in the numbered one.
            None => {
                let path = revision.join(format!("bundle.{number}.pem"));
                bundles.insert(own.clone(), Ok(own_bundle(&path, own)?));
            }
        }
    }
    // The writer removes what was current once, file by file: only one that still is was read whole.
    if std::fs::canonicalize(&current).map_err(failed)? != revision {
        return Err(format!(
            "{} was switched while it was read",
            current.display()
        ));
    }
    Ok(Found {
        svids,
        bundles: bundles.into_iter().collect(),
    })
}

/// An SVID from its chain and its key, which may be one file.
fn svid(chain: &Path, key: &Path, crypto: &dyn CryptoProvider) -> Result<X509Svid, String> {
    let text_of_chain = text(chain)?;
    let svid = if key == chain {
        X509Svid::from_pem(&text_of_chain, &text_of_chain, crypto)
    } else {
        X509Svid::from_pem(&text_of_chain, &text(key)?, crypto)
    };
    svid.map_err(|error| {
        let (svid, key) = (chain.display(), key.display());
        format!("{svid} and {key} are no X509-SVID: {error}")
    })
}

fn own_bundle(path: &Path, trust_domain: TrustDomain) -> Result<Bundle, String> {
    let own = bundle(path, trust_domain)?;
    if own.x509_authorities().is_empty() {
        let path = path.display();
        return Err(format!("{path} holds no authority; is it being written?"));
    }
    Ok(own)
}

/// A bundle by its first character: a SPIFFE bundle document, or PEM.
fn bundle(path: &Path, trust_domain: TrustDomain) -> Result<Bundle, String> {
    let text = text(path)?;
    let bundle = if text.trim_start().starts_with('{') {
        Bundle::from_spiffe_json(trust_domain, text.as_bytes())
    } else {
        X509Authorities::from_pem(&text)
            .map(|authorities| Bundle::new(trust_domain).with_x509_authorities(authorities))
    };
    bundle.map_err(|error| format!("{} is no bundle: {error}", path.display()))
}

/// A whole file, wiped when it is dropped: it may hold a key.
fn text(path: &Path) -> Result<Zeroizing<String>, String> {
    let read = || -> io::Result<Zeroizing<String>> {
        let file = File::open(path)?;
        let size = file.metadata()?.len();
        let mut text = Zeroizing::new(String::new());
        // Room for all of it at once: a buffer that grows leaves copies behind.
        text.reserve_exact(usize::try_from(size.min(MAX_FILE_BYTES)).unwrap_or_default() + 1);
        file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text)?;
        if text.len() as u64 > MAX_FILE_BYTES {
            let limit = format!("it has more than {MAX_FILE_BYTES} bytes");
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, limit));
        }
        Ok(text)
    };
    read().map_err(|error| format!("{} cannot be read: {error}", path.display()))
}

//! One X509-SVID per entry: issued when first wanted, renewed in its slot, replaced when the authority demands it.
//!
//! A single task does all of it and publishes what there is as one immutable [`View`]; readers take the newest and wait
//! for the next. What to do when is decided by [`ledger`] and [`schedule`], which neither wait nor look at a clock.
//!
//! **Invariant:** an SVID leaves the view only for its replacement, with its entry, or because it expired. A failed
//! renewal leaves the old one in place.

mod ledger;
mod schedule;

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::FutureExt;
use futures_util::stream::{FuturesUnordered, StreamExt};
use spiffe_core::crypto::CryptoProvider;
use spiffe_core::key::{KeyError, KeyType, PrivateKey};
use spiffe_core::{Clock, Timestamp, X509Svid};
use spiffe_registration::Entry;
use tokio::sync::{mpsc, watch};

use crate::error::IssueError;
use crate::svid_authority::{AuthorityState, SvidAuthority};
use ledger::{Attempt, Ledger};

pub(crate) use ledger::Standing;

/// The authority's state and the X509-SVIDs that belong to it, as of one moment.
#[derive(Debug)]
pub(crate) struct View {
    /// The authority's state.
    pub(crate) state: AuthorityState,
    /// Grows when other entries stand than before, by a change or because one's time is over.
    pub(crate) entries_revision: u64,
    standings: HashMap<String, Standing>,
}

impl View {
    /// What is known of the SVID of the entry with this ID; `None` until it is [demanded](SvidCache::demand).
    pub(crate) fn standing(&self, entry_id: &str) -> Option<&Standing> {
        self.standings.get(entry_id)
    }
}

/// Handle on the cache; clones are handles on the same.
#[derive(Clone, Debug)]
pub(crate) struct SvidCache {
    views: watch::Receiver<Arc<View>>,
    demands: mpsc::UnboundedSender<Vec<String>>,
}

/// What the cache works with.
#[derive(Clone, Debug)]
pub(crate) struct CacheConfig {
    pub(crate) authority: Arc<dyn SvidAuthority>,
    pub(crate) crypto: Arc<dyn CryptoProvider>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) key_type: KeyType,
    /// Whether every entry is issued an SVID before anybody asks.
    pub(crate) prefetch: bool,
    /// Over how long the replacement of what a tainted authority signed is spread.
    pub(crate) reissue_over: Duration,
}

impl SvidCache {
    /// A cache, and the task that drives it until the last handle is dropped.
    pub(crate) fn new(config: CacheConfig) -> (Self, impl Future<Output = ()> + Send) {
        let state = config.authority.state();
        let (publisher, views) = watch::channel(Arc::new(View {
            state: state.clone(),
            entries_revision: 0,
            standings: HashMap::new(),
        }));
        let (demands, demanded) = mpsc::unbounded_channel();
        let driver = Driver {
            config,
            publisher,
            demanded,
            state,
            entries_revision: 0,
            next_entry_end: None,
            ledger: Ledger::default(),
        };
        (Self { views, demands }, driver.run())
    }

    /// The views from now on; the newest is there at once.
    pub(crate) fn views(&self) -> watch::Receiver<Arc<View>> {
        let mut views = self.views.clone();
        views.mark_changed();
        views
    }

    /// Wants SVIDs from now on for the entries with these IDs. A view follows in which each has a [`Standing`], unless it is no
    /// entry any more.
    pub(crate) fn demand(&self, entry_ids: Vec<String>) {
        // The driver outlives all handles except when the server is torn down; then nobody waits for the answer.
        let _ = self.demands.send(entry_ids);
    }
}

struct Driver {
    config: CacheConfig,
    publisher: watch::Sender<Arc<View>>,
    demanded: mpsc::UnboundedReceiver<Vec<String>>,
    state: AuthorityState,
    entries_revision: u64,
    /// When the next entry's time is over.
    next_entry_end: Option<Timestamp>,
    ledger: Ledger,
}

impl Driver {
    async fn run(mut self) {
        let CacheConfig {
            authority, clock, ..
        } = self.config.clone();
        let mut attempts = FuturesUnordered::new();
        self.adopt();
        let mut stale = true;
        loop {
            if self.next_entry_end.is_some_and(|end| end <= clock.now()) {
                self.adopt();
                stale = true;
            }
            if self.ledger.expire(clock.now()) {
                tracing::warn!("an X509-SVID expired before it could be replaced");
                stale = true;
            }
            if stale {
                self.publish();
            }
            let room = MAX_ATTEMPTS - attempts.len();
            for attempt in self.ledger.due(clock.now(), clock.monotonic(), room) {
                attempts.push(make(self.config.clone(), attempt));
            }
            let wake = clock.sleep_until(self.wake_at(room > 0));
            stale = tokio::select! {
                biased;
                () = authority.changed(self.state.revision) => {
                    self.state = authority.state();
                    self.adopt();
                    true
                }
                demanded = self.demanded.recv() => {
                    let Some(demanded) = demanded else { return };
                    self.take_demands(demanded);
                    true
                }
                Some((attempt, outcome)) = attempts.next() => {
                    self.settle(attempt, outcome);
                    while let Some(Some((attempt, outcome))) = attempts.next().now_or_never() {
                        self.settle(attempt, outcome);
                    }
                    true
                }
                () = wake => false,
            };
        }
    }

    /// When to look again if nothing happens before.
    fn wake_at(&self, may_attempt: bool) -> Duration {
        let (now, monotonic) = (self.config.clock.now(), self.config.clock.monotonic());
        let entry_end = self
            .next_entry_end
            .map(|end| monotonic + end.saturating_since(now));
        let ledger = self
            .ledger
            .next_wake(now, monotonic)
            .filter(|_| may_attempt);
        let longest = monotonic + MAX_SLEEP;
        [entry_end, ledger]
            .into_iter()
            .flatten()
            .fold(longest, Duration::min)
    }

    /// Brings the ledger up to the state of this moment.
    fn adopt(&mut self) {
        let now = self.config.clock.now();
        let entries: HashMap<&str, &Entry> = current_entries(&self.state, now)
            .map(|entry| (entry.id(), entry))
            .collect();
        self.ledger.adopt(&entries, self.state.generation);
        let CacheConfig {
            authority,
            clock,
            reissue_over,
            ..
        } = &self.config;
        let own = self.state.bundles.get(authority.trust_domain().as_ref());
        // Without a bundle there is nothing to judge by.
        if let Some(own) = own.filter(|own| !own.x509_authorities().is_empty()) {
            let monotonic = clock.monotonic();
            let after = |svid: &X509Svid| schedule::reissue_after(svid, *reissue_over);
            let replaced = self.ledger.judge(own.x509_authorities(), monotonic, after);
            if replaced > 0 {
                tracing::warn!(svids = replaced, over = ?reissue_over, "replacing X509-SVIDs whose authority was tainted or withdrawn");
            }
        }
        self.entries_revision += 1;
        self.next_entry_end = entries
            .values()
            .filter_map(|entry| entry.params().expires_at)
            .min();
        if self.config.prefetch {
            for entry in entries.values() {
                if !entry.params().disable_x509_svid_prefetch {
                    self.ledger.demand(entry);
                }
            }
        }
    }

    /// Takes this demand, and those that came meanwhile.
    fn take_demands(&mut self, mut entry_ids: Vec<String>) {
        while let Ok(more) = self.demanded.try_recv() {
            entry_ids.extend(more);
        }
        let wanted: HashSet<String> = entry_ids.into_iter().collect();
        // They may come from a view before the last: only what is an entry now gets an SVID.
        for entry in current_entries(&self.state, self.config.clock.now()) {
            if wanted.contains(entry.id()) {
                self.ledger.demand(entry);
            }
        }
    }

    fn settle(&mut self, attempt: Attempt, outcome: Result<X509Svid, IssueError>) {
        let CacheConfig {
            clock,
            reissue_over,
            ..
        } = &self.config;
        let spiffe_id = attempt.entry.spiffe_id();
        match outcome {
            Ok(svid) => {
                let renew_at = schedule::renew_at(&svid, clock.now());
                let again_at = clock.monotonic() + (*reissue_over).max(MIN_REISSUE_INTERVAL);
                tracing::info!(
                    %spiffe_id,
                    entry = attempt.entry.id(),
                    serial = svid.serial_hex(),
                    not_after = %svid.not_after(),
                    %renew_at,
                    "X509-SVID {}",
                    if attempt.is_renewal { "renewed" } else { "issued" }
                );
                self.ledger
                    .succeed(attempt, Arc::new(svid), renew_at, again_at);
            }
            Err(error) => {
                tracing::warn!(
                    %spiffe_id,
                    entry = attempt.entry.id(),
                    %error,
                    "X509-SVID not issued: trying again"
                );
                self.ledger.fail(&attempt, clock.monotonic(), |failures| {
                    schedule::retry_after(spiffe_id.as_ref(), failures)
                });
            }
        }
    }

    fn publish(&self) {
        self.publisher.send_replace(Arc::new(View {
            state: self.state.clone(),
            entries_revision: self.entries_revision,
            standings: self.ledger.standings(),
        }));
    }
}

/// The entries that give workloads an identity at `now`; those for SVID stores are not for the Workload API.
fn current_entries(state: &AuthorityState, now: Timestamp) -> impl Iterator<Item = &Entry> {
    state
        .entries
        .entries()
        .iter()
        .filter(move |entry| entry.is_current(now) && !entry.params().store_svid)
}

/// Makes one attempt, within its time.
async fn make(config: CacheConfig, attempt: Attempt) -> (Attempt, Result<X509Svid, IssueError>) {
    let deadline = config.clock.monotonic() + ISSUE_TIMEOUT;
    let outcome = tokio::select! {
        outcome = issue(&config, &attempt.entry) => outcome,
        () = config.clock.sleep_until(deadline) => Err(IssueError::TimedOut {
            after: ISSUE_TIMEOUT,
        }),
    };
    (attempt, outcome)
}

async fn issue(config: &CacheConfig, entry: &Entry) -> Result<X509Svid, IssueError> {
    let key = generate_key(config).await?;
    let signer = config.crypto.load_key(&key)?;
    let chain = config.authority.issue_x509(entry, &*signer).await?;
    let svid = X509Svid::new(chain, key, &*config.crypto)?;
    if svid.id() != entry.spiffe_id() {
        return Err(IssueError::OtherId {
            got: svid.id().clone(),
        });
    }
    if svid.not_after() < config.clock.now() {
        return Err(IssueError::Expired);
    }
    Ok(svid)
}

async fn generate_key(config: &CacheConfig) -> Result<PrivateKey, KeyError> {
    match config.key_type {
        // Searching primes takes seconds at times; curves take microseconds.
        kind @ (KeyType::Rsa2048 | KeyType::Rsa4096) => {
            let crypto = Arc::clone(&config.crypto);
            tokio::task::spawn_blocking(move || crypto.generate_key(kind))
                .await
                .unwrap_or(Err(KeyError::Generation))
        }
        kind => config.crypto.generate_key(kind),
    }
}

/// Attempts made at once: a forced rotation of thousands of SVIDs does not flood the authority.
const MAX_ATTEMPTS: usize = 16;

/// How long an authority may take: as long as SPIRE's agent gives its server.
pub(crate) const ISSUE_TIMEOUT: Duration = Duration::from_secs(30);

/// The least time between two replacements of an SVID for its authority's sake: one whose successor is no better is not
/// asked for in a loop.
const MIN_REISSUE_INTERVAL: Duration = Duration::from_secs(60);

/// The longest wait between two looks, since renewal times are the calendar's, and it may be set while we wait.
const MAX_SLEEP: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests;

//! The task that keeps a directory as its sources say, and somebody told of it.

use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{Either, join_all, select, select_all};
use spiffe_core::snapshot::Revision;
use spiffe_core::{BoxFuture, Clock, JwtSvid, Random, Source, SpiffeId, Timestamp, Watch};
use tokio::sync::watch;
use tracing::{debug, info, warn};

use super::{DeliveryDirectory, DeliveryError, FileSet, Material, Notifier};
use crate::source::backoff::{Backoff, Jitter};
use crate::source::tokens::Held;
use crate::source::{JwtSource, StartError};

/// How often delivered files are compared with what they should be: what others did to them lasts no longer.
pub const RECHECK: Duration = Duration::from_secs(60);

/// The soonest that a token is asked for again, which leaves the source the time to renew one that is due.
const TOKEN_PAUSE: Duration = Duration::from_secs(5);

/// A token to be delivered.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TokenRequest {
    /// All the audiences that the token names.
    pub audiences: Vec<String>,
    /// Whose token; the default identity's when `None`.
    pub id: Option<SpiffeId>,
}

impl TokenRequest {
    /// A token of the default identity for these audiences.
    pub fn new(audiences: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            audiences: audiences.into_iter().map(Into::into).collect(),
            id: None,
        }
    }

    /// A token of this identity.
    #[must_use]
    pub fn of(mut self, id: Option<SpiffeId>) -> Self {
        self.id = id;
        self
    }
}

/// How a delivery fares.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct DeliveryStatus {
    /// The number of the revision on disk; `None` before the first delivery of this process.
    pub revision: Option<u64>,
    /// How many X509-SVIDs are in it. None once the source holds none, even where their files could not be removed.
    pub svids: usize,
    /// Whether the revision is empty, since the source holds nothing any more.
    pub withdrawn: bool,
    /// When it was delivered or last found to be as it should.
    pub checked_at: Option<Timestamp>,
    /// The revision that somebody was told of last; `None` where nobody is to be told.
    pub told: Option<u64>,
    /// What went wrong in the last attempt; `None` after a good one.
    pub last_error: Option<DeliveryError>,
    /// How many attempts have failed in a row.
    pub failures: u32,
    /// How long after the last failure the next attempt is made; an update is delivered at once.
    pub retry_in: Option<Duration>,
}

/// Keeps a directory filled; ends when it is dropped or [`shut down`](Self::shutdown).
///
/// - Every update of a source is delivered as a revision, and the notifier told of it.
/// - What fails is tried again with back-off, and reported in [`status`](Self::status); the revision before stays.
/// - Withdrawn material is removed from the disk at once.
/// - Once a minute the files are compared with what they should be, and mended.
///
/// Nothing is delivered before the source has published something, so that what an earlier process delivered stays while the
/// Workload API is away.
#[derive(Debug)]
pub struct Delivery {
    status: watch::Receiver<DeliveryStatus>,
    stop: watch::Sender<bool>,
}

impl Delivery {
    /// Settings, for delivery of what this source holds into this directory.
    pub fn builder(directory: DeliveryDirectory, source: impl Source) -> DeliveryBuilder {
        DeliveryBuilder {
            directory,
            source: Arc::new(source),
            jwt: None,
            requests: Vec::new(),
            notifier: None,
            random: Arc::new(Jitter),
        }
    }

    /// How it fares.
    pub fn status(&self) -> DeliveryStatus {
        self.status.borrow().clone()
    }

    /// Waits until the status is another than the one seen last; `None` once it has ended.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing.
    pub async fn changed(&mut self) -> Option<DeliveryStatus> {
        self.status.changed().await.ok()?;
        Some(self.status.borrow_and_update().clone())
    }

    /// Ends the task and waits until it has ended. The files stay; a revision that is being written is completed, and the
    /// directory is locked until then.
    pub async fn shutdown(self) {
        let _ = self.stop.send(true);
        let mut status = self.status;
        // The task owns the sender: an error means that it is gone.
        while status.changed().await.is_ok() {}
    }
}

/// Settings of a [`Delivery`].
#[derive(Debug)]
#[must_use]
pub struct DeliveryBuilder {
    directory: DeliveryDirectory,
    source: Arc<dyn Source>,
    jwt: Option<JwtSource>,
    requests: Vec<TokenRequest>,
    notifier: Option<Arc<dyn Notifier>>,
    random: Arc<dyn Random>,
}

impl DeliveryBuilder {
    /// Delivers the JWT authorities of this source as well, and a token for each of `requests`, in their order.
    pub fn tokens(
        mut self,
        jwt: JwtSource,
        requests: impl IntoIterator<Item = TokenRequest>,
    ) -> Self {
        self.jwt = Some(jwt);
        self.requests = requests.into_iter().collect();
        self
    }

    /// Who is told of each new revision.
    pub fn notifier(mut self, notifier: impl Notifier) -> Self {
        self.notifier = Some(Arc::new(notifier));
        self
    }

    /// The randomness that spreads attempts after a failure.
    pub fn random(mut self, random: Arc<dyn Random>) -> Self {
        self.random = random;
        self
    }

    /// Delivers what the sources hold now and tells of it, once.
    ///
    /// # Errors
    ///
    /// The first [`DeliveryError`]; what could be delivered is.
    pub async fn once(self, clock: Arc<dyn Clock>) -> Result<DeliveryStatus, DeliveryError> {
        let (mut task, status) = Task::new(self, clock);
        if task.attempt().await.is_zero() {
            task.attempt().await;
        }
        let status = status.borrow().clone();
        match status.last_error {
            Some(error) => Err(error),
            None => Ok(status),
        }
    }

    /// Starts the task.
    ///
    /// # Errors
    ///
    /// [`StartError::NoRuntime`].
    pub fn start(self, clock: Arc<dyn Clock>) -> Result<Delivery, StartError> {
        let runtime = tokio::runtime::Handle::try_current().map_err(|_| StartError::NoRuntime)?;
        let (task, status) = Task::new(self, clock);
        let (stop, stopped) = watch::channel(false);
        runtime.spawn(task.run(stopped));
        Ok(Delivery { status, stop })
    }
}

struct Task {
    /// `None` while a thread that may block has it.
    directory: Option<DeliveryDirectory>,
    path: PathBuf,
    source: Arc<dyn Source>,
    jwt: Option<JwtSource>,
    requests: Vec<TokenRequest>,
    notifier: Option<Arc<dyn Notifier>>,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    backoff: Backoff,
    /// Whether no X509-SVID is on disk.
    is_clear: bool,
    status: watch::Sender<DeliveryStatus>,
}

/// What an attempt has come to.
#[derive(Default)]
struct Outcome {
    error: Option<DeliveryError>,
    revision: Option<u64>,
    told: Option<u64>,
    svids: usize,
    withdrawn: bool,
    /// When a token is due to be asked for again.
    token_due: Option<Duration>,
}

impl Task {
    fn new(
        settings: DeliveryBuilder,
        clock: Arc<dyn Clock>,
    ) -> (Self, watch::Receiver<DeliveryStatus>) {
        let (status, watched) = watch::channel(DeliveryStatus::default());
        let task = Self {
            path: settings.directory.path().to_owned(),
            directory: Some(settings.directory),
            source: settings.source,
            jwt: settings.jwt,
            requests: settings.requests,
            notifier: settings.notifier,
            clock,
            random: settings.random,
            backoff: Backoff::default(),
            is_clear: false,
            status,
        };
        (task, watched)
    }

    async fn run(mut self, mut stop: watch::Receiver<bool>) {
        // An error means that the handle was dropped.
        let stopped = pin!(async move { stop.wait_for(|stop| *stop).await.map(drop) });
        select(stopped, pin!(self.follow())).await;
        debug!(directory = %self.path.display(), "the delivery stopped");
    }

    async fn follow(&mut self) {
        loop {
            // Before anything is read, so that no change is missed.
            let mut wake: Vec<BoxFuture<'static, ()>> = Vec::new();
            for source in self.sources() {
                let changed = source.changed(source.current().revision());
                wake.push(Box::pin(async move {
                    let _ = changed.await;
                }));
            }
            if self.is_ready() {
                let due = self.attempt().await;
                let until = self.clock.monotonic().saturating_add(due);
                wake.push(self.clock.sleep_until(until));
            }
            select_all(wake).await;
        }
    }

    fn sources(&self) -> impl Iterator<Item = &dyn Source> {
        let jwt = self.jwt.as_ref().map(|jwt| jwt as &dyn Source);
        std::iter::once(&*self.source).chain(jwt)
    }

    /// Whether there is anything to say: the source has published.
    fn is_ready(&self) -> bool {
        self.source.current().revision() > Revision::default()
    }

    /// Delivers and tells; returns how long to wait, when nothing changes, until the next attempt.
    async fn attempt(&mut self) -> Duration {
        let outcome = self.deliver().await;
        let retry_in = outcome.error.as_ref().map(|error| {
            let delay = self.backoff.failed(&*self.random);
            warn!(directory = %self.path.display(), %error, ?delay, "a delivery failed; trying again");
            delay
        });
        if retry_in.is_none() {
            self.backoff = Backoff::default();
        }
        let now = self.clock.now();
        self.status.send_modify(|status| {
            if outcome.revision.is_some() {
                status.revision = outcome.revision;
                status.withdrawn = outcome.withdrawn;
                status.checked_at = Some(now);
            }
            if outcome.revision.is_some() || outcome.svids == 0 {
                status.svids = outcome.svids;
            }
            status.told = outcome.told.or(status.told);
            status.failures = match outcome.error {
                Some(_) => status.failures.saturating_add(1),
                None => 0,
            };
            status.last_error = outcome.error;
            status.retry_in = retry_in;
        });
        [retry_in, outcome.token_due]
            .into_iter()
            .flatten()
            .fold(RECHECK, Duration::min)
    }

    async fn deliver(&mut self) -> Outcome {
        let mut outcome = Outcome::default();
        let tokens = self.tokens_unless_withdrawn(&mut outcome).await;
        let is_cut_short = tokens.is_none();
        let current = self.source.current();
        outcome.svids = current.svids().len();
        let material = Material {
            svids: current.svids().to_vec(),
            bundles: current.bundles().clone(),
            jwt_bundles: self
                .jwt
                .as_ref()
                .map_or_else(Arc::default, |jwt| jwt.current().bundles().clone()),
            tokens: tokens.unwrap_or_default(),
        };
        outcome.withdrawn = material.is_empty();
        let written = match FileSet::new(&material) {
            Ok(files) => self.on_disk(move |directory| directory.write(&files)).await,
            Err(error) => Err(error),
        };
        self.is_clear = outcome.svids == 0
            && written
                .as_ref()
                .is_ok_and(|written| written.leftover.is_none());
        let revision = match written {
            Ok(written) => {
                if is_cut_short && self.is_clear {
                    outcome.token_due = Some(Duration::ZERO);
                }
                let (directory, revision) = (self.path.display(), written.revision);
                if written.is_new && outcome.withdrawn {
                    warn!(%directory, revision, "withdrawn: the files are removed");
                } else if written.is_new {
                    info!(%directory, revision, "delivered");
                }
                outcome.error = outcome.error.or(written.leftover);
                outcome.revision = Some(written.revision);
                written.revision
            }
            Err(error) => {
                outcome.error = Some(error);
                return outcome;
            }
        };
        match self.tell(revision).await {
            Ok(told) => outcome.told = told,
            Err(error) => outcome.error = Some(error),
        }
        outcome
    }

    /// The tokens that can be had; `None` where X509-SVIDs are to go from the disk, which does not wait for tokens.
    async fn tokens_unless_withdrawn(
        &self,
        outcome: &mut Outcome,
    ) -> Option<Vec<Option<Arc<JwtSvid>>>> {
        let tokens = pin!(self.tokens(outcome));
        match select(tokens, pin!(self.to_clear())).await {
            Either::Left((tokens, _)) => Some(tokens),
            Either::Right(_) => None,
        }
    }

    /// Waits until the source has no X509-SVID and the disk may have one.
    async fn to_clear(&self) {
        if self.is_clear {
            std::future::pending::<()>().await;
        }
        loop {
            let current = self.source.current();
            if current.svids().is_empty() {
                return;
            }
            self.source.changed(current.revision()).await;
        }
    }

    /// The tokens that can be had.
    async fn tokens(&self, outcome: &mut Outcome) -> Vec<Option<Arc<JwtSvid>>> {
        let Some(jwt) = &self.jwt else {
            return Vec::new();
        };
        let fetches = self.requests.iter().map(|request| {
            let audiences = request.audiences.iter().cloned();
            jwt.held(audiences, request.id.clone())
        });
        let fetched = join_all(fetches).await;
        let now = self.clock.now();
        let mut tokens = Vec::with_capacity(fetched.len());
        for (request, fetched) in self.requests.iter().zip(fetched) {
            match fetched {
                Ok(Held { token, renew_at }) => {
                    // One that is due is being renewed, or was tried to be, which nothing tells of.
                    let look_in = renew_at.saturating_since(now).max(TOKEN_PAUSE);
                    let sooner = |soonest: Duration| soonest.min(look_in);
                    outcome.token_due = Some(outcome.token_due.map_or(look_in, sooner));
                    tokens.push(Some(token));
                }
                Err(error) => {
                    outcome.error = Some(DeliveryError::Token {
                        audience: request.audiences.join(","),
                        reason: error.to_string(),
                    });
                    tokens.push(None);
                }
            }
        }
        tokens
    }

    /// Tells of a revision, unless that was done; says who knows what.
    async fn tell(&mut self, revision: u64) -> Result<Option<u64>, DeliveryError> {
        let Some(notifier) = self.notifier.clone() else {
            return Ok(None);
        };
        if self.on_disk(DeliveryDirectory::told).await? != Some(revision) {
            notifier.notify(&self.path, revision).await?;
            self.on_disk(move |directory| directory.set_told(revision))
                .await?;
        }
        Ok(Some(revision))
    }

    /// Lets a thread that may block work on the directory.
    async fn on_disk<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut DeliveryDirectory) -> Result<T, DeliveryError> + Send + 'static,
    ) -> Result<T, DeliveryError> {
        let mut directory = match self.directory.take() {
            Some(directory) => directory,
            // The work was interrupted by the end of the task; there is nobody left to do more.
            None => std::future::pending().await,
        };
        let done = tokio::task::spawn_blocking(move || {
            let done = work(&mut directory);
            (directory, done)
        });
        match done.await {
            Ok((directory, done)) => {
                self.directory = Some(directory);
                done
            }
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // The runtime is ending.
            Err(_) => std::future::pending().await,
        }
    }
}

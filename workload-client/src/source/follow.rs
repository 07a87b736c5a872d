//! One task that follows one stream of the Workload API for as long as its source lives.
//!
//! Transport loss keeps what is published, PERMISSION_DENIED withdraws it after the grace, INVALID_ARGUMENT and
//! UNIMPLEMENTED end the task: Workload API §4.2, Workload Endpoint §6 and Appendix A. What a message means is the
//! [`Feed`]'s business.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{Either, select};
use spiffe_core::snapshot::Rejection;
use spiffe_core::{BoxFuture, Clock, Random, Timestamp};
use tokio::sync::watch;
use tracing::{debug, info, warn};

use super::StartError;
use super::backoff::Backoff;
use super::outages::Outages;
use super::survival::{Outlook, Survival};
use crate::client::{Responses, WorkloadApiClient};
use crate::error::{ClientError, ResponseError};
use crate::update::Notice;

/// What one profile does with its stream.
pub(super) trait Feed: Send + 'static {
    /// A message of the stream.
    type Response: Send + 'static;

    /// What the source is called in events.
    const NAME: &'static str;

    /// Asks for the stream.
    fn open(
        client: &WorkloadApiClient,
    ) -> BoxFuture<'_, Result<Responses<Self::Response>, ClientError>>;

    /// Publishes a message.
    fn apply(&mut self, response: Self::Response, now: Timestamp) -> Result<Applied, Refused>;

    /// Publishes that nothing is held any more.
    fn withdraw(&mut self) -> Result<(), Rejection>;

    /// How long what is published lasts.
    fn survival(&self, now: Timestamp) -> Option<Survival>;
}

/// What became of a message that was published.
pub(super) struct Applied {
    /// What was passed over in it.
    pub(super) notices: Vec<Notice>,
    /// What could not be used of it, if anything.
    pub(super) problem: Option<String>,
    /// Whether it is enough to start with.
    pub(super) is_enough: bool,
}

impl Applied {
    /// All of it was used, and it is enough.
    pub(super) fn whole(notices: &[Notice]) -> Self {
        Self {
            notices: notices.to_vec(),
            problem: None,
            is_enough: true,
        }
    }
}

/// Why a message was not published.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    #[error(transparent)]
    Response(#[from] ResponseError),
    #[error("an update was refused and the last good one stays: {0}")]
    Rejected(#[from] Rejection),
}

/// What a source's connection to its endpoint is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EndpointState {
    /// A request is under way.
    Connecting,
    /// A stream is open and updates arrive as they happen.
    Following,
    /// The last request failed and the next one waits for its time.
    Waiting,
    /// No further request is made: the source was shut down, or the endpoint said not to ask again.
    Stopped,
}

/// What the task tells those who ask about it.
#[derive(Clone, Debug)]
pub(super) struct State {
    pub(super) endpoint: EndpointState,
    pub(super) last_error: Option<String>,
    pub(super) last_update: Option<Timestamp>,
    pub(super) notices: Vec<Notice>,
    pub(super) withdrawn: bool,
    pub(super) ready: bool,
    /// The error after which nothing was asked again.
    ended_by: Option<ClientError>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            endpoint: EndpointState::Connecting,
            last_error: None,
            last_update: None,
            notices: Vec::new(),
            withdrawn: false,
            ready: false,
            ended_by: None,
        }
    }
}

/// What a task reports to.
pub(super) struct Reporter {
    pub(super) state: watch::Sender<State>,
    pub(super) outlook: Arc<Outlook>,
}

/// Settings of a task.
#[derive(Clone)]
pub(super) struct Settings {
    pub(super) client: WorkloadApiClient,
    pub(super) random: Arc<dyn Random>,
    pub(super) grace: Duration,
}

/// The handle of a task; the task ends when the last handle is dropped.
#[derive(Debug)]
pub(super) struct Following {
    clock: Arc<dyn Clock>,
    state: watch::Receiver<State>,
    outlook: Arc<Outlook>,
    stop: watch::Sender<bool>,
}

impl Following {
    /// Starts the task that follows a stream.
    pub(super) fn start<F: Feed>(
        feed: F,
        settings: Settings,
        outlook: Arc<Outlook>,
        outages: Arc<Outages>,
    ) -> Result<Self, StartError> {
        let clock = settings.client.clock().clone();
        Self::spawn(clock.clone(), outlook, |report| {
            Task {
                feed,
                settings,
                clock,
                backoff: Backoff::default(),
                withdraw_at: None,
                away_since: None,
                outages,
                report,
            }
            .follow()
        })
    }

    /// Runs what `task` makes, on this thread's runtime, until it ends or the last handle is dropped.
    pub(super) fn spawn<T: Future<Output = ()> + Send + 'static>(
        clock: Arc<dyn Clock>,
        outlook: Arc<Outlook>,
        task: impl FnOnce(Reporter) -> T,
    ) -> Result<Self, StartError> {
        let runtime = tokio::runtime::Handle::try_current().map_err(|_| StartError::NoRuntime)?;
        let (state, states) = watch::channel(State::default());
        let (stop, mut stopped) = watch::channel(false);
        let task = task(Reporter {
            state: state.clone(),
            outlook: outlook.clone(),
        });
        runtime.spawn(async move {
            {
                // An error means that the last handle was dropped.
                let stopped = pin!(stopped.wait_for(|stop| *stop));
                select(stopped, pin!(task)).await;
            }
            debug!("the source stopped");
            state.send_modify(|state| state.endpoint = EndpointState::Stopped);
        });
        Ok(Self {
            clock,
            state: states,
            outlook,
            stop,
        })
    }

    pub(super) fn survival(&self) -> Option<Arc<Survival>> {
        self.outlook.load()
    }

    pub(super) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub(super) fn state(&self) -> State {
        self.state.borrow().clone()
    }

    /// Waits for the first update that is enough to start with.
    pub(super) async fn ready(&self, within: Duration) -> Result<(), StartError> {
        let mut states = self.state.clone();
        let until = self
            .clock
            .sleep_until(self.clock.monotonic().saturating_add(within));
        let settled = states.wait_for(|state| state.ready || state.ended_by.is_some());
        let settled = match select(pin!(settled), until).await {
            Either::Left((settled, _)) => settled.map(|state| state.clone()).ok(),
            Either::Right(_) => {
                let last_error = self.state.borrow().last_error.clone();
                return Err(StartError::TimedOut {
                    after: within,
                    last_error: last_error
                        .unwrap_or_else(|| "the Workload API has not answered".into()),
                });
            }
        };
        match settled {
            Some(state) if state.ready => Ok(()),
            Some(State {
                ended_by: Some(error),
                ..
            }) => Err(StartError::Refused(error)),
            _ => Err(StartError::ShutDown),
        }
    }

    /// Ends the task and waits until it has ended.
    pub(super) async fn shutdown(&self) {
        let _ = self.stop.send(true);
        let mut states = self.state.clone();
        // The task owns the sender: an error means that it is gone.
        while states.changed().await.is_ok() {}
    }
}

struct Task<F> {
    feed: F,
    settings: Settings,
    clock: Arc<dyn Clock>,
    backoff: Backoff,
    /// When what is published is withdrawn, once the endpoint has said that there is nothing.
    withdraw_at: Option<Duration>,
    /// Since when there has been no good stream.
    away_since: Option<Duration>,
    outages: Arc<Outages>,
    report: Reporter,
}

/// How one stream went.
struct Session {
    /// The time of its first good message.
    good_since: Option<Duration>,
    error: ClientError,
}

impl<F: Feed> Task<F> {
    async fn follow(mut self) {
        loop {
            let session = self.session().await;
            let error = session.error;
            self.away_since
                .get_or_insert_with(|| self.clock.monotonic());
            let is_final = !error.is_retryable();
            if is_final {
                warn!(source = F::NAME, %error, "no updates from the Workload API; not asking again");
            } else {
                warn!(source = F::NAME, %error, "no updates from the Workload API; asking again");
            }
            self.report.state.send_modify(|state| {
                state.last_error = Some(error.to_string());
                state.endpoint = EndpointState::Waiting;
                state.ended_by = is_final.then(|| error.clone());
            });
            if is_final {
                return;
            }
            if matches!(error, ClientError::PermissionDenied { .. }) {
                self.denied();
            }
            let random = &*self.settings.random;
            let now = self.clock.monotonic();
            let lasted = session.good_since.map(|since| now.saturating_sub(since));
            let delay = match (lasted, &error) {
                (Some(lasted), ClientError::StreamEnded | ClientError::Transport { .. }) => {
                    self.backoff.ended(lasted, random)
                }
                _ => {
                    self.backoff.worked(lasted.unwrap_or_default());
                    self.backoff.failed(random)
                }
            };
            if !delay.is_zero() {
                let until = self.clock.monotonic() + delay;
                let wait = self.clock.sleep_until(until);
                self.or_withdraw(wait).await;
            }
        }
    }

    /// Follows one stream to its end.
    async fn session(&mut self) -> Session {
        self.report
            .state
            .send_modify(|state| state.endpoint = EndpointState::Connecting);
        let client = self.settings.client.clone();
        let mut good_since = None;
        let mut responses = match self.or_withdraw(F::open(&client)).await {
            Ok(responses) => responses,
            Err(error) => return Session { good_since, error },
        };
        loop {
            let response = match self.or_withdraw(responses.next()).await {
                Ok(response) => response,
                Err(error) => return Session { good_since, error },
            };
            if self.apply(response) && good_since.is_none() {
                good_since = Some(self.clock.monotonic());
            }
        }
    }

    /// Publishes a message; says whether it was good.
    fn apply(&mut self, response: F::Response) -> bool {
        let now = self.clock.now();
        match self.feed.apply(response, now) {
            Ok(applied) => {
                if let Some(since) = self.away_since.take() {
                    self.outages
                        .ended(self.clock.monotonic().saturating_sub(since));
                }
                self.withdraw_at = None;
                self.report.outlook.goes_at(None);
                self.report.outlook.holds(self.feed.survival(now));
                for notice in &applied.notices {
                    warn!(source = F::NAME, %notice, "a part of an update was passed over");
                }
                match &applied.problem {
                    Some(problem) => {
                        warn!(source = F::NAME, %problem, "an update was used in part")
                    }
                    None => debug!(source = F::NAME, "an update was published"),
                }
                self.report.state.send_modify(|state| {
                    state.endpoint = EndpointState::Following;
                    state.ready |= applied.is_enough;
                    state.last_error = applied.problem;
                    state.last_update = Some(now);
                    state.notices = applied.notices;
                    state.withdrawn = false;
                });
                true
            }
            Err(error) => {
                warn!(source = F::NAME, %error, "an update was discarded");
                self.report.state.send_modify(|state| {
                    state.endpoint = EndpointState::Following;
                    state.last_error = Some(error.to_string());
                });
                false
            }
        }
    }

    /// The endpoint says that there is nothing for this workload: what is published goes after the grace.
    fn denied(&mut self) {
        let grace = self.settings.grace;
        if grace.is_zero() {
            self.withdraw();
        } else if self.withdraw_at.is_none() {
            self.withdraw_at = Some(self.clock.monotonic().saturating_add(grace));
            let outlook = &self.report.outlook;
            outlook.goes_at(Some(self.clock.now() + grace));
        }
    }

    fn withdraw(&mut self) {
        self.withdraw_at = None;
        self.report.outlook.goes_at(None);
        match self.feed.withdraw() {
            Ok(()) => {
                info!(
                    source = F::NAME,
                    "what the Workload API withdrew is no longer used"
                );
                let now = self.clock.now();
                self.report.outlook.holds(self.feed.survival(now));
                self.report
                    .state
                    .send_modify(|state| state.withdrawn = true);
            }
            Err(error) => {
                warn!(source = F::NAME, %error, "a withdrawal was refused");
                let error = format!("a withdrawal was refused: {error}");
                self.report
                    .state
                    .send_modify(|state| state.last_error = Some(error));
            }
        }
    }

    /// Awaits `future`, withdrawing meanwhile when the time for that comes.
    async fn or_withdraw<T>(&mut self, future: impl Future<Output = T>) -> T {
        let future = pin!(future);
        let Some(at) = self.withdraw_at else {
            return future.await;
        };
        match select(future, self.clock.sleep_until(at)).await {
            Either::Left((output, _)) => output,
            Either::Right(((), future)) => {
                self.withdraw();
                future.await
            }
        }
    }
}

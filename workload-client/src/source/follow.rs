//! What a source holds of the task behind it: how it fares, and the means to end it.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{Either, select};
use spiffe_core::snapshot::Snapshot;
use spiffe_core::{BoxFuture, Clock, Timestamp};
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::StartError;
use super::aging::is_same;
use super::survival::{Outlook, Survival};
use crate::error::ClientError;
use crate::update::Notice;

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
    /// When the default SVID that is published came; `None` without one, or when an earlier run left it.
    pub(super) received: Option<Timestamp>,
    pub(super) notices: Vec<Notice>,
    pub(super) withdrawn: bool,
    pub(super) ready: bool,
    /// The error after which nothing was asked again.
    pub(super) ended_by: Option<ClientError>,
}

impl State {
    /// Another default SVID may have been published, which came at `at`; one that comes again came when it first did.
    pub(super) fn published(&mut self, before: &Snapshot, after: &Snapshot, at: Option<Timestamp>) {
        match (before.svid(), after.svid()) {
            (Ok(before), Ok(after)) if is_same(before, after) => {}
            (_, after) => self.received = at.filter(|_| after.is_ok()),
        }
    }
}

impl Default for State {
    fn default() -> Self {
        Self {
            endpoint: EndpointState::Connecting,
            last_error: None,
            last_update: None,
            received: None,
            notices: Vec::new(),
            withdrawn: false,
            ready: false,
            ended_by: None,
        }
    }
}

/// A source's part of a task; dropped with the last handle of the source.
pub(super) struct Following {
    pub(super) clock: Arc<dyn Clock>,
    pub(super) state: watch::Receiver<State>,
    pub(super) outlook: Arc<Outlook>,
    pub(super) keeper: Box<dyn Keeper>,
}

/// Keeps a task alive for as long as it is held.
pub(super) trait Keeper: Send + Sync {
    /// Ends the source's part of the task and waits until it has ended.
    fn stop(&self) -> BoxFuture<'_, ()>;
}

impl Following {
    pub(super) fn state(&self) -> State {
        self.state.borrow().clone()
    }

    pub(super) fn survival(&self) -> Option<Arc<Survival>> {
        self.outlook.load()
    }

    pub(super) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Waits for the first update that is enough to start with.
    pub(super) async fn ready(&self, within: Duration) -> Result<(), StartError> {
        let mut states = self.state.clone();
        let until = self
            .clock
            .sleep_until(self.clock.monotonic().saturating_add(within));
        let is_settled = |state: &State| state.ready || state.endpoint == EndpointState::Stopped;
        let settled = match select(pin!(states.wait_for(is_settled)), until).await {
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

    /// Ends the source's part of the task and waits until it has ended.
    pub(super) async fn shutdown(&self) {
        self.keeper.stop().await;
    }
}

/// A task that ends when this is dropped.
#[derive(Debug)]
pub(super) struct Running {
    stop: watch::Sender<bool>,
    /// Closed once the task is gone, with its runtime or before.
    done: watch::Receiver<()>,
}

impl Running {
    pub(super) fn spawn(runtime: &Handle, task: impl Future<Output = ()> + Send + 'static) -> Self {
        let (stop, mut stopped) = watch::channel(false);
        let (alive, done) = watch::channel(());
        runtime.spawn(async move {
            // Moved in, so that it goes with the task however that ends.
            let _alive = alive;
            // An error means that the last handle was dropped.
            let stopped = pin!(stopped.wait_for(|stop| *stop));
            select(stopped, pin!(task)).await;
        });
        Self { stop, done }
    }
}

impl Keeper for Running {
    fn stop(&self) -> BoxFuture<'_, ()> {
        let _ = self.stop.send(true);
        let mut done = self.done.clone();
        Box::pin(async move { while done.changed().await.is_ok() {} })
    }
}

/// This thread's runtime.
pub(super) fn runtime() -> Result<Handle, StartError> {
    Handle::try_current().map_err(|_| StartError::NoRuntime)
}

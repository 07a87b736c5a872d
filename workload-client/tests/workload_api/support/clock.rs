//! Time that stands still until a test moves it.

use std::time::Duration;

use spiffe_workload_client::spiffe_core::{BoxFuture, Clock, Timestamp};
use tokio::sync::watch;

/// 2026-11-20T08:00:00Z.
pub(crate) const START: Timestamp = Timestamp::from_unix_seconds(1_795_161_600);

#[derive(Debug)]
pub(crate) struct VirtualClock {
    state: watch::Sender<State>,
}

#[derive(Debug, Default)]
struct State {
    elapsed: Duration,
    /// How far the calendar has been set ahead and back.
    ahead: Duration,
    back: Duration,
    deadlines: Vec<Duration>,
}

impl VirtualClock {
    pub(crate) fn new() -> Self {
        let (state, _) = watch::channel(State::default());
        Self { state }
    }

    /// Moves time on.
    pub(crate) fn advance(&self, by: Duration) {
        self.state.send_modify(|state| state.elapsed += by);
    }

    /// Sets the calendar ahead; time as it is waited for does not move.
    pub(crate) fn set_ahead(&self, by: Duration) {
        self.state.send_modify(|state| state.ahead += by);
    }

    /// Sets the calendar back.
    pub(crate) fn set_back(&self, by: Duration) {
        self.state.send_modify(|state| state.back += by);
    }

    /// Resolves once somebody waits for an instant at most `within` ahead.
    pub(crate) async fn somebody_waits(&self, within: Duration) {
        let mut states = self.state.subscribe();
        let waits = |state: &State| {
            let ahead = state.elapsed..=state.elapsed + within;
            state.deadlines.iter().any(|at| ahead.contains(at))
        };
        states.wait_for(waits).await.unwrap();
    }

    /// Moves time on to where whoever waits for an instant at most `by` ahead has it.
    pub(crate) async fn pass(&self, by: Duration) {
        self.somebody_waits(by).await;
        self.advance(by);
    }
}

impl Clock for VirtualClock {
    fn now(&self) -> Timestamp {
        let state = self.state.borrow();
        START + state.elapsed + state.ahead - state.back
    }

    fn monotonic(&self) -> Duration {
        self.state.borrow().elapsed
    }

    fn sleep_until(&self, deadline: Duration) -> BoxFuture<'static, ()> {
        let sleeper = Sleeper {
            state: self.state.clone(),
            deadline,
        };
        sleeper
            .state
            .send_modify(|state| state.deadlines.push(deadline));
        Box::pin(async move {
            let mut states = sleeper.state.subscribe();
            let _ = states.wait_for(|state| state.elapsed >= deadline).await;
        })
    }
}

/// One who waits; gone from the list when dropped.
struct Sleeper {
    state: watch::Sender<State>,
    deadline: Duration,
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        self.state.send_modify(|state| {
            let at = state.deadlines.iter().position(|at| *at == self.deadline);
            state.deadlines.swap_remove(at.unwrap());
        });
    }
}

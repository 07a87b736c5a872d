//! A clock on which time passes only while everybody waits.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;

use spiffe_core::{BoxFuture, Clock, Timestamp};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// Virtual time on a current-thread tokio runtime.
///
/// While a task can run, time stands still; once every task waits, it jumps to the nearest deadline, to the nanosecond. So a
/// month of rotation takes as long as its work, and the same program runs the same way each time.
///
/// ```
/// use std::time::Duration;
///
/// use spiffe_core::{Clock, Timestamp};
/// use spiffe_testkit::VirtualClock;
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// let clock = VirtualClock::start("2026-11-20T08:00:00Z".parse()?);
/// clock.sleep(Duration::from_secs(30 * 86_400)).await;
/// assert_eq!(clock.now().to_string(), "2026-12-20T08:00:00Z");
/// # Ok::<(), spiffe_core::TimestampError>(()) }).unwrap();
/// ```
#[derive(Clone, Debug)]
pub struct VirtualClock {
    epoch: Timestamp,
    shared: Arc<Shared>,
    _driver: Arc<Driver>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    somebody_waits: Notify,
}

#[derive(Debug, Default)]
struct State {
    passed: Duration,
    /// By how much the calendar was set forward and back, altogether.
    forward: Duration,
    back: Duration,
    next: u64,
    /// By deadline, then by the order of asking.
    waiting: BTreeMap<(Duration, u64), Waker>,
}

impl VirtualClock {
    /// Begins at `epoch`, and stops the runtime's own time to learn when nothing can run.
    ///
    /// # Panics
    ///
    /// Outside a current-thread tokio runtime with timers, and when the runtime's time is stopped already: one virtual
    /// clock serves a whole test.
    pub fn start(epoch: Timestamp) -> Self {
        tokio::time::pause();
        let shared = Arc::new(Shared::default());
        let driver = tokio::spawn(drive(shared.clone()));
        Self {
            epoch,
            shared,
            _driver: Arc::new(Driver(driver)),
        }
    }

    /// Waits for a span of virtual time.
    pub async fn sleep(&self, span: Duration) {
        self.sleep_until(self.monotonic() + span).await;
    }

    /// Sets the calendar forward, as somebody may who sets the clock. The monotonic reading stays, and who waits waits on.
    pub fn step_forward(&self, by: Duration) {
        self.shared.state().forward += by;
    }

    /// Sets the calendar back; as [`Self::step_forward`].
    pub fn step_back(&self, by: Duration) {
        self.shared.state().back += by;
    }

    /// Waits until the calendar reads `when`; returns at once when it is past.
    pub async fn sleep_until_time(&self, when: Timestamp) {
        self.sleep(when.saturating_since(self.now())).await;
    }
}

impl Clock for VirtualClock {
    fn now(&self) -> Timestamp {
        let state = self.shared.state();
        self.epoch + state.passed + state.forward - state.back
    }

    fn monotonic(&self) -> Duration {
        self.shared.state().passed
    }

    fn sleep_until(&self, deadline: Duration) -> BoxFuture<'static, ()> {
        let shared = self.shared.clone();
        let mut asked = None;
        Box::pin(std::future::poll_fn(move |context| {
            let mut state = shared.state();
            if state.passed >= deadline {
                return Poll::Ready(());
            }
            let number = *asked.get_or_insert_with(|| {
                state.next += 1;
                state.next
            });
            state
                .waiting
                .insert((deadline, number), context.waker().clone());
            shared.somebody_waits.notify_one();
            Poll::Pending
        }))
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Jumps from deadline to deadline. With the runtime's time stopped, its shortest sleep ends once nothing can run.
async fn drive(shared: Arc<Shared>) {
    loop {
        if shared.state().waiting.is_empty() {
            shared.somebody_waits.notified().await;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
        let mut state = shared.state();
        if let Some(((deadline, _), waker)) = state.waiting.pop_first() {
            state.passed = state.passed.max(deadline);
            drop(state);
            waker.wake();
        }
    }
}

/// Ends the driving with the last clock.
#[derive(Debug)]
struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

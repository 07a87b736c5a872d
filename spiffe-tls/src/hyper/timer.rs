//! Our clock as hyper asks for it.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper::rt::{Sleep, Timer};
use spiffe_core::{BoxFuture, Clock};

/// A [`Clock`] as hyper's timer: its deadlines for slow requests and idle connections.
#[derive(Clone, Debug)]
pub struct ClockTimer {
    clock: Arc<dyn Clock>,
    /// What the clock's zero is called.
    zero: Instant,
}

impl ClockTimer {
    /// A timer that measures by this clock.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            // Only differences count, so any instant may stand for zero.
            zero: Instant::now(),
        }
    }
}

impl Timer for ClockTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        let until = self.clock.monotonic().saturating_add(duration);
        Box::pin(Sleeping(Mutex::new(self.clock.sleep_until(until))))
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        let until = deadline.saturating_duration_since(self.zero);
        Box::pin(Sleeping(Mutex::new(self.clock.sleep_until(until))))
    }

    fn now(&self) -> Instant {
        self.zero + self.clock.monotonic()
    }
}

/// In a mutex that nobody waits for, since hyper wants to share what it polls alone.
struct Sleeping(Mutex<BoxFuture<'static, ()>>);

impl Future for Sleeping {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let sleep = self.0.get_mut().unwrap_or_else(PoisonError::into_inner);
        sleep.as_mut().poll(context)
    }
}

impl Sleep for Sleeping {}

impl fmt::Debug for Sleeping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sleeping").finish_non_exhaustive()
    }
}

//! Time as both clocks tell it: the calendar, which can be set, and the stopwatch, which may stand still while the machine
//! sleeps.

use std::time::Duration;

use spiffe_core::{Clock, Timestamp};

/// Both readings of a clock at one moment, past or to come.
#[derive(Clone, Copy)]
pub(super) struct Clocks {
    pub(super) calendar: Timestamp,
    pub(super) stopwatch: Duration,
}

impl Clocks {
    pub(super) fn read(clock: &dyn Clock) -> Self {
        Self {
            calendar: clock.now(),
            stopwatch: clock.monotonic(),
        }
    }

    /// When both have moved on by so much.
    pub(super) fn later(self, by: Duration) -> Self {
        Self {
            calendar: self.calendar + by,
            stopwatch: self.stopwatch.saturating_add(by),
        }
    }

    /// How long it is until `later`, by the clock that is there first.
    pub(super) fn until(&self, later: &Self) -> Duration {
        let by_calendar = later.calendar.saturating_since(self.calendar);
        let by_stopwatch = later.stopwatch.saturating_sub(self.stopwatch);
        by_calendar.min(by_stopwatch)
    }

    /// How far the calendar is from where the stopwatch says it should be.
    pub(super) fn parted(&self, later: &Self) -> Duration {
        let expected = self.later(later.stopwatch.saturating_sub(self.stopwatch));
        let (now, then) = (later.calendar, expected.calendar);
        now.saturating_since(then).max(then.saturating_since(now))
    }
}

//! When to ask again: at once after a stream that worked, later and later otherwise (Workload API §4.2, Workload Endpoint §6).

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use spiffe_core::{Random, RandomError};

/// The delay after the first failure.
pub const FIRST_DELAY: Duration = Duration::from_millis(500);

/// The longest delay.
pub const MAX_DELAY: Duration = Duration::from_secs(30);

/// Counts failures in a row and says how long to wait after each.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// A stream ended in good order or lost its connection, `lasted` after its first good message.
    ///
    /// The first reconnection is immediate. A stream that did not last [`FIRST_DELAY`] does not earn the next one, so a
    /// server that answers and closes is not asked in a tight loop.
    pub(crate) fn ended(&mut self, lasted: Duration, random: &dyn Random) -> Duration {
        self.worked(lasted);
        if self.failures == 0 {
            self.failures = 1;
            return Duration::ZERO;
        }
        self.failures = 1;
        self.delay(0, random)
    }

    /// A stream was good for so long: failures before it are history, however it ended.
    pub(crate) fn worked(&mut self, lasted: Duration) {
        if lasted >= FIRST_DELAY {
            self.failures = 0;
        }
    }

    /// A request failed.
    pub(crate) fn failed(&mut self, random: &dyn Random) -> Duration {
        let doublings = self.failures.saturating_sub(1);
        self.failures = self.failures.saturating_add(1).max(2);
        self.delay(doublings, random)
    }

    /// Between half and the whole of the delay, so that clients that failed together do not return together.
    fn delay(&self, doublings: u32, random: &dyn Random) -> Duration {
        let whole = FIRST_DELAY
            .saturating_mul(1 << doublings.min(16))
            .min(MAX_DELAY);
        let mut bytes = [0; 4];
        match random.fill(&mut bytes) {
            Ok(()) => {
                let fraction = f64::from(u32::from_be_bytes(bytes)) / f64::from(u32::MAX);
                whole / 2 + (whole / 2).mul_f64(fraction)
            }
            Err(RandomError { .. }) => whole,
        }
    }
}

/// Randomness good enough to spread clients, from the keys that the standard library gives its hash maps.
#[derive(Debug)]
pub(crate) struct Jitter;

impl Random for Jitter {
    fn fill(&self, bytes: &mut [u8]) -> Result<(), RandomError> {
        for chunk in bytes.chunks_mut(8) {
            let number = RandomState::new().hash_one(chunk.len());
            chunk.copy_from_slice(&number.to_be_bytes()[..chunk.len()]);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fills with one byte, or fails.
    #[derive(Debug)]
    struct Fixed(Option<u8>);

    impl Random for Fixed {
        fn fill(&self, bytes: &mut [u8]) -> Result<(), RandomError> {
            bytes.fill(self.0.ok_or(RandomError::new())?);
            Ok(())
        }
    }

    const MOST: Fixed = Fixed(Some(0xff));

    #[track_caller]
    fn failures(backoff: &mut Backoff, seconds: &[f64]) {
        for seconds in seconds {
            assert_eq!(backoff.failed(&MOST), Duration::from_secs_f64(*seconds));
        }
    }

    #[test]
    fn failures_double_the_delay_up_to_the_cap() {
        let mut backoff = Backoff::default();
        failures(&mut backoff, &[0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]);
        backoff.failures = u32::MAX;
        failures(&mut backoff, &[30.0]);
    }

    #[test]
    fn a_stream_that_worked_is_followed_by_another_at_once() {
        let mut backoff = Backoff::default();
        failures(&mut backoff, &[0.5, 1.0, 2.0]);
        assert_eq!(backoff.ended(FIRST_DELAY, &MOST), Duration::ZERO);
        failures(&mut backoff, &[0.5, 1.0]);
    }

    #[test]
    fn streams_that_end_at_once_are_spaced() {
        let mut backoff = Backoff::default();
        assert_eq!(backoff.ended(Duration::ZERO, &MOST), Duration::ZERO);
        for _ in 0..3 {
            assert_eq!(backoff.ended(Duration::ZERO, &MOST), FIRST_DELAY);
        }
        assert_eq!(backoff.ended(FIRST_DELAY, &MOST), Duration::ZERO);
    }

    #[test]
    fn delays_are_spread_over_their_upper_half() {
        assert_eq!(Backoff::default().failed(&Fixed(Some(0))), FIRST_DELAY / 2);
        assert_eq!(Backoff::default().failed(&Fixed(None)), FIRST_DELAY);
        for _ in 0..100 {
            let delay = Backoff::default().failed(&Jitter);
            assert!((FIRST_DELAY / 2..=FIRST_DELAY).contains(&delay));
        }
    }

    #[test]
    fn jitter_differs_from_draw_to_draw() {
        let draw = || {
            let mut bytes = [0; 12];
            Jitter.fill(&mut bytes).unwrap();
            bytes
        };
        assert_ne!(draw(), draw());
    }
}

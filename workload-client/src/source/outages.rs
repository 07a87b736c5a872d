//! What a source remembers of the times without its endpoint, and what it makes of it.
//!
//! On the Workload API it is the server that renews X509-SVIDs: a client has no means to ask for one earlier. Tokens are
//! asked for one by one, so that is where history counts.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// How many outages are remembered: one of long ago must not count for ever.
const REMEMBERED: usize = 8;

/// The last times that the endpoint was away.
#[derive(Debug, Default)]
pub(crate) struct Outages {
    lengths: Mutex<VecDeque<Duration>>,
}

impl Outages {
    /// An outage has ended.
    pub(super) fn ended(&self, length: Duration) {
        let mut lengths = self.lengths.lock().unwrap_or_else(PoisonError::into_inner);
        if lengths.len() == REMEMBERED {
            lengths.pop_front();
        }
        lengths.push_back(length);
    }

    /// The longest of those remembered.
    pub(super) fn longest(&self) -> Duration {
        let lengths = self.lengths.lock().unwrap_or_else(PoisonError::into_inner);
        lengths.iter().max().copied().unwrap_or_default()
    }

    /// How much of a token's `life` must be left when it is renewed: half of it, or as much as the longest outage took,
    /// but never so much that it is renewed within the first quarter.
    pub(super) fn renewal_margin(&self, life: Duration) -> Duration {
        self.longest().clamp(life / 2, life / 4 * 3)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn the_longest_outage_is_what_must_be_left() {
        let outages = Outages::default();
        assert_eq!(outages.renewal_margin(HOUR), HOUR / 2);
        outages.ended(HOUR / 10);
        assert_eq!(outages.renewal_margin(HOUR), HOUR / 2);
        outages.ended(HOUR * 2 / 3);
        assert_eq!(outages.renewal_margin(HOUR), HOUR * 2 / 3);
        outages.ended(HOUR * 24);
        assert_eq!(outages.renewal_margin(HOUR), HOUR * 3 / 4);
    }

    #[test]
    fn old_outages_are_forgotten() {
        let outages = Outages::default();
        outages.ended(HOUR);
        for _ in 0..REMEMBERED {
            assert_eq!(outages.longest(), HOUR);
            outages.ended(Duration::from_secs(1));
        }
        assert_eq!(outages.longest(), Duration::from_secs(1));
    }
}

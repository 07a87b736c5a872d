//! Which entry has an X509-SVID, and which is to be issued one next: a state machine without clock or I/O.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use spiffe_core::bundle::X509Authorities;
use spiffe_core::svid::Backing;
use spiffe_core::{Timestamp, X509Svid};
use spiffe_registration::Entry;

/// The SVID held for each entry that somebody wants one for.
///
/// An SVID stays until its replacement is there, its entry is gone or it has expired. `now` is the calendar's time,
/// which judges validity; `monotonic` measures waiting.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    slots: HashMap<String, Slot>,
    generation: u64,
    /// The own trust domain's.
    authorities: Arc<X509Authorities>,
}

/// One entry's place.
#[derive(Debug)]
struct Slot {
    entry: Arc<Entry>,
    held: Option<Held>,
    attempting: bool,
    failures: u32,
    /// Monotonic time before which no attempt is made.
    retry_at: Duration,
}

/// An SVID and what it was issued for.
#[derive(Debug)]
struct Held {
    svid: Arc<X509Svid>,
    entry: Arc<Entry>,
    generation: u64,
    renew_at: Timestamp,
    backing: Backing,
    /// Monotonic time at which it is to be replaced for what became of its authority.
    reissue_at: Option<Duration>,
}

/// An attempt that is to be made.
#[derive(Clone, Debug)]
pub(super) struct Attempt {
    pub(super) entry: Arc<Entry>,
    generation: u64,
    pub(super) is_renewal: bool,
}

/// What is known of an entry's SVID.
#[derive(Clone, Debug)]
pub(crate) enum Standing {
    /// Here it is.
    Ready(Arc<X509Svid>),
    /// The last attempt failed, and there is none from before.
    Failed,
    /// It is being issued for the first time.
    Pending,
}

impl Ledger {
    /// Follows the authority: forgets what is not among `entries` any more, and makes due what changed.
    ///
    /// What failed before is tried again at once where its entry or the generation changed, since that may have been the remedy.
    pub(super) fn adopt(&mut self, entries: &HashMap<&str, &Entry>, generation: u64) {
        let forced = generation != self.generation;
        self.generation = generation;
        self.slots.retain(|id, slot| {
            let Some(&entry) = entries.get(id.as_str()) else {
                return false;
            };
            let changed = *slot.entry != *entry;
            if changed {
                slot.entry = Arc::new(entry.clone());
            }
            if changed || forced {
                slot.failures = 0;
                slot.retry_at = Duration::ZERO;
            }
            // An SVID with another name is no longer the entry's to give.
            let is_own = |held: &Held| held.svid.id() == entry.spiffe_id();
            if !slot.held.as_ref().is_some_and(is_own) {
                slot.held = None;
            }
            true
        });
    }

    /// Looks what became of the authorities of what is held: what lies below a tainted one is replaced `after` a while
    /// of its own, what lies below none at once. Says how many are to be replaced for that.
    pub(super) fn judge(
        &mut self,
        authorities: &Arc<X509Authorities>,
        monotonic: Duration,
        after: impl Fn(&X509Svid) -> Duration,
    ) -> usize {
        if Arc::ptr_eq(&self.authorities, authorities) {
            return 0;
        }
        self.authorities = Arc::clone(authorities);
        let mut found = 0;
        for held in self
            .slots
            .values_mut()
            .filter_map(|slot| slot.held.as_mut())
        {
            let backing = held.svid.backing(authorities);
            if backing == held.backing {
                continue;
            }
            held.backing = backing;
            held.reissue_at = match backing {
                Backing::Trusted => None,
                Backing::Tainted => Some(monotonic + after(&held.svid)),
                Backing::Withdrawn => Some(monotonic),
            };
            found += usize::from(held.reissue_at.is_some());
        }
        found
    }

    /// Wants an SVID for `entry` from now on.
    pub(super) fn demand(&mut self, entry: &Entry) {
        if self.slots.contains_key(entry.id()) {
            return;
        }
        let slot = Slot {
            entry: Arc::new(entry.clone()),
            held: None,
            attempting: false,
            failures: 0,
            retry_at: Duration::ZERO,
        };
        self.slots.insert(entry.id().to_owned(), slot);
    }

    /// Up to `most` attempts that are due, the most urgent first; they count as being made until [`Self::settle`].
    pub(super) fn due(&mut self, now: Timestamp, monotonic: Duration, most: usize) -> Vec<Attempt> {
        if most == 0 {
            return Vec::new();
        }
        let generation = self.generation;
        let mut due: Vec<&mut Slot> = self
            .slots
            .values_mut()
            .filter(|slot| {
                let forced = slot.reissue_at().is_some_and(|at| at <= monotonic);
                !slot.attempting
                    && slot.retry_at <= monotonic
                    && (forced || slot.wanted_at(generation).is_none_or(|at| at <= now))
            })
            .collect();
        // Without an SVID first, then by what is left; the entry's ID makes the order the same in every run.
        due.sort_by(|a, b| a.urgency().cmp(&b.urgency()));
        due.truncate(most);
        due.into_iter()
            .map(|slot| {
                slot.attempting = true;
                Attempt {
                    entry: Arc::clone(&slot.entry),
                    generation,
                    is_renewal: slot.held.is_some(),
                }
            })
            .collect()
    }

    /// Takes what an attempt brought, with the time to renew it, and the monotonic time to try again should its authority
    /// be no better than the one before.
    pub(super) fn succeed(
        &mut self,
        attempt: Attempt,
        svid: Arc<X509Svid>,
        renew_at: Timestamp,
        again_at: Duration,
    ) {
        let Some(slot) = self.slots.get_mut(attempt.entry.id()) else {
            return;
        };
        slot.attempting = false;
        slot.failures = 0;
        slot.retry_at = Duration::ZERO;
        if svid.id() != slot.entry.spiffe_id() {
            return;
        }
        let backing = svid.backing(&self.authorities);
        slot.held = Some(Held {
            backing,
            reissue_at: (backing != Backing::Trusted).then_some(again_at),
            svid,
            entry: attempt.entry,
            generation: attempt.generation,
            renew_at,
        });
    }

    /// Notes that an attempt failed. The wait before the next is `retry_after` the number of failures in a row.
    pub(super) fn fail(
        &mut self,
        attempt: &Attempt,
        monotonic: Duration,
        retry_after: impl FnOnce(u32) -> Duration,
    ) {
        let Some(slot) = self.slots.get_mut(attempt.entry.id()) else {
            return;
        };
        slot.attempting = false;
        slot.failures = slot.failures.saturating_add(1);
        // An attempt for what is no longer asked says nothing about the next.
        if slot.entry == attempt.entry && self.generation == attempt.generation {
            slot.retry_at = monotonic + retry_after(slot.failures);
        }
    }

    /// Drops what has expired. Whether anything had.
    pub(super) fn expire(&mut self, now: Timestamp) -> bool {
        let mut any = false;
        for slot in self.slots.values_mut() {
            if slot
                .held
                .as_ref()
                .is_some_and(|held| held.svid.not_after() < now)
            {
                slot.held = None;
                any = true;
            }
        }
        any
    }

    /// The monotonic time at which [`Self::due`] or [`Self::expire`] next has something, if nothing else happens before.
    pub(super) fn next_wake(&self, now: Timestamp, monotonic: Duration) -> Option<Duration> {
        let at = |time: Timestamp| monotonic + time.saturating_since(now);
        let attempts = self
            .slots
            .values()
            .filter(|slot| !slot.attempting)
            .map(|slot| {
                let wanted = slot.wanted_at(self.generation).map_or(Duration::ZERO, at);
                let wanted = slot.reissue_at().map_or(wanted, |at| at.min(wanted));
                wanted.max(slot.retry_at)
            });
        let expiries = self
            .slots
            .values()
            .filter_map(|slot| slot.held.as_ref())
            .map(|held| at(held.svid.not_after()) + Duration::from_nanos(1));
        attempts.chain(expiries).min()
    }

    /// What is known of every entry in the ledger, by entry ID.
    pub(super) fn standings(&self) -> HashMap<String, Standing> {
        self.slots
            .iter()
            .map(|(id, slot)| (id.clone(), slot.standing()))
            .collect()
    }
}

impl Slot {
    /// When a new SVID is wanted; `None` is at once.
    fn wanted_at(&self, generation: u64) -> Option<Timestamp> {
        self.held
            .as_ref()
            .filter(|held| held.generation == generation && held.entry == self.entry)
            .map(|held| held.renew_at)
    }

    fn reissue_at(&self) -> Option<Duration> {
        self.held.as_ref().and_then(|held| held.reissue_at)
    }

    fn urgency(&self) -> (Option<Timestamp>, &str) {
        let expiry = self.held.as_ref().map(|held| held.svid.not_after());
        (expiry, self.entry.id())
    }

    fn standing(&self) -> Standing {
        match &self.held {
            Some(held) => Standing::Ready(Arc::clone(&held.svid)),
            None if self.failures > 0 => Standing::Failed,
            None => Standing::Pending,
        }
    }
}

//! Looks after the leases of one configuration: one task, whatever the number of connections.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use spiffe_core::snapshot::Revision;
use spiffe_core::{Timestamp, Watch};
use tokio::sync::Notify;

use crate::judge::Judge;
use crate::lease::{Granted, Inner, Lease, LeaseRules};

/// The calendar's clock may be set while everybody sleeps on the monotonic one: it is read this often.
const CLOCK_LOOK: Duration = Duration::from_secs(10);

/// A calendar that moved this much against the monotonic clock was set.
const CLOCK_SET: Duration = Duration::from_secs(1);

/// Keeps the leases of one acceptor or connector and its clones.
#[derive(Debug)]
pub(crate) struct Keeper {
    pub(crate) judge: Arc<Judge>,
    pub(crate) rules: LeaseRules,
    /// Interrupts the task's waiting.
    wake: Arc<Notify>,
    /// Whether the task lives.
    is_followed: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    leases: HashMap<u64, Kept>,
    /// When to look at which lease; only what the lease itself is due at counts, the rest is passed over.
    due: BinaryHeap<Reverse<(Duration, u64)>>,
    seen: Option<(Revision, u64)>,
    /// The calendar when the monotonic clock was at zero, as read when all leases were last looked at: what drifts by less
    /// than a step at a time has moved as well in the end.
    offset: Option<Timestamp>,
}

#[derive(Debug)]
struct Kept {
    lease: Weak<Inner>,
    due: Duration,
}

impl Keeper {
    pub(crate) fn new(judge: Arc<Judge>, rules: LeaseRules) -> Arc<Self> {
        Arc::new(Self {
            judge,
            rules,
            wake: Arc::default(),
            is_followed: AtomicBool::new(false),
            state: Mutex::default(),
        })
    }

    /// Grants a lease and has it looked after. The task that does runs on the current tokio runtime.
    ///
    /// What changed while the handshake was under way is looked at at once.
    ///
    /// # Errors
    ///
    /// Outside a tokio runtime nobody would look after the lease.
    pub(crate) fn grant(
        self: &Arc<Self>,
        granted: Granted,
    ) -> Result<Lease, tokio::runtime::TryCurrentError> {
        let now = self.now();
        let runtime = tokio::runtime::Handle::try_current()?;
        let mut state = self.state();
        let number = state.next;
        state.next += 1;
        let lease = Lease::new(self, number, now.1, granted);
        let kept = Kept {
            lease: Arc::downgrade(&lease.inner),
            due: Duration::MAX,
        };
        state.leases.insert(number, kept);
        drop(state);
        // After the lease is known: a task that ends from now on leaves it for the next.
        self.follow_on(&runtime);
        if let Some(at) = lease.inner.advance(now) {
            self.remind(at, number);
        }
        // The peer's chain was judged by what was current then, and the own identity was presented earlier still.
        let snapshot = self.judge.publisher.load();
        let terms = self.judge.terms.in_force();
        if let Some(at) = lease.inner.look(&snapshot, &terms, now) {
            self.remind(at, number);
        }
        Ok(lease)
    }

    /// Has a lease looked at again, unless it will be before.
    pub(crate) fn remind(&self, at: Duration, number: u64) {
        let mut state = self.state();
        let State { leases, due, .. } = &mut *state;
        let Some(kept) = leases.get_mut(&number).filter(|kept| at < kept.due) else {
            return;
        };
        kept.due = at;
        let is_first = due.peek().is_none_or(|Reverse((first, _))| at < *first);
        due.push(Reverse((at, number)));
        state.sweep();
        drop(state);
        if is_first {
            self.wake.notify_one();
        }
    }

    pub(crate) fn forget(&self, number: u64) {
        let mut state = self.state();
        state.leases.remove(&number);
        state.sweep();
    }

    /// How many connections are looked after.
    pub(crate) fn len(&self) -> usize {
        self.state().leases.len()
    }

    /// Starts the task, unless it lives: the runtime that it ran on may have ended, and connections moved to another.
    pub(crate) fn follow(self: &Arc<Self>) -> Result<(), tokio::runtime::TryCurrentError> {
        if !self.is_followed.load(Ordering::Acquire) {
            self.follow_on(&tokio::runtime::Handle::try_current()?);
        }
        Ok(())
    }

    fn follow_on(self: &Arc<Self>, runtime: &tokio::runtime::Handle) {
        if self.is_followed.swap(true, Ordering::AcqRel) {
            return;
        }
        let following = Following(Arc::downgrade(self));
        runtime.spawn(async move {
            loop {
                let Some(turn) = following.0.upgrade().map(|keeper| keeper.turn()) else {
                    return;
                };
                turn.await;
            }
        });
    }

    /// Leaves the leases to their connections until one of them starts another task.
    fn orphan(&self) {
        self.is_followed.store(false, Ordering::Release);
        self.state().seen = None;
        let now = self.judge.clock.monotonic();
        for (_, lease) in self.all() {
            lease.orphan(now);
        }
    }

    pub(crate) fn now(&self) -> (Timestamp, Duration) {
        (self.judge.clock.now(), self.judge.clock.monotonic())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at what is due or touched by a change, and returns what to wait for.
    fn turn(&self) -> impl Future<Output = ()> + Send + use<> {
        let now = self.now();
        let snapshot = self.judge.publisher.load();
        let terms = self.judge.terms.in_force();
        let seen = (snapshot.revision(), terms.number);
        if self.note_change(seen, now) {
            for (number, lease) in self.all() {
                let look = lease.look(&snapshot, &terms, now);
                // A calendar that was set has moved every expiry on the monotonic clock.
                if let Some(at) = look.or_else(|| lease.advance(now)) {
                    self.remind(at, number);
                }
            }
        }
        while let Some((number, lease)) = self.next_due(now.1) {
            if let Some(at) = lease.advance(now) {
                // Never now again, or this loop would not end.
                self.remind(at.max(now.1 + Duration::from_nanos(1)), number);
            }
        }
        self.wait(seen, now.1)
    }

    /// Whether anything has changed for every lease since the last turn: trust, terms, or the calendar.
    fn note_change(&self, seen: (Revision, u64), (wall, monotonic): (Timestamp, Duration)) -> bool {
        let offset = wall - monotonic;
        let mut state = self.state();
        let is_new = state.seen.replace(seen) != Some(seen);
        let was_set = state.offset.is_some_and(|before| {
            before.saturating_since(offset) > CLOCK_SET
                || offset.saturating_since(before) > CLOCK_SET
        });
        if is_new || was_set {
            state.offset = Some(offset);
        }
        is_new || was_set
    }

    fn all(&self) -> Vec<(u64, Arc<Inner>)> {
        let state = self.state();
        let held = |(number, kept): (&u64, &Kept)| Some((*number, kept.lease.upgrade()?));
        state.leases.iter().filter_map(held).collect()
    }

    fn next_due(&self, now: Duration) -> Option<(u64, Arc<Inner>)> {
        let mut state = self.state();
        loop {
            let Reverse((at, number)) = *state.due.peek()?;
            if at > now {
                return None;
            }
            state.due.pop();
            let kept = state.leases.get_mut(&number);
            let Some(kept) = kept.filter(|kept| kept.due == at) else {
                continue;
            };
            kept.due = Duration::MAX;
            if let Some(lease) = kept.lease.upgrade() {
                return Some((number, lease));
            }
        }
    }

    /// Resolves when there is something to look at. Does not keep the keeper alive.
    fn wait(
        &self,
        (revision, terms): (Revision, u64),
        now: Duration,
    ) -> impl Future<Output = ()> + Send + use<> {
        let due = self.state().due.peek().map(|Reverse((at, _))| *at);
        let until = due
            .unwrap_or(Duration::MAX)
            .min(now.saturating_add(CLOCK_LOOK));
        let sleep = self.judge.clock.sleep_until(until);
        let published = self.judge.publisher.changed(revision);
        let terms = self.judge.terms.changed(terms);
        let wake = self.wake.clone();
        async move {
            tokio::select! {
                () = sleep => {}
                _ = published => {}
                () = terms => {}
                () = wake.notified() => {}
            }
        }
    }
}

impl State {
    /// Most connections end long before their lease, and trust changes often: reminders must not pile up.
    fn sweep(&mut self) {
        if self.due.len() > 64 && self.due.len() > 4 * self.leases.len() {
            let due = |(number, kept): (&u64, &Kept)| {
                (kept.due < Duration::MAX).then_some(Reverse((kept.due, *number)))
            };
            self.due = self.leases.iter().filter_map(due).collect();
        }
    }
}

/// Held by the task, and told when the task ends in whatever way.
struct Following(Weak<Keeper>);

impl Drop for Following {
    fn drop(&mut self) {
        if let Some(keeper) = self.0.upgrade() {
            keeper.orphan();
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.wake.notify_one();
    }
}

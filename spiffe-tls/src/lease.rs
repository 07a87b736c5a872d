//! Leases: how long a connection may go on, and what ends it.
//!
//! A handshake judges once. What it found may stop being true while the connection is open: an SVID expires, a bundle
//! goes, a policy narrows. A [`Lease`] is the part of a connection that is judged again, by the configuration's
//! [keeper](crate::keeper) when anything changes, and by the connection itself before it lets a byte through.

use std::fmt;
use std::future::Future;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use spiffe_core::snapshot::{Revision, Snapshot};
use spiffe_core::verify::{VerifiedX509, X509Error};
use spiffe_core::{Bundle, SpiffeId, Timestamp};
use tokio::sync::Notify;

use crate::error::RefusalReason;
use crate::judge::{self, Judged};
use crate::keeper::Keeper;
use crate::terms::InForce;

/// Over how long the ends of connections are spread when many lose their lease at once, unless
/// [`LeaseRules::drain`] says otherwise.
pub const DEFAULT_SPREAD: Duration = Duration::from_secs(5);

/// How long a connection that drains may go on, unless [`LeaseRules::drain`] says otherwise.
pub const DEFAULT_GRACE: Duration = Duration::from_secs(10);

/// How long a connection that must be judged again waits for its owner at least, where rules leave no time at all.
const JUDGE_WAIT: Duration = Duration::from_secs(1);

/// What happens to connections whose lease has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseRules {
    pub(crate) on_end: OnEnd,
    pub(crate) max_age: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnEnd {
    Cut,
    Drain { spread: Duration, grace: Duration },
    Report,
}

impl LeaseRules {
    /// Drains: each connection begins to drain at a slot of its own within `spread`, the same at every look, and is cut
    /// `grace` later. Draining is told by [`Lease::over`]: HTTP/2 then sends GOAWAY, HTTP/1 answers and closes. What
    /// expires begins at once. No byte passes later than `spread + grace` after the lease has ended.
    ///
    /// This is the default, with [`DEFAULT_SPREAD`] and [`DEFAULT_GRACE`].
    pub const fn drain(spread: Duration, grace: Duration) -> Self {
        Self {
            on_end: OnEnd::Drain { spread, grace },
            max_age: None,
        }
    }

    /// Cuts at once: the next read or write fails. A connection whose chain must be verified again lets nothing through
    /// until its next read or write does so, and is cut after a second in which there was none.
    pub const fn cut() -> Self {
        Self {
            on_end: OnEnd::Cut,
            max_age: None,
        }
    }

    /// Ends nothing; [`Lease::over`] and the log tell. Where the chain must be verified again they tell when the connection
    /// is next used.
    pub const fn report() -> Self {
        Self {
            on_end: OnEnd::Report,
            max_age: None,
        }
    }

    /// Ends leases at this age at the latest.
    #[must_use]
    pub const fn max_age(mut self, age: Duration) -> Self {
        self.max_age = Some(age);
        self
    }

    /// From the end of a lease to the beginning of the drain, for a connection with this slot, and to the cut.
    fn delays(self, slot: u64, is_spread: bool) -> Option<(Duration, Duration)> {
        match self.on_end {
            OnEnd::Report => None,
            OnEnd::Cut => Some((Duration::ZERO, Duration::ZERO)),
            OnEnd::Drain { spread, grace } => {
                let begin = if is_spread {
                    fraction(spread, slot)
                } else {
                    Duration::ZERO
                };
                Some((begin, begin.saturating_add(grace)))
            }
        }
    }

    /// The longest that a connection goes on after its lease has ended.
    pub(crate) fn budget(self) -> Duration {
        match self.on_end {
            OnEnd::Drain { spread, grace } => spread.saturating_add(grace),
            OnEnd::Cut | OnEnd::Report => Duration::ZERO,
        }
    }
}

impl Default for LeaseRules {
    fn default() -> Self {
        Self::drain(DEFAULT_SPREAD, DEFAULT_GRACE)
    }
}

/// `slot` of 2^64 as a part of `span`.
fn fraction(span: Duration, slot: u64) -> Duration {
    // 32 bits of the slot are finer than any span needs, and the product of 2^96 and 2^32 fits.
    let nanos = (span.as_nanos() * u128::from(slot >> 32)) >> 32;
    Duration::new(
        (nanos / 1_000_000_000) as u64,
        (nanos % 1_000_000_000) as u32,
    )
}

/// Why a lease ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LeaseEnd {
    /// An SVID that the handshake rested on expired.
    #[error("{whose} at {at}")]
    Expired {
        /// Whose.
        whose: Shown,
        /// Its last instant.
        at: Timestamp,
    },
    /// The connection reached the age that [`LeaseRules::max_age`] allows.
    #[error("the connection has reached the age of {} s that its rules allow", .0.as_secs_f64())]
    MaxAge(Duration),
    /// Trust changed, and nobody has read from or written to the connection within the budget, so that it could not be
    /// judged again.
    #[error(
        "trust has changed, and the connection could not be judged again because nobody used it"
    )]
    NotJudged,
    /// This side no longer holds the identity that it presented.
    #[error("this side no longer holds the identity {id} that it presented")]
    OwnWithdrawn {
        /// The own ID.
        id: SpiffeId,
    },
    /// The peer would be refused now.
    #[error("the peer would be refused now: {0}")]
    Refused(#[source] RefusalReason),
}

/// Whose SVID expired under an open connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Shown {
    /// The own SVID that was presented.
    Own,
    /// The peer's path.
    Peer,
    /// One of the SVIDs that the first handshake of a resumed session showed.
    Session,
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Own => "the own X509-SVID that was presented expired",
            Self::Peer => "the peer's path expired",
            Self::Session => "an X509-SVID of the resumed session expired",
        })
    }
}

/// The lease of one connection; clones are handles to the same lease.
///
/// It stands until the earliest of the peer's expiry, the own expiry and [`LeaseRules::max_age`], and only while the
/// peer would still be let in and this side still holds the identity that it presented. When a revision arrives or the
/// [`Terms`](crate::Terms) change, every lease is looked at again, by a task on the tokio runtime of the configuration's first
/// handshake; where that runtime is not driven, a connection in use looks by itself at every 129th read or write (over QUIC at each
/// stream, and not at all under reqwest), and lets nothing through from then on that its lease no longer allows. While the authority that the peer's path ends at is
/// still in its bundle nothing has changed for that path; else the whole chain is verified again before the next byte
/// passes.
#[derive(Clone)]
pub struct Lease {
    pub(crate) inner: Arc<Inner>,
}

/// Standing, judged and used freely.
const STANDS: u8 = 0;
/// The chain must be verified again before the next byte.
const TOUCHED: u8 = 1;
/// Ended; still used freely until the slot comes, or for good where ends are only reported.
const ENDED: u8 = 2;
/// The drain is on, until the cut.
const DRAINS: u8 = 3;
/// Nothing passes.
const CUT: u8 = 4;

/// What a connection must do before it lets a byte through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gate {
    Open,
    JudgeAgain,
    Shut,
}

/// Which way a task waits.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Way {
    Read,
    Write,
}

/// The task that waits one way on a connection. It stays when it is woken, until another takes its place: a task that comes
/// back, as most do, need not leave its waker at each wait.
#[derive(Default)]
struct Waiting(Mutex<Option<Waker>>);

impl Waiting {
    fn replace(&self, waker: Option<Waker>) {
        let before = std::mem::replace(&mut *self.waker(), waker);
        // Outside the lock: dropping the last handle of a task drops what the task holds.
        drop(before);
    }

    fn waker(&self) -> MutexGuard<'_, Option<Waker>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        // Cloned, since this lock must not be held: an executor may run the task right here.
        let waker = self.waker().clone();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// The state, locked. Who waits for a change of the phase is woken when the lock is free again: an executor may run the task
/// right there.
struct Held<'a> {
    state: MutexGuard<'a, State>,
    /// Behind the lock, so that it is dropped after it.
    change: Change<'a>,
}

impl Deref for Held<'_> {
    type Target = State;

    fn deref(&self) -> &State {
        &self.state
    }
}

impl DerefMut for Held<'_> {
    fn deref_mut(&mut self) -> &mut State {
        &mut self.state
    }
}

struct Change<'a> {
    inner: &'a Inner,
    is_made: bool,
}

impl Drop for Change<'_> {
    fn drop(&mut self) {
        if self.is_made {
            self.inner.waiting.iter().for_each(Waiting::wake);
            self.inner.over.notify_waiters();
        }
    }
}

pub(crate) struct Inner {
    phase: AtomicU8,
    /// The tasks that read and write: they are woken when the gate changes.
    waiting: [Waiting; 2],
    over: Notify,
    /// Kept alive by the connections it looks after: they may outlive their acceptor.
    keeper: Arc<Keeper>,
    number: u64,
    born: Duration,
    pub(crate) peer: Arc<VerifiedX509>,
    pub(crate) own: Option<SpiffeId>,
    expires_at: Timestamp,
    whose: Shown,
    slot: u64,
    state: Mutex<State>,
}

struct State {
    revision: Revision,
    /// The trust revision and the number of the terms of the last verdict.
    trust: (Revision, u64),
    /// The authority that the path ends at.
    anchor: Option<Arc<CertificateDer<'static>>>,
    end: Option<Box<Ending>>,
    /// Until when a touched lease waits to be judged.
    touched_until: Duration,
}

struct Ending {
    reason: LeaseEnd,
    /// None where ends are only reported.
    winding: Option<Winding>,
}

/// When it drains and is cut, on the monotonic clock.
#[derive(Clone, Copy)]
struct Winding {
    drains_at: Duration,
    cut_at: Duration,
}

/// What a lease is made of.
pub(crate) struct Granted {
    pub(crate) judged: Judged,
    pub(crate) own: Option<(SpiffeId, Timestamp)>,
    /// What a resumed session inherited.
    pub(crate) until: Option<Timestamp>,
}

impl Lease {
    /// The lease of a connection that is established at `born` on the monotonic clock.
    pub(crate) fn new(keeper: &Arc<Keeper>, number: u64, born: Duration, granted: Granted) -> Self {
        let Granted { judged, own, until } = granted;
        let mut expires_at = judged.peer.not_after;
        let mut whose = Shown::Peer;
        let ends = [
            (Shown::Session, until),
            (Shown::Own, own.as_ref().map(|(_, not_after)| *not_after)),
        ];
        for (shown, end) in ends {
            if let Some(end) = end.filter(|end| *end < expires_at) {
                (whose, expires_at) = (shown, end);
            }
        }
        Self {
            inner: Arc::new(Inner {
                phase: AtomicU8::new(STANDS),
                waiting: Default::default(),
                over: Notify::new(),
                keeper: keeper.clone(),
                number,
                born,
                expires_at,
                whose,
                slot: slot(number),
                state: Mutex::new(State {
                    revision: judged.revision,
                    trust: judged.trust,
                    anchor: judged.peer.issuers.last().cloned(),
                    end: None,
                    touched_until: Duration::ZERO,
                }),
                peer: judged.peer,
                own: own.map(|(id, _)| id),
            }),
        }
    }

    /// When the lease ends by itself: the earliest expiry of what both sides have shown.
    pub fn expires_at(&self) -> Timestamp {
        self.inner.expires_at
    }

    /// The revision of this side's source under which the connection was last judged.
    pub fn revision(&self) -> Revision {
        self.inner.state().revision
    }

    /// Why the lease has ended, if it has.
    pub fn end(&self) -> Option<LeaseEnd> {
        self.inner
            .state()
            .end
            .as_ref()
            .map(|ending| ending.reason.clone())
    }

    /// Resolves when the connection should be wound up: its lease has ended and its slot has come. Whoever drives a
    /// protocol on it then finishes what is under way, takes nothing new, and closes; what is still open when the grace
    /// is over is cut.
    ///
    /// It never resolves for a connection that was closed before.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing: ask again.
    pub fn over(&self) -> impl Future<Output = LeaseEnd> + Send + 'static {
        let inner = self.inner.clone();
        async move {
            loop {
                let notified = inner.over.notified();
                if let Some(reason) = inner.over_reason() {
                    return reason;
                }
                notified.await;
            }
        }
    }
}

/// What adapters ask. Where ends are only reported, nothing of it ever happens.
impl Lease {
    /// Whether the connection has to be wound up.
    #[cfg(any(feature = "hyper", feature = "quinn", feature = "reqwest"))]
    pub(crate) fn is_winding_up(&self) -> bool {
        self.inner.phase() >= DRAINS
    }

    /// Resolves when the connection has to be wound up.
    #[cfg(any(feature = "hyper", feature = "quinn"))]
    pub(crate) async fn winds_up(&self) {
        loop {
            let notified = self.inner.over.notified();
            if self.is_winding_up() {
                return;
            }
            notified.await;
        }
    }

    /// The clock that the lease goes by.
    #[cfg(feature = "hyper")]
    pub(crate) fn clock(&self) -> &Arc<dyn spiffe_core::Clock> {
        &self.inner.keeper.judge.clock
    }

    /// As a `TlsStream` does in use.
    #[cfg(feature = "quinn")]
    pub(crate) fn look_by_itself(&self) {
        self.inner.look_by_itself();
    }

    /// Looks after a connection that is no `TlsStream`, which would do so by itself: judges it again by `chain`, what the
    /// peer has shown, whenever that is due, and resolves at the next turn after `seen`.
    #[cfg(any(feature = "quinn", feature = "reqwest"))]
    pub(crate) async fn turn(
        &self,
        seen: Turn,
        chain: impl Fn() -> Option<Vec<CertificateDer<'static>>>,
    ) -> Turn {
        loop {
            let notified = self.inner.over.notified();
            match self.inner.gate() {
                Gate::JudgeAgain => {
                    self.inner.judge_again(chain().as_deref());
                    continue;
                }
                Gate::Shut => return Turn::Cut,
                Gate::Open if seen == Turn::Stands && self.is_winding_up() => return Turn::WindsUp,
                Gate::Open => {}
            }
            notified.await;
        }
    }
}

/// How far a lease has come.
#[cfg(any(feature = "quinn", feature = "reqwest"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    Stands,
    WindsUp,
    Cut,
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("expires_at", &self.inner.expires_at)
            .field("revision", &self.revision())
            .field("end", &self.end())
            .finish_non_exhaustive()
    }
}

/// Where in a spread a connection stands, the same at every look: multiples of the golden ratio divide any span evenly,
/// whichever connections are still open.
fn slot(number: u64) -> u64 {
    number.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

impl Inner {
    fn state(&self) -> Held<'_> {
        Held {
            state: self.state.lock().unwrap_or_else(PoisonError::into_inner),
            change: Change {
                inner: self,
                is_made: false,
            },
        }
    }

    fn phase(&self) -> u8 {
        self.phase.load(Ordering::Acquire)
    }

    fn over_reason(&self) -> Option<LeaseEnd> {
        let state = self.state();
        let ending = state.end.as_ref()?;
        (self.phase() >= DRAINS || ending.winding.is_none()).then(|| ending.reason.clone())
    }

    /// Whether a byte may pass without a further look. One load, for every poll of every connection.
    #[inline]
    pub(crate) fn stands(&self) -> bool {
        self.phase.load(Ordering::Acquire) == STANDS
    }

    /// Has this task woken whenever the gate changes from now on; what has changed it before is seen at the next look.
    pub(crate) fn wait(&self, way: Way, waker: Waker) {
        self.waiting[way as usize].replace(Some(waker));
    }

    /// What a connection must do before it lets a byte through. One load unless the lease has ended.
    pub(crate) fn gate(&self) -> Gate {
        match self.phase() {
            STANDS => Gate::Open,
            TOUCHED => Gate::JudgeAgain,
            CUT => Gate::Shut,
            _ => {
                // The keeper may be late; the budget is not.
                let now = self.keeper.judge.clock.monotonic();
                // Without a runtime nobody drives a keeper, and the budget holds all the same.
                let _ = self.keeper.follow();
                let state = self.state();
                let winding = state.end.as_ref().and_then(|ending| ending.winding);
                if winding.is_some_and(|winding| now >= winding.cut_at) {
                    Gate::Shut
                } else {
                    Gate::Open
                }
            }
        }
    }

    /// Does for one lease what the keeper does for all. The keeper's runtime may live and run nothing, and then a
    /// connection in use must find out by itself; where the keeper has looked, there is nothing new.
    pub(crate) fn look_by_itself(&self) {
        let phase = self.phase();
        if phase == CUT {
            return;
        }
        let keeper = &self.keeper;
        let now = keeper.now();
        let snapshot = keeper.judge.publisher.load();
        let terms = keeper.judge.terms.in_force();
        let is_new = phase == STANDS && {
            let state = self.state();
            (state.revision, state.trust.1) != (snapshot.revision(), terms.number)
        };
        let mut next = None;
        if is_new {
            next = self.look(&snapshot, &terms, now);
        }
        if next.is_none() && (phase > TOUCHED || self.has_ended_by_time(now).is_some()) {
            next = self.advance(now);
        }
        if let Some(at) = next {
            keeper.remind(at, self.number);
        }
    }

    /// Moves on; who waits is woken when the state is let go.
    fn set(&self, state: &mut Held<'_>, phase: u8) {
        self.phase.store(phase, Ordering::Release);
        state.change.is_made = true;
    }

    /// Judges the connection again by what is current, without its chain. Returns when to look again, if it ended or
    /// must be verified.
    pub(crate) fn look(
        &self,
        snapshot: &Snapshot,
        terms: &InForce,
        now: (Timestamp, Duration),
    ) -> Option<Duration> {
        let mut state = self.state();
        if state.end.is_some() {
            return None;
        }
        // A verdict of later bundles or terms stands: they are looked at next.
        if snapshot.revision() < state.revision || terms.number < state.trust.1 {
            return None;
        }
        let (_, monotonic) = now;
        if let Some(reason) = self.ended_by(snapshot, terms, now) {
            return self.end(&mut state, reason, monotonic);
        }
        let trust = (snapshot.trust_revision(), terms.number);
        let bundle = snapshot.bundles().get(self.peer.id.trust_domain());
        let stands = state.trust == trust
            || terms.revocations.is_empty()
                && bundle.is_some_and(|bundle| rests_on(bundle, state.anchor.as_deref(), terms));
        if stands {
            state.revision = snapshot.revision();
            state.trust = trust;
            if self.phase() == TOUCHED {
                self.set(&mut state, STANDS);
            }
            return None;
        }
        let Some(bundle) = bundle else {
            let reason = X509Error::TrustDomainUnknown {
                trust_domain: self.peer.id.trust_domain().to_owned(),
            };
            let reason = LeaseEnd::Refused(reason.into());
            return self.end(&mut state, reason, monotonic);
        };
        if bundle.x509_authorities().is_empty() {
            let reason = X509Error::NoAuthorities {
                trust_domain: self.peer.id.trust_domain().to_owned(),
            };
            let reason = LeaseEnd::Refused(reason.into());
            return self.end(&mut state, reason, monotonic);
        }
        if self.phase() != TOUCHED {
            self.touch(&mut state, monotonic);
        }
        Some(state.touched_until)
    }

    fn touch(&self, state: &mut Held<'_>, monotonic: Duration) {
        let wait = match self.keeper.rules.on_end {
            // Nothing ends, and so nothing is known until the connection is used.
            OnEnd::Report => Duration::MAX,
            OnEnd::Cut | OnEnd::Drain { .. } => self.keeper.rules.budget().max(JUDGE_WAIT),
        };
        state.touched_until = monotonic.saturating_add(wait);
        self.set(state, TOUCHED);
    }

    /// The keeper's task is gone: the connection judges itself, and has another one started, when it is next polled.
    pub(crate) fn orphan(&self, monotonic: Duration) {
        let mut state = self.state();
        match self.phase() {
            STANDS => self.touch(&mut state, monotonic),
            phase => self.set(&mut state, phase),
        }
    }

    /// What ends the lease whatever the chain is worth.
    fn ended_by(
        &self,
        snapshot: &Snapshot,
        terms: &InForce,
        now: (Timestamp, Duration),
    ) -> Option<LeaseEnd> {
        if let Some(reason) = self.has_ended_by_time(now) {
            return Some(reason);
        }
        if let Some(reason) = self.own_withdrawn(snapshot) {
            return Some(reason);
        }
        judge::authorize(terms, &self.peer, now.0)
            .err()
            .map(LeaseEnd::Refused)
    }

    fn own_withdrawn(&self, snapshot: &Snapshot) -> Option<LeaseEnd> {
        let own = self.own.as_ref()?;
        let is_held = snapshot.svids().iter().any(|svid| svid.id() == own);
        (!is_held).then(|| LeaseEnd::OwnWithdrawn { id: own.clone() })
    }

    /// Judges the connection again by its chain.
    pub(crate) fn judge_again(&self, chain: Option<&[CertificateDer<'_>]>) {
        let judge = &self.keeper.judge;
        // Fail closed: without a runtime nobody would look after the lease any more.
        let chain = chain.filter(|_| self.keeper.follow().is_ok());
        let verdict = chain
            .and_then(<[_]>::split_first)
            .map(|(end_entity, intermediates)| judge.judge(end_entity, intermediates));
        let mut state = self.state();
        if state.end.is_some() {
            return;
        }
        let reason = match verdict {
            // The keeper may have looked by what came meanwhile, and will not do so again.
            Some(Ok(judged)) if !judge.is_current(judged.trust) => return,
            // No chain tells of this side, and what has not been looked at since it was touched is asked for here.
            Some(Ok(judged)) => {
                if let Some(reason) = self.own_withdrawn(&judge.publisher.load()) {
                    reason
                } else {
                    state.revision = judged.revision;
                    state.trust = judged.trust;
                    state.anchor = judged.peer.issuers.last().cloned();
                    self.set(&mut state, STANDS);
                    return;
                }
            }
            Some(Err(refusal)) => LeaseEnd::Refused(refusal.reason().clone()),
            None => LeaseEnd::NotJudged,
        };
        let monotonic = judge.clock.monotonic();
        let next = self.end(&mut state, reason, monotonic);
        drop(state);
        if let Some(at) = next {
            self.keeper.remind(at, self.number);
        }
    }

    /// Ends the lease if it has outlived its rules, moves an ended one on, and says when to look again.
    pub(crate) fn advance(&self, now: (Timestamp, Duration)) -> Option<Duration> {
        let (_, monotonic) = now;
        let mut state = self.state();
        if let Some(ending) = &state.end {
            let Winding { drains_at, cut_at } = ending.winding?;
            if monotonic >= cut_at {
                self.set(&mut state, CUT);
                return None;
            }
            if monotonic >= drains_at {
                if self.phase() != DRAINS {
                    self.set(&mut state, DRAINS);
                }
                return Some(cut_at);
            }
            return Some(drains_at);
        }
        let reason = if let Some(reason) = self.has_ended_by_time(now) {
            reason
        } else if self.phase() == TOUCHED && monotonic >= state.touched_until {
            LeaseEnd::NotJudged
        } else {
            return self.next(&state, now);
        };
        self.end(&mut state, reason, monotonic)
    }

    fn has_ended_by_time(&self, (wall, monotonic): (Timestamp, Duration)) -> Option<LeaseEnd> {
        if wall > self.expires_at {
            return Some(LeaseEnd::Expired {
                whose: self.whose,
                at: self.expires_at,
            });
        }
        let age = self.keeper.rules.max_age?;
        (monotonic.saturating_sub(self.born) >= age).then_some(LeaseEnd::MaxAge(age))
    }

    /// When a lease that stands has to be looked at, if nothing changes before.
    fn next(&self, state: &State, (wall, monotonic): (Timestamp, Duration)) -> Option<Duration> {
        // The last instant is still good.
        let left = self.expires_at.saturating_since(wall) + Duration::from_nanos(1);
        let expiry = monotonic.saturating_add(left);
        let max_age = self.keeper.rules.max_age;
        let age = max_age.map_or(Duration::MAX, |age| self.born.saturating_add(age));
        let touched = if self.phase() == TOUCHED {
            state.touched_until
        } else {
            Duration::MAX
        };
        Some(expiry.min(age).min(touched))
    }

    fn end(&self, state: &mut Held<'_>, reason: LeaseEnd, monotonic: Duration) -> Option<Duration> {
        let rules = self.keeper.rules;
        // What expires has been spread by its issuing, and who did not look in time has had the whole budget.
        let is_spread = !matches!(reason, LeaseEnd::Expired { .. } | LeaseEnd::MaxAge(_));
        let delays = if reason == LeaseEnd::NotJudged && rules.on_end != OnEnd::Report {
            Some((Duration::ZERO, Duration::ZERO))
        } else {
            rules.delays(self.slot, is_spread)
        };
        tracing::info!(
            peer = %self.peer.id,
            revision = %self.keeper.judge.publisher.load().revision(),
            begins_in_ms = delays.map(|(begin, _)| begin.as_millis() as u64),
            cut_in_ms = delays.map(|(_, cut)| cut.as_millis() as u64),
            reason = %reason,
            "the lease of a connection has ended"
        );
        let winding = delays.map(|(begin, cut)| Winding {
            drains_at: monotonic.saturating_add(begin),
            cut_at: monotonic.saturating_add(cut),
        });
        state.end = Some(Box::new(Ending { reason, winding }));
        let (phase, next) = match winding {
            Some(Winding { cut_at, .. }) if cut_at <= monotonic => (CUT, None),
            Some(Winding { drains_at, cut_at }) if drains_at <= monotonic => (DRAINS, Some(cut_at)),
            Some(Winding { drains_at, .. }) => (ENDED, Some(drains_at)),
            None => (ENDED, None),
        };
        self.set(state, phase);
        next
    }

    /// The connection is gone: nobody has to look after the lease.
    pub(crate) fn close(&self) {
        for waiting in &self.waiting {
            waiting.replace(None);
        }
        self.keeper.forget(self.number);
    }
}

/// Whether a path that ended at `anchor` still does.
fn rests_on(bundle: &Bundle, anchor: Option<&CertificateDer<'static>>, terms: &InForce) -> bool {
    anchor.is_some_and(|anchor| {
        bundle.x509_authorities().iter().any(|authority| {
            let certificate = authority.certificate();
            // The same bytes at the same place need no comparing.
            (std::ptr::eq(certificate.as_ref(), anchor.as_ref()) || certificate == anchor)
                && !(terms.refuse_tainted && authority.is_tainted())
        })
    })
}

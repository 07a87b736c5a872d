//! The life of authorities: prepared → active → old → gone, and tainted and revoked where a key is lost.
//!
//! [`State::step`] is a pure function of state, time and input. It keeps the two promises of Federation §4.1: an
//! authority is in the bundle before it signs, and stays there until the last thing it signed has expired. It makes no
//! keys and writes no files: it answers with [`Action`]s, and whoever runs it does what they say.

mod bundle;
mod evidence;
pub mod journal;
mod roots;
mod shared;
mod slots;

use std::time::Duration;

use spiffe_core::Timestamp;
use spiffe_core::bundle::{JwtAuthority, X509Authority};

pub use evidence::{Consumer, Evidence, Grade};
pub use roots::Root;
pub use shared::{MAX_SHARED_KEYS, SharedKey};
pub use slots::{Authority, Kind, PublicHalf, Slot, Slots, Status};

use crate::error::LifecycleError;
use crate::log::LogMark;

/// The authorities of one trust domain: the bundle's contents and who signs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    pub(crate) sequence: u64,
    pub(crate) jwt: Slots,
    pub(crate) x509: Slots,
    pub(crate) roots: Vec<Root>,
    /// The sequence number of the first bundle that contained all of the roots.
    pub(crate) roots_since: u64,
    /// Where the private keys lie, unless beside the journal.
    pub(crate) keys: Option<String>,
    /// Until when the clock of a restarted CA may still be set; not in the journal.
    pub(crate) settled: Option<Timestamp>,
    /// JWT keys of other servers of the trust domain.
    pub(crate) shared_keys: Vec<SharedKey>,
    /// How far the issuance log had come.
    pub(crate) log: Option<LogMark>,
}

/// What happens to a kind's authorities.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Input<'a> {
    /// Somebody in charge wants something.
    Command(Command, &'a Evidence),
    /// The authority that [`Action::Generate`] asked for exists.
    Publish(Authority),
    /// The upstream authority names these roots; for [`Kind::X509`].
    Roots(&'a [X509Authority]),
    /// A server below publishes its JWT key, which expires then; for [`Kind::Jwt`].
    Share(&'a JwtAuthority, Timestamp),
    /// A server below takes the JWT key with this ID back; for [`Kind::Jwt`].
    Unshare(&'a str),
    /// The upstream names these JWT keys; for [`Kind::Jwt`].
    UpstreamKeys(&'a [JwtAuthority]),
    /// Time has passed.
    Tick(&'a Evidence),
}

/// What somebody in charge can want.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Command {
    /// Sign with the prepared authority from now on.
    Activate {
        /// Even if consumers do not know it yet; what it signs is refused by them until they do.
        force: bool,
    },
    /// Make the next authority and publish it.
    Prepare,
    /// Take an old authority out of the bundle.
    Retire {
        /// The authority.
        id: String,
        /// Even if something it signed is still valid; its holders are refused from then on.
        force: bool,
    },
    /// Take a tainted authority out of the bundle, as soon as the evidence shows that nobody presents what it signed.
    Revoke {
        /// The authority.
        id: String,
        /// At once; holders of what it signed are refused from then on.
        force: bool,
    },
    /// Mark an old authority: what it signed is to be replaced.
    Taint {
        /// The authority.
        id: String,
    },
}

/// What a step did, or asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Action {
    /// The authority signs from now on.
    Activated {
        /// Its ID.
        id: String,
        /// Who did not know it yet; empty unless the deadline or the operator decided.
        laggards: Vec<String>,
    },
    /// The prepared authority is not activated yet.
    Awaiting {
        /// Its ID.
        id: String,
        /// Whose acknowledgement is missing; empty if only time is.
        laggards: Vec<String>,
        /// When it is activated whoever is missing.
        deadline: Timestamp,
    },
    /// To do: make a key in this slot and publish its authority with [`Input::Publish`].
    Generate {
        /// Where its key goes.
        slot: Slot,
    },
    /// The authority is in the bundle.
    Published {
        /// Its ID.
        id: String,
    },
    /// The authority is no longer in the bundle.
    Removed {
        /// Its ID.
        id: String,
        /// Who is known to present something it signed still; empty unless it was forced or its own end has come.
        holders: Vec<String>,
    },
    /// A JWT key of another server is in the bundle.
    KeyShared {
        /// Its ID.
        id: String,
    },
    /// A JWT key of another server is no longer in the bundle.
    KeyUnshared {
        /// Its ID.
        id: String,
    },
    /// A root of the upstream is in the bundle.
    RootPublished {
        /// Its ID.
        id: String,
    },
    /// A root of the upstream is no longer in the bundle.
    RootRemoved {
        /// Its ID.
        id: String,
    },
    /// A root of the upstream is marked.
    RootTainted {
        /// Its ID.
        id: String,
    },
    /// The authority is marked.
    Tainted {
        /// Its ID.
        id: String,
    },
}

/// A part of an authority's life, never more than a fixed span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "both fields say all there is")]
pub struct Threshold {
    /// One in so many parts of the life; not zero.
    pub divisor: u32,
    /// At most this.
    pub at_most: Duration,
}

impl Threshold {
    /// The span, of a life of this length.
    pub fn of(self, life: Duration) -> Duration {
        (life / self.divisor.max(1)).min(self.at_most)
    }
}

/// When authorities follow each other. The defaults are SPIRE's.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rollover {
    /// The next authority is prepared when this much of the active one's life is left: half of it, at most 30 days.
    pub prepare: Threshold,
    /// The deadline: the prepared authority is activated, whoever has not acknowledged it, when this much of the
    /// active one's life is left: a sixth of it, at most 7 days. No SVID with a longer lifetime can always be had.
    pub activate: Threshold,
    /// Before the deadline, an authority is published for at least this long before it signs, for consumers that
    /// acknowledge nothing, such as federated trust domains (Federation §4.1): 15 minutes, three times the default
    /// refresh hint. [`Duration::MAX`] waits for the deadline as SPIRE does.
    pub publish_ahead: Duration,
    /// The acknowledgement that opens the gate: [`Grade::Delivered`].
    pub grade: Grade,
    /// How long an authority stays in the bundle after the last thing it signed has expired, for verifiers whose
    /// clocks are slow: a minute.
    pub keep: Duration,
}

impl Default for Rollover {
    fn default() -> Self {
        const DAY: Duration = Duration::from_secs(86_400);
        Self {
            prepare: Threshold {
                divisor: 2,
                at_most: DAY.saturating_mul(30),
            },
            activate: Threshold {
                divisor: 6,
                at_most: DAY.saturating_mul(7),
            },
            publish_ahead: Duration::from_secs(15 * 60),
            grade: Grade::Delivered,
            keep: Duration::from_secs(60),
        }
    }
}

impl State {
    /// No authorities.
    pub fn new() -> Self {
        Self::default()
    }

    /// The bundle's sequence number: grows with every change of its contents.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Where the private keys lie, as [`KeyManager::location`](crate::keys::KeyManager::location) says; `None` for
    /// those in the journal's own directory.
    pub fn keys(&self) -> Option<&str> {
        self.keys.as_deref()
    }

    /// How far the issuance log had come when authorities last changed; `None` where there is no log, or its loss was
    /// accepted.
    pub fn log(&self) -> Option<&LogMark> {
        self.log.as_ref()
    }

    /// One kind's authorities.
    pub fn slots(&self, kind: Kind) -> &Slots {
        match kind {
            Kind::Jwt => &self.jwt,
            Kind::X509 => &self.x509,
        }
    }

    /// The state after `input` at `now`, and what was done or is to do. At most one change is made at a time: a tick
    /// is repeated until it makes none.
    ///
    /// # Errors
    ///
    /// [`LifecycleError`], for commands; a tick never fails.
    pub fn step(
        &self,
        kind: Kind,
        now: Timestamp,
        input: Input<'_>,
        rules: &Rollover,
    ) -> Result<(Self, Vec<Action>), LifecycleError> {
        match input {
            Input::Tick(evidence) => Ok(self.tick(kind, now, evidence, rules)),
            Input::Publish(authority) => self.publish(kind, authority, now),
            Input::Roots(named) => Ok(self.take_roots(now, named)),
            Input::Share(key, until) => self.share(key, until),
            Input::Unshare(id) => Ok(self.unshare(id)),
            Input::UpstreamKeys(named) => Ok(self.take_upstream_keys(named)),
            Input::Command(Command::Prepare, _) => match self.slots(kind).prepared() {
                Some(prepared) => Err(LifecycleError::AlreadyPrepared {
                    id: prepared.id.clone(),
                }),
                None => Ok((self.clone(), vec![self.generate(kind)])),
            },
            Input::Command(Command::Activate { force }, evidence) => {
                self.activate_on_command(kind, now, force, evidence, rules)
            }
            Input::Command(Command::Retire { id, force }, evidence) => {
                let authority =
                    self.expect(kind, &id, &[Status::Old, Status::Tainted], "retired")?;
                let until = in_use_until(authority, rules);
                let holders = evidence.holders(&id).unwrap_or_default();
                if !force && (now <= until || !holders.is_empty()) {
                    return Err(LifecycleError::StillInUse { id, until, holders });
                }
                Ok(self.remove(kind, &id, holders))
            }
            Input::Command(Command::Taint { id }, _) => {
                let authority = self.expect(kind, &id, &[Status::Old], "tainted")?;
                if authority.upstream.is_some() {
                    return Err(LifecycleError::SignedUpstream { id });
                }
                let mut next = self.clone();
                next.sequence += 1;
                if let Some(authority) = next.slots_mut(kind).find_mut(&id) {
                    authority.status = Status::Tainted;
                }
                Ok((next, vec![Action::Tainted { id }]))
            }
            Input::Command(Command::Revoke { id, force }, evidence) => {
                let authority = self.expect(kind, &id, &[Status::Tainted], "revoked")?;
                let until = in_use_until(authority, rules);
                let holders = evidence.holders(&id);
                // Tokens pass from hand to hand, so of those nobody can say who presents them.
                let free = kind == Kind::X509 && holders.as_ref().is_some_and(Vec::is_empty);
                let holders = holders.unwrap_or_default();
                if !force && !free && (now <= until || !holders.is_empty()) {
                    return Err(LifecycleError::StillInUse { id, until, holders });
                }
                Ok(self.remove(kind, &id, holders))
            }
        }
    }

    /// Notes that the active authority is about to sign something valid until then. To be called before it signs.
    pub(crate) fn note_signed(&mut self, kind: Kind, until: Timestamp) {
        let slots = self.slots_mut(kind);
        if let Some(active) = slots
            .authorities
            .iter_mut()
            .find(|authority| authority.status == Status::Active)
        {
            active.signed_until = active.signed_until.max(until);
        }
    }

    /// After a restart nobody knows what the active authorities signed last; their own end bounds it. Nor does anybody
    /// know whether the clock is right, so no tick takes an old one out before `settled`.
    pub(crate) fn restarted(&mut self, settled: Timestamp) {
        self.settled = Some(settled);
        for kind in [Kind::Jwt, Kind::X509] {
            for authority in &mut self.slots_mut(kind).authorities {
                if authority.status == Status::Active {
                    authority.signed_until = authority.not_after;
                }
            }
        }
    }

    fn tick(
        &self,
        kind: Kind,
        now: Timestamp,
        evidence: &Evidence,
        rules: &Rollover,
    ) -> (Self, Vec<Action>) {
        let slots = self.slots(kind);
        let holders = |authority: &Authority| evidence.holders(&authority.id).unwrap_or_default();
        let over = slots.iter().find(|authority| match authority.status {
            // Time alone would do if all clocks agreed; consumers that still present what it signed show that they do
            // not. They are waited for until the authority's own end.
            Status::Old | Status::Tainted => {
                now > in_use_until(authority, rules)
                    && self.settled.is_none_or(|settled| now >= settled)
                    && (holders(authority).is_empty() || now > authority.not_after + rules.keep)
            }
            Status::Prepared => {
                now >= authority.not_after || is_of_the_future(authority, now, rules)
            }
            // Only a successor ends its time, so that a bundle is never left empty.
            Status::Active => false,
        });
        if let Some(over) = over {
            return self.remove(kind, &over.id, holders(over));
        }
        let dropped = match kind {
            Kind::X509 => self.drop_root(),
            Kind::Jwt => self.drop_expired_keys(now, rules),
        };
        if let Some(dropped) = dropped {
            return dropped;
        }
        let active = slots
            .active()
            .filter(|active| now < active.not_after && !is_of_the_future(active, now, rules));
        let leave = active.is_some_and(|active| self.is_below_tainted_root(active));
        match (slots.prepared(), active) {
            (None, Some(active)) if !leave && now < before_end(active, rules.prepare) => {
                (self.clone(), Vec::new())
            }
            (None, _) => (self.clone(), vec![self.generate(kind)]),
            (Some(prepared), active) => {
                let laggards = slots.laggards(prepared, evidence, rules.grade);
                let mut deadline = active.map_or(now, |active| before_end(active, rules.activate));
                if leave && !self.is_below_tainted_root(prepared) {
                    deadline = deadline.min(prepared.published_at + rules.publish_ahead);
                }
                let published_for = now.saturating_since(prepared.published_at);
                let known = laggards.is_empty() && published_for >= rules.publish_ahead;
                if known || now >= deadline {
                    return self.activate(kind, laggards);
                }
                let id = prepared.id.clone();
                let waiting = Action::Awaiting {
                    id,
                    laggards,
                    deadline,
                };
                (self.clone(), vec![waiting])
            }
        }
    }

    fn publish(
        &self,
        kind: Kind,
        mut authority: Authority,
        now: Timestamp,
    ) -> Result<(Self, Vec<Action>), LifecycleError> {
        if let Some(prepared) = self.slots(kind).prepared() {
            return Err(LifecycleError::AlreadyPrepared {
                id: prepared.id.clone(),
            });
        }
        let mut next = self.clone();
        authority.published = if authority.upstream.is_some() {
            // What consumers must know is its root, which the bundle contains already.
            next.roots_since
        } else {
            next.sequence += 1;
            next.sequence
        };
        authority.published_at = now;
        authority.status = Status::Prepared;
        let id = authority.id.clone();
        let slots = next.slots_mut(kind);
        for other in &mut slots.authorities {
            if other.slot == authority.slot {
                other.slot = None;
            }
        }
        slots.authorities.push(authority);
        Ok((next, vec![Action::Published { id }]))
    }

    fn activate_on_command(
        &self,
        kind: Kind,
        now: Timestamp,
        force: bool,
        evidence: &Evidence,
        rules: &Rollover,
    ) -> Result<(Self, Vec<Action>), LifecycleError> {
        let prepared = self
            .slots(kind)
            .prepared()
            .filter(|prepared| now < prepared.not_after)
            .ok_or(LifecycleError::NothingPrepared)?;
        let laggards = self.slots(kind).laggards(prepared, evidence, rules.grade);
        if !laggards.is_empty() && !force {
            return Err(LifecycleError::Laggards {
                id: prepared.id.clone(),
                laggards,
            });
        }
        Ok(self.activate(kind, laggards))
    }

    /// The prepared authority signs from now on, the active one no more. The bundle stays as it is.
    fn activate(&self, kind: Kind, laggards: Vec<String>) -> (Self, Vec<Action>) {
        let mut next = self.clone();
        let mut activated = Vec::new();
        for authority in &mut next.slots_mut(kind).authorities {
            match authority.status {
                Status::Active => authority.status = Status::Old,
                Status::Prepared => {
                    authority.status = Status::Active;
                    activated.push(Action::Activated {
                        id: authority.id.clone(),
                        laggards: laggards.clone(),
                    });
                }
                Status::Old | Status::Tainted => {}
            }
        }
        (next, activated)
    }

    fn remove(&self, kind: Kind, id: &str, holders: Vec<String>) -> (Self, Vec<Action>) {
        let mut next = self.clone();
        if self
            .slots(kind)
            .find(id)
            .is_some_and(|authority| authority.upstream.is_none())
        {
            next.sequence += 1;
        }
        next.slots_mut(kind).remove(id);
        let id = id.into();
        (next, vec![Action::Removed { id, holders }])
    }

    fn generate(&self, kind: Kind) -> Action {
        Action::Generate {
            slot: self.slots(kind).free_slot(),
        }
    }

    fn expect(
        &self,
        kind: Kind,
        id: &str,
        expected: &[Status],
        verb: &'static str,
    ) -> Result<&Authority, LifecycleError> {
        let authority = self
            .slots(kind)
            .find(id)
            .ok_or_else(|| LifecycleError::Unknown { id: id.into() })?;
        if !expected.contains(&authority.status) {
            return Err(LifecycleError::WrongStatus {
                id: id.into(),
                found: authority.status,
                expected: match expected {
                    [Status::Tainted] => "tainted",
                    [Status::Old] => "old",
                    _ => "old or tainted",
                },
                verb,
            });
        }
        Ok(authority)
    }

    fn slots_mut(&mut self, kind: Kind) -> &mut Slots {
        match kind {
            Kind::Jwt => &mut self.jwt,
            Kind::X509 => &mut self.x509,
        }
    }
}

/// When `threshold` of an authority's life is left.
fn before_end(authority: &Authority, threshold: Threshold) -> Timestamp {
    // Backdating adds nothing to the time in which it can sign.
    let life = authority.not_after.saturating_since(authority.published_at);
    authority.not_after - threshold.of(life)
}

/// Whether an authority was made while the clock was far ahead, and would sign nothing until that time has come. A clock
/// that is a little behind is waited for.
fn is_of_the_future(authority: &Authority, now: Timestamp, rules: &Rollover) -> bool {
    let life = authority.not_after.saturating_since(authority.not_before);
    authority.not_before.saturating_since(now) > rules.activate.of(life)
}

/// The last instant at which the bundle must contain an authority that signs no more: Federation §4.1.
fn in_use_until(authority: &Authority, rules: &Rollover) -> Timestamp {
    authority.signed_until.min(authority.not_after) + rules.keep
}

#[cfg(test)]
mod tests;

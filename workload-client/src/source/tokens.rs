//! The workload's own JWT-SVIDs by audience and identity, renewed when half of their life has passed, or earlier where the
//! endpoint has been away for longer than the other half.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use spiffe_core::{JwtSvid, SpiffeId, Timestamp};
use tokio::task::JoinSet;

use super::outages::Outages;
use super::survival::{Outlook, Survival};
use crate::client::WorkloadApiClient;
use crate::error::ClientError;
use crate::observe::{Event, Observer};
use crate::update::empty;

/// The most pairs of audience and identity that tokens are kept for: audiences may come from what others ask for.
pub const MAX_CACHED_TOKENS: usize = 1024;

/// How soon a renewal that failed is tried again while the token is still valid.
const RENEWAL_RETRY: Duration = Duration::from_secs(5);

/// Whom a token is for, and whose it is.
pub(super) type Key = (Vec<String>, Option<SpiffeId>);

/// A handle; clones share the tokens, and the last one takes the renewals that are under way with it.
#[derive(Clone)]
pub(super) struct Tokens {
    slots: Arc<Slots>,
    renewals: Arc<Mutex<JoinSet<()>>>,
}

struct Slots {
    by_key: Mutex<HashMap<Key, Arc<Slot>>>,
    outlook: Arc<Outlook>,
    outages: Arc<Outages>,
    observer: Observer,
}

#[derive(Default)]
struct Slot {
    held: Mutex<Option<Held>>,
    /// Held while a token is being fetched: one request at a time for each key.
    fetching: Arc<tokio::sync::Mutex<()>>,
    attempts: Mutex<Attempts>,
}

/// How many requests have ended, and how the last one failed.
#[derive(Default)]
struct Attempts {
    number: u64,
    error: Option<ClientError>,
}

/// What a slot holds at some instant.
enum Look {
    /// A token that is not to be renewed yet.
    Fresh(Held),
    /// A valid token to be renewed.
    Due(Held),
    Nothing,
}

/// A token, and from when on whoever asks for it has it renewed.
#[derive(Clone)]
pub(crate) struct Held {
    pub(crate) token: Arc<JwtSvid>,
    pub(crate) renew_at: Timestamp,
}

impl Tokens {
    pub(super) fn new(outlook: Arc<Outlook>, outages: Arc<Outages>, observer: Observer) -> Self {
        Self {
            slots: Arc::new(Slots {
                by_key: Mutex::default(),
                outlook,
                outages,
                observer,
            }),
            renewals: Arc::default(),
        }
    }

    /// The token for `key`. Whoever finds one that is due gets it at once, and it is renewed beside.
    pub(super) async fn get(
        &self,
        client: &WorkloadApiClient,
        key: Key,
    ) -> Result<Held, ClientError> {
        let clock = client.clock();
        let now = clock.now();
        let slot = self.slots.slot(&key, now);
        match slot.look(now) {
            Look::Fresh(held) => return Ok(held),
            Look::Due(held) => {
                self.renew(client, key, slot);
                return Ok(held);
            }
            Look::Nothing => {}
        }
        let before = lock(&slot.attempts).number;
        let _fetching = slot.fetching.lock().await;
        // Whoever was fetching meanwhile has left a token, or the error that another request would meet too.
        if let Look::Fresh(held) | Look::Due(held) = slot.look(clock.now()) {
            return Ok(held);
        }
        if let Some(error) = slot.failed_since(before) {
            return Err(error);
        }
        self.slots.fetch(client, key, &slot).await
    }

    /// Renews a token in a task of its own, unless that is under way.
    fn renew(&self, client: &WorkloadApiClient, key: Key, slot: Arc<Slot>) {
        let Ok(fetching) = slot.fetching.clone().try_lock_owned() else {
            return;
        };
        let (slots, client) = (self.slots.clone(), client.clone());
        let mut renewals = lock(&self.renewals);
        while renewals.try_join_next().is_some() {}
        renewals.spawn(async move {
            // A failure is told by its event; whoever asks next tries again.
            let _ = slots.fetch(&client, key, &slot).await;
            drop(fetching);
        });
    }

    /// Stops the renewals that are under way and returns once none runs any more.
    pub(super) async fn shutdown(&self) {
        let mut renewals = std::mem::take(&mut *lock(&self.renewals));
        renewals.shutdown().await;
    }

    /// Forgets every token: the workload is not to use them any more. Says whether there was one.
    pub(super) fn forget(&self) -> bool {
        let slots = std::mem::take(&mut *lock(&self.slots.by_key));
        self.slots.outlook.tokens(None);
        slots.values().any(|slot| lock(&slot.held).is_some())
    }

    /// Every token that is held is renewed when it is next asked for: the clock that it was timed by has stepped.
    pub(super) fn renew_all(&self) {
        for slot in lock(&self.slots.by_key).values() {
            slot.retry_at(Timestamp::UNIX_EPOCH);
        }
    }
}

impl Slots {
    /// Asks for a token and keeps it.
    async fn fetch(
        &self,
        client: &WorkloadApiClient,
        key: Key,
        slot: &Slot,
    ) -> Result<Held, ClientError> {
        let clock = client.clock();
        let (audiences, id) = key;
        let fetched = client.fetch_jwt_svids(audiences, id.as_ref()).await;
        let now = clock.now();
        let fetched = fetched.and_then(|tokens| {
            let first = tokens.into_iter().next();
            first.ok_or_else(|| empty("svids").into())
        });
        slot.attempted(fetched.as_ref().err());
        self.observer.event(&match &fetched {
            Ok(_) => Event::TokenFetched,
            Err(error) => Event::TokenFailed { error },
        });
        let fetched = match fetched {
            Ok(token) => {
                let life = token.expires_at().saturating_since(now);
                let held = Held {
                    renew_at: token.expires_at() - self.outages.renewal_margin(life),
                    token: Arc::new(token),
                };
                slot.hold(Some(held.clone()));
                Ok(held)
            }
            Err(error) => {
                match &error {
                    ClientError::PermissionDenied { .. } => slot.hold(None),
                    _ => slot.retry_at(now + RENEWAL_RETRY),
                }
                Err(error)
            }
        };
        self.outlook.tokens(self.survival(now));
        fetched
    }

    /// The first of the valid tokens to end.
    fn survival(&self, now: Timestamp) -> Option<Survival> {
        let slots = lock(&self.by_key);
        let valid = slots.values().filter_map(|slot| slot.valid(now));
        let first = valid.min_by_key(|held| held.token.expires_at())?;
        let token = first.token;
        Some(Survival::token(token.expires_at(), token.id().clone()))
    }

    /// The slot of `key`; makes room where there is none.
    fn slot(&self, key: &Key, now: Timestamp) -> Arc<Slot> {
        let mut slots = lock(&self.by_key);
        if let Some(slot) = slots.get(key) {
            return slot.clone();
        }
        if slots.len() >= MAX_CACHED_TOKENS {
            slots.retain(|_, slot| slot.valid(now).is_some());
        }
        if slots.len() >= MAX_CACHED_TOKENS {
            let next_to_go = slots
                .iter()
                .min_by_key(|(_, slot)| slot.valid(now).map(|held| held.token.expires_at()))
                .map(|(key, _)| key.clone());
            if let Some(next_to_go) = next_to_go {
                slots.remove(&next_to_go);
            }
        }
        slots.entry(key.clone()).or_default().clone()
    }
}

impl Slot {
    fn valid(&self, now: Timestamp) -> Option<Held> {
        lock(&self.held)
            .clone()
            .filter(|held| now < held.token.expires_at())
    }

    fn look(&self, now: Timestamp) -> Look {
        match self.valid(now) {
            Some(held) if now < held.renew_at => Look::Fresh(held),
            Some(held) => Look::Due(held),
            None => Look::Nothing,
        }
    }

    /// The token that is held is due at `at`.
    fn retry_at(&self, at: Timestamp) {
        if let Some(held) = &mut *lock(&self.held) {
            held.renew_at = at;
        }
    }

    fn attempted(&self, error: Option<&ClientError>) {
        let mut attempts = lock(&self.attempts);
        attempts.number += 1;
        attempts.error = error.cloned();
    }

    /// The error of a request that ended after `before` had.
    fn failed_since(&self, before: u64) -> Option<ClientError> {
        let attempts = lock(&self.attempts);
        attempts.error.clone().filter(|_| attempts.number > before)
    }

    fn hold(&self, held: Option<Held>) {
        *lock(&self.held) = held;
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens")
            .field("held", &lock(&self.slots.by_key).len())
            .finish()
    }
}

/// Nothing panics while these locks are held, and what they guard is whole at every step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

//! The workload's own JWT-SVIDs by audience and identity, renewed when half of their life has passed.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use spiffe_core::{JwtSvid, SpiffeId, Timestamp};

use crate::client::WorkloadApiClient;
use crate::error::ClientError;
use crate::update::empty;

/// The most pairs of audience and identity that tokens are kept for: audiences may come from what others ask for.
pub const MAX_CACHED_TOKENS: usize = 1024;

/// How soon a renewal that failed is tried again while the token is still valid.
const RENEWAL_RETRY: Duration = Duration::from_secs(5);

/// Whom a token is for, and whose it is.
pub(super) type Key = (Vec<String>, Option<SpiffeId>);

#[derive(Default)]
pub(super) struct Tokens {
    slots: Mutex<HashMap<Key, Arc<Slot>>>,
}

#[derive(Default)]
struct Slot {
    held: Mutex<Option<Held>>,
    /// Held while a token is being fetched: one request at a time for each key.
    fetching: tokio::sync::Mutex<()>,
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
    /// A token in the first half of its life.
    Fresh(Arc<JwtSvid>),
    /// A valid token to be renewed.
    Due(Held),
    Nothing,
}

#[derive(Clone)]
struct Held {
    token: Arc<JwtSvid>,
    renew_at: Timestamp,
}

impl Tokens {
    pub(super) async fn get(
        &self,
        client: &WorkloadApiClient,
        key: Key,
    ) -> Result<Arc<JwtSvid>, ClientError> {
        let clock = client.clock();
        let slot = self.slot(&key, clock.now());
        let held = match slot.look(clock.now()) {
            Look::Fresh(token) => return Ok(token),
            Look::Due(held) => Some(held),
            Look::Nothing => None,
        };
        let before = lock(&slot.attempts).number;
        let _fetching = match (slot.fetching.try_lock(), held) {
            (Ok(guard), _) => guard,
            (Err(_), Some(held)) => return Ok(held.token),
            (Err(_), None) => slot.fetching.lock().await,
        };
        // Whoever was fetching meanwhile has left a token, or the error that another request would meet too.
        let held = match slot.look(clock.now()) {
            Look::Fresh(token) => return Ok(token),
            Look::Due(held) => Some(held),
            Look::Nothing => None,
        };
        if let Some(error) = slot.failed_since(before) {
            return Err(error);
        }
        let (audiences, id) = key;
        let fetched = client.fetch_jwt_svids(audiences, id.as_ref()).await;
        let now = clock.now();
        let fetched = fetched.and_then(|tokens| {
            let first = tokens.into_iter().next();
            first.ok_or_else(|| empty("svids").into())
        });
        slot.attempted(fetched.as_ref().err());
        match (fetched, held) {
            (Ok(token), _) => {
                let token = Arc::new(token);
                let left = token.expires_at().saturating_since(now);
                slot.hold(Some(Held {
                    token: token.clone(),
                    renew_at: now + left / 2,
                }));
                Ok(token)
            }
            (Err(error @ ClientError::PermissionDenied { .. }), _) => {
                slot.hold(None);
                Err(error)
            }
            (Err(_), Some(held)) if now < held.token.expires_at() => {
                let token = held.token.clone();
                slot.hold(Some(Held {
                    renew_at: now + RENEWAL_RETRY,
                    ..held
                }));
                Ok(token)
            }
            (Err(error), _) => Err(error),
        }
    }

    /// Forgets every token: the workload is not to use them any more.
    pub(super) fn forget(&self) {
        lock(&self.slots).clear();
    }

    /// The slot of `key`; makes room where there is none.
    fn slot(&self, key: &Key, now: Timestamp) -> Arc<Slot> {
        let mut slots = lock(&self.slots);
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
            Some(held) if now < held.renew_at => Look::Fresh(held.token),
            Some(held) => Look::Due(held),
            None => Look::Nothing,
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
            .field("held", &lock(&self.slots).len())
            .finish()
    }
}

/// Nothing panics while these locks are held, and what they guard is whole at every step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

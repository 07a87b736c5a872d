//! JWT keys of other servers of the same trust domain: those that servers below this one published here, and those that
//! the upstream names.
//!
//! A token names its key and no chain, so whoever verifies it must have the key itself: every server of a trust domain
//! has the keys of all. What comes from below goes up before it signs (Federation §4.1), and from there down to everybody.

use spiffe_core::Timestamp;
use spiffe_core::bundle::JwtAuthority;

use super::{Action, Rollover, State};
use crate::error::LifecycleError;

/// The most JWT keys of others; a server has two or three, and a bundle is to be read by everybody.
pub const MAX_SHARED_KEYS: usize = 1000;

/// A JWT key of another server of the trust domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedKey {
    pub(crate) key: JwtAuthority,
    /// When it expires, for one that was published from below; `None` for one that the upstream names.
    pub(crate) until: Option<Timestamp>,
}

impl SharedKey {
    /// The key with its ID.
    pub fn key(&self) -> &JwtAuthority {
        &self.key
    }

    /// When it expires, for one that was published from below; `None` for one that the upstream names, which also says
    /// when it leaves.
    pub fn until(&self) -> Option<Timestamp> {
        self.until
    }
}

impl State {
    /// The JWT keys of other servers.
    pub fn shared_keys(&self) -> &[SharedKey] {
        &self.shared_keys
    }

    /// Those in the bundle: an own key of the same ID goes first.
    pub(super) fn shared_jwt_authorities(&self) -> impl Iterator<Item = &JwtAuthority> {
        self.shared_keys
            .iter()
            .map(SharedKey::key)
            .filter(|key| self.jwt.find(key.key_id()).is_none())
    }

    /// Takes a key from below.
    pub(super) fn share(
        &self,
        key: &JwtAuthority,
        until: Timestamp,
    ) -> Result<(Self, Vec<Action>), LifecycleError> {
        let id = key.key_id();
        let taken = LifecycleError::KeyIdTaken { id: id.into() };
        if self.jwt.find(id).is_some() {
            return Err(taken);
        }
        let mut next = self.clone();
        match next
            .shared_keys
            .iter_mut()
            .find(|known| known.key.key_id() == id)
        {
            Some(known) if known.key.public_key() != key.public_key() => return Err(taken),
            Some(known) => {
                // The upstream may have named it first.
                known.until = known.until.max(Some(until));
                return Ok((next, Vec::new()));
            }
            None if self.shared_keys.len() >= MAX_SHARED_KEYS => {
                return Err(LifecycleError::TooManyKeys);
            }
            None => next.shared_keys.push(SharedKey {
                key: key.clone(),
                until: Some(until),
            }),
        }
        next.sequence += 1;
        Ok((next, vec![Action::KeyShared { id: id.into() }]))
    }

    /// Drops a key that came from below.
    pub(super) fn unshare(&self, id: &str) -> (Self, Vec<Action>) {
        self.keep_shared(|known| known.key.key_id() != id || known.until.is_none())
    }

    /// Drops keys from below that have expired.
    pub(super) fn drop_expired_keys(
        &self,
        now: Timestamp,
        rules: &Rollover,
    ) -> Option<(Self, Vec<Action>)> {
        let over = |known: &SharedKey| known.until.is_some_and(|until| now > until + rules.keep);
        self.shared_keys
            .iter()
            .any(over)
            .then(|| self.keep_shared(|known| !over(known)))
    }

    /// Takes the keys that the upstream names, in place of those that it named before.
    pub(super) fn take_upstream_keys(&self, named: &[JwtAuthority]) -> (Self, Vec<Action>) {
        let is_named = |id: &str| named.iter().any(|key| key.key_id() == id);
        let (mut next, mut actions) =
            self.keep_shared(|known| known.until.is_some() || is_named(known.key.key_id()));
        let mut changed = !actions.is_empty();
        for key in named {
            let id = key.key_id();
            let known = next
                .shared_keys
                .iter_mut()
                .find(|known| known.key.key_id() == id);
            match known {
                Some(known) if known.key != *key => {
                    known.key = key.clone();
                    changed = true;
                }
                Some(_) => {}
                // The own keys come back from the upstream; they are in the bundle already.
                None if self.jwt.find(id).is_some() => {}
                None => {
                    next.shared_keys.push(SharedKey {
                        key: key.clone(),
                        until: None,
                    });
                    actions.push(Action::KeyShared { id: id.into() });
                    changed = true;
                }
            }
        }
        next.sequence = self.sequence + u64::from(changed);
        (next, actions)
    }

    fn keep_shared(&self, keep: impl Fn(&SharedKey) -> bool) -> (Self, Vec<Action>) {
        let mut next = self.clone();
        let mut actions = Vec::new();
        next.shared_keys.retain(|known| {
            let stays = keep(known);
            if !stays {
                let id = known.key.key_id().into();
                actions.push(Action::KeyUnshared { id });
            }
            stays
        });
        next.sequence += u64::from(!actions.is_empty());
        (next, actions)
    }
}

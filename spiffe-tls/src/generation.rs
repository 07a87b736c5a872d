//! When a pool of connections has to be replaced.
//!
//! A pool hands out whatever is open and cannot be told to leave one connection alone. So the connections of one pool
//! share a [`Generation`]; the first whose lease is over ends it, and whoever holds the pool makes a new one for the
//! next request. What the old one has under way goes on until it is done, or until the grace is over.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The connections of one pool, as a flag that they share: whether it may still be used.
#[derive(Clone, Debug, Default)]
pub(crate) struct Generation {
    over: Arc<AtomicBool>,
}

impl Generation {
    pub(crate) fn end(&self) {
        self.over.store(true, Ordering::Release);
    }

    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }
}

//! The streams of one client that are being followed, so that sources share them.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::runtime::{Handle, Id};

/// By what follows them, and by runtime: a task ends with the runtime that it runs on, and sources of another one must
/// not end with it.
#[derive(Default)]
pub(crate) struct Streams {
    by_kind: Mutex<HashMap<(TypeId, Id), Weak<dyn Any + Send + Sync>>>,
}

impl Streams {
    /// Lets `join` look at the stream of kind `S` on `runtime`, where there is one, and return the one that was joined.
    pub(crate) fn join<S: Send + Sync + 'static>(
        &self,
        runtime: &Handle,
        join: impl FnOnce(Option<&Arc<S>>) -> Arc<S>,
    ) -> Arc<S> {
        let mut by_kind = self.by_kind.lock().unwrap_or_else(PoisonError::into_inner);
        by_kind.retain(|_, stream| stream.strong_count() > 0);
        let key = (TypeId::of::<S>(), runtime.id());
        let known = by_kind.get(&key).and_then(Weak::upgrade);
        let known = known.and_then(|stream| stream.downcast::<S>().ok());
        let joined = join(known.as_ref());
        let any: Arc<dyn Any + Send + Sync> = joined.clone();
        by_kind.insert(key, Arc::downgrade(&any));
        joined
    }
}

impl fmt::Debug for Streams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Streams").finish_non_exhaustive()
    }
}

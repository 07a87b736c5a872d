//! Revisions: the immutable state of a workload, everything derived from it, and one atomic swap for both.
//!
//! A [`Publisher`] holds one pointer to the current [`Published`] revision. Whoever derives something from a
//! snapshot (ready TLS configurations, say) registers a step; each new snapshot goes through every step before any
//! reader sees it, and a snapshot that a step rejects is never seen. Readers load one pointer and wait for nothing.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use arc_swap::ArcSwap;

use crate::bundle::{Bundle, BundleSet};
use crate::svid::X509Svid;
use crate::{BoxFuture, Rule, TrustDomain, TrustDomainRef};

/// Counts the changes of one publisher, from 0, which is the empty state before the first update.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(u64);

impl Revision {
    /// The number.
    pub const fn get(self) -> u64 {
        self.0
    }

    const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a workload holds at one moment: its SVIDs, all bundles, and a number.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    revision: Revision,
    trust_revision: Revision,
    svids: Vec<Arc<X509Svid>>,
    bundles: Arc<BundleSet>,
}

impl Snapshot {
    /// Counts every change.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// Counts only changes of authorities.
    pub fn trust_revision(&self) -> Revision {
        self.trust_revision
    }

    /// The SVIDs in the order they were delivered; the first is the default identity (Workload API §8).
    pub fn svids(&self) -> &[Arc<X509Svid>] {
        &self.svids
    }

    /// The default identity.
    ///
    /// # Errors
    ///
    /// [`SourceError::NoIdentity`].
    pub fn svid(&self) -> Result<&Arc<X509Svid>, SourceError> {
        self.svids.first().ok_or(SourceError::NoIdentity)
    }

    /// The first SVID that carries `hint`.
    ///
    /// # Errors
    ///
    /// [`SourceError::NoSuchHint`]; there is no silent default (Workload API §8).
    pub fn svid_by_hint(&self, hint: &str) -> Result<&Arc<X509Svid>, SourceError> {
        self.svids
            .iter()
            .find(|svid| svid.hint() == Some(hint))
            .ok_or_else(|| SourceError::NoSuchHint { hint: hint.into() })
    }

    /// The bundles, own and federated.
    pub fn bundles(&self) -> &Arc<BundleSet> {
        &self.bundles
    }

    /// The bundle of `trust_domain`.
    ///
    /// # Errors
    ///
    /// [`SourceError::TrustDomainUnknown`].
    pub fn bundle(&self, trust_domain: TrustDomainRef<'_>) -> Result<&Arc<Bundle>, SourceError> {
        self.bundles
            .get(trust_domain)
            .ok_or_else(|| SourceError::TrustDomainUnknown {
                trust_domain: trust_domain.to_owned(),
            })
    }
}

/// What a source does not have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// No SVID: none was delivered, or it was withdrawn.
    #[error("the workload holds no identity: none was delivered, or it was withdrawn")]
    NoIdentity,
    /// No SVID carries the hint.
    #[error("no identity carries the hint {hint:?}")]
    NoSuchHint {
        /// The hint that was asked for.
        hint: String,
    },
    /// No bundle for the trust domain.
    #[error(
        "no bundle of the trust domain {trust_domain} is known; federate with it to trust its workloads"
    )]
    TrustDomainUnknown {
        /// The trust domain that was asked for.
        trust_domain: TrustDomain,
    },
}

impl SourceError {
    /// The rule behind it.
    pub const fn rule(&self) -> Rule {
        match self {
            Self::NoIdentity => Rule::NoIdentity,
            Self::NoSuchHint { .. } => Rule::NoSuchHint,
            Self::TrustDomainUnknown { .. } => Rule::TrustDomainUnknown,
        }
    }
}

/// A snapshot with everything derived from it, all of one revision.
#[derive(Clone)]
pub struct Published {
    snapshot: Arc<Snapshot>,
    /// By the number of the step that derived it.
    derived: BTreeMap<u64, Arc<dyn Any + Send + Sync>>,
}

impl Published {
    /// The snapshot.
    pub fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }
}

impl std::ops::Deref for Published {
    type Target = Snapshot;

    fn deref(&self) -> &Snapshot {
        &self.snapshot
    }
}

impl fmt::Debug for Published {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Published")
            .field("snapshot", &self.snapshot)
            .field("derived", &self.derived.len())
            .finish()
    }
}

/// A live or fixed holder of SVIDs and bundles: Workload API, files, an in-process CA or a plain value.
///
/// The one method hands out the publisher; what it publishes is read through the provided views. An implementor keeps
/// a [`Publisher`] and so cannot show a reader half of an update.
pub trait Source: fmt::Debug + Send + Sync + 'static {
    /// Where this source publishes.
    fn publisher(&self) -> &Publisher;

    /// The current revision: one atomic load. Take it once per operation.
    fn current(&self) -> Arc<Published> {
        self.publisher().load()
    }

    /// The default identity of the current revision.
    ///
    /// # Errors
    ///
    /// [`SourceError::NoIdentity`].
    fn svid(&self) -> Result<Arc<X509Svid>, SourceError> {
        self.current().svid().cloned()
    }

    /// A trust domain's bundle of the current revision.
    ///
    /// # Errors
    ///
    /// [`SourceError::TrustDomainUnknown`].
    fn bundle(&self, trust_domain: TrustDomainRef<'_>) -> Result<Arc<Bundle>, SourceError> {
        self.current().bundle(trust_domain).cloned()
    }
}

impl<S: Source + ?Sized> Source for Arc<S> {
    fn publisher(&self) -> &Publisher {
        (**self).publisher()
    }
}

/// Notice of change, apart from the values themselves.
pub trait Watch {
    /// Resolves with the current revision once it is later than `seen`.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing: ask again with the same `seen`.
    fn changed(&self, seen: Revision) -> BoxFuture<'static, Revision>;
}

impl<S: Source + ?Sized> Watch for S {
    fn changed(&self, seen: Revision) -> BoxFuture<'static, Revision> {
        Box::pin(Changed {
            shared: self.publisher().shared.clone(),
            seen,
            waker: None,
        })
    }
}

/// Why a step refuses a snapshot, in one line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
#[non_exhaustive]
pub struct Rejection {
    /// The rule behind it.
    pub rule: Rule,
    /// What cannot be used and why.
    pub reason: String,
}

impl Rejection {
    /// A rejection with its reason.
    pub fn new(rule: Rule, reason: impl Into<String>) -> Self {
        Self {
            rule,
            reason: reason.into(),
        }
    }
}

/// Publishes the revisions of one source; clones are handles to the same state.
///
/// It is itself a [`Source`]: a publisher with one fixed update is the static source.
#[derive(Clone)]
pub struct Publisher {
    shared: Arc<Shared>,
}

impl Publisher {
    /// A publisher with nothing: no SVID, no bundle, revision 0.
    pub fn new() -> Self {
        let empty = Published {
            snapshot: Arc::default(),
            derived: BTreeMap::new(),
        };
        Self {
            shared: Arc::new(Shared {
                current: ArcSwap::from_pointee(empty),
                steps: Mutex::default(),
                wakers: Mutex::default(),
            }),
        }
    }

    /// A source of values that do not change.
    pub fn fixed(
        svids: impl IntoIterator<Item = X509Svid>,
        bundles: impl Into<Arc<BundleSet>>,
    ) -> Self {
        let publisher = Self::new();
        // Without a registered step there is nobody to reject the update.
        let _ = publisher.publish(svids.into_iter().map(Arc::new), bundles);
        publisher
    }

    /// The current revision: one atomic load.
    pub fn load(&self) -> Arc<Published> {
        self.shared.current.load_full()
    }

    /// Makes the next revision of these SVIDs and bundles: every registered step derives its part, then one swap
    /// shows all of it to every reader. Returns the new revision.
    ///
    /// # Errors
    ///
    /// The [`Rejection`] of the first step that cannot use the snapshot; the current revision then stays.
    pub fn publish(
        &self,
        svids: impl IntoIterator<Item = Arc<X509Svid>>,
        bundles: impl Into<Arc<BundleSet>>,
    ) -> Result<Revision, Rejection> {
        let svids = svids.into_iter().collect();
        let bundles = bundles.into();
        let steps = lock(&self.shared.steps);
        let before = self.load();
        let trust_unchanged =
            Arc::ptr_eq(&bundles, before.bundles()) || bundles.same_authorities(before.bundles());
        let snapshot = Arc::new(Snapshot {
            revision: before.revision.next(),
            trust_revision: if trust_unchanged {
                before.trust_revision
            } else {
                before.trust_revision.next()
            },
            svids,
            bundles,
        });
        let revision = snapshot.revision;
        let mut derived = BTreeMap::new();
        for (number, step) in &steps.live {
            derived.insert(*number, step(&snapshot)?);
        }
        self.shared
            .current
            .store(Arc::new(Published { snapshot, derived }));
        drop(steps);
        self.wake();
        Ok(revision)
    }

    /// Registers a step that derives a `T` from every snapshot, beginning with the current one.
    ///
    /// The step runs while a revision is being published: it must not block, publish, or derive. It ends when the
    /// returned handle and its clones are dropped, and what it derived goes with it, so that handles may come and go on
    /// a source that never changes.
    ///
    /// # Errors
    ///
    /// The step's [`Rejection`] of the current snapshot, or of the empty one: a withdrawal publishes that, and no step
    /// may keep withdrawn trust in use.
    pub fn derive<T: Send + Sync + 'static>(
        &self,
        step: impl Fn(&Arc<Snapshot>) -> Result<T, Rejection> + Send + Sync + 'static,
    ) -> Result<Derived<T>, Rejection> {
        step(&Arc::default())?;
        let mut steps = lock(&self.shared.steps);
        let before = self.load();
        let value: Arc<dyn Any + Send + Sync> = Arc::new(step(before.snapshot())?);
        let number = steps.next;
        steps.next += 1;
        steps.live.insert(
            number,
            Box::new(move |snapshot| Ok(Arc::new(step(snapshot)?))),
        );
        let mut derived = before.derived.clone();
        derived.insert(number, value);
        self.shared.current.store(Arc::new(Published {
            snapshot: before.snapshot.clone(),
            derived,
        }));
        drop(steps);
        Ok(Derived {
            registration: Arc::new(Registration {
                publisher: self.clone(),
                number,
            }),
            of: PhantomData,
        })
    }

    /// Wakes everybody who waits for a change.
    fn wake(&self) {
        let wakers = std::mem::take(&mut lock(&self.shared.wakers).waiting);
        for waker in wakers.into_values() {
            waker.wake();
        }
    }
}

impl Default for Publisher {
    fn default() -> Self {
        Self::new()
    }
}

impl Source for Publisher {
    fn publisher(&self) -> &Publisher {
        self
    }
}

impl fmt::Debug for Publisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publisher")
            .field("current", &self.load())
            .finish()
    }
}

/// A handle to what one step derives; clones share the registration.
pub struct Derived<T> {
    registration: Arc<Registration>,
    of: PhantomData<fn() -> T>,
}

impl<T: Send + Sync + 'static> Derived<T> {
    /// The current revision and what this step made of it, both from one atomic load.
    pub fn load(&self) -> (Arc<Published>, Arc<T>) {
        let published = self.registration.publisher.load();
        let value = published
            .derived
            .get(&self.registration.number)
            .cloned()
            .and_then(|value| value.downcast().ok())
            // The step is registered for as long as this handle lives, and its number is its own.
            .expect("every published revision holds what a registered step derived");
        (published, value)
    }

    /// Where the revisions come from.
    pub fn publisher(&self) -> &Publisher {
        &self.registration.publisher
    }
}

impl<T> Clone for Derived<T> {
    fn clone(&self) -> Self {
        Self {
            registration: self.registration.clone(),
            of: PhantomData,
        }
    }
}

impl<T> fmt::Debug for Derived<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Derived").finish_non_exhaustive()
    }
}

/// Takes its step out when dropped.
struct Registration {
    publisher: Publisher,
    number: u64,
}

impl Drop for Registration {
    fn drop(&mut self) {
        let shared = &self.publisher.shared;
        let mut steps = lock(&shared.steps);
        let step = steps.live.remove(&self.number);
        let before = self.publisher.load();
        let mut derived = before.derived.clone();
        derived.remove(&self.number);
        shared.current.store(Arc::new(Published {
            snapshot: before.snapshot.clone(),
            derived,
        }));
        drop(steps);
        // Both may hold the last handle of another step, whose drop takes the lock again.
        drop((step, before));
    }
}

type Step =
    Box<dyn Fn(&Arc<Snapshot>) -> Result<Arc<dyn Any + Send + Sync>, Rejection> + Send + Sync>;

struct Shared {
    current: ArcSwap<Published>,
    /// Held while a revision is made, so that revisions and registrations follow each other.
    steps: Mutex<Steps>,
    wakers: Mutex<Wakers>,
}

#[derive(Default)]
struct Steps {
    next: u64,
    live: BTreeMap<u64, Step>,
}

#[derive(Default)]
struct Wakers {
    next: u64,
    waiting: BTreeMap<u64, Waker>,
}

/// Resolves at the first revision later than `seen`; leaves no waker behind when dropped.
struct Changed {
    shared: Arc<Shared>,
    seen: Revision,
    waker: Option<u64>,
}

impl Future for Changed {
    type Output = Revision;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Revision> {
        let shared = self.shared.clone();
        let mut wakers = lock(&shared.wakers);
        let number = *self.waker.get_or_insert_with(|| {
            wakers.next += 1;
            wakers.next
        });
        wakers.waiting.insert(number, context.waker().clone());
        drop(wakers);
        // Looked at after the waker is in place, so a revision published meanwhile is either seen or wakes.
        let revision = shared.current.load().revision;
        if revision > self.seen {
            Poll::Ready(revision)
        } else {
            Poll::Pending
        }
    }
}

impl Drop for Changed {
    fn drop(&mut self) {
        if let Some(number) = self.waker {
            lock(&self.shared.wakers).waiting.remove(&number);
        }
    }
}

/// A panic elsewhere leaves these structures whole, so a poisoned lock is taken over.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

//! What a configuration demands of peers, changeable while connections are open.

use std::future::Future;
use std::sync::Arc;

use arc_swap::ArcSwap;
use spiffe_core::Authorizer;
use spiffe_core::verify::Revocations;
use tokio::sync::Notify;

/// What peers must keep besides showing a good chain: the policy, lists of revoked certificates, and whether tainted
/// authorities still count. Clones share one state.
///
/// Keep a clone to change the terms later: handshakes are judged by what is in force when the peer's chain arrives, and
/// every open connection is judged again when the terms change (see [`Lease`](crate::Lease)).
///
/// ```
/// use spiffe_tls::{Mtls, Policy, Publisher, Terms};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let source = Publisher::new();
/// let terms = Terms::new("domain:example.org".parse::<Policy>()?);
/// let acceptor = Mtls::new(&source, terms.clone()).acceptor()?;
/// // Later: who no longer fits is drained.
/// terms.authorize("id:spiffe://example.org/web".parse::<Policy>()?);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Terms {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    current: ArcSwap<InForce>,
    changed: Notify,
}

/// The terms of one moment.
#[derive(Clone, Debug)]
pub(crate) struct InForce {
    /// Counts the changes.
    pub(crate) number: u64,
    pub(crate) authorizer: Arc<dyn Authorizer>,
    pub(crate) revocations: Arc<Revocations>,
    pub(crate) refuse_tainted: bool,
}

impl Terms {
    /// Terms with this authorizer, without lists of revoked certificates, under which tainted authorities count.
    pub fn new(authorizer: impl Authorizer) -> Self {
        Self {
            shared: Arc::new(Shared {
                current: ArcSwap::from_pointee(InForce {
                    number: 0,
                    authorizer: Arc::new(authorizer),
                    revocations: Arc::default(),
                    refuse_tainted: false,
                }),
                changed: Notify::new(),
            }),
        }
    }

    /// Allows from now on the peers that `authorizer` allows.
    pub fn authorize(&self, authorizer: impl Authorizer) {
        let authorizer: Arc<dyn Authorizer> = Arc::new(authorizer);
        self.change(|terms| terms.authorizer = authorizer.clone());
    }

    /// Refuses from now on what these lists revoke: RFC 5280 §6.3.
    pub fn revoke(&self, revocations: impl Into<Arc<Revocations>>) {
        let revocations = revocations.into();
        self.change(|terms| terms.revocations = revocations.clone());
    }

    /// Takes tainted authorities for gone, or counts them again.
    ///
    /// A taint asks for new SVIDs and by itself refuses nobody, since the holders of old ones need time. Set this where
    /// the key of a tainted authority is known to be in the wrong hands.
    pub fn refuse_tainted(&self, refuse: bool) {
        self.change(|terms| terms.refuse_tainted = refuse);
    }

    fn change(&self, change: impl Fn(&mut InForce)) {
        self.shared.current.rcu(|before| {
            let mut terms = InForce::clone(before);
            terms.number += 1;
            change(&mut terms);
            terms
        });
        self.shared.changed.notify_waiters();
    }

    pub(crate) fn in_force(&self) -> Arc<InForce> {
        self.shared.current.load_full()
    }

    /// Resolves once the terms are others than those with the number `seen`.
    pub(crate) fn changed(&self, seen: u64) -> impl Future<Output = ()> + Send + use<> {
        let shared = self.shared.clone();
        async move {
            loop {
                let notified = shared.changed.notified();
                if shared.current.load().number != seen {
                    return;
                }
                notified.await;
            }
        }
    }
}

impl<A: Authorizer> From<A> for Terms {
    fn from(authorizer: A) -> Self {
        Self::new(authorizer)
    }
}

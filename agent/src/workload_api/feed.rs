//! One open stream: the first message at once, then one for each change that concerns its caller.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::Arc;

use futures_util::stream::{self, Stream};
use spiffe_core::{BundleSet, Clock, TrustDomain};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tonic::Status;

use super::identity::{Grant, Identity};
use super::updates::{Outlook, Update, bundles_for};
use crate::cache::{SvidCache, View};
use crate::deliveries::{Deliveries, OpenStream};

/// A stream as the generated trait wants it.
pub(super) type Messages<M> = Pin<Box<dyn Stream<Item = Result<M, Status>> + Send>>;

/// What a stream follows, and for whom.
pub(super) struct Feed<U> {
    identity: Identity,
    trust_domain: TrustDomain,
    cache: SvidCache,
    views: watch::Receiver<Arc<View>>,
    clock: Arc<dyn Clock>,
    closing: watch::Receiver<bool>,
    grants: Vec<Grant>,
    /// The [`View::entries_revision`] that the grants are of.
    granted: Option<u64>,
    sent: Option<U>,
    deliveries: Deliveries,
    /// From the first message on.
    open: Option<OpenStream>,
    /// What the message that was handed out last brings.
    under_way: Option<Receipt>,
    /// Held for as long as the stream is open.
    _turn: OwnedSemaphorePermit,
}

impl<U: Update> Feed<U> {
    pub(super) fn new(
        identity: Identity,
        trust_domain: TrustDomain,
        cache: SvidCache,
        clock: Arc<dyn Clock>,
        closing: watch::Receiver<bool>,
        deliveries: Deliveries,
        turn: OwnedSemaphorePermit,
    ) -> Self {
        Self {
            identity,
            trust_domain,
            views: cache.views(),
            cache,
            clock,
            closing,
            grants: Vec::new(),
            granted: None,
            sent: None,
            deliveries,
            open: None,
            under_way: None,
            _turn: turn,
        }
    }

    /// The messages. They end with a status, or without one when the server closes: then the client may come back at once.
    pub(super) fn into_stream(self) -> Messages<U::Message> {
        Box::pin(stream::unfold(Some(self), |feed| async move {
            let mut feed = feed?;
            match feed.next().await {
                Ok(Some(message)) => Some((Ok(message), Some(feed))),
                Ok(None) => None,
                Err(status) => Some((Err(status), None)),
            }
        }))
    }

    async fn next(&mut self) -> Result<Option<U::Message>, Status> {
        if let Some(receipt) = self.under_way.take() {
            // Nothing yet, so that what was handed out is passed on. HTTP/2 asks again once all of it has found room in
            // the stream's window: a reader that has stopped reading never gets that far.
            tokio::task::yield_now().await;
            self.note(receipt);
        }
        loop {
            let view = Arc::clone(&self.views.borrow_and_update());
            self.identity.require_alive()?;
            if let Some(message) = self.look(&view)? {
                return Ok(Some(message));
            }
            tokio::select! {
                biased;
                _ = self.closing.wait_for(|closing| *closing) => return Ok(None),
                changed = self.views.changed() => {
                    changed.map_err(|_| Status::unavailable(STOPPED))?;
                }
            }
        }
    }

    fn note(&self, receipt: Receipt) {
        if let Some(open) = &self.open {
            open.delivered(receipt.sequences, receipt.signers);
        }
    }

    /// The message that `view` makes necessary, if any.
    fn look(&mut self, view: &View) -> Result<Option<U::Message>, Status> {
        if self.granted != Some(view.entries_revision) {
            // Workload API §4.3: entitlement is judged again before every update.
            self.grants = self
                .identity
                .grants(&view.state.entries, self.clock.now())?;
            self.granted = Some(view.entries_revision);
        }
        match U::of(view, &self.trust_domain, &self.grants) {
            Outlook::Ready(update) => {
                let receipt = Receipt {
                    sequences: sequences(&view.state.bundles, &self.trust_domain, &self.grants),
                    signers: update.signers(),
                };
                if self.sent.as_ref().is_some_and(|sent| sent.covers(&update)) {
                    // It has all of this view that concerns it.
                    self.note(receipt);
                    return Ok(None);
                }
                self.under_way = Some(receipt);
                if self.open.is_none() {
                    let id = self.grants.first().map(|grant| grant.entry.spiffe_id());
                    let id = id.map(|id| format!("{id}, ")).unwrap_or_default();
                    let consumer = format!("{id}{}", self.identity.caller());
                    self.open = Some(self.deliveries.open(consumer));
                }
                let message = update.message();
                self.sent = Some(update);
                Ok(Some(message))
            }
            Outlook::Demand(entry_ids) => {
                self.cache.demand(entry_ids);
                Ok(None)
            }
            Outlook::Pending => Ok(None),
            // What the workload has is better than nothing; one that has nothing is told to come back.
            Outlook::Nothing if self.sent.is_some() => Ok(None),
            Outlook::Nothing => Err(Status::unavailable(NOTHING)),
        }
    }
}

/// What a message brings to a stream.
struct Receipt {
    sequences: BTreeMap<TrustDomain, u64>,
    signers: BTreeSet<Vec<u8>>,
}

/// The sequence numbers of the bundles that a workload with these grants is given.
fn sequences(
    bundles: &BundleSet,
    trust_domain: &TrustDomain,
    grants: &[Grant],
) -> BTreeMap<TrustDomain, u64> {
    bundles_for(bundles, trust_domain, grants)
        .iter()
        .filter_map(|bundle| Some((bundle.trust_domain().clone(), bundle.sequence()?)))
        .collect()
}

const STOPPED: &str = "the agent has stopped";
const NOTHING: &str = "nothing could be issued yet, the agent is trying: ask again";

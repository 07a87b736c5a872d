//! What was delivered to the open streams: the evidence that a rollover waits for.
//!
//! The Workload API knows no acknowledgement. What the agent knows is that a message was written to a stream; a stream
//! that closes is no consumer any more, since whoever opens the next is sent the newest at once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use spiffe_core::TrustDomain;

/// What the open streams of one or several servers were sent last. A handle: clones are the same record.
#[derive(Clone, Debug, Default)]
pub struct Deliveries {
    table: Arc<Mutex<Table>>,
}

#[derive(Debug, Default)]
struct Table {
    next: u64,
    open: BTreeMap<u64, Delivery>,
}

/// What one stream was sent last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Delivery {
    /// Who reads it: the SPIFFE ID of its first identity, and its process.
    pub consumer: String,
    /// The sequence number of each bundle that it has, by trust domain; those without a number are left out.
    pub sequences: BTreeMap<TrustDomain, u64>,
    /// The key identifiers of those who signed the X509-SVIDs that it has.
    pub signers: BTreeSet<Vec<u8>>,
}

impl Deliveries {
    /// No streams yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// What each open stream was sent last, in the order in which they opened. One whose first message is under way has
    /// no bundles yet.
    pub fn streams(&self) -> Vec<Delivery> {
        self.table().open.values().cloned().collect()
    }

    /// Notes a stream that something is being sent to.
    pub(crate) fn open(&self, consumer: String) -> OpenStream {
        let mut table = self.table();
        let number = table.next;
        table.next += 1;
        let delivery = Delivery {
            consumer,
            ..Delivery::default()
        };
        table.open.insert(number, delivery);
        OpenStream {
            number,
            deliveries: self.clone(),
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // Entries are put in and taken out as a whole, so a panic elsewhere leaves them whole.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A stream's place in the record; it leaves when this is dropped.
#[derive(Debug)]
pub(crate) struct OpenStream {
    number: u64,
    deliveries: Deliveries,
}

impl OpenStream {
    /// Notes what the stream has now.
    pub(crate) fn delivered(
        &self,
        sequences: BTreeMap<TrustDomain, u64>,
        signers: BTreeSet<Vec<u8>>,
    ) {
        if let Some(delivery) = self.deliveries.table().open.get_mut(&self.number) {
            delivery.sequences = sequences;
            delivery.signers = signers;
        }
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.deliveries.table().open.remove(&self.number);
    }
}

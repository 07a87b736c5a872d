//! When to renew and when to try again: functions of their arguments.
//!
//! Both spread their answers by a hash, so that a fleet does not come back all at once, and give the same answer to the
//! same question, so that whoever looks at an SVID knows its slot.

use std::time::Duration;

use spiffe_core::schedule::{self, slot};
use spiffe_core::{SpiffeIdRef, Timestamp, X509Svid};

/// When to renew an SVID that came at `received`: at its slot between 45 and 60 percent of its life.
///
/// Life counts from `received` where that is later than the start of validity: issuers backdate, and a short-lived
/// SVID would be due for renewal as it arrives.
pub(super) fn renew_at(svid: &X509Svid, received: Timestamp) -> Timestamp {
    let start = svid.not_before().max(received);
    schedule::renew_at(svid.id().as_ref(), svid.serial(), start, svid.not_after())
        .max(start + MIN_RENEWAL_INTERVAL)
}

/// How long after its authority's taint was seen to replace an SVID, so that all are replaced within `over`.
pub(super) fn reissue_after(svid: &X509Svid, over: Duration) -> Duration {
    slot(over, svid.id().as_ref(), svid.serial())
}

/// How long to wait after `failures` attempts in a row, at least one: doubling, with a quarter more or less.
pub(super) fn retry_after(id: SpiffeIdRef<'_>, failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    let delay = (MIN_RETRY * 2_u32.pow(doublings)).min(MAX_RETRY);
    delay * 3 / 4 + slot(delay / 2, id, &failures.to_be_bytes())
}

/// The least time between two renewals, whatever the lifetime: an authority that issues what is about to expire is
/// not to be asked in a loop.
const MIN_RENEWAL_INTERVAL: Duration = Duration::from_millis(100);

/// The first wait after a failure: a restarted authority is found soon.
const MIN_RETRY: Duration = Duration::from_secs(1);

/// The longest wait: below the time left of an SVID of five minutes when it is first due.
const MAX_RETRY: Duration = Duration::from_secs(60);

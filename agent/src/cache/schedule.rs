//! When to renew and when to try again: functions of their arguments.
//!
//! Both spread their answers by a hash, so that a fleet does not come back all at once, and give the same answer to the
//! same question, so that whoever looks at an SVID knows its slot.

use std::time::Duration;

use spiffe_core::crypto::CryptoProvider;
use spiffe_core::{SpiffeIdRef, Timestamp, X509Svid};

/// When to renew an SVID that came at `received`: at its slot between 45 and 60 percent of its life.
///
/// Life counts from `received` where that is later than the start of validity: issuers backdate, and a short-lived
/// SVID would be due for renewal as it arrives.
pub(crate) fn renew_at(
    svid: &X509Svid,
    received: Timestamp,
    crypto: &dyn CryptoProvider,
) -> Timestamp {
    let start = svid.not_before().max(received);
    let life = svid.not_after().saturating_since(start);
    let width = life * WINDOW_PERCENT / 100;
    let offset = life * WINDOW_START_PERCENT / 100
        + scaled(width, fraction(svid.id().as_ref(), svid.serial(), crypto));
    start + offset.max(MIN_RENEWAL_INTERVAL)
}

/// How long to wait after `failures` attempts in a row, at least one: doubling, with a quarter more or less.
pub(crate) fn retry_after(
    id: SpiffeIdRef<'_>,
    failures: u32,
    crypto: &dyn CryptoProvider,
) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    let delay = (MIN_RETRY * 2_u32.pow(doublings)).min(MAX_RETRY);
    let spread = fraction(id, &failures.to_be_bytes(), crypto);
    delay * 3 / 4 + scaled(delay / 2, spread)
}

/// Where in a window something falls: evenly spread over all of `u32`, the same for the same arguments.
fn fraction(id: SpiffeIdRef<'_>, salt: &[u8], crypto: &dyn CryptoProvider) -> u32 {
    // No SPIFFE ID has a zero byte, so no two pairs give the same bytes.
    let hash = crypto.sha256(&[id.as_str().as_bytes(), &[0], salt].concat());
    u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]])
}

fn scaled(width: Duration, fraction: u32) -> Duration {
    // Parts of 2^16 are fine enough for a slot and keep the product in range for lives of 8,000 years.
    width / (1 << 16) * (fraction >> 16)
}

const WINDOW_START_PERCENT: u32 = 45;
const WINDOW_PERCENT: u32 = 15;

/// The least time between two renewals, whatever the lifetime: an authority that issues what is about to expire is
/// not to be asked in a loop.
const MIN_RENEWAL_INTERVAL: Duration = Duration::from_millis(100);

/// The first wait after a failure: a restarted authority is found soon.
const MIN_RETRY: Duration = Duration::from_secs(1);

/// The longest wait: below the time left of an SVID of five minutes when it is first due.
const MAX_RETRY: Duration = Duration::from_secs(60);

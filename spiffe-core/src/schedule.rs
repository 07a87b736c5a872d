//! When an SVID is to be renewed: a stable slot in a window of its life.
//!
//! The slot depends on SPIFFE ID and serial number alone. It is the same at every look and in every process, and the
//! renewals of many SVIDs issued together are spread evenly over the window. Whoever renews uses it: a CA's own
//! workloads, an agent's cache.

use std::time::Duration;

use crate::{SpiffeIdRef, Timestamp};

/// The window opens at this part of an SVID's life, in hundredths.
pub const WINDOW_OPENS: u32 = 45;

/// The window closes at this part of an SVID's life, in hundredths.
pub const WINDOW_CLOSES: u32 = 60;

/// The span over which the replacement of what a tainted authority signed is spread, where nothing else is set: five
/// minutes.
pub const REISSUE_OVER: Duration = Duration::from_secs(300);

/// When to renew the SVID of `id` with the serial number `serial` (big-endian bytes), valid from `not_before` to
/// `not_after`.
///
/// ```
/// use spiffe_core::{SpiffeIdRef, Timestamp};
/// use spiffe_core::schedule::renew_at;
///
/// let issued = Timestamp::from_unix_seconds(1_800_000_000);
/// let expires = Timestamp::from_unix_seconds(1_800_003_600);
/// let id = SpiffeIdRef::parse("spiffe://example.org/web")?;
/// let slot = renew_at(id, &[1, 2, 3], issued, expires);
/// assert!((1620..=2160).contains(&(slot.unix_seconds() - issued.unix_seconds())));
/// # Ok::<_, spiffe_core::SpiffeIdError>(())
/// ```
pub fn renew_at(
    id: SpiffeIdRef<'_>,
    serial: &[u8],
    not_before: Timestamp,
    not_after: Timestamp,
) -> Timestamp {
    let life = not_after.saturating_since(not_before);
    let opens = life * WINDOW_OPENS / 100;
    let width = life * (WINDOW_CLOSES - WINDOW_OPENS) / 100;
    not_before + opens + slot(width, id, serial)
}

/// When to replace the SVID of `id` with the serial number `serial`, whose authority was tainted at `tainted_at`: in a
/// stable slot of the span `over`, so that nothing stampedes, and never after its own slot for renewal.
pub fn reissue_at(
    id: SpiffeIdRef<'_>,
    serial: &[u8],
    not_before: Timestamp,
    not_after: Timestamp,
    tainted_at: Timestamp,
    over: Duration,
) -> Timestamp {
    let own = tainted_at + slot(over, id, serial);
    own.min(renew_at(id, serial, not_before, not_after))
        .max(tainted_at)
}

/// Where in `span` the slot of this SPIFFE ID and these bytes lies: evenly spread, the same for the same arguments.
pub fn slot(span: Duration, id: SpiffeIdRef<'_>, serial: &[u8]) -> Duration {
    let slot = u128::from(hash(id.as_str().as_bytes(), serial));
    // In two halves, since the product of a span of centuries has more than 128 bits.
    let (high, low) = (
        span.as_nanos() >> 64,
        span.as_nanos() & u128::from(u64::MAX),
    );
    nanos(high * slot + ((low * slot) >> 64))
}

fn nanos(nanos: u128) -> Duration {
    Duration::new(
        (nanos / 1_000_000_000) as u64,
        (nanos % 1_000_000_000) as u32,
    )
}

/// FNV-1a over both, with the finalizer of SplitMix64 so that serials that differ in their last byte lie apart. The
/// result must never change: fleets of different versions share the slots.
fn hash(id: &[u8], serial: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    // No SPIFFE ID holds a zero byte, so the two cannot run into each other.
    for byte in id.iter().chain(&[0]).chain(serial) {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: SpiffeIdRef<'static> = SpiffeIdRef::literal("spiffe://example.org/web");

    #[test]
    fn the_slot_is_fixed_for_ever() {
        let from = Timestamp::from_unix_seconds(1_800_000_000);
        let slot = renew_at(ID, &[7; 16], from, from + Duration::from_secs(3600));
        assert_eq!(slot.to_string(), "2027-01-15T08:31:12.674983346Z");
    }

    #[test]
    fn many_renewals_are_spread_evenly() {
        let from = Timestamp::from_unix_seconds(1_800_000_000);
        let until = from + Duration::from_secs(3600);
        let opens = from + Duration::from_secs(1620);
        // 54 bins of 10 seconds; 54,000 renewals, so 1,000 in each.
        let mut bins = [0_u32; 54];
        for number in 0..54_000_u64 {
            let slot = renew_at(ID, &number.to_be_bytes(), from, until);
            bins[(slot.saturating_since(opens).as_secs() / 10) as usize] += 1;
        }
        assert!(bins.iter().all(|bin| (850..1150).contains(bin)), "{bins:?}");
    }

    /// The busiest ten seconds over the mean ones: 1.2 is the promise, for 100,000 SVIDs issued together.
    #[test]
    fn the_busiest_moment_is_little_above_the_mean() {
        let from = Timestamp::from_unix_seconds(1_800_000_000);
        let until = from + Duration::from_secs(3600);
        let mut bins = [0_u32; 54];
        for number in 0..100_000_u64 {
            // Serial numbers are random; these are as far from that as numbers can be.
            let slot = renew_at(ID, &number.to_be_bytes(), from, until);
            let at = slot.saturating_since(from).as_secs() - 1620;
            bins[(at / 10) as usize] += 1;
        }
        let busiest = f64::from(*bins.iter().max().unwrap());
        let mean = 100_000.0 / 54.0;
        assert!(busiest / mean <= 1.2, "{busiest} against {mean}");
        // All at half of the life, as without slots, would be 54 times the mean.
        assert!(busiest / mean > 1.0);
    }

    #[test]
    fn what_a_tainted_authority_signed_is_replaced_evenly_over_the_span() {
        let from = Timestamp::from_unix_seconds(1_800_000_000);
        let until = from + Duration::from_secs(36_000);
        let tainted = from + Duration::from_secs(600);
        let over = Duration::from_secs(540);
        let mut bins = [0_u32; 54];
        for number in 0..54_000_u64 {
            let serial = number.to_be_bytes();
            let slot = reissue_at(ID, &serial, from, until, tainted, over);
            bins[(slot.saturating_since(tainted).as_secs() / 10) as usize] += 1;
        }
        assert!(bins.iter().all(|bin| (850..1150).contains(bin)), "{bins:?}");
        // Its own renewal comes first where that is earlier, but not before the taint.
        let short = from + Duration::from_secs(1300);
        let own = renew_at(ID, &[7; 16], from, short);
        let slot = |tainted| reissue_at(ID, &[7; 16], from, short, tainted, over * 100);
        assert_eq!(slot(from), own);
        assert_eq!(slot(short), short);
        let ages = reissue_at(ID, &[7; 16], from, until, from, Duration::MAX);
        assert_eq!(ages, renew_at(ID, &[7; 16], from, until));
    }

    proptest! {
        #[test]
        fn the_slot_lies_in_the_window(serial: [u8; 16], life in 0_u32..100_000_000) {
            let from = Timestamp::from_unix_seconds(1_800_000_000);
            let life = Duration::from_secs(life.into());
            let after = renew_at(ID, &serial, from, from + life).saturating_since(from);
            prop_assert!(after >= life * 45 / 100 && after <= life * 60 / 100);
        }
    }
}

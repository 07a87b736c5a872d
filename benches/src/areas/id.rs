//! Parsing SPIFFE IDs.

use std::hint::black_box;
use std::sync::Arc;

use spiffe_core::{SpiffeId, SpiffeIdRef};

use super::Measured;
use crate::Effort;
use crate::measure::{contender, in_turns};
use crate::report::{Budget, Row};

pub(crate) const BORROWED: &str = "id/parse/borrowed";
pub(crate) const OWNED: &str = "id/parse/owned";

/// The floor looks at every byte once, as any parser must; owning the text takes one allocation more.
pub(crate) fn parse(effort: Effort) -> Measured {
    assert_eq!(ID.len(), 35);
    let [borrowed, owned, scan, scan_and_copy] = in_turns(
        effort.span,
        [
            contender(|| SpiffeIdRef::parse(black_box(ID)).is_ok()),
            contender(|| SpiffeId::parse(black_box(ID)).is_ok()),
            contender(|| is_clean(black_box(ID))),
            contender(|| {
                let id = black_box(ID);
                is_clean(id)
                    .then(|| black_box(Arc::<str>::from(id)))
                    .is_some()
            }),
        ],
    );
    let allocation = scan_and_copy - scan;
    let owned_budget = (1.5 * scan + allocation) / scan_and_copy;
    Ok(vec![
        Row::new(
            BORROWED,
            "ns",
            borrowed,
            "table scan of its bytes",
            scan,
            Budget::Ratio(1.2),
        ),
        Row::new(
            OWNED,
            "ns",
            owned,
            "scan and one allocation",
            scan_and_copy,
            // 1.5 × the scan and the allocation once, in terms of both together.
            Budget::Ratio((owned_budget * 1000.0).round() / 1000.0),
        ),
    ])
}

/// Stops at the first byte that has no place, as whoever must name it does. Not inlined, so that the loop lies alike
/// wherever it is called from: by chance of alignment alone it can take twice as long.
#[inline(never)]
fn is_clean(text: &str) -> bool {
    text.bytes().all(|byte| CLEAN[byte as usize])
}

pub(crate) const ID: &str = "spiffe://example.org/ns/prod/sa/web";

const CLEAN: [bool; 256] = {
    let mut clean = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        clean[byte] = matches!(
            byte as u8,
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'_' | b'/' | b':'
        );
        byte += 1;
    }
    clean
};

//! Live heap of the whole program, for rows that say what something holds on to.

use std::alloc::System;

use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static HEAP: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Bytes that are allocated now.
pub(crate) fn live() -> i64 {
    let stats = HEAP.stats();
    let (taken, given_back) = (stats.bytes_allocated, stats.bytes_deallocated);
    // Growing in place is counted apart.
    taken as i64 - given_back as i64 + stats.bytes_reallocated as i64
}

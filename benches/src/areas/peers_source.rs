//! The same sources in rust-spiffe and go-spiffe, over the same Workload API: what a further one holds, what an update
//! costs, and what reading the current SVID does. Built with the feature `peers` alone.

use std::error::Error;
use std::time::Duration;

use serde_json::json;
use spiffe_core::Source;

use super::Measured;
use super::go::in_go;
use super::source::{Fixture, cpu_time};
use crate::Effort;
use crate::heap;
use crate::measure::{contender, in_turns};
use crate::report::{Budget, Row};

pub(crate) const CURRENT: &str = "peers/source-current";
pub(crate) const HEAP: &str = "peers/source-heap";
pub(crate) const UPDATE: &str = "peers/source-update-200";
pub(crate) const GO_CURRENT: &str = "peers/go/source-current";
pub(crate) const GO_HEAP: &str = "peers/go/source-heap";
pub(crate) const GO_UPDATE: &str = "peers/go/source-update-200";

/// The current SVID, an owned handle of it on every side.
pub(crate) fn current(effort: Effort) -> Measured {
    let f = Fixture::new(0)?;
    let source = f.runtime.block_on(f.x509(&f.client).build())?;
    let theirs = f.runtime.block_on(rust_spiffe(&f))?;
    let [ours, theirs] = in_turns(
        effort.span,
        [
            contender(|| source.svid().is_ok()),
            contender(|| theirs.svid().is_ok()),
        ],
    );
    let go = beside_go(&f, effort, "source-current", 0)?;
    Ok(vec![
        row(CURRENT, "ns", ours, RUST, theirs),
        row(GO_CURRENT, "ns", ours, GO, go),
    ])
}

/// Live heap of a further source. The server's end of its connections, in the same program, is in rust-spiffe's and not in
/// go-spiffe's, which is a process of its own; its stacks are.
pub(crate) fn heap(effort: Effort) -> Measured {
    const MANY: usize = 100;
    let f = Fixture::new(10)?;
    let _first = f.runtime.block_on(f.x509(&f.client).build())?;
    let before = heap::live();
    let mut sources = Vec::new();
    for _ in 0..MANY {
        sources.push(f.runtime.block_on(f.x509(&f.client).build())?);
    }
    let kib = |bytes: f64| bytes / MANY as f64 / 1024.0;
    let ours = kib((heap::live() - before) as f64);
    let mut others = vec![f.runtime.block_on(rust_spiffe(&f))?];
    let before = heap::live();
    for _ in 0..MANY {
        others.push(f.runtime.block_on(rust_spiffe(&f))?);
    }
    let theirs = kib((heap::live() - before) as f64);
    let go = beside_go(&f, effort, "source-heap", MANY)?;
    Ok(vec![
        row(HEAP, "KiB", ours, RUST, theirs),
        row(GO_HEAP, "KiB", ours, GO, kib(go)),
    ])
}

/// CPU time of an update with 200 federated bundles that have not changed. In the rows of Rust the server's end is in both;
/// go-spiffe's is its own process alone.
pub(crate) fn update(effort: Effort) -> Measured {
    let rounds = if effort.span < Duration::from_secs(1) {
        50
    } else {
        200
    };
    let f = Fixture::new(200)?;
    let ours = f.cpu_per_update(rounds, false)?;
    let source = f.runtime.block_on(rust_spiffe(&f))?;
    let mut updates = source.updated();
    let messages = [f.message(0)?, f.message(0)?];
    let mut spans = Vec::with_capacity(rounds);
    for round in 0..rounds {
        let begin = cpu_time();
        f.api.send_replace(messages[(round + 1) % 2].clone());
        f.runtime.block_on(updates.changed())?;
        spans.push((cpu_time() - begin).as_secs_f64() * 1e3);
    }
    spans.sort_by(f64::total_cmp);
    let theirs = spans[rounds / 2];
    drop((source, updates));
    let go = beside_go(&f, effort, "source-update", rounds)?;
    Ok(vec![
        row(UPDATE, "ms", ours, RUST, theirs),
        row(GO_UPDATE, "ms", ours, GO, go / 1e6),
    ])
}

async fn rust_spiffe(f: &Fixture) -> Result<spiffe::X509Source, Box<dyn Error>> {
    let builder = spiffe::X509Source::builder().endpoint(f.address());
    // By default it refuses more than 200 bundles, the own one included.
    let builder = builder.resource_limits(spiffe::X509ResourceLimits::unlimited());
    Ok(builder.build().await?)
}

/// What go-spiffe's sources come to, while the Workload API sends an update now and then.
fn beside_go(f: &Fixture, effort: Effort, kind: &str, times: usize) -> Result<f64, Box<dyn Error>> {
    let work = json!({"kind": kind, "address": f.address(), "times": times});
    let (done, mut ended) = tokio::sync::oneshot::channel();
    let span = effort.span;
    let measured = std::thread::spawn(move || {
        let measured = in_go(span, work).map_err(|error| error.to_string());
        // The other end waits for this.
        let _ = done.send(());
        measured
    });
    let messages = [f.message(0)?, f.message(0)?];
    let pause = Duration::from_millis(if kind == "source-update" { 20 } else { 1000 });
    f.runtime.block_on(async {
        for message in messages.iter().cycle() {
            tokio::select! {
                _ = &mut ended => return,
                () = tokio::time::sleep(pause) => {}
            }
            if kind == "source-update" {
                f.api.send_replace(message.clone());
            }
        }
    });
    let measured = measured.join().map_err(|_| "the measurement panicked")?;
    Ok(measured?)
}

fn row(name: &str, unit: &'static str, ours: f64, peer: &str, theirs: f64) -> Row {
    Row::new(name, unit, ours, peer, theirs, Budget::Ratio(1.0))
}

const RUST: &str = "rust-spiffe 0.19";
const GO: &str = "go-spiffe 2.8.1";

//! A month of rotation and rollover on the virtual clock, decided by a seed.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use spiffe_core::crypto::aws_lc_rs;
use spiffe_core::verify::{PeerRole, X509Verifier};
use spiffe_core::{Clock, Source, Timestamp};
use spiffe_svid_ca::authority::{Action, Evidence};
use spiffe_testkit::{SeededRandom, TrustDomain, VirtualClock};

const DAY: Duration = Duration::from_secs(86_400);

/// What happened, with its time.
#[derive(Default)]
struct Log {
    text: String,
    rotations: usize,
    activations: usize,
}

/// Two workloads rotate at their slots for a month while authorities of a day follow each other; after every step each
/// verifies the other with the bundles it holds.
async fn month(seed: u64) -> Log {
    let clock = Arc::new(VirtualClock::start(Timestamp::from_unix_seconds(
        1_795_000_000,
    )));
    let random = Arc::new(SeededRandom::new(seed));
    let domain = TrustDomain::ephemeral_with("test.example", clock.clone(), random).await;
    let sources = [domain.source("web").await, domain.source("db").await];
    let verifier = X509Verifier::new(&*aws_lc_rs());
    let end = clock.now() + 30 * DAY;
    let mut next_tick = clock.now();
    let mut log = Log::default();
    while clock.now() < end {
        let due = sources
            .iter()
            .map(|source| source.renew_at().unwrap())
            .min()
            .unwrap();
        clock.sleep_until_time(due.min(next_tick)).await;
        let now = clock.now();
        if now >= next_tick {
            next_tick = now + Duration::from_secs(900);
            let consumers = sources.iter().map(|source| source.acknowledgement());
            for event in domain.tick(&Evidence::complete(consumers)).await.unwrap() {
                log.activations += usize::from(matches!(event.action, Action::Activated { .. }));
                if !matches!(event.action, Action::Awaiting { .. }) {
                    writeln!(log.text, "{now} {:?}", event.kind).unwrap();
                }
            }
            for source in &sources {
                source.refresh().unwrap();
            }
        }
        for source in &sources {
            if source.renew_at().unwrap() <= now {
                source.rotate(now).await.unwrap();
                log.rotations += 1;
                writeln!(log.text, "{now} {}", source.svid().unwrap().serial_hex()).unwrap();
            }
        }
        for (presenter, judge) in [(0, 1), (1, 0)] {
            let svid = sources[presenter].svid().unwrap();
            let current = sources[judge].current();
            verifier
                .verify(svid.chain(), current.bundles(), now, PeerRole::Unspecified)
                .unwrap_or_else(|error| panic!("{now}: {error}"));
        }
    }
    log
}

#[tokio::test]
async fn a_month_of_rotation_and_rollover_never_fails_a_verification() {
    let log = month(1).await;
    assert!(
        log.rotations >= 2 * 30 * 24,
        "{} rotations of hourly SVIDs",
        log.rotations
    );
    assert!(
        log.activations >= 2 * 29,
        "{} rollovers of daily authorities",
        log.activations
    );
}

#[test]
fn the_same_seed_gives_the_same_run_and_another_seed_another() {
    let run = |seed| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build();
        runtime.unwrap().block_on(month(seed)).text
    };
    let first = run(7);
    // Compared line by line: a whole month is too long to print.
    let difference = |other: String| {
        let differ = |(a, b): &(&str, &str)| a != b;
        let lines = first.lines().zip(other.lines()).find(differ);
        lines.map(|(a, b)| (a.to_owned(), b.to_owned()))
    };
    assert_eq!(difference(run(7)), None);
    assert!(difference(run(8)).is_some());
}

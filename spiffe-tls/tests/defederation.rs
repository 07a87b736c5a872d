//! A trust domain is defederated under a thousand idle and a hundred busy connections: no request is lost within the
//! grace, and not a byte passes after it.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use spiffe_tls::{LeaseOver, LeaseRules, Mtls, Policy, Publisher, TlsStream};
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

const IDLE: usize = 1000;
const BUSY: usize = 100;
const SPREAD: Duration = Duration::from_secs(5);
const GRACE: Duration = Duration::from_secs(10);

#[derive(Default)]
struct Tally {
    answered: AtomicU64,
    unanswered: AtomicU64,
    cut: AtomicU64,
    closed: AtomicU64,
    late: AtomicU64,
    is_late: AtomicBool,
}

impl Tally {
    fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::SeqCst);
    }
}

/// The server's side of a protocol: answers each byte, and closes between two of them once the lease is over, unless it
/// is one that takes no notice.
async fn serve(mut stream: TlsStream<DuplexStream>, heeds: bool, tally: Arc<Tally>) {
    let mut over = Box::pin(stream.peer().lease().over());
    loop {
        tokio::select! {
            biased;
            read = stream.read_u8() => match read {
                Ok(byte) => {
                    if tally.is_late.load(Ordering::SeqCst) {
                        Tally::add(&tally.late);
                    }
                    if stream.write_u8(byte).await.is_err() || stream.flush().await.is_err() {
                        return;
                    }
                }
                Err(error) if LeaseOver::in_io(&error).is_some() => {
                    return Tally::add(&tally.cut);
                }
                Err(_) => return,
            },
            _ = &mut over, if heeds => {
                Tally::add(&tally.closed);
                return stream.shutdown().await.unwrap();
            }
        }
    }
}

/// The client's side: asks again as soon as it is answered. A request is lost if its connection was not closed in order.
async fn ask(mut stream: TlsStream<DuplexStream>, tally: Arc<Tally>) {
    loop {
        if stream.write_u8(b'?').await.is_err() || stream.flush().await.is_err() {
            return;
        }
        match stream.read_u8().await {
            Ok(_) => Tally::add(&tally.answered),
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return,
            Err(_) => return Tally::add(&tally.unanswered),
        }
        tokio::task::yield_now().await;
    }
}

/// Idle clients wait for the end.
async fn wait(mut stream: TlsStream<DuplexStream>) {
    let _ = stream.read_u8().await;
}

async fn settle() {
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn no_request_is_lost_within_the_grace_and_not_a_byte_passes_after_it() {
    let clock = HandClock::default();
    let (east, west) = (Domain::new("east"), Domain::new("west"));
    let own = Arc::new(east.svid("server", 3000));
    let server = Publisher::new();
    server
        .publish([own.clone()], bundles(&[&east, &west]))
        .unwrap();
    let client = Publisher::fixed([west.svid("client", 3000)], bundles(&[&east, &west]));
    let of = |source: &Publisher, policy: &str, rules| {
        Mtls::new(source, policy.parse::<Policy>().unwrap())
            .clock(Arc::new(clock.clone()))
            .lease_rules(rules)
    };
    let acceptor = of(&server, "domain:west", LeaseRules::drain(SPREAD, GRACE))
        .acceptor()
        .unwrap();
    let connector = of(&client, "domain:east", LeaseRules::report())
        .connector()
        .unwrap();
    let tally = Arc::new(Tally::default());
    let mut tasks = Vec::new();
    for number in 0..IDLE + BUSY {
        let (near, far) = shake(&connector, &acceptor).await;
        // A tenth of the idle connections takes no notice and has to be cut.
        let heeds = number >= IDLE || number % 10 != 0;
        tasks.push(tokio::spawn(serve(far.unwrap(), heeds, tally.clone())));
        tasks.push(if number < IDLE {
            tokio::spawn(wait(near.unwrap()))
        } else {
            tokio::spawn(ask(near.unwrap(), tally.clone()))
        });
    }
    settle().await;
    let answered = tally.answered.load(Ordering::SeqCst);
    assert!(answered >= BUSY as u64);
    assert_eq!(acceptor.open_connections(), IDLE + BUSY);
    // One timer each for the acceptor's connections and the connector's, however many these are.
    assert_eq!(clock.sleepers(), 2);

    server.publish([own], bundles(&[&east])).unwrap();
    settle().await;
    // Nothing has ended before its slot, and requests go on.
    assert!(tally.answered.load(Ordering::SeqCst) > answered);
    for _ in 0..10 {
        clock.advance(SPREAD / 10);
        settle().await;
    }
    assert_eq!(
        tally.closed.load(Ordering::SeqCst) as usize,
        IDLE / 10 * 9 + BUSY
    );
    assert_eq!(tally.cut.load(Ordering::SeqCst), 0);
    clock.advance(GRACE);
    tally.is_late.store(true, Ordering::SeqCst);
    settle().await;
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(tally.cut.load(Ordering::SeqCst) as usize, IDLE / 10);
    assert_eq!(tally.unanswered.load(Ordering::SeqCst), 0);
    assert_eq!(tally.late.load(Ordering::SeqCst), 0);
    assert_eq!(acceptor.open_connections(), 0);
}

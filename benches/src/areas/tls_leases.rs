//! What leases cost.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use rustls::pki_types::ServerName;
use spiffe_core::{Authorizer, BundleSet, Denied, PeerFacts, TrustDomainRef};
use spiffe_tls::{Connector, Lease, Mtls, Policy, Publisher, Terms, TlsStream};
use tokio::io::DuplexStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::Measured;
use super::tls::{PIPE_BYTES, Pair, meet, runtime};
use crate::Effort;
use crate::fixtures::{DNS_NAME, Domain, bundle};
use crate::heap;
use crate::measure::quantile;
use crate::report::{Budget, Row};

pub(crate) const JUDGED: &str = "tls/leases/judged";
pub(crate) const JUDGED_BY_POLICY: &str = "tls/leases/judged-by-policy";
pub(crate) const HEAP: &str = "tls/leases/heap";

/// How many leases are judged again.
const LEASES: usize = 10_000;

/// How many peers hold them.
const PEERS: usize = 500;

/// Ten thousand connections of one acceptor are judged again after a change of trust, or of the policy, that leaves them
/// standing; and what a connection holds on to beside rustls' own.
pub(crate) fn ten_thousand(_: Effort) -> Measured {
    let pair = Pair::new(200)?;
    let peers = Peers::new(&pair)?;
    let terms = Terms::new("domain:example.org".parse::<Policy>()?);
    let acceptor = Mtls::new(&pair.server, terms.clone()).acceptor()?;
    let runtime = runtime()?;
    // Whatever is allocated once is, before anything is weighed.
    let first = runtime.block_on(meet(&peers.ours[0], &acceptor));
    let heap = heap_per_connection(&pair, &peers)?;
    let open: Vec<_> = (0..LEASES)
        .map(|turn| runtime.block_on(meet(&peers.ours[turn % PEERS], &acceptor)))
        .collect();
    let extra = Domain::new("extra.example")?;
    let (mut by_trust, mut by_policy) = (Vec::new(), Vec::new());
    let mut bundles = BundleSet::clone(&pair.bundles);
    for round in 0..5 {
        // A trust domain more, or one less.
        if round % 2 == 0 {
            bundles.insert(bundle("extra.example", &[&extra])?);
        } else {
            bundles.remove(TrustDomainRef::literal("extra.example"));
        }
        let svid = pair.server.load().svid()?.clone();
        let begin = thread_cpu_time();
        let revision = pair.server.publish([svid], bundles.clone())?;
        runtime.block_on(async {
            let is_late = |lease: &Lease| lease.revision() < revision;
            while open.iter().any(|(_, far)| is_late(far.peer().lease())) {
                tokio::task::yield_now().await;
            }
        });
        // Looking whether all were judged is in it.
        by_trust.push((thread_cpu_time() - begin).as_secs_f64() * 1e3);

        let asked = Arc::new(AtomicUsize::new(0));
        let begin = thread_cpu_time();
        terms.authorize(Counting(asked.clone()));
        runtime.block_on(async {
            while asked.load(Ordering::Relaxed) <= LEASES {
                tokio::task::yield_now().await;
            }
        });
        by_policy.push((thread_cpu_time() - begin).as_secs_f64() * 1e3);
    }
    drop((first, open));
    let row = |row, mut spans: Vec<f64>| {
        let median = quantile(&mut spans, 0.5);
        let leases = LEASES as f64;
        Row::new(
            row,
            "ms",
            median,
            "connections judged",
            leases,
            Budget::AtMost(50.0),
        )
    };
    Ok(vec![
        row(JUDGED, by_trust),
        row(JUDGED_BY_POLICY, by_policy),
        heap,
    ])
}

/// Allows all, and counts how often it was asked.
#[derive(Debug)]
struct Counting(Arc<AtomicUsize>);

impl Authorizer for Counting {
    fn authorize(&self, _: &PeerFacts<'_>) -> Result<(), Denied> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

/// Clients whose SPIFFE IDs are 40 bytes long.
struct Peers {
    ours: Vec<Connector>,
    plain: Vec<TlsConnector>,
}

impl Peers {
    fn new(pair: &Pair) -> Result<Self, Box<dyn Error>> {
        let (mut ours, mut plain) = (Vec::new(), Vec::new());
        for number in 0..PEERS {
            let svid = pair.domain.svid(&format!("ns/prod/sa/web-{number:04}"))?;
            assert_eq!(svid.id().to_string().len(), 40);
            let config = pair.plain_client_of(&svid, svid.chain().to_vec())?;
            plain.push(TlsConnector::from(config));
            let source = Publisher::fixed([svid], pair.bundles.clone());
            let policy: Policy = "id:spiffe://example.org/server".parse()?;
            // Sessions that are kept are counted elsewhere: they are bounded, and shared by all connections.
            ours.push(Mtls::new(&source, policy).resumption(false).connector()?);
        }
        Ok(Self { ours, plain })
    }
}

/// Live heap of connections of ours less that of plain rustls', both ends each, halved.
/// Each of another client, so nothing is shared between them.
fn heap_per_connection(pair: &Pair, peers: &Peers) -> Result<Row, Box<dyn Error>> {
    const MANY: i64 = PEERS as i64;
    let runtime = runtime()?;
    let policy: Policy = "domain:example.org".parse()?;
    let side = Mtls::new(&pair.server, policy).resumption(false);
    let (acceptor, other) = (side.clone().acceptor()?, side.acceptor()?);
    let plain_acceptor = TlsAcceptor::from(pair.plain_server()?);
    let name = ServerName::try_from(DNS_NAME)?;
    let warm = runtime.block_on(meet(&peers.ours[0], &acceptor));
    // What a configuration has once is no connection's: every client has met a server, but none this one.
    for connector in &peers.ours {
        runtime.block_on(meet(connector, &other));
    }

    let before = heap::live();
    let ours: Vec<_> = peers
        .ours
        .iter()
        .map(|connector| runtime.block_on(meet(connector, &acceptor)))
        .collect();
    let between = heap::live();
    let plain: Vec<_> = peers
        .plain
        .iter()
        .map(|plain_connector| {
            runtime.block_on(async {
                let (near, far) = tokio::io::duplex(PIPE_BYTES);
                let (near, far) = tokio::join!(
                    plain_connector.connect(name.clone(), near),
                    plain_acceptor.accept(far)
                );
                (
                    tokio_rustls::TlsStream::from(near.expect("the client has the root")),
                    tokio_rustls::TlsStream::from(far.expect("the server has the root")),
                )
            })
        })
        .collect();
    let after = heap::live();
    // The vectors hold the streams themselves, which are no heap of a connection's own.
    let streams = |size: usize, capacity: usize| (size * capacity) as i64;
    let of_ours = between
        - before
        - streams(
            size_of::<(TlsStream<DuplexStream>, TlsStream<DuplexStream>)>(),
            ours.capacity(),
        );
    let of_plain = after
        - between
        - streams(
            size_of::<(
                tokio_rustls::TlsStream<DuplexStream>,
                tokio_rustls::TlsStream<DuplexStream>,
            )>(),
            plain.capacity(),
        );
    drop((warm, ours, plain));
    Ok(Row::new(
        HEAP,
        "bytes",
        (of_ours - of_plain) as f64 / (2 * MANY) as f64,
        "plain rustls and a pipe",
        of_plain as f64 / (2 * MANY) as f64,
        Budget::AtMost(512.0),
    ))
}

fn thread_cpu_time() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs() as u32)
}

//! What leases cost.

use std::error::Error;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use rustls::pki_types::ServerName;
use spiffe_core::BundleSet;
use spiffe_tls::TlsStream;
use tokio::io::DuplexStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::Measured;
use super::tls::{PIPE_BYTES, Pair, meet, runtime};
use crate::Effort;
use crate::fixtures::{DNS_NAME, Domain, bundle};
use crate::heap;
use crate::report::{Budget, Row};

pub(crate) const JUDGED: &str = "tls/leases/judged";
pub(crate) const HEAP: &str = "tls/leases/heap";

/// How many leases are judged again.
const LEASES: usize = 10_000;

/// Ten thousand connections of one acceptor are judged again after a change of trust that leaves them standing; and what
/// a connection holds on to beside rustls' own.
pub(crate) fn ten_thousand(_: Effort) -> Measured {
    let pair = Pair::new(200)?;
    let connector = pair.client_side()?.connector()?;
    let acceptor = pair.server_side()?.acceptor()?;
    let runtime = runtime()?;
    // Whatever is allocated once is, before anything is weighed.
    let first = runtime.block_on(meet(&connector, &acceptor));
    let heap = heap_per_connection(&pair)?;
    let open: Vec<_> = (0..LEASES)
        .map(|_| runtime.block_on(meet(&connector, &acceptor)))
        .collect();
    let extra = Domain::new("extra.example")?;
    let mut spans = Vec::new();
    let mut bundles = BundleSet::clone(&pair.bundles);
    for round in 0..5 {
        // A trust domain more, or one less.
        if round % 2 == 0 {
            bundles.insert(bundle("extra.example", &[&extra])?);
        } else {
            let (_, name) = ("", spiffe_core::TrustDomain::parse("extra.example")?);
            bundles.remove(name.as_ref());
        }
        let svid = pair.server.load().svid()?.clone();
        let revision = pair.server.publish([svid], bundles.clone())?;
        let begin = thread_cpu_time();
        runtime.block_on(async {
            while open
                .iter()
                .any(|(_, far)| far.peer().lease().revision() < revision)
            {
                tokio::task::yield_now().await;
            }
        });
        // Looking whether all were judged is in it.
        spans.push((thread_cpu_time() - begin).as_secs_f64() * 1e3);
    }
    spans.sort_by(f64::total_cmp);
    drop((first, open));
    Ok(vec![
        Row::new(
            JUDGED,
            "ms",
            spans[spans.len() / 2],
            "connections judged",
            LEASES as f64,
            Budget::AtMost(50.0),
        ),
        heap,
    ])
}

/// Live heap of connections of ours less that of plain rustls', both ends each, halved.
fn heap_per_connection(pair: &Pair) -> Result<Row, Box<dyn Error>> {
    const MANY: i64 = 500;
    let runtime = runtime()?;
    // Sessions that are kept are counted elsewhere: they are bounded, and shared by all connections.
    let connector = pair.client_side()?.resumption(false).connector()?;
    let acceptor = pair.server_side()?.resumption(false).acceptor()?;
    let plain_connector = TlsConnector::from(pair.plain_client()?);
    let plain_acceptor = TlsAcceptor::from(pair.plain_server()?);
    let name = ServerName::try_from(DNS_NAME)?;
    let warm = runtime.block_on(meet(&connector, &acceptor));

    let before = heap::live();
    let ours: Vec<_> = (0..MANY)
        .map(|_| runtime.block_on(meet(&connector, &acceptor)))
        .collect();
    let between = heap::live();
    let plain: Vec<_> = (0..MANY)
        .map(|_| {
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

//! What leases cost, and what happens to open connections when a trust domain is defederated.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use rustls::pki_types::ServerName;
use spiffe_core::{BundleSet, Source};
use spiffe_tls::{LeaseOver, LeaseRules, Mtls, Policy, Publisher, TlsStream};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::Measured;
use super::tls::{PIPE_BYTES, Pair, meet, runtime};
use crate::Effort;
use crate::fixtures::{DNS_NAME, Domain, bundle};
use crate::heap;
use crate::report::{Budget, Row};

pub(crate) const JUDGED: &str = "tls/leases/judged";
pub(crate) const HEAP: &str = "tls/leases/heap";
pub(crate) const LOST: &str = "tls/defederated/lost-requests";
pub(crate) const LATE: &str = "tls/defederated/late-bytes";
pub(crate) const CPU: &str = "tls/defederated/cpu";
pub(crate) const MEMORY: &str = "tls/defederated/heap";

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

const SPREAD: Duration = Duration::from_millis(500);
const GRACE: Duration = Duration::from_millis(1500);

/// A request and its answer.
const REQUEST: [u8; 64] = [7; 64];

/// Idle and busy connections with a foreign trust domain, which is then defederated on the server's side. The busy ones
/// end by themselves when the lease is over, as an adapter does; no request may be lost before, and nothing may arrive
/// once the budget is spent.
pub(crate) fn defederated(effort: Effort) -> Measured {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(defederate(effort))
}

#[derive(Default)]
struct Tally {
    asked: AtomicU64,
    lost: AtomicU64,
    late: AtomicU64,
    ended: AtomicU64,
    is_late: AtomicBool,
}

async fn defederate(effort: Effort) -> Measured {
    let (own, foreign) = (Domain::new("example.org")?, Domain::new("foreign.example")?);
    let both = || -> Result<Arc<BundleSet>, Box<dyn Error>> {
        let bundles = [
            bundle("example.org", &[&own])?,
            bundle("foreign.example", &[&foreign])?,
        ];
        Ok(Arc::new(bundles.into_iter().collect()))
    };
    let server = Publisher::fixed([own.svid("server")?], both()?);
    let client = Publisher::fixed([foreign.svid("client")?], both()?);
    let before = heap::live();
    let acceptor = Mtls::new(&server, "domain:foreign.example".parse::<Policy>()?)
        .lease_rules(LeaseRules::drain(SPREAD, GRACE))
        .acceptor()?;
    let connector = Mtls::new(&client, "domain:example.org".parse::<Policy>()?)
        .lease_rules(LeaseRules::report())
        .connector()?;
    let tally = Arc::new(Tally::default());
    let mut tasks = Vec::new();
    for number in 0..effort.idle + effort.busy {
        let (near, far) = meet(&connector, &acceptor).await;
        tasks.push(tokio::spawn(answer(far, tally.clone())));
        let is_busy = number >= effort.idle;
        tasks.push(tokio::spawn(ask(near, is_busy, tally.clone())));
    }
    let held = heap::live() - before;
    let cpu = process_cpu_time();
    let begin = Instant::now();
    let svid = server.svid()?;
    let alone: BundleSet = [bundle("example.org", &[&own])?].into_iter().collect();
    server.publish([svid], alone)?;
    let deadline = SPREAD + GRACE;
    tokio::time::sleep_until((begin + deadline).into()).await;
    tally.is_late.store(true, Ordering::SeqCst);
    for task in tasks {
        task.await?;
    }
    let cpu = process_cpu_time() - cpu;
    let connections = (effort.idle + effort.busy) as f64;
    let ended = tally.ended.load(Ordering::SeqCst) as f64;
    if ended < connections {
        return Err(format!("only {ended} of {connections} connections ended").into());
    }
    let against = format!(
        "requests of {} connections, {} idle beside",
        effort.busy, effort.idle
    );
    let asked = tally.asked.load(Ordering::SeqCst) as f64;
    Ok(vec![
        Row::new(
            LOST,
            "requests",
            tally.lost.load(Ordering::SeqCst) as f64,
            &against,
            asked,
            Budget::AtMost(0.0),
        ),
        Row::new(
            LATE,
            "bytes",
            tally.late.load(Ordering::SeqCst) as f64,
            "connections cut",
            connections,
            Budget::AtMost(0.0),
        ),
        Row::new(
            CPU,
            "ms",
            cpu.as_secs_f64() * 1e3,
            "ms of the budget, requests included",
            deadline.as_secs_f64() * 1e3,
            None,
        ),
        Row::new(
            MEMORY,
            "KiB a connection, both ends and their tasks",
            held as f64 / connections / 1024.0,
            "connections",
            connections,
            None,
        ),
    ])
}

/// The server's side: answers until the lease is over and what is under way is answered.
async fn answer(mut stream: TlsStream<DuplexStream>, tally: Arc<Tally>) {
    let over = stream.peer().lease().over();
    tokio::pin!(over);
    let mut request = [0; REQUEST.len()];
    let mut filled = 0;
    loop {
        tokio::select! {
            read = stream.read(&mut request[filled..]) => match read {
                Ok(0) | Err(_) => break,
                Ok(bytes) => {
                    if tally.is_late.load(Ordering::SeqCst) {
                        tally.late.fetch_add(bytes as u64, Ordering::SeqCst);
                    }
                    filled += bytes;
                    if filled == request.len() {
                        filled = 0;
                        if stream.write_all(&request).await.is_err() || stream.flush().await.is_err() {
                            break;
                        }
                    }
                }
            },
            // Between two requests is where a protocol ends a connection.
            _ = &mut over, if filled == 0 => {
                let _ = stream.shutdown().await;
                break;
            }
        }
    }
    tally.ended.fetch_add(1, Ordering::SeqCst);
}

/// The client's side: asks without a pause, or waits for the end.
async fn ask(mut stream: TlsStream<DuplexStream>, is_busy: bool, tally: Arc<Tally>) {
    let mut answer = [0; REQUEST.len()];
    if !is_busy {
        let _ = stream.read(&mut answer).await;
        return;
    }
    loop {
        // A request that meets the end before a byte of its answer was never taken up, and is asked again elsewhere.
        if stream.write_all(&REQUEST).await.is_err() || stream.flush().await.is_err() {
            return;
        }
        tally.asked.fetch_add(1, Ordering::SeqCst);
        match stream.read(&mut answer).await {
            Ok(0) => return,
            Ok(bytes) => {
                if stream.read_exact(&mut answer[bytes..]).await.is_err() {
                    tally.lost.fetch_add(1, Ordering::SeqCst);
                    return;
                }
            }
            Err(error) => {
                // Cut instead of closed: the grace was not enough, or not given.
                let cut = LeaseOver::in_io(&error).is_some();
                tally.lost.fetch_add(1 + u64::from(cut), Ordering::SeqCst);
                return;
            }
        }
        tokio::task::yield_now().await;
    }
}

fn thread_cpu_time() -> Duration {
    since(ClockId::ThreadCPUTime)
}

fn process_cpu_time() -> Duration {
    since(ClockId::ProcessCPUTime)
}

fn since(clock: ClockId) -> Duration {
    let now = clock_gettime(clock);
    Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs() as u32)
}

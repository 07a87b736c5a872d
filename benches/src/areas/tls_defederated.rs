//! What happens to open connections over TCP when a trust domain is defederated. The clients are a process of their own:
//! ten thousand connections have twice as many ends, and one process may not open so many.

use std::env;
use std::error::Error;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Resource, getrlimit, setrlimit};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use spiffe_core::bundle::{X509Authorities, certificates_to_pem};
use spiffe_core::crypto::aws_lc_rs;
use spiffe_core::key::SvidKey;
use spiffe_core::{Bundle, BundleSet, Source, TrustDomain, X509Svid};
use spiffe_tls::{Connector, LeaseOver, LeaseRules, Mtls, Policy, Publisher, TlsStream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::Measured;
use crate::fixtures::{Domain, bundle};
use crate::report::{Budget, Row};
use crate::{Effort, heap};

pub(crate) const LOST: &str = "tls/defederated/lost-requests";
pub(crate) const LATE: &str = "tls/defederated/late-bytes";
pub(crate) const CPU: &str = "tls/defederated/cpu";
pub(crate) const MEMORY: &str = "tls/defederated/heap";

/// The argument that makes this program the clients' process.
pub(crate) const CLIENTS: &str = "--defederated-clients";

const SPREAD: Duration = Duration::from_millis(500);
const GRACE: Duration = Duration::from_millis(1500);

/// A request and its answer.
const REQUEST: [u8; 64] = [7; 64];

/// How long the next client may take to come.
const PATIENCE: Duration = Duration::from_secs(60);

/// Descriptors for all but the connections.
const OTHER_FILES: u64 = 100;

/// What the clients' process is told.
#[derive(Serialize, Deserialize)]
struct Task {
    address: SocketAddr,
    idle: usize,
    busy: usize,
    chain: String,
    key: String,
    authorities: String,
}

/// What it answers.
#[derive(Serialize, Deserialize)]
struct Outcome {
    asked: u64,
    lost: u64,
}

/// Idle and busy connections with a foreign trust domain, which is then defederated on the server's side. The busy ones
/// end by themselves when the lease is over, as an adapter does; no request may be lost before, and nothing may arrive
/// once the budget is spent.
pub(crate) fn defederated(effort: Effort) -> Measured {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(defederate(effort))
}

async fn defederate(effort: Effort) -> Measured {
    let connections = effort.idle + effort.busy;
    allow_open_files(connections)?;
    let (own, foreign) = (Domain::new("example.org")?, Domain::new("foreign.example")?);
    let both = [
        bundle("example.org", &[&own])?,
        bundle("foreign.example", &[&foreign])?,
    ];
    let server = Publisher::fixed([own.svid("server")?], BundleSet::from_iter(both));
    let acceptor = Mtls::new(&server, "domain:foreign.example".parse::<Policy>()?)
        .lease_rules(LeaseRules::drain(SPREAD, GRACE))
        .acceptor()?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let client = foreign.svid("client")?;
    let SvidKey::Local(key) = client.key() else {
        return Err("the fixture's key is local".into());
    };
    let task = Task {
        address: listener.local_addr()?,
        idle: effort.idle,
        busy: effort.busy,
        chain: certificates_to_pem(client.chain()),
        key: key.secret_pkcs8_pem().to_string(),
        authorities: certificates_to_pem([own.certificate()]),
    };
    let mut clients = Command::new(env::current_exe()?)
        .arg(CLIENTS)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut stdin = clients.stdin.take().ok_or("standard input is a pipe")?;
    writeln!(stdin, "{}", serde_json::to_string(&task)?)?;

    let tally = Arc::new(Tally::default());
    let before = heap::live();
    let mut answering = Vec::new();
    for _ in 0..connections {
        let (tcp, _) = timeout(PATIENCE, listener.accept()).await??;
        tcp.set_nodelay(true)?;
        let stream = acceptor.accept(tcp).await?;
        answering.push(tokio::spawn(answer(stream, tally.clone())));
    }
    let held = heap::live() - before;
    let cpu = process_cpu_time();
    let begin = Instant::now();
    let svid = server.svid()?;
    server.publish(
        [svid],
        BundleSet::from_iter([bundle("example.org", &[&own])?]),
    )?;
    let deadline = SPREAD + GRACE;
    tokio::time::sleep_until((begin + deadline).into()).await;
    tally.is_late.store(true, Ordering::SeqCst);
    for task in answering {
        task.await?;
    }
    let cpu = process_cpu_time() - cpu;
    let ended = clients.wait_with_output()?;
    if !ended.status.success() {
        return Err("the clients have failed".into());
    }
    let outcome: Outcome = serde_json::from_slice(&ended.stdout)?;
    let connections = connections as f64;
    let against = format!(
        "requests of {} connections over TCP, {} idle beside",
        effort.busy, effort.idle
    );
    Ok(vec![
        Row::new(
            LOST,
            "requests",
            outcome.lost as f64,
            &against,
            outcome.asked as f64,
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
            "ms of the server",
            cpu.as_secs_f64() * 1e3,
            "ms of the budget, requests included",
            deadline.as_secs_f64() * 1e3,
            None,
        ),
        Row::new(
            MEMORY,
            "KiB a connection, the server's end and its task",
            held as f64 / connections / 1024.0,
            "connections",
            connections,
            None,
        ),
    ])
}

/// Raises the limit of this process as far as it may.
fn allow_open_files(connections: usize) -> Result<(), Box<dyn Error>> {
    let wanted = connections as u64 + OTHER_FILES;
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= wanted) {
        return Ok(());
    }
    limit.current = Some(wanted);
    setrlimit(Resource::Nofile, limit).map_err(|error| {
        format!("{wanted} open files are needed, see `ulimit -Hn`: {error}").into()
    })
}

#[derive(Default)]
struct Tally {
    late: AtomicU64,
    is_late: AtomicBool,
}

/// The server's side: answers until the lease is over and what is under way is answered.
async fn answer(mut stream: TlsStream<TcpStream>, tally: Arc<Tally>) {
    let over = stream.peer().lease().over();
    tokio::pin!(over);
    let mut request = [0; REQUEST.len()];
    let mut filled = 0;
    loop {
        tokio::select! {
            read = stream.read(&mut request[filled..]) => match read {
                Ok(0) | Err(_) => return,
                Ok(bytes) => {
                    tally.count(bytes);
                    filled += bytes;
                    if filled == request.len() {
                        filled = 0;
                        if stream.write_all(&request).await.is_err() || stream.flush().await.is_err() {
                            return;
                        }
                    }
                }
            },
            // Between two requests is where a protocol ends a connection.
            _ = &mut over, if filled == 0 => break,
        }
    }
    let _ = stream.shutdown().await;
    // What the client has sent meanwhile is not answered; left unread, it would have the system reset the connection and
    // take away the answer before.
    while let Ok(bytes @ 1..) = stream.read(&mut request).await {
        tally.count(bytes);
    }
}

impl Tally {
    fn count(&self, bytes: usize) {
        if self.is_late.load(Ordering::SeqCst) {
            self.late.fetch_add(bytes as u64, Ordering::SeqCst);
        }
    }
}

/// The clients' process: reads its task, and writes what came of it when all its connections have ended.
pub(crate) fn clients() -> Result<(), Box<dyn Error>> {
    let mut line = String::new();
    BufReader::new(std::io::stdin()).read_line(&mut line)?;
    let task: Task = serde_json::from_str(&line)?;
    allow_open_files(task.idle + task.busy)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let outcome = runtime.block_on(dial(&task))?;
    println!("{}", serde_json::to_string(&outcome)?);
    Ok(())
}

async fn dial(task: &Task) -> Result<Outcome, Box<dyn Error>> {
    let connector = connector(task)?;
    let mut asking = Vec::new();
    for number in 0..task.idle + task.busy {
        let tcp = TcpStream::connect(task.address).await?;
        tcp.set_nodelay(true)?;
        let stream = connector.connect(tcp).await?;
        asking.push(tokio::spawn(ask(stream, number >= task.idle)));
    }
    let mut outcome = Outcome { asked: 0, lost: 0 };
    for asked in asking {
        let one = asked.await?;
        outcome.asked += one.asked;
        outcome.lost += one.lost;
    }
    Ok(outcome)
}

/// The client's side: asks without a pause, or waits for the end.
async fn ask(mut stream: TlsStream<TcpStream>, is_busy: bool) -> Outcome {
    let mut outcome = Outcome { asked: 0, lost: 0 };
    let mut answer = [0; REQUEST.len()];
    if !is_busy {
        let _ = stream.read(&mut answer).await;
        return outcome;
    }
    loop {
        // A request that meets the end before a byte of its answer was never taken up, and is asked again elsewhere.
        if stream.write_all(&REQUEST).await.is_err() || stream.flush().await.is_err() {
            return outcome;
        }
        outcome.asked += 1;
        match stream.read(&mut answer).await {
            Ok(0) => return outcome,
            Ok(bytes) => {
                if stream.read_exact(&mut answer[bytes..]).await.is_err() {
                    outcome.lost += 1;
                    return outcome;
                }
            }
            Err(error) => {
                // Cut instead of closed: the grace was not enough, or not given.
                let cut = LeaseOver::in_io(&error).is_some();
                outcome.lost += 1 + u64::from(cut);
                return outcome;
            }
        }
        tokio::task::yield_now().await;
    }
}

fn connector(task: &Task) -> Result<Connector, Box<dyn Error>> {
    let svid = X509Svid::from_pem(&task.chain, &task.key, &*aws_lc_rs())?;
    let authorities = X509Authorities::from_pem(&task.authorities)?;
    let bundle = Bundle::new(TrustDomain::parse("example.org")?).with_x509_authorities(authorities);
    let client = Publisher::fixed([svid], BundleSet::from_iter([bundle]));
    Ok(Mtls::new(&client, "domain:example.org".parse::<Policy>()?)
        .lease_rules(LeaseRules::report())
        .connector()?)
}

fn process_cpu_time() -> Duration {
    let now = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs() as u32)
}

//! Rotations under load with ours, with rust-spiffe and with go-spiffe: SVIDs are replaced by one Workload API of ours, and
//! connections are made over TCP without a pause. Built with the feature `peers` alone.

use std::collections::HashSet;
use std::error::Error;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use serde::Deserialize;
use serde_json::json;
use spiffe_daemons::local::{LocalApi, LocalTrustDomain};
use spiffe_registration::entries_from_json;
use spiffe_tls::{Acceptor, Connector, Mtls, Policy};
use spiffe_workload_client::{Endpoint, X509Source};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::Measured;
use super::go;
use crate::Effort;
use crate::fixtures::DNS_NAME;
use crate::measure::quantile;
use crate::report::{Budget, Row};

pub(crate) const RUST_FAILED: &str = "peers/rotation/failed";
pub(crate) const RUST_P50: &str = "peers/rotation/push-p50";
pub(crate) const RUST_P99: &str = "peers/rotation/push-p99";
pub(crate) const GO_FAILED: &str = "peers/go/rotation/failed";
pub(crate) const GO_P50: &str = "peers/go/rotation/push-p50";
pub(crate) const GO_P99: &str = "peers/go/rotation/push-p99";

/// The three take turns, so that what else the machine does meets each of them.
const TURNS: u64 = 3;

const DIALERS: usize = 8;

/// Between the first sight of an SVID and the next rotation.
const PAUSE: Duration = Duration::from_millis(10);

/// How long a rotation may take to be seen before the run is given up.
const PATIENCE: Duration = Duration::from_secs(20);

/// Failed handshakes, and the time from an order to replace all SVIDs until a handshake with the server's new one is done:
/// issuing, the Workload API and the load of all dialers are in it.
pub(crate) fn rotations(effort: Effort) -> Measured {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let world = runtime.block_on(World::start())?;
    let rotations = effort.rotations.min(MOST_ROTATIONS).div_ceil(TURNS);
    let mut runs = [Run::default(), Run::default(), Run::default()];
    for _ in 0..TURNS {
        let ours = runtime.block_on(async {
            let ends = Ends::ours(&world).await?;
            in_process(&world, rotations, ends).await
        });
        runs[0].add(ours?);
        let theirs = runtime.block_on(async {
            let ends = Ends::rust_spiffe(&world).await?;
            in_process(&world, rotations, ends).await
        });
        runs[1].add(theirs?);
        runs[2].add(runtime.block_on(in_go(&world, rotations))?);
    }
    let _in_runtime = runtime.enter();
    drop(world);
    let [mut ours, rust, go] = runs;
    let rotations = rotations * TURNS;
    let mut rows = ours.beside(
        rust,
        rotations,
        "rust-spiffe 0.19 with spiffe-rustls 0.11",
        [RUST_FAILED, RUST_P50, RUST_P99],
    );
    rows.extend(ours.beside(
        go,
        rotations,
        "go-spiffe 2.8.1",
        [GO_FAILED, GO_P50, GO_P99],
    ));
    Ok(rows)
}

/// Enough for a 99th percentile; the peers' failures show in fewer.
const MOST_ROTATIONS: u64 = 1_500;

/// What came of some rotations.
#[derive(Default)]
struct Run {
    handshakes: u64,
    failed: u64,
    pushes: Vec<f64>,
}

impl Run {
    fn add(&mut self, other: Self) {
        self.handshakes += other.handshakes;
        self.failed += other.failed;
        self.pushes.extend(other.pushes);
    }

    fn beside(
        &mut self,
        mut theirs: Self,
        rotations: u64,
        who: &str,
        names: [&str; 3],
    ) -> Vec<Row> {
        let [failed, p50, p99] = names;
        let against = format!(
            "{who}, of its {} in {rotations} rotations; ours of {}",
            theirs.handshakes, self.handshakes
        );
        let mut rows = vec![Row::new(
            failed,
            "handshakes",
            self.failed as f64,
            &against,
            theirs.failed as f64,
            Budget::AtMost(0.0),
        )];
        rows.extend([(p50, 0.5), (p99, 0.99)].map(|(row, at)| {
            Row::new(
                row,
                "ms",
                quantile(&mut self.pushes, at),
                who,
                quantile(&mut theirs.pushes, at),
                Budget::Ratio(1.0),
            )
        }));
        rows
    }
}

/// A trust domain in which this user is one workload.
struct World {
    domain: LocalTrustDomain,
    _api: LocalApi,
    socket: PathBuf,
    endpoint: Endpoint,
    _folder: TempDir,
}

impl World {
    async fn start() -> Result<Self, Box<dyn Error>> {
        let folder = tempfile::tempdir()?;
        let socket = folder.path().join("s");
        let uid = folder.path().metadata()?.uid();
        let entry = json!({"entries": [{
            "spiffe_id": ID,
            "parent_id": "spiffe://example.org/agent",
            "selectors": [{"type": "unix", "value": format!("uid:{uid}")}],
            "dns_names": [DNS_NAME],
        }]});
        let entries = entries_from_json(entry.to_string().as_bytes(), || "1".into())?;
        let domain = LocalTrustDomain::builder("example.org".parse()?)
            .entries(entries)
            .build()
            .await?;
        Ok(Self {
            _api: domain.serve(&socket)?,
            domain,
            endpoint: format!("unix://{}", socket.display()).parse()?,
            socket,
            _folder: folder,
        })
    }

    fn address(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// Rotates so many times, each time until the first handshake with the server's new SVID; gives the milliseconds.
    async fn rotate(&self, times: u64, sights: &mut Sights) -> Result<Vec<f64>, Box<dyn Error>> {
        let mut pushes = Vec::new();
        timeout(PATIENCE, sights.recv()).await?;
        for _ in 0..times {
            sleep(PAUSE).await;
            while sights.try_recv().is_ok() {}
            let pushed = SystemTime::now();
            self.domain.reissue();
            let seen = timeout(PATIENCE, sights.recv())
                .await?
                .ok_or("the load has ended")?;
            pushes.push(seen.duration_since(pushed)?.as_secs_f64() * 1e3);
        }
        Ok(pushes)
    }
}

const ID: &str = "spiffe://example.org/peer";

/// When the server's next SVID was first seen.
type Sights = mpsc::UnboundedReceiver<SystemTime>;

/// Both ends of one library, each over a source of its own.
#[derive(Clone)]
enum Ends {
    Ours {
        acceptor: Acceptor,
        connector: Connector,
        /// They end with their last handle.
        _sources: Arc<[X509Source; 2]>,
    },
    RustSpiffe(TlsAcceptor, TlsConnector),
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

type Failure = Box<dyn Error + Send + Sync>;

impl Ends {
    async fn ours(world: &World) -> Result<Self, Box<dyn Error>> {
        let source = || X509Source::builder().endpoint(world.endpoint.clone());
        let policy: Policy = format!("id:{ID}").parse()?;
        let (server, client) = (source().build().await?, source().build().await?);
        Ok(Self::Ours {
            // The others resume nothing, and every rotation is to be seen.
            acceptor: Mtls::new(&server, policy.clone())
                .resumption(false)
                .acceptor()?,
            connector: Mtls::new(&client, policy).resumption(false).connector()?,
            _sources: Arc::new([server, client]),
        })
    }

    async fn rust_spiffe(world: &World) -> Result<Self, Box<dyn Error>> {
        let source = || spiffe::X509Source::builder().endpoint(world.address());
        let server = spiffe_rustls::mtls_server(source().build().await?).build()?;
        let mut client = spiffe_rustls::mtls_client(source().build().await?).build()?;
        client.resumption = Resumption::disabled();
        Ok(Self::RustSpiffe(
            Arc::new(server).into(),
            Arc::new(client).into(),
        ))
    }

    async fn accept(&self, tcp: TcpStream) -> Result<Box<dyn Stream>, Failure> {
        Ok(match self {
            Self::Ours { acceptor, .. } => Box::new(acceptor.accept(tcp).await?),
            Self::RustSpiffe(acceptor, _) => Box::new(acceptor.accept(tcp).await?),
        })
    }

    /// The connection, and what tells one SVID of the server from another.
    async fn connect(&self, tcp: TcpStream) -> Result<(Box<dyn Stream>, Vec<u8>), Failure> {
        match self {
            Self::Ours { connector, .. } => {
                let stream = connector.connect(tcp).await?;
                let serial = stream.peer().verified().serial.clone();
                Ok((Box::new(stream), serial))
            }
            Self::RustSpiffe(_, connector) => {
                let name = ServerName::try_from(DNS_NAME)?;
                let stream = connector.connect(name, tcp).await?;
                let chain = stream.get_ref().1.peer_certificates();
                let leaf = chain.and_then(<[_]>::first).ok_or("no certificate came")?;
                let leaf = leaf.to_vec();
                Ok((Box::new(stream), leaf))
            }
        }
    }
}

/// What the dialers have in common.
struct Load {
    ends: Ends,
    done: AtomicU64,
    failed: AtomicU64,
    stop: AtomicBool,
    seen: Mutex<HashSet<Vec<u8>>>,
    sights: mpsc::UnboundedSender<SystemTime>,
}

async fn in_process(world: &World, rotations: u64, ends: Ends) -> Result<Run, Box<dyn Error>> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let (sender, mut sights) = mpsc::unbounded_channel();
    let load = Arc::new(Load {
        ends,
        done: AtomicU64::new(0),
        failed: AtomicU64::new(0),
        stop: AtomicBool::new(false),
        seen: Mutex::default(),
        sights: sender,
    });
    let serving = tokio::spawn(serve(listener, load.ends.clone()));
    let dialers: Vec<_> = (0..DIALERS)
        .map(|_| {
            let load = load.clone();
            tokio::spawn(async move {
                while !load.stop.load(Ordering::Relaxed) {
                    load.dial(address).await;
                }
            })
        })
        .collect();
    let pushes = world.rotate(rotations, &mut sights).await;
    load.stop.store(true, Ordering::Relaxed);
    for dialer in dialers {
        dialer.await?;
    }
    serving.abort();
    Ok(Run {
        handshakes: load.done.load(Ordering::Relaxed),
        failed: load.failed.load(Ordering::Relaxed),
        pushes: pushes?,
    })
}

/// Sends back the one byte that each connection brings.
async fn serve(listener: TcpListener, ends: Ends) {
    while let Ok((tcp, _)) = listener.accept().await {
        let ends = ends.clone();
        tokio::spawn(async move {
            // What goes wrong here is missed by the dialer, which waits for its byte, and counted there.
            if let Ok(mut tls) = ends.accept(tcp).await
                && let Ok(byte) = tls.read_u8().await
            {
                let _ = tls.write_u8(byte).await;
                let _ = tls.shutdown().await;
            }
        });
    }
}

impl Load {
    async fn dial(&self, address: std::net::SocketAddr) {
        match self.exchange(address).await {
            Ok(shown) => {
                let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
                if seen.insert(shown) {
                    // Nobody waits for what comes after the last rotation.
                    let _ = self.sights.send(SystemTime::now());
                }
            }
            Err(_) => {
                self.failed.fetch_add(1, Ordering::Relaxed);
            }
        }
        self.done.fetch_add(1, Ordering::Relaxed);
    }

    /// One connection, there and back: only an answer shows that the server accepted its client.
    async fn exchange(&self, address: std::net::SocketAddr) -> Result<Vec<u8>, Failure> {
        let tcp = TcpStream::connect(address).await?;
        tcp.set_nodelay(true)?;
        let (mut tls, shown) = self.ends.connect(tcp).await?;
        tls.write_u8(b'?').await?;
        tls.flush().await?;
        if tls.read_u8().await? != b'?' {
            return Err("another byte came back".into());
        }
        Ok(shown)
    }
}

/// What the Go program counts.
#[derive(Deserialize)]
struct Counted {
    handshakes: u64,
    failed: u64,
}

/// Both ends in Go, in a process of its own that tells each first sight and goes on until its input ends.
async fn in_go(world: &World, rotations: u64) -> Result<Run, Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let program = go::build(folder.path())?;
    let mut child = Command::new(&program)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut stdin = child.stdin.take().ok_or("standard input is a pipe")?;
    let work = json!({"kind": "rotation", "socket": world.address(), "dialers": DIALERS});
    writeln!(stdin, "{work}")?;
    let stdout = child.stdout.take().ok_or("standard output is a pipe")?;
    let (sender, mut sights) = mpsc::unbounded_channel();
    let counting = std::thread::spawn(move || follow(stdout, &sender));
    let pushes = world.rotate(rotations, &mut sights).await;
    drop(stdin);
    let counted = counting.join().map_err(|_| "the reader has panicked")?;
    expect_success(child)?;
    let Counted { handshakes, failed } = counted.ok_or("gobench has counted nothing")?;
    Ok(Run {
        handshakes,
        failed,
        pushes: pushes?,
    })
}

/// Lines with nanoseconds since the epoch, and the counts at the end.
fn follow(stdout: ChildStdout, sights: &mpsc::UnboundedSender<SystemTime>) -> Option<Counted> {
    for line in BufReader::new(stdout).lines().map_while(Result::ok) {
        match line.parse() {
            Ok(nanos) => {
                let seen = SystemTime::UNIX_EPOCH + Duration::from_nanos(nanos);
                let _ = sights.send(seen);
            }
            Err(_) => return serde_json::from_str(&line).ok(),
        }
    }
    None
}

fn expect_success(mut child: Child) -> Result<(), Box<dyn Error>> {
    if child.wait()?.success() {
        return Ok(());
    }
    Err("gobench has failed".into())
}

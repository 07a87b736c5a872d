//! Connections over TCP between two ends of one library, by several dialers, without a pause or at a rate: in this process,
//! or in one of go-spiffe's. Built with the feature `peers` alone.
//!
//! At a rate, handshakes are called for at even distances, whether or not those before are done: dialers that fall behind
//! do not lower the load.

use std::collections::HashSet;
use std::error::Error;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime};

use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use serde::Deserialize;
use serde_json::json;
use spiffe_tls::{Acceptor, Connector, Mtls, Policy};
use spiffe_workload_client::{Endpoint, X509Source};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex as AsyncMutex, mpsc};
use tokio::task;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::fixtures::DNS_NAME;

/// The one workload that is at both ends.
pub(super) const ID: &str = "spiffe://example.org/peer";

const DIALERS: usize = 8;

/// Told of the first handshake with each SVID of the server.
type Watcher = mpsc::UnboundedSender<SystemTime>;

/// What a load has come to.
#[derive(Default)]
pub(super) struct Counted {
    pub(super) failed: u64,
    pub(super) exchanges: Vec<Exchange>,
}

/// A connection that succeeded.
pub(super) struct Exchange {
    pub(super) began: SystemTime,
    pub(super) done: SystemTime,
}

/// Calls for a handshake so many times a second until `call` says that nobody listens.
fn pace(rate: f64, mut call: impl FnMut() -> bool + Send + 'static) -> JoinHandle<()> {
    thread::spawn(move || {
        let begin = SystemTime::now();
        for number in 1u32.. {
            let due = begin + Duration::from_secs_f64(f64::from(number) / rate);
            thread::sleep(
                due.duration_since(SystemTime::now())
                    .unwrap_or(Duration::ZERO),
            );
            if !call() {
                return;
            }
        }
    })
}

/// Both ends of one library, each over a source of its own.
#[derive(Clone)]
pub(super) enum Ends {
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
    pub(super) async fn ours(endpoint: &Endpoint) -> Result<Self, Box<dyn Error>> {
        let source = || X509Source::builder().endpoint(endpoint.clone());
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

    pub(super) async fn rust_spiffe(address: &str) -> Result<Self, Box<dyn Error>> {
        let source = || spiffe::X509Source::builder().endpoint(address);
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

/// Both ends in this process.
pub(super) struct InProcess {
    load: Arc<Load>,
    serving: task::JoinHandle<()>,
    dialers: Vec<task::JoinHandle<()>>,
}

/// What the dialers have in common.
struct Load {
    ends: Ends,
    address: SocketAddr,
    /// One for each handshake, unless there is no pause.
    calls: Option<AsyncMutex<mpsc::UnboundedReceiver<()>>>,
    stop: AtomicBool,
    seen: Mutex<HashSet<Vec<u8>>>,
    counted: Mutex<Counted>,
    watcher: Watcher,
}

impl InProcess {
    pub(super) async fn start(
        ends: Ends,
        rate: Option<f64>,
        watcher: Watcher,
    ) -> Result<Self, Box<dyn Error>> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let (caller, calls) = mpsc::unbounded_channel();
        let load = Arc::new(Load {
            ends: ends.clone(),
            address: listener.local_addr()?,
            calls: rate.map(|_| AsyncMutex::new(calls)),
            stop: AtomicBool::new(false),
            seen: Mutex::default(),
            counted: Mutex::default(),
            watcher,
        });
        if let Some(rate) = rate {
            let load = load.clone();
            pace(rate, move || !load.stopped() && caller.send(()).is_ok());
        }
        Ok(Self {
            serving: tokio::spawn(serve(listener, ends)),
            dialers: (0..DIALERS)
                .map(|_| tokio::spawn(load.clone().dial()))
                .collect(),
            load,
        })
    }

    pub(super) async fn stop(self) -> Result<Counted, Box<dyn Error>> {
        self.load.stop.store(true, Ordering::Relaxed);
        for dialer in self.dialers {
            dialer.await?;
        }
        self.serving.abort();
        Ok(std::mem::take(&mut *lock(&self.load.counted)))
    }
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
    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Waits until the next handshake may begin; says whether there is one.
    async fn next(&self) -> bool {
        if let Some(calls) = &self.calls
            && calls.lock().await.recv().await.is_none()
        {
            return false;
        }
        !self.stopped()
    }

    async fn dial(self: Arc<Self>) {
        while self.next().await {
            let began = SystemTime::now();
            let exchanged = self.exchange().await;
            let done = SystemTime::now();
            let mut counted = lock(&self.counted);
            let Ok(shown) = exchanged else {
                counted.failed += 1;
                continue;
            };
            counted.exchanges.push(Exchange { began, done });
            if lock(&self.seen).insert(shown) {
                // Nobody waits for what comes after the last rotation.
                let _ = self.watcher.send(done);
            }
        }
    }

    /// One connection, there and back: only an answer shows that the server accepted its client.
    async fn exchange(&self) -> Result<Vec<u8>, Failure> {
        let tcp = TcpStream::connect(self.address).await?;
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

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Both ends in Go, in a process of its own: it is called for handshakes, tells each first sight, and goes on
/// until its input ends.
pub(super) struct InGo {
    child: Child,
    stop: Arc<AtomicBool>,
    /// Unless whoever paces has it.
    input: Option<ChildStdin>,
    counting: JoinHandle<Option<Counted>>,
}

impl InGo {
    pub(super) fn start(
        program: &Path,
        address: &str,
        rate: Option<f64>,
        watcher: Watcher,
    ) -> Result<Self, Box<dyn Error>> {
        let mut child = Command::new(program)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut input = child.stdin.take().ok_or("standard input is a pipe")?;
        let work = json!({
            "kind": "rotation",
            "socket": address,
            "dialers": DIALERS,
            "paced": rate.is_some(),
        });
        writeln!(input, "{work}")?;
        let stdout = child.stdout.take().ok_or("standard output is a pipe")?;
        let stop = Arc::new(AtomicBool::new(false));
        let mut input = Some(input);
        if let (Some(rate), Some(mut input)) = (rate, input.take_if(|_| rate.is_some())) {
            let stop = stop.clone();
            pace(rate, move || {
                !stop.load(Ordering::Relaxed) && input.write_all(CALL).is_ok()
            });
        }
        Ok(Self {
            child,
            stop,
            input,
            counting: thread::spawn(move || follow(stdout, &watcher)),
        })
    }

    pub(super) fn stop(mut self) -> Result<Counted, Box<dyn Error>> {
        self.stop.store(true, Ordering::Relaxed);
        drop(self.input);
        let counted = self
            .counting
            .join()
            .map_err(|_| "the reader has panicked")?;
        if !self.child.wait()?.success() {
            return Err("gobench has failed".into());
        }
        Ok(counted.ok_or("gobench has counted nothing")?)
    }
}

/// An object without anything in it.
const CALL: &[u8] = b"{}\n";

/// What the Go program counts.
#[derive(Deserialize)]
struct InNanos {
    failed: u64,
    /// When begun and when done.
    exchanges: Vec<(u64, u64)>,
}

/// Lines with nanoseconds since the epoch, and the counts at the end.
fn follow(stdout: ChildStdout, watcher: &Watcher) -> Option<Counted> {
    for line in BufReader::new(stdout).lines().map_while(Result::ok) {
        if let Ok(nanos) = line.parse() {
            let _ = watcher.send(time(nanos));
            continue;
        }
        let InNanos { failed, exchanges } = serde_json::from_str(&line).ok()?;
        let exchanges = exchanges.into_iter().map(|(began, done)| Exchange {
            began: time(began),
            done: time(done),
        });
        return Some(Counted {
            failed,
            exchanges: exchanges.collect(),
        });
    }
    None
}

fn time(nanos: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_nanos(nanos)
}

//! Rotations under load: connections are made over TCP without a pause while both ends' SVIDs change.

use std::collections::HashSet;
use std::error::Error;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use spiffe_core::BundleSet;
use spiffe_tls::{Acceptor, Connector, Mtls, Policy, Publisher};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

use super::Measured;
use crate::Effort;
use crate::fixtures::{Domain, bundle};
use crate::report::{Budget, Row};

pub(crate) const FAILED: &str = "tls/rotation/failed";
pub(crate) const FAILED_RESUMING: &str = "tls/rotation/failed-resuming";

/// Each rotation gives both ends a new SVID, signed by the bundle's two authorities in turn, and waits until a connection
/// that began after it is done.
pub(crate) fn failed(effort: Effort) -> Measured {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let mut rows = runtime.block_on(rotate(effort, FAILED, false))?;
    rows.extend(runtime.block_on(rotate(effort, FAILED_RESUMING, true))?);
    Ok(rows)
}

async fn rotate(effort: Effort, row: &str, resumption: bool) -> Measured {
    let authorities = [Domain::new("example.org")?, Domain::new("example.org")?];
    let bundles: BundleSet = [bundle("example.org", &authorities.each_ref())?]
        .into_iter()
        .collect();
    let bundles = Arc::new(bundles);
    let end = |path: &str| -> Result<Publisher, Box<dyn Error>> {
        let svid = authorities[0].svid(path)?;
        Ok(Publisher::fixed([svid], bundles.clone()))
    };
    let (server, client) = (end("server")?, end("client")?);
    let policy: Policy = "id:spiffe://example.org/client".parse()?;
    // A resumed session would show the SVID that it began with, and every rotation is to be seen.
    let acceptor = Mtls::new(&server, policy)
        .resumption(resumption)
        .acceptor()?;
    let policy: Policy = "id:spiffe://example.org/server".parse()?;
    let connector = Mtls::new(&client, policy)
        .resumption(resumption)
        .connector()?;

    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let serving = tokio::spawn(serve(listener, acceptor));
    let load = Arc::new(Load::default());
    let dialers: Vec<_> = (0..DIALERS)
        .map(|_| tokio::spawn(dial(address, connector.clone(), load.clone())))
        .collect();

    let begin = Instant::now();
    let mut rotations = 0;
    while rotations < effort.rotations && begin.elapsed() < effort.rotations_within {
        rotations += 1;
        let authority = &authorities[rotations as usize % 2];
        server.publish([Arc::new(authority.svid("server")?)], bundles.clone())?;
        client.publish([Arc::new(authority.svid("client")?)], bundles.clone())?;
        // At most one connection of each dialer began before; the next one began after.
        load.reaches(load.done() + DIALERS + 1).await;
    }
    load.stop.store(true, Ordering::Relaxed);
    for dialer in dialers {
        dialer.await?;
    }
    serving.abort();

    if rotations < effort.rotations {
        let within = effort.rotations_within;
        return Err(format!(
            "{rotations} of {} rotations in {within:?}",
            effort.rotations
        )
        .into());
    }
    let seen = load.seen.lock().unwrap_or_else(PoisonError::into_inner);
    if !resumption && (seen.len() as u64) < rotations {
        let seen = seen.len();
        return Err(format!("{rotations} rotations, and only {seen} SVIDs were presented").into());
    }
    Ok(vec![Row::new(
        row,
        "handshakes",
        load.failed.load(Ordering::Relaxed) as f64,
        &format!("all during {rotations} rotations"),
        load.done() as f64,
        Budget::AtMost(0.0),
    )])
}

/// Sends back the one byte that each connection brings.
async fn serve(listener: TcpListener, acceptor: Acceptor) {
    while let Ok((tcp, _)) = listener.accept().await {
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            // What goes wrong here is missed by the dialer, which waits for its byte, and counted there.
            if let Ok(mut tls) = acceptor.accept(tcp).await
                && let Ok(byte) = tls.read_u8().await
            {
                let _ = tls.write_u8(byte).await;
                let _ = tls.shutdown().await;
            }
        });
    }
}

async fn dial(address: SocketAddr, connector: Connector, load: Arc<Load>) {
    while !load.stop.load(Ordering::Relaxed) {
        match exchange(address, &connector).await {
            Ok(serial) => {
                load.seen
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .insert(serial);
            }
            Err(error) => {
                eprintln!("tls/rotation: {error}");
                load.failed.fetch_add(1, Ordering::Relaxed);
            }
        }
        load.done.fetch_add(1, Ordering::Relaxed);
        load.progress.notify_one();
    }
}

/// One connection, there and back: only an answer shows that the server accepted its client. Hands back the serial
/// number that the server presented.
async fn exchange(
    address: SocketAddr,
    connector: &Connector,
) -> Result<Vec<u8>, Box<dyn Error + Send + Sync>> {
    let tcp = TcpStream::connect(address).await?;
    tcp.set_nodelay(true)?;
    let mut tls = connector.connect(tcp).await?;
    tls.write_u8(b'?').await?;
    tls.flush().await?;
    if tls.read_u8().await? != b'?' {
        return Err("another byte came back".into());
    }
    Ok(tls.peer().verified().serial.clone())
}

#[derive(Default)]
struct Load {
    done: AtomicU64,
    failed: AtomicU64,
    seen: Mutex<HashSet<Vec<u8>>>,
    progress: Notify,
    stop: AtomicBool,
}

impl Load {
    fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    async fn reaches(&self, connections: u64) {
        while self.done() < connections {
            self.progress.notified().await;
        }
    }
}

const DIALERS: u64 = 8;

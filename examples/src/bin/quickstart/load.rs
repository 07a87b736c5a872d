//! A server, and clients that open one connection after the other while everything changes around them.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use spiffe_examples::{answer, greet};
use spiffe_tls::{Acceptor, Connector};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// What the clients and the server have counted.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    ok: AtomicU64,
    failed: AtomicU64,
    first_failure: Mutex<Option<String>>,
}

impl Counts {
    pub(crate) fn ok(&self) -> u64 {
        self.ok.load(Ordering::Relaxed)
    }

    pub(crate) fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    /// What went wrong first, if anything did.
    pub(crate) fn first_failure(&self) -> Option<String> {
        self.first_failure.lock().ok()?.clone()
    }

    fn note_failure(&self, text: String) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        if let Ok(mut first) = self.first_failure.lock() {
            first.get_or_insert(text);
        }
    }
}

/// Serves the hello protocol on a port of the system's choice for as long as the returned tasks live.
pub(crate) async fn serve(
    acceptor: Acceptor,
    tasks: &mut JoinSet<()>,
) -> std::io::Result<SocketAddr> {
    let mut listener = acceptor.listen(TcpListener::bind("127.0.0.1:0").await?);
    let address = listener.local_addr()?;
    tasks.spawn(async move {
        while let Ok(accepted) = listener.accept().await {
            // A failed handshake is counted by its client.
            if let Ok(mut stream) = accepted {
                tokio::spawn(async move { answer(&mut stream).await });
            }
        }
    });
    Ok(address)
}

/// One connection: handshake, greeting, answer.
pub(crate) async fn call(connector: &Connector, server: SocketAddr) -> Result<String, String> {
    let tcp = TcpStream::connect(server)
        .await
        .map_err(|error| error.to_string())?;
    let _ = tcp.set_nodelay(true);
    let mut stream = connector
        .connect(tcp)
        .await
        .map_err(|error| error.to_string())?;
    greet(&mut stream).await.map_err(|error| error.to_string())
}

/// Clients under way; they stop when asked to.
pub(crate) struct Load {
    /// How many connections each client has ended.
    ended: Vec<watch::Receiver<u64>>,
    pub(crate) counts: Arc<Counts>,
    stop: Arc<AtomicBool>,
    clients: JoinSet<()>,
}

impl Load {
    /// Starts so many clients, with the connectors in turn.
    pub(crate) fn start(clients: u16, connectors: &[Connector], server: SocketAddr) -> Self {
        let counts = Arc::new(Counts::default());
        let stop = Arc::new(AtomicBool::new(false));
        let mut tasks = JoinSet::new();
        let mut all_ended = Vec::new();
        for connector in connectors.iter().cycle().take(usize::from(clients)) {
            let (connector, counts, stop) = (connector.clone(), counts.clone(), stop.clone());
            let (ended, receiver) = watch::channel(0);
            all_ended.push(receiver);
            tasks.spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    match call(&connector, server).await {
                        Ok(_) => drop(counts.ok.fetch_add(1, Ordering::Relaxed)),
                        Err(text) => counts.note_failure(text),
                    }
                    ended.send_modify(|ended| *ended += 1);
                }
            });
        }
        Self {
            ended: all_ended,
            counts,
            stop,
            clients: tasks,
        }
    }

    /// Waits until every connection that is open now has ended: one that began with an earlier SVID may not outlive the
    /// authority behind it.
    pub(crate) async fn settle(&self) {
        for client in &self.ended {
            let mut client = client.clone();
            let seen = *client.borrow();
            // A client that has stopped has nothing open.
            let _ = client.wait_for(|ended| *ended > seen).await;
        }
    }

    /// Lets every client finish its connection.
    pub(crate) async fn stop(self) -> Arc<Counts> {
        self.stop.store(true, Ordering::Relaxed);
        self.clients.join_all().await;
        self.counts
    }
}

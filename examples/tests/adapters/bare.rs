//! No adapter but tokio's streams: acceptor and connector over TCP, lines of text, and a pool as a caller would write one.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex};

use spiffe_tls::{Connector, Mtls, TlsStream};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};

use crate::harness::{Adapter, App, Ask, Running, check};

struct Tokio;

type Stream = BufReader<TlsStream<TcpStream>>;
type Request = (&'static str, oneshot::Sender<io::Result<String>>);

impl Adapter for Tokio {
    type Client = Asking;

    async fn serve(mtls: Mtls, app: App) -> Running {
        let acceptor = mtls.acceptor().unwrap();
        let mut listener = acceptor.listen(TcpListener::bind("127.0.0.1:0").await.unwrap());
        Running {
            address: listener.local_addr().unwrap(),
            open: Box::new(move || acceptor.open_connections()),
            task: tokio::spawn(async move {
                loop {
                    if let Ok(stream) = listener.accept().await.unwrap() {
                        tokio::spawn(serve(BufReader::new(stream), app.clone()));
                    }
                }
            }),
        }
    }

    fn client(mtls: Mtls, to: SocketAddr) -> Asking {
        Asking {
            connector: mtls.connector().unwrap(),
            to,
            idle: Arc::default(),
        }
    }
}

/// Answers line by line, and takes none any more when the lease is over.
async fn serve(mut stream: Stream, app: App) -> io::Result<()> {
    let peer = stream.get_ref().peer().clone();
    let mut over = pin!(peer.lease().over());
    loop {
        let mut path = String::new();
        tokio::select! {
            read = stream.read_line(&mut path) => if read? == 0 {
                return Ok(());
            },
            _ = &mut over => return stream.shutdown().await,
        }
        let answer = app
            .clone()
            .answer(path.trim_end().into(), Some(peer.id().to_string()));
        let answer = tokio::select! {
            answer = answer => answer,
            // Nobody sends more before there is an answer: the peer is gone, or the connection is cut.
            _ = stream.fill_buf() => return Ok(()),
        };
        stream.write_all(format!("{answer}\n").as_bytes()).await?;
        stream.flush().await?;
    }
}

#[derive(Clone)]
struct Asking {
    connector: Connector,
    to: SocketAddr,
    idle: Arc<Mutex<Vec<Connection>>>,
}

/// Takes one request after another to a connection, which a task of its own drives: one that is idle must be read from, or
/// nobody would judge its peer again.
type Connection = mpsc::Sender<Request>;

/// Asks on one connection, until its lease is over or the server closes it.
async fn drive(mut stream: Stream, mut requests: mpsc::Receiver<Request>) {
    let mut over = pin!(stream.get_ref().peer().lease().over());
    loop {
        tokio::select! {
            biased;
            _ = &mut over => {
                let _ = stream.shutdown().await;
                return;
            }
            _ = stream.fill_buf() => return,
            request = requests.recv() => {
                let Some((path, answered)) = request else {
                    return;
                };
                let _ = answered.send(exchange(&mut stream, path).await);
            }
        }
    }
}

async fn exchange(stream: &mut Stream, path: &str) -> io::Result<String> {
    stream.write_all(format!("{path}\n").as_bytes()).await?;
    stream.flush().await?;
    let mut answer = String::new();
    if stream.read_line(&mut answer).await? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(answer.trim_end().into())
}

impl Asking {
    async fn over(&self, connection: Connection, path: &'static str) -> Result<String, String> {
        let (answered, answer) = oneshot::channel();
        let sent = connection.send((path, answered)).await;
        sent.map_err(|_| "no request is taken any more")?;
        let answer = answer.await.map_err(|error| error.to_string())?;
        let answer = answer.map_err(|error| format!("{error:?}"))?;
        self.idle.lock().unwrap().push(connection);
        Ok(answer)
    }
}

impl Ask for Asking {
    async fn ask(&self, path: &'static str) -> Result<String, String> {
        loop {
            // One that the server has closed meanwhile gives no answer: another may.
            let Some(idle) = self.idle.lock().unwrap().pop() else {
                break;
            };
            if let Ok(answer) = self.over(idle, path).await {
                return Ok(answer);
            }
        }
        let tcp = TcpStream::connect(self.to).await.unwrap();
        let dialed = self.connector.connect(tcp).await;
        let stream = dialed.map_err(|error| format!("{error:?}"))?;
        assert_eq!(stream.peer().id().as_str(), "spiffe://east/server");
        let (connection, requests) = mpsc::channel(1);
        tokio::spawn(drive(BufReader::new(stream), requests));
        self.over(connection, path).await
    }
}

#[tokio::test]
async fn acceptor_and_connector_keep_the_lease() {
    check::<Tokio>().await;
}

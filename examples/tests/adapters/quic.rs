//! The quinn adapter: a stream for each request, and a client that dials again when its connection takes none.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use spiffe_tls::Mtls;
use spiffe_tls::quinn::quinn::{
    Endpoint, Incoming, ReadError, ReadToEndError, RecvStream, SendStream,
};
use spiffe_tls::quinn::{Acceptor, Connection, Connector, LEASE_OVER};
use tokio::sync::Mutex;

use crate::harness::{Adapter, App, Ask, Running, check};

struct Quinn;

const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

impl Adapter for Quinn {
    type Client = Asking;

    async fn serve(mtls: Mtls, app: App) -> Running {
        let acceptor = Acceptor::new(mtls.alpn([b"hello"])).unwrap();
        let endpoint = Endpoint::server(acceptor.server_config(), ANY).unwrap();
        let counting = acceptor.clone();
        Running {
            address: endpoint.local_addr().unwrap(),
            open: Box::new(move || counting.open_connections()),
            task: tokio::spawn(async move {
                while let Some(incoming) = endpoint.accept().await {
                    tokio::spawn(serve(acceptor.clone(), incoming, app.clone()));
                }
            }),
        }
    }

    fn client(mtls: Mtls, to: SocketAddr) -> Asking {
        Asking {
            connector: Connector::new(mtls.alpn([b"hello"])).unwrap(),
            endpoint: Endpoint::client(ANY).unwrap(),
            to,
            current: Arc::default(),
        }
    }
}

async fn serve(acceptor: Acceptor, incoming: Incoming, app: App) {
    let Ok(connection) = acceptor.accept(incoming).await else {
        return;
    };
    while let Ok((mut send, mut receive)) = connection.accept_bi().await {
        let (app, peer) = (app.clone(), connection.peer().id().to_string());
        tokio::spawn(async move {
            let path = receive.read_to_end(100).await?;
            let path = String::from_utf8(path).unwrap();
            let answer = app.answer(path, Some(peer)).await;
            send.write_all(answer.as_bytes()).await?;
            send.finish()?;
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
        });
    }
}

#[derive(Clone)]
struct Asking {
    connector: Connector,
    endpoint: Endpoint,
    to: SocketAddr,
    current: Arc<Mutex<Option<Connection>>>,
}

impl Asking {
    /// A stream on the connection that is there, if it still takes any, or else on a new one.
    async fn stream(&self) -> Result<(SendStream, RecvStream), String> {
        let mut current = self.current.lock().await;
        if let Some(connection) = &*current
            && let Ok(stream) = connection.open_bi().await
        {
            return Ok(stream);
        }
        let dialing = self.connector.connect(&self.endpoint, self.to).await;
        let connection = dialing.map_err(|error| format!("{error:?}"))?;
        assert_eq!(connection.peer().id().as_str(), "spiffe://east/server");
        let stream = connection.open_bi().await;
        *current = Some(connection);
        stream.map_err(|error| format!("{error:?}"))
    }

    async fn exchange(&self, path: &str) -> Result<Vec<u8>, String> {
        let (mut send, mut receive) = self.stream().await?;
        // A stream that the server has stopped tells so below.
        let _ = send.write_all(path.as_bytes()).await;
        let _ = send.finish();
        let answer = receive.read_to_end(4096).await;
        answer.map_err(|error| format!("{error:?}"))
    }
}

impl Ask for Asking {
    async fn ask(&self, path: &'static str) -> Result<String, String> {
        let mut answer = self.exchange(path).await;
        if answer
            .as_ref()
            .is_err_and(|error| *error == refused_stream())
        {
            // The server's lease is over and ours is not: dial again.
            self.current.lock().await.take();
            answer = self.exchange(path).await;
        }
        Ok(String::from_utf8(answer?).unwrap())
    }
}

/// How a stream looks that was opened on a connection whose lease is over at the other end.
fn refused_stream() -> String {
    format!("{:?}", ReadToEndError::Read(ReadError::Reset(LEASE_OVER)))
}

#[tokio::test]
async fn quinn_keeps_the_lease() {
    check::<Quinn>().await;
}

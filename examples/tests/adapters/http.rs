//! The hyper adapter, in both versions of HTTP.

use std::convert::Infallible;
use std::error::Error;
use std::net::SocketAddr;

use http_body_util::{BodyExt, Empty};
use spiffe_tls::hyper::bytes::Bytes;
use spiffe_tls::hyper::http::{Request, Response, Version};
use spiffe_tls::hyper::http_body::Body;
use spiffe_tls::hyper::hyper::body::Incoming;
use spiffe_tls::hyper::{ALPN, Client, Server};
use spiffe_tls::{Mtls, Peer, TlsStream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tower::Service;

use crate::harness::{Adapter, App, Ask, Cause, Loss, Running, SPREAD, World, check};

/// With HTTP/2, or without.
pub struct Hyper<const HTTP2: bool>;

fn alpn(http2: bool) -> &'static [&'static [u8]] {
    const OFFERED: &[&[u8]] = &ALPN;
    if http2 { OFFERED } else { &OFFERED[1..] }
}

impl<const HTTP2: bool> Adapter for Hyper<HTTP2> {
    type Client = Asking;

    async fn serve(mtls: Mtls, app: App) -> Running {
        let service = tower::service_fn(move |request: Request<_>| {
            let app = app.clone();
            let peer = request.extensions().get::<Peer>();
            let peer = peer.map(|peer| peer.id().to_string());
            let path = request.uri().path().to_owned();
            async move { Ok::<_, Infallible>(Response::new(app.answer(path, peer).await)) }
        });
        serve(mtls.alpn(alpn(HTTP2)), service).await
    }

    fn client(mtls: Mtls, to: SocketAddr) -> Asking {
        let client = Client::new(mtls.alpn(alpn(HTTP2)).connector().unwrap());
        let version = if HTTP2 {
            Version::HTTP_2
        } else {
            Version::HTTP_11
        };
        Asking {
            client,
            to,
            version,
        }
    }
}

/// Serves any HTTP service on a port of the system's choice.
pub async fn serve<S, B>(mtls: Mtls, service: S) -> Running
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
    S: Clone + Send + 'static,
    S::Future: Send,
    B: Body<Data: Send, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static,
{
    let acceptor = mtls.acceptor().unwrap();
    let listener = acceptor.listen(TcpListener::bind("127.0.0.1:0").await.unwrap());
    let address = listener.local_addr().unwrap();
    let serving = Server::new(service).serve(listener, std::future::pending());
    Running {
        address,
        open: Box::new(move || acceptor.open_connections()),
        task: tokio::spawn(async move { serving.await.unwrap() }),
    }
}

#[derive(Clone)]
pub struct Asking {
    client: Client<Empty<Bytes>>,
    to: SocketAddr,
    /// What both ends agree on.
    version: Version,
}

impl Ask for Asking {
    async fn ask(&self, path: &'static str) -> Result<String, String> {
        let uri = format!("https://{}{path}", self.to);
        let request = Request::get(uri).body(Empty::new()).unwrap();
        let response = self.client.request(request).await;
        let response = response.map_err(|error| format!("{error:?}"))?;
        assert_eq!(response.version(), self.version);
        let peer: &Peer = response.extensions().get().unwrap();
        assert_eq!(peer.id().as_str(), "spiffe://east/server");
        let body = response.into_body().collect().await;
        let body = body.map_err(|error| format!("{error:?}"))?.to_bytes();
        Ok(String::from_utf8(body.to_vec()).unwrap())
    }
}

#[tokio::test]
async fn hyper_over_http2_keeps_the_lease() {
    check::<Hyper<true>>().await;
}

#[tokio::test]
async fn hyper_over_http1_keeps_the_lease() {
    check::<Hyper<false>>().await;
}

/// Types of frames, RFC 9113 §6, and the flag of an acknowledgement.
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const ACK: u8 = 1;

/// Sends a frame of no stream.
async fn send(to: &mut TlsStream<TcpStream>, kind: u8, flags: u8, payload: &[u8]) {
    let length = u8::try_from(payload.len()).unwrap();
    let head = [0, 0, length, kind, flags, 0, 0, 0, 0];
    to.write_all(&[&head, payload].concat()).await.unwrap();
    to.flush().await.unwrap();
}

/// The next frame's type, flags and payload; nothing after a clean end.
async fn receive(from: &mut TlsStream<TcpStream>) -> Option<(u8, u8, Vec<u8>)> {
    let mut head = [0; 9];
    if from.read(&mut head[..1]).await.unwrap() == 0 {
        return None;
    }
    from.read_exact(&mut head[1..]).await.unwrap();
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
    let mut payload = vec![0; length.try_into().unwrap()];
    from.read_exact(&mut payload).await.unwrap();
    Some((head[3], head[4], payload))
}

#[tokio::test]
async fn an_idle_connection_of_http2_is_ended_by_goaway_and_not_before() {
    let world = World::new();
    let running = Hyper::<true>::serve(world.mtls(0), App::new()).await;
    let connector = world.mtls(1).alpn(ALPN).connector().unwrap();
    let tcp = TcpStream::connect(running.address).await.unwrap();
    let mut stream = connector.connect(tcp).await.unwrap();
    assert_eq!(stream.alpn_protocol(), Some(b"h2".as_slice()));
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    stream.write_all(preface).await.unwrap();
    send(&mut stream, SETTINGS, 0, &[]).await;
    send(&mut stream, PING, 0, b"standing").await;
    loop {
        let (kind, flags, payload) = receive(&mut stream).await.unwrap();
        assert_ne!(kind, GOAWAY);
        if (kind, flags) == (PING, ACK) {
            assert_eq!(payload, b"standing");
            break;
        }
    }
    world.take(Loss(Cause::Policy, 0));
    world.pass(SPREAD).await;
    let mut errors = Vec::new();
    while let Some((kind, flags, payload)) = receive(&mut stream).await {
        match kind {
            GOAWAY => errors.push(payload[4..8].to_vec()),
            // The server waits for this before it names the last stream that it takes.
            PING if flags != ACK => send(&mut stream, PING, ACK, &payload).await,
            _ => {}
        }
    }
    // RFC 9113 §6.8: graceful, and so without an error.
    assert!(!errors.is_empty());
    assert!(errors.iter().all(|code| *code == [0; 4]), "{errors:?}");
    running.task.abort();
}

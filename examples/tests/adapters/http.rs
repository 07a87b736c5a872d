//! The hyper adapter, in both versions of HTTP.

use std::convert::Infallible;
use std::error::Error;
use std::net::SocketAddr;

use http_body_util::{BodyExt, Empty};
use spiffe_tls::hyper::bytes::Bytes;
use spiffe_tls::hyper::http::{Request, Response};
use spiffe_tls::hyper::http_body::Body;
use spiffe_tls::hyper::hyper::body::Incoming;
use spiffe_tls::hyper::{ALPN, Client, Server};
use spiffe_tls::{Mtls, Peer};
use tokio::net::TcpListener;
use tower::Service;

use crate::harness::{Adapter, App, Ask, Running, check};

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
        Asking { client, to }
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
}

impl Ask for Asking {
    async fn ask(&self, path: &'static str) -> Result<String, String> {
        let uri = format!("https://{}{path}", self.to);
        let request = Request::get(uri).body(Empty::new()).unwrap();
        let response = self.client.request(request).await;
        let response = response.map_err(|error| format!("{error:?}"))?;
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

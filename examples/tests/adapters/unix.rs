//! hyper's and tonic's clients over a Unix socket, and the server that answers both.

use std::convert::Infallible;
use std::io;
use std::path::PathBuf;

use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use spiffe_tls::hyper::bytes::Bytes;
use spiffe_tls::hyper::http::uri::PathAndQuery;
use spiffe_tls::hyper::http::{Request, Uri};
use spiffe_tls::hyper::{ALPN, Client, HttpsConnector, Server};
use spiffe_tls::tonic::{Channel, peer};
use spiffe_tls::{Mtls, Peer};
use tokio::net::{UnixListener, UnixStream};
use tonic::transport::Endpoint;
use tonic_prost::ProstCodec;
use tower::Service;

use crate::harness::World;

type Text = ProstCodec<String, String>;

/// Dials the socket, whatever the URI.
fn dial(
    path: PathBuf,
) -> impl Service<Uri, Response = TokioIo<UnixStream>, Error = io::Error, Future: Send>
+ Clone
+ Send
+ Sync {
    tower::service_fn(move |_: Uri| {
        let path = path.clone();
        async move { Ok(TokioIo::new(UnixStream::connect(path).await?)) }
    })
}

/// Tells gRPC callers of one method who they are.
async fn serve(listener: UnixListener, mtls: Mtls) {
    let acceptor = mtls.alpn(ALPN).acceptor().unwrap();
    let service = tower::service_fn(|request: Request<_>| async {
        let method = tower::service_fn(|request: tonic::Request<String>| async move {
            let caller = peer(&request).map(|peer| peer.id().to_string());
            Ok(tonic::Response::new(caller.unwrap_or_default()))
        });
        let mut grpc = tonic::server::Grpc::new(Text::default());
        Ok::<_, Infallible>(grpc.unary(method, request).await)
    });
    loop {
        let (socket, _) = listener.accept().await.unwrap();
        let (acceptor, server) = (acceptor.clone(), Server::new(service));
        tokio::spawn(async move {
            let stream = acceptor.accept(socket).await.unwrap();
            let _ = server
                .serve_connection(stream, std::future::pending())
                .await;
        });
    }
}

#[tokio::test]
async fn clients_of_hyper_and_tonic_go_over_a_unix_socket() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let world = World::new();
    let listener = UnixListener::bind(&path).unwrap();
    let serving = tokio::spawn(serve(listener, world.mtls(0)));
    let connector = || {
        let connector = world.mtls(1).alpn(ALPN).connector().unwrap();
        HttpsConnector::over(connector, dial(path.clone()))
    };

    let client = Client::<Empty<Bytes>, _>::build(connector(), |_| {});
    let request = Request::get("https://socket.invalid/").body(Empty::new());
    let response = client.request(request.unwrap()).await.unwrap();
    let server: &Peer = response.extensions().get().unwrap();
    assert_eq!(server.id().as_str(), "spiffe://east/server");
    response.into_body().collect().await.unwrap();

    let endpoint = Endpoint::from_static("https://socket.invalid");
    let mut grpc = tonic::client::Grpc::new(Channel::over(endpoint, connector()));
    grpc.ready().await.unwrap();
    let method = PathAndQuery::from_static("/hello.Hello/Greet");
    let request = tonic::Request::new(String::new());
    let answer = grpc.unary(request, method, Text::default()).await.unwrap();
    assert_eq!(answer.into_inner(), "spiffe://west/client");
    serving.abort();
}

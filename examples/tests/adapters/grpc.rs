//! The tonic adapter, both ends.

use std::convert::Infallible;
use std::net::SocketAddr;

use spiffe_tls::Mtls;
use spiffe_tls::hyper::http::Request;
use spiffe_tls::hyper::http::uri::PathAndQuery;
use spiffe_tls::tonic::{Channel, peer};
use tonic::Response;
use tonic::transport::Endpoint;
use tonic_prost::ProstCodec;

use crate::harness::{Adapter, App, Ask, Running, check};
use crate::http::serve;

struct Tonic;

type Text = ProstCodec<String, String>;

impl Adapter for Tonic {
    type Client = Asking;

    async fn serve(mtls: Mtls, app: App) -> Running {
        // What tonic-build generates does this for each method of a service.
        let service = tower::service_fn(move |request: Request<_>| {
            let app = app.clone();
            let method = tower::service_fn(move |request: tonic::Request<String>| {
                let caller = peer(&request).map(|peer| peer.id().to_string());
                let answer = app.clone().answer(request.into_inner(), caller);
                async move { Ok(Response::new(answer.await)) }
            });
            async move {
                let mut grpc = tonic::server::Grpc::new(Text::default());
                Ok::<_, Infallible>(grpc.unary(method, request).await)
            }
        });
        serve(mtls.alpn([b"h2"]), service).await
    }

    fn client(mtls: Mtls, to: SocketAddr) -> Asking {
        let endpoint = Endpoint::from_shared(format!("https://{to}")).unwrap();
        let connector = mtls.alpn([b"h2"]).connector().unwrap();
        Asking(Channel::new(endpoint, connector))
    }
}

#[derive(Clone)]
struct Asking(Channel);

impl Ask for Asking {
    async fn ask(&self, path: &'static str) -> Result<String, String> {
        let mut grpc = tonic::client::Grpc::new(self.0.clone());
        grpc.ready().await.map_err(|error| format!("{error:?}"))?;
        let method = PathAndQuery::from_static("/hello.Hello/Greet");
        let request = tonic::Request::new(path.to_owned());
        let answer = grpc.unary(request, method, Text::default()).await;
        answer
            .map(Response::into_inner)
            .map_err(|status| format!("{status:?}"))
    }
}

#[tokio::test]
async fn tonic_keeps_the_lease() {
    check::<Tonic>().await;
}

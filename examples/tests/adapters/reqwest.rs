//! The reqwest adapter, a client of the hyper server.

use std::net::SocketAddr;

use reqwest::{Method, Request, Version};
use spiffe_tls::Mtls;
use spiffe_tls::hyper::ALPN;
use spiffe_tls::reqwest::Client;

use crate::harness::{Adapter, App, Ask, Running, check};
use crate::http::Hyper;

struct Reqwest;

impl Adapter for Reqwest {
    type Client = Asking;

    async fn serve(mtls: Mtls, app: App) -> Running {
        Hyper::<true>::serve(mtls, app).await
    }

    fn client(mtls: Mtls, to: SocketAddr) -> Asking {
        let client = Client::new(mtls.alpn(ALPN)).unwrap();
        Asking { client, to }
    }
}

#[derive(Clone)]
struct Asking {
    client: Client,
    to: SocketAddr,
}

impl Ask for Asking {
    async fn ask(&self, path: &'static str) -> Result<String, String> {
        let url: reqwest::Url = format!("https://{}{path}", self.to).parse().unwrap();
        let request = Request::new(Method::GET, url.clone());
        let response = self.client.execute(request).await;
        let response = response.map_err(|error| format!("{error:?}"))?;
        assert_eq!(response.url(), &url);
        assert_eq!(response.version(), Version::HTTP_2);
        response.text().await.map_err(|error| format!("{error:?}"))
    }
}

#[tokio::test]
async fn reqwest_keeps_the_lease() {
    check::<Reqwest>().await;
}

#[tokio::test]
async fn nothing_is_sent_without_tls() {
    let world = crate::harness::World::new();
    let client = Client::build(world.mtls(1), |builder| builder.https_only(false)).unwrap();
    let request = Request::new(Method::GET, "http://127.0.0.1:1/".parse().unwrap());
    let error = client.execute(request).await.unwrap_err();
    assert!(format!("{error:?}").contains("BadScheme"), "{error:?}");
}

//! The axum adapter: a router, and the peer as an extractor.

use std::net::SocketAddr;

use axum::Router;
use axum::extract::Path;
use axum::routing::get;
use http_body_util::Empty;
use spiffe_tls::hyper::ALPN;
use spiffe_tls::hyper::http::{Request, StatusCode};
use spiffe_tls::{Mtls, Peer};
use tower::ServiceExt;

use crate::harness::{Adapter, App, Running, check};
use crate::http::{Asking, Hyper, serve};

struct Axum;

impl Adapter for Axum {
    type Client = Asking;

    async fn serve(mtls: Mtls, app: App) -> Running {
        let holding = app.clone();
        let at_once = async |peer: Peer| app.answer("/".into(), Some(peer.id().to_string())).await;
        let held = async |Path(path): Path<String>, peer: Option<Peer>| {
            let peer = peer.map(|peer| peer.id().to_string());
            holding.answer(format!("/{path}"), peer).await
        };
        let router = Router::new()
            .route("/", get(at_once))
            .route("/{path}", get(held));
        serve(mtls.alpn(ALPN), router).await
    }

    fn client(mtls: Mtls, to: SocketAddr) -> Asking {
        Hyper::<true>::client(mtls, to)
    }
}

#[tokio::test]
async fn axum_keeps_the_lease() {
    check::<Axum>().await;
}

#[tokio::test]
async fn a_router_that_is_served_otherwise_says_so_instead_of_guessing() {
    let wants = Router::<()>::new()
        .route("/", get(async |peer: Peer| peer.id().to_string()))
        .route(
            "/maybe",
            get(async |peer: Option<Peer>| peer.is_none().to_string()),
        );
    for (path, status) in [
        ("/", StatusCode::INTERNAL_SERVER_ERROR),
        ("/maybe", StatusCode::OK),
    ] {
        let request = Request::get(path)
            .body(Empty::<axum::body::Bytes>::new())
            .unwrap();
        let answer = wants.clone().oneshot(request).await.unwrap();
        assert_eq!(answer.status(), status, "{path}");
    }
}

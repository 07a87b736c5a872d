//! JWT-SVIDs as bearer tokens: attached, verified, and refused with a challenge and nothing more.

use std::cell::RefCell;
use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Once};
use std::time::Duration;

use spiffe_core::JwtSvid;
use spiffe_core::crypto::{aws_lc_rs, system_random};
use spiffe_testkit::TrustDomain;
use spiffe_tls::bearer::{AttachToken, RequireToken, TokenFuture};
use spiffe_tls::hyper::http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use spiffe_tls::hyper::http::{Request, Response, StatusCode};
use spiffe_tls::spiffe_core::{BundleSet, JwtVerifier};
use spiffe_tls::{Policy, Publisher, Terms};
use tower::{Layer, Service, ServiceExt};

use crate::support::HandClock;

/// A server that answers with the caller's ID, behind the layer.
struct World {
    clock: HandClock,
    domain: TrustDomain,
    source: Publisher,
    terms: Terms,
}

impl World {
    async fn new() -> Self {
        log();
        let clock = HandClock::default();
        let domain =
            TrustDomain::ephemeral_with("east", Arc::new(clock.clone()), system_random()).await;
        let source = Publisher::fixed([], [domain.bundle()].into_iter().collect::<BundleSet>());
        let terms = Terms::new("domain:east".parse::<Policy>().unwrap());
        Self {
            clock,
            domain,
            source,
            terms,
        }
    }

    fn server(
        &self,
    ) -> impl Service<Request<String>, Response = Response<String>, Error = Infallible, Future: Send>
    + Clone
    + Send
    + 'static {
        let verifier = JwtVerifier::new(&*aws_lc_rs());
        RequireToken::new(&self.source, verifier, "shop", self.terms.clone())
            .clock(Arc::new(self.clock.clone()))
            .layer(tower::service_fn(async |request: Request<String>| {
                let svid: &Arc<JwtSvid> = request.extensions().get().unwrap();
                assert!(request.headers()[AUTHORIZATION].is_sensitive());
                Ok(Response::new(svid.id().to_string()))
            }))
    }

    async fn send(&self, authorization: &[&str]) -> (StatusCode, Option<String>, String) {
        let mut request = Request::builder();
        for value in authorization {
            request = request.header(AUTHORIZATION, *value);
        }
        let request = request.body(String::new()).unwrap();
        let answer = self.server().oneshot(request).await.unwrap();
        let challenge = answer.headers().get(WWW_AUTHENTICATE);
        let challenge = challenge.map(|value| value.to_str().unwrap().to_owned());
        (answer.status(), challenge, answer.into_body())
    }

    async fn token(&self, audience: &str) -> String {
        format!("Bearer {}", self.domain.token("web", audience).await)
    }
}

const NOTHING: &str = "";

fn refused(status: StatusCode, challenge: &str) -> (StatusCode, Option<String>, String) {
    (status, Some(challenge.into()), NOTHING.into())
}

#[tokio::test]
async fn a_good_token_is_let_in_and_its_svid_is_there() {
    let world = World::new().await;
    let good = world.token("shop").await;
    let let_in = (StatusCode::OK, None, "spiffe://east/web".into());
    assert_eq!(world.send(&[&good]).await, let_in);
    // RFC 9110 §11.1: schemes have no case.
    let lower = good.replacen("Bearer", "bearer", 1);
    assert_eq!(world.send(&[&lower]).await, let_in);
}

#[tokio::test]
async fn what_does_not_verify_gets_a_challenge_and_nothing_more() {
    let world = World::new().await;
    let invalid = refused(StatusCode::UNAUTHORIZED, "Bearer error=\"invalid_token\"");
    let good = world.token("shop").await;
    let other = TrustDomain::ephemeral_with("east", Arc::new(world.clock.clone()), system_random());
    let forged = format!("Bearer {}", other.await.token("web", "shop").await);
    for bad in [
        world.token("bank").await,
        forged,
        "Bearer x".into(),
        "Bearer ".into(),
    ] {
        assert_eq!(world.send(&[&bad]).await, invalid);
    }
    let none = refused(StatusCode::UNAUTHORIZED, "Bearer");
    assert_eq!(world.send(&[]).await, none);
    assert_eq!(world.send(&["Basic YTpi"]).await, none);
    let request = refused(StatusCode::BAD_REQUEST, "Bearer error=\"invalid_request\"");
    assert_eq!(world.send(&[&good, &good]).await, request);
    assert_eq!(world.send(&[&good]).await.0, StatusCode::OK);
    // Past its five minutes and the leeway.
    world.clock.advance(Duration::from_secs(361));
    assert_eq!(world.send(&[&good]).await, invalid);
}

#[tokio::test]
async fn each_request_is_judged_by_the_bundles_and_terms_of_its_moment() {
    let world = World::new().await;
    let token = world.token("shop").await;
    assert_eq!(world.send(&[&token]).await.0, StatusCode::OK);
    world
        .terms
        .authorize("id:spiffe://east/other".parse::<Policy>().unwrap());
    let denied = refused(StatusCode::FORBIDDEN, "Bearer error=\"insufficient_scope\"");
    assert_eq!(world.send(&[&token]).await, denied);
    world
        .terms
        .authorize("id:spiffe://east/web".parse::<Policy>().unwrap());
    assert_eq!(world.send(&[&token]).await.0, StatusCode::OK);
    world.source.publish([], BundleSet::new()).unwrap();
    assert_eq!(world.send(&[&token]).await.0, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_client_attaches_what_its_source_gives_and_sends_nothing_without() {
    let world = World::new().await;
    let domain = world.domain.clone();
    // The source's tokens are renewed behind the layer's back: each request asks.
    let fresh = move |audience: &str| -> TokenFuture<'static> {
        let (domain, audience) = (domain.clone(), audience.to_owned());
        Box::pin(async move {
            let token = domain.token("web", &audience).await;
            Ok(Arc::new(JwtSvid::parse_insecure(&token)?))
        })
    };
    let mut client = AttachToken::new(fresh, "shop").layer(world.server());
    for _ in 0..3 {
        let request = Request::new(String::new());
        let answer = client.ready().await.unwrap().call(request).await.unwrap();
        assert_eq!(answer.into_body(), "spiffe://east/web");
        world.clock.advance(Duration::from_secs(400));
    }
    let none = |_: &str| -> TokenFuture<'static> { Box::pin(async { Err("no token".into()) }) };
    let client = AttachToken::new(none, "shop").layer(world.server());
    let error = client
        .oneshot(Request::new(String::new()))
        .await
        .unwrap_err();
    assert_eq!(error.to_string(), "no token");
}

thread_local! {
    /// What is logged on this thread, where somebody asks for it.
    static LOG: RefCell<Option<Vec<u8>>> = const { RefCell::new(None) };
}

struct ByThread;

impl io::Write for ByThread {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        LOG.with_borrow_mut(|log| log.iter_mut().for_each(|log| log.extend_from_slice(bytes)));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Has everything logged from now on. The first test that meets a layer does so for all: who is to hear of an event is
/// settled when any thread comes to it for the first time.
fn log() {
    static FIRST: Once = Once::new();
    FIRST.call_once(|| {
        tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_ansi(false)
            .with_writer(|| ByThread)
            .init();
    });
}

#[tokio::test]
async fn the_log_explains_and_holds_no_token() {
    let world = World::new().await;
    LOG.set(Some(Vec::new()));
    let token = world.token("bank").await;
    world.send(&[&token]).await;
    let good = world.token("shop").await;
    world
        .terms
        .authorize("id:spiffe://east/other".parse::<Policy>().unwrap());
    world.send(&[&good]).await;
    let text = String::from_utf8(LOG.take().unwrap()).unwrap();
    assert!(text.contains("jwt-audience"), "{text}");
    assert!(text.contains("spiffe://east/other"), "{text}");
    for token in [token, good] {
        for part in token["Bearer ".len()..].split('.') {
            assert!(!text.contains(part), "{text}");
        }
    }
}

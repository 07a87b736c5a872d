//! The JWT source: tokens of one's own, bundles for those of others.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::Request;
use http::header::AUTHORIZATION;
use spiffe_proto::workload::{Jwtsvid, JwtsvidRequest};
use spiffe_tls::bearer::AttachToken;
use spiffe_workload_client::observe::{Event, Metrics};
use spiffe_workload_client::source::{EndpointState, Ends, LastGood, MAX_CACHED_TOKENS};
use spiffe_workload_client::spiffe_core::svid::JwtError;
use spiffe_workload_client::spiffe_core::{Clock, Source, SpiffeId, TrustDomainRef, Watch};
use spiffe_workload_client::{
    ClientError, JwtSource, ResponseError, WorkloadApiClient, X509Source,
};
use tonic::Status;
use tower::{Layer, ServiceExt};

use crate::support::ca::Ca;
use crate::support::clock::{START, VirtualClock};
use crate::support::jwt::{JwtCa, bundles, tokens};
use crate::support::server::{Answer, Api, Place, Running};
use crate::support::until;

const LIFE: Duration = Duration::from_secs(300);
const WEST: TrustDomainRef<'_> = TrustDomainRef::literal("west.example");

struct Fixture {
    api: Arc<Api>,
    server: Running,
    clock: Arc<VirtualClock>,
    client: WorkloadApiClient,
    ca: JwtCa,
    place: Place,
}

impl Fixture {
    fn new() -> Self {
        let (api, place) = (Api::new(), Place::new());
        let (clock, ca) = (Arc::new(VirtualClock::new()), JwtCa::new("east.example"));
        api.jwt_bundles.send(bundles([ca.bundle()]));
        Self {
            server: Running::start(&api, &place.path()),
            client: WorkloadApiClient::builder(place.endpoint())
                .clock(clock.clone())
                .build(),
            api,
            clock,
            ca,
            place,
        }
    }

    async fn source(&self) -> JwtSource {
        let builder = JwtSource::builder().client(self.client.clone());
        builder.build().await.unwrap()
    }

    /// The Workload API issues from now on a token of `/web` for `db`.
    async fn issue(&self) -> Jwtsvid {
        let token = self.ca.token("/web", &["db"], self.clock.now(), LIFE).await;
        self.api.jwt.send(tokens([token.clone()]));
        token
    }

    fn asked(&self) -> Vec<JwtsvidRequest> {
        self.api.jwt_requests.lock().unwrap().clone()
    }
}

#[tokio::test]
async fn a_request_names_audiences_and_identity() {
    let f = Fixture::new();
    let id: SpiffeId = "spiffe://east.example/web".parse().unwrap();
    let both = f.ca.token("/web", &["a", "b"], START, LIFE).await;
    f.api.jwt.send(tokens([both.clone()]));
    let svids = f
        .client
        .fetch_jwt_svids(["a", "b"], Some(&id))
        .await
        .unwrap();
    assert_eq!(svids[0].secret_token(), both.svid);
    assert_eq!(svids[0].id(), &id);
    f.client.fetch_jwt_svids(["a"], None).await.unwrap();
    let request = |audience: &[&str], spiffe_id: &str| JwtsvidRequest {
        audience: audience.iter().map(ToString::to_string).collect(),
        spiffe_id: spiffe_id.into(),
    };
    assert_eq!(
        f.asked(),
        [request(&["a", "b"], id.as_str()), request(&["a"], "")]
    );
}

#[tokio::test]
async fn tokens_that_are_not_what_was_asked_for_are_discarded() {
    let f = Fixture::new();
    let good = f.ca.token("/web", &["db"], START, LIFE).await;
    let with = |change: fn(&mut Jwtsvid)| {
        let mut token = good.clone();
        change(&mut token);
        token
    };
    let other: SpiffeId = "spiffe://east.example/other".parse().unwrap();
    let ask = async |svids: Vec<Jwtsvid>, audience: &str, id: Option<&SpiffeId>| {
        f.api.jwt.send(tokens(svids));
        match f.client.fetch_jwt_svids([audience], id).await {
            Err(ClientError::Response(error)) => Some(error),
            Err(other) => panic!("{other}"),
            Ok(_) => None,
        }
    };
    let empty = |field: &str| ResponseError::EmptyField {
        field: field.into(),
    };
    assert_eq!(ask(vec![good.clone()], "db", None).await, None);
    assert_eq!(ask(vec![], "db", None).await, Some(empty("svids")));
    assert_eq!(
        ask(vec![with(|t| t.spiffe_id.clear())], "db", None).await,
        Some(empty("svids[0].spiffe_id"))
    );
    assert_eq!(
        ask(vec![good.clone(), with(|t| t.svid.clear())], "db", None).await,
        Some(empty("svids[1].svid"))
    );
    assert!(matches!(
        ask(vec![with(|t| t.svid.truncate(9))], "db", None).await,
        Some(ResponseError::Jwt { index: 0, .. })
    ));
    assert!(matches!(
        ask(vec![with(|t| t.spiffe_id.push('x'))], "db", None).await,
        Some(ResponseError::IdMismatch { .. })
    ));
    assert!(matches!(
        ask(vec![good.clone()], "db", Some(&other)).await,
        Some(ResponseError::JwtIdentity { .. })
    ));
    assert!(matches!(
        ask(vec![good.clone()], "mail", None).await,
        Some(ResponseError::JwtAudience { .. })
    ));
}

#[tokio::test]
async fn a_token_is_verified_for_its_audience_only() {
    let f = Fixture::new();
    let token = f.issue().await.svid;
    let source = f.source().await;
    assert_eq!(source.fetch(["db"]).await.unwrap().secret_token(), token);
    let verified = source.verify(&token, "db").unwrap();
    assert_eq!(verified.id().as_str(), "spiffe://east.example/web");
    let error = source.verify(&token, "mail").unwrap_err();
    assert!(matches!(error, JwtError::Audience { .. }), "{error}");
    f.clock.advance(LIFE * 2);
    let error = source.verify(&token, "db").unwrap_err();
    assert!(matches!(error, JwtError::Expired { .. }), "{error}");
}

#[tokio::test]
async fn bundles_follow_the_workload_api() {
    let f = Fixture::new();
    let west = JwtCa::new("west.example");
    let token = west.token("/a", &["db"], START, LIFE).await.svid;
    let source = f.source().await;
    assert!(source.verify(&token, "db").is_err());
    let federated = async |entries| {
        let before = source.current().revision();
        f.api.jwt_bundles.send(bundles(entries));
        source.changed(before).await;
    };
    federated(vec![f.ca.bundle(), west.bundle()]).await;
    source.verify(&token, "db").unwrap();

    // Unreadable: the last good one stays, the own bundle rotates on.
    let new_ca = JwtCa::new("east.example");
    let own = new_ca.token("/web", &["db"], START, LIFE).await.svid;
    assert!(source.verify(&own, "db").is_err());
    let bad = ("spiffe://west.example".into(), b"{".to_vec());
    federated(vec![new_ca.bundle(), bad]).await;
    source.verify(&token, "db").unwrap();
    source.verify(&own, "db").unwrap();
    until(|| !source.status().notices.is_empty()).await;
    let notice = source.status().notices[0].to_string();
    assert!(notice.contains("west.example cannot be read"), "{notice}");

    // Empty and absent: nobody of it is trusted.
    let none = ("spiffe://west.example".into(), br#"{"keys":[]}"#.to_vec());
    federated(vec![new_ca.bundle(), none]).await;
    assert!(source.bundle(WEST).unwrap().jwt_authorities().is_empty());
    assert!(source.verify(&token, "db").is_err());
    federated(vec![new_ca.bundle()]).await;
    assert!(source.bundle(WEST).is_err());

    // No bundle at all is no message.
    f.api.jwt_bundles.send(bundles([]));
    let says_so = || {
        let error = source.status().last_error;
        error.is_some_and(|error| error.contains("bundles is empty"))
    };
    until(says_so).await;
    source.verify(&own, "db").unwrap();

    let before = source.current().revision();
    f.api.jwt_bundles.fail(Status::permission_denied("gone"));
    source.changed(before).await;
    assert!(source.current().bundles().is_empty());
    assert!(source.verify(&own, "db").is_err());
}

async fn token_becomes(source: &JwtSource, token: &str) {
    while source.fetch(["db"]).await.unwrap().secret_token() != token {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn it_says_until_when_its_tokens_last() {
    let f = Fixture::new();
    f.issue().await;
    let source = f.source().await;
    assert_eq!(source.survives_until().unwrap().ends(), &Ends::Nothing);
    let token = source.fetch(["db"]).await.unwrap();
    let survival = source.survives_until().unwrap();
    assert_eq!(survival.until(), START + LIFE);
    let id = token.id().clone();
    assert_eq!(survival.ends(), &Ends::Token { id });
    f.clock.advance(LIFE / 2);
    let next = f.issue().await.svid;
    token_becomes(&source, &next).await;
    let survival = source.survives_until().unwrap();
    assert_eq!(survival.until(), START + LIFE * 3 / 2);
    let before = source.current().revision();
    f.api.jwt_bundles.fail(Status::permission_denied("gone"));
    source.changed(before).await;
    until(|| source.survives_until().is_none()).await;
}

#[tokio::test]
async fn a_token_comes_from_the_cache_until_half_of_its_life() {
    let f = Fixture::new();
    let first = f.issue().await.svid;
    let source = f.source().await;
    for _ in 0..3 {
        assert_eq!(source.fetch(["db"]).await.unwrap().secret_token(), first);
        f.clock.advance(LIFE / 8);
    }
    assert_eq!(f.asked().len(), 1);
    f.clock.advance(LIFE / 8);
    let second = f.issue().await.svid;
    // Whoever finds it due does not wait for its renewal.
    assert_eq!(source.fetch(["db"]).await.unwrap().secret_token(), first);
    token_becomes(&source, &second).await;
    assert_eq!(f.asked().len(), 2);
    // Another identity is another token.
    let id: SpiffeId = "spiffe://east.example/web".parse().unwrap();
    source.fetch_as(&id, ["db"]).await.unwrap();
    assert_eq!(f.asked().len(), 3);
}

/// The token of now is asked for again when a third of its life has passed, and not before.
async fn check_renewed_at_a_third(f: &Fixture, source: &JwtSource) {
    let asked = f.asked().len();
    let first = f.issue().await.svid;
    assert_eq!(source.fetch(["db"]).await.unwrap().secret_token(), first);
    f.clock.advance(LIFE / 3 - Duration::from_secs(1));
    f.issue().await;
    assert_eq!(source.fetch(["db"]).await.unwrap().secret_token(), first);
    f.clock.advance(Duration::from_secs(1));
    // Had the one before been asked for, it would come now.
    let due = f.issue().await.svid;
    let next = loop {
        let token = source.fetch(["db"]).await.unwrap();
        if token.secret_token() != first {
            break token;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(next.secret_token(), due);
    assert_eq!(f.asked().len(), asked + 2);
}

#[tokio::test]
async fn after_a_long_outage_a_token_is_renewed_as_much_earlier() {
    let mut f = Fixture::new();
    let source = f.source().await;
    f.server.kill();
    // It has failed, and waits to try again; half way through it fails once more.
    let soon = Duration::from_secs(1);
    f.clock.somebody_waits(soon).await;
    f.clock.advance(LIFE / 3);
    f.clock.somebody_waits(soon).await;
    f.server = Running::start(&f.api, &f.place.path());
    f.clock.advance(LIFE / 3);
    until(|| source.status().endpoint == EndpointState::Following).await;
    check_renewed_at_a_third(&f, &source).await;
}

#[tokio::test]
async fn an_outage_that_another_source_of_the_client_saw_counts_as_well() {
    let f = Fixture::new();
    let ca = Ca::new("east.example");
    f.api.x509.send(ca.update("/web"));
    let x509 = X509Source::builder().client(f.client.clone());
    let x509 = x509.build().await.unwrap();
    let source = f.source().await;
    f.api.x509.fail(Status::unavailable("starting"));
    f.clock.somebody_waits(Duration::from_secs(1)).await;
    f.api.x509.send(ca.update("/web"));
    f.clock.advance(LIFE * 2 / 3);
    until(|| x509.status().endpoint == EndpointState::Following).await;
    check_renewed_at_a_third(&f, &source).await;
}

#[tokio::test]
async fn a_client_attaches_its_token_and_after_half_of_its_life_the_next() {
    let f = Fixture::new();
    let first = f.issue().await.svid;
    let source = f.source().await;
    let shown = tower::service_fn(async |request: Request<()>| {
        let token = &request.headers()[AUTHORIZATION];
        assert!(token.is_sensitive());
        Ok::<_, Infallible>(token.to_str().unwrap().to_owned())
    });
    let client = AttachToken::new(source, "db").layer(shown);
    let ask = async || client.clone().oneshot(Request::new(())).await.unwrap();
    for _ in 0..3 {
        assert_eq!(ask().await, format!("Bearer {first}"));
        f.clock.advance(LIFE / 8);
    }
    assert_eq!(f.asked().len(), 1);
    f.clock.advance(LIFE / 8);
    let second = f.issue().await.svid;
    // No request waits for a renewal.
    assert_eq!(ask().await, format!("Bearer {first}"));
    while ask().await != format!("Bearer {second}") {
        tokio::task::yield_now().await;
    }
    assert_eq!(f.asked().len(), 2);
    // Once it is denied there is none to attach, and the request is not sent.
    f.api.jwt.fail(Status::permission_denied("gone"));
    f.clock.advance(LIFE);
    let error = client.oneshot(Request::new(())).await.unwrap_err();
    assert!(error.is::<ClientError>(), "{error}");
}

#[tokio::test]
async fn a_token_that_cannot_be_renewed_serves_while_it_is_valid() {
    let mut f = Fixture::new();
    let token = f.issue().await.svid;
    let source = f.source().await;
    source.fetch(["db"]).await.unwrap();
    f.server.kill();
    f.clock.advance(LIFE / 2);
    assert_eq!(source.fetch(["db"]).await.unwrap().secret_token(), token);
    f.clock.advance(LIFE / 2);
    let error = source.fetch(["db"]).await.unwrap_err();
    assert!(error.is_retryable(), "{error}");
}

#[tokio::test]
async fn a_token_that_is_denied_serves_no_longer() {
    let f = Fixture::new();
    f.issue().await;
    let source = f.source().await;
    source.fetch(["db"]).await.unwrap();
    f.clock.advance(LIFE / 2);
    f.api.jwt.fail(Status::permission_denied("gone"));
    source.fetch(["db"]).await.unwrap();
    until(|| source.survives_until().unwrap().ends() == &Ends::Nothing).await;
    let error = source.fetch(["db"]).await.unwrap_err();
    assert!(matches!(error, ClientError::PermissionDenied { .. }));
    f.api.jwt.fail(Status::unavailable(""));
    let error = source.fetch(["db"]).await.unwrap_err();
    assert!(matches!(error, ClientError::Unavailable { .. }));
}

#[tokio::test]
async fn those_who_ask_together_share_one_request_and_its_outcome() {
    let f = Fixture::new();
    f.api.jwt.add(Answer::Hang);
    let source = f.source().await;
    let ask = || source.fetch(["db"]);
    let (a, b, c, ()) = tokio::join!(ask(), ask(), ask(), async {
        until(|| f.asked().len() == 1).await;
        f.api.jwt.fail(Status::unavailable("later"));
    });
    for result in [a, b, c] {
        let error = result.unwrap_err();
        assert!(matches!(error, ClientError::Unavailable { .. }), "{error}");
    }
    assert_eq!(f.asked().len(), 1);

    f.api.jwt.add(Answer::Hang);
    let (a, b, token) = tokio::join!(ask(), ask(), async {
        until(|| f.asked().len() == 2).await;
        f.issue().await.svid
    });
    assert_eq!(a.unwrap().secret_token(), token);
    assert_eq!(b.unwrap().secret_token(), token);
    assert_eq!(f.asked().len(), 2);
}

#[tokio::test]
async fn withdrawal_takes_the_tokens_with_the_bundles() {
    let f = Fixture::new();
    f.issue().await;
    let source = f.source().await;
    source.fetch(["db"]).await.unwrap();
    f.api.jwt.fail(Status::unavailable("later"));
    source.fetch(["db"]).await.unwrap();
    let before = source.current().revision();
    f.api.jwt_bundles.fail(Status::permission_denied("gone"));
    source.changed(before).await;
    let error = source.fetch(["db"]).await.unwrap_err();
    assert!(matches!(error, ClientError::Unavailable { .. }), "{error}");
}

#[tokio::test]
async fn a_restart_during_an_outage_verifies_the_tokens_of_others_and_has_none_of_its_own() {
    let mut f = Fixture::new();
    let token = f.issue().await.svid;
    let place = f.place.path();
    let place = place.parent().unwrap();
    let builder = || {
        let last_good = LastGood::in_files(place.join("bundles"), place.join("key")).unwrap();
        let builder = JwtSource::builder().client(f.client.clone());
        builder.last_good(last_good)
    };
    let first = builder().build().await.unwrap();
    first.fetch(["db"]).await.unwrap();
    first.shutdown().await;
    drop(first);
    f.server.kill();

    let restored = builder().build().await.unwrap();
    restored.verify(&token, "db").unwrap();
    assert!(restored.verify(&token, "mail").is_err());
    assert!(restored.fetch(["db"]).await.is_err());
    restored.shutdown().await;
    drop(restored);
    let without = JwtSource::builder().client(f.client.clone());
    assert!(without.start().unwrap().verify(&token, "db").is_err());
}

#[tokio::test]
async fn the_token_that_ends_first_makes_room() {
    let f = Fixture::new();
    let source = f.source().await;
    let names: Vec<_> = (0..=MAX_CACHED_TOKENS).map(|it| it.to_string()).collect();
    let long: Vec<_> = names.iter().map(String::as_str).collect();
    let issue = async |audiences: &[&str], life| {
        let token = f.ca.token("/web", audiences, START, life).await;
        f.api.jwt.send(tokens([token]));
    };
    issue(&["short"], LIFE / 2).await;
    source.fetch(["short"]).await.unwrap();
    issue(&long, LIFE).await;
    for name in &long[1..MAX_CACHED_TOKENS] {
        source.fetch([*name]).await.unwrap();
    }
    // As many as are kept: none is asked for again.
    let asks = async |name: &str| {
        let before = f.asked().len();
        source.fetch([name]).await.unwrap();
        f.asked().len() - before
    };
    assert_eq!(f.asked().len(), MAX_CACHED_TOKENS);
    assert_eq!((asks("short").await, asks("1").await), (0, 0));
    assert_eq!(asks("0").await, 1);
    assert_eq!((asks("0").await, asks("1").await), (0, 0));
    issue(&["short"], LIFE / 2).await;
    assert_eq!(asks("short").await, 1);
}

#[tokio::test]
async fn a_step_of_the_clock_has_every_token_renewed() {
    let f = Fixture::new();
    let first = f.issue().await.svid;
    let source = f.source().await;
    source.fetch(["db"]).await.unwrap();
    source.fetch(["db"]).await.unwrap();
    assert_eq!(f.asked().len(), 1);
    // By the new time the token has more than its life to go.
    f.clock.set_back(LIFE * 10);
    f.clock.pass(Duration::from_secs(60)).await;
    f.api.called(3).await;
    let next = f.issue().await.svid;
    assert_eq!(source.fetch(["db"]).await.unwrap().secret_token(), first);
    token_becomes(&source, &next).await;
    assert_eq!(f.asked().len(), 2);
}

/// Whoever calls decides how often: nothing is asked for by itself.
#[tokio::test]
async fn a_request_that_is_refused_is_not_repeated_by_itself() {
    let f = Fixture::new();
    let source = f.source().await;
    for refusal in [
        Status::invalid_argument("no such audience"),
        Status::unimplemented("no tokens"),
    ] {
        let before = f.asked().len();
        f.api.jwt.fail(refusal);
        let error = source.fetch(["db"]).await.unwrap_err();
        assert!(!error.is_retryable(), "{error}");
        f.clock.advance(LIFE);
        until(|| source.status().endpoint == EndpointState::Following).await;
        assert_eq!(f.asked().len(), before + 1);
        source.fetch(["db"]).await.unwrap_err();
        assert_eq!(f.asked().len(), before + 2);
    }
}

/// Counts the tokens that were not had.
#[derive(Debug, Default)]
struct Failures(AtomicUsize);

impl Metrics for Failures {
    fn record(&self, _: &'static str, event: &Event<'_>) {
        if matches!(event, Event::TokenFailed { .. }) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[tokio::test]
async fn a_renewal_that_is_refused_is_tried_again_after_a_while() {
    let f = Fixture::new();
    let first = f.issue().await.svid;
    let failures = Arc::new(Failures::default());
    let builder = JwtSource::builder().client(f.client.clone());
    let source = builder.metrics(failures.clone()).build().await.unwrap();
    // What is held is handed out meanwhile.
    let fetch = async || {
        assert_eq!(source.fetch(["db"]).await.unwrap().secret_token(), first);
        tokio::task::yield_now().await;
    };
    fetch().await;
    f.clock.advance(LIFE / 2);
    f.api.jwt.fail(Status::invalid_argument("no such audience"));
    for failed in 1..4 {
        while failures.0.load(Ordering::Relaxed) < failed {
            fetch().await;
        }
        for seconds in [0, 4] {
            f.clock.advance(Duration::from_secs(seconds));
            for _ in 0..10 {
                fetch().await;
            }
            assert_eq!(f.asked().len(), 1 + failed);
        }
        f.clock.advance(Duration::from_secs(1));
    }
}

#[tokio::test]
async fn the_tasks_end_with_the_last_handle() {
    let f = Fixture::new();
    let clocks = Arc::strong_count(&f.clock);
    f.api.jwt.add(Answer::Hang);
    let source = f.source().await;
    let twin = source.clone();
    drop(source);
    assert_eq!(f.api.jwt_bundles.readers(), 1);
    drop(twin);
    until(|| f.api.jwt_bundles.readers() == 0).await;
    until(|| Arc::strong_count(&f.clock) == clocks).await;
}

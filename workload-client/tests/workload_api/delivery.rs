//! Tokens on disk: renewed there when the source renews them.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use spiffe_workload_client::delivery::{Delivery, DeliveryDirectory, TokenRequest};
use spiffe_workload_client::observe::{Event, Metrics};
use spiffe_workload_client::spiffe_core::{Clock, Timestamp};
use spiffe_workload_client::{JwtSource, WorkloadApiClient, X509Source};
use tonic::Status;

use crate::support::ca::Ca;
use crate::support::clock::{START, VirtualClock};
use crate::support::jwt::{JwtCa, bundles, tokens};
use crate::support::server::{Answer, Api, Place, Running};
use crate::support::until;

struct Fixture {
    api: Arc<Api>,
    clock: Arc<VirtualClock>,
    ca: JwtCa,
    life: Duration,
    jwt: JwtSource,
    failures: Arc<Failures>,
    directory: tempfile::TempDir,
    delivery: Delivery,
    _server: Running,
    _place: Place,
}

impl Fixture {
    /// A delivery of a token that lives for so long.
    async fn new(life: Duration) -> Self {
        let (api, place) = (Api::new(), Place::new());
        let (clock, ca) = (Arc::new(VirtualClock::new()), JwtCa::new("east.example"));
        api.x509.send(Ca::new("east.example").update("/web"));
        api.jwt_bundles.send(bundles([ca.bundle()]));
        let server = Running::start(&api, &place.path());
        let client = WorkloadApiClient::builder(place.endpoint())
            .clock(clock.clone())
            .deadline(Duration::from_secs(86_400))
            .build();
        let x509 = X509Source::builder().client(client.clone());
        let x509 = x509.build().await.unwrap();
        let failures = Arc::<Failures>::default();
        let jwt = JwtSource::builder().client(client);
        let jwt = jwt.metrics(failures.clone()).build().await.unwrap();
        let directory = tempfile::tempdir().unwrap();
        issue(&api, &ca, clock.now(), life).await;
        let into = DeliveryDirectory::new(directory.path().join("d"));
        let delivery = Delivery::builder(into, x509)
            .tokens(jwt.clone(), [TokenRequest::new(["db"])])
            .start(clock.clone())
            .unwrap();
        let f = Self {
            api,
            clock,
            ca,
            life,
            jwt,
            failures,
            directory,
            delivery,
            _server: server,
            _place: place,
        };
        f.has_looked().await;
        f
    }

    /// The Workload API issues another token by the time the delivery looks again, so long ahead.
    async fn issued_when_it_looks_after(&self, ahead: Duration) -> String {
        self.clock.somebody_waits(ahead).await;
        let token = issue(&self.api, &self.ca, self.clock.now() + ahead, self.life).await;
        self.clock.advance(ahead);
        self.has_looked().await;
        while self.jwt.fetch(["db"]).await.unwrap().secret_token() != token {
            tokio::task::yield_now().await;
        }
        token
    }

    /// The delivery has done what there is to do now, and waits.
    async fn has_looked(&self) {
        until(|| self.delivery.status().checked_at == Some(self.clock.now())).await;
    }

    async fn looks_after(&self, span: Duration) {
        self.clock.pass(span).await;
        self.has_looked().await;
    }

    fn delivered(&self) -> Option<String> {
        fs::read_to_string(self.directory.path().join("d/jwt.0.token")).ok()
    }
}

async fn issue(api: &Api, ca: &JwtCa, now: Timestamp, life: Duration) -> String {
    let token = ca.token("/web", &["db"], now, life).await;
    api.jwt.send(tokens([token.clone()]));
    token.svid
}

/// Counts the tokens that could not be had.
#[derive(Debug, Default)]
struct Failures(AtomicUsize);

impl Metrics for Failures {
    fn record(&self, _: &'static str, event: &Event<'_>) {
        if matches!(event, Event::TokenFailed { .. }) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
}

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// The delivery looks after these spans, and finds the token due the last time.
async fn check_renewed(life: Duration, looks: &[Duration]) {
    let f = Fixture::new(life).await;
    let first = f.delivered();
    let (last, before) = looks.split_last().unwrap();
    for look in before {
        f.looks_after(*look).await;
    }
    let next = f.issued_when_it_looks_after(*last).await;
    assert_eq!(f.delivered(), first);
    f.looks_after(seconds(5)).await;
    assert_eq!(f.delivered(), Some(next));
    assert_eq!(f.clock.now(), START + life / 2 + seconds(5));
}

#[tokio::test]
async fn a_token_on_disk_is_replaced_soon_after_half_of_its_life() {
    check_renewed(seconds(60), &[seconds(30)]).await;
    check_renewed(seconds(300), &[60, 60, 30].map(seconds)).await;
}

#[tokio::test]
async fn a_token_that_could_not_be_renewed_is_replaced_as_soon_once_it_can_be() {
    let f = Fixture::new(seconds(300)).await;
    let first = f.delivered();
    f.api.jwt.fail(Status::unavailable("later"));
    let looks = [60, 60, 30, 5, 5, 5].map(seconds);
    for (number, look) in (1..).zip(looks) {
        f.looks_after(look).await;
        let failed = usize::saturating_sub(number, 2);
        until(|| f.failures.0.load(Ordering::Relaxed) == failed).await;
    }
    assert_eq!(f.delivered(), first);
    let next = f.issued_when_it_looks_after(seconds(5)).await;
    f.looks_after(seconds(5)).await;
    assert_eq!(f.delivered(), Some(next));
    assert_eq!(f.clock.now(), START + seconds(150 + 3 * 5 + 5 + 5));
}

#[tokio::test]
async fn a_token_that_was_slow_to_come_is_on_disk_soon_after_it_came() {
    let f = Fixture::new(seconds(300)).await;
    f.api.jwt.add(Answer::Hang);
    for look in [60, 60, 30, 5, 5].map(seconds) {
        f.looks_after(look).await;
    }
    let next = issue(&f.api, &f.ca, f.clock.now(), f.life).await;
    while f.jwt.fetch(["db"]).await.unwrap().secret_token() != next {
        tokio::task::yield_now().await;
    }
    f.looks_after(seconds(5)).await;
    assert_eq!(f.delivered(), Some(next));
    assert_eq!(f.clock.now(), START + seconds(150 + 5 + 5 + 5));
}

#[tokio::test]
async fn what_is_withdrawn_goes_before_a_token_has_come() {
    let f = Fixture::new(seconds(60)).await;
    let key = f.directory.path().join("d/svid.0.key");
    f.api.jwt.add(Answer::Hang);
    for look in [30, 5, 5, 5, 5, 5].map(seconds) {
        f.looks_after(look).await;
    }
    // The token has ended by the next look, which waits for another.
    f.clock.pass(seconds(5)).await;
    assert!(f.delivered().is_some() && key.exists());
    f.api.x509.fail(Status::permission_denied("gone"));
    until(|| !key.exists() && f.delivered().is_none()).await;
    until(|| f.delivery.status().svids == 0).await;
    let next = issue(&f.api, &f.ca, f.clock.now(), f.life).await;
    until(|| f.delivered().as_ref() == Some(&next)).await;
    assert!(!key.exists());
}

//! Sources of one client share its connection and its streams, and nothing else.

use std::sync::Arc;
use std::time::Duration;

use spiffe_workload_client::source::EndpointState;
use spiffe_workload_client::spiffe_core::snapshot::{Rejection, Snapshot};
use spiffe_workload_client::spiffe_core::{Rule, Source, Timestamp, Watch};
use spiffe_workload_client::{BundleSource, JwtSource, WorkloadApiClient, X509Source};
use tonic::Status;

use crate::support::ca::{Ca, update, x509_bundles};
use crate::support::clock::VirtualClock;
use crate::support::jwt::{JwtCa, bundles};
use crate::support::server::{Api, Place, Running};
use crate::support::until;

struct Fixture {
    api: Arc<Api>,
    clock: Arc<VirtualClock>,
    client: WorkloadApiClient,
    ca: Ca,
    _server: Running,
    place: Place,
}

impl Fixture {
    fn new() -> Self {
        let (api, place) = (Api::new(), Place::new());
        let clock = Arc::new(VirtualClock::new());
        let client = WorkloadApiClient::builder(place.endpoint())
            .clock(clock.clone())
            .deadline(Duration::from_secs(86_400))
            .build();
        Self {
            _server: Running::start(&api, &place.path()),
            ca: Ca::new("east.example"),
            api,
            clock,
            client,
            place,
        }
    }

    /// Two identities, the second with a hint.
    fn update(&self) -> spiffe_proto::workload::X509svidResponse {
        let mut second = self.ca.svid("/b");
        second.hint = "internal".into();
        update([self.ca.svid("/a"), second])
    }
}

fn path(source: &X509Source) -> String {
    source.svid().unwrap().id().path().into()
}

#[tokio::test]
async fn two_sources_are_one_stream_and_choose_for_themselves() {
    let f = Fixture::new();
    f.api.x509.send(f.update());
    let builder = || X509Source::builder().client(f.client.clone());
    let first = builder().build().await.unwrap();
    // The second has what is known before anything is asked.
    let second = builder().hint("internal").start().unwrap();
    assert_eq!((path(&first), path(&second)), ("/a".into(), "/b".into()));
    assert_eq!(second.status().endpoint, EndpointState::Following);

    // A step that refuses an update refuses it for its own source.
    let held = second.current().revision();
    let refuse = move |snapshot: &Arc<Snapshot>| {
        if snapshot.revision() > held {
            return Err(Rejection::new(Rule::NoIdentity, "not this one"));
        }
        Ok(())
    };
    let _step = second.publisher().derive(refuse).unwrap();
    let before = first.current().revision();
    f.api.x509.send(f.update());
    first.changed(before).await;
    until(|| second.status().last_error.is_some()).await;
    assert_eq!(first.status().last_error, None);
    assert_eq!(second.current().revision(), held);

    // One goes, the other stays.
    second.shutdown().await;
    assert_eq!(second.status().endpoint, EndpointState::Stopped);
    let before = first.current().revision();
    f.api.x509.send(f.update());
    first.changed(before).await;
    assert_eq!(f.api.calls().len(), 1);
    drop(second);
    first.shutdown().await;
    until(|| f.api.x509.readers() == 0).await;

    // Whoever comes later begins anew.
    let third = builder().build().await.unwrap();
    assert_eq!(path(&third), "/a");
    assert_eq!(f.api.calls().len(), 2);
    drop((first, third));
    until(|| f.api.x509.readers() == 0).await;
}

#[tokio::test]
async fn all_kinds_of_sources_are_one_connection() {
    let f = Fixture::new();
    f.api.x509.send(f.update());
    f.api.x509_bundles.send(x509_bundles(&[&f.ca]));
    let jwt = bundles([JwtCa::new("east.example").bundle()]);
    f.api.jwt_bundles.send(jwt);
    // All ask at once, before there is a connection.
    let (x509, tokens, both) = tokio::join!(
        X509Source::builder().client(f.client.clone()).build(),
        JwtSource::builder().client(f.client.clone()).build(),
        BundleSource::builder().client(f.client.clone()).build(),
    );
    assert_eq!(f.api.connections(), 1);
    // X.509-SVIDs, and the bundles of each profile: the JWT bundles are one stream for two sources.
    assert_eq!(f.api.calls().len(), 3);

    let other = WorkloadApiClient::new(f.place.endpoint());
    other.fetch_x509().await.unwrap();
    assert_eq!(f.api.connections(), 2);
    drop((x509.unwrap(), tokens.unwrap(), both.unwrap()));
}

#[tokio::test]
async fn each_source_has_its_own_grace() {
    let f = Fixture::new();
    f.api.x509.send(f.update());
    let builder = || X509Source::builder().client(f.client.clone());
    let grace = Duration::from_secs(100);
    let strict = builder().build().await.unwrap();
    let lenient = builder().withdrawal_grace(grace).build().await.unwrap();
    f.api.x509.fail(Status::permission_denied("gone"));
    until(|| strict.svid().is_err()).await;
    assert_eq!(path(&lenient), "/a");
    // What was withdrawn is not handed to those who come now.
    let late = builder().start().unwrap();
    assert!(late.svid().is_err());
    f.clock.advance(grace);
    until(|| lenient.svid().is_err()).await;
}

#[tokio::test]
async fn a_source_that_joins_does_not_wait_for_the_back_off() {
    let f = Fixture::new();
    f.api.x509.fail(Status::unavailable("starting"));
    let builder = || X509Source::builder().client(f.client.clone());
    let first = builder().start().unwrap();
    until(|| first.status().endpoint == EndpointState::Waiting).await;
    f.api.x509.send(f.update());
    // The clock stands still: only the joining makes the attempt.
    let second = builder().build().await.unwrap();
    assert_eq!((path(&first), path(&second)), ("/a".into(), "/a".into()));
}

#[tokio::test]
async fn bundles_for_tokens_are_one_stream_too() {
    let f = Fixture::new();
    f.api
        .jwt_bundles
        .send(bundles([JwtCa::new("east.example").bundle()]));
    let jwt = JwtSource::builder().client(f.client.clone());
    let jwt = jwt.build().await.unwrap();
    let only = BundleSource::builder().client(f.client.clone()).only_jwt();
    let only = only.build().await.unwrap();
    assert_eq!(f.api.calls().len(), 1);
    assert_eq!(jwt.current().bundles().len(), 1);
    assert_eq!(only.current().bundles().len(), 1);
}

#[tokio::test]
async fn sources_with_default_settings_share_a_client() {
    let f = Fixture::new();
    let year = std::time::SystemTime::now() + Duration::from_secs(86_400 * 365);
    let year = year.duration_since(std::time::UNIX_EPOCH).unwrap();
    let end = Timestamp::from_unix(year);
    f.api.x509.send(update([f.ca.svid_until("/web", end)]));
    let start = || X509Source::builder().endpoint(f.place.endpoint()).start();
    let (first, second) = (start().unwrap(), start().unwrap());
    until(|| first.current().bundles().len() + second.current().bundles().len() == 2).await;
    assert_eq!(f.api.calls().len(), 1);
}

#[test]
fn a_source_outlives_the_runtime_of_another_one() {
    let f = Fixture::new();
    f.api.x509.send(f.update());
    let builder = || X509Source::builder().client(f.client.clone());
    let runtime = || {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(1).enable_all().build().unwrap()
    };
    let (one, other) = (runtime(), runtime());
    let first = one.block_on(builder().build()).unwrap();
    let second = other.block_on(async { builder().start() }).unwrap();
    drop(one);
    assert_eq!(first.status().endpoint, EndpointState::Stopped);
    other.block_on(async {
        until(|| second.status().endpoint != EndpointState::Stopped).await;
    });
}

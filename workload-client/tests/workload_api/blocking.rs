//! Sources without a runtime of the caller's.

use std::sync::Arc;
use std::time::Duration;

use spiffe_workload_client::blocking::Blocking;
use spiffe_workload_client::source::EndpointState;
use spiffe_workload_client::spiffe_core::{Clock, Source};
use spiffe_workload_client::{
    BundleSource, FileSource, Files, JwtSource, StartError, WorkloadApiClient, X509Source,
};

use crate::support::ca::{Ca, x509_bundles};
use crate::support::clock::VirtualClock;
use crate::support::jwt::{JwtCa, bundles, tokens};
use crate::support::server::{Api, Place, Running};

struct Fixture {
    api: Arc<Api>,
    client: WorkloadApiClient,
    clock: Arc<VirtualClock>,
    _server: Running,
    _place: Place,
}

impl Fixture {
    fn new() -> Self {
        let (api, place) = (Api::new(), Place::new());
        let clock = Arc::new(VirtualClock::new());
        Self {
            _server: Running::start(&api, &place.path()),
            client: WorkloadApiClient::builder(place.endpoint())
                .clock(clock.clone())
                .build(),
            clock,
            api,
            _place: place,
        }
    }
}

#[test]
fn a_source_runs_and_rotates_without_a_runtime() {
    let f = Fixture::new();
    let ca = Ca::new("east.example");
    f.api.x509.send(ca.update("/web"));
    let builder = X509Source::builder().client(f.client.clone());
    let source = Blocking::x509(builder).unwrap();
    assert_eq!(source.svid().unwrap().id().path(), "/web");
    let seen = source.current().revision();
    f.api.x509.send(ca.update("/next"));
    assert!(source.wait_for_change(seen) > seen);
    assert_eq!(source.svid().unwrap().id().path(), "/next");
    assert!(source.survives_until().unwrap().until() > f.clock.now());
    source.shutdown();
    assert_eq!(source.status().endpoint, EndpointState::Stopped);

    let client = Blocking::client(f.client.clone()).unwrap();
    let context = client.fetch_x509().unwrap();
    assert_eq!(context.default_svid().id().path(), "/next");

    f.api.x509_bundles.send(x509_bundles(&[&ca]));
    let fetched = client.fetch_x509_bundles().unwrap();
    assert_eq!(fetched.bundles().len(), 1);
    let jwt = JwtCa::new("east.example");
    f.api.jwt_bundles.send(bundles([jwt.bundle()]));
    let fetched = client.fetch_jwt_bundles().unwrap();
    assert_eq!(fetched.bundles().len(), 1);
}

#[test]
fn tokens_and_bundles_come_without_a_runtime() {
    let f = Fixture::new();
    let ca = JwtCa::new("east.example");
    f.api.jwt_bundles.send(bundles([ca.bundle()]));
    let life = Duration::from_secs(300);
    let token = ca.token("/web", &["db"], f.clock.now(), life);
    let token = futures_util::FutureExt::now_or_never(token).unwrap();
    f.api.jwt.send(tokens([token.clone()]));
    let source = Blocking::jwt(JwtSource::builder().client(f.client.clone())).unwrap();
    let fetched = source.fetch(["db"]).unwrap();
    assert_eq!(fetched.secret_token(), token.svid);
    source.verify(fetched.secret_token(), "db").unwrap();
    let id = fetched.id().clone();
    assert_eq!(source.fetch_as(&id, ["db"]).unwrap().id(), &id);
    let builder = BundleSource::builder().client(f.client.clone()).only_jwt();
    let only = Blocking::bundles(builder).unwrap();
    assert_eq!(only.current().bundles().len(), 1);
    only.shutdown();
    source.shutdown();
}

#[tokio::test]
async fn it_may_be_used_inside_a_runtime() {
    let directory = tempfile::tempdir().unwrap();
    let builder = FileSource::builder(Files::spiffe_ca(directory.path()));
    let error = Blocking::files(builder.timeout(Duration::ZERO)).unwrap_err();
    assert!(matches!(error, StartError::TimedOut { .. }), "{error}");
}

//! The bundle source: both profiles as one.

use std::sync::Arc;
use std::time::Duration;

use spiffe_proto::workload::{JwtBundlesResponse, X509BundlesResponse};
use spiffe_workload_client::source::{BundleSourceBuilder, Ends, LastGood, Readiness};
use spiffe_workload_client::spiffe_core::{Source, Timestamp, TrustDomainRef, Watch};
use spiffe_workload_client::{BundleSource, ClientError, StartError, WorkloadApiClient};
use tonic::Status;

use crate::support::ca::{Ca, x509_bundles};
use crate::support::clock::{START, VirtualClock};
use crate::support::jwt::{JwtCa, bundles};
use crate::support::server::{Api, Place, Running};
use crate::support::until;

const EAST: TrustDomainRef<'_> = TrustDomainRef::literal("east.example");
const WEST: TrustDomainRef<'_> = TrustDomainRef::literal("west.example");
const YEAR: Duration = Duration::from_secs(86_400 * 365);

struct Fixture {
    api: Arc<Api>,
    clock: Arc<VirtualClock>,
    server: Running,
    place: Place,
}

impl Fixture {
    fn new() -> Self {
        let (api, place) = (Api::new(), Place::new());
        Self {
            server: Running::start(&api, &place.path()),
            clock: Arc::new(VirtualClock::new()),
            api,
            place,
        }
    }

    fn builder(&self) -> BundleSourceBuilder {
        let client = WorkloadApiClient::builder(self.place.endpoint()).clock(self.clock.clone());
        BundleSource::builder().client(client.build())
    }
}

#[tokio::test]
async fn both_profiles_make_one_bundle_of_each_trust_domain() {
    let f = Fixture::new();
    let (east, west) = (Ca::new("east.example"), Ca::new("west.example"));
    f.api.x509_bundles.send(x509_bundles(&[&east, &west]));
    f.api
        .jwt_bundles
        .send(bundles([JwtCa::new("east.example").bundle()]));
    let source = f.builder().build().await.unwrap();
    assert!(source.svid().is_err());
    let counts = |trust_domain| {
        let bundle = source.bundle(trust_domain).unwrap();
        (
            bundle.x509_authorities().len(),
            bundle.jwt_authorities().len(),
        )
    };
    assert_eq!((counts(EAST), counts(WEST)), ((1, 1), (1, 0)));
    let status = source.status();
    assert_eq!(status.readiness, Readiness::Ready);
    let survival = source.survives_until().unwrap();
    assert_eq!(survival.until(), START + YEAR);
    assert!(matches!(survival.ends(), Ends::Bundle { .. }));

    // One profile's withdrawal is its own.
    let before = source.current().revision();
    f.api.x509_bundles.fail(Status::permission_denied("gone"));
    source.changed(before).await;
    assert_eq!(counts(EAST), (0, 1));
    assert!(source.bundle(WEST).is_err());
    until(|| source.status().withdrawn).await;
    let survival = source.survives_until().unwrap();
    assert_eq!(survival.ends(), &Ends::Nothing);
    assert_eq!(survival.until(), Timestamp::MAX);

    source.shutdown().await;
    until(|| f.api.jwt_bundles.readers() == 0).await;
}

#[tokio::test]
async fn a_server_with_one_profile_is_followed_for_that() {
    let f = Fixture::new();
    f.api
        .x509_bundles
        .send(x509_bundles(&[&Ca::new("east.example")]));
    f.api.jwt_bundles.fail(Status::unimplemented("no tokens"));
    let error = f.builder().build().await.unwrap_err();
    let is_refused = matches!(
        error,
        StartError::Refused(ClientError::Unimplemented { .. })
    );
    assert!(is_refused, "{error}");
    let source = f.builder().only_x509().build().await.unwrap();
    assert!(source.bundle(EAST).is_ok());
}

#[tokio::test]
async fn a_restart_during_an_outage_comes_up_with_both_profiles() {
    let mut f = Fixture::new();
    let (east, jwt) = (Ca::new("east.example"), JwtCa::new("east.example"));
    f.api.x509_bundles.send(x509_bundles(&[&east]));
    f.api.jwt_bundles.send(bundles([jwt.bundle()]));
    let path = f.place.path();
    let place = path.parent().unwrap();
    let last_good = || LastGood::in_files(place.join("bundles"), place.join("key")).unwrap();
    let first = f.builder().last_good(last_good()).build().await.unwrap();
    let held = first.bundle(EAST).unwrap();
    first.shutdown().await;
    f.server.kill();

    let restored = f.builder().last_good(last_good()).build().await.unwrap();
    let bundle = restored.bundle(EAST).unwrap();
    assert_eq!(bundle.x509_authorities().len(), 1);
    assert_eq!(bundle.jwt_authorities().len(), 1);
    assert!(bundle.same_authorities(&held));
    assert!(restored.status().last_error.is_some());
    restored.shutdown().await;
    assert!(f.builder().start().unwrap().bundle(EAST).is_err());

    // What one profile withdraws does not come back, and takes nothing of the other's.
    f.server = Running::start(&f.api, &path);
    f.api.jwt_bundles.fail(Status::permission_denied("gone"));
    let source = f.builder().last_good(last_good()).build().await.unwrap();
    until(|| source.status().withdrawn).await;
    until(|| !place.join("bundles.jwt").exists()).await;
    source.shutdown().await;
    f.server.kill();
    let restored = f.builder().last_good(last_good()).start().unwrap();
    let bundle = restored.bundle(EAST).unwrap();
    assert_eq!(bundle.x509_authorities().len(), 1);
    assert_eq!(bundle.jwt_authorities().len(), 0);
}

#[tokio::test]
async fn the_tasks_end_with_the_last_handle() {
    let f = Fixture::new();
    let clocks = Arc::strong_count(&f.clock);
    f.api
        .x509_bundles
        .send(x509_bundles(&[&Ca::new("east.example")]));
    let jwt = bundles([JwtCa::new("east.example").bundle()]);
    f.api.jwt_bundles.send(jwt);
    let source = f.builder().build().await.unwrap();
    let twin = source.clone();
    drop(source);
    let readers = || (f.api.x509_bundles.readers(), f.api.jwt_bundles.readers());
    assert_eq!(readers(), (1, 1));
    drop(twin);
    until(|| readers() == (0, 0)).await;
    until(|| Arc::strong_count(&f.clock) == clocks).await;
}

/// Messages of FetchX509Bundles that break a rule.
fn malformed_x509(east: &Ca) -> Vec<(&'static str, X509BundlesResponse)> {
    let good = east.bundle();
    let leaf = east.svid("/web").x509_svid.clone();
    let pem = b"-----BEGIN CERTIFICATE-----\n".to_vec();
    let rows = [
        ("an empty key", "", good.clone()),
        ("a key that is no SPIFFE ID", "east.example", good.clone()),
        (
            "a workload's ID for a key",
            "spiffe://east.example/web",
            good.clone(),
        ),
        ("nonsense", EAST_ID, b"nonsense".to_vec()),
        ("PEM", EAST_ID, pem),
        (
            "half an authority",
            EAST_ID,
            good[..good.len() / 2].to_vec(),
        ),
        (
            "a byte after the authority",
            EAST_ID,
            [good, vec![0]].concat(),
        ),
        ("a leaf for an authority", EAST_ID, leaf),
    ];
    let message = |key: &str, bytes| X509BundlesResponse {
        bundles: [(key.into(), bytes)].into(),
        ..X509BundlesResponse::default()
    };
    let mut all = vec![("no bundles", X509BundlesResponse::default())];
    all.extend(rows.map(|(what, key, bytes)| (what, message(key, bytes))));
    all
}

/// Messages of FetchJWTBundles that break a rule.
fn malformed_jwt(east: &JwtCa) -> Vec<(&'static str, JwtBundlesResponse)> {
    let (_, good) = east.bundle();
    let with = |what, key: &str, text: &[u8]| (what, bundles([(key.into(), text.to_vec())]));
    vec![
        ("no bundles", bundles([])),
        with("an empty key", "", &good),
        with("a key that is no SPIFFE ID", "east.example", &good),
        with(
            "a workload's ID for a key",
            "spiffe://east.example/web",
            &good,
        ),
        with("nonsense", EAST_ID, b"nonsense"),
        with("a certificate", EAST_ID, &Ca::new("east.example").bundle()),
        with("half a set", EAST_ID, &good[..good.len() / 2]),
        with("a set and more", EAST_ID, &[&good[..], b"{}"].concat()),
        with("a list for a set", EAST_ID, b"[]"),
        with("no list of keys", EAST_ID, b"{}"),
        with("another thing than a list", EAST_ID, br#"{"keys":{}}"#),
        with("no end to lists", EAST_ID, &[b'['; 100_000]),
    ]
}

/// Sends every one of them, and after each a good one with an authority that is new.
async fn check_malformed<M>(
    source: &BundleSource,
    malformed: Vec<(&'static str, M)>,
    send: impl Fn(M),
    good: impl Fn() -> M,
) {
    for (what, message) in malformed {
        let held = source.current();
        send(message);
        let says_so = || {
            let status = source.status();
            status.last_error.is_some() || !status.notices.is_empty()
        };
        until(says_so).await;
        assert!(
            Arc::ptr_eq(held.bundles(), source.current().bundles()),
            "{what}"
        );
        send(good());
        source.changed(held.revision()).await;
        until(|| !says_so()).await;
    }
}

#[tokio::test]
async fn every_malformed_message_leaves_the_last_good_bundles() {
    let f = Fixture::new();
    let (east, jwt) = (Ca::new("east.example"), JwtCa::new("east.example"));
    f.api.x509_bundles.send(x509_bundles(&[&east]));
    f.api.jwt_bundles.send(bundles([jwt.bundle()]));
    let source = f.builder().build().await.unwrap();
    check_malformed(
        &source,
        malformed_x509(&east),
        |message| f.api.x509_bundles.send(message),
        || x509_bundles(&[&Ca::new("east.example")]),
    )
    .await;
    check_malformed(
        &source,
        malformed_jwt(&jwt),
        |message| f.api.jwt_bundles.send(message),
        || bundles([JwtCa::new("east.example").bundle()]),
    )
    .await;
    assert_eq!(f.api.calls().len(), 2);
    let bundle = source.bundle(EAST).unwrap();
    assert_eq!(bundle.x509_authorities().len(), 1);
    assert_eq!(bundle.jwt_authorities().len(), 1);
}

const EAST_ID: &str = "spiffe://east.example";

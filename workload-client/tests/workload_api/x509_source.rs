//! The X.509 source through good and bad days of its Workload API.

use std::sync::Arc;
use std::time::Duration;

use spiffe_proto::workload::X509svid;
use spiffe_workload_client::source::{
    EndpointState, Ends, FIRST_DELAY, Readiness, X509SourceBuilder,
};
use spiffe_workload_client::spiffe_core::snapshot::{Rejection, SourceError};
use spiffe_workload_client::spiffe_core::{Rule, Source, TrustDomainRef, Watch};
use spiffe_workload_client::{ClientError, StartError, WorkloadApiClient, X509Source};
use tonic::Status;

use crate::support::ca::{Ca, update};
use crate::support::clock::{START, VirtualClock};
use crate::support::server::{Answer, Api, Place, Running};
use crate::support::until;

const EAST: TrustDomainRef<'_> = TrustDomainRef::literal("east.example");
const WEST: TrustDomainRef<'_> = TrustDomainRef::literal("west.example");

struct Fixture {
    api: Arc<Api>,
    server: Running,
    clock: Arc<VirtualClock>,
    place: Place,
    ca: Ca,
}

impl Fixture {
    fn new() -> Self {
        let (api, place) = (Api::new(), Place::new());
        Self {
            server: Running::start(&api, &place.path()),
            api,
            clock: Arc::new(VirtualClock::new()),
            place,
            ca: Ca::new("east.example"),
        }
    }

    fn builder(&self) -> X509SourceBuilder {
        // Deadlines out of the way of the delays that the tests wait for.
        let client = WorkloadApiClient::builder(self.place.endpoint())
            .clock(self.clock.clone())
            .deadline(Duration::from_secs(86_400));
        X509Source::builder().client(client.build())
    }

    /// A source that holds a first SVID, `/web`.
    async fn source(&self) -> X509Source {
        self.source_of(self.builder()).await
    }

    async fn source_of(&self, builder: X509SourceBuilder) -> X509Source {
        self.api.x509.send(self.ca.update("/web"));
        let source = builder.build().await.unwrap();
        assert_eq!(path(&source), "/web");
        source
    }
}

fn path(source: &X509Source) -> String {
    source.svid().unwrap().id().path().into()
}

#[tokio::test]
async fn the_first_svid_is_the_default_one() {
    let f = Fixture::new();
    let ca = &f.ca;
    f.api
        .x509
        .send(update([ca.svid("/b"), ca.svid("/a"), ca.svid("/c")]));
    let source = f.builder().build().await.unwrap();
    assert_eq!(path(&source), "/b");
    assert_eq!(source.current().svids().len(), 3);
    let status = source.status();
    assert_eq!(status.endpoint, EndpointState::Following);
    assert_eq!(status.revision.get(), 1);
    assert_eq!(status.last_error, None);
    assert_eq!(status.last_update, Some(START));
    assert_eq!(status.expires_at, Some(START + Duration::from_secs(3600)));
}

#[tokio::test]
async fn a_hint_or_a_picker_chooses_the_default_svid() {
    let f = Fixture::new();
    let mut hinted = f.ca.svid("/b");
    hinted.hint = "internal".into();
    f.api
        .x509
        .send(update([f.ca.svid("/a"), hinted, f.ca.svid("/c")]));
    let by_hint = f.builder().hint("internal").build().await.unwrap();
    let ids = |source: &X509Source| {
        let current = source.current();
        let paths = current.svids().iter().map(|svid| svid.id().path().into());
        paths.collect::<Vec<String>>()
    };
    assert_eq!(ids(&by_hint), ["/b", "/a", "/c"]);
    let last = f.builder().picker(|svids| svids.len().checked_sub(1));
    assert_eq!(ids(&last.build().await.unwrap()), ["/c", "/a", "/b"]);
}

#[tokio::test]
async fn a_hint_that_nobody_carries_leaves_no_identity() {
    let f = Fixture::new();
    f.api.x509.send(f.ca.update("/web"));
    let source = f.builder().hint("internal").start().unwrap();
    source.changed(source.current().revision()).await;
    assert_eq!(source.svid().unwrap_err(), SourceError::NoIdentity);
    assert!(source.bundle(EAST).is_ok());
    let (ready, ()) = tokio::join!(
        source.ready(Duration::from_secs(7)),
        f.clock.pass(Duration::from_secs(7))
    );
    let StartError::TimedOut { after, last_error } = ready.unwrap_err() else {
        panic!("another error");
    };
    assert_eq!(after, Duration::from_secs(7));
    assert!(last_error.contains("internal"), "{last_error}");
}

#[tokio::test]
async fn rotation_is_published_and_repetition_is_not() {
    let f = Fixture::new();
    let source = f.source().await;
    let first = source.current();
    let again = f.ca.update("/web");
    f.api.x509.send(again.clone());
    assert_eq!(source.changed(first.revision()).await.get(), 2);
    let second = source.current();
    assert_ne!(
        first.svid().unwrap().serial(),
        second.svid().unwrap().serial()
    );
    // The bundle's bytes were known, so it is the same value.
    assert!(Arc::ptr_eq(first.bundles(), second.bundles()));
    f.api.x509.send(again);
    f.api.x509.send(f.ca.update("/later"));
    assert_eq!(source.changed(second.revision()).await.get(), 3);
    assert_eq!(path(&source), "/later");
}

#[tokio::test]
async fn a_restarted_server_is_found_again() {
    let mut f = Fixture::new();
    let source = f.source().await;
    let before = source.current().revision();
    f.clock.advance(Duration::from_secs(60));
    f.server.kill();
    // What was published serves on while nobody listens.
    until(|| source.status().endpoint == EndpointState::Waiting).await;
    assert_eq!(path(&source), "/web");
    let error = source.status().last_error.unwrap();
    assert!(error.contains("Workload API"), "{error}");
    f.api.x509.send(f.ca.update("/web2"));
    let _server = Running::start(&f.api, &f.place.path());
    let (_, ()) = tokio::join!(source.changed(before), f.clock.pass(FIRST_DELAY * 2));
    assert_eq!(path(&source), "/web2");
    assert_eq!(source.status().last_error, None);
}

#[tokio::test]
async fn a_stream_that_ends_is_opened_again_without_delay() {
    let f = Fixture::new();
    let source = f.source().await;
    f.clock.advance(Duration::from_secs(60));
    f.api.x509.add(Answer::End);
    f.api.x509.send(f.ca.update("/web2"));
    // The clock stands still: no delay passes.
    source.changed(source.current().revision()).await;
    assert_eq!(path(&source), "/web2");
    assert_eq!(f.api.calls().len(), 2);
}

#[tokio::test]
async fn a_socket_that_appears_later_is_found() {
    let mut f = Fixture::new();
    f.server.kill();
    f.api.x509.send(f.ca.update("/web"));
    let build = f.builder().build();
    let (source, _server) = tokio::join!(build, async {
        f.clock.pass(FIRST_DELAY).await;
        f.clock.pass(FIRST_DELAY * 2).await;
        f.clock.somebody_waits(FIRST_DELAY * 4).await;
        let server = Running::start(&f.api, &f.place.path());
        f.clock.pass(FIRST_DELAY * 4).await;
        server
    });
    assert_eq!(path(&source.unwrap()), "/web");
    assert_eq!(f.api.calls().len(), 1);
}

#[tokio::test]
async fn an_endpoint_that_stays_away_ends_the_start() {
    let mut f = Fixture::new();
    f.server.kill();
    let build = f.builder().timeout(Duration::from_secs(5)).build();
    let (result, ()) = tokio::join!(build, f.clock.pass(Duration::from_secs(5)));
    let error = result.unwrap_err().to_string();
    assert!(
        error.contains("5s") && error.contains("no connection"),
        "{error}"
    );
}

#[tokio::test]
async fn responses_with_an_empty_field_are_discarded_and_the_old_svid_serves_on() {
    let f = Fixture::new();
    let source = f.source().await;
    let first = source.current();
    let empty = |change: fn(&mut X509svid)| {
        let mut svid = f.ca.svid("/bad");
        change(&mut svid);
        update([svid])
    };
    let cases = [
        (update([]), "svids"),
        (empty(|svid| svid.spiffe_id.clear()), "svids[0].spiffe_id"),
        (empty(|svid| svid.x509_svid.clear()), "svids[0].x509_svid"),
        (
            empty(|svid| svid.x509_svid_key.clear()),
            "svids[0].x509_svid_key",
        ),
    ];
    for (message, field) in cases {
        f.api.x509.send(message);
        let says_so = || {
            let error = source.status().last_error;
            error.is_some_and(|error| error.contains(&format!("{field} is empty")))
        };
        until(says_so).await;
        assert_eq!(source.current().revision(), first.revision());
        assert_eq!(path(&source), "/web");
        assert_eq!(source.status().endpoint, EndpointState::Following);
    }
    // The stream was not closed over it.
    f.api.x509.send(f.ca.update("/good"));
    source.changed(first.revision()).await;
    assert_eq!(path(&source), "/good");
    assert_eq!(f.api.calls().len(), 1);
}

#[tokio::test]
async fn an_empty_bundle_is_a_trust_domain_that_trusts_nobody() {
    let f = Fixture::new();
    let source = f.source().await;
    let mut svid = f.ca.svid("/web2");
    svid.bundle.clear();
    f.api.x509.send(update([svid]));
    source.changed(source.current().revision()).await;
    assert_eq!(path(&source), "/web2");
    assert!(source.bundle(EAST).unwrap().x509_authorities().is_empty());
}

/// An update whose SVID cannot be used leaves the SVID that can, and brings its bundles all the same.
async fn check_unusable(svid: impl Fn(&Ca) -> X509svid, reason: &str) {
    let f = Fixture::new();
    let source = f.source().await;
    let held = source.current();
    let mut bad = update([svid(&f.ca)]);
    let west = Ca::new("west.example").bundle();
    bad.federated_bundles = [("spiffe://west.example".into(), west)].into();
    f.api.x509.send(bad.clone());
    source.changed(held.revision()).await;
    assert!(Arc::ptr_eq(
        source.current().svid().unwrap(),
        held.svid().unwrap()
    ));
    assert!(source.bundle(WEST).is_ok());
    let says_so = || {
        let error = source.status().last_error;
        error.is_some_and(|error| error.contains(reason))
    };
    until(says_so).await;

    // At the start there is nothing to keep: the source is not ready.
    f.api.x509.send(bad);
    let fresh = f.builder().start().unwrap();
    fresh.changed(fresh.current().revision()).await;
    assert!(fresh.svid().is_err());
    f.api.x509.send(f.ca.update("/good"));
    fresh.ready(Duration::from_secs(1)).await.unwrap();
    assert_eq!(path(&fresh), "/good");
    assert_eq!(fresh.status().last_error, None);
}

#[tokio::test]
async fn an_expired_svid_does_not_replace_a_good_one() {
    let expired = START - Duration::from_secs(1);
    check_unusable(|ca| ca.svid_until("/old", expired), "expired").await;
}

#[tokio::test]
async fn an_svid_of_another_authority_does_not_replace_a_good_one() {
    let foreign = |ca: &Ca| {
        let mut svid = Ca::new("east.example").svid("/foreign");
        svid.bundle = ca.bundle();
        svid
    };
    check_unusable(foreign, "does not verify").await;
}

#[tokio::test]
async fn an_svid_with_a_bad_signature_does_not_replace_a_good_one() {
    let broken = |ca: &Ca| {
        let mut svid = ca.svid("/broken");
        *svid.x509_svid.last_mut().unwrap() ^= 1;
        svid
    };
    check_unusable(broken, "does not verify").await;
}

#[tokio::test]
async fn a_bad_federated_bundle_affects_its_own_trust_domain_only() {
    let f = Fixture::new();
    let west = Ca::new("west.example");
    let federated = |path: &str, bundles: &[(&str, Vec<u8>)]| {
        let mut update = f.ca.update(path);
        update.federated_bundles = bundles
            .iter()
            .map(|(key, der)| ((*key).into(), der.clone()))
            .collect();
        update
    };
    let north = ("spiffe://north.example", Ca::new("north.example").bundle());
    let good = ("spiffe://west.example", west.bundle());
    let bad = ("spiffe://west.example", b"nonsense".to_vec());
    let wrong_key = ("west.example/a", west.bundle());
    f.api.x509.send(federated("/1", &[good, north.clone()]));
    let source = f.builder().build().await.unwrap();
    let first = source.bundle(WEST).unwrap();
    assert_eq!(source.current().bundles().len(), 3);

    // Unreadable: own rotation goes on, the domain's last good bundle stays.
    f.api
        .x509
        .send(federated("/2", &[bad.clone(), north, wrong_key]));
    source.changed(source.current().revision()).await;
    assert_eq!(path(&source), "/2");
    assert!(Arc::ptr_eq(&first, &source.bundle(WEST).unwrap()));
    assert_eq!(source.current().bundles().len(), 3);
    let notices = source.status().notices;
    let texts: Vec<_> = notices.iter().map(|notice| notice.text()).collect();
    assert_eq!(texts.len(), 2, "{texts:?}");
    assert!(
        texts[0].contains("west.example cannot be read"),
        "{texts:?}"
    );
    assert!(texts[1].contains("\"west.example/a\""), "{texts:?}");

    // Absent: unloaded, and not remembered when it comes back unreadable.
    f.api.x509.send(federated("/3", &[]));
    source.changed(source.current().revision()).await;
    assert!(source.bundle(WEST).is_err());
    assert!(source.bundle(EAST).is_ok());
    f.api.x509.send(federated("/4", &[bad]));
    source.changed(source.current().revision()).await;
    assert_eq!(path(&source), "/4");
    assert!(source.bundle(WEST).is_err());
}

#[tokio::test]
async fn permission_denied_withdraws_at_once_and_is_retried() {
    let f = Fixture::new();
    let source = f.source().await;
    let held = source.current().revision();
    f.api
        .x509
        .fail(Status::permission_denied("no identity issued"));
    source.changed(held).await;
    assert_eq!(source.svid().unwrap_err(), SourceError::NoIdentity);
    assert!(source.bundle(EAST).is_err());
    until(|| source.status().withdrawn).await;
    let error = source.status().last_error.unwrap();
    assert!(error.contains("no identity issued"), "{error}");
    assert_eq!(f.api.calls().len(), 1);

    let withdrawn = source.current().revision();
    f.api.x509.send(f.ca.update("/back"));
    let (_, ()) = tokio::join!(source.changed(withdrawn), f.clock.pass(FIRST_DELAY));
    assert_eq!(path(&source), "/back");
    until(|| !source.status().withdrawn).await;
}

#[tokio::test]
async fn a_withdrawn_bundle_is_no_last_good_one() {
    let f = Fixture::new();
    let federated = |der: Vec<u8>| {
        let mut update = f.ca.update("/web");
        update.federated_bundles = [("spiffe://west.example".into(), der)].into();
        update
    };
    f.api.x509.send(federated(Ca::new("west.example").bundle()));
    let source = f.builder().build().await.unwrap();
    assert!(source.bundle(WEST).is_ok());
    f.api
        .x509
        .fail(Status::permission_denied("no identity issued"));
    source.changed(source.current().revision()).await;
    f.api.x509.send(federated(b"nonsense".to_vec()));
    let (_, ()) = tokio::join!(
        source.changed(source.current().revision()),
        f.clock.pass(FIRST_DELAY)
    );
    assert_eq!(path(&source), "/web");
    assert!(source.bundle(WEST).is_err());
}

#[tokio::test]
async fn permission_denied_withdraws_after_the_grace() {
    let f = Fixture::new();
    let grace = Duration::from_secs(100);
    let source = f.source_of(f.builder().withdrawal_grace(grace)).await;
    let held = source.current().revision();
    f.api
        .x509
        .fail(Status::permission_denied("no identity issued"));
    let mut waited = Duration::ZERO;
    let mut delay = FIRST_DELAY;
    // Each retry is denied too and does not prolong the grace.
    while waited + delay < grace {
        f.clock.pass(delay).await;
        waited += delay;
        assert_eq!(source.current().revision(), held);
        delay = (delay * 2).min(Duration::from_secs(30));
    }
    let (_, ()) = tokio::join!(source.changed(held), f.clock.pass(grace - waited));
    assert_eq!(source.svid().unwrap_err(), SourceError::NoIdentity);
}

#[tokio::test]
async fn an_update_within_the_grace_calls_the_withdrawal_off() {
    let f = Fixture::new();
    let grace = Duration::from_secs(100);
    let source = f.source_of(f.builder().withdrawal_grace(grace)).await;
    let held = source.current().revision();
    f.api
        .x509
        .fail(Status::permission_denied("no identity issued"));
    f.clock.somebody_waits(FIRST_DELAY).await;
    f.api.x509.send(f.ca.update("/back"));
    let (_, ()) = tokio::join!(source.changed(held), f.clock.pass(FIRST_DELAY));
    f.clock.advance(grace * 2);
    f.api.x509.send(update([f
        .ca
        .svid_until("/later", START + Duration::from_secs(7200))]));
    source.changed(source.current().revision()).await;
    assert_eq!(path(&source), "/later");
}

#[tokio::test]
async fn unavailable_keeps_what_is_held_and_backs_off() {
    let f = Fixture::new();
    let source = f.source().await;
    f.api.x509.fail(Status::unavailable("starting"));
    let mut delay = FIRST_DELAY;
    for calls in 2..=8 {
        f.clock.somebody_waits(delay).await;
        assert_eq!(f.api.calls().len(), calls - 1);
        f.clock.pass(delay).await;
        f.api.called(calls).await;
        delay = (delay * 2).min(Duration::from_secs(30));
    }
    assert_eq!(path(&source), "/web");
}

#[tokio::test]
async fn a_stream_that_worked_makes_earlier_failures_history_however_it_ends() {
    let f = Fixture::new();
    let source = f.source().await;
    f.api.x509.fail(Status::unavailable("starting"));
    let mut delay = FIRST_DELAY;
    for calls in 2..=6 {
        f.clock.pass(delay).await;
        f.api.called(calls).await;
        delay *= 2;
    }
    f.clock.somebody_waits(delay).await;
    f.api.x509.send(f.ca.update("/back"));
    let held = source.current().revision();
    let (_, ()) = tokio::join!(source.changed(held), f.clock.pass(delay));
    until(|| source.status().endpoint == EndpointState::Following).await;
    f.clock.advance(Duration::from_secs(60));
    f.api.x509.fail(Status::unavailable("stopping"));
    f.clock.somebody_waits(FIRST_DELAY).await;
}

#[tokio::test]
async fn bundles_count_when_a_step_rejects_the_svids_beside_them() {
    let f = Fixture::new();
    let west = |path| {
        let mut update = f.ca.update(path);
        let bundle = Ca::new("west.example").bundle();
        update.federated_bundles = [("spiffe://west.example".into(), bundle)].into();
        update
    };
    f.api.x509.send(west("/web"));
    let source = f.builder().build().await.unwrap();
    let _step = source
        .publisher()
        .derive(|snapshot| match snapshot.svids().first() {
            Some(svid) if svid.id().path() == "/unusable" => {
                Err(Rejection::new(Rule::KeyMismatch, "it cannot be used"))
            }
            _ => Ok(()),
        })
        .unwrap();
    // Trust in the west is taken back, beside an SVID of no use.
    f.api.x509.send(f.ca.update("/unusable"));
    let says_so = || {
        let error = source.status().last_error;
        error.is_some_and(|error| error.contains("it cannot be used"))
    };
    until(says_so).await;
    assert_eq!(path(&source), "/web");
    assert!(source.bundle(WEST).is_err());
    assert!(source.bundle(EAST).is_ok());
}

#[tokio::test]
async fn settings_that_mean_never_are_taken() {
    let f = Fixture::new();
    f.clock.advance(Duration::from_secs(1));
    let client = WorkloadApiClient::builder(f.place.endpoint())
        .clock(f.clock.clone())
        .deadline(Duration::MAX);
    let builder = X509Source::builder()
        .client(client.build())
        .timeout(Duration::MAX)
        .withdrawal_grace(Duration::MAX);
    let source = f.source_of(builder).await;
    f.api.x509.fail(Status::permission_denied("gone"));
    f.clock.pass(FIRST_DELAY).await;
    assert_eq!(path(&source), "/web");
}

#[track_caller]
fn stops(error: &StartError) -> ClientError {
    match error {
        StartError::Refused(error) => error.clone(),
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn invalid_argument_and_unimplemented_are_not_asked_again() {
    let f = Fixture::new();
    let statuses = [
        Status::invalid_argument("security header missing"),
        Status::unimplemented(""),
    ];
    for (done, status) in statuses.into_iter().enumerate() {
        f.api.x509.fail(status);
        let error = stops(&f.builder().build().await.unwrap_err());
        assert!(!error.is_retryable(), "{error}");
        assert_eq!(f.api.calls().len(), done + 1);
    }
    // On a source that runs, what it holds stays.
    let source = f.source().await;
    let calls = f.api.calls().len();
    f.api.x509.fail(Status::invalid_argument("no"));
    until(|| source.status().endpoint == EndpointState::Stopped).await;
    assert_eq!(path(&source), "/web");
    f.clock.advance(Duration::from_secs(3000));
    source.shutdown().await;
    assert_eq!(f.api.calls().len(), calls);
}

#[tokio::test]
async fn an_update_that_a_step_rejects_is_reported_and_the_last_good_one_stays() {
    let f = Fixture::new();
    let source = f.source().await;
    let step = source
        .publisher()
        .derive(|snapshot| match snapshot.svids().first() {
            Some(svid) if svid.id().path() == "/unusable" => {
                Err(Rejection::new(Rule::KeyMismatch, "it cannot be used"))
            }
            _ => Ok(()),
        });
    let _step = step.unwrap();
    let held = source.current().revision();
    f.api.x509.send(f.ca.update("/unusable"));
    let says_so = || {
        let error = source.status().last_error;
        error.is_some_and(|error| error.contains("it cannot be used"))
    };
    until(says_so).await;
    assert_eq!(source.current().revision(), held);
    f.api.x509.send(f.ca.update("/usable"));
    source.changed(held).await;
    assert_eq!(path(&source), "/usable");
}

#[tokio::test]
async fn shutdown_ends_the_task_and_keeps_what_was_published() {
    let f = Fixture::new();
    let source = f.source().await;
    source.shutdown().await;
    assert_eq!(source.status().endpoint, EndpointState::Stopped);
    assert_eq!(path(&source), "/web");
    source.shutdown().await;
}

#[tokio::test]
async fn the_task_ends_with_the_last_handle() {
    let f = Fixture::new();
    let source = f.source().await;
    let publisher = source.publisher().clone();
    let twin = source.clone();
    drop(source);
    f.api.x509.send(f.ca.update("/web2"));
    publisher.changed(publisher.load().revision()).await;
    drop(twin);
    // The task's stream is gone from the server: the script has no reader left.
    until(|| f.api.x509.readers() == 0).await;
    assert_eq!(publisher.svid().unwrap().id().path(), "/web2");
}

#[test]
fn a_source_needs_a_runtime() {
    let place = Place::new();
    let error = X509Source::builder()
        .endpoint(place.endpoint())
        .start()
        .unwrap_err();
    assert_eq!(error, StartError::NoRuntime);
}

#[tokio::test]
async fn it_says_until_when_it_lasts_and_what_ends_first() {
    let f = Fixture::new();
    let grace = Duration::from_secs(100);
    let source = f.source_of(f.builder().withdrawal_grace(grace)).await;
    let hour = START + Duration::from_secs(3600);
    let svid = |source: &X509Source| Ends::Svid {
        id: source.svid().unwrap().id().clone(),
    };
    let survival = source.survives_until().unwrap();
    assert_eq!((survival.until(), survival.ends()), (hour, &svid(&source)));

    // An SVID that outlives the authority it rests on is worth as much as that.
    let year = START + Duration::from_secs(86_400 * 365);
    let svids = [f.ca.svid_until("/long", year + Duration::from_secs(1))];
    f.api.x509.send(update(svids));
    source.changed(source.current().revision()).await;
    until(|| source.survives_until().unwrap().until() != hour).await;
    let survival = source.survives_until().unwrap();
    let bundle = Ends::Bundle {
        trust_domain: EAST.to_owned(),
    };
    assert_eq!((survival.until(), survival.ends()), (year, &bundle));

    // Withdrawn with a grace: the grace ends first, until the server thinks again.
    f.api.x509.fail(Status::permission_denied("gone"));
    let ends = |source: &X509Source| source.survives_until().unwrap().ends().clone();
    until(|| ends(&source) == Ends::Withdrawal).await;
    assert_eq!(source.survives_until().unwrap().until(), START + grace);
    f.api.x509.send(f.ca.update("/web"));
    f.clock.pass(FIRST_DELAY).await;
    until(|| ends(&source) == svid(&source)).await;

    f.api.x509.fail(Status::permission_denied("gone"));
    until(|| ends(&source) == Ends::Withdrawal).await;
    f.clock.advance(grace);
    until(|| source.survives_until().is_none()).await;
    assert_eq!(source.status().readiness, Readiness::Empty);
}

/// In a rollover the bundle holds the next authority too, which never vouched for the SVID.
#[tokio::test]
async fn an_authority_that_is_over_is_the_end_whatever_else_the_bundle_holds() {
    let f = Fixture::new();
    let (half, hour) = (Duration::from_secs(1800), Duration::from_secs(3600));
    let old = Ca::of_life("east.example", half);
    let mut svid = old.svid_until("/web", START + hour);
    svid.bundle = [old.bundle(), f.ca.bundle()].concat();
    f.api.x509.send(update([svid.clone()]));
    let source = f.builder().build().await.unwrap();
    let end = (START + half, EAST.to_owned());
    let ends = |source: &X509Source| {
        let survival = source.survives_until().unwrap();
        match survival.ends() {
            Ends::Bundle { trust_domain } => (survival.until(), trust_domain.clone()),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(ends(&source), end);

    f.clock.advance(half + Duration::from_secs(1));
    let west = Ca::new("west.example");
    let mut later = update([svid]);
    later.federated_bundles = [("spiffe://west.example".to_owned(), west.bundle())].into();
    let held = source.current().revision();
    f.api.x509.send(later);
    source.changed(held).await;
    until(|| source.current().bundles().len() == 2).await;
    assert_eq!(ends(&source), end);
}

#[tokio::test]
async fn readiness_turns_bad_at_two_thirds_of_life_and_at_its_end() {
    let f = Fixture::new();
    let end = START + Duration::from_secs(7200);
    f.api
        .x509
        .send(update([f.ca.svid_between("/web", START, end)]));
    let source = f.builder().build().await.unwrap();
    let readiness = || source.status().readiness;
    let window_closes = START + Duration::from_secs(4800);
    f.clock.advance(Duration::from_secs(4799));
    assert_eq!(readiness(), Readiness::Ready);
    assert!(source.status().is_ready());
    f.clock.advance(Duration::from_secs(1));
    let overdue = Readiness::Overdue {
        since: window_closes,
    };
    assert_eq!(readiness(), overdue);
    f.clock.advance(Duration::from_secs(2400));
    assert_eq!(readiness(), overdue);
    f.clock.advance(Duration::from_secs(1));
    assert_eq!(readiness(), Readiness::Expired { since: end });
    // An update mends it.
    let svids = [f.ca.svid_until("/web", end + Duration::from_secs(86_400))];
    f.api.x509.send(update(svids));
    until(|| source.status().is_ready()).await;
}

#[tokio::test]
async fn two_thirds_are_counted_from_when_an_svid_came_or_became_valid() {
    let f = Fixture::new();
    let second = Duration::from_secs(1);
    // Dated back by two hours, with three seconds to live.
    let first = update([f.ca.svid_until("/web", START + 3 * second)]);
    f.api.x509.send(first.clone());
    let source = f.builder().build().await.unwrap();
    let readiness = || source.status().readiness;
    assert_eq!(readiness(), Readiness::Ready);
    f.clock.advance(second);
    assert_eq!(readiness(), Readiness::Ready);
    f.clock.advance(second);
    let since = START + 2 * second;
    assert_eq!(readiness(), Readiness::Overdue { since });

    // The same again, beside another one: it came when it came first.
    let mut again = first;
    let begin = START + 60 * second;
    again
        .svids
        .push(f.ca.svid_between("/next", begin, begin + 60 * second));
    let next = again.svids[1].clone();
    f.api.x509.send(again);
    until(|| source.current().svids().len() == 2).await;
    assert_eq!(readiness(), Readiness::Overdue { since });

    // One that is yet to become valid for a clock that is behind.
    f.api.x509.send(update([next]));
    until(|| readiness() == Readiness::Ready).await;
    f.clock.advance(97 * second);
    assert_eq!(readiness(), Readiness::Ready);
    f.clock.advance(second);
    let since = begin + 40 * second;
    assert_eq!(readiness(), Readiness::Overdue { since });
}

#[tokio::test]
async fn what_an_update_leaves_out_is_gone() {
    let f = Fixture::new();
    let mut hinted = f.ca.svid("/a");
    hinted.hint = "internal".into();
    let other = f.ca.svid("/b");
    let mut message = update([hinted.clone(), other]);
    message.crl = vec![vec![0x30, 0]];
    f.api.x509.send(message);
    let client = WorkloadApiClient::builder(f.place.endpoint()).build();
    let mut updates = client.watch_x509().await.unwrap();
    let source = f.builder().build().await.unwrap();
    let first = updates.next().await.unwrap();
    assert_eq!(first.crls().len(), 1);
    assert_eq!(first.default_svid().hint(), Some("internal"));
    assert_eq!(source.current().svids().len(), 2);

    hinted.hint.clear();
    let seen = source.current().revision();
    f.api.x509.send(update([hinted]));
    let second = updates.next().await.unwrap();
    assert!(second.crls().is_empty());
    assert_eq!(second.default_svid().hint(), None);
    source.changed(seen).await;
    let current = source.current();
    assert_eq!(current.svids().len(), 1);
    assert_eq!(current.svid().unwrap().hint(), None);
}

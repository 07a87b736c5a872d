//! What sources tell about themselves: each thing once, on the virtual clock.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use spiffe_workload_client::observe::{Event, Metrics};
use spiffe_workload_client::source::{EndpointState, Readiness, X509SourceBuilder};
use spiffe_workload_client::spiffe_core::{Clock, Source, Watch};
use spiffe_workload_client::{
    BundleSource, FileSource, Files, JwtSource, WorkloadApiClient, X509Source,
};
use tonic::Status;

use crate::file_source::{HERE, write};
use crate::support::ca::{Ca, update, x509_bundles};
use crate::support::clock::{START, VirtualClock};
use crate::support::jwt::{JwtCa, tokens};
use crate::support::server::{Api, Place, Running};
use crate::support::until;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// Notes what it is told.
#[derive(Clone, Debug, Default)]
struct Recorder(Arc<Mutex<Vec<String>>>);

impl Recorder {
    fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    fn count(&self, name: &str) -> usize {
        self.all()
            .iter()
            .filter(|one| one.starts_with(name))
            .count()
    }

    /// Waits until there are so many events of a name; the last of them.
    async fn come(&self, name: &str, times: usize) -> String {
        until(|| self.count(name) >= times).await;
        let all = self.all();
        let mut found = all.into_iter().filter(|one| one.starts_with(name));
        found.nth(times - 1).unwrap()
    }
}

impl Metrics for Recorder {
    fn record(&self, _: &'static str, event: &Event<'_>) {
        let survives = |survival: &Option<&_>| match survival {
            Some(survival) => format!("{survival}"),
            None => "nothing".into(),
        };
        let text = match event {
            Event::Connected => "connected".into(),
            Event::Expired { svid, since } => format!("expired {} {since}", svid.id()),
            Event::Lost { survival, .. } => format!("lost {}", survives(survival)),
            Event::NotYetValid { svid } => format!("not yet valid: {svid}"),
            Event::Overdue {
                svid,
                since,
                survival,
            } => {
                format!("overdue {} {since} {}", svid.id(), survives(survival))
            }
            Event::Recovered { away, survival } => {
                format!("recovered {away:?} {}", survives(survival))
            }
            Event::Updated { .. } => "updated".into(),
            Event::UsedInPart { problem } => format!("used in part: {problem}"),
            Event::Withdrawn => "withdrawn".into(),
            _ => "another".into(),
        };
        self.0.lock().unwrap().push(text);
    }
}

struct Fixture {
    api: Arc<Api>,
    server: Option<Running>,
    clock: Arc<VirtualClock>,
    ca: Ca,
    place: Place,
    told: Recorder,
}

impl Fixture {
    fn new() -> Self {
        let (api, place) = (Api::new(), Place::new());
        Self {
            server: Some(Running::start(&api, &place.path())),
            api,
            clock: Arc::new(VirtualClock::new()),
            ca: Ca::new("east.example"),
            place,
            told: Recorder::default(),
        }
    }

    fn builder(&self) -> X509SourceBuilder {
        let client = WorkloadApiClient::builder(self.place.endpoint())
            .clock(self.clock.clone())
            .deadline(HOUR * 24);
        let builder = X509Source::builder().client(client.build());
        builder.metrics(Arc::new(self.told.clone()))
    }

    /// Sends an SVID that ends so long from now, and waits until it is in use.
    async fn renew(&self, source: &X509Source, path: &str, life: Duration) {
        let seen = source.current().revision();
        let svid = self.ca.svid_until(path, self.clock.now() + life);
        self.api.x509.send(update([svid]));
        source.changed(seen).await;
    }

    /// Moves the clock to so long after the beginning, in small steps that each sleeper sees.
    async fn go_to(&self, at: Duration) {
        while self.clock.now() < START + at {
            let left = (START + at).saturating_since(self.clock.now());
            self.clock.advance(left.min(MINUTE));
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
        }
    }
}

#[tokio::test]
async fn an_svid_is_overdue_once_then_expired_once_and_then_fresh_again() {
    let f = Fixture::new();
    f.api
        .x509
        .send(update([f.ca.svid_until("/web", START + HOUR)]));
    let source = f.builder().build().await.unwrap();
    // Its life counts from when it came.
    let window = START + MINUTE * 40;
    f.go_to(MINUTE * 39).await;
    assert_eq!((f.told.count("overdue"), f.told.count("expired")), (0, 0));
    f.go_to(MINUTE * 59).await;
    let said = f.told.come("overdue", 1).await;
    let expected = format!(
        "overdue spiffe://east.example/web {window} until {}",
        START + HOUR
    );
    assert!(said.starts_with(&expected), "{said}");
    assert_eq!(f.told.count("expired"), 0);
    f.go_to(HOUR * 2).await;
    let said = f.told.come("expired", 1).await;
    assert_eq!(
        said,
        format!("expired spiffe://east.example/web {}", START + HOUR)
    );
    assert_eq!((f.told.count("overdue"), f.told.count("expired")), (1, 1));
    assert_eq!(f.told.count("recovered"), 0, "the stream was never lost");

    f.renew(&source, "/web", HOUR).await;
    let said = f.told.come("recovered", 1).await;
    assert!(said.starts_with("recovered None until"), "{said}");
    f.renew(&source, "/web", HOUR).await;
    // The next one ages for itself.
    f.go_to(HOUR * 4).await;
    f.told.come("expired", 2).await;
    assert_eq!((f.told.count("overdue"), f.told.count("recovered")), (2, 1));
}

/// As old as one can be as it comes: this is its last instant.
#[tokio::test]
async fn another_svid_that_is_overdue_as_it_comes_is_told_of_too() {
    let f = Fixture::new();
    f.api
        .x509
        .send(update([f.ca.svid_until("/web", START + HOUR)]));
    let source = f.builder().build().await.unwrap();
    f.go_to(MINUTE * 45).await;
    f.told.come("overdue spiffe://east.example/web", 1).await;
    f.renew(&source, "/next", Duration::ZERO).await;
    f.told.come("overdue spiffe://east.example/next", 1).await;
    assert_eq!((f.told.count("overdue"), f.told.count("recovered")), (2, 0));
}

#[tokio::test]
async fn an_svid_that_is_renewed_in_time_is_never_overdue() {
    let f = Fixture::new();
    f.api
        .x509
        .send(update([f.ca.svid_until("/web", START + HOUR)]));
    let source = f.builder().build().await.unwrap();
    for half_hours in 1..8 {
        f.go_to(MINUTE * 30 * half_hours).await;
        f.renew(&source, "/web", HOUR).await;
    }
    let loud = ["overdue", "expired", "recovered", "lost"];
    assert_eq!(
        loud.map(|name| f.told.count(name)),
        [0; 4],
        "{:?}",
        f.told.all()
    );
    assert_eq!(f.told.count("updated"), 8);
}

#[tokio::test]
async fn an_identity_goes_on_ageing_when_nothing_is_asked_any_more() {
    let f = Fixture::new();
    f.api
        .x509
        .send(update([f.ca.svid_until("/web", START + HOUR)]));
    let source = f.builder().build().await.unwrap();
    f.api.x509.fail(Status::invalid_argument("no"));
    f.told.come("lost", 1).await;
    f.go_to(HOUR * 2).await;
    f.told.come("expired", 1).await;
    assert_eq!(f.told.count("overdue"), 1);
    source.shutdown().await;
}

/// As after a suspend, during which only the calendar goes on.
#[tokio::test]
async fn a_clock_that_steps_is_seen_when_nothing_is_asked_any_more() {
    let f = Fixture::new();
    f.api
        .x509
        .send(update([f.ca.svid_until("/web", START + HOUR)]));
    let source = f.builder().build().await.unwrap();
    f.api.x509.fail(Status::invalid_argument("no"));
    f.told.come("lost", 1).await;
    f.clock.set_ahead(HOUR * 2);
    f.clock.pass(MINUTE).await;
    f.told.come("expired", 1).await;
    assert_eq!(f.api.calls().len(), 1);
    source.shutdown().await;
}

#[tokio::test]
async fn a_source_that_joins_late_is_where_the_others_are() {
    let mut f = Fixture::new();
    let end = START + HOUR;
    f.api.x509.send(update([f.ca.svid_until("/web", end)]));
    let client = WorkloadApiClient::builder(f.place.endpoint())
        .clock(f.clock.clone())
        .deadline(HOUR * 24)
        .build();
    let start = |told: &Recorder| {
        let builder = X509Source::builder().client(client.clone());
        builder.metrics(Arc::new(told.clone())).start().unwrap()
    };
    let first = start(&f.told);
    f.told.come("updated", 1).await;
    f.go_to(MINUTE * 30).await;
    let [early, late] = [Recorder::default(), Recorder::default()];
    let second = start(&early);
    assert_eq!(second.status().readiness, Readiness::Ready);
    assert_eq!(second.status().last_update, Some(START));
    // Between two looks of the task, which has nothing else to wake it.
    f.go_to(MINUTE * 50).await;
    f.told.come("overdue", 1).await;
    early.come("overdue", 1).await;
    let third = start(&late);
    let since = START + MINUTE * 40;
    for source in [&first, &second, &third] {
        assert_eq!(source.status().readiness, Readiness::Overdue { since });
        assert_eq!(source.status().endpoint, EndpointState::Following);
    }
    late.come("overdue", 1).await;

    // In an outage too.
    f.server = None;
    f.told.come("lost", 2).await;
    let told = Recorder::default();
    f.clock.advance(MINUTE);
    let fourth = start(&told);
    assert_eq!(fourth.status().endpoint, EndpointState::Waiting);
    let error = first.status().last_error;
    assert!(error.is_some());
    assert_eq!(fourth.status().last_error, error);
    told.come("lost", 1).await;
    f.server = Some(Running::start(&f.api, &f.place.path()));
    f.clock.pass(MINUTE).await;
    let said = told.come("recovered", 1).await;
    assert!(said.starts_with("recovered Some(120s)"), "{said}");
    assert_eq!(f.told.come("recovered", 1).await, said);
}

/// The first member holds nothing that ages, so the second one's times are all that the task has.
#[tokio::test]
async fn what_a_source_that_joins_has_to_say_does_not_wait_for_the_next_look() {
    let f = Fixture::new();
    let second = Duration::from_secs(1);
    f.api
        .x509
        .send(update([f.ca.svid_until("/web", START + second * 30)]));
    let client = WorkloadApiClient::builder(f.place.endpoint())
        .clock(f.clock.clone())
        .deadline(HOUR * 24)
        .build();
    let builder = || X509Source::builder().client(client.clone());
    let first = builder().hint("nobody").start().unwrap();
    until(|| first.current().bundles().len() == 1).await;
    f.clock.somebody_waits(MINUTE).await;
    let told = Recorder::default();
    let _second = builder().metrics(Arc::new(told.clone())).start().unwrap();
    f.clock.pass(second * 20).await;
    told.come("overdue", 1).await;
}

#[tokio::test]
async fn an_endpoint_that_is_back_is_told_of_once() {
    let mut f = Fixture::new();
    f.api.x509.send(f.ca.update("/web"));
    let source = f.builder().build().await.unwrap();
    assert_eq!(
        f.told.count("recovered"),
        0,
        "the first stream is none that came back"
    );
    f.server = None;
    f.told.come("lost", 2).await;
    f.server = Some(Running::start(&f.api, &f.place.path()));
    f.clock.pass(MINUTE).await;
    let said = f.told.come("recovered", 1).await;
    assert!(said.starts_with("recovered Some(60s) until"), "{said}");
    f.renew(&source, "/web", HOUR).await;
    assert_eq!(f.told.count("recovered"), 1);
}

#[tokio::test]
async fn a_denial_says_when_what_is_held_goes_and_the_withdrawal_is_told_of_once() {
    for grace in [Duration::ZERO, MINUTE] {
        let f = Fixture::new();
        f.api.x509.send(f.ca.update("/web"));
        let source = f.builder().withdrawal_grace(grace).build().await.unwrap();
        f.api.x509.fail(Status::permission_denied("gone"));
        let said = f.told.come("lost", 1).await;
        let expected = format!("lost until {}, when it is withdrawn", START + grace);
        assert_eq!(said, expected);
        assert_eq!(f.told.count("withdrawn"), usize::from(grace.is_zero()));
        // Denied again and again, with nothing left to lose.
        for times in 2..8 {
            f.clock.pass(MINUTE).await;
            let again = f.told.come("lost", times).await;
            assert!(times == 2 || again == "lost nothing", "{again}");
        }
        f.told.come("withdrawn", 1).await;
        assert_eq!(f.told.count("withdrawn"), 1);
        assert_eq!((f.told.count("overdue"), f.told.count("expired")), (0, 0));
        f.api.x509.send(f.ca.update("/back"));
        f.clock.pass(MINUTE).await;
        f.told.come("recovered", 1).await;
        f.api.x509.fail(Status::permission_denied("gone"));
        f.told.come("lost", 8).await;
        f.clock.pass(MINUTE).await;
        f.told.come("withdrawn", 2).await;
        drop(source);
    }
}

#[tokio::test]
async fn an_svid_that_comes_again_within_a_grace_is_as_old_as_it_was() {
    let f = Fixture::new();
    let held = update([f.ca.svid_until("/web", START + HOUR)]);
    f.api.x509.send(held.clone());
    let builder = f.builder().withdrawal_grace(HOUR);
    let source = builder.build().await.unwrap();
    f.go_to(MINUTE * 45).await;
    f.told.come("overdue", 1).await;
    f.api.x509.fail(Status::permission_denied("gone"));
    f.told.come("lost", 1).await;
    f.api.x509.send(held);
    f.clock.pass(MINUTE).await;
    f.told.come("recovered Some", 1).await;
    let since = START + MINUTE * 40;
    assert_eq!(source.status().readiness, Readiness::Overdue { since });
    f.go_to(MINUTE * 59).await;
    assert_eq!((f.told.count("overdue"), f.told.count("recovered")), (1, 1));
    // Another one is as young as it is.
    f.renew(&source, "/web", HOUR).await;
    f.told.come("recovered None", 1).await;
    assert_eq!(source.status().readiness, Readiness::Ready);
}

#[tokio::test]
async fn only_who_loses_something_says_that_it_was_withdrawn() {
    // Of the two halves of a bundle source, the one that never held anything is silent.
    let f = Fixture::new();
    f.api.x509_bundles.send(x509_bundles(&[&f.ca]));
    f.api.jwt_bundles.fail(Status::permission_denied("none"));
    let client = WorkloadApiClient::builder(f.place.endpoint())
        .clock(f.clock.clone())
        .build();
    let told = Arc::new(f.told.clone());
    let bundles = BundleSource::builder()
        .client(client.clone())
        .metrics(told.clone())
        .start()
        .unwrap();
    until(|| bundles.current().bundles().len() == 1).await;
    f.told.come("lost", 1).await;
    for times in 2..5 {
        f.clock.pass(MINUTE).await;
        f.told.come("lost", times).await;
    }
    assert_eq!(f.told.count("withdrawn"), 0);
    f.api.x509_bundles.fail(Status::permission_denied("gone"));
    f.told.come("withdrawn", 1).await;
    assert!(bundles.current().bundles().is_empty());
    bundles.shutdown().await;

    // Tokens are something too, also where there were never bundles.
    let f = Fixture::new();
    let life = Duration::from_secs(300);
    let ca = JwtCa::new("east.example");
    let token = ca.token("/web", &["db"], f.clock.now(), life).await;
    f.api.jwt.send(tokens([token]));
    f.api.jwt_bundles.fail(Status::permission_denied("none"));
    let client = WorkloadApiClient::builder(f.place.endpoint())
        .clock(f.clock.clone())
        .build();
    let jwt = JwtSource::builder()
        .client(client)
        .metrics(Arc::new(f.told.clone()))
        .start()
        .unwrap();
    f.told.come("lost", 1).await;
    assert_eq!(f.told.count("withdrawn"), 0);
    // Each time that there is one.
    for times in 1..3 {
        jwt.fetch(["db"]).await.unwrap();
        f.clock.pass(MINUTE).await;
        f.told.come("withdrawn", times).await;
        assert_eq!(jwt.survives_until(), None);
        let lost = f.told.count("lost");
        f.clock.pass(MINUTE).await;
        f.told.come("lost", lost + 1).await;
        assert_eq!(f.told.count("withdrawn"), times);
    }
}

#[tokio::test]
async fn a_clock_that_is_behind_or_ahead_of_the_issuers_is_named() {
    let f = Fixture::new();
    f.clock.set_back(HOUR * 3);
    f.api.x509.send(f.ca.update("/web"));
    let source = f.builder().build().await.unwrap();
    let said = f.told.come("not yet valid", 1).await;
    let not_before = source.svid().unwrap().not_before();
    for part in [
        format!("valid from {not_before}"),
        format!("it is {} here", f.clock.now()),
        "check this machine's clock".into(),
    ] {
        assert!(said.contains(&part), "{part} is not in {said}");
    }
    f.clock.set_ahead(HOUR * 5);
    f.api.x509.send(f.ca.update("/late"));
    let said = f.told.come("used in part", 1).await;
    for part in [
        format!("expired at {}", START + HOUR),
        format!("it is {} here", f.clock.now()),
        "check this machine's clock".into(),
    ] {
        assert!(said.contains(&part), "{part} is not in {said}");
    }
    // With a clock that is right nothing is said.
    let f = Fixture::new();
    f.api.x509.send(f.ca.update("/web"));
    let _source = f.builder().build().await.unwrap();
    f.told.come("updated", 1).await;
    assert_eq!(
        (f.told.count("not yet valid"), f.told.count("used in part")),
        (0, 0)
    );
}

#[tokio::test]
async fn files_expire_and_are_renewed_and_are_never_overdue() {
    let (f, place) = (Fixture::new(), tempfile::tempdir().unwrap());
    write(place.path(), &f.ca.svid("/web"), &HERE);
    let source = FileSource::builder(Files::spiffe_ca(place.path()))
        .clock(f.clock.clone())
        .metrics(Arc::new(f.told.clone()))
        .build()
        .await
        .unwrap();
    // Each look is a thread's, which time waits for here.
    let pass = async |by: Duration| {
        f.clock.advance(by);
        f.clock.pass(Duration::from_secs(1)).await;
        f.clock.somebody_waits(Duration::from_secs(1)).await;
    };
    pass(MINUTE * 50).await;
    assert_eq!((f.told.count("overdue"), f.told.count("expired")), (0, 0));
    pass(MINUTE * 20).await;
    f.told.come("expired", 1).await;
    pass(MINUTE).await;
    let renewed = f.ca.svid_until("/web", f.clock.now() + HOUR);
    write(place.path(), &renewed, &HERE);
    while f.told.count("recovered") == 0 {
        f.clock.pass(Duration::from_secs(1)).await;
        tokio::task::yield_now().await;
    }
    assert_eq!((f.told.count("overdue"), f.told.count("expired")), (0, 1));
    assert!(source.svid().unwrap().not_after() > f.clock.now());
}

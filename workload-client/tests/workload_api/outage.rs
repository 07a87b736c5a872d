//! What a source says about its survival, and what happens: every kind of outage, short and long, on a virtual clock.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use spiffe_proto::workload::X509svidResponse;
use spiffe_workload_client::source::{Ends, LastGood, Readiness, Survival, X509SourceBuilder};
use spiffe_workload_client::spiffe_core::crypto::aws_lc_rs;
use spiffe_workload_client::spiffe_core::verify::{PeerRole, X509Verifier};
use spiffe_workload_client::spiffe_core::{Clock, Source, Timestamp, Watch};
use spiffe_workload_client::{JwtSource, WorkloadApiClient, X509Source};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tonic::Status;

use crate::support::ca::{Ca, update};
use crate::support::clock::{START, VirtualClock};
use crate::support::jwt::{JwtCa, bundles, tokens};
use crate::support::server::{Answer, Api, Place, Running};
use crate::support::until;

const HOUR: Duration = Duration::from_secs(3600);
const SECOND: Duration = Duration::from_secs(1);
const GRACE: Duration = Duration::from_secs(900);
/// How far the calendar is set within a grace.
const STEP: Duration = Duration::from_secs(300);

/// Within the SVID's life, up to two thirds of it, and beyond its end.
const DURATIONS: [Duration; 3] = [
    Duration::from_secs(600),
    Duration::from_secs(3000),
    Duration::from_secs(4200),
];

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    ClockAhead,
    ClockBack,
    /// With a grace.
    Denies,
    /// It denies, and within the grace the calendar is set ahead, or the machine sleeps.
    DeniesThenClockAhead,
    DeniesThenClockBack,
    /// Every update breaks a rule.
    Garbage,
    Gone,
    /// It accepts, and says what HTTP/2 begins with, a byte at a time.
    Dribbles,
    /// It accepts and says nothing.
    Hangs,
    /// It speaks something else.
    Nonsense,
    /// It comes back every few minutes, with nothing but UNAVAILABLE.
    Restarts,
    /// It answers just before the deadline, with what it said before, and ends the stream.
    Slow,
}

/// What ends first.
#[derive(Clone, Copy, Debug, PartialEq)]
enum World {
    /// The SVID.
    Svid,
    /// The authority that it rests on.
    Authority,
}

/// Who sits at the socket instead.
#[derive(Clone, Copy, PartialEq)]
enum Impostor {
    Silent,
    Dribbling,
    OtherProtocol,
}

struct Fixture {
    api: Arc<Api>,
    server: Option<Running>,
    impostor: Option<JoinHandle<()>>,
    /// How many bytes an impostor that dribbles has said.
    dribbled: watch::Sender<usize>,
    clock: Arc<VirtualClock>,
    ca: Ca,
    jwt_ca: JwtCa,
    /// What was said last, to be said again.
    x509: X509svidResponse,
    place: Place,
}

impl Fixture {
    fn new() -> Self {
        let (api, place) = (Api::new(), Place::new());
        Self {
            server: Some(Running::start(&api, &place.path())),
            impostor: None,
            dribbled: watch::channel(0).0,
            api,
            clock: Arc::new(VirtualClock::new()),
            ca: Ca::new("east.example"),
            jwt_ca: JwtCa::new("east.example"),
            x509: update([]),
            place,
        }
    }

    fn client(&self, deadline: Duration) -> WorkloadApiClient {
        WorkloadApiClient::builder(self.place.endpoint())
            .clock(self.clock.clone())
            .deadline(deadline)
            .build()
    }

    fn builder(&self) -> X509SourceBuilder {
        X509Source::builder().client(self.client(HOUR * 24))
    }

    /// What a peer would say of the source at this moment.
    fn serves(&self, source: &X509Source) -> bool {
        let (current, now) = (source.current(), self.clock.now());
        let verifier = X509Verifier::new(&*aws_lc_rs());
        current.svid().is_ok_and(|svid| {
            let role = PeerRole::Unspecified;
            verifier
                .verify(svid.chain(), current.bundles(), now, role)
                .is_ok()
        })
    }

    fn begin(&mut self, kind: Kind) {
        let api = &self.api;
        let fail = |status: Status| {
            api.x509.fail(status.clone());
            api.jwt_bundles.fail(status);
            api.jwt.fail(Status::unavailable("not now"));
        };
        match kind {
            Kind::ClockAhead | Kind::ClockBack => {
                api.jwt.fail(Status::unavailable("not now"));
                if kind == Kind::ClockAhead {
                    self.clock.set_ahead(HOUR / 4);
                } else {
                    self.clock.set_back(HOUR / 4);
                }
            }
            Kind::Denies | Kind::DeniesThenClockAhead | Kind::DeniesThenClockBack => {
                fail(Status::permission_denied("gone"));
            }
            Kind::Dribbles => self.replace_by(Impostor::Dribbling),
            Kind::Garbage => self.say_garbage(),
            Kind::Gone => self.server = None,
            Kind::Hangs => self.replace_by(Impostor::Silent),
            Kind::Nonsense => self.replace_by(Impostor::OtherProtocol),
            Kind::Restarts => fail(Status::unavailable("starting")),
            Kind::Slow => {
                api.x509.add_all([Answer::End, Answer::Wait]);
                api.jwt_bundles.add_all([Answer::End, Answer::Wait]);
                api.jwt.add(Answer::Hang);
            }
        }
    }

    fn say_garbage(&self) {
        self.api.x509.send(update([]));
        self.api.jwt_bundles.send(bundles([]));
        self.api.jwt.send(tokens([]));
    }

    /// Somebody else at the socket.
    fn replace_by(&mut self, impostor: Impostor) {
        const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
        self.server = None;
        let listener = UnixListener::bind(self.place.path()).unwrap();
        let mut dribbled = self.dribbled.subscribe();
        self.impostor = Some(tokio::spawn(async move {
            let mut open: Vec<(UnixStream, usize)> = Vec::new();
            loop {
                tokio::select! {
                    accepted = listener.accept() => {
                        let (stream, _) = accepted.unwrap();
                        if impostor == Impostor::OtherProtocol {
                            let _ = stream.try_write(b"220 mail.example ESMTP\r\n");
                        } else {
                            open.push((stream, 0));
                        }
                    }
                    Ok(()) = dribbled.changed() => {
                        for (stream, said) in &mut open {
                            let next = &SETTINGS[*said % SETTINGS.len()..][..1];
                            *said += stream.try_write(next).unwrap_or_default();
                        }
                    }
                }
            }
        }));
    }

    async fn go_on(&mut self, kind: Kind) {
        match kind {
            Kind::Dribbles => self.dribbled.send_modify(|said| *said += 1),
            Kind::Garbage => self.say_garbage(),
            Kind::Restarts => {
                self.server = None;
                self.server = Some(Running::start(&self.api, &self.place.path()));
            }
            Kind::Slow => {
                let again = Answer::Send(self.x509.clone());
                self.api.x509.add_all([again, Answer::End, Answer::Wait]);
                let again = Answer::Send(bundles([self.jwt_ca.bundle()]));
                let jwt_bundles = &self.api.jwt_bundles;
                jwt_bundles.add_all([again, Answer::End, Answer::Wait]);
            }
            _ => {}
        }
        tokio::task::yield_now().await;
    }

    /// The endpoint is there again.
    async fn restore(&mut self) {
        if let Some(impostor) = self.impostor.take() {
            impostor.abort();
            let _ = impostor.await;
            std::fs::remove_file(self.place.path()).unwrap();
        }
        if self.server.is_none() {
            self.server = Some(Running::start(&self.api, &self.place.path()));
        }
    }

    /// The endpoint is well again, with a new SVID.
    async fn heal(&mut self, source: &X509Source) {
        let life = HOUR * 24;
        let ca = Ca::new("east.example");
        let svids = [ca.svid_until("/healed", self.clock.now() + life)];
        self.api.x509.send(update(svids));
        self.restore().await;
        let is_healed = || {
            let current = source.current();
            current
                .svid()
                .is_ok_and(|svid| svid.id().path() == "/healed")
        };
        while !is_healed() {
            let seen = source.current().revision();
            tokio::select! {
                biased;
                _ = source.changed(seen) => {}
                () = self.clock.pass(Duration::from_secs(30)) => {}
            }
        }
    }
}

impl Kind {
    /// Whether there is a grace that ends.
    const fn is_denied(self) -> bool {
        matches!(
            self,
            Self::Denies | Self::DeniesThenClockAhead | Self::DeniesThenClockBack
        )
    }

    /// The deadline of a request, and the longest step that is made at once.
    fn deadline(self) -> (Duration, Duration) {
        match self {
            Self::Slow => (SECOND * 150, SECOND * 149),
            Self::Dribbles => (SECOND * 150, SECOND * 100),
            _ => (HOUR * 24, SECOND * 200),
        }
    }

    /// How much further to go at once. Close to the end every second is looked at.
    fn step(self, now: Timestamp, predicted: Timestamp) -> Duration {
        let (_, longest) = self.deadline();
        if now > predicted + SECOND * 3 {
            return longest;
        }
        let to_end = predicted.saturating_since(now);
        to_end.saturating_sub(SECOND * 2).clamp(SECOND, longest)
    }
}

/// Begins an outage; when what would end at `end` ends now.
async fn begin(
    f: &mut Fixture,
    kind: Kind,
    end: Timestamp,
    survives: impl Fn() -> Option<Arc<Survival>>,
) -> Timestamp {
    let begun = f.clock.now();
    f.begin(kind);
    if kind.is_denied() {
        until(|| survives().is_some_and(|it| *it.ends() == Ends::Withdrawal)).await;
    }
    let predicted = match kind {
        Kind::Denies => begun + GRACE,
        // The calendar says first that the grace is over.
        Kind::DeniesThenClockAhead => {
            f.clock.set_ahead(STEP);
            begun + GRACE
        }
        // The stopwatch does.
        Kind::DeniesThenClockBack => {
            f.clock.set_back(STEP);
            begun - STEP + GRACE
        }
        _ => end,
    };
    if kind.is_denied() {
        // It looks at the clocks whenever it is about to ask again.
        let asked = f.api.calls().len();
        f.clock.pass(SECOND).await;
        f.api.called(asked + 1).await;
        f.clock.somebody_waits(SECOND * 30).await;
    }
    assert_eq!(survives().unwrap().until(), predicted, "{kind:?}");
    predicted
}

/// Lives through one outage, and compares what was predicted with what happens, second by second around the end.
async fn live_through(kind: Kind, world: World, duration: Duration) {
    let mut f = Fixture::new();
    let end = START + HOUR;
    if world == World::Authority {
        f.ca = Ca::of_life("east.example", HOUR);
    }
    let svid = match world {
        World::Svid => f.ca.svid_until("/web", end),
        World::Authority => f.ca.svid_until("/web", end + HOUR),
    };
    f.x509 = update([svid]);
    f.api.x509.send(f.x509.clone());
    let (deadline, _) = kind.deadline();
    let builder = X509Source::builder().client(f.client(deadline));
    let source = builder.withdrawal_grace(GRACE).build().await.unwrap();
    let ends_with_bundle = matches!(source.survives_until().unwrap().ends(), Ends::Bundle { .. });
    assert_eq!(ends_with_bundle, world == World::Authority);
    let predicted = begin(&mut f, kind, end, || source.survives_until()).await;

    let mut left = duration;
    while !left.is_zero() {
        let step = kind.step(f.clock.now(), predicted).min(left);
        left -= step;
        f.clock.advance(step);
        f.go_on(kind).await;
        let now = f.clock.now();
        if kind.is_denied() && now >= predicted {
            until(|| source.svid().is_err()).await;
            assert!(source.survives_until().is_none());
            continue;
        }
        let what = format!("{kind:?}, {world:?}, at {now}");
        assert_eq!(f.serves(&source), now <= predicted, "{what}");
        let survival = source.survives_until().unwrap();
        assert_eq!(survival.until(), predicted, "{what}");
        let expired = matches!(source.status().readiness, Readiness::Expired { .. });
        assert_eq!(expired, now > predicted, "{what}");
    }
    f.heal(&source).await;
    assert!(f.serves(&source), "{kind:?}");
    assert!(source.survives_until().unwrap().until() > f.clock.now());
    until(|| source.status().is_ready()).await;
}

/// The same with a token of an hour that a source holds.
async fn live_through_with_token(kind: Kind, duration: Duration) {
    let mut f = Fixture::new();
    let end = START + HOUR;
    f.api.jwt_bundles.send(bundles([f.jwt_ca.bundle()]));
    let token = f.jwt_ca.token("/web", &["db"], START, HOUR).await;
    f.api.jwt.send(tokens([token]));
    let (deadline, _) = kind.deadline();
    let builder = JwtSource::builder().client(f.client(deadline));
    let source = builder.withdrawal_grace(GRACE).build().await.unwrap();
    source.fetch(["db"]).await.unwrap();
    let survival = source.survives_until().unwrap();
    assert!(matches!(survival.ends(), Ends::Token { .. }), "{survival}");
    let predicted = begin(&mut f, kind, end, || source.survives_until()).await;

    let mut left = duration;
    while !left.is_zero() {
        let step = kind.step(f.clock.now(), predicted).min(left);
        left -= step;
        f.clock.advance(step);
        f.go_on(kind).await;
        let now = f.clock.now();
        if kind.is_denied() && now >= predicted {
            until(|| source.survives_until().is_none()).await;
        }
        // What is held is there at once, and whoever would have to ask the endpoint waits or fails.
        let fetched = source.fetch(["db"]).now_or_never();
        let is_held = matches!(fetched, Some(Ok(_)));
        // RFC 7519 §4.1.4: not on or after its time.
        assert_eq!(is_held, now < predicted, "{kind:?} at {now}");
        if now < predicted {
            let survival = source.survives_until().unwrap();
            assert_eq!(survival.until(), predicted, "{kind:?} at {now}");
        }
    }
    let now = f.clock.now();
    let token = f.jwt_ca.token("/web", &["db"], now, HOUR * 24).await;
    f.api.jwt_bundles.send(bundles([f.jwt_ca.bundle()]));
    f.api.jwt.send(tokens([token]));
    f.restore().await;
    while source.fetch(["db"]).await.is_err() {
        tokio::task::yield_now().await;
    }
    assert!(source.survives_until().unwrap().until() > f.clock.now());
}

async fn check(kind: Kind) {
    for duration in DURATIONS {
        live_through(kind, World::Svid, duration).await;
        live_through(kind, World::Authority, duration).await;
        live_through_with_token(kind, duration).await;
    }
}

#[tokio::test]
async fn survival_is_as_predicted_when_the_agent_is_gone() {
    check(Kind::Gone).await;
}

#[tokio::test]
async fn survival_is_as_predicted_when_the_agent_denies() {
    check(Kind::Denies).await;
}

#[tokio::test]
async fn survival_is_as_predicted_when_the_agent_denies_and_the_clock_steps() {
    check(Kind::DeniesThenClockAhead).await;
    check(Kind::DeniesThenClockBack).await;
}

#[tokio::test]
async fn survival_is_as_predicted_when_the_agent_hangs() {
    check(Kind::Hangs).await;
}

#[tokio::test]
async fn survival_is_as_predicted_when_the_agent_sends_garbage() {
    check(Kind::Garbage).await;
    check(Kind::Nonsense).await;
}

#[tokio::test]
async fn survival_is_as_predicted_when_the_agent_is_slow() {
    check(Kind::Slow).await;
    check(Kind::Dribbles).await;
}

#[tokio::test]
async fn survival_is_as_predicted_when_the_agent_restarts_again_and_again() {
    check(Kind::Restarts).await;
}

#[tokio::test]
async fn survival_is_as_predicted_when_the_clock_steps() {
    check(Kind::ClockAhead).await;
    check(Kind::ClockBack).await;
}

#[tokio::test]
async fn a_step_of_the_clock_has_everything_asked_for_again() {
    let f = Fixture::new();
    f.api.x509.send(f.ca.update("/web"));
    let source = f.builder().build().await.unwrap();
    let minute = Duration::from_secs(60);
    // Without a step the stream stays as it is.
    f.clock.pass(minute).await;
    f.clock.somebody_waits(minute).await;
    assert_eq!(f.api.calls().len(), 1);
    for (calls, ahead) in [(2, true), (3, false)] {
        if ahead {
            f.clock.set_ahead(HOUR / 2);
        } else {
            f.clock.set_back(HOUR);
        }
        f.clock.pass(minute).await;
        f.api.called(calls).await;
        until(|| f.api.x509.readers() == 1).await;
    }
    assert_eq!(source.svid().unwrap().id().path(), "/web");
}

/// As of a machine that slept for longer than the grace.
#[tokio::test]
async fn a_step_beyond_the_end_of_a_grace_withdraws_at_once() {
    let f = Fixture::new();
    f.api.x509.send(f.ca.update("/web"));
    let source = f.builder().withdrawal_grace(GRACE);
    let source = source.build().await.unwrap();
    let held = source.current().revision();
    f.api.x509.fail(Status::permission_denied("gone"));
    let is_denied = || {
        let survival = source.survives_until().unwrap();
        *survival.ends() == Ends::Withdrawal
    };
    until(is_denied).await;
    f.clock.set_ahead(GRACE + SECOND);
    f.clock.pass(SECOND).await;
    source.changed(held).await;
    assert!(source.svid().is_err());
    assert!(source.survives_until().is_none());
}

fn last_good(f: &Fixture, name: &str) -> LastGood {
    let directory = f.place.path();
    let directory = directory.parent().unwrap();
    LastGood::in_files(directory.join(name), directory.join("key")).unwrap()
}

#[tokio::test]
async fn a_restart_during_an_outage_comes_up_with_what_is_still_valid() {
    let mut f = Fixture::new();
    f.api.x509.send(f.ca.update("/web"));
    let first = f.builder().last_good(last_good(&f, "state"));
    let first = first.build().await.unwrap();
    first.shutdown().await;
    f.server = None;

    let second = || f.builder().last_good(last_good(&f, "state"));
    let restored = second().build().await.unwrap();
    assert_eq!(restored.svid().unwrap().id().path(), "/web");
    assert_eq!(restored.status().last_update, None);
    assert!(restored.status().last_error.is_some());
    assert_eq!(restored.survives_until().unwrap().until(), START + HOUR);
    // When it came is not known any more: its life of three hours counts from its beginning.
    let since = START;
    assert_eq!(restored.status().readiness, Readiness::Overdue { since });
    assert!(f.serves(&restored));
    restored.shutdown().await;

    // What has expired meanwhile does not come back, nor does what was copied.
    let path = f.place.path();
    let directory = path.parent().unwrap().to_owned();
    std::fs::copy(directory.join("state"), directory.join("copy")).unwrap();
    let copied = f.builder().last_good(last_good(&f, "copy"));
    assert!(copied.start().unwrap().svid().is_err());
    f.clock.advance(HOUR + SECOND);
    assert!(second().start().unwrap().svid().is_err());
}

#[tokio::test]
async fn withdrawal_erases_the_last_good_state() {
    let f = Fixture::new();
    f.api.x509.send(f.ca.update("/web"));
    let source = f.builder().last_good(last_good(&f, "state"));
    let source = source.build().await.unwrap();
    let path = f.place.path();
    let state = path.parent().unwrap().join("state");
    until(|| state.exists()).await;
    f.api.x509.fail(Status::permission_denied("gone"));
    source.changed(source.current().revision()).await;
    // The file goes first: whoever sees the withdrawal does not see the file any more.
    assert!(!state.exists());
    f.api.x509.send(f.ca.update("/back"));
    f.clock.pass(SECOND).await;
    until(|| state.exists()).await;
}

#[tokio::test]
async fn a_restart_within_the_grace_begins_no_other_one() {
    let f = Fixture::new();
    f.api.x509.send(f.ca.update("/web"));
    let start = || {
        let builder = f.builder().withdrawal_grace(GRACE);
        builder.last_good(last_good(&f, "state")).start().unwrap()
    };
    let first = start();
    first.ready(HOUR).await.unwrap();
    let path = f.place.path();
    let state = path.parent().unwrap().join("state");
    until(|| state.exists()).await;
    f.api.x509.fail(Status::permission_denied("gone"));
    until(|| first.survives_until().unwrap().ends() == &Ends::Withdrawal).await;
    // It serves until the grace is over, and nothing is left to come back to.
    assert!(f.serves(&first));
    assert!(!state.exists());
    first.shutdown().await;
    assert!(start().svid().is_err());

    // What is good again is kept again, and a restart has it.
    f.api.x509.send(f.ca.update("/back"));
    let third = start();
    third.ready(HOUR).await.unwrap();
    until(|| state.exists()).await;
    third.shutdown().await;
    f.api.x509.add(Answer::Hang);
    assert_eq!(start().svid().unwrap().id().path(), "/back");
}

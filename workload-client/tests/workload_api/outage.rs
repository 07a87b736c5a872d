//! What a source says about its survival, and what happens: every kind of outage, short and long, on a virtual clock.

use std::sync::Arc;
use std::time::Duration;

use spiffe_workload_client::source::{Ends, LastGood, Readiness, X509SourceBuilder};
use spiffe_workload_client::spiffe_core::crypto::aws_lc_rs;
use spiffe_workload_client::spiffe_core::verify::{PeerRole, X509Verifier};
use spiffe_workload_client::spiffe_core::{Clock, Source, Watch};
use spiffe_workload_client::{WorkloadApiClient, X509Source};
use tokio::net::UnixListener;
use tokio::task::JoinHandle;
use tonic::Status;

use crate::support::ca::{Ca, update};
use crate::support::clock::{START, VirtualClock};
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
    /// It accepts and says nothing.
    Hangs,
    /// It speaks something else.
    Nonsense,
    /// It comes back every few minutes, with nothing but UNAVAILABLE.
    Restarts,
    /// It answers late: the renewal comes when the outage is over.
    Slow,
}

struct Fixture {
    api: Arc<Api>,
    server: Option<Running>,
    impostor: Option<JoinHandle<()>>,
    clock: Arc<VirtualClock>,
    ca: Ca,
    place: Place,
}

impl Fixture {
    fn new() -> Self {
        let (api, place) = (Api::new(), Place::new());
        Self {
            server: Some(Running::start(&api, &place.path())),
            impostor: None,
            api,
            clock: Arc::new(VirtualClock::new()),
            ca: Ca::new("east.example"),
            place,
        }
    }

    fn builder(&self) -> X509SourceBuilder {
        let client = WorkloadApiClient::builder(self.place.endpoint())
            .clock(self.clock.clone())
            .deadline(Duration::from_secs(86_400));
        X509Source::builder().client(client.build())
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
        match kind {
            Kind::ClockAhead => self.clock.set_ahead(HOUR / 4),
            Kind::ClockBack => self.clock.set_back(HOUR / 4),
            Kind::Denies | Kind::DeniesThenClockAhead | Kind::DeniesThenClockBack => {
                self.api.x509.fail(Status::permission_denied("gone"));
            }
            Kind::Garbage => self.api.x509.send(update([])),
            Kind::Gone => self.server = None,
            Kind::Hangs => {
                self.server = None;
                self.impostor(false);
            }
            Kind::Nonsense => {
                self.server = None;
                self.impostor(true);
            }
            Kind::Restarts => self.api.x509.fail(Status::unavailable("starting")),
            // Nothing comes until it is over.
            Kind::Slow => {}
        }
    }

    /// Somebody else at the socket.
    fn impostor(&mut self, speaks: bool) {
        let listener = UnixListener::bind(self.place.path()).unwrap();
        self.impostor = Some(tokio::spawn(async move {
            let mut open = Vec::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                if speaks {
                    let _ = stream.try_write(b"220 mail.example ESMTP\r\n");
                } else {
                    open.push(stream);
                }
            }
        }));
    }

    async fn go_on(&mut self, kind: Kind) {
        match kind {
            Kind::Garbage => self.api.x509.send(update([])),
            Kind::Restarts => {
                self.server = None;
                self.server = Some(Running::start(&self.api, &self.place.path()));
            }
            _ => {}
        }
        tokio::task::yield_now().await;
    }

    /// The endpoint is well again, with a new SVID.
    async fn heal(&mut self, source: &X509Source) {
        let life = HOUR * 24;
        let svids = [self.ca.svid_until("/healed", self.clock.now() + life)];
        self.api.x509.send(update(svids));
        if let Some(impostor) = self.impostor.take() {
            impostor.abort();
            let _ = impostor.await;
            std::fs::remove_file(self.place.path()).unwrap();
        }
        if self.server.is_none() {
            self.server = Some(Running::start(&self.api, &self.place.path()));
        }
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

/// Lives through one outage, and compares what was predicted with what happens, second by second around the end.
async fn live_through(kind: Kind, duration: Duration) {
    let mut f = Fixture::new();
    let end = START + HOUR;
    f.api.x509.send(update([f.ca.svid_until("/web", end)]));
    let builder = f.builder().withdrawal_grace(GRACE);
    let source = builder.build().await.unwrap();
    let begun = f.clock.now();
    f.begin(kind);
    let is_denied = matches!(
        kind,
        Kind::Denies | Kind::DeniesThenClockAhead | Kind::DeniesThenClockBack
    );
    if is_denied {
        until(|| {
            let survival = source.survives_until();
            survival.is_some_and(|survival| *survival.ends() == Ends::Withdrawal)
        })
        .await;
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
    if is_denied {
        // It looks at the clocks whenever it is about to ask again.
        f.clock.pass(SECOND).await;
        f.api.called(2).await;
        f.clock.somebody_waits(SECOND * 30).await;
    }
    assert_eq!(
        source.survives_until().unwrap().until(),
        predicted,
        "{kind:?}"
    );

    let mut left = duration;
    while !left.is_zero() {
        // Close to the end every second is looked at.
        let to_end = predicted.saturating_since(f.clock.now());
        let is_close = f.clock.now() <= predicted + SECOND * 3 && to_end <= SECOND * 3;
        let step = if is_close {
            SECOND
        } else {
            to_end
                .saturating_sub(SECOND * 2)
                .clamp(SECOND, SECOND * 200)
        };
        let step = step.min(left);
        left -= step;
        f.clock.advance(step);
        f.go_on(kind).await;
        let now = f.clock.now();
        if is_denied && now >= predicted {
            until(|| source.svid().is_err()).await;
            assert!(source.survives_until().is_none());
            continue;
        }
        assert_eq!(f.serves(&source), now <= predicted, "{kind:?} at {now}");
        let survival = source.survives_until().unwrap();
        assert_eq!(survival.until(), predicted, "{kind:?} at {now}");
        let expired = matches!(source.status().readiness, Readiness::Expired { .. });
        assert_eq!(expired, now > predicted, "{kind:?} at {now}");
    }
    f.heal(&source).await;
    assert!(f.serves(&source), "{kind:?}");
    assert!(source.survives_until().unwrap().until() > f.clock.now());
    until(|| source.status().is_ready()).await;
}

async fn check(kind: Kind) {
    for duration in DURATIONS {
        live_through(kind, duration).await;
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

//! Rollovers under load on the virtual clock, decided by a seed, with consumers that lag, die and lie.
//!
//! Some dozens here; `cargo xtask soak rollover` runs a thousand (`SPIFFE_ROLLOVERS`, `SPIFFE_SEED`).
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::time::Duration;

use spiffe_core::crypto::aws_lc_rs;
use spiffe_core::key::KeyType;
use spiffe_core::verify::{PeerRole, X509Verifier};
use spiffe_core::{
    Bundle, BundleSet, Clock, JwtVerifier, Random, SpiffeId, Timestamp, TrustDomain, X509Svid,
};
use spiffe_svid_ca::authority::{Action, Consumer, Evidence, Grade, Kind, Status};
use spiffe_svid_ca::error::{CaError, LifecycleError};
use spiffe_svid_ca::{JwtSvidParams, TrustDomainCa, X509SvidParams};
use spiffe_testkit::{SeededRandom, VirtualClock};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const MONTH: Duration = Duration::from_secs(30 * 86_400);

/// How often everybody takes a turn.
const STEP: Duration = Duration::from_secs(300);

/// Over how long the replacement of what a tainted authority signed is spread.
const REISSUE_OVER: Duration = Duration::from_secs(600);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Habit {
    /// Fetches the bundle at every turn and says so.
    Honest,
    /// Fetches it every 40 minutes, and says so.
    Lagging,
    /// Is gone for hours at times; whoever asks sees what it said last.
    Dying,
    /// Says that it has everything and presents nothing, and fetches the bundle by the refresh hint like anybody.
    Lying,
}

struct Workload {
    habit: Habit,
    params: X509SvidParams,
    svid: Option<X509Svid>,
    /// What it verifies with.
    bundle: Arc<Bundle>,
    next_fetch: Duration,
    dead_until: Duration,
}

impl Workload {
    fn is_alive(&self, monotonic: Duration) -> bool {
        self.dead_until <= monotonic
    }

    /// What can be presented now.
    fn presentable(&self, now: Timestamp) -> Option<&X509Svid> {
        self.svid
            .as_ref()
            .filter(|svid| svid.not_before() <= now && now <= svid.not_after())
    }

    fn says(&self) -> Consumer {
        let name = self.params.id.to_string();
        if self.habit == Habit::Lying {
            return Consumer::new(name, u64::MAX, Grade::Applied);
        }
        let signer = self.svid.iter().filter_map(|svid| svid.authority_key_id());
        let signer = signer.map(|id| id.iter().map(|byte| format!("{byte:02x}")).collect());
        let sequence = self.bundle.sequence().unwrap();
        Consumer::new(name, sequence, Grade::Delivered).presenting(signer)
    }
}

struct World {
    clock: Arc<VirtualClock>,
    random: SeededRandom,
    ca: TrustDomainCa,
    workloads: Vec<Workload>,
    x509: X509Verifier,
    jwt: JwtVerifier,
    /// The tainted authority, and since when.
    tainted: Option<(String, Duration)>,
    done: Done,
}

/// What happened.
#[derive(Debug, Default, PartialEq, Eq)]
struct Done {
    rollovers: usize,
    jwt_rollovers: usize,
    overruled: usize,
    tainted: usize,
    revoked: usize,
    revoked_by_force: usize,
    steps_of_the_clock: usize,
    verified: usize,
    /// Turns in which a workload that was alive had nothing to present.
    without_svid: usize,
}

impl World {
    async fn new(seed: u64) -> Self {
        let clock = Arc::new(VirtualClock::start(Timestamp::from_unix_seconds(
            1_795_000_000,
        )));
        let name = TrustDomain::parse("test.example").unwrap();
        let crypto = aws_lc_rs();
        let random = Arc::new(SeededRandom::new(seed));
        let ca = TrustDomainCa::builder_with(name, crypto.clone(), random)
            .authority_lifetime(HOUR * 6)
            .reissue_over(REISSUE_OVER)
            .build(clock.now())
            .await
            .unwrap();
        let habits = [
            Habit::Honest,
            Habit::Honest,
            Habit::Lagging,
            Habit::Dying,
            Habit::Dying,
            Habit::Lying,
        ];
        let workloads = habits.into_iter().enumerate().map(|(number, habit)| {
            let id = format!("spiffe://test.example/{habit:?}{number}").to_lowercase();
            Workload {
                habit,
                params: X509SvidParams::new(SpiffeId::parse(&id).unwrap()),
                svid: None,
                bundle: ca.bundle(),
                next_fetch: Duration::ZERO,
                dead_until: Duration::ZERO,
            }
        });
        Self {
            clock,
            random: SeededRandom::new(!seed),
            workloads: workloads.collect(),
            x509: X509Verifier::new(&*crypto),
            jwt: JwtVerifier::new(&*crypto),
            ca,
            tainted: None,
            done: Done::default(),
        }
    }

    /// One of so many.
    fn draw(&self, choices: u64) -> u64 {
        let mut bytes = [0; 8];
        self.random.fill(&mut bytes).unwrap();
        u64::from_be_bytes(bytes) % choices
    }

    async fn turn(&mut self) {
        self.clock.sleep(STEP).await;
        self.authorities().await;
        self.operator().await;
        for at in 0..self.workloads.len() {
            self.workload(at).await;
        }
        for _ in 0..3 {
            self.verify_one().await;
        }
    }

    fn evidence(&self) -> Evidence {
        Evidence::complete(self.workloads.iter().map(Workload::says))
    }

    async fn authorities(&mut self) {
        let evidence = self.evidence();
        let events = self.ca.tick(self.clock.now(), &evidence).await.unwrap();
        for event in events {
            match (event.kind, event.action) {
                (Kind::X509, Action::Activated { laggards, .. }) => {
                    self.done.rollovers += 1;
                    self.done.overruled += usize::from(!laggards.is_empty());
                }
                (Kind::Jwt, Action::Activated { .. }) => self.done.jwt_rollovers += 1,
                _ => {}
            }
        }
    }

    /// Taints an old authority now and then, and revokes it once the span of the re-issue is over and nobody presents what
    /// it signed; by force, when that takes hours.
    async fn operator(&mut self) {
        let (now, monotonic) = (self.clock.now(), self.clock.monotonic());
        let Some((id, since)) = self.tainted.clone() else {
            let state = self.ca.state();
            let mut old = state.slots(Kind::X509).iter();
            let old = old.find(|authority| authority.status() == Status::Old);
            if let Some(old) = old
                && self.draw(60) == 0
            {
                self.ca.taint(Kind::X509, old.id(), now).await.unwrap();
                self.tainted = Some((old.id().to_owned(), monotonic));
                self.done.tainted += 1;
            }
            return;
        };
        if monotonic < since + REISSUE_OVER + STEP * 2 {
            return;
        }
        let evidence = self.evidence();
        match self.ca.revoke(Kind::X509, &id, &evidence, false, now).await {
            Ok(_) => self.done.revoked += 1,
            Err(CaError::Lifecycle(LifecycleError::StillInUse { holders, .. })) => {
                if monotonic < since + HOUR * 2 {
                    return;
                }
                // Whom it breaks is known, and they are not there.
                let dead = self.workloads.iter().filter(|one| !one.is_alive(monotonic));
                let dead: Vec<_> = dead.map(|one| one.params.id.to_string()).collect();
                assert!(holders.iter().all(|holder| dead.contains(holder)));
                let forced = self.ca.revoke(Kind::X509, &id, &evidence, true, now).await;
                forced.unwrap();
                self.done.revoked_by_force += 1;
            }
            // Its time was over before the operator came.
            Err(CaError::Lifecycle(LifecycleError::Unknown { .. })) => {}
            Err(error) => panic!("{error}"),
        }
        self.tainted = None;
    }

    async fn workload(&mut self, at: usize) {
        let (now, monotonic) = (self.clock.now(), self.clock.monotonic());
        let dies = self.workloads[at].habit == Habit::Dying && self.draw(50) == 0;
        let hours = 1 + self.draw(5) as u32;
        let workload = &mut self.workloads[at];
        if !workload.is_alive(monotonic) {
            // Whoever comes back has nothing, and begins with what is newest.
            if workload.dead_until <= monotonic + STEP {
                workload.next_fetch = Duration::ZERO;
            }
            return;
        }
        if dies {
            workload.dead_until = monotonic + HOUR * hours;
            return;
        }
        if workload.next_fetch <= monotonic {
            workload.bundle = self.ca.bundle();
            workload.next_fetch = monotonic
                + match workload.habit {
                    Habit::Lagging => MINUTE * 40,
                    _ => STEP,
                };
        }
        let held = workload.presentable(now);
        if held.is_none_or(|svid| self.ca.renew_at(svid) <= now) {
            let issued = self
                .ca
                .issue_x509_svid(&workload.params, KeyType::EcP256, now);
            match issued.await {
                Ok(svid) => workload.svid = Some(svid),
                // A clock that was set back; what is held, if anything, serves on.
                Err(error) => assert!(error.to_string().contains("set the clock"), "{error}"),
            }
        }
        if workload.presentable(now).is_none() {
            self.done.without_svid += 1;
        }
    }

    /// One workload judges another's SVID, and a token of it, by the bundle that it has.
    async fn verify_one(&mut self) {
        let (now, monotonic) = (self.clock.now(), self.clock.monotonic());
        let (presenter, judge) = (self.draw(6) as usize, self.draw(6) as usize);
        let (presenter, judge) = (&self.workloads[presenter], &self.workloads[judge]);
        if !(presenter.is_alive(monotonic) && judge.is_alive(monotonic)) {
            return;
        }
        let Some(svid) = presenter.presentable(now) else {
            return;
        };
        let who = || {
            format!(
                "{now}: {} judged by {}",
                presenter.params.id, judge.params.id
            )
        };
        let bundles: BundleSet = [judge.bundle.clone()].into_iter().collect();
        self.x509
            .verify(svid.chain(), &bundles, now, PeerRole::Unspecified)
            .unwrap_or_else(|error| panic!("{}: {error}", who()));
        let params = JwtSvidParams::new(presenter.params.id.clone(), "db");
        if let Ok(issued) = self.ca.issue_jwt(&params, now).await {
            self.jwt
                .verify(&issued.token, "db", &bundles, now)
                .unwrap_or_else(|error| panic!("{}: token: {error}", who()));
        }
        self.done.verified += 1;
    }

    /// Somebody sets the clock; everybody who is alive notices at the next turn.
    fn step_clock(&mut self) {
        match self.draw(2) {
            0 => self.clock.step_back(HOUR),
            _ => self.clock.step_forward(MONTH),
        }
        for workload in &mut self.workloads {
            workload.next_fetch = Duration::ZERO;
        }
        self.done.steps_of_the_clock += 1;
    }
}

/// So many rollovers; the clock is set after every twentieth.
async fn roll(seed: u64, rollovers: usize) -> Done {
    let mut world = World::new(seed).await;
    let mut stepped = 0;
    while world.done.rollovers < rollovers {
        world.turn().await;
        if world.done.rollovers / 20 > stepped {
            stepped += 1;
            world.step_clock();
        }
    }
    world.done
}

fn from_environment(name: &str) -> Option<u64> {
    Some(std::env::var(name).ok()?.parse().unwrap())
}

#[tokio::test]
async fn no_verification_fails_while_authorities_follow_each_other_and_consumers_lag_die_and_lie() {
    let rollovers = from_environment("SPIFFE_ROLLOVERS").unwrap_or(48) as usize;
    let seed = from_environment("SPIFFE_SEED").unwrap_or(1);
    let done = roll(seed, rollovers).await;
    println!("seed {seed}: {done:?}");
    // All of it was there to fail on.
    assert!(done.verified >= rollovers * 30, "{done:?}");
    assert!(done.jwt_rollovers >= rollovers / 2, "{done:?}");
    assert!(
        done.overruled > 0 && done.overruled < rollovers / 2,
        "{done:?}"
    );
    assert!(done.revoked > 0 && done.tainted >= done.revoked, "{done:?}");
    assert!(done.steps_of_the_clock >= rollovers / 20 - 1, "{done:?}");
    // Nobody is without an SVID but for the hour that a clock was set back.
    assert!(
        done.without_svid <= done.steps_of_the_clock * 6 * 13,
        "{done:?}"
    );
}

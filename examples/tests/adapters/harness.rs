//! The test itself, over whatever serves and asks.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use spiffe_tls::spiffe_core::bundle::{X509Authorities, X509Authority};
use spiffe_tls::spiffe_core::verify::Revocations;
use spiffe_tls::spiffe_core::{Bundle, BundleSet, Clock, TrustDomain, X509Svid};
use spiffe_tls::{LeaseRules, Mtls, Policy, Publisher, Terms};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::support::{Domain, HandClock, revoking};

pub const SPREAD: Duration = Duration::from_secs(4);
const GRACE: Duration = Duration::from_secs(10);

/// How long SVIDs live, and how long those do that are to expire.
const LIFE: Duration = Duration::from_secs(36_000);
const SHORT_LIFE: Duration = Duration::from_secs(600);

/// Whom each side lets in.
const POLICIES: [&str; 2] = ["domain:west", "domain:east"];

/// What an adapter brings to the test.
pub trait Adapter {
    type Client: Ask;

    /// Serves `app` on a port of the system's choice.
    fn serve(mtls: Mtls, app: App) -> impl Future<Output = Running>;

    /// A client that dials there, with whatever pool the adapter has.
    fn client(mtls: Mtls, to: SocketAddr) -> Self::Client;
}

/// One request after another.
pub trait Ask: Clone + Send + Sync + 'static {
    /// What [`App::answer`] says to this path, or the error's text.
    fn ask(&self, path: &'static str) -> impl Future<Output = Result<String, String>> + Send;
}

pub struct Running {
    pub address: SocketAddr,
    /// How many connections are open.
    pub open: Box<dyn Fn() -> usize>,
    pub task: JoinHandle<()>,
}

/// The application: tells callers who they are, at once or when the test lets it.
#[derive(Clone, Debug)]
pub struct App {
    held: watch::Sender<usize>,
    released: watch::Sender<usize>,
}

impl App {
    pub fn new() -> Self {
        Self {
            held: watch::Sender::new(0),
            released: watch::Sender::new(0),
        }
    }

    pub async fn answer(self, path: String, peer: Option<String>) -> String {
        if path == "/hold" {
            let before = *self.released.borrow();
            self.held.send_modify(|held| *held += 1);
            let mut released = self.released.subscribe();
            released.wait_for(|now| *now != before).await.unwrap();
        }
        peer.unwrap_or_else(|| "nobody".into())
    }

    fn release(&self) {
        self.released.send_modify(|released| *released += 1);
    }
}

/// What takes trust away, and on which side: that of the server is 0, that of the client 1.
#[derive(Clone, Copy, Debug)]
pub struct Loss(pub Cause, pub usize);

/// All but the last two are about the other side's SVID.
#[derive(Clone, Copy, Debug)]
pub enum Cause {
    Bundle,
    Tainted,
    Revoked,
    Policy,
    /// This side's own SVID is withdrawn.
    Withdrawn,
    /// This side's own SVID expires, and no newer one comes.
    Expired,
}

const CAUSES: [Cause; 6] = [
    Cause::Bundle,
    Cause::Tainted,
    Cause::Revoked,
    Cause::Policy,
    Cause::Withdrawn,
    Cause::Expired,
];

pub struct World {
    clock: HandClock,
    /// The authorities that sign, by trust domain: the server's, the client's, as everything below.
    domains: [Domain; 2],
    sources: [Publisher; 2],
    terms: [Terms; 2],
    svids: [Arc<X509Svid>; 2],
}

impl World {
    pub fn new() -> Self {
        let domains = [Domain::new("east"), Domain::new("west")];
        let svids = [0, 1].map(|side| svid(&domains, side, LIFE));
        let world = Self {
            clock: HandClock::default(),
            sources: [Publisher::new(), Publisher::new()],
            terms: POLICIES.map(|policy| Terms::new(policy.parse::<Policy>().unwrap())),
            domains,
            svids,
        };
        for terms in &world.terms {
            terms.refuse_tainted(true);
        }
        world.publish(&world.bundles());
        world
    }

    pub fn mtls(&self, side: usize) -> Mtls {
        Mtls::new(&self.sources[side], self.terms[side].clone())
            .clock(Arc::new(self.clock.clone()))
            .lease_rules(LeaseRules::drain(SPREAD, GRACE))
    }

    fn bundles(&self) -> BundleSet {
        self.domains.iter().map(Domain::bundle).collect()
    }

    fn publish(&self, bundles: &BundleSet) {
        for side in [0, 1] {
            self.publish_to(side, bundles.clone());
        }
    }

    fn publish_to(&self, side: usize, bundles: BundleSet) {
        self.sources[side]
            .publish([self.svids[side].clone()], bundles)
            .unwrap();
    }

    /// New SVIDs on both sides, of the authorities that sign now.
    fn rotate(&mut self) {
        let from_now = self.clock.monotonic() + LIFE;
        self.svids = [0, 1].map(|side| svid(&self.domains, side, from_now));
    }

    pub fn take(&self, Loss(cause, side): Loss) {
        let (own, other) = (&self.domains[side], &self.domains[1 - side]);
        match cause {
            Cause::Bundle => self.publish_to(side, [own.bundle()].into_iter().collect()),
            Cause::Tainted => {
                let authority = X509Authority::from_der(other.certificate()).unwrap();
                let tainted = [authority.into_tainted()].into_iter().collect();
                let tainted = bundle(other, tainted);
                self.publish_to(side, [own.bundle(), tainted].into_iter().collect());
            }
            Cause::Revoked => {
                self.terms[side].revoke(revoking(other, self.svids[1 - side].serial()));
            }
            Cause::Policy => {
                let nobody = "id:spiffe://elsewhere/nobody".parse::<Policy>().unwrap();
                self.terms[side].authorize(nobody);
            }
            Cause::Withdrawn => {
                self.sources[side].publish([], self.bundles()).unwrap();
            }
            Cause::Expired => self.clock.advance(SHORT_LIFE + Duration::from_secs(1)),
        }
    }

    /// Everything is good, and what is to be taken next can be.
    fn give_back(&mut self, Loss(cause, side): Loss) {
        for (terms, policy) in self.terms.iter().zip(POLICIES) {
            terms.authorize(policy.parse::<Policy>().unwrap());
            terms.revoke(Revocations::default());
        }
        self.rotate();
        if let Cause::Expired = cause {
            let soon = self.clock.monotonic() + SHORT_LIFE;
            self.svids[side] = svid(&self.domains, side, soon);
        }
        // Sessions are not resumed under other bundles. One that is rests on the SVIDs that it began with, and what is taken
        // may be about those of now.
        let stranger = Domain::new("stranger");
        let all = self.domains.iter().chain([&stranger]);
        self.publish(&all.map(Domain::bundle).collect());
    }

    /// Lets everybody see what happened, and time pass.
    pub async fn pass(&self, span: Duration) {
        settle().await;
        self.clock.advance(span);
        settle().await;
    }
}

/// The SVID of a side, valid until so long after the start.
fn svid(domains: &[Domain; 2], side: usize, until: Duration) -> Arc<X509Svid> {
    let until = i64::try_from(until.as_secs()).unwrap();
    Arc::new(domains[side].svid(["server", "client"][side], until))
}

/// A bundle of these authorities.
fn bundle(of: &Domain, authorities: X509Authorities) -> Bundle {
    Bundle::new(TrustDomain::parse(&of.name).unwrap()).with_x509_authorities(authorities)
}

/// The whole test.
pub async fn check<A: Adapter>() {
    let mut world = World::new();
    let app = App::new();
    let running = A::serve(world.mtls(0), app.clone()).await;
    let client = A::client(world.mtls(1), running.address);
    // Who asks is known to whoever answers.
    assert_eq!(client.ask("/").await.unwrap(), "spiffe://west/client");

    nothing_fails_while_anything_rotates::<A>(&mut world, &client, &running, &app).await;
    what_still_stands_goes_on(&world, &client, &app).await;
    for cause in CAUSES {
        for side in [0, 1] {
            let loss = Loss(cause, side);
            world.give_back(loss);
            what_is_under_way_finishes(&world, &client, &running, &app, loss).await;
            world.give_back(loss);
            what_does_not_finish_is_cut(&world, &client, &running, &app, loss).await;
        }
    }
    world.give_back(Loss(Cause::Bundle, 0));
    client.ask("/").await.unwrap();
    running.task.abort();
}

async fn nothing_fails_while_anything_rotates<A: Adapter>(
    world: &mut World,
    client: &A::Client,
    running: &Running,
    app: &App,
) {
    let load = Load::start(client);
    for _ in 0..10 {
        world.rotate();
        world.publish(&world.bundles());
        load.more(8).await;
        // A new client begins with a new handshake.
        A::client(world.mtls(1), running.address)
            .ask("/")
            .await
            .unwrap();
    }
    // A rollover: both authorities, then SVIDs of the new one.
    let old = std::mem::replace(
        &mut world.domains,
        [Domain::new("east"), Domain::new("west")],
    );
    let both: BundleSet = old
        .iter()
        .zip(&world.domains)
        .map(|(old, new)| both(old, new))
        .collect();
    world.publish(&both);
    load.more(8).await;
    world.rotate();
    world.publish(&both);
    load.more(8).await;
    load.stop().await;
    // Then without the old: connections that rest on it end, once what is under way is done.
    let held = hold(client, app).await;
    world.publish(&world.bundles());
    world.pass(SPREAD).await;
    app.release();
    assert_eq!(held.await.unwrap().unwrap(), "spiffe://west/client");
    for _ in 0..8 {
        client.ask("/").await.unwrap();
    }
    world.pass(GRACE).await;
    client.ask("/").await.unwrap();
}

/// The authorities keep their keys and get new certificates: whether a connection still stands, only its peer's chain
/// can tell.
async fn what_still_stands_goes_on(world: &World, client: &impl Ask, app: &App) {
    let held = hold(client, app).await;
    let renewed = world.domains.iter().map(|domain| {
        let certificates = [domain.renewed()];
        bundle(domain, X509Authorities::from_certificates(certificates))
    });
    world.publish(&renewed.collect());
    world.pass(Duration::ZERO).await;
    world.pass(SPREAD).await;
    world.pass(GRACE).await;
    app.release();
    let answered = bounded(held).await.unwrap();
    assert_eq!(answered.as_deref(), Ok("spiffe://west/client"));
    client.ask("/").await.unwrap();
}

async fn what_is_under_way_finishes(
    world: &World,
    client: &impl Ask,
    running: &Running,
    app: &App,
    loss: Loss,
) {
    // Everything is good before, and this takes a connection of its own where the last row has ended all.
    client.ask("/").await.unwrap();
    let held = hold(client, app).await;
    // Without multiplexing this takes a second connection, which is idle from now on and must not be used again.
    client.ask("/").await.unwrap();
    world.take(loss);
    world.pass(Duration::ZERO).await;
    world.pass(SPREAD).await;
    let refused = client.ask("/").await;
    assert!(refused.is_err(), "{loss:?}: {refused:?}");
    app.release();
    let answered = bounded(held).await.unwrap();
    assert_eq!(answered.as_deref(), Ok("spiffe://west/client"), "{loss:?}");
    world.pass(GRACE).await;
    until(|| (running.open)() == 0, loss).await;
}

async fn what_does_not_finish_is_cut(
    world: &World,
    client: &impl Ask,
    running: &Running,
    app: &App,
    loss: Loss,
) {
    client.ask("/").await.unwrap();
    let held = hold(client, app).await;
    world.take(loss);
    world.pass(Duration::ZERO).await;
    world.pass(SPREAD).await;
    assert!(!held.is_finished(), "{loss:?}");
    world.pass(GRACE).await;
    let cut = bounded(held).await.unwrap();
    assert!(cut.is_err(), "{loss:?}: {cut:?}");
    until(|| (running.open)() == 0, loss).await;
    app.release();
}

/// A request that is under way when this returns.
async fn hold(client: &impl Ask, app: &App) -> JoinHandle<Result<String, String>> {
    let mut held = app.held.subscribe();
    let before = *held.borrow_and_update();
    let asking = client.clone();
    let task = tokio::spawn(async move { asking.ask("/hold").await });
    bounded(held.wait_for(|now| *now > before)).await.unwrap();
    task
}

/// The authorities of both.
fn both(old: &Domain, new: &Domain) -> Bundle {
    let certificates = [old.certificate(), new.certificate()];
    bundle(new, X509Authorities::from_certificates(certificates))
}

/// Requests from several tasks, none of which may fail.
struct Load {
    stop: Arc<AtomicBool>,
    answered: watch::Sender<usize>,
    failed: Arc<AtomicUsize>,
    tasks: Vec<JoinHandle<()>>,
}

impl Load {
    fn start(client: &impl Ask) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let answered = watch::Sender::new(0);
        let failed = Arc::new(AtomicUsize::new(0));
        let tasks = (0..4).map(|_| {
            let (client, stop) = (client.clone(), stop.clone());
            let (answered, failed) = (answered.clone(), failed.clone());
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    if let Err(error) = client.ask("/").await {
                        eprintln!("failed: {error}");
                        failed.fetch_add(1, Ordering::Relaxed);
                    }
                    answered.send_modify(|answered| *answered += 1);
                }
            })
        });
        Self {
            tasks: tasks.collect(),
            stop,
            answered,
            failed,
        }
    }

    /// Waits for so many more answers.
    async fn more(&self, answers: usize) {
        let mut answered = self.answered.subscribe();
        let until = *answered.borrow_and_update() + answers;
        bounded(answered.wait_for(|now| *now >= until))
            .await
            .unwrap();
    }

    async fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            bounded(task).await.unwrap();
        }
        assert!(*self.answered.borrow() > 0);
        assert_eq!(self.failed.load(Ordering::Relaxed), 0);
    }
}

/// Lets every task that can run do so.
async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

/// Waits for what other tasks bring about.
async fn until(is_so: impl Fn() -> bool, loss: Loss) {
    let waiting = async {
        while !is_so() {
            tokio::task::yield_now().await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, waiting).await;
    assert!(waited.is_ok(), "{loss:?}");
}

async fn bounded<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future).await.unwrap()
}

/// After so long a test that hangs is failed.
const PATIENCE: Duration = Duration::from_secs(60);

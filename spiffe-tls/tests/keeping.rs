//! Leases under awkward circumstances: trust that changes while a verdict is being found, authorizers that panic, runtimes
//! that end, clocks that drift, and changes without end.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::fmt;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use spiffe_tls::spiffe_core::bundle::X509Authorities;
use spiffe_tls::spiffe_core::{BundleSet, Denied, PeerFacts};
use spiffe_tls::{
    Acceptor, Authorizer, Connector, HandshakeError, LeaseEnd, LeaseOver, LeaseRules, Mtls, Policy,
    Publisher, Terms, TlsStream,
};
use support::*;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf};

type Stream = TlsStream<DuplexStream>;

/// A decision that the test makes anew for each call.
#[derive(Clone)]
struct Hook(Arc<Decide>);

type Decide = dyn Fn(&PeerFacts<'_>) -> Result<(), Denied> + Send + Sync;

impl fmt::Debug for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hook")
    }
}

impl Authorizer for Hook {
    fn authorize(&self, peer: &PeerFacts<'_>) -> Result<(), Denied> {
        (self.0)(peer)
    }
}

impl Hook {
    fn new(act: impl Fn(&PeerFacts<'_>) -> Result<(), Denied> + Send + Sync + 'static) -> Self {
        Self(Arc::new(act))
    }
}

/// A server whose leases are watched, and clients of one trust domain that end nothing.
struct World {
    clock: HandClock,
    domain: Domain,
    server: Publisher,
}

impl World {
    fn new() -> Self {
        let domain = Domain::new("east");
        Self {
            clock: HandClock::default(),
            server: Publisher::fixed([domain.svid("server", 3000)], bundles(&[&domain])),
            domain,
        }
    }

    fn acceptor(&self, terms: impl Into<Terms>, rules: LeaseRules) -> Acceptor {
        Mtls::new(&self.server, terms)
            .clock(Arc::new(self.clock.clone()))
            .lease_rules(rules)
            .acceptor()
            .unwrap()
    }

    fn client(&self, path: &str) -> Connector {
        let source = Publisher::fixed([self.domain.svid(path, 600)], bundles(&[&self.domain]));
        Mtls::new(&source, policy("domain:east"))
            .clock(Arc::new(HandClock::default()))
            .lease_rules(LeaseRules::report())
            .connector()
            .unwrap()
    }

    /// The server's side of an open connection, then the client's.
    async fn open(&self, path: &str, acceptor: &Acceptor) -> (Stream, Stream) {
        let (near, far) = shake(&self.client(path), acceptor).await;
        (far.unwrap(), near.unwrap())
    }

    fn publish(&self, of: BundleSet) {
        publish(&self.server, &self.domain, of);
    }

    /// The same authority under another certificate: only the chain can tell.
    fn renewed(&self) -> BundleSet {
        let authorities = X509Authorities::from_certificates([self.domain.renewed()]);
        BundleSet::from_iter([self.domain.bundle().with_x509_authorities(authorities)])
    }
}

fn publish(server: &Publisher, domain: &Domain, of: BundleSet) {
    server
        .publish([Arc::new(domain.svid("server", 3000))], of)
        .unwrap();
}

fn policy(text: &str) -> Policy {
    text.parse().unwrap()
}

async fn settle() {
    for _ in 0..40 {
        tokio::task::yield_now().await;
    }
}

async fn reads(from: &mut Stream, to: &mut Stream) -> std::io::Result<()> {
    from.write_all(b"x").await.unwrap();
    from.flush().await.unwrap();
    to.read_exact(&mut [0]).await.map(drop)
}

fn over(error: &std::io::Error) -> LeaseEnd {
    LeaseOver::in_io(error)
        .unwrap_or_else(|| panic!("{error:?}"))
        .end
        .clone()
}

/// A task that tells whether it was woken.
#[derive(Default)]
struct Bell(AtomicBool);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl Bell {
    /// Whether it was woken since it was last asked.
    fn rang(&self) -> bool {
        self.0.swap(false, Ordering::SeqCst)
    }

    fn reads(self: &Arc<Self>, stream: &mut Stream) -> bool {
        let waker = Waker::from(self.clone());
        let mut context = Context::from_waker(&waker);
        let mut byte = [0];
        let mut buffer = ReadBuf::new(&mut byte);
        let polled = Pin::new(stream).poll_read(&mut context, &mut buffer);
        self.rang();
        polled.is_ready()
    }

    fn writes(self: &Arc<Self>, stream: &mut Stream) -> bool {
        let waker = Waker::from(self.clone());
        let mut context = Context::from_waker(&waker);
        // The peer reads nothing: the buffers of both ends are full before long.
        let mut polled = Pin::new(&mut *stream).poll_write(&mut context, &[0; 4096]);
        for _ in 0..100 {
            if polled.is_pending() {
                break;
            }
            polled = Pin::new(&mut *stream).poll_write(&mut context, &[0; 4096]);
        }
        self.rang();
        polled.is_ready()
    }
}

#[tokio::test]
async fn who_waits_is_woken_at_each_change_however_often_it_has_waited() {
    let world = World::new();
    let acceptor = world.acceptor(policy("domain:east"), LeaseRules::cut());
    let (mut far, _near) = world.open("client", &acceptor).await;
    let [reader, writer, next]: [Arc<Bell>; 3] = Default::default();
    for bundles in [world.renewed(), bundles(&[&world.domain]), world.renewed()] {
        assert!(!reader.reads(&mut far) && !writer.writes(&mut far));
        world.publish(bundles);
        settle().await;
        assert!(reader.rang() && writer.rang());
    }
    // Another task takes over, and the one before is not needed any more.
    assert!(!next.reads(&mut far) && !next.writes(&mut far));
    reader.rang();
    world.publish(bundles(&[]));
    settle().await;
    assert!(next.rang() && !reader.rang());
    assert!(matches!(
        over(&far.read(&mut [0]).await.unwrap_err()),
        LeaseEnd::Refused(_)
    ));
}

/// What the keeper and a connection do at the same time, step by step: each call of the authorizer tells of whom it was
/// asked, and waits where the test has left something to wait for.
#[derive(Clone, Default)]
struct Steps {
    next: Arc<Mutex<Option<Step>>>,
    asked: Arc<AtomicUsize>,
}

struct Step {
    asked: Sender<String>,
    goes_on: Option<Receiver<()>>,
}

impl Steps {
    fn hook(&self) -> Hook {
        let steps = self.clone();
        Hook::new(move |peer| {
            let step = steps.next.lock().unwrap().take();
            steps.asked.fetch_add(1, Ordering::SeqCst);
            if let Some(step) = step {
                step.asked.send(peer.id.path().to_owned()).unwrap();
                if let Some(goes_on) = step.goes_on {
                    goes_on.recv().unwrap();
                }
            }
            Ok(())
        })
    }

    /// Waits until a first connection has been asked about as often as its opening takes: by the handshake, when the lease
    /// is granted, and by the first look of the keeper.
    async fn opened(&self) {
        while self.asked.load(Ordering::SeqCst) < 3 {
            tokio::task::yield_now().await;
        }
    }

    /// The next call tells of whom it was asked.
    fn tell(&self) -> Receiver<String> {
        let (asked, told) = channel();
        let goes_on = None;
        *self.next.lock().unwrap() = Some(Step { asked, goes_on });
        told
    }

    /// The next call tells, and then waits.
    fn stop(&self) -> (Receiver<String>, Sender<()>) {
        let (asked, told) = channel();
        let (go, goes_on) = channel();
        let goes_on = Some(goes_on);
        *self.next.lock().unwrap() = Some(Step { asked, goes_on });
        (told, go)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_verdict_that_was_overtaken_by_a_change_lets_nothing_through() {
    for takes_away in [true, false] {
        let world = World::new();
        let steps = Steps::default();
        let acceptor = world.acceptor(steps.hook(), LeaseRules::cut());
        let (mut far, mut near) = world.open("client", &acceptor).await;
        steps.opened().await;
        let told = steps.tell();
        world.publish(world.renewed());
        told.recv().unwrap();
        // The look is over when its lock is free; the chain has to be judged now.
        far.peer().lease().revision();
        let (told, go) = steps.stop();
        let reading = tokio::spawn(async move {
            let read = reads(&mut near, &mut far).await;
            (read, near, far)
        });
        told.recv().unwrap();
        // The connection has verified the chain under the bundles of then; now they change, and the keeper looks.
        let looked = steps.tell();
        if takes_away {
            world.publish(bundles(&[&Domain::new("east")]));
        } else {
            world.publish(bundles(&[&world.domain]));
        }
        looked.recv().unwrap();
        go.send(()).unwrap();
        let (read, mut near, mut far) = reading.await.unwrap();
        if takes_away {
            let error = read.unwrap_err();
            assert!(matches!(over(&error), LeaseEnd::Refused(_)), "{error:?}");
        } else {
            read.unwrap();
            reads(&mut near, &mut far).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_look_by_bundles_of_before_ends_nothing_that_was_judged_since() {
    let world = World::new();
    let steps = Steps::default();
    let acceptor = world.acceptor(steps.hook(), LeaseRules::cut());
    let mut one = world.open("one", &acceptor).await;
    steps.opened().await;
    let mut two = world.open("two", &acceptor).await;
    // Both must be judged again.
    let (told, go) = steps.stop();
    world.publish(world.renewed());
    told.recv().unwrap();
    let (last, go_last) = steps.stop();
    go.send(()).unwrap();
    last.recv().unwrap();
    go_last.send(()).unwrap();
    for (far, _) in [&one, &two] {
        far.peer().lease().revision();
    }
    // The keeper stops while it looks at the first, whichever that is, by bundles without the trust domain.
    let (told, go) = steps.stop();
    world.publish(bundles(&[&Domain::new("other")]));
    let first = told.recv().unwrap();
    let (other, stopped) = if first == "/one" {
        (&mut two, &mut one)
    } else {
        (&mut one, &mut two)
    };
    // The other is judged under what came after.
    world.publish(bundles(&[&world.domain]));
    let (far, near) = other;
    reads(near, far).await.unwrap();
    go.send(()).unwrap();
    // The first was looked at when the trust domain was gone.
    let error = stopped.0.read(&mut [0]).await.unwrap_err();
    assert!(matches!(over(&error), LeaseEnd::Refused(_)), "{error:?}");
    reads(near, far).await.unwrap();
    assert_eq!(far.peer().lease().end(), None);
}

#[tokio::test]
async fn an_authorizer_that_panics_refuses() {
    let world = World::new();
    let panics = Arc::new(Mutex::new(false));
    let hook = Hook::new({
        let panics = panics.clone();
        move |peer| {
            let panics = *panics.lock().unwrap();
            assert!(!panics || peer.id.path() == "/good", "told to panic");
            Ok(())
        }
    });
    let acceptor = world.acceptor(hook, LeaseRules::cut());
    let mut all = Vec::new();
    for _ in 0..4 {
        all.push((true, world.open("good", &acceptor).await));
        all.push((false, world.open("bad", &acceptor).await));
    }
    settle().await;
    *panics.lock().unwrap() = true;
    world.publish(bundles(&[&world.domain, &Domain::new("other")]));
    settle().await;
    for (good, (far, near)) in &mut all {
        let read = reads(near, far).await;
        assert_eq!(read.is_ok(), *good);
    }
    let (_, far) = shake(&world.client("bad"), &acceptor).await;
    assert!(matches!(far.unwrap_err(), HandshakeError::Refused(_)));
    // Others are still looked after.
    world.publish(bundles(&[&Domain::new("other")]));
    settle().await;
    for (_, (far, near)) in &mut all {
        let error = reads(near, far).await.unwrap_err();
        assert!(matches!(over(&error), LeaseEnd::Refused(_)));
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

#[test]
fn a_connection_that_outlives_the_runtime_of_its_handshake_is_looked_after_on_its_next() {
    for taken_away in [true, false] {
        for waits in [true, false] {
            let world = World::new();
            let acceptor = world.acceptor(policy("domain:east"), LeaseRules::cut());
            let first = runtime();
            let (mut far, mut near) = first.block_on(async {
                let open = world.open("client", &acceptor).await;
                settle().await;
                open
            });
            let second = runtime();
            let reading = if waits {
                drop(first);
                let reading = second.spawn(async move { far.read(&mut [0]).await });
                second.block_on(settle());
                Some(reading)
            } else {
                drop(first);
                second.block_on(reads(&mut near, &mut far)).unwrap();
                Some(second.spawn(async move { far.read(&mut [0]).await }))
            };
            second.block_on(async {
                settle().await;
                if taken_away {
                    world.publish(bundles(&[&Domain::new("other")]));
                }
                settle().await;
                let reading = reading.unwrap();
                assert_eq!(reading.is_finished(), taken_away, "{waits}");
                if taken_away {
                    let error = reading.await.unwrap().unwrap_err();
                    assert!(matches!(over(&error), LeaseEnd::Refused(_)));
                } else {
                    // Expiry is looked after as well.
                    world.clock.advance(Duration::from_secs(601));
                    settle().await;
                    assert!(reading.is_finished());
                    let error = reading.await.unwrap().unwrap_err();
                    assert!(matches!(over(&error), LeaseEnd::Expired { .. }));
                }
            });
        }
    }
}

#[tokio::test]
async fn changes_without_end_leave_nothing_behind() {
    let world = World::new();
    let terms = Terms::new(policy("domain:east"));
    let acceptor = world.acceptor(terms.clone(), LeaseRules::default());
    let mut open = Vec::new();
    for _ in 0..8 {
        open.push(world.open("client", &acceptor).await);
    }
    // What an acceptor holds shows in its debug form.
    let mut sizes = Vec::new();
    for _ in 0..4 {
        for _ in 0..100 {
            terms.authorize(policy("domain:east"));
            settle().await;
            world.publish(world.renewed());
            settle().await;
            for (far, near) in &mut open {
                reads(near, far).await.unwrap();
            }
            world.publish(bundles(&[&world.domain]));
            settle().await;
            for (far, near) in &mut open {
                reads(near, far).await.unwrap();
            }
        }
        // The wakers that the clock holds are the test's own.
        world.clock.advance(Duration::ZERO);
        settle().await;
        sizes.push(format!("{acceptor:?}").len());
    }
    assert!(sizes[3] < sizes[0] + 2000, "{sizes:?}");
}

#[tokio::test]
async fn a_calendar_that_drifts_brings_expiry_forward() {
    let world = World::new();
    let acceptor = world.acceptor(policy("domain:east"), LeaseRules::default());
    let (far, _near) = world.open("client", &acceptor).await;
    settle().await;
    // Less than a step at a time, and much in sum: 560 s pass, of which the calendar makes 610.
    for _ in 0..56 {
        assert_eq!(far.peer().lease().end(), None);
        world.clock.set_forward(Duration::from_millis(900));
        world.clock.advance(Duration::from_secs(10));
        settle().await;
    }
    let end = far.peer().lease().end();
    assert!(matches!(end, Some(LeaseEnd::Expired { .. })), "{end:?}");
}

#[tokio::test]
async fn a_client_that_resumes_knows_as_whom_it_did() {
    for withdrawn in [true, false] {
        let world = World::new();
        let acceptor = world.acceptor(policy("domain:east"), LeaseRules::report());
        let source = Publisher::fixed([world.domain.svid("first", 600)], bundles(&[&world.domain]));
        let connector = Mtls::new(&source, policy("domain:east"))
            .clock(Arc::new(world.clock.clone()))
            .lease_rules(LeaseRules::cut())
            .connector()
            .unwrap();
        for _ in 0..2 {
            let (near, far) = shake(&connector, &acceptor).await;
            reads(&mut far.unwrap(), &mut near.unwrap()).await.unwrap();
        }
        let (near, far) = tokio::io::duplex(64 * 1024);
        let mut connecting = pin!(connector.connect(near));
        // The hello with the session is on its way when this side becomes somebody else.
        let mut context = Context::from_waker(Waker::noop());
        assert!(connecting.as_mut().poll(&mut context).is_pending());
        let next = if withdrawn { "second" } else { "first" };
        let svid = Arc::new(world.domain.svid(next, 600));
        source.publish([svid], bundles(&[&world.domain])).unwrap();
        let (near, far) = tokio::join!(connecting, acceptor.accept(far));
        let (near, far) = (near.unwrap(), far.unwrap());
        assert!(near.peer().is_resumed());
        assert_eq!(far.peer().id().path(), "/first");
        assert_eq!(near.peer().own_id().unwrap().path(), "/first");
        let end = near.peer().lease().end();
        assert_eq!(
            matches!(end, Some(LeaseEnd::OwnWithdrawn { .. })),
            withdrawn,
            "{end:?}"
        );
    }
}

/// One poll, by nobody who could be woken.
fn poll_read(stream: &mut Stream, byte: &mut [u8; 1]) -> Poll<std::io::Result<()>> {
    let mut context = Context::from_waker(Waker::noop());
    let mut buffer = ReadBuf::new(byte);
    Pin::new(stream).poll_read(&mut context, &mut buffer)
}

#[tokio::test]
async fn a_keeper_that_is_late_prolongs_no_grace() {
    let grace = Duration::from_secs(10);
    for past in [false, true] {
        let world = World::new();
        let terms = Terms::new(policy("domain:east"));
        let rules = LeaseRules::drain(Duration::ZERO, grace);
        let acceptor = world.acceptor(terms.clone(), rules);
        let (mut far, mut near) = world.open("client", &acceptor).await;
        terms.authorize(policy("domain:other"));
        far.peer().lease().over().await;
        near.write_all(b"x").await.unwrap();
        near.flush().await.unwrap();
        // From here on nothing but this task runs.
        world.clock.advance(if past {
            grace
        } else {
            grace - Duration::from_nanos(1)
        });
        let mut byte = [0];
        match poll_read(&mut far, &mut byte) {
            Poll::Ready(Ok(())) => assert!(!past && byte == *b"x"),
            Poll::Ready(Err(error)) => {
                assert!(past && matches!(over(&error), LeaseEnd::Refused(_)));
                assert_eq!(byte, [0]);
            }
            Poll::Pending => panic!("a byte is there"),
        }
    }
}

/// A transport that does something, once, while it is read from.
struct Meanwhile {
    inner: DuplexStream,
    act: Arc<Mutex<Option<Act>>>,
}

type Act = Box<dyn FnOnce() + Send>;

impl AsyncRead for Meanwhile {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let act = self.act.lock().unwrap().take();
        if let Some(act) = act {
            act();
        }
        Pin::new(&mut self.inner).poll_read(context, buffer)
    }
}

impl AsyncWrite for Meanwhile {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_flush(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_between_the_gate_and_the_wait_is_not_slept_through() {
    for takes_away in [true, false] {
        let world = World::new();
        let acceptor = world.acceptor(policy("domain:east"), LeaseRules::cut());
        let act = Arc::<Mutex<Option<Act>>>::default();
        let (near, inner) = tokio::io::duplex(64 * 1024);
        let far = Meanwhile {
            inner,
            act: act.clone(),
        };
        let client = world.client("client");
        let (near, far) = tokio::join!(client.connect(near), acceptor.accept(far));
        let (_near, mut far) = (near.unwrap(), far.unwrap());
        let lease = far.peer().lease().clone();
        let server = world.server.clone();
        let next = world.domain.svid("server", 3000);
        let trust = if takes_away {
            bundles(&[&Domain::new("other")])
        } else {
            bundles(&[&world.domain, &Domain::new("other")])
        };
        // The connection has passed the gate and does not wait yet: whom the keeper wakes now is nobody.
        *act.lock().unwrap() = Some(Box::new(move || {
            let revision = server.publish([Arc::new(next)], trust).unwrap();
            while lease.end().is_none() && lease.revision() < revision {
                std::thread::yield_now();
            }
        }));
        let mut byte = [0];
        let mut context = Context::from_waker(Waker::noop());
        let mut buffer = ReadBuf::new(&mut byte);
        match Pin::new(&mut far).poll_read(&mut context, &mut buffer) {
            Poll::Pending => assert!(!takes_away),
            Poll::Ready(Err(error)) => {
                assert!(takes_away && matches!(over(&error), LeaseEnd::Refused(_)));
            }
            Poll::Ready(Ok(())) => panic!("nothing was sent"),
        }
        assert!(act.lock().unwrap().is_none());
    }
}

#[test]
fn a_connection_whose_keeper_does_not_run_looks_by_itself() {
    let expiry = |world: &World| world.clock.advance(Duration::from_secs(601));
    let removal = |world: &World| world.publish(bundles(&[&Domain::new("other")]));
    let renewal = |world: &World| world.publish(world.renewed());
    let rotation = |world: &World| world.publish(bundles(&[&world.domain]));
    type Strike<'s> = (&'s dyn Fn(&World), bool);
    let strikes: [Strike<'_>; 4] = [
        (&expiry, true),
        (&removal, true),
        (&renewal, false),
        (&rotation, false),
    ];
    for (strike, ends) in strikes {
        for waited in [true, false] {
            let world = World::new();
            let acceptor = world.acceptor(policy("domain:east"), LeaseRules::cut());
            // It lives to the end of the test, and nobody drives it any more.
            let idle = runtime();
            let (mut far, mut near) = idle.block_on(async {
                let open = world.open("client", &acceptor).await;
                settle().await;
                open
            });
            runtime().block_on(async {
                reads(&mut near, &mut far).await.unwrap();
                if waited {
                    assert!(poll_read(&mut far, &mut [0]).is_pending());
                }
                strike(&world);
                let mut read = 0;
                let mut failed = None;
                while read < 256 && failed.is_none() {
                    failed = reads(&mut near, &mut far).await.err();
                    read += usize::from(failed.is_none());
                }
                assert_eq!(failed.is_some(), ends);
                assert!(!ends || read <= 128, "{read}");
            });
        }
    }
}

#[tokio::test]
async fn who_is_not_used_is_cut_after_a_second_and_never_reported() {
    for (rules, cuts) in [(LeaseRules::cut(), true), (LeaseRules::report(), false)] {
        let world = World::new();
        let acceptor = world.acceptor(policy("domain:east"), rules);
        let (mut far, mut near) = world.open("client", &acceptor).await;
        settle().await;
        let unused = async || {
            settle().await;
            world.clock.advance(Duration::from_secs(1));
            settle().await;
        };
        // Only the chain can tell.
        world.publish(world.renewed());
        settle().await;
        assert_eq!(far.peer().lease().end(), None);
        unused().await;
        if cuts {
            assert_eq!(far.peer().lease().end(), Some(LeaseEnd::NotJudged));
            assert!(reads(&mut near, &mut far).await.is_err());
            continue;
        }
        assert_eq!(far.peer().lease().end(), None);
        reads(&mut near, &mut far).await.unwrap();
        assert_eq!(far.peer().lease().end(), None);
        world.publish(bundles(&[&Domain::new("east")]));
        unused().await;
        assert_eq!(far.peer().lease().end(), None);
        reads(&mut near, &mut far).await.unwrap();
        let end = far.peer().lease().end();
        assert!(matches!(end, Some(LeaseEnd::Refused(_))), "{end:?}");
    }
}

#[tokio::test]
async fn a_grace_without_end_drains_and_never_cuts() {
    let world = World::new();
    let terms = Terms::new(policy("domain:east"));
    let forever = LeaseRules::drain(Duration::MAX, Duration::MAX);
    let acceptor = world.acceptor(terms.clone(), forever);
    // The first slot of a spread is its beginning.
    let (mut far, mut near) = world.open("client", &acceptor).await;
    let (other, _near) = world.open("client", &acceptor).await;
    terms.authorize(policy("domain:other"));
    let end = far.peer().lease().over().await;
    assert!(matches!(end, LeaseEnd::Refused(_)));
    for _ in 0..3 {
        world.clock.advance(Duration::from_secs(100 * 365 * 86_400));
        settle().await;
        reads(&mut near, &mut far).await.unwrap();
    }
    assert!(other.peer().lease().end().is_some());
    let mut over = pin!(other.peer().lease().over());
    let mut context = Context::from_waker(Waker::noop());
    assert!(over.as_mut().poll(&mut context).is_pending());
}

#[test]
fn an_own_svid_that_is_withdrawn_unseen_ends_a_connection_that_is_judged_again() {
    for touched in [false, true] {
        for withdrawn in [false, true] {
            let world = World::new();
            let acceptor = world.acceptor(policy("domain:east"), LeaseRules::cut());
            let idle = runtime();
            let (mut far, mut near) = idle.block_on(async {
                let open = world.open("client", &acceptor).await;
                settle().await;
                if touched {
                    world.publish(world.renewed());
                    settle().await;
                }
                open
            });
            runtime().block_on(async {
                let held = if withdrawn { "another" } else { "server" };
                world
                    .server
                    .publish([Arc::new(world.domain.svid(held, 3000))], world.renewed())
                    .unwrap();
                for _ in 0..64 {
                    if reads(&mut near, &mut far).await.is_err() {
                        break;
                    }
                }
            });
            let is_seen = matches!(
                far.peer().lease().end(),
                Some(LeaseEnd::OwnWithdrawn { .. })
            );
            assert_eq!(is_seen, withdrawn, "touched: {touched}");
        }
    }
}

/// A connection whose own end has more queued than the transport takes.
async fn queued(world: &World) -> (Stream, Stream) {
    let acceptor = world.acceptor(policy("domain:east"), LeaseRules::cut());
    let (near, far) = tokio::io::duplex(1024);
    let client = world.client("client");
    let (near, far) = tokio::join!(client.connect(near), acceptor.accept(far));
    let (near, mut far) = (near.unwrap(), far.unwrap());
    settle().await;
    assert_eq!(far.write(&[7; 8192]).await.unwrap(), 8192);
    (far, near)
}

#[tokio::test]
async fn a_task_that_shuts_down_is_woken_by_the_cut() {
    for cuts in [false, true] {
        let world = World::new();
        let (mut far, mut near) = queued(&world).await;
        let task = tokio::spawn(async move { far.shutdown().await });
        settle().await;
        assert!(!task.is_finished());
        if cuts {
            world.publish(bundles(&[&Domain::new("other")]));
            settle().await;
            assert!(task.is_finished());
        } else {
            let mut text = Vec::new();
            near.read_to_end(&mut text).await.unwrap();
            assert_eq!(text.len(), 8192);
        }
        task.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn what_is_queued_is_not_sent_unjudged_whoever_sends_it() {
    for is_flush in [true, false] {
        for same_key in [true, false] {
            let world = World::new();
            let (mut far, mut near) = queued(&world).await;
            // Only the peer's chain can tell whether it still leads to an authority.
            world.publish(if same_key {
                world.renewed()
            } else {
                bundles(&[&Domain::new("east")])
            });
            settle().await;
            let sends = async {
                let _ = if is_flush {
                    far.flush().await
                } else {
                    far.shutdown().await
                };
                drop(far);
            };
            let mut text = Vec::new();
            let _ = tokio::join!(sends, near.read_to_end(&mut text));
            let expected = if same_key { 8192 } else { 0 };
            assert_eq!(text.len(), expected, "flush: {is_flush}");
        }
    }
}

/// A task that runs where it is woken.
struct Inline(Mutex<Option<Stream>>);

impl Wake for Inline {
    fn wake(self: Arc<Self>) {
        if let Some(stream) = &mut *self.0.lock().unwrap() {
            let _ = poll_read(stream, &mut [0]);
        }
    }
}

#[test]
fn an_executor_may_run_a_task_where_it_is_woken() {
    let (done, is_done) = channel();
    std::thread::spawn(move || {
        runtime().block_on(async {
            let world = World::new();
            let terms = Terms::new(policy("domain:east"));
            let acceptor = world.acceptor(terms.clone(), LeaseRules::cut());
            let (far, _near) = world.open("client", &acceptor).await;
            settle().await;
            let task = Arc::new(Inline(Mutex::new(Some(far))));
            let waker = Waker::from(task.clone());
            {
                let mut held = task.0.lock().unwrap();
                let mut context = Context::from_waker(&waker);
                let mut byte = [0];
                let mut buffer = ReadBuf::new(&mut byte);
                let stream = Pin::new(held.as_mut().unwrap());
                assert!(stream.poll_read(&mut context, &mut buffer).is_pending());
            }
            terms.authorize(policy("domain:other"));
            settle().await;
            let far = task.0.lock().unwrap().take();
            done.send(far.unwrap().peer().lease().end().is_some())
                .unwrap();
        });
    });
    assert!(is_done.recv_timeout(Duration::from_secs(60)).unwrap());
}

#[test]
fn a_drain_begins_where_the_keeper_does_not_run() {
    let world = World::new();
    let rules = LeaseRules::drain(Duration::ZERO, Duration::from_secs(10));
    let terms = Terms::new(policy("domain:east"));
    let acceptor = world.acceptor(terms.clone(), rules);
    let idle = runtime();
    let (mut far, mut near) = idle.block_on(async {
        let open = world.open("client", &acceptor).await;
        settle().await;
        open
    });
    runtime().block_on(async {
        terms.authorize(policy("domain:other"));
        for _ in 0..64 {
            reads(&mut near, &mut far).await.unwrap();
        }
        let mut over = pin!(far.peer().lease().over());
        let mut context = Context::from_waker(Waker::noop());
        assert!(over.as_mut().poll(&mut context).is_ready());
    });
}

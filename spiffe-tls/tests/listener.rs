//! A listener goes on whatever its connections do to it: accepting rests while there are no descriptors, none is lost by
//! a failed handshake, those under way are bounded, and one that panics takes nobody with it.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::fs::{self, File};
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use spiffe_tls::rustls::ClientConnection;
use spiffe_tls::{Acceptor, Connector, HandshakeError, Listener, Mtls, Policy, Publisher};
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Descriptors are of the whole process, those of a runtime among them: the tests of this file run one after the other.
fn alone(test: impl Future<Output = ()>) {
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.unwrap().block_on(test);
}

struct World {
    clock: HandClock,
    acceptor: Acceptor,
    connector: Connector,
    /// A client's first words.
    hello: Vec<u8>,
}

impl World {
    fn new() -> Self {
        Self::with(|config| config)
    }

    fn with(adjust: impl Fn(Mtls) -> Mtls) -> Self {
        let (clock, east) = (HandClock::default(), Domain::new("east"));
        let source = Publisher::fixed([east.svid("x", 600)], bundles(&[&east]));
        let mtls =
            || Mtls::new(&source, "any".parse::<Policy>().unwrap()).clock(Arc::new(clock.clone()));
        let name = "server.invalid".try_into().unwrap();
        let mut client = ClientConnection::new(mtls().client_config().unwrap(), name).unwrap();
        let mut hello = Vec::new();
        client.write_tls(&mut hello).unwrap();
        Self {
            hello,
            acceptor: adjust(mtls()).acceptor().unwrap(),
            connector: mtls().connector().unwrap(),
            clock,
        }
    }

    async fn listen(&self) -> (Listener, SocketAddr) {
        let bound = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let listener = self.acceptor.listen(bound);
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    /// A peer that is as it should be is served next.
    async fn serves(&self, listener: &mut Listener) {
        let near = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        let (near, far) = tokio::join!(self.connector.connect(near), listener.accept());
        near.unwrap();
        far.unwrap().unwrap();
    }
}

/// Opens files until there is no descriptor left.
fn exhaust() -> Vec<File> {
    let mut held = Vec::new();
    loop {
        match File::open("/dev/null") {
            Ok(file) => held.push(file),
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(24), "EMFILE");
                return held;
            }
        }
    }
}

/// Lets others go on while `future` must not end.
async fn pends(future: impl Future + Unpin) {
    tokio::select! {
        biased;
        _ = future => panic!("it has ended"),
        () = tokio::task::yield_now() => {}
    }
}

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

/// RUSTSEC-2024-0376: an accept loop that ended with the first error of the system's.
#[test]
fn accepting_rests_while_there_are_no_descriptors_and_goes_on_when_there_are() {
    alone(async {
        let world = World::new();
        let (mut listener, address) = world.listen().await;
        world.serves(&mut listener).await;
        let near = TcpStream::connect(address).await.unwrap();
        // The keepers of both sides sleep already.
        while world.clock.sleepers() < 2 {
            tokio::task::yield_now().await;
        }
        let (before, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, 256, most).unwrap();
        let held = exhaust();
        {
            let mut accepting = pin!(listener.accept());
            // It tries once, and then sleeps instead of trying on and on.
            while world.clock.sleepers() < 3 {
                pends(&mut accepting).await;
            }
            for _ in 0..3 {
                world.clock.advance(Duration::from_millis(49));
                pends(&mut accepting).await;
                world.clock.advance(Duration::from_millis(1));
                pends(&mut accepting).await;
                assert_eq!(world.clock.sleepers(), 3);
            }
            drop(held);
            setrlimit(Resource::RLIMIT_NOFILE, before, most).unwrap();
            world.clock.advance(Duration::from_millis(50));
            let (near, far) = tokio::join!(world.connector.connect(near), accepting);
            near.unwrap();
            far.unwrap().unwrap();
        }
        world.serves(&mut listener).await;
    });
}

/// Cure53 SPI-01-006: a descriptor for each caller that failed.
#[test]
fn connections_that_come_to_nothing_leave_no_descriptor_behind() {
    alone(async {
        let world = World::new();
        let (mut listener, address) = world.listen().await;
        world.serves(&mut listener).await;
        let before = descriptors();
        for round in 0..4000 {
            let mut peer = TcpStream::connect(address).await.unwrap();
            match round % 4 {
                // It goes at once, with a reset, after nonsense, or in the middle of a hello.
                0 => {}
                1 => peer.set_zero_linger().unwrap(),
                2 => peer.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap(),
                _ => peer.write_all(&[22, 3, 1, 2, 0, 1, 0]).await.unwrap(),
            }
            drop(peer);
            let error = listener.accept().await.unwrap().map(drop).unwrap_err();
            assert!(
                matches!(error, HandshakeError::Io(_) | HandshakeError::Tls(_)),
                "{error}"
            );
        }
        world.serves(&mut listener).await;
        assert_eq!(descriptors(), before);
    });
}

/// What the documentation of `MAX_CONCURRENT_HANDSHAKES` says that one costs, with peers that fall silent after their
/// hello has been answered: by then a server holds the most.
#[test]
fn a_handshake_under_way_costs_little_memory() {
    const PEERS: usize = 400;
    alone(async {
        let world = World::new();
        let (mut listener, address) = world.listen().await;
        world.serves(&mut listener).await;
        let hello = world.hello.clone();
        let before = resident();
        let mut peers = Vec::new();
        let mut accepting = pin!(listener.accept());
        for _ in 0..PEERS {
            let mut peer = TcpStream::connect(address).await.unwrap();
            peer.write_all(&hello).await.unwrap();
            let mut answer = [0; 5];
            tokio::select! {
                ended = &mut accepting => panic!("{:?}", ended.map(drop)),
                read = peer.read_exact(&mut answer) => drop(read.unwrap()),
            }
            peers.push(peer);
        }
        let each = resident().saturating_sub(before) / PEERS;
        assert!(each < 32 * 1024, "{each} bytes");
    });
}

/// Bytes of memory that the process has in use.
fn resident() -> usize {
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

#[test]
fn no_more_handshakes_are_under_way_than_are_allowed() {
    alone(async {
        for (most, is_served) in [(2, false), (3, true)] {
            let world = World::new();
            let (listener, address) = world.listen().await;
            let mut listener = listener.max_concurrent_handshakes(most);
            let silent = [
                TcpStream::connect(address).await.unwrap(),
                TcpStream::connect(address).await.unwrap(),
            ];
            let near = TcpStream::connect(address).await.unwrap();
            let mut near = pin!(world.connector.connect(near));
            {
                let mut first = pin!(listener.accept());
                if is_served {
                    let (near, far) = tokio::join!(near, first);
                    near.unwrap();
                    far.unwrap().unwrap();
                    continue;
                }
                // The deadlines of the two silent peers and of the honest client.
                while world.clock.sleepers() < 3 {
                    pends(&mut first).await;
                    pends(&mut near).await;
                }
                // It waits in the system's queue until one of those before it is gone.
                for _ in 0..1000 {
                    pends(&mut first).await;
                    pends(&mut near).await;
                }
                assert_eq!(world.clock.sleepers(), 3);
                drop(silent);
                let gone = first.await.unwrap().map(drop).unwrap_err();
                assert!(matches!(gone, HandshakeError::Io(_)), "{gone}");
            }
            let served = async {
                loop {
                    if let Ok(stream) = listener.accept().await.unwrap() {
                        return stream;
                    }
                }
            };
            let (near, _) = tokio::join!(near, served);
            near.unwrap();
        }
    });
}

#[test]
fn a_handshake_that_panics_is_a_failed_one_and_no_other_is_lost() {
    alone(async {
        let panics = Arc::<AtomicBool>::default();
        let world = World::with(|config| {
            let panics = panics.clone();
            config.pick(move |svids, _| {
                assert!(!panics.load(Ordering::Relaxed), "by a hook of the caller's");
                svids.first()
            })
        });
        let (mut listener, address) = world.listen().await;
        world.serves(&mut listener).await;
        for _ in 0..3 {
            panics.store(true, Ordering::Relaxed);
            let near = TcpStream::connect(address).await.unwrap();
            let (near, far) = tokio::join!(world.connector.connect(near), listener.accept());
            near.unwrap_err();
            let error = far.unwrap().map(drop).unwrap_err();
            assert!(error.to_string().contains("panicked"), "{error}");
            panics.store(false, Ordering::Relaxed);
            world.serves(&mut listener).await;
        }
    });
}

//! What has gone wrong elsewhere, replayed: resumption after withdrawal, issuance across domains, hostile chains,
//! fragmented and silent peers, renegotiation, half-close, floods after the handshake, early data.
//!
//! Silent peers by the thousand are in `mtls.rs`, resumption after every kind of removal in `resumption.rs` and
//! `leases.rs`, wrong leaves of every kind in `refusals.rs`.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::client::Resumption;
use rustls::{ClientConfig, ClientConnection};
use spiffe_tls::spiffe_core::{BundleSet, Rule};
use spiffe_tls::{Acceptor, Connector, HandshakeError, Mtls, Policy, Publisher, rustls};
use support::*;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf};

fn mtls(source: &Publisher, clock: &HandClock) -> Mtls {
    Mtls::new(source, "any".parse::<Policy>().unwrap()).clock(Arc::new(clock.clone()))
}

struct World {
    clock: HandClock,
    east: Domain,
    source: Publisher,
    acceptor: Acceptor,
    connector: Connector,
}

impl World {
    fn new() -> Self {
        let (clock, east) = (HandClock::default(), Domain::new("east"));
        let source = Publisher::fixed([east.svid("x", 600)], bundles(&[&east]));
        Self {
            acceptor: mtls(&source, &clock).acceptor().unwrap(),
            connector: mtls(&source, &clock).connector().unwrap(),
            clock,
            east,
            source,
        }
    }

    /// After whatever has been tried, others are served.
    async fn serves(&self) {
        let (near, far) = shake(&self.connector, &self.acceptor).await;
        let (mut near, mut far) = (near.unwrap(), far.unwrap());
        far.write_all(b"x").await.unwrap();
        assert_eq!(near.read_u8().await.unwrap(), b'x');
    }

    fn plain(
        &self,
        adjust: impl Fn(&mut ClientConfig) + Send + Sync + 'static,
    ) -> Arc<ClientConfig> {
        mtls(&self.source, &self.clock)
            .danger_adjust_client_config(adjust)
            .client_config()
            .unwrap()
    }

    fn client_hello(&self) -> Vec<u8> {
        let name = "server.invalid".try_into().unwrap();
        let mut client = ClientConnection::new(self.plain(|_| {}), name).unwrap();
        let mut hello = Vec::new();
        client.write_tls(&mut hello).unwrap();
        hello
    }
}

/// spire#6715, CVE-2022-21654, CVE-2025-68121: a session outlives the trust that it began under.
#[tokio::test]
async fn resumption_after_removal_is_refused() {
    let world = World::new();
    world.serves().await;
    let before = world.source.load();
    let (near, far) = shake(&world.connector, &world.acceptor).await;
    assert!(near.unwrap().peer().is_resumed() && far.is_ok());
    world
        .source
        .publish(before.svids().to_vec(), BundleSet::new())
        .unwrap();
    let (near, far) = shake(&world.connector, &world.acceptor).await;
    assert_eq!(near.unwrap_err().rule(), Some(Rule::TrustDomainUnknown));
    assert!(far.is_err());
    world
        .source
        .publish(before.svids().to_vec(), before.bundles().clone())
        .unwrap();
    world.serves().await;
}

/// spiffe#26, spiffe#375, rustls-spiffe 0.3.1: an authority of one domain vouches for another's name.
#[tokio::test]
async fn cross_domain_issuance_is_refused_though_both_domains_are_trusted() {
    let world = World::new();
    let west = Domain::new("west");
    let svids = world.source.load().svids().to_vec();
    world
        .source
        .publish(svids, bundles(&[&world.east, &west]))
        .unwrap();
    for (svid, is_good) in [
        (west.svid("client", 600), true),
        (west.forge("spiffe://east/client", 600), false),
        (world.east.forge("spiffe://west/client", 600), false),
    ] {
        let client = Publisher::fixed([svid], bundles(&[&world.east]));
        let connector = mtls(&client, &world.clock).connector().unwrap();
        let (_, far) = shake(&connector, &world.acceptor).await;
        match far {
            Ok(_) => assert!(is_good),
            Err(error) => assert!(
                !is_good && error.rule() == Some(Rule::PathUntrusted),
                "{error}"
            ),
        }
    }
}

/// RUSTSEC-2024-0399: hellos in pieces, cut into records and into single bytes.
#[tokio::test]
async fn fragmented_hellos_are_put_together() {
    let world = World::new();
    for fragment in [32, 64, 1000] {
        let config = world.plain(move |config| config.max_fragment_size = Some(fragment));
        for step in [1, 7, usize::MAX] {
            let (near, far) = tokio::io::duplex(64 * 1024);
            let connector = tokio_rustls::TlsConnector::from(config.clone());
            let name = "server.invalid".try_into().unwrap();
            let near = connector.connect(name, Dribble { inner: near, step });
            let (near, far) = tokio::join!(near, world.acceptor.accept(far));
            near.unwrap();
            far.unwrap();
        }
    }
    // Every beginning of a hello, and nothing after it: no panic, no verdict, and an end.
    let hello = world.client_hello();
    for length in (0..hello.len()).step_by(13) {
        let (mut near, far) = tokio::io::duplex(64 * 1024);
        near.write_all(&hello[..length]).await.unwrap();
        near.shutdown().await.unwrap();
        let error = world.acceptor.accept(far).await.map(drop).unwrap_err();
        assert!(
            matches!(error, HandshakeError::Io(_) | HandshakeError::Tls(_)),
            "{error}"
        );
    }
    world.serves().await;
}

/// A peer that sends a byte a second has the same deadline as one that sends nothing.
#[tokio::test]
async fn a_thousand_slow_peers_are_given_up_at_the_deadline() {
    let world = World::new();
    let hello = world.client_hello();
    let begun = Arc::<AtomicUsize>::default();
    let mut slow = Vec::new();
    for _ in 0..1000 {
        let (mut near, far) = tokio::io::duplex(256);
        near.write_all(&hello[..20]).await.unwrap();
        let (acceptor, begun) = (world.acceptor.clone(), begun.clone());
        let waiting = tokio::spawn(async move {
            begun.fetch_add(1, Ordering::Relaxed);
            acceptor.accept(far).await.map(drop)
        });
        slow.push((near, waiting));
    }
    // Each has its deadline set before time passes.
    while begun.load(Ordering::Relaxed) < slow.len() {
        tokio::task::yield_now().await;
    }
    world.serves().await;
    for _ in 0..9 {
        world.clock.advance(Duration::from_secs(1));
        for (near, waiting) in &mut slow {
            near.write_all(&[0]).await.unwrap();
            assert!(!waiting.is_finished());
        }
    }
    world.clock.advance(Duration::from_secs(2));
    for (_, waiting) in slow {
        let error = waiting.await.unwrap().unwrap_err();
        assert!(matches!(error, HandshakeError::TimedOut { .. }), "{error}");
    }
    world.serves().await;
}

/// A message of the handshake that says it is 16 MiB long is refused at its head, not gathered.
#[tokio::test]
async fn a_handshake_message_without_end_is_not_gathered() {
    let world = World::new();
    let (mut near, far) = tokio::io::duplex(64 * 1024);
    let flood = async {
        // A record of 16 KiB of a ClientHello that claims 2^24 - 1 bytes, again and again.
        let mut record = vec![22, 3, 1, 0x40, 0, 1, 0xff, 0xff, 0xff];
        record.resize(5 + 0x4000, 0);
        let mut sent = 0;
        while near.write_all(&record).await.is_ok() {
            sent += record.len();
            assert!(sent < 1024 * 1024, "it is still listened to");
        }
    };
    let (ended, ()) = tokio::join!(world.acceptor.accept(far), flood);
    assert!(matches!(ended.map(drop), Err(HandshakeError::Tls(_))));
    world.serves().await;
}

/// One direction may end before the other, and an end that was not meant is told from one that was.
#[tokio::test]
async fn half_closed_connections_say_what_is_left_and_end() {
    let world = World::new();
    let (near, far) = shake(&world.connector, &world.acceptor).await;
    let (mut near, mut far) = (near.unwrap(), far.unwrap());
    near.write_all(b"last words").await.unwrap();
    near.shutdown().await.unwrap();
    let mut text = String::new();
    far.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "last words");
    far.write_all(b"heard").await.unwrap();
    far.shutdown().await.unwrap();
    let mut text = String::new();
    near.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "heard");
    // Without a close_notify the end is not meant: it is an error, and not an end of data.
    let (near, far) = shake(&world.connector, &world.acceptor).await;
    let (near, mut far) = (near.unwrap(), far.unwrap());
    drop(near);
    let error = far.read(&mut [0]).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    world.serves().await;
}

/// CVE-2026-32283, CVE-2026-56862: key updates without end.
#[tokio::test]
async fn key_updates_without_end_stop_nobody() {
    let world = World::new();
    let (near, far) = tokio::io::duplex(64 * 1024);
    let config = world.plain(|_| {});
    let connector = tokio_rustls::TlsConnector::from(config);
    let name = "server.invalid".try_into().unwrap();
    let (near, far) = tokio::join!(connector.connect(name, near), world.acceptor.accept(far));
    let (mut near, mut far) = (near.unwrap(), far.unwrap());
    let flood = async {
        for _ in 0..5000 {
            if near.get_mut().1.refresh_traffic_keys().is_err() || near.flush().await.is_err() {
                return;
            }
        }
        // Nothing of use was ever sent; the peer may have given up long since.
        let _ = near.shutdown().await;
    };
    let read = async {
        let mut text = Vec::new();
        let read = far.read_to_end(&mut text).await;
        assert!(text.is_empty());
        drop(far);
        read
    };
    let ((), _) = tokio::join!(flood, read);
    world.serves().await;
}

/// Data before the handshake is over could be replayed by anybody: no session allows it.
#[tokio::test]
async fn early_data_is_refused() {
    let world = World::new();
    let careless = mtls(&world.source, &world.clock)
        .danger_adjust_server_config(|config| {
            config.session_storage = rustls::server::ServerSessionMemoryCache::new(16);
            config.send_tls13_tickets = 1;
            config.max_early_data_size = 1000;
        })
        .server_config()
        .unwrap();
    for is_ours in [true, false] {
        let eager = world.plain(|config| {
            config.enable_early_data = true;
            config.resumption = Resumption::in_memory_sessions(16);
        });
        let (near, far) = tokio::io::duplex(64 * 1024);
        let client = async {
            let connector = tokio_rustls::TlsConnector::from(eager.clone());
            let name = "server.invalid".try_into().unwrap();
            let mut stream = connector.connect(name, near).await.unwrap();
            let mut text = Vec::new();
            stream.read_to_end(&mut text).await.unwrap();
            stream.get_ref().1.tls13_tickets_received()
        };
        let server = async {
            if is_ours {
                let mut stream = world.acceptor.accept(far).await.unwrap();
                stream.shutdown().await.unwrap();
            } else {
                let acceptor = tokio_rustls::TlsAcceptor::from(careless.clone());
                let mut stream = acceptor.accept(far).await.unwrap();
                stream.shutdown().await.unwrap();
            }
        };
        let (sessions, ()) = tokio::join!(client, server);
        assert!(sessions > 0);
        let name = "server.invalid".try_into().unwrap();
        let mut again = ClientConnection::new(eager, name).unwrap();
        assert_eq!(again.early_data().is_none(), is_ours);
    }
}

/// Writes at most so many bytes at once, and yields between.
struct Dribble {
    inner: DuplexStream,
    step: usize,
}

impl AsyncRead for Dribble {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(context, buffer)
    }
}

impl AsyncWrite for Dribble {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let some = &bytes[..bytes.len().min(self.step)];
        Pin::new(&mut self.inner).poll_write(context, some)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

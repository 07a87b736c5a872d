//! What has gone wrong elsewhere, replayed: resumption after withdrawal, issuance across domains, hostile chains,
//! fragmented and silent peers, renegotiation, half-close, floods after the handshake (key updates, tickets), early data.
//!
//! Silent peers by the thousand are in `mtls.rs`, resumption after every kind of removal in `resumption.rs` and
//! `leases.rs`, wrong leaves of every kind in `refusals.rs`.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::CertificateDer;
use rustls::server::{ClientHello, ProducesTickets, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{
    CipherSuite, ClientConfig, ClientConnection, ConnectionTrafficSecrets, ExtractedSecrets,
    ServerConfig, ServerConnection, SignatureScheme, SupportedProtocolVersion,
};
use spiffe_tls::spiffe_core::key::SvidKey;
use spiffe_tls::spiffe_core::{BundleSet, Rule, X509Svid};
use spiffe_tls::{
    Acceptor, Connector, HandshakeError, MAX_SESSIONS_PER_DESTINATION, Mtls, Policy, Publisher,
    Terms, TicketKeys, TlsStream, rustls,
};
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

/// spire#6715, CVE-2022-21654: a session outlives the trust that it began under.
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

/// CVE-2025-68121: a session that began under one clone of a configuration is taken to another, whose trust has changed.
#[tokio::test]
async fn a_session_of_one_clone_gets_nowhere_at_another_once_trust_is_gone() {
    let world = World::new();
    let before = world.source.load();
    for (rule, change) in [
        (None, &(|_: &Terms| {}) as &dyn Fn(&Terms)),
        (Some(Rule::NotAuthorized), &|terms| {
            terms.authorize("domain:west".parse::<Policy>().unwrap());
        }),
        (Some(Rule::TrustDomainUnknown), &|_| {
            let svids = before.svids().to_vec();
            world.source.publish(svids, BundleSet::new()).unwrap();
        }),
    ] {
        let terms = Terms::new("domain:east".parse::<Policy>().unwrap());
        let config = Mtls::new(&world.source, terms.clone())
            .clock(Arc::new(world.clock.clone()))
            .ticket_keys(&TicketKeys::new(&mut [7; 32]));
        let one = config.clone().acceptor().unwrap();
        let another = config.clone().acceptor().unwrap();
        let plain = config.server_config().unwrap();
        let plain = ServerConfig::clone(&plain);
        // A client that keeps its session, whatever happens.
        let client = Publisher::fixed([world.east.svid("client", 600)], before.bundles().clone());
        let eager = mtls(&client, &world.clock)
            .danger_adjust_client_config(|config| {
                config.resumption = Resumption::in_memory_sessions(16);
            })
            .client_config()
            .unwrap();
        let eager = tokio_rustls::TlsConnector::from(eager);
        let visit = async |acceptor: &Acceptor| {
            let (near, far) = tokio::io::duplex(64 * 1024);
            let client = async {
                let name = "server.invalid".try_into().unwrap();
                let mut stream = eager.connect(name, near).await.ok()?;
                stream.read_to_end(&mut Vec::new()).await.ok()
            };
            let server = async {
                let mut stream = acceptor.accept(far).await?;
                stream.write_all(b"hello").await.unwrap();
                stream.shutdown().await.unwrap();
                Ok::<_, HandshakeError>(stream.peer().is_resumed())
            };
            tokio::join!(client, server).1
        };
        assert!(!visit(&one).await.unwrap());
        assert!(visit(&another).await.unwrap());
        change(&terms);
        for acceptor in [&one, &another] {
            match (visit(acceptor).await, rule) {
                (Ok(is_resumed), None) => assert!(is_resumed),
                (Err(error), Some(_)) => assert_eq!(error.rule(), rule),
                (ended, _) => panic!("{rule:?}: {ended:?}"),
            }
        }
        // A clone of a plain configuration takes no session from anybody.
        assert!(!plain.ticketer.enabled() && !plain.session_storage.can_cache());
        let svids = before.svids().to_vec();
        world
            .source
            .publish(svids, before.bundles().clone())
            .unwrap();
    }
    world.serves().await;
}

/// RUSTSEC-2024-0336: close_notify in the middle of a handshake, before any of the peer's records and without end. Each
/// attempt ends, without help of the deadline.
#[tokio::test]
async fn close_notify_in_mid_handshake_ends_every_attempt() {
    let world = World::new();
    for version in [&TLS12, &TLS13] {
        let ends = || mtls(&world.source, &world.clock).versions(&[version]);
        for is_server in [true, false] {
            for (place, count) in [(usize::MAX, 0)]
                .into_iter()
                .chain((0..8).flat_map(|place| [(place, 1), (place, 1000)]))
            {
                let (near, middle_near) = tokio::io::duplex(64 * 1024);
                let (far, middle_far) = tokio::io::duplex(64 * 1024);
                let (from_near, to_near) = tokio::io::split(middle_near);
                let (from_far, to_far) = tokio::io::split(middle_far);
                let (is_over, was_put_in) = (Cell::new(false), Cell::new(false));
                let put_in = |is_from_peer: bool, number: usize| {
                    let puts = is_from_peer && number == place && !is_over.get();
                    was_put_in.set(was_put_in.get() || puts);
                    if puts { count } else { 0 }
                };
                let relays = async {
                    tokio::join!(
                        relay(from_near, to_far, |number| put_in(is_server, number)),
                        relay(from_far, to_near, |number| put_in(!is_server, number))
                    )
                };
                let connector = ends().connector().unwrap();
                let acceptor = ends().acceptor().unwrap();
                let client = async {
                    let ended = connector.connect(near).await.map(drop);
                    is_over.set(is_over.get() || !is_server);
                    ended
                };
                let server = async {
                    let ended = acceptor.accept(far).await.map(drop);
                    is_over.set(is_over.get() || is_server);
                    ended
                };
                let (client, server, _) = tokio::join!(client, server, relays);
                let ours = if is_server { server } else { client };
                // A few warnings may be passed over, RFC 5246 §7.2.2; not any number of them.
                match ours {
                    Ok(()) => assert!(!was_put_in.get() || count == 1),
                    Err(HandshakeError::Tls(_) | HandshakeError::PeerRefused(_)) => {
                        assert!(was_put_in.get())
                    }
                    Err(error) => panic!("{error}"),
                }
            }
        }
        // The function itself, as callers of a plain configuration use it.
        let mut wire = Wire::of([&world.client_hello()[..], &CLOSE_NOTIFY].concat());
        let mut server = ServerConnection::new(ends().server_config().unwrap()).unwrap();
        server.complete_io(&mut wire).unwrap_err();
        let mut wire = Wire::of(CLOSE_NOTIFY.to_vec());
        let name = "server.invalid".try_into().unwrap();
        let mut client = ClientConnection::new(ends().client_config().unwrap(), name).unwrap();
        client.complete_io(&mut wire).unwrap_err();
    }
    world.serves().await;
}

/// An alert of level warning in the clear: RFC 5246 §7.2.1.
const CLOSE_NOTIFY: [u8; 7] = [21, 3, 3, 0, 2, 1, 0];

/// Passes records on, each with as many close_notify before it as `put_in` says.
async fn relay(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    put_in: impl Fn(usize) -> usize,
) -> io::Result<()> {
    for number in 0.. {
        let mut record = vec![0; 5];
        if from.read_exact(&mut record).await.is_err() {
            break;
        }
        let length = u16::from_be_bytes([record[3], record[4]]);
        record.resize(5 + usize::from(length), 0);
        from.read_exact(&mut record[5..]).await?;
        to.write_all(&CLOSE_NOTIFY.repeat(put_in(number))).await?;
        to.write_all(&record).await?;
    }
    to.shutdown().await
}

/// What a peer sends, all at once and then nothing more; what it is sent is thrown away.
struct Wire(io::Cursor<Vec<u8>>);

impl Wire {
    fn of(sent: Vec<u8>) -> Self {
        Self(io::Cursor::new(sent))
    }
}

impl io::Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        io::Read::read(&mut self.0, buffer)
    }
}

impl io::Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
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
            let near = Dribble {
                step,
                ..Dribble::of(near)
            };
            let near = connector.connect(name, near);
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

/// CVE-2026-32283, CVE-2026-56862: key updates without end, from a peer that never reads what is answered.
#[tokio::test]
async fn key_updates_without_end_are_not_listened_to_and_their_answers_do_not_pile_up() {
    const MANY: usize = 5000;
    let world = World::new();
    for with_data in [false, true] {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let read = Arc::<AtomicUsize>::default();
        let near = Dribble {
            read: read.clone(),
            ..Dribble::of(near)
        };
        let connector = tokio_rustls::TlsConnector::from(world.plain(|_| {}));
        let name = "server.invalid".try_into().unwrap();
        let (near, far) = tokio::join!(connector.connect(name, near), world.acceptor.accept(far));
        let (mut near, mut far) = (near.unwrap(), far.unwrap());
        let flood = async {
            for _ in 0..MANY {
                near.get_mut().1.refresh_traffic_keys().unwrap();
                if with_data {
                    near.write_all(b"x").await.unwrap();
                }
                if near.flush().await.is_err() {
                    return near;
                }
            }
            near
        };
        let listen = async {
            let mut text = vec![0; MANY];
            match far.read_exact(&mut text).await {
                Ok(_) => Ok(far),
                Err(error) => Err(error),
            }
        };
        let (mut near, listened) = tokio::join!(flood, listen);
        match listened {
            // Nothing of use was sent.
            Err(error) => assert!(
                !with_data && error.kind() == io::ErrorKind::InvalidData,
                "{error}"
            ),
            Ok(mut far) => {
                assert!(with_data);
                far.write_all(b"y").await.unwrap();
                far.flush().await.unwrap();
                let before = read.load(Ordering::Relaxed);
                assert_eq!(near.read_u8().await.unwrap(), b'y');
                let answered = read.load(Ordering::Relaxed) - before;
                // Tickets and one answer; one to each would be 5000 of 27 bytes.
                assert!(answered < 8 * 1024, "{answered}");
            }
        }
        world.serves().await;
    }
}

/// CVE-2009-3555 and what follows from it: another handshake inside an established connection of TLS 1.2.
#[tokio::test]
async fn renegotiation_is_turned_down_once_and_then_ends_the_connection() {
    let world = World::new();
    let name = || "server.invalid".try_into().unwrap();
    // Our server, asked by a ClientHello.
    let (near, far) = tokio::io::duplex(64 * 1024);
    let client = world.raw(&TLS12).client_config().unwrap();
    let client = tokio_rustls::TlsConnector::from(client);
    let (near, far) = tokio::join!(client.connect(name(), near), world.acceptor.accept(far));
    let (io, client) = near.unwrap().into_inner();
    let peer = Raw::new(io, client.dangerous_extract_secrets().unwrap(), &TLS12);
    let hello = world.client_hello().split_off(5);
    is_asked_to_renegotiate(far.unwrap(), peer, &hello).await;
    world.serves().await;
    // Our client, asked by a HelloRequest.
    let (near, far) = tokio::io::duplex(64 * 1024);
    let server = world.raw(&TLS12).server_config().unwrap();
    let server = tokio_rustls::TlsAcceptor::from(server);
    let (near, far) = tokio::join!(world.connector.connect(near), server.accept(far));
    let (io, server) = far.unwrap().into_inner();
    let peer = Raw::new(io, server.dangerous_extract_secrets().unwrap(), &TLS12);
    is_asked_to_renegotiate(near.unwrap(), peer, &[0, 0, 0, 0]).await;
    world.serves().await;
}

async fn is_asked_to_renegotiate(mut ours: TlsStream<DuplexStream>, mut peer: Raw, ask: &[u8]) {
    let id = ours.peer().id().to_string();
    peer.send(DATA, b"before").await;
    let mut text = [0; 6];
    ours.read_exact(&mut text).await.unwrap();
    assert_eq!(&text, b"before");
    // Turned down by a warning, and the connection goes on as it was.
    peer.send(HANDSHAKE, ask).await;
    peer.send(DATA, b"behind").await;
    ours.read_exact(&mut text).await.unwrap();
    assert_eq!(&text, b"behind");
    ours.write_all(b"x").await.unwrap();
    ours.flush().await.unwrap();
    assert_eq!(peer.receive().await, (ALERT, vec![1, NO_RENEGOTIATION]));
    assert_eq!(peer.receive().await, (DATA, b"x".to_vec()));
    assert_eq!(ours.peer().id().to_string(), id);
    // Who insists has lost the connection, and nothing is taken any more.
    peer.send(HANDSHAKE, ask).await;
    peer.send(DATA, b"beyond").await;
    let error = ours.read(&mut text).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
    drop(peer);
    assert!(ours.read(&mut text).await.is_err());
    assert_eq!(&text, b"behind");
}

/// A server that sends tickets without end: the sessions that are kept stay few, and what comes after the first data is
/// not kept at all.
#[tokio::test]
async fn tickets_without_end_are_not_kept() {
    let world = World::new();
    for (before_data, after_data, kept) in [
        (3, 0, 3),
        (3000, 0, MAX_SESSIONS_PER_DESTINATION),
        (0, 3, 0),
        (0, 3000, 0),
        (3, 3000, 3),
    ] {
        let connector = mtls(&world.source, &world.clock).connector().unwrap();
        let (mut near, mut peer) = world.with_raw_server(&connector).await;
        for (tickets, byte) in [(before_data, b'x'), (after_data, b'y')] {
            let flood = async {
                peer.send_tickets(tickets).await;
                peer.send(DATA, &[byte]).await;
            };
            let ((), read) = tokio::join!(flood, near.read_u8());
            assert_eq!(read.unwrap(), byte);
        }
        let offered = world.sessions_offered(&connector).await;
        assert_eq!(offered, kept, "{before_data}, {after_data}");
    }
    world.serves().await;
}

/// TLS inside TLS: a ticket that arrives on the connection below, late, while a handshake above resumes a session, is
/// none of that session's.
#[tokio::test]
async fn a_late_ticket_is_not_taken_for_one_of_the_handshake_above() {
    let world = World::new();
    for is_late in [false, true] {
        let connector = mtls(&world.source, &world.clock).connector().unwrap();
        // The session that the handshake above resumes.
        let (near, far) = shake(&connector, &world.acceptor).await;
        far.unwrap().write_all(b"x").await.unwrap();
        near.unwrap().read_u8().await.unwrap();
        let (mut below, mut peer) = world.with_raw_server(&connector).await;
        if is_late {
            peer.send(DATA, b"x").await;
            below.read_u8().await.unwrap();
        }
        peer.send_tickets(1).await;
        let mut above = std::pin::pin!(connector.connect(below));
        let mut context = Context::from_waker(std::task::Waker::noop());
        assert!(above.as_mut().poll(&mut context).is_pending());
        let offered = world.sessions_offered(&connector).await;
        assert_eq!(offered, usize::from(!is_late));
    }
}

/// GnuTLS CVE-2024-28835, CVE-2018-16875: chains of hundreds of certificates, and of a megabyte.
#[tokio::test]
async fn chains_without_end_are_not_gathered_and_their_rest_is_not_looked_at() {
    let world = World::new();
    let certificate = world.east.certificate();
    let megabyte = 1024 * 1024 / certificate.len() + 1;
    let twin = Domain::new("east");
    for (domain, useless, expected) in [
        (&world.east, 3, Ok(())),
        (&world.east, 100, Ok(())),
        (&twin, 100, Err(Some(Rule::PathBadSignature))),
        (&world.east, megabyte, Err(None)),
    ] {
        for is_server in [false, true] {
            let (near, far) = tokio::io::duplex(64 * 1024);
            let shows = Arc::new(Shows::of(&domain.svid("peer", 600), &certificate, useless));
            let read = Arc::<AtomicUsize>::default();
            let ours = |inner| Dribble {
                read: read.clone(),
                ..Dribble::of(inner)
            };
            let name = "server.invalid".try_into().unwrap();
            let ended = if is_server {
                let shown = shows.clone();
                let config = mtls(&world.source, &world.clock)
                    .danger_adjust_server_config(move |config| config.cert_resolver = shown.clone())
                    .server_config()
                    .unwrap();
                let peer = tokio_rustls::TlsAcceptor::from(config);
                let ours = async { world.connector.connect(ours(near)).await.map(drop) };
                tokio::join!(ours, peer.accept(far)).0
            } else {
                let config = world.plain(move |config| {
                    config.client_auth_cert_resolver = shows.clone();
                });
                let peer = tokio_rustls::TlsConnector::from(config);
                let peer = async {
                    // Its handshake is over before ours has seen the chain, and it must go on to send it.
                    let mut peer = peer.connect(name, near).await.ok()?;
                    peer.flush().await.ok()?;
                    Some(peer)
                };
                let ours = async { world.acceptor.accept(ours(far)).await.map(drop) };
                tokio::join!(ours, peer).0
            };
            let read = read.load(Ordering::Relaxed);
            assert!(read < 128 * 1024, "{read} bytes were read");
            match (ended, expected) {
                (Ok(()), Ok(())) => {}
                (Err(HandshakeError::Refused(refusal)), Err(Some(rule))) => {
                    assert_eq!(Some(refusal.rule()), Some(rule));
                }
                (Err(HandshakeError::Tls(_)), Err(None)) => {}
                (ended, _) => panic!("{useless} useless certificates: {ended:?}"),
            }
            world.serves().await;
        }
    }
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

/// Shows a chain with useless certificates.
#[derive(Debug)]
struct Shows(Arc<CertifiedKey>);

impl Shows {
    fn of(svid: &X509Svid, useless: &CertificateDer<'static>, count: usize) -> Self {
        let SvidKey::Local(key) = svid.key() else {
            panic!("made with a local key")
        };
        let key = key.secret_der().clone_key().into();
        let key = default_provider()
            .key_provider
            .load_private_key(key)
            .unwrap();
        let chain = svid
            .chain()
            .iter()
            .chain(std::iter::repeat_n(useless, count));
        Self(Arc::new(CertifiedKey::new(chain.cloned().collect(), key)))
    }
}

impl ResolvesServerCert for Shows {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
}

impl ResolvesClientCert for Shows {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Counts the sessions that clients offer, and takes none.
#[derive(Debug, Default)]
struct Offers(AtomicUsize);

impl ProducesTickets for Offers {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        3600
    }

    fn encrypt(&self, _: &[u8]) -> Option<Vec<u8>> {
        None
    }

    fn decrypt(&self, _: &[u8]) -> Option<Vec<u8>> {
        self.0.fetch_add(1, Ordering::Relaxed);
        None
    }
}

impl World {
    /// A peer whose secrets can be taken out, and whose records are easy to make by hand.
    fn raw(&self, version: &'static SupportedProtocolVersion) -> Mtls {
        let mut provider = default_provider();
        provider.cipher_suites.retain(|suite| {
            matches!(
                suite.suite(),
                CipherSuite::TLS13_CHACHA20_POLY1305_SHA256
                    | CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256
            )
        });
        mtls(&self.source, &self.clock)
            .provider(Arc::new(provider))
            .versions(&[version])
            .danger_adjust_client_config(|config| config.enable_secret_extraction = true)
            .danger_adjust_server_config(|config| config.enable_secret_extraction = true)
    }

    /// A connection to a server whose records the test writes.
    async fn with_raw_server(&self, connector: &Connector) -> (TlsStream<DuplexStream>, Raw) {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let server = self.raw(&TLS13).server_config().unwrap();
        let server = tokio_rustls::TlsAcceptor::from(server);
        let near = connector.connect_to(DESTINATION.try_into().unwrap(), near);
        let (near, far) = tokio::join!(near, server.accept(far));
        let (io, server) = far.unwrap().into_inner();
        let secrets = server.dangerous_extract_secrets().unwrap();
        (near.unwrap(), Raw::new(io, secrets, &TLS13))
    }

    /// How many sessions the connector has for that server.
    async fn sessions_offered(&self, connector: &Connector) -> usize {
        let offers = Arc::<Offers>::default();
        let ticketer = offers.clone();
        let server = mtls(&self.source, &self.clock)
            .danger_adjust_server_config(move |config| config.ticketer = ticketer.clone())
            .server_config()
            .unwrap();
        let server = tokio_rustls::TlsAcceptor::from(server);
        for _ in 0..MAX_SESSIONS_PER_DESTINATION + 4 {
            let (near, far) = tokio::io::duplex(64 * 1024);
            let near = connector.connect_to(DESTINATION.try_into().unwrap(), near);
            let (near, far) = tokio::join!(near, server.accept(far));
            assert!(!near.unwrap().peer().is_resumed());
            far.unwrap();
        }
        offers.0.load(Ordering::Relaxed)
    }
}

const DESTINATION: &str = "raw.invalid";

const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const DATA: u8 = 23;
/// RFC 5246 §7.2.
const NO_RENEGOTIATION: u8 = 100;

/// One end of an established connection whose records the test makes and reads by itself: RFC 8446 §5.2, RFC 7905 §2.
struct Raw {
    io: DuplexStream,
    sends: Direction,
    receives: Direction,
}

struct Direction {
    key: LessSafeKey,
    iv: [u8; NONCE_LEN],
    sequence: u64,
    is_13: bool,
}

impl Raw {
    fn new(
        io: DuplexStream,
        secrets: ExtractedSecrets,
        version: &SupportedProtocolVersion,
    ) -> Self {
        let direction = |(sequence, secrets)| {
            let ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } = secrets else {
                panic!("another cipher than what was offered")
            };
            Direction {
                key: LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, key.as_ref()).unwrap()),
                iv: iv.as_ref().try_into().unwrap(),
                sequence,
                is_13: version == &TLS13,
            }
        };
        Self {
            io,
            sends: direction(secrets.tx),
            receives: direction(secrets.rx),
        }
    }

    /// Sends as much of a record as anybody listens to.
    async fn send(&mut self, kind: u8, content: &[u8]) {
        let record = self.sends.seal(kind, content);
        let _ = self.io.write_all(&record).await;
    }

    async fn send_tickets(&mut self, count: u32) {
        for number in 0..count {
            // RFC 8446 §4.6.1: lifetime, age_add, nonce, ticket, no extensions.
            let mut body = 3600_u32.to_be_bytes().to_vec();
            body.extend([0; 4]);
            body.push(4);
            body.extend(number.to_be_bytes());
            body.extend([0, 32]);
            body.extend([7; 32]);
            body.extend([0, 0]);
            let mut message = vec![4, 0, 0, body.len() as u8];
            message.extend(body);
            self.send(HANDSHAKE, &message).await;
        }
    }

    async fn receive(&mut self) -> (u8, Vec<u8>) {
        let mut header = [0; 5];
        self.io.read_exact(&mut header).await.unwrap();
        let length = u16::from_be_bytes([header[3], header[4]]);
        let mut body = vec![0; length.into()];
        self.io.read_exact(&mut body).await.unwrap();
        self.receives.open(header, body)
    }
}

impl Direction {
    fn next(&mut self, header: [u8; 5], length: usize) -> (Nonce, Aad<Vec<u8>>) {
        let sequence = self.sequence.to_be_bytes();
        self.sequence += 1;
        let mut nonce = self.iv;
        for (byte, more) in nonce[NONCE_LEN - 8..].iter_mut().zip(sequence) {
            *byte ^= more;
        }
        let length = u16::try_from(length).unwrap().to_be_bytes();
        let associated = if self.is_13 {
            header.to_vec()
        } else {
            [&sequence[..], &header[..3], &length].concat()
        };
        (Nonce::assume_unique_for_key(nonce), Aad::from(associated))
    }

    fn seal(&mut self, kind: u8, content: &[u8]) -> Vec<u8> {
        let mut body = content.to_vec();
        if self.is_13 {
            body.push(kind);
        }
        let length = u16::try_from(body.len() + TAG_LEN).unwrap().to_be_bytes();
        let kind = if self.is_13 { DATA } else { kind };
        let header = [kind, 3, 3, length[0], length[1]];
        let (nonce, associated) = self.next(header, body.len());
        self.key
            .seal_in_place_append_tag(nonce, associated, &mut body)
            .unwrap();
        [&header[..], &body].concat()
    }

    fn open(&mut self, header: [u8; 5], mut body: Vec<u8>) -> (u8, Vec<u8>) {
        let (nonce, associated) = self.next(header, body.len() - TAG_LEN);
        let content = self
            .key
            .open_in_place(nonce, associated, &mut body)
            .unwrap();
        match content.split_last() {
            Some((kind, content)) if self.is_13 => (*kind, content.to_vec()),
            _ => (header[0], content.to_vec()),
        }
    }
}

const TAG_LEN: usize = 16;

/// Writes at most so many bytes at once, and counts what is read.
struct Dribble {
    inner: DuplexStream,
    step: usize,
    read: Arc<AtomicUsize>,
}

impl Dribble {
    fn of(inner: DuplexStream) -> Self {
        Self {
            inner,
            step: usize::MAX,
            read: Arc::default(),
        }
    }
}

impl AsyncRead for Dribble {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(context, buffer);
        self.read
            .fetch_add(buffer.filled().len() - before, Ordering::Relaxed);
        polled
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

//! What has gone wrong above TLS elsewhere, replayed against the servers of ours: floods of HTTP/2 frames, and QUIC
//! packets made by hand. Whoever floods is cut off or not read any more, and others are served.
#![cfg(all(feature = "hyper", feature = "quinn"))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::cell::Cell;
use std::convert::Infallible;
use std::future::pending;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustls::Side;
use rustls::crypto::aws_lc_rs::{cipher_suite, default_provider, kx_group};
use rustls::quic::{ClientConnection, DirectionalKeys, KeyChange, Keys, Version};
use rustls::version::TLS13;
use spiffe_tls::hyper::Server;
use spiffe_tls::hyper::http::{Request, Response};
use spiffe_tls::hyper::hyper::body::Incoming as Body;
use spiffe_tls::quinn::quinn::{ConnectionError, Endpoint};
use spiffe_tls::quinn::{Acceptor as QuicAcceptor, Connection, Connector as QuicConnector};
use spiffe_tls::{Acceptor, Connector, HandshakeError, Mtls, Policy, Publisher, TlsStream, rustls};
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

struct World {
    clock: HandClock,
    source: Publisher,
}

impl World {
    fn new() -> Self {
        let (clock, east) = (HandClock::default(), Domain::new("east"));
        let source = Publisher::fixed([east.svid("x", 600)], bundles(&[&east]));
        Self { clock, source }
    }

    fn mtls(&self) -> Mtls {
        Mtls::new(&self.source, "any".parse::<Policy>().unwrap())
            .clock(Arc::new(self.clock.clone()))
    }
}

// HTTP/2: RFC 9113.

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const ENHANCE_YOUR_CALM: u32 = 11;

/// `GET https://x/` and `POST https://x/` by the static table: RFC 7541, appendix A.
const GET: [u8; 6] = [0x82, 0x87, 0x84, 0x41, 1, b'x'];
const POST: [u8; 6] = [0x83, 0x87, 0x84, 0x41, 1, b'x'];

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A server of HTTP/2, whose handler never looks at a body and, where it is slow, never answers.
struct Web {
    acceptor: Acceptor,
    connector: Connector,
    handled: Arc<AtomicUsize>,
}

impl Web {
    fn new(world: &World) -> Self {
        let mtls = || world.mtls().alpn([b"h2"]);
        Self {
            acceptor: mtls().acceptor().unwrap(),
            connector: mtls().connector().unwrap(),
            handled: Arc::default(),
        }
    }

    /// A connection to it on which both sides have said their first words.
    async fn meet(&self, is_slow: bool) -> (TlsStream<DuplexStream>, JoinHandle<()>) {
        let (near, far) = shake(&self.connector, &self.acceptor).await;
        let handled = self.handled.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            handled.fetch_add(1, Ordering::Relaxed);
            async move {
                if is_slow {
                    pending::<()>().await;
                }
                drop(request);
                Ok::<_, Infallible>(Response::new(String::new()))
            }
        });
        let serving = Server::new(service).serve_connection(far.unwrap(), pending());
        // How a connection ends is seen from the other side.
        let serving = tokio::spawn(async move { drop(serving.await) });
        let mut near = near.unwrap();
        near.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            .await
            .unwrap();
        near.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
        near.flush().await.unwrap();
        (near, serving)
    }

    async fn serves(&self) {
        let (mut near, serving) = self.meet(false).await;
        let get = frame(HEADERS, END_HEADERS | END_STREAM, 1, &GET);
        near.write_all(&get).await.unwrap();
        loop {
            let (kind, payload) = read_frame(&mut near).await.unwrap();
            if kind == HEADERS {
                // `:status 200`.
                assert_eq!(payload[0], 0x88);
                break;
            }
        }
        serving.abort();
    }
}

async fn read_frame(from: &mut (impl AsyncReadExt + Unpin)) -> Option<(u8, Vec<u8>)> {
    let mut head = [0; 9];
    from.read_exact(&mut head).await.ok()?;
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
    let mut payload = vec![0; usize::try_from(length).unwrap()];
    from.read_exact(&mut payload).await.ok()?;
    Some((head[3], payload))
}

/// The frames that are sent at one turn.
type Flood<'f> = &'f dyn Fn(u32) -> Vec<u8>;

/// RUSTSEC-2023-0034 and CVE-2023-44487 (requests that are taken back at once), RUSTSEC-2024-0003 (requests that the server
/// has to reset), RUSTSEC-2024-0332 (headers without end), RUSTSEC-2026-0258 (data without content), from a peer that
/// reads what it is told.
#[tokio::test]
async fn floods_of_http2_frames_end_their_connection_and_no_other() {
    const MANY: u32 = 200_000;
    let id = |number: u32| 2 * number + 1;
    let web = Web::new(&World::new());
    let request = |number| frame(HEADERS, END_HEADERS | END_STREAM, id(number), &GET);
    let floods: [(&str, Flood<'_>); 5] = [
        ("rapid reset", &|number| {
            [
                request(number),
                frame(RST_STREAM, 0, id(number), &[0, 0, 0, 8]),
            ]
            .concat()
        }),
        ("resets by the server", &|number| {
            let too_much = frame(WINDOW_UPDATE, 0, id(number), &[0x7f, 0xff, 0xff, 0xff]);
            [request(number), too_much].concat()
        }),
        ("continuation", &|number| match number {
            0 => frame(HEADERS, END_STREAM, 1, &GET),
            _ => frame(CONTINUATION, 0, 1, &[0, 1, b'a', 1, b'b']),
        }),
        ("empty continuation", &|number| match number {
            0 => frame(HEADERS, END_STREAM, 1, &GET),
            _ => frame(CONTINUATION, 0, 1, &[]),
        }),
        ("empty data", &|number| match number {
            0 => frame(HEADERS, END_HEADERS, 1, &POST),
            _ => frame(DATA, 0, 1, &[]),
        }),
    ];
    for (name, flood) in floods {
        web.handled.store(0, Ordering::Relaxed);
        let (near, serving) = web.meet(true).await;
        let (mut from, mut to) = tokio::io::split(near);
        let flooding = async {
            for number in 0..MANY {
                if to.write_all(&flood(number)).await.is_err() || to.flush().await.is_err() {
                    return number;
                }
            }
            panic!("{name} is still listened to");
        };
        let listening = async {
            let mut reason = None;
            while let Some((kind, payload)) = read_frame(&mut from).await {
                if kind == GOAWAY {
                    reason = Some(u32::from_be_bytes(payload[4..8].try_into().unwrap()));
                }
            }
            reason
        };
        let (sent, reason) = tokio::join!(flooding, listening);
        assert_eq!(reason, Some(ENHANCE_YOUR_CALM), "{name}");
        // The bounds are h2's: 20 requests taken back, 1,024 reset, a few frames of headers.
        let handled = web.handled.load(Ordering::Relaxed);
        assert!(sent < 4096 && handled < 2048, "{name}: {sent}, {handled}");
        serving.await.unwrap();
        web.serves().await;
    }
}

/// CVE-2019-9512, CVE-2019-9515: frames that want an answer each, from a peer that reads none. The server stops to read.
#[tokio::test]
async fn answers_that_nobody_reads_do_not_pile_up() {
    let web = Web::new(&World::new());
    for (name, wants_answer) in [
        ("ping", frame(PING, 0, 0, &[7; 8])),
        ("settings", frame(SETTINGS, 0, 0, &[])),
    ] {
        let (mut near, serving) = web.meet(false).await;
        let mut sent = 0;
        loop {
            let writing = async {
                near.write_all(&wants_answer).await.unwrap();
                near.flush().await.unwrap();
            };
            let mut writing = pin!(writing);
            let mut is_taken = false;
            for _ in 0..1000 {
                tokio::select! {
                    biased;
                    () = &mut writing => {
                        is_taken = true;
                        break;
                    }
                    () = tokio::task::yield_now() => {}
                }
            }
            if !is_taken {
                break;
            }
            sent += wants_answer.len();
            // The pipe holds 64 KiB in each direction, and TLS as much before it.
            assert!(sent < 1024 * 1024, "{name} is still listened to");
        }
        serving.abort();
        web.serves().await;
    }
}

// QUIC: RFC 9000, RFC 9001.

const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// A server of QUIC that answers a greeting.
struct Quic {
    world: World,
    acceptor: QuicAcceptor,
    endpoint: Endpoint,
    peers: Cell<u8>,
}

impl Quic {
    fn new() -> Self {
        let world = World::new();
        let acceptor = QuicAcceptor::new(world.mtls().alpn([b"hello"])).unwrap();
        Self {
            endpoint: Endpoint::server(acceptor.server_config(), ANY).unwrap(),
            acceptor,
            world,
            peers: Cell::new(0),
        }
    }

    async fn accept(&self) -> Result<Connection, HandshakeError> {
        self.acceptor
            .accept(self.endpoint.accept().await.unwrap())
            .await
    }

    async fn serves(&self) {
        let connector = QuicConnector::new(self.world.mtls().alpn([b"hello"])).unwrap();
        let endpoint = Endpoint::client(ANY).unwrap();
        let to = self.endpoint.local_addr().unwrap();
        let (near, far) = tokio::join!(connector.connect(&endpoint, to), self.accept());
        let (near, far) = (near.unwrap(), far.unwrap());
        let mut send = near.open_uni().await.unwrap();
        send.write_all(b"hello").await.unwrap();
        send.finish().unwrap();
        let mut receive = far.accept_uni().await.unwrap();
        assert_eq!(receive.read_to_end(10).await.unwrap(), b"hello");
    }

    /// A peer whose packets the test makes.
    async fn raw(&self, transport_parameters: &[u8]) -> Raw {
        let mut provider = default_provider();
        // A hello that fits into one datagram.
        provider.kx_groups = vec![kx_group::X25519];
        let config = self
            .world
            .mtls()
            .provider(Arc::new(provider))
            .versions(&[&TLS13])
            .alpn([b"hello"])
            .client_config()
            .unwrap();
        let name = "server.invalid".try_into().unwrap();
        let parameters = transport_parameters.to_vec();
        let socket = UdpSocket::bind(ANY).await.unwrap();
        let to = self.endpoint.local_addr().unwrap();
        socket.connect(to).await.unwrap();
        // The connection ID that the client chooses for the server at first: another each time.
        self.peers.set(self.peers.get() + 1);
        let id = [self.peers.get(); 8];
        Raw {
            socket,
            tls: ClientConnection::new(config, Version::V1, name, parameters).unwrap(),
            to: id.to_vec(),
            levels: [Level::of(initial(&id)), Level::default(), Level::default()],
            level: 0,
        }
    }
}

/// The connection ID that the client chooses for itself.
const OURS: [u8; 8] = [0xbb; 8];

fn initial(id: &[u8]) -> Keys {
    let suite = cipher_suite::TLS13_AES_128_GCM_SHA256.tls13().unwrap();
    Keys::initial(Version::V1, suite, suite.quic.unwrap(), id, Side::Client)
}

/// RFC 9000 §18.2: initial_source_connection_id.
fn parameters() -> Vec<u8> {
    [&[0x0f, 8][..], &OURS].concat()
}

struct Raw {
    socket: UdpSocket,
    tls: ClientConnection,
    /// The server's connection ID.
    to: Vec<u8>,
    /// Initial, handshake, application.
    levels: [Level; 3],
    level: usize,
}

/// One space of packet numbers.
#[derive(Default)]
struct Level {
    keys: Option<Keys>,
    number: u32,
    sent: u64,
    received: u64,
}

impl Level {
    fn of(keys: Keys) -> Self {
        Self {
            keys: Some(keys),
            ..Self::default()
        }
    }
}

/// RFC 9000 §16, in four bytes.
fn varint(value: usize) -> [u8; 4] {
    (0x8000_0000 | u32::try_from(value).unwrap()).to_be_bytes()
}

fn crypto(offset: u64, content: &[u8]) -> Vec<u8> {
    let offset = usize::try_from(offset).unwrap();
    [&[6][..], &varint(offset), &varint(content.len()), content].concat()
}

fn stream(id: u8, offset: usize, content: &[u8], is_last: bool) -> Vec<u8> {
    let kind = 0x0e | u8::from(is_last);
    [
        &[kind, id][..],
        &varint(offset),
        &varint(content.len()),
        content,
    ]
    .concat()
}

/// A reader of one packet's bytes.
struct Bytewise<'b>(&'b [u8]);

impl<'b> Bytewise<'b> {
    fn take(&mut self, count: usize) -> &'b [u8] {
        let (head, rest) = self.0.split_at(count);
        self.0 = rest;
        head
    }

    fn byte(&mut self) -> u8 {
        self.take(1)[0]
    }

    fn varint(&mut self) -> usize {
        let first = self.byte();
        let rest = self.take((1 << (first >> 6)) - 1);
        rest.iter().fold(usize::from(first & 0x3f), |value, byte| {
            value << 8 | usize::from(*byte)
        })
    }
}

impl Raw {
    /// Sends one packet of the current level with these frames.
    async fn send(&mut self, frames: &[u8]) {
        let level = &mut self.levels[self.level];
        let number = level.number;
        level.number += 1;
        let keys = level.keys.as_ref().unwrap();
        let mut body = frames.to_vec();
        if self.level == 0 {
            // RFC 9000 §14.1: a datagram with an Initial packet is padded.
            body.resize(body.len().max(1200), 0);
        }
        let packet = seal(&keys.local, self.level, &self.to, number, body);
        self.socket.send(&packet).await.unwrap();
    }

    /// Sends what TLS has to say.
    async fn speak(&mut self) {
        loop {
            let mut content = Vec::new();
            let change = self.tls.write_hs(&mut content);
            if !content.is_empty() {
                let sent = &mut self.levels[self.level].sent;
                let frame = crypto(*sent, &content);
                *sent += content.len() as u64;
                self.send(&frame).await;
            }
            match change {
                Some(KeyChange::Handshake { keys } | KeyChange::OneRtt { keys, .. }) => {
                    self.level += 1;
                    self.levels[self.level].keys = Some(keys);
                }
                None => return,
            }
        }
    }

    /// Performs the handshake.
    async fn shake(&mut self) {
        self.speak().await;
        while self.level < 2 {
            let mut datagram = vec![0; 2048];
            let length = self.socket.recv(&mut datagram).await.unwrap();
            let mut rest = &mut datagram[..length];
            while !rest.is_empty() && rest[0] & 0x80 != 0 {
                rest = self.listen(rest);
                self.speak().await;
            }
        }
    }

    /// Takes what the first packet of a datagram says to TLS, and returns what comes after it.
    fn listen<'d>(&mut self, datagram: &'d mut [u8]) -> &'d mut [u8] {
        let mut head = Bytewise(&datagram[..]);
        let level = match head.byte() >> 4 & 3 {
            0 => 0,
            2 => 1,
            other => panic!("a long header of kind {other}"),
        };
        head.take(4);
        let length = head.byte();
        head.take(length.into());
        let length = head.byte();
        self.to = head.take(length.into()).to_vec();
        if level == 0 {
            let length = head.varint();
            head.take(length);
        }
        let length = head.varint();
        let begin = datagram.len() - head.0.len();
        let (packet, rest) = datagram.split_at_mut(begin + length);
        let level = &mut self.levels[level];
        let keys = &level.keys.as_ref().unwrap().remote;
        let (head, body) = packet.split_at_mut(begin + 4);
        let (first, middle) = head.split_first_mut().unwrap();
        let number = &mut middle[begin - 1..];
        let sample = &body[..keys.header.sample_len()];
        keys.header.decrypt_in_place(sample, first, number).unwrap();
        let begin = begin + usize::from(packet[0] & 3) + 1;
        let (head, body) = packet.split_at_mut(begin);
        let number = head[begin - usize::from(head[0] & 3) - 1..]
            .iter()
            .fold(0, |number, byte| number << 8 | u64::from(*byte));
        let body = keys.packet.decrypt_in_place(number, head, body).unwrap();
        let mut frames = Bytewise(body);
        while !frames.0.is_empty() {
            match frames.byte() {
                0 | 1 => {}
                2 => {
                    frames.varint();
                    frames.varint();
                    let ranges = frames.varint();
                    for _ in 0..1 + 2 * ranges {
                        frames.varint();
                    }
                }
                6 => {
                    let offset = frames.varint() as u64;
                    let length = frames.varint();
                    let content = frames.take(length);
                    // What is sent twice is heard once.
                    if offset == level.received {
                        level.received += content.len() as u64;
                        self.tls.read_hs(content).unwrap();
                    }
                }
                other => panic!("a frame of kind {other}"),
            }
        }
        rest
    }
}

/// RFC 9000 §17.2, §17.3.1; RFC 9001 §5.4: packet numbers take four bytes.
fn seal(
    keys: &DirectionalKeys,
    level: usize,
    to: &[u8],
    number: u32,
    mut body: Vec<u8>,
) -> Vec<u8> {
    let mut packet = if level == 2 {
        [&[0x43][..], to].concat()
    } else {
        let first = [0xc3, 0xe3][level];
        let mut long = vec![first, 0, 0, 0, 1, u8::try_from(to.len()).unwrap()];
        long.extend(to);
        long.push(8);
        long.extend(OURS);
        if level == 0 {
            // No token.
            long.push(0);
        }
        long.extend(varint(4 + body.len() + keys.packet.tag_len()));
        long
    };
    let begin = packet.len();
    packet.extend(number.to_be_bytes());
    let tag = keys
        .packet
        .encrypt_in_place(number.into(), &packet, &mut body)
        .unwrap();
    body.extend(tag.as_ref());
    let sample = &body[..keys.header.sample_len()];
    let (first, rest) = packet.split_first_mut().unwrap();
    let number = &mut rest[begin - 1..];
    keys.header.encrypt_in_place(sample, first, number).unwrap();
    packet.extend(body);
    packet
}

/// RUSTSEC-2026-0037: transport parameters that end too soon, or whose values cannot be.
#[tokio::test]
async fn quic_transport_parameters_that_cannot_be_are_refused() {
    let quic = Quic::new();
    let good = parameters();
    let bad: [&[u8]; 7] = [
        // max_idle_timeout whose value is cut short, is longer than said, or is missing.
        &[1, 1, 0x40],
        &[1, 4, 0x40, 1],
        &[1],
        // max_udp_payload_size below 1200, ack_delay_exponent above 20, active_connection_id_limit below 2.
        &[3, 1, 1],
        &[0x0a, 1, 21],
        &[0x0e, 1, 1],
        // A parameter of the server's.
        &[0, 1, 7],
    ];
    for more in bad {
        let mut peer = quic.raw(&[&good[..], more].concat()).await;
        let (ended, ()) = tokio::join!(quic.accept(), peer.speak());
        let error = ended.map(drop).unwrap_err();
        assert!(matches!(error, HandshakeError::Io(_)), "{more:?}: {error}");
        quic.serves().await;
    }
    let mut peer = quic.raw(&good).await;
    let (ended, ()) = tokio::join!(quic.accept(), peer.shake());
    ended.unwrap();
}

/// RUSTSEC-2023-0063: a kind of frame that nobody knows, in the first packet and after the handshake.
#[tokio::test]
async fn unknown_quic_frames_end_their_connection_and_no_other() {
    const UNKNOWN: [u8; 2] = [0x40, 0x77];
    let quic = Quic::new();
    let mut peer = quic.raw(&parameters()).await;
    let (ended, ()) = tokio::join!(quic.accept(), peer.send(&UNKNOWN));
    let error = ended.map(drop).unwrap_err();
    assert!(matches!(error, HandshakeError::Io(_)), "{error}");
    quic.serves().await;

    let mut peer = quic.raw(&parameters()).await;
    let (ended, ()) = tokio::join!(quic.accept(), peer.shake());
    let far = ended.unwrap();
    peer.send(&UNKNOWN).await;
    let error = far.quic().closed().await;
    assert!(
        matches!(error, ConnectionError::TransportError(_)),
        "{error}"
    );
    quic.serves().await;
}

/// RUSTSEC-2026-0185: a stream in single bytes with a gap before each, which nobody can read.
#[tokio::test]
async fn a_quic_stream_of_gaps_is_not_gathered() {
    let quic = Quic::new();
    for is_gapped in [false, true] {
        let mut peer = quic.raw(&parameters()).await;
        let (ended, ()) = tokio::join!(quic.accept(), peer.shake());
        let far = ended.unwrap();
        let step = 1 + usize::from(is_gapped);
        let first = usize::from(is_gapped);
        for packet in 0..40 {
            let bytes = (0..100).map(|number| packet * 100 + number);
            let frames: Vec<_> = bytes
                .flat_map(|number| stream(2, first + number * step, b"x", number == 3999))
                .collect();
            peer.send(&frames).await;
            // Let the server take it, so that the system's buffers hold.
            tokio::task::yield_now().await;
        }
        if is_gapped {
            let error = far.quic().closed().await;
            let is_so = error.to_string().contains("too many gaps");
            assert!(is_so, "{error}");
        } else {
            let mut receive = far.accept_uni().await.unwrap();
            assert_eq!(receive.read_to_end(4000).await.unwrap().len(), 4000);
        }
        quic.serves().await;
    }
}

//! quinn and reqwest in other configurations than mutual ones: a client that shows nothing, a server that shows a Web PKI
//! certificate, and one that asks nobody; and what those learn who refuse or are refused. Rotation under mutual ones is
//! held to one test with all other adapters elsewhere.
#![cfg(all(feature = "quinn", feature = "reqwest"))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::SupportedKxGroup;
use rustls::version::TLS13;
use rustls::{AlertDescription, NamedGroup, RootCertStore};
use spiffe_tls::modes::WebCertificate;
use spiffe_tls::quinn::quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use spiffe_tls::quinn::quinn::{ClientConfig, Endpoint, Incoming, ServerConfig};
use spiffe_tls::quinn::{Acceptor, Connection, Connector, StreamError};
use spiffe_tls::reqwest::reqwest::{Method, Request, Url};
use spiffe_tls::reqwest::{Client, Error};
use spiffe_tls::spiffe_core::{BundleSet, Clock, Rule};
use spiffe_tls::{
    HandshakeError, LeaseRules, Mtls, MtlsWebClient, MtlsWebServer, PeerRefused, Policy, Publisher,
    Refusal, TlsClient, TlsServer, rustls,
};
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};

const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

struct World {
    clock: HandClock,
    east: Domain,
    /// Shows an SVID.
    server: Publisher,
    /// Knows bundles only.
    client: Publisher,
}

impl World {
    fn new() -> Self {
        let east = Domain::new("east");
        Self {
            clock: HandClock::default(),
            server: Publisher::fixed([east.svid("server", 600)], bundles(&[])),
            client: Publisher::fixed([], bundles(&[&east])),
            east,
        }
    }

    fn tls_server(&self) -> TlsServer {
        TlsServer::new(&self.server).clock(Arc::new(self.clock.clone()))
    }

    fn tls_client(&self) -> TlsClient {
        TlsClient::new(&self.client, policy("domain:east"))
            .clock(Arc::new(self.clock.clone()))
            .lease_rules(LeaseRules::cut())
    }
}

fn policy(text: &str) -> Policy {
    text.parse().unwrap()
}

async fn settle() {
    for _ in 0..40 {
        tokio::task::yield_now().await;
    }
}

/// A refusal by this rule, with the tree in which it failed.
#[track_caller]
fn is_refusal(refusal: Option<&Refusal>, rule: Rule) {
    let refusal = refusal.unwrap();
    assert_eq!(refusal.rule(), rule);
    // Of a policy, it is the alternative that came nearest.
    let failed = refusal.explain().first_failure().unwrap().rule;
    assert!(
        [rule, Rule::PolicyAlternative].contains(&failed),
        "{failed:?}"
    );
}

/// Says back what a peer of quinn's own says.
async fn echo(incoming: Incoming) {
    let connection = incoming.await.unwrap();
    while let Ok((mut send, mut receive)) = connection.accept_bi().await {
        let text = receive.read_to_end(100).await.unwrap();
        send.write_all(&text).await.unwrap();
        send.finish().unwrap();
    }
}

#[tokio::test]
async fn a_quinn_client_that_shows_nothing_knows_its_server_and_keeps_a_lease_on_it() {
    let world = World::new();
    let tls = world.tls_server().versions(&[&TLS13]).alpn([b"hello"]);
    let crypto = QuicServerConfig::try_from(tls.server_config().unwrap()).unwrap();
    let server = Endpoint::server(ServerConfig::with_crypto(Arc::new(crypto)), ANY).unwrap();
    let to = server.local_addr().unwrap();
    let serving = tokio::spawn(async move {
        while let Some(incoming) = server.accept().await {
            tokio::spawn(echo(incoming));
        }
    });
    let endpoint = Endpoint::client(ANY).unwrap();
    let connector = Connector::new(world.tls_client().alpn([b"hello"])).unwrap();
    let connection = connector.connect(&endpoint, to).await.unwrap();
    assert_eq!(connection.peer().id().as_str(), "spiffe://east/server");
    assert_eq!(connection.peer().own_id(), None);
    let (mut send, mut receive) = connection.open_bi().await.unwrap();
    send.write_all(b"hello").await.unwrap();
    send.finish().unwrap();
    assert_eq!(receive.read_to_end(100).await.unwrap(), b"hello");
    world
        .client
        .publish([], bundles(&[&Domain::new("other")]))
        .unwrap();
    let error = connection.quic().closed().await;
    assert!(error.to_string().contains("closed"), "{error}");
    let error = connection.open_bi().await.map(drop).unwrap_err();
    assert!(matches!(error, StreamError::LeaseOver(_)), "{error}");
    let error = connector.connect(&endpoint, to).await.unwrap_err();
    is_refusal(error.refusal(), Rule::TrustDomainUnknown);
    serving.abort();
}

#[tokio::test]
async fn a_quinn_server_of_the_web_knows_its_clients() {
    let world = World::new();
    let (web, west) = (Domain::new("web"), Domain::new("west"));
    let trust = Publisher::fixed([], bundles(&[&world.east, &west]));
    let (chain, key) = web.web("server.example");
    let certificate = WebCertificate::new(chain, key);
    let config = MtlsWebServer::new(&trust, policy("domain:west"), certificate)
        .clock(Arc::new(world.clock.clone()))
        .alpn([b"hello"]);
    let acceptor = Acceptor::new(config).unwrap();
    let server = Endpoint::server(acceptor.server_config(), ANY).unwrap();
    let to = server.local_addr().unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(web.certificate()).unwrap();
    let roots = Arc::new(roots);
    for (svid, is_good) in [
        (west.svid("client", 600), true),
        (world.east.svid("client", 600), false),
    ] {
        let source = Publisher::fixed([svid], bundles(&[]));
        let tls = MtlsWebClient::new(&source, roots.clone())
            .clock(Arc::new(world.clock.clone()))
            .versions(&[&TLS13])
            .alpn([b"hello"]);
        let crypto = QuicClientConfig::try_from(tls.client_config().unwrap()).unwrap();
        let config = ClientConfig::new(Arc::new(crypto));
        let endpoint = Endpoint::client(ANY).unwrap();
        let dialing = endpoint.connect_with(config, to, "server.example").unwrap();
        let accepting = async { acceptor.accept(server.accept().await.unwrap()).await };
        let (_near, far) = tokio::join!(dialing, accepting);
        match far {
            Ok(far) => {
                assert!(is_good);
                assert_eq!(far.peer().id().as_str(), "spiffe://west/client");
                assert_eq!(far.peer().own_id(), None);
            }
            Err(error) => {
                assert!(!is_good, "{error:?}");
                is_refusal(error.refusal(), Rule::NotAuthorized);
            }
        }
    }
}

type Ended = Result<Connection, HandshakeError>;

/// One handshake: what the client and the server made of it.
async fn meet(server: Mtls, client: Mtls) -> (Ended, Ended) {
    let acceptor = Acceptor::new(server).unwrap();
    let listening = Endpoint::server(acceptor.server_config(), ANY).unwrap();
    let endpoint = Endpoint::client(ANY).unwrap();
    let connector = Connector::new(client).unwrap();
    let dialing = connector.connect(&endpoint, listening.local_addr().unwrap());
    let accepting = async { acceptor.accept(listening.accept().await.unwrap()).await };
    tokio::join!(dialing, accepting)
}

/// What the side that judges trusts, whom it lets in, by which rule it refuses, and the alert for that.
struct Cause {
    trusted: BundleSet,
    policy: &'static str,
    rule: Rule,
    alert: AlertDescription,
}

fn causes(domain: &Domain) -> [Cause; 2] {
    [
        Cause {
            trusted: bundles(&[domain]),
            policy: "id:spiffe://east/nobody",
            rule: Rule::NotAuthorized,
            alert: AlertDescription::AccessDenied,
        },
        Cause {
            trusted: bundles(&[&Domain::new("other")]),
            policy: "domain:east",
            rule: Rule::TrustDomainUnknown,
            alert: AlertDescription::UnknownCA,
        },
    ]
}

#[tokio::test]
async fn quinn_tells_who_refuses_the_reason_and_who_is_refused_the_alert() {
    let east = Domain::new("east");
    let clock: Arc<dyn Clock> = Arc::new(HandClock::default());
    for server_judges in [true, false] {
        for cause in causes(&east) {
            let believing = Publisher::fixed([east.svid("one", 600)], bundles(&[&east]));
            let judging = Publisher::fixed([east.svid("other", 600)], cause.trusted);
            let mtls = |source, text| {
                Mtls::new(source, policy(text))
                    .clock(clock.clone())
                    .alpn([b"hello"])
            };
            let believing = mtls(&believing, "domain:east");
            let judging = mtls(&judging, cause.policy);
            let (server, client) = if server_judges {
                (judging, believing)
            } else {
                (believing, judging)
            };
            let (near, far) = meet(server, client).await;
            let told = if server_judges {
                is_refusal(far.unwrap_err().refusal(), cause.rule);
                // The client was done before the server judged.
                let closed = near.unwrap().quic().closed().await;
                PeerRefused::in_quic(&closed)
            } else {
                is_refusal(near.unwrap_err().refusal(), cause.rule);
                match far.unwrap_err() {
                    HandshakeError::PeerRefused(refused) => Some(refused),
                    error => panic!("{error:?}"),
                }
            };
            assert_eq!(told.map(|refused| refused.alert), Some(cause.alert));
        }
    }
}

#[tokio::test]
async fn quinn_tells_a_side_that_has_nothing_to_show_so() {
    let world = World::new();
    let trust = bundles(&[&world.east]);
    let holding = Publisher::fixed([world.east.svid("one", 600)], trust.clone());
    let empty = Publisher::fixed([], trust);
    let mtls = |source: &Publisher| {
        Mtls::new(source, policy("domain:east"))
            .clock(Arc::new(world.clock.clone()))
            .alpn([b"hello"])
    };
    let good = || mtls(&holding);
    let picky = || mtls(&holding).pick(|_, _| None);
    let (near, far) = meet(good(), good()).await;
    assert!(near.is_ok() && far.is_ok());
    let (_, far) = meet(mtls(&empty), good()).await;
    assert!(matches!(far, Err(HandshakeError::NoIdentity)), "{far:?}");
    let (_, far) = meet(picky(), good()).await;
    assert!(matches!(far, Err(HandshakeError::NonePicked)), "{far:?}");
    let (near, _) = meet(good(), picky()).await;
    assert!(matches!(near, Err(HandshakeError::NonePicked)), "{near:?}");
}

#[tokio::test]
async fn under_quinn_the_key_exchange_is_known_where_it_is_required() {
    let world = World::new();
    let source = Publisher::fixed([world.east.svid("x", 600)], bundles(&[&world.east]));
    let mtls = || {
        Mtls::new(&source, policy("domain:east"))
            .clock(Arc::new(world.clock.clone()))
            .alpn([b"hello"])
    };
    let (near, far) = meet(mtls().require_post_quantum(), mtls()).await;
    assert_eq!(far.unwrap().peer().is_post_quantum(), Some(true));
    assert_eq!(near.unwrap().peer().is_post_quantum(), None);
    let (near, far) = meet(mtls(), mtls().require_post_quantum()).await;
    assert_eq!(far.unwrap().peer().is_post_quantum(), None);
    assert_eq!(near.unwrap().peer().is_post_quantum(), Some(true));
    // It is the truth: without a hybrid of its own, the other side agrees on nothing.
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    let classical = |group: &&dyn SupportedKxGroup| group.name() == NamedGroup::X25519;
    provider.kx_groups.retain(classical);
    let classical = mtls().provider(Arc::new(provider));
    let (near, far) = meet(mtls().require_post_quantum(), classical.clone()).await;
    assert!(near.is_err() && far.is_err());
    let (near, far) = meet(mtls(), classical).await;
    assert!(near.is_ok() && far.is_ok());
}

/// Passes on what it gets from clients, and nothing that the server answers.
async fn swallow_answers(relay: UdpSocket, server: SocketAddr) {
    let mut datagram = [0; 2048];
    loop {
        let (length, from) = relay.recv_from(&mut datagram).await.unwrap();
        if from != server {
            relay.send_to(&datagram[..length], server).await.unwrap();
        }
    }
}

/// Lets time pass until the handshake ends, in steps that are shorter than its deadline.
async fn timed_out(clock: &HandClock, shaking: impl Future<Output = Ended>) {
    let from = clock.monotonic();
    let mut shaking = pin!(shaking);
    let ended = loop {
        tokio::select! {
            biased;
            ended = &mut shaking => break ended,
            () = tokio::task::yield_now() => clock.advance(Duration::from_secs(1)),
        }
    };
    assert!(clock.monotonic() - from >= Duration::from_secs(10));
    match ended {
        Err(HandshakeError::TimedOut { after }) => assert_eq!(after, Duration::from_secs(10)),
        ended => panic!("{ended:?}"),
    }
}

#[tokio::test]
async fn under_quinn_a_silent_peer_is_given_up_at_the_deadline() {
    let world = World::new();
    let source = Publisher::fixed([world.east.svid("x", 600)], bundles(&[&world.east]));
    let mtls = || {
        Mtls::new(&source, policy("domain:east"))
            .clock(Arc::new(world.clock.clone()))
            .alpn([b"hello"])
    };
    let (near, far) = meet(mtls(), mtls()).await;
    assert!(near.is_ok() && far.is_ok());
    let endpoint = Endpoint::client(ANY).unwrap();
    let connector = Connector::new(mtls()).unwrap();

    // A server that never says a word.
    let silent = UdpSocket::bind(ANY).await.unwrap();
    let to = silent.local_addr().unwrap();
    timed_out(&world.clock, connector.connect(&endpoint, to)).await;

    // A client that says hello and no more, since it hears nothing. The clock of its own stands still.
    let still = Arc::new(HandClock::default());
    let connector = Connector::new(mtls().clock(still)).unwrap();
    let acceptor = Acceptor::new(mtls()).unwrap();
    let listening = Endpoint::server(acceptor.server_config(), ANY).unwrap();
    let relay = UdpSocket::bind(ANY).await.unwrap();
    let to = relay.local_addr().unwrap();
    let relaying = tokio::spawn(swallow_answers(relay, listening.local_addr().unwrap()));
    let dialing = tokio::spawn(async move { connector.connect(&endpoint, to).await.map(drop) });
    let incoming = listening.accept().await.unwrap();
    timed_out(&world.clock, acceptor.accept(incoming)).await;
    dialing.abort();
    relaying.abort();
}

/// Answers every request of HTTP/1.1.
async fn answer(stream: tokio::net::TcpStream, acceptor: tokio_rustls::TlsAcceptor) {
    let Ok(mut stream) = acceptor.accept(stream).await else {
        return;
    };
    let mut asked = Vec::new();
    while let Ok(byte) = stream.read_u8().await {
        asked.push(byte);
        if asked.ends_with(b"\r\n\r\n") {
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";
            stream.write_all(answer).await.unwrap();
            stream.flush().await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_reqwest_client_that_shows_nothing_knows_its_server_and_drops_it_with_its_trust() {
    let world = World::new();
    let acceptor = tokio_rustls::TlsAcceptor::from(world.tls_server().server_config().unwrap());
    let listener = TcpListener::bind(ANY).await.unwrap();
    let url: Url = format!("https://{}/", listener.local_addr().unwrap())
        .parse()
        .unwrap();
    let serving = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(answer(stream, acceptor.clone()));
        }
    });
    let client = Client::new(world.tls_client()).unwrap();
    let ask = async || {
        let request = Request::new(Method::GET, url.clone());
        let response = client.execute(request).await?;
        Ok::<_, Error>(response.text().await.unwrap())
    };
    let strangers = bundles(&[&Domain::new("other")]);
    assert_eq!(ask().await.unwrap(), "hello");
    assert_eq!(ask().await.unwrap(), "hello");
    world.client.publish([], strangers).unwrap();
    settle().await;
    for _ in 0..2 {
        is_refusal(ask().await.unwrap_err().refusal(), Rule::TrustDomainUnknown);
    }
    world.client.publish([], bundles(&[&world.east])).unwrap();
    settle().await;
    assert_eq!(ask().await.unwrap(), "hello");
    // What fails for another reason is no refusal.
    serving.abort();
    let _ = serving.await;
    world.client.publish([], bundles(&[])).unwrap();
    settle().await;
    let error = ask().await.unwrap_err();
    assert!(matches!(error, Error::Request(_)), "{error:?}");
}

/// A client's connection whose configuration's first handshake was on a runtime that nobody drives any more.
#[test]
fn a_connection_looks_by_itself_where_its_keeper_does_not_run() {
    let single = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    };
    let serving = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let world = World::new();
    let to = serving.block_on(async {
        let tls = world.tls_server().versions(&[&TLS13]).alpn([b"hello"]);
        let crypto = QuicServerConfig::try_from(tls.server_config().unwrap()).unwrap();
        let server = Endpoint::server(ServerConfig::with_crypto(Arc::new(crypto)), ANY).unwrap();
        let to = server.local_addr().unwrap();
        tokio::spawn(async move {
            while let Some(incoming) = server.accept().await {
                tokio::spawn(echo(incoming));
            }
        });
        to
    });
    let connector = Connector::new(world.tls_client().alpn([b"hello"])).unwrap();
    let idle = single();
    let _first = idle.block_on(async {
        let endpoint = Endpoint::client(ANY).unwrap();
        let connection = connector.connect(&endpoint, to).await.unwrap();
        settle().await;
        (endpoint, connection)
    });
    single().block_on(async {
        let endpoint = Endpoint::client(ANY).unwrap();
        let connection = connector.connect(&endpoint, to).await.unwrap();
        let (mut send, mut receive) = connection.open_bi().await.unwrap();
        send.write_all(b"hello").await.unwrap();
        send.finish().unwrap();
        assert_eq!(receive.read_to_end(100).await.unwrap(), b"hello");
        let other = bundles(&[&Domain::new("other")]);
        world.client.publish([], other).unwrap();
        assert!(connection.open_bi().await.is_err());
    });
}

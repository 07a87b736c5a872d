//! What this side shows and who the peer is: every combination, its positive and its negative.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::version::{TLS12, TLS13};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, HandshakeKind, RootCertStore,
    SupportedProtocolVersion,
};
use spiffe_tls::modes::WebCertificate;
use spiffe_tls::spiffe_core::{BundleSet, Rule};
use spiffe_tls::{
    Acceptor, ConfigError, Connector, HandshakeError, LeaseEnd, Mtls, MtlsWebClient, MtlsWebServer,
    PeerRefused, Policy, Publisher, TlsClient, TlsServer, rustls,
};
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

const VERSIONS: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];

fn policy(text: &str) -> Policy {
    text.parse().unwrap()
}

struct World {
    clock: HandClock,
    east: Domain,
    web: Domain,
    server: Publisher,
    client: Publisher,
}

impl World {
    fn new() -> Self {
        let east = Domain::new("east");
        Self {
            clock: HandClock::default(),
            server: Publisher::fixed([east.svid("server", 600)], bundles(&[&east])),
            client: Publisher::fixed([east.svid("client", 600)], bundles(&[&east])),
            web: Domain::new("web"),
            east,
        }
    }

    fn clock(&self) -> Arc<HandClock> {
        Arc::new(self.clock.clone())
    }

    fn tls_server(&self, version: &'static SupportedProtocolVersion) -> TlsServer {
        TlsServer::new(&self.server)
            .clock(self.clock())
            .versions(&[version])
    }

    fn tls_client(&self, version: &'static SupportedProtocolVersion, text: &str) -> TlsClient {
        TlsClient::new(&self.client, policy(text))
            .clock(self.clock())
            .versions(&[version])
    }

    fn web_server(&self, version: &'static SupportedProtocolVersion, text: &str) -> MtlsWebServer {
        let (chain, key) = self.web.web("shop.example");
        MtlsWebServer::new(&self.server, policy(text), WebCertificate::new(chain, key))
            .clock(self.clock())
            .versions(&[version])
    }

    fn roots(of: &Domain) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(of.certificate()).unwrap();
        roots
    }

    fn web_client(&self, version: &'static SupportedProtocolVersion) -> MtlsWebClient {
        MtlsWebClient::new(&self.client, Self::roots(&self.web))
            .clock(self.clock())
            .versions(&[version])
    }
}

/// A server of plain rustls, which says hello.
async fn greet(
    config: &Arc<rustls::ServerConfig>,
    far: DuplexStream,
) -> std::io::Result<tokio_rustls::server::TlsStream<DuplexStream>> {
    let acceptor = tokio_rustls::TlsAcceptor::from(config.clone());
    let mut stream = acceptor.accept(far).await?;
    stream.write_all(b"hello").await?;
    stream.flush().await?;
    Ok(stream)
}

async fn one_way(
    connector: &Connector,
    config: &Arc<rustls::ServerConfig>,
) -> (
    Ended,
    std::io::Result<tokio_rustls::server::TlsStream<DuplexStream>>,
) {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let client = async {
        let mut stream = connector.connect(near).await?;
        let mut text = [0; 5];
        stream
            .read_exact(&mut text)
            .await
            .map_err(HandshakeError::Io)?;
        assert_eq!(&text, b"hello");
        Ok(stream)
    };
    tokio::join!(client, greet(config, far))
}

/// A client of plain rustls, which reads to the end.
async fn visit(
    config: &Arc<ClientConfig>,
    name: &'static str,
    acceptor: &Acceptor,
) -> (std::io::Result<HandshakeKind>, Ended) {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let connector = tokio_rustls::TlsConnector::from(config.clone());
    let client = async {
        let name = ServerName::try_from(name).unwrap();
        let mut stream = connector.connect(name, near).await?;
        let mut text = Vec::new();
        stream.read_to_end(&mut text).await?;
        assert_eq!(text, b"hello");
        Ok(stream.get_ref().1.handshake_kind().unwrap())
    };
    let server = async {
        let mut stream = acceptor.accept(far).await?;
        stream.write_all(b"hello").await.unwrap();
        stream.shutdown().await.unwrap();
        Ok(stream)
    };
    tokio::join!(client, server)
}

#[tokio::test]
async fn a_one_way_client_knows_its_server_and_shows_nothing() {
    for version in VERSIONS {
        let world = World::new();
        let server = world.tls_server(version).server_config().unwrap();
        let connector = world
            .tls_client(version, "id:spiffe://east/server")
            .connector()
            .unwrap();
        for _ in 0..2 {
            let (near, far) = one_way(&connector, &server).await;
            let (near, far) = (near.unwrap(), far.unwrap());
            assert_eq!(near.peer().id().as_str(), "spiffe://east/server");
            assert_eq!(near.peer().own_id(), None);
            assert!(!near.peer().is_resumed(), "nobody judges again there");
            assert!(far.get_ref().1.peer_certificates().is_none());
        }
        let strict = world.tls_client(version, "id:spiffe://east/other");
        let (near, _) = one_way(&strict.connector().unwrap(), &server).await;
        assert_eq!(near.unwrap_err().rule(), Some(Rule::NotAuthorized));
    }
}

#[tokio::test]
async fn a_one_way_client_needs_no_identity_and_its_connections_end_with_trust() {
    let world = World::new();
    let nobody = Publisher::fixed([], bundles(&[&world.east]));
    let server = world.tls_server(&TLS13).server_config().unwrap();
    let connector = TlsClient::new(&nobody, policy("any"))
        .clock(world.clock())
        .connector()
        .unwrap();
    let (near, _far) = one_way(&connector, &server).await;
    let lease = near.unwrap().peer().lease().clone();
    assert_eq!(lease.end(), None);
    let (near, _far) = one_way(&connector, &server).await;
    let near = near.unwrap();
    nobody.publish([], BundleSet::new()).unwrap();
    let over = near.peer().lease().over();
    world.clock.advance(Duration::from_secs(5));
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
    world.clock.advance(Duration::from_secs(5));
    assert!(matches!(over.await, LeaseEnd::Refused(_)));
}

#[tokio::test]
async fn a_one_way_client_resumes_where_a_server_lets_it_and_judges_again() {
    for version in VERSIONS {
        let world = World::new();
        let server = world
            .tls_server(version)
            .danger_adjust_server_config(|config| {
                config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new().unwrap();
                config.send_tls13_tickets = 2;
            })
            .server_config()
            .unwrap();
        let connector = world.tls_client(version, "any").connector().unwrap();
        for expected in [false, true] {
            let (near, _far) = one_way(&connector, &server).await;
            assert_eq!(near.unwrap().peer().is_resumed(), expected, "{version:?}");
        }
        world.client.publish([], BundleSet::new()).unwrap();
        let (near, _far) = one_way(&connector, &server).await;
        assert_eq!(near.unwrap_err().rule(), Some(Rule::TrustDomainUnknown));
    }
}

#[tokio::test]
async fn a_server_that_wants_a_certificate_refuses_a_client_that_shows_none() {
    for version in VERSIONS {
        let world = World::new();
        let acceptor = Mtls::new(&world.server, policy("any"))
            .clock(world.clock())
            .acceptor()
            .unwrap();
        let connector = world.tls_client(version, "any").connector().unwrap();
        let (near, far) = shake(&connector, &acceptor).await;
        let error = far.unwrap_err();
        assert!(
            matches!(
                error,
                HandshakeError::Tls(rustls::Error::NoCertificatesPresented)
            ),
            "{error}"
        );
        let told = match near {
            Ok(mut near) => PeerRefused::in_io(&near.read_u8().await.unwrap_err()),
            Err(HandshakeError::PeerRefused(refused)) => Some(refused),
            Err(error) => panic!("{error}"),
        };
        let expected = AlertDescription::CertificateRequired;
        assert_eq!(told.unwrap().alert, expected, "{version:?}");
        // Positive twin: a client that shows its SVID, also to a server that does not ask.
        let mutual = Mtls::new(&world.client, policy("any"))
            .clock(world.clock())
            .connector()
            .unwrap();
        let (near, far) = shake(&mutual, &acceptor).await;
        assert!(near.unwrap().peer().own_id().is_some() && far.is_ok());
        let server = world.tls_server(version).server_config().unwrap();
        let (near, _) = one_way(&mutual, &server).await;
        assert_eq!(near.unwrap().peer().own_id(), None, "it was not asked");
    }
}

#[tokio::test]
async fn spiffe_clients_and_a_web_server_know_each_other() {
    for version in VERSIONS {
        let world = World::new();
        let acceptor = world
            .web_server(version, "id:spiffe://east/client")
            .acceptor()
            .unwrap();
        let client = world.web_client(version).client_config().unwrap();
        for _ in 0..2 {
            let (near, far) = visit(&client, "shop.example", &acceptor).await;
            assert_eq!(near.unwrap(), HandshakeKind::Full);
            let peer = far.unwrap().peer().clone();
            assert_eq!(peer.id().as_str(), "spiffe://east/client");
            assert_eq!(peer.own_id(), None);
        }
        // Another name, other roots, another policy.
        let (near, _) = visit(&client, "bank.example", &acceptor).await;
        let error = near.unwrap_err();
        assert!(is_certificate_error(&error, |error| matches!(
            error,
            CertificateError::NotValidForNameContext { .. }
        )));
        let roots = World::roots(&world.east);
        let stranger = MtlsWebClient::new(&world.client, roots).clock(world.clock());
        let (near, _) = visit(
            &stranger.client_config().unwrap(),
            "shop.example",
            &acceptor,
        )
        .await;
        let error = near.unwrap_err();
        assert!(is_certificate_error(&error, |error| matches!(
            error,
            CertificateError::UnknownIssuer
        )));
        let strict = world.web_server(version, "id:spiffe://east/other");
        let (_, far) = visit(&client, "shop.example", &strict.acceptor().unwrap()).await;
        assert_eq!(far.unwrap_err().rule(), Some(Rule::NotAuthorized));
    }
}

fn is_certificate_error(error: &std::io::Error, is: impl Fn(&CertificateError) -> bool) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    matches!(inner, Some(rustls::Error::InvalidCertificate(error)) if is(error))
}

#[tokio::test]
async fn a_web_server_resumes_sessions_and_judges_its_clients_again() {
    for version in VERSIONS {
        let world = World::new();
        let acceptor = world.web_server(version, "any").acceptor().unwrap();
        let eager = world
            .web_client(version)
            .danger_adjust_client_config(|config| {
                config.resumption = Resumption::in_memory_sessions(16);
            })
            .client_config()
            .unwrap();
        for expected in [HandshakeKind::Full, HandshakeKind::Resumed] {
            let (near, far) = visit(&eager, "shop.example", &acceptor).await;
            assert_eq!(near.unwrap(), expected, "{version:?}");
            assert_eq!(
                far.unwrap().peer().is_resumed(),
                expected == HandshakeKind::Resumed
            );
        }
        world.server.publish([], BundleSet::new()).unwrap();
        let (_, far) = visit(&eager, "shop.example", &acceptor).await;
        assert_eq!(far.unwrap_err().rule(), Some(Rule::TrustDomainUnknown));
    }
}

#[tokio::test]
async fn a_web_client_without_an_identity_shows_none_and_follows_its_source() {
    let world = World::new();
    let source = Publisher::fixed([], BundleSet::new());
    let client = MtlsWebClient::new(&source, World::roots(&world.web))
        .clock(world.clock())
        .client_config()
        .unwrap();
    let acceptor = world.web_server(&TLS13, "any").acceptor().unwrap();
    let (_, far) = visit(&client, "shop.example", &acceptor).await;
    assert!(matches!(
        far.unwrap_err(),
        HandshakeError::Tls(rustls::Error::NoCertificatesPresented)
    ));
    let svid = Arc::new(world.east.svid("late", 600));
    source.publish([svid], BundleSet::new()).unwrap();
    let (near, far) = visit(&client, "shop.example", &acceptor).await;
    near.unwrap();
    assert_eq!(far.unwrap().peer().id().path(), "/late");
}

#[test]
fn what_cannot_work_is_told_when_the_configuration_is_made() {
    let world = World::new();
    let (chain, _) = world.web.web("shop.example");
    let (_, key) = world.web.web("shop.example");
    let crossed = WebCertificate::new(chain, key);
    let error = MtlsWebServer::new(&world.server, policy("any"), crossed)
        .acceptor()
        .unwrap_err();
    assert!(matches!(error, ConfigError::WebCertificate(_)), "{error}");
    let error = MtlsWebClient::new(&world.client, RootCertStore::empty())
        .client_config()
        .unwrap_err();
    assert!(matches!(error, ConfigError::WebRoots(_)), "{error}");
    for size in [0, 31, 16_390, usize::MAX] {
        let error = world.tls_server(&TLS13).max_fragment_size(size);
        let error = error.server_config().unwrap_err();
        assert!(matches!(error, ConfigError::FragmentSize(_)), "{error}");
    }
    for size in [32, 16_389] {
        let tls = world.tls_server(&TLS13).max_fragment_size(size);
        assert_eq!(tls.server_config().unwrap().max_fragment_size, Some(size));
    }
}

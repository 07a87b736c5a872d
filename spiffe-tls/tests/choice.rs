//! Which SVID is shown, who signs for it, and what the caller may change beside.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::sync::{Arc, Mutex};

use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::ServerName;
use rustls::sign::{Signer, SigningKey};
use rustls::version::{TLS12, TLS13};
use rustls::{
    AlertDescription, ClientConfig, DistinguishedName, NamedGroup, RootCertStore,
    SignatureAlgorithm, SignatureScheme, SupportedProtocolVersion,
};
use spiffe_tls::spiffe_core::bundle::{X509Authorities, X509Authority};
use spiffe_tls::spiffe_core::crypto::aws_lc_rs;
use spiffe_tls::spiffe_core::key::SvidKey;
use spiffe_tls::spiffe_core::{BundleSet, Rule, X509Svid};
use spiffe_tls::{
    Acceptor, Asked, ConfigError, Connector, HandshakeError, MAX_AUTHORITY_HINT_BYTES, Mtls,
    Policy, Publisher, Terms, TicketKeys, rustls,
};
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const VERSIONS: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];

fn any() -> Policy {
    "any".parse().unwrap()
}

fn mtls(source: &Publisher, clock: &HandClock) -> Mtls {
    Mtls::new(source, any()).clock(Arc::new(clock.clone()))
}

/// The SVID whose last path segment is the first label of the name that the client wants, and none for other names.
fn by_name<'s>(svids: &'s [Arc<X509Svid>], asked: &Asked<'_>) -> Option<&'s Arc<X509Svid>> {
    let label = asked.server_name()?.split('.').next()?;
    svids
        .iter()
        .find(|svid| svid.id().path().strip_prefix('/') == Some(label))
}

/// A client that sends a server name.
fn named(
    source: &Publisher,
    clock: &HandClock,
    version: &'static SupportedProtocolVersion,
) -> Arc<ClientConfig> {
    mtls(source, clock)
        .versions(&[version])
        .danger_adjust_client_config(|config| {
            config.enable_sni = true;
            config.resumption = Resumption::in_memory_sessions(16);
        })
        .client_config()
        .unwrap()
}

/// The ID that a client is shown under a name, and whether its session was resumed.
async fn shown(
    client: &Arc<ClientConfig>,
    name: &str,
    acceptor: &Acceptor,
) -> Result<(String, bool), HandshakeError> {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let connector = tokio_rustls::TlsConnector::from(client.clone());
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let client = async {
        let mut stream = connector.connect(name, near).await.ok()?;
        let mut text = Vec::new();
        stream.read_to_end(&mut text).await.ok()
    };
    let server = async {
        let mut stream = acceptor.accept(far).await?;
        stream.write_all(b"hello").await.unwrap();
        stream.shutdown().await.unwrap();
        let peer = stream.peer();
        Ok((peer.own_id().unwrap().path().to_owned(), peer.is_resumed()))
    };
    tokio::join!(client, server).1
}

fn several(domain: &Domain) -> Publisher {
    let svids = ["api", "admin"].map(|path| domain.svid(path, 600));
    Publisher::fixed(svids, bundles(&[domain]))
}

#[tokio::test]
async fn a_server_picks_by_the_name_that_its_client_wants() {
    for version in VERSIONS {
        let (clock, east) = (HandClock::default(), Domain::new("east"));
        let server = several(&east);
        let client = Publisher::fixed([east.svid("client", 600)], bundles(&[&east]));
        let acceptor = mtls(&server, &clock).pick(by_name).acceptor().unwrap();
        let config = named(&client, &clock, version);
        for path in ["api", "admin", "api"] {
            let name = format!("{path}.example");
            let (own, _) = shown(&config, &name, &acceptor).await.unwrap();
            assert_eq!(own, format!("/{path}"));
        }
        let error = shown(&config, "other.example", &acceptor).await;
        assert!(
            matches!(error, Err(HandshakeError::NonePicked)),
            "{error:?}"
        );
        // Nothing is held at all: that is said instead.
        server.publish([], bundles(&[&east])).unwrap();
        let error = shown(&config, "api.example", &acceptor).await;
        assert!(
            matches!(error, Err(HandshakeError::NoIdentity)),
            "{error:?}"
        );
    }
}

#[tokio::test]
async fn a_session_is_resumed_only_for_the_id_that_it_began_with() {
    for version in VERSIONS {
        let (clock, east) = (HandClock::default(), Domain::new("east"));
        let server = several(&east);
        let client = Publisher::fixed([east.svid("client", 600)], bundles(&[&east]));
        let keys = TicketKeys::new(&mut [7; 32]);
        let by_name = mtls(&server, &clock).ticket_keys(&keys).pick(by_name);
        let by_name = by_name.acceptor().unwrap();
        // The same keys, trust and terms, and another pick for the same name.
        let last = mtls(&server, &clock).ticket_keys(&keys);
        let last = last.pick(|svids, _| svids.last()).acceptor().unwrap();
        let config = named(&client, &clock, version);
        let mut seen = Vec::new();
        for acceptor in [&by_name, &by_name, &last, &last, &by_name] {
            seen.push(shown(&config, "api.example", acceptor).await.unwrap());
        }
        let of = |path: &str, resumed| (path.to_owned(), resumed);
        let expected = [
            of("/api", false),
            of("/api", true),
            of("/admin", false),
            of("/admin", true),
            of("/api", false),
        ];
        assert_eq!(seen, expected, "{version:?}");
    }
}

#[tokio::test]
async fn either_side_shows_the_svid_of_its_hint_and_fails_without_one() {
    for version in VERSIONS {
        let (clock, east) = (HandClock::default(), Domain::new("east"));
        let hinted =
            |path: &str, hint: &str| Arc::new(east.svid(path, 600).with_hint(Some(hint.into())));
        let svids = || {
            [
                hinted("default", "external"),
                hinted("admin", "internal"),
                hinted("twin", "internal"),
            ]
        };
        let source = Publisher::new();
        source.publish(svids(), bundles(&[&east])).unwrap();
        let of = |hint: Option<&str>| {
            let mtls = mtls(&source, &clock).versions(&[version]).resumption(false);
            match hint {
                Some(hint) => mtls.hint(hint),
                None => mtls,
            }
        };
        let any = || (of(None).acceptor().unwrap(), of(None).connector().unwrap());
        // The default one is the first, and of several with a hint it is the first too.
        for (hint, path) in [(None, "/default"), (Some("internal"), "/admin")] {
            let (near, _far) = shake(&any().1, &of(hint).acceptor().unwrap()).await;
            assert_eq!(near.unwrap().peer().id().path(), path);
            let (_near, far) = shake(&of(hint).connector().unwrap(), &any().0).await;
            assert_eq!(far.unwrap().peer().id().path(), path);
        }
        // No SVID of that hint, from the beginning or since a revision: not the default one instead.
        let (acceptor, connector) = (
            of(Some("internal")).acceptor(),
            of(Some("internal")).connector(),
        );
        let (acceptor, connector) = (acceptor.unwrap(), connector.unwrap());
        let [default, admin, _] = svids();
        let fails = async |acceptor: &Acceptor, connector: &Connector| {
            let (_, far) = shake(&any().1, acceptor).await;
            assert!(matches!(far, Err(HandshakeError::NoIdentity)), "{far:?}");
            let (near, _) = shake(connector, &any().0).await;
            assert!(matches!(near, Err(HandshakeError::NoIdentity)), "{near:?}");
        };
        let other = (of(Some("other")).acceptor(), of(Some("other")).connector());
        fails(&other.0.unwrap(), &other.1.unwrap()).await;
        source
            .publish([default.clone()], bundles(&[&east]))
            .unwrap();
        fails(&acceptor, &connector).await;
        source.publish([default, admin], bundles(&[&east])).unwrap();
        let (near, far) = shake(&connector, &acceptor).await;
        assert_eq!(near.unwrap().peer().id().path(), "/admin");
        assert_eq!(far.unwrap().peer().id().path(), "/admin");
    }
}

#[tokio::test]
async fn an_expired_svid_is_no_choice_and_a_foreign_one_is_none() {
    let (clock, east) = (HandClock::default(), Domain::new("east"));
    let svids = [east.svid("short", 60), east.svid("long", 600)];
    let server = Publisher::fixed(svids, bundles(&[&east]));
    let client = Publisher::fixed([east.svid("client", 600)], bundles(&[&east]));
    let connector = mtls(&client, &clock).connector().unwrap();
    let first = mtls(&server, &clock).pick(|svids, _| svids.first());
    let first = first.acceptor().unwrap();
    for expected in ["/short", "/long"] {
        let (near, far) = shake(&connector, &first).await;
        assert_eq!(near.unwrap().peer().id().path(), expected);
        far.unwrap();
        clock.advance(std::time::Duration::from_secs(61));
    }
    // What is not of this revision cannot be shown, whatever the pick says.
    let foreign: &'static Arc<X509Svid> = Box::leak(Box::new(Arc::new(east.svid("api", 600))));
    let acceptor = mtls(&server, &clock).pick(move |_, _| Some(foreign));
    let (_, far) = shake(&connector, &acceptor.acceptor().unwrap()).await;
    assert!(matches!(far, Err(HandshakeError::NonePicked)), "{far:?}");
}

#[tokio::test]
async fn a_client_picks_too_and_never_goes_on_as_nobody() {
    for version in VERSIONS {
        let (clock, east) = (HandClock::default(), Domain::new("east"));
        let client = several(&east);
        let server = Publisher::fixed([east.svid("server", 600)], bundles(&[&east]));
        let acceptor = mtls(&server, &clock)
            .versions(&[version])
            .acceptor()
            .unwrap();
        let last = mtls(&client, &clock).pick(|svids, _| svids.last());
        let last = last.connector().unwrap();
        for _ in 0..2 {
            let (near, far) = shake(&last, &acceptor).await;
            let (near, mut far) = (near.unwrap(), far.unwrap());
            assert_eq!(near.peer().own_id().unwrap().path(), "/admin");
            assert_eq!(far.peer().id().path(), "/admin");
            assert!(!near.peer().is_resumed(), "whom to show is not known yet");
            far.write_all(b"x").await.unwrap();
        }
        let none = mtls(&client, &clock).pick(|_, _| None).connector().unwrap();
        let (near, _) = shake(&none, &acceptor).await;
        assert!(matches!(near, Err(HandshakeError::NonePicked)), "{near:?}");
    }
}

fn names(of: &[&Domain]) -> Vec<DistinguishedName> {
    let mut roots = RootCertStore::empty();
    for domain in of {
        roots.add(domain.certificate()).unwrap();
    }
    roots.subjects()
}

#[tokio::test]
async fn a_server_picks_by_the_authorities_that_its_client_knows() {
    let clock = HandClock::default();
    let domains = ["east", "west", "north"].map(Domain::new);
    let [east, west, north] = &domains;
    let svids = [east.svid("server", 600), west.svid("server", 600)];
    let server = Publisher::fixed(svids, bundles(&[east]));
    let client = Publisher::fixed([east.svid("client", 600)], bundles(&[east]));
    let acceptor = mtls(&server, &clock)
        .pick(|svids, asked| svids.iter().find(|svid| asked.accepts(svid)))
        .acceptor()
        .unwrap();
    for (known, expected) in [
        (vec![], Some("east")),
        (vec![west], Some("west")),
        (vec![north, east], Some("east")),
        (vec![north], None),
    ] {
        let hints = names(&known);
        let config = mtls(&client, &clock)
            .danger_adjust_client_config(move |config| {
                let hints = Arc::new(Credulous(hints.clone()));
                config.dangerous().set_certificate_verifier(hints);
            })
            .client_config()
            .unwrap();
        let (near, far) = tokio::io::duplex(64 * 1024);
        let connector = tokio_rustls::TlsConnector::from(config);
        let name = "server.invalid".try_into().unwrap();
        let (_, far) = tokio::join!(connector.connect(name, near), acceptor.accept(far));
        let own = far.map(|far| far.peer().own_id().unwrap().clone());
        let domain = own.as_ref().map(|own| own.trust_domain().as_str());
        assert_eq!(domain.ok(), expected, "{known:?}", known = known.len());
    }
}

/// A client with an SVID of each of these, which shows one whose authority the server knows, and what it was told.
struct Told {
    connector: Connector,
    names: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Told {
    fn new(of: &[&Domain], trusted: &Domain, clock: &HandClock, versions: Versions) -> Self {
        let svids = of.iter().map(|domain| domain.svid("client", 600));
        let source = Publisher::fixed(svids, bundles(&[trusted]));
        let names = Arc::<Mutex<Vec<_>>>::default();
        let told = names.clone();
        let connector = mtls(&source, clock).versions(&[versions]);
        let connector = connector.pick(move |svids, asked| {
            *told.lock().unwrap() = asked.authorities().map(<[u8]>::to_vec).collect();
            svids.iter().find(|svid| asked.accepts(svid))
        });
        Self {
            connector: connector.connector().unwrap(),
            names,
        }
    }

    /// The names that it is told, and whom the server meets.
    async fn by(&self, acceptor: &Acceptor) -> (Vec<Vec<u8>>, Option<String>) {
        let (_, far) = shake(&self.connector, acceptor).await;
        let met = far.ok().map(|far| far.peer().id().to_string());
        (std::mem::take(&mut *self.names.lock().unwrap()), met)
    }
}

fn ders(of: &[&Domain]) -> Vec<Vec<u8>> {
    names(of)
        .iter()
        .map(|name| name.as_ref().to_vec())
        .collect()
}

type Versions = &'static SupportedProtocolVersion;

#[tokio::test]
async fn a_server_tells_the_authorities_that_it_may_accept_if_it_is_asked_to() {
    for version in VERSIONS {
        let clock = HandClock::default();
        let domains = ["east", "north", "west"].map(Domain::new);
        let [east, north, west] = &domains;
        let server = Publisher::fixed([east.svid("server", 600)], bundles(&[east, north, west]));
        let terms = Terms::new(
            "domain:east|prefix:spiffe://west/"
                .parse::<Policy>()
                .unwrap(),
        );
        let of = |terms: &Terms| Mtls::new(&server, terms.clone()).clock(Arc::new(clock.clone()));
        let quiet = of(&terms).acceptor().unwrap();
        let telling = of(&terms).send_authority_hints().acceptor().unwrap();
        let client = Told::new(&[north, west], east, &clock, version);
        let met = |id: &str| Some(id.to_owned());
        // Nothing is told unless that is asked for; then the first SVID is as good as any, and here it is refused.
        assert_eq!(client.by(&quiet).await, (vec![], None));
        let known = (ders(&[east, west]), met("spiffe://west/client"));
        assert_eq!(client.by(&telling).await, known);
        // What is told follows the bundles, the terms, and own rotations change nothing.
        let next = || [Arc::new(east.svid("server", 600))];
        server
            .publish(next(), bundles(&[east, north, west]))
            .unwrap();
        assert_eq!(client.by(&telling).await, known);
        server.publish(next(), bundles(&[east, north])).unwrap();
        assert_eq!(client.by(&telling).await, (ders(&[east]), None));
        terms.authorize("id:spiffe://north/client".parse::<Policy>().unwrap());
        let known = (ders(&[north]), met("spiffe://north/client"));
        assert_eq!(client.by(&telling).await, known);
        let tainted = X509Authority::from_der(north.certificate())
            .unwrap()
            .into_tainted();
        let tainted = north
            .bundle()
            .with_x509_authorities([tainted].into_iter().collect::<X509Authorities>());
        server
            .publish(
                next(),
                [east.bundle(), tainted].into_iter().collect::<BundleSet>(),
            )
            .unwrap();
        assert_eq!(client.by(&telling).await, known);
        terms.refuse_tainted(true);
        assert_eq!(client.by(&telling).await, (vec![], None));
    }
}

#[tokio::test]
async fn names_of_authorities_that_do_not_fit_a_handshake_are_not_told() {
    let clock = HandClock::default();
    let east = Domain::new("east");
    // 270 bytes of name each.
    let many: Vec<_> = (0..120)
        .map(|number| Domain::new(&format!("{number:0>250}")))
        .collect();
    let terms = Terms::new(any());
    let server = Publisher::new();
    let acceptor = Mtls::new(&server, terms).clock(Arc::new(clock.clone()));
    let acceptor = acceptor.send_authority_hints().acceptor().unwrap();
    for (count, told) in [(1, 2), (105, 106), (120, 0), (105, 106)] {
        let known: Vec<_> = many[..count].iter().chain([&east]).collect();
        let svid = Arc::new(east.svid("server", 600));
        server.publish([svid], bundles(&known)).unwrap();
        for version in VERSIONS {
            let client = Told::new(&[&east], &east, &clock, version);
            let (names, met) = client.by(&acceptor).await;
            let bytes = names.iter().map(|name| name.len() + 2).sum::<usize>();
            assert_eq!((names.len(), met.is_some()), (told, true), "{count}");
            assert!(bytes <= MAX_AUTHORITY_HINT_BYTES);
        }
    }
}

#[test]
fn only_acceptors_tell_of_authorities() {
    let (clock, east) = (HandClock::default(), Domain::new("east"));
    let source = several(&east);
    let telling = || mtls(&source, &clock).send_authority_hints();
    assert!(telling().acceptor().is_ok());
    for error in [
        telling().server_config().map(drop),
        telling().client_config().map(drop),
        telling().connector().map(drop),
    ] {
        assert!(
            matches!(error, Err(ConfigError::AuthorityHints)),
            "{error:?}"
        );
    }
}

/// Signs by a key that lies elsewhere, as far as rustls can tell.
#[derive(Debug)]
struct Elsewhere(Arc<dyn SigningKey>, bool);

impl SigningKey for Elsewhere {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        self.0.choose_scheme(offered)
    }

    fn public_key(&self) -> Option<rustls::pki_types::SubjectPublicKeyInfoDer<'_>> {
        self.0.public_key().filter(|_| self.1)
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        self.0.algorithm()
    }
}

/// The same SVID with its key behind an asynchronous signer, and a synchronous one of the same key.
fn remote(local: &X509Svid, tells: bool) -> (X509Svid, Arc<dyn SigningKey>) {
    let SvidKey::Local(key) = local.key() else {
        panic!("made with a local key")
    };
    let signer = aws_lc_rs().load_key(key).unwrap();
    let svid = X509Svid::with_signer(local.chain().to_vec(), signer).unwrap();
    let der = key.secret_der().clone_key().into();
    let key = default_provider()
        .key_provider
        .load_private_key(der)
        .unwrap();
    (svid, Arc::new(Elsewhere(key, tells)))
}

#[tokio::test]
async fn a_remote_key_serves_tls_through_an_explicit_synchronous_signer_of_that_key() {
    let (clock, east) = (HandClock::default(), Domain::new("east"));
    let client = Publisher::fixed([east.svid("client", 600)], bundles(&[&east]));
    let (svid, signer) = remote(&east.svid("server", 600), true);
    let server = Publisher::fixed([svid], bundles(&[&east]));
    let without = mtls(&server, &clock).acceptor().unwrap_err();
    assert!(
        without.to_string().contains("synchronous_signer"),
        "{without}"
    );
    let acceptor = mtls(&server, &clock)
        .synchronous_signer(move |svid| (svid.id().path() == "/server").then(|| signer.clone()))
        .acceptor()
        .unwrap();
    let connector = mtls(&client, &clock).connector().unwrap();
    let (near, far) = shake(&connector, &acceptor).await;
    assert!(near.is_ok() && far.is_ok());
    // A revision that the signer does not fit is rejected, and the last good one serves on.
    let (other, _) = remote(&east.svid("server", 600), true);
    let rejection = server.publish([Arc::new(other)], bundles(&[&east]));
    assert_eq!(rejection.unwrap_err().rule, Rule::KeyMalformed);
    let (unknown, _) = remote(&east.svid("unknown", 600), true);
    let rejection = server.publish([Arc::new(unknown)], bundles(&[&east]));
    assert!(rejection.is_err());
    let (near, far) = shake(&connector, &acceptor).await;
    assert!(near.is_ok() && far.is_ok());
    // A signer that does not tell its key may be of any.
    let (svid, silent) = remote(&east.svid("server", 600), false);
    let source = Publisher::fixed([svid], bundles(&[&east]));
    let error = mtls(&source, &clock)
        .synchronous_signer(move |_| Some(silent.clone()))
        .acceptor()
        .unwrap_err();
    assert!(
        error.to_string().contains("not shown to hold its key"),
        "{error}"
    );
}

#[test]
fn every_svid_that_may_be_picked_must_have_a_usable_key() {
    let east = Domain::new("east");
    let (svid, _) = remote(&east.svid("remote", 600), true);
    let source = Publisher::fixed([east.svid("local", 600), svid], bundles(&[&east]));
    let clock = HandClock::default();
    assert!(
        mtls(&source, &clock).acceptor().is_ok(),
        "only the first is shown"
    );
    let picks = mtls(&source, &clock).pick(|svids, _| svids.first());
    let error = picks.acceptor().unwrap_err();
    assert!(matches!(error, ConfigError::Rejected(_)), "{error}");
}

#[tokio::test]
async fn a_connector_hands_out_no_peer_that_its_own_verifier_has_not_seen() {
    let (clock, east) = (HandClock::default(), Domain::new("east"));
    let source = Publisher::fixed([east.svid("x", 600)], bundles(&[&east]));
    let acceptor = mtls(&source, &clock).acceptor().unwrap();
    let connector = mtls(&source, &clock)
        .danger_adjust_client_config(|config| {
            let credulous = Arc::new(Credulous(Vec::new()));
            config.dangerous().set_certificate_verifier(credulous);
        })
        .connector()
        .unwrap();
    let (near, _) = shake(&connector, &acceptor).await;
    assert!(matches!(near, Err(HandshakeError::Tls(_))), "{near:?}");
    // Positive twin: a change that leaves the verifier alone.
    let connector = mtls(&source, &clock)
        .danger_adjust_client_config(|config| config.require_ems = true)
        .connector()
        .unwrap();
    let (near, far) = shake(&connector, &acceptor).await;
    assert!(near.is_ok() && far.is_ok());
}

#[tokio::test]
async fn post_quantum_key_exchange_is_reported_and_can_be_required() {
    let (clock, east) = (HandClock::default(), Domain::new("east"));
    let source = Publisher::fixed([east.svid("x", 600)], bundles(&[&east]));
    let of = || mtls(&source, &clock).resumption(false);
    let classical = |group| {
        let mut provider = default_provider();
        provider.kx_groups.retain(|known| known.name() == group);
        of().provider(Arc::new(provider))
    };
    let required = || of().require_post_quantum();
    let hybrid = Some(NamedGroup::X25519MLKEM768);
    for (server, client, group) in [
        (of(), of(), hybrid),
        (required(), of(), hybrid),
        (of(), required(), hybrid),
        (
            of(),
            classical(NamedGroup::X25519),
            Some(NamedGroup::X25519),
        ),
    ] {
        let (connector, acceptor) = (client.connector().unwrap(), server.acceptor().unwrap());
        let (near, far) = shake(&connector, &acceptor).await;
        for peer in [near.unwrap().peer(), far.unwrap().peer()] {
            assert_eq!(peer.key_exchange_group(), group);
            assert_eq!(peer.is_post_quantum(), Some(group == hybrid));
        }
    }
    // Who has no hybrid, or only TLS 1.2, is refused, whichever side requires it.
    for (other, expected) in [
        (
            classical(NamedGroup::X25519),
            AlertDescription::HandshakeFailure,
        ),
        (of().versions(&[&TLS12]), AlertDescription::ProtocolVersion),
    ] {
        let (acceptor, connector) = (
            required().acceptor().unwrap(),
            other.clone().connector().unwrap(),
        );
        let (near, far) = shake(&connector, &acceptor).await;
        assert!(matches!(far, Err(HandshakeError::Tls(_))), "{far:?}");
        match near {
            Err(HandshakeError::PeerRefused(refused)) => assert_eq!(refused.alert, expected),
            near => panic!("{near:?}"),
        }
        let (acceptor, connector) = (other.acceptor().unwrap(), required().connector().unwrap());
        let (near, far) = shake(&connector, &acceptor).await;
        assert!(near.is_err() && far.is_err());
    }
}

//! Sessions are resumed while nothing has changed, by several processes where they share keys, and by nobody else.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustls::SupportedProtocolVersion;
use rustls::version::{TLS12, TLS13};
use spiffe_tls::spiffe_core::bundle::{X509Authorities, X509Authority};
use spiffe_tls::spiffe_core::verify::Revocations;
use spiffe_tls::spiffe_core::{Bundle, BundleSet, Denied, PeerFacts, TrustDomain};
use spiffe_tls::{
    Acceptor, Authorizer, Connector, HandshakeError, LeaseRules, Mtls, Policy, Publisher, Terms,
    TicketKeys, rustls,
};
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const VERSIONS: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];

fn mtls(
    source: &Publisher,
    terms: impl Into<Terms>,
    clock: &HandClock,
    version: &'static SupportedProtocolVersion,
) -> Mtls {
    Mtls::new(source, terms)
        .clock(Arc::new(clock.clone()))
        .versions(&[version])
        .lease_rules(LeaseRules::report())
}

fn policy(text: &str) -> Policy {
    text.parse().unwrap()
}

/// A whole connection, with a word in each direction; whether it was resumed, which both sides agree on.
async fn visit(connector: &Connector, acceptor: &Acceptor) -> Result<bool, HandshakeError> {
    let (near, far) = shake(connector, acceptor).await;
    let (mut near, mut far) = (near?, far?);
    far.write_all(b"x").await.unwrap();
    far.flush().await.unwrap();
    near.read_exact(&mut [0]).await.unwrap();
    assert_eq!(near.peer().is_resumed(), far.peer().is_resumed());
    Ok(near.peer().is_resumed())
}

struct World {
    clock: HandClock,
    domain: Domain,
    server: Publisher,
    client: Publisher,
}

impl World {
    fn new() -> Self {
        let domain = Domain::new("east");
        Self {
            clock: HandClock::default(),
            server: Publisher::fixed([domain.svid("server", 3000)], bundles(&[&domain])),
            client: Publisher::fixed([domain.svid("client", 600)], bundles(&[&domain])),
            domain,
        }
    }

    fn of(&self, source: &Publisher, version: &'static SupportedProtocolVersion) -> Mtls {
        mtls(source, policy("domain:east"), &self.clock, version)
    }

    fn server(&self, version: &'static SupportedProtocolVersion) -> Mtls {
        self.of(&self.server, version)
    }

    fn client(&self, version: &'static SupportedProtocolVersion) -> Mtls {
        self.of(&self.client, version)
    }
}

#[tokio::test]
async fn in_steady_state_all_but_the_first_resume_and_own_rotations_end_no_session() {
    for version in VERSIONS {
        let world = World::new();
        let acceptor = world.server(version).acceptor().unwrap();
        let connector = world.client(version).connector().unwrap();
        let mut resumed = 0;
        for round in 0..100 {
            if round % 10 == 9 {
                for (source, path) in [(&world.server, "server"), (&world.client, "client")] {
                    let svid = Arc::new(world.domain.svid(path, 3000));
                    source.publish([svid], bundles(&[&world.domain])).unwrap();
                }
            }
            resumed += usize::from(visit(&connector, &acceptor).await.unwrap());
        }
        assert_eq!(resumed, 99, "{version:?}");
    }
}

#[tokio::test]
async fn no_session_outlives_the_reissue_of_both_ends_under_another_authority() {
    for version in VERSIONS {
        let (old, new) = (Domain::new("east"), Domain::new("east"));
        let both = || {
            let certificates = [old.certificate(), new.certificate()];
            let authorities = X509Authorities::from_certificates(certificates);
            let bundle = old.bundle().with_x509_authorities(authorities);
            BundleSet::from_iter([bundle])
        };
        for reissued in ["server", "client"] {
            let world = World::new();
            let server = Publisher::fixed([old.svid("server", 3000)], both());
            let client = Publisher::fixed([old.svid("client", 600)], both());
            let acceptor = world.of(&server, version).acceptor().unwrap();
            let connector = world.of(&client, version).connector().unwrap();
            visit(&connector, &acceptor).await.unwrap();
            assert!(visit(&connector, &acceptor).await.unwrap());
            let source = if reissued == "server" {
                &server
            } else {
                &client
            };
            let svid = Arc::new(new.svid(reissued, 3000));
            source.publish([svid], both()).unwrap();
            assert!(!visit(&connector, &acceptor).await.unwrap(), "{reissued}");
            assert!(visit(&connector, &acceptor).await.unwrap(), "{reissued}");
        }
    }
}

/// A ticket that arrives late belongs to what its connection has shown, not to what would be shown now.
#[tokio::test]
async fn a_session_of_a_connection_that_began_before_a_reissue_is_not_kept() {
    for reissued in [false, true] {
        let world = World::new();
        let (old, new) = (&world.domain, Domain::new("east"));
        let certificates = [old.certificate(), new.certificate()];
        let both = || {
            let authorities = X509Authorities::from_certificates(certificates.clone());
            BundleSet::from_iter([old.bundle().with_x509_authorities(authorities)])
        };
        let server = Publisher::fixed([old.svid("server", 3000)], both());
        let client = Publisher::fixed([old.svid("client", 600)], both());
        let acceptor = world.of(&server, &TLS13).acceptor().unwrap();
        let connector = world.of(&client, &TLS13).connector().unwrap();
        let (near, far) = shake(&connector, &acceptor).await;
        let (mut near, mut far) = (near.unwrap(), far.unwrap());
        if reissued {
            client
                .publish([Arc::new(new.svid("client", 600))], both())
                .unwrap();
        }
        // The ticket comes with the first data.
        far.write_all(b"x").await.unwrap();
        far.flush().await.unwrap();
        near.read_exact(&mut [0]).await.unwrap();
        assert_eq!(visit(&connector, &acceptor).await.unwrap(), !reissued);
    }
}

#[tokio::test]
async fn resumption_is_off_by_one_switch_on_either_side() {
    for version in VERSIONS {
        let world = World::new();
        let on = (
            world.server(version).acceptor().unwrap(),
            world.client(version).connector().unwrap(),
        );
        let off = (
            world.server(version).resumption(false).acceptor().unwrap(),
            world.client(version).resumption(false).connector().unwrap(),
        );
        for (acceptor, connector, expected) in [
            (&on.0, &on.1, true),
            (&off.0, &on.1, false),
            (&on.0, &off.1, false),
        ] {
            visit(connector, acceptor).await.unwrap();
            let resumed = visit(connector, acceptor).await.unwrap();
            assert_eq!(resumed, expected, "{version:?}");
        }
    }
}

#[tokio::test]
async fn a_lineage_of_sessions_ends_with_the_svids_of_its_first_handshake() {
    for version in VERSIONS {
        // Whichever of the two ends first.
        for (of_server, of_client) in [(3000, 600), (600, 3000)] {
            let world = World::new();
            let source = |path, seconds| {
                Publisher::fixed(
                    [world.domain.svid(path, seconds)],
                    bundles(&[&world.domain]),
                )
            };
            let (server, client) = (source("server", of_server), source("client", of_client));
            let acceptor = world.of(&server, version).acceptor().unwrap();
            let connector = world.of(&client, version).connector().unwrap();
            assert!(!visit(&connector, &acceptor).await.unwrap());
            // Both get successors; neither was shown in the session.
            for (source, path) in [(&server, "server"), (&client, "client")] {
                let next = Arc::new(world.domain.svid(path, 6000));
                source.publish([next], bundles(&[&world.domain])).unwrap();
            }
            for _ in 0..6 {
                world.clock.advance(Duration::from_secs(100));
                assert!(visit(&connector, &acceptor).await.unwrap());
            }
            world.clock.advance(Duration::from_secs(1));
            // Not refused: a full handshake takes its place.
            assert!(!visit(&connector, &acceptor).await.unwrap());
            assert!(visit(&connector, &acceptor).await.unwrap());
        }
    }
}

/// The server by itself: a client whose clock stands still offers its tickets for ever.
#[tokio::test]
async fn a_server_takes_no_ticket_after_its_end_whatever_the_client_thinks() {
    for version in VERSIONS {
        let world = World::new();
        let acceptor = world.server(version).acceptor().unwrap();
        let still = HandClock::default();
        let connector = mtls(&world.client, policy("domain:east"), &still, version)
            .connector()
            .unwrap();
        visit(&connector, &acceptor).await.unwrap();
        let next = Arc::new(world.domain.svid("client", 3000));
        world
            .client
            .publish([next], bundles(&[&world.domain]))
            .unwrap();
        assert!(visit(&connector, &acceptor).await.unwrap());
        world.clock.advance(Duration::from_secs(601));
        assert!(!visit(&connector, &acceptor).await.unwrap());
    }
}

/// Something that changes, with the terms of both sides.
type Change<'a> = &'a dyn Fn(&World, &Terms, &Terms);

#[tokio::test]
async fn whatever_changes_trust_makes_the_next_handshake_a_full_one() {
    for version in VERSIONS {
        let other = Domain::new("other");
        let changes: [(&str, Change<'_>); 6] = [
            ("server's bundles", &|world, _, _| {
                let svid = Arc::new(world.domain.svid("server", 3000));
                let wider = bundles(&[&world.domain, &other]);
                world.server.publish([svid], wider).unwrap();
            }),
            ("client's bundles", &|world, _, _| {
                let svid = Arc::new(world.domain.svid("client", 600));
                let wider = bundles(&[&world.domain, &other]);
                world.client.publish([svid], wider).unwrap();
            }),
            ("server's ID", &|world, _, _| {
                let svid = Arc::new(world.domain.svid("server2", 3000));
                world
                    .server
                    .publish([svid], bundles(&[&world.domain]))
                    .unwrap();
            }),
            ("a taint", &|world, _, _| {
                let svid = Arc::new(world.domain.svid("server", 3000));
                let authority = X509Authority::from_der(world.domain.certificate()).unwrap();
                let authorities: X509Authorities = [authority.into_tainted()].into_iter().collect();
                let tainted = world.domain.bundle().with_x509_authorities(authorities);
                let bundles = BundleSet::from_iter([tainted]);
                world.server.publish([svid], bundles).unwrap();
            }),
            ("a list of revoked certificates", &|world, server, _| {
                server.revoke(revoking(&world.domain, b"\x01"));
            }),
            ("terms", &|_, server, client| {
                server.authorize(policy("domain:east|domain:west"));
                client.authorize(policy("domain:east|domain:west"));
            }),
        ];
        for (what, change) in changes {
            let world = World::new();
            let terms = || Terms::new(policy("domain:east"));
            let (of_server, of_client) = (terms(), terms());
            let acceptor = mtls(&world.server, of_server.clone(), &world.clock, version)
                .acceptor()
                .unwrap();
            let connector = mtls(&world.client, of_client.clone(), &world.clock, version)
                .connector()
                .unwrap();
            visit(&connector, &acceptor).await.unwrap();
            assert!(visit(&connector, &acceptor).await.unwrap());
            change(&world, &of_server, &of_client);
            assert!(!visit(&connector, &acceptor).await.unwrap(), "{what}");
            assert!(visit(&connector, &acceptor).await.unwrap(), "{what}");
        }
    }
}

/// Decides by a switch, and says that it always decides alike.
#[derive(Clone, Debug)]
struct Fickle(Arc<AtomicBool>);

impl Authorizer for Fickle {
    fn authorize(&self, peer: &PeerFacts<'_>) -> Result<(), Denied> {
        if self.0.load(Ordering::Relaxed) {
            Ok(())
        } else {
            Err(Denied::new(peer.id, "switched off"))
        }
    }

    fn canonical_text(&self) -> Option<String> {
        Some("the same".into())
    }
}

/// The first fence without the second: the session is still good, and the peer is judged all the same.
#[tokio::test]
async fn a_resumed_peer_is_judged_again_before_its_connection_is_handed_out() {
    for version in VERSIONS {
        for server_judges in [true, false] {
            let world = World::new();
            let switch = Fickle(Arc::new(AtomicBool::new(true)));
            let fickle = |source| mtls(source, switch.clone(), &world.clock, version);
            let (acceptor, connector) = if server_judges {
                (fickle(&world.server), world.client(version))
            } else {
                (world.server(version), fickle(&world.client))
            };
            let (acceptor, connector) =
                (acceptor.acceptor().unwrap(), connector.connector().unwrap());
            visit(&connector, &acceptor).await.unwrap();
            assert!(visit(&connector, &acceptor).await.unwrap());
            switch.0.store(false, Ordering::Relaxed);
            let (near, far) = shake(&connector, &acceptor).await;
            let judged = if server_judges { far.err() } else { near.err() };
            let error = judged.expect("refused");
            let refusal = error.refusal().expect("a verdict of this side");
            assert_eq!(refusal.rule().code(), "not-authorized");
            assert!(refusal.to_string().contains("switched off"));
            // Positive twin.
            switch.0.store(true, Ordering::Relaxed);
            visit(&connector, &acceptor).await.unwrap();
        }
    }
}

#[tokio::test]
async fn processes_that_share_keys_and_trust_resume_each_others_sessions() {
    for version in VERSIONS {
        let world = World::new();
        let keys = || TicketKeys::new(&mut [7; 32]);
        let shared = keys();
        let first = world
            .server(version)
            .ticket_keys(&shared)
            .acceptor()
            .unwrap();
        // Another process: another source with an SVID of its own, the same ID, trust, policy and secret.
        let elsewhere = Publisher::fixed(
            [world.domain.svid("server", 3000)],
            bundles(&[&world.domain]),
        );
        let second = |source, terms: &str, keys: &TicketKeys| {
            mtls(source, policy(terms), &world.clock, version)
                .ticket_keys(keys)
                .acceptor()
                .unwrap()
        };
        let other_id = Publisher::fixed(
            [world.domain.svid("other", 3000)],
            bundles(&[&world.domain]),
        );
        let rotated = keys();
        rotated.rotate(&mut [8; 32]);
        let forgotten = keys();
        forgotten.rotate(&mut [8; 32]);
        forgotten.rotate(&mut [9; 32]);
        let cases = [
            (second(&elsewhere, "domain:east", &keys()), true),
            (second(&elsewhere, "domain:east", &rotated), true),
            (second(&elsewhere, "domain:east", &forgotten), false),
            (
                second(&elsewhere, "domain:east", &TicketKeys::new(&mut [9; 32])),
                false,
            ),
            (second(&elsewhere, "any", &keys()), false),
            (second(&other_id, "domain:east", &keys()), false),
        ];
        for (case, (second, expected)) in cases.iter().enumerate() {
            let connector = world.client(version).connector().unwrap();
            visit(&connector, &first).await.unwrap();
            let resumed = visit(&connector, second).await.unwrap();
            assert_eq!(resumed, *expected, "{version:?} case {case}");
        }
        assert!(!format!("{shared:?}").contains('7'));
    }
}

#[tokio::test]
async fn the_order_of_authorities_and_lists_keeps_no_processes_apart() {
    let world = World::new();
    let others = ["north", "west"].map(Domain::new);
    let trust = |order: [&Domain; 3], tainted: bool| {
        let authorities = order.map(|domain| {
            let authority = X509Authority::from_der(domain.certificate()).unwrap();
            if tainted && domain.name == "west" {
                authority.into_tainted()
            } else {
                authority
            }
        });
        let bundle = world.domain.bundle();
        BundleSet::from_iter([
            bundle.with_x509_authorities(authorities.into_iter().collect::<X509Authorities>())
        ])
    };
    let [north, west] = &others;
    let own = &world.domain;
    let lists = [north, west].map(|domain| list(domain, &[1]));
    let [first, last] = lists;
    let ways = [
        (
            trust([own, north, west], false),
            [first.clone(), last.clone()],
            true,
        ),
        (
            trust([west, own, north], false),
            [last.clone(), first.clone()],
            true,
        ),
        (
            trust([west, own, north], true),
            [last.clone(), first.clone()],
            false,
        ),
        (
            trust([west, own, own], false),
            [last.clone(), first.clone()],
            false,
        ),
        (
            trust([west, own, north], false),
            [last.clone(), last.clone()],
            false,
        ),
    ];
    let servers = ways.map(|(bundles, lists, resumes)| {
        let source = Publisher::fixed([own.svid("server", 3000)], bundles);
        let terms = Terms::new(policy("domain:east"));
        terms.revoke(Revocations::from_der(lists));
        let server = mtls(&source, terms, &world.clock, &TLS13);
        let server = server.ticket_keys(&TicketKeys::new(&mut [7; 32]));
        (server.acceptor().unwrap(), resumes)
    });
    for (case, (server, expected)) in servers.iter().enumerate() {
        let connector = world.client(&TLS13).connector().unwrap();
        visit(&connector, &servers[0].0).await.unwrap();
        let resumed = visit(&connector, server).await.unwrap();
        assert_eq!(resumed, *expected, "case {case}");
    }
}

#[tokio::test]
async fn names_and_the_word_on_taints_keep_processes_apart() {
    let world = World::new();
    let north = Domain::new("north");
    let server = |name: &str, refuses: bool| {
        let more = Bundle::new(TrustDomain::parse(name).unwrap())
            .with_x509_authorities(north.bundle().x509_authorities().clone());
        let bundles = BundleSet::from_iter([world.domain.bundle(), more]);
        let source = Publisher::fixed([world.domain.svid("server", 3000)], bundles);
        let terms = Terms::new(policy("domain:east"));
        terms.refuse_tainted(refuses);
        let server = mtls(&source, terms, &world.clock, &TLS13);
        let server = server.ticket_keys(&TicketKeys::new(&mut [7; 32]));
        server.acceptor().unwrap()
    };
    let first = server("b", false);
    for (second, expected) in [
        (server("b", false), true),
        (server("c", false), false),
        (server("b", true), false),
    ] {
        let connector = world.client(&TLS13).connector().unwrap();
        visit(&connector, &first).await.unwrap();
        let resumed = visit(&connector, &second).await.unwrap();
        assert_eq!(resumed, expected);
    }
}

#[tokio::test]
async fn a_running_acceptor_follows_its_shared_keys() {
    for version in VERSIONS {
        let world = World::new();
        let keys = TicketKeys::new(&mut [7; 32]);
        let acceptor = world.server(version).ticket_keys(&keys).acceptor().unwrap();
        let connector = world.client(version).connector().unwrap();
        visit(&connector, &acceptor).await.unwrap();
        for (secrets, resumes) in [(vec![8], true), (vec![8, 8], true), (vec![9, 10], false)] {
            for secret in secrets {
                keys.rotate(&mut [secret; 32]);
            }
            let resumed = visit(&connector, &acceptor).await.unwrap();
            assert_eq!(resumed, resumes, "{version:?}");
        }
    }
}

#[tokio::test]
async fn tickets_outlive_one_change_of_keys_and_no_second() {
    let world = World::new();
    let half_period = Duration::from_secs(3 * 3600);
    let long = |path| world.domain.svid(path, 80_000);
    let server = Publisher::fixed([long("server")], bundles(&[&world.domain]));
    let client = Publisher::fixed([long("client")], bundles(&[&world.domain]));
    for (periods, expected) in [(0, true), (2, true), (5, false)] {
        let acceptor = world.of(&server, &TLS13).acceptor().unwrap();
        let connector = world.of(&client, &TLS13).connector().unwrap();
        visit(&connector, &acceptor).await.unwrap();
        world.clock.advance(half_period * periods);
        let resumed = visit(&connector, &acceptor).await.unwrap();
        assert_eq!(resumed, expected, "{periods} half periods");
    }
}

#[tokio::test]
async fn sessions_are_kept_apart_by_destination() {
    let world = World::new();
    let acceptors: Vec<_> = (0..3)
        .map(|_| world.server(&TLS13).acceptor().unwrap())
        .collect();
    let connector = world.client(&TLS13).connector().unwrap();
    for round in 0..3 {
        for (number, acceptor) in acceptors.iter().enumerate() {
            let name = format!("server-{number}").try_into().unwrap();
            let (near, far) = tokio::io::duplex(64 * 1024);
            let (near, far) = tokio::join!(connector.connect_to(name, near), acceptor.accept(far));
            let (mut near, mut far) = (near.unwrap(), far.unwrap());
            far.write_all(b"x").await.unwrap();
            near.read_exact(&mut [0]).await.unwrap();
            assert_eq!(near.peer().is_resumed(), round > 0, "{round} {number}");
        }
    }
}

#[tokio::test]
async fn a_session_of_another_server_is_worth_nothing() {
    let world = World::new();
    let first = world.server(&TLS13).acceptor().unwrap();
    let second = world.server(&TLS13).acceptor().unwrap();
    let connector = world.client(&TLS13).connector().unwrap();
    visit(&connector, &first).await.unwrap();
    assert!(!visit(&connector, &second).await.unwrap());
    assert!(visit(&connector, &second).await.unwrap());
}

/// What takes trust away on the server's side.
type Strike<'a> = &'a dyn Fn(&World, &Terms);

/// A client of another make keeps its sessions whatever happens on its side.
#[tokio::test]
async fn a_client_that_keeps_its_sessions_gets_nowhere_with_them_once_trust_is_gone() {
    let causes: [(&str, Strike<'_>); 3] = [
        ("x509-trust-domain-unknown", &|world, _| {
            let svid = Arc::new(world.domain.svid("server", 3000));
            world.server.publish([svid], bundles(&[])).unwrap();
        }),
        ("not-authorized", &|_, terms| {
            terms.authorize(policy("id:spiffe://east/other"));
        }),
        ("x509-revoked", &|world, terms| {
            let serial = world.client.load().svid().unwrap().serial().to_vec();
            terms.revoke(revoking(&world.domain, &serial));
        }),
    ];
    for version in VERSIONS {
        for (code, strike) in causes {
            let world = World::new();
            let terms = Terms::new(policy("domain:east"));
            let acceptor = mtls(&world.server, terms.clone(), &world.clock, version)
                .acceptor()
                .unwrap();
            let mut eager = (*world.client(version).client_config().unwrap()).clone();
            eager.resumption = rustls::client::Resumption::in_memory_sessions(16);
            let eager = tokio_rustls::TlsConnector::from(Arc::new(eager));
            let visit = async || {
                let (near, far) = tokio::io::duplex(64 * 1024);
                let client = async {
                    let name = "server.invalid".try_into().unwrap();
                    let mut stream = eager.connect(name, near).await.ok()?;
                    let mut text = Vec::new();
                    stream.read_to_end(&mut text).await.ok()?;
                    Some(text)
                };
                let server = async {
                    let mut stream = acceptor.accept(far).await?;
                    stream.write_all(b"hello").await.unwrap();
                    stream.shutdown().await.unwrap();
                    Ok::<_, HandshakeError>(stream.peer().is_resumed())
                };
                tokio::join!(client, server)
            };
            for expected in [false, true, true] {
                let (read, resumed) = visit().await;
                assert_eq!(read.as_deref(), Some(&b"hello"[..]));
                assert_eq!(resumed.unwrap(), expected);
            }
            strike(&world, &terms);
            for _ in 0..4 {
                let (read, resumed) = visit().await;
                assert_eq!(read.filter(|text| !text.is_empty()), None);
                let error = resumed.unwrap_err();
                assert_eq!(error.rule().unwrap().code(), code, "{version:?}");
            }
        }
    }
}

//! Mutual TLS through acceptor and connector: identities, rotation, refusals, deadlines.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use rustls::AlertDescription;
use rustls::version::{TLS12, TLS13};
use spiffe_tls::spiffe_core::{BundleSet, Rule};
use spiffe_tls::{
    Acceptor, Connector, HandshakeError, Mtls, PeerRefused, Policy, Publisher, RefusalReason,
    rustls,
};
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn ends(
    clock: &HandClock,
    server: &Publisher,
    client: &Publisher,
    server_policy: &str,
    client_policy: &str,
) -> (Acceptor, Connector) {
    let of = |source: &Publisher, policy: &str| {
        Mtls::new(source, policy.parse::<Policy>().unwrap()).clock(Arc::new(clock.clone()))
    };
    (
        of(server, server_policy).acceptor().unwrap(),
        of(client, client_policy).connector().unwrap(),
    )
}

#[track_caller]
fn refused(ended: Ended) -> (Rule, String) {
    match ended {
        Err(error @ HandshakeError::Refused(_)) => (error.rule().unwrap(), error.to_string()),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn each_side_knows_the_other_in_both_versions() {
    let clock = HandClock::default();
    let (east, west) = (Domain::new("east"), Domain::new("west"));
    let server = Publisher::fixed([east.svid("server", 600)], bundles(&[&east, &west]));
    let client = Publisher::fixed([west.svid("client", 600)], bundles(&[&east, &west]));
    for version in [&TLS12, &TLS13] {
        let of = |source, policy: &str| {
            Mtls::new(source, policy.parse::<Policy>().unwrap())
                .clock(Arc::new(clock.clone()))
                .versions(&[version])
        };
        let acceptor = of(&server, "domain:west").acceptor().unwrap();
        let connector = of(&client, "id:spiffe://east/server").connector().unwrap();
        let (near, far) = shake(&connector, &acceptor).await;
        let (mut near, mut far) = (near.unwrap(), far.unwrap());
        assert_eq!(near.peer().id().as_str(), "spiffe://east/server");
        assert_eq!(far.peer().id().as_str(), "spiffe://west/client");
        assert_eq!(
            near.peer().own_id().unwrap().as_str(),
            "spiffe://west/client"
        );
        assert_eq!(near.peer().protocol_version(), version.version);
        near.write_all(b"hello").await.unwrap();
        near.shutdown().await.unwrap();
        let mut text = String::new();
        far.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "hello");
    }
}

#[tokio::test]
async fn a_peer_outside_the_policy_is_refused_with_access_denied() {
    let clock = HandClock::default();
    let east = Domain::new("east");
    let server = Publisher::fixed([east.svid("server", 600)], bundles(&[&east]));
    let client = Publisher::fixed([east.svid("client", 600)], bundles(&[&east]));
    let (acceptor, connector) = ends(
        &clock,
        &server,
        &client,
        "id:spiffe://east/other",
        "domain:east",
    );
    let (near, far) = shake(&connector, &acceptor).await;
    let error = far.unwrap_err();
    assert_eq!(error.rule(), Some(Rule::NotAuthorized));
    let refusal = error.refusal().unwrap();
    assert!(matches!(refusal.reason(), RefusalReason::NotAuthorized(_)));
    assert_eq!(refusal.nearest().as_deref(), Some("spiffe://east/other"));
    assert_eq!(
        refusal.explain().first_failure().unwrap().rule,
        Rule::PolicyAlternative
    );
    let told = near.unwrap().read_u8().await.unwrap_err();
    let alert = PeerRefused::in_io(&told).unwrap().alert;
    assert_eq!(alert, AlertDescription::AccessDenied);
    let (_, connector) = ends(&clock, &server, &client, "any", "id:spiffe://east/other");
    let (near, _) = shake(&connector, &acceptor).await;
    assert_eq!(refused(near).0, Rule::NotAuthorized);
}

#[tokio::test]
async fn a_peer_of_an_unknown_domain_and_a_forged_one_are_refused() {
    let clock = HandClock::default();
    let (east, outside) = (Domain::new("east"), Domain::new("outside"));
    let server = Publisher::fixed([east.svid("server", 600)], bundles(&[&east]));
    for (svid, rule) in [
        (outside.svid("client", 600), Rule::TrustDomainUnknown),
        (
            outside.forge("spiffe://east/client", 600),
            Rule::PathUntrusted,
        ),
    ] {
        let client = Publisher::fixed([svid], bundles(&[&east]));
        let (acceptor, connector) = ends(&clock, &server, &client, "any", "any");
        let (near, far) = shake(&connector, &acceptor).await;
        let (found, text) = refused(far);
        assert_eq!(found, rule, "{text}");
        assert!(text.contains('§'), "{text}");
        let told = near.unwrap().read_u8().await.unwrap_err();
        let alert = PeerRefused::in_io(&told).unwrap().alert;
        assert_eq!(alert, AlertDescription::UnknownCA);
    }
}

#[tokio::test]
async fn expiry_is_judged_by_the_clock_on_both_sides() {
    let clock = HandClock::default();
    let east = Domain::new("east");
    let long = Publisher::fixed([east.svid("long", 600)], bundles(&[&east]));
    let short = Publisher::fixed([east.svid("short", 60)], bundles(&[&east]));
    let (acceptor, connector) = ends(&clock, &long, &short, "any", "any");
    let (near, far) = shake(&connector, &acceptor).await;
    assert!(near.is_ok() && far.is_ok());
    clock.advance(Duration::from_secs(61));
    let (near, _) = shake(&connector, &acceptor).await;
    assert_eq!(near.unwrap_err().rule(), Some(Rule::OwnSvidExpired));
    // A peer whose clock is slow presents an SVID that has expired here.
    let slow = HandClock::default();
    let connector = Mtls::new(&short, "any".parse::<Policy>().unwrap())
        .clock(Arc::new(slow))
        .connector()
        .unwrap();
    let (_, far) = shake(&connector, &acceptor).await;
    let (rule, text) = refused(far);
    assert_eq!(rule, Rule::PathExpired);
    assert!(text.contains("earlier"), "{text}");
    let (acceptor, connector) = ends(&clock, &short, &long, "any", "any");
    let (_, far) = shake(&connector, &acceptor).await;
    assert_eq!(far.unwrap_err().rule(), Some(Rule::OwnSvidExpired));
}

#[tokio::test]
async fn rotation_reaches_the_next_handshake_and_withdrawal_too() {
    let clock = HandClock::default();
    let east = Domain::new("east");
    let bundle = Arc::new(bundles(&[&east]));
    let server = Publisher::new();
    let client = Publisher::fixed([east.svid("client", 600)], bundle.clone());
    let (acceptor, connector) = ends(&clock, &server, &client, "any", "any");
    let (_, far) = shake(&connector, &acceptor).await;
    assert_eq!(far.unwrap_err().rule(), Some(Rule::NoIdentity));
    let mut serials = std::collections::HashSet::new();
    for round in 1..=3 {
        server
            .publish([Arc::new(east.svid("server", 600))], bundle.clone())
            .unwrap();
        let (near, far) = shake(&connector, &acceptor).await;
        serials.insert(near.unwrap().peer().verified().serial.clone());
        assert_eq!(far.unwrap().peer().revision().get(), round);
    }
    assert_eq!(serials.len(), 3);
    server
        .publish(server.load().svids().to_vec(), BundleSet::new())
        .unwrap();
    let (_, far) = shake(&connector, &acceptor).await;
    assert_eq!(refused(far).0, Rule::TrustDomainUnknown);
    server.publish([], bundle).unwrap();
    let (_, far) = shake(&connector, &acceptor).await;
    assert_eq!(far.unwrap_err().rule(), Some(Rule::NoIdentity));
}

#[tokio::test]
async fn plain_configurations_follow_the_source_and_do_not_resume() {
    let clock = HandClock::default();
    let east = Domain::new("east");
    let bundle = Arc::new(bundles(&[&east]));
    let server = Publisher::fixed([east.svid("server", 600)], bundle.clone());
    let client = Publisher::fixed([east.svid("client", 600)], bundle.clone());
    let of = |source: &Publisher| {
        Mtls::new(source, "any".parse::<Policy>().unwrap()).clock(Arc::new(clock.clone()))
    };
    let acceptor = tokio_rustls::TlsAcceptor::from(of(&server).server_config().unwrap());
    let connector = tokio_rustls::TlsConnector::from(of(&client).client_config().unwrap());
    let shake = async || {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let name = "spiffe.invalid".try_into().unwrap();
        tokio::join!(connector.connect(name, near), acceptor.accept(far))
    };
    for _ in 0..2 {
        let (near, far) = shake().await;
        let (near, _) = (near.unwrap(), far.unwrap());
        assert_eq!(
            near.get_ref().1.handshake_kind(),
            Some(rustls::HandshakeKind::Full)
        );
    }
    let before = {
        let (near, _) = shake().await;
        near.unwrap().get_ref().1.peer_certificates().unwrap()[0].clone()
    };
    server
        .publish([Arc::new(east.svid("server", 600))], bundle)
        .unwrap();
    let (near, _) = shake().await;
    assert_ne!(
        near.unwrap().get_ref().1.peer_certificates().unwrap()[0],
        before
    );
    server
        .publish(server.load().svids().to_vec(), BundleSet::new())
        .unwrap();
    let (_, far) = shake().await;
    assert!(far.is_err(), "trust withdrawn reaches a live configuration");
}

#[tokio::test]
async fn a_silent_peer_is_given_up_at_the_deadline() {
    let clock = HandClock::default();
    let east = Domain::new("east");
    let server = Publisher::fixed([east.svid("server", 600)], bundles(&[&east]));
    let (acceptor, _) = ends(&clock, &server, &server, "any", "any");
    let (_silent, far) = tokio::io::duplex(1024);
    let waiting = tokio::spawn({
        let acceptor = acceptor.clone();
        async move { acceptor.accept(far).await.map(|_| ()) }
    });
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    clock.advance(Duration::from_secs(11));
    let error = waiting.await.unwrap().unwrap_err();
    assert_eq!(
        error.to_string(),
        "the peer did not finish the handshake within 10 s"
    );
}

#[tokio::test]
async fn a_silent_server_is_given_up_at_the_deadline() {
    let clock = HandClock::default();
    let east = Domain::new("east");
    let client = Publisher::fixed([east.svid("client", 600)], bundles(&[&east]));
    let (_, connector) = ends(&clock, &client, &client, "any", "any");
    // It takes what the client says, and says nothing.
    let (near, _silent) = tokio::io::duplex(64 * 1024);
    let waiting = tokio::spawn(async move { connector.connect(near).await.map(drop) });
    tokio::task::yield_now().await;
    clock.advance(Duration::from_secs(9));
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    clock.advance(Duration::from_secs(1));
    let error = waiting.await.unwrap().unwrap_err();
    assert!(
        matches!(error, HandshakeError::TimedOut { after } if after == Duration::from_secs(10)),
        "{error:?}"
    );
}

#[tokio::test]
async fn the_application_protocol_is_agreed_on_or_the_handshake_fails() {
    let clock = HandClock::default();
    let east = Domain::new("east");
    let source = Publisher::fixed([east.svid("x", 600)], bundles(&[&east]));
    let (h2, http1): (&[u8], &[u8]) = (b"h2", b"http/1.1");
    for version in [&TLS12, &TLS13] {
        let of = |protocols: &[&[u8]]| {
            Mtls::new(&source, "any".parse::<Policy>().unwrap())
                .clock(Arc::new(clock.clone()))
                .versions(&[version])
                .alpn(protocols.iter().copied())
        };
        let both: &[&[u8]] = &[h2, http1];
        for (server, client, agreed) in [
            (both, both, Some(h2)),
            // Of several the server's order decides.
            (both, [http1, h2].as_slice(), Some(h2)),
            (both, &both[1..], Some(http1)),
            (&both[..0], &both[..1], None),
            (&both[..1], &both[..0], None),
        ] {
            let (acceptor, connector) = (of(server).acceptor(), of(client).connector());
            let (near, far) = shake(&connector.unwrap(), &acceptor.unwrap()).await;
            assert_eq!(near.unwrap().alpn_protocol(), agreed);
            assert_eq!(far.unwrap().alpn_protocol(), agreed);
        }
        // RFC 7301 §3.2.
        let (acceptor, connector) = (of(&[h2]).acceptor(), of(&[http1]).connector());
        let (near, far) = shake(&connector.unwrap(), &acceptor.unwrap()).await;
        let none = rustls::Error::NoApplicationProtocol;
        assert!(matches!(far, Err(HandshakeError::Tls(error)) if error == none));
        match near {
            Err(HandshakeError::PeerRefused(PeerRefused { alert, .. })) => {
                assert_eq!(alert, AlertDescription::NoApplicationProtocol);
            }
            near => panic!("{near:?}"),
        }
    }
}

#[tokio::test]
async fn a_unix_socket_carries_a_connection() {
    let clock = HandClock::default();
    let east = Domain::new("east");
    let source = Publisher::fixed([east.svid("x", 600)], bundles(&[&east]));
    let (acceptor, connector) = ends(&clock, &source, &source, "any", "any");
    let (near, far) = tokio::net::UnixStream::pair().unwrap();
    let (near, far) = tokio::join!(connector.connect(near), acceptor.accept(far));
    let (mut near, mut far) = (near.unwrap(), far.unwrap());
    assert_eq!(far.peer().id().as_str(), "spiffe://east/x");
    near.write_all(b"hello").await.unwrap();
    near.shutdown().await.unwrap();
    let mut text = String::new();
    far.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "hello");
}

#[tokio::test]
async fn nonsense_instead_of_tls_is_an_error_of_one_line() {
    let clock = HandClock::default();
    let east = Domain::new("east");
    let server = Publisher::fixed([east.svid("server", 600)], bundles(&[&east]));
    let (acceptor, _) = ends(&clock, &server, &server, "any", "any");
    let (mut near, far) = tokio::io::duplex(1024);
    near.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let error = acceptor.accept(far).await.map(|_| ()).unwrap_err();
    assert!(matches!(error, HandshakeError::Tls(_)), "{error:?}");
    assert!(
        error.to_string().ends_with("is the peer speaking TLS?"),
        "{error}"
    );
    let (near, far) = tokio::io::duplex(1024);
    drop(near);
    let error = acceptor.accept(far).await.map(|_| ()).unwrap_err();
    assert!(matches!(error, HandshakeError::Io(_)), "{error:?}");
}

#[tokio::test]
async fn a_thousand_silent_peers_stop_nobody() {
    let clock = HandClock::default();
    let east = Domain::new("east");
    let source = Publisher::fixed([east.svid("server", 600)], bundles(&[&east]));
    let (acceptor, connector) = ends(&clock, &source, &source, "any", "any");
    let bound = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut listener = acceptor.listen(bound);
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(async move {
        let mut timed_out = 0;
        let mut served = 0;
        while timed_out < 1000 {
            match listener.accept().await.unwrap() {
                Ok(mut stream) => {
                    served += 1;
                    stream.write_all(b"x").await.unwrap();
                }
                Err(HandshakeError::TimedOut { .. }) => timed_out += 1,
                Err(error) => panic!("{error}"),
            }
        }
        served
    });
    let mut silent = Vec::new();
    for _ in 0..1000 {
        silent.push(tokio::net::TcpStream::connect(address).await.unwrap());
    }
    let honest = tokio::net::TcpStream::connect(address).await.unwrap();
    let mut stream = connector.connect(honest).await.unwrap();
    assert_eq!(stream.read_u8().await.unwrap(), b'x');
    // Every silent connection came before the honest one, so each has its deadline set by now.
    clock.advance(Duration::from_secs(11));
    assert_eq!(serving.await.unwrap(), 1);
}

#[tokio::test]
async fn handshakes_never_fail_while_both_sides_rotate() {
    let clock = HandClock::default();
    let east = Domain::new("east");
    let bundle = Arc::new(bundles(&[&east]));
    let server = Publisher::fixed([east.svid("server", 600)], bundle.clone());
    let client = Publisher::fixed([east.svid("client", 600)], bundle.clone());
    let (acceptor, connector) = ends(&clock, &server, &client, "any", "any");
    for _ in 0..40 {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let rotate = async {
            for (source, path) in [(&server, "server"), (&client, "client")] {
                tokio::task::yield_now().await;
                source
                    .publish([Arc::new(east.svid(path, 600))], bundle.clone())
                    .unwrap();
            }
        };
        let (near, far, ()) = tokio::join!(connector.connect(near), acceptor.accept(far), rotate);
        near.unwrap();
        far.unwrap();
    }
}

#[test]
fn a_key_that_cannot_sign_for_tls_is_refused_when_the_configuration_is_made() {
    use spiffe_tls::spiffe_core::X509Svid;
    use spiffe_tls::spiffe_core::crypto::aws_lc_rs;
    use spiffe_tls::spiffe_core::key::SvidKey;
    let east = Domain::new("east");
    let local = east.svid("server", 600);
    let SvidKey::Local(key) = local.key() else {
        panic!()
    };
    let signer = aws_lc_rs().load_key(key).unwrap();
    let remote = X509Svid::with_signer(local.chain().to_vec(), signer).unwrap();
    let source = Publisher::fixed([remote], BundleSet::new());
    let error = Mtls::new(&source, "any".parse::<Policy>().unwrap())
        .acceptor()
        .unwrap_err();
    assert!(error.to_string().contains("remote signer"), "{error}");
    let good = Publisher::fixed([local], BundleSet::new());
    assert!(
        Mtls::new(&good, "any".parse::<Policy>().unwrap())
            .acceptor()
            .is_ok()
    );
}

#[tokio::test]
async fn the_longest_timeout_is_none_at_all() {
    let east = Domain::new("east");
    let source = Publisher::fixed([east.svid("server", 600)], bundles(&[&east]));
    let clock = HandClock::default();
    clock.advance(Duration::from_secs(1));
    let of = || {
        Mtls::new(&source, "any".parse::<Policy>().unwrap())
            .clock(Arc::new(clock.clone()))
            .handshake_timeout(Duration::MAX)
    };
    let (connector, acceptor) = (of().connector().unwrap(), of().acceptor().unwrap());
    let (near, far) = shake(&connector, &acceptor).await;
    assert!(near.is_ok() && far.is_ok());
}

#[tokio::test]
async fn a_handshake_inside_the_transport_lends_its_peer_to_nobody() {
    let clock = HandClock::default();
    let east = Domain::new("east");
    let bundle = Arc::new(bundles(&[&east]));
    let server = Publisher::fixed([east.svid("server", 600)], bundle.clone());
    let client = Publisher::fixed([east.svid("client", 600)], bundle.clone());
    let (acceptor, connector) = ends(&clock, &server, &client, "any", "any");
    let tunnel = Publisher::fixed([east.svid("tunnel", 600)], bundle);
    let of_tunnel =
        || Mtls::new(&tunnel, "any".parse::<Policy>().unwrap()).clock(Arc::new(clock.clone()));
    let (near, far) = tokio::io::duplex(64 * 1024);
    let near = Tunnel {
        inner: near,
        client: of_tunnel().client_config().unwrap(),
        server: of_tunnel().server_config().unwrap(),
    };
    let (near, far) = tokio::join!(connector.connect(near), acceptor.accept(far));
    far.unwrap();
    assert_eq!(near.unwrap().peer().id().path(), "/server");
}

#[tokio::test]
async fn where_resumption_is_off_a_client_that_would_resume_proves_itself_again() {
    let clock = HandClock::default();
    let east = Domain::new("east");
    let source = Publisher::fixed([east.svid("x", 600)], bundles(&[&east]));
    let of = || Mtls::new(&source, "any".parse::<Policy>().unwrap()).clock(Arc::new(clock.clone()));
    let acceptor = of().resumption(false).acceptor().unwrap();
    let plain = tokio_rustls::TlsAcceptor::from(of().server_config().unwrap());
    for version in [&TLS12, &TLS13] {
        let ours = of().versions(&[version]).client_config().unwrap();
        let mut eager = (*ours).clone();
        eager.resumption = rustls::client::Resumption::in_memory_sessions(16);
        let connector = tokio_rustls::TlsConnector::from(Arc::new(eager));
        // A name for each server, so that the client keeps what it remembers of them apart.
        let connect = async |name: &'static str, near| {
            let name = rustls::pki_types::ServerName::try_from(name).unwrap();
            let mut stream = connector.connect(name, near).await.unwrap();
            // Tickets come after the handshake: read to the end, so that the client has what there is.
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).await.unwrap();
            stream.get_ref().1.handshake_kind()
        };
        for _ in 0..3 {
            let (near, far) = tokio::io::duplex(64 * 1024);
            let server = async {
                acceptor
                    .accept(far)
                    .await
                    .unwrap()
                    .shutdown()
                    .await
                    .unwrap()
            };
            let (kind, ()) = tokio::join!(connect("acceptor.invalid", near), server);
            assert_eq!(kind, Some(rustls::HandshakeKind::Full));
            let (near, far) = tokio::io::duplex(64 * 1024);
            let server = async { plain.accept(far).await.unwrap().shutdown().await.unwrap() };
            let (kind, ()) = tokio::join!(connect("plain.invalid", near), server);
            assert_eq!(kind, Some(rustls::HandshakeKind::Full));
        }
    }
}

#[tokio::test]
async fn a_handshake_that_began_earlier_is_judged_by_the_bundles_of_now() {
    let clock = HandClock::default();
    let (east, west) = (Domain::new("east"), Domain::new("west"));
    let server = Publisher::fixed([east.svid("server", 600)], bundles(&[&east]));
    let client = Publisher::fixed([west.svid("client", 600)], bundles(&[&east]));
    let (acceptor, connector) = ends(&clock, &server, &client, "any", "any");
    let svids = server.load().svids().to_vec();
    // The server has begun, and waits for a client that takes its time.
    let late = async |trusted: &[&Domain]| {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let accepting = tokio::spawn({
            let acceptor = acceptor.clone();
            async move { acceptor.accept(far).await }
        });
        tokio::task::yield_now().await;
        server.publish(svids.clone(), bundles(trusted)).unwrap();
        let connected = connector.connect(near).await;
        (accepting.await.unwrap(), connected)
    };
    let (accepted, _near) = late(&[&east, &west]).await;
    let peer = accepted.unwrap().peer().clone();
    assert_eq!(
        peer.revision(),
        server.load().revision(),
        "trust that came meanwhile counts"
    );
    let (accepted, _near) = late(&[&east]).await;
    assert_eq!(
        refused(accepted).0,
        Rule::TrustDomainUnknown,
        "and so does its withdrawal"
    );
}

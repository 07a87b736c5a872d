//! The revocation matrix: whatever ends trust, on either side, in both versions, refuses full and resumed handshakes and
//! drains connections that are open, idle or busy, within the budget.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use rustls::SupportedProtocolVersion;
use rustls::version::{TLS12, TLS13};
use spiffe_tls::spiffe_core::bundle::{X509Authorities, X509Authority};
use spiffe_tls::spiffe_core::{Bundle, BundleSet, TrustDomain, X509Svid};
use spiffe_tls::{
    Acceptor, Connector, HandshakeError, LeaseEnd, LeaseOver, LeaseRules, Mtls, Policy, Publisher,
    Shown, Terms, TlsStream, rustls,
};
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

const SPREAD: Duration = Duration::from_secs(4);
const GRACE: Duration = Duration::from_secs(10);

/// How long the SVID of the peer that is watched lives; the other side's lives longer.
const LIFE: u64 = 600;

/// Both ends of two trust domains. The side that looks is the one under test; the other is its peer.
struct Pair {
    clock: HandClock,
    looks: Side,
    own: Domain,
    theirs: Domain,
    own_svid: Arc<X509Svid>,
    looker: Publisher,
    terms: Terms,
    server: Acceptor,
    client: Connector,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Client,
    Server,
}

type Stream = TlsStream<DuplexStream>;

impl Pair {
    fn new(looks: Side, version: &'static SupportedProtocolVersion, rules: LeaseRules) -> Self {
        let clock = HandClock::default();
        let (own, theirs) = (Domain::new("own"), Domain::new("theirs"));
        let own_svid = Arc::new(own.svid("looker", 3000));
        let looker = Publisher::new();
        looker
            .publish([own_svid.clone()], bundles(&[&own, &theirs]))
            .unwrap();
        let looked_at = Publisher::fixed(
            [theirs.svid("peer", LIFE as i64)],
            bundles(&[&own, &theirs]),
        );
        let terms = Terms::new("domain:theirs".parse::<Policy>().unwrap());
        // The peer's own clock stands still, so that it goes on presenting what has expired.
        let still = HandClock::default();
        let of = |source: &Publisher, terms: Terms, rules| {
            let is_looker = std::ptr::eq(source, &looker);
            let clock = if is_looker { &clock } else { &still };
            Mtls::new(source, terms)
                .clock(Arc::new(clock.clone()))
                .versions(&[version])
                .lease_rules(rules)
        };
        // The peer itself ends nothing: what happens is the looker's doing.
        let peers = Terms::new("domain:own".parse::<Policy>().unwrap());
        let (server, client) = match looks {
            Side::Server => (
                of(&looker, terms.clone(), rules),
                of(&looked_at, peers, LeaseRules::report()),
            ),
            Side::Client => (
                of(&looked_at, peers, LeaseRules::report()),
                of(&looker, terms.clone(), rules),
            ),
        };
        Self {
            server: server.acceptor().unwrap(),
            client: client.connector().unwrap(),
            clock,
            looks,
            own,
            theirs,
            own_svid,
            looker,
            terms,
        }
    }

    /// A handshake: the looker's stream and the peer's, each with what came of it.
    async fn meet(&self) -> (Ended, Ended) {
        let (near, far) = shake(&self.client, &self.server).await;
        match self.looks {
            Side::Client => (near, far),
            Side::Server => (far, near),
        }
    }

    /// An open connection over which both sides have spoken, so that sessions are stored.
    async fn open(&self) -> (Stream, Stream) {
        let (looker, peer) = self.meet().await;
        let (mut looker, mut peer) = (looker.unwrap(), peer.unwrap());
        exchange(&mut looker, &mut peer).await;
        (looker, peer)
    }

    fn publish(&self, of: BundleSet) {
        self.looker.publish([self.own_svid.clone()], of).unwrap();
    }

    /// Lets the keeper see what happened, and time pass.
    async fn pass(&self, span: Duration) {
        settle().await;
        self.clock.advance(span);
        settle().await;
    }
}

async fn exchange(a: &mut Stream, b: &mut Stream) {
    for (from, to) in [(true, false), (false, true)] {
        let (from, to) = match (from, to) {
            (true, false) => (&mut *a, &mut *b),
            _ => (&mut *b, &mut *a),
        };
        from.write_all(b"ping").await.unwrap();
        from.flush().await.unwrap();
        let mut text = [0; 4];
        to.read_exact(&mut text).await.unwrap();
        assert_eq!(&text, b"ping");
    }
}

/// Lets every task that can run do so.
async fn settle() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

fn tainted(domain: &Domain) -> Bundle {
    let authority = X509Authority::from_der(domain.certificate()).unwrap();
    let authorities: X509Authorities = [authority.into_tainted()].into_iter().collect();
    Bundle::new(TrustDomain::parse(&domain.name).unwrap()).with_x509_authorities(authorities)
}

fn with_tainted(healthy: &Domain, sick: &Domain) -> BundleSet {
    [healthy.bundle(), tainted(sick)].into_iter().collect()
}

/// What may end the trust in a peer, and what the looker does when it happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    BundleRemoved,
    AuthorityReplaced,
    AuthorityTainted,
    OwnWithdrawn,
    PolicyNarrowed,
    PeerExpired,
    Revoked,
}

const CAUSES: [Cause; 7] = [
    Cause::BundleRemoved,
    Cause::AuthorityReplaced,
    Cause::AuthorityTainted,
    Cause::OwnWithdrawn,
    Cause::PolicyNarrowed,
    Cause::PeerExpired,
    Cause::Revoked,
];

impl Cause {
    fn strike(self, pair: &Pair, peer: &Stream) {
        match self {
            Self::BundleRemoved => pair.publish(bundles(&[&pair.own])),
            Self::AuthorityReplaced => {
                pair.publish(bundles(&[&pair.own, &Domain::new("theirs")]));
            }
            Self::AuthorityTainted => {
                pair.terms.refuse_tainted(true);
                pair.publish(with_tainted(&pair.own, &pair.theirs));
            }
            Self::OwnWithdrawn => {
                pair.looker
                    .publish([], bundles(&[&pair.own, &pair.theirs]))
                    .unwrap();
            }
            Self::PolicyNarrowed => pair
                .terms
                .authorize("id:spiffe://theirs/other".parse::<Policy>().unwrap()),
            Self::PeerExpired => pair.clock.advance(Duration::from_secs(LIFE + 1)),
            Self::Revoked => pair
                .terms
                .revoke(revoking(&pair.theirs, &peer.peer().verified().serial)),
        }
    }

    /// Something of the same kind that takes nothing away.
    fn spare(self, pair: &Pair) {
        let other = Domain::new("other");
        match self {
            Self::BundleRemoved => pair.publish(bundles(&[&pair.own, &pair.theirs, &other])),
            Self::AuthorityReplaced => {
                // A second authority beside the old one, as in a rollover.
                let old = X509Authority::from_der(pair.theirs.certificate()).unwrap();
                let new = Domain::new("theirs");
                let new = X509Authority::from_der(new.certificate()).unwrap();
                let both: X509Authorities = [new, old].into_iter().collect();
                let theirs =
                    Bundle::new(TrustDomain::parse("theirs").unwrap()).with_x509_authorities(both);
                pair.publish([pair.own.bundle(), theirs].into_iter().collect());
            }
            // By itself a taint refuses nobody.
            Self::AuthorityTainted => pair.publish(with_tainted(&pair.own, &pair.theirs)),
            // A rotation of the own SVID.
            Self::OwnWithdrawn => {
                pair.looker
                    .publish(
                        [Arc::new(pair.own.svid("looker", 3000))],
                        bundles(&[&pair.own, &pair.theirs]),
                    )
                    .unwrap();
            }
            Self::PolicyNarrowed => pair
                .terms
                .authorize("id:spiffe://theirs/peer".parse::<Policy>().unwrap()),
            Self::PeerExpired => pair.clock.advance(Duration::from_secs(LIFE)),
            Self::Revoked => pair.terms.revoke(revoking(&pair.theirs, b"\x01\x02\x03")),
        }
    }

    fn fits(self, end: &LeaseEnd) -> bool {
        match self {
            Self::OwnWithdrawn => matches!(end, LeaseEnd::OwnWithdrawn { .. }),
            Self::PeerExpired => matches!(
                end,
                LeaseEnd::Expired {
                    whose: Shown::Peer,
                    ..
                }
            ),
            _ => matches!(end, LeaseEnd::Refused(_)),
        }
    }
}

fn over(error: &std::io::Error) -> LeaseEnd {
    LeaseOver::in_io(error)
        .unwrap_or_else(|| panic!("{error:?}"))
        .end
        .clone()
}

async fn every_cell(check: impl AsyncFn(Side, &'static SupportedProtocolVersion, Cause)) {
    for looks in [Side::Client, Side::Server] {
        for version in [&TLS12, &TLS13] {
            for cause in CAUSES {
                check(looks, version, cause).await;
            }
        }
    }
}

#[tokio::test]
async fn full_and_resumed_handshakes_are_refused_after_each_cause() {
    every_cell(async |looks, version, cause| {
        let pair = Pair::new(looks, version, LeaseRules::report());
        let first = pair.open().await;
        let again = pair.open().await;
        assert!(again.0.peer().is_resumed(), "{looks:?} {version:?}");
        // The twin: what takes nothing away lets everybody in.
        cause.spare(&pair);
        pair.open().await;
        cause.strike(&pair, &first.0);
        for _ in 0..6 {
            let (looker, _) = pair.meet().await;
            let error = looker.unwrap_err();
            assert!(
                matches!(
                    error,
                    HandshakeError::Refused(_) | HandshakeError::NoIdentity
                ),
                "{looks:?} {version:?} {cause:?}: {error:?}"
            );
        }
    })
    .await;
}

#[tokio::test]
async fn an_open_connection_drains_within_the_budget_and_then_not_a_byte_passes() {
    every_cell(async |looks, version, cause| {
        let of = format!("{looks:?} {version:?} {cause:?}");
        let pair = Pair::new(looks, version, LeaseRules::drain(SPREAD, GRACE));
        let (mut looker, mut peer) = pair.open().await;
        cause.spare(&pair);
        pair.pass(Duration::ZERO).await;
        exchange(&mut looker, &mut peer).await;
        pair.pass(Duration::ZERO).await;
        assert_eq!(looker.peer().lease().end(), None, "{of}");
        let over_soon = tokio::spawn(looker.peer().lease().over());

        cause.strike(&pair, &looker);
        pair.pass(Duration::ZERO).await;
        // Whoever uses it goes on within the grace: no request under way is lost.
        exchange(&mut looker, &mut peer).await;
        let end = looker
            .peer()
            .lease()
            .end()
            .unwrap_or_else(|| panic!("{of}"));
        assert!(cause.fits(&end), "{of}: {end:?}");
        pair.pass(SPREAD).await;
        assert!(over_soon.is_finished(), "{of}");
        exchange(&mut looker, &mut peer).await;

        pair.pass(GRACE).await;
        let mut byte = [0];
        peer.write_all(b"x").await.unwrap();
        let read = looker.read(&mut byte).await.unwrap_err();
        assert!(cause.fits(&over(&read)), "{of}");
        let written = looker.write(b"x").await.unwrap_err();
        assert!(cause.fits(&over(&written)), "{of}");
        // The peer is told that the end is meant.
        assert_eq!(peer.read(&mut byte).await.unwrap(), 0, "{of}");
    })
    .await;
}

#[tokio::test]
async fn a_task_that_waits_to_read_is_woken_when_the_connection_is_cut() {
    every_cell(async |looks, version, cause| {
        for rules in [LeaseRules::drain(SPREAD, GRACE), LeaseRules::cut()] {
            let pair = Pair::new(looks, version, rules);
            let (mut looker, mut peer) = pair.open().await;
            let serial_of = pair.open().await;
            let reading = tokio::spawn(async move { looker.read(&mut [0]).await });
            settle().await;
            assert!(!reading.is_finished());
            cause.strike(&pair, &serial_of.0);
            pair.pass(SPREAD).await;
            pair.pass(GRACE).await;
            assert!(reading.is_finished(), "{looks:?} {cause:?} {rules:?}");
            assert!(cause.fits(&over(&reading.await.unwrap().unwrap_err())));
            assert_eq!(peer.read(&mut [0]).await.unwrap(), 0);
        }
    })
    .await;
}

#[tokio::test]
async fn a_report_ends_nothing_but_tells() {
    every_cell(async |looks, version, cause| {
        let of = format!("{looks:?} {version:?} {cause:?}");
        let pair = Pair::new(looks, version, LeaseRules::report());
        let (mut looker, mut peer) = pair.open().await;
        let told = tokio::spawn(looker.peer().lease().over());
        cause.spare(&pair);
        pair.pass(Duration::ZERO).await;
        exchange(&mut looker, &mut peer).await;
        assert!(!told.is_finished(), "{of}");
        cause.strike(&pair, &looker);
        pair.pass(Duration::ZERO).await;
        // What only the chain can tell is found by this.
        exchange(&mut looker, &mut peer).await;
        settle().await;
        assert!(told.is_finished(), "{of}");
        let end = told.await.unwrap();
        assert!(cause.fits(&end), "{of}: {end:?}");
        pair.pass(Duration::from_secs(3600)).await;
        exchange(&mut looker, &mut peer).await;
    })
    .await;
}

#[tokio::test]
async fn a_connection_nobody_uses_is_cut_when_it_cannot_be_judged_again() {
    let pair = Pair::new(Side::Server, &TLS13, LeaseRules::drain(SPREAD, GRACE));
    let (mut unused, _peer) = pair.open().await;
    let (mut used, mut other) = pair.open().await;
    Cause::AuthorityReplaced.spare(&pair);
    // The same certificate is still there: nothing has to be judged.
    pair.pass(SPREAD + GRACE).await;
    exchange(&mut used, &mut other).await;
    // The same key under a new certificate: only the chain can tell.
    let renewed = pair.theirs.renewed();
    let theirs = Bundle::new(TrustDomain::parse("theirs").unwrap())
        .with_x509_authorities(X509Authorities::from_certificates([renewed]));
    pair.publish([pair.own.bundle(), theirs].into_iter().collect());
    pair.pass(Duration::ZERO).await;
    exchange(&mut used, &mut other).await;
    pair.pass(SPREAD + GRACE).await;
    exchange(&mut used, &mut other).await;
    assert_eq!(used.peer().lease().end(), None);
    let read = unused.read(&mut [0]).await.unwrap_err();
    assert_eq!(over(&read), LeaseEnd::NotJudged);
}

#[tokio::test]
async fn age_ends_a_connection_and_a_clock_that_is_set_forward_too() {
    let hour = Duration::from_secs(3600);
    let rules = LeaseRules::drain(SPREAD, GRACE).max_age(Duration::from_secs(60));
    let pair = Pair::new(Side::Client, &TLS13, rules);
    let (looker, _peer) = pair.open().await;
    pair.pass(Duration::from_secs(59)).await;
    assert_eq!(looker.peer().lease().end(), None);
    pair.pass(Duration::from_secs(1)).await;
    let end = looker.peer().lease().end();
    assert_eq!(end, Some(LeaseEnd::MaxAge(Duration::from_secs(60))));

    let pair = Pair::new(Side::Client, &TLS13, LeaseRules::drain(SPREAD, GRACE));
    let (looker, _peer) = pair.open().await;
    settle().await;
    pair.clock.set_forward(hour);
    pair.pass(Duration::from_secs(10)).await;
    let end = looker.peer().lease().end().unwrap();
    assert!(Cause::PeerExpired.fits(&end), "{end:?}");
}

#[tokio::test]
async fn ends_are_spread_evenly_over_the_span() {
    let pair = Pair::new(Side::Server, &TLS13, LeaseRules::drain(SPREAD, GRACE));
    let mut open = Vec::new();
    for _ in 0..80 {
        open.push(pair.open().await);
    }
    assert_eq!(pair.server.open_connections(), 80);
    let over: Vec<_> = open
        .iter()
        .map(|(looker, _)| tokio::spawn(looker.peer().lease().over()))
        .collect();
    pair.publish(bundles(&[&pair.own]));
    pair.pass(Duration::ZERO).await;
    let mut before = over.iter().filter(|task| task.is_finished()).count();
    assert!(before <= 2, "{before} at once");
    for step in 0..8 {
        pair.pass(SPREAD / 8).await;
        let now = over.iter().filter(|task| task.is_finished()).count();
        assert!(
            (8..=12).contains(&(now - before)),
            "{} in step {step}",
            now - before
        );
        before = now;
    }
    assert_eq!(before, 80);
    drop(open);
    assert_eq!(pair.server.open_connections(), 0);
}

#[tokio::test]
async fn streams_outlive_their_acceptor_and_are_still_looked_after() {
    let Pair {
        clock,
        own,
        own_svid,
        looker,
        server,
        client,
        ..
    } = Pair::new(Side::Server, &TLS13, LeaseRules::cut());
    let (near, far) = shake(&client, &server).await;
    let (_near, mut far) = (near.unwrap(), far.unwrap());
    drop((server, client));
    let reading = tokio::spawn(async move { far.read(&mut [0]).await });
    settle().await;
    looker.publish([own_svid], bundles(&[&own])).unwrap();
    settle().await;
    clock.advance(Duration::ZERO);
    settle().await;
    assert!(reading.is_finished());
    over(&reading.await.unwrap().unwrap_err());
}

//! A trust domain's life through its public handle: rollovers under the eyes of verifiers, sources, notices.
#![cfg(feature = "aws-lc-rs")]
#![allow(clippy::unwrap_used, reason = "these are tests")]

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{NOW, builder, ca, crypto, id, ready, web};
use futures_util::FutureExt;
use spiffe_core::key::{KeyType, SignError, SignatureAlgorithm, Signer};
use spiffe_core::pki_types::{SubjectPublicKeyInfoDer, UnixTime};
use spiffe_core::{BoxFuture, Bundle, Source, Timestamp, TrustDomain, Watch, X509Svid};
use spiffe_svid_ca::authority::{Action, Consumer, Evidence, Grade, Kind, Rollover};
use spiffe_svid_ca::error::{CaError, KeyManagerError, LifecycleError};
use spiffe_svid_ca::keys::{KeyManager, MemoryKeys};
use spiffe_svid_ca::{InProcessSource, JwtSvidParams, TrustDomainCa};

const HOUR: Duration = Duration::from_secs(3600);

fn verifies(bundle: &Bundle, svid: &X509Svid, at: Timestamp) -> bool {
    let anchors: Vec<_> = bundle
        .x509_authorities()
        .iter()
        .map(|authority| webpki::anchor_from_trusted_cert(authority.certificate()).unwrap())
        .collect();
    let time = UnixTime::since_unix_epoch(Duration::from_secs(at.unix_seconds() as u64));
    webpki::EndEntityCert::try_from(svid.leaf())
        .unwrap()
        .verify_for_usage(
            crypto().signature_algorithms(),
            &anchors,
            &[],
            time,
            webpki::KeyUsage::client_auth(),
            None,
            None,
        )
        .is_ok()
}

#[test]
fn a_month_of_rollovers_and_every_svid_verifies_from_first_to_last() {
    let ca = ca();
    // A verifier that is always three hours behind with the bundle and acknowledges what it has.
    let mut pipeline = vec![ca.bundle(); 3];
    let mut held = Vec::<X509Svid>::new();
    let mut rollovers = 0;
    for hour in 0..30 * 24_u32 {
        let now = NOW + HOUR * hour;
        pipeline.push(ca.bundle());
        let slow = pipeline.remove(0);
        let known = Consumer::new("verifier", slow.sequence().unwrap(), Grade::Delivered);
        let events = ready(ca.tick(now, &Evidence::complete([known]))).unwrap();
        for event in events {
            if let Action::Activated { laggards, .. } = &event.action {
                assert!(laggards.is_empty());
                rollovers += 1;
            }
        }
        let params = web().with_ttl(HOUR * 3);
        held.push(ready(ca.issue_x509_svid(&params, KeyType::EcP256, now)).unwrap());
        let token = JwtSvidParams::new(id("spiffe://example.org/web"), "db");
        let token = ready(ca.issue_jwt(&token, now)).unwrap();
        assert!(slow.jwt_authorities().find(&token.authority).is_some());
        held.retain(|svid| svid.not_after() >= now);
        for svid in &held {
            assert!(verifies(&slow, svid, now), "by the slow one at {now}");
            assert!(verifies(&ca.bundle(), svid, now), "by the newest at {now}");
        }
    }
    assert!(rollovers >= 2 * 30, "{rollovers}");
    assert!(ca.bundle().x509_authorities().len() <= 3);
}

#[test]
fn a_year_of_rollovers_takes_no_time() {
    let ca = ca();
    let mut activated = 0;
    for hour in 0..365 * 24_u32 {
        let events = ready(ca.tick(NOW + HOUR * hour, &Evidence::unknown())).unwrap();
        activated += events
            .iter()
            .filter(|event| matches!(event.action, Action::Activated { .. }))
            .count();
    }
    // One of each kind in 12 hours: each is prepared at half of the life before it and activated at the deadline.
    assert!((2 * 728..=2 * 731).contains(&activated), "{activated}");
}

#[test]
fn a_rollover_by_hand() {
    let ca = ca();
    let first = ready(ca.issue_x509_svid(&web(), KeyType::EcP256, NOW)).unwrap();
    let old = ca
        .state()
        .slots(Kind::X509)
        .active()
        .unwrap()
        .id()
        .to_owned();
    ready(ca.prepare(Kind::X509, NOW)).unwrap();
    assert_eq!(ca.bundle().x509_authorities().len(), 2);
    // Prepared signs nothing yet.
    let second = ready(ca.issue_x509(&web(), common::key(KeyType::EcP256).public_key(), NOW));
    assert_eq!(second.unwrap().authority, old);

    let sequence = ca.bundle().sequence().unwrap();
    let consumer = |sequence| Evidence::complete([Consumer::new("web", sequence, Grade::Applied)]);
    let refused = ready(ca.activate(Kind::X509, &consumer(sequence - 1), false, NOW)).unwrap_err();
    assert!(
        matches!(&refused, CaError::Lifecycle(LifecycleError::Laggards { laggards, .. }) if laggards == &["web"]),
        "{refused}"
    );
    ready(ca.activate(Kind::X509, &consumer(sequence), false, NOW)).unwrap();
    let third =
        ready(ca.issue_x509(&web(), common::key(KeyType::EcP256).public_key(), NOW)).unwrap();
    assert_ne!(third.authority, old);
    assert!(verifies(&ca.bundle(), &first, NOW));

    let refused = ready(ca.retire(Kind::X509, &old, &Evidence::unknown(), false, NOW)).unwrap_err();
    assert!(
        matches!(&refused, CaError::Lifecycle(LifecycleError::StillInUse { until, .. }) if *until == first.not_after() + Duration::from_secs(60)),
        "{refused}"
    );
    ready(ca.retire(Kind::X509, &old, &Evidence::unknown(), true, NOW)).unwrap();
    assert_eq!(ca.bundle().x509_authorities().len(), 1);
    assert!(!verifies(&ca.bundle(), &first, NOW));
    assert_eq!(ca.bundle().sequence(), Some(sequence + 1));
}

#[test]
fn a_jwt_authority_stays_until_its_last_token_has_expired() {
    let ca = ca();
    let token = JwtSvidParams::new(id("spiffe://example.org/web"), "db");
    let token = ready(ca.issue_jwt(&token, NOW)).unwrap();
    ready(ca.prepare(Kind::Jwt, NOW)).unwrap();
    ready(ca.activate(Kind::Jwt, &Evidence::complete([]), false, NOW)).unwrap();
    let last = token.expires_at + Duration::from_secs(60);
    ready(ca.tick(last, &Evidence::unknown())).unwrap();
    assert!(
        ca.bundle()
            .jwt_authorities()
            .find(&token.authority)
            .is_some()
    );
    ready(ca.tick(last + Duration::from_secs(1), &Evidence::unknown())).unwrap();
    assert!(
        ca.bundle()
            .jwt_authorities()
            .find(&token.authority)
            .is_none()
    );
    assert_eq!(ca.bundle().jwt_authorities().len(), 1);
}

#[test]
fn a_tainted_authority_is_marked_in_the_bundle_and_then_revoked() {
    let ca = ca();
    for kind in [Kind::X509, Kind::Jwt] {
        let old = ca.state().slots(kind).active().unwrap().id().to_owned();
        ready(ca.prepare(kind, NOW)).unwrap();
        ready(ca.activate(kind, &Evidence::unknown(), true, NOW)).unwrap();
        ready(ca.taint(kind, &old, NOW)).unwrap();
        let tainted = |ca: &TrustDomainCa| {
            let bundle = ca.bundle();
            match kind {
                Kind::X509 => bundle
                    .x509_authorities()
                    .iter()
                    .filter(|a| a.is_tainted())
                    .count(),
                Kind::Jwt => bundle
                    .jwt_authorities()
                    .iter()
                    .filter(|a| a.is_tainted())
                    .count(),
            }
        };
        assert_eq!(tainted(&ca), 1, "{kind}");
        ready(ca.revoke(kind, &old, &Evidence::unknown(), true, NOW)).unwrap();
        assert_eq!(tainted(&ca), 0, "{kind}");
        assert!(ca.state().slots(kind).find(&old).is_none());
    }
}

#[test]
fn every_change_of_the_bundle_is_noticed_and_nothing_else() {
    let ca = ca();
    let seen = ca.current().revision();
    let mut changed = ca.changed(seen);
    assert_eq!((&mut changed).now_or_never(), None);
    ready(ca.tick(NOW, &Evidence::unknown())).unwrap();
    assert_eq!((&mut changed).now_or_never(), None);
    ready(ca.prepare(Kind::Jwt, NOW)).unwrap();
    assert!(
        changed
            .now_or_never()
            .is_some_and(|revision| revision > seen)
    );
    let published = ca.current();
    let bundle = published.bundle(ca.trust_domain().as_ref()).unwrap();
    assert!(bundle.same_authorities(&ca.bundle()));
    assert_eq!(bundle.jwt_authorities().len(), 2);
}

#[test]
fn the_bundle_says_its_sequence_and_refresh_hint() {
    let ca = ready(builder().refresh_hint(Duration::from_secs(7)).build(NOW)).unwrap();
    assert_eq!(ca.bundle().sequence(), Some(2));
    assert_eq!(ca.bundle().refresh_hint(), Some(Duration::from_secs(7)));
    assert_eq!(ca.bundle().x509_authorities().len(), 1);
    assert_eq!(ca.bundle().jwt_authorities().len(), 1);
}

#[test]
fn settings_that_cannot_work_are_refused() {
    let build = |builder: spiffe_svid_ca::TrustDomainCaBuilder| ready(builder.build(NOW));
    assert!(build(builder().authority_lifetime(Duration::from_secs(2))).is_ok());
    assert!(matches!(
        build(builder().authority_lifetime(Duration::from_secs(1))),
        Err(CaError::Setting { .. })
    ));
    assert!(matches!(
        build(builder().x509_svid_ttl(Duration::ZERO)),
        Err(CaError::Setting { .. })
    ));
    let mut rollover = Rollover::default();
    rollover.prepare.divisor = 1;
    assert!(matches!(
        build(builder().rollover(rollover.clone())),
        Err(CaError::Setting { .. })
    ));
    rollover.prepare.divisor = 6;
    assert!(matches!(
        build(builder().rollover(rollover)),
        Err(CaError::Setting { .. })
    ));
}

/// Keys whose signatures are of something else, as a broken token's would be.
#[derive(Debug)]
struct Broken(MemoryKeys);

#[derive(Debug)]
struct BrokenSigner(Arc<dyn Signer>);

impl Signer for BrokenSigner {
    fn public_key(&self) -> &SubjectPublicKeyInfoDer<'static> {
        self.0.public_key()
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        self.0.algorithm()
    }

    fn sign<'a>(&'a self, _: &'a [u8]) -> BoxFuture<'a, Result<Vec<u8>, SignError>> {
        self.0.sign(b"something else")
    }
}

impl KeyManager for Broken {
    fn generate<'a>(
        &'a self,
        name: &'a str,
        kind: KeyType,
    ) -> BoxFuture<'a, Result<Arc<dyn Signer>, KeyManagerError>> {
        Box::pin(async move {
            let signer = self.0.generate(name, kind).await?;
            Ok(Arc::new(BrokenSigner(signer)) as Arc<dyn Signer>)
        })
    }

    fn signer<'a>(
        &'a self,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Option<Arc<dyn Signer>>, KeyManagerError>> {
        self.0.signer(name)
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<String>, KeyManagerError>> {
        self.0.list()
    }

    fn remove<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<bool, KeyManagerError>> {
        self.0.remove(name)
    }
}

#[test]
fn a_key_that_signs_wrongly_becomes_no_authority() {
    let good = Arc::new(MemoryKeys::new(crypto()));
    assert!(ready(builder().keys(good).build(NOW)).is_ok());
    let broken = Arc::new(Broken(MemoryKeys::new(crypto())));
    let error = ready(builder().keys(broken).build(NOW)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the authority's key did not sign: its first signature does not verify"
    );
}

#[test]
fn a_dropped_preparation_leaves_no_trace() {
    let ca = ca();
    let before = ca.state();
    drop(ca.prepare(Kind::X509, NOW));
    assert_eq!(ca.state(), before);
    assert!(ready(ca.prepare(Kind::X509, NOW)).is_ok());
}

#[test]
fn a_source_rotates_and_follows_the_bundle() {
    let ca = ca();
    let source = ready(InProcessSource::new(ca.clone(), web(), NOW)).unwrap();
    let first = source.svid().unwrap();
    assert_eq!(first.id(), "spiffe://example.org/web");
    let slot = source.renew_at().unwrap();
    let life = first.not_after().saturating_since(first.not_before());
    let age = slot.saturating_since(first.not_before());
    assert!(age >= life * 45 / 100 && age <= life * 60 / 100);

    let seen = source.current().revision();
    let changed = source.changed(seen);
    ready(source.rotate(slot)).unwrap();
    assert!(changed.now_or_never().is_some());
    let second = source.svid().unwrap();
    assert_ne!(first.serial(), second.serial());
    assert!(second.not_after() > first.not_after());

    // It acknowledges what it serves, not what the CA has.
    ready(ca.prepare(Kind::X509, slot)).unwrap();
    let behind = Evidence::complete([source.acknowledgement()]);
    assert!(ready(ca.activate(Kind::X509, &behind, false, slot)).is_err());
    source.refresh().unwrap();
    let known = Evidence::complete([source.acknowledgement()]);
    assert!(ready(ca.activate(Kind::X509, &known, false, slot)).is_ok());
    assert_eq!(source.svid().unwrap().serial(), second.serial());
}

#[test]
fn a_source_federates_and_its_own_bundle_cannot_be_replaced() {
    let ca = ca();
    let source = ready(InProcessSource::new(ca.clone(), web(), NOW)).unwrap();
    let west = TrustDomain::parse("west.example").unwrap();
    let other = ready(TrustDomainCa::builder(west.clone()).build(NOW)).unwrap();
    assert!(source.bundle(west.as_ref()).is_err());
    source.federate(other.bundle()).unwrap();
    assert!(
        source
            .bundle(west.as_ref())
            .unwrap()
            .same_authorities(&other.bundle())
    );
    ready(source.rotate(NOW)).unwrap();
    assert!(source.bundle(west.as_ref()).is_ok());
    source.unfederate(west.as_ref()).unwrap();
    assert!(source.bundle(west.as_ref()).is_err());

    source
        .federate(Bundle::new(ca.trust_domain().clone()))
        .unwrap();
    let own = source.bundle(ca.trust_domain().as_ref()).unwrap();
    assert!(own.same_authorities(&ca.bundle()));
}

#[test]
fn a_failed_rotation_keeps_what_is_held() {
    let ca = ca();
    let source = ready(InProcessSource::new(ca, web(), NOW)).unwrap();
    let held = source.svid().unwrap();
    // Nobody ticked, so the authority has expired.
    assert!(ready(source.rotate(NOW + HOUR * 48)).is_err());
    assert_eq!(source.svid().unwrap().serial(), held.serial());
}

#[test]
fn many_threads_issue_while_authorities_follow_each_other() {
    let ca = ca();
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let before = ca.bundle();
                        let svid = ready(ca.issue_x509_svid(&web(), KeyType::EcP256, NOW)).unwrap();
                        // A bundle from before or after holds its authority: it was published before it signed.
                        assert!(
                            verifies(&before, &svid, NOW) || verifies(&ca.bundle(), &svid, NOW)
                        );
                    }
                })
            })
            .collect();
        for _ in 0..50 {
            ready(ca.prepare(Kind::X509, NOW)).unwrap();
            ready(ca.activate(Kind::X509, &Evidence::complete([]), false, NOW)).unwrap();
        }
        for worker in workers {
            worker.join().unwrap();
        }
    });
    // All signed something an hour long, so none is gone.
    assert_eq!(ca.bundle().x509_authorities().len(), 51);
}

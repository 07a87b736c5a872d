//! Authorities below an upstream: nested CAs over a month, roots that come and go, and an authority in files.
#![cfg(feature = "aws-lc-rs")]
#![allow(clippy::unwrap_used, reason = "these are tests")]

mod common;

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::{NOW, builder, ca, crypto, key, ready, trust_domain, web};
use spiffe_core::bundle::{JwtAuthority, X509Authority, certificates_to_pem};
use spiffe_core::crypto::system_random;
use spiffe_core::key::KeyType;
use spiffe_core::verify::{PeerRole, X509Verifier};
use spiffe_core::{BoxFuture, Bundle, BundleSet, JwtVerifier, Timestamp};
use spiffe_svid_ca::authority::{Evidence, Kind, MAX_SHARED_KEYS, Status};
use spiffe_svid_ca::error::{CaError, LifecycleError, UpstreamError};
use spiffe_svid_ca::issuer::{IssuerSettings, X509Issuer, self_signed_authority};
use spiffe_svid_ca::upstream::{
    DiskFiles, DiskUpstream, InProcessUpstream, MintRequest, MintedAuthority, UpstreamAuthority,
};
use spiffe_svid_ca::{
    IntermediateParams, IssuedX509, JwtSvidParams, StateDir, TrustDomainCa, TrustDomainCaBuilder,
};

const HOUR: Duration = Duration::from_secs(3600);

/// A CA of the same trust domain that draws other keys' IDs than [`builder`]'s.
fn below() -> TrustDomainCaBuilder {
    builder().random(system_random())
}

fn child_of(parent: &TrustDomainCa) -> TrustDomainCa {
    let upstream = Arc::new(InProcessUpstream::new(parent.clone()));
    ready(below().upstream(upstream).build(NOW)).unwrap()
}

fn leaf(ca: &TrustDomainCa, now: Timestamp) -> IssuedX509 {
    ready(ca.issue_x509(&web(), key(KeyType::EcP256).public_key(), now)).unwrap()
}

fn verifies(bundle: &Arc<Bundle>, issued: &IssuedX509, at: Timestamp) -> bool {
    let bundles: BundleSet = [bundle.clone()].into_iter().collect();
    X509Verifier::new(&*crypto())
        .verify(&issued.chain, &bundles, at, PeerRole::Client)
        .is_ok()
}

fn tick(ca: &TrustDomainCa, now: Timestamp) {
    ready(ca.tick(now, &Evidence::unknown())).unwrap();
}

#[test]
fn a_nested_cas_bundle_is_its_parents_and_its_chains_end_there() {
    let root = ca();
    let middle = child_of(&root);
    let lowest = child_of(&middle);
    for (depth, one) in [&root, &middle, &lowest].into_iter().enumerate() {
        let issued = leaf(one, NOW);
        assert_eq!(issued.chain.len(), depth + 1);
        assert!(verifies(&root.bundle(), &issued, NOW), "{depth}");
        assert_eq!(
            one.bundle().x509_authorities().to_concatenated_der(),
            root.bundle().x509_authorities().to_concatenated_der()
        );
    }
    assert!(!verifies(&ca().bundle(), &leaf(&lowest, NOW), NOW));
    // Tokens know no chains: all have the keys of all.
    assert_eq!(jwt_keys(&lowest).len(), 3);
    assert_eq!(jwt_keys(&lowest), jwt_keys(&root));
}

#[test]
fn a_month_of_nested_rollovers_and_every_svid_verifies_from_first_to_last() {
    let root = ready(builder().authority_lifetime(HOUR * 72).build(NOW)).unwrap();
    let child = child_of(&root);
    let mut slow = vec![child.bundle(); 3];
    let mut held = Vec::new();
    let mut authorities = std::collections::BTreeSet::new();
    for hour in 0..30 * 24_u32 {
        let now = NOW + HOUR * hour;
        tick(&root, now);
        tick(&child, now);
        slow.push(child.bundle());
        let behind = slow.remove(0);
        let issued = leaf(&child, now);
        authorities.insert(issued.authority.clone());
        held.push(issued);
        held.retain(|issued| issued.not_after >= now);
        for issued in &held {
            assert!(verifies(&behind, issued, now), "by the slow one at {now}");
            assert!(verifies(&child.bundle(), issued, now), "at {now}");
        }
        assert!(child.bundle().x509_authorities().len() <= 3);
    }
    assert!(authorities.len() > 30, "{}", authorities.len());
}

#[test]
fn preparing_below_a_known_root_changes_no_bundle() {
    let child = child_of(&ca());
    let before = child.bundle();
    ready(child.prepare(Kind::X509, NOW)).unwrap();
    assert_eq!(child.bundle().sequence(), before.sequence());
    let known = spiffe_svid_ca::authority::Consumer::new(
        "web",
        before.sequence().unwrap(),
        spiffe_svid_ca::authority::Grade::Applied,
    );
    // Whoever has the bundle knows the root, so nobody is waited for.
    let evidence = Evidence::complete([known]);
    ready(child.activate(Kind::X509, &evidence, false, NOW)).unwrap();
    assert!(verifies(&before, &leaf(&child, NOW), NOW));
}

#[test]
fn a_root_tainted_and_revoked_upstream_is_so_below() {
    let root = ca();
    let child = child_of(&root);
    let first = root
        .state()
        .slots(Kind::X509)
        .active()
        .unwrap()
        .id()
        .to_owned();
    ready(root.prepare(Kind::X509, NOW)).unwrap();
    ready(root.activate(Kind::X509, &Evidence::unknown(), true, NOW)).unwrap();
    tick(&child, NOW);
    assert_eq!(child.bundle().x509_authorities().len(), 2);
    ready(root.taint(Kind::X509, &first, NOW)).unwrap();
    tick(&child, NOW);
    let tainted = |ca: &TrustDomainCa| {
        let bundle = ca.bundle();
        let count = bundle.x509_authorities().iter().filter(|a| a.is_tainted());
        count.count()
    };
    assert_eq!(tainted(&child), 1);
    ready(root.revoke(Kind::X509, &first, &Evidence::unknown(), true, NOW)).unwrap();
    tick(&child, NOW);
    assert_eq!(tainted(&child), 0);
    assert_eq!(child.bundle().x509_authorities().len(), 1);
}

#[test]
fn an_authority_below_a_tainted_root_is_followed_at_once() {
    let root = ca();
    let (child, untouched) = (child_of(&root), child_of(&ca()));
    let first = root
        .state()
        .slots(Kind::X509)
        .active()
        .unwrap()
        .id()
        .to_owned();
    ready(root.prepare(Kind::X509, NOW)).unwrap();
    ready(root.activate(Kind::X509, &Evidence::unknown(), true, NOW)).unwrap();
    tick(&child, NOW);
    assert!(child.state().slots(Kind::X509).prepared().is_none());
    let before = leaf(&child, NOW);

    ready(root.taint(Kind::X509, &first, NOW)).unwrap();
    for ca in [&child, &untouched] {
        tick(ca, NOW);
    }
    assert!(untouched.state().slots(Kind::X509).prepared().is_none());
    assert!(child.state().slots(Kind::X509).prepared().is_some());
    assert_eq!(leaf(&child, NOW).authority, before.authority);
    // After the time that federated trust domains need, though nobody was asked.
    let ahead = NOW + Duration::from_secs(15 * 60);
    tick(&child, ahead);
    let after = leaf(&child, ahead);
    assert_ne!(after.authority, before.authority);
    ready(root.revoke(Kind::X509, &first, &Evidence::unknown(), true, ahead)).unwrap();
    tick(&child, ahead);
    assert!(verifies(&child.bundle(), &after, ahead));
    assert!(!verifies(&child.bundle(), &before, ahead));
    // Once only.
    assert!(child.state().slots(Kind::X509).prepared().is_none());
}

#[test]
fn an_intermediate_is_tainted_where_it_was_signed() {
    let child = child_of(&ca());
    let old = child
        .state()
        .slots(Kind::X509)
        .active()
        .unwrap()
        .id()
        .to_owned();
    ready(child.prepare(Kind::X509, NOW)).unwrap();
    ready(child.activate(Kind::X509, &Evidence::unknown(), true, NOW)).unwrap();
    let refused = ready(child.taint(Kind::X509, &old, NOW)).unwrap_err();
    assert!(matches!(
        refused,
        CaError::Lifecycle(LifecycleError::SignedUpstream { .. })
    ));
}

#[test]
fn a_restart_keeps_intermediate_chain_and_roots() {
    let directory = tempfile::tempdir().unwrap();
    let parent = child_of(&ca());
    let open = || {
        let upstream = Arc::new(InProcessUpstream::new(parent.clone()));
        let state = StateDir::open(directory.path(), &trust_domain()).unwrap();
        ready(below().upstream(upstream).state_dir(state).build(NOW)).unwrap()
    };
    let first = open();
    let (state, bundle) = (first.state(), first.bundle());
    drop(first);
    let again = open();
    assert_eq!(again.state().roots(), state.roots());
    assert!(again.bundle().same_authorities(&bundle));
    assert_eq!(again.bundle().sequence(), bundle.sequence());
    let issued = leaf(&again, NOW);
    assert_eq!(issued.chain.len(), 3);
    assert!(verifies(&parent.bundle(), &issued, NOW));
}

/// An upstream that can be away.
#[derive(Debug)]
struct Away {
    upstream: InProcessUpstream,
    away: AtomicBool,
}

impl Away {
    fn check(&self) -> Result<(), UpstreamError> {
        if self.away.load(Ordering::Relaxed) {
            let reason = "it is away".into();
            return Err(UpstreamError::Unavailable { reason });
        }
        Ok(())
    }
}

impl UpstreamAuthority for Away {
    fn mint<'a>(
        &'a self,
        request: &'a MintRequest,
        now: Timestamp,
    ) -> BoxFuture<'a, Result<MintedAuthority, UpstreamError>> {
        Box::pin(async move {
            self.check()?;
            self.upstream.mint(request, now).await
        })
    }

    fn roots(&self, now: Timestamp) -> BoxFuture<'_, Result<Vec<X509Authority>, UpstreamError>> {
        Box::pin(async move {
            self.check()?;
            self.upstream.roots(now).await
        })
    }
}

/// The JWT keys in a bundle, by ID.
fn jwt_keys(ca: &TrustDomainCa) -> Vec<String> {
    let bundle = ca.bundle();
    let keys = bundle.jwt_authorities().iter();
    let mut ids: Vec<_> = keys.map(|key| key.key_id().to_owned()).collect();
    ids.sort();
    ids
}

fn token_verifies(under: &TrustDomainCa, by: &TrustDomainCa, now: Timestamp) -> bool {
    let params = JwtSvidParams::new(common::id("spiffe://example.org/web"), "db");
    let issued = ready(by.issue_jwt(&params, now)).unwrap();
    let bundles: BundleSet = [under.bundle()].into_iter().collect();
    JwtVerifier::new(&*crypto())
        .verify(&issued.token, "db", &bundles, now)
        .is_ok()
}

#[test]
fn a_token_of_any_server_of_the_trust_domain_verifies_at_every_other() {
    let root = ca();
    let middle = child_of(&root);
    let servers = [child_of(&middle), child_of(&middle), middle, root];
    // What came up from below goes down to everybody with the next tick, from the top.
    for server in servers.iter().rev() {
        tick(server, NOW);
    }
    for under in &servers {
        assert_eq!(jwt_keys(under).len(), 4);
        for by in &servers {
            assert!(token_verifies(under, by, NOW));
        }
    }
    // Ten days of rollovers: a key is everywhere before it signs, and nowhere once what it signed has expired.
    for hour in 1..10 * 24_u32 {
        let now = NOW + HOUR * hour;
        for server in servers.iter().rev() {
            tick(server, now);
        }
        for by in &servers {
            for under in &servers {
                assert!(token_verifies(under, by, now), "hour {hour}");
            }
        }
        assert!(jwt_keys(&servers[3]).len() <= 12, "hour {hour}");
    }
    let all = jwt_keys(&servers[3]);
    assert!(servers.iter().all(|server| jwt_keys(server) == all));
}

#[test]
fn a_jwt_key_signs_only_after_the_upstream_has_it_and_leaves_it_when_revoked() {
    let root = ready(builder().authority_lifetime(HOUR * 240).build(NOW)).unwrap();
    let upstream = Arc::new(AwayForKeys(Away {
        upstream: InProcessUpstream::new(root.clone()),
        away: AtomicBool::new(false),
    }));
    let child = ready(below().upstream(upstream.clone()).build(NOW)).unwrap();
    let first = child
        .state()
        .slots(Kind::Jwt)
        .active()
        .unwrap()
        .id()
        .to_owned();
    assert!(jwt_keys(&root).contains(&first));
    upstream.0.away.store(true, Ordering::Relaxed);
    let error = ready(child.prepare(Kind::Jwt, NOW)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the upstream authority cannot be reached: it is away"
    );
    assert_eq!(child.state().slots(Kind::Jwt).prepared(), None);
    assert!(
        token_verifies(&root, &child, NOW),
        "the one before signs on"
    );
    upstream.0.away.store(false, Ordering::Relaxed);
    ready(child.prepare(Kind::Jwt, NOW)).unwrap();
    assert_eq!(jwt_keys(&root).len(), 3);
    let none = Evidence::unknown();
    ready(child.activate(Kind::Jwt, &none, true, NOW)).unwrap();
    ready(child.taint(Kind::Jwt, &first, NOW)).unwrap();
    ready(child.revoke(Kind::Jwt, &first, &none, true, NOW)).unwrap();
    assert!(!jwt_keys(&root).contains(&first));
    assert!(token_verifies(&root, &child, NOW));
}

#[test]
fn keys_from_below_survive_a_restart_leave_when_they_expire_and_never_replace_another() {
    let directory = tempfile::tempdir().unwrap();
    let open = || {
        let state = StateDir::open(directory.path(), &trust_domain()).unwrap();
        ready(builder().state_dir(state).build(NOW)).unwrap()
    };
    let parent = open();
    let public =
        |id: &str| JwtAuthority::new(id, key(KeyType::EcP256).public_key().clone()).unwrap();
    let (below, until) = (public("below"), NOW + HOUR);
    ready(parent.share_jwt_key(&below, until, NOW)).unwrap();
    let own = parent
        .state()
        .slots(Kind::Jwt)
        .active()
        .unwrap()
        .id()
        .to_owned();
    let before = (jwt_keys(&parent), parent.bundle().sequence());
    assert!(before.0.contains(&"below".to_owned()));
    // Told again it is the same; another key of its ID, or of an own one's, is refused.
    ready(parent.share_jwt_key(&below, until, NOW)).unwrap();
    for taken in ["below", &own] {
        let error = ready(parent.share_jwt_key(&public(taken), until, NOW)).unwrap_err();
        assert!(
            matches!(
                &error,
                CaError::Lifecycle(LifecycleError::KeyIdTaken { .. })
            ),
            "{error}"
        );
    }
    assert_eq!((jwt_keys(&parent), parent.bundle().sequence()), before);
    drop(parent);
    let parent = open();
    assert_eq!((jwt_keys(&parent), parent.bundle().sequence()), before);
    let kept = Duration::from_secs(60);
    tick(&parent, until + kept);
    assert!(jwt_keys(&parent).contains(&"below".to_owned()));
    tick(&parent, until + kept + Duration::from_secs(1));
    assert!(!jwt_keys(&parent).contains(&"below".to_owned()));
    let crowded = ca();
    for number in 0..MAX_SHARED_KEYS {
        ready(crowded.share_jwt_key(&public(&number.to_string()), until, NOW)).unwrap();
    }
    let error = ready(crowded.share_jwt_key(&below, until, NOW)).unwrap_err();
    assert!(
        matches!(&error, CaError::Lifecycle(LifecycleError::TooManyKeys)),
        "{error}"
    );
}

/// An upstream that can be away for JWT keys alone.
#[derive(Debug)]
struct AwayForKeys(Away);

impl UpstreamAuthority for AwayForKeys {
    fn mint<'a>(
        &'a self,
        request: &'a MintRequest,
        now: Timestamp,
    ) -> BoxFuture<'a, Result<MintedAuthority, UpstreamError>> {
        self.0.upstream.mint(request, now)
    }

    fn roots(&self, now: Timestamp) -> BoxFuture<'_, Result<Vec<X509Authority>, UpstreamError>> {
        self.0.upstream.roots(now)
    }

    fn publish_jwt_key<'a>(
        &'a self,
        key: &'a JwtAuthority,
        until: Timestamp,
        now: Timestamp,
    ) -> BoxFuture<'a, Result<(), UpstreamError>> {
        Box::pin(async move {
            self.0.check()?;
            self.0.upstream.publish_jwt_key(key, until, now).await
        })
    }

    fn withdraw_jwt_key<'a>(
        &'a self,
        key_id: &'a str,
        now: Timestamp,
    ) -> BoxFuture<'a, Result<(), UpstreamError>> {
        self.0.upstream.withdraw_jwt_key(key_id, now)
    }

    fn jwt_keys(&self, now: Timestamp) -> BoxFuture<'_, Result<Vec<JwtAuthority>, UpstreamError>> {
        self.0.upstream.jwt_keys(now)
    }
}

#[test]
fn an_upstream_that_is_away_hinders_neither_issuance_nor_jwt_authorities() {
    let root = ready(builder().authority_lifetime(HOUR * 240).build(NOW)).unwrap();
    let upstream = Arc::new(Away {
        upstream: InProcessUpstream::new(root.clone()),
        away: AtomicBool::new(true),
    });
    let build = || ready(below().upstream(upstream.clone()).build(NOW));
    assert_eq!(
        build().unwrap_err().to_string(),
        "the upstream authority cannot be reached: it is away"
    );
    upstream.away.store(false, Ordering::Relaxed);
    let child = build().unwrap();
    upstream.away.store(true, Ordering::Relaxed);
    let half = NOW + HOUR * 12;
    let error = ready(child.tick(half, &Evidence::unknown())).unwrap_err();
    assert!(matches!(error, CaError::Upstream(_)), "{error}");
    assert!(child.state().slots(Kind::Jwt).prepared().is_some());
    assert!(child.state().slots(Kind::X509).prepared().is_none());
    assert!(verifies(&child.bundle(), &leaf(&child, half), half));
    upstream.away.store(false, Ordering::Relaxed);
    tick(&child, half);
    let state = child.state();
    assert_eq!(
        state.slots(Kind::X509).prepared().unwrap().status(),
        Status::Prepared
    );
}

/// An operator's authority in files, below a root or its own.
struct Files {
    directory: tempfile::TempDir,
}

impl Files {
    fn new() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes a new self-signed authority that lives so long.
    fn write_root(&self, life: Duration) -> X509Issuer {
        let key = crypto().generate_key(KeyType::EcP256).unwrap();
        let signer = crypto().load_key(&key).unwrap();
        let certificate = ready(self_signed_authority(
            &trust_domain(),
            &spiffe_svid_ca::DistinguishedName::spiffe(),
            &*signer,
            NOW,
            NOW + life,
            &settings(),
        ))
        .unwrap();
        fs::write(self.path("cert.pem"), certificates_to_pem([&certificate])).unwrap();
        fs::write(self.path("key.pem"), pem(&key)).unwrap();
        X509Issuer::new(
            trust_domain(),
            certificate,
            Vec::new(),
            signer,
            Arc::new(settings()),
        )
        .unwrap()
    }

    /// Writes an intermediate with its key, and the root beside it.
    fn write_intermediate(&self) {
        let root = self.write_root(HOUR * 1000);
        fs::rename(self.path("cert.pem"), self.path("bundle.pem")).unwrap();
        let key = crypto().generate_key(KeyType::EcP256).unwrap();
        let signer = crypto().load_key(&key).unwrap();
        let params = IntermediateParams::new();
        let issued = ready(root.issue_intermediate(&params, signer.public_key(), NOW)).unwrap();
        fs::write(self.path("cert.pem"), certificates_to_pem(&issued.chain)).unwrap();
        fs::write(self.path("key.pem"), pem(&key)).unwrap();
    }

    fn self_signed(&self) -> Result<DiskUpstream, UpstreamError> {
        self.open(DiskFiles::new(self.path("cert.pem"), self.path("key.pem")))
    }

    fn with_bundle(&self) -> Result<DiskUpstream, UpstreamError> {
        let files = DiskFiles::new(self.path("cert.pem"), self.path("key.pem"));
        self.open(files.with_bundle(self.path("bundle.pem")))
    }

    fn open(&self, files: DiskFiles) -> Result<DiskUpstream, UpstreamError> {
        ready(DiskUpstream::open(trust_domain(), files, settings(), NOW))
    }
}

fn settings() -> IssuerSettings {
    IssuerSettings::new(crypto(), system_random())
}

fn pem(key: &spiffe_core::key::PrivateKey) -> String {
    let text = <base64ct::Base64 as base64ct::Encoding>::encode_string(key.secret_pkcs8_der());
    format!("-----BEGIN PRIVATE KEY-----\n{text}\n-----END PRIVATE KEY-----\n")
}

#[test]
fn a_self_signed_authority_in_files_is_the_root() {
    let files = Files::new();
    let root = files.write_root(HOUR * 1000);
    let upstream = Arc::new(files.self_signed().unwrap());
    let ca = ready(below().upstream(upstream).build(NOW)).unwrap();
    let issued = leaf(&ca, NOW);
    assert_eq!(issued.chain.len(), 2);
    let bundle = ca.bundle();
    assert_eq!(bundle.x509_authorities().len(), 1);
    let only = bundle.x509_authorities().iter().next().unwrap();
    assert_eq!(only.certificate(), root.authority().certificate());
    assert!(verifies(&bundle, &issued, NOW));
}

#[test]
fn an_authority_in_files_below_a_root_is_served_as_an_intermediate() {
    let files = Files::new();
    files.write_intermediate();
    let upstream = Arc::new(files.with_bundle().unwrap());
    let ca = ready(below().upstream(upstream).build(NOW)).unwrap();
    let issued = leaf(&ca, NOW);
    assert_eq!(issued.chain.len(), 3);
    assert!(verifies(&ca.bundle(), &issued, NOW));
}

#[test]
fn files_that_cannot_serve_are_refused_with_their_names() {
    #[track_caller]
    fn check(result: Result<DiskUpstream, UpstreamError>, parts: &[&str]) {
        let message = result.unwrap_err().to_string();
        for part in parts {
            assert!(message.contains(part), "{part:?} in {message}");
        }
        assert!(!message.contains("PRIVATE"), "{message}");
    }
    let files = Files::new();
    files.write_intermediate();
    assert!(files.with_bundle().is_ok());
    check(
        files.self_signed(),
        &["cert.pem", "exactly one certificate"],
    );
    let other = Files::new();
    other.write_root(HOUR);
    assert!(other.self_signed().is_ok());
    fs::copy(other.path("cert.pem"), files.path("bundle.pem")).unwrap();
    check(files.with_bundle(), &["does not verify under its roots"]);
    fs::copy(other.path("key.pem"), files.path("key.pem")).unwrap();
    check(files.with_bundle(), &["cert.pem", "key is not the one"]);
    fs::write(files.path("key.pem"), "-----BEGIN EC PRIVATE KEY-----\n").unwrap();
    check(files.with_bundle(), &["key.pem", "PKCS#8"]);
    fs::remove_file(files.path("key.pem")).unwrap();
    check(files.with_bundle(), &["key.pem", "No such file"]);
    fs::write(files.path("key.pem"), vec![b'x'; 1024 * 1024 + 1]).unwrap();
    check(files.with_bundle(), &["key.pem", "more than 1048576 bytes"]);
}

#[test]
fn new_files_are_followed_and_bad_ones_reported_while_the_old_serve_on() {
    let files = Files::new();
    files.write_root(HOUR * 1000);
    let upstream = Arc::new(files.self_signed().unwrap());
    let ca = ready(below().upstream(upstream.clone()).build(NOW)).unwrap();
    let (bundle, held) = (ca.bundle(), leaf(&ca, NOW));
    assert!(upstream.rejected().is_none());

    let good = fs::read(files.path("key.pem")).unwrap();
    fs::write(files.path("key.pem"), &good[..40]).unwrap();
    tick(&ca, NOW);
    let why = upstream.rejected().unwrap().to_string();
    assert!(why.contains("key.pem"), "{why}");
    assert!(ca.bundle().same_authorities(&bundle));
    ready(ca.prepare(Kind::X509, NOW)).unwrap();
    ready(ca.activate(Kind::X509, &Evidence::unknown(), true, NOW)).unwrap();
    assert!(verifies(&bundle, &leaf(&ca, NOW), NOW));
    fs::write(files.path("key.pem"), &good).unwrap();
    tick(&ca, NOW);
    assert!(upstream.rejected().is_none());

    // A new root: both are in the bundle until nothing is left below the first.
    files.write_root(HOUR * 1000);
    tick(&ca, NOW);
    assert_eq!(ca.bundle().x509_authorities().len(), 2);
    ready(ca.prepare(Kind::X509, NOW + HOUR)).unwrap();
    ready(ca.activate(Kind::X509, &Evidence::unknown(), true, NOW + HOUR)).unwrap();
    let newer = leaf(&ca, NOW + HOUR);
    assert!(!verifies(&bundle, &newer, NOW + HOUR));
    for issued in [&held, &newer] {
        assert!(verifies(&ca.bundle(), issued, NOW + HOUR));
    }
    tick(&ca, NOW + HOUR * 3);
    assert_eq!(ca.bundle().x509_authorities().len(), 1);
    assert!(verifies(&ca.bundle(), &newer, NOW + HOUR * 2));
    assert!(!verifies(&ca.bundle(), &held, NOW));
}

#[test]
fn an_expired_upstream_issues_nothing_and_what_was_issued_lives_no_longer() {
    let files = Files::new();
    files.write_root(HOUR * 3);
    let upstream = Arc::new(files.self_signed().unwrap());
    let ca = ready(below().upstream(upstream).build(NOW)).unwrap();
    let issued = ready(ca.issue_x509(
        &web().with_ttl(HOUR * 10),
        key(KeyType::EcP256).public_key(),
        NOW,
    ))
    .unwrap();
    assert_eq!((issued.not_after, issued.capped), (NOW + HOUR * 3, true));
    let error = ready(ca.prepare(Kind::X509, NOW + HOUR * 3)).unwrap_err();
    assert!(error.to_string().contains("expired at"), "{error}");
}

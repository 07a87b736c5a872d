//! What the guide to testing shows.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

// ANCHOR: imports
use std::sync::Arc;
use std::time::Duration;

use spiffe_core::crypto::system_random;
use spiffe_core::{Clock, Source};
use spiffe_testkit::{SeededRandom, TrustDomain, VirtualClock};
use spiffe_tls::{Mtls, Policy};
// ANCHOR_END: imports

// ANCHOR: mtls
#[tokio::test]
async fn the_east_serves_the_west() {
    let east = TrustDomain::ephemeral("east.example").await;
    let west = TrustDomain::ephemeral("west.example").await;
    let server = east.fixed_source("server", &[&west]).await;
    let client = west.fixed_source("client", &[&east]).await;

    let only_west: Policy = "domain:west.example".parse().unwrap();
    let only_server: Policy = "id:spiffe://east.example/server".parse().unwrap();
    let acceptor = Mtls::new(&server, only_west).acceptor().unwrap();
    let connector = Mtls::new(&client, only_server).connector().unwrap();

    let (near, far) = tokio::io::duplex(64 * 1024);
    let (client, server) = tokio::join!(connector.connect(near), acceptor.accept(far));
    assert_eq!(server.unwrap().peer().id(), "spiffe://west.example/client");
    assert_eq!(client.unwrap().peer().id(), "spiffe://east.example/server");
}
// ANCHOR_END: mtls

// ANCHOR: rotation
#[tokio::test]
async fn a_month_passes() {
    let clock = Arc::new(VirtualClock::start("2026-11-01T00:00:00Z".parse().unwrap()));
    let domain = TrustDomain::ephemeral_with(
        "test.example",
        clock.clone(),
        Arc::new(SeededRandom::new(1)),
    )
    .await;
    let source = domain.rotating_source("web", &[]).await;
    let (svid, authority) = (source.svid().unwrap(), domain.bundle());

    clock.sleep(Duration::from_secs(40 * 60)).await;
    assert_ne!(source.svid().unwrap().serial(), svid.serial());

    clock.sleep(Duration::from_secs(30 * 86_400)).await;
    assert!(source.svid().unwrap().not_after() > clock.now());
    assert!(!domain.bundle().same_authorities(&authority));
}
// ANCHOR_END: rotation

// ANCHOR: token
#[tokio::test]
async fn a_token_is_for_its_audience_and_for_minutes() {
    let clock = Arc::new(VirtualClock::start("2026-11-01T00:00:00Z".parse().unwrap()));
    let domain = TrustDomain::ephemeral_with("test.example", clock.clone(), system_random()).await;
    let tokens = domain.jwt_source("web", &[]);

    let token = tokens.fetch("db").await;
    assert!(tokens.verify(&token, "db").is_ok());
    assert!(tokens.verify(&token, "other").is_err());
    clock.sleep(Duration::from_secs(10 * 60)).await;
    assert!(tokens.verify(&token, "db").is_err());
}
// ANCHOR_END: token

#[tokio::test]
async fn a_rotating_source_follows_the_bundles_of_others() {
    let clock = Arc::new(VirtualClock::start("2026-11-01T00:00:00Z".parse().unwrap()));
    let seeded = |seed| Arc::new(SeededRandom::new(seed));
    let east = TrustDomain::ephemeral_with("east.example", clock.clone(), seeded(1)).await;
    let west = TrustDomain::ephemeral_with("west.example", clock.clone(), seeded(2)).await;
    let source = east.rotating_source("web", &[&west]).await;
    let other = west.rotating_source("db", &[&east]).await;
    let days = 3;
    for _ in 0..days * 24 {
        clock.sleep(Duration::from_secs(3600)).await;
        for (source, domain) in [(&source, &west), (&other, &east)] {
            let current = source.current();
            let known = current
                .bundle(domain.bundle().trust_domain().as_ref())
                .unwrap();
            // Followed at the next look, which is minutes away at most; the ones before are still there then.
            let svid = domain.svid("any").await;
            let root = svid.root_key_id();
            let found = known.x509_authorities().iter();
            assert!(found.into_iter().any(|one| one.subject_key_id() == root));
        }
    }
    assert!(east.bundle().sequence() > Some(2 * days));
}

//! Federation that comes and goes.

use super::*;

async fn domain(name: &str) -> LocalTrustDomain {
    let name = TrustDomain::parse(name).unwrap();
    LocalTrustDomain::builder(name).build().await.unwrap()
}

/// What `domain` has of `other`: the number of its X.509 authorities.
fn known(domain: &LocalTrustDomain, other: &LocalTrustDomain) -> Option<usize> {
    let bundles = domain.shared.state.borrow().bundles.clone();
    let bundle = bundles.get(other.trust_domain().as_ref())?;
    Some(bundle.x509_authorities().len())
}

/// Waits until `domain` has so many authorities of `other`.
async fn comes_to_know(domain: &LocalTrustDomain, other: &LocalTrustDomain, number: usize) {
    let mut states = domain.shared.state.subscribe();
    while known(domain, other) != Some(number) {
        states.changed().await.unwrap();
    }
}

#[tokio::test]
async fn a_trust_domain_that_was_put_away_stays_away_when_it_changes() {
    let (east, west, south) = (
        domain("east").await,
        domain("west").await,
        domain("south").await,
    );
    for twice in [&east, &east, &south] {
        twice.federate(&west);
    }
    assert_eq!(known(&east, &west), Some(1));
    east.put_away(west.trust_domain().as_ref());
    assert_eq!(known(&east, &west), None);
    west.prepare_x509_authority().await.unwrap();
    comes_to_know(&south, &west, 2).await;
    // On this runtime whoever else was woken by the change runs within a few turns.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(known(&east, &west), None);
    east.federate(&west);
    assert_eq!(known(&east, &west), Some(2));
    assert_eq!(lock(&east.tasks).federated.len(), 1);
}

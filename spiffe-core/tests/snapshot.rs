//! Publishing revisions: one swap for the snapshot and all that is derived from it.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use spiffe_core::snapshot::{Rejection, SourceError};
use spiffe_core::{BundleSet, Publisher, Rule, Source, Watch};
use support::*;

#[test]
fn a_fixed_source_answers_for_its_values() {
    let root = root(ca_params("root"));
    let source = Publisher::fixed([svid("spiffe://a/x", &root)], bundles(&[("a", &[&root])]));
    assert_eq!(source.svid().unwrap().id().as_str(), "spiffe://a/x");
    let td = |name: &'static str| spiffe_core::TrustDomainRef::literal(name);
    assert_eq!(source.bundle(td("a")).unwrap().x509_authorities().len(), 1);
    assert!(matches!(
        source.bundle(td("b")),
        Err(SourceError::TrustDomainUnknown { .. })
    ));
    assert!(matches!(
        Publisher::new().svid(),
        Err(SourceError::NoIdentity)
    ));
}

#[test]
fn what_is_derived_changes_with_the_snapshot_and_not_apart_from_it() {
    let root = root(ca_params("root"));
    let publisher = Publisher::new();
    let derived = publisher
        .derive(|snapshot| Ok(snapshot.svids().len() as u64 * 1000 + snapshot.revision().get()))
        .unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let reader = std::thread::spawn({
        let (derived, stop) = (derived.clone(), stop.clone());
        move || {
            let mut last = 0;
            while !stop.load(Ordering::Relaxed) {
                let (published, value) = derived.load();
                let revision = published.revision().get();
                assert_eq!(*value, published.svids().len() as u64 * 1000 + revision);
                assert!(revision >= last, "revisions never go back");
                last = revision;
            }
        }
    });
    let one = Arc::new(svid("spiffe://a/x", &root));
    for round in 0..2000 {
        let svids = vec![one.clone(); round % 3];
        publisher.publish(svids, BundleSet::new()).unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    reader.join().unwrap();
}

#[test]
fn a_rejected_snapshot_is_never_seen() {
    let publisher = Publisher::new();
    let derived = publisher
        .derive(|snapshot| {
            if snapshot.bundles().len() == 1 {
                return Err(Rejection::new(Rule::CertMalformed, "one is no good"));
            }
            Ok(snapshot.bundles().len())
        })
        .unwrap();
    let root = root(ca_params("root"));
    publisher
        .publish([], bundles(&[("a", &[&root]), ("b", &[&root])]))
        .unwrap();
    let rejection = publisher
        .publish([], bundles(&[("a", &[&root])]))
        .unwrap_err();
    assert_eq!(rejection.to_string(), "one is no good");
    let (published, value) = derived.load();
    assert_eq!((published.revision().get(), *value), (1, 2));
    assert!(
        publisher
            .derive::<()>(|_| Err(Rejection::new(Rule::CertMalformed, "never")))
            .is_err()
    );
    drop(derived);
    publisher.publish([], bundles(&[("a", &[&root])])).unwrap();
}

#[test]
fn what_is_derived_goes_with_its_last_handle() {
    let publisher = Publisher::new();
    let weight = Arc::new(());
    let derive = || {
        let weight = weight.clone();
        publisher.derive(move |_| Ok(weight.clone())).unwrap()
    };
    let (kept, dropped) = (derive(), derive());
    let copy = dropped.clone();
    drop(dropped);
    assert_eq!(Arc::strong_count(&weight), 5, "two steps, two values, ours");
    assert!(Arc::ptr_eq(&copy.load().1, &copy.load().1));
    drop(copy);
    assert_eq!(Arc::strong_count(&weight), 3, "no revision came meanwhile");
    assert!(Arc::ptr_eq(&*kept.load().1, &weight));
}

#[test]
fn a_step_may_hold_the_last_handle_of_another() {
    let publisher = Publisher::new();
    let inner = publisher.derive(|_| Ok(1)).unwrap();
    let outer = publisher
        .derive({
            let inner = inner.clone();
            move |_| Ok(inner.clone())
        })
        .unwrap();
    drop(inner);
    publisher.publish([], BundleSet::new()).unwrap();
    drop(outer);
    publisher.publish([], BundleSet::new()).unwrap();
}

#[test]
fn the_trust_revision_counts_changes_of_authorities_only() {
    let (one, two) = (root(ca_params("one")), root(ca_params("two")));
    let publisher = Publisher::new();
    let trust = |bundles: BundleSet| {
        publisher.publish([], bundles).unwrap();
        publisher.load().trust_revision().get()
    };
    assert_eq!(trust(bundles(&[("a", &[&one])])), 1);
    assert_eq!(
        trust(bundles(&[("a", &[&one])])),
        1,
        "the same content is no change"
    );
    assert_eq!(trust(bundles(&[("a", &[&two, &one])])), 2);
    assert_eq!(
        trust(bundles(&[("a", &[&one, &two])])),
        2,
        "order is no change"
    );
    assert_eq!(trust(bundles(&[])), 3);
}

#[tokio::test]
async fn a_change_wakes_who_waits() {
    let publisher = Publisher::new();
    let seen = publisher.load().revision();
    let waiting = publisher.changed(seen);
    let waiting = tokio::spawn(waiting);
    publisher.publish([], BundleSet::new()).unwrap();
    assert_eq!(waiting.await.unwrap().get(), 1);
    assert_eq!(
        publisher.changed(seen).await.get(),
        1,
        "a change that is past is found at once"
    );
}

#[test]
fn a_step_that_could_keep_a_withdrawal_out_is_not_registered() {
    let root = root(ca_params("root"));
    let source = Publisher::fixed([svid("spiffe://a/x", &root)], bundles(&[("a", &[&root])]));
    let wants_an_identity = |snapshot: &Arc<spiffe_core::snapshot::Snapshot>| match snapshot.svid()
    {
        Ok(svid) => Ok(svid.id().clone()),
        Err(error) => Err(Rejection::new(error.rule(), error.to_string())),
    };
    assert!(source.derive(wants_an_identity).is_err());
    let derived = source
        .derive(|snapshot| Ok(snapshot.svids().len()))
        .unwrap();
    source.publish([], BundleSet::new()).unwrap();
    assert_eq!(*derived.load().1, 0);
}

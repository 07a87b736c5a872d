//! Tainted authorities: taken for good until they are revoked, unless a verifier is told to refuse them.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use spiffe_core::bundle::{X509Authorities, X509Authority};
use spiffe_core::key::SvidKey;
use spiffe_core::svid::Backing;
use spiffe_core::verify::{PeerRole, X509Verifier};
use spiffe_core::{Bundle, BundleSet, Rule, TrustDomain, X509Svid};
use support::*;

const ID: &str = "spiffe://a/x";

fn tainted(tainted: &[&Authority], others: &[&Authority]) -> BundleSet {
    let of = |authority: &Authority| X509Authority::from_der(authority.der().clone()).unwrap();
    let authorities: X509Authorities = tainted
        .iter()
        .map(|authority| of(authority).into_tainted())
        .chain(others.iter().map(|authority| of(authority)))
        .collect();
    [Bundle::new(TrustDomain::parse("a").unwrap()).with_x509_authorities(authorities)]
        .into_iter()
        .collect()
}

#[test]
fn a_tainted_authority_is_refused_only_where_that_is_asked_for() {
    let (old, new) = (root(ca_params("old")), root(ca_params("new")));
    let middle = intermediate(ca_params("middle"), &old);
    let of_a = tainted(&[&old], &[&new]);
    let lenient = X509Verifier::new(&*crypto());
    // The lenient one has remembered the intermediate; the strict one shares its memory.
    let strict = lenient.clone().refusing_tainted(true);
    for above in [vec![&old], vec![&middle, &old]] {
        let sent = chain(leaf_params(ID), &above);
        for _ in 0..2 {
            check_with(&lenient, &sent, &of_a, NOW, PeerRole::Client, Ok(ID));
        }
        let no = Err(Rule::AuthorityTainted);
        check_with(&strict, &sent, &of_a, NOW, PeerRole::Client, no);
        let (_, tree) = strict.explain(&sent, &of_a, NOW, PeerRole::Client);
        let nearest = tree.first_failure().and_then(|node| node.nearest.clone());
        assert!(nearest.unwrap().contains("not tainted"), "{tree}");
    }
    let reissued = chain(leaf_params(ID), &[&new]);
    check_with(&strict, &reissued, &of_a, NOW, PeerRole::Client, Ok(ID));
}

/// What a trust domain's own authorities make of an SVID is told by the key identifier at the end of its chain.
#[test]
fn an_svid_is_backed_by_the_authority_that_it_ends_at() {
    let (old, new) = (root(ca_params("old")), root(ca_params("new")));
    let middle = intermediate(ca_params("middle"), &old);
    let of = |bundles: &BundleSet| {
        let name = TrustDomain::parse("a").unwrap();
        bundles
            .get(name.as_ref())
            .unwrap()
            .x509_authorities()
            .clone()
    };
    for issuer in [&old, &middle] {
        let direct = svid(ID, issuer);
        let above: Vec<_> = [&middle]
            .into_iter()
            .filter(|one| one.der() == issuer.der())
            .collect();
        let mut certificates = direct.chain().to_vec();
        certificates.extend(above.iter().map(|one| one.der().clone()));
        let SvidKey::Local(key) = direct.key() else {
            panic!("the support's keys are local");
        };
        let svid = X509Svid::new(certificates, key.clone_key(), &*crypto()).unwrap();
        assert!(svid.root_key_id().is_some());
        for (bundles, backing) in [
            (tainted(&[], &[&old, &new]), Backing::Trusted),
            (tainted(&[&old], &[&new]), Backing::Tainted),
            (tainted(&[&new], &[&old]), Backing::Trusted),
            (tainted(&[], &[&new]), Backing::Withdrawn),
            (tainted(&[&new], &[]), Backing::Withdrawn),
        ] {
            assert_eq!(svid.backing(&of(&bundles)), backing);
        }
    }
}

//! URI name constraints on intermediates and authorities, by the text of RFC 5280 §4.2.1.10 and X509-SVID §4.2.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use rcgen::{BasicConstraints, CertificateParams, IsCa, SanType};
use spiffe_core::Rule;
use spiffe_core::verify::{NameConstraintError, PeerRole, X509Error, X509Verifier};
use support::*;

const OUTSIDE: Result<(), Rule> = Err(Rule::PathNameConstraints);

/// A leaf of `id` below an issuer with the constraints, which stand once on an intermediate, once on the authority and
/// once on an intermediate with another below it.
#[track_caller]
fn case(permitted: &[&str], excluded: &[&str], id: &str, expected: Result<(), Rule>) {
    let uris = |hosts: &[&'static str]| -> Vec<(u8, &'static [u8])> {
        hosts.iter().map(|host| (0x86, host.as_bytes())).collect()
    };
    let leak = |hosts: &[&str]| -> Vec<&'static str> {
        hosts.iter().map(|host| &*host.to_string().leak()).collect()
    };
    let extension = constraints(&uris(&leak(permitted)), &uris(&leak(excluded)));
    placed(extension, leaf_params(id), id, expected);
}

#[track_caller]
fn placed(
    extension: rcgen::CustomExtension,
    leaf: CertificateParams,
    id: &str,
    expected: Result<(), Rule>,
) {
    let expected = expected.map(|()| id);
    let trust_domain = id["spiffe://".len()..].split('/').next().unwrap();
    let with = |mut params: CertificateParams| {
        params.custom_extensions.push(extension.clone());
        params
    };
    let plain = root(ca_params("root"));
    let middle = intermediate(with(ca_params("middle")), &plain);
    let lower = intermediate(ca_params("lower"), &middle);
    let of_plain = bundles(&[(trust_domain, &[&plain])]);
    check(
        &chain(leaf.clone(), &[&middle, &plain]),
        &of_plain,
        expected,
    );
    check(
        &chain(leaf.clone(), &[&lower, &middle, &plain]),
        &of_plain,
        expected,
    );
    let top = root(with(ca_params("root")));
    let middle = intermediate(ca_params("middle"), &top);
    let of_top = bundles(&[(trust_domain, &[&top])]);
    check(&chain(leaf.clone(), &[&top]), &of_top, expected);
    check(&chain(leaf, &[&middle, &top]), &of_top, expected);
}

#[test]
fn a_host_is_that_host_and_a_period_means_below() {
    case(&["example.org"], &[], "spiffe://example.org/x", Ok(()));
    case(&["example.org"], &[], "spiffe://sub.example.org/x", OUTSIDE);
    case(&["example.org"], &[], "spiffe://other.org/x", OUTSIDE);
    case(&[".example.org"], &[], "spiffe://sub.example.org/x", Ok(()));
    case(&[".example.org"], &[], "spiffe://example.org/x", OUTSIDE);
    case(&["EXAMPLE.org"], &[], "spiffe://example.org/x", Ok(()));
    case(
        &["b.org", "example.org"],
        &[],
        "spiffe://example.org/x",
        Ok(()),
    );
}

#[test]
fn excluded_hosts_are_refused_wherever_permitted() {
    case(&[], &["other.org"], "spiffe://example.org/x", Ok(()));
    case(&[], &["example.org"], "spiffe://example.org/x", OUTSIDE);
    case(
        &["example.org"],
        &["example.org"],
        "spiffe://example.org/x",
        OUTSIDE,
    );
    case(
        &[],
        &[".example.org"],
        "spiffe://sub.example.org/x",
        OUTSIDE,
    );
    case(&[], &[".example.org"], "spiffe://example.org/x", Ok(()));
}

#[test]
fn what_is_not_understood_fails_closed() {
    for base in [
        "",
        ".",
        "*.example.org",
        "example.org.",
        "spiffe://example.org",
        "example.org:1",
    ] {
        case(&[base], &[], "spiffe://example.org/x", OUTSIDE);
        case(&[], &[base], "spiffe://example.org/x", OUTSIDE);
    }
    for id in ["spiffe://10.0.0.1/x", "spiffe://a..b/x", "spiffe://a.b-/x"] {
        case(&["example.org"], &[], id, OUTSIDE);
        case(&[], &["example.org"], id, OUTSIDE);
    }
}

#[test]
fn constraints_on_other_forms_bind_those_forms_alone() {
    const ID: &str = "spiffe://example.org/x";
    let dns = |names: &[&str]| {
        let mut params = leaf_params(ID);
        for name in names {
            let name = SanType::DnsName((*name).try_into().unwrap());
            params.subject_alt_names.push(name);
        }
        params
    };
    let both = || constraints(&[(0x86, b"example.org"), (0x82, b"example.org")], &[]);
    placed(both(), dns(&[]), ID, Ok(()));
    placed(both(), dns(&["www.example.org"]), ID, Ok(()));
    placed(both(), dns(&["www.example.org", "other.org"]), ID, OUTSIDE);
    placed(
        constraints(&[(0x82, b"other.org")], &[]),
        dns(&[]),
        ID,
        Ok(()),
    );
    // Every leaf here has a subject, and constraints on directory names are not understood.
    let directory = element(0x30, &[]);
    placed(
        constraints(&[], &[(0xa4, &directory)]),
        dns(&[]),
        ID,
        OUTSIDE,
    );
    placed(
        constraints(&[], &[(0x81, b"example.org")]),
        dns(&[]),
        ID,
        Ok(()),
    );
}

#[test]
fn every_constraint_above_a_name_holds() {
    const ID: &str = "spiffe://sub.example.org/x";
    for (upper, lower, expected) in [
        (".example.org", "sub.example.org", Ok(ID)),
        ("sub.example.org", ".example.org", Ok(ID)),
        (".example.org", "other.org", Err(Rule::PathNameConstraints)),
        (
            "other.org",
            "sub.example.org",
            Err(Rule::PathNameConstraints),
        ),
    ] {
        let top = root(ca_params("root"));
        let upper = intermediate(confined(ca_params("upper"), &[upper]), &top);
        let lower = intermediate(confined(ca_params("lower"), &[lower]), &upper);
        let chain = chain(leaf_params(ID), &[&lower, &upper, &top]);
        check(&chain, &bundles(&[("sub.example.org", &[&top])]), expected);
    }
}

#[test]
fn an_intermediates_own_names_are_bound_unless_it_is_self_issued() {
    for (name, expected) in [
        ("spiffe://example.org", Ok("spiffe://example.org/x")),
        // Not a SPIFFE ID, and yet a URI of the host.
        ("spiffe://example.org/", Ok("spiffe://example.org/x")),
        ("https://example.org:8443/ca", Ok("spiffe://example.org/x")),
        ("spiffe://other.org", Err(Rule::PathNameConstraints)),
        ("urn:ca", Err(Rule::PathNameConstraints)),
    ] {
        let named = |subject: &str| {
            let mut params = ca_params(subject);
            params.subject_alt_names = vec![SanType::URI(name.try_into().unwrap())];
            params
        };
        let top = root(ca_params("root"));
        let of_top = bundles(&[("example.org", &[&top])]);
        let upper = intermediate(confined(ca_params("upper"), &["example.org"]), &top);
        let lower = intermediate(named("lower"), &upper);
        let leaf = leaf_params("spiffe://example.org/x");
        check(
            &chain(leaf.clone(), &[&lower, &upper, &top]),
            &of_top,
            expected,
        );
        // RFC 5280 §6.1.3: a self-issued certificate is exempt, unless it is the leaf.
        let renewed = intermediate(named("upper"), &upper);
        let of_renewed = chain(leaf, &[&renewed, &upper, &top]);
        check(&of_renewed, &of_top, Ok("spiffe://example.org/x"));
    }
}

#[test]
fn a_confined_intermediate_keeps_the_other_rules() {
    let mut shallow = confined(ca_params("upper"), &["example.org"]);
    shallow.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let mut late = confined(ca_params("upper"), &["example.org"]);
    late.not_before = late.not_after - time::Duration::seconds(1);
    let leaf = || leaf_params("spiffe://example.org/x");
    let top = root(ca_params("root"));
    let of_top = bundles(&[("example.org", &[&top])]);
    let upper = intermediate(shallow, &top);
    let lower = intermediate(ca_params("lower"), &upper);
    check(
        &chain(leaf(), &[&upper, &top]),
        &of_top,
        Ok("spiffe://example.org/x"),
    );
    check(
        &chain(leaf(), &[&lower, &upper, &top]),
        &of_top,
        Err(Rule::PathLength),
    );
    // Right name, wrong key: constraints make nobody an issuer.
    let stranger = root(confined(ca_params("upper"), &["example.org"]));
    let forged = [chain(leaf(), &[&stranger]), vec![upper.der().clone()]].concat();
    check(&forged, &of_top, Err(Rule::PathBadSignature));
    let forged = [chain(leaf(), &[&stranger]), vec![stranger.der().clone()]].concat();
    check(&forged, &of_top, Err(Rule::PathUntrusted));
    let upper = intermediate(late, &top);
    check(
        &chain(leaf(), &[&upper, &top]),
        &of_top,
        Err(Rule::PathNotYetValid),
    );
}

#[test]
fn another_way_around_a_constraint_that_does_not_hold_is_taken() {
    // The same name and key, certified twice: once confined elsewhere, once free.
    let top = root(ca_params("root"));
    let (name, pair) = (ca_params("middle"), key());
    let elsewhere = sign_under(&confined(name.clone(), &["other.org"]), &pair, &top);
    let free = sign_under(&name, &pair, &top);
    let leaf = sign(&leaf_params("spiffe://a/x"), &key(), &name, &pair);
    let of_a = bundles(&[("a", &[&top])]);
    check(
        &[leaf.clone(), elsewhere.clone(), free.clone()],
        &of_a,
        Ok("spiffe://a/x"),
    );
    check(
        &[leaf.clone(), free, elsewhere.clone()],
        &of_a,
        Ok("spiffe://a/x"),
    );
    check(&[leaf, elsewhere], &of_a, Err(Rule::PathNameConstraints));
}

fn sign_under(
    params: &CertificateParams,
    key: &rcgen::KeyPair,
    issuer: &Authority,
) -> spiffe_core::pki_types::CertificateDer<'static> {
    params.signed_by(key, issuer).unwrap().der().clone()
}

#[test]
fn malformed_constraints_make_an_intermediate_unreadable_and_an_authority_none() {
    let mut params = ca_params("middle");
    let empty = rcgen::CustomExtension::from_oid_content(&[2, 5, 29, 30], vec![0x30, 0]);
    params.custom_extensions.push(empty);
    let top = root(ca_params("root"));
    let middle = intermediate(params.clone(), &top);
    let below = chain(leaf_params("spiffe://a/x"), &[&middle, &top]);
    check(
        &below,
        &bundles(&[("a", &[&top])]),
        Err(Rule::PathUntrusted),
    );
    let bad = root(params);
    let of_bad = bundle("a", &[&bad]);
    assert!(of_bad.x509_authorities().is_empty());
    assert_eq!(
        of_bad.x509_authorities().ignored()[0].rule,
        Rule::CertMalformed
    );
}

#[test]
fn the_explanation_says_what_would_pass() {
    let top = root(ca_params("root"));
    let middle = intermediate(confined(ca_params("middle"), &[".example.org"]), &top);
    let chain = chain(leaf_params("spiffe://example.org/x"), &[&middle, &top]);
    let bundles = bundles(&[("example.org", &[&top])]);
    let verifier = X509Verifier::new(&*crypto());
    let (verdict, tree) = verifier.explain(&chain, &bundles, NOW, PeerRole::Client);
    assert!(matches!(
        verdict,
        Err(X509Error::NameConstraints(
            NameConstraintError::Outside { .. }
        ))
    ));
    let failed = tree.first_failure().unwrap();
    assert_eq!(
        failed.nearest.as_deref(),
        Some("a name within .example.org")
    );
    let admitted = |node: &spiffe_core::Explanation| node.rule == Rule::PathIssuerAdmitted;
    assert!(tree.children.iter().any(admitted), "{tree}");
}

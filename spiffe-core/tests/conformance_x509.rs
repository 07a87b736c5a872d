//! Rows of the conformance table that concern certificates and that no other test shows.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, NameConstraints, SanType,
};
use spiffe_core::pki_types::CertificateDer;
use spiffe_core::verify::{PeerRole, X509Verifier};
use spiffe_core::{BundleSet, Rule};
use support::*;

fn verdict(chain: &[CertificateDer<'_>], bundles: &BundleSet) -> Result<String, Rule> {
    X509Verifier::new(&*crypto())
        .verify(chain, bundles, NOW, PeerRole::Unspecified)
        .map(|peer| peer.id.to_string())
        .map_err(|error| error.rule())
}

fn proven() -> Result<String, Rule> {
    Ok("spiffe://a/x".into())
}

/// The verdict on a leaf of `a` changed by `change`, straight under the root of `a`.
fn leaf(change: impl FnOnce(&mut CertificateParams)) -> Result<String, Rule> {
    let root = root(ca_params("root"));
    let mut params = leaf_params("spiffe://a/x");
    change(&mut params);
    verdict(&chain(params, &[&root]), &bundles(&[("a", &[&root])]))
}

/// The verdict on a leaf of `a` under an intermediate changed by `change`.
fn below(change: impl FnOnce(&mut CertificateParams)) -> Result<String, Rule> {
    let root = root(ca_params("root"));
    let mut params = ca_params("middle");
    change(&mut params);
    let middle = intermediate(params, &root);
    let chain = chain(leaf_params("spiffe://a/x"), &[&middle, &root]);
    verdict(&chain, &bundles(&[("a", &[&root])]))
}

/// A `subjectAltName` with this one URI.
fn uri_names(uri: &str, critical: bool) -> CustomExtension {
    let name = [&[0x86, uri.len() as u8], uri.as_bytes()].concat();
    let value = [&[0x30, name.len() as u8], name.as_slice()].concat();
    let mut extension = CustomExtension::from_oid_content(&[2, 5, 29, 17], value);
    extension.set_criticality(critical);
    extension
}

#[test]
fn other_kinds_of_names_do_not_matter() {
    let many = |params: &mut CertificateParams| {
        for n in 0..50 {
            let name = format!("host-{n}.example.org");
            params
                .subject_alt_names
                .push(SanType::DnsName(name.try_into().unwrap()));
        }
        let address = SanType::IpAddress([10, 0, 0, 1].into());
        let mail = SanType::Rfc822Name("x@example.org".try_into().unwrap());
        params.subject_alt_names.extend([address, mail]);
    };
    assert_eq!(leaf(many), proven());
    let without_uri = |params: &mut CertificateParams| {
        many(params);
        params.subject_alt_names.remove(0);
    };
    assert_eq!(leaf(without_uri), Err(Rule::LeafUriCount));
}

#[test]
fn an_empty_subject_is_no_obstacle_with_critical_names_or_without() {
    for critical in [true, false] {
        let bare = |params: &mut CertificateParams| {
            params.distinguished_name = DistinguishedName::new();
            params.subject_alt_names.clear();
            params
                .custom_extensions
                .push(uri_names("spiffe://a/x", critical));
        };
        assert_eq!(leaf(bare), proven(), "critical: {critical}");
    }
}

#[test]
fn the_subject_is_never_an_identity() {
    let named = |params: &mut CertificateParams| {
        params
            .distinguished_name
            .push(DnType::CommonName, "spiffe://a/somebody-else");
    };
    assert_eq!(leaf(named), proven());
    let only_named = |params: &mut CertificateParams| {
        named(params);
        params.subject_alt_names.clear();
    };
    assert_eq!(leaf(only_named), Err(Rule::LeafUriCount));
}

#[test]
fn a_signing_certificate_authenticates_nobody() {
    let root = root(ca_params("root"));
    let bundles = bundles(&[("a", &[&root])]);
    for (uri, expected) in [
        ("spiffe://a/x", Rule::LeafIsCa),
        ("spiffe://a", Rule::LeafPathMissing),
    ] {
        let mut params = ca_params("middle");
        params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
        let middle = intermediate(params, &root);
        assert_eq!(verdict(&[middle.der().clone()], &bundles), Err(expected));
        // As the issuer that it is, it does what it is for.
        let below = chain(leaf_params("spiffe://a/x"), &[&middle, &root]);
        assert_eq!(verdict(&below, &bundles), proven());
    }
    assert_eq!(
        verdict(&[root.der().clone()], &bundles),
        Err(Rule::LeafUriCount)
    );
}

/// No authority or intermediate is refused for what its URI name says, DEC-02 and DEC-04.
#[test]
fn issuers_need_no_spiffe_id_and_may_have_an_odd_one() {
    for uri in [None, Some("spiffe://a"), Some("spiffe://a/"), Some("urn:x")] {
        let name = |mut params: CertificateParams| {
            params.subject_alt_names = uri
                .map(|uri| SanType::URI(uri.try_into().unwrap()))
                .into_iter()
                .collect();
            params
        };
        let root = root(name(ca_params("root")));
        let middle = intermediate(name(ca_params("middle")), &root);
        let chain = chain(leaf_params("spiffe://a/x"), &[&middle, &root]);
        assert_eq!(verdict(&chain, &bundles(&[("a", &[&root])])), proven());
    }
}

#[test]
fn an_extended_key_usage_may_be_critical() {
    // serverAuth and clientAuth.
    let both =
        b"\x30\x14\x06\x08\x2b\x06\x01\x05\x05\x07\x03\x01\x06\x08\x2b\x06\x01\x05\x05\x07\x03\x02";
    for critical in [true, false] {
        let usage = |params: &mut CertificateParams| {
            params.extended_key_usages.clear();
            let mut usage = CustomExtension::from_oid_content(&[2, 5, 29, 37], both.to_vec());
            usage.set_criticality(critical);
            params.custom_extensions.push(usage);
        };
        assert_eq!(leaf(usage), proven());
    }
}

#[test]
fn an_intermediates_extended_key_usage_confines_what_is_below() {
    use ExtendedKeyUsagePurpose as Eku;
    let with = |usages: Vec<Eku>| below(|params| params.extended_key_usages = usages);
    assert_eq!(with(vec![]), proven());
    assert_eq!(with(vec![Eku::ServerAuth, Eku::ClientAuth]), proven());
    assert_eq!(with(vec![Eku::Any]), proven());
    let refused = with(vec![Eku::CodeSigning]).unwrap_err();
    assert!(
        [Rule::PathExtendedKeyUsage, Rule::LeafExtendedKeyUsage].contains(&refused),
        "{refused:?}"
    );
}

/// A constraint on names that no SPIFFE ID has leaves SPIFFE IDs alone.
#[test]
fn constraints_on_other_kinds_of_names_confine_those() {
    let with = |name: Option<&str>| {
        let root = root(ca_params("root"));
        let mut params = ca_params("middle");
        params.name_constraints = Some(NameConstraints {
            permitted_subtrees: vec![GeneralSubtree::DnsName("example.org".into())],
            excluded_subtrees: vec![],
        });
        let middle = intermediate(params, &root);
        let mut params = leaf_params("spiffe://a/x");
        let names = name.map(|name| SanType::DnsName(name.try_into().unwrap()));
        params.subject_alt_names.extend(names);
        let chain = chain(params, &[&middle, &root]);
        verdict(&chain, &bundles(&[("a", &[&root])]))
    };
    assert_eq!(with(None), proven());
    assert_eq!(with(Some("x.example.org")), proven());
    assert_eq!(with(Some("example.com")), Err(Rule::PathNameConstraints));
}

#[test]
fn one_key_under_two_trust_domains_proves_ids_of_both_and_each_only_for_itself() {
    let shared = root(ca_params("shared"));
    let of_b = chain(leaf_params("spiffe://b/x"), &[&shared]);
    let both = bundles(&[("a", &[&shared]), ("b", &[&shared])]);
    assert_eq!(verdict(&of_b, &both), Ok("spiffe://b/x".into()));
    let only_a = bundles(&[("a", &[&shared])]);
    assert_eq!(verdict(&of_b, &only_a), Err(Rule::TrustDomainUnknown));
}

#[test]
fn an_intermediate_of_another_trust_domain_leads_nowhere() {
    let (a, b) = (root(ca_params("a")), root(ca_params("b")));
    let middle = intermediate(ca_params("middle"), &b);
    let forged = chain(leaf_params("spiffe://a/x"), &[&middle, &b]);
    let both = bundles(&[("a", &[&a]), ("b", &[&b])]);
    assert_eq!(verdict(&forged, &both), Err(Rule::PathUntrusted));
    let own = chain(leaf_params("spiffe://b/x"), &[&middle, &b]);
    assert_eq!(verdict(&own, &both), Ok("spiffe://b/x".into()));
}

#[test]
fn an_authority_that_is_not_self_signed_is_an_authority() {
    let upstream = root(ca_params("upstream"));
    let nested = intermediate(ca_params("nested"), &upstream);
    let chain = chain(leaf_params("spiffe://a/x"), &[&nested]);
    assert_eq!(verdict(&chain, &bundles(&[("a", &[&nested])])), proven());
}

#[test]
fn ids_of_the_greatest_length_are_proven_and_longer_ones_are_not() {
    let longest = format!("spiffe://a/{}", "x".repeat(2048 - 11));
    let root = root(ca_params("root"));
    let bundles = bundles(&[("a", &[&root])]);
    let found = verdict(&chain(leaf_params(&longest), &[&root]), &bundles);
    assert_eq!(found, Ok(longest.clone()));
    let longer = chain(leaf_params(&format!("{longest}x")), &[&root]);
    assert_eq!(verdict(&longer, &bundles), Err(Rule::LeafUriScheme));
}

/// A path length counts certificates between this one and the leaf, wherever they stand in the message.
#[test]
fn a_path_length_is_honoured_in_the_middle_of_a_chain() {
    let with = |limit| {
        let root = root(ca_params("root"));
        let mut params = ca_params("upper");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(limit));
        let upper = intermediate(params, &root);
        let lower = intermediate(ca_params("lower"), &upper);
        let mut chain = chain(leaf_params("spiffe://a/x"), &[&lower, &upper, &root]);
        chain[1..].reverse();
        verdict(&chain, &bundles(&[("a", &[&root])]))
    };
    assert_eq!(with(1), proven());
    assert_eq!(with(0), Err(Rule::PathLength));
}

/// An extension with an identifier of its own: below the standard's arc 2.5.29, or elsewhere.
fn extension(in_arc: bool, number: u64) -> CustomExtension {
    let elsewhere = [1, 3, 6, 1, 4, 1, 99999, number];
    let oid = if in_arc {
        &[2, 5, 29, number][..]
    } else {
        &elsewhere
    };
    CustomExtension::from_oid_content(oid, vec![5, 0])
}

#[test]
fn an_extension_occurs_once_wherever_its_identifier_is_from() {
    let with = |extensions: &[(bool, u64)]| {
        leaf(|params| {
            let extensions = extensions
                .iter()
                .map(|(in_arc, last)| extension(*in_arc, *last));
            params.custom_extensions.extend(extensions);
        })
    };
    for good in [
        &[(true, 40), (true, 41)][..],
        &[(true, 40), (false, 40)],
        &[(true, 63), (true, 64), (true, 127)],
        &[(false, 1), (false, 2)],
    ] {
        assert_eq!(with(good), proven(), "{good:?}");
    }
    for twice in [(true, 40), (true, 63), (true, 64), (true, 0), (false, 1)] {
        let found = with(&[twice, (true, 41), (false, 7), twice]);
        assert_eq!(found, Err(Rule::CertDuplicateExtension), "{twice:?}");
    }
}

#[test]
fn a_certificate_has_64_extensions_at_most() {
    let with = |number| {
        leaf(|params| {
            let more = (0..number).map(|last| extension(false, last));
            params.custom_extensions.extend(more);
        })
    };
    // Beside those of every leaf here: names, key usages of both kinds, basic constraints, two key identifiers.
    let own = (0..=64).find(|more| with(64 - more) == proven()).unwrap();
    assert!((4..=6).contains(&own), "{own}");
    assert_eq!(with(64 - own + 1), Err(Rule::CertMalformed));
}

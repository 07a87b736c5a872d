//! Known faults of X.509 and SPIFFE libraries, replayed: each input that got through somewhere, beside one that is good.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use rcgen::{
    CertificateParams, CustomExtension, IsCa, KeyPair, KeyUsagePurpose, PublicKeyData, SanType,
    SigningKey,
};
use spiffe_core::pki_types::CertificateDer;
use spiffe_core::verify::{PeerRole, X509Verifier};
use spiffe_core::{BundleSet, Rule};
use support::*;

const ID: &str = "spiffe://a.org/x";

/// A leaf directly under the authority of `a.org`, with alternative names given as (tag, content).
#[track_caller]
fn named(names: &[(u8, &[u8])], expected: Result<&str, Rule>) {
    let top = root(ca_params("root"));
    let list: Vec<u8> = names
        .iter()
        .flat_map(|(tag, name)| element(*tag, name))
        .collect();
    let mut params = leaf_params(ID);
    params.subject_alt_names.clear();
    let value = element(0x30, &list);
    params
        .custom_extensions
        .push(CustomExtension::from_oid_content(&[2, 5, 29, 17], value));
    check(
        &chain(params, &[&top]),
        &bundles(&[("a.org", &[&top])]),
        expected,
    );
}

/// A leaf of `id` under an intermediate confined to `a.org`, with DNS names.
#[track_caller]
fn below_a_org(id: &str, dns: &[&str], expected: Result<&str, Rule>) {
    let extension = constraints(&[(0x86, b"a.org"), (0x82, b"w.a.org")], &[]);
    let mut params = ca_params("middle");
    params.custom_extensions.push(extension);
    let top = root(ca_params("root"));
    let middle = intermediate(params, &top);
    let mut params = leaf_params(id);
    let names = dns
        .iter()
        .map(|name| SanType::DnsName((*name).try_into().unwrap()));
    params.subject_alt_names.extend(names);
    let of_all = bundles(&[("a.org", &[&top]), ("b.org", &[&top])]);
    check(&chain(params, &[&middle, &top]), &of_all, expected);
}

#[test]
fn rustsec_2026_0098_uri_constraints_are_not_ignored() {
    below_a_org(ID, &[], Ok(ID));
    below_a_org("spiffe://b.org/x", &[], Err(Rule::PathNameConstraints));
}

#[test]
fn rustsec_2026_0099_a_wildcard_is_wider_than_a_permitted_name() {
    below_a_org(ID, &["w.a.org", "*.w.a.org"], Ok(ID));
    below_a_org(ID, &["*.a.org"], Err(Rule::PathNameConstraints));
}

#[test]
fn cve_2024_45341_a_zone_in_an_address_is_no_host() {
    let with_uri = |uri: &str| {
        let mut params = ca_params("lower");
        params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
        let top = root(ca_params("root"));
        let upper = intermediate(confined(ca_params("upper"), &["a.org", ".a.org"]), &top);
        let lower = intermediate(params, &upper);
        let sent = chain(leaf_params(ID), &[&lower, &upper, &top]);
        (sent, bundles(&[("a.org", &[&top])]))
    };
    let (sent, of_a) = with_uri("https://ca.a.org/");
    check(&sent, &of_a, Ok(ID));
    for uri in [
        "https://[2001:db8::1%25ca.a.org]/",
        "https://[::1%ca.a.org]/",
    ] {
        let (sent, of_a) = with_uri(uri);
        check(&sent, &of_a, Err(Rule::PathNameConstraints));
    }
}

#[test]
fn cve_2021_44531_to_44533_no_name_is_injected_through_another() {
    let spiffe: (u8, &[u8]) = (0x86, ID.as_bytes());
    named(&[spiffe], Ok(ID));
    // As a DNS name, as text in a mail address, in the subject: none of them is an ID.
    for name in [
        (0x82, ID.as_bytes()),
        (0x81, b"x@a.org, URI:spiffe://a.org/x"),
    ] {
        named(&[name], Err(Rule::LeafUriCount));
        named(&[spiffe, name], Ok(ID));
    }
    named(
        &[(0x86, b"spiffe://a.org/x, URI:spiffe://b.org/y")],
        Err(Rule::LeafUriScheme),
    );
    named(
        &[(0x86, b"spiffe://a.org/x\0.b.org")],
        Err(Rule::LeafUriScheme),
    );
}

#[test]
fn cve_2022_21656_and_2025_66220_name_types_are_not_confused() {
    let spiffe: (u8, &[u8]) = (0x86, ID.as_bytes());
    // otherName with a NUL in it beside the ID; the ID's bytes under every other tag.
    let other = [
        &[0x06, 1, 0x2a][..],
        &element(0xa0, &element(0x0c, b"a\0b")),
    ]
    .concat();
    named(&[spiffe, (0xa0, &other)], Ok(ID));
    for tag in [0x80, 0x81, 0x82, 0x87, 0x88, 0xa0, 0xa3, 0xa4, 0xa5, 0xa6] {
        named(&[(tag, ID.as_bytes())], Err(Rule::LeafUriCount));
    }
}

#[test]
fn cve_2022_3602_and_rustsec_2024_0421_punycode_is_never_decoded() {
    named(
        &[(0x86, b"spiffe://xn--a-0ga.org/x")],
        Err(Rule::TrustDomainUnknown),
    );
    below_a_org(ID, &["xn--a-0ga.w.a.org"], Ok(ID));
    below_a_org(ID, &["xn--w.a.org"], Err(Rule::PathNameConstraints));
}

#[test]
fn cve_2023_0286_an_x400_address_is_no_other_name() {
    // X.400 addresses below a constraint on them are not understood, and of no interest otherwise.
    let spiffe: (u8, &[u8]) = (0x86, ID.as_bytes());
    named(&[spiffe, (0xa3, &[0x30, 0])], Ok(ID));
    let top = root(ca_params("root"));
    let mut params = ca_params("middle");
    params
        .custom_extensions
        .push(constraints(&[(0xa3, &[0x30, 0])], &[]));
    let middle = intermediate(params, &top);
    let of_a = bundles(&[("a.org", &[&top])]);
    check(&chain(leaf_params(ID), &[&middle, &top]), &of_a, Ok(ID));
    let mut params = leaf_params(ID);
    params.subject_alt_names.clear();
    let names = [element(0x86, ID.as_bytes()), element(0xa3, &[0x30, 0])].concat();
    let extension = CustomExtension::from_oid_content(&[2, 5, 29, 17], element(0x30, &names));
    params.custom_extensions.push(extension);
    let sent = chain(params, &[&middle, &top]);
    check(&sent, &of_a, Err(Rule::PathNameConstraints));
}

/// A certificate for a key of any content, which need not be one; the issuer's signature is good.
fn certify(params: &CertificateParams, spki: &[u8], issuer: &Authority) -> CertificateDer<'static> {
    let stand_in = key();
    let der = params.signed_by(&stand_in, issuer).unwrap().der().clone();
    let length = usize::from(u16::from_be_bytes([der[6], der[7]]));
    let (content, rest) = der[8..].split_at(length);
    let old = stand_in.subject_public_key_info();
    let at = content
        .windows(old.len())
        .position(|window| window == old)
        .unwrap();
    let content = [&content[..at], spki, &content[at + old.len()..]].concat();
    let signed = element(0x30, &content);
    let signature = issuer.key().sign(&signed).unwrap();
    let algorithm = &rest[..2 + usize::from(rest[1])];
    let bits = element(3, &[&[0], &signature[..]].concat());
    CertificateDer::from(element(0x30, &[&signed, algorithm, &bits].concat()))
}

/// A leaf with this SubjectPublicKeyInfo, and an intermediate with it below which a stranger's leaf stands.
fn with_key(spki: Vec<u8>) -> [Result<(), Rule>; 2] {
    let top = root(ca_params("root"));
    let leaf = certify(&leaf_params(ID), &spki, &top);
    let middle = certify(&ca_params("middle"), &spki, &top);
    let below = sign(&leaf_params(ID), &key(), &ca_params("middle"), &key());
    let judge = |sent: &[CertificateDer<'_>]| {
        X509Verifier::new(&*crypto())
            .verify(sent, &bundles(&[("a.org", &[&top])]), NOW, PeerRole::Client)
            .map(|_| ())
            .map_err(|error| error.rule())
    };
    [judge(&[leaf]), judge(&[below, middle])]
}

/// A SubjectPublicKeyInfo of the elements of an AlgorithmIdentifier and key bits.
fn spki(algorithm: &[Vec<u8>], bits: &[u8]) -> Vec<u8> {
    let algorithm = element(0x30, &algorithm.concat());
    let bits = element(3, &[&[0], bits].concat());
    element(0x30, &[algorithm, bits].concat())
}

const EC: [u8; 7] = [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const P256: [u8; 8] = [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];

#[test]
fn cve_2020_0601_and_2022_0778_explicit_curves_are_refused_unread() {
    let good = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let point = good.der_bytes();
    let named_curve = spki(&[element(6, &EC), element(6, &P256)], point);
    // An intermediate of a good key is admitted; the leaf below it was signed with another.
    assert_eq!(with_key(named_curve), [Ok(()), Err(Rule::PathBadSignature)]);
    let refused = [Err(Rule::CertAlgorithm), Err(Rule::CertAlgorithm)];
    // Parameters spelled out, whose square root once looped; P-224; secp256k1; implicit parameters.
    let explicit = element(0x30, &[element(2, &[1]), element(0x30, &[])].concat());
    assert_eq!(with_key(spki(&[element(6, &EC), explicit], point)), refused);
    for curve in [
        &[0x2b, 0x81, 0x04, 0x00, 0x21],
        &[0x2b, 0x81, 0x04, 0x00, 0x0a],
    ] {
        let spki = spki(&[element(6, &EC), element(6, curve)], &point[..57]);
        assert_eq!(with_key(spki), refused);
    }
    assert_eq!(
        with_key(spki(&[element(6, &EC), element(5, &[])], point)),
        refused
    );
}

#[test]
fn cve_2023_29409_and_2024_24783_huge_and_odd_keys_are_refused_unread() {
    const RSA: [u8; 9] = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
    const DSA: [u8; 7] = [0x2a, 0x86, 0x48, 0xce, 0x38, 0x04, 0x01];
    let refused = [Err(Rule::CertAlgorithm), Err(Rule::CertAlgorithm)];
    let rsa = |bits: usize| {
        let mut modulus = vec![0, 0xc3];
        modulus.resize(1 + bits / 8, 0x5b);
        let key = [element(2, &modulus), element(2, &[1, 0, 1])].concat();
        spki(&[element(6, &RSA), element(5, &[])], &element(0x30, &key))
    };
    assert_eq!(with_key(rsa(8192))[0], Ok(()));
    assert_eq!(with_key(rsa(8200)), refused);
    assert_eq!(with_key(rsa(65_536)), refused);
    assert_eq!(with_key(spki(&[element(6, &DSA)], &[2, 1, 1])), refused);
    assert_eq!(
        with_key(spki(&[element(6, &EC), element(6, &P256)], &[4])),
        refused
    );
    assert_eq!(
        with_key(spki(&[element(6, &EC), element(6, &P256)], &[])),
        refused
    );
}

#[test]
fn cve_2025_61729_an_error_is_short_however_long_the_names() {
    let top = root(ca_params("root"));
    let middle = intermediate(confined(ca_params("middle"), &["b.org"; 400]), &top);
    let mut params = leaf_params(ID);
    for number in 0..400 {
        let name = format!("host-{number}.a.org");
        let name = SanType::DnsName(name.try_into().unwrap());
        params.subject_alt_names.push(name);
    }
    let sent = chain(params, &[&middle, &top]);
    let of_a = bundles(&[("a.org", &[&top])]);
    check(&sent, &of_a, Err(Rule::PathNameConstraints));
    let verifier = X509Verifier::new(&*crypto());
    let (verdict, tree) = verifier.explain(&sent, &of_a, NOW, PeerRole::Client);
    assert!(verdict.unwrap_err().to_string().len() < 512);
    assert!(tree.to_string().len() < 8192);
}

#[test]
fn cve_2025_22874_any_purpose_disables_no_other_rule() {
    use rcgen::ExtendedKeyUsagePurpose as Eku;
    let any = |mut params: CertificateParams| {
        params.extended_key_usages = vec![Eku::Any];
        params
    };
    let top = root(ca_params("root"));
    let of_all = bundles(&[("a.org", &[&top]), ("b.org", &[&top])]);
    let middle = intermediate(any(confined(ca_params("middle"), &["a.org"])), &top);
    check(
        &chain(any(leaf_params(ID)), &[&middle, &top]),
        &of_all,
        Ok(ID),
    );
    let outside = chain(any(leaf_params("spiffe://b.org/x")), &[&middle, &top]);
    check(&outside, &of_all, Err(Rule::PathNameConstraints));
}

#[test]
fn cve_2024_2048_and_2025_6037_a_leaf_is_no_authority() {
    let top = root(ca_params("root"));
    let not_ca = |mut params: CertificateParams| {
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params
    };
    // A leaf put into the bundle vouches neither for itself nor for what its key signed.
    let pinned = root(not_ca(leaf_params(ID)));
    let of_pinned = bundles(&[("a.org", &[&pinned])]);
    check(
        &[pinned.der().clone()],
        &of_pinned,
        Err(Rule::NoX509Authorities),
    );
    check(
        &chain(leaf_params(ID), &[&pinned]),
        &of_pinned,
        Err(Rule::NoX509Authorities),
    );
    let with_root = bundles(&[("a.org", &[&top, &pinned])]);
    check(
        &[pinned.der().clone()],
        &with_root,
        Err(Rule::PathUntrusted),
    );
    check(&chain(leaf_params(ID), &[&top]), &with_root, Ok(ID));
}

#[test]
fn kuma_2026_50166_no_authorities_is_no_leave_to_skip_verification() {
    let top = root(ca_params("root"));
    let sent = chain(leaf_params(ID), &[&top]);
    check(&sent, &bundles(&[("a.org", &[&top])]), Ok(ID));
    check(
        &sent,
        &bundles(&[("a.org", &[])]),
        Err(Rule::NoX509Authorities),
    );
    check(&sent, &BundleSet::new(), Err(Rule::TrustDomainUnknown));
}

#[test]
fn spiffe_26_and_375_no_domain_signs_for_another_through_intermediates() {
    let (a, b) = (root(ca_params("root")), root(ca_params("root")));
    let both = bundles(&[("a.org", &[&a]), ("b.org", &[&b])]);
    let middle = |authority| intermediate(ca_params("middle"), authority);
    let (of_a, of_b) = (middle(&a), middle(&b));
    check(&chain(leaf_params(ID), &[&of_a, &a]), &both, Ok(ID));
    check(
        &chain(leaf_params(ID), &[&of_b, &b]),
        &both,
        Err(Rule::PathBadSignature),
    );
    // With the right domain's intermediate and root sent along, too.
    let mut sent = chain(leaf_params(ID), &[&of_b, &b]);
    sent.extend([of_a.der().clone(), a.der().clone(), b.der().clone()]);
    check(&sent, &both, Err(Rule::PathBadSignature));
    // And after the other domain's intermediate was verified, and so remembered, for its own.
    let verifier = X509Verifier::new(&*crypto());
    let own = chain(leaf_params("spiffe://b.org/x"), &[&of_b, &b]);
    verifier.verify(&own, &both, NOW, PeerRole::Client).unwrap();
    let forged = verifier.verify(&sent, &both, NOW, PeerRole::Client);
    assert_eq!(forged.unwrap_err().rule(), Rule::PathBadSignature);
}

#[test]
fn asn1_nesting_and_lengths_cost_nothing() {
    let top = root(ca_params("root"));
    let of_a = bundles(&[("a.org", &[&top])]);
    let mut nested = vec![0x30, 0];
    while nested.len() < 16_000 {
        nested = element(0x30, &nested);
    }
    let endless = vec![0x30, 0x84, 0xff, 0xff, 0xff, 0xff];
    for bytes in [nested, endless, vec![0x30; 16_000]] {
        let bad = CertificateDer::from(bytes);
        check(std::slice::from_ref(&bad), &of_a, Err(Rule::CertMalformed));
        let mut sent = chain(leaf_params(ID), &[&top]);
        sent.push(bad);
        check(&sent, &of_a, Ok(ID));
    }
}

//! How strictly PEM and DER are read.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use spiffe_core::bundle::{
    MAX_CERTIFICATES_DOCUMENT_BYTES, X509Authorities, certificates_from_concatenated_der,
    certificates_from_pem, certificates_to_pem,
};
use spiffe_core::pki_types::CertificateDer;
use spiffe_core::svid::X509Chain;
use spiffe_core::{BundleSet, Rule};
use support::*;

/// The certificate with the one place where `from` stands changed to `to`, of the same length.
fn patched(der: &CertificateDer<'_>, from: &[u8], to: &[u8]) -> CertificateDer<'static> {
    assert_eq!(from.len(), to.len());
    let places: Vec<_> = (0..der.len() - from.len())
        .filter(|at| der[*at..].starts_with(from))
        .collect();
    assert_eq!(places.len(), 1, "{places:?}");
    let mut bytes = der.to_vec();
    bytes[places[0]..places[0] + from.len()].copy_from_slice(to);
    bytes.into()
}

#[test]
fn text_around_blocks_and_other_blocks_are_passed_over() {
    let one = root(ca_params("one"));
    let pem = certificates_to_pem([one.der()]);
    let other = "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n";
    for text in [
        pem.clone(),
        format!("subject=one\n{pem}the end"),
        format!("{other}{pem}{other}"),
        pem.replace('\n', "\r\n"),
    ] {
        let found = certificates_from_pem(&text).unwrap();
        assert_eq!(found, [one.der().clone()], "{text}");
    }
    for text in [other, "just a text", "AAAA"] {
        let error = certificates_from_pem(text).unwrap_err();
        assert_eq!(error.rule(), Rule::PemNoCertificate, "{text}");
    }
}

#[test]
fn an_empty_text_is_a_bundle_without_authorities() {
    for text in ["", "\n", " \r\n\t"] {
        assert!(X509Authorities::from_pem(text).unwrap().is_empty());
    }
    assert!(
        X509Authorities::from_concatenated_der(b"")
            .unwrap()
            .is_empty()
    );
}

#[test]
fn broken_blocks_are_refused() {
    let pem = certificates_to_pem([root(ca_params("one")).der()]);
    certificates_from_pem(&pem).unwrap();
    for text in [
        pem.replace("-----END CERTIFICATE-----", ""),
        pem.replace("-----END CERTIFICATE-----", "-----END CERT-----"),
        pem.replacen("\nM", "\n%", 1),
    ] {
        let error = certificates_from_pem(&text).unwrap_err();
        assert_eq!(error.rule(), Rule::PemMalformed, "{text}");
    }
}

#[test]
fn pem_and_der_give_the_same_certificates() {
    let root = root(ca_params("root"));
    let middle = intermediate(ca_params("middle"), &root);
    let chain = chain(leaf_params("spiffe://a/x"), &[&middle, &root]);
    let by_pem = certificates_from_pem(&certificates_to_pem(&chain)).unwrap();
    let joined: Vec<u8> = chain.iter().flat_map(|one| one.to_vec()).collect();
    let by_der = certificates_from_concatenated_der(&joined).unwrap();
    assert_eq!((&by_pem, &by_der), (&chain, &chain));
    let pem = certificates_to_pem(&chain);
    let error = certificates_from_concatenated_der(pem.as_bytes()).unwrap_err();
    assert_eq!(error.rule(), Rule::CertMalformed, "PEM is no DER");
    let mut behind = joined;
    behind.push(0);
    assert!(certificates_from_concatenated_der(&behind).is_err());
}

#[test]
fn documents_beyond_the_limit_are_refused_before_they_are_read() {
    let pem = " ".repeat(MAX_CERTIFICATES_DOCUMENT_BYTES + 1);
    let error = certificates_from_pem(&pem).unwrap_err();
    assert_eq!(error.rule(), Rule::DocumentTooLarge);
    assert!(certificates_from_pem(&pem[1..]).unwrap().is_empty());
    let error = certificates_from_concatenated_der(pem.as_bytes()).unwrap_err();
    assert_eq!(error.rule(), Rule::DocumentTooLarge);
}

#[test]
fn a_boolean_is_all_ones_or_absent() {
    // Basic constraints of an authority: critical TRUE, then cA TRUE.
    let root = root(ca_params("root"));
    let good = b"\x01\x01\xff\x04\x05\x30\x03\x01\x01\xff";
    let authorities = |der| X509Authorities::from_certificates([der]);
    assert_eq!(authorities(root.der().clone()).len(), 1);
    for bad in [
        b"\x01\x01\x01\x04\x05\x30\x03\x01\x01\xff",
        b"\x01\x01\xff\x04\x05\x30\x03\x01\x01\x01",
    ] {
        let found = authorities(patched(root.der(), good, bad));
        assert!(found.is_empty());
        assert_eq!(found.ignored()[0].rule, Rule::CertMalformed);
    }
}

/// The leaf's `notAfter`, written in other ways that BER and careless readers take.
#[test]
fn times_have_one_form() {
    let root = root(ca_params("root"));
    let mut params = leaf_params("spiffe://a/x");
    params.not_after = time::OffsetDateTime::from_unix_timestamp(1_900_000_000).unwrap();
    let good = chain(params, &[&root]).remove(0);
    assert!(X509Chain::new(vec![good.clone()]).is_ok());
    for text in [
        b"300317174640+",
        b"300317174660Z",
        b"301317174640Z",
        b"300230174640Z",
        b"30031717464 Z",
        b"300317244640Z",
        b"-00317174640Z",
    ] {
        let bad = patched(&good, b"300317174640Z", text);
        let error = X509Chain::new(vec![bad]).unwrap_err();
        assert_eq!(error.rule(), Rule::CertMalformed, "{text:?}");
    }
}

#[test]
fn an_unreadable_bundle_of_another_domain_does_not_matter() {
    let (a, b) = (root(ca_params("a")), leaf_params("spiffe://b/x"));
    let stranger = root(b);
    let set: BundleSet = bundles(&[("a", &[&a]), ("b", &[&stranger])]);
    let verifier = spiffe_core::verify::X509Verifier::new(&*crypto());
    let role = spiffe_core::verify::PeerRole::Unspecified;
    let of_a = chain(leaf_params("spiffe://a/x"), &[&a]);
    assert!(verifier.verify(&of_a, &set, NOW, role).is_ok());
    // What is no authority verifies nothing, not even itself.
    let itself = [stranger.der().clone()];
    let error = verifier.verify(&itself, &set, NOW, role).unwrap_err();
    assert_eq!(error.rule(), Rule::NoX509Authorities);
}

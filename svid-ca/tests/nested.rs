//! Intermediate authorities: their certificates byte by byte, chains of several, and what confines them.
#![cfg(feature = "aws-lc-rs")]
#![allow(clippy::unwrap_used, reason = "these are tests")]

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{NOW, builder, ca, crypto, key, ready, trust_domain, web};
use spiffe_core::key::{KeyType, Signer};
use spiffe_core::verify::{PeerRole, X509Verifier};
use spiffe_core::{BundleSet, Timestamp, TrustDomain};
use spiffe_svid_ca::authority::{Evidence, Kind};
use spiffe_svid_ca::error::IssueError;
use spiffe_svid_ca::issuer::{IssuerSettings, X509Issuer};
use spiffe_svid_ca::{Csr, IntermediateParams, IssuedIntermediate, IssuedX509, TrustDomainCa};
use x509_parser::prelude::{FromDer, X509Certificate};

/// An authority below another, with its own key.
fn below(issued: &IssuedIntermediate, signer: Arc<dyn Signer>) -> X509Issuer {
    X509Issuer::new(
        trust_domain(),
        issued.chain[0].clone(),
        issued.chain[1..].to_vec(),
        signer,
        Arc::new(IssuerSettings::new(
            crypto(),
            spiffe_core::crypto::system_random(),
        )),
    )
    .unwrap()
}

/// An intermediate of `ca` that is ready to sign.
fn intermediate(ca: &TrustDomainCa, params: &IntermediateParams) -> X509Issuer {
    let signer = key(KeyType::EcP256);
    let issued = ready(ca.issue_intermediate(params, signer.public_key(), NOW)).unwrap();
    below(&issued, signer)
}

fn leaf(issuer: &X509Issuer) -> IssuedX509 {
    ready(issuer.issue(&web(), key(KeyType::EcP256).public_key(), NOW)).unwrap()
}

fn verifies(ca: &TrustDomainCa, issued: &IssuedX509, at: Timestamp) -> bool {
    let bundles: BundleSet = [ca.bundle()].into_iter().collect();
    X509Verifier::new(&*crypto())
        .verify(&issued.chain, &bundles, at, PeerRole::Client)
        .is_ok()
}

#[track_caller]
fn extension(der: &[u8], oid: &str) -> Option<(bool, Vec<u8>)> {
    let (_, certificate) = X509Certificate::from_der(der).unwrap();
    certificate
        .extensions()
        .iter()
        .find(|extension| extension.oid.to_id_string() == oid)
        .map(|extension| (extension.critical, extension.value.to_vec()))
}

#[test]
fn an_intermediate_keeps_spires_profile_byte_by_byte() {
    let ca = ca();
    let signer = key(KeyType::EcP256);
    let params = IntermediateParams::new();
    let issued = ready(ca.issue_intermediate(&params, signer.public_key(), NOW)).unwrap();
    let der = &issued.chain[0];
    let (_, certificate) = X509Certificate::from_der(der).unwrap();
    let serial = certificate.serial.to_string();
    assert_eq!(
        certificate.subject().to_string(),
        format!("C=US, O=SPIFFE, OU=DOWNSTREAM-1, serialNumber={serial}")
    );
    let order: Vec<_> = certificate
        .extensions()
        .iter()
        .map(|extension| extension.oid.to_id_string())
        .collect();
    assert_eq!(
        order,
        [
            "2.5.29.15",
            "2.5.29.19",
            "2.5.29.14",
            "2.5.29.35",
            "2.5.29.17"
        ]
    );
    assert_eq!(
        extension(der, "2.5.29.15"),
        Some((true, vec![3, 2, 1, 6])),
        "keyCertSign and cRLSign"
    );
    assert_eq!(
        extension(der, "2.5.29.19"),
        Some((true, vec![0x30, 3, 1, 1, 0xff]))
    );
    assert_eq!(
        extension(der, "2.5.29.17").unwrap().1,
        b"\x30\x16\x86\x14spiffe://example.org"
    );
    let root = ca.bundle();
    let root = root.x509_authorities().iter().next().unwrap();
    let key_id = extension(der, "2.5.29.35").unwrap().1;
    assert_eq!(&key_id[4..], root.subject_key_id().unwrap());
    let own: String = extension(der, "2.5.29.14").unwrap().1[2..]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    assert_eq!(issued.id, own);
}

#[test]
fn a_chain_of_three_is_handed_out_nearest_first_and_verifies() {
    let ca = ca();
    let first = intermediate(&ca, &IntermediateParams::new());
    let signer = key(KeyType::EcP384);
    let params = IntermediateParams::new();
    let second = ready(first.issue_intermediate(&params, signer.public_key(), NOW)).unwrap();
    assert_eq!(second.authority, first.id());
    let (_, parsed) = X509Certificate::from_der(&second.chain[0]).unwrap();
    assert!(parsed.subject().to_string().contains("OU=DOWNSTREAM-2"));
    let second = below(&second, signer);
    let issued = leaf(&second);
    let names: Vec<_> = issued
        .chain
        .iter()
        .map(|der| {
            let (_, one) = X509Certificate::from_der(der).unwrap();
            (
                one.subject().as_raw().to_vec(),
                one.issuer().as_raw().to_vec(),
            )
        })
        .collect();
    assert_eq!(
        names.len(),
        3,
        "leaf and two intermediates, without the root"
    );
    assert_eq!(names[0].1, names[1].0);
    assert_eq!(names[1].1, names[2].0);
    assert!(verifies(&ca, &issued, NOW));
    assert!(!verifies(&self::ca(), &issued, NOW), "under another root");
    let mut short = issued;
    short.chain.remove(2);
    assert!(!verifies(&ca, &short, NOW));
}

#[test]
fn a_path_length_is_written_and_shrinks_downwards() {
    let ca = ca();
    let length = |issued: &IssuedIntermediate| extension(&issued.chain[0], "2.5.29.19").unwrap().1;
    let signer = key(KeyType::EcP256);
    let params = IntermediateParams::new().with_path_length(1);
    let issued = ready(ca.issue_intermediate(&params, signer.public_key(), NOW)).unwrap();
    assert_eq!(length(&issued), [0x30, 6, 1, 1, 0xff, 2, 1, 1]);
    let one = below(&issued, signer);

    let signer = key(KeyType::EcP256);
    let ask = |params: &IntermediateParams| {
        ready(one.issue_intermediate(params, signer.public_key(), NOW))
    };
    let issued = ask(&IntermediateParams::new()).unwrap();
    assert_eq!(length(&issued), [0x30, 6, 1, 1, 0xff, 2, 1, 0]);
    assert_eq!(
        ask(&params).unwrap_err().to_string(),
        "the signing authority may have 1 authorities below it; an intermediate with 1 below it needs more"
    );
    let zero = below(&issued, signer.clone());
    assert!(verifies(&ca, &leaf(&zero), NOW));
    let refused =
        ready(zero.issue_intermediate(&IntermediateParams::new(), signer.public_key(), NOW));
    assert!(matches!(
        refused,
        Err(IssueError::PathLength { room: 0, .. })
    ));
}

#[test]
fn a_confined_intermediate_names_its_trust_domain_alone() {
    let ca = ca();
    let signer = key(KeyType::EcP256);
    let params = IntermediateParams::new().confined();
    let issued = ready(ca.issue_intermediate(&params, signer.public_key(), NOW)).unwrap();
    assert_eq!(
        extension(&issued.chain[0], "2.5.29.30"),
        Some((
            true,
            b"\x30\x11\xa0\x0f\x30\x0d\x86\x0bexample.org".to_vec()
        ))
    );
    let plain = ready(ca.issue_intermediate(&IntermediateParams::new(), signer.public_key(), NOW));
    assert_eq!(extension(&plain.unwrap().chain[0], "2.5.29.30"), None);
}

#[test]
fn a_trust_domain_that_is_no_host_name_cannot_confine() {
    let confined = |name: &str| {
        let domain = TrustDomain::parse(name).unwrap();
        let ca = ready(TrustDomainCa::builder(domain).build(NOW)).unwrap();
        let signer = key(KeyType::EcP256);
        ready(ca.issue_intermediate(
            &IntermediateParams::new().confined(),
            signer.public_key(),
            NOW,
        ))
    };
    for name in ["example", "a-b.example", "1.example"] {
        assert!(confined(name).is_ok(), "{name}");
    }
    for name in [
        "127.0.0.1",
        "10.1",
        "a_b.example",
        "-a.example",
        "a..b",
        "a.",
    ] {
        let error = confined(name).unwrap_err();
        assert!(
            matches!(error, IssueError::NotConfinable { .. }),
            "{name}: {error}"
        );
        let message = error.to_string();
        assert!(message.contains(name) && message.ends_with("issue it unconfined"));
    }
}

#[test]
fn an_intermediate_lives_as_asked_and_never_beyond_its_authority() {
    let ca = ca();
    let signer = key(KeyType::EcP256);
    let ask = |params: IntermediateParams| {
        ready(ca.issue_intermediate(&params, signer.public_key(), NOW)).unwrap()
    };
    let hour = Duration::from_secs(3600);
    let short = ask(IntermediateParams::new().with_ttl(hour));
    assert_eq!((short.not_after, short.capped), (NOW + hour, false));
    let long = ask(IntermediateParams::new().with_ttl(hour * 100));
    assert_eq!((long.not_after, long.capped), (NOW + hour * 24, true));
    // What it signs ends with it.
    let issued = ready(below(&short, signer.clone()).issue(
        &web().with_ttl(hour * 2),
        key(KeyType::EcP256).public_key(),
        NOW,
    ))
    .unwrap();
    assert_eq!((issued.not_after, issued.capped), (NOW + hour, true));
}

#[test]
fn an_authority_stays_in_the_bundle_as_long_as_its_intermediates_live() {
    let ca = ca();
    let root = ca
        .state()
        .slots(Kind::X509)
        .active()
        .unwrap()
        .id()
        .to_owned();
    let hour = Duration::from_secs(3600);
    let below = intermediate(&ca, &IntermediateParams::new().with_ttl(hour * 5));
    ready(ca.prepare(Kind::X509, NOW)).unwrap();
    ready(ca.activate(Kind::X509, &Evidence::complete([]), false, NOW)).unwrap();
    let end = NOW + hour * 5 + Duration::from_secs(60);
    ready(ca.tick(end, &Evidence::unknown())).unwrap();
    assert!(ca.state().slots(Kind::X509).find(&root).is_some());
    assert!(verifies(&ca, &leaf(&below), NOW));
    ready(ca.tick(end + Duration::from_secs(1), &Evidence::unknown())).unwrap();
    assert!(ca.state().slots(Kind::X509).find(&root).is_none());
}

#[test]
fn a_signing_request_is_enough() {
    let ca = ready(builder().build(NOW)).unwrap();
    let request = rcgen::CertificateParams::new(Vec::new())
        .unwrap()
        .serialize_request(&rcgen::KeyPair::generate().unwrap())
        .unwrap();
    let csr = Csr::from_der(request.der(), ca.key_policy(), &**ca.crypto()).unwrap();
    let params = IntermediateParams::new();
    let issued = ready(ca.issue_intermediate(&params, csr.public_key(), NOW)).unwrap();
    let (_, certificate) = X509Certificate::from_der(&issued.chain[0]).unwrap();
    assert_eq!(certificate.public_key().raw, csr.public_key().as_ref());
}

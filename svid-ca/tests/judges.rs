//! The chains that foreign programs judge elsewhere, by webpki and by our own verifier: keys of every kind, nested one
//! to four authorities deep, confined by URI name constraints and not.
#![cfg(feature = "aws-lc-rs")]
#![allow(clippy::unwrap_used, reason = "these are tests")]

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{NOW, builder, crypto, key, ready, trust_domain, web};
use spiffe_core::BundleSet;
use spiffe_core::key::KeyType;
use spiffe_core::pki_types::{CertificateDer, UnixTime};
use spiffe_core::verify::{PeerRole, X509Verifier};
use spiffe_svid_ca::issuer::{IssuerSettings, X509Issuer};
use spiffe_svid_ca::{IntermediateParams, TrustDomainCa};

/// A chain with this many authorities above the leaf, the root among them.
fn chain(
    ca: &TrustDomainCa,
    kind: KeyType,
    depth: u8,
    confined: bool,
) -> Vec<CertificateDer<'static>> {
    let settings = Arc::new(IssuerSettings::new(
        crypto(),
        spiffe_core::crypto::system_random(),
    ));
    let mut below = IntermediateParams::new();
    below.confined = confined;
    let mut last: Option<X509Issuer> = None;
    for _ in 1..depth {
        let signer = key(kind);
        let issued = match &last {
            None => ready(ca.issue_intermediate(&below, signer.public_key(), NOW)),
            Some(above) => ready(above.issue_intermediate(&below, signer.public_key(), NOW)),
        };
        let mut chain = issued.unwrap().chain.into_iter();
        let own = chain.next().unwrap();
        let issuer = X509Issuer::new(
            trust_domain(),
            own,
            chain.collect(),
            signer,
            settings.clone(),
        );
        last = Some(issuer.unwrap());
    }
    let leaf = key(kind);
    match &last {
        None => ready(ca.issue_x509(&web(), leaf.public_key(), NOW)),
        Some(issuer) => ready(issuer.issue(&web(), leaf.public_key(), NOW)),
    }
    .unwrap()
    .chain
}

fn webpki(chain: &[CertificateDer<'_>], root: &CertificateDer<'_>) -> Result<(), webpki::Error> {
    let leaf = webpki::EndEntityCert::try_from(&chain[0])?;
    let anchor = webpki::anchor_from_trusted_cert(root)?;
    let time = UnixTime::since_unix_epoch(Duration::from_secs(1_800_000_000));
    for usage in [
        webpki::KeyUsage::server_auth(),
        webpki::KeyUsage::client_auth(),
    ] {
        leaf.verify_for_usage(
            webpki::ALL_VERIFICATION_ALGS,
            std::slice::from_ref(&anchor),
            &chain[1..],
            time,
            usage,
            None,
            None,
        )?;
    }
    Ok(())
}

#[track_caller]
fn check(kind: KeyType) {
    let ca = ready(builder().x509_key_type(kind).build(NOW)).unwrap();
    let stranger = ready(builder().x509_key_type(kind).build(NOW)).unwrap();
    let root = |ca: &TrustDomainCa| {
        let bundle = ca.bundle();
        let root = bundle.x509_authorities().iter().next().unwrap();
        root.certificate().clone()
    };
    let own: BundleSet = [ca.bundle()].into_iter().collect();
    for depth in 1..=4 {
        for confined in [false, true] {
            let chain = chain(&ca, kind, depth, confined);
            let case = format!("{kind:?}, depth {depth}, confined: {confined}");
            let ours = X509Verifier::new(&*crypto()).verify(&chain, &own, NOW, PeerRole::Server);
            assert!(ours.is_ok(), "{case}: {ours:?}");
            let theirs = webpki(&chain, &root(&ca));
            // webpki knows no URI name constraints, and so refuses whatever is below one.
            if confined && depth > 1 {
                assert!(theirs.is_err(), "{case}");
            } else {
                assert!(theirs.is_ok(), "{case}: {theirs:?}");
            }
            assert!(webpki(&chain, &root(&stranger)).is_err(), "{case}");
        }
    }
}

#[test]
fn ec_p256() {
    check(KeyType::EcP256);
}

#[test]
fn ec_p384() {
    check(KeyType::EcP384);
}

#[test]
fn ec_p521() {
    check(KeyType::EcP521);
}

#[test]
fn ed25519() {
    check(KeyType::Ed25519);
}

#[test]
fn rsa_2048() {
    check(KeyType::Rsa2048);
}

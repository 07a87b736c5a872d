//! Certificates made by someone else's library, for what this crate verifies.
#![allow(
    clippy::unwrap_used,
    dead_code,
    unreachable_pub,
    reason = "shared by test programs, each of which uses its own part"
)]

use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
    SerialNumber,
};
use spiffe_core::bundle::X509Authorities;
use spiffe_core::crypto::{CryptoProvider, aws_lc_rs};
use spiffe_core::key::PrivateKey;
use spiffe_core::pki_types::CertificateDer;
use spiffe_core::{Bundle, BundleSet, Timestamp, TrustDomain, X509Svid};

pub type Authority = CertifiedIssuer<'static, KeyPair>;

/// The one instant at which everything is verified unless a test says otherwise.
pub const NOW: Timestamp = Timestamp::from_unix_seconds(1_795_000_000);

pub fn crypto() -> Arc<dyn CryptoProvider> {
    aws_lc_rs()
}

/// Valid for an hour around [`NOW`].
fn base(name: &str, uri: Option<&str>) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.subject_alt_names = uri
        .map(|uri| SanType::URI(uri.try_into().unwrap()))
        .into_iter()
        .collect();
    let at = |offset| time::OffsetDateTime::from_unix_timestamp(NOW.unix_seconds() + offset);
    params.not_before = at(-1800).unwrap();
    params.not_after = at(1800).unwrap();
    params.serial_number = Some(SerialNumber::from(7_u64));
    params.use_authority_key_identifier_extension = true;
    params
}

pub fn ca_params(name: &str) -> CertificateParams {
    let mut params = base(name, None);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

pub fn leaf_params(id: &str) -> CertificateParams {
    let mut params = base("leaf", Some(id));
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params
}

pub fn key() -> KeyPair {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap()
}

pub fn root(params: CertificateParams) -> Authority {
    CertifiedIssuer::self_signed(params, key()).unwrap()
}

pub fn intermediate(params: CertificateParams, issuer: &Authority) -> Authority {
    CertifiedIssuer::signed_by(params, key(), issuer).unwrap()
}

/// A leaf under the first issuer, with every issuer but the root behind it.
pub fn chain(params: CertificateParams, issuers: &[&Authority]) -> Vec<CertificateDer<'static>> {
    let leaf = params.signed_by(&key(), issuers[0]).unwrap();
    let above = &issuers[..issuers.len() - 1];
    std::iter::once(leaf.der().clone())
        .chain(above.iter().map(|issuer| issuer.der().clone()))
        .collect()
}

pub fn svid(id: &str, issuer: &Authority) -> X509Svid {
    let key = key();
    let leaf = leaf_params(id).signed_by(&key, issuer).unwrap();
    let private = PrivateKey::from_pkcs8_der(key.serialize_der());
    X509Svid::new(vec![leaf.der().clone()], private, &*crypto()).unwrap()
}

pub fn bundle(trust_domain: &str, authorities: &[&Authority]) -> Bundle {
    let certificates = authorities.iter().map(|authority| authority.der().clone());
    Bundle::new(TrustDomain::parse(trust_domain).unwrap())
        .with_x509_authorities(X509Authorities::from_certificates(certificates))
}

pub fn bundles(of: &[(&str, &[&Authority])]) -> BundleSet {
    of.iter()
        .map(|(trust_domain, authorities)| bundle(trust_domain, authorities))
        .collect()
}

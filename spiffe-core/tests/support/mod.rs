//! Certificates made by someone else's library, for what this crate verifies.
#![allow(
    clippy::unwrap_used,
    dead_code,
    unreachable_pub,
    reason = "shared by test programs, each of which uses its own part"
)]

use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, CustomExtension, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, SanType, SerialNumber,
};
use spiffe_core::bundle::X509Authorities;
use spiffe_core::crypto::{CryptoProvider, aws_lc_rs};
use spiffe_core::key::PrivateKey;
use spiffe_core::pki_types::CertificateDer;
use spiffe_core::verify::{PeerRole, X509Verifier};
use spiffe_core::{Bundle, BundleSet, Outcome, Rule, Timestamp, TrustDomain, X509Svid};

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

/// A certificate for `key` from an issuer that need not have one of its own.
pub fn sign(
    params: &CertificateParams,
    key: &KeyPair,
    issuer: &CertificateParams,
    issuer_key: &KeyPair,
) -> CertificateDer<'static> {
    let issuer = Issuer::from_params(issuer, issuer_key);
    params.signed_by(key, &issuer).unwrap().der().clone()
}

/// One DER element; as long as the tests need.
pub fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let header = match length {
        0..0x80 => vec![tag, length as u8],
        0x80..0x100 => vec![tag, 0x81, length as u8],
        _ => vec![tag, 0x82, (length >> 8) as u8, length as u8],
    };
    [header, content.to_vec()].concat()
}

/// Name constraints of any form: bases as (tag of the general name, content).
pub fn constraints(permitted: &[(u8, &[u8])], excluded: &[(u8, &[u8])]) -> CustomExtension {
    let list = |tag, bases: &[(u8, &[u8])]| {
        let subtrees: Vec<u8> = bases
            .iter()
            .flat_map(|(tag, base)| element(0x30, &element(*tag, base)))
            .collect();
        if subtrees.is_empty() {
            return Vec::new();
        }
        element(tag, &subtrees)
    };
    let lists = [list(0xa0, permitted), list(0xa1, excluded)].concat();
    let mut extension = CustomExtension::from_oid_content(&[2, 5, 29, 30], element(0x30, &lists));
    extension.set_criticality(true);
    extension
}

/// Confines an issuer to the URIs of these hosts.
pub fn confined(mut params: CertificateParams, hosts: &[&str]) -> CertificateParams {
    let bases: Vec<_> = hosts.iter().map(|host| (0x86, host.as_bytes())).collect();
    params.custom_extensions.push(constraints(&bases, &[]));
    params
}

/// An extension that nobody knows.
pub fn unknown_extension(critical: bool) -> CustomExtension {
    let mut extension =
        CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999, 1], vec![5, 0]);
    extension.set_criticality(critical);
    extension
}

/// Judges a chain at [`NOW`] as a client's.
#[track_caller]
pub fn check(chain: &[CertificateDer<'_>], bundles: &BundleSet, expected: Result<&str, Rule>) {
    check_at(chain, bundles, NOW, PeerRole::Client, expected);
}

#[track_caller]
pub fn check_at(
    chain: &[CertificateDer<'_>],
    bundles: &BundleSet,
    now: Timestamp,
    role: PeerRole,
    expected: Result<&str, Rule>,
) {
    check_with(
        &X509Verifier::new(&*crypto()),
        chain,
        bundles,
        now,
        role,
        expected,
    );
}

/// Judges a chain three times: cold, warm and explained. All must agree, with each other and with what is expected.
#[track_caller]
pub fn check_with(
    verifier: &X509Verifier,
    chain: &[CertificateDer<'_>],
    bundles: &BundleSet,
    now: Timestamp,
    role: PeerRole,
    expected: Result<&str, Rule>,
) {
    let verdict = verifier.verify(chain, bundles, now, role);
    let warm = verifier.verify(chain, bundles, now, role);
    let (explained, tree) = verifier.explain(chain, bundles, now, role);
    assert_eq!(verdict, warm, "memory changes no verdict");
    assert_eq!(verdict, explained, "the explanation is of the same verdict");
    match (&verdict, expected) {
        (Ok(peer), Ok(id)) => {
            assert_eq!(peer.id.as_str(), id);
            assert_eq!(tree.outcome, Outcome::Pass);
        }
        (Err(error), Err(rule)) => {
            assert_eq!(error.rule(), rule, "{error}");
            assert_eq!(
                tree.first_failure().map(|node| node.rule),
                Some(rule),
                "{tree}"
            );
        }
        _ => panic!("{verdict:?} where {expected:?} was expected: {tree}"),
    }
}

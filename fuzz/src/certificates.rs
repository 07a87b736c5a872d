//! Two trust domains, `a` and `b`, with an authority each and an intermediate in `a`.

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, PKCS_ED25519, SanType, SerialNumber,
};
use spiffe_core::bundle::X509Authorities;
use spiffe_core::key::PrivateKey;
use spiffe_core::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use spiffe_core::{Bundle, BundleSet, TrustDomain};

use crate::{NOW, set};

type Authority = CertifiedIssuer<'static, KeyPair>;

/// Certificates, the same in every process: Ed25519 signs without randomness.
#[derive(Debug)]
pub struct World {
    /// `spiffe://a/x` below the intermediate of `a`: leaf, intermediate.
    pub chain: Vec<CertificateDer<'static>>,
    /// `spiffe://b/y` right below the authority of `b`.
    pub other: Vec<CertificateDer<'static>>,
    /// Chains that prove nothing, each for a reason of its own.
    pub refused: Vec<Vec<CertificateDer<'static>>>,
    /// The authorities of `a` and of `b`.
    pub authorities: [CertificateDer<'static>; 2],
    key: Vec<u8>,
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

impl World {
    /// Signs everything.
    pub fn new() -> Self {
        let issued = "rcgen signs what it is given";
        let a = CertifiedIssuer::self_signed(authority("root of a"), key(1)).expect(issued);
        let b = CertifiedIssuer::self_signed(authority("root of b"), key(2)).expect(issued);
        let middle =
            CertifiedIssuer::signed_by(authority("middle of a"), key(3), &a).expect(issued);
        let below = |issuer: &Authority, params: CertificateParams| {
            let leaf = params.signed_by(&key(4), issuer).expect(issued);
            leaf.der().clone()
        };
        let under_middle = |params| vec![below(&middle, params), middle.der().clone()];
        let mut expired = leaf("spiffe://a/x");
        expired.not_after = expired.not_before;
        let mut signing = leaf("spiffe://a/x");
        signing.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let mut twice = leaf("spiffe://a/x");
        twice.subject_alt_names.push(uri("spiffe://a/z"));
        Self {
            chain: under_middle(leaf("spiffe://a/x")),
            other: vec![below(&b, leaf("spiffe://b/y"))],
            refused: vec![
                under_middle(leaf("spiffe://b/y")),
                under_middle(leaf("spiffe://a")),
                under_middle(expired),
                under_middle(signing),
                under_middle(twice),
                vec![middle.der().clone(), a.der().clone()],
            ],
            authorities: [a.der().clone(), b.der().clone()],
            key: pkcs8(4),
        }
    }

    /// Both trust domains' bundles.
    pub fn bundles(&self) -> BundleSet {
        set(["a", "b"]
            .iter()
            .zip(&self.authorities)
            .map(|(name, authority)| {
                let authorities = X509Authorities::from_certificates([authority.clone()]);
                Bundle::new(TrustDomain::parse(name).expect("a good name"))
                    .with_x509_authorities(authorities)
            }))
    }

    /// The key of every leaf.
    pub fn key(&self) -> PrivateKey {
        PrivateKey::from_pkcs8_der(self.key.clone())
    }
}

/// PKCS#8 of the Ed25519 key whose seed is this byte, 32 times.
fn pkcs8(seed: u8) -> Vec<u8> {
    let head = b"\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20";
    [&head[..], &[seed; 32]].concat()
}

fn key(seed: u8) -> KeyPair {
    let der = PrivatePkcs8KeyDer::from(pkcs8(seed));
    KeyPair::from_pkcs8_der_and_sign_algo(&der, &PKCS_ED25519).expect("a good key")
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().expect("ASCII"))
}

/// Valid for a day around [`NOW`].
fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    let at = |offset| {
        time::OffsetDateTime::from_unix_timestamp(NOW.unix_seconds() + offset)
            .expect("a time of this century")
    };
    params.not_before = at(-43_200);
    params.not_after = at(43_200);
    params.serial_number = Some(SerialNumber::from(7_u64));
    params.use_authority_key_identifier_extension = true;
    params
}

fn authority(name: &str) -> CertificateParams {
    let mut params = params(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn leaf(id: &str) -> CertificateParams {
    let mut params = params("leaf");
    params.subject_alt_names = vec![uri(id)];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params
}

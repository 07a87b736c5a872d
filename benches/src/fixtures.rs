//! Trust domains, SVIDs and bundles to measure with; made by somebody else's library.

use std::error::Error;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};
use spiffe_core::bundle::X509Authorities;
use spiffe_core::crypto::aws_lc_rs;
use spiffe_core::key::PrivateKey;
use spiffe_core::pki_types::CertificateDer;
use spiffe_core::{Bundle, BundleSet, Timestamp, TrustDomain, X509Svid};
use time::OffsetDateTime;

/// A DNS name that every leaf has, so that plain rustls has something to compare.
pub(crate) const DNS_NAME: &str = "peer.example.org";

/// One trust domain with one authority on P-256, or an intermediate authority of one.
pub(crate) struct Domain {
    name: String,
    issuer: CertifiedIssuer<'static, KeyPair>,
    above: Vec<CertificateDer<'static>>,
}

impl Domain {
    /// A trust domain whose authority signs leaves itself.
    pub(crate) fn new(name: &str) -> Result<Self, rcgen::Error> {
        Ok(Self {
            name: name.into(),
            issuer: CertifiedIssuer::self_signed(authority(name), key()?)?,
            above: Vec::new(),
        })
    }

    /// An authority between this one and the leaves.
    pub(crate) fn intermediate(&self) -> Result<Self, rcgen::Error> {
        let params = authority(&format!("intermediate of {}", self.name));
        let issuer = CertifiedIssuer::signed_by(params, key()?, &self.issuer)?;
        let mut above = vec![issuer.der().clone()];
        above.extend_from_slice(&self.above);
        Ok(Self {
            name: self.name.clone(),
            issuer,
            above,
        })
    }

    /// An SVID of this trust domain.
    pub(crate) fn svid(&self, path: &str) -> Result<X509Svid, Box<dyn Error>> {
        let params = leaf(&format!("spiffe://{}/{path}", self.name))?;
        let key = key()?;
        let leaf = params.signed_by(&key, &self.issuer)?;
        let mut chain = vec![leaf.der().clone()];
        chain.extend_from_slice(&self.above);
        let key = PrivateKey::from_pkcs8_der(key.serialize_der());
        Ok(X509Svid::new(chain, key, &*aws_lc_rs())?)
    }

    /// The authority's certificate.
    pub(crate) fn certificate(&self) -> &CertificateDer<'static> {
        self.issuer.der()
    }
}

/// The bundle of one trust domain with these authorities.
pub(crate) fn bundle(name: &str, authorities: &[&Domain]) -> Result<Bundle, Box<dyn Error>> {
    let certificates = authorities
        .iter()
        .map(|authority| authority.certificate().clone());
    Ok(Bundle::new(TrustDomain::parse(name)?)
        .with_x509_authorities(X509Authorities::from_certificates(certificates)))
}

/// The bundles of `local` and of so many others that are federated with it.
pub(crate) fn federation(local: &Domain, others: usize) -> Result<BundleSet, Box<dyn Error>> {
    let mut bundles = BundleSet::new();
    bundles.insert(bundle(&local.name, &[local])?);
    for number in 0..others {
        let other = Domain::new(&format!("td{number}.example"))?;
        bundles.insert(bundle(&other.name, &[&other])?);
    }
    Ok(bundles)
}

/// The present, which everything made here is valid around.
pub(crate) fn now() -> Timestamp {
    Timestamp::from_unix(Duration::from_secs(
        OffsetDateTime::now_utc().unix_timestamp().unsigned_abs(),
    ))
}

/// What a future gives that waits for nothing, such as a signature by a key in memory.
pub(crate) fn ready<T>(future: impl Future<Output = T>) -> Result<T, &'static str> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Ok(output),
        Poll::Pending => Err("it waits for something"),
    }
}

fn key() -> Result<KeyPair, rcgen::Error> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)
}

/// What a leaf says.
pub(crate) fn leaf(id: &str) -> Result<CertificateParams, rcgen::Error> {
    let mut params = params(DistinguishedName::new());
    params.subject_alt_names = vec![
        SanType::URI(id.try_into()?),
        SanType::DnsName(DNS_NAME.try_into()?),
    ];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    Ok(params)
}

/// What a certificate says that may issue others.
pub(crate) fn authority(name: &str) -> CertificateParams {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, name);
    let mut params = params(subject);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

/// Valid from an hour ago for a day.
fn params(subject: DistinguishedName) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = subject;
    params.not_before = OffsetDateTime::now_utc() - time::Duration::HOUR;
    params.not_after = OffsetDateTime::now_utc() + time::Duration::DAY;
    params.use_authority_key_identifier_extension = true;
    params
}

//! Authorities and certificates of every shape that a case needs, right or wrong, made without our own issuer.

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use time::{Duration, OffsetDateTime};

use crate::outcome::Trouble;

/// A certificate that issues others.
#[derive(Debug)]
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) der: Vec<u8>,
    /// What its leaves carry between themselves and the bundle.
    chain: Vec<Vec<u8>>,
}

/// A chain, leaf first, and the leaf's key.
#[derive(Clone, Debug)]
pub(crate) struct Svid {
    pub(crate) id: String,
    pub(crate) chain: Vec<Vec<u8>>,
    /// PKCS#8.
    pub(crate) key: Vec<u8>,
}

/// What a leaf says; by default what a good one says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Leaf<'a> {
    pub(crate) uris: &'a [&'a str],
    pub(crate) dns: &'a [&'a str],
    pub(crate) empty_subject: bool,
    pub(crate) is_ca: bool,
    /// Beside digitalSignature.
    pub(crate) usages: &'a [KeyUsagePurpose],
    /// From and until, in minutes from now.
    pub(crate) valid: (i64, i64),
}

impl<'a> Leaf<'a> {
    pub(crate) const fn named(uris: &'a [&'a str]) -> Self {
        Self {
            uris,
            dns: &[],
            empty_subject: false,
            is_ca: false,
            usages: &[],
            valid: (-60, 60),
        }
    }
}

impl Authority {
    /// An authority for a trust domain's bundle.
    ///
    /// # Errors
    ///
    /// When no key can be made.
    pub(crate) fn root(name: &str) -> Result<Self, Trouble> {
        let key = KeyPair::generate().map_err(broken)?;
        let params = authority_params(name);
        let certificate = params.self_signed(&key).map_err(broken)?;
        Ok(Self {
            der: certificate.der().to_vec(),
            issuer: Issuer::new(params, key),
            chain: Vec::new(),
        })
    }

    /// An authority below this one.
    ///
    /// # Errors
    ///
    /// When no key can be made.
    pub(crate) fn intermediate(&self, name: &str) -> Result<Self, Trouble> {
        let key = KeyPair::generate().map_err(broken)?;
        let params = authority_params(name);
        let certificate = params.signed_by(&key, &self.issuer).map_err(broken)?;
        let der = certificate.der().to_vec();
        Ok(Self {
            issuer: Issuer::new(params, key),
            chain: [vec![der.clone()], self.chain.clone()].concat(),
            der,
        })
    }

    /// A good leaf.
    ///
    /// # Errors
    ///
    /// When no key can be made.
    pub(crate) fn svid(&self, id: &str) -> Result<Svid, Trouble> {
        self.issue(&Leaf::named(&[id]))
    }

    /// # Errors
    ///
    /// When no key can be made.
    pub(crate) fn issue(&self, leaf: &Leaf<'_>) -> Result<Svid, Trouble> {
        let key = KeyPair::generate().map_err(broken)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = if leaf.empty_subject {
            DistinguishedName::new()
        } else {
            name("workload")
        };
        let uris = leaf
            .uris
            .iter()
            .map(|uri| Ok(SanType::URI((*uri).try_into()?)));
        let dns = leaf
            .dns
            .iter()
            .map(|name| Ok(SanType::DnsName((*name).try_into()?)));
        params.subject_alt_names = uris
            .chain(dns)
            .collect::<Result<_, rcgen::Error>>()
            .map_err(broken)?;
        params.is_ca = match leaf.is_ca {
            true => IsCa::Ca(BasicConstraints::Unconstrained),
            false => IsCa::ExplicitNoCa,
        };
        params.key_usages = [&[KeyUsagePurpose::DigitalSignature], leaf.usages].concat();
        let now = OffsetDateTime::now_utc();
        params.not_before = now + Duration::minutes(leaf.valid.0);
        params.not_after = now + Duration::minutes(leaf.valid.1);
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &self.issuer).map_err(broken)?;
        Ok(Svid {
            id: leaf.uris.first().copied().unwrap_or_default().to_owned(),
            chain: [vec![certificate.der().to_vec()], self.chain.clone()].concat(),
            key: key.serialize_der(),
        })
    }
}

impl Svid {
    /// The same with one bit of the leaf's signature turned, which ends the certificate.
    pub(crate) fn with_broken_signature(mut self) -> Self {
        if let Some(last) = self.chain.first_mut().and_then(|leaf| leaf.last_mut()) {
            *last ^= 1;
        }
        self
    }
}

fn authority_params(common_name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = name(common_name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let now = OffsetDateTime::now_utc();
    params.not_before = now - Duration::days(1);
    params.not_after = now + Duration::days(1);
    params
}

fn name(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}

fn broken(error: rcgen::Error) -> Trouble {
    Trouble::Failed(format!("no certificate could be made: {error}"))
}

//! A trust domain's authority, made with rcgen, and its SVIDs in the Workload API's form.

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};
use spiffe_proto::workload::{X509BundlesResponse, X509svid, X509svidResponse};
use spiffe_workload_client::spiffe_core::Timestamp;
use std::time::Duration;
use time::OffsetDateTime;

use super::clock::START;

pub(crate) struct Ca {
    pub(crate) trust_domain: &'static str,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Ca {
    pub(crate) fn new(trust_domain: &'static str) -> Self {
        Self::of_life(trust_domain, Duration::from_secs(86_400 * 365))
    }

    /// Its own certificate is valid for so long from the start.
    pub(crate) fn of_life(trust_domain: &'static str, life: Duration) -> Self {
        let mut params = params(&format!("spiffe://{trust_domain}"), life);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params
            .distinguished_name
            .push(rcgen::DnType::OrganizationName, trust_domain);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        Self {
            trust_domain,
            issuer,
        }
    }

    /// The bundle: one certificate in DER.
    pub(crate) fn bundle(&self) -> Vec<u8> {
        self.issuer.der().to_vec()
    }

    /// A new SVID for `path`, valid for an hour.
    pub(crate) fn svid(&self, path: &str) -> X509svid {
        self.svid_until(path, START + Duration::from_secs(3600))
    }

    /// Valid since two hours.
    pub(crate) fn svid_until(&self, path: &str, not_after: Timestamp) -> X509svid {
        self.svid_between(path, START - Duration::from_secs(7200), not_after)
    }

    pub(crate) fn svid_between(
        &self,
        path: &str,
        not_before: Timestamp,
        not_after: Timestamp,
    ) -> X509svid {
        let key = KeyPair::generate().unwrap();
        self.certify(path, &key, not_before, not_after)
    }

    /// As [`svid`](Self::svid), for this key.
    pub(crate) fn svid_of(&self, path: &str, key: &KeyPair) -> X509svid {
        let hour = Duration::from_secs(3600);
        self.certify(path, key, START - hour * 2, START + hour)
    }

    fn certify(
        &self,
        path: &str,
        key: &KeyPair,
        not_before: Timestamp,
        not_after: Timestamp,
    ) -> X509svid {
        let id = format!("spiffe://{}{path}", self.trust_domain);
        let mut params = params(&id, Duration::ZERO);
        params.not_before = at(not_before);
        params.not_after = at(not_after);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let leaf = params.signed_by(key, &self.issuer).unwrap();
        X509svid {
            spiffe_id: id,
            x509_svid: leaf.der().to_vec(),
            x509_svid_key: key.serialize_der(),
            bundle: self.bundle(),
            hint: String::new(),
        }
    }

    /// A message with one new SVID for `path`.
    pub(crate) fn update(&self, path: &str) -> X509svidResponse {
        update([self.svid(path)])
    }
}

/// A message with these SVIDs.
pub(crate) fn update(svids: impl IntoIterator<Item = X509svid>) -> X509svidResponse {
    X509svidResponse {
        svids: svids.into_iter().collect(),
        ..X509svidResponse::default()
    }
}

/// A message with the bundles of these.
pub(crate) fn x509_bundles(cas: &[&Ca]) -> X509BundlesResponse {
    let entry = |ca: &&Ca| (format!("spiffe://{}", ca.trust_domain), ca.bundle());
    X509BundlesResponse {
        bundles: cas.iter().map(entry).collect(),
        ..X509BundlesResponse::default()
    }
}

fn params(id: &str, life: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
    params.not_before = at(START - Duration::from_secs(7200));
    params.not_after = at(START + life);
    params
}

fn at(time: Timestamp) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(time.unix_seconds()).unwrap()
}

//! What there is to say of a trust domain's authorities.

use serde::Serialize;
use spiffe_core::{Timestamp, TrustDomain};
use spiffe_svid_ca::authority::{Authority, Kind, PublicHalf, State, Status};
use spiffe_svid_ca::error::CaError;
use spiffe_svid_ca::keys::KeyManager;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::CaDirectoryError;

/// A trust domain's authorities.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct StatusReport {
    /// Whose they are.
    pub trust_domain: String,
    /// The bundle's sequence number.
    pub sequence: u64,
    /// The authorities, X.509 first, oldest first.
    pub authorities: Vec<AuthorityReport>,
}

/// One authority.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct AuthorityReport {
    /// `x509` or `jwt`.
    pub kind: &'static str,
    /// Its ID: the hexadecimal of the subject key identifier, or the key ID.
    pub id: String,
    /// `prepared`, `active`, `old` or `tainted`.
    pub status: String,
    /// When it was first in the bundle.
    pub published: String,
    /// The last instant of its validity.
    pub expires: String,
    /// Whether that is over.
    pub expired: bool,
    /// What is there of the key that it signs with, or is to sign with: `present`, `missing` or `another one`; `None` where
    /// that was not looked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<&'static str>,
}

impl StatusReport {
    pub(crate) fn new(trust_domain: &TrustDomain, state: &State, now: Timestamp) -> Self {
        let of = |kind: Kind, name: &'static str| {
            state
                .slots(kind)
                .iter()
                .map(move |authority| AuthorityReport {
                    kind: name,
                    id: authority.id().into(),
                    status: authority.status().to_string(),
                    published: authority.published_at().to_string(),
                    expires: authority.not_after().to_string(),
                    expired: now >= authority.not_after(),
                    key: None,
                })
        };
        Self {
            trust_domain: trust_domain.to_string(),
            sequence: state.sequence(),
            authorities: of(Kind::X509, "x509").chain(of(Kind::Jwt, "jwt")).collect(),
        }
    }

    /// With what is there of the keys.
    pub(super) async fn with_keys(
        mut self,
        state: &State,
        keys: &dyn KeyManager,
    ) -> Result<Self, CaDirectoryError> {
        for kind in [Kind::X509, Kind::Jwt] {
            for authority in state.slots(kind).iter() {
                // The key of an old authority may have given way to the next one's.
                let signs = matches!(authority.status(), Status::Active | Status::Prepared);
                let Some(slot) = authority.slot().filter(|_| signs) else {
                    continue;
                };
                let signer = keys.signer(slot.key_name(kind)).await;
                let key = match signer.map_err(CaError::from)? {
                    None => "missing",
                    Some(signer) if is_of(authority, signer.public_key()) => "present",
                    Some(_) => "another one",
                };
                let id = authority.id();
                let report = self.authorities.iter_mut().find(|report| report.id == id);
                if let Some(report) = report {
                    report.key = Some(key);
                }
            }
        }
        Ok(self)
    }

    /// The authorities that cannot sign, since their keys are not there.
    pub fn without_keys(&self) -> impl Iterator<Item = &AuthorityReport> {
        let is_there = |key| matches!(key, None | Some("present"));
        self.authorities
            .iter()
            .filter(move |one| !is_there(one.key))
    }
}

/// Whether a public key, SubjectPublicKeyInfo in DER, is the authority's.
fn is_of(authority: &Authority, key: &[u8]) -> bool {
    match authority.public() {
        PublicHalf::Key(own) => **own == *key,
        PublicHalf::Certificate(der) => X509Certificate::from_der(der)
            .is_ok_and(|(_, certificate)| certificate.public_key().raw == key),
    }
}

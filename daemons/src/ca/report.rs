//! What there is to say of a trust domain's authorities.

use serde::Serialize;
use spiffe_core::{Timestamp, TrustDomain};
use spiffe_svid_ca::authority::{Kind, State};

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
}

impl StatusReport {
    pub(super) fn new(trust_domain: &TrustDomain, state: &State, now: Timestamp) -> Self {
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
                })
        };
        Self {
            trust_domain: trust_domain.to_string(),
            sequence: state.sequence(),
            authorities: of(Kind::X509, "x509").chain(of(Kind::Jwt, "jwt")).collect(),
        }
    }
}

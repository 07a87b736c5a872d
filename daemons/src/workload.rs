//! What a workload holds, as data.

use serde::Serialize;
use spiffe_core::snapshot::Snapshot;
use spiffe_core::{Bundle, JwtSvid, X509Svid};

/// SVIDs and bundles of one revision, without secrets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Held {
    /// The SVIDs in their order; the first is the default identity.
    pub svids: Vec<Svid>,
    /// The bundles by trust domain.
    pub bundles: Vec<Authorities>,
}

/// One X509-SVID.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Svid {
    /// Its SPIFFE ID.
    pub id: String,
    /// Its hint, where it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Its serial number in hexadecimal.
    pub serial: String,
    /// The first instant of its validity, RFC 3339.
    pub not_before: String,
    /// The last instant of its validity, RFC 3339.
    pub not_after: String,
    /// Its chain as PEM, leaf first.
    pub chain: String,
}

/// How many authorities a bundle holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Authorities {
    /// The trust domain.
    pub trust_domain: String,
    /// Authorities of X509-SVIDs.
    pub x509_authorities: usize,
    /// Authorities of JWT-SVIDs.
    pub jwt_authorities: usize,
    /// When the last X.509 authority expires, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_after: Option<String>,
}

/// One JWT-SVID; the token is a secret.
#[derive(Clone, Serialize)]
#[non_exhaustive]
pub struct Token {
    /// Its SPIFFE ID.
    pub id: String,
    /// Its hint, where it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Whom it is for.
    pub audience: Vec<String>,
    /// When it expires, RFC 3339.
    pub expires_at: String,
    /// The token.
    pub token: String,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl From<&Snapshot> for Held {
    fn from(snapshot: &Snapshot) -> Self {
        Self {
            svids: snapshot
                .svids()
                .iter()
                .map(|svid| Svid::from(&**svid))
                .collect(),
            bundles: snapshot
                .bundles()
                .iter()
                .map(|one| Authorities::from(&**one))
                .collect(),
        }
    }
}

impl From<&X509Svid> for Svid {
    fn from(svid: &X509Svid) -> Self {
        Self {
            id: svid.id().to_string(),
            hint: svid.hint().map(Into::into),
            serial: svid.serial_hex(),
            not_before: svid.not_before().to_string(),
            not_after: svid.not_after().to_string(),
            chain: svid.to_pem(),
        }
    }
}

impl From<&Bundle> for Authorities {
    fn from(bundle: &Bundle) -> Self {
        let x509 = bundle.x509_authorities();
        Self {
            trust_domain: bundle.trust_domain().to_string(),
            x509_authorities: x509.len(),
            jwt_authorities: bundle.jwt_authorities().len(),
            not_after: x509
                .iter()
                .map(|one| one.not_after())
                .max()
                .map(|at| at.to_string()),
        }
    }
}

impl From<&JwtSvid> for Token {
    fn from(token: &JwtSvid) -> Self {
        Self {
            id: token.id().to_string(),
            hint: token.hint().map(Into::into),
            audience: token.audience().to_vec(),
            expires_at: token.expires_at().to_string(),
            token: token.secret_token().into(),
        }
    }
}

//! What a workload holds, as data.

use std::fmt;
use std::time::Duration;

use serde::Serialize;
use spiffe_core::snapshot::Snapshot;
use spiffe_core::{Bundle, JwtSvid, Source, X509Svid};
use spiffe_workload_client::X509Source;
use spiffe_workload_client::source::{EndpointState, Readiness};

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

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
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

/// How a source of SVIDs fares.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Watched {
    /// The revision held; 0 before the first update.
    pub revision: u64,
    /// What the connection does: connecting, following, waiting or stopped.
    pub endpoint: &'static str,
    /// Whether the source is fit to serve: ready, overdue, expired or empty.
    pub readiness: &'static str,
    /// Whether the Workload API withdrew what was held.
    pub withdrawn: bool,
    /// Until when what is held lasts without another update, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub survives_until: Option<String>,
    /// What went wrong since the last good update.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What is held.
    #[serde(flatten)]
    pub held: Held,
}

impl From<&X509Source> for Watched {
    fn from(source: &X509Source) -> Self {
        let status = source.status();
        let current = source.current();
        Self {
            revision: current.revision().get(),
            endpoint: match status.endpoint {
                EndpointState::Connecting => "connecting",
                EndpointState::Following => "following",
                EndpointState::Waiting => "waiting",
                _ => "stopped",
            },
            readiness: match status.readiness {
                Readiness::Empty => "empty",
                Readiness::Expired { .. } => "expired",
                Readiness::Overdue { .. } => "overdue",
                _ => "ready",
            },
            withdrawn: status.withdrawn,
            survives_until: status.survival.map(|survival| survival.until().to_string()),
            error: status.last_error,
            held: Held::from(&**current.snapshot()),
        }
    }
}

impl fmt::Display for Watched {
    /// One line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "revision {} {} {}",
            self.revision, self.endpoint, self.readiness
        )?;
        for svid in &self.held.svids {
            write!(
                f,
                "; {} until {} serial {}",
                svid.id, svid.not_after, svid.serial
            )?;
        }
        for bundle in &self.held.bundles {
            write!(
                f,
                "; bundle of {} with {}",
                bundle.trust_domain, bundle.x509_authorities
            )?;
        }
        if self.withdrawn {
            f.write_str("; withdrawn")?;
        }
        if let Some(until) = &self.survives_until {
            write!(f, "; survives until {until}")?;
        }
        match &self.error {
            Some(error) => write!(f, "; {error}"),
            None => Ok(()),
        }
    }
}

/// A span in words of at most two units, such as `59m 12s`.
pub fn span(span: Duration) -> String {
    let seconds = span.as_secs();
    let (days, hours) = (seconds / 86_400, seconds / 3600 % 24);
    let (minutes, seconds) = (seconds / 60 % 60, seconds % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m {seconds}s"),
        (0, _, _) => format!("{hours}h {minutes}m"),
        _ => format!("{days}d {hours}h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_have_two_units() {
        for (seconds, text) in [
            (0, "0s"),
            (59, "59s"),
            (61, "1m 1s"),
            (3600, "1h 0m"),
            (86_399, "23h 59m"),
            (90_000, "1d 1h"),
        ] {
            assert_eq!(span(Duration::from_secs(seconds)), text);
        }
    }
}

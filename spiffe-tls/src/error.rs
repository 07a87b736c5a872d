//! Why a handshake failed, and what would have passed.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::AlertDescription;
use rustls::pki_types::CertificateDer;
use spiffe_core::snapshot::Snapshot;
use spiffe_core::verify::{PeerRole, X509Error};
use spiffe_core::{Denied, Explanation, PeerFacts, Rule, SpiffeId, Timestamp};

use crate::judge::Judge;
use crate::lease::LeaseEnd;
use crate::terms::InForce;

/// Why a handshake of ours failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// The transport failed.
    #[error("the connection failed during the handshake: {0}")]
    Io(#[source] io::Error),
    /// This side's SVID has expired and no newer one arrived.
    #[error(
        "the own X509-SVID of {id} expired at {not_after}, and its source has delivered no newer one"
    )]
    OwnExpired {
        /// The own ID.
        id: SpiffeId,
        /// When the SVID expired.
        not_after: Timestamp,
    },
    /// This side has no SVID to present.
    #[error(
        "this side holds no identity to present: none was delivered, it was withdrawn, or none has the hint that `hint` asks for"
    )]
    NoIdentity,
    /// This side has SVIDs to present, and what [`Tls::pick`](crate::Tls::pick) was given chose none of them.
    #[error(
        "this side holds valid X509-SVIDs, and its `pick` chose none of them for what the peer asked for"
    )]
    NonePicked,
    /// The peer refused this side.
    #[error(transparent)]
    PeerRefused(#[from] PeerRefused),
    /// This side refused the peer.
    #[error(transparent)]
    Refused(Box<Refusal>),
    /// The peer did not finish in time.
    #[error("the peer did not finish the handshake within {} s", after.as_secs_f64())]
    TimedOut {
        /// How long it had.
        after: Duration,
    },
    /// The peer broke the TLS protocol or offered nothing acceptable.
    #[error("the TLS handshake failed: {0}{advice}", advice = advice(.0))]
    Tls(#[source] rustls::Error),
}

impl HandshakeError {
    /// The rule that was broken, where this side refused the peer or cannot present itself.
    pub fn rule(&self) -> Option<Rule> {
        match self {
            Self::Refused(refusal) => Some(refusal.rule()),
            Self::OwnExpired { .. } => Some(Rule::OwnSvidExpired),
            Self::NoIdentity => Some(Rule::NoIdentity),
            _ => None,
        }
    }

    /// The refusal, if this side refused the peer.
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refused(refusal) => Some(refusal),
            _ => None,
        }
    }

    /// Sorts an error of the TLS machinery, for which no verdict of ours is the cause.
    pub(crate) fn from_io(error: io::Error) -> Self {
        if let Some(refused) = PeerRefused::in_io(&error) {
            return Self::PeerRefused(refused);
        }
        match error
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<rustls::Error>())
        {
            Some(tls) => Self::Tls(tls.clone()),
            None => Self::Io(error),
        }
    }
}

/// Why a peer was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RefusalReason {
    /// Verified, but the policy does not allow it.
    #[error(transparent)]
    NotAuthorized(#[from] Denied),
    /// Its chain proves no SPIFFE ID.
    #[error(transparent)]
    NotVerified(#[from] X509Error),
}

/// A peer that this side refused; the whole reasoning is computed when asked for.
///
/// It is logged once, through `tracing` at the level INFO with the fields `rule`, `section`, `revision` and `role`: also by
/// plain rustls configurations, whose own error tells no more than the peer learns by its alert.
pub struct Refusal {
    reason: RefusalReason,
    chain: Vec<CertificateDer<'static>>,
    snapshot: Arc<Snapshot>,
    terms: Arc<InForce>,
    now: Timestamp,
    judge: Arc<Judge>,
}

impl fmt::Debug for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Refusal")
            .field("reason", &self.reason)
            .field("now", &self.now)
            .finish_non_exhaustive()
    }
}

impl Refusal {
    pub(crate) fn new(
        reason: RefusalReason,
        chain: Vec<CertificateDer<'static>>,
        snapshot: Arc<Snapshot>,
        terms: Arc<InForce>,
        now: Timestamp,
        judge: Arc<Judge>,
    ) -> Self {
        Self {
            reason,
            chain,
            snapshot,
            terms,
            now,
            judge,
        }
    }

    /// Why, as a value.
    pub fn reason(&self) -> &RefusalReason {
        &self.reason
    }

    /// The rule that was broken.
    pub fn rule(&self) -> Rule {
        match &self.reason {
            RefusalReason::NotAuthorized(denied) => denied.rule(),
            RefusalReason::NotVerified(error) => error.rule(),
        }
    }

    /// The nearest thing that would have passed.
    pub fn nearest(&self) -> Option<String> {
        match &self.reason {
            RefusalReason::NotAuthorized(denied) => denied.nearest.clone(),
            RefusalReason::NotVerified(error) => error.nearest(self.snapshot.bundles(), self.now),
        }
    }

    /// The chain that the peer presented, leaf first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// Logs the refusal: once, where the handshake ends by it. At the level INFO, since any stranger can cause it.
    pub(crate) fn log(&self) {
        tracing::info!(
            rule = self.rule().code(),
            section = self.rule().section(),
            revision = %self.snapshot.revision(),
            role = %match self.judge.role {
                PeerRole::Client => "client",
                PeerRole::Server => "server",
                _ => "peer",
            },
            "{self}"
        );
    }

    /// Every rule that was tried, judged again under the same revision and time.
    pub fn explain(&self) -> Explanation {
        let (verdict, tree) = self.judge.verifier_under(&self.terms).explain(
            &self.chain,
            self.snapshot.bundles(),
            self.now,
            self.judge.role,
        );
        match verdict {
            Err(_) => tree,
            Ok(peer) => {
                let facts = PeerFacts::new(
                    peer.id.as_ref(),
                    self.now,
                    peer.not_after,
                    peer.chain_length,
                );
                self.terms.authorizer.explain(&facts)
            }
        }
    }
}

/// One line: what was refused, the rule's section, and what would have passed.
impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the peer was refused: {}", self.reason)?;
        if let Some(section) = self.rule().section() {
            write!(f, " ({section})")?;
        }
        match self.nearest() {
            Some(nearest) => write!(f, "; would pass: {nearest}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Refusal {}

/// The peer ended the handshake with an alert.
///
/// Under TLS 1.3 a client learns of it only when it first reads: its own handshake is over before the server judges.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the peer refused this side with the TLS alert {:?}: {}", alert, meaning(*alert))]
#[non_exhaustive]
pub struct PeerRefused {
    /// The alert that arrived.
    pub alert: AlertDescription,
}

impl PeerRefused {
    /// The alert inside an I/O error, if that is what it is.
    pub fn in_io(error: &io::Error) -> Option<Self> {
        let inner = error.get_ref()?;
        if let Some(refused) = inner.downcast_ref::<Self>() {
            return Some(*refused);
        }
        match inner.downcast_ref::<rustls::Error>()? {
            rustls::Error::AlertReceived(alert) => Some(Self { alert: *alert }),
            _ => None,
        }
    }
}

/// A connection whose lease has ended was cut: what its reads and writes fail with, inside the I/O error.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the connection was cut because its lease has ended: {end}")]
#[non_exhaustive]
pub struct LeaseOver {
    /// Why it ended.
    pub end: LeaseEnd,
}

impl LeaseOver {
    /// The end of the lease inside an I/O error, if that is what it is.
    pub fn in_io(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref::<Self>()
    }
}

/// What to look at first, where rustls' own words leave it open.
fn advice(error: &rustls::Error) -> &'static str {
    match error {
        rustls::Error::InvalidMessage(_) => "; is the peer speaking TLS?",
        rustls::Error::NoCertificatesPresented => {
            "; the peer has to present an X509-SVID: is it configured for mutual TLS, and does it hold one?"
        }
        _ => "",
    }
}

/// What an alert most likely means between SPIFFE peers.
fn meaning(alert: AlertDescription) -> &'static str {
    match alert {
        AlertDescription::AccessDenied => {
            "its policy does not allow this side, or it holds no valid X509-SVID of its own to show; its log says which"
        }
        AlertDescription::UnknownCA => {
            "it knows no authority that leads to this side's X509-SVID; is it federated with this trust domain?"
        }
        AlertDescription::CertificateExpired => {
            "this side's X509-SVID is outside its validity by the peer's clock"
        }
        AlertDescription::CertificateRequired => "it wants a client certificate",
        AlertDescription::BadCertificate
        | AlertDescription::CertificateUnknown
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::DecryptError => "it does not accept this side's X509-SVID",
        _ => "its log says why",
    }
}

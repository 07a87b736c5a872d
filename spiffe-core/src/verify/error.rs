//! Why a chain proves no SPIFFE ID, and what would have.

use super::LeafError;
use crate::bundle::BundleSet;
use crate::x509::cert::CertificateError;
use crate::x509::names::NameConstraintError;
use crate::{Rule, Timestamp, TrustDomain};

/// Why a chain proves no SPIFFE ID.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum X509Error {
    /// A key or signature algorithm that is not accepted.
    #[error("a certificate of the path uses an algorithm that is not accepted: {detail}")]
    Algorithm {
        /// What was met.
        detail: String,
    },
    /// A signature of the path is wrong.
    #[error(
        "a signature of the chain is wrong: an issuer of that name exists, but its key did not sign"
    )]
    BadSignature,
    /// The leaf cannot be read.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// No certificate at all.
    #[error("the peer presented no certificate")]
    Empty,
    /// Something has expired.
    #[error("the {holder} expired at {not_after}; it is {now}")]
    Expired {
        /// Whose validity ended.
        holder: Holder,
        /// Its last instant.
        not_after: Timestamp,
        /// The time of the verification.
        now: Timestamp,
    },
    /// An extended key usage does not allow the peer's role.
    #[error("an extended key usage of the path does not allow the peer's role")]
    ExtendedKeyUsage,
    /// The leaf's issuer was sent, but may not sign certificates.
    #[error("the leaf's issuer is no CA that may sign certificates")]
    IssuerNotSigning,
    /// Key usage is absent or not critical, and the verifier demands it.
    #[error("the {holder} has no critical key usage, which this verifier demands")]
    KeyUsageMissing {
        /// Whose.
        holder: Holder,
    },
    /// The leaf breaks a rule of the X509-SVID profile.
    #[error(transparent)]
    Leaf(#[from] LeafError),
    /// An extended key usage above the leaf does not allow the peer's role.
    #[error("an extended key usage above the leaf does not allow the peer's role")]
    IssuerExtendedKeyUsage,
    /// An intermediate certificate has a critical extension that is not understood.
    #[error(
        "an intermediate certificate has the critical extension {oid}, which is not understood"
    )]
    IssuerUnknownCritical {
        /// The extension's object identifier, dotted.
        oid: String,
    },
    /// Name constraints of an issuer forbid a name below it.
    #[error("the name constraints of an issuer do not hold: {0}")]
    NameConstraints(#[from] NameConstraintError),
    /// The trust domain's bundle has no X.509 authority.
    #[error(
        "the bundle of {trust_domain} holds no X.509 authority, so none of its X509-SVIDs is trusted"
    )]
    NoAuthorities {
        /// The peer's trust domain, as the unverified leaf names it.
        trust_domain: TrustDomain,
    },
    /// Something is not valid yet.
    #[error("the {holder} is valid from {not_before}; it is {now}")]
    NotYetValid {
        /// Whose validity has not begun.
        holder: Holder,
        /// Its first instant.
        not_before: Timestamp,
        /// The time of the verification.
        now: Timestamp,
    },
    /// A path length constraint is exceeded.
    #[error("the chain is longer than a path length constraint of its issuers allows")]
    PathLength,
    /// Lists of revoked certificates are known of an issuer, but none that its key signed.
    #[error("an issuer's list of revoked certificates is not signed by its key")]
    RevocationUnknown,
    /// A certificate of the path is revoked.
    #[error("a certificate of the path is revoked by its issuer")]
    Revoked,
    /// The path ends at a tainted authority, and the verifier refuses those.
    #[error("the authority of the path is tainted, and tainted authorities are refused here")]
    Tainted,
    /// Path building gave up within its limits.
    #[error("no path was found within the limits: {detail}")]
    TooComplex {
        /// Which limit.
        detail: String,
    },
    /// A certificate has more bytes than are looked at.
    #[error("a certificate has {bytes} bytes; {limit} is the limit")]
    TooLarge {
        /// Its length.
        bytes: usize,
        /// The limit in force.
        limit: usize,
    },
    /// No bundle for the peer's trust domain.
    #[error(
        "no bundle of the peer's trust domain {trust_domain} is known; federate with it to trust its workloads"
    )]
    TrustDomainUnknown {
        /// The peer's trust domain, as the unverified leaf names it.
        trust_domain: TrustDomain,
    },
    /// No path leads to an authority of the peer's trust domain.
    #[error("no path leads from the leaf to an authority of its trust domain: {detail}")]
    Untrusted {
        /// What is missing.
        detail: String,
    },
}

impl X509Error {
    /// The rule that was broken.
    pub const fn rule(&self) -> Rule {
        match self {
            Self::Algorithm { .. } => Rule::CertAlgorithm,
            Self::BadSignature => Rule::PathBadSignature,
            Self::Certificate(error) => error.rule(),
            Self::Empty => Rule::ChainEmpty,
            Self::Expired { .. } => Rule::PathExpired,
            Self::ExtendedKeyUsage => Rule::LeafExtendedKeyUsage,
            Self::IssuerExtendedKeyUsage => Rule::PathExtendedKeyUsage,
            Self::IssuerNotSigning => Rule::PathIssuerNotCa,
            Self::IssuerUnknownCritical { .. } => Rule::CertUnknownCriticalExtension,
            Self::KeyUsageMissing { .. } => Rule::KeyUsageMissing,
            Self::Leaf(error) => error.rule(),
            Self::NameConstraints(_) => Rule::PathNameConstraints,
            Self::NoAuthorities { .. } => Rule::NoX509Authorities,
            Self::NotYetValid { .. } => Rule::PathNotYetValid,
            Self::PathLength => Rule::PathLength,
            Self::RevocationUnknown | Self::Revoked => Rule::PathRevoked,
            Self::Tainted => Rule::AuthorityTainted,
            Self::TooLarge { .. } => Rule::ChainTooLarge,
            Self::TooComplex { .. } => Rule::PathTooComplex,
            Self::TrustDomainUnknown { .. } => Rule::TrustDomainUnknown,
            Self::Untrusted { .. } => Rule::PathUntrusted,
        }
    }

    /// The nearest thing that would have passed, as far as `bundles` and the time tell.
    pub fn nearest(&self, bundles: &BundleSet, now: Timestamp) -> Option<String> {
        match self {
            Self::TrustDomainUnknown { .. } if bundles.is_empty() => {
                Some("nothing: no bundle is known at all".into())
            }
            Self::TrustDomainUnknown { .. } => {
                let known: Vec<_> = bundles
                    .iter()
                    .take(8)
                    .map(|bundle| bundle.trust_domain().as_str())
                    .collect();
                Some(format!("an X509-SVID of {}", known.join(" or ")))
            }
            Self::Expired { not_after, .. } => {
                let late = now.saturating_since(*not_after);
                Some(format!(
                    "the same chain {} s earlier, at {not_after} at the latest; or a renewed X509-SVID",
                    late.as_secs_f64().ceil()
                ))
            }
            Self::NotYetValid { not_before, .. } => Some(format!(
                "the same chain from {not_before} on; check both clocks"
            )),
            Self::NameConstraints(NameConstraintError::Outside { permitted, .. }) => {
                Some(format!("a name within {permitted}"))
            }
            Self::Tainted => Some("an X509-SVID issued again by an authority that is not tainted".into()),
            Self::Leaf(LeafError::PathMissing { id }) => Some(format!("{id}/<path>")),
            Self::Leaf(LeafError::UriCount { .. }) => {
                Some("a leaf with exactly one URI name".into())
            }
            Self::Untrusted { .. } | Self::BadSignature => Some(
                "a chain signed by one of the authorities in the trust domain's bundle, or a bundle that holds the \
                 authority that signed this one"
                    .into(),
            ),
            _ => None,
        }
    }
}

/// Whose validity was judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Holder {
    /// An authority of the bundle.
    Authority,
    /// A certificate between leaf and authority.
    Intermediate,
    /// The leaf.
    Leaf,
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Authority => "authority",
            Self::Intermediate => "intermediate certificate",
            Self::Leaf => "leaf",
        })
    }
}

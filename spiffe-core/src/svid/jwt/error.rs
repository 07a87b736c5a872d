//! Why a token is not accepted.

use std::fmt;

use crate::bundle::BundleSet;
use crate::json::shortened;
use crate::{Rule, SpiffeIdError, Timestamp, TrustDomain};

/// The first rule that a token breaks. Messages hold single facts of it, bounded and escaped, never its text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JwtError {
    /// `alg` is not one of the nine.
    #[error(
        "the token's algorithm is {found}; RS, PS and ES with 256, 384 and 512 are the allowed ones"
    )]
    Algorithm {
        /// What the header says.
        found: String,
    },
    /// The cryptography provider lacks the algorithm.
    #[error("the cryptography provider does not support {algorithm}")]
    AlgorithmUnsupported {
        /// The algorithm's JWS name.
        algorithm: &'static str,
    },
    /// The expected audience is not among the token's.
    #[error("the token is for {}, not for the expected audience \"{}\"", Audiences(.found), shortened(.expected))]
    Audience {
        /// The audience that was expected.
        expected: String,
        /// The token's.
        found: Vec<String>,
    },
    /// `aud` is absent or an empty array.
    #[error("the token has no audience")]
    AudienceMissing,
    /// A registered claim has another type than the standard gives it.
    #[error("the claim {claim} is not {expected}")]
    ClaimType {
        /// The claim's name.
        claim: &'static str,
        /// What it should be.
        expected: &'static str,
    },
    /// The token has expired.
    #[error("the token expired at {expired_at}; the time is {now}")]
    Expired {
        /// The instant in `exp`.
        expired_at: Timestamp,
        /// The time of verification.
        now: Timestamp,
    },
    /// `exp` is absent.
    #[error("the token does not say when it expires")]
    ExpiryMissing,
    /// `exp` lies after the year 9999.
    #[error("the claim exp lies after the year 9999")]
    ExpiryRange,
    /// The header holds a member that changes how the token is processed, or with strict headers any other.
    #[error("the token's header holds the member \"{member}\", which no JWT-SVID may have")]
    Header {
        /// The member's name, shortened.
        member: String,
    },
    /// Header or claims are no JSON objects, or repeat a member.
    #[error("the token's {part} cannot be read as a JSON object: {reason}")]
    Json {
        /// `header` or `claims`.
        part: &'static str,
        /// What is wrong, without the text.
        reason: String,
    },
    /// The key is of another type, curve or algorithm than the token's algorithm needs.
    #[error(
        "no key of {trust_domain} that the token may be signed with fits the algorithm {algorithm}"
    )]
    KeyAlgorithm {
        /// The algorithm's JWS name.
        algorithm: &'static str,
        /// The subject's trust domain.
        trust_domain: TrustDomain,
    },
    /// `kid` is no string.
    #[error("the token's key ID is not a string")]
    KeyId,
    /// The trust domain has no JWT authority with the key ID.
    #[error("the key ID \"{key_id}\" is none of the JWT authorities of {trust_domain}")]
    KeyUnknown {
        /// The token's `kid`, shortened.
        key_id: String,
        /// The subject's trust domain.
        trust_domain: TrustDomain,
    },
    /// Not three parts of strict base64url.
    #[error("the token is not in JWS compact serialisation: {reason}")]
    Malformed {
        /// What is wrong.
        reason: &'static str,
    },
    /// The bundle of the subject's trust domain has no JWT authority.
    #[error(
        "the bundle of {trust_domain} has no JWT authorities, so none of its JWT-SVIDs is trusted"
    )]
    NoAuthorities {
        /// The subject's trust domain.
        trust_domain: TrustDomain,
    },
    /// The verifier was given no audience to expect.
    #[error("no audience is expected; name the audience that tokens must be for")]
    NoExpectedAudience,
    /// `nbf` lies in the future.
    #[error("the token is not valid before {not_before}; the time is {now}")]
    NotYetValid {
        /// The instant in `nbf`.
        not_before: Timestamp,
        /// The time of verification.
        now: Timestamp,
    },
    /// The signature is wrong.
    #[error("the token's signature is not by a JWT authority of {trust_domain}")]
    Signature {
        /// The subject's trust domain.
        trust_domain: TrustDomain,
    },
    /// `sub` is no SPIFFE ID.
    #[error("the token's subject is no SPIFFE ID: {source}")]
    Subject {
        /// What is wrong with it.
        source: SpiffeIdError,
    },
    /// `sub` is absent.
    #[error("the token has no subject")]
    SubjectMissing,
    /// `sub` is a trust domain's own ID and the verifier demands a path.
    #[error("the token's subject names a trust domain and no workload")]
    SubjectPathMissing,
    /// More bytes than the limit.
    #[error("the token has {bytes} bytes; {limit} is the limit")]
    TooLarge {
        /// How many it has.
        bytes: usize,
        /// The limit in force.
        limit: usize,
    },
    /// No bundle is known for the subject's trust domain.
    #[error(
        "no bundle of the subject's trust domain {trust_domain} is known; federate with it to trust its workloads"
    )]
    TrustDomainUnknown {
        /// The subject's trust domain.
        trust_domain: TrustDomain,
    },
    /// `typ` is present and neither `JWT` nor `JOSE`.
    #[error("the token's typ is neither JWT nor JOSE")]
    Type,
}

impl JwtError {
    /// The rule that was broken.
    pub const fn rule(&self) -> Rule {
        match self {
            Self::Algorithm { .. } => Rule::JwtAlgorithm,
            Self::AlgorithmUnsupported { .. } => Rule::JwtAlgorithmUnsupported,
            Self::Audience { .. } => Rule::JwtAudience,
            Self::AudienceMissing => Rule::JwtAudienceMissing,
            Self::ClaimType { .. } | Self::ExpiryRange => Rule::JwtClaimType,
            Self::Expired { .. } => Rule::JwtExpired,
            Self::ExpiryMissing => Rule::JwtExpiryMissing,
            Self::Header { .. } => Rule::JwtHeader,
            Self::Json { .. } => Rule::JwtJson,
            Self::KeyAlgorithm { .. } => Rule::JwtKeyAlgorithm,
            Self::KeyId => Rule::JwtKeyId,
            Self::KeyUnknown { .. } => Rule::JwtKeyUnknown,
            Self::Malformed { .. } => Rule::JwtMalformed,
            Self::NoAuthorities { .. } => Rule::NoJwtAuthorities,
            Self::NoExpectedAudience => Rule::JwtExpectedAudience,
            Self::NotYetValid { .. } => Rule::JwtNotYetValid,
            Self::Signature { .. } => Rule::JwtSignature,
            Self::Subject { .. } | Self::SubjectMissing => Rule::JwtSubject,
            Self::SubjectPathMissing => Rule::JwtSubjectPath,
            Self::TooLarge { .. } => Rule::JwtTooLarge,
            Self::TrustDomainUnknown { .. } => Rule::JwtTrustDomainUnknown,
            Self::Type => Rule::JwtType,
        }
    }

    /// The nearest thing that would have passed, as far as `bundles` tell.
    pub fn nearest(&self, bundles: &BundleSet) -> Option<String> {
        match self {
            Self::Algorithm { .. } => Some("a token signed with ES256".into()),
            Self::Audience { expected, .. } => {
                Some(format!("a token for \"{}\"", shortened(expected)))
            }
            Self::Expired { expired_at, .. } => Some(format!(
                "the same token before {expired_at}; or a renewed JWT-SVID"
            )),
            Self::Header { member } => Some(format!("the same token without \"{member}\"")),
            Self::KeyAlgorithm { trust_domain, .. } | Self::KeyUnknown { trust_domain, .. } => {
                let authorities = bundles.get(trust_domain.as_ref())?.jwt_authorities();
                let known: Vec<_> = authorities
                    .iter()
                    .take(8)
                    .map(|authority| format!("\"{}\"", shortened(authority.key_id())))
                    .collect();
                Some(format!(
                    "a token signed with the key {}; or a bundle that holds this one's",
                    known.join(" or ")
                ))
            }
            Self::NotYetValid { not_before, .. } => Some(format!(
                "the same token from {not_before} on; check both clocks"
            )),
            Self::Signature { .. } => Some(
                "a token signed with one of the JWT authorities in the trust domain's bundle"
                    .into(),
            ),
            Self::SubjectPathMissing => Some("a subject with a path".into()),
            Self::TrustDomainUnknown { .. } if bundles.is_empty() => {
                Some("nothing: no bundle is known at all".into())
            }
            Self::TrustDomainUnknown { .. } => {
                let known: Vec<_> = bundles
                    .iter()
                    .take(8)
                    .map(|bundle| bundle.trust_domain().as_str())
                    .collect();
                Some(format!("a JWT-SVID of {}", known.join(" or ")))
            }
            _ => None,
        }
    }
}

/// A token's audiences for a message: a few, each shortened.
pub(super) struct Audiences<'a>(pub(super) &'a [String]);

impl fmt::Display for Audiences<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 4;
        for (at, audience) in self.0.iter().take(SHOWN).enumerate() {
            let comma = if at == 0 { "" } else { ", " };
            write!(f, "{comma}\"{}\"", shortened(audience))?;
        }
        match self.0.len().checked_sub(SHOWN) {
            None | Some(0) => Ok(()),
            Some(more) => write!(f, " and {more} more"),
        }
    }
}

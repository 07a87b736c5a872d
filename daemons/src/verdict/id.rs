//! Names and matching.

use serde::Serialize;
use spiffe_core::{Policy, SpiffeId, SpiffeIdError, SpiffeIdRef, TrustDomain, TrustDomainRef};

use super::Refusal;

/// A SPIFFE ID and its parts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Parsed {
    /// The whole ID.
    pub id: String,
    /// The trust domain's name.
    pub trust_domain: String,
    /// The path with its leading slash; empty for a trust domain's own ID.
    pub path: String,
}

impl From<SpiffeIdRef<'_>> for Parsed {
    fn from(id: SpiffeIdRef<'_>) -> Self {
        Self {
            id: id.as_str().into(),
            trust_domain: id.trust_domain().as_str().into(),
            path: id.path().into(),
        }
    }
}

/// A trust domain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ParsedTrustDomain {
    /// Its name.
    pub trust_domain: String,
}

/// An ID made of parts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Joined {
    /// The whole ID.
    pub id: String,
}

/// What a policy says of an ID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Matched {
    /// Whether the ID is allowed.
    pub allowed: bool,
}

/// Parses an ID, strictly.
///
/// # Errors
///
/// The first rule broken.
pub fn parse(text: &[u8]) -> Result<Parsed, Refusal> {
    let id = SpiffeIdRef::parse_bytes(text).map_err(refuse)?;
    Ok(id.into())
}

/// Parses an ID that a person wrote, folding scheme and trust domain to lower case first.
///
/// # Errors
///
/// The first rule broken.
pub fn parse_normalizing(text: &str) -> Result<Parsed, Refusal> {
    let id = SpiffeId::parse_normalizing(text).map_err(refuse)?;
    Ok(id.as_ref().into())
}

/// Parses a trust domain's name, or takes it from an ID.
///
/// # Errors
///
/// The first rule broken.
pub fn parse_trust_domain(text: &[u8]) -> Result<ParsedTrustDomain, Refusal> {
    let trust_domain = TrustDomain::from_name_or_id(text).map_err(refuse)?;
    Ok(ParsedTrustDomain {
        trust_domain: trust_domain.as_str().into(),
    })
}

/// Joins a trust domain's name and path segments.
///
/// # Errors
///
/// The first rule broken.
pub fn join(trust_domain: &str, segments: &[impl AsRef<str>]) -> Result<Joined, Refusal> {
    let trust_domain = TrustDomainRef::parse(trust_domain).map_err(refuse)?;
    let segments = segments.iter().map(AsRef::as_ref);
    let id = SpiffeId::from_segments(trust_domain, segments).map_err(refuse)?;
    Ok(Joined {
        id: id.as_str().into(),
    })
}

/// Asks a policy about an ID.
///
/// # Errors
///
/// The first rule that the ID breaks.
pub fn matches(policy: &Policy, id: &str) -> Result<Matched, Refusal> {
    let id = SpiffeIdRef::parse(id).map_err(refuse)?;
    Ok(Matched {
        allowed: policy.allows(id),
    })
}

pub(super) fn refuse(error: SpiffeIdError) -> Refusal {
    Refusal::new(error.rule(), error)
}

//! A JWT-SVID: a token that proves a SPIFFE ID to one audience.
//!
//! Answers to JWT-SVID §2, §3 and §5. A value of this type comes from [`JwtVerifier`](crate::verify::JwtVerifier), or,
//! for the token's own holder, from [`JwtSvid::parse_insecure`].

mod bearer;
mod error;
mod token;

use std::fmt;

use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

pub use self::bearer::{BearerError, bearer_token};
pub use self::error::JwtError;
pub(crate) use self::token::{Claims, JwsAlgorithm, Shape, Token};
use crate::explain::NoTrace;
use crate::{SpiffeId, Timestamp, TrustDomainRef};

/// The most bytes of a token: far above what fits into the headers that carry tokens, and small enough to be looked
/// at many times a second.
pub const MAX_TOKEN_BYTES: usize = 64 * 1024;

/// A JWT-SVID. The token is a secret: whoever has it is the workload, so it is wiped on drop and never printed.
#[derive(Clone)]
pub struct JwtSvid {
    id: SpiffeId,
    audience: Vec<String>,
    expires_at: Timestamp,
    not_before: Option<Timestamp>,
    issued_at: Option<Timestamp>,
    claims: String,
    hint: Option<String>,
    token: Zeroizing<String>,
}

impl JwtSvid {
    /// Takes a token apart **without checking its signature, its time and its audience**.
    ///
    /// For the holder of a token that came from a trusted place, such as the Workload API. Every other rule of the
    /// standard is applied. A received token is judged by [`JwtVerifier`](crate::verify::JwtVerifier) instead.
    ///
    /// # Errors
    ///
    /// The first rule broken.
    pub fn parse_insecure(token: &str) -> Result<Self, JwtError> {
        let shape = Shape {
            strict_header: false,
            max_bytes: MAX_TOKEN_BYTES,
        };
        let parsed = Token::parse(token, shape, &mut NoTrace)?;
        Ok(Self::assemble(token, parsed.claims))
    }

    /// The same SVID with the operator's hint: Workload API §6.2.1.
    #[must_use]
    pub fn with_hint(mut self, hint: Option<String>) -> Self {
        self.hint = hint.filter(|hint| !hint.is_empty());
        self
    }

    /// The subject: JWT-SVID §3.1.
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// The trust domain of the subject.
    pub fn trust_domain(&self) -> TrustDomainRef<'_> {
        self.id.trust_domain()
    }

    /// The audiences, at least one: JWT-SVID §3.2.
    pub fn audience(&self) -> &[String] {
        &self.audience
    }

    /// The instant from which the token is no longer good, with the fraction of a second that the token gives it.
    pub fn expires_at(&self) -> Timestamp {
        self.expires_at
    }

    /// The instant before which the token is not yet good, if it names one.
    pub fn not_before(&self) -> Option<Timestamp> {
        self.not_before
    }

    /// When the token says it was issued, if it does.
    pub fn issued_at(&self) -> Option<Timestamp> {
        self.issued_at
    }

    /// Every claim, as the JSON object that was signed: valid JSON, no member name twice at any depth.
    pub fn claims_json(&self) -> &str {
        &self.claims
    }

    /// Every claim, as a type that serde can read: a struct of the claims of interest, or a map of all.
    ///
    /// # Errors
    ///
    /// [`ClaimsError`] when the claims do not have the type's shape.
    pub fn claims<T: DeserializeOwned>(&self) -> Result<T, ClaimsError> {
        serde_json::from_str(&self.claims).map_err(|error| ClaimsError {
            reason: format!("line {} column {}", error.line(), error.column()),
        })
    }

    /// The operator's hint, never empty.
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// The token in JWS compact serialisation.
    pub fn secret_token(&self) -> &str {
        &self.token
    }

    /// The value of the header `Authorization` that carries the token: JWT-SVID §5.2, §5.3.
    pub fn secret_authorization(&self) -> Zeroizing<String> {
        Zeroizing::new(format!("Bearer {}", &*self.token))
    }

    pub(crate) fn assemble(token: &str, claims: Claims) -> Self {
        Self {
            id: claims.id,
            audience: claims.audience,
            expires_at: claims.expires_at,
            not_before: claims.not_before,
            issued_at: claims.issued_at,
            claims: claims.text,
            hint: None,
            token: Zeroizing::new(token.to_owned()),
        }
    }
}

impl fmt::Debug for JwtSvid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JwtSvid")
            .field("id", &self.id)
            .field("audience", &self.audience)
            .field("expires_at", &self.expires_at)
            .field("hint", &self.hint)
            .field("token", &format_args!("[token elided]"))
            .finish_non_exhaustive()
    }
}

/// A token's claims do not have the shape that was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the claims do not have the shape that was asked for, at {reason} of the claims")]
#[non_exhaustive]
pub struct ClaimsError {
    reason: String,
}

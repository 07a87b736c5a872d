//! What can go wrong on the way to an SVID and in serving.

use std::time::Duration;

use spiffe_core::SpiffeId;
use spiffe_core::key::KeyError;
use spiffe_core::svid::{JwtError, SvidError};

/// Why an authority issued nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AuthorityError {
    /// It will not issue this: the entry asks for what it does not allow.
    #[error("the authority refuses: {reason}")]
    Refused {
        /// What the authority says.
        reason: String,
    },

    /// It cannot issue at the moment.
    #[error("the authority cannot issue now: {reason}")]
    Unavailable {
        /// What the authority says.
        reason: String,
    },
}

impl AuthorityError {
    /// A refusal with its reason.
    pub fn refused(reason: impl Into<String>) -> Self {
        Self::Refused {
            reason: reason.into(),
        }
    }

    /// A passing trouble with its reason.
    pub fn unavailable(reason: impl Into<String>) -> Self {
        Self::Unavailable {
            reason: reason.into(),
        }
    }
}

/// Why the server stopped serving other than by being told to.
#[derive(Debug, thiserror::Error)]
#[error("serving the Workload API failed")]
#[non_exhaustive]
pub struct ServeError(#[source] Box<dyn std::error::Error + Send + Sync>);

impl ServeError {
    pub(crate) fn new(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self(source.into())
    }
}

/// Why one attempt to get an SVID brought none that can be served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IssueError {
    #[error(transparent)]
    Authority(#[from] AuthorityError),

    #[error("the authority issued an SVID that had expired")]
    Expired,

    #[error("the authority issued a JWT-SVID that cannot be used: {0}")]
    Jwt(#[from] JwtError),

    #[error("making its private key failed: {0}")]
    Key(#[from] KeyError),

    #[error("the authority issued an SVID for {got}")]
    OtherId { got: SpiffeId },

    #[error("the authority did not answer within {} s", after.as_secs())]
    TimedOut { after: Duration },

    #[error("the authority issued an X509-SVID that cannot be used: {0}")]
    X509(#[from] SvidError),
}

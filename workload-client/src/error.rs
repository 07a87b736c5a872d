//! What goes wrong between a workload and its Workload API, and what to do about each: Workload Endpoint §6 and Appendix A.

use std::time::Duration;

use spiffe_core::svid::{JwtError, SvidError};
use spiffe_core::{SpiffeId, SpiffeIdError, TrustDomain};

use crate::endpoint::Endpoint;

/// A call to the Workload API failed; every text is one line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// No answer within the deadline.
    #[error("the Workload API at {endpoint} did not answer within {after:?}")]
    DeadlineExceeded {
        /// Who was asked.
        endpoint: Endpoint,
        /// The deadline.
        after: Duration,
    },
    /// The connection was made and broke before the first answer.
    #[error("what listens at {endpoint} does not answer as a Workload API: {reason}")]
    NotWorkloadApi {
        /// Who was asked.
        endpoint: Endpoint,
        /// What happened on the connection.
        reason: String,
    },
    /// The request breaks a rule: do not repeat it (status INVALID_ARGUMENT).
    #[error("the Workload API refuses the request as invalid: {message}")]
    InvalidArgument {
        /// What the server says.
        message: String,
    },
    /// The caller has no such identity or bundle, now (status PERMISSION_DENIED).
    #[error(
        "the Workload API has nothing for this workload: {message}; the agent's log says which selectors it has and what its entry lacks"
    )]
    PermissionDenied {
        /// What the server says.
        message: String,
    },
    /// The answer breaks a rule of the standard and was discarded; a stream that carried it goes on.
    #[error("the Workload API's answer was discarded: {0}")]
    Response(#[from] ResponseError),
    /// Another status.
    #[error("the Workload API answers {code}: {message}")]
    Status {
        /// The status by its gRPC name.
        code: &'static str,
        /// What the server says.
        message: String,
    },
    /// The server ended the stream in good order.
    #[error("the Workload API ended the stream")]
    StreamEnded,
    /// The connection broke after earlier answers.
    #[error("the connection to the Workload API at {endpoint} broke: {reason}")]
    Transport {
        /// Who was asked.
        endpoint: Endpoint,
        /// What happened on the connection.
        reason: String,
    },
    /// The server is there but cannot serve yet (status UNAVAILABLE).
    #[error("the Workload API is not available: {message}")]
    Unavailable {
        /// What the server says.
        message: String,
    },
    /// The server does not offer the call: do not repeat it (status UNIMPLEMENTED).
    #[error("the Workload API does not offer {rpc}: {message}")]
    Unimplemented {
        /// The call.
        rpc: &'static str,
        /// What the server says.
        message: String,
    },
    /// No connection.
    #[error(
        "no connection to the Workload API at {endpoint}: {reason}; is the agent running, and may this user open its socket?"
    )]
    Unreachable {
        /// Who was asked.
        endpoint: Endpoint,
        /// What the system says.
        reason: String,
    },
}

impl ClientError {
    /// Whether the same call may succeed later: not after INVALID_ARGUMENT and UNIMPLEMENTED (Workload Endpoint §6, Appendix A).
    pub const fn is_retryable(&self) -> bool {
        !matches!(
            self,
            Self::InvalidArgument { .. } | Self::Unimplemented { .. }
        )
    }

    /// Whether only one message was discarded, so that its stream can be read on.
    pub const fn leaves_stream_open(&self) -> bool {
        matches!(self, Self::Response(_))
    }
}

/// An answer that breaks a rule of the Workload API, discarded whole.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ResponseError {
    /// The bundle of an SVID's own trust domain cannot be read.
    #[error("the bundle of the own trust domain {trust_domain} cannot be read: {reason}")]
    Bundle {
        /// The trust domain.
        trust_domain: TrustDomain,
        /// Why.
        reason: String,
    },
    /// No bundle of the answer can be read.
    #[error("none of its bundles can be read: {reason}")]
    Bundles {
        /// Why the first cannot.
        reason: String,
    },
    /// A mandatory field is empty: Workload API §4.5.
    #[error("the mandatory field {field} is empty")]
    EmptyField {
        /// The field.
        field: String,
    },
    /// A SPIFFE ID is malformed.
    #[error("{field} is no SPIFFE ID: {source}")]
    Id {
        /// The field.
        field: String,
        /// What is wrong with it.
        source: SpiffeIdError,
    },
    /// The SPIFFE ID beside a document is not the document's: Workload API §5.2.1.
    #[error("{field} is {stated}, but the SVID beside it names {found}")]
    IdMismatch {
        /// The field.
        field: String,
        /// What the field says.
        stated: SpiffeId,
        /// What the document says.
        found: SpiffeId,
    },
    /// A token that is no JWT-SVID.
    #[error("svids[{index}] is no JWT-SVID: {source}")]
    Jwt {
        /// Its position, from 0.
        index: usize,
        /// The rule that it breaks.
        source: JwtError,
    },
    /// A token lacks an audience that was asked for: Workload API §6.2.1.
    #[error("svids[{index}] is not for the audience {audience:?} that was asked for")]
    JwtAudience {
        /// Its position, from 0.
        index: usize,
        /// The audience.
        audience: String,
    },
    /// A token is another identity's than the one that was asked for: Workload API §6.2.1.
    #[error("svids[{index}] is a token of {found}, not of {asked} that was asked for")]
    JwtIdentity {
        /// Its position, from 0.
        index: usize,
        /// The identity that was asked for.
        asked: SpiffeId,
        /// The token's.
        found: SpiffeId,
    },
    /// Bytes that are no message.
    #[error("it is no protobuf message: {reason}")]
    Malformed {
        /// What is wrong.
        reason: String,
    },
    /// A chain and a key that are no X509-SVID.
    #[error("svids[{index}] is no X509-SVID: {source}")]
    Svid {
        /// Its position, from 0.
        index: usize,
        /// The rule that it breaks.
        source: SvidError,
    },
    /// More SVIDs than one workload is taken to have.
    #[error("it holds {found} SVIDs, more than {limit}")]
    TooManySvids {
        /// How many.
        found: usize,
        /// How many are read.
        limit: usize,
    },
    /// More bundles by trust domain than one workload is taken to need.
    #[error("it holds bundles of {found} trust domains, more than {limit}")]
    TooManyTrustDomains {
        /// How many.
        found: usize,
        /// How many are read.
        limit: usize,
    },
}

/// What is shown of a text that the other side wrote.
const MAX_FOREIGN_TEXT_BYTES: usize = 300;

/// A foreign text as part of one line: control characters become spaces, the length is bounded.
pub(crate) fn one_line(text: &str) -> String {
    let mut line: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    if line.len() > MAX_FOREIGN_TEXT_BYTES {
        let end = (0..=MAX_FOREIGN_TEXT_BYTES)
            .rev()
            .find(|at| line.is_char_boundary(*at))
            .unwrap_or(0);
        line.truncate(end);
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_stays_one_bounded_line() {
        assert_eq!(one_line("a\r\nb\x1b[0m"), "a  b [0m");
        assert_eq!(one_line(&"é".repeat(200)), format!("{}…", "é".repeat(150)));
        assert_eq!(one_line("plain"), "plain");
    }
}

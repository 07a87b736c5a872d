//! The library's decisions as data: the values and refusals that the tool prints, for people and for pipes.
//!
//! There is no rule in here. Each function calls one entry point of `spiffe-core` and gives names to what it says; the
//! code, section and message of a refusal are those of the broken [`Rule`].

pub mod bundle;
mod explain;
pub mod id;
pub mod inspect;
pub mod jwt;
pub mod x509;

use std::fmt;

use serde::Serialize;
use spiffe_core::{Authorizer, PeerFacts, Policy, Rule};

pub use explain::{MAX_EXPLANATION_BYTES, Node, document};

/// The most characters of a message: what a peer sends must not decide how long a line is.
const MAX_MESSAGE_CHARS: usize = 1000;

/// A decision against what was asked, with its stable code.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Refusal {
    /// The broken rule's code, or `usage`.
    pub code: &'static str,
    /// One line for people.
    pub message: String,
    /// The standard's section, where a standard's rule was broken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub section: Option<&'static str>,
    /// The nearest thing that would have passed, where the library knows one.
    #[serde(skip)]
    pub nearest: Option<String>,
    /// What the broken rule demands.
    #[serde(skip)]
    statement: &'static str,
}

impl Refusal {
    /// A broken rule in the library's words.
    pub fn new(rule: Rule, message: impl fmt::Display) -> Self {
        Self {
            code: rule.code(),
            message: one_line(&message.to_string()),
            section: rule.section(),
            nearest: None,
            statement: rule.statement(),
        }
    }

    /// A question that cannot be asked so.
    pub fn usage(message: impl fmt::Display) -> Self {
        Self {
            code: "usage",
            message: one_line(&message.to_string()),
            section: None,
            nearest: None,
            statement: "the question is well-formed",
        }
    }

    fn with_nearest(mut self, nearest: Option<String>) -> Self {
        self.nearest = nearest.as_deref().map(one_line);
        self
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Refusal {}

/// A decision with the rules that led to it, one tree per step.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Judged<V> {
    /// What was decided.
    pub verdict: Result<V, Refusal>,
    /// Why.
    pub steps: Vec<Node>,
}

impl<V> From<Result<V, Refusal>> for Judged<V> {
    fn from(verdict: Result<V, Refusal>) -> Self {
        let steps = verdict.as_ref().err().map(Node::refused);
        Self {
            verdict,
            steps: steps.into_iter().collect(),
        }
    }
}

impl<V> Judged<V> {
    /// Adds the decision of `policy` about a peer that was verified.
    fn and_authorize(mut self, policy: Option<&Policy>, facts: &PeerFacts<'_>) -> Self {
        let Some(policy) = policy.filter(|_| self.verdict.is_ok()) else {
            return self;
        };
        self.steps.push(Node::from(&policy.explain(facts)));
        if let Err(denied) = policy.authorize(facts) {
            let refusal = Refusal::new(denied.rule(), &denied);
            self.verdict = Err(refusal.with_nearest(denied.nearest));
        }
        self
    }
}

/// Reads a policy's text form.
///
/// # Errors
///
/// [`Rule::BadPolicy`].
pub fn policy(text: &str) -> Result<Policy, Refusal> {
    text.parse::<Policy>()
        .map_err(|error| Refusal::new(error.rule(), error))
}

/// Text as it may be shown on a terminal: control characters escaped, so that what a peer sends cannot act there.
pub fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    shown
}

/// Text for one line, cut where a message ends.
fn one_line(text: &str) -> String {
    match text.char_indices().nth(MAX_MESSAGE_CHARS) {
        None => printable(text),
        Some((end, _)) => printable(&text[..end]) + "…",
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

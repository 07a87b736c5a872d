//! Explanations: every rule that was tried, in order, with its outcome and what would have passed.
//!
//! A decision and its explanation come from the same code: verification reports each rule to a `Trace`, and the one
//! that verdicts use is empty and costs nothing.

#[cfg(feature = "svid")]
mod trace;

use std::fmt;

#[cfg(feature = "svid")]
pub(crate) use trace::{Collected, NoTrace, Trace};

use crate::Rule;

/// The most bytes of facts that one node keeps; what a peer sends must not decide how long the answer is.
const MAX_FACT_BYTES: usize = 1024;

/// How a rule came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a rule has no fourth outcome")]
pub enum Outcome {
    /// The rule holds.
    Pass,
    /// The rule is broken.
    Fail,
    /// The rule was not reached, does not apply, or was tried where another way was open.
    Skipped,
}

impl Outcome {
    /// The word used in data: `pass`, `fail`, `skipped`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::Skipped => "skipped",
        }
    }
}

/// One rule of a decision, with the rules below it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Explanation {
    /// The rule.
    pub rule: Rule,
    /// How it came out.
    pub outcome: Outcome,
    /// What was compared, in one line; never a secret.
    pub facts: String,
    /// The nearest thing that would have passed.
    pub nearest: Option<String>,
    /// The rules this one is made of, in the order they were tried.
    pub children: Vec<Self>,
}

impl Explanation {
    /// A node without children.
    pub(crate) fn leaf(rule: Rule, outcome: Outcome, facts: impl Into<String>) -> Self {
        Self {
            rule,
            outcome,
            facts: bounded(facts.into()),
            nearest: None,
            children: Vec::new(),
        }
    }

    /// The first rule that failed, deepest first: what the one-line error says.
    pub fn first_failure(&self) -> Option<&Self> {
        if self.outcome != Outcome::Fail {
            return None;
        }
        self.children
            .iter()
            .find_map(Self::first_failure)
            .or(Some(self))
    }

    fn draw(&self, f: &mut fmt::Formatter<'_>, depth: usize) -> fmt::Result {
        let mark = match self.outcome {
            Outcome::Pass => "ok  ",
            Outcome::Fail => "FAIL",
            Outcome::Skipped => "-   ",
        };
        write!(
            f,
            "{:indent$}{mark} {}",
            "",
            self.rule.statement(),
            indent = depth * 2
        )?;
        if let Some(section) = self.rule.section() {
            write!(f, " ({section})")?;
        }
        if !self.facts.is_empty() {
            write!(f, ": {}", self.facts)?;
        }
        writeln!(f)?;
        if let Some(nearest) = &self.nearest {
            writeln!(
                f,
                "{:indent$}     would pass: {nearest}",
                "",
                indent = depth * 2
            )?;
        }
        self.children
            .iter()
            .try_for_each(|child| child.draw(f, depth + 1))
    }
}

/// The tree as people read it, one rule a line.
impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.draw(f, 0)
    }
}

/// Cuts a text at [`MAX_FACT_BYTES`], on a character's boundary, and says so.
fn bounded(mut text: String) -> String {
    if text.len() <= MAX_FACT_BYTES {
        return text;
    }
    let end = (0..=MAX_FACT_BYTES)
        .rev()
        .find(|at| text.is_char_boundary(*at))
        .unwrap_or(0);
    text.truncate(end);
    text.push('…');
    text
}

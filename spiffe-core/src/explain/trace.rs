//! Where deciding code reports the rules it tries.

use super::{Explanation, Outcome, bounded};
use crate::Rule;

/// The most nodes of a tree; far above what the rules can fill, so it bounds mistakes.
const MAX_NODES: usize = 256;

/// Where deciding code reports the rules it tries.
pub(crate) trait Trace {
    /// A rule holds.
    fn pass(&mut self, rule: Rule, facts: impl FnOnce() -> String);

    /// A rule was tried and does not hold, which settles nothing: another way may lead on.
    fn skip(&mut self, rule: Rule, facts: impl FnOnce() -> String);

    /// A rule is broken.
    fn fail(
        &mut self,
        rule: Rule,
        facts: impl FnOnce() -> String,
        nearest: impl FnOnce() -> Option<String>,
    );
}

/// Reports nothing.
pub(crate) struct NoTrace;

impl Trace for NoTrace {
    fn pass(&mut self, _: Rule, _: impl FnOnce() -> String) {}

    fn skip(&mut self, _: Rule, _: impl FnOnce() -> String) {}

    fn fail(&mut self, _: Rule, _: impl FnOnce() -> String, _: impl FnOnce() -> Option<String>) {}
}

/// Collects nodes, in order.
#[derive(Debug, Default)]
pub(crate) struct Collected {
    nodes: Vec<Explanation>,
}

impl Collected {
    /// The tree under `rule`, which passed when nothing below it failed.
    pub(crate) fn into_tree(self, rule: Rule, facts: impl Into<String>) -> Explanation {
        let failed = self.nodes.iter().any(|node| node.outcome == Outcome::Fail);
        let outcome = if failed { Outcome::Fail } else { Outcome::Pass };
        Explanation {
            children: self.nodes,
            ..Explanation::leaf(rule, outcome, facts)
        }
    }

    /// Adds a node that was made elsewhere.
    pub(crate) fn push(&mut self, node: Explanation) {
        if self.nodes.len() < MAX_NODES {
            self.nodes.push(node);
        }
    }
}

impl Trace for Collected {
    fn pass(&mut self, rule: Rule, facts: impl FnOnce() -> String) {
        self.push(Explanation::leaf(rule, Outcome::Pass, facts()));
    }

    fn skip(&mut self, rule: Rule, facts: impl FnOnce() -> String) {
        // However many ways are tried, there is room for what is decided in the end.
        if self.nodes.len() < MAX_NODES / 2 {
            self.push(Explanation::leaf(rule, Outcome::Skipped, facts()));
        }
    }

    fn fail(
        &mut self,
        rule: Rule,
        facts: impl FnOnce() -> String,
        nearest: impl FnOnce() -> Option<String>,
    ) {
        self.push(Explanation {
            nearest: nearest().map(bounded),
            ..Explanation::leaf(rule, Outcome::Fail, facts())
        });
    }
}

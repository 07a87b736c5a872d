//! Explanations as data: `{rule, section, outcome, facts, nearest?, children}`, bounded in size.

use std::fmt;

use serde::Serialize;
use spiffe_core::{Explanation, Outcome};

use super::{Refusal, printable};

/// The most bytes of one explanation as JSON; beyond, nodes are left out and the root says `"truncated": true`.
pub const MAX_EXPLANATION_BYTES: usize = 64 * 1024;

/// One rule of an explanation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Node {
    /// The rule's code, or the name of the operation at the root.
    pub rule: &'static str,
    /// What the rule demands, for people.
    #[serde(skip)]
    pub statement: &'static str,
    /// The standard's section.
    pub section: Option<&'static str>,
    /// `pass`, `fail` or `skipped`.
    pub outcome: &'static str,
    /// What was compared.
    pub facts: String,
    /// The nearest thing that would have passed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nearest: Option<String>,
    /// The rules this one is made of, in the order they were tried.
    pub children: Vec<Self>,
    /// Whether nodes are missing; at the root only.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
}

impl Node {
    /// A rule that was broken before there was a tree of rules.
    pub(super) fn refused(refusal: &Refusal) -> Self {
        Self {
            rule: refusal.code,
            statement: refusal.statement,
            section: refusal.section,
            outcome: Outcome::Fail.as_str(),
            facts: refusal.message.clone(),
            nearest: refusal.nearest.clone(),
            children: Vec::new(),
            truncated: false,
        }
    }

    /// Draws the node behind `lead`; what is below it begins with `below`.
    fn draw(&self, f: &mut fmt::Formatter<'_>, lead: &str, below: &str) -> fmt::Result {
        let mark = match self.outcome {
            "pass" => "ok  ",
            "fail" => "FAIL",
            _ => "-   ",
        };
        write!(f, "{lead}{mark}  {}", self.statement)?;
        if let Some(section) = self.section {
            write!(f, " ({section})")?;
        }
        if !self.facts.is_empty() {
            write!(f, ": {}", printable(&self.facts))?;
        }
        writeln!(f)?;
        let bar = if self.children.is_empty() { " " } else { "│" };
        if let Some(nearest) = &self.nearest {
            writeln!(f, "{below}{bar}     would pass: {}", printable(nearest))?;
        }
        for (at, child) in self.children.iter().enumerate() {
            let (lead, bar) = if at + 1 == self.children.len() {
                ("└─ ", "   ")
            } else {
                ("├─ ", "│  ")
            };
            child.draw(f, &format!("{below}{lead}"), &format!("{below}{bar}"))?;
        }
        if self.truncated {
            writeln!(f, "{below}… the rest is left out")?;
        }
        Ok(())
    }

    /// The same node without its children, and what it costs as JSON.
    fn bare(&self) -> (Self, usize) {
        let bare = Self {
            children: Vec::new(),
            facts: self.facts.clone(),
            nearest: self.nearest.clone(),
            ..*self
        };
        // A node is strings only, so it has a JSON form.
        let bytes = serde_json::to_string(&bare).map_or(usize::MAX, |json| json.len() + 1);
        (bare, bytes)
    }

    /// Copies nodes in order while the budget lasts; `None` when not even this one fits.
    fn within(&self, budget: &mut usize, truncated: &mut bool) -> Option<Self> {
        let (mut copy, bytes) = self.bare();
        let Some(left) = budget.checked_sub(bytes) else {
            *truncated = true;
            return None;
        };
        *budget = left;
        for child in &self.children {
            copy.children.extend(child.within(budget, truncated));
        }
        Some(copy)
    }
}

/// The tree as people read it, one rule a line.
impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.draw(f, "", "")
    }
}

impl From<&Explanation> for Node {
    fn from(tree: &Explanation) -> Self {
        Self {
            rule: tree.rule.code(),
            statement: tree.rule.statement(),
            section: tree.rule.section(),
            outcome: tree.outcome.as_str(),
            facts: tree.facts.clone(),
            nearest: tree.nearest.clone(),
            children: tree.children.iter().map(Self::from).collect(),
            truncated: false,
        }
    }
}

/// One document of what happened in `operation`: the steps below a root that failed if one of them did.
pub fn document(operation: &'static str, steps: Vec<Node>) -> Node {
    let failed = |node: &&Node| node.outcome == Outcome::Fail.as_str();
    let outcome = if steps.iter().any(|node| failed(&node)) {
        Outcome::Fail
    } else {
        Outcome::Pass
    };
    let whole = Node {
        rule: operation,
        statement: operation,
        section: None,
        outcome: outcome.as_str(),
        facts: String::new(),
        nearest: None,
        children: steps,
        truncated: false,
    };
    // Room for `"truncated":true,` itself.
    let mut budget = MAX_EXPLANATION_BYTES - 64;
    let mut truncated = false;
    match whole.within(&mut budget, &mut truncated) {
        Some(bounded) => Node {
            truncated,
            ..bounded
        },
        None => whole.bare().0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(facts: usize, children: usize) -> Node {
        let refusal = Refusal::usage("x");
        let leaf = Node {
            facts: "\"".repeat(facts),
            ..Node::refused(&refusal)
        };
        Node {
            children: vec![leaf.clone(); children],
            ..leaf
        }
    }

    #[test]
    fn a_large_tree_is_cut_and_says_so() {
        let cut = document("x", vec![node(1000, 200)]);
        let json = serde_json::to_string(&cut).unwrap();
        assert!(cut.truncated && json.len() <= MAX_EXPLANATION_BYTES);
        assert!(json.len() > MAX_EXPLANATION_BYTES - 4000);
        let whole = document("x", vec![node(10, 5)]);
        assert!(!whole.truncated);
        assert_eq!(whole.children[0].children.len(), 5);
    }

    #[test]
    fn the_root_fails_when_a_step_does() {
        assert_eq!(document("x", Vec::new()).outcome, "pass");
        assert_eq!(document("x", vec![node(0, 0)]).outcome, "fail");
    }

    #[test]
    fn trees_are_drawn_with_their_branches() {
        let inner = Node {
            nearest: Some("y".into()),
            ..node(0, 2)
        };
        let drawn = document("op", vec![inner, node(1, 0)]).to_string();
        assert_eq!(
            drawn,
            "FAIL  op\n\
             ├─ FAIL  the question is well-formed\n\
             │  │     would pass: y\n\
             │  ├─ FAIL  the question is well-formed\n\
             │  └─ FAIL  the question is well-formed\n\
             └─ FAIL  the question is well-formed: \"\n"
        );
    }
}

//! The facts as they are observed: a line each for people, one JSON object for programs.

use serde_json::{Map, Value, json};
use spiffe_core::Rule;

/// Prints or collects facts.
pub(crate) struct Report {
    json: bool,
    facts: Map<String, Value>,
    refusals: Vec<Value>,
}

impl Report {
    pub(crate) fn new(json: bool) -> Self {
        Self {
            json,
            facts: Map::new(),
            refusals: Vec::new(),
        }
    }

    /// A heading or a hint: nothing that was observed.
    pub(crate) fn say(&self, text: &str) {
        if !self.json {
            println!("{text}");
        }
    }

    /// Something that was observed, in one line.
    pub(crate) fn fact(&self, text: &str) {
        self.say(&format!("  ok  {text}"));
    }

    /// The same as data.
    pub(crate) fn set(&mut self, name: &str, value: impl Into<Value>) {
        self.facts.insert(name.into(), value.into());
    }

    /// A refusal that was meant to happen.
    pub(crate) fn refusal(&mut self, what: &str, rule: Rule, message: &str) {
        self.fact(&format!("{what} is refused [{}]", rule.code()));
        self.say(&format!("      {message}"));
        self.refusals.push(json!({
            "code": rule.code(),
            "section": rule.section(),
            "message": message,
        }));
    }

    /// Prints what was collected.
    pub(crate) fn finish(&mut self, all_observed: bool) {
        self.set("ok", all_observed);
        let refusals = std::mem::take(&mut self.refusals);
        self.set("refusals", refusals);
        if self.json {
            println!("{}", Value::Object(std::mem::take(&mut self.facts)));
        }
    }
}

//! Rows and the JSON that `cargo xtask bench` reads.

use std::fs;
use std::process::Command;

use serde::Serialize;

/// What was measured, beside something else of the same run.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    row: String,
    unit: &'static str,
    ours: f64,
    against: String,
    against_value: f64,
    ratio: f64,
    budget: Option<String>,
    met: Option<bool>,
}

/// What a row may cost.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Budget {
    /// So many times the other's value.
    Ratio(f64),
    /// So many of the unit.
    AtMost(f64),
    /// So many of the unit more than the other's value.
    Beyond(f64),
    /// So many times the other's value, and so many of the unit on top.
    RatioAndBeyond(f64, f64),
}

impl Row {
    /// Ours against something, both in `unit`.
    pub(crate) fn new(
        row: &str,
        unit: &'static str,
        ours: f64,
        against: &str,
        against_value: f64,
        budget: impl Into<Option<Budget>>,
    ) -> Self {
        let budget = budget.into();
        Self {
            row: row.into(),
            unit,
            ours,
            against: against.into(),
            against_value,
            ratio: ours / against_value,
            budget: budget.map(|budget| budget.text(unit)),
            met: budget.map(|budget| ours <= budget.limit(against_value)),
        }
    }

    /// The row in one line, for whoever watches.
    pub(crate) fn line(&self) -> String {
        let verdict = match self.met {
            Some(true) => "met",
            Some(false) => "missed",
            None => "no budget",
        };
        format!(
            "{}: {:.4} {} against {:.4} ({}), ratio {:.4}, {verdict}",
            self.row, self.ours, self.unit, self.against_value, self.against, self.ratio
        )
    }
}

impl Budget {
    fn limit(self, against: f64) -> f64 {
        match self {
            Self::Ratio(ratio) => ratio * against,
            Self::AtMost(most) => most,
            Self::Beyond(beyond) => against + beyond,
            Self::RatioAndBeyond(ratio, beyond) => ratio * against + beyond,
        }
    }

    fn text(self, unit: &str) -> String {
        match self {
            Self::Ratio(ratio) => format!("{ratio} ×"),
            Self::AtMost(most) => format!("{most} {unit}"),
            Self::Beyond(beyond) => format!("+ {beyond} {unit}"),
            Self::RatioAndBeyond(ratio, beyond) => format!("{ratio} × + {beyond} {unit}"),
        }
    }
}

/// A whole run.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    machine: String,
    commit: String,
    command: String,
    rows: Vec<Row>,
}

impl Report {
    /// The rows with where they come from.
    pub(crate) fn new(rows: Vec<Row>) -> Self {
        Self {
            machine: machine(),
            commit: commit(),
            command: std::env::args().collect::<Vec<_>>().join(" "),
            rows,
        }
    }
}

/// Processor, how many of it, and how busy they were: figures without these say little.
fn machine() -> String {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("unknown processor", |(_, model)| model);
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or_default();
    format!("{model}, {processors} processors, load {load} at the end")
}

fn commit() -> String {
    let git = |args: &[&str]| {
        let output = Command::new("git").args(args).output().ok()?;
        output
            .status
            .success()
            .then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let Some(commit) = git(&["rev-parse", "--short=12", "HEAD"]) else {
        return "unknown".into();
    };
    match git(&["status", "--porcelain", "--untracked-files=no"]) {
        Some(changes) if !changes.is_empty() => format!("{commit} with changes"),
        _ => commit,
    }
}

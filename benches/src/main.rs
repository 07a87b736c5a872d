//! What the library costs, beside the floor of what must be done: `cargo xtask bench`.
//!
//! Every row compares two things in one run, so its ratio holds on any machine. A missed budget is shown, not failed.

mod areas;
mod fixtures;
mod heap;
mod measure;
mod report;

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use report::Report;

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some(areas::CLIENTS) {
        return ended(areas::clients());
    }
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(error) => {
            eprintln!("benches: {error}\n\n{HELP}");
            return ExitCode::from(2);
        }
    };
    ended(run(&options))
}

fn ended(outcome: Result<(), Box<dyn Error>>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("benches: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<(), Box<dyn Error>> {
    let mut rows = Vec::new();
    let chosen = areas::BENCHES
        .iter()
        .filter(|bench| bench.rows.iter().any(|row| options.wants(row)));
    for bench in chosen {
        if options.list {
            bench.rows.iter().for_each(|row| println!("{row}"));
            continue;
        }
        let measured = (bench.run)(options.effort())?;
        for row in &measured {
            eprintln!("{}", row.line());
        }
        rows.extend(measured);
    }
    if options.list {
        return Ok(());
    }
    if rows.is_empty() {
        return Err("no row has such a name; --list shows them".into());
    }
    let report = serde_json::to_string_pretty(&Report::new(rows))?;
    match &options.json {
        Some(path) => std::fs::write(path, report)?,
        None => println!("{report}"),
    }
    Ok(())
}

/// How much a row may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effort {
    /// How long to measure, preparation aside.
    pub(crate) span: Duration,
    /// How many rotations to put connections through, within `rotations_within`.
    pub(crate) rotations: u64,
    pub(crate) rotations_within: Duration,
    /// How many connections to hold open, and to keep busy.
    pub(crate) idle: usize,
    pub(crate) busy: usize,
}

#[derive(Debug, Default)]
struct Options {
    quick: bool,
    only: Option<String>,
    json: Option<PathBuf>,
    list: bool,
}

impl Options {
    fn parse(mut args: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = Self::default();
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or_else(|| format!("{arg} needs a value"));
            match arg.as_str() {
                "--quick" => options.quick = true,
                "--only" => options.only = Some(value()?),
                "--json" => options.json = Some(value()?.into()),
                "--list" => options.list = true,
                _ => return Err(format!("{arg} is not known")),
            }
        }
        Ok(options)
    }

    /// Whole parts of a name are asked for: `tls`, `tls/handshake`.
    fn wants(&self, row: &str) -> bool {
        self.only.as_ref().is_none_or(|only| {
            row.strip_prefix(only.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
    }

    fn effort(&self) -> Effort {
        if self.quick {
            Effort {
                span: Duration::from_millis(1500),
                rotations: 300,
                rotations_within: Duration::from_secs(120),
                idle: 1_000,
                busy: 100,
            }
        } else {
            Effort {
                span: Duration::from_secs(8),
                rotations: 10_000,
                rotations_within: Duration::from_secs(1200),
                idle: 10_000,
                busy: 1_000,
            }
        }
    }
}

const HELP: &str = "\
Usage: spiffe-benches [--quick] [--only AREA] [--json FILE] [--list]

  --quick      at most 5 s a row
  --only AREA  only rows whose names begin with these parts
  --json FILE  write the rows there instead of to standard output
  --list       print the names of the rows and measure nothing

Built with the feature `peers` it has rows against other libraries as well, under `peers`.";

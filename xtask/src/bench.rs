//! `cargo xtask bench`: runs the package in `benches/` and prints its rows as one table.
//!
//! Every row measures ours and something else (a peer, or the floor of what must be done) in the same run, so what
//! counts is the ratio. A missed budget is shown and does not fail: a busy machine must not turn a change red.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::run::{self, Failure};

pub(crate) fn run(args: &[String]) -> Result<(), Failure> {
    let options = Options::parse(args)?;
    let scratch = tempfile::tempdir()?;
    let json = match options.json {
        // Ours to resolve: cargo runs in the workspace's directory.
        Some(path) => std::path::absolute(path)?,
        None => scratch.path().join("rows.json"),
    };
    let mut command = run::cargo();
    command.args([
        "run",
        "--quiet",
        "--release",
        "--manifest-path",
        "benches/Cargo.toml",
        "--",
    ]);
    if options.quick {
        command.arg("--quick");
    }
    if let Some(area) = &options.only {
        command.args(["--only", area]);
    }
    run::succeed("benches", command.arg("--json").arg(&json))?;
    print!("{}", table(&read(&json)?)?);
    Ok(())
}

#[derive(Debug, Default, PartialEq)]
struct Options {
    quick: bool,
    only: Option<String>,
    json: Option<PathBuf>,
}

impl Options {
    fn parse(args: &[String]) -> Result<Self, Failure> {
        let mut options = Self::default();
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--quick" => options.quick = true,
                "--only" | "--json" => {
                    let value = args
                        .next()
                        .ok_or_else(|| Failure::Usage(format!("`{arg}` needs a value")))?;
                    if arg == "--only" {
                        options.only = Some(value.clone());
                    } else {
                        options.json = Some(value.into());
                    }
                }
                _ => return Err(Failure::Usage(format!("`bench` does not know `{arg}`"))),
            }
        }
        Ok(options)
    }
}

fn read(json: &Path) -> Result<Value, Failure> {
    let text = fs::read_to_string(json)
        .map_err(|error| Failure::Wrong(format!("benches wrote no rows: {error}")))?;
    serde_json::from_str(&text)
        .map_err(|error| Failure::Wrong(format!("benches wrote no JSON: {error}")))
}

/// Columns in the order of the JSON's documentation.
fn table(report: &Value) -> Result<String, Failure> {
    let rows = report["rows"].as_array().map_or(&[][..], Vec::as_slice);
    if rows.is_empty() {
        return Err(Failure::Wrong("benches measured nothing".into()));
    }
    let mut lines = vec![
        [
            "row",
            "unit",
            "ours",
            "against",
            "its value",
            "ratio",
            "budget",
            "met",
        ]
        .map(String::from),
    ];
    lines.extend(rows.iter().map(|row| {
        [
            "row",
            "unit",
            "ours",
            "against",
            "against_value",
            "ratio",
            "budget",
            "met",
        ]
        .map(|field| cell(&row[field]))
    }));
    let widths: [usize; COLUMNS] = std::array::from_fn(|column| {
        lines
            .iter()
            .map(|line| line[column].chars().count())
            .max()
            .unwrap_or(0)
    });

    let mut text = String::new();
    for field in ["machine", "commit", "command"] {
        text.push_str(&format!("{field}: {}\n", cell(&report[field])));
    }
    for line in &lines {
        let cells = line
            .iter()
            .zip(widths)
            .enumerate()
            .map(|(column, (cell, width))| {
                if NUMBERS.contains(&column) {
                    format!("{cell:>width$}")
                } else {
                    format!("{cell:<width$}")
                }
            });
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    let missed = rows
        .iter()
        .filter(|row| row["met"] == Value::Bool(false))
        .count();
    text.push_str(&format!("{} rows, {missed} over budget\n", rows.len()));
    Ok(text)
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::Bool(met) => if *met { "yes" } else { "no" }.into(),
        Value::String(text) => text.clone(),
        Value::Number(number) => number
            .as_f64()
            .map_or_else(|| number.to_string(), significant),
        Value::Array(_) | Value::Object(_) => value.to_string(),
    }
}

/// Four significant digits, and whole numbers as they are.
fn significant(number: f64) -> String {
    let magnitude = if number == 0.0 {
        0.0
    } else {
        number.abs().log10().floor()
    };
    if number.fract() == 0.0 || magnitude >= 3.0 {
        return format!("{number:.0}");
    }
    let decimals = (3.0 - magnitude).clamp(0.0, 9.0) as usize;
    format!("{number:.decimals$}")
}

const COLUMNS: usize = 8;
/// Columns that are aligned to the right.
const NUMBERS: [usize; 4] = [2, 4, 5, 6];

pub(crate) const HELP: &str = "\
Usage: cargo xtask bench [--quick] [--only AREA] [--json FILE]

Measures ours beside a peer or the floor in the same run and prints one table. A missed budget is shown, it does not fail.

  --quick      at most 5 s a row
  --only AREA  only rows of this area (the first part of a row's name)
  --json FILE  keep the rows
";

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_table_is_aligned_and_counts_what_was_missed() {
        let report = json!({
            "machine": "a box", "commit": "abc", "command": "bench",
            "rows": [
                {"row": "handshake/1", "unit": "µs", "ours": 612.25, "against": "rustls", "against_value": 600,
                 "ratio": 1.020_416, "budget": 1.01, "met": false},
                {"row": "rotation/failed", "unit": "handshakes", "ours": 0, "against": null, "against_value": null,
                 "ratio": null, "budget": "0", "met": true},
            ],
        });
        let text = table(&report).unwrap();
        assert_eq!(
            text,
            "\
machine: a box
commit: abc
command: bench
row              unit         ours  against  its value  ratio  budget  met
handshake/1      µs          612.2  rustls         600  1.020   1.010  no
rotation/failed  handshakes      0  -                -      -       0  yes
2 rows, 1 over budget
"
        );
    }

    #[test]
    fn no_rows_is_a_failure() {
        for report in [json!({}), json!({"rows": []}), json!({"rows": 1})] {
            assert!(matches!(table(&report), Err(Failure::Wrong(_))));
        }
    }

    #[test]
    fn numbers_keep_four_significant_digits() {
        for (number, text) in [
            (0.0, "0"),
            (0.001_234_56, "0.001235"),
            (1.0, "1"),
            (94.126, "94.13"),
            (1234.56, "1235"),
            (85_172.0, "85172"),
        ] {
            assert_eq!(significant(number), text);
        }
    }

    #[test]
    fn options_are_read() {
        let args = ["--quick", "--only", "handshake", "--json", "x.json"].map(String::from);
        assert_eq!(
            Options::parse(&args).unwrap(),
            Options {
                quick: true,
                only: Some("handshake".into()),
                json: Some("x.json".into()),
            }
        );
    }
}

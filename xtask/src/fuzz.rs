//! `cargo xtask fuzz`: every libFuzzer target of `fuzz/` for some seconds each.
//!
//! No nightly toolchain and no cargo-fuzz: the coverage that libFuzzer steers by is a pass of LLVM that any compiler runs.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use crate::run::{self, Failure};

pub(crate) fn run(args: &[String]) -> Result<(), Failure> {
    let wanted = Wanted::read(args)?;
    let host = host()?;
    let target = env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| run::root().join("fuzz/target"), PathBuf::from);
    let mut build = run::cargo();
    build
        .args([
            "build",
            "--quiet",
            "--locked",
            "--release",
            "--manifest-path",
            "fuzz/Cargo.toml",
        ])
        // With a target named, build scripts and macros stay as they are.
        .args(["--target", &host])
        .arg("--target-dir")
        .arg(&target)
        .env("RUSTFLAGS", FLAGS.join(" "));
    run::succeed("the build of the targets", &mut build)?;
    let programs = target.join(&host).join("release");
    let work = target.join("fuzz-work");
    let seeds = work.join("seeds");
    run::succeed(
        "the program that makes the seeds",
        Command::new(programs.join("seeds")).arg(&seeds),
    )?;
    let mut broken = Vec::new();
    for name in wanted.targets {
        let start = Instant::now();
        match fuzz(name, &programs, &work, wanted.seconds) {
            Ok(inputs) => println!(
                "{name}: good, {inputs} inputs, {} s",
                start.elapsed().as_secs()
            ),
            Err(why) => {
                println!("{name}: broken, {why}");
                broken.push(name);
            }
        }
    }
    if broken.is_empty() {
        Ok(())
    } else {
        Err(Failure::Wrong(format!("broken: {}", broken.join(", "))))
    }
}

/// Runs one target and gives the number of inputs that it judged.
fn fuzz(name: &str, programs: &Path, work: &Path, seconds: u64) -> Result<u64, String> {
    let say = |error: std::io::Error| error.to_string();
    // What is found goes here and is kept for the next run; the seeds are only read.
    let corpus = work.join("corpus").join(name);
    let artifacts = work.join("artifacts");
    for folder in [&corpus, &artifacts] {
        fs::create_dir_all(folder).map_err(say)?;
    }
    let output = Command::new(programs.join(name))
        .arg(format!("-max_total_time={seconds}"))
        .args(["-timeout=10", "-rss_limit_mb=2048", "-print_final_stats=1"])
        .arg(format!("-artifact_prefix={}/{name}-", artifacts.display()))
        .arg(&corpus)
        .arg(work.join("seeds").join(name))
        .output()
        .map_err(say)?;
    let told = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        let lines: Vec<&str> = told.lines().collect();
        let end = lines[lines.len().saturating_sub(40)..].join("\n");
        return Err(format!(
            "{}; the end of what it said:\n{end}",
            output.status
        ));
    }
    inputs(&told).ok_or_else(|| "it did not say how many inputs it judged".into())
}

/// The count in libFuzzer's closing statistics.
fn inputs(told: &str) -> Option<u64> {
    told.lines()
        .find_map(|line| line.strip_prefix("stat::number_of_executed_units:"))?
        .trim()
        .parse()
        .ok()
}

struct Wanted {
    seconds: u64,
    targets: Vec<&'static str>,
}

impl Wanted {
    fn read(args: &[String]) -> Result<Self, Failure> {
        let mut seconds = 60;
        let mut targets = Vec::new();
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            if arg == "--seconds" {
                seconds = args
                    .next()
                    .and_then(|text| text.parse().ok())
                    .filter(|seconds| *seconds > 0)
                    .ok_or_else(|| Failure::Usage("`--seconds` takes a number above 0".into()))?;
            } else if let Some(known) = TARGETS.iter().find(|known| *known == arg) {
                targets.push(*known);
            } else {
                return Err(Failure::Usage(format!("no target is called `{arg}`")));
            }
        }
        if targets.is_empty() {
            targets = TARGETS.to_vec();
        }
        Ok(Self { seconds, targets })
    }
}

/// The machine's own target triple.
fn host() -> Result<String, Failure> {
    let output = Command::new(env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()))
        .arg("-vV")
        .output()?;
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .map(str::to_owned)
        .ok_or_else(|| Failure::Wrong("rustc does not name its host".into()))
}

/// Counters of every edge, the table of their places, and the operands of comparisons.
const FLAGS: &[&str] = &[
    "--cfg fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
];

const TARGETS: &[&str] = &[
    "spiffe_id",
    "policy",
    "bundle_json",
    "jwks",
    "pem",
    "x509_svid",
    "workload_update",
    "workload_frames",
    "jwt_svid",
    "verify_chain",
];

pub(crate) const HELP: &str = "\
Usage: cargo xtask fuzz [--seconds N] [TARGET...]

Runs the libFuzzer targets, all of them when none is named, for N seconds each (60 when not said), from a seed corpus that a
program makes: spiffe_id, policy, bundle_json, jwks, pem, x509_svid, workload_update, workload_frames, jwt_svid, verify_chain.
Needs a C++ compiler.
What is found stays in the target directory under fuzz-work: the corpus for the next run, and inputs that break a property
under artifacts.
";

#[cfg(test)]
mod tests {
    use super::*;

    fn read(args: &[&str]) -> Result<Wanted, Failure> {
        Wanted::read(&args.iter().map(|&arg| arg.to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn all_targets_run_for_a_minute_unless_said() {
        let all = read(&[]).unwrap();
        assert_eq!((all.seconds, all.targets.as_slice()), (60, TARGETS));
        let one = read(&["--seconds", "5", "jwks"]).unwrap();
        assert_eq!((one.seconds, one.targets.as_slice()), (5, &["jwks"][..]));
        for args in [&["--seconds"][..], &["--seconds", "0"], &["nothing"]] {
            assert!(matches!(read(args), Err(Failure::Usage(_))), "{args:?}");
        }
    }

    #[test]
    fn every_target_is_built_and_named_in_the_help() {
        let manifest = fs::read_to_string(run::root().join("fuzz/Cargo.toml")).unwrap();
        for name in TARGETS {
            assert!(manifest.contains(&format!("path = \"targets/{name}.rs\"")));
            assert!(HELP.contains(name));
        }
        assert_eq!(manifest.matches("path = \"targets/").count(), TARGETS.len());
    }

    #[test]
    fn the_number_of_inputs_is_read_from_the_statistics() {
        let told =
            "#2\tDONE\nstat::number_of_executed_units: 1234\nstat::average_exec_per_sec:     9\n";
        assert_eq!(inputs(told), Some(1234));
        assert_eq!(inputs("Done 3 runs"), None);
    }
}

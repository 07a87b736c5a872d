//! `cargo xtask interop`: our programs against foreign ones, by the package in `interop/`.

use crate::run::{self, Failure};

pub(crate) fn run(args: &[String]) -> Result<(), Failure> {
    let mut command = run::cargo();
    command
        .args([
            "run",
            "--quiet",
            "--manifest-path",
            "interop/Cargo.toml",
            "--",
        ])
        .args(args);
    run::succeed("interop", &mut command)
}

pub(crate) const HELP: &str = "\
Usage: cargo xtask interop [CASE | GROUP...]

Runs our programs against go-spiffe, py-spiffe, OpenSSL, curl, nginx, SPIRE and others, and replays the catalogue of the public
conformance suite (group `conformance`; on go-spiffe `conformance-go`). All but the long cases run unless some are named; --list shows
them. What is missing is installed by package name where possible; SPIRE is built from its Go module, which takes some ten
minutes and 5 GB once. A case whose program is missing is skipped with the reason; with CI=true in the environment a skip
fails.
";

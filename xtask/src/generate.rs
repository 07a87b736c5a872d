//! `cargo xtask gen`: writes the conformance page, and the committed Rust of `proto/src/` from `proto/proto/`.
//!
//! The latter is done by the crate in `xtask/gen`, a program of its own so that its dependencies are built only when needed.

use std::path::Path;

use crate::conformance;
use crate::run::{self, Failure};

pub(crate) fn run(args: &[String]) -> Result<(), Failure> {
    run::expect_no_arguments("gen", args)?;
    conformance::generate(&run::root())?;
    generate_into(&run::root().join(GENERATED))
}

/// Runs the generator.
///
/// # Errors
///
/// When it cannot be built or refuses a definition.
pub(crate) fn generate_into(out: &Path) -> Result<(), Failure> {
    let mut command = run::cargo();
    command
        // Another version of the generator writes other code.
        .args([
            "run",
            "--quiet",
            "--locked",
            "--manifest-path",
            "xtask/gen/Cargo.toml",
            "--",
        ])
        .arg("proto/proto")
        .arg(out);
    run::succeed("the generator", &mut command)
}

/// Where the committed code is, from the workspace's directory.
pub(crate) const GENERATED: &str = "proto/src";

pub(crate) const HELP: &str = "\
Usage: cargo xtask gen

Writes the Rust of proto/src/ from the definitions in proto/proto/, and docs/reference/conformance.md from the rows beside it.
No protoc is needed. Commit what changed.
";

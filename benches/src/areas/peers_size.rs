//! How large a program becomes that says hello over mutual TLS, beside the same one without this library: `size/`. Fat LTO,
//! stripped. Built with the feature `peers` alone, since each of the four builds takes minutes.

use std::env;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::Measured;
use crate::Effort;
use crate::report::{Budget, Row};

pub(crate) const SMALL: &str = "peers/size/opt-level-s";
pub(crate) const FAST: &str = "peers/size/opt-level-3";

/// Megabytes, of a million bytes each.
pub(crate) fn sizes(_: Effort) -> Measured {
    let rows = [
        (SMALL, "small", Budget::AtMost(3.5)),
        (FAST, "release", Budget::Ratio(1.15)),
    ];
    rows.into_iter()
        .map(|(name, profile, budget)| {
            let (ours, bare) = (size("size-ours", profile)?, size("size-bare", profile)?);
            let against = "tonic, tokio-rustls and AWS-LC alone";
            Ok(Row::new(name, "MB", ours, against, bare, budget))
        })
        .collect()
}

fn size(package: &str, profile: &str) -> Result<f64, Box<dyn Error>> {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/size"));
    let built = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["build", "--quiet", "--locked", "--profile", profile])
        .args(["--package", package])
        .current_dir(folder)
        .status()?;
    if !built.success() {
        return Err(format!("{package} does not build").into());
    }
    let target =
        env::var_os("CARGO_TARGET_DIR").map_or_else(|| folder.join("target"), PathBuf::from);
    let program = target.join(profile).join(package);
    Ok(fs::metadata(program)?.len() as f64 / 1e6)
}

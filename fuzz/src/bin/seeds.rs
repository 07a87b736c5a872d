//! Writes the seed corpus: `seeds DIRECTORY` makes a folder for each target in it.
#![forbid(unsafe_code)]

use std::env;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

// Instrumented code calls into libFuzzer, also where libFuzzer does not drive it.
use libfuzzer_sys as _;
use spiffe_fuzz::{Seed, seeds};

fn main() -> ExitCode {
    let arguments: Vec<_> = env::args_os().skip(1).collect();
    let [directory] = &arguments[..] else {
        eprintln!("usage: seeds DIRECTORY");
        return ExitCode::from(2);
    };
    match write(PathBuf::from(directory)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{}: {why}", directory.display());
            ExitCode::FAILURE
        }
    }
}

fn write(directory: PathBuf) -> io::Result<()> {
    for (number, Seed { target, bytes }) in seeds().into_iter().enumerate() {
        let folder = directory.join(target);
        fs::create_dir_all(&folder)?;
        fs::write(folder.join(format!("seed-{number:03}")), bytes)?;
    }
    Ok(())
}

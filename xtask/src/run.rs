//! What the verbs share: where the workspace is, how a program is run, how a chore fails.

use std::env;
use std::io;
use std::path::PathBuf;
use std::process::Command;

/// Why a chore did not succeed, in one line.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The chore ran and found something wrong, or could not run.
    Wrong(String),
    /// The arguments are wrong.
    Usage(String),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Wrong(error.to_string())
    }
}

/// The workspace's directory.
pub(crate) fn root() -> PathBuf {
    // Cargo sets the variable for what it runs; the built-in path serves a program called directly.
    let xtask = env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    xtask
        .parent()
        .map_or_else(|| PathBuf::from("."), PathBuf::from)
}

/// The cargo that runs us, started in the workspace's directory.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    // These describe xtask itself; a build script that saw them change would run again.
    for (name, _) in env::vars_os() {
        if name.to_string_lossy().starts_with("CARGO_PKG_") {
            command.env_remove(name);
        }
    }
    command.env_remove("CARGO_MANIFEST_DIR");
    command.env_remove("CARGO_MANIFEST_PATH");
    command
}

/// Runs a program with our input and output.
///
/// # Errors
///
/// [`Failure::Wrong`] when it cannot be started or does not succeed.
pub(crate) fn succeed(what: &str, command: &mut Command) -> Result<(), Failure> {
    let status = command
        .status()
        .map_err(|error| Failure::Wrong(format!("cannot start {what}: {error}")))?;
    if status.success() {
        Ok(())
    } else {
        Err(Failure::Wrong(format!("{what} failed ({status})")))
    }
}

/// For verbs without arguments.
///
/// # Errors
///
/// [`Failure::Usage`] when there is one.
pub(crate) fn expect_no_arguments(verb: &str, args: &[String]) -> Result<(), Failure> {
    match args.first() {
        None => Ok(()),
        Some(arg) => Err(Failure::Usage(format!(
            "`{verb}` takes no argument, not `{arg}`"
        ))),
    }
}

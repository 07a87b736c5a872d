//! `spiffe`: the tool for people, and for pipes.
//!
//! One file per family of verbs. Each reads its arguments and files, calls one entry point of the library and prints what it says.

mod batch;
mod bundle;
mod ca;
mod connect;
mod drill;
mod fetch;
mod id;
mod input;
mod jwt;
mod output;
mod run;
mod up;
mod watch;
mod why;
mod x509;

use std::io::{self, IsTerminal};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use output::{Failure, Format, Output};

/// SPIFFE for people: run a trust domain, look at what it issues, verify it, ask why something was refused.
///
/// Every verdict is the library's own: what this tool accepts, a service built on the library accepts, and the other
/// way round. 'up' serves a Workload API; 'fetch', 'watch', 'run' and 'drill' ask one; only 'up', 'ca', 'run' and
/// 'fetch --write' write files.
///
/// Exit status: 0 good, 1 judged bad or failed, 2 wrong usage. An error is one line on standard error.
#[derive(Parser)]
#[command(name = "spiffe", version, max_term_width = 110)]
#[command(after_help = "Examples:
  spiffe id parse spiffe://example.org/web
  spiffe x509 verify chain.pem --bundle example.org=bundle.pem --authorize domain:example.org
  spiffe why chain.pem --bundle example.org=bundle.json --at 2026-11-20T08:00:00Z
  echo '{\"case\":\"1\",\"op\":\"id.parse\",\"text\":\"spiffe://example.org/web\"}' | spiffe batch")]
struct Cli {
    /// How to print the result: aligned text, or one JSON object on one line
    #[arg(long, global = true, value_enum, default_value_t = Format::Text, value_name = "FORMAT")]
    output: Format,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    Up(up::Up),
    Fetch(fetch::Arguments),
    Watch(watch::Arguments),
    Run(run::Arguments),
    /// Rehearse what may go wrong
    #[command(subcommand)]
    Drill(drill::Verb),
    /// Take SPIFFE IDs apart
    #[command(subcommand)]
    Id(id::Verb),
    /// Verify and inspect X509-SVIDs
    #[command(subcommand)]
    X509(x509::Verb),
    /// Verify and inspect JWT-SVIDs
    #[command(subcommand)]
    Jwt(jwt::Verb),
    /// Show, convert and compare bundles
    #[command(subcommand)]
    Bundle(bundle::Verb),
    /// Run a trust domain's CA in a directory: issue SVIDs to files, rotate authorities, read the log
    #[command(subcommand)]
    Ca(ca::Verb),
    Why(why::Arguments),
    Batch(batch::Arguments),
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return output::usage(&error),
    };
    let output = Output::new(cli.output);
    let done = match cli.verb {
        Verb::Up(up) => {
            log_to_stderr("info");
            up.run(output)
                .map_err(|error| match error.downcast::<Usage>() {
                    Ok(usage) => Failure::usage(usage),
                    Err(error) => Failure::failed(error),
                })
        }
        Verb::Fetch(arguments) => fetch::run(arguments, &output),
        Verb::Watch(arguments) => watch::run(&arguments, &output),
        Verb::Run(arguments) => run::run(&arguments),
        Verb::Drill(verb) => drill::run(verb, &output),
        Verb::Id(verb) => id::run(verb, &output),
        Verb::X509(verb) => x509::run(verb, &output),
        Verb::Jwt(verb) => jwt::run(verb, &output),
        Verb::Bundle(verb) => bundle::run(verb, &output),
        Verb::Ca(verb) => ca::run(verb, &output),
        Verb::Why(arguments) => why::run(&arguments, &output),
        Verb::Batch(arguments) => batch::run(&arguments),
    };
    done.map_or_else(Failure::report, |()| ExitCode::SUCCESS)
}

/// What is wrong with the command line, beyond what its parser sees.
#[derive(Debug)]
struct Usage(String);

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// Sends the libraries' events to standard error: those that `RUST_LOG` chooses, or from this level on.
fn log_to_stderr(level: &str) {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(level));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .init();
}

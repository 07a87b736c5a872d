//! What foreign programs make of ours: go-spiffe, py-spiffe, OpenSSL, curl, nginx, Envoy, Java, zlint, pkilint and SoftHSM against
//! `spiffe up`, `spiffe ca`, `spiffe fetch` and the examples, all as processes; ours against SPIRE and spiffe-helper; and the
//! public conformance suite's catalogue, replayed. Builds our binaries and installs what is missing by package name.
//!
//! `cargo run --manifest-path interop/Cargo.toml -- [--list] [CASE | GROUP...]`: a line for each case, then the counts. Exit status 0
//! when nothing failed, 1 when something did or, with `CI=true`, was skipped, 2 for an unknown case.

mod conformance;
mod crash;
mod curl;
mod delivered;
mod envoy;
mod go;
mod judges;
mod lab;
mod modes;
mod nginx;
mod openssl;
mod oracles;
mod ours;
mod outcome;
mod process;
mod python;
mod rollover;
mod softhsm;
mod spire;
mod tls;
mod world;

use std::env;
use std::process::ExitCode;
use std::time::Instant;

use crate::lab::Lab;
use crate::outcome::{Tally, Trouble};

/// What is checked, as tables have it.
type Check = fn(&Lab) -> Result<(), Trouble>;

/// What is checked, with what it is checked on.
type AnyCheck = Box<dyn Fn(&Lab) -> Result<(), Trouble>>;

/// One check, by the name it is asked for on the command line: its own, or that of its group before a `/`.
struct Case {
    name: String,
    /// Only run when it is named.
    long: bool,
    run: AnyCheck,
}

impl Case {
    fn new(name: impl Into<String>, run: impl Fn(&Lab) -> Result<(), Trouble> + 'static) -> Self {
        Self {
            name: name.into(),
            long: false,
            run: Box::new(run),
        }
    }

    fn long(name: &str, run: Check) -> Self {
        Self {
            long: true,
            ..Self::new(name, run)
        }
    }

    fn is_called(&self, name: &str) -> bool {
        let rest = self.name.strip_prefix(name);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let fixed = [
        go::CASES,
        modes::CASES,
        oracles::CASES,
        python::CASES,
        openssl::CASES,
        curl::CASES,
        spire::CASES,
        tls::CASES,
        judges::CASES,
        nginx::CASES,
        softhsm::CASES,
        crash::CASES,
        delivered::CASES,
    ];
    let long = [judges::LONG, crash::LONG].into_iter().flatten();
    let fixed = fixed.into_iter().flatten();
    let all: Vec<Case> = fixed
        .map(|(name, check)| Case::new(*name, *check))
        .chain(long.map(|(name, check)| Case::long(name, *check)))
        .chain(rollover::cases())
        .chain(conformance::cases())
        .collect();
    if arguments == ["--list"] {
        all.iter().for_each(|case| println!("{}", case.name));
        return ExitCode::SUCCESS;
    }
    if let Some(unknown) = arguments
        .iter()
        .find(|name| all.iter().all(|case| !case.is_called(name)))
    {
        eprintln!("no case is called `{unknown}`; --list shows those there are");
        return ExitCode::from(2);
    }
    let lab = match Lab::open() {
        Ok(lab) => lab,
        Err(why) => {
            eprintln!("{why}");
            return ExitCode::FAILURE;
        }
    };
    let mut tally = Tally::default();
    for case in all {
        let named = arguments.iter().any(|name| case.is_called(name));
        if !(named || arguments.is_empty() && !case.long) {
            continue;
        }
        let start = Instant::now();
        let outcome = (case.run)(&lab);
        tally.count(&outcome);
        match outcome {
            Ok(()) => println!("pass {} {:.1} s", case.name, start.elapsed().as_secs_f64()),
            Err(Trouble::Failed(why)) => println!("FAIL {}: {why}", case.name),
            Err(Trouble::Missing(why)) => println!("skip {}: {why}", case.name),
        }
    }
    println!("{tally}");
    if tally.is_good(env::var_os("CI").is_some_and(|value| value == "true")) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

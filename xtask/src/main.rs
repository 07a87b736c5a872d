//! The project's own chores, run as `cargo xtask VERB`. One module per verb.
#![forbid(unsafe_code)]

mod bench;
mod check;
mod conformance;
mod fuzz;
mod generate;
mod interop;
mod run;
mod soak;

use std::env;
use std::process::ExitCode;

use run::Failure;

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    match dispatch(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Wrong(why)) => {
            eprintln!("xtask: {why}");
            ExitCode::from(1)
        }
        Err(Failure::Usage(why)) => {
            eprintln!("xtask: {why}; try `cargo xtask --help`");
            ExitCode::from(2)
        }
    }
}

fn dispatch(args: &[String]) -> Result<(), Failure> {
    let Some((verb, rest)) = args.split_first() else {
        return Err(Failure::Usage("which chore?".into()));
    };
    if ["-h", "--help", "help"].contains(&verb.as_str()) {
        print!("{HELP}");
        return Ok(());
    }
    let verb = VERBS
        .iter()
        .find(|known| known.name == verb)
        .ok_or_else(|| Failure::Usage(format!("no chore is called `{verb}`")))?;
    if rest.iter().any(|arg| arg == "-h" || arg == "--help") {
        print!("{}", verb.help);
        return Ok(());
    }
    (verb.run)(rest)
}

struct Verb {
    name: &'static str,
    help: &'static str,
    run: fn(&[String]) -> Result<(), Failure>,
}

const VERBS: &[Verb] = &[
    Verb {
        name: "gen",
        help: generate::HELP,
        run: generate::run,
    },
    Verb {
        name: "check",
        help: check::HELP,
        run: check::run,
    },
    Verb {
        name: "bench",
        help: bench::HELP,
        run: bench::run,
    },
    Verb {
        name: "fuzz",
        help: fuzz::HELP,
        run: fuzz::run,
    },
    Verb {
        name: "interop",
        help: interop::HELP,
        run: interop::run,
    },
    Verb {
        name: "soak",
        help: soak::HELP,
        run: soak::run,
    },
];

const HELP: &str = "\
Usage: cargo xtask VERB [ARGUMENTS]

  gen       write what is generated and committed: the Rust of proto/, the conformance page
  check     what compilers do not: generated code, links, file heads, code in documents, conformance
  bench     measure ours beside the peer or the floor, one table
  fuzz      search for inputs that break a parser's or a verifier's promises
  interop   our programs against foreign ones
  soak      the long forms of what CI runs briefly

Each takes --help. Exit status: 0 good, 1 failed, 2 wrong usage.
";

#[cfg(test)]
mod tests {
    use super::*;

    fn call(args: &[&str]) -> Result<(), Failure> {
        dispatch(&args.iter().map(|&arg| arg.to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn the_help_lists_every_verb() {
        let listed: Vec<&str> = HELP
            .lines()
            .filter_map(|line| line.strip_prefix("  ")?.split_whitespace().next())
            .collect();
        let known: Vec<&str> = VERBS.iter().map(|verb| verb.name).collect();
        assert_eq!(listed, known);
    }

    #[test]
    fn every_verb_has_help_that_begins_with_its_usage() {
        for verb in VERBS {
            let usage = format!("Usage: cargo xtask {}", verb.name);
            assert!(verb.help.starts_with(&usage), "{}", verb.name);
            assert!(call(&[verb.name, "--help"]).is_ok());
        }
    }

    #[test]
    fn wrong_usage_is_told_apart_from_failure() {
        for args in [
            &[][..],
            &["polish"],
            &["gen", "now"],
            &["check", "--fast"],
            &["bench", "--only"],
            &["bench", "--slow"],
            &["soak", "nothing-of-that-name"],
        ] {
            assert!(matches!(call(args), Err(Failure::Usage(_))), "{args:?}");
        }
    }
}

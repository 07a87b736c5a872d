//! `cargo xtask soak`: the long forms of what CI runs briefly, started by hand.

use crate::run::{self, Failure};

pub(crate) fn run(args: &[String]) -> Result<(), Failure> {
    if args.is_empty() {
        print!("{HELP}\nSoaks:\n");
        for soak in SOAKS {
            println!(
                "  {:<12} {} (cargo {})",
                soak.name,
                soak.shows,
                soak.cargo.join(" ")
            );
        }
        return Ok(());
    }
    // All names are looked at first: a typing error shall not surface after an hour.
    let chosen = args
        .iter()
        .map(|name| find(name))
        .collect::<Result<Vec<_>, _>>()?;
    for soak in chosen.into_iter().flatten() {
        println!("soak {}: {}", soak.name, soak.shows);
        let environment = soak.environment.iter().copied();
        run::succeed(soak.name, run::cargo().args(soak.cargo).envs(environment))?;
    }
    Ok(())
}

fn find(name: &str) -> Result<&'static [Soak], Failure> {
    if name == "all" {
        return Ok(SOAKS);
    }
    SOAKS
        .iter()
        .find(|soak| soak.name == name)
        .map(std::slice::from_ref)
        .ok_or_else(|| Failure::Usage(format!("no soak is called `{name}`")))
}

/// One long run: arguments to cargo, success by its exit status.
struct Soak {
    name: &'static str,
    shows: &'static str,
    cargo: &'static [&'static str],
    environment: &'static [(&'static str, &'static str)],
}

const SOAKS: &[Soak] = &[
    Soak {
        name: "quickstart",
        shows: "a minute of rotations and rollover under load, no handshake failed",
        cargo: &[
            "run",
            "--release",
            "--bin",
            "quickstart",
            "--",
            "--seconds",
            "60",
        ],
        environment: &[],
    },
    Soak {
        name: "rollover",
        shows: "a thousand rollovers with consumers that lag, die and lie, no verification failed",
        cargo: &[
            "test",
            "--release",
            "-p",
            "spiffe-testkit",
            "--test",
            "rollover",
            "--",
            "--nocapture",
        ],
        environment: &[("SPIFFE_ROLLOVERS", "1000")],
    },
    Soak {
        name: "rotation",
        shows: "10,000 rotations under 8 dialers over TCP, with and without resumption, no handshake failed",
        cargo: &["xtask", "bench", "--only", "tls/rotation"],
        environment: &[],
    },
    Soak {
        name: "defederation",
        shows: "10,000 idle and 1,000 busy connections over TCP when a trust domain goes: nothing lost, nothing late",
        cargo: &["xtask", "bench", "--only", "tls/defederated"],
        environment: &[],
    },
    Soak {
        name: "bench",
        shows: "every bench at full length",
        cargo: &["xtask", "bench"],
        environment: &[],
    },
    Soak {
        name: "crash",
        shows: "the CA killed at every system call that writes, and started again",
        cargo: &["xtask", "interop", "ca-killed-everywhere"],
        environment: &[],
    },
    Soak {
        name: "judges",
        shows: "what is issued judged by others: all keys, depths 1 to 4, confined and not",
        cargo: &["xtask", "interop", "judges-everything"],
        environment: &[],
    },
    Soak {
        name: "mutants",
        shows: "faults put into the core one by one: its tests notice (cargo install cargo-mutants; hours)",
        cargo: &["mutants"],
        environment: &[],
    },
];

pub(crate) const HELP: &str = "\
Usage: cargo xtask soak [NAME... | all]

Runs the named soaks one after another; without a name, lists them. Run on an idle machine.
";

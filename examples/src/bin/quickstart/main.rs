//! The whole of SPIFFE in one process, over real sockets: two federated trust domains and one outside, SVIDs from the
//! Workload API, mutual TLS, rotation and rollover under load, tokens, and refusals that explain themselves.
//!
//! `cargo run --release --bin quickstart`; `-- --help` shows how to scale it up to a soak. Exit status 0 means that
//! the program itself observed everything it printed. Next: `helloworld_server` and `helloworld_client`.

mod acts;
mod load;
mod report;
mod world;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use report::Report;
use spiffe_examples::{interrupted, log_to_stderr};
use world::World;

/// What an act returns: nothing, or what was not observed.
type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

/// Shows two federated trust domains at work and checks everything it shows.
#[derive(Parser)]
struct Arguments {
    /// How to print the facts.
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
    /// Rotations of all SVIDs, one every 100 ms, while clients connect.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    rotations: u64,
    /// Goes on rotating and rolling authorities over until this many seconds have passed.
    #[arg(long, default_value_t = 0)]
    seconds: u64,
    /// Clients that keep opening connections.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=256))]
    clients: u16,
    /// Leaves the Workload APIs up afterwards, until Ctrl-C.
    #[arg(long)]
    keep: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Json,
    Text,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    log_to_stderr();
    let mut report = Report::new(arguments.output == Output::Json);
    let outcome = run(&arguments, &mut report).await;
    if let Err(error) = &outcome {
        eprintln!("error: not observed: {error}");
    }
    report.finish(outcome.is_ok());
    match outcome {
        Ok(world) => {
            if arguments.keep {
                // With JSON the object above has the endpoint, and nothing else belongs on that stream.
                report.say(&world.announcement());
                // Nothing is left to be reported; the directory goes either way.
                let _ = interrupted().await;
            }
            world.stop().await;
            ExitCode::SUCCESS
        }
        Err(_) => ExitCode::FAILURE,
    }
}

async fn run(arguments: &Arguments, report: &mut Report) -> Outcome<World> {
    let world = World::start().await?;
    acts::introduce(&world, report)?;
    acts::hello(&world, report).await?;
    let seconds = Duration::from_secs(arguments.seconds);
    acts::rotate_and_roll_over(
        &world,
        report,
        arguments.rotations,
        seconds,
        arguments.clients,
    )
    .await?;
    acts::token(&world, report).await?;
    acts::refusals(&world, report).await?;
    acts::whats_next(&world, report);
    Ok(world)
}

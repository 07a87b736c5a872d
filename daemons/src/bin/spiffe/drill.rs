//! `spiffe drill`: rehearsals.

use std::time::Duration;

use clap::{Args, Subcommand};
use spiffe_daemons::drill::{Outage, Report};
use spiffe_daemons::workload::span;

use super::input::{self, WorkloadApi};
use super::output::{Failure, Output, block_on, table};

/// Rehearsals of what may go wrong.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    Outage(Arguments),
}

/// Withhold the Workload API from an identity, and see whether it survives as long as predicted
///
/// A source of this command follows the Workload API through a socket of its own; then the socket is taken away, and the SVID is
/// verified twice a second as a peer would verify it. Nobody else is touched, and nothing is kept. With --speed the clock of
/// the rehearsal runs faster while the Workload API is withheld.
///
/// Exit status 0 when prediction and observation agree within a second.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  spiffe drill outage --speed 600
  spiffe drill outage --for 10m
  spiffe drill outage --for 8h --speed 1000 --output json")]
pub(crate) struct Arguments {
    #[command(flatten)]
    api: WorkloadApi,
    /// How long to withhold the Workload API, by the clock of the rehearsal; until the identity ends unless given
    #[arg(long = "for", value_name = "DURATION", value_parser = input::duration)]
    lasts: Option<Duration>,
    /// How many times faster the clock runs meanwhile
    #[arg(long, value_name = "TIMES", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    speed: u32,
}

pub(crate) fn run(Verb::Outage(arguments): Verb, output: &Output) -> Result<(), Failure> {
    block_on(async {
        let mut outage = Outage::new(arguments.api.endpoint()?);
        outage.timeout = arguments.api.timeout();
        outage.lasts = arguments.lasts;
        outage.speed = arguments.speed;
        let report = outage.rehearse().await.map_err(Failure::failed)?;
        let agree = report.agree;
        output.verdict(Ok(report), describe)?;
        if agree {
            Ok(())
        } else {
            Err(Failure::failed(
                "prediction and observation differ by more than a second; the clock may have been set meanwhile",
            ))
        }
    })
}

fn describe(report: &Report) -> String {
    let lasts = |seconds| span(Duration::from_secs(seconds));
    let observed = if report.survived {
        format!(
            "at least {}: the outage ended first",
            lasts(report.observed_s)
        )
    } else {
        format!(
            "{}, until {}",
            lasts(report.observed_s),
            report.observed_until
        )
    };
    table(&[
        ("identity", report.id.clone()),
        ("withheld at", report.withheld_at.clone()),
        (
            "predicted survival",
            format!("{}, {}", lasts(report.predicted_s), report.prediction),
        ),
        ("observed survival", observed),
    ])
}

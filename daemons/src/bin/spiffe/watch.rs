//! `spiffe watch`: what this user holds, as it changes.

use std::fmt::Write as _;
use std::io::{self, IsTerminal};
use std::time::Duration;

use clap::Args;
use spiffe_core::{Clock, Source, SystemClock, Timestamp, Watch};
use spiffe_daemons::verdict::printable;
use spiffe_daemons::workload::{Watched, span};
use spiffe_workload_client::X509Source;

use super::input::WorkloadApi;
use super::output::{Failure, Output, block_on, stopped};

/// Show the SVIDs and bundles of this user as they change, and how the Workload API fares
///
/// On a terminal it is a table that is drawn anew each second, else a line for each change, or with --output json an object.
/// It goes on until it is stopped, whatever the Workload API does.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  spiffe watch
  spiffe watch --socket /run/spire/agent.sock | tee changes.log
  spiffe watch --output json | jq -r '[.revision, .endpoint, .survives_until] | @tsv'")]
pub(crate) struct Arguments {
    #[command(flatten)]
    api: WorkloadApi,
}

pub(crate) fn run(arguments: &Arguments, output: &Output) -> Result<(), Failure> {
    block_on(async {
        let stopped = stopped()?;
        let source = X509Source::builder().client(arguments.api.client()?);
        let source = source.start().map_err(Failure::failed)?;
        let endpoint = arguments.api.endpoint()?.to_string();
        tokio::select! {
            ended = follow(&source, &endpoint, output) => ended,
            () = stopped => Ok(()),
        }
    })
}

async fn follow(source: &X509Source, endpoint: &str, output: &Output) -> Result<(), Failure> {
    let clock = SystemClock::new();
    let is_table = !output.is_json() && io::stdout().is_terminal();
    let mut said = None;
    loop {
        let watched = Watched::from(source);
        if is_table {
            let screen = format!("{CLEAR}{}", table(&watched, endpoint, source, clock.now()));
            output.raw(screen.as_bytes())?;
        } else if said.as_ref() != Some(&watched) {
            output.line(&watched, ToString::to_string)?;
            said = Some(watched);
        }
        tokio::select! {
            _ = source.changed(source.current().revision()) => {}
            () = clock.sleep_until(clock.monotonic() + EVERY) => {}
        }
    }
}

fn table(watched: &Watched, endpoint: &str, source: &X509Source, now: Timestamp) -> String {
    let left = |until: Timestamp| {
        if until < now {
            format!("expired {} ago", span(now.saturating_since(until)))
        } else {
            format!("{} left", span(until.saturating_since(now)))
        }
    };
    let mut text = format!(
        "{endpoint}  {}  revision {}  {}{}\n\n",
        watched.endpoint,
        watched.revision,
        watched.readiness,
        if watched.withdrawn { "  withdrawn" } else { "" }
    );
    let current = source.current();
    for svid in current.svids() {
        let hint = svid.hint().map(|hint| format!("  {}", printable(hint)));
        let _ = writeln!(
            text,
            "  {}{}\n    until {}  {}  serial {}",
            svid.id(),
            hint.unwrap_or_default(),
            svid.not_after(),
            left(svid.not_after()),
            svid.serial_hex()
        );
    }
    for bundle in current.bundles().iter() {
        let authorities = bundle.x509_authorities();
        let last = authorities.iter().map(|one| one.not_after()).max();
        let _ = writeln!(
            text,
            "  bundle of {}  {} authorities  {}",
            bundle.trust_domain(),
            authorities.len(),
            last.map(left).unwrap_or_default()
        );
    }
    if let Some(survival) = source.survives_until() {
        let _ = writeln!(
            text,
            "\nwithout the Workload API: {}",
            left(survival.until())
        );
    }
    if let Some(error) = &watched.error {
        let _ = writeln!(text, "\n{}", printable(error));
    }
    text
}

/// To the upper left, and everything behind it cleared.
const CLEAR: &str = "\x1b[H\x1b[J";

/// How often to look.
const EVERY: Duration = Duration::from_secs(1);

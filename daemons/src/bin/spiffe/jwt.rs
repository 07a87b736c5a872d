//! `spiffe jwt`: JWT-SVIDs.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use spiffe_core::crypto::aws_lc_rs;
use spiffe_daemons::verdict::bundle::Bundles;
use spiffe_daemons::verdict::jwt::{self, Question, Token};

use super::input::{self, Trust};
use super::output::{Failure, Output, table};

/// Verbs about JWT-SVIDs.
///
/// Tokens come from files or standard input: an argument would show them to everyone who can list processes.
#[derive(Debug, Subcommand)]
#[command(after_help = "Examples:
  spiffe jwt verify token.jwt --audience https://api.example.org --bundle example.org=bundle.json
  curl -s localhost:8080/token | spiffe jwt inspect -
  spiffe jwt verify - --audience reports --bundle example.org=jwks.json --bundle-format workload-api-jwks <token.jwt")]
pub(crate) enum Verb {
    /// Verify a token against bundles: which SPIFFE ID does it prove?
    ///
    /// The trust domain of its subject picks the one bundle that counts. Signature, key, audience and time are judged as a
    /// service would judge them.
    Verify {
        /// The file with the token; - for standard input
        token: PathBuf,
        #[command(flatten)]
        expected: Expected,
        #[command(flatten)]
        trust: Trust,
    },
    /// Show what a token says, verifying nothing
    Inspect {
        /// The file with the token; - for standard input
        token: PathBuf,
    },
}

/// What a receiver of tokens expects.
#[derive(Debug, Args)]
pub(crate) struct Expected {
    /// The name that the receiver answers to
    #[arg(long)]
    audience: String,
    #[command(flatten)]
    clocks: Clocks,
}

/// How exact the clocks are.
#[derive(Debug, Args)]
pub(crate) struct Clocks {
    /// How many seconds the clocks of issuer and receiver may differ, at most 300
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    leeway: u64,
}

impl Clocks {
    pub(crate) fn leeway(&self) -> Duration {
        Duration::from_secs(self.leeway)
    }
}

pub(crate) fn run(verb: Verb, output: &Output) -> Result<(), Failure> {
    match verb {
        Verb::Verify {
            token,
            expected,
            trust,
        } => {
            let token = input::read_text(&token)?;
            let bundles = trust.bundles()?;
            let leeway = expected.clocks.leeway();
            let question = question(&token, &expected.audience, leeway, &bundles, &trust);
            let judged = jwt::verify(&question, &aws_lc_rs(), false);
            output.verdict(judged.verdict, |token| describe(token, &trust))
        }
        Verb::Inspect { token } => {
            let token = input::read_text(&token)?;
            output.verdict(jwt::inspect(&token), |token| {
                let mut rows = vec![("header", token.header.to_string())];
                rows.extend(rows_of(&token.token));
                rows.push((
                    "judged",
                    "nothing: signature, time and audience are not looked at".into(),
                ));
                table(&rows)
            })
        }
    }
}

/// What is asked about a token.
pub(crate) fn question<'a>(
    token: &'a str,
    audience: &'a str,
    leeway: Duration,
    bundles: &'a Bundles,
    trust: &'a Trust,
) -> Question<'a> {
    Question {
        token,
        audience,
        bundles,
        at: trust.at(),
        leeway: Some(leeway),
        policy: trust.policy(),
    }
}

/// A verified token for people.
pub(crate) fn describe(token: &Token, trust: &Trust) -> String {
    let mut rows = vec![
        ("verified", token.id.clone()),
        ("authorized", trust.authorized()),
        ("at", trust.at().to_string()),
    ];
    rows.extend(rows_of(token).into_iter().skip(1));
    table(&rows)
}

fn rows_of(token: &Token) -> Vec<(&'static str, String)> {
    vec![
        ("subject", token.id.clone()),
        ("audience", token.audience.join(", ")),
        ("expires at", token.expires_at.clone()),
        ("claims", token.claims.to_string()),
    ]
}

//! `spiffe why`: every rule behind a verdict.

use std::path::PathBuf;

use clap::Args;
use spiffe_core::crypto::aws_lc_rs;
use spiffe_daemons::verdict::{jwt, x509};

use super::connect::{self, Dial};
use super::input::{self, Trust};
use super::output::{Failure, Output};
use super::{jwt as jwt_verbs, x509 as x509_verbs};

/// Explain why a chain or a token is accepted or refused
///
/// Verifies a chain of certificates or a token, then asks the policy if there is one, and shows every rule that was tried, in
/// order: its outcome, the standard's section, the facts compared, and the nearest thing that would have passed.
/// The verdict is that of 'x509 verify' and 'jwt verify'. With --connect the chain is the one that a server shows.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  spiffe why chain.pem --bundle example.org=bundle.pem
  spiffe why chain.pem --bundle example.org=bundle.pem --authorize 'prefix:spiffe://example.org/ns/prod/'
  spiffe why token.jwt --audience reports --bundle example.org=bundle.json --at 2026-11-20T08:00:00Z
  spiffe why --connect db.example.org:8443 --bundle example.org=bundle.pem --authorize 'id:spiffe://example.org/db'
  spiffe why chain.pem --bundle example.org=bundle.pem --output json | jq .explain")]
pub(crate) struct Arguments {
    /// The file with a chain (PEM or DER, leaf first) or a token; - for standard input
    #[arg(required_unless_present = "connect")]
    file: Option<PathBuf>,
    #[command(flatten)]
    dial: Dial,
    #[command(flatten)]
    trust: Trust,
    /// What the peer is in TLS; for chains
    #[arg(long, value_enum, default_value_t = x509_verbs::Role::Any)]
    role: x509_verbs::Role,
    /// The name that the receiver answers to; for tokens, which need it
    #[arg(long)]
    audience: Option<String>,
    #[command(flatten)]
    clocks: jwt_verbs::Clocks,
}

pub(crate) fn run(arguments: &Arguments, output: &Output) -> Result<(), Failure> {
    let trust = &arguments.trust;
    if let Some(address) = &arguments.dial.connect {
        return connect::run(address, &arguments.dial, trust, output);
    }
    let Some(file) = &arguments.file else {
        return Err(Failure::usage(
            "nothing to explain; name a file with a chain or a token, or --connect HOST:PORT",
        ));
    };
    let content = input::read(file)?;
    let bundles = trust.bundles()?;
    let Some(token) = jwt::sniff(&content) else {
        let question = x509_verbs::question(&content, &bundles, trust, arguments.role);
        let judged = x509::verify(&question, &aws_lc_rs(), true);
        return output.explained("x509.verify", judged, |peer| {
            x509_verbs::describe(peer, trust)
        });
    };
    let Some(audience) = &arguments.audience else {
        return Err(Failure::usage(
            "the file holds a token, and a token is for an audience; add --audience NAME",
        ));
    };
    let leeway = arguments.clocks.leeway();
    let question = jwt_verbs::question(token, audience, leeway, &bundles, trust);
    let judged = jwt::verify(&question, &aws_lc_rs(), true);
    output.explained("jwt.verify", judged, |token| {
        jwt_verbs::describe(token, trust)
    })
}

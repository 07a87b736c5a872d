//! `spiffe id`: names.

use clap::Subcommand;
use spiffe_daemons::verdict::id;

use super::output::{Failure, Output, table};

/// Verbs about SPIFFE IDs.
#[derive(Debug, Subcommand)]
#[command(after_help = "Examples:
  spiffe id parse spiffe://example.org/ns/prod/web
  spiffe id parse --normalize SPIFFE://Example.org/web
  spiffe --output json id parse spiffe://example.org/web/")]
pub(crate) enum Verb {
    /// Parse an ID by the rules of the SPIFFE-ID standard and show its parts
    ///
    /// An ID is spiffe://<trust domain>/<path>: the trust domain in lower-case letters, digits, '.', '-' and '_', the
    /// path of non-empty segments, no trailing slash, at most 2048 bytes. A refusal names the byte and its position.
    Parse {
        /// The ID
        text: String,
        /// Fold scheme and trust domain to lower case first; for text that people write, never for certificates
        #[arg(long)]
        normalize: bool,
    },
}

pub(crate) fn run(verb: Verb, output: &Output) -> Result<(), Failure> {
    let Verb::Parse { text, normalize } = verb;
    let verdict = if normalize {
        id::parse_normalizing(&text)
    } else {
        id::parse(text.as_bytes())
    };
    output.verdict(verdict, |parsed| {
        let path = if parsed.path.is_empty() {
            "(none: this is the trust domain's own ID)".into()
        } else {
            parsed.path.clone()
        };
        table(&[
            ("id", parsed.id.clone()),
            ("trust domain", parsed.trust_domain.clone()),
            ("path", path),
        ])
    })
}

//! `spiffe batch`: the library's verdicts for a pipe.

use std::io;

use clap::Args;
use spiffe_core::crypto::aws_lc_rs;
use spiffe_daemons::batch::Engine;

use super::output::Failure;

/// Answer questions in JSON lines from standard input, one line out for each
///
/// In: {"case": "<any string>", "op": "<operation>", ...inputs}. Out, in the same order and flushed per line:
/// {"case": ..., "ok": true, "value": {...}} or {"case": ..., "ok": false, "error": {"code", "message", "section"}}.
///
/// Operations: id.parse, trust_domain.parse, id.join, x509.parse, x509.verify, jwt.parse, jwt.verify, bundle.parse,
/// bundle.convert, match. Bytes are base64 in inputs whose names end in _b64; times are RFC 3339; nothing reads the
/// clock. A line that is no question is answered with the code "usage", and the run goes on. Exit status 0 when every
/// line was answered, whatever the verdicts.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  echo '{\"case\":\"1\",\"op\":\"id.parse\",\"text\":\"spiffe://example.org/web\"}' | spiffe batch
  echo '{\"case\":\"2\",\"op\":\"match\",\"policy\":\"domain:example.org\",\"id\":\"spiffe://example.org/web\"}' | spiffe batch
  jq -nc --rawfile c chain.pem --rawfile b bundle.pem '{case:\"3\", op:\"x509.verify\", chain_pem:$c,
    bundles:{\"example.org\":$b}, at:\"2026-11-20T08:00:00Z\"}' | spiffe batch --explain")]
pub(crate) struct Arguments {
    /// Add to every line "explain": the rules that were tried, as data
    #[arg(long)]
    explain: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let engine = Engine::new(aws_lc_rs(), arguments.explain);
    engine
        .run(io::stdin().lock(), io::stdout().lock())
        .map_err(|error| match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::from_output(error),
            _ => Failure::failed(format_args!(
                "the pipe broke: {error}; nothing more was answered"
            )),
        })
}

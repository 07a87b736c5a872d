//! `spiffe bundle`: the authorities of a trust domain.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use spiffe_core::Bundle;
use spiffe_core::crypto::aws_lc_rs;
use spiffe_daemons::verdict::bundle::{self, Authorities, Form};
use spiffe_daemons::verdict::{Refusal, printable};

use super::input::{self, BundleFormat};
use super::output::{Failure, Output, table};

/// Verbs about bundles.
///
/// A bundle file is a SPIFFE bundle document (JSON), PEM, concatenated DER or a Workload API JWKS. The first three are told
/// apart by their first byte; say --format workload-api-jwks for the last.
#[derive(Debug, Subcommand)]
#[command(after_help = "Examples:
  spiffe bundle show bundle.json
  spiffe bundle convert bundle.pem --to spiffe >bundle.json
  spiffe bundle convert bundle.json --to der | openssl x509 -inform der -noout -subject
  spiffe bundle diff before.json after.json && echo unchanged")]
pub(crate) enum Verb {
    /// Show the authorities of a bundle and what in the document was ignored
    Show {
        #[command(flatten)]
        file: BundleFile,
    },
    /// Write a bundle in another form to standard output; what the form cannot hold is named on standard error
    Convert {
        #[command(flatten)]
        file: BundleFile,
        /// The form to write: spiffe, pem, der or workload-api-jwks
        #[arg(long, value_name = "FORM", value_parser = input::form)]
        to: Form,
    },
    /// Compare two bundles by authority: added, removed, tainted
    ///
    /// Exit status 0 when both hold the same authorities, 1 when they differ. Order, sequence and refresh hint do not
    /// count.
    Diff {
        /// The older bundle
        older: PathBuf,
        /// The newer bundle
        newer: PathBuf,
        /// The form of both: auto, spiffe, pem, der or workload-api-jwks
        #[arg(long, value_name = "FORM", default_value = "auto")]
        format: BundleFormat,
    },
}

/// A bundle's file.
#[derive(Debug, Args)]
pub(crate) struct BundleFile {
    /// The bundle; - for standard input
    file: PathBuf,
    /// Its form: auto, spiffe, pem, der or workload-api-jwks
    #[arg(long, value_name = "FORM", default_value = "auto")]
    format: BundleFormat,
}

impl BundleFile {
    fn read(&self) -> Result<Result<Bundle, Refusal>, Failure> {
        let document = input::read(&self.file)?;
        Ok(bundle::read_unnamed(&document, self.format.of(&document)))
    }
}

pub(crate) fn run(verb: Verb, output: &Output) -> Result<(), Failure> {
    match verb {
        Verb::Show { file } => {
            let verdict = file
                .read()?
                .map(|bundle| bundle::describe(&bundle, &*aws_lc_rs()));
            output.verdict(verdict, show)
        }
        Verb::Convert { file, to } => convert(file.read()?, to, output),
        Verb::Diff {
            older,
            newer,
            format,
        } => {
            let read = |file| BundleFile { file, format }.read();
            diff(read(older)?, read(newer)?, output)
        }
    }
}

fn show(described: &bundle::Described) -> String {
    let summary = &described.summary;
    let number = |number: Option<u64>, unit| {
        number.map_or_else(|| "none".into(), |number| format!("{number}{unit}"))
    };
    let mut text = table(&[
        ("x509 authorities", summary.x509_authorities.to_string()),
        ("jwt authorities", summary.jwt_authorities.len().to_string()),
        ("sequence", number(summary.sequence, "")),
        ("refresh hint", number(summary.refresh_hint_s, " s")),
        ("ignored entries", summary.ignored.len().to_string()),
    ]);
    text.push_str(&list(" ", &described.authorities));
    for ignored in &summary.ignored {
        text.push_str(&format!(
            "\n  ignored entry {}  {}",
            ignored.index, ignored.reason
        ));
    }
    text
}

/// One authority a line, each behind `mark`.
fn list(mark: &str, authorities: &Authorities) -> String {
    let mut text = String::new();
    for x509 in &authorities.x509 {
        text.push_str(&format!(
            "\n{mark} x509  {}  {} to {}  sha256 {}{}",
            x509.subject_key_id
                .as_deref()
                .unwrap_or("(no key identifier)"),
            x509.not_before,
            x509.not_after,
            &x509.sha256[..16],
            if x509.tainted { "  tainted" } else { "" }
        ));
    }
    for jwt in &authorities.jwt {
        text.push_str(&format!(
            "\n{mark} jwt   {}{}{}",
            printable(&jwt.key_id),
            jwt.algorithm
                .as_ref()
                .map(|only| format!("  for {} only", printable(only)))
                .unwrap_or_default(),
            if jwt.tainted { "  tainted" } else { "" }
        ));
    }
    text
}

fn convert(bundle: Result<Bundle, Refusal>, to: Form, output: &Output) -> Result<(), Failure> {
    let converted = bundle.map(|bundle| bundle::write(&bundle, to));
    let converted = match converted {
        Ok(converted) if !output.is_json() => converted,
        other => return output.verdict(other, |_| String::new()),
    };
    if !converted.lost.is_empty() {
        let lost = converted.lost.join(", ");
        eprintln!("note: the form {} cannot hold: {lost}", to.name());
    }
    output.raw(converted.written.as_bytes())
}

fn diff(
    older: Result<Bundle, Refusal>,
    newer: Result<Bundle, Refusal>,
    output: &Output,
) -> Result<(), Failure> {
    let (older, newer) = match (older, newer) {
        (Ok(older), Ok(newer)) => (older, newer),
        (Err(refusal), _) | (_, Err(refusal)) => {
            return output.verdict(Err::<(), _>(refusal), |()| String::new());
        }
    };
    let difference = bundle::diff(&older, &newer, &*aws_lc_rs());
    let same = difference.is_empty();
    output.verdict(Ok(difference), |difference| {
        let text = [
            list("+", &difference.added),
            list("-", &difference.removed),
            list("!", &difference.tainted),
        ];
        text.concat().trim_start().to_owned()
    })?;
    if same {
        Ok(())
    } else {
        Err(Failure::differs())
    }
}

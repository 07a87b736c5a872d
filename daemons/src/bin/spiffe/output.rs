//! What the verbs print, as text and as JSON, and how they end.

use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::ValueEnum;
use clap::error::ErrorKind;
use serde::Serialize;
use spiffe_daemons::verdict::{self, Judged, Node, Refusal, printable};
use tokio::signal::unix::{SignalKind, signal};

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Text,
    Json,
}

/// Where results go: standard output, in one of two forms.
#[derive(Debug)]
pub(crate) struct Output {
    format: Format,
}

impl Output {
    pub(crate) fn new(format: Format) -> Self {
        Self { format }
    }

    pub(crate) fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// Prints a decision; a refusal is also how the verb ends.
    pub(crate) fn verdict<V: Serialize>(
        &self,
        verdict: Result<V, Refusal>,
        text: impl FnOnce(&V) -> String,
    ) -> Result<(), Failure> {
        self.print(&verdict, None, None, text)
    }

    /// Prints a decision with the rules that led to it.
    pub(crate) fn explained<V: Serialize>(
        &self,
        operation: &'static str,
        judged: Judged<V>,
        text: impl FnOnce(&V) -> String,
    ) -> Result<(), Failure> {
        self.explained_in(None, operation, judged, text)
    }

    /// The same, after what it is about.
    pub(crate) fn explained_in<V: Serialize>(
        &self,
        context: Option<Context>,
        operation: &'static str,
        judged: Judged<V>,
        text: impl FnOnce(&V) -> String,
    ) -> Result<(), Failure> {
        let tree = verdict::document(operation, judged.steps);
        self.print(&judged.verdict, context, Some(tree), text)
    }

    /// Prints one of several results that follow each other: a line of text, or an object on a line.
    pub(crate) fn line<V: Serialize>(
        &self,
        value: &V,
        text: impl FnOnce(&V) -> String,
    ) -> Result<(), Failure> {
        let mut line = match self.format {
            Format::Json => serde_json::to_string(value).map_err(Failure::failed)?,
            Format::Text => printable(&text(value)),
        };
        line.push('\n');
        self.raw(line.as_bytes())
    }

    /// Prints bytes as they are.
    pub(crate) fn raw(&self, bytes: &[u8]) -> Result<(), Failure> {
        let mut stdout = io::stdout().lock();
        let written = stdout.write_all(bytes).and_then(|()| stdout.flush());
        written.map_err(Failure::from_output)
    }

    fn print<V: Serialize>(
        &self,
        verdict: &Result<V, Refusal>,
        context: Option<Context>,
        tree: Option<Node>,
        text: impl FnOnce(&V) -> String,
    ) -> Result<(), Failure> {
        let mut out = match self.format {
            Format::Json => {
                let document = Document {
                    ok: verdict.is_ok(),
                    value: verdict.as_ref().ok(),
                    error: verdict.as_ref().err(),
                    explain: tree,
                    connection: context.map(|context| context.json),
                };
                serde_json::to_string(&document).map_err(Failure::failed)?
            }
            Format::Text => {
                let tree = tree.map(|tree| tree.to_string()).unwrap_or_default();
                let value = verdict.as_ref().map(text).unwrap_or_default();
                let gap = if tree.is_empty() || value.is_empty() {
                    ""
                } else {
                    "\n"
                };
                let context = context.map(|context| context.text + "\n\n");
                let context = context.unwrap_or_default();
                format!("{context}{tree}{gap}{value}").trim_end().to_owned()
            }
        };
        if !out.is_empty() {
            out.push('\n');
            self.raw(out.as_bytes())?;
        }
        match verdict {
            Ok(_) => Ok(()),
            Err(refusal) => Err(Failure::refused(refusal)),
        }
    }
}

/// One result as JSON: the members of `spiffe batch` without the case.
#[derive(Serialize)]
struct Document<'a, V> {
    ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<&'a V>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a Refusal>,
    #[serde(skip_serializing_if = "Option::is_none")]
    explain: Option<Node>,
    #[serde(skip_serializing_if = "Option::is_none")]
    connection: Option<serde_json::Value>,
}

/// What a decision is about, in both forms, where it was looked for and not given.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) text: String,
    pub(crate) json: serde_json::Value,
}

/// How a verb ends when it does not end well.
#[derive(Debug)]
pub(crate) struct Failure {
    status: u8,
    line: String,
}

impl Failure {
    /// Something was judged bad.
    pub(crate) fn refused(refusal: &Refusal) -> Self {
        let section = refusal.section.map(|section| format!(" ({section})"));
        let nearest = refusal.nearest.as_ref();
        let nearest = nearest.map(|nearest| format!("; would pass: {nearest}"));
        Self::failed(format_args!(
            "{}: {}{}{}",
            refusal.code,
            refusal.message,
            section.unwrap_or_default(),
            nearest.unwrap_or_default()
        ))
    }

    /// Something could not be done.
    pub(crate) fn failed(line: impl Display) -> Self {
        Self {
            status: 1,
            line: line.to_string(),
        }
    }

    /// The arguments make no sense together.
    pub(crate) fn usage(line: impl Display) -> Self {
        Self {
            status: 2,
            line: line.to_string(),
        }
    }

    /// A difference that was asked for and found; it has been printed already.
    pub(crate) fn differs() -> Self {
        Self::failed("")
    }

    /// A program that was run has ended so, and has said itself what it had to say.
    pub(crate) fn passed_on(status: u8) -> Self {
        Self {
            status,
            line: String::new(),
        }
    }

    /// A reader that has seen enough is no failure of ours to talk about.
    pub(crate) fn from_output(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::failed("");
        }
        Self::failed(format_args!(
            "cannot write the result: {error}; check where standard output goes"
        ))
    }

    /// Says so on standard error.
    pub(crate) fn report(self) -> ExitCode {
        if !self.line.is_empty() {
            eprintln!("error: {}", self.line);
        }
        self.status.into()
    }
}

/// Runs a verb that waits for things.
pub(crate) fn block_on(verb: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(Failure::failed)?
        .block_on(verb)
}

/// Resolves at Ctrl-C, SIGTERM and SIGHUP, which a terminal that closes sends; those count from this call on.
pub(crate) fn stopped() -> Result<impl Future<Output = ()>, Failure> {
    let watch = |kind| signal(kind).map_err(Failure::failed);
    let mut terminate = watch(SignalKind::terminate())?;
    let mut interrupt = watch(SignalKind::interrupt())?;
    let mut hang_up = watch(SignalKind::hangup())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = hang_up.recv() => {}
        }
    })
}

/// Reports what the argument parser says: help in full, an error in one line.
pub(crate) fn usage(error: &clap::Error) -> ExitCode {
    let help = error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand;
    if help || !error.use_stderr() {
        // Help and version; a closed output is nobody's error.
        let _ = error.print();
        return if help { 2.into() } else { ExitCode::SUCCESS };
    }
    let rendered = error.render().to_string();
    let mut lines = rendered
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty());
    let said: Vec<_> = lines
        .by_ref()
        .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more"))
        .collect();
    let line = said.join(" ");
    let line = line.strip_prefix("error: ").unwrap_or(&line);
    Failure::usage(format_args!("{line}; see 'spiffe help'")).report()
}

/// Lines of name and value, the values aligned.
pub(crate) fn table(rows: &[(&str, String)]) -> String {
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let lines = rows
        .iter()
        .map(|(name, value)| format!("{name:width$}  {}", printable(value)));
    lines.collect::<Vec<_>>().join("\n")
}

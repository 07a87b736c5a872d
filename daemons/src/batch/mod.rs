//! `spiffe batch`: every verdict of the library from a pipe, one JSON line in, one JSON line out.
//!
//! In: `{"case": …, "op": …, inputs}`. Out: `{"case", "ok": true, "value"}` or `{"case", "ok": false, "error": {"code",
//! "message", "section"?}}`, and `"explain"` where it is asked for. Nothing in here reads a clock. A line costs bounded
//! time and memory whatever it holds, and whatever it holds the next one is answered.

mod inputs;
mod line;
mod ops;

use std::borrow::Cow;
use std::io::{self, BufRead, Write};
use std::sync::Arc;

use serde::Serialize;
use serde_json::value::RawValue;
use spiffe_core::crypto::CryptoProvider;

use crate::verdict::{self, Node, Refusal};
pub use line::MAX_LINE_BYTES;
pub(crate) use line::{Lines, Next};

/// Answers lines; holds no state between them.
#[derive(Clone, Debug)]
pub struct Engine {
    crypto: Arc<dyn CryptoProvider>,
    explain: bool,
}

impl Engine {
    /// An engine that judges with `crypto`; `explain` adds the reason tree to every answer.
    pub fn new(crypto: Arc<dyn CryptoProvider>, explain: bool) -> Self {
        Self { crypto, explain }
    }

    /// Answers every line of `input` in order, flushing after each.
    ///
    /// # Errors
    ///
    /// Those of reading and writing; no line's content is one.
    pub fn run(&self, input: impl BufRead, mut output: impl Write) -> io::Result<()> {
        let mut lines = Lines::new(input);
        while let Some(next) = lines.next()? {
            let answer = match next {
                Next::Line(line) => self.answer(line),
                Next::TooLong => self.write(
                    None,
                    &Answer::usage(format_args!(
                        "the line has more than {MAX_LINE_BYTES} bytes"
                    )),
                ),
            };
            output.write_all(answer.as_bytes())?;
            output.write_all(b"\n")?;
            output.flush()?;
        }
        Ok(())
    }

    /// Answers one line, without a line break on either side.
    pub fn answer(&self, line: &[u8]) -> String {
        let line = match inputs::read(line) {
            Ok(line) => line,
            Err(refusal) => return self.write(None, &Answer::refused(refusal)),
        };
        let answer = line
            .question
            .and_then(|(op, inputs)| ops::answer(self, &op, inputs))
            .unwrap_or_else(Answer::refused);
        self.write(line.case.as_deref(), &answer)
    }

    fn write(&self, case: Option<&str>, answer: &Answer) -> String {
        let line = Line {
            case,
            ok: answer.verdict.is_ok(),
            value: answer.verdict.as_deref().ok(),
            error: answer.verdict.as_ref().err(),
            explain: self
                .explain
                .then(|| verdict::document(answer.operation, answer.steps.clone())),
        };
        serde_json::to_string(&line).expect("strings, numbers and JSON have a JSON form")
    }
}

/// One line of output.
#[derive(Serialize)]
struct Line<'a> {
    case: Option<&'a str>,
    ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a Refusal>,
    #[serde(skip_serializing_if = "Option::is_none")]
    explain: Option<Node>,
}

/// What an operation says.
struct Answer {
    operation: &'static str,
    verdict: Result<Box<RawValue>, Refusal>,
    steps: Vec<Node>,
}

impl Answer {
    fn usage(message: impl std::fmt::Display) -> Self {
        Self::refused(Refusal::usage(message))
    }

    /// A line that is no question.
    fn refused(refusal: Refusal) -> Self {
        Self::new("usage", verdict::Judged::from(Err::<(), _>(refusal)))
    }

    fn new<V: Serialize>(operation: &'static str, judged: verdict::Judged<V>) -> Self {
        Self {
            operation,
            verdict: judged.verdict.map(|value| {
                serde_json::value::to_raw_value(&value)
                    .expect("values are strings, numbers and JSON, which have a JSON form")
            }),
            steps: judged.steps,
        }
    }
}

/// Text or bytes that may borrow from the line.
type Text<'a> = Cow<'a, str>;

//! The page `docs/reference/conformance-suite.md`: its table is written from the entries and the reviewed losses, so that it
//! says what the cases hold the libraries to.

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use crate::conformance::{GO_SPIFFE, OURS, Subject, entries};
use crate::outcome::{Trouble, ensure};

/// From the workspace's directory.
const PAGE: &str = "docs/reference/conformance-suite.md";

/// The table follows this line, to the end of the page.
const MARK: &str = "<!-- Written by `UPDATE_DOCS=1 cargo xtask interop conformance/page`. -->\n";

/// # Errors
///
/// When the page's table is another one; with `UPDATE_DOCS=1` it is written instead.
pub(crate) fn check() -> Result<(), Trouble> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(PAGE);
    let text = fs::read_to_string(&path)?;
    let Some((head, _)) = text.split_once(MARK) else {
        return Err(Trouble::failed(format!(
            "{PAGE} has no line `{}`",
            MARK.trim()
        )));
    };
    let page = format!("{head}{MARK}{}", table());
    if env::var_os("UPDATE_DOCS").is_some_and(|value| value == "1") {
        return Ok(fs::write(path, page)?);
    }
    ensure(text == page, || {
        format!("{PAGE} is not what the cases say; write it with UPDATE_DOCS=1")
    })
}

fn table() -> String {
    let mut table = String::from(
        "\n| name | level | the library … | this one | go-spiffe 2.8.1 |\n|---|---|---|---|---|\n",
    );
    for entry in entries() {
        let result = |subject: &Subject| match subject.reason_to_lose(&entry.name) {
            Some(why) => format!("**fail**: {why}"),
            None => "pass".to_owned(),
        };
        // Writing to a string cannot fail.
        let _ = writeln!(
            table,
            "| {} | {} | {} | {} | {} |",
            entry.name,
            entry.level.word(),
            entry.what,
            result(&OURS),
            result(&GO_SPIFFE)
        );
    }
    table
}

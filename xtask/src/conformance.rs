//! The conformance page: what each requirement of the standards has to show for itself.
//!
//! `docs/reference/conformance.tsv` is written by hand, the page beside it is generated from it. A row that claims to be
//! shown names tests that exist and run; a row that cannot says why.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::Path;

/// The rows and the page, from the workspace's directory.
const ROWS: &str = "docs/reference/conformance.tsv";
const PAGE: &str = "docs/reference/conformance.md";

/// The cases of the conformance suite's catalogue, which `cargo xtask interop` holds to what it finds. A row names one as
/// `conformance-suite::NAME`.
const SUITE: (&str, &str) = ("conformance-suite", "docs/reference/conformance-suite.md");

/// Findings about the rows, their tests and the page.
///
/// # Errors
///
/// When a file cannot be read.
pub(crate) fn check(root: &Path) -> io::Result<Vec<String>> {
    let text = fs::read_to_string(root.join(ROWS))?;
    let (rows, mut findings) = read(&text);
    let mut sources = Sources::new(root);
    for row in &rows {
        for test in &row.tests {
            if let Err(why) = sources.find(test) {
                findings.push(format!("{ROWS}:{}: {}: {test}: {why}", row.line, row.id));
            }
        }
    }
    let page = fs::read_to_string(root.join(PAGE)).unwrap_or_default();
    if findings.is_empty() && page != write_page(&rows) {
        findings.push(format!(
            "{PAGE}: is not what {ROWS} gives; run `cargo xtask gen`"
        ));
    }
    Ok(findings)
}

/// Writes the page.
///
/// # Errors
///
/// When a file cannot be read or written.
pub(crate) fn generate(root: &Path) -> io::Result<()> {
    let text = fs::read_to_string(root.join(ROWS))?;
    fs::write(root.join(PAGE), write_page(&read(&text).0))
}

/// One requirement.
#[derive(Debug, PartialEq, Eq)]
struct Row<'a> {
    line: usize,
    id: &'a str,
    section: &'a str,
    strength: &'a str,
    /// The parts of the project that it binds.
    parts: &'a str,
    verdict: Verdict,
    requirement: &'a str,
    /// Each `path::name`.
    tests: Vec<&'a str>,
    note: &'a str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Verdict {
    /// The tests show it.
    Shown,
    /// The tests show some of it; the note says what is missing.
    Part,
    /// Not there, or nothing shows it; the note says which.
    Open,
    /// Nothing a test could show; the note says why.
    Untestable,
}

impl Verdict {
    const ALL: [Self; 4] = [Self::Shown, Self::Part, Self::Open, Self::Untestable];

    const fn name(self) -> &'static str {
        match self {
            Self::Shown => "shown",
            Self::Part => "part",
            Self::Open => "open",
            Self::Untestable => "untestable",
        }
    }
}

/// The documents by the first part of the rows' names, in the page's order.
const DOCUMENTS: &[(&str, &str)] = &[
    ("SPIFFE-ID", "SPIFFE-ID"),
    ("X509", "X509-SVID"),
    ("JWT", "JWT-SVID"),
    ("WIT", "WIT-SVID (incubating)"),
    ("BNDL", "Trust Domain and Bundle"),
    ("FED", "SPIFFE Federation"),
    ("WAPI", "SPIFFE Workload API"),
    ("WEP", "SPIFFE Workload Endpoint"),
    (
        "DEC",
        "Where the texts leave a choice: what is decided here",
    ),
];

/// Rows that can be read, and what is wrong with the others or with all of them together.
fn read(text: &str) -> (Vec<Row<'_>>, Vec<String>) {
    let mut rows: Vec<Row<'_>> = Vec::new();
    let mut findings = Vec::new();
    let mut seen = BTreeSet::new();
    let mut last: BTreeMap<&str, u32> = BTreeMap::new();
    for (index, content) in text.lines().enumerate() {
        if content.is_empty() || content.starts_with('#') {
            continue;
        }
        let line = index + 1;
        match read_row(line, content) {
            Ok((document, number, row)) => {
                let before = last.insert(document, number).unwrap_or(0);
                if !seen.insert(row.id) {
                    findings.push(format!("{ROWS}:{line}: {} is there twice", row.id));
                } else if number != before + 1 {
                    // A gap would be a requirement that nobody answers for.
                    findings.push(format!("{ROWS}:{line}: {} does not follow", row.id));
                }
                rows.push(row);
            }
            Err(why) => findings.push(format!("{ROWS}:{line}: {why}")),
        }
    }
    (rows, findings)
}

fn read_row(line: usize, content: &str) -> Result<(&str, u32, Row<'_>), String> {
    let columns: Vec<&str> = content.split('\t').collect();
    let [
        id,
        section,
        strength,
        parts,
        verdict,
        requirement,
        tests,
        note,
    ] = columns[..]
    else {
        return Err(format!("{} columns, not 8", columns.len()));
    };
    let (document, number) = id
        .rsplit_once('-')
        .and_then(|(document, number)| Some((document, number.parse().ok()?)))
        .filter(|(document, _)| DOCUMENTS.iter().any(|(known, _)| known == document))
        .ok_or_else(|| format!("`{id}` names no row"))?;
    let verdict = Verdict::ALL
        .into_iter()
        .find(|known| known.name() == verdict)
        .ok_or_else(|| format!("`{verdict}` is no verdict"))?;
    let tests: Vec<&str> = tests
        .split(';')
        .map(str::trim)
        .filter(|test| !test.is_empty())
        .collect();
    let (wants_tests, wants_note) = match verdict {
        Verdict::Shown => (true, false),
        Verdict::Part => (true, true),
        Verdict::Open | Verdict::Untestable => (false, true),
    };
    if tests.is_empty() == wants_tests {
        let how = if wants_tests { "needs a" } else { "has no" };
        return Err(format!("{id}: `{}` {how} test", verdict.name()));
    }
    if wants_note && note.is_empty() {
        return Err(format!("{id}: `{}` needs a note", verdict.name()));
    }
    let row = Row {
        line,
        id,
        section,
        strength,
        parts,
        verdict,
        requirement,
        tests,
        note,
    };
    Ok((document, number, row))
}

/// Source files, each read once.
struct Sources<'r> {
    root: &'r Path,
    texts: BTreeMap<String, Option<String>>,
}

impl<'r> Sources<'r> {
    fn new(root: &'r Path) -> Self {
        Self {
            root,
            texts: BTreeMap::new(),
        }
    }

    /// Whether `path::name` is a test that runs, or a case of the suite that passes.
    fn find(&mut self, test: &str) -> Result<(), &'static str> {
        let (path, name) = test.rsplit_once("::").ok_or("is not `path::name`")?;
        let (path, find): (_, fn(&str, &str) -> _) = if path == SUITE.0 {
            (SUITE.1, find_case)
        } else {
            (path, find_test)
        };
        let text = self
            .texts
            .entry(path.to_owned())
            .or_insert_with(|| fs::read_to_string(self.root.join(path)).ok());
        find(text.as_deref().ok_or("there is no such file")?, name)
    }
}

fn find_case(page: &str, name: &str) -> Result<(), &'static str> {
    // Name, level, what the library does, what this one does.
    let row = page.lines().find_map(|line| {
        let columns: Vec<&str> = line.split(" | ").collect();
        (columns.first() == Some(&format!("| {name}").as_str())).then_some(columns)
    });
    match row.ok_or("the suite has no such case")?.get(3) {
        Some(&"pass") => Ok(()),
        _ => Err("the case does not pass"),
    }
}

/// Whether the text of a source file has a test of this name that runs.
pub(crate) fn find_test(text: &str, name: &str) -> Result<(), &'static str> {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let head = format!("fn {name}(");
    let at = lines
        .iter()
        .position(|line| line.trim_start_matches("async ").starts_with(&head))
        .ok_or("the file has no such function")?;
    let attributes: Vec<&str> = lines[..at]
        .iter()
        .rev()
        .take_while(|line| line.starts_with("#[") || line.starts_with("//"))
        .filter(|line| line.starts_with("#["))
        .copied()
        .collect();
    let is = |word: &str| attributes.iter().any(|line| line.contains(word));
    if is("ignore") {
        Err("the test is ignored")
    } else if is("[test]") || is("::test") {
        Ok(())
    } else {
        Err("the function is no test")
    }
}

fn write_page(rows: &[Row<'_>]) -> String {
    let mut page = String::from(HEAD);
    let of = |document: &'static str| {
        rows.iter().filter(move |row| {
            row.id
                .strip_prefix(document)
                .and_then(|rest| rest.strip_prefix('-'))
                .is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit()))
        })
    };
    page.push_str(
        "| document | rows | shown | part | open | untestable |\n|---|---|---|---|---|---|\n",
    );
    for (document, title) in DOCUMENTS {
        let count = |verdict| of(document).filter(|row| row.verdict == verdict).count();
        let [shown, part, open, untestable] = Verdict::ALL.map(count);
        let all = of(document).count();
        // Writing to a string cannot fail.
        let _ = writeln!(
            page,
            "| {title} | {all} | {shown} | {part} | {open} | {untestable} |"
        );
    }
    for (document, title) in DOCUMENTS {
        let _ = write!(page, "\n## {title}\n\n{TABLE}");
        for row in of(document) {
            let tests: Vec<String> = row.tests.iter().map(|test| format!("`{test}`")).collect();
            let mut shown = tests.join("<br>");
            if !row.note.is_empty() {
                if !shown.is_empty() {
                    shown.push_str("<br>");
                }
                shown.push_str(row.note);
            }
            let _ = writeln!(
                page,
                "| {} | {} | {} | {} | {} | {} | {} |",
                row.id,
                row.section,
                row.strength,
                row.parts,
                row.requirement,
                row.verdict.name(),
                shown
            );
        }
    }
    page
}

const TABLE: &str =
    "| row | § | strength | binds | requirement | verdict | by |\n|---|---|---|---|---|---|---|\n";

const HEAD: &str = "\
# Conformance

<!-- Generated from conformance.tsv by `cargo xtask gen`; edit that. -->

Every requirement of the SPIFFE standards (the public `spiffe/spiffe` repository at revision `665a28f3253e`, July 2026), in our
words, with what shows it here. `cargo xtask check` fails when a test named on this page does not exist or is ignored.
`conformance-suite::NAME` is a case of the public suite's catalogue as `cargo xtask interop conformance` replays it.

- **shown**: the tests named show it, what is to be refused beside what is to be accepted.
- **part**: they show some of it; what is missing is said.
- **open**: the part of the project that it binds is not there yet, or no test is named for it.
- **untestable**: it binds operators or writers of standards.

*Strength* is the standard's word (`DEF`: binding by definition, `ADV`: advice). *Binds* says whom: `core` reads and verifies,
`ca` issues, `client` uses the Workload API, `agent` serves it, `federation` serves and fetches bundles, `operator` runs it; `td` stands for a
trust domain. The Broker API is not implemented and has no rows.

";

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "JWT-01\t1\tMUST\tcore\tshown\tsomething\ta/tests/b.rs::holds\t\n";
    const SOURCE: &str = "#[test]\nfn holds() {}\n\n/// Why.\n#[tokio::test(start_paused = true)]\nasync fn waits() {}\n\n#[test]\n#[ignore = \"slow\"]\nfn sleeps() {}\n\nfn helper() {}\n";

    const CASES: &str = "| AB-1/x | MUST | does | pass | **fail**: no |\n| AB-2 | OPT | does | **fail**: no | pass |\n";

    #[track_caller]
    fn findings(rows: &str, expected: &[&str]) {
        let root = tempfile::tempdir().unwrap();
        for folder in ["docs/reference", "a/tests"] {
            fs::create_dir_all(root.path().join(folder)).unwrap();
        }
        fs::write(root.path().join(ROWS), rows).unwrap();
        fs::write(root.path().join("a/tests/b.rs"), SOURCE).unwrap();
        fs::write(root.path().join(SUITE.1), CASES).unwrap();
        generate(root.path()).unwrap();
        let found = check(root.path()).unwrap();
        assert_eq!(found, expected, "{found:?}");
    }

    #[test]
    fn cases_of_the_suite_must_pass() {
        for (name, why) in [
            ("AB-1", "the suite has no such case"),
            ("AB-2", "the case does not pass"),
        ] {
            let name = format!("conformance-suite::{name}");
            findings(
                &GOOD.replace("a/tests/b.rs::holds", &name),
                &[&format!("{ROWS}:1: JWT-01: {name}: {why}")],
            );
        }
    }

    #[test]
    fn rows_with_tests_that_run_are_good() {
        findings(&format!("# comment\n\n{GOOD}"), &[]);
        findings(&GOOD.replace("holds", "holds; a/tests/b.rs::waits"), &[]);
        findings(
            &GOOD.replace("a/tests/b.rs::holds", "conformance-suite::AB-1/x"),
            &[],
        );
        findings(
            &GOOD.replace(
                "shown\tsomething\ta/tests/b.rs::holds\t",
                "open\tsomething\t\tnot there",
            ),
            &[],
        );
    }

    #[test]
    fn tests_that_do_not_run_are_found() {
        for (name, why) in [
            ("b.rs::gone", "the file has no such function"),
            ("c.rs::holds", "there is no such file"),
            ("b.rs::sleeps", "the test is ignored"),
            ("b.rs::helper", "the function is no test"),
        ] {
            findings(
                &GOOD.replace("b.rs::holds", name),
                &[&format!("{ROWS}:1: JWT-01: a/tests/{name}: {why}")],
            );
        }
    }

    #[test]
    fn rows_that_claim_nothing_or_too_much_are_found() {
        let tests = "a/tests/b.rs::holds";
        for (rows, why) in [
            (GOOD.replace(tests, ""), "JWT-01: `shown` needs a test"),
            (GOOD.replace("shown", "part"), "JWT-01: `part` needs a note"),
            (GOOD.replace("shown", "open"), "JWT-01: `open` has no test"),
            (GOOD.replace("shown", "fine"), "`fine` is no verdict"),
            (GOOD.replace("JWT-01", "JWS-01"), "`JWS-01` names no row"),
            (GOOD.replace("\tMUST", ""), "7 columns, not 8"),
            (GOOD.replace("JWT-01", "JWT-02"), "JWT-02 does not follow"),
        ] {
            findings(&rows, &[&format!("{ROWS}:1: {why}")]);
        }
        findings(
            &GOOD.repeat(2),
            &[&format!("{ROWS}:2: JWT-01 is there twice")],
        );
    }

    #[test]
    fn a_page_of_other_rows_is_found() {
        let root = tempfile::tempdir().unwrap();
        for folder in ["docs/reference", "a/tests"] {
            fs::create_dir_all(root.path().join(folder)).unwrap();
        }
        fs::write(root.path().join("a/tests/b.rs"), SOURCE).unwrap();
        fs::write(root.path().join(ROWS), GOOD).unwrap();
        generate(root.path()).unwrap();
        let page = fs::read_to_string(root.path().join(PAGE)).unwrap();
        assert!(
            page.contains(
                "| JWT-01 | 1 | MUST | core | something | shown | `a/tests/b.rs::holds` |"
            )
        );
        assert!(page.contains("| JWT-SVID | 1 | 1 | 0 | 0 | 0 |"));
        fs::write(root.path().join(ROWS), GOOD.replace("something", "else")).unwrap();
        assert_eq!(check(root.path()).unwrap().len(), 1);
    }
}

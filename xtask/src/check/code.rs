//! Code blocks in Markdown files that say where they come from are what is there, so that it is compiled by somebody.
//!
//! The mark is a line `<!-- from: FILE#ANCHOR -->` before the fence; anchors are mdBook's.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::has_extension;

pub(super) fn check(root: &Path, files: &[PathBuf]) -> io::Result<Vec<String>> {
    let mut findings = Vec::new();
    for file in files.iter().filter(|file| has_extension(file, "md")) {
        let text = fs::read_to_string(root.join(file))?;
        for block in blocks(&text) {
            let at = format!("{}:{}", file.display(), block.line);
            let (path, anchor) = match block.from.split_once('#') {
                Some((path, anchor)) => (path, Some(anchor)),
                None => (block.from, None),
            };
            let Ok(source) = fs::read_to_string(root.join(path)) else {
                findings.push(format!("{at}: `{path}` is not there"));
                continue;
            };
            let Some(expected) = region(&source, anchor) else {
                findings.push(format!("{at}: `{}` has no such region", block.from));
                continue;
            };
            if let Some(difference) = difference(&block.code, &expected) {
                findings.push(format!(
                    "{at}: not the code of `{}`: {difference}",
                    block.from
                ));
            }
        }
    }
    Ok(findings)
}

/// A marked code block.
#[derive(Debug, PartialEq)]
struct Block<'a> {
    /// Of the mark.
    line: usize,
    from: &'a str,
    code: Vec<&'a str>,
}

fn blocks(markdown: &str) -> Vec<Block<'_>> {
    let mut found = Vec::new();
    let mut lines = markdown.lines().enumerate();
    while let Some((index, line)) = lines.next() {
        let Some(from) = line
            .trim()
            .strip_prefix("<!-- from:")
            .and_then(|rest| rest.strip_suffix("-->"))
        else {
            continue;
        };
        // A mark without a fence after it is a block without code, which equals nothing.
        let mut code = Vec::new();
        if lines
            .next()
            .is_some_and(|(_, fence)| fence.starts_with("```"))
        {
            code.extend(
                lines
                    .by_ref()
                    .map(|(_, line)| line)
                    .take_while(|line| !line.starts_with("```")),
            );
        }
        found.push(Block {
            line: index + 1,
            from: from.trim(),
            code,
        });
    }
    found
}

/// The lines of a region, or of the whole file, as a reader of the document should see them.
fn region<'a>(source: &'a str, anchor: Option<&str>) -> Option<Vec<&'a str>> {
    let mut lines: Vec<&str> = match anchor {
        None => source.lines().collect(),
        Some(anchor) => {
            let all: Vec<&str> = source.lines().collect();
            let start = all
                .iter()
                .position(|line| mark(line) == Some(("ANCHOR", anchor)))?;
            let length = all[start + 1..]
                .iter()
                .position(|line| mark(line) == Some(("ANCHOR_END", anchor)))?;
            all[start + 1..][..length].to_vec()
        }
    };
    lines.retain(|line| mark(line).is_none());
    let doc = |line: &&str| {
        let line = line.trim_start();
        line.starts_with("//!") || line.starts_with("///")
    };
    if anchor.is_some() && lines.iter().all(doc) {
        lines = lines.iter().map(|line| &line.trim_start()[3..]).collect();
        lines.retain(|line| !line.trim().starts_with("# ") && line.trim() != "#");
    }
    let indent = lines
        .iter()
        .filter(|line| !line.trim().is_empty())
        .map(|line| line.len() - line.trim_start().len())
        .min()
        .unwrap_or(0);
    Some(
        lines
            .iter()
            .map(|line| line.get(indent..).unwrap_or(""))
            .collect(),
    )
}

/// The anchor comment in a line: its kind and name.
fn mark(line: &str) -> Option<(&str, &str)> {
    let (kind, name) = line.trim().strip_prefix("// ")?.split_once(": ")?;
    ["ANCHOR", "ANCHOR_END"]
        .contains(&kind)
        .then_some((kind, name))
}

/// Where the two first differ; empty lines at either end and spaces at the end of a line do not count.
fn difference(shown: &[&str], expected: &[&str]) -> Option<String> {
    let (shown, expected) = (trimmed(shown), trimmed(expected));
    if shown.is_empty() {
        return Some("no code block follows the mark".into());
    }
    let end = shown.len().max(expected.len());
    (0..end).find_map(|at| {
        let [shown, expected] = [&shown, &expected].map(|lines| lines.get(at).copied());
        (shown != expected).then(|| {
            format!(
                "line {} is `{}` and should be `{}`",
                at + 1,
                shown.unwrap_or("(nothing)"),
                expected.unwrap_or("(nothing)")
            )
        })
    })
}

fn trimmed<'a>(lines: &[&'a str]) -> Vec<&'a str> {
    let lines: Vec<&str> = lines.iter().map(|line| line.trim_end()).collect();
    let full = |line: &&str| !line.is_empty();
    match (lines.iter().position(full), lines.iter().rposition(full)) {
        (Some(first), Some(last)) => lines[first..=last].to_vec(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = "\
//! Head.
fn main() {
    // ANCHOR: serve
    let a = 1;
    // ANCHOR: inner
    if a > 0 {
        b();

    }
    // ANCHOR_END: inner
    // ANCHOR_END: serve
}
// ANCHOR: doc
/// let c = 2;
/// # hidden();
/// d(c);
// ANCHOR_END: doc
// ANCHOR: open
";

    #[track_caller]
    fn check_document(markdown: &str, findings: &[&str]) {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("s.rs"), SOURCE).unwrap();
        fs::write(root.path().join("README.md"), markdown).unwrap();
        assert_eq!(
            check(root.path(), &[PathBuf::from("README.md")]).unwrap(),
            findings
        );
    }

    #[test]
    fn blocks_that_are_their_source_are_good() {
        check_document(
            "text\n<!-- from: s.rs#serve -->\n```rust\nlet a = 1;\nif a > 0 {\n    b();\n\n}\n```\n",
            &[],
        );
        check_document(
            "<!-- from: s.rs#doc -->\n```rust\nlet c = 2;\nd(c);\n```\n",
            &[],
        );
        check_document("```rust\nanything();\n```\n", &[]);
    }

    #[test]
    fn a_block_that_is_not_its_source_shows_the_first_difference() {
        check_document(
            "<!-- from: s.rs#doc -->\n```rust\nlet c = 3;\nd(c);\n```\n",
            &[
                "README.md:1: not the code of `s.rs#doc`: line 1 is `let c = 3;` and should be `let c = 2;`",
            ],
        );
        check_document(
            "<!-- from: s.rs#doc -->\n```rust\nlet c = 2;\n```\n",
            &[
                "README.md:1: not the code of `s.rs#doc`: line 2 is `(nothing)` and should be `d(c);`",
            ],
        );
    }

    #[test]
    fn a_mark_that_leads_nowhere_is_found() {
        check_document(
            "<!-- from: t.rs -->\n```rust\n```\n",
            &["README.md:1: `t.rs` is not there"],
        );
        for anchor in ["gone", "open"] {
            check_document(
                &format!("<!-- from: s.rs#{anchor} -->\n```rust\n```\n"),
                &[&format!("README.md:1: `s.rs#{anchor}` has no such region")],
            );
        }
        check_document(
            "<!-- from: s.rs#doc -->\n\ntext\n",
            &["README.md:1: not the code of `s.rs#doc`: no code block follows the mark"],
        );
    }
}

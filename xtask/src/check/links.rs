//! Links in Markdown files lead to files that are there: `[text](target)`, `[name]: target`, `{{#include target}}`.
//!
//! Links to other machines are not followed, for a check that needs the network fails for reasons of its own; sections
//! after `#` are not looked up.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::has_extension;

pub(super) fn check(root: &Path, files: &[PathBuf]) -> io::Result<Vec<String>> {
    let mut findings = Vec::new();
    for file in files.iter().filter(|file| has_extension(file, "md")) {
        let text = fs::read_to_string(root.join(file))?;
        for (line, target) in targets(&text) {
            // From the root as hosts of repositories read it, else from the file's folder.
            let from = match target.strip_prefix('/') {
                Some(path) => root.join(path),
                None => root.join(file).with_file_name("").join(&target),
            };
            if !from.exists() {
                findings.push(format!(
                    "{}:{line}: `{target}` is not there",
                    file.display()
                ));
            }
        }
    }
    Ok(findings)
}

/// Line numbers and paths of the links to files.
fn targets(markdown: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut fence: Option<&str> = None;
    for (index, line) in markdown.lines().enumerate() {
        // Fenced code shows links, it has none; but mdBook fills its includes in there too.
        let opening = ["```", "~~~"]
            .into_iter()
            .find(|mark| line.trim_start().starts_with(mark));
        match (fence, opening) {
            (None, Some(_)) => fence = opening,
            (Some(open), Some(mark)) if open == mark => fence = None,
            _ => {}
        }
        let mut add = |target: &str| found.extend(as_file(target).map(|file| (index + 1, file)));
        for include in after_each(line, "{{#include ") {
            // `file:anchor` and `file:from:to`.
            let target = include.split("}}").next().unwrap_or_default().trim();
            add(target.split(':').next().unwrap_or_default());
        }
        if fence.is_some() {
            continue;
        }
        let text = without_code(line);
        for link in after_each(&text, "](") {
            add(destination(link));
        }
        if let Some((name, target)) = text.trim_start().split_once("]: ")
            && name.starts_with('[')
            // A footnote's text is no target.
            && !name.starts_with("[^")
        {
            add(target.split_whitespace().next().unwrap_or_default());
        }
    }
    found
}

/// What follows each occurrence of `mark`.
fn after_each<'a>(text: &'a str, mark: &'a str) -> impl Iterator<Item = &'a str> {
    text.match_indices(mark)
        .map(move |(at, _)| &text[at + mark.len()..])
}

/// The target of an inline link whose text follows `](`: up to the parenthesis that closes it, without a title.
fn destination(link: &str) -> &str {
    let mut depth = 0;
    let end = link.find(|c| match c {
        '(' => {
            depth += 1;
            false
        }
        ')' if depth == 0 => true,
        ')' => {
            depth -= 1;
            false
        }
        _ => c.is_whitespace(),
    });
    &link[..end.unwrap_or(link.len())]
}

/// The path of a target that is a file, without its section.
fn as_file(target: &str) -> Option<String> {
    let target = target.trim_start_matches('<').trim_end_matches('>');
    let path = target.split('#').next().unwrap_or_default();
    let elsewhere = target.contains("://") || target.starts_with("mailto:");
    (!elsewhere && !path.is_empty()).then(|| path.replace("%20", " "))
}

/// The line without its code spans.
fn without_code(line: &str) -> String {
    line.split('`').step_by(2).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_targets(markdown: &str, expected: &[(usize, &str)]) {
        let found = targets(markdown);
        let found: Vec<_> = found
            .iter()
            .map(|(line, file)| (*line, file.as_str()))
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn links_of_each_form_are_seen() {
        check_targets(
            "a [b](c.md) and ![d](e/f.png \"g\")",
            &[(1, "c.md"), (1, "e/f.png")],
        );
        check_targets("\n[`code`](src/x.rs#L3)", &[(2, "src/x.rs")]);
        check_targets("[a]: b.md", &[(1, "b.md")]);
        check_targets("[a](b(c).md)", &[(1, "b(c).md")]);
        check_targets("[a](<b.md>)", &[(1, "b.md")]);
        check_targets(
            "```rust\n{{#include ../x.rs:main}}\n```\n[a](b)",
            &[(2, "../x.rs"), (4, "b")],
        );
    }

    #[test]
    fn what_leads_elsewhere_or_is_code_is_passed_over() {
        check_targets(
            "[a](https://example.org/b.md) [c](#d) [e](mailto:f@example.org)",
            &[],
        );
        check_targets(
            "`[a](b.md)`\n```\n[a](b.md)\n```\n~~~\n```\n[a](b.md)\n~~~",
            &[],
        );
        check_targets("[^1]: a footnote", &[]);
    }

    #[test]
    fn only_links_to_absent_files_are_findings() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("docs")).unwrap();
        fs::write(root.path().join("README.md"), "[a](docs) [b](docs/a.md#s)").unwrap();
        fs::write(
            root.path().join("docs/a.md"),
            "[c](../README.md)\n[d](gone.md) [e](/docs/a.md)",
        )
        .unwrap();
        let files = ["README.md", "docs/a.md"].map(PathBuf::from);
        assert_eq!(
            check(root.path(), &files).unwrap(),
            ["docs/a.md:2: `gone.md` is not there"]
        );
    }
}

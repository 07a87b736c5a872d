//! `cargo xtask check`: what compilers and linters do not look at.
//!
//! Each part is a function from files to findings, one line each that begins with the file. All are printed before the
//! chore fails, so that one run shows everything there is to mend.

mod adapters;
mod code;
mod dependencies;
mod generated;
mod heads;
mod links;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::conformance;
use crate::run::{self, Failure};

pub(crate) fn run(args: &[String]) -> Result<(), Failure> {
    run::expect_no_arguments("check", args)?;
    let root = run::root();
    let files = files_below(&root)?;
    let parts = [
        ("generated code", generated::check(&root)?),
        ("links", links::check(&root, &files)?),
        ("file heads", heads::check(&root, &files)?),
        ("code in documents", code::check(&root, &files)?),
        ("conformance", conformance::check(&root)?),
        ("adapters", adapters::check(&root, &files)?),
        ("dependencies", dependencies::check()?),
    ];
    let mut findings = 0;
    for (part, found) in parts {
        println!(
            "{part}: {}",
            if found.is_empty() { "good" } else { "not good" }
        );
        for finding in &found {
            eprintln!("{finding}");
        }
        findings += found.len();
    }
    if findings == 0 {
        Ok(())
    } else {
        Err(Failure::Wrong(format!("{findings} findings")))
    }
}

/// Every file of the project by path from `root`, sorted.
fn files_below(root: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(root.join(&folder))? {
            let entry = entry?;
            let path = folder.join(entry.file_name());
            let kind = entry.file_type()?;
            if kind.is_dir() && !NOT_OURS.iter().any(|name| entry.file_name() == *name) {
                folders.push(path);
            } else if kind.is_file() {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|found| found == extension)
}

/// Folders of tools and what they make.
const NOT_OURS: &[&str] = &[".git", "__pycache__", "node_modules", "target"];

pub(crate) const HELP: &str = "\
Usage: cargo xtask check

Fails, naming each file, when
  - generated code is not what `cargo xtask gen` writes;
  - a link in a Markdown file leads to a file that is not there;
  - a file below src/ of a library crate does not open with `//!` (`tests.rs` may);
  - a code block in a Markdown file is not the code it says it is. Mark a block with the line before its fence:
        <!-- from: examples/src/bin/helloworld_server.rs#serve -->
    which names a file and the region between `// ANCHOR: serve` and `// ANCHOR_END: serve` in it (without `#...` the
    whole file). Inside documentation comments the region is read without `///` or `//!` and without hidden lines.
  - a row of docs/reference/conformance.tsv names a test that does not exist or does not run, or claims more than it
    names, or the page beside it is not what `cargo xtask gen` writes;
  - an adapter of spiffe-tls, a feature with a module of its name, is not held to the one test of rotation and revocation in
    examples/tests/adapters;
  - spiffe-core depends on more crates than it promises.
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_tools_are_not_ours() {
        let root = tempfile::tempdir().unwrap();
        for folder in ["a/src", "target/debug", "a/target"] {
            fs::create_dir_all(root.path().join(folder)).unwrap();
            fs::write(root.path().join(folder).join("x.rs"), "").unwrap();
        }
        assert_eq!(
            files_below(root.path()).unwrap(),
            [PathBuf::from("a/src/x.rs")]
        );
    }
}

//! Every file of a library says at its head what is in it, but for `tests.rs`, whose name says it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::has_extension;

pub(super) fn check(root: &Path, files: &[PathBuf]) -> io::Result<Vec<String>> {
    let sources: Vec<&Path> = files
        .iter()
        .filter(|file| file.ends_with("src/lib.rs"))
        .filter_map(|file| file.parent())
        .collect();
    let mut findings = Vec::new();
    for file in files.iter().filter(|file| has_extension(file, "rs")) {
        if !file.ends_with("tests.rs")
            && sources.iter().any(|folder| file.starts_with(folder))
            && !fs::read_to_string(root.join(file))?.starts_with("//!")
        {
            findings.push(format!(
                "{}: opens without `//!`: say what is here",
                file.display()
            ));
        }
    }
    Ok(findings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_libraries_need_a_head_and_others_do_not() {
        let root = tempfile::tempdir().unwrap();
        let files = [
            ("a/src/lib.rs", "//! A.\nmod b;\n"),
            ("a/src/b/mod.rs", "use std::io;\n"),
            ("a/src/b/tests.rs", "use super::*;\n"),
            ("a/tests/c.rs", "use a;\n"),
            ("d/src/main.rs", "fn main() {}\n"),
        ]
        .map(|(file, code)| {
            let path = root.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, code).unwrap();
            PathBuf::from(file)
        });
        assert_eq!(
            check(root.path(), &files).unwrap(),
            ["a/src/b/mod.rs: opens without `//!`: say what is here"]
        );
    }
}

//! Every adapter of spiffe-tls is held to the one test of rotation and revocation, so that a new one cannot forget it.
//!
//! An adapter is a feature with a module of its name, beside the bare acceptor and connector, which are tokio's. The test
//! is `check::<ADAPTER>()` of the harness, where ADAPTER begins with the feature's name in any case.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::conformance;

pub(super) fn check(root: &Path, files: &[PathBuf]) -> io::Result<Vec<String>> {
    let manifest = fs::read_to_string(root.join(MANIFEST))?;
    let features: BTreeSet<&str> = features(&manifest).collect();
    let has_module = |feature: &str| {
        ["NAME.rs", "NAME/mod.rs"].iter().any(|file| {
            let file = Path::new(SOURCES).join(file.replace("NAME", feature));
            files.contains(&file)
        })
    };
    let mut findings = Vec::new();
    for (exempt, _) in EXEMPT {
        if !features.contains(exempt) {
            findings.push(format!(
                "{MANIFEST}: `{exempt}` is exempt from the test of adapters, and is no feature"
            ));
        }
    }
    let mut tested = BTreeSet::new();
    for file in files.iter().filter(|file| file.starts_with(TESTS)) {
        let text = fs::read_to_string(root.join(file))?;
        for call in calls(&text) {
            match call {
                Ok(adapter) => {
                    tested.insert(adapter);
                }
                Err(why) => findings.push(format!("{}: {why}", file.display())),
            }
        }
    }
    let adapters = features
        .into_iter()
        .filter(|feature| has_module(feature))
        .filter(|feature| EXEMPT.iter().all(|(exempt, _)| exempt != feature));
    for adapter in adapters.chain([BARE]) {
        if !tested.contains(adapter) {
            findings.push(format!(
                "{MANIFEST}: the adapter `{adapter}` does not pass the test of rotation: call `check::<…>()` in {TESTS}"
            ));
        }
    }
    Ok(findings)
}

/// The names in the section of features.
fn features(manifest: &str) -> impl Iterator<Item = &str> {
    manifest
        .lines()
        .skip_while(|line| *line != "[features]")
        .skip(1)
        .take_while(|line| !line.starts_with('['))
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| Some(line.split_once('=')?.0.trim()))
}

/// The adapters that are tested, in small letters, or why a call tests none.
fn calls(text: &str) -> Vec<Result<String, String>> {
    let mut function = "";
    let mut found = Vec::new();
    for line in text.lines().map(str::trim) {
        if let Some((_, rest)) = line.split_once("fn ") {
            function = rest.split(['(', '<']).next().unwrap_or_default();
        }
        if let Some((_, rest)) = line.split_once(CALL) {
            let adapter = rest.split(['<', '>']).next().unwrap_or_default();
            found.push(match conformance::find_test(text, function) {
                Ok(()) => Ok(adapter.to_lowercase()),
                Err(why) => Err(format!("{function} calls `{CALL}{adapter}`: {why}")),
            });
        }
    }
    found
}

const MANIFEST: &str = "spiffe-tls/Cargo.toml";
const SOURCES: &str = "spiffe-tls/src";
const TESTS: &str = "examples/tests/adapters";
const CALL: &str = "check::<";

/// What is there without a feature.
const BARE: &str = "tokio";

/// Features with a module that keep no connection, and why.
const EXEMPT: &[(&str, &str)] = &[("bearer", "tokens are judged request by request")];

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "#[tokio::test]\nasync fn keeps() {\n    check::<Tokio>().await;\n    check::<Wire<true>>().await;\n}\n";

    #[track_caller]
    fn findings(features: &str, modules: &[&str], test: &str, expected: &[&str]) {
        let root = tempfile::tempdir().unwrap();
        let manifest = format!("[package]\nname = \"x\"\n\n[features]\n{features}\n[lints]\n");
        let mut files = vec![(MANIFEST.to_owned(), manifest.as_str())];
        files.extend(
            modules
                .iter()
                .map(|module| (format!("{SOURCES}/{module}"), "")),
        );
        files.push((format!("{TESTS}/one.rs"), test));
        for (path, text) in &files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let files: Vec<_> = files.iter().map(|(path, _)| PathBuf::from(path)).collect();
        assert_eq!(check(root.path(), &files).unwrap(), expected);
    }

    const FEATURES: &str = "default = [\"crypto\"]\n## Cryptography.\ncrypto = []\n## The adapter.\nwire = []\nbearer = []\n";
    const MODULES: &[&str] = &["wire/mod.rs", "bearer.rs", "lease.rs"];

    fn missing(name: &str) -> String {
        format!(
            "{MANIFEST}: the adapter `{name}` does not pass the test of rotation: call `check::<…>()` in {TESTS}"
        )
    }

    #[test]
    fn adapters_that_are_tested_are_good() {
        findings(FEATURES, MODULES, GOOD, &[]);
    }

    #[test]
    fn an_adapter_without_the_test_is_found() {
        let features = format!("{FEATURES}pigeon = []\n");
        let modules = [MODULES, &["pigeon.rs"]].concat();
        findings(&features, &modules, GOOD, &[&missing("pigeon")]);
        let without = GOOD.replace("    check::<Wire<true>>().await;\n", "");
        findings(FEATURES, MODULES, &without, &[&missing("wire")]);
        let without = GOOD.replace("    check::<Tokio>().await;\n", "");
        findings(FEATURES, MODULES, &without, &[&missing("tokio")]);
    }

    #[test]
    fn a_call_that_does_not_run_tests_nothing() {
        let asleep = GOOD.replace("#[tokio::test]", "#[tokio::test]\n#[ignore = \"slow\"]");
        let head = format!("{TESTS}/one.rs: keeps calls");
        findings(
            FEATURES,
            MODULES,
            &asleep,
            &[
                &format!("{head} `check::<Tokio`: the test is ignored"),
                &format!("{head} `check::<Wire`: the test is ignored"),
                &missing("wire"),
                &missing("tokio"),
            ],
        );
    }

    #[test]
    fn an_exemption_of_nothing_is_found() {
        findings(
            &FEATURES.replace("bearer = []\n", ""),
            MODULES,
            GOOD,
            &[&format!(
                "{MANIFEST}: `bearer` is exempt from the test of adapters, and is no feature"
            )],
        );
    }
}

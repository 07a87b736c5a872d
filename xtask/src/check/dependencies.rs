//! Crates stay as small as they promise: how many others a build of them compiles, build scripts and macros included.

use std::collections::BTreeSet;
use std::io;

use crate::run;

pub(super) fn check() -> io::Result<Vec<String>> {
    let mut findings = Vec::new();
    for budget in BUDGETS {
        let output = run::cargo()
            .args(["tree", "--quiet", "--locked", "--edges", "normal,build"])
            .args(["--prefix", "none", "--format", "{p}", "--package"])
            .arg(budget.package)
            .args(budget.how)
            .output()?;
        let tree = String::from_utf8_lossy(&output.stdout);
        let found = others(&tree);
        // Without even the package itself in it, this is no tree.
        if !output.status.success() || tree.is_empty() {
            let why = String::from_utf8_lossy(&output.stderr);
            let why = why.lines().next().unwrap_or_default();
            findings.push(format!("{}: cargo tree failed: {why}", budget.package));
        } else if found > budget.at_most {
            findings.push(format!(
                "{}: {} depends on {found} crates, not {} at most; see `cargo tree`",
                budget.package, budget.what, budget.at_most
            ));
        }
    }
    Ok(findings)
}

/// How many crates a tree lists besides the first, by name and version.
fn others(tree: &str) -> usize {
    let crates: BTreeSet<_> = tree
        .lines()
        .map(|line| line.split(' ').take(2).collect::<Vec<_>>())
        .filter(|words| words.len() == 2)
        .collect();
    crates.len().saturating_sub(1)
}

/// One build and its limit.
struct Budget {
    package: &'static str,
    what: &'static str,
    how: &'static [&'static str],
    at_most: usize,
}

const BUDGETS: &[Budget] = &[
    Budget {
        package: "spiffe-core",
        what: "without features, it directly",
        how: &["--no-default-features", "--depth", "1"],
        at_most: 3,
    },
    Budget {
        package: "spiffe-core",
        what: "without features, it",
        how: &["--no-default-features"],
        at_most: 8,
    },
    Budget {
        package: "spiffe-core",
        what: "with every feature, it",
        how: &["--all-features"],
        at_most: 45,
    },
    Budget {
        package: "spiffe-workload-client",
        what: "by default, it",
        how: &[],
        at_most: 110,
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crate_counts_once_and_two_versions_twice() {
        let tree =
            "a v1.0.0 (/here/a)\nb v1.0.0\nc v1.0.0 (proc-macro)\nb v1.0.0 (*)\nb v2.0.0\n\n";
        assert_eq!(others(tree), 3);
        assert_eq!(others("a v1.0.0 (/here/a)\n"), 0);
        assert_eq!(others(""), 0);
    }
}

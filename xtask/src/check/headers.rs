//! Every file opens with a header that says what the file is for.
//!
//! In: the Rust files, and the modules that each package's root files declare. Out: a finding for each file without a header, and
//! for each header that does not say what comes in and what goes out. Files that are compiled for tests only name their role and
//! no more.

use std::collections::BTreeSet;

use anyhow::Result;

use super::Finding;
use super::source::Tree;

/// Where a header says what comes in and what goes out: the product, its tools, and what its suites share.
const PARTS: [&str; 10] = [
    "agent/build.rs",
    "agent/controller/src/",
    "agent/masking/src/",
    "agent/metrics/src/",
    "agent/policy/src/",
    "agent/src/",
    "agent-common/src/",
    "agent-ebpf/src/",
    "tests/src/",
    "xtask/src/",
];

/// Checks every Rust file.
pub(crate) fn check(tree: &Tree) -> Result<Vec<Finding>> {
    let mut compiled = BTreeSet::new();
    for root in tree.packages.iter().flat_map(|package| &package.targets) {
        let modules = tree.modules(root)?.into_iter();
        compiled.extend(modules.filter(|module| !module.test).map(|module| module.file));
    }
    let mut found = Vec::new();
    for (path, _) in tree.rust("") {
        let text = tree.files.get(path).map_or("", |file| &file.text);
        let is_part = PARTS.iter().any(|part| path.starts_with(part));
        if let Some(message) = fault(text, is_part && compiled.contains(path)) {
            found.push(Finding {
                file: path.to_owned(),
                line: 1,
                message: message.to_owned(),
            });
        }
    }
    Ok(found)
}

/// What a file's header lacks. A part's header has the role first, then `In:`, then `Out:`.
fn fault(text: &str, is_part: bool) -> Option<&'static str> {
    let header: Vec<&str> = text.lines().map_while(|line| line.strip_prefix("//!")).collect();
    let words: Vec<&str> = header.iter().flat_map(|line| line.split_whitespace()).collect();
    if words.is_empty() {
        return Some("a file opens with `//!` and a sentence that says what it is for");
    }
    let place = |word| words.iter().position(|&one| one == word);
    match (place("In:"), place("Out:")) {
        (Some(1..), Some(_)) if place("In:") < place("Out:") => None,
        _ if is_part => {
            Some("a header says after the role what comes in and what goes out: `In: ... Out: ...`")
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::source::Package;
    use super::super::source::fixture::tree;
    use super::check;

    const NO_HEADER: &str = "a file opens with `//!` and a sentence that says what it is for";
    const ROLE_ONLY: &str =
        "a header says after the role what comes in and what goes out: `In: ... Out: ...`";

    /// What is found in a library whose modules are `text`.
    fn found(root: &str, text: &str) -> Vec<String> {
        let mut tree = tree(text);
        tree.packages.push(Package {
            targets: vec![root.to_owned()],
            ..Package::default()
        });
        check(&tree).unwrap().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_file_without_in_and_out_is_found() {
        let text = "=== agent/src/lib.rs
//! The library.
//!
//! In: requests. Out: answers.
mod none;
mod role;
mod part;
mod turned;
mod begins;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod bare;
=== agent/src/none.rs
use crate::role;
// In: too late. Out: to count.
=== agent/src/role.rs
//! The role.
/// In: of an item. Out: of another.
struct Role;
=== agent/src/part.rs
//! The role. In: requests.
=== agent/src/turned.rs
//! The role. Out: answers. In: requests.
=== agent/src/begins.rs
//! In: requests. Out: answers.
=== agent/src/tests.rs
//! Tests of the role.
=== agent/src/bare.rs
struct Bare;
";
        assert_eq!(
            found("agent/src/lib.rs", text),
            [
                format!("agent/src/bare.rs:1: {NO_HEADER}"),
                format!("agent/src/begins.rs:1: {ROLE_ONLY}"),
                format!("agent/src/none.rs:1: {NO_HEADER}"),
                format!("agent/src/part.rs:1: {ROLE_ONLY}"),
                format!("agent/src/role.rs:1: {ROLE_ONLY}"),
                format!("agent/src/turned.rs:1: {ROLE_ONLY}"),
            ]
        );
    }

    #[test]
    fn a_suite_says_its_role_alone() {
        assert_eq!(
            found("tests/e2e/main.rs", "=== tests/e2e/main.rs\n//! A suite.\n"),
            [""; 0]
        );
        assert_eq!(
            found("tests/e2e/main.rs", "=== tests/e2e/main.rs\nfn main() {}\n"),
            [format!("tests/e2e/main.rs:1: {NO_HEADER}")]
        );
    }
}

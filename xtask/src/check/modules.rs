//! Every Rust file belongs to a crate.
//!
//! In: the packages' root files and the modules that they declare. Out: a finding for each Rust file of a package that no
//! module declares: it would not be compiled, and its tests would not run.

use std::collections::BTreeSet;

use anyhow::Result;

use super::Finding;
use super::source::Tree;

/// Checks every package.
pub(crate) fn check(tree: &Tree) -> Result<Vec<Finding>> {
    let mut compiled = BTreeSet::new();
    for root in tree.packages.iter().flat_map(|package| &package.targets) {
        compiled.extend(tree.modules(root)?.into_iter().map(|module| module.file));
    }
    let mut found = Vec::new();
    for (path, _) in tree.rust("") {
        let packages = tree.packages.iter().map(|package| package.folder.as_str());
        let owner = packages
            .filter(|folder| path.starts_with(&format!("{folder}/")))
            .max();
        // What is in no package is not cargo's: the fuzz targets are a workspace of their own.
        if owner.is_some() && !path.starts_with("tests/fuzz/") && !compiled.contains(path) {
            found.push(Finding {
                file: path.to_owned(),
                line: 1,
                message: "no module declares this file, so nothing in it is compiled".to_owned(),
            });
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::super::source::Package;
    use super::super::source::fixture::tree;
    use super::check;

    #[test]
    fn a_file_that_no_module_declares_is_found() {
        let mut tree = tree(
            "=== a/src/lib.rs
mod one;
mod inline { mod two; }
#[path = \"../shared/three.rs\"]
mod three;
=== a/src/one.rs
mod deep;
=== a/src/one/deep.rs
=== a/src/inline/two.rs
=== a/shared/three.rs
=== a/src/forgotten.rs
=== elsewhere/script.rs
",
        );
        tree.packages.push(Package {
            folder: "a".to_owned(),
            targets: vec!["a/src/lib.rs".to_owned()],
            ..Package::default()
        });
        let found: Vec<String> = check(&tree).unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(
            found,
            ["a/src/forgotten.rs:1: no module declares this file, so nothing in it is compiled"]
        );
    }
}

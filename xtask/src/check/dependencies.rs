//! Every dependency is used.
//!
//! In: each package's dependencies, and the identifiers in its sources; the workspace's list of dependencies. Out: a finding
//! for a dependency that the package's sources never name, and for one of the workspace's that no package takes.

use std::collections::BTreeSet;

use proc_macro2::{TokenStream, TokenTree};

use super::Finding;
use super::source::{Package, Tree};

/// Checks every package.
pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    for package in &tree.packages {
        let named = identifiers(tree, package);
        let manifest = format!("{}/Cargo.toml", package.folder);
        for dependency in &package.dependencies {
            if !named.contains(&dependency.replace('-', "_")) {
                found.push(Finding {
                    line: line_of(tree, &manifest, dependency),
                    file: manifest.clone(),
                    message: format!("nothing in {} uses the dependency `{dependency}`", package.name),
                });
            }
        }
    }
    let taken: BTreeSet<&String> = tree
        .packages
        .iter()
        .flat_map(|package| &package.dependencies)
        .collect();
    for dependency in shared(tree) {
        if !taken.contains(&dependency) {
            found.push(Finding {
                line: line_of(tree, "Cargo.toml", &dependency),
                file: "Cargo.toml".to_owned(),
                message: format!("no package takes the dependency `{dependency}`"),
            });
        }
    }
    found
}

/// Every identifier in the package's own files; comments do not count.
fn identifiers(tree: &Tree, package: &Package) -> BTreeSet<String> {
    fn add(tokens: TokenStream, all: &mut BTreeSet<String>) {
        for token in tokens {
            match token {
                TokenTree::Ident(ident) => {
                    all.insert(ident.to_string());
                }
                TokenTree::Group(group) => add(group.stream(), all),
                _ => {}
            }
        }
    }
    let mut all = BTreeSet::new();
    let inner: Vec<&str> = tree
        .packages
        .iter()
        .map(|other| other.folder.as_str())
        .filter(|folder| folder.starts_with(&format!("{}/", package.folder)))
        .collect();
    for (path, _) in tree.rust(&package.folder) {
        if inner.iter().any(|folder| path.starts_with(&format!("{folder}/"))) {
            continue;
        }
        if let Ok(tokens) = tree.files[path].text.parse() {
            add(tokens, &mut all);
        }
    }
    all
}

/// The names in the workspace's list of dependencies.
fn shared(tree: &Tree) -> Vec<String> {
    let Some(manifest) = tree.files.get("Cargo.toml") else {
        return Vec::new();
    };
    let lines = manifest
        .text
        .lines()
        .skip_while(|line| *line != "[workspace.dependencies]")
        .skip(1);
    lines
        .take_while(|line| !line.starts_with('['))
        .filter_map(|line| Some(line.split_once('=')?.0.trim().to_owned()))
        .collect()
}

fn line_of(tree: &Tree, manifest: &str, dependency: &str) -> usize {
    let text = tree
        .files
        .get(manifest)
        .map(|file| file.text.as_str())
        .unwrap_or_default();
    let names = |line: &str| line.split(['.', '=', ' ']).next() == Some(dependency);
    text.lines().position(names).map_or(1, |at| at + 1)
}

#[cfg(test)]
mod tests {
    use super::super::source::Package;
    use super::super::source::fixture::tree;
    use super::check;

    #[test]
    fn a_dependency_that_only_a_comment_names_is_found() {
        let mut tree = tree(
            "=== Cargo.toml
[workspace.dependencies]
base64 = \"0.22\"
serde-json = \"1\"
globset = { version = \"0.4\" }

[profile.release]
lto = \"thin\"
=== a/Cargo.toml
[dependencies]
serde-json.workspace = true
base64.workspace = true
=== a/src/lib.rs
//! Like base64.
use serde_json::Value;
=== a/inner/src/lib.rs
use base64::Engine;
",
        );
        tree.packages = vec![
            Package {
                name: "a".to_owned(),
                folder: "a".to_owned(),
                dependencies: vec!["serde-json".to_owned(), "base64".to_owned()],
                ..Package::default()
            },
            Package {
                name: "inner".to_owned(),
                folder: "a/inner".to_owned(),
                ..Package::default()
            },
        ];
        let found: Vec<String> = check(&tree).iter().map(ToString::to_string).collect();
        assert_eq!(
            found,
            [
                "a/Cargo.toml:3: nothing in a uses the dependency `base64`",
                "Cargo.toml:4: no package takes the dependency `globset`",
            ]
        );
    }
}

//! The files of the repository, and the modules of a crate as the compiler finds them.
//!
//! In: the root of a repository, or of a fixture. Out: [`Tree`], with each Rust file parsed once, and [`Module`]s.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::sh;

/// A text file.
pub(crate) struct File {
    pub(crate) text: String,
    /// Given for Rust.
    pub(crate) syntax: Option<syn::File>,
}

/// A package of the workspace.
#[derive(Debug, Clone, Default)]
pub(crate) struct Package {
    pub(crate) name: String,
    /// Relative to the root of the repository.
    pub(crate) folder: String,
    /// The root files of its library, programs, tests and build script, relative to the root of the repository.
    pub(crate) targets: Vec<String>,
    /// What it depends on, as its sources call it.
    pub(crate) dependencies: Vec<String>,
}

/// The files of a repository by their paths relative to its root, and its packages.
#[derive(Default)]
pub(crate) struct Tree {
    pub(crate) files: BTreeMap<String, File>,
    pub(crate) packages: Vec<Package>,
}

impl Tree {
    /// What git has or would add below `root`, and what cargo says of it.
    pub(crate) fn of_workspace(root: &Path) -> Result<Self> {
        let mut git = sh::command("git");
        git.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
        let listed = sh::output(&mut git)?;
        let mut tree = Self::default();
        for path in listed.split('\0').filter(|path| !path.is_empty()) {
            // One that was removed and not yet committed is listed; one that is no text has no lines.
            if let Ok(text) = fs::read_to_string(root.join(path)) {
                tree.add(path, text)?;
            }
        }
        let metadata = sh::output(&mut sh::cargo(&["metadata", "--no-deps", "--format-version=1"]))?;
        tree.packages = packages(&serde_json::from_str(&metadata)?, root);
        Ok(tree)
    }

    /// Adds a file.
    pub(crate) fn add(&mut self, path: &str, text: String) -> Result<()> {
        let syntax = if path.ends_with(".rs") {
            let parsed = syn::parse_file(&text);
            Some(parsed.with_context(|| format!("{path} is not Rust"))?)
        } else {
            None
        };
        self.files.insert(path.to_owned(), File { text, syntax });
        Ok(())
    }

    /// The Rust files below a folder.
    pub(crate) fn rust<'a>(&'a self, folder: &'a str) -> impl Iterator<Item = (&'a str, &'a syn::File)> {
        let below = move |path: &str| folder.is_empty() || Path::new(path).starts_with(folder);
        self.files
            .iter()
            .filter(move |(path, _)| below(path))
            .filter_map(|(path, file)| Some((path.as_str(), file.syntax.as_ref()?)))
    }

    /// The modules that a crate's root file declares, and theirs, in the order of their declaration.
    pub(crate) fn modules(&self, root: &str) -> Result<Vec<Module<'_>>> {
        let mut found = Vec::new();
        let syntax = self.syntax(root)?;
        let folder = Path::new(root).parent().unwrap_or(Path::new("")).to_owned();
        self.walk(
            Module {
                file: root.to_owned(),
                path: Vec::new(),
                test: false,
                items: &syntax.items,
            },
            &folder,
            &mut found,
        )?;
        Ok(found)
    }

    fn syntax(&self, path: &str) -> Result<&syn::File> {
        let file = self.files.get(path).with_context(|| format!("no file {path}"))?;
        file.syntax
            .as_ref()
            .with_context(|| format!("{path} is not Rust"))
    }

    /// `folder` is where the module's own modules are.
    fn walk<'a>(&'a self, module: Module<'a>, folder: &Path, found: &mut Vec<Module<'a>>) -> Result<()> {
        let (items, parent, test, file) = (
            module.items,
            module.path.clone(),
            module.test,
            module.file.clone(),
        );
        found.push(module);
        for item in items {
            let syn::Item::Mod(declared) = item else { continue };
            let name = declared.ident.to_string();
            let mut path = parent.clone();
            path.push(name.clone());
            let test = test || is_test(&declared.attrs);
            let (file, items) = match &declared.content {
                Some((_, items)) => (file.clone(), items),
                None => {
                    let file = self.file_of(declared, folder, &file)?;
                    let items = &self.syntax(&file)?.items;
                    (file, items)
                }
            };
            let module = Module {
                file,
                path,
                test,
                items,
            };
            self.walk(module, &folder.join(&name), found)?;
        }
        Ok(())
    }

    fn file_of(&self, declared: &syn::ItemMod, folder: &Path, by: &str) -> Result<String> {
        let name = declared.ident.to_string();
        let candidates = match path_attribute(declared) {
            Some(path) => vec![Path::new(by).parent().unwrap_or(Path::new("")).join(path)],
            None => vec![
                folder.join(format!("{name}.rs")),
                folder.join(&name).join("mod.rs"),
            ],
        };
        candidates
            .iter()
            .map(|path| plain(path))
            .find(|path| self.files.contains_key(path))
            .with_context(|| format!("{by} declares a module `{name}` that has no file"))
    }
}

/// A module, in a file of its own or inside another's.
pub(crate) struct Module<'a> {
    pub(crate) file: String,
    /// Its names from the crate's root on.
    pub(crate) path: Vec<String>,
    /// Whether it is compiled for tests only.
    pub(crate) test: bool,
    pub(crate) items: &'a [syn::Item],
}

/// Whether `#[cfg(test)]` stands over it.
pub(crate) fn is_test(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| match &attribute.meta {
        syn::Meta::List(list) => list.path.is_ident("cfg") && list.tokens.to_string() == "test",
        _ => false,
    })
}

/// `#[path = "..."]`.
fn path_attribute(declared: &syn::ItemMod) -> Option<String> {
    declared.attrs.iter().find_map(|attribute| match &attribute.meta {
        syn::Meta::NameValue(pair) if pair.path.is_ident("path") => string(&pair.value),
        _ => None,
    })
}

/// A string literal's value.
pub(crate) fn string(value: &syn::Expr) -> Option<String> {
    match value {
        syn::Expr::Lit(literal) => match &literal.lit {
            syn::Lit::Str(text) => Some(text.value()),
            _ => None,
        },
        _ => None,
    }
}

/// A path without `..`, as files are called here.
fn plain(path: &Path) -> String {
    let mut parts = PathBuf::new();
    for part in path.components() {
        match part {
            std::path::Component::ParentDir => {
                parts.pop();
            }
            std::path::Component::CurDir => {}
            other => parts.push(other),
        }
    }
    parts.to_string_lossy().into_owned()
}

fn packages(metadata: &Value, root: &Path) -> Vec<Package> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let relative = |path: &Value| {
        let path = text(path);
        let inside = Path::new(&path).strip_prefix(root).unwrap_or(Path::new(&path));
        inside.to_string_lossy().into_owned()
    };
    let package = |value: &Value| Package {
        name: text(&value["name"]),
        folder: relative(&value["manifest_path"])
            .trim_end_matches("Cargo.toml")
            .trim_end_matches('/')
            .to_owned(),
        targets: list(&value["targets"])
            .iter()
            .map(|target| relative(&target["src_path"]))
            .collect(),
        dependencies: list(&value["dependencies"])
            .iter()
            .map(|one| {
                one["rename"]
                    .as_str()
                    .map_or_else(|| text(&one["name"]), str::to_owned)
            })
            .collect(),
    };
    list(&metadata["packages"]).iter().map(package).collect()
}

#[cfg(test)]
pub(crate) mod fixture {
    //! A tree written in one text: `=== path` begins a file.

    use super::Tree;

    pub(crate) fn tree(text: &str) -> Tree {
        let mut tree = Tree::default();
        for part in text.split("=== ").skip(1) {
            let (path, content) = part.split_once('\n').unwrap();
            tree.add(path.trim(), content.to_owned()).unwrap();
        }
        tree
    }
}

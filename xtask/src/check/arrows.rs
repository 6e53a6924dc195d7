//! Modules import only what the code map declares.
//!
//! The modules are those that a library's root file declares; a module inside one of them belongs to it. The code map is the
//! table in that file's documentation whose last column is `imports`:
//!
//! ```text
//! //! | module | holds | imports |
//! //! |---|---|---|
//! //! | [`tls`] | the handshake with a pod's client | `listener`, `pki` |
//! //! | [`pki`] | certificates and keys | - |
//! ```
//!
//! In: the code map, and each path in a module's sources that leads to another module. Out: a finding for an import that is not
//! declared, a declared one that is not used, a module without a row, or a row without a module. Modules that import each other
//! in a circle are a finding too. What is compiled for tests only may import anything.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, ensure};
use proc_macro2::{TokenStream, TokenTree};
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

use super::Finding;
use super::source::{Tree, is_test, string};

/// Checks the library of the package in `package`.
pub(crate) fn check(tree: &Tree, package: &str) -> Result<Vec<Finding>> {
    let root = format!("{package}/src/lib.rs");
    let modules = tree.modules(&root)?;
    ensure!(!modules.is_empty(), "{root} has no modules");
    let names: BTreeSet<String> = modules
        .iter()
        .filter(|module| module.path.len() == 1 && !module.test)
        .map(|module| module.path[0].clone())
        .collect();
    let map = code_map(tree, &root);
    let mut found = Vec::new();
    let exported = exports(modules[0].items);

    let mut used: Imports = BTreeMap::new();
    for module in modules
        .iter()
        .filter(|module| !module.test && !module.path.is_empty())
    {
        let name = module.path[0].as_str();
        let declared = map.get(name);
        let mut paths = Paths::default();
        for item in module
            .items
            .iter()
            .filter(|item| !matches!(item, syn::Item::Mod(_)))
        {
            paths.visit_item(item);
        }
        for (line, path) in paths.0 {
            let Some(other) = target(&module.path, &path, &names, &exported) else {
                continue;
            };
            if other == name {
                continue;
            }
            let place = format!("{}:{line}", module.file);
            let is_new = used
                .entry(name.to_owned())
                .or_default()
                .insert(other.clone(), place)
                .is_none();
            if is_new && declared.is_some_and(|row| !row.imports.contains(&other)) {
                found.push(Finding {
                    file: module.file.clone(),
                    line,
                    message: format!(
                        "module `{name}` imports `{other}`, which the code map in {root} does not declare"
                    ),
                });
            }
        }
    }
    for (name, row) in &map {
        for import in &row.imports {
            if names.contains(name)
                && names.contains(import)
                && !used.get(name).is_some_and(|all| all.contains_key(import))
            {
                found.push(Finding {
                    file: root.clone(),
                    line: row.line,
                    message: format!("module `{name}` declares the import of `{import}` and does not use it"),
                });
            }
        }
    }
    found.extend(rows(&root, &names, &map, &used));
    if let Some(circle) = circle(&used) {
        found.push(Finding {
            file: root,
            line: 1,
            message: format!("modules import each other in a circle: {}", circle.join(" -> ")),
        });
    }
    Ok(found)
}

/// The modules that each module imports, and where it does so first.
type Imports = BTreeMap<String, BTreeMap<String, String>>;

/// A row of the code map.
#[derive(Debug)]
struct Row {
    line: usize,
    imports: Vec<String>,
}

/// The rows of the table whose last column is `imports`.
fn code_map(tree: &Tree, root: &str) -> BTreeMap<String, Row> {
    let mut rows = BTreeMap::new();
    let Some(syntax) = tree.files.get(root).and_then(|file| file.syntax.as_ref()) else {
        return rows;
    };
    let mut inside = false;
    for attribute in &syntax.attrs {
        let syn::Meta::NameValue(pair) = &attribute.meta else {
            continue;
        };
        let Some(text) = string(&pair.value) else { continue };
        let cells: Vec<&str> = text.trim().trim_matches('|').split('|').map(str::trim).collect();
        if !text.trim().starts_with('|') {
            inside = false;
        } else if cells.last() == Some(&"imports") {
            inside = true;
        } else if inside && !text.contains("|--") {
            let name = |cell: &str| cell.trim_matches(['[', ']', '`', ' ']).to_owned();
            let imports = cells.last().copied().unwrap_or_default();
            let imports = imports.split(',').map(name).filter(|import| import != "-");
            rows.insert(
                name(cells[0]),
                Row {
                    line: attribute.span().start().line,
                    imports: imports.filter(|import| !import.is_empty()).collect(),
                },
            );
        }
    }
    rows
}

fn rows(root: &str, names: &BTreeSet<String>, map: &BTreeMap<String, Row>, used: &Imports) -> Vec<Finding> {
    let at = |line: usize, message: String| Finding {
        file: root.to_owned(),
        line,
        message,
    };
    let mut found = Vec::new();
    for name in names.iter().filter(|name| !map.contains_key(*name)) {
        let imports = used.get(name).into_iter().flat_map(BTreeMap::keys);
        let imports: Vec<String> = imports.map(|other| format!("`{other}`")).collect();
        let imports = if imports.is_empty() {
            "-".to_owned()
        } else {
            imports.join(", ")
        };
        found.push(at(
            1,
            format!("module `{name}` has no row in the code map; its imports are: {imports}"),
        ));
    }
    for (name, row) in map {
        if !names.contains(name) {
            found.push(at(
                row.line,
                format!("the code map has a row for `{name}`, which is no module"),
            ));
        }
        for import in row.imports.iter().filter(|import| !names.contains(*import)) {
            found.push(at(
                row.line,
                format!("module `{name}` declares the import of `{import}`, which is no module"),
            ));
        }
    }
    found
}

/// The names that the root file exports, and the modules they come from.
fn exports(items: &[syn::Item]) -> BTreeMap<String, String> {
    let mut names = BTreeMap::new();
    for item in items {
        let syn::Item::Use(used) = item else { continue };
        for path in use_paths(&used.tree) {
            if let [module, .., name] = path.as_slice() {
                names.insert(name.clone(), module.clone());
            }
        }
    }
    names
}

/// The module that a path leads to from the module `from`.
fn target(
    from: &[String],
    path: &[String],
    names: &BTreeSet<String>,
    exported: &BTreeMap<String, String>,
) -> Option<String> {
    let mut base: Vec<&String> = from.iter().collect();
    let mut rest = path;
    match rest.first().map(String::as_str) {
        Some("crate") => {
            base.clear();
            rest = &rest[1..];
        }
        Some("self" | "super") => {
            while let Some(first @ ("self" | "super")) = rest.first().map(String::as_str) {
                if first == "super" {
                    base.pop();
                }
                rest = &rest[1..];
            }
        }
        _ => return None,
    }
    base.extend(rest);
    let first = base.first()?;
    if names.contains(*first) {
        return Some((*first).clone());
    }
    exported.get(*first).cloned()
}

/// Every path that starts at the crate's root or relative to the module, with its line.
#[derive(Default)]
struct Paths(Vec<(usize, Vec<String>)>);

impl Paths {
    fn add(&mut self, line: usize, path: Vec<String>) {
        if matches!(path.first().map(String::as_str), Some("crate" | "self" | "super")) {
            self.0.push((line, path));
        }
    }

    /// Macros are not parsed; what looks like a path in them is taken for one.
    fn tokens(&mut self, tokens: TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let (mut line, mut colons) = (0, 0);
        for token in tokens {
            match token {
                TokenTree::Ident(ident) if colons == 2 && !path.is_empty() => path.push(ident.to_string()),
                TokenTree::Punct(punct) if punct.as_char() == ':' => {
                    colons += 1;
                    continue;
                }
                other => {
                    self.add(line, std::mem::take(&mut path));
                    match other {
                        TokenTree::Ident(ident) => {
                            line = ident.span().start().line;
                            path.push(ident.to_string());
                        }
                        TokenTree::Group(group) => self.tokens(group.stream()),
                        _ => {}
                    }
                }
            }
            colons = 0;
        }
        self.add(line, path);
    }
}

impl<'ast> Visit<'ast> for Paths {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        if !is_test(attributes(item)) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        for path in use_paths(&item.tree) {
            self.add(item.span().start().line, path);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let names = path
            .segments
            .iter()
            .map(|segment| segment.ident.to_string())
            .collect();
        self.add(path.span().start().line, names);
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        self.tokens(call.tokens.clone());
        visit::visit_macro(self, call);
    }
}

/// The attributes of the kinds of items that tests have for themselves.
fn attributes(item: &syn::Item) -> &[syn::Attribute] {
    match item {
        syn::Item::Const(item) => &item.attrs,
        syn::Item::Enum(item) => &item.attrs,
        syn::Item::Fn(item) => &item.attrs,
        syn::Item::Impl(item) => &item.attrs,
        syn::Item::Macro(item) => &item.attrs,
        syn::Item::Mod(item) => &item.attrs,
        syn::Item::Static(item) => &item.attrs,
        syn::Item::Struct(item) => &item.attrs,
        syn::Item::Trait(item) => &item.attrs,
        syn::Item::Type(item) => &item.attrs,
        syn::Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

/// `a::{b, c::d}` as `a::b` and `a::c::d`.
fn use_paths(tree: &syn::UseTree) -> Vec<Vec<String>> {
    let one = |name: &syn::Ident| vec![vec![name.to_string()]];
    match tree {
        syn::UseTree::Path(path) => {
            let mut paths = use_paths(&path.tree);
            for rest in &mut paths {
                rest.insert(0, path.ident.to_string());
            }
            paths
        }
        syn::UseTree::Name(name) => one(&name.ident),
        syn::UseTree::Rename(renamed) => one(&renamed.ident),
        syn::UseTree::Glob(_) => vec![Vec::new()],
        syn::UseTree::Group(group) => group.items.iter().flat_map(use_paths).collect(),
    }
}

/// Modules that import each other, the first one again at the end, and where.
fn circle(used: &Imports) -> Option<Vec<String>> {
    fn follow(name: &str, used: &Imports, done: &mut BTreeSet<String>, way: &mut Vec<String>) -> bool {
        if let Some(start) = way.iter().position(|before| before == name) {
            way.drain(..start);
            way.push(name.to_owned());
            return true;
        }
        if !done.insert(name.to_owned()) {
            return false;
        }
        way.push(name.to_owned());
        let others = used.get(name).into_iter().flat_map(BTreeMap::keys);
        if others.into_iter().any(|other| follow(other, used, done, way)) {
            return true;
        }
        way.pop();
        false
    }
    let (mut done, mut way) = (BTreeSet::new(), Vec::new());
    if !used.keys().any(|name| follow(name, used, &mut done, &mut way)) {
        return None;
    }
    let mut shown = vec![way[0].clone()];
    for pair in way.windows(2) {
        shown.push(format!("{} ({})", pair[1], used[&pair[0]][&pair[1]]));
    }
    Some(shown)
}

#[cfg(test)]
mod tests {
    use super::super::source::fixture::tree;
    use super::check;

    /// The library of `map` and these modules, and what is found there.
    fn found(map: &str, modules: &str) -> Vec<String> {
        let declared = "pub mod kernel;\nmod listener;\npub mod tls;\npub use kernel::Kernel;\n";
        let text = format!("=== a/src/lib.rs\n{map}\n{declared}{modules}");
        let found = check(&tree(&text), "a").unwrap();
        found.iter().map(ToString::to_string).collect()
    }

    const MAP: &str = "\
//! | module | holds | imports |
//! |---|---|---|
//! | [`kernel`] | programs | - |
//! | [`listener`] | sockets | `kernel` |
//! | [`tls`] | certificates | `kernel`, `listener` |";

    const MODULES: &str = "\
=== a/src/kernel.rs
pub struct Kernel;
#[cfg(test)]
use crate::tls::Tls;
#[cfg(test)]
mod tests { use crate::tls::Tls; }
=== a/src/listener/mod.rs
mod deep;
fn f() { println!(\"{}\", crate::kernel::NAME) }
=== a/src/listener/deep.rs
use super::Thing;
=== a/src/tls.rs
use super::listener::Thing;
use crate::Kernel;
";

    #[test]
    fn what_is_declared_and_used_is_in_order() {
        assert_eq!(found(MAP, MODULES), [""; 0]);
    }

    #[test]
    fn an_import_that_is_not_declared_is_found_wherever_it_stands() {
        let map = MAP
            .replace("`kernel` |", "- |")
            .replace("`kernel`, `listener`", "`kernel`");
        assert_eq!(
            found(&map, MODULES),
            [
                "a/src/listener/mod.rs:2: module `listener` imports `kernel`, which the code map in a/src/lib.rs does not declare",
                "a/src/tls.rs:1: module `tls` imports `listener`, which the code map in a/src/lib.rs does not declare",
            ]
        );
        let modules = MODULES.replace("super::Thing", "super::super::tls::Thing");
        assert_eq!(
            found(MAP, &modules)[0],
            "a/src/listener/deep.rs:1: module `listener` imports `tls`, which the code map in a/src/lib.rs does not declare"
        );
    }

    #[test]
    fn a_declared_import_that_nobody_uses_is_found() {
        let modules = MODULES.replace("use crate::Kernel;", "");
        assert_eq!(
            found(MAP, &modules),
            ["a/src/lib.rs:5: module `tls` declares the import of `kernel` and does not use it"]
        );
    }

    #[test]
    fn modules_and_rows_belong_together() {
        let map = MAP.replace("[`tls`] | certificates", "[`http`] | requests");
        assert_eq!(
            found(&map, MODULES),
            [
                "a/src/lib.rs:1: module `tls` has no row in the code map; its imports are: `kernel`, `listener`",
                "a/src/lib.rs:5: the code map has a row for `http`, which is no module",
            ]
        );
    }

    #[test]
    fn a_circle_is_found_though_it_is_declared() {
        let map = MAP.replace("programs | -", "programs | `tls`");
        let modules = MODULES.replace("pub struct Kernel;", "use crate::tls::Tls;");
        assert_eq!(
            found(&map, &modules),
            ["a/src/lib.rs:1: modules import each other in a circle: \
                 kernel -> tls (a/src/kernel.rs:1) -> kernel (a/src/tls.rs:2)"]
        );
    }
}

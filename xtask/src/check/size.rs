//! Files and functions are of a size that can be read.
//!
//! In: every text file, and the functions of the module that wires the agent up. Out: a finding for each that is too long. Lock
//! files and generated files have whatever length they have.

use std::path::Path;

use syn::spanned::Spanned;
use syn::visit::{self, Visit};

use super::Finding;
use super::generated;
use super::source::Tree;

/// No file of the workspace has more lines.
const FILE_LINES: usize = 800;
/// No function below [`WIRING`] has more lines.
const FUNCTION_LINES: usize = 120;
/// What a Go program below `tests` writes; the suites `oracle` and `chart` compare each with what it writes.
const TABLES: [&str; 2] = [
    "agent/policy/src/body/protobuf/messages.txt",
    "deploy/manifests/picket.yaml",
];
/// Where functions grow by a few lines with each feature.
const WIRING: &str = "agent/src/app";

/// Checks the workspace.
pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    for (path, file) in &tree.files {
        let lines = file.text.lines().count();
        let is_written = is_lock(path) || generated::owns(path) || TABLES.contains(&path.as_str());
        if lines > FILE_LINES && !is_written {
            found.push(Finding {
                file: path.clone(),
                line: FILE_LINES + 1,
                message: format!("a file has at most {FILE_LINES} lines, and this one has {lines}"),
            });
        }
    }
    for (path, syntax) in tree.rust(WIRING) {
        Functions {
            path,
            found: &mut found,
        }
        .visit_file(syntax);
    }
    found
}

fn is_lock(path: &str) -> bool {
    Path::new(path)
        .file_name()
        .is_some_and(|name| name == "Cargo.lock" || name == "go.sum")
}

struct Functions<'a> {
    path: &'a str,
    found: &'a mut Vec<Finding>,
}

impl Functions<'_> {
    fn measure(&mut self, signature: &syn::Signature, body: &syn::Block) {
        let first = signature.span().start().line;
        let lines = body.span().end().line + 1 - first;
        if lines > FUNCTION_LINES {
            let name = &signature.ident;
            self.found.push(Finding {
                file: self.path.to_owned(),
                line: first,
                message: format!(
                    "a function here has at most {FUNCTION_LINES} lines, and `{name}` has {lines}"
                ),
            });
        }
    }
}

impl<'ast> Visit<'ast> for Functions<'_> {
    fn visit_item_fn(&mut self, function: &'ast syn::ItemFn) {
        self.measure(&function.sig, &function.block);
        visit::visit_item_fn(self, function);
    }

    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        self.measure(&function.sig, &function.block);
        visit::visit_impl_item_fn(self, function);
    }
}

#[cfg(test)]
mod tests {
    use super::super::source::fixture::tree;
    use super::check;

    fn found(text: &str) -> Vec<String> {
        check(&tree(text)).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_long_file_is_found_unless_a_program_wrote_it() {
        let lines = |count| "\n".repeat(count);
        assert_eq!(found(&format!("=== a.yaml\n{}", lines(800))), [""; 0]);
        assert_eq!(
            found(&format!("=== a.yaml\n{}", lines(801))),
            ["a.yaml:801: a file has at most 800 lines, and this one has 801"]
        );
        for path in [
            "Cargo.lock",
            "tests/cluster/go.sum",
            "deploy/schemas/a.json",
            super::TABLES[0],
        ] {
            assert_eq!(found(&format!("=== {path}\n{}", lines(801))), [""; 0], "{path}");
        }
    }

    #[test]
    fn a_long_function_is_found_where_the_agent_is_wired_up() {
        let function =
            |lines: usize| format!("impl A {{\n    fn long() {{{}}}\n}}\n", "\n".repeat(lines - 1));
        assert_eq!(
            found(&format!("=== agent/src/app/run.rs\n{}", function(120))),
            [""; 0]
        );
        assert_eq!(
            found(&format!("=== agent/src/app/run.rs\n{}", function(121))),
            ["agent/src/app/run.rs:2: a function here has at most 120 lines, and `long` has 121"]
        );
        assert_eq!(
            found(&format!("=== agent/src/kernel/run.rs\n{}", function(121))),
            [""; 0]
        );
    }
}

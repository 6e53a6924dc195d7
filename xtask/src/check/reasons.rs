//! Each reason that a record or a metric can give stands in the manual.
//!
//! In: the functions `code` that give a word for each variant of an enum. Out: a finding for each word that no page of the
//! manual names between backquotes.

use syn::visit::Visit;

use super::Finding;
use super::source::Tree;

/// The folders whose enums have reasons.
const SOURCES: [&str; 2] = ["agent/src", "agent/policy/src"];

/// The pages that list reasons: of denied connections, of records, and of what `picket policy check` warns of.
const PAGES: [&str; 3] = [
    "deploy/docs/enforcement.md",
    "deploy/docs/records.md",
    "deploy/docs/policy.md",
];

/// Checks every function `code` that answers with a word.
pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    let pages: Vec<&str> = PAGES
        .iter()
        .filter_map(|page| tree.files.get(*page))
        .map(|file| file.text.as_str())
        .collect();
    let mut found = Vec::new();
    for folder in SOURCES {
        for (path, syntax) in tree.rust(folder) {
            let mut words = Words::default();
            words.visit_file(syntax);
            let missing = words
                .found
                .into_iter()
                .filter(|(word, _)| !pages.iter().any(|page| page.contains(&format!("`{word}`"))));
            found.extend(missing.map(|(word, line)| Finding {
                file: path.to_owned(),
                line,
                message: format!("reason `{word}` is in none of {}", PAGES.join(", ")),
            }));
        }
    }
    found
}

/// The texts inside functions `code`, with their lines.
#[derive(Default)]
struct Words {
    inside: bool,
    found: Vec<(String, usize)>,
}

impl<'ast> Visit<'ast> for Words {
    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        let before = self.inside;
        self.inside = function.sig.ident == "code";
        syn::visit::visit_impl_item_fn(self, function);
        self.inside = before;
    }

    fn visit_lit_str(&mut self, text: &'ast syn::LitStr) {
        if self.inside {
            self.found.push((text.value(), text.span().start().line));
        }
    }

    // A documentation comment is an attribute with a text.
    fn visit_attribute(&mut self, _: &'ast syn::Attribute) {}
}

#[cfg(test)]
mod tests {
    use super::super::source::fixture::tree;
    use super::check;

    #[test]
    fn a_reason_that_the_manual_does_not_list_is_found() {
        let tree = tree(
            "=== agent/src/reject.rs
enum Cause { Known, Unknown }
impl Cause {
    /// A word.
    fn code(&self) -> &'static str {
        match self {
            Self::Known => \"known\",
            Self::Unknown => \"not_listed\",
        }
    }
    fn explain(&self) -> &'static str { \"a sentence\" }
}
=== deploy/docs/records.md
| `known` | 403 |
",
        );
        let found: Vec<String> = check(&tree).iter().map(ToString::to_string).collect();
        assert_eq!(
            found,
            [
                "agent/src/reject.rs:7: reason `not_listed` is in none of deploy/docs/enforcement.md, deploy/docs/records.md, deploy/docs/policy.md"
            ]
        );
    }
}

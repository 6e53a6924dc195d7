//! A public type's name is unique in the workspace.
//!
//! In: every struct, enum, union, trait and type alias that is `pub`. Out: a finding at each of those whose name another one
//! has too, in whatever package. What is compiled for tests only does not count.

use std::collections::BTreeMap;

use proc_macro2::Span;

use super::Finding;
use super::source::{Tree, is_test};

/// Checks the workspace.
pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    let mut types: BTreeMap<String, Vec<(String, usize)>> = BTreeMap::new();
    for (path, syntax) in tree.rust("") {
        collect(&syntax.items, &mut |name, span: Span| {
            let place = (path.to_owned(), span.start().line);
            types.entry(name).or_default().push(place);
        });
    }
    let mut found = Vec::new();
    for (name, places) in types {
        for (file, line) in &places {
            let mut others = places.iter().filter(|(other, _)| other != file);
            if let Some((other, at)) = others.next() {
                found.push(Finding {
                    file: file.clone(),
                    line: *line,
                    message: format!("the public type `{name}` has the name of another one, at {other}:{at}"),
                });
            }
        }
    }
    found
}

fn collect(items: &[syn::Item], found: &mut impl FnMut(String, Span)) {
    for item in items {
        let (attributes, visibility, name) = match item {
            syn::Item::Struct(item) => (&item.attrs, &item.vis, &item.ident),
            syn::Item::Enum(item) => (&item.attrs, &item.vis, &item.ident),
            syn::Item::Union(item) => (&item.attrs, &item.vis, &item.ident),
            syn::Item::Trait(item) => (&item.attrs, &item.vis, &item.ident),
            syn::Item::Type(item) => (&item.attrs, &item.vis, &item.ident),
            syn::Item::Mod(item) => {
                if let Some((_, items)) = item.content.as_ref().filter(|_| !is_test(&item.attrs)) {
                    collect(items, found);
                }
                continue;
            }
            _ => continue,
        };
        if matches!(visibility, syn::Visibility::Public(_)) && !is_test(attributes) {
            found(name.to_string(), name.span());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::source::fixture::tree;
    use super::check;

    #[test]
    fn a_public_name_is_taken_once() {
        let tree = tree(
            "=== a/src/lib.rs
pub struct Pod;
pub(crate) enum Class {}
pub mod inner { pub type Label = u8; }
#[cfg(test)]
mod tests { pub struct Door; }
=== b/src/lib.rs
pub trait Pod {}
pub enum Class {}
struct Label;
pub struct Door;
",
        );
        let found: Vec<String> = check(&tree).iter().map(ToString::to_string).collect();
        assert_eq!(
            found,
            [
                "a/src/lib.rs:1: the public type `Pod` has the name of another one, at b/src/lib.rs:1",
                "b/src/lib.rs:1: the public type `Pod` has the name of another one, at a/src/lib.rs:1",
            ]
        );
    }
}

//! A type's name is unique where more than one module sees it: a public one's in the workspace, a restricted one's in its package.
//!
//! In: every struct, enum, union, trait and type alias that is `pub`, `pub(crate)` or `pub(in ..)`. Out: a finding at each whose
//! name another one has that is seen as far. What is private, `pub(super)` or compiled for tests only does not count.

use std::collections::BTreeMap;

use super::Finding;
use super::source::{Tree, is_test};

/// How far a type is seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    /// In the workspace.
    Public,
    /// In its package, or a part of it that is more than the module above.
    Package,
}

/// Where a type is.
#[derive(Debug)]
struct Place {
    file: String,
    line: usize,
    reach: Reach,
}

impl Place {
    /// Whether somebody can see both, so that their names have to differ.
    fn meets(&self, other: &Self) -> bool {
        let public = self.reach == Reach::Public && other.reach == Reach::Public;
        self.file != other.file && (public || package(&self.file) == package(&other.file))
    }
}

/// Checks the workspace.
pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    let mut types: BTreeMap<String, Vec<Place>> = BTreeMap::new();
    for (path, syntax) in tree.rust("") {
        collect(&syntax.items, &mut |name, reach| {
            types.entry(name.to_string()).or_default().push(Place {
                file: path.to_owned(),
                line: name.span().start().line,
                reach,
            });
        });
    }
    let mut found = Vec::new();
    for (name, places) in types {
        for place in &places {
            let Some(other) = places.iter().find(|other| place.meets(other)) else {
                continue;
            };
            let kind = match place.reach {
                Reach::Public => "public",
                Reach::Package => "package's",
            };
            found.push(Finding {
                file: place.file.clone(),
                line: place.line,
                message: format!(
                    "the {kind} type `{name}` has the name of another one, at {}:{}",
                    other.file, other.line
                ),
            });
        }
    }
    found
}

/// The folder of the package, or of the test program, that a file belongs to.
fn package(file: &str) -> &str {
    let folder = file.rsplit_once('/').map_or("", |(folder, _)| folder);
    let sources = folder
        .find("/src/")
        .or_else(|| folder.strip_suffix("/src").map(str::len));
    sources.map_or(folder, |end| &folder[..end])
}

/// How far a visibility reaches; `None` where that is no more than the module above.
fn reach(visibility: &syn::Visibility) -> Option<Reach> {
    match visibility {
        syn::Visibility::Public(_) => Some(Reach::Public),
        syn::Visibility::Restricted(limit) if limit.path.is_ident("super") || limit.path.is_ident("self") => {
            None
        }
        syn::Visibility::Restricted(_) => Some(Reach::Package),
        syn::Visibility::Inherited => None,
    }
}

fn collect(items: &[syn::Item], found: &mut impl FnMut(&syn::Ident, Reach)) {
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
        if let Some(reach) = reach(visibility)
            && !is_test(attributes)
        {
            found(name, reach);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::source::fixture::tree;
    use super::check;

    fn found(sources: &str) -> Vec<String> {
        check(&tree(sources)).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_public_name_is_taken_once() {
        let found = found(
            "=== a/src/lib.rs
pub struct Pod;
pub(crate) enum Class {}
pub mod inner { pub type Label = u8; }
#[cfg(test)]
mod tests { pub struct Endpoint; }
=== b/src/lib.rs
pub trait Pod {}
pub enum Class {}
struct Label;
pub struct Endpoint;
",
        );
        assert_eq!(
            found,
            [
                "a/src/lib.rs:1: the public type `Pod` has the name of another one, at b/src/lib.rs:1",
                "b/src/lib.rs:1: the public type `Pod` has the name of another one, at a/src/lib.rs:1",
            ]
        );
    }

    #[test]
    fn a_name_that_a_whole_package_sees_is_taken_once_in_it() {
        let found = found(
            "=== a/src/pool/lease.rs
pub(in crate::pool) struct Lease;
pub(super) struct Slot;
pub(crate) struct Chain;
struct Alone;
=== a/src/phase.rs
pub struct Lease;
pub(crate) struct Slot;
pub(crate) struct Alone;
=== b/src/lib.rs
pub(crate) struct Chain;
=== b/suite/one.rs
pub(crate) struct Chain;
pub(crate) struct World;
=== b/suite/two.rs
pub(crate) struct World;
",
        );
        assert_eq!(
            found,
            [
                "a/src/phase.rs:1: the public type `Lease` has the name of another one, at a/src/pool/lease.rs:1",
                "a/src/pool/lease.rs:1: the package's type `Lease` has the name of another one, at a/src/phase.rs:1",
                "b/suite/one.rs:2: the package's type `World` has the name of another one, at b/suite/two.rs:1",
                "b/suite/two.rs:1: the package's type `World` has the name of another one, at b/suite/one.rs:2",
            ]
        );
    }
}

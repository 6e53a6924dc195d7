//! Parts of rules and requests in words, for traces.
//!
//! In: globs and verbs. Out: texts that people read.

use crate::glob::Glob;
use crate::request::{Verb, VerbSet};

/// Globs, as they are written.
pub(super) fn joined(globs: &[Glob]) -> String {
    let globs: Vec<_> = globs.iter().map(|glob| format!("{glob:?}")).collect();
    globs.join(", ")
}

/// Groups, as people call them: the core group has no name.
pub(super) fn joined_or_core(groups: &[Glob]) -> String {
    let name = |group: &Glob| match format!("{group:?}") {
        name if name.is_empty() => "the core group".to_owned(),
        name => name,
    };
    let groups: Vec<_> = groups.iter().map(name).collect();
    groups.join(", ")
}

/// The verbs of a set, or `*` where it has all of them.
pub(super) fn verbs_in_words(verbs: VerbSet) -> String {
    if Verb::all().all(|verb| verbs.has(verb)) {
        return "*".to_owned();
    }
    let verbs: Vec<_> = Verb::all()
        .filter(|verb| verbs.has(*verb))
        .map(Verb::as_str)
        .collect();
    verbs.join(", ")
}

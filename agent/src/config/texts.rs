//! Lists of texts, for every part of the configuration that has one.
//!
//! In: a field. Out: its entries, each with its place.

use picket_policy::yaml::{Decoder, Fields, Spanned};

/// A list of texts, which may be empty or left out.
pub(super) fn texts(decoder: &mut Decoder, fields: &Fields<'_>, name: &str) -> Vec<Spanned<String>> {
    let Some(node) = fields.get(name) else {
        return Vec::new();
    };
    let path = fields.path(name);
    let items = decoder.list(node, &path);
    items
        .iter()
        .filter_map(|item| decoder.text(item, &path))
        .collect()
}

pub(super) fn values<T>(located: Vec<Spanned<T>>) -> Vec<T> {
    located.into_iter().map(|entry| entry.value).collect()
}

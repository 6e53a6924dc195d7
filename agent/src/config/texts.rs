//! Lists of texts, for every part of the configuration that has one.
//!
//! In: a field. Out: its entries, each with its place.

use picket_policy::objects::{Fields, Located, Reader};

/// A list of texts, which may be empty or left out.
pub(super) fn texts(reader: &mut Reader, fields: &Fields<'_>, name: &str) -> Vec<Located<String>> {
    let Some(node) = fields.get(name) else {
        return Vec::new();
    };
    let path = fields.path(name);
    let items = reader.list(node, &path);
    items.iter().filter_map(|item| reader.text(item, &path)).collect()
}

pub(super) fn values<T>(located: Vec<Located<T>>) -> Vec<T> {
    located.into_iter().map(|entry| entry.value).collect()
}

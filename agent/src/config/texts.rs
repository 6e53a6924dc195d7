//! Fields that several parts of the configuration have: lists of texts, and what may be left out.
//!
//! In: a field. Out: its value or its entries, these with their places.

use std::path::PathBuf;

use picket_policy::yaml::{Decoder, Fields, Spanned};

use super::reference::fields_of;

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

/// A mapping that may be left out.
pub(super) fn optional_section<'n>(
    decoder: &mut Decoder,
    top: &Fields<'n>,
    name: &str,
) -> Option<Fields<'n>> {
    decoder.fields(top.get(name)?, name, &fields_of(name), &[])
}

/// A path that may be left out.
pub(super) fn optional_path(decoder: &mut Decoder, fields: &Fields<'_>, name: &str) -> Option<PathBuf> {
    optional_text(decoder, fields, name).map(PathBuf::from)
}

/// A text that may be left out.
pub(super) fn optional_text(decoder: &mut Decoder, fields: &Fields<'_>, name: &str) -> Option<String> {
    fields.get(name)?;
    Some(decoder.required_text(fields, name)?.value)
}

//! Reads what rules judge from an item in JSON.
//!
//! In: an object's bytes. Out: its `apiVersion` and `kind`, and the namespace, name and labels of its metadata, each as often
//! as it occurs. All else is skipped.

use std::borrow::Cow;

use super::cursor::{each_member, text};
use crate::error::FilterError;
use crate::head::{Readings, Values};

/// Reads an item.
pub(super) fn read(item: &[u8]) -> Result<Readings<'_>, FilterError> {
    let mut readings = Readings::default();
    each_member(item, |member| match member.key.as_ref() {
        "apiVersion" => add(&mut readings.api_version, member.value),
        "kind" => add(&mut readings.kind, member.value),
        "metadata" if !is_null(member.value) => metadata(&mut readings, member.value),
        _ => Ok(()),
    })?;
    Ok(readings)
}

/// Whether an object says that it is a Table. `None` where it says so once and not another time.
pub(super) fn is_table(readings: &Readings<'_>) -> Option<bool> {
    let (kind, api_version) = (readings.kind.only()?, readings.api_version.only()?);
    Some(kind == "Table" && api_version.starts_with("meta.k8s.io/"))
}

fn metadata<'a>(readings: &mut Readings<'a>, object: &'a [u8]) -> Result<(), FilterError> {
    each_member(object, |member| match member.key.as_ref() {
        "namespace" => add(&mut readings.namespace, member.value),
        "name" => add(&mut readings.name, member.value),
        "labels" if !is_null(member.value) => labels(&mut readings.labels, member.value),
        _ => Ok(()),
    })
}

fn labels<'a>(labels: &mut Vec<(Cow<'a, str>, Cow<'a, str>)>, object: &'a [u8]) -> Result<(), FilterError> {
    each_member(object, |member| {
        labels.push((member.key, text(member.value)?));
        Ok(())
    })
}

fn add<'a>(values: &mut Values<'a>, value: &'a [u8]) -> Result<(), FilterError> {
    let value = match is_null(value) {
        true => Cow::Borrowed(""),
        false => text(value)?,
    };
    values.add(value);
    Ok(())
}

/// Whether a value is `null`.
pub(super) fn is_null(value: &[u8]) -> bool {
    value == b"null"
}

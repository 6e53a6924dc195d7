//! `==`, `!=` and `in`, over values of every make.
//!
//! In: two values, whether JSON, or lists and maps that an expression made. Out: whether they are equal. The interpreter's own
//! lists are equal to nothing but lists of its own.

use ::cel::ExecutionError;
use ::cel::common::types::{CelOptional, CelString, Kind};
use ::cel::common::value::Val;

use super::budget::{self, spend, spend_text};
use super::json::unexpected;

/// Whether two values are equal.
///
/// # Errors
/// The budget is spent.
pub(in crate::cel) fn equal(one: &dyn Val, two: &dyn Val) -> Result<bool, ExecutionError> {
    spend(1)?;
    match (one.get_type().kind(), two.get_type().kind()) {
        (Kind::String, Kind::String) => {
            let (one, two) = (one.downcast_ref::<CelString>(), two.downcast_ref::<CelString>());
            let (Some(one), Some(two)) = (one, two) else {
                return Ok(false);
            };
            if one.inner().len() != two.inner().len() {
                return Ok(false);
            }
            spend_text(one.inner().len())?;
            Ok(one.inner() == two.inner())
        }
        (Kind::List, Kind::List) => {
            let (Some(ones), Some(twos)) = (one.as_iterable(), two.as_iterable()) else {
                return Ok(false);
            };
            if budget::length(one) != budget::length(two) {
                return Ok(false);
            }
            let (mut ones, mut twos) = (ones.iter(), twos.iter());
            while let (Some(one), Some(two)) = (ones.next(), twos.next()) {
                if !equal(one, two)? {
                    return Ok(false);
                }
            }
            Ok(true)
        }
        (Kind::Map, Kind::Map) => equal_maps(one, two),
        (Kind::List | Kind::Map, _) | (_, Kind::List | Kind::Map) => Ok(false),
        _ => match (
            one.downcast_ref::<CelOptional>(),
            two.downcast_ref::<CelOptional>(),
        ) {
            (Some(one), Some(two)) => match (one.option(), two.option()) {
                (Some(one), Some(two)) => equal(one, two),
                (one, two) => Ok(one.is_none() && two.is_none()),
            },
            _ => Ok(one.equals(two)),
        },
    }
}

fn equal_maps(one: &dyn Val, two: &dyn Val) -> Result<bool, ExecutionError> {
    spend(budget::length(one))?;
    let (Some(fields), Some(others)) = (one.as_indexer(), two.as_indexer()) else {
        return Ok(false);
    };
    let Some(keys) = one.as_iterable() else {
        return Ok(false);
    };
    if budget::length(one) != budget::length(two) {
        return Ok(false);
    }
    let mut keys = keys.iter();
    while let Some(key) = keys.next() {
        let (field, other) = (fields.get(key)?, others.get(key));
        // A map of JSON has keys of text alone, and finds no other.
        let Ok(other) = other else { return Ok(false) };
        if !equal(field.as_ref(), other.as_ref())? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether a list has a value for an element, or a map for a key.
///
/// # Errors
/// It is neither, or the budget is spent.
pub(in crate::cel) fn is_in(value: &dyn Val, of: &dyn Val) -> Result<bool, ExecutionError> {
    if of.get_type().kind() == Kind::List
        && let Some(items) = of.as_iterable()
    {
        spend(budget::length(of))?;
        let mut items = items.iter();
        while let Some(item) = items.next() {
            if equal(item, value)? {
                return Ok(true);
            }
        }
        return Ok(false);
    }
    spend(1)?;
    let container = of.as_container().ok_or_else(|| unexpected(of, "list or map"))?;
    container.contains(value)
}

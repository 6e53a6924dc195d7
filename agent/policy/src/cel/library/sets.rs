//! Sets of CEL: `sets.contains`, `sets.equivalent` and `sets.intersects`, over lists.
//!
//! In: lists. Out: what a function comes to, or that it fails.

use ::cel::common::types::LIST_TYPE;
use ::cel::common::value::{CowVal, Val};
use ::cel::{DeclarationError, Env, ExecutionError};

use super::super::runtime::{is_in, list_of, spend_length};
use super::{Operands, Outcome, boolean};

pub(super) fn declare(env: &mut Env) -> Result<(), DeclarationError> {
    let lists = || vec![LIST_TYPE, LIST_TYPE];
    env.add_overload("sets.contains", "list_sets_contains_list", lists(), contains)?;
    env.add_overload(
        "sets.equivalent",
        "list_sets_equivalent_list",
        lists(),
        equivalent,
    )?;
    env.add_overload(
        "sets.intersects",
        "list_sets_intersects_list",
        lists(),
        intersects,
    )
}

/// Whether elements of one are in the other: all of them, or any.
fn are_in(elements: &dyn Val, of: &dyn Val, all: bool) -> Result<bool, ExecutionError> {
    spend_length(elements)?;
    let mut items = list_of(elements)?.iter();
    while let Some(item) = items.next() {
        if is_in(item, of)? != all {
            return Ok(!all);
        }
    }
    Ok(all)
}

fn lists<'a, 'b, 'v>(
    operands: &'a [CowVal<'b, 'v>],
) -> Result<(&'a (dyn Val + 'v), &'a (dyn Val + 'v)), ExecutionError> {
    match operands {
        [one, two] => Ok((one.as_ref(), two.as_ref())),
        _ => Err(ExecutionError::MissingArgumentOrTarget),
    }
}

fn contains<'b, 'v>(operands: Operands<'b, 'v>) -> Outcome<'b, 'v> {
    let (list, part) = lists(&operands)?;
    are_in(part, list, true).map(boolean)
}

fn equivalent<'b, 'v>(operands: Operands<'b, 'v>) -> Outcome<'b, 'v> {
    let (one, two) = lists(&operands)?;
    Ok(boolean(are_in(one, two, true)? && are_in(two, one, true)?))
}

fn intersects<'b, 'v>(operands: Operands<'b, 'v>) -> Outcome<'b, 'v> {
    let (one, two) = lists(&operands)?;
    are_in(one, two, false).map(boolean)
}

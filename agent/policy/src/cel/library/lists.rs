//! Kubernetes' functions of lists: `isSorted`, `sum`, `min` and `max`; `indexOf` and `lastIndexOf` stand beside those of texts.
//!
//! In: lists. Out: what a function comes to, or that it fails.
//!
//! Semantics as those of `k8s.io/apiserver/pkg/cel/library/lists.go`. The sum of no elements is the `int` 0, whatever the list is of.

use std::cmp::Ordering;

use ::cel::common::types::{CelString, LIST_TYPE};
use ::cel::common::value::{CowVal, Val};
use ::cel::{DeclarationError, Env, ExecutionError};

use super::super::runtime::budget::spend_text;
use super::super::runtime::{list_of, spend_length, unexpected};
use super::{Operands, Outcome, boolean, failed, integer};

pub(super) fn declare(env: &mut Env) -> Result<(), DeclarationError> {
    env.add_member_overload("isSorted", "list_is_sorted", LIST_TYPE, vec![], is_sorted)?;
    env.add_member_overload("sum", "list_sum", LIST_TYPE, vec![], sum)?;
    env.add_member_overload("min", "list_min", LIST_TYPE, vec![], least)?;
    env.add_member_overload("max", "list_max", LIST_TYPE, vec![], greatest)
}

fn compare(one: &dyn Val, two: &dyn Val) -> Result<Ordering, ExecutionError> {
    if let Some(text) = one.downcast_ref::<CelString<'_>>() {
        spend_text(text.inner().len())?;
    }
    let one = one.as_comparer().ok_or_else(|| unexpected(one, "comparable"))?;
    one.compare(two)
}

fn only<'a, 'b, 'v>(operands: &'a [CowVal<'b, 'v>]) -> Result<&'a (dyn Val + 'v), ExecutionError> {
    let list = operands.first().ok_or(ExecutionError::MissingArgumentOrTarget)?;
    spend_length(list.as_ref())?;
    Ok(list.as_ref())
}

fn is_sorted<'b, 'v>(operands: Operands<'b, 'v>) -> Outcome<'b, 'v> {
    let mut items = list_of(only(&operands)?)?.iter();
    let Some(mut before) = items.next() else {
        return Ok(boolean(true));
    };
    before
        .as_comparer()
        .ok_or_else(|| unexpected(before, "comparable"))?;
    while let Some(item) = items.next() {
        if compare(before, item)? == Ordering::Greater {
            return Ok(boolean(false));
        }
        before = item;
    }
    Ok(boolean(true))
}

fn sum<'b, 'v>(operands: Operands<'b, 'v>) -> Outcome<'b, 'v> {
    let mut items = list_of(only(&operands)?)?.iter();
    let Some(first) = items.next() else {
        return Ok(integer(0));
    };
    if !matches!(first.get_type().name(), "int" | "uint" | "double") {
        return Err(unexpected(first, "number"));
    }
    let mut sum = first.clone_as_boxed();
    while let Some(item) = items.next() {
        let adder = sum.as_adder().ok_or_else(|| failed("sum"))?;
        sum = adder.add(item)?.into_owned();
    }
    Ok(CowVal::Owned(sum))
}

fn least<'b, 'v>(operands: Operands<'b, 'v>) -> Outcome<'b, 'v> {
    extreme(&operands, Ordering::Less)
}

fn greatest<'b, 'v>(operands: Operands<'b, 'v>) -> Outcome<'b, 'v> {
    extreme(&operands, Ordering::Greater)
}

fn extreme<'b, 'v>(operands: &[CowVal<'b, 'v>], wanted: Ordering) -> Outcome<'b, 'v> {
    let mut items = list_of(only(operands)?)?.iter();
    let mut found = items.next().ok_or_else(|| failed("min"))?;
    // One element alone must be of a type that has an order too.
    compare(found, found)?;
    while let Some(item) = items.next() {
        if compare(item, found)? == wanted {
            found = item;
        }
    }
    Ok(CowVal::Owned(found.clone_as_boxed()))
}

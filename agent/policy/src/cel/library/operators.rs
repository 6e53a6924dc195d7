//! What an instrumented tree calls: comparisons, patterns, and taking steps off the budget.
//!
//! In: values of expressions. Out: what a function comes to, or that it fails.

use std::any::Any;
use std::sync::Arc;

use ::cel::common::types::{CelInt, CelOptional, DYN_TYPE, INT_TYPE, STRING_TYPE, Type};
use ::cel::common::value::{CowVal, StaticVal, Val};
use ::cel::{DeclarationError, Env, ExecutionError};
use ::regex::Regex;

use super::super::runtime::{budget, equal, is_in};
use super::{Operands, Outcome, boolean, operand, text_at};

// Names that begin with `@` are an instrumented tree's own: no text that people write has such a name.

/// Takes a loop's rounds off the budget: the list, and the steps of a round.
pub(in crate::cel) const LOOP: &str = "@loop";
/// Takes the copying of a value off the budget, and gives it back.
pub(in crate::cel) const READ: &str = "@read";
/// Likewise the reading of a value whole.
pub(in crate::cel) const READ_DEEP: &str = "@readDeep";
/// `==`.
pub(in crate::cel) const EQUAL: &str = "@equal";
/// `!=`.
pub(in crate::cel) const NOT_EQUAL: &str = "@notEqual";
/// `in`.
pub(in crate::cel) const IS_IN: &str = "@isIn";

static PATTERN: Type = Type::new_unspecified_type("pattern");

pub(super) fn declare(env: &mut Env) -> Result<(), DeclarationError> {
    env.add_overload(LOOP, LOOP, vec![DYN_TYPE, INT_TYPE], rounds)?;
    env.add_overload(READ, READ, vec![DYN_TYPE], read)?;
    env.add_overload(READ_DEEP, READ_DEEP, vec![DYN_TYPE], read_deep)?;
    env.add_overload(EQUAL, EQUAL, vec![DYN_TYPE, DYN_TYPE], are_equal)?;
    env.add_overload(NOT_EQUAL, NOT_EQUAL, vec![DYN_TYPE, DYN_TYPE], differ)?;
    env.add_overload(IS_IN, IS_IN, vec![DYN_TYPE, DYN_TYPE], contains)?;
    env.add_member_overload("@or", "@or", DYN_TYPE, vec![DYN_TYPE], or)?;
    env.add_member_overload("@orValue", "@orValue", DYN_TYPE, vec![DYN_TYPE], or_value)?;
    env.add_overload("@matches", "@matches", vec![STRING_TYPE, DYN_TYPE], matches)?;
    Ok(())
}

/// A pattern that was compiled with its expression.
#[derive(Debug, Clone)]
pub(in crate::cel) struct Pattern(pub(in crate::cel) Arc<Regex>);

impl Val for Pattern {
    fn get_type(&self) -> &Type {
        &PATTERN
    }

    fn cel_type() -> &'static Type {
        &PATTERN
    }

    fn clone_as_boxed<'v>(&self) -> Box<dyn Val + 'v> {
        Box::new(self.clone())
    }

    fn as_any(&self) -> Option<&dyn Any> {
        Some(self)
    }
}

impl StaticVal for Pattern {}

/// Lets a loop begin: each round copies its element, and takes the steps of its body.
fn rounds<'b, 'v>(mut operands: Operands<'b, 'v>) -> Outcome<'b, 'v> {
    let round = *operand::<CelInt>(&operands, 1)?.inner();
    let list = operands.swap_remove(0);
    let round = u64::try_from(round).unwrap_or(u64::MAX).saturating_add(ROUND);
    let steps = budget::length(list.as_ref()).saturating_mul(round);
    budget::spend(steps.saturating_add(budget::weight(list.as_ref())))?;
    Ok(list)
}

/// What a round takes beside the nodes of its body.
const ROUND: u64 = 2;

fn read<'b, 'v>(mut operands: Operands<'b, 'v>) -> Outcome<'b, 'v> {
    let value = operands.pop().ok_or(ExecutionError::MissingArgumentOrTarget)?;
    budget::spend(budget::weight(value.as_ref()))?;
    Ok(value)
}

fn read_deep<'b, 'v>(mut operands: Operands<'b, 'v>) -> Outcome<'b, 'v> {
    let value = operands.pop().ok_or(ExecutionError::MissingArgumentOrTarget)?;
    budget::spend_deep(value.as_ref())?;
    Ok(value)
}

fn two<'a, 'b, 'v>(
    operands: &'a [CowVal<'b, 'v>],
) -> Result<(&'a (dyn Val + 'v), &'a (dyn Val + 'v)), ExecutionError> {
    match operands {
        [one, two] => Ok((one.as_ref(), two.as_ref())),
        _ => Err(ExecutionError::MissingArgumentOrTarget),
    }
}

fn are_equal<'b, 'v>(operands: Operands<'b, 'v>) -> Outcome<'b, 'v> {
    let (one, two) = two(&operands)?;
    equal(one, two).map(boolean)
}

fn differ<'b, 'v>(operands: Operands<'b, 'v>) -> Outcome<'b, 'v> {
    let (one, two) = two(&operands)?;
    equal(one, two).map(|is_equal| boolean(!is_equal))
}

fn contains<'b, 'v>(operands: Operands<'b, 'v>) -> Outcome<'b, 'v> {
    let (value, of) = two(&operands)?;
    is_in(value, of).map(boolean)
}

/// `optional.or(other)`, and the value itself where it is no optional, as in cel-go.
fn or<'b, 'v>(mut operands: Operands<'b, 'v>) -> Outcome<'b, 'v> {
    let other = operands.pop().ok_or(ExecutionError::MissingArgumentOrTarget)?;
    let value = operands.pop().ok_or(ExecutionError::MissingArgumentOrTarget)?;
    budget::spend(budget::weight(value.as_ref()))?;
    let is_none = value
        .downcast_ref::<CelOptional<'_>>()
        .is_some_and(|optional| optional.option().is_none());
    Ok(if is_none { other } else { value })
}

/// Likewise `optional.orValue(other)`.
fn or_value<'b, 'v>(operands: Operands<'b, 'v>) -> Outcome<'b, 'v> {
    let value = or(operands)?;
    let inner = value
        .downcast_ref::<CelOptional<'_>>()
        .and_then(CelOptional::option);
    Ok(match inner {
        Some(inner) => CowVal::Owned(inner.clone_as_boxed()),
        None => value,
    })
}

/// A pattern takes longer for each letter, the more parts it has.
fn matches<'b, 'v>(operands: Operands<'b, 'v>) -> Outcome<'b, 'v> {
    let text = text_at(&operands, 0)?;
    let pattern = operand::<Pattern>(&operands, 1)?;
    spend_search(pattern, text)?;
    Ok(boolean(pattern.0.is_match(text)))
}

/// Takes off what searching a text for a pattern takes at worst.
pub(super) fn spend_search(pattern: &Pattern, text: &str) -> Result<(), ExecutionError> {
    let parts = 4 + pattern.0.as_str().len() / 8;
    budget::spend_text(text.len().saturating_mul(parts))
}

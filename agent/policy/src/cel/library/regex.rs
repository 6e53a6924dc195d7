//! Kubernetes' functions of patterns: `find` and `findAll`. A pattern is written down, and is compiled with its expression.
//!
//! In: texts. Out: what a function comes to, or that it fails.

use ::cel::common::types::{CelList, CelString, DYN_TYPE, INT_TYPE, STRING_TYPE};
use ::cel::common::value::{CowVal, Val};
use ::cel::{DeclarationError, Env};

use super::super::runtime::budget::{spend, spend_text};
use super::operators::{Pattern, spend_search};
use super::{Operands, Outcome, int_at, operand, string, text_at};

pub(super) fn declare(env: &mut Env) -> Result<(), DeclarationError> {
    env.add_member_overload("@find", "string_find_string", STRING_TYPE, vec![DYN_TYPE], find)?;
    env.add_member_overload(
        "@findAll",
        "string_find_all_string",
        STRING_TYPE,
        vec![DYN_TYPE],
        find_all,
    )?;
    let with_most = vec![DYN_TYPE, INT_TYPE];
    env.add_member_overload(
        "@findAll",
        "string_find_all_string_int",
        STRING_TYPE,
        with_most,
        find_all,
    )
}

/// The first part that fits, or an empty text.
fn find<'b, 'v>(operands: Operands<'b, 'v>) -> Outcome<'b, 'v> {
    let (text, pattern) = (text_at(&operands, 0)?, operand::<Pattern>(&operands, 1)?);
    spend_search(pattern, text)?;
    let found = pattern.0.find(text).map_or("", |found| found.as_str());
    Ok(string(found.to_owned()))
}

/// All parts that fit, or at most so many; a negative number is all.
fn find_all<'b, 'v>(operands: Operands<'b, 'v>) -> Outcome<'b, 'v> {
    let (text, pattern) = (text_at(&operands, 0)?, operand::<Pattern>(&operands, 1)?);
    let most = if operands.len() > 2 {
        int_at(&operands, 2)?
    } else {
        -1
    };
    spend_search(pattern, text)?;
    let mut parts: Vec<Box<dyn Val + 'v>> = Vec::new();
    for found in pattern
        .0
        .find_iter(text)
        .take(usize::try_from(most).unwrap_or(usize::MAX))
    {
        spend(1)?;
        spend_text(found.as_str().len())?;
        parts.push(Box::new(CelString::from(found.as_str().to_owned())));
    }
    Ok(CowVal::owned(CelList::from(parts)))
}

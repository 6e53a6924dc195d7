//! The functions that rules have: those of CEL, and Kubernetes' libraries as far as rules use them.
//!
//! In: an environment. Out: the same with the functions, and their [`signature`]s for the check of types. Each function takes what it
//! reads and makes off the decision's budget before it does it.

mod cidr;
mod format;
mod ip;
mod lists;
mod opaque;
mod operators;
mod quantity;
mod regex;
mod semver;
mod sets;
pub(super) mod signature;
mod text;
mod two_variables;
mod url;

use std::sync::{Arc, LazyLock};

use ::cel::common::types::{CelBool, CelInt, CelString};
use ::cel::common::value::{CowVal, FromVal, Val};
use ::cel::{DeclarationError, Env, ExecutionError};

use super::runtime::unexpected;

pub(super) use operators::{EQUAL, IS_IN, LOOP, NOT_EQUAL, Pattern, READ, READ_DEEP};

/// The functions of rules.
pub(super) static RULES: LazyLock<Arc<Env>> = LazyLock::new(|| {
    let mut environment = Env::stdlib();
    // Declared once, so that nothing is declared twice; a test looks for each of them.
    let _ = declare(&mut environment);
    Arc::new(environment)
});

fn declare(env: &mut Env) -> Result<(), DeclarationError> {
    env.add_extension(::cel::extensions::strings)?;
    operators::declare(env)?;
    text::declare(env)?;
    lists::declare(env)?;
    sets::declare(env)?;
    regex::declare(env)?;
    ip::declare(env)?;
    cidr::declare(env)?;
    quantity::declare(env)?;
    semver::declare(env)?;
    url::declare(env)?;
    format::declare(env)?;
    two_variables::declare(env)
}

/// A function's operands. A method's first is what it is called on.
type Operands<'b, 'v> = Vec<CowVal<'b, 'v>>;

type Outcome<'b, 'v> = Result<CowVal<'b, 'v>, ExecutionError>;

/// The operand at a place, as this type.
fn operand<'a, 'b, 'v, T: FromVal<'a, 'v> + Val>(
    operands: &'a [CowVal<'b, 'v>],
    place: usize,
) -> Result<&'a T, ExecutionError> {
    let value = operands
        .get(place)
        .ok_or(ExecutionError::MissingArgumentOrTarget)?;
    value
        .as_ref()
        .downcast_ref::<T>()
        .ok_or_else(|| unexpected(value.as_ref(), T::cel_type().name()))
}

/// The text at a place.
fn text_at<'a>(operands: &'a [CowVal<'_, '_>], place: usize) -> Result<&'a str, ExecutionError> {
    operand::<CelString<'_>>(operands, place).map(CelString::inner)
}

/// The whole number at a place.
fn int_at(operands: &[CowVal<'_, '_>], place: usize) -> Result<i64, ExecutionError> {
    operand::<CelInt>(operands, place).map(|number| *number.inner())
}

fn boolean<'b, 'v>(value: bool) -> CowVal<'b, 'v> {
    CowVal::Borrowed(if value { &CelBool::TRUE } else { &CelBool::FALSE })
}

fn integer<'b, 'v>(value: i64) -> CowVal<'b, 'v> {
    CowVal::owned(CelInt::from(value))
}

fn string<'b, 'v>(text: String) -> CowVal<'b, 'v> {
    CowVal::owned(CelString::from(text))
}

/// A function has no outcome for its operands, which are not repeated.
fn failed(function: &str) -> ExecutionError {
    ExecutionError::FunctionError {
        function: function.to_owned(),
        message: String::new(),
    }
}

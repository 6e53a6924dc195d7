//! Kubernetes' quantities: `quantity("10Gi")`, their order and their sums.
//!
//! In: texts, and quantities. Out: what a function comes to, or that it fails.
//!
//! Semantics as those of `k8s.io/apimachinery/pkg/api/resource`. A quantity is kept in billionths, which is as fine as one may be.
//! One beyond the range is larger than every other; two such cannot be compared, nor added to.

use std::cmp::Ordering;

use ::cel::common::types::{CelDouble, CelInt, INT_TYPE, STRING_TYPE, Type};
use ::cel::common::value::CowVal;
use ::cel::{DeclarationError, Env, ExecutionError};

use super::super::runtime::budget::spend_text;
use super::opaque::{Named, Opaque, opaque};
use super::{Operands, Outcome, boolean, failed, integer, operand, text_at};

static QUANTITY: Type = Type::new_unspecified_type("kubernetes.Quantity");

const BILLION: i128 = 1_000_000_000;

/// The largest that is kept exactly.
const MOST: i128 = i128::MAX / 1024;

#[derive(Debug, Clone, Copy)]
struct Quantity {
    billionths: i128,
    /// Whether it is within the range.
    is_exact: bool,
    /// Whether Kubernetes gives it as a whole number.
    is_integer: bool,
}

/// As `==` has it; what cannot be compared is not equal.
impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.compare(other) == Some(Ordering::Equal)
    }
}

impl Named for Quantity {
    fn named() -> &'static Type {
        &QUANTITY
    }
}

/// A suffix: what it multiplies by, as a base and an exponent.
fn suffix(text: &str) -> Option<(bool, i32)> {
    Some(match text {
        "n" => (false, -9),
        "u" => (false, -6),
        "m" => (false, -3),
        "" => (false, 0),
        "k" => (false, 3),
        "M" => (false, 6),
        "G" => (false, 9),
        "T" => (false, 12),
        "P" => (false, 15),
        "E" => (false, 18),
        "Ki" => (true, 10),
        "Mi" => (true, 20),
        "Gi" => (true, 30),
        "Ti" => (true, 40),
        "Pi" => (true, 50),
        "Ei" => (true, 60),
        _ => {
            let exponent = text.strip_prefix(['e', 'E'])?;
            (
                false,
                exponent
                    .parse::<i32>()
                    .ok()
                    .filter(|exponent| exponent.abs() <= 1000)?,
            )
        }
    })
}

impl Quantity {
    fn parse(text: &str) -> Option<Self> {
        let (is_negative, rest) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
        let (whole, rest) = rest.split_at(digits(rest));
        let (part, rest) = match rest.strip_prefix('.') {
            Some(rest) => rest.split_at(digits(rest)),
            None => ("", rest),
        };
        if whole.is_empty() && part.is_empty() {
            return None;
        }
        let (is_binary, exponent) = suffix(rest)?;
        let whole = whole.trim_start_matches('0');
        let (places, length) = (part.len() as i32, whole.len().max(1) as i32 + part.len() as i32);
        let is_integer = if is_binary {
            part.is_empty() && 14 - length - exponent * 3 / 10 >= 0
        } else {
            length <= 18 && exponent - places >= 0
        };
        let (sum, was_exact) = Self::scaled(whole, part, is_binary, exponent);
        // A binary one is cut at the largest whole number, as Kubernetes has it.
        let largest = i128::from(i64::MAX) * BILLION;
        let (sum, is_exact) = match is_binary {
            true if !was_exact || sum > largest => (largest, true),
            _ => (sum, was_exact),
        };
        Some(Self {
            billionths: if is_negative { -sum } else { sum },
            is_exact,
            is_integer: is_integer && is_exact,
        })
    }

    /// The billionths of digits, rounded up, and whether they are within the range.
    fn scaled(whole: &str, part: &str, is_binary: bool, exponent: i32) -> (i128, bool) {
        let places = part.len() as i32;
        let (factor, shift) = if is_binary {
            (1_i128 << exponent, 9 - places)
        } else {
            (1, 9 - places + exponent)
        };
        let mut sum = 0_i128;
        for digit in whole.bytes().chain(part.bytes()) {
            sum = match sum.checked_mul(10) {
                Some(sum) => sum + i128::from(digit - b'0'),
                None => return (MOST, false),
            };
            if sum > MOST {
                return (MOST, false);
            }
        }
        let Some(mut sum) = sum.checked_mul(factor) else {
            return (MOST, false);
        };
        for _ in 0..shift.max(0) {
            if sum == 0 {
                break;
            }
            sum = match sum.checked_mul(10) {
                Some(sum) if sum <= MOST => sum,
                _ => return (MOST, false),
            };
        }
        let mut was_cut = false;
        for _ in shift.min(0)..0 {
            if sum == 0 {
                break;
            }
            was_cut |= sum % 10 != 0;
            sum /= 10;
        }
        (sum + i128::from(was_cut), sum <= MOST)
    }

    fn compare(&self, other: &Self) -> Option<Ordering> {
        let both_beyond =
            !self.is_exact && !other.is_exact && (self.billionths > 0) == (other.billionths > 0);
        (!both_beyond).then(|| self.billionths.cmp(&other.billionths))
    }

    fn whole(&self) -> Option<i64> {
        let is_whole = self.is_integer && self.billionths % BILLION == 0;
        is_whole
            .then(|| i64::try_from(self.billionths / BILLION).ok())
            .flatten()
    }

    fn plus(&self, other: Self, is_taken_off: bool) -> Option<Self> {
        let added = if is_taken_off {
            -other.billionths
        } else {
            other.billionths
        };
        let sum = self.billionths.checked_add(added).filter(|sum| sum.abs() <= MOST);
        Some(Self {
            billionths: sum.filter(|_| self.is_exact && other.is_exact)?,
            is_exact: true,
            is_integer: self.is_integer && other.is_integer,
        })
    }
}

pub(super) fn declare(env: &mut Env) -> Result<(), DeclarationError> {
    let quantity = || QUANTITY.to_owned();
    env.add_type(quantity())?;
    env.add_overload("quantity", "string_to_quantity", vec![STRING_TYPE], to_quantity)?;
    env.add_overload("isQuantity", "is_quantity_string", vec![STRING_TYPE], is_quantity)?;
    env.add_member_overload("sign", "quantity_sign", quantity(), vec![], sign)?;
    env.add_member_overload("isInteger", "quantity_is_integer", quantity(), vec![], is_integer)?;
    env.add_member_overload("asInteger", "quantity_as_integer", quantity(), vec![], as_integer)?;
    env.add_member_overload(
        "asApproximateFloat",
        "quantity_as_float",
        quantity(),
        vec![],
        as_float,
    )?;
    env.add_member_overload(
        "isLessThan",
        "quantity_is_less_than",
        quantity(),
        vec![quantity()],
        is_less,
    )?;
    env.add_member_overload(
        "isGreaterThan",
        "quantity_is_greater_than",
        quantity(),
        vec![quantity()],
        is_greater,
    )?;
    env.add_member_overload(
        "compareTo",
        "quantity_compare_to",
        quantity(),
        vec![quantity()],
        compare_to,
    )?;
    env.add_member_overload("add", "quantity_add", quantity(), vec![quantity()], add)?;
    env.add_member_overload("add", "quantity_add_int", quantity(), vec![INT_TYPE], add)?;
    env.add_member_overload("sub", "quantity_sub", quantity(), vec![quantity()], subtract)?;
    env.add_member_overload("sub", "quantity_sub_int", quantity(), vec![INT_TYPE], subtract)
}

fn quantity_at(operands: &[CowVal<'_, '_>], place: usize) -> Result<Quantity, ExecutionError> {
    operand::<Opaque<Quantity>>(operands, place).map(|quantity| quantity.0)
}

fn parsed(operands: &[CowVal<'_, '_>]) -> Result<Option<Quantity>, ExecutionError> {
    let text = text_at(operands, 0)?;
    spend_text(text.len().saturating_mul(8))?;
    Ok(Quantity::parse(text))
}

fn to_quantity<'b, 'v>(operands: Operands<'b, 'v>) -> Outcome<'b, 'v> {
    parsed(&operands)?.map(opaque).ok_or_else(|| failed("quantity"))
}

fn is_quantity<'b, 'v>(operands: Operands<'b, 'v>) -> Outcome<'b, 'v> {
    Ok(boolean(parsed(&operands)?.is_some()))
}

fn sign<'b, 'v>(operands: Operands<'b, 'v>) -> Outcome<'b, 'v> {
    Ok(integer(quantity_at(&operands, 0)?.billionths.signum() as i64))
}

fn is_integer<'b, 'v>(operands: Operands<'b, 'v>) -> Outcome<'b, 'v> {
    Ok(boolean(quantity_at(&operands, 0)?.whole().is_some()))
}

fn as_integer<'b, 'v>(operands: Operands<'b, 'v>) -> Outcome<'b, 'v> {
    let whole = quantity_at(&operands, 0)?.whole();
    whole.map(integer).ok_or_else(|| failed("asInteger"))
}

fn as_float<'b, 'v>(operands: Operands<'b, 'v>) -> Outcome<'b, 'v> {
    let billionths = quantity_at(&operands, 0)?.billionths;
    Ok(CowVal::owned(CelDouble::from(billionths as f64 / 1e9)))
}

fn ordering(operands: &[CowVal<'_, '_>]) -> Result<Ordering, ExecutionError> {
    let (one, two) = (quantity_at(operands, 0)?, quantity_at(operands, 1)?);
    one.compare(&two).ok_or_else(|| failed("compareTo"))
}

fn is_less<'b, 'v>(operands: Operands<'b, 'v>) -> Outcome<'b, 'v> {
    Ok(boolean(ordering(&operands)?.is_lt()))
}

fn is_greater<'b, 'v>(operands: Operands<'b, 'v>) -> Outcome<'b, 'v> {
    Ok(boolean(ordering(&operands)?.is_gt()))
}

fn compare_to<'b, 'v>(operands: Operands<'b, 'v>) -> Outcome<'b, 'v> {
    Ok(integer(ordering(&operands)? as i64))
}

/// The second operand, which may be a whole number too.
fn other(operands: &[CowVal<'_, '_>]) -> Result<Quantity, ExecutionError> {
    let Ok(whole) = operand::<CelInt>(operands, 1) else {
        return quantity_at(operands, 1);
    };
    Ok(Quantity {
        billionths: i128::from(*whole.inner()) * BILLION,
        is_exact: true,
        is_integer: true,
    })
}

fn add<'b, 'v>(operands: Operands<'b, 'v>) -> Outcome<'b, 'v> {
    let sum = quantity_at(&operands, 0)?.plus(other(&operands)?, false);
    sum.map(opaque).ok_or_else(|| failed("add"))
}

fn subtract<'b, 'v>(operands: Operands<'b, 'v>) -> Outcome<'b, 'v> {
    let sum = quantity_at(&operands, 0)?.plus(other(&operands)?, true);
    sum.map(opaque).ok_or_else(|| failed("sub"))
}

//! Numbers that mean the same before and after they are read.
//!
//! In: a number of JSON's grammar. Out: the number, unless reading it would change it.

use serde_json::Number;

/// The number that a text of JSON's grammar stands for.
///
/// The API server reads a number without point and exponent as 64-bit integer if it fits, and every other as 64-bit float
/// (sigs.k8s.io/json, decode.go, `convertNumber`); a Quantity takes the digits as they are. What these would take differently
/// is none: an integer beyond 64 bits, and digits that a float does not keep.
pub(super) fn exact(text: &str) -> Option<Number> {
    if !text.contains(['.', 'e', 'E']) {
        // `-0` is the integer 0 here, as it is there.
        return text.parse::<i64>().ok().map(Number::from);
    }
    let number = Number::from_f64(text.parse().ok()?)?;
    let written = number.to_string();
    (written == text || Decimal::of(&written)? == Decimal::of(text)?).then_some(number)
}

/// A number as its digits: `digits` times ten to the power of `exponent`. Equal numbers are equal here.
#[derive(PartialEq, Eq)]
struct Decimal {
    negative: bool,
    /// Without zeros at either end; empty for zero.
    digits: Vec<u8>,
    exponent: i64,
}

impl Decimal {
    /// Takes a number of JSON's grammar apart. None where its exponent is beyond all floats.
    fn of(text: &str) -> Option<Self> {
        let (negative, text) = text.strip_prefix('-').map_or((false, text), |text| (true, text));
        let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let mut digits: Vec<u8> = whole.bytes().chain(fraction.bytes()).collect();
        let trailing = digits.iter().rev().take_while(|digit| **digit == b'0').count();
        digits.truncate(digits.len() - trailing);
        let leading = digits.iter().take_while(|digit| **digit == b'0').count();
        digits.drain(..leading);
        if digits.is_empty() {
            let exponent = 0;
            return Some(Self {
                negative,
                digits,
                exponent,
            });
        }
        let shift = i64::try_from(trailing).ok()? - i64::try_from(fraction.len()).ok()?;
        let exponent = exponent.parse::<i64>().ok()?.checked_add(shift)?;
        Some(Self {
            negative,
            digits,
            exponent,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_keeps_its_value_is_taken() {
        for (text, written) in [
            ("0", "0"),
            ("-0", "0"),
            ("9223372036854775807", "9223372036854775807"),
            ("-9223372036854775808", "-9223372036854775808"),
            ("0.1", "0.1"),
            ("0.10", "0.1"),
            ("-0.0", "-0.0"),
            ("1e3", "1000.0"),
            ("1E+3", "1000.0"),
            ("12.50e-1", "1.25"),
            ("0e999", "0.0"),
            ("0.000", "0.0"),
            ("1.7976931348623157e308", "1.7976931348623157e+308"),
            ("5e-324", "5e-324"),
            ("9007199254740993", "9007199254740993"),
        ] {
            let number = exact(text).unwrap_or_else(|| panic!("{text}"));
            assert_eq!(number.to_string(), written, "{text}");
            assert_eq!(exact(written).as_ref(), Some(&number), "{text}");
        }
    }

    #[test]
    fn a_number_that_would_change_is_not() {
        for text in [
            "9223372036854775808",
            "-9223372036854775809",
            "18446744073709551616",
            "9007199254740993.0",
            "0.1000000000000000055",
            "1e400",
            "1e-400",
            "4e-324",
            "1e99999999999999999999",
            "-1e-99999999999999999999",
        ] {
            assert!(exact(text).is_none(), "{text}");
        }
    }
}

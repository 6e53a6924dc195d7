//! What a bare word of YAML stands for.
//!
//! In: a scalar without quotes. Out: what YAML 1.1, as the API server reads it, and YAML 1.2 both take it for, or that they
//! differ.

use serde_json::Number;

use super::number;

/// What a bare word stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Scalar {
    /// Nothing.
    Null,
    /// A boolean.
    Bool(bool),
    /// A number.
    Number(Number),
    /// The word itself.
    Text,
    /// Readers differ, or JSON has no such value.
    Disputed,
}

/// Resolves a bare word: go.yaml.in/yaml/v2, resolve.go, against the core schema of YAML 1.2.2 (10.3.2).
pub(super) fn resolve(word: &str) -> Scalar {
    match word {
        "" | "~" | "null" | "Null" | "NULL" => return Scalar::Null,
        "true" | "True" | "TRUE" => return Scalar::Bool(true),
        "false" | "False" | "FALSE" => return Scalar::Bool(false),
        // Booleans of YAML 1.1.
        "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" | "n" | "N" | "no" | "No" | "NO" | "off"
        | "Off" | "OFF" => return Scalar::Disputed,
        // The merge key and the default value of YAML 1.1.
        "<<" | "=" => return Scalar::Disputed,
        _ => {}
    }
    if is_json_number(word) {
        return number::exact(word).map_or(Scalar::Disputed, Scalar::Number);
    }
    if looks_like_number(word) {
        return Scalar::Disputed;
    }
    Scalar::Text
}

/// Whether a word is a number in JSON's grammar (RFC 8259, 6), which all readers take alike.
fn is_json_number(word: &str) -> bool {
    let word = word.strip_prefix('-').unwrap_or(word);
    let (mantissa, exponent) = match word.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (word, None),
    };
    let (whole, fraction) = match mantissa.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (mantissa, None),
    };
    let exponent = exponent.map(|exponent| exponent.strip_prefix(['+', '-']).unwrap_or(exponent));
    are_digits(whole)
        && (whole == "0" || !whole.starts_with('0'))
        && fraction.is_none_or(are_digits)
        && exponent.is_none_or(are_digits)
}

fn are_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Whether some reader takes a word for a number: with a sign, underscores, a base, a point at either end, or for no number at
/// all.
fn looks_like_number(word: &str) -> bool {
    if !word.starts_with(|first: char| first.is_ascii_digit() || matches!(first, '+' | '-' | '.')) {
        return false;
    }
    let plain = word.replace('_', "").to_ascii_lowercase();
    let plain = plain.strip_prefix(['+', '-']).unwrap_or(&plain);
    if matches!(plain, ".inf" | ".nan") {
        return true;
    }
    for (prefix, base) in [("0x", 16), ("0o", 8), ("0b", 2)] {
        if let Some(digits) = plain.strip_prefix(prefix) {
            // Go's reader takes a sign behind `0b` too.
            let digits = digits.strip_prefix(['+', '-']).unwrap_or(digits);
            return !digits.is_empty() && digits.chars().all(|digit| digit.is_digit(base));
        }
    }
    let (mantissa, exponent) = plain.split_once('e').unwrap_or((plain, "0"));
    let exponent = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
    let digits = mantissa.replacen('.', "", 1);
    are_digits(&digits) && are_digits(exponent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_all_readers_take_alike() {
        for word in ["", "~", "null", "NULL"] {
            assert_eq!(resolve(word), Scalar::Null, "{word}");
        }
        assert_eq!(resolve("True"), Scalar::Bool(true));
        assert_eq!(resolve("false"), Scalar::Bool(false));
        for (word, number) in [
            ("0", 0),
            ("80", 80),
            ("-12", -12),
            ("9223372036854775807", i64::MAX),
        ] {
            assert_eq!(resolve(word), Scalar::Number(Number::from(number)), "{word}");
        }
        assert_eq!(Number::from_f64(1.5).map(Scalar::Number), Some(resolve("1.5")));
        for word in [
            "nginx",
            "nginx:1.27",
            "1.2.3",
            "10.0.0.1",
            "100m",
            "1Gi",
            "0.5Gi",
            "12:30:45",
            "2001-12-14",
            "2001-12-14T21:59:43Z",
            "-",
            "--flag",
            "-x",
            "+",
            ".",
            "..",
            ".hidden",
            "e5",
            "1e",
            "0x",
            "0xg",
            "0o9",
            "0b2",
            "1-2",
            "nUll",
            "tRue",
            "yEs",
            "_1",
            "1.2.3e4",
            "8080/tcp",
            "<",
            "a=b",
            "0-1",
            "1__a",
            "::1",
            "v1",
            "1,2",
        ] {
            assert_eq!(resolve(word), Scalar::Text, "{word}");
        }
    }

    #[test]
    fn words_that_readers_take_differently() {
        for word in [
            "y",
            "N",
            "yes",
            "No",
            "ON",
            "off",
            "<<",
            "=",
            "0777",
            "00",
            "-01",
            "+1",
            "1_000",
            "1_",
            "0x1F",
            "0XAB",
            "0o17",
            "0b11",
            "-0b1",
            "0b-1",
            "0b_1",
            "0_7",
            ".5",
            "-.5",
            "1.",
            "1.e3",
            "089",
            "+0x1",
            ".inf",
            "-.Inf",
            "+.INF",
            ".nan",
            ".NaN",
            "9223372036854775808",
            "1234e567",
            "0.1000000000000000055",
            "+_1",
            "1_0.5e1_0",
        ] {
            assert_eq!(resolve(word), Scalar::Disputed, "{word}");
        }
    }
}

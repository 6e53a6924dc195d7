//! Kubernetes' versions: `semver("1.2.3")` and their order, as semver.org 2.0 has it. With `true` behind it, a text such as `v1.2` is read
//! too.
//!
//! In: texts, and versions. Out: what a function comes to, or that it fails.

use std::cmp::Ordering;

use ::cel::common::types::{BOOL_TYPE, CelBool, STRING_TYPE, Type};
use ::cel::common::value::CowVal;
use ::cel::{DeclarationError, Env, ExecutionError};

use super::super::runtime::budget::spend_text;
use super::opaque::{Named, Opaque, opaque};
use super::{Operands, Outcome, boolean, failed, integer, operand, text_at};

static SEMVER: Type = Type::new_unspecified_type("kubernetes.Semver");

/// A part of a pre-release: numbers come before texts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Number(u64),
    Text(String),
}

/// A version. What is built does not count when versions are compared.
#[derive(Debug, Clone, PartialEq)]
struct Version {
    numbers: [u64; 3],
    pre_release: Vec<Part>,
}

impl Named for Version {
    fn named() -> &'static Type {
        &SEMVER
    }
}

fn number(text: &str) -> Option<u64> {
    let is_number = !text.is_empty() && text.bytes().all(|digit| digit.is_ascii_digit());
    let is_plain = text.len() == 1 || !text.starts_with('0');
    (is_number && is_plain).then(|| text.parse().ok()).flatten()
}

fn is_identifier(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

impl Version {
    fn parse(text: &str) -> Option<Self> {
        let (text, build) = match text.split_once('+') {
            Some((text, build)) => (text, Some(build)),
            None => (text, None),
        };
        if build.is_some_and(|build| !build.split('.').all(is_identifier)) {
            return None;
        }
        let (text, pre_release) = match text.split_once('-') {
            Some((text, pre_release)) => (text, Some(pre_release)),
            None => (text, None),
        };
        let mut numbers = text.split('.').map(number);
        let [major, minor, patch] = [numbers.next()??, numbers.next()??, numbers.next()??];
        if numbers.next().is_some() {
            return None;
        }
        let part = |part: &str| {
            let is_number = part.bytes().all(|digit| digit.is_ascii_digit());
            match is_identifier(part) {
                true if is_number => number(part).map(Part::Number),
                true => Some(Part::Text(part.to_owned())),
                false => None,
            }
        };
        let parts: Option<Vec<_>> = pre_release
            .into_iter()
            .flat_map(|parts| parts.split('.'))
            .map(part)
            .collect();
        Some(Self {
            numbers: [major, minor, patch],
            pre_release: parts?,
        })
    }

    /// Reads a version that has a `v`, zeros in front, or fewer than three numbers.
    fn parse_loosely(text: &str) -> Option<Self> {
        let text = text.strip_prefix('v').unwrap_or(text);
        let mut parts: Vec<String> = text.splitn(3, '.').map(without_zeros).collect();
        if parts.len() < 3 && parts.last().is_some_and(|last| last.contains(['+', '-'])) {
            return None;
        }
        parts.resize(3, "0".to_owned());
        Self::parse(&parts.join("."))
    }

    fn compare(&self, other: &Self) -> Ordering {
        let by_release = match (self.pre_release.is_empty(), other.pre_release.is_empty()) {
            // What is released comes after what is not.
            (true, false) => Ordering::Greater,
            (false, true) => Ordering::Less,
            _ => self.pre_release.cmp(&other.pre_release),
        };
        self.numbers.cmp(&other.numbers).then(by_release)
    }
}

fn without_zeros(part: &str) -> String {
    if part.len() < 2 {
        return part.to_owned();
    }
    let rest = part.trim_start_matches('0');
    match rest.bytes().next() {
        Some(digit) if digit.is_ascii_digit() => rest.to_owned(),
        _ => format!("0{rest}"),
    }
}

pub(super) fn declare(env: &mut Env) -> Result<(), DeclarationError> {
    let semver = || SEMVER.to_owned();
    env.add_type(semver())?;
    env.add_overload("semver", "string_to_semver", vec![STRING_TYPE], to_semver)?;
    env.add_overload(
        "semver",
        "string_bool_to_semver",
        vec![STRING_TYPE, BOOL_TYPE],
        to_semver,
    )?;
    env.add_overload("isSemver", "is_semver_string", vec![STRING_TYPE], is_semver)?;
    env.add_overload(
        "isSemver",
        "is_semver_string_bool",
        vec![STRING_TYPE, BOOL_TYPE],
        is_semver,
    )?;
    env.add_member_overload(
        "isLessThan",
        "semver_is_less_than",
        semver(),
        vec![semver()],
        is_less,
    )?;
    env.add_member_overload(
        "isGreaterThan",
        "semver_is_greater_than",
        semver(),
        vec![semver()],
        is_greater,
    )?;
    env.add_member_overload(
        "compareTo",
        "semver_compare_to",
        semver(),
        vec![semver()],
        compare_to,
    )?;
    env.add_member_overload("major", "semver_major", semver(), vec![], major)?;
    env.add_member_overload("minor", "semver_minor", semver(), vec![], minor)?;
    env.add_member_overload("patch", "semver_patch", semver(), vec![], patch)
}

fn version<'a>(operands: &'a [CowVal<'_, '_>], place: usize) -> Result<&'a Version, ExecutionError> {
    operand::<Opaque<Version>>(operands, place).map(|version| &version.0)
}

fn parsed(operands: &[CowVal<'_, '_>]) -> Result<Option<Version>, ExecutionError> {
    let text = text_at(operands, 0)?;
    spend_text(text.len().saturating_mul(8))?;
    let is_loose = operands.len() > 1 && *operand::<CelBool>(operands, 1)?.inner();
    Ok(if is_loose {
        Version::parse_loosely(text)
    } else {
        Version::parse(text)
    })
}

fn to_semver<'b, 'v>(operands: Operands<'b, 'v>) -> Outcome<'b, 'v> {
    parsed(&operands)?.map(opaque).ok_or_else(|| failed("semver"))
}

fn is_semver<'b, 'v>(operands: Operands<'b, 'v>) -> Outcome<'b, 'v> {
    Ok(boolean(parsed(&operands)?.is_some()))
}

fn ordering(operands: &[CowVal<'_, '_>]) -> Result<Ordering, ExecutionError> {
    Ok(version(operands, 0)?.compare(version(operands, 1)?))
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

fn nth(operands: &[CowVal<'_, '_>], place: usize) -> Result<i64, ExecutionError> {
    let number = version(operands, 0)?.numbers[place];
    i64::try_from(number).map_err(|_| failed("semver"))
}

fn major<'b, 'v>(operands: Operands<'b, 'v>) -> Outcome<'b, 'v> {
    nth(&operands, 0).map(integer)
}

fn minor<'b, 'v>(operands: Operands<'b, 'v>) -> Outcome<'b, 'v> {
    nth(&operands, 1).map(integer)
}

fn patch<'b, 'v>(operands: Operands<'b, 'v>) -> Outcome<'b, 'v> {
    nth(&operands, 2).map(integer)
}

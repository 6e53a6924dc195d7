//! Kubernetes' named formats: `format.dns1123Label().validate(text)`, and `format.named("dns1123Label")`.
//!
//! In: names of formats, and texts. Out: what a function comes to, or that it fails.
//!
//! Semantics as those of `k8s.io/apiserver/pkg/cel/library/format.go`. `validate` gives `optional.none()` for a text that fits, and else a
//! list with one text that says which format it does not fit; the API server's texts are others.

use std::sync::LazyLock;

use ::cel::common::types::{CelList, CelOptional, CelString, STRING_TYPE, Type};
use ::cel::common::value::{CowVal, Val};
use ::cel::{DeclarationError, Env};
use ::regex::Regex;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::super::runtime::budget::spend_text;
use super::opaque::{Named, Opaque, opaque};
use super::{Operands, Outcome, operand, text_at, url};

static FORMAT: Type = Type::new_unspecified_type("kubernetes.NamedFormat");

#[derive(Debug, Clone, Copy, PartialEq)]
struct Format(usize);

impl Named for Format {
    fn named() -> &'static Type {
        &FORMAT
    }
}

type Fits = fn(&str) -> bool;

/// All of them, and whether a text fits.
const FORMATS: [(&str, Fits); 13] = [
    ("byte", |text| STANDARD.decode(text).is_ok()),
    ("date", is_date),
    ("datetime", is_date_time),
    ("dns1035Label", is_label_1035),
    ("dns1035LabelPrefix", |text| is_label_1035(&without_dash(text))),
    ("dns1123Label", is_label),
    ("dns1123LabelPrefix", |text| is_label(&without_dash(text))),
    ("dns1123Subdomain", is_subdomain),
    ("dns1123SubdomainPrefix", |text| is_subdomain(&without_dash(text))),
    ("labelValue", |text| text.is_empty() || is_qualified_part(text)),
    ("qualifiedName", is_qualified_name),
    ("uri", |text| url::Url::is_request(text)),
    ("uuid", is_uuid),
];

fn is_label(text: &str) -> bool {
    let is_inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    text.len() <= 63 && is_made_of(text, is_inner, |byte| is_inner(byte) || byte == b'-')
}

fn is_label_1035(text: &str) -> bool {
    is_label(text) && text.starts_with(|letter: char| letter.is_ascii_lowercase())
}

fn is_subdomain(text: &str) -> bool {
    let is_inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let is_part = |part: &str| is_made_of(part, is_inner, |byte| is_inner(byte) || byte == b'-');
    text.len() <= 253 && text.split('.').all(is_part)
}

fn is_qualified_part(text: &str) -> bool {
    let is_end = |byte: u8| byte.is_ascii_alphanumeric();
    text.len() <= 63 && is_made_of(text, is_end, |byte| is_end(byte) || b"-_.".contains(&byte))
}

fn is_qualified_name(text: &str) -> bool {
    match text.split_once('/') {
        Some((prefix, name)) => is_subdomain(prefix) && is_qualified_part(name),
        None => is_qualified_part(text),
    }
}

/// Whether a text begins and ends with such letters, and has such between.
fn is_made_of(text: &str, end: impl Fn(u8) -> bool, inner: impl Fn(u8) -> bool) -> bool {
    let (first, last) = (text.bytes().next(), text.bytes().last());
    first.is_some_and(&end) && last.is_some_and(&end) && text.bytes().all(inner)
}

/// A prefix may end with a dash, behind which a name will go on.
fn without_dash(text: &str) -> String {
    match text.strip_suffix('-').filter(|rest| !rest.is_empty()) {
        Some(rest) => {
            let mut letters = rest.chars();
            letters.next_back();
            format!("{}a", letters.as_str())
        }
        None => text.to_owned(),
    }
}

fn is_date(text: &str) -> bool {
    text.len() == 10 && text.parse::<jiff::civil::Date>().is_ok()
}

static DATE_TIME: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(r"^\d{4}-\d{2}-\d{2}[Tt]\d{2}:\d{2}:\d{2}([.]\d+)?([Zz]|[+-]\d{2}:\d{2})$").ok()
});

fn is_date_time(text: &str) -> bool {
    let has_form = DATE_TIME.as_ref().is_some_and(|form| form.is_match(text));
    has_form && text.parse::<jiff::Timestamp>().is_ok()
}

/// Its dashes may be missing.
static UUID: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new("(?i)^[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}$").ok()
});

fn is_uuid(text: &str) -> bool {
    UUID.as_ref().is_some_and(|form| form.is_match(text))
}

pub(super) fn declare(env: &mut Env) -> Result<(), DeclarationError> {
    env.add_type(FORMAT.to_owned())?;
    env.add_overload("format.named", "format-named", vec![STRING_TYPE], named)?;
    env.add_member_overload(
        "validate",
        "format-validate",
        FORMAT.to_owned(),
        vec![STRING_TYPE],
        validate,
    )?;
    let constants: [::cel::common::functions::Function; 13] = [
        constant::<0>,
        constant::<1>,
        constant::<2>,
        constant::<3>,
        constant::<4>,
        constant::<5>,
        constant::<6>,
        constant::<7>,
        constant::<8>,
        constant::<9>,
        constant::<10>,
        constant::<11>,
        constant::<12>,
    ];
    for ((name, _), constant) in FORMATS.iter().zip(constants) {
        let name = format!("format.{name}");
        env.add_overload(&name, &name, vec![], constant)?;
    }
    Ok(())
}

fn constant<'b, 'v, const PLACE: usize>(_: Operands<'b, 'v>) -> Outcome<'b, 'v> {
    Ok(opaque(Format(PLACE)))
}

fn named<'b, 'v>(operands: Operands<'b, 'v>) -> Outcome<'b, 'v> {
    let wanted = text_at(&operands, 0)?;
    let place = FORMATS.iter().position(|(name, _)| *name == wanted);
    Ok(CowVal::owned(match place {
        Some(place) => CelOptional::of(Box::new(Opaque(Format(place)))),
        None => CelOptional::none(),
    }))
}

fn validate<'b, 'v>(operands: Operands<'b, 'v>) -> Outcome<'b, 'v> {
    let Format(place) = operand::<Opaque<Format>>(&operands, 0)?.0;
    let text = text_at(&operands, 1)?;
    spend_text(text.len().saturating_mul(8))?;
    let (name, fits) = FORMATS[place];
    if fits(text) {
        return Ok(CowVal::owned(CelOptional::none()));
    }
    let reason: Box<dyn Val + 'v> = Box::new(CelString::from(format!("does not match the format {name}")));
    Ok(CowVal::owned(CelOptional::of(Box::new(CelList::from(vec![
        reason,
    ])))))
}

//! Kubernetes' URLs: `url`, `isURL` and their parts.
//!
//! In: texts, and URLs. Out: what a function comes to, or that it fails.
//!
//! Semantics as those of Go's `net/url` (`ParseRequestURI`, then `Parse`), which the API server reads them with: `http://a@b` has the host
//! `b`, and a text that is no absolute URI and no path is none.

use std::collections::HashMap;

use ::cel::common::types::{CelList, CelMap, CelMapKey, CelString, STRING_TYPE, Type};
use ::cel::common::value::{CowVal, Val};
use ::cel::{DeclarationError, Env, ExecutionError};

use super::super::runtime::budget::{spend, spend_text};
use super::opaque::{Named, Opaque, opaque};
use super::{Operands, Outcome, boolean, failed, operand, string, text_at};

static URL: Type = Type::new_unspecified_type("kubernetes.URL");

#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Url {
    scheme: String,
    /// With its port, and without `%` in it.
    host: String,
    /// As it is written, or escaped where it had to be.
    path: String,
    query: String,
    fragment: String,
    user: String,
}

impl Named for Url {
    fn named() -> &'static Type {
        &URL
    }
}

/// The scheme, in small letters, and what follows its colon.
fn scheme(text: &str) -> Option<(String, &str)> {
    for (place, letter) in text.bytes().enumerate() {
        match letter {
            b'a'..=b'z' | b'A'..=b'Z' => {}
            b'0'..=b'9' | b'+' | b'-' | b'.' if place > 0 => {}
            b':' if place == 0 => return None,
            b':' => return Some((text[..place].to_ascii_lowercase(), &text[place + 1..])),
            _ => break,
        }
    }
    Some((String::new(), text))
}

/// A text without its `%` escapes, unless one of them is none.
fn unescape(text: &str, is_query: bool) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, tail)) = rest.split_first() {
        rest = tail;
        match byte {
            b'%' => {
                let digit = |at: usize| tail.get(at).and_then(|digit| (*digit as char).to_digit(16));
                bytes.push(u8::try_from(digit(0)? * 16 + digit(1)?).ok()?);
                rest = &tail[2..];
            }
            b'+' if is_query => bytes.push(b' '),
            byte => bytes.push(*byte),
        }
    }
    Some(bytes)
}

fn is_port(text: &str) -> bool {
    text.strip_prefix(':')
        .is_none_or(|port| port.bytes().all(|digit| digit.is_ascii_digit()))
}

/// A host with its port. One in brackets is an IPv6 address.
fn host(text: &str) -> Option<String> {
    let port = match text.strip_prefix('[') {
        Some(_) => &text[text.rfind(']')? + 1..],
        None => &text[text.rfind(':').unwrap_or(text.len())..],
    };
    if !(port.is_empty() || port.starts_with(':')) || !is_port(port) {
        return None;
    }
    let is_allowed = |byte: u8| {
        byte.is_ascii_alphanumeric() || !byte.is_ascii() || b"-_.~!$&'()*+,;=:[]<>\"%".contains(&byte)
    };
    // Only letters beyond ASCII are escaped in a host, and the sign before a zone.
    let mut escapes = text.split('%').skip(1);
    let is_escaped_well = escapes.all(|escape| {
        escape.starts_with("25")
            || matches!(
                escape.as_bytes().first(),
                Some(b'8'..=b'9' | b'a'..=b'f' | b'A'..=b'F')
            )
    });
    if !text.bytes().all(is_allowed) || !is_escaped_well {
        return None;
    }
    String::from_utf8(unescape(text, false)?).ok()
}

/// A path, escaped as it is written where that is a way to write it.
fn path(text: &str) -> Option<String> {
    let plain = unescape(text, false)?;
    let is_kept = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~!$&'()*+,;=:@[]/%".contains(&byte);
    if text == "*" || text.bytes().all(is_kept) {
        return Some(text.to_owned());
    }
    let mut escaped = String::with_capacity(plain.len());
    for byte in plain {
        match byte.is_ascii_alphanumeric() || b"-_.~$&+,/:;=@".contains(&byte) {
            true => escaped.push(byte as char),
            false => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    Some(escaped)
}

impl Url {
    /// Reads one, with a fragment or without.
    fn read(text: &str, has_fragment: bool) -> Option<Self> {
        let is_control = |byte: u8| byte < b' ' || byte == 0x7f;
        if text.is_empty() || text.bytes().any(is_control) {
            return None;
        }
        let (text, fragment) = match text.split_once('#') {
            Some((text, fragment)) if has_fragment => (text, fragment),
            _ => (text, ""),
        };
        let (scheme, rest) = scheme(text)?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let mut url = Self {
            scheme,
            query: query.to_owned(),
            fragment: fragment.to_owned(),
            ..Self::default()
        };
        if !rest.starts_with('/') {
            // What has a scheme and no slash, such as mailto:a@b, has neither host nor path.
            return (rest == "*" || !url.scheme.is_empty()).then_some(url);
        }
        let mut rest = rest;
        let has_host = !url.scheme.is_empty() || (has_fragment && !rest.starts_with("///"));
        if let Some(authority) = rest.strip_prefix("//").filter(|_| has_host) {
            let (authority, path) = authority.split_at(authority.find('/').unwrap_or(authority.len()));
            let (user, host_and_port) = authority.rsplit_once('@').unwrap_or(("", authority));
            let is_user = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:~!$&'()*+,;=%@".contains(&byte);
            if !user.bytes().all(is_user) {
                return None;
            }
            unescape(user, false)?;
            url.user = user.to_owned();
            url.host = host(host_and_port)?;
            rest = path;
        }
        url.path = path(rest)?;
        Some(url)
    }

    /// One as the API server reads it.
    fn parse(text: &str) -> Option<Self> {
        Self::read(text, false)?;
        Self::read(text, true)
    }

    /// Whether a text is one, as the format `uri` has it.
    pub(super) fn is_request(text: &str) -> bool {
        Self::read(text, false).is_some()
    }

    fn port(&self) -> &str {
        let behind = self.host.rfind(']').map_or(0, |end| end + 1);
        match self.host[behind..].rfind(':') {
            Some(colon) => &self.host[behind + colon + 1..],
            None => "",
        }
    }

    fn host_name(&self) -> &str {
        let host = match self.port() {
            "" => self.host.strip_suffix(':').unwrap_or(&self.host),
            port => &self.host[..self.host.len() - port.len() - 1],
        };
        let inner = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        inner.unwrap_or(host)
    }
}

pub(super) fn declare(env: &mut Env) -> Result<(), DeclarationError> {
    let url = || URL.to_owned();
    env.add_type(url())?;
    env.add_overload("url", "string_to_url", vec![STRING_TYPE], to_url)?;
    env.add_overload("isURL", "is_url_string", vec![STRING_TYPE], is_url)?;
    env.add_member_overload("getScheme", "url_get_scheme", url(), vec![], get_scheme)?;
    env.add_member_overload("getHost", "url_get_host", url(), vec![], get_host)?;
    env.add_member_overload("getHostname", "url_get_hostname", url(), vec![], get_host_name)?;
    env.add_member_overload("getPort", "url_get_port", url(), vec![], get_port)?;
    env.add_member_overload("getEscapedPath", "url_get_escaped_path", url(), vec![], get_path)?;
    env.add_member_overload("getQuery", "url_get_query", url(), vec![], get_query)
}

fn url_of<'a>(operands: &'a [CowVal<'_, '_>]) -> Result<&'a Url, ExecutionError> {
    let url = &operand::<Opaque<Url>>(operands, 0)?.0;
    spend_text(url.host.len() + url.path.len() + url.query.len())?;
    Ok(url)
}

fn parsed(operands: &[CowVal<'_, '_>]) -> Result<Option<Url>, ExecutionError> {
    let text = text_at(operands, 0)?;
    spend_text(text.len().saturating_mul(16))?;
    Ok(Url::parse(text))
}

fn to_url<'b, 'v>(operands: Operands<'b, 'v>) -> Outcome<'b, 'v> {
    parsed(&operands)?.map(opaque).ok_or_else(|| failed("url"))
}

fn is_url<'b, 'v>(operands: Operands<'b, 'v>) -> Outcome<'b, 'v> {
    let text = text_at(&operands, 0)?;
    spend_text(text.len().saturating_mul(16))?;
    Ok(boolean(Url::is_request(text)))
}

fn get_scheme<'b, 'v>(operands: Operands<'b, 'v>) -> Outcome<'b, 'v> {
    Ok(string(url_of(&operands)?.scheme.clone()))
}

fn get_host<'b, 'v>(operands: Operands<'b, 'v>) -> Outcome<'b, 'v> {
    Ok(string(url_of(&operands)?.host.clone()))
}

fn get_host_name<'b, 'v>(operands: Operands<'b, 'v>) -> Outcome<'b, 'v> {
    Ok(string(url_of(&operands)?.host_name().to_owned()))
}

fn get_port<'b, 'v>(operands: Operands<'b, 'v>) -> Outcome<'b, 'v> {
    Ok(string(url_of(&operands)?.port().to_owned()))
}

fn get_path<'b, 'v>(operands: Operands<'b, 'v>) -> Outcome<'b, 'v> {
    Ok(string(url_of(&operands)?.path.clone()))
}

/// Each name's values, in their order. A pair that is not escaped well, or has a `;`, is left out.
fn get_query<'b, 'v>(operands: Operands<'b, 'v>) -> Outcome<'b, 'v> {
    let query = &url_of(&operands)?.query;
    let pairs = query
        .split('&')
        .filter(|pair| !pair.is_empty() && !pair.contains(';'));
    let mut values: HashMap<String, Vec<Box<dyn Val + 'v>>> = HashMap::new();
    for pair in pairs {
        spend(2)?;
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let plain = |text: &str| String::from_utf8(unescape(text, true)?).ok();
        let Some((name, value)) = plain(name).zip(plain(value)) else {
            continue;
        };
        let value = Box::new(CelString::from(value));
        values.entry(name).or_default().push(value);
    }
    let mut map: HashMap<CelMapKey<'v>, Box<dyn Val + 'v>> = HashMap::new();
    for (name, values) in values {
        map.insert(CelMapKey::from(name), Box::new(CelList::from(values)));
    }
    Ok(CowVal::owned(CelMap::from(map)))
}

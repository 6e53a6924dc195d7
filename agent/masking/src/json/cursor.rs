//! Reads JSON that lies in memory as a whole, member by member, without a tree.
//!
//! In: an object's bytes. Out: the keys and values of its members, with their places. Values that nobody asks for are skipped.

use std::borrow::Cow;
use std::ops::{ControlFlow, Range};

use memchr::memchr2;

use super::skip::Skip;
use crate::error::FilterError;

const ENDED: FilterError = FilterError::Json("it ends within a value");

/// A place in JSON.
#[derive(Debug, Clone)]
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

/// A string as it was written, without its quotes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RawString<'a> {
    bytes: &'a [u8],
    has_escapes: bool,
}

/// A member of an object. The value starts with its first byte, and no space follows it.
#[derive(Debug, Clone)]
pub(super) struct Member<'a> {
    pub(super) key: Cow<'a, str>,
    /// From the key's quote to the value's end.
    pub(super) place: Range<usize>,
    pub(super) value: &'a [u8],
    pub(super) value_place: Range<usize>,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Cursor<'a> {
        Cursor { bytes, at: 0 }
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn space(&mut self) {
        while self.peek().is_some_and(is_space) {
            self.at += 1;
        }
    }

    fn expect(&mut self, byte: u8, otherwise: &'static str) -> Result<(), FilterError> {
        if self.peek() != Some(byte) {
            return Err(FilterError::Json(otherwise));
        }
        self.at += 1;
        Ok(())
    }

    fn string(&mut self) -> Result<RawString<'a>, FilterError> {
        self.expect(b'"', "a string was expected")?;
        let start = self.at;
        let mut has_escapes = false;
        loop {
            let rest = self.bytes.get(self.at..).ok_or(ENDED)?;
            let found = memchr2(b'"', b'\\', rest).ok_or(ENDED)?;
            self.at += found;
            if rest[found] == b'"' {
                let bytes = &self.bytes[start..self.at];
                self.at += 1;
                return Ok(RawString { bytes, has_escapes });
            }
            has_escapes = true;
            self.at += 2;
        }
    }

    /// The value that starts here.
    fn value(&mut self) -> Result<&'a [u8], FilterError> {
        let start = self.at;
        match self.peek().ok_or(ENDED)? {
            b'"' => drop(self.string()?),
            b'{' | b'[' => self.at += Skip::default().advance(&self.bytes[start..]).ok_or(ENDED)?,
            _ => {
                let rest = &self.bytes[start..];
                let length = rest.iter().position(|byte| !is_literal(*byte));
                self.at += length.unwrap_or(rest.len());
            }
        }
        match &self.bytes[start..self.at] {
            [] => Err(FilterError::Json("a value was expected")),
            value => Ok(value),
        }
    }

    /// Whether nothing but space is left.
    fn is_at_end(&mut self) -> bool {
        self.space();
        self.at == self.bytes.len()
    }
}

/// Goes over the members of the object that `bytes` are, or until `each` breaks.
pub(super) fn members<'a>(
    bytes: &'a [u8],
    mut each: impl FnMut(Member<'a>) -> Result<ControlFlow<()>, FilterError>,
) -> Result<(), FilterError> {
    let mut cursor = Cursor::new(bytes);
    cursor.space();
    cursor.expect(b'{', "an object was expected")?;
    cursor.space();
    if cursor.peek() == Some(b'}') {
        cursor.at += 1;
    } else {
        loop {
            cursor.space();
            let start = cursor.at;
            let key = cursor.string()?.text()?;
            cursor.space();
            cursor.expect(b':', "a colon was expected")?;
            cursor.space();
            let value_start = cursor.at;
            let value = cursor.value()?;
            let end = cursor.at;
            let member = Member {
                key,
                place: start..end,
                value,
                value_place: value_start..end,
            };
            if each(member)?.is_break() {
                return Ok(());
            }
            cursor.space();
            if cursor.peek() == Some(b',') {
                cursor.at += 1;
                continue;
            }
            cursor.expect(b'}', "a comma or the end of an object was expected")?;
            break;
        }
    }
    match cursor.is_at_end() {
        true => Ok(()),
        false => Err(FilterError::Json("something follows an object")),
    }
}

/// Likewise, all of them.
pub(super) fn each_member<'a>(
    bytes: &'a [u8],
    mut each: impl FnMut(Member<'a>) -> Result<(), FilterError>,
) -> Result<(), FilterError> {
    members(bytes, |member| each(member).map(ControlFlow::Continue))
}

/// The string that a value is.
pub(super) fn text(value: &[u8]) -> Result<Cow<'_, str>, FilterError> {
    Cursor::new(value).string()?.text()
}

pub(super) const fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\n' | b'\r' | b'\t')
}

/// What numbers, `true`, `false` and `null` consist of.
pub(super) const fn is_literal(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'z' | b'+' | b'-' | b'.' | b'E')
}

impl<'a> RawString<'a> {
    /// From between the quotes.
    pub(super) fn new(bytes: &'a [u8]) -> RawString<'a> {
        RawString {
            bytes,
            has_escapes: bytes.contains(&b'\\'),
        }
    }

    /// The string that is meant.
    pub(super) fn text(self) -> Result<Cow<'a, str>, FilterError> {
        let text = std::str::from_utf8(self.bytes).map_err(|_| FilterError::Json("a string is not UTF-8"))?;
        if !self.has_escapes {
            return Ok(Cow::Borrowed(text));
        }
        unescaped(text).map(Cow::Owned)
    }
}

/// RFC 8259, section 7. A surrogate without its other half becomes U+FFFD, as in Go.
fn unescaped(text: &str) -> Result<String, FilterError> {
    const BAD: FilterError = FilterError::Json("a string has an unknown escape");
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        out.push_str(before);
        let mut characters = after.chars();
        let plain = match characters.next().ok_or(BAD)? {
            character @ ('"' | '\\' | '/') => character,
            'b' => '\u{8}',
            'f' => '\u{c}',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'u' => {
                let (character, left) = code_point(characters.as_str()).ok_or(BAD)?;
                out.push(character);
                rest = left;
                continue;
            }
            _ => return Err(BAD),
        };
        out.push(plain);
        rest = characters.as_str();
    }
    out.push_str(rest);
    Ok(out)
}

/// The character whose four digits, and maybe a second escape, come first; and what is left.
fn code_point(text: &str) -> Option<(char, &str)> {
    let (first, rest) = unit(text)?;
    if let 0xd800..0xdc00 = first
        && let Some((second @ 0xdc00..0xe000, after)) = rest.strip_prefix("\\u").and_then(unit)
    {
        let code = 0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00);
        return Some((char::from_u32(code)?, after));
    }
    Some((char::from_u32(first).unwrap_or(char::REPLACEMENT_CHARACTER), rest))
}

fn unit(text: &str) -> Option<(u32, &str)> {
    let (digits, rest) = text.split_at_checked(4)?;
    if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    Some((u32::from_str_radix(digits, 16).ok()?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_mean_what_serde_json_reads() {
        for text in [r"n\u0061me", r"\ud83d\ude00\n\\\/", r"\u00e9", "plain é", r#"\""#] {
            let expected: String = serde_json::from_str(&format!("\"{text}\"")).expect("a string");
            assert_eq!(RawString::new(text.as_bytes()).text().expect("read"), expected);
        }
        assert_eq!(RawString::new(br"\ud800x").text().expect("read"), "\u{fffd}x");
        for bad in [r"\x", r"\u12", r"\u12g4", r"\u+123", r"\"] {
            assert!(RawString::new(bad.as_bytes()).text().is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_no_object_is_an_error() {
        for bad in [
            "",
            "[]",
            "{",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1,}",
            "{\"a\":1}x",
            "{\"a\":1 \"b\":2}",
            "{a:1}",
            "{\"a",
            "{\"a\\",
        ] {
            assert!(each_member(bad.as_bytes(), |_| Ok(())).is_err(), "{bad}");
        }
    }
}

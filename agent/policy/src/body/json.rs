//! JSON that every reader takes for the same value (RFC 8259).
//!
//! In: bytes. Out: the value. Own code, because no library tells a number's text, and a number that a reader changes must not
//! pass: `serde_json` may miss a float by its last bit, and makes a float of an integer beyond 64 bits.
//!
//! Refused besides what is no JSON: a key that stands twice in an object, however it is escaped; half a surrogate pair; what is
//! not UTF-8; a byte order mark. Go's reader takes the last of two equal keys, and puts U+FFFD for both of the others.

use serde_json::map::Entry;
use serde_json::{Map, Value};

use super::error::quoted;
use super::{BodyError, MAX_DEPTH, MAX_VALUES, Place, number};

/// The UTF-8 of U+FEFF, which some writers put first, and RFC 8259 forbids.
const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// The value that JSON stands for.
pub(super) fn read(bytes: &[u8]) -> Result<Value, BodyError> {
    let text = std::str::from_utf8(bytes)
        .map_err(|error| BodyError::NotUtf8(Place::of(bytes, error.valid_up_to())))?;
    let mut reader = Reader {
        text,
        at: 0,
        depth: 0,
        values: MAX_VALUES,
    };
    if bytes.starts_with(BYTE_ORDER_MARK) {
        return Err(reader.syntax("a byte order mark"));
    }
    reader.skip_space();
    let value = reader.value()?;
    reader.skip_space();
    if reader.at < text.len() {
        return Err(reader.syntax("something follows the value"));
    }
    refuse_folded_keys(&value)?;
    Ok(value)
}

/// Refuses other spellings of `kind` and `apiVersion` in the object itself.
///
/// The API server tells keys by their exact letters everywhere (sigs.k8s.io/json), but for one place: what finds the kind of an
/// object uses Go's own library, which takes any case (k8s.io/apimachinery, pkg/runtime/serializer/json/meta.go, `Interpret`).
pub(super) fn refuse_folded_keys(value: &Value) -> Result<(), BodyError> {
    for key in value.as_object().into_iter().flat_map(Map::keys) {
        for meant in ["kind", "apiVersion"] {
            if key != meant && folded(key).eq(folded(meant)) {
                let key = quoted(key);
                return Err(BodyError::FoldedKey { key, meant });
            }
        }
    }
    Ok(())
}

/// A key as Go's library compares it (encoding/json, fold.go): two characters fold to ASCII letters besides its own ones.
fn folded(key: &str) -> impl Iterator<Item = char> {
    key.chars().map(|character| match character {
        '\u{212a}' => 'k',
        '\u{17f}' => 's',
        other => other.to_ascii_lowercase(),
    })
}

struct Reader<'a> {
    text: &'a str,
    /// Byte offset of what comes next; between characters always.
    at: usize,
    /// How many lists and objects are open.
    depth: usize,
    /// How many values still may come.
    values: usize,
}

impl<'a> Reader<'a> {
    fn value(&mut self) -> Result<Value, BodyError> {
        self.values = self.values.checked_sub(1).ok_or(BodyError::Values)?;
        match self.peek() {
            Some(b'{') => self.nested(Self::object),
            Some(b'[') => self.nested(Self::list),
            Some(b'"') => Ok(Value::String(self.string()?)),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b't') => self.word("true", Value::Bool(true)),
            Some(b'f') => self.word("false", Value::Bool(false)),
            Some(b'n') => self.word("null", Value::Null),
            _ => Err(self.syntax("a value is missing")),
        }
    }

    fn nested(
        &mut self,
        inner: impl FnOnce(&mut Self) -> Result<Value, BodyError>,
    ) -> Result<Value, BodyError> {
        if self.depth == MAX_DEPTH {
            return Err(BodyError::Depth(self.place(self.at)));
        }
        self.depth += 1;
        self.at += 1;
        self.skip_space();
        let value = inner(self);
        self.depth -= 1;
        value
    }

    fn object(&mut self) -> Result<Value, BodyError> {
        let mut object = Map::new();
        if self.took(b'}') {
            return Ok(Value::Object(object));
        }
        loop {
            let start = self.at;
            if self.peek() != Some(b'"') {
                return Err(self.syntax("a key in quotes is missing"));
            }
            let key = self.string()?;
            let entry = match object.entry(key) {
                Entry::Vacant(entry) => entry,
                Entry::Occupied(entry) => {
                    return Err(BodyError::duplicate_key(entry.key(), self.place(start)));
                }
            };
            self.skip_space();
            if !self.took(b':') {
                return Err(self.syntax("a colon is missing behind a key"));
            }
            self.skip_space();
            entry.insert(self.value()?);
            self.skip_space();
            if self.took(b'}') {
                return Ok(Value::Object(object));
            }
            if !self.took(b',') {
                return Err(self.syntax("a comma or a closing brace is missing"));
            }
            self.skip_space();
        }
    }

    fn list(&mut self) -> Result<Value, BodyError> {
        let mut list = Vec::new();
        if self.took(b']') {
            return Ok(Value::Array(list));
        }
        loop {
            list.push(self.value()?);
            self.skip_space();
            if self.took(b']') {
                return Ok(Value::Array(list));
            }
            if !self.took(b',') {
                return Err(self.syntax("a comma or a closing bracket is missing"));
            }
            self.skip_space();
        }
    }

    fn word(&mut self, word: &str, value: Value) -> Result<Value, BodyError> {
        if !self.rest().starts_with(word.as_bytes()) {
            return Err(self.syntax("a value is missing"));
        }
        self.at += word.len();
        Ok(value)
    }

    fn number(&mut self) -> Result<Value, BodyError> {
        let start = self.at;
        self.took(b'-');
        if !self.took(b'0') {
            self.digits()?;
        }
        if self.took(b'.') {
            self.digits()?;
        }
        if self.took(b'e') || self.took(b'E') {
            let _signed = self.took(b'+') || self.took(b'-');
            self.digits()?;
        }
        let text = &self.text[start..self.at];
        let number = number::exact(text).ok_or_else(|| BodyError::number(text, self.place(start)))?;
        Ok(Value::Number(number))
    }

    /// At least one digit.
    fn digits(&mut self) -> Result<(), BodyError> {
        let digits = self
            .rest()
            .iter()
            .take_while(|byte| byte.is_ascii_digit())
            .count();
        if digits == 0 {
            return Err(self.syntax("a digit is missing"));
        }
        self.at += digits;
        Ok(())
    }

    /// A string in quotes, without its escapes.
    fn string(&mut self) -> Result<String, BodyError> {
        self.at += 1;
        let mut string = String::new();
        loop {
            let is_plain = |byte: &u8| !matches!(byte, b'"' | b'\\' | 0..=0x1F);
            let rest = self.rest();
            let plain = rest.iter().position(|byte| !is_plain(byte)).unwrap_or(rest.len());
            string.push_str(&self.text[self.at..self.at + plain]);
            self.at += plain;
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(string);
                }
                Some(b'\\') => string.push(self.escaped()?),
                Some(_) => return Err(self.syntax("a control character in quotes")),
                None => return Err(self.syntax("a closing quote is missing")),
            }
        }
    }

    /// The character that an escape stands for.
    fn escaped(&mut self) -> Result<char, BodyError> {
        let start = self.at;
        let letter = self.rest().get(1).copied();
        self.at += 1;
        let character = match letter {
            Some(letter @ (b'"' | b'\\' | b'/')) => char::from(letter),
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => return self.escaped_code(start),
            _ => return Err(self.syntax("an unknown escape")),
        };
        self.at += 1;
        Ok(character)
    }

    /// The character of `\u` and four digits, or of two such escapes that are a pair of surrogates.
    fn escaped_code(&mut self, start: usize) -> Result<char, BodyError> {
        self.at += 1;
        let first = self.code_unit()?;
        let second = if matches!(first, 0xD800..=0xDBFF) && self.rest().starts_with(b"\\u") {
            self.at += 2;
            Some(self.code_unit()?)
        } else {
            None
        };
        let mut decoded = char::decode_utf16([first].into_iter().chain(second));
        // Of two, the second is part of the first, or half a character itself.
        match (decoded.next(), decoded.next()) {
            (Some(Ok(character)), None) => Ok(character),
            _ => Err(BodyError::Surrogate(self.place(start))),
        }
    }

    fn code_unit(&mut self) -> Result<u16, BodyError> {
        let mut unit = 0;
        for _ in 0..4 {
            let digit = self.peek().and_then(|byte| char::from(byte).to_digit(16));
            let Some(digit) = digit.and_then(|digit| u16::try_from(digit).ok()) else {
                return Err(self.syntax("a hexadecimal digit is missing"));
            };
            unit = unit << 4 | digit;
            self.at += 1;
        }
        Ok(unit)
    }

    fn skip_space(&mut self) {
        let is_space = |byte: &&u8| matches!(byte, b' ' | b'\t' | b'\r' | b'\n');
        self.at += self.rest().iter().take_while(is_space).count();
    }

    fn rest(&self) -> &'a [u8] {
        &self.text.as_bytes()[self.at..]
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn took(&mut self, byte: u8) -> bool {
        let is = self.peek() == Some(byte);
        self.at += usize::from(is);
        is
    }

    fn place(&self, offset: usize) -> Place {
        Place::of(self.text.as_bytes(), offset)
    }

    fn syntax(&self, what: &'static str) -> BodyError {
        BodyError::Syntax {
            format: "JSON",
            what,
            at: self.place(self.at),
        }
    }
}

#[cfg(test)]
#[path = "json_tests.rs"]
mod tests;

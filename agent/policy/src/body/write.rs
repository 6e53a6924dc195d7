//! What goes upstream in place of the body that a client sent.
//!
//! In: a value that was judged. Out: JSON, which is the same value to a reader of YAML 1.1.

use std::io::{self, Write};

use serde::Serialize as _;
use serde_json::Value;
use serde_json::ser::{CompactFormatter, Formatter, Serializer};

/// Picket's own serialisation of what it judged; always JSON, with the keys of each object in order.
///
/// It reads as the same value where the API server takes YAML, which it does for `application/apply-patch+yaml`. For that the
/// characters that YAML takes for line breaks, or does not take, are escaped.
#[must_use]
pub fn write(value: &Value) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(1024);
    let mut serializer = Serializer::with_formatter(&mut bytes, Escaping);
    // A `Value` has text as its keys alone, and memory takes every byte: there is nothing that could fail.
    match value.serialize(&mut serializer) {
        Ok(()) => bytes,
        // Half an object must not be taken for one.
        Err(_) => Vec::new(),
    }
}

/// JSON without spaces, and with more escapes than JSON asks for.
struct Escaping;

impl Formatter for Escaping {
    fn write_string_fragment<W: ?Sized + Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        let mut rest = fragment;
        while let Some((at, character)) = rest.char_indices().find(|(_, character)| breaks_yaml(*character)) {
            CompactFormatter.write_string_fragment(writer, &rest[..at])?;
            write!(writer, "\\u{:04x}", u32::from(character))?;
            rest = &rest[at + character.len_utf8()..];
        }
        CompactFormatter.write_string_fragment(writer, rest)
    }
}

/// Whether a character inside of quotes is a line break to YAML 1.1, or none that it takes (go.yaml.in/yaml/v2, readerc.go,
/// `yaml_parser_update_buffer`, and yamlprivateh.go, `is_break`). All of them are within Unicode's first plane.
fn breaks_yaml(character: char) -> bool {
    matches!(
        character,
        '\u{7f}'..='\u{9f}' | '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}'
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn keys_are_in_order_and_nothing_is_between() {
        let value = json!({"b": [1, 1.5, null, true], "a": {"é": "\n\"\\"}});
        let written = String::from_utf8(write(&value)).expect("text");
        assert_eq!(written, r#"{"a":{"é":"\n\"\\"},"b":[1,1.5,null,true]}"#);
    }

    #[test]
    fn what_yaml_takes_for_a_line_break_is_escaped() {
        let value = json!({"a\u{2028}b": "\u{7f}\u{85}x\u{feff}\u{ffff}\u{1f600}"});
        let written = String::from_utf8(write(&value)).expect("text");
        assert_eq!(
            written,
            "{\"a\\u2028b\":\"\\u007f\\u0085x\\ufeff\\uffff\u{1f600}\"}"
        );
        assert_eq!(serde_json::from_str::<Value>(&written).ok(), Some(value));
    }
}

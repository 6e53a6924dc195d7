//! Characters that a reader does not see, or that change how others are shown, and how they are written instead.
//!
//! In: text that an agent chose, or a stored line. Out: the same with such characters escaped. So no text can hide a part of
//! itself, turn the direction of writing, begin a line or move the cursor.

use std::borrow::Cow;
use std::fmt::Write as _;

/// Ranges of characters that Unicode lets programs not show (DerivedCoreProperties.txt, Default_Ignorable_Code_Point), with the
/// line and paragraph separators, the controls of bidirectional text, annotations, and blanks that are no plain space.
const INVISIBLE: [(u32, u32); 26] = [
    (0x00a0, 0x00a0),
    (0x00ad, 0x00ad),
    (0x034f, 0x034f),
    (0x061c, 0x061c),
    (0x115f, 0x1160),
    (0x1680, 0x1680),
    (0x17b4, 0x17b5),
    (0x180b, 0x180f),
    (0x2000, 0x200f),
    (0x2028, 0x202f),
    (0x205f, 0x206f),
    (0x2800, 0x2800),
    (0x3000, 0x3000),
    (0x3164, 0x3164),
    (0xe000, 0xf8ff),
    (0xfe00, 0xfe0f),
    (0xfeff, 0xfeff),
    (0xffa0, 0xffa0),
    (0xfff0, 0xfffb),
    (0x1bca0, 0x1bca3),
    (0x1d173, 0x1d17a),
    (0xe0000, 0xe0fff),
    (0xf0000, 0xffffd),
    (0x10_0000, 0x10_fffd),
    (0xfffe, 0xffff),
    (0x10_fffe, 0x10_ffff),
];

/// Whether a character cannot be seen, or acts on others.
#[must_use]
pub(crate) fn is_invisible(c: char) -> bool {
    c.is_control()
        || (!c.is_ascii()
            && INVISIBLE
                .iter()
                .any(|(first, last)| (*first..=*last).contains(&u32::from(c))))
}

/// The text with such characters written as escapes: `\n`, `\t`, `\r`, `\u{202e}`.
pub(crate) fn escape(text: &str) -> Cow<'_, str> {
    if !text.contains(is_invisible) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '\n' | '\t' | '\r' => out.extend(c.escape_default()),
            c if is_invisible(c) => out.extend(c.escape_unicode()),
            c => out.push(c),
        }
    }
    Cow::Owned(out)
}

/// Writes such characters of a JSON text from `start` on as the escapes of JSON, which mean the same.
pub(crate) fn escape_json(out: &mut Vec<u8>, start: usize) {
    if out[start..].is_ascii() {
        return;
    }
    let Ok(text) = std::str::from_utf8(&out[start..]) else {
        return;
    };
    let mut escaped = String::with_capacity(text.len() + 64);
    let mut units = [0; 2];
    for c in text.chars() {
        if c.is_ascii() || !is_invisible(c) {
            escaped.push(c);
            continue;
        }
        for unit in c.encode_utf16(&mut units) {
            let _infallible = write!(escaped, "\\u{unit:04x}");
        }
    }
    out.truncate(start);
    out.extend_from_slice(escaped.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Line separator, right-to-left override, isolate, soft hyphen, tag, zero width, variation selector, filler, controls.
    const HIDDEN: &str =
        "\u{2028}\u{2029}\u{202e}\u{2066}\u{ad}\u{e0041}\u{200b}\u{fe0f}\u{3164}\u{9b}\u{1b}\u{feff}";

    #[test]
    fn what_cannot_be_seen_is_escaped_and_the_rest_stays() {
        assert_eq!(
            escape(HIDDEN),
            "\\u{2028}\\u{2029}\\u{202e}\\u{2066}\\u{ad}\\u{e0041}\\u{200b}\\u{fe0f}\\u{3164}\\u{9b}\\u{1b}\\u{feff}"
        );
        assert_eq!(escape("a\nb\tc\r"), "a\\nb\\tc\\r");
        for plain in ["", "kubectl get pods -A", "Grüße, 世界 — «ok»", "👍"] {
            assert!(matches!(escape(plain), Cow::Borrowed(_)), "{plain}");
        }
    }

    #[test]
    fn json_says_the_same_in_characters_that_can_be_seen() {
        let text = format!("ü{HIDDEN}x");
        let mut line = b"before ".to_vec();
        serde_json::to_writer(&mut line, &text).expect("JSON");
        escape_json(&mut line, 7);
        let written = std::str::from_utf8(&line[7..]).expect("text");
        assert!(!written.contains(is_invisible), "{written}");
        assert!(written.starts_with("\"ü\\u2028"), "{written}");
        assert_eq!(serde_json::from_str::<String>(written).expect("JSON"), text);
    }
}

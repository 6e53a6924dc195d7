//! JSON: what is taken, what is refused and where, and that what is written is what was read.

use serde_json::json;

use super::super::{has_too_many_values, write};
use super::*;

fn code(bytes: &[u8]) -> &'static str {
    match read(bytes) {
        Ok(_) => "taken",
        Err(error) => error.code(),
    }
}

fn at(line: usize, column: usize) -> Place {
    Place { line, column }
}

#[test]
fn every_kind_of_value_is_read() {
    let text =
        " {\"a\": [1, -2.5, true, false, null, \"x\"],\r\n\t\"\": {}, \"é\\u00e9\\n\\/\": [[], {}]} \n";
    let value = json!({"a": [1, -2.5, true, false, null, "x"], "": {}, "éé\n/": [[], {}]});
    assert_eq!(read(text.as_bytes()), Ok(value));
    for (text, value) in [
        (r#""\ud83d\uDE00\b\f\r\t\"\\""#, json!("😀\u{8}\u{c}\r\t\"\\")),
        (r#""\u0000\uffff""#, json!("\0\u{ffff}")),
        ("7", json!(7)),
        ("-0", json!(0)),
        ("null", json!(null)),
    ] {
        assert_eq!(read(text.as_bytes()), Ok(value), "{text}");
    }
}

#[test]
fn a_key_that_stands_twice_is_refused_at_any_depth_and_in_any_spelling() {
    for text in [
        r#"{"a": 1, "a": 1}"#,
        r#"{"a": 1, "\u0061": 2}"#,
        r#"{"\u00e9": 1, "é": 2}"#,
        r#"{"/": 1, "\/": 2}"#,
        r#"{"x": [{"y": {"a": {}, "b": {}, "a": {}}}]}"#,
        r#"[{"": 1, "": 2}]"#,
        r#"{"\ud83d\ude00": 1, "😀": 2}"#,
    ] {
        assert_eq!(code(text.as_bytes()), "duplicate_key", "{text}");
    }
    let key = "a".to_owned();
    let place = at(2, 5);
    assert_eq!(
        read("{\"a\": 1,\n\"\u{e9}\":1,\"\\u0061\": 2}".as_bytes()),
        Err(BodyError::DuplicateKey { key, at: at(2, 7) })
    );
    let error = BodyError::duplicate_key(&"k".repeat(1000), place);
    assert!(error.to_string().len() < 200, "{error}");
    // The same key of two objects, and keys that differ in case, as data of a ConfigMap do.
    assert_eq!(code(br#"{"a": {"b": 1}, "b": {"a": 1}, "A": 1}"#), "taken");
}

#[test]
fn another_spelling_of_the_kind_is_refused_at_the_top_alone() {
    for key in [
        "Kind",
        "KIND",
        "\u{212a}ind",
        "apiversion",
        "APIVersion",
        "apiVer\u{17f}ion",
    ] {
        let text = format!(r#"{{"kind": "Pod", "{key}": "Secret"}}"#);
        let error = read(text.as_bytes()).expect_err(key);
        assert_eq!(error.code(), "folded_key", "{key}");
        let text = format!(r#"{{"kind": "Pod", "data": {{"{key}": "x"}}, "kinds": 1}}"#);
        assert_eq!(code(text.as_bytes()), "taken", "{key}");
    }
}

#[test]
fn what_two_readers_decode_differently_is_refused() {
    for text in [
        r#""\ud800""#,
        r#""\udc00""#,
        r#""\ud800\ud800""#,
        r#""\ud800x""#,
        r#""\ud800\u0041""#,
        r#""\udc00\ud800""#,
    ] {
        assert_eq!(code(text.as_bytes()), "surrogate", "{text}");
    }
    assert_eq!(read(b"[\n\"a\xff\"]"), Err(BodyError::NotUtf8(at(2, 3))));
    // A surrogate in UTF-8, and a slash in more bytes than it needs.
    assert_eq!(code(b"\"\xed\xa0\x80\""), "not_utf8");
    assert_eq!(code(b"\"\xc0\xaf\""), "not_utf8");
    assert_eq!(code(b"\xEF\xBB\xBF{}"), "syntax");
    assert_eq!(code(b"{\"n\": 9223372036854775808}"), "number");
    assert_eq!(code(b"{\"n\": 0.1000000000000000055}"), "number");
}

#[test]
fn what_is_no_json_is_refused_with_its_place() {
    for text in [
        "",
        " ",
        "{",
        "[",
        "\"",
        "{]",
        "[}",
        "{}x",
        "{}{}",
        "1 2",
        "nul",
        "True",
        "NaN",
        "Infinity",
        "-",
        "01",
        "+1",
        ".5",
        "1.",
        "1e",
        "1e+",
        "0x1",
        "[1,]",
        "[,1]",
        "{\"a\":1,}",
        "{\"a\" 1}",
        "{\"a\":}",
        "{a:1}",
        "{1:1}",
        "{'a':1}",
        "'a'",
        "\"\n\"",
        "\"\t\"",
        "\"\0\"",
        "\"\\x\"",
        "\"\\u12\"",
        "\"\\u12g4\"",
        "\"\\",
        "// x\n1",
        "/* */1",
        "\u{a0}1",
        "\u{b}1",
        "a: 1",
        "--- {}",
    ] {
        assert_eq!(code(text.as_bytes()), "syntax", "{text:?}");
    }
    let error = read("{\n  \"é\": [1 2]}".as_bytes()).expect_err("no comma");
    assert_eq!(
        error.to_string(),
        "the request body is not valid JSON at line 2, column 11: a comma or a closing bracket is missing"
    );
}

#[test]
fn depth_and_count_of_values_have_limits() {
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    assert_eq!(code(nested(MAX_DEPTH).as_bytes()), "taken");
    assert_eq!(code(nested(MAX_DEPTH + 1).as_bytes()), "depth");
    assert_eq!(code("[".repeat(1_000_000).as_bytes()), "depth");
    // Lists that were closed do not count.
    assert_eq!(
        code(format!("[{}[]]", "[],".repeat(2 * MAX_DEPTH)).as_bytes()),
        "taken"
    );
    let many = |values: usize| format!("[{}0]", "0,".repeat(values - 2));
    assert_eq!(code(many(MAX_VALUES).as_bytes()), "taken");
    assert_eq!(code(many(MAX_VALUES + 1).as_bytes()), "values");
}

/// Choices that look random and are the same in each run (SplitMix64).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        usize::try_from((mixed ^ (mixed >> 31)) % limit as u64).unwrap_or_default()
    }

    /// A text of tokens that mostly is JSON, or nearly.
    fn text(&mut self, depth: usize, text: &mut String) {
        const ATOMS: [&str; 24] = [
            "0",
            "-0",
            "1",
            "-12",
            "1.50",
            "1e2",
            "9223372036854775807",
            "9223372036854775808",
            "0.30000000000000004",
            "true",
            "false",
            "null",
            "\"\"",
            "\"a\"",
            "\"\\u0061\"",
            "\"\\ud83d\\ude00\"",
            "\"\\ud83d\"",
            "\"\u{2028}\"",
            "\"\\n\\u0000\"",
            "\"kind\"",
            "\"<<\"",
            "nul",
            "01",
            "\"\u{7f}é\"",
        ];
        let spaces = ["", "", "", " ", "\n", "\t\r\n"];
        text.push_str(spaces[self.below(spaces.len())]);
        match self.below(if depth == 0 { 2 } else { 6 }) {
            0..=1 => text.push_str(ATOMS[self.below(ATOMS.len())]),
            2..=3 => {
                text.push('[');
                for item in 0..self.below(4) {
                    text.push_str(if item > 0 { "," } else { "" });
                    self.text(depth - 1, text);
                }
                text.push(']');
            }
            _ => {
                text.push('{');
                for item in 0..self.below(4) {
                    text.push_str(if item > 0 { "," } else { "" });
                    let keys = [
                        "\"a\"",
                        "\"b\"",
                        "\"\\u0061\"",
                        "\"c\\n\"",
                        "\"é\"",
                        "\"d\"",
                        "\"e\"",
                    ];
                    text.push_str(keys[self.below(keys.len())]);
                    text.push(':');
                    self.text(depth - 1, text);
                }
                text.push('}');
            }
        }
        text.push_str(spaces[self.below(spaces.len())]);
    }
}

#[test]
fn what_is_taken_is_what_another_reader_finds_and_what_is_written() {
    let mut random = Random(12);
    let mut taken = 0;
    for _ in 0..40_000 {
        let mut text = String::new();
        random.text(4, &mut text);
        if random.below(4) == 0 {
            // A byte less or another one.
            let at = random.below(text.len());
            if text.is_char_boundary(at) && text.is_char_boundary(at + 1) {
                let others = ["", "\"", ",", "}", "0", "\\", "-", "."];
                text.replace_range(at..=at, others[random.below(others.len())]);
            }
        }
        let other = serde_json::from_str::<Value>(&text);
        match read(text.as_bytes()) {
            Ok(value) => {
                taken += 1;
                let other = other.unwrap_or_else(|error| panic!("{text}: {error}"));
                // A negative zero is a float there.
                assert_eq!(
                    value.to_string(),
                    other.to_string().replace("-0.0", "0"),
                    "{text}"
                );
                let written = write(&value);
                assert_eq!(read(&written).as_ref(), Ok(&value), "{text}");
                assert_eq!(write(&value), written);
            }
            // What the other reader takes is refused for these reasons alone.
            Err(error) if other.is_ok() => {
                let by = error.code();
                assert!(["duplicate_key", "number"].contains(&by), "{text}: {error}");
            }
            Err(_) => {}
        }
    }
    assert!(taken > 10_000, "{taken}");
}

#[test]
fn answers_are_counted_without_what_is_in_texts() {
    let many = |item: &str, count: usize| format!("[{}]", vec![item; count].join(","));
    assert!(!has_too_many_values(many("0", MAX_VALUES - 2).as_bytes()));
    assert!(has_too_many_values(many("0", MAX_VALUES + 1).as_bytes()));
    assert!(has_too_many_values(many("[]", MAX_VALUES / 2 + 1).as_bytes()));
    // A mapping takes the memory of six.
    assert!(!has_too_many_values(
        many(r#"{"a":0}"#, MAX_VALUES / 8).as_bytes()
    ));
    assert!(has_too_many_values(many(r#"{"a":0}"#, MAX_VALUES / 6).as_bytes()));
    let text = format!(r#"{{"data": "a\"{}\\"}}"#, ",{[".repeat(MAX_VALUES));
    assert!(!has_too_many_values(text.as_bytes()));
}

//! YAML: what is taken, and that what two readers take differently is refused with its place.

use serde_json::json;

use super::*;

fn code(text: &str) -> &'static str {
    match read(text.as_bytes()) {
        Ok(_) => "taken",
        Err(error) => error.code(),
    }
}

#[test]
fn an_object_is_read() {
    let text = "---\n# a pod\napiVersion: v1\nkind: Pod\nmetadata: {name: \"a\", 'labels': {on-call: \"yes\"}}\nspec:\n  \
                hostNetwork: true\n  priority: -1\n  x: 1.50\n  y1: 1e3\n  z: ~\n  containers:\n  - command: [sh, -c, |\n      \
                a\n      b\n    ]\n";
    assert_eq!(code(text), "yaml_syntax", "a block in a flow");
    let text = "---\n# a pod\napiVersion: v1\nkind: Pod\nmetadata: {name: \"a\", 'labels': {on-call: \"yes\"}}\nspec:\n  \
                hostNetwork: true\n  priority: -1\n  x: 1.50\n  y1: 1e3\n  z: ~\n  containers:\n  - args: |-\n      a\n      b\n  \
                - args: >\n      a\n      b\n...\n";
    let containers = json!([{"args": "a\nb"}, {"args": "a b\n"}]);
    let spec = json!({"hostNetwork": true, "priority": -1, "x": 1.5, "y1": 1000, "z": null, "containers": containers});
    let metadata = json!({"name": "a", "labels": {"on-call": "yes"}});
    let value = json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec});
    assert_eq!(read(text.as_bytes()), Ok(value));
}

#[test]
fn json_is_yaml_too() {
    let text = r#"{"a": [1, -2.5, true, null, "\u00e9\n\/😀\ud83d\ude00"], "<<": {"yes": "no"}}"#;
    let value = json!({"a": [1, -2.5, true, null, "é\n/😀😀"], "<<": {"yes": "no"}});
    assert_eq!(read(text.as_bytes()), Ok(value));
}

#[test]
fn json_is_read_as_the_parser_of_yaml_reads_it() {
    for text in [
        r#"{"a": [{"b": 1.0}], "c": 2.50, "d": 1e3, "e": -0.0, "f": -9223372036854775808, "g": 1e300}"#,
        r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"x","labels":{"a":"no","b":"0777"}},"spec":{}}"#,
        "{\n\t\"a\" : {\"b\": []},\r\n  \"c\": [null, true, false, \"\\t\\u00e9\"]\n}\n",
        "{}",
    ] {
        assert!(json::read(text.as_bytes()).is_ok(), "{text}");
        assert_eq!(read(text.as_bytes()), read_events(text), "{text}");
        assert!(read_events(text).is_ok(), "{text}");
    }
    // What only one of both readers takes.
    assert_eq!(read(b"{a: 'b'}"), Ok(json!({"a": "b"})));
    assert_eq!(read(b"{}\n...\n"), Ok(json!({})));
    // It goes on as JSON with these escaped, so that no reader takes them for the end of a line.
    let signs = "{\"a\": \"\u{feff}b\u{85}c\"}";
    assert_eq!(read(signs.as_bytes()), Ok(json!({"a": "\u{feff}b\u{85}c"})));
    assert_eq!(code("a: \"\u{feff}b\"\n"), "yaml");
    assert_eq!(code("\u{feff}{}"), "yaml");
    let long = format!("{{\"{}\": 1}}", "k".repeat(2000));
    assert!(read(long.as_bytes()).is_ok());
}

#[test]
fn what_only_looks_like_it_is_taken() {
    for text in [
        "?a: x\n",
        "key:: x\n",
        "a: ?b\n",
        "a: {b: '?c', 'd:': \"e:\", f: ~, g: null, h?: i?, j: k:l}\n",
        "a:\nb: {c: 1}\nd:\n",
        "a: |\n  x\n",
        "a: |\n  x\nb: 1",
        "a: {b: c}\nd:\n- e: |-\n    x\n  f: g",
        "a: 'x'",
    ] {
        assert_eq!(code(text), "taken", "{text}");
    }
}

#[test]
fn what_two_readers_take_differently_is_refused() {
    for (text, why) in [
        ("a: no\n", "bare_word"),
        ("on: push\n", "bare_word"),
        ("mode: 0777\n", "bare_word"),
        ("a: 1_000\n", "bare_word"),
        ("a: 0x1F\n", "bare_word"),
        ("a: .inf\n", "bare_word"),
        ("a: 9223372036854775808\n", "bare_word"),
        ("a: {<<: {b: 1}}\n", "bare_word"),
        ("8080: a\n", "yaml"),
        ("{?a: x}\n", "yaml"),
        ("a: [?b]\n", "yaml"),
        ("{key::}\n", "yaml"),
        ("{key:: x}\n", "yaml"),
        ("a: [b:]\n", "yaml"),
        ("{a:}\n", "yaml"),
        ("{a:, b: 1}\n", "yaml"),
        ("a: [b::]\n", "yaml"),
        ("a: |\n  x", "yaml"),
        ("a: [1]\nb: >\n  x", "yaml"),
        ("|\n  x\n", "yaml"),
        ("true: a\n", "yaml"),
        ("~: a\n", "yaml"),
        (": a\n", "yaml"),
        ("? [a]\n: b\n", "yaml"),
        ("? {a: b}\n: c\n", "yaml"),
        ("a: !!str 5\n", "yaml"),
        ("a: ! 5\n", "yaml"),
        ("a: !!binary aGk=\n", "yaml"),
        ("a: !x {b: 1}\n", "yaml"),
        ("a: !!seq [1]\n", "yaml"),
        ("a: &x 1\nb: *x\n", "yaml"),
        ("a: &x [1]\n", "yaml"),
        ("a: &x {b: 1}\n", "yaml"),
        ("a: *x\n", "yaml_syntax"),
        ("a: 1\n---\nb: 2\n", "yaml"),
        ("a: 1\n---\n", "yaml"),
        ("%YAML 1.1\n---\na: 1\n", "yaml_syntax"),
        ("a: 1\na: 2\n", "duplicate_key"),
        ("a: 1\n\"\\x61\": 2\n", "duplicate_key"),
        ("x: [{a: 1, 'a': 2}]\n", "duplicate_key"),
        ("# x\u{2028}kind: Secret\nkind: Pod\n", "yaml"),
        ("a: \u{85}b\n", "yaml"),
        ("\u{feff}a: b\n", "yaml"),
        ("a: [1\n", "yaml_syntax"),
        ("a: \"\\ud800\"\n", "yaml_syntax"),
        ("KIND: Pod\n", "folded_key"),
        ("", "empty"),
        ("# nothing\n", "empty"),
    ] {
        assert_eq!(code(text), why, "{text:?}");
    }
    assert_eq!(read(b"a: \xff\n").map_err(|error| error.code()), Err("not_utf8"));
}

#[test]
fn a_refusal_names_place_and_remedy() {
    let error = read(b"spec:\n  hostNetwork: no\n").expect_err("disputed");
    let told = "the request body has the bare word `no` at line 2, column 16, which YAML readers take differently; write it in \
                quotes if it is text, else as true, false or a decimal number";
    assert_eq!(error.to_string(), told);
    let error = read(b"a:\n- b: &x 1\n").expect_err("an anchor");
    assert!(error.to_string().contains("line 2, column"), "{error}");
}

#[test]
fn depth_and_count_of_values_have_limits() {
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    assert_eq!(code(&nested(MAX_DEPTH)), "taken");
    assert_eq!(code(&nested(MAX_DEPTH + 1)), "depth");
    assert!(["depth", "yaml_syntax"].contains(&code(&"[".repeat(100_000))));
    assert!(["depth", "yaml_syntax"].contains(&code(&"- ".repeat(100_000))));
    let many = |values: usize| format!("[{}0]", "0,".repeat(values - 2));
    assert_eq!(code(&many(MAX_VALUES + 1)), "values");
}

#[test]
fn whole_numbers_are_integers() {
    for (text, value) in [
        ("a: 1.0\n", json!(1)),
        ("a: -0.0\n", json!(0)),
        ("a: 1e18\n", json!(1_000_000_000_000_000_000_i64)),
        ("a: 1e19\n", json!(1e19)),
        ("a: -9.3e18\n", json!(-9.3e18)),
        ("a: 1.25\n", json!(1.25)),
    ] {
        assert_eq!(read(text.as_bytes()), Ok(json!({"a": value})), "{text}");
    }
}

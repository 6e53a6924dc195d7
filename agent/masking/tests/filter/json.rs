//! Lists in JSON.

use picket_masking::media::Encoding;
use picket_masking::{Filter, FilterError, ITEM_LIMIT, ItemHead};
use serde_json::Value;

use crate::common::{MARKER, Random, Sample, contains_marker, run};

fn list() -> Filter {
    Filter::list(Encoding::Json)
}

/// Space as `pretty=1` writes it, or none.
pub(crate) fn space(random: &mut Random) -> &'static str {
    random.pick(&["", "", "", " ", "\n  ", "\r\n\t"])
}

/// A string whose characters are escaped at times.
pub(crate) fn text(random: &mut Random, plain: &str) -> String {
    let mut out = String::from("\"");
    for character in plain.chars() {
        match character {
            '"' | '\\' => out.extend(['\\', character]),
            _ if random.one_in(20) => out.push_str(&format!("\\u{:04X}", character as u32)),
            _ => out.push(character),
        }
    }
    out.push('"');
    out
}

/// `{...}` of members that are JSON already, in any order.
pub(crate) fn object(random: &mut Random, mut members: Vec<(String, String)>) -> String {
    random.shuffle(&mut members);
    let members: Vec<String> = members
        .into_iter()
        .map(|(key, value)| {
            let spaces = [space(random), space(random), space(random), space(random)];
            let key = text(random, &key);
            format!(
                "{}{key}{}:{}{value}{}",
                spaces[0], spaces[1], spaces[2], spaces[3]
            )
        })
        .collect();
    format!("{{{}}}", members.join(","))
}

/// What looks like brackets, keys and escapes, and is none.
fn noise(random: &mut Random, depth: usize) -> String {
    let strings = [
        "}]",
        "{[",
        "\\",
        "\\\\",
        "\"",
        "\\\"",
        "é\u{1f600}",
        "\"metadata\":{\"name\":\"x-1\"}",
        "",
        "plain text",
    ];
    match random.below(if depth == 0 { 3 } else { 5 }) {
        0 => random.pick(&["null", "true", "-1.5E+3", "0"]).to_string(),
        1 | 2 => {
            let plain: String = (0..random.below(5)).map(|_| random.pick(&strings)).collect();
            text(random, &plain)
        }
        3 => {
            let all: Vec<String> = (0..random.below(4)).map(|_| noise(random, depth - 1)).collect();
            format!("[{}]", all.join(","))
        }
        _ => {
            let keys = ["metadata", "name", "namespace", "items", "labels", "a\"b"];
            let members = (0..random.below(4))
                .map(|_| (random.pick(&keys).to_string(), noise(random, depth - 1)))
                .collect();
            object(random, members)
        }
    }
}

pub(crate) fn item(random: &mut Random, sample: &Sample) -> String {
    let mut metadata = vec![("name".to_owned(), text(random, &sample.name))];
    if !sample.namespace.is_empty() || random.one_in(2) {
        metadata.push(("namespace".to_owned(), text(random, sample.namespace)));
    }
    let labels = sample
        .labels
        .iter()
        .map(|(key, value)| (key.to_string(), text(random, value)))
        .collect();
    metadata.push(("labels".to_owned(), object(random, labels)));
    metadata.push(("annotations".to_owned(), noise(random, 2)));
    let marker = if sample.is_hidden() { MARKER } else { "-" };
    let mut members = vec![
        ("metadata".to_owned(), object(random, metadata)),
        ("spec".to_owned(), noise(random, 3)),
        ("status".to_owned(), format!("\"{marker}\"")),
    ];
    if random.one_in(2) {
        members.push(("kind".to_owned(), "\"Pod\"".to_owned()));
    }
    object(random, members)
}

fn array(random: &mut Random, items: &[String]) -> String {
    let mut out = String::from("[");
    for (at, item) in items.iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        out.push_str(space(random));
        out.push_str(item);
        out.push_str(space(random));
    }
    out.push_str(space(random));
    out.push(']');
    out
}

/// A body, and whether it counts what remains.
fn body(random: &mut Random, items: &[String]) -> (String, bool) {
    let mut metadata = vec![
        ("resourceVersion".to_owned(), "\"12\"".to_owned()),
        ("continue".to_owned(), "\"eyJ2\"".to_owned()),
    ];
    let counts = random.one_in(2);
    if counts {
        metadata.push(("remainingItemCount".to_owned(), "17".to_owned()));
    }
    let members = vec![
        ("kind".to_owned(), "\"PodList\"".to_owned()),
        ("apiVersion".to_owned(), "\"v1\"".to_owned()),
        ("metadata".to_owned(), object(random, metadata)),
        ("items".to_owned(), array(random, items)),
    ];
    (format!("{}{}\n", space(random), object(random, members)), counts)
}

#[test]
fn what_is_shown_is_what_serde_json_would_leave() {
    for seed in 0..3000 {
        let random = &mut Random::new(seed);
        let samples: Vec<Sample> = (0..random.below(6)).map(|_| Sample::new(random)).collect();
        let items: Vec<String> = samples.iter().map(|sample| item(random, sample)).collect();
        let (body, counts_rest) = body(random, &items);
        let mut expected: Value = serde_json::from_str(&body).expect("the generator writes JSON");
        let hidden = samples.iter().filter(|sample| sample.is_hidden()).count();
        let mut shown = samples.iter().map(|sample| !sample.is_hidden());
        let all = expected["items"].as_array_mut().expect("items");
        all.retain(|_| shown.next() == Some(true));
        if let Some(metadata) = expected["metadata"].as_object_mut() {
            metadata.remove("remainingItemCount");
        }
        let (out, counts) = run(list(), body.as_bytes(), random);
        let counts = counts.unwrap_or_else(|error| panic!("seed {seed}: {error}: {body}"));
        assert_eq!(
            (counts.judged, counts.hidden),
            (samples.len() as u64, hidden as u64)
        );
        assert!(!contains_marker(&out), "seed {seed}");
        let read: Value = serde_json::from_slice(&out).expect("what is left is JSON");
        assert_eq!(read, expected, "seed {seed}");
        if hidden == 0 && !counts_rest {
            assert_eq!(String::from_utf8_lossy(&out), body, "seed {seed}");
        }
    }
}

#[test]
fn a_body_that_is_damaged_shows_no_hidden_item_that_a_reader_finds() {
    for seed in 0..6000 {
        let random = &mut Random::new(seed);
        let samples: Vec<Sample> = (0..3).map(|_| Sample::new(random)).collect();
        let items: Vec<String> = samples.iter().map(|sample| item(random, sample)).collect();
        let mut body = body(random, &items).0.into_bytes();
        let at = random.below(body.len());
        match random.below(3) {
            0 => body[at] = random.pick(b"\"\\{}[],: nx1"),
            1 => drop(body.remove(at)),
            _ => body.insert(at, random.pick(b"\"\\{}[],: nx1")),
        }
        let (out, counts) = run(list(), &body, random);
        let (Ok(_), Ok(read)) = (counts, serde_json::from_slice::<Value>(&body)) else {
            continue;
        };
        let written: Value = serde_json::from_slice(&out).expect("what is left of JSON is JSON");
        for item in written["items"].as_array().into_iter().flatten() {
            assert_ne!(item["metadata"]["namespace"], "hidden", "seed {seed}: {read}");
            assert_ne!(
                item["metadata"]["labels"]["tier"], "secret",
                "seed {seed}: {read}"
            );
        }
    }
}

/// One item in a list.
fn one(item: &str) -> String {
    format!("{{\"kind\":\"PodList\",\"items\":[{item}]}}")
}

#[test]
fn an_item_is_hidden_in_any_reading() {
    let hidden = [
        r#"{"metadata":{"name":"a","namespace":"dev","namespace":"hidden"}}"#,
        r#"{"metadata":{"name":"a","namespace":"hidden","namespace":"dev"}}"#,
        r#"{"metadata":{"name":"a","n\u0061mespace":"hid\u0064en"}}"#,
        r#"{"metadata":{"name":"a","namespace":"hidden"},"metadata":{"name":"a","namespace":"dev"}}"#,
        r#"{"metadata":{"name":"a","namespace":"dev"},"metadat\u0061":{"name":"b","namespace":"hidden"}}"#,
        r#"{"metadata":{"name":"web","name":"x-1"}}"#,
        r#"{"metadata":{"name":"web","labels":{"tier":"secret","tier":"open"}}}"#,
        r#"{"metadata":{"name":"web","labels":{"tier":"secret"},"labels":{}}}"#,
    ];
    for item in hidden {
        let random = &mut Random::new(1);
        let (out, counts) = run(list(), one(item).as_bytes(), random);
        assert_eq!(String::from_utf8_lossy(&out), one(""), "{item}");
        assert_eq!(counts.map(|counts| counts.hidden), Ok(1));
    }
    let shown = r#"{"metadata":{"name":"a","namespace":"dev"},"spec":{"namespace":"hidden"}}"#;
    let (out, _) = run(list(), one(shown).as_bytes(), &mut Random::new(1));
    assert_eq!(String::from_utf8_lossy(&out), one(shown));
}

#[test]
fn what_cannot_be_judged_ends_the_response() {
    let name = |count: usize| {
        let names: Vec<String> = (0..count).map(|at| format!("\"name\":\"n{at}\"")).collect();
        one(&format!("{{\"metadata\":{{{}}}}}", names.join(",")))
    };
    assert!(run(list(), name(16).as_bytes(), &mut Random::new(1)).1.is_ok());
    let bodies = [
        (one(r#"{"metadata":{"namespace":"dev"}}"#), "no_name"),
        (one(r#"{"metadata":null}"#), "no_name"),
        (one(r#"{}"#), "no_name"),
        (one(r#"{"metadata":{"name":5}}"#), "json"),
        (one(r#"{"metadata":{"name":"a""#), "json"),
        (one(r#"null"#), "json"),
        (one(r#""a""#), "json"),
        (
            one(r#"{"metadata":{"name":"a"}} {"metadata":{"name":"b"}}"#),
            "json",
        ),
        (name(17), "too_many_readings"),
        (r#"{"items":{}}"#.to_owned(), "not_a_list"),
        (r#"{"items":nul}"#.to_owned(), "not_a_list"),
        (r#"{"kind":"PodList","kinds":[]}"#.to_owned(), "not_a_list"),
        (r#"{"items":[],"status":"a"}"#.to_owned(), "not_a_list"),
        (r#"{"metadata":{"name":"a"},"items":[]}"#.to_owned(), "not_a_list"),
        (r#"{"items":[]}{"items":[]}"#.to_owned(), "json"),
        ("[]".to_owned(), "json"),
        ("k8s\0".to_owned(), "json"),
        (String::new(), "truncated"),
    ];
    for (body, code) in bodies {
        let (out, counts) = run(list(), body.as_bytes(), &mut Random::new(3));
        assert_eq!(counts.map_err(FilterError::code), Err(code), "{body}");
        assert!(!contains_marker(&out));
    }
}

#[test]
fn another_object_in_place_of_a_list_never_goes_out() {
    let bodies = [
        format!(r#"{{"kind":"Pod","metadata":{{"name":"a"}},"status":"{MARKER}"}}"#),
        format!(r#"{{"status":"{MARKER}","kind":"Pod"}}"#),
        format!(r#"{{"kind":"Status","kind":"Pod","status":"{MARKER}"}}"#),
        format!(r#"{{"kind":"Pod","kind":"Status","status":"{MARKER}"}}"#),
        format!(r#"{{"kind":"PodList","status":"{MARKER}"}}"#),
        format!(r#"{{"status":"{MARKER}","items":[]}}"#),
        format!(r#"{{"kind":"Secret","data":{{"a":"{MARKER}"}}}}"#),
    ];
    for body in bodies {
        for seed in 0..8 {
            let (out, counts) = run(list(), body.as_bytes(), &mut Random::new(seed));
            assert!(counts.is_err(), "{body}");
            assert!(out.is_empty(), "{body}");
        }
    }
}

#[test]
fn a_status_and_a_list_without_items_pass() {
    let bodies = [
        r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"m","reason":"Expired","details":{"a":[1]},"code":410}"#,
        r#"{"kind":"PodList","apiVersion":"v1","metadata":{"resourceVersion":"1"},"items":null}"#,
        r#"{"kind":"PodList","apiVersion":"v1","metadata":{"resourceVersion":"1","shardInfo":{"selector":"s"}},"items":[ ]}"#,
        r#"{"kind":"PodMetricsList","metadata":null}"#,
    ];
    for body in bodies {
        for seed in 0..8 {
            let (out, counts) = run(list(), body.as_bytes(), &mut Random::new(seed));
            assert!(counts.is_ok(), "{body}: {counts:?}");
            assert_eq!(String::from_utf8_lossy(&out), body);
        }
    }
}

#[test]
fn an_item_that_is_too_large_ends_the_response() {
    let item = |length: usize| {
        let head = r#"{"metadata":{"name":"a"},"data":""#;
        format!("{head}{}\"}}", "d".repeat(length - head.len() - 2))
    };
    for most in [usize::MAX, 64 * 1024] {
        for (length, expected) in [(ITEM_LIMIT, Ok(1)), (ITEM_LIMIT + 1, Err(FilterError::TooLarge))] {
            let body = one(&item(length));
            let (mut filter, mut out) = (list(), Vec::new());
            let mut pieces = body.as_bytes().chunks(most.min(body.len()));
            let pushed = pieces.try_for_each(|piece| filter.push(piece, &mut |_| false, &mut out));
            let counts = pushed.and_then(|()| filter.finish());
            assert_eq!(counts.map(|counts| counts.judged), expected);
            assert_eq!(out.len() > ITEM_LIMIT, expected.is_ok());
        }
    }
}

#[test]
fn a_body_that_ends_early_is_not_complete() {
    let random = &mut Random::new(5);
    let samples: Vec<Sample> = (0..3).map(|_| Sample::new(random)).collect();
    let items: Vec<String> = samples.iter().map(|sample| item(random, sample)).collect();
    let (body, _) = body(random, &items);
    for end in 0..body.trim_end().len() {
        let (out, counts) = run(list(), &body.as_bytes()[..end], random);
        assert_eq!(counts, Err(FilterError::Truncated), "at {end}");
        assert!(!contains_marker(&out));
    }
}

#[test]
fn the_room_of_a_large_item_is_given_back_behind_it() {
    let item = |length: usize| format!(r#"{{"metadata":{{"name":"a"}},"data":"{}"}}"#, "d".repeat(length));
    let large = item(200 * 1024);
    let list = format!(r#"{{"kind":"PodList","items":[{large},{}"#, item(1));
    let event = |object: &str| format!(r#"{{"type":"ADDED","object":{object}}}"#);
    let watch = event(&large) + &event(&item(1));
    for (mut filter, body) in [
        (Filter::list(Encoding::Json), list),
        (Filter::watch(Encoding::Json), watch),
    ] {
        let mut held = Vec::new();
        for piece in body.as_bytes().chunks(4096) {
            let mut out = Vec::new();
            filter.push(piece, &mut |_| false, &mut out).expect("well formed");
            held.push(filter.held());
        }
        assert!(held.iter().max() >= Some(&(200 * 1024)), "{held:?}");
        assert!(held.last() <= Some(&(16 * 1024)), "{held:?}");
        assert_eq!(filter.counts().judged, 2);
    }
}

#[test]
fn an_item_is_judged_by_each_kind_and_version_that_it_gives() {
    for item in [
        r#"{"kind":"Pod","kind":"Secret","apiVersion":"v1","metadata":{"name":"a"}}"#,
        r#"{"kind":"Secret","kind":"Pod","apiVersion":"v1","metadata":{"name":"a"}}"#,
        r#"{"kind":"Secret","apiVersion":"v2","apiVersion":"v1","metadata":{"name":"a"}}"#,
        r#"{"kind":"Secret","apiVersion":"v1","apiVersion":"v2","metadata":{"name":"a"}}"#,
    ] {
        let (mut filter, mut out) = (list(), Vec::new());
        let mut hides = |head: &ItemHead<'_>| (head.kind, head.api_version) == ("Secret", "v1");
        let pushed = filter.push(one(item).as_bytes(), &mut hides, &mut out);
        assert_eq!(pushed, Ok(()));
        assert_eq!(String::from_utf8_lossy(&out), one(""), "{item}");
    }
}

/// What no list has is noticed before all of it has come, so that it takes no memory.
#[test]
fn what_is_longer_than_in_any_list_ends_the_response_at_once() {
    let long = |text: &str, length: usize| text.repeat(length);
    for (start, code) in [
        (format!(r#"{{"items":[],"{}"#, long("k", 300)), "not_a_list"),
        (
            format!(r#"{{"items":[],"kind":"{}"#, long("K", 300)),
            "not_a_list",
        ),
        (format!(r#"{{"items":[],"apiVersion":{}"#, long("1", 300)), "json"),
        (format!(r#"{{"items":[{}"#, long(" ", 5000)), "json"),
        (
            format!(r#"{{"kind":"Table","columnDefinitions":["{}"#, long("c", 70_000)),
            "not_a_list",
        ),
        (
            format!(r#"{{"items":[],"metadata":{{"continue":"{}"#, long("c", 70_000)),
            "not_a_list",
        ),
    ] {
        for most in [1000, usize::MAX] {
            let (mut filter, mut out) = (list(), Vec::new());
            let mut pieces = start.as_bytes().chunks(most.min(start.len()));
            let pushed = pieces.try_for_each(|piece| filter.push(piece, &mut |_| false, &mut out));
            assert_eq!(pushed.map_err(FilterError::code), Err(code), "{:.60}", start);
        }
    }
}

#[test]
fn space_between_items_does_not_count_the_hidden_ones() {
    let hidden = r#"{"metadata":{"name":"x-1"}}"#;
    let shown = r#"{"metadata":{"name":"web"}}"#;
    let of = |items: &[&str]| {
        let body = one(&format!("\n {}\n", items.join(" ,\n\t")));
        let (out, counts) = run(list(), body.as_bytes(), &mut Random::new(1));
        assert!(counts.is_ok(), "{counts:?}");
        String::from_utf8(out).expect("JSON")
    };
    assert_eq!(
        of(&[shown, hidden, shown]),
        of(&[shown, hidden, hidden, hidden, shown])
    );
    assert_eq!(of(&[hidden, shown]), of(&[hidden, hidden, hidden, shown]));
    assert_eq!(of(&[hidden]), of(&[hidden, hidden, hidden]));
}

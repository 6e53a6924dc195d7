//! Watches in JSON, of objects and of Tables.

use picket_masking::media::Encoding;
use picket_masking::{Filter, FilterError, ITEM_LIMIT};
use serde_json::Value;

use crate::common::{MARKER, Random, Sample, contains_marker, run};
use crate::json::{item, object, text};
use crate::table::{COLUMNS, row, table};

fn watch() -> Filter {
    Filter::watch(Encoding::Json)
}

fn event(random: &mut Random, kind: &str, of: String) -> String {
    let members = vec![("type".to_owned(), text(random, kind)), ("object".to_owned(), of)];
    object(random, members)
}

const BOOKMARK: &str = r#"{"type":"BOOKMARK","object":{"kind":"Pod","apiVersion":"v1","metadata":{"resourceVersion":"9","annotations":{"k8s.io/initial-events-end":"true"}}}}"#;
const ERROR: &str = r#"{"type":"ERROR","object":{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","code":410}}"#;

#[test]
fn events_of_hidden_objects_go() {
    for seed in 0..2000 {
        let random = &mut Random::new(seed);
        let (mut body, mut expected) = (String::new(), String::new());
        let mut hidden = 0;
        for _ in 0..random.below(6) {
            let sample = Sample::new(random);
            let of = item(random, &sample);
            let kind = random.pick(&["ADDED", "MODIFIED", "DELETED"]);
            let (event, is_hidden) = match random.below(6) {
                0 => (BOOKMARK.to_owned(), false),
                1 => (ERROR.to_owned(), false),
                _ => (event(random, kind, of), sample.is_hidden()),
            };
            let event = format!("{event}{}", random.pick(&["\n", "", "\r\n"]));
            body.push_str(&event);
            hidden += u64::from(is_hidden);
            if !is_hidden {
                expected.push_str(&event);
            }
        }
        let (out, counts) = run(watch(), body.as_bytes(), random);
        assert_eq!(counts.map(|counts| counts.hidden), Ok(hidden), "{body}");
        assert!(!contains_marker(&out));
        assert_eq!(String::from_utf8_lossy(&out), expected, "seed {seed}");
    }
}

#[test]
fn a_table_event_loses_its_rows_and_keeps_the_columns() {
    for seed in 0..1000 {
        let random = &mut Random::new(seed);
        let samples: Vec<Sample> = (0..1 + random.below(2)).map(|_| Sample::new(random)).collect();
        let rows: Vec<String> = samples.iter().map(|sample| row(random, sample)).collect();
        let columns = random.pick(&[COLUMNS, "null", "[]"]);
        let of = table(random, columns, &rows);
        let body = event(random, "ADDED", of);
        let (out, counts) = run(watch(), body.as_bytes(), random);
        let hidden = samples.iter().filter(|sample| sample.is_hidden()).count();
        assert_eq!(counts.map(|counts| counts.hidden), Ok(hidden as u64));
        assert!(!contains_marker(&out));
        if hidden == 0 {
            assert_eq!(String::from_utf8_lossy(&out), body);
        } else if hidden == samples.len() && columns != COLUMNS {
            assert!(out.is_empty());
        } else {
            let event: Value = serde_json::from_slice(&out).expect("an event");
            let rows = event["object"]["rows"].as_array().expect("rows");
            assert_eq!(rows.len(), samples.len() - hidden);
            assert_eq!(event["object"]["columnDefinitions"].is_array(), columns != "null");
        }
    }
}

#[test]
fn a_bookmark_in_a_table_passes() {
    let rows = r#"[{"cells":["","<unknown>"],"object":{"kind":"PartialObjectMetadata","apiVersion":"meta.k8s.io/v1","metadata":{"resourceVersion":"5"}}}]"#;
    let table = format!(
        r#"{{"kind":"Table","apiVersion":"meta.k8s.io/v1","metadata":{{"resourceVersion":"5"}},"columnDefinitions":null,"rows":{rows}}}"#
    );
    let body = format!(r#"{{"type":"BOOKMARK","object":{table}}}"#);
    let (out, counts) = run(watch(), body.as_bytes(), &mut Random::new(1));
    assert!(counts.is_ok(), "{counts:?}");
    assert_eq!(String::from_utf8_lossy(&out), body);
    let added = body.replace("BOOKMARK", "ADDED");
    assert_eq!(
        run(watch(), added.as_bytes(), &mut Random::new(1)).1,
        Err(FilterError::NoName)
    );
}

#[test]
fn what_is_no_event_ends_the_watch() {
    let object = format!(r#"{{"kind":"Pod","metadata":{{"name":"a","namespace":"hidden"}},"s":"{MARKER}"}}"#);
    let shown = r#"{"kind":"Pod","metadata":{"name":"a"}}"#;
    let bodies = [
        (format!(r#"{{"type":"ERROR","object":{object}}}"#), "not_a_watch"),
        (format!(r#"{{"type":"OTHER","object":{object}}}"#), "not_a_watch"),
        (
            format!(r#"{{"type":"ADDED","object":{object},"more":1}}"#),
            "not_a_watch",
        ),
        (
            format!(r#"{{"type":"ERROR","object":{object},"type":"ADDED"}}"#),
            "not_a_watch",
        ),
        (
            format!(r#"{{"type":"ADDED","object":{object},"object":{shown}}}"#),
            "not_a_watch",
        ),
        (format!(r#"{{"object":{object}}}"#), "not_a_watch"),
        (format!(r#"{{"type":"ADDED","object":"{MARKER}"}}"#), "json"),
        (format!("[{object}]"), "json"),
        (object.clone(), "not_a_watch"),
        (
            format!(r#"{{"type":"ADDED","object":{{"metadata":{{}},"s":"{MARKER}"}}}}"#),
            "no_name",
        ),
        (format!(r#"{{"type":"ADDED","object":{shown}"#), "truncated"),
    ];
    for (body, code) in bodies {
        for seed in 0..6 {
            let (out, counts) = run(watch(), body.as_bytes(), &mut Random::new(seed));
            assert_eq!(counts.map_err(FilterError::code), Err(code), "{body}");
            assert!(out.is_empty(), "{body}");
        }
    }
    let body = format!(r#"{{"type":"BOOKMARK","object":{object}}}"#);
    let (out, counts) = run(watch(), body.as_bytes(), &mut Random::new(1));
    assert_eq!((out.len(), counts.map(|counts| counts.hidden)), (0, Ok(1)));
    let nameless = body.replace(r#""name":"a","#, "");
    let (out, counts) = run(watch(), nameless.as_bytes(), &mut Random::new(1));
    assert_eq!((out.len(), counts.map(|counts| counts.hidden)), (0, Ok(1)));
}

#[test]
fn what_says_once_that_it_is_a_table_and_once_that_it_is_none_ends_the_watch() {
    let rows = format!(r#""rows":[{{"object":{{"metadata":{{"name":"x-1"}}}},"cells":["{MARKER}"]}}]"#);
    for kinds in [
        r#""kind":"Table","kind":"Pod","apiVersion":"meta.k8s.io/v1""#,
        r#""kind":"Pod","kind":"Table","apiVersion":"meta.k8s.io/v1""#,
        r#""kind":"Table","apiVersion":"v1","apiVersion":"meta.k8s.io/v1""#,
    ] {
        let body = format!(r#"{{"type":"ADDED","object":{{{kinds},"metadata":{{"name":"web"}},{rows}}}}}"#);
        let (out, counts) = run(watch(), body.as_bytes(), &mut Random::new(1));
        assert_eq!(counts.map_err(FilterError::code), Err("not_a_watch"), "{kinds}");
        assert!(out.is_empty(), "{kinds}");
    }
}

#[test]
fn a_table_without_rows_passes() {
    let body = r#"{"type":"ADDED","object":{"kind":"Table","apiVersion":"meta.k8s.io/v1","columnDefinitions":null,"rows":[]}}"#;
    let (out, counts) = run(watch(), body.as_bytes(), &mut Random::new(1));
    assert!(counts.is_ok(), "{counts:?}");
    assert_eq!(String::from_utf8_lossy(&out), body);
}

#[test]
fn an_event_that_is_too_large_ends_the_watch() {
    let event = |length: usize| {
        let head = r#"{"type":"ADDED","object":{"metadata":{"name":"a"},"data":""#;
        format!("{head}{}\"}}}}", "d".repeat(length - head.len() - 3))
    };
    for (length, expected) in [(ITEM_LIMIT, Ok(1)), (ITEM_LIMIT + 1, Err(FilterError::TooLarge))] {
        let (mut filter, mut out) = (watch(), Vec::new());
        let body = event(length);
        let mut pieces = body.as_bytes().chunks(64 * 1024);
        let pushed = pieces.try_for_each(|piece| filter.push(piece, &mut |_| false, &mut out));
        let counts = pushed.and_then(|()| filter.finish());
        assert_eq!(counts.map(|counts| counts.judged), expected);
        assert_eq!(out.len() == length, expected.is_ok());
    }
}

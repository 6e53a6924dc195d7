//! Tables in JSON, as kubectl asks for them.

use picket_masking::media::Encoding;
use picket_masking::{Filter, FilterError};
use serde_json::Value;

use crate::common::{MARKER, Random, Sample, contains_marker, run};
use crate::json::{item, object, text};

pub(crate) const COLUMNS: &str = r#"[{"name":"Name","type":"string","description":"{["}]"#;

/// A row whose cells show what its object is.
pub(crate) fn row(random: &mut Random, sample: &Sample) -> String {
    let marker = if sample.is_hidden() { MARKER } else { "cell" };
    let members = vec![
        (
            "cells".to_owned(),
            format!("[{},\"{marker}\",5]", text(random, &sample.name)),
        ),
        ("conditions".to_owned(), "[]".to_owned()),
        ("object".to_owned(), item(random, sample)),
    ];
    object(random, members)
}

pub(crate) fn table(random: &mut Random, columns: &str, rows: &[String]) -> String {
    let members = vec![
        ("kind".to_owned(), "\"Table\"".to_owned()),
        ("apiVersion".to_owned(), "\"meta.k8s.io/v1\"".to_owned()),
        ("metadata".to_owned(), "{\"resourceVersion\":\"7\"}".to_owned()),
        ("columnDefinitions".to_owned(), columns.to_owned()),
        ("rows".to_owned(), format!("[{}]", rows.join(","))),
    ];
    object(random, members)
}

#[test]
fn hidden_rows_go_and_all_else_stays() {
    for seed in 0..1500 {
        let random = &mut Random::new(seed);
        let samples: Vec<Sample> = (0..random.below(5)).map(|_| Sample::new(random)).collect();
        let rows: Vec<String> = samples.iter().map(|sample| row(random, sample)).collect();
        let body = table(random, COLUMNS, &rows);
        let (out, counts) = run(Filter::list(Encoding::Json), body.as_bytes(), random);
        let hidden = samples.iter().filter(|sample| sample.is_hidden()).count();
        assert_eq!(counts.map(|counts| counts.hidden), Ok(hidden as u64), "{body}");
        assert!(!contains_marker(&out), "seed {seed}");
        let mut expected: Value = serde_json::from_str(&body).expect("a Table");
        let mut shown = samples.iter().map(|sample| !sample.is_hidden());
        let all = expected["rows"].as_array_mut().expect("rows");
        all.retain(|_| shown.next() == Some(true));
        assert_eq!(serde_json::from_slice::<Value>(&out).expect("a Table"), expected);
        if hidden == 0 {
            assert_eq!(String::from_utf8_lossy(&out), body);
        }
    }
}

#[test]
fn a_row_without_its_object_ends_the_response() {
    for row in [r#"{"cells":["a"]}"#, r#"{"cells":["a"],"object":null}"#] {
        let body = format!("{{\"kind\":\"Table\",\"rows\":[{row}]}}");
        let (out, counts) = run(Filter::list(Encoding::Json), body.as_bytes(), &mut Random::new(2));
        assert_eq!(counts, Err(FilterError::RowWithoutObject));
        assert!(!String::from_utf8_lossy(&out).contains("cells"));
    }
}

#[test]
fn a_row_with_two_objects_is_hidden_by_either() {
    for (first, second) in [("dev", "hidden"), ("hidden", "dev")] {
        let object = |namespace: &str| {
            format!("\"object\":{{\"metadata\":{{\"name\":\"a\",\"namespace\":\"{namespace}\"}}}}")
        };
        let body = format!(
            "{{\"kind\":\"Table\",\"rows\":[{{{},{}}}]}}",
            object(first),
            object(second)
        );
        let (out, counts) = run(Filter::list(Encoding::Json), body.as_bytes(), &mut Random::new(2));
        assert_eq!(String::from_utf8_lossy(&out), "{\"kind\":\"Table\",\"rows\":[]}");
        assert_eq!(counts.map(|counts| (counts.judged, counts.hidden)), Ok((1, 1)));
    }
}

//! Answers against what the real library writes for the same objects, and what writers of objects put into them.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::*;

/// A number as protobuf has it.
fn varint(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number > 0x7F {
        bytes.push(u8::try_from(number & 0x7F).expect("seven bits") | 0x80);
        number >>= 7;
    }
    bytes.push(u8::try_from(number).expect("seven bits"));
    bytes
}

/// A field of bytes.
fn bytes(number: usize, inner: impl AsRef<[u8]>) -> Vec<u8> {
    let inner = inner.as_ref();
    [varint(number << 3 | 2), varint(inner.len()), inner.to_vec()].concat()
}

/// A field of a number.
fn number(field: usize, value: usize) -> Vec<u8> {
    [varint(field << 3), varint(value)].concat()
}

fn envelope(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let meta = [bytes(1, api_version), bytes(2, kind)].concat();
    [
        MAGIC.to_vec(),
        bytes(1, meta),
        bytes(2, raw),
        bytes(3, ""),
        bytes(4, ""),
    ]
    .concat()
}

fn event(of: &str, object: &[u8]) -> Vec<u8> {
    [bytes(1, of), bytes(2, bytes(1, object))].concat()
}

fn parsed(text: &[u8]) -> Value {
    serde_json::from_slice(text).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(text)))
}

/// A list of Services with this metadata each.
fn services(metadata: &[Vec<u8>]) -> Vec<u8> {
    let items = metadata.iter().map(|metadata| bytes(2, bytes(1, metadata)));
    let list = [bytes(1, bytes(2, "7")), items.collect::<Vec<_>>().concat()].concat();
    envelope("v1", "ServiceList", &list)
}

/// The metadata of the Services that a list comes to.
fn metadata(list_of: &[Vec<u8>]) -> Value {
    let value = parsed(&list(&services(list_of)).expect("a list"));
    let items = value["items"].as_array().expect("items").iter();
    items.map(|item| item["metadata"].clone()).collect()
}

/// What differs between an object as the event of a watch and the JSON beside it.
fn difference(line: &str) -> Option<String> {
    let words: Vec<_> = line.split(' ').collect();
    let [api_version, kind, encoded, text] = *words.as_slice() else {
        panic!("four words: {line}")
    };
    let decode = |word: &str| STANDARD.decode(word).expect("base64");
    let value = match watch_event(&event("ADDED", &decode(encoded))) {
        Ok(value) => parsed(&value),
        Err(error) => return Some(format!("{api_version} {kind}: {error}")),
    };
    let mut expected = parsed(&decode(text));
    drop_managed_fields(&mut expected);
    let expected = json!({"type": "ADDED", "object": expected});
    if value == expected {
        return None;
    }
    let (value, expected) = (format!("{value:#}"), format!("{expected:#}"));
    let mut lines = value.lines().zip(expected.lines());
    let differing = lines.find(|(ours, theirs)| ours != theirs);
    Some(format!("{api_version} {kind}: {differing:?}"))
}

/// Those of the object and of the templates in it.
fn drop_managed_fields(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(drop_managed_fields),
        Value::Object(entries) => {
            entries.remove("managedFields");
            entries.values_mut().for_each(drop_managed_fields);
        }
        _ => {}
    }
}

#[test]
fn objects_are_what_the_real_library_makes_of_them() {
    let lines = include_str!("pairs.txt")
        .lines()
        .filter(|line| !line.starts_with('#'));
    let differences: Vec<_> = lines.filter_map(difference).collect();
    assert_eq!(differences, Vec::<String>::new());
}

/// The same for as many as one likes, of the kinds that are followed.
#[test]
#[ignore = "reads what `protobuf-oracle pairs` wrote into the file that PROTOBUF_PAIRS names"]
fn objects_of_followed_kinds_are_what_the_real_library_makes_of_them() {
    let file = std::env::var("PROTOBUF_PAIRS").expect("PROTOBUF_PAIRS");
    let pairs = std::fs::read_to_string(file).expect("a file");
    let followed = [
        "v1 Service",
        "v1 Pod",
        "v1 Namespace",
        "v1 Node",
        "discovery.k8s.io/v1 EndpointSlice",
    ];
    let lines = pairs
        .lines()
        .filter(|line| followed.iter().any(|kind| line.starts_with(&format!("{kind} "))));
    let (mut seen, mut differences) = (BTreeSet::new(), BTreeSet::new());
    for line in lines {
        seen.insert(line.split(' ').nth(1));
        differences.extend(difference(line));
    }
    assert!(differences.is_empty(), "{differences:#?}");
    assert_eq!(seen.len(), followed.len());
}

#[test]
fn a_list_has_its_version_and_the_place_where_the_next_page_begins() {
    let meta = [bytes(2, "1000"), bytes(3, "next"), number(4, 3)].concat();
    let item = |name: &str| bytes(2, bytes(1, bytes(1, name)));
    let body = envelope(
        "v1",
        "NamespaceList",
        &[bytes(1, meta), item("a"), item("b")].concat(),
    );
    assert_eq!(
        parsed(&list(&body).expect("a list")),
        json!({
            "kind": "NamespaceList", "apiVersion": "v1",
            "metadata": {"resourceVersion": "1000", "continue": "next", "remainingItemCount": 3},
            "items": [
                {"metadata": {"name": "a"}, "spec": {}, "status": {}},
                {"metadata": {"name": "b"}, "spec": {}, "status": {}},
            ],
        })
    );
    let empty = envelope("discovery.k8s.io/v1", "EndpointSliceList", b"");
    assert_eq!(
        parsed(&list(&empty).expect("a list")),
        json!({"kind": "EndpointSliceList", "apiVersion": "discovery.k8s.io/v1", "metadata": {}, "items": []})
    );
}

/// Go takes fields that nest 10,000 deep in protobuf, and cannot write them as JSON.
#[test]
fn managed_fields_are_not_looked_into() {
    let deep = [r#"{"f:x":"#.repeat(10_000), "null".to_owned(), "}".repeat(10_000)].concat();
    for entry in [
        bytes(7, bytes(1, deep)),
        bytes(7, bytes(1, b"\xff\0{")),
        bytes(4, number(1, usize::MAX)),
        b"\xff\xff".to_vec(),
    ] {
        let bad = [bytes(1, "bad"), bytes(17, entry), bytes(17, "")].concat();
        assert_eq!(
            metadata(&[bad.clone(), bytes(1, "good")]),
            json!([{"name": "bad"}, {"name": "good"}])
        );
        let service = envelope("v1", "Service", &bytes(1, bad));
        let value = parsed(&watch_event(&event("MODIFIED", &service)).expect("an event"));
        assert_eq!(value["object"]["metadata"], json!({"name": "bad"}));
    }
}

#[test]
fn no_field_of_an_object_ends_the_list() {
    let label = |key: &str, value: &str| bytes(11, [bytes(1, key), bytes(2, value)].concat());
    for (fields, expected) in [
        // A later release's fields.
        (
            vec![number(500, 3), bytes(501, "x"), bytes(1, "a")],
            json!({"name": "a"}),
        ),
        (vec![bytes(1, b"a\xffb")], json!({"name": "a\u{fffd}b"})),
        (vec![bytes(1, "a\n\"\u{2028}")], json!({"name": "a\n\"\u{2028}"})),
        (vec![bytes(1, "a"), bytes(1, "b")], json!({"name": "b"})),
        (
            vec![label("k", "1"), label("k", "2")],
            json!({"labels": {"k": "2"}}),
        ),
        (vec![bytes(11, bytes(1, "k"))], json!({"labels": {"k": ""}})),
        (vec![bytes(11, bytes(3, "k"))], json!({"labels": {"": ""}})),
        // Of year 10000, and of none.
        (
            vec![bytes(9, number(1, 253_402_300_800))],
            json!({"deletionTimestamp": "1970-01-01T00:00:00Z"}),
        ),
        (
            vec![bytes(9, number(7, 1))],
            json!({"deletionTimestamp": "1970-01-01T00:00:00Z"}),
        ),
        (
            vec![bytes(8, number(1, 60))],
            json!({"creationTimestamp": "1970-01-01T00:01:00Z"}),
        ),
    ] {
        assert_eq!(metadata(&[fields.concat()]), json!([expected]));
    }
    // A port, whose target has a type that there is not.
    let port = bytes(1, [number(3, 443), bytes(4, number(1, 9))].concat());
    let service = envelope("v1", "Service", &bytes(2, port));
    let value = parsed(&watch_event(&event("ADDED", &service)).expect("an event"));
    assert_eq!(
        value["object"]["spec"]["ports"],
        json!([{"port": 443, "targetPort": 0}])
    );
}

#[test]
fn an_object_as_large_as_the_api_server_takes_is_read() {
    // Three million bytes of finalizers without a letter.
    let many = bytes(14, "").repeat(1_500_000);
    let value = metadata(&[many]);
    let finalizers = value[0]["finalizers"].as_array().expect("finalizers");
    assert_eq!(finalizers.len(), 1_500_000);
}

#[test]
fn bookmarks_and_errors_are_events() {
    let bookmark = envelope("v1", "Node", &bytes(1, bytes(6, "9")));
    let value = parsed(&watch_event(&event("BOOKMARK", &bookmark)).expect("an event"));
    assert_eq!(value["type"], "BOOKMARK");
    assert_eq!(value["object"]["kind"], "Node");
    assert_eq!(value["object"]["metadata"], json!({"resourceVersion": "9"}));

    let status = [
        bytes(1, ""),
        bytes(2, "Failure"),
        bytes(3, "too old"),
        bytes(4, "Expired"),
        bytes(5, bytes(1, "detail")),
        number(6, 410),
    ]
    .concat();
    let status = envelope("v1", "Status", &status);
    let expected = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "too old", "reason": "Expired", "code": 410,
    });
    let value = parsed(&watch_event(&event("ERROR", &status)).expect("an event"));
    assert_eq!(value, json!({"type": "ERROR", "object": expected}));
    assert_eq!(parsed(&list(&status).expect("a Status")), expected);
}

#[test]
fn what_is_no_answer_is_an_error() {
    let good = services(&[bytes(1, "a")]);
    for (body, told) in [
        (b"".to_vec(), "does not start"),
        (b"{\"kind\": \"ServiceList\"}".to_vec(), "does not start"),
        (MAGIC.to_vec(), "of the kind  ,"),
        (envelope("v1", "Service", b""), "of the kind v1 Service"),
        (envelope("example.com/v1", "WidgetList", b""), "WidgetList"),
        ([good.clone(), bytes(3, "gzip")].concat(), "encoded once more"),
        (good[..good.len() - 7].to_vec(), "ends within a field"),
        (services(&[vec![1 << 3, 1]]), "another wire type"),
        (
            services(&[vec![11 << 3 | 3]]),
            "wire type that Kubernetes does not use",
        ),
    ] {
        let error = list(&body).expect_err(told).to_string();
        assert!(error.contains(told), "{told}: {error}");
    }
    let service = envelope("v1", "Service", b"");
    assert!(watch_event(&event("ADDED", &service)).is_ok());
    for (frame, told) in [
        (bytes(1, "ADDED"), "has no object"),
        (event("ADDED", b"{}"), "does not start"),
        (event("ADDED", &service)[..20].to_vec(), "ends within a field"),
        (
            event("ADDED", &envelope("v1", "Widget", b"")),
            "of the kind v1 Widget",
        ),
    ] {
        let error = watch_event(&frame).expect_err(told).to_string();
        assert!(error.contains(told), "{told}: {error}");
    }
}

//! Protobuf against what the real library writes for the same objects, and what is refused.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::super::write;
use super::table::Type;
use super::*;

/// A message's field of bytes, short ones alone.
fn bytes(number: u8, inner: &[u8]) -> Vec<u8> {
    let mut field = vec![number << 3 | 2, u8::try_from(inner.len()).expect("short")];
    field.extend_from_slice(inner);
    field
}

/// A message's field of 128 bytes and more, but not of many more.
fn long_bytes(number: u8, inner: &[u8]) -> Vec<u8> {
    let length = inner.len();
    let length = [length & 0x7F | 0x80, length >> 7].map(|byte| u8::try_from(byte).expect("below 16 K"));
    [&[number << 3 | 2], length.as_slice(), inner].concat()
}

/// A body with an object of this kind.
fn body(api_version: &str, kind: &str, object: &[u8]) -> Vec<u8> {
    let meta = [bytes(1, api_version.as_bytes()), bytes(2, kind.as_bytes())].concat();
    [MAGIC.to_vec(), bytes(1, &meta), bytes(2, object)].concat()
}

fn why(body: &[u8]) -> String {
    read(body).expect_err("refused").to_string()
}

/// What differs between an object that was read and the JSON beside it.
fn difference(line: &str) -> Option<String> {
    let words: Vec<_> = line.split(' ').collect();
    let [api_version, kind, encoded, text] = *words.as_slice() else {
        panic!("four words: {line}")
    };
    let decode = |word: &str| STANDARD.decode(word).expect("base64");
    let value = match read(&decode(encoded)) {
        Ok(value) => value,
        Err(error) => return Some(format!("{api_version} {kind}: {error}")),
    };
    let expected: Value = serde_json::from_slice(&decode(text)).expect("JSON");
    if value != expected {
        let (value, expected) = (format!("{value:#}"), format!("{expected:#}"));
        let mut lines = value.lines().zip(expected.lines());
        let differing = lines.find(|(ours, theirs)| ours != theirs);
        return Some(format!("{api_version} {kind}: {differing:?}"));
    }
    let again = super::super::json::read(&write(&value));
    (again != Ok(value)).then(|| format!("{api_version} {kind}: not read again"))
}

/// `go run . pairs 2 12 Pod Deployment ...` in tests/protobuf-oracle wrote them.
#[test]
fn objects_are_what_the_real_library_makes_of_them() {
    let lines = include_str!("pairs.txt")
        .lines()
        .filter(|line| !line.starts_with('#'));
    let (mut kinds, mut differences) = (BTreeSet::new(), Vec::new());
    for line in lines {
        kinds.insert(line.split(' ').nth(1));
        differences.extend(difference(line));
    }
    assert_eq!(differences, Vec::<String>::new());
    assert_eq!(kinds.len(), 14, "{kinds:?}");
}

/// The same for as many as one likes, of every kind.
#[test]
#[ignore = "reads what `protobuf-oracle pairs` wrote into the file that PROTOBUF_PAIRS names"]
fn objects_of_every_kind_are_what_the_real_library_makes_of_them() {
    let file = std::env::var("PROTOBUF_PAIRS").expect("PROTOBUF_PAIRS");
    let pairs = std::fs::read_to_string(file).expect("a file");
    let differences: BTreeSet<_> = pairs.lines().filter_map(difference).collect();
    assert!(differences.is_empty(), "{differences:#?}");
}

#[test]
fn what_is_not_set_is_left_out_as_go_leaves_it_out() {
    let value = read(&body("v1", "ConfigMap", b"")).expect("an empty one");
    assert_eq!(
        value,
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {}})
    );
    // A pointer to false is set; an empty text is not.
    let immutable = [4 << 3, 0];
    let metadata = bytes(1, &[bytes(1, b"a"), bytes(2, b"")].concat());
    let value = read(&body("v1", "ConfigMap", &[metadata, immutable.to_vec()].concat())).expect("one");
    assert_eq!(
        value,
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "immutable": false})
    );
    // Options are of every group.
    let value = read(&body("apps/v1", "DeleteOptions", &[1 << 3, 0])).expect("options");
    assert_eq!(
        value,
        json!({"apiVersion": "apps/v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0})
    );
}

#[test]
fn an_envelope_that_is_not_plain_is_refused() {
    let empty = body("v1", "ConfigMap", b"");
    for (body, told) in [
        (b"".to_vec(), "does not start"),
        (b"k8s".to_vec(), "does not start"),
        (b"{}".to_vec(), "does not start"),
        (MAGIC.to_vec(), "kind is missing"),
        (body("", "ConfigMap", b""), "kind is missing"),
        (body("v1", "", b""), "kind is missing"),
        ([empty.clone(), bytes(3, b"gzip")].concat(), "encoded once more"),
        (
            [empty.clone(), bytes(4, b"application/json")].concat(),
            "encoded once more",
        ),
        ([empty.clone(), bytes(2, b"")].concat(), "comes twice"),
        ([empty.clone(), bytes(5, b"")].concat(), "unknown field"),
        ([empty, vec![2 << 3, 0]].concat(), "unknown field"),
    ] {
        assert!(why(&body).contains(told), "{}", why(&body));
    }
    let plain = [body("v1", "ConfigMap", b""), bytes(3, b""), bytes(4, b"")].concat();
    assert!(read(&plain).is_ok());
    for (api_version, kind) in [
        ("v1", "Pods"),
        ("apps/v1", "Pod"),
        ("example.com/v1", "Widget"),
        ("v1", "PodList"),
    ] {
        let error = read(&body(api_version, kind, b"")).expect_err(kind);
        assert_eq!(error.code(), "protobuf_kind");
    }
}

#[test]
fn a_message_that_says_more_or_less_than_its_fields_is_refused() {
    let metadata = |inner: &[u8]| body("v1", "ConfigMap", &bytes(1, inner));
    for (body, told) in [
        (metadata(&bytes(1, b"\xff")), "not valid UTF-8"),
        (
            metadata(&[bytes(1, b"a"), bytes(1, b"b")].concat()),
            "comes twice",
        ),
        (metadata(&[1 << 3, 1]), "another wire type"),
        (metadata(&bytes(15, b"")), "does not know"),
        (
            metadata(&[1 << 3 | 3, 1 << 3 | 4]),
            "wire type that Kubernetes does not use",
        ),
        (
            metadata(&[1 << 3 | 5, 0, 0, 0, 0]),
            "wire type that Kubernetes does not use",
        ),
        (metadata(&[2]), "no valid number"),
        (metadata(&[1 << 3 | 2, 5, b'a']), "ends within"),
        (
            metadata(&[
                1 << 3 | 2,
                0xFF,
                0xFF,
                0xFF,
                0xFF,
                0xFF,
                0xFF,
                0xFF,
                0xFF,
                0xFF,
                1,
            ]),
            "ends within",
        ),
        (metadata(&[7 << 3, 0x80]), "ends within"),
        (
            metadata(&[[7 << 3].as_slice(), &[0xFF; 10]].concat()),
            "more than 64 bits",
        ),
        // A label twice, one without a value, and one with a third field.
        (
            metadata(&bytes(
                11,
                &[bytes(1, b"a"), bytes(2, b"1"), bytes(1, b"b")].concat(),
            )),
            "comes twice",
        ),
        (
            metadata(
                &[
                    bytes(11, &[bytes(1, b"a"), bytes(2, b"1")].concat()),
                    bytes(11, &[bytes(1, b"a"), bytes(2, b"2")].concat()),
                ]
                .concat(),
            ),
            "key twice",
        ),
        (metadata(&bytes(11, &bytes(1, b"a"))), "no key or no value"),
        (metadata(&bytes(11, &bytes(3, b"a"))), "unknown field"),
        // A boolean of 2, and a number that Go would cut.
        (body("v1", "ConfigMap", &[4 << 3, 2]), "another wire type"),
        (
            body(
                "autoscaling/v1",
                "Scale",
                &bytes(2, &[1 << 3, 0xFF, 0xFF, 0xFF, 0xFF, 0x0F]),
            ),
            "more than 32 bits",
        ),
        // Times beyond Go's years.
        (
            metadata(&bytes(
                8,
                &[1 << 3, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F],
            )),
            "year",
        ),
    ] {
        assert!(why(&body).contains(told), "{told}: {}", why(&body));
    }
}

#[test]
fn json_inside_of_protobuf_is_read_by_the_same_rules() {
    // ControllerRevision: metadata, data, revision.
    let revision = |raw: &[u8]| body("apps/v1", "ControllerRevision", &bytes(2, &bytes(1, raw)));
    let value = read(&revision(br#"{"a": 1}"#)).expect("one");
    assert_eq!(value["data"], json!({"a": 1}));
    assert_eq!(
        read(&revision(br#"{"a": 1, "a": 2}"#)).map_err(|error| error.code()),
        Err("duplicate_key")
    );
    assert_eq!(
        read(&revision(b"k8s\0")).map_err(|error| error.code()),
        Err("syntax")
    );
}

#[test]
fn more_values_than_the_limit_are_refused() {
    // Finalizers without a letter, two bytes each.
    let many = bytes(14, b"").repeat(MAX_VALUES);
    let number = TABLE.kind("v1", "ConfigMap").expect("known");
    let Type::Message(metadata) = TABLE.fields(number)[0].of else {
        panic!("metadata is a message")
    };
    let read = |finalizers: usize| message(metadata, &many[..2 * finalizers], &mut Budget::default());
    assert!(read(MAX_VALUES).is_ok());
    let more = [many.as_slice(), &bytes(14, b"")].concat();
    let more = message(metadata, &more, &mut Budget::default());
    assert_eq!(more.map_err(|error| error.code()).err(), Some("values"));
    // What Go writes for fields that are not there counts too: a container's name and resources.
    let number = TABLE.kind("v1", "PodTemplate").expect("known");
    // Template, its spec, and a thousand containers of two bytes.
    let spec = long_bytes(2, &bytes(2, b"").repeat(1_000));
    let mut budget = Budget::default();
    assert!(message(number, &long_bytes(2, &spec), &mut budget).is_ok());
    assert!(budget.left() < MAX_VALUES - 2_000, "{}", budget.left());
}

#[test]
fn messages_nest_to_the_limit() {
    let mut full = Budget::at_depth(MAX_DEPTH);
    let number = TABLE.kind("v1", "ConfigMap").expect("known");
    assert!(message(number, b"", &mut full).is_err());
}

#[test]
fn json_inside_of_protobuf_counts_with_what_is_around_it() {
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let revision = |raw: &str| {
        let object = long_bytes(2, &long_bytes(1, raw.as_bytes()));
        let meta = [bytes(1, b"apps/v1"), bytes(2, b"ControllerRevision")].concat();
        [MAGIC.to_vec(), bytes(1, &meta), long_bytes(2, &object)].concat()
    };
    assert!(read(&revision(&nested(MAX_DEPTH - 1))).is_ok());
    assert!(why(&revision(&nested(MAX_DEPTH))).contains("too deep"));
}

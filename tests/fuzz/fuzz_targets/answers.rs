//! Any answer of the API server in protobuf: no panic, JSON on one line, and an object that can be a request's body is the same in an answer.
#![no_main]

use libfuzzer_sys::fuzz_target;
use picket_policy::body::answers::{AnswerError, list, watch_event};
use picket_policy::body::{MediaType, read};
use serde_json::{Value, json};

/// The kinds that the agent follows.
const FOLLOWED: [&str; 5] = ["EndpointSlice", "Namespace", "Node", "Pod", "Service"];

fn checked(answer: Result<Vec<u8>, AnswerError>) -> Option<Value> {
    match answer {
        Ok(json) => {
            assert!(!json.contains(&b'\n'));
            let value = serde_json::from_slice::<Value>(&json);
            assert!(value.as_ref().is_ok_and(Value::is_object));
            value.ok()
        }
        Err(error) => {
            assert!(error.to_string().len() < 1000);
            None
        }
    }
}

/// A field of bytes.
fn field(number: u8, inner: &[u8]) -> Vec<u8> {
    let mut bytes = vec![number << 3 | 2];
    let mut length = inner.len();
    while length > 0x7F {
        bytes.push(length.to_le_bytes()[0] | 0x80);
        length >>= 7;
    }
    bytes.push(length.to_le_bytes()[0]);
    bytes.extend_from_slice(inner);
    bytes
}

/// Drops those of metadata. A label of that name is no list.
fn drop_managed_fields(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(drop_managed_fields),
        Value::Object(entries) => {
            entries.retain(|key, value| key != "managedFields" || !value.is_array());
            entries.values_mut().for_each(drop_managed_fields);
        }
        _ => {}
    }
}

fn read_twice(body: &[u8]) {
    let event = [field(1, b"ADDED"), field(2, &field(1, body))].concat();
    let answer = checked(watch_event(&event));
    let Ok(mut value) = read(MediaType::Protobuf, body) else {
        return;
    };
    if value["kind"].as_str().is_some_and(|kind| FOLLOWED.contains(&kind)) {
        drop_managed_fields(&mut value);
        assert_eq!(answer, Some(json!({"type": "ADDED", "object": value})));
    }
}

// The first byte chooses what the rest is: a list, a frame of a watch, or an object.
fuzz_target!(|data: &[u8]| {
    match data {
        [] => {}
        [kind, body @ ..] if kind % 3 == 0 => drop(checked(list(body))),
        [kind, body @ ..] if kind % 3 == 1 => drop(checked(watch_event(body))),
        [_, body @ ..] => read_twice(body),
    }
});

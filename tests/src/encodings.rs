//! One object in each encoding that the API takes.
//!
//! In: an object as JSON. Out: the same as YAML, as CBOR, and as Kubernetes' protobuf. Written here and not by Picket's own code, so that
//! a slip there cannot hide itself.

use serde_json::Value;

/// The object as block YAML, with each text in quotes.
pub fn yaml(object: &Value) -> String {
    let mut text = String::new();
    write_yaml(object, 0, &mut text);
    text
}

fn write_yaml(value: &Value, indent: usize, text: &mut String) {
    for (key, value) in value.as_object().into_iter().flatten() {
        text.push_str(&format!("{:indent$}{key}:", ""));
        if value.is_object() {
            text.push('\n');
            write_yaml(value, indent + 2, text);
        } else {
            // A text, number or list of JSON is YAML too.
            text.push_str(&format!(" {value}\n"));
        }
    }
}

/// The object as CBOR (RFC 8949), as client-go writes it: marked as CBOR, and texts as byte strings (KEP-4222).
///
/// # Panics
/// For numbers, which no test needs.
pub fn cbor(object: &Value) -> Vec<u8> {
    let mut bytes = vec![0xD9, 0xD9, 0xF7];
    write_cbor(object, &mut bytes);
    bytes
}

fn write_cbor(value: &Value, bytes: &mut Vec<u8>) {
    match value {
        Value::Null => bytes.push(0xF6),
        Value::Bool(truth) => bytes.push(0xF4 + u8::from(*truth)),
        Value::Number(number) => panic!("no test needs the number {number}"),
        Value::String(text) => cbor_text(text, bytes),
        Value::Array(items) => {
            cbor_head(4, items.len(), bytes);
            items.iter().for_each(|item| write_cbor(item, bytes));
        }
        Value::Object(fields) => {
            cbor_head(5, fields.len(), bytes);
            for (key, value) in fields {
                cbor_text(key, bytes);
                write_cbor(value, bytes);
            }
        }
    }
}

fn cbor_text(text: &str, bytes: &mut Vec<u8>) {
    cbor_head(2, text.len(), bytes);
    bytes.extend_from_slice(text.as_bytes());
}

/// The type of what follows, and how many bytes, items or pairs there are.
fn cbor_head(major: u8, count: usize, bytes: &mut Vec<u8>) {
    let count = u16::try_from(count).expect("tests have short objects");
    match u8::try_from(count) {
        Ok(count @ 0..24) => bytes.push(major << 5 | count),
        Ok(count) => bytes.extend([major << 5 | 24, count]),
        Err(_) => {
            bytes.push(major << 5 | 25);
            bytes.extend(count.to_be_bytes());
        }
    }
}

/// The object in Kubernetes' protobuf: a mark, and a message `Unknown` around the object's own. Of the fields it knows those that tests
/// send (k8s.io/api/core/v1 and k8s.io/apimachinery/pkg/apis/meta/v1, generated.proto).
///
/// # Panics
/// For other fields, and for values that are no text.
pub fn protobuf(object: &Value) -> Vec<u8> {
    let text = |key: &str| object[key].as_str().expect("a text");
    let kind = [
        field(1, text("apiVersion").as_bytes()),
        field(2, text("kind").as_bytes()),
    ]
    .concat();
    [b"k8s\0".to_vec(), field(1, &kind), field(2, &message(object))].concat()
}

fn message(object: &Value) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (key, value) in object.as_object().into_iter().flatten() {
        match (key.as_str(), value) {
            ("apiVersion" | "kind", _) => {}
            ("metadata", value) => bytes.extend(field(1, &message(value))),
            // A map is a list of messages of key and value.
            ("data", Value::Object(entries)) => {
                for (key, value) in entries {
                    let value = value.as_str().expect("a text");
                    let entry = [field(1, key.as_bytes()), field(2, value.as_bytes())];
                    bytes.extend(field(2, &entry.concat()));
                }
            }
            ("name", Value::String(text)) => bytes.extend(field(1, text.as_bytes())),
            ("namespace", Value::String(text)) => bytes.extend(field(3, text.as_bytes())),
            ("propagationPolicy", Value::String(text)) => bytes.extend(field(4, text.as_bytes())),
            (key, value) => panic!("no test needs {key}: {value}"),
        }
    }
    bytes
}

/// A field that is bytes: a text or a message.
fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let length = u8::try_from(content.len()).ok().filter(|length| *length < 128);
    let mut bytes = vec![number << 3 | 2];
    match length {
        Some(length) => bytes.push(length),
        None => {
            let length = u16::try_from(content.len()).expect("tests have short objects");
            bytes.extend([(length & 0x7F) as u8 | 0x80, (length >> 7) as u8]);
        }
    }
    bytes.extend_from_slice(content);
    bytes
}

#[cfg(test)]
mod tests {
    use picket_policy::body::{MediaType, read};
    use serde_json::json;

    use super::*;

    #[test]
    fn each_encoding_is_the_same_object() {
        let objects = [
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x", "namespace": "lab"},
                "data": {"mode": "wild", "long": "word ".repeat(60)}}),
            json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "x", "namespace": "lab"}}),
            json!({"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}),
        ];
        for object in objects {
            let read = |media, bytes: &[u8]| read(media, bytes).expect("a body");
            assert_eq!(read(MediaType::Yaml, yaml(&object).as_bytes()), object);
            assert_eq!(read(MediaType::Protobuf, &protobuf(&object)), object);
            assert_eq!(read(MediaType::Cbor, &cbor(&object)), object);
        }
    }

    #[test]
    fn cbor_is_written_as_the_standard_has_it() {
        let object = json!({"a": [true, false, null], "b": "x".repeat(24)});
        let mut expected = b"\xD9\xD9\xF7\xA2\x41a\x83\xF5\xF4\xF6\x41b\x58\x18".to_vec();
        expected.extend([b'x'; 24]);
        assert_eq!(cbor(&object), expected);
        assert_eq!(cbor(&json!("x".repeat(256)))[3..6], [0x59, 1, 0]);
    }
}

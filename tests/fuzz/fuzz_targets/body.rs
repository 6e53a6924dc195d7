//! Any body in any encoding that is read: no panic, and what is written is read as the same value by this reader and by
//! `serde_json`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use picket_policy::body::{MediaType, read, write};

fuzz_target!(|data: &[u8]| {
    let Some((first, body)) = data.split_first() else {
        return;
    };
    let media = match first % 8 {
        0 => MediaType::Json,
        1 => MediaType::Yaml,
        2 => MediaType::Protobuf,
        3 => MediaType::ApplyYaml,
        _ => MediaType::Cbor,
    };
    let value = match read(media, body) {
        Ok(value) => value,
        Err(error) => {
            assert!(error.to_string().len() < 1000);
            return;
        }
    };
    let written = write(&value);
    assert_eq!(read(MediaType::Json, &written).as_ref(), Ok(&value));
    let other = serde_json::from_slice::<serde_json::Value>(&written);
    assert!(other.is_ok_and(|other| write(&other).len() == written.len()));
});

//! Any body in any pieces: no panic, the pieces do not matter, and what goes out has no item that hides.
#![no_main]

use libfuzzer_sys::fuzz_target;
use picket_masking::media::Encoding;
use picket_masking::{Counts, Filter, FilterError, ItemHead};
use serde_json::Value;

fn hides(head: &ItemHead<'_>) -> bool {
    head.namespace == "hidden"
}

fn run(mut filter: Filter, body: &[u8], size: usize) -> (Vec<u8>, Result<Counts, FilterError>) {
    let mut out = Vec::new();
    let mut pieces = body.chunks(size);
    let pushed = pieces.try_for_each(|piece| filter.push(piece, &mut hides, &mut out));
    (out, pushed.and_then(|()| filter.finish()))
}

// The first byte chooses the filter, the second the size of the pieces.
fuzz_target!(|data: &[u8]| {
    let [kind, size, body @ ..] = data else { return };
    let make: fn() -> Filter = match kind % 4 {
        0 => || Filter::list(Encoding::Json),
        1 => || Filter::watch(Encoding::Json),
        2 => || Filter::list(Encoding::Protobuf),
        _ => || Filter::watch(Encoding::Protobuf),
    };
    let (whole, counts) = run(make(), body, body.len().max(1));
    let (pieces, same) = run(make(), body, 1 + usize::from(*size));
    assert_eq!(counts.is_ok(), same.is_ok());
    if counts.is_err() {
        return;
    }
    assert_eq!(counts, same);
    assert_eq!(whole, pieces);
    if kind % 4 != 0 || serde_json::from_slice::<Value>(body).is_err() {
        return;
    }
    let out: Value = serde_json::from_slice(&whole).expect("what is left of JSON is JSON");
    let items = out["items"].as_array().into_iter().flatten();
    assert!(items.into_iter().all(|item| item["metadata"]["namespace"] != "hidden"));
});

//! Any file: no panic, every error has a place, and what is read compiles or says why not.
#![no_main]

use libfuzzer_sys::fuzz_target;
use picket_policy::{PolicySet, read_documents};

fuzz_target!(|text: &str| match read_documents("fuzz.yaml", text) {
    Ok(documents) => drop(PolicySet::compile(documents)),
    Err(errors) =>
        assert!(!errors.is_empty() && errors.iter().all(|error| error.line > 0 && error.column > 0)),
});

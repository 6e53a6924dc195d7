//! Any file: no panic, every error has a place, and what is read is written and read again as the same, and compiles or says
//! why not.
#![no_main]

use libfuzzer_sys::fuzz_target;
use picket_policy::PolicySet;
use picket_policy::api::{AnyObject, read_documents, read_file};

fuzz_target!(|text: &str| {
    let reading = read_file("fuzz.yaml", text);
    for entry in &reading.entries {
        assert!(entry.line > 0);
        assert!(entry.document.is_some() || !reading.errors.is_empty());
    }
    match read_documents("fuzz.yaml", text) {
        Ok(documents) => {
            for document in &documents {
                let same = match &document.object {
                    AnyObject::Identity(object) => {
                        serde_json::from_value(json(object)).ok().as_ref() == Some(object)
                    }
                    AnyObject::Grant(object) => {
                        serde_json::from_value(json(object)).ok().as_ref() == Some(object)
                    }
                    AnyObject::Policy(object) => {
                        serde_json::from_value(json(object)).ok().as_ref() == Some(object)
                    }
                };
                assert!(same, "{:?}", document.object);
            }
            drop(PolicySet::compile(documents));
        }
        Err(errors) => {
            assert!(!errors.is_empty() && errors.iter().all(|error| error.line > 0 && error.column > 0));
        }
    }
});

fn json(object: &impl serde::Serialize) -> serde_json::Value {
    serde_json::to_value(object).expect("plain data")
}

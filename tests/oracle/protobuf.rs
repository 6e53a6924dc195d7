//! Protobuf and CBOR bodies are what the Go types of Kubernetes' API make of them.
//!
//! In: objects of every kind, filled at random by the fuzzers of k8s.io/apimachinery. Out: thousands of bodies whose value is the
//! JSON that the real library writes for them, and the table of messages that Picket reads them by.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use picket_policy::body::{MediaType, read, write};
use picket_tests::build::GoProgram;
use picket_tests::tests;
use serde_json::Value;

use crate::Test;

pub(crate) const TESTS: &[Test] = tests! {
    the_table_is_that_of_the_types,
    objects_of_every_kind,
    objects_of_every_kind_in_cbor,
};

/// As many kinds at least are compared.
const KINDS: usize = 160;

fn answer(arguments: &[&str]) -> Result<String> {
    let output = Command::new(GoProgram::ProtobufOracle.path()?)
        .args(arguments)
        .output()?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout)?)
}

fn the_table_is_that_of_the_types() -> Result<()> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../agent/policy/src/body/protobuf/messages.txt");
    let table = std::fs::read_to_string(file)?;
    ensure!(
        table == answer(&["messages"])?,
        "write messages.txt anew, as its first line says"
    );
    Ok(())
}

fn objects_of_every_kind() -> Result<()> {
    compare(MediaType::Protobuf, &answer(&["pairs", "20", "1"])?)
}

fn objects_of_every_kind_in_cbor() -> Result<()> {
    compare(MediaType::Cbor, &answer(&["cbor", "20", "1"])?)
}

fn compare(media: MediaType, pairs: &str) -> Result<()> {
    let mut kinds = std::collections::BTreeSet::new();
    for line in pairs.lines() {
        let words: Vec<_> = line.split(' ').collect();
        let [api_version, kind, encoded, text] = *words.as_slice() else {
            anyhow::bail!("not four words: {line}")
        };
        let value =
            read(media, &STANDARD.decode(encoded)?).with_context(|| format!("{api_version} {kind}"))?;
        let expected: Value = serde_json::from_slice(&STANDARD.decode(text)?)?;
        ensure!(
            value == expected,
            "{api_version} {kind}: {value}\nand not: {expected}"
        );
        ensure!(
            read(MediaType::Json, &write(&value))? == value,
            "{api_version} {kind}: {value}"
        );
        kinds.insert((api_version, kind));
    }
    ensure!(kinds.len() >= KINDS, "{} kinds", kinds.len());
    Ok(())
}

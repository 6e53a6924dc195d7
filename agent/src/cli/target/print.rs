//! Objects as commands print them.
//!
//! In: objects of one kind, and a form. Out: a table for people; JSON and YAML that `kubectl apply -f` and the agent read; or
//! one name a line, as `kubectl get -o name` has them.

use std::io::{self, Write as _};

use clap::ValueEnum;
use picket_policy::api::{AnyObject, Document, GROUP, read_documents};
use serde_json::{Value, json};

use crate::cli::output::{self, Format, Row};

/// How to print objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(in crate::cli) enum ObjectFormat {
    /// Aligned columns.
    #[default]
    Table,
    /// More of them.
    Wide,
    /// One JSON document, a List that `kubectl apply -f -` takes.
    Json,
    /// YAML documents, as files have them.
    Yaml,
    /// One KIND.picket.dev/NAME a line.
    Name,
}

/// The object of a document, as it is written to a file.
pub(in crate::cli) fn object(document: &Document) -> Value {
    let object = match &document.object {
        AnyObject::Identity(object) => serde_json::to_value(object),
        AnyObject::Grant(object) => serde_json::to_value(object),
        AnyObject::Policy(object) => serde_json::to_value(object),
    };
    // Objects of strings, lists and maps always have a value.
    object.unwrap_or_default()
}

/// `agentidentity.picket.dev/triage`.
pub(in crate::cli) fn reference(kind: &str, name: &str) -> String {
    format!("{}.{GROUP}/{name}", kind.to_ascii_lowercase())
}

/// Objects as YAML documents, with their fields in the order that the reference has them.
///
/// # Errors
/// Where they cannot be written as YAML.
pub(in crate::cli) fn yaml(documents: &[&Document]) -> io::Result<String> {
    let text = |document: &&Document| match &document.object {
        AnyObject::Identity(object) => serde_saphyr::to_string(object),
        AnyObject::Grant(object) => serde_saphyr::to_string(object),
        AnyObject::Policy(object) => serde_saphyr::to_string(object),
    };
    let documents: Result<Vec<_>, _> = documents.iter().map(text).collect();
    let documents = documents.map_err(io::Error::other)?;
    let documents: Vec<_> = documents
        .iter()
        .map(|text| format!("{}\n", text.trim_end()))
        .collect();
    Ok(documents.join("---\n"))
}

/// A new object as YAML. One that cannot stand is written as it is, for the reader to say what is wrong with it.
///
/// # Errors
/// Where it cannot be written as YAML.
pub(in crate::cli) fn new_yaml(object: &Value) -> io::Result<String> {
    let raw = serde_saphyr::to_string(object).map_err(io::Error::other)?;
    match read_documents("", &raw) {
        Ok(documents) => yaml(&documents.iter().collect::<Vec<_>>()),
        Err(_) => Ok(raw),
    }
}

/// Prints documents of one kind, `rows` in the same order for people.
///
/// # Errors
/// Those of standard output.
pub(in crate::cli) fn print<R: Row>(
    format: ObjectFormat,
    documents: &[&Document],
    rows: &[R],
    none: &str,
) -> io::Result<()> {
    let objects = || {
        documents
            .iter()
            .map(|document| object(document))
            .collect::<Vec<_>>()
    };
    match format {
        ObjectFormat::Table => output::print(Format::Table, &(), rows, none),
        ObjectFormat::Wide => output::print(Format::Wide, &(), rows, none),
        ObjectFormat::Json => {
            let list = json!({"apiVersion": "v1", "kind": "List", "items": objects()});
            output::print::<R>(Format::Json, &list, &[], none)
        }
        ObjectFormat::Yaml => io::stdout().lock().write_all(yaml(documents)?.as_bytes()),
        ObjectFormat::Name => {
            let mut out = io::stdout().lock();
            for document in documents {
                writeln!(out, "{}", reference(document.kind(), document.name()))?;
            }
            out.flush()
        }
    }
}

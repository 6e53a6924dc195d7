//! From a file's text to documents: kind, version and metadata, then each kind's own fields.

use std::sync::Arc;

use super::fields::{Reader, is_subdomain};
use super::tree::{Node, parse};
use super::{API_VERSION, Document, Located, ObjectError, agent_policy, grant, identity};

/// Metadata that people write, and that API servers add to what `kubectl get -o yaml` prints.
const METADATA: [&str; 8] = [
    "name",
    "labels",
    "annotations",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "managedFields",
];

/// Reads every document of a file.
///
/// # Errors
/// Everything that is wrong in it, in the order of the file.
pub fn read_documents(file: &str, text: &str) -> Result<Vec<Document>, Vec<ObjectError>> {
    let nodes = parse(file, text).map_err(|error| vec![error])?;
    let mut reader = Reader {
        file: Arc::from(file),
        errors: Vec::new(),
    };
    let documents: Vec<_> = nodes
        .iter()
        .filter_map(|node| document(&mut reader, node))
        .collect();
    if reader.errors.is_empty() {
        return Ok(documents);
    }
    reader.errors.sort_by_key(|error| (error.line, error.column));
    Err(reader.errors)
}

fn document(reader: &mut Reader, node: &Node) -> Option<Document> {
    let fields = reader.fields(node, "", &["apiVersion", "kind", "metadata", "spec"], &[])?;
    let version = reader.required_text(&fields, "apiVersion");
    let kind = reader.required_text(&fields, "kind");
    let name = metadata(reader, &fields);
    let spec = reader.required(&fields, "spec");
    let (version, kind) = (version?, kind?);
    if version.value != API_VERSION {
        reader.fault_at(
            &version.at,
            format!("apiVersion is {:?}; it must be {API_VERSION}", version.value),
        );
        return None;
    }
    let spec = match kind.value.as_str() {
        "AgentIdentity" | "AgentGrant" | "AgentPolicy" => spec?,
        "AuditSink" | "ApprovalRequest" => {
            reader.fault_at(
                &kind.at,
                format!("kind {} is not supported by this version yet", kind.value),
            );
            return None;
        }
        other => {
            let reason = format!("unknown kind {other:?}; known: AgentIdentity, AgentGrant, AgentPolicy");
            reader.fault_at(&kind.at, reason);
            return None;
        }
    };
    match kind.value.as_str() {
        "AgentIdentity" => identity::read(reader, name, spec).map(Document::Identity),
        "AgentGrant" => grant::read(reader, name, spec).map(Document::Grant),
        _ => agent_policy::read(reader, name, spec).map(Document::Policy),
    }
}

fn metadata(reader: &mut Reader, fields: &super::fields::Fields<'_>) -> Option<Located<String>> {
    let node = reader.required(fields, "metadata")?;
    let metadata = reader.fields(node, "metadata", &METADATA, &[])?;
    let name = reader.required_text(&metadata, "name")?;
    if !is_subdomain(&name.value) {
        let reason = format!(
            "field `metadata.name` is {:?}; it must be lower-case letters, digits, - and ., at most 253 (RFC 1123)",
            name.value
        );
        reader.fault_at(&name.at, reason);
        return None;
    }
    Some(name)
}

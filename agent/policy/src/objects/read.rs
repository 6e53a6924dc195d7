//! From a file's text to documents: kind, version and metadata, then each kind's own fields.

use super::fields::{Reader, is_subdomain};
use super::tree::{Node, Value, parse};
use super::{API_VERSION, Document, GROUP, Located, ObjectError, agent_policy, grant, identity};

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
    let mut reader = Reader::new(file);
    let documents: Vec<_> = nodes
        .iter()
        .filter_map(|node| document(&mut reader, node))
        .collect();
    reader.finish(documents)
}

/// The kinds that are read.
const KINDS: [&str; 3] = ["AgentIdentity", "AgentGrant", "AgentPolicy"];

/// Notes a document of somebody else's, such as a ClusterRole, in one line: none of its fields would be known.
fn foreign(reader: &mut Reader, node: &Node) -> bool {
    let Value::Map(entries) = &node.value else {
        return false;
    };
    let text = |name: &str| {
        entries
            .iter()
            .find_map(|(key, value)| match (&key.value, &value.value) {
                (Value::Text(key), Value::Text(value)) if key == name => Some(value.as_str()),
                _ => None,
            })
    };
    let (Some(version), Some(kind)) = (text("apiVersion"), text("kind")) else {
        return false;
    };
    let group = version.split_once('/').map_or("", |(group, _)| group);
    if group == GROUP || KINDS.contains(&kind) {
        return false;
    }
    reader.fault(node, format!("not a Picket object (kind {kind} of {version})"));
    true
}

fn document(reader: &mut Reader, node: &Node) -> Option<Document> {
    if foreign(reader, node) {
        return None;
    }
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
            let reason = format!("unknown kind {other:?}; known: {}", KINDS.join(", "));
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

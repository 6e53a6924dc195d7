//! From a file's text to documents: kind, version and metadata, then each kind's own fields.

use super::v1alpha1::{agent_grant, agent_identity, agent_policy};
use super::{API_VERSION, Document, GROUP};
use crate::kubernetes::resources::is_subdomain;
use crate::yaml::{Decoder, Diagnostic, Fields, Node, Spanned, Value, parse};

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
pub fn read_documents(file: &str, text: &str) -> Result<Vec<Document>, Vec<Diagnostic>> {
    let nodes = parse(file, text).map_err(|error| vec![error])?;
    let mut decoder = Decoder::new(file);
    let documents: Vec<_> = nodes
        .iter()
        .filter_map(|node| document(&mut decoder, node))
        .collect();
    decoder.finish(documents)
}

/// The kinds that are read.
const KINDS: [&str; 3] = ["AgentIdentity", "AgentGrant", "AgentPolicy"];

/// Notes a document of somebody else's, such as a ClusterRole, in one line: none of its fields would be known.
fn foreign(decoder: &mut Decoder, node: &Node) -> bool {
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
    decoder.error_at(node, format!("not a Picket object (kind {kind} of {version})"));
    true
}

fn document(decoder: &mut Decoder, node: &Node) -> Option<Document> {
    if foreign(decoder, node) {
        return None;
    }
    let fields = decoder.fields(node, "", &["apiVersion", "kind", "metadata", "spec"], &[])?;
    let version = decoder.required_text(&fields, "apiVersion");
    let kind = decoder.required_text(&fields, "kind");
    let name = metadata(decoder, &fields);
    let spec = decoder.required(&fields, "spec");
    let (version, kind) = (version?, kind?);
    if version.value != API_VERSION {
        decoder.error_at(
            &version.at,
            format!("apiVersion is {:?}; it must be {API_VERSION}", version.value),
        );
        return None;
    }
    let spec = match kind.value.as_str() {
        "AgentIdentity" | "AgentGrant" | "AgentPolicy" => spec?,
        "AuditSink" | "ApprovalRequest" => {
            decoder.error_at(
                &kind.at,
                format!("kind {} is not supported by this version yet", kind.value),
            );
            return None;
        }
        other => {
            let reason = format!("unknown kind {other:?}; known: {}", KINDS.join(", "));
            decoder.error_at(&kind.at, reason);
            return None;
        }
    };
    match kind.value.as_str() {
        "AgentIdentity" => agent_identity::read(decoder, name, spec).map(Document::Identity),
        "AgentGrant" => agent_grant::read(decoder, name, spec).map(Document::Grant),
        _ => agent_policy::read(decoder, name, spec).map(Document::Policy),
    }
}

fn metadata(decoder: &mut Decoder, fields: &Fields<'_>) -> Option<Spanned<String>> {
    let node = decoder.required(fields, "metadata")?;
    let metadata = decoder.fields(node, "metadata", &METADATA, &[])?;
    let name = decoder.required_text(&metadata, "name")?;
    if !is_subdomain(&name.value) {
        let reason = format!(
            "field `metadata.name` is {:?}; it must be lower-case letters, digits, - and ., at most 253 (RFC 1123)",
            name.value
        );
        decoder.error_at(&name.at, reason);
        return None;
    }
    Some(name)
}

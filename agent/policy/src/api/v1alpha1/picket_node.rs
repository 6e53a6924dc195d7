//! What the agent of a node says of itself, in the `status` of the node's PicketNode.
//!
//! In: nothing; each agent writes the object of its own node. Out: the types that it writes, and their CRD.
//!
//! Agents and CRD may be of different versions for a while, so a field that is added later must be optional: an older agent
//! leaves it out. Readers ignore fields that they do not know.

use jiff::Timestamp;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::ObjectCondition;

/// The kind as it is written.
pub const PICKET_NODE_KIND: &str = "PicketNode";

/// The kind in URLs.
pub const PICKET_NODE_PLURAL: &str = "picketnodes";

/// Most pods that a node names as not covered; `notCovered` counts all.
pub const MAX_UNCOVERED_PODS: usize = 20;

/// Most parts that a node names as waiting or failing. The agent has fewer.
const MAX_PARTS: usize = 32;

/// Most characters of a reason in the status of a node.
const MAX_REASON: usize = 1024;

/// What the agent of a node says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PicketNodeStatus {
    /// The agent's version.
    #[schemars(length(max = 63))]
    pub version: String,
    /// When the agent started.
    pub started: Timestamp,
    /// How far the agent is.
    pub phase: NodePhase,
    /// Parts that have not come up yet, as `/readyz` names them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub waiting: Vec<String>,
    /// Parts that came up and do not work now, each with the reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub failing: Vec<NodeFault>,
    /// The kernel and Picket's programs in it.
    pub kernel: NodeKernel,
    /// The pods of the node.
    pub pods: NodePods,
    /// The identities, grants and policies that are in force on the node.
    pub policy: NodePolicy,
    /// When certificates and the credential end.
    pub certificates: NodeCertificates,
    /// The audit log of the node.
    pub audit: NodeAudit,
    /// When the agent wrote this. It does so each minute, and when something changes.
    pub last_heartbeat: Timestamp,
    /// Whether the agent is ready.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "conditions")]
    pub conditions: Vec<ObjectCondition>,
}

/// How far an agent is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum NodePhase {
    /// It is starting: not every pod of the node is classified yet.
    Starting,
    /// Every pod that was there at the start is classified.
    Serving,
    /// It has stopped, or is about to: it accepts no more connections.
    Draining,
}

/// A part that does not work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeFault {
    /// The part.
    #[schemars(length(max = 63))]
    pub part: String,
    /// What is wrong.
    #[schemars(length(max = 1024))]
    pub reason: String,
}

/// The kernel of a node, and Picket's programs in it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeKernel {
    /// The kernel's release, such as `6.1.0-18-amd64`.
    #[schemars(length(max = 128))]
    pub release: String,
    /// How many of the programs for the whole node are attached.
    pub attached: u32,
    /// How many there are.
    pub programs: u32,
}

/// The pods of a node by what is in force for them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodePods {
    /// Pods whose protected endpoints lead to the agent.
    pub enforced: u32,
    /// Pods left alone.
    pub exempt: u32,
    /// Those of them that are static and that the API server has not reported.
    pub assumed_exempt: u32,
    /// Pods that reach no protected endpoint until they can be classified or enforced.
    pub closed: u32,
    /// Pods that should be enforced and are not, or not wholly.
    pub not_covered: u32,
    /// The first of those, at most 20, each with the reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20))]
    pub uncovered: Vec<UncoveredPod>,
}

/// A pod that should be enforced and is not, or not wholly.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UncoveredPod {
    /// The pod as NAMESPACE/NAME, or its UID where the API server has not reported the pod.
    #[schemars(length(max = 512))]
    pub pod: String,
    /// Why, in one word.
    pub reason: UncoveredReason,
    /// Why, in sentences, and what the pod reaches.
    #[schemars(length(max = 1024))]
    pub message: String,
}

/// Why a pod is not covered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum UncoveredReason {
    /// It reaches no protected endpoint, because it cannot be enforced.
    Closed,
    /// It reaches no protected endpoint, because the API server has not reported it.
    Unreported,
    /// Nothing holds it: it has no cgroup below the configured folder.
    NoCgroup,
    /// Its cgroup lies deeper than the kernel programs look.
    TooDeep,
    /// Its connections are redirected; packets that pass no socket are not dropped.
    EgressUnfiltered,
    /// Its RuntimeClass gives it a network stack of its own, whose connections cannot be redirected.
    RuntimeClass,
}

/// The identities, grants and policies that are in force on a node.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodePolicy {
    /// Digest of the objects in force. Nodes with the same digest have the same objects in force. It is absent while every request
    /// is denied, because no valid set was read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub hash: Option<String>,
    /// Counts the sets that came into force since the agent's start.
    pub generation: u64,
    /// Since when the node has had this set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// How many objects are in force as they are written.
    pub valid: u32,
    /// How many objects are not in force, or in an older version.
    pub invalid: u32,
    /// Why the last reading did not come into force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub last_error: Option<String>,
}

/// When the certificates of a node end. What a node does not have is absent.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeCertificates {
    /// The node CA, which signs the certificates that pods see.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "nodeCA")]
    pub node_ca: Option<Timestamp>,
    /// The gateway's certificate, where it has one of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<Timestamp>,
    /// The credential for the requests of agents at the API server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream: Option<Timestamp>,
    /// The bundle that the API server's certificate is checked against.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "upstreamCA")]
    pub upstream_ca: Option<Timestamp>,
}

/// The audit log of a node.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeAudit {
    /// Bytes of records on the node's disk.
    pub spool_bytes: u64,
    /// Sinks that take no records, each with the reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub failing_sinks: Vec<NodeFault>,
}

impl PicketNodeStatus {
    /// The condition of this type.
    #[must_use]
    pub fn condition(&self, kind: &str) -> Option<&ObjectCondition> {
        self.conditions.iter().find(|condition| condition.kind == kind)
    }

    /// Brings every text and list within the bounds of the CRD: an API server refuses a status with one that is too long.
    #[must_use]
    pub fn bounded(mut self) -> Self {
        self.waiting.truncate(MAX_PARTS);
        for faults in [&mut self.failing, &mut self.audit.failing_sinks] {
            faults.truncate(MAX_PARTS);
            for fault in faults {
                cut(&mut fault.part, 63);
                cut(&mut fault.reason, MAX_REASON);
            }
        }
        self.pods.uncovered.truncate(MAX_UNCOVERED_PODS);
        for pod in &mut self.pods.uncovered {
            cut(&mut pod.message, MAX_REASON);
        }
        if let Some(error) = &mut self.policy.last_error {
            cut(error, MAX_REASON);
        }
        cut(&mut self.version, 63);
        cut(&mut self.kernel.release, 128);
        self
    }
}

/// Cuts a text to so many characters.
fn cut(text: &mut String, limit: usize) {
    if let Some((end, _)) = text.char_indices().nth(limit) {
        text.truncate(end);
    }
}

fn conditions(generator: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 8,
        "items": generator.subschema_for::<ObjectCondition>(),
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
    })
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn status() -> PicketNodeStatus {
        PicketNodeStatus {
            version: "0.1.0".to_owned(),
            started: Timestamp::UNIX_EPOCH,
            phase: NodePhase::Serving,
            waiting: vec!["pods".to_owned(); MAX_PARTS + 1],
            failing: vec![
                NodeFault {
                    part: "audit".to_owned(),
                    reason: "é".repeat(MAX_REASON + 1),
                };
                MAX_PARTS + 1
            ],
            kernel: NodeKernel::default(),
            pods: NodePods {
                uncovered: vec![
                    UncoveredPod {
                        pod: "ns/a".to_owned(),
                        reason: UncoveredReason::Closed,
                        message: "x".repeat(MAX_REASON + 1),
                    };
                    MAX_UNCOVERED_PODS + 1
                ],
                ..NodePods::default()
            },
            policy: NodePolicy {
                last_error: Some("e".repeat(MAX_REASON + 1)),
                ..NodePolicy::default()
            },
            certificates: NodeCertificates::default(),
            audit: NodeAudit::default(),
            last_heartbeat: Timestamp::UNIX_EPOCH,
            conditions: Vec::new(),
        }
    }

    #[test]
    fn a_status_is_brought_within_the_bounds_of_its_crd() {
        let bounded = status().bounded();
        assert_eq!(bounded.waiting.len(), MAX_PARTS);
        assert_eq!(bounded.failing.len(), MAX_PARTS);
        assert_eq!(bounded.failing[0].reason.chars().count(), MAX_REASON);
        assert_eq!(bounded.pods.uncovered.len(), MAX_UNCOVERED_PODS);
        assert_eq!(bounded.pods.uncovered[0].message.len(), MAX_REASON);
        assert_eq!(
            bounded.policy.last_error.map(|error| error.len()),
            Some(MAX_REASON)
        );
    }

    /// What of a value its schema does not take.
    fn wrong(schema: &Value, value: &Value, at: &str) -> Vec<String> {
        let mut found = Vec::new();
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    match schema["properties"].get(name) {
                        Some(schema) => found.extend(wrong(schema, value, &format!("{at}.{name}"))),
                        None => found.push(format!("{at}.{name} is unknown")),
                    }
                }
                for name in schema["required"].as_array().into_iter().flatten() {
                    if name.as_str().is_none_or(|name| !fields.contains_key(name)) {
                        found.push(format!("{at}.{name} is missing"));
                    }
                }
            }
            Value::Array(items) => {
                if schema["maxItems"]
                    .as_u64()
                    .is_none_or(|most| items.len() as u64 > most)
                {
                    found.push(format!("{at} is too long"));
                }
                found.extend(items.iter().flat_map(|item| wrong(&schema["items"], item, at)));
            }
            Value::String(text) => {
                let length = text.chars().count() as u64;
                let words = schema["enum"].as_array();
                if schema["maxLength"].as_u64().is_some_and(|most| length > most)
                    || words.is_some_and(|words| !words.contains(value))
                {
                    found.push(format!("{at} has {text:?}"));
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
        found
    }

    #[test]
    fn a_status_that_an_agent_writes_fits_its_crd() {
        let crds = crate::api::custom_resource_definitions();
        let crd = crds.iter().find(|(kind, _)| *kind == PICKET_NODE_KIND);
        let (_, crd) = crd.expect("a CRD");
        let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"];
        let mut status = status().bounded();
        status.policy.hash = Some("0".repeat(16));
        status.certificates.node_ca = Some(Timestamp::UNIX_EPOCH);
        status.certificates.upstream_ca = Some(Timestamp::UNIX_EPOCH);
        let written = serde_json::to_value(&status).expect("a value");
        assert_eq!(wrong(schema, &written, "status"), Vec::<String>::new());
        // The schema holds bounds.
        status.waiting = vec!["pods".to_owned(); MAX_PARTS + 1];
        let written = serde_json::to_value(&status).expect("a value");
        assert_eq!(wrong(schema, &written, "status"), ["status.waiting is too long"]);
    }

    #[test]
    fn a_field_of_a_later_version_is_ignored() {
        let mut written = serde_json::to_value(status().bounded()).expect("a value");
        written["later"] = serde_json::json!({"a": 1});
        let read: PicketNodeStatus = serde_json::from_value(written).expect("a status");
        assert_eq!(read, status().bounded());
    }
}

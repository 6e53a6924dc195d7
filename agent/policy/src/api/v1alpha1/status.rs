//! What agents say of an object in its `status`: whether it is in force, and what is wrong with it.
//!
//! In: nothing; agents write these. Out: the types that they write, and their part of the CRDs.
//!
//! A condition is the cluster's one word on a version of an object. Every agent judges that version alike, so that any agent may
//! write the condition, and agents that find it written do not write it again. An object has as many conditions with 500 nodes as with one.

use jiff::Timestamp;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// Most nodes in the status of one identity. An entry has about 300 bytes, and each write of one sends the whole object to every node.
pub const MAX_NODES: usize = 100;

/// Most names in each list of a node's entry: enough to find the others by.
pub const MAX_NODE_NAMES: usize = 10;

/// Most conditions: there are fewer types.
const MAX_CONDITIONS: usize = 8;

/// What agents say of an AgentIdentity.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IdentityStatus {
    /// Whether the latest version is in force, and what is wrong with it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "conditions")]
    pub conditions: Vec<ObjectCondition>,
    /// What each node knows of the agent, of the 100 nodes that had it last. A node without a pod of the agent, and without a request
    /// of it, has nothing to say.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "nodes")]
    pub nodes: Vec<IdentityNode>,
}

/// What one node knows of an agent. The node's own agent writes it, at most every 30 s.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IdentityNode {
    /// The node's name.
    #[schemars(length(min = 1, max = 253))]
    pub node: String,
    /// How many enforced pods of the node match the identity.
    pub pods: u32,
    /// Their names as NAMESPACE/NAME, at most 10.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10))]
    pub pod_names: Vec<String>,
    /// When a request of the agent was permitted here last; up to an hour older than the truth. A watch counts when it ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_used: Option<Timestamp>,
    /// When a request of the agent was denied here last; up to an hour older than the truth.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_denied: Option<Timestamp>,
    /// Identities that a pod of the node matches beside this one, at most 10. Every request of such a pod is denied.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10))]
    pub conflicts: Vec<String>,
    /// The workloads of the node that claim an exclusive identity, such as `Deployment/fixer`, at most 10. While there are two, every
    /// request of the agent is denied on the node.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10))]
    pub workloads: Vec<String>,
    /// Whether `spec.reviewBy` is over.
    pub review_due: bool,
}

/// What agents say of an AgentGrant.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GrantStatus {
    /// Whether the latest version is in force, and what is wrong with it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "conditions")]
    pub conditions: Vec<ObjectCondition>,
}

/// What agents say of an AgentPolicy.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PolicyStatus {
    /// Whether the latest version is in force, and what is wrong with it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "conditions")]
    pub conditions: Vec<ObjectCondition>,
}

/// A condition, as Kubernetes has them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ObjectCondition {
    /// What it is about: Ready or Conflict.
    #[serde(rename = "type")]
    #[schemars(length(min = 1, max = 63))]
    pub kind: String,
    /// Whether it holds.
    pub status: ConditionStatus,
    /// The `metadata.generation` that was judged.
    pub observed_generation: i64,
    /// Since when it is so.
    pub last_transition_time: Timestamp,
    /// Why, in one word.
    #[schemars(length(min = 1, max = 63))]
    pub reason: String,
    /// Why, in sentences.
    #[schemars(length(max = 4096))]
    pub message: String,
}

/// Whether a condition holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ConditionStatus {
    /// It holds.
    True,
    /// It does not hold.
    False,
}

fn conditions(generator: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": MAX_CONDITIONS,
        "items": generator.subschema_for::<ObjectCondition>(),
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
    })
}

fn nodes(generator: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": MAX_NODES,
        "items": generator.subschema_for::<IdentityNode>(),
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["node"],
    })
}

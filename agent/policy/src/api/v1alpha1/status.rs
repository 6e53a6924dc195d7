//! What agents say of an object in its `status`: whether it is in force, and what is wrong with it.
//!
//! In: nothing; agents write these. Out: the types that they write, and their part of the CRDs.
//!
//! A condition is the cluster's one word on a version of an object. Every agent judges that version alike, so that any agent may
//! write the condition, and agents that find it written do not write it again. An object has as many conditions with 500 nodes as with one.

use jiff::Timestamp;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

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

//! The objects that the agent read, and which of them are in force.
//!
//! In: the [`Store`]. Out: [`ObjectList`], the answer to `/v1/objects`, with an [`ObjectStatus`] for each object.

use serde::{Deserialize, Serialize};

use crate::store::{ObjectStatus, Store};

/// Every object that the sources hold or that is in force.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectList {
    /// Counts the sets that came into force since the agent's start.
    pub generation: u64,
    /// Why the last reading did not come into force; absent where it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// The objects, in the order of the sources.
    pub objects: Vec<ObjectStatus>,
}

impl From<&Store> for ObjectList {
    fn from(store: &Store) -> Self {
        let status = store.status();
        Self {
            generation: status.generation,
            last_error: status.last_error,
            objects: store.statuses(),
        }
    }
}

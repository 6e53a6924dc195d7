//! Requests and answers of the admin API, as types that server and client share.
//!
//! In: a path and a typed request. Out: the typed answer of that path, or an [`ApiError`].
//!
//! | request | answer |
//! |---|---|
//! | `GET /healthz` | `ok` |
//! | `GET /readyz` | [`ReadyReport`]; status 503 while it is not ready |
//! | `GET /version` | [`Version`] |
//! | `GET /metrics` | OpenMetrics text |
//! | `GET /v1/objects` | [`ObjectList`] |
//! | `GET /v1/sessions` with [`SessionQuery`] | [`SessionList`] |
//! | `POST /v1/sessions/kill` with [`KillRequest`] | [`KillAnswer`] |

mod agent;
mod health;
mod objects;
mod sessions;

use serde::{Deserialize, Serialize};

pub(super) use sessions::ID_MIN;

pub use agent::{AgentProcess, AgentState};
pub use health::{Failing, FailingPart, ReadyAnswer, ReadyReport, Version};
pub use objects::ObjectList;
pub use sessions::{
    Credential, KillAnswer, KillRequest, SessionItem, SessionList, SessionProcess, SessionQuery,
};

/// Where the agent says which of its parts wait or fail.
pub const READY: &str = "/readyz";

/// Where the metrics are.
pub const METRICS: &str = "/metrics";

/// Where objects are listed.
pub const OBJECTS: &str = "/v1/objects";

/// Where sessions are listed.
pub const SESSIONS: &str = "/v1/sessions";

/// Where sessions are ended.
pub const KILL_SESSIONS: &str = "/v1/sessions/kill";

/// Why there is no other answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiError {
    /// The reason in a sentence.
    pub error: String,
}

//! How much each agent of a policy may ask for, whatever it was granted.
//!
//! In: `spec.limits` of an AgentPolicy. Out: a [`Limits`], its part of the schema, and errors that no schema can express.

use std::ops::RangeInclusive;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::field::FieldErrors;
use crate::yaml::FieldPath;

/// Requests a second of one agent. Above this a node's own share of the API server ends, and a limit means nothing.
const REQUESTS_PER_SECOND: RangeInclusive<u32> = 1..=10_000;

/// Requests that may come at once: ten seconds of the highest rate.
const BURST: RangeInclusive<u32> = 1..=100_000;

/// Requests under way: what one pod may have at all.
const CONCURRENT_REQUESTS: RangeInclusive<u32> = 1..=8_192;

/// Refusals of one request in a minute: at more than this, what a loop writes to the audit log is no longer bounded by the limit.
const REPEATED_DENIALS: RangeInclusive<u32> = 1..=1_000;

/// How much each agent of a policy may ask for. Each node counts for itself, an AgentIdentity at a time. Of several policies the
/// strictest number of each field holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("minProperties" = 1))]
pub struct Limits {
    /// Requests a second, on average. Further ones are answered with 429 and `Retry-After`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000))]
    pub requests_per_second: Option<u32>,
    /// Requests that may come at once before `requestsPerSecond` holds. Without this field, two seconds' worth.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000))]
    pub burst: Option<u32>,
    /// Requests under way at the same time. Watches, followed logs and sessions count until they end. Further requests are answered
    /// with 429 and `Retry-After`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 8_192))]
    pub concurrent_requests: Option<u32>,
    /// How often within a minute the same request is refused with its reason. From then on, until the minute has passed, that request
    /// is answered with 429 and `Retry-After`, and has no records of its own. A request that is permitted passes at any time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000))]
    pub repeated_denials_per_minute: Option<u32>,
}

impl Limits {
    /// The burst that holds with a rate: two seconds' worth, as client-go's own limiter has it (QPS 5, burst 10).
    #[must_use]
    pub fn burst_of(&self, requests_per_second: u32) -> u32 {
        self.burst.unwrap_or(requests_per_second.saturating_mul(2))
    }

    pub(super) fn validate(&self, path: &FieldPath, errors: &mut FieldErrors) {
        if *self == Self::default() {
            let reason = format!(
                "field `{path}` limits nothing: give requestsPerSecond, concurrentRequests or repeatedDenialsPerMinute"
            );
            errors.add(path.clone(), reason);
        }
        for (name, value, range) in [
            ("requestsPerSecond", self.requests_per_second, REQUESTS_PER_SECOND),
            ("burst", self.burst, BURST),
            (
                "concurrentRequests",
                self.concurrent_requests,
                CONCURRENT_REQUESTS,
            ),
            (
                "repeatedDenialsPerMinute",
                self.repeated_denials_per_minute,
                REPEATED_DENIALS,
            ),
        ] {
            if let Some(value) = value.filter(|value| !range.contains(value)) {
                let path = path.field(name);
                let (least, most) = range.into_inner();
                let reason = format!("field `{path}` is {value}; it can be from {least} to {most}");
                errors.add(path, reason);
            }
        }
        if self.burst.is_some() && self.requests_per_second.is_none() {
            let path = path.field("burst");
            let reason = format!("field `{path}` has no effect without requestsPerSecond");
            errors.add(path, reason);
        }
    }
}

//! What the parts of the agent share while it runs.

pub mod metrics;
pub mod telemetry;

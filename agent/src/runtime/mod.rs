//! The process around the stages: its log and metrics, its signals, its readiness and its end.

pub mod drain;
pub mod limits;
pub mod readiness;
pub mod signals;
pub mod telemetry;

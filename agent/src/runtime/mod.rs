//! The process around the stages: its log, its signals, the data path's threads, how far it is, its readiness and its end.

pub mod backoff;
pub mod causes;
pub mod drain;
pub mod limits;
pub mod on_wake;
pub mod phase;
pub mod private_folder;
pub mod readiness;
pub mod signals;
pub mod telemetry;
pub mod workers;

//! The process around the stages, in modules that know nothing of pods or requests.
//!
//! In: what the system gives a process: signals, descriptors, threads, standard error. Out: its log, phase, readiness and data
//! path threads, and its drain at the end.

pub mod backoff;
pub mod causes;
pub mod chance;
pub mod drain;
pub mod epoch;
pub mod limits;
pub mod on_wake;
pub mod phase;
pub mod private_folder;
pub mod readiness;
pub mod signals;
pub mod state;
pub mod telemetry;
pub mod workers;

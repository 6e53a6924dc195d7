//! The audit log: what every request and every refused connection left behind.
//!
//! The pipeline begins a [`Record`] when a request arrives, adds each stage's facts as they are known, and the
//! record's `Drop` writes it, so no path can forget it. What must be on disk before it takes effect (writes, sessions,
//! denials) goes through [`Record::commit_before_effect`]. One thread owns the file, chains each line to the one before
//! ([`spool::chain`]) and syncs many records at once.
//!
//! The lines are `audit.k8s.io/v1` Events with more fields, so that existing consumers read them as they are.

mod event;
mod line;
mod log;
mod record;
mod redact;
pub mod spool;
mod stats;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

pub use event::{
    Alarm, AuditId, Caller, Connection, Decision, EndReason, Finding, KernelFacts, ObjectRef, Outcome,
    PodRef, ProcessRef, Received, ResponseStatus, Session, Stage, Summary, Text, User,
};
pub use log::{AuditLog, Observer};
pub use record::Record;
pub use redact::{redact_arguments, redact_text, redact_uri};
pub use stats::Stats;

/// Where the audit log is written, and read by `picket audit`, when nothing else is said.
pub const DEFAULT_FILE: &str = "/var/log/picket/audit.jsonl";

/// Where events go.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuditConfig {
    /// The file lines are appended to; created with mode 0600. It may be renamed at any time: the next line goes
    /// to a new file of that name.
    pub file: Option<PathBuf>,
    /// Write each line to standard output too. When there is no file this is the log, and what must be on disk
    /// before it takes effect is only as durable as what reads the output.
    pub stdout: bool,
    /// The node's name, part of every line.
    pub node: String,
}

/// Why the audit log cannot be opened or cannot take a record.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AuditError {
    /// Neither a file nor standard output was configured.
    #[error("audit: neither a file nor stdout is configured, so there is nowhere to write events")]
    Nowhere,
    /// The file cannot be opened or read.
    #[error("audit: cannot open {file}: {reason}")]
    Open {
        /// The file.
        file: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// Another process holds the file.
    #[error("audit: another process writes {0}; two writers would break its hash chain")]
    Locked(PathBuf),
    /// The writer's thread cannot be started.
    #[error("audit: cannot start the writer: {0}")]
    Thread(String),
    /// The record could not be written and synced.
    #[error("audit: the record cannot be written: {0}")]
    Write(String),
    /// The disk, or who reads standard output, took too long.
    #[error("audit: the record was not on disk in time")]
    Slow,
    /// The queue stayed full: the sink is too slow or does not take lines at all.
    #[error("audit: the queue is full and the log takes no more records")]
    Full,
    /// The writer has ended.
    #[error("audit: the log is closed")]
    Closed,
}

//! The audit log: one record for every request, and one for every refused connection.
//!
//! In: what the pipeline's stages know of a request, refused connections from `denied`, and alarms. Out: JSON lines in the
//! spool, which form a hash chain and which each sink copies.
//!
//! The pipeline begins a [`Record`] when a request arrives, and each stage adds its facts. The record's `Drop` writes it, so no
//! path can forget it. Writes, sessions and denials are on disk before they take effect: [`Record::commit_before_effect`].
//!
//! The lines are `audit.k8s.io/v1` Events with more fields, so existing consumers read them as they are.
//!
//! | file | holds |
//! |---|---|
//! | `log` | the handle that every request begins its record with: capacity, queue, flush |
//! | `record`, `ended` | the record of one request, and how it is written when it ends |
//! | `event`, `line`, `exec`, `token`, `digest` | the facts of a record, and their JSON shape |
//! | `redact`, `invisible`, `bounds` | secrets, characters that hide text, and texts that are too long |
//! | `spool` | one thread that writes segments; the hash chain and its verification |
//! | `sinks` | the copies, each at its own pace |
//! | `stats`, `metrics` | how the log is doing |

mod bounds;
mod digest;
mod ended;
mod event;
mod exec;
pub(crate) mod invisible;
mod line;
mod log;
mod metrics;
mod record;
pub(crate) mod redact;
pub mod sinks;
pub mod spool;
mod stats;
#[cfg(test)]
mod tests;
mod token;

use std::path::PathBuf;
use std::time::Duration;

pub(crate) use bounds::truncate;
pub use event::{
    Alarm, AlarmSubject, AuditId, Caller, Connection, DecisionFacts, EndReason, Finding, KernelFacts,
    ObjectRef, Outcome, PodRef, ProcessRef, RawQuery, Received, ResponseStatus, Session, Stage, Summary,
    Text, Trace, User,
};
pub use log::{AuditLog, Observer};
pub(crate) use metrics::register as register_metrics;
pub use record::{Record, RequestCount};
pub use redact::Redactor;
pub use sinks::{SinkConfig, SinkTarget};
pub use stats::Stats;
pub use token::{ActorFacts, PersonFacts, TokenFacts};

/// Where the spool is, and what `picket audit` reads, when nothing else is said.
pub const DEFAULT_DIRECTORY: &str = "/var/log/picket/audit";

/// How long a segment gets: a few minutes of a busy node's records, and 16 segments in the spool.
pub const DEFAULT_SEGMENT_SIZE: u64 = 64 * 1024 * 1024;

/// How old a segment gets: one a day on a quiet node.
pub const DEFAULT_SEGMENT_AGE: Duration = Duration::from_secs(24 * 60 * 60);

/// How much the spool holds: about a million records.
pub const DEFAULT_TOTAL_SIZE: u64 = 1024 * 1024 * 1024;

/// The audit log's settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditConfig {
    /// The node's name, part of every line.
    pub node: String,
    /// The spool's directory; made with mode 0700.
    pub directory: PathBuf,
    /// A segment that is so long ends with the next batch of lines.
    pub max_segment_size: u64,
    /// A segment that is so old ends with the next line.
    pub max_segment_age: Duration,
    /// All segments together. Beyond it the oldest go that every sink has read; where a sink still has to read them, the spool
    /// is full and takes no more records.
    pub max_total_size: u64,
    /// Where records are copied to.
    pub sinks: Vec<SinkConfig>,
}

impl Default for AuditConfig {
    fn default() -> Self {
        Self {
            node: String::new(),
            directory: PathBuf::from(DEFAULT_DIRECTORY),
            max_segment_size: DEFAULT_SEGMENT_SIZE,
            max_segment_age: DEFAULT_SEGMENT_AGE,
            max_total_size: DEFAULT_TOTAL_SIZE,
            sinks: Vec::new(),
        }
    }
}

/// Why the audit log cannot be opened or cannot take a record.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AuditError {
    /// The spool cannot be opened or read.
    #[error("audit: cannot open the spool {path}: {reason}")]
    Open {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// Another process holds the spool.
    #[error("audit: another process writes to the spool {0}; two writers would break its hash chain")]
    Locked(PathBuf),
    /// A sink cannot be opened.
    #[error("audit: cannot open sink `{name}`: {reason}")]
    Sink {
        /// The sink.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// A thread cannot be started.
    #[error("audit: cannot start the writer: {0}")]
    Thread(String),
    /// The record could not be written and synced.
    #[error("audit: the record cannot be written: {0}")]
    Write(String),
    /// The spool has no room, and what is in it is still to be delivered.
    #[error(
        "audit: the spool {directory} is full: it holds {size} bytes that sink {sinks} has not taken; \
         repair the sink, remove it from the configuration, or raise audit.maxTotalSize"
    )]
    SpoolFull {
        /// The directory.
        directory: PathBuf,
        /// Its size.
        size: u64,
        /// The sinks that hold it up.
        sinks: String,
    },
    /// The disk took too long.
    #[error("audit: the record was not on disk in time")]
    Slow,
    /// The queue stayed full: the disk is too slow or does not take lines at all.
    #[error("audit: the queue is full and the log takes no more records")]
    Full,
    /// The writer has ended.
    #[error("audit: the log is closed")]
    Closed,
}

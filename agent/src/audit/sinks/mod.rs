//! Sinks: where stored records are copied to. Each tails the spool from a checkpoint of its own, on a thread of its own.
//!
//! In: a spool that grows. Out: each record at each sink, in order, at least once. A sink that is slow, stalled or broken holds up
//! nobody but itself, until the spool has no room for what it has not read ([`spool::rotate`](super::spool)).
//!
//! # Adding a sink
//! 1. Write `sinks/<kind>.rs` with a type that implements [`Sink`]; [`file`] and [`stdout`] show the two kinds there are: a
//!    target that can be asked what it has, and one that cannot.
//! 2. Add a variant to [`SinkTarget`] with what it needs, and an arm to [`SinkTarget::open`].
//! 3. Read it in `config/audit.rs`, which refuses what makes no sense.
//! 4. Add its keys to `FIELDS` in `config/reference.rs`, which lists the keys that are known and makes the reference page.
//! 5. Have `config/files.rs` try what it needs, for `picket doctor`.
//!
//! Checkpoints, retries, lag and metrics come with [`delivery`]; a sink knows nothing of them.

pub(crate) mod checkpoint;
mod delivery;
mod file;
mod gap;
mod stdout;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::AuditError;
use super::spool::chain::Hash;
use super::spool::segment::{Position, Segment};
use super::spool::view::SpoolView;
use gap::Gap;
use parking_lot::Mutex;

pub use checkpoint::Checkpoint;

/// A target for stored records. All calls come from the sink's own thread and may take as long as they need.
pub trait Sink: Send {
    /// What the target ends with. Asked before the first delivery and after each failed one, so that records which it has
    /// already are not sent again. A target that cannot be asked knows nothing.
    ///
    /// # Errors
    /// The target cannot be reached; delivery is tried again later.
    fn resume(&mut self) -> Result<TargetEnd, SinkError> {
        Ok(TargetEnd::default())
    }

    /// Gives the target records, whole lines with their newlines, and returns when the target has taken them.
    ///
    /// # Errors
    /// The target did not take all of them. They are delivered again from the place that [`Sink::resume`] tells.
    fn deliver(&mut self, lines: &[u8]) -> Result<(), SinkError>;

    /// Makes durable what was delivered. The checkpoint moves past it afterwards.
    ///
    /// # Errors
    /// It is not durable, and counts as not delivered.
    fn sync(&mut self) -> Result<(), SinkError> {
        Ok(())
    }
}

/// What a target ends with.
#[derive(Debug, Default)]
pub struct TargetEnd {
    /// The hash of its last whole record, where it has one.
    pub last: Option<Hash>,
    /// The beginning of a line that was cut short.
    pub partial: Vec<u8>,
}

/// Why a sink does not take records.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// The target, as the sink names it, and what the system said.
    #[error("{target}: {source}")]
    Target {
        /// The target.
        target: String,
        /// What the system said.
        source: io::Error,
    },
    /// The spool cannot be read, or the checkpoint not written.
    #[error("the audit spool: {0}")]
    Spool(#[from] io::Error),
}

/// One configured sink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SinkConfig {
    /// Its name: of its checkpoint, in metrics and in messages.
    pub name: String,
    /// Where records go.
    pub target: SinkTarget,
}

/// Where a sink's records go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SinkTarget {
    /// Appended to a file, which may be renamed at any time: the next record goes to a new file of that name.
    File {
        /// Its path.
        path: PathBuf,
    },
    /// Standard output.
    Stdout,
}

impl fmt::Display for SinkTarget {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SinkTarget::File { path } => write!(out, "file {}", path.display()),
            SinkTarget::Stdout => out.write_str("stdout"),
        }
    }
}

impl SinkTarget {
    fn open(&self) -> Result<Box<dyn Sink>, SinkError> {
        Ok(match self {
            SinkTarget::File { path } => Box::new(file::FileSink::open(path)?),
            SinkTarget::Stdout => Box::new(stdout::StreamSink::stdout()?),
        })
    }
}

/// How a sink is doing, for metrics and messages.
#[derive(Debug)]
pub struct SinkStats {
    name: String,
    reached: Mutex<Position>,
    records: AtomicU64,
    bytes: AtomicU64,
    errors: AtomicU64,
    gaps: AtomicU64,
    failing: Mutex<Option<String>>,
}

impl SinkStats {
    fn new(name: &str, reached: Position) -> Self {
        Self {
            name: name.to_owned(),
            reached: Mutex::new(reached),
            records: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            gaps: AtomicU64::new(0),
            failing: Mutex::new(None),
        }
    }

    /// The sink's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Records delivered since the start.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.records.load(Relaxed)
    }

    /// Bytes delivered since the start.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    /// Deliveries that failed since the start.
    #[must_use]
    pub fn errors(&self) -> u64 {
        self.errors.load(Relaxed)
    }

    /// Places since the start where records that the sink has not taken were gone from the spool.
    #[must_use]
    pub fn gaps(&self) -> u64 {
        self.gaps.load(Relaxed)
    }

    /// Bytes in the spool that the sink has not taken.
    #[must_use]
    pub fn lag_bytes(&self, segments: &[Segment]) -> u64 {
        self.reached.lock().bytes_behind(segments)
    }

    /// Why it takes no records now; `None` while all is well.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        self.failing.lock().clone()
    }

    fn reached(&self, position: Position) {
        *self.reached.lock() = position;
    }

    fn delivered(&self, records: u64, bytes: usize) {
        self.records.fetch_add(records, Relaxed);
        self.bytes
            .fetch_add(u64::try_from(bytes).unwrap_or(u64::MAX), Relaxed);
    }

    fn misses(&self, gaps: &[Gap]) {
        let Some(first) = gaps.first() else {
            return;
        };
        self.gaps.fetch_add(gaps.len() as u64, Relaxed);
        tracing::error!(
            sink = self.name,
            missing = %first,
            more_gaps = gaps.len() - 1,
            "audit records that the sink has not taken were removed from the spool or changed there; it goes on behind them"
        );
    }

    fn fails(&self, error: &SinkError) {
        self.errors.fetch_add(1, Relaxed);
        let mut failing = self.failing.lock();
        if failing.replace(error.to_string()).is_none() {
            tracing::error!(
                sink = self.name,
                %error,
                "the audit sink takes no records; they wait in the spool"
            );
        }
    }

    fn works(&self) {
        let mut failing = self.failing.lock();
        if failing.take().is_some() {
            tracing::info!(sink = self.name, "the audit sink takes records again");
        }
    }
}

/// Starts a thread for each sink. They end once the spool is closed and read.
pub(super) fn start(
    sinks: &[SinkConfig],
    directory: &Path,
    oldest: Position,
    view: &Arc<SpoolView>,
) -> Result<Vec<Arc<SinkStats>>, AuditError> {
    sinks
        .iter()
        .map(|sink| {
            let failed = |error: SinkError| AuditError::Sink {
                name: sink.name.clone(),
                reason: error.to_string(),
            };
            let target = sink.target.open().map_err(failed)?;
            delivery::start(&sink.name, target, directory, oldest, view).map_err(failed)
        })
        .collect()
}

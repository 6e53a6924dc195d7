//! How the log is doing: its capacity, its counters, and why it takes nothing.
//!
//! In: what the log, the writer and the sinks count. Out: [`Stats`], which metrics, readiness and the log's own limits read.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::sinks::SinkStats;
use super::spool::view::SpoolView;

/// Records begun and not yet written: requests in flight, live sessions, and lines that wait for the file. A record
/// is about 1.5 KB, so a log that takes nothing more holds at most some 50 MB before requests are refused.
const REQUEST_SLOTS: usize = 32_768;

/// Bytes of lines that wait for the file. Records differ: one of an exec keeps 64 KB of its command.
pub(super) const WAITING_BYTES: usize = 64 * 1024 * 1024;

/// Connection events waiting to be written. They have their own room, so that a pod that dials refused addresses in
/// a loop cannot take the room of other pods' requests.
const CONNECTION_SLOTS: usize = 1_024;

/// Alarms waiting to be written. They have their own room too: a log that is full of other records must not keep an alarm out, and
/// whoever raises one must not wait. Each tells of a detached kernel program or a revocation taken back, so more in a row are rare.
const ALARM_SLOTS: usize = 64;

/// Counters of the log, for metrics and readiness.
#[derive(Debug)]
pub struct Stats {
    pub(super) requests: Arc<Semaphore>,
    pub(super) connections: Arc<Semaphore>,
    pub(super) alarms: Arc<Semaphore>,
    pub(super) dropped_alarms: AtomicU64,
    /// Bytes of lines that wait for the file.
    pub(super) waiting_bytes: Arc<AtomicUsize>,
    pub(super) lines: AtomicU64,
    pub(super) bytes: AtomicU64,
    pub(super) errors: AtomicU64,
    pub(super) syncs: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) lag_micros: AtomicU64,
    spool: Arc<SpoolView>,
    sinks: Vec<Arc<SinkStats>>,
    failing: AtomicBool,
    last_error: Mutex<Option<String>>,
}

impl Stats {
    pub(super) fn new(spool: Arc<SpoolView>, sinks: Vec<Arc<SinkStats>>) -> Self {
        Self {
            spool,
            sinks,
            ..Self::default()
        }
    }

    /// Takes all room for connection records, and for all alarms but one, as a log does that takes nothing.
    #[cfg(test)]
    pub(crate) fn hold_all_but_one_alarm(&self) -> [tokio::sync::OwnedSemaphorePermit; 2] {
        [
            (&self.connections, CONNECTION_SLOTS),
            (&self.alarms, ALARM_SLOTS - 1),
        ]
        .map(|(slots, count)| {
            let held = Arc::clone(slots).try_acquire_many_owned(u32::try_from(count).expect("few"));
            held.expect("nothing waits yet")
        })
    }

    /// What the spool holds.
    pub fn spool(&self) -> &Arc<SpoolView> {
        &self.spool
    }

    /// The sinks, in the order of the configuration.
    pub fn sinks(&self) -> &[Arc<SinkStats>] {
        &self.sinks
    }
}

impl Default for Stats {
    fn default() -> Self {
        Self {
            spool: Arc::default(),
            sinks: Vec::new(),
            requests: Arc::new(Semaphore::new(REQUEST_SLOTS)),
            connections: Arc::new(Semaphore::new(CONNECTION_SLOTS)),
            alarms: Arc::new(Semaphore::new(ALARM_SLOTS)),
            dropped_alarms: AtomicU64::new(0),
            waiting_bytes: Arc::default(),
            lines: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            syncs: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            lag_micros: AtomicU64::new(0),
            failing: AtomicBool::new(false),
            last_error: Mutex::new(None),
        }
    }
}

impl Stats {
    /// Records begun and not yet written: requests in flight and lines that wait for the file.
    pub fn in_flight(&self) -> usize {
        REQUEST_SLOTS.saturating_sub(self.requests.available_permits())
            + CONNECTION_SLOTS.saturating_sub(self.connections.available_permits())
            + ALARM_SLOTS.saturating_sub(self.alarms.available_permits())
    }

    /// Alarms that there was no room for.
    pub fn dropped_alarms(&self) -> u64 {
        self.dropped_alarms.load(Relaxed)
    }

    /// Lines written.
    pub fn lines(&self) -> u64 {
        self.lines.load(Relaxed)
    }

    /// Bytes written.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    /// Failed writes and syncs.
    pub fn errors(&self) -> u64 {
        self.errors.load(Relaxed)
    }

    /// Syncs to disk; with the lines, how well commits are grouped.
    pub fn syncs(&self) -> u64 {
        self.syncs.load(Relaxed)
    }

    /// Requests that were refused because their record found no room or could not be put on disk.
    pub fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }

    /// Age of the oldest record of the last write, when it was written.
    pub fn lag(&self) -> Duration {
        Duration::from_micros(self.lag_micros.load(Relaxed))
    }

    /// Why the log takes no lines now; `None` while all is well.
    pub fn failure(&self) -> Option<String> {
        if !self.failing.load(Relaxed) {
            return None;
        }
        self.last_error.lock().clone()
    }

    pub(super) fn failed(&self, reason: &str) {
        self.errors.fetch_add(1, Relaxed);
        *self.last_error.lock() = Some(reason.to_owned());
        if !self.failing.swap(true, Relaxed) {
            tracing::error!(
                reason,
                "the audit log cannot be written: writes, sessions and denials are refused"
            );
        }
    }

    pub(super) fn recovered(&self) {
        if self.failing.swap(false, Relaxed) {
            tracing::info!("the audit log is written again");
        }
    }
}

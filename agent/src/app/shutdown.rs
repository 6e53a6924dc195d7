//! The agent's end in order: nothing more is accepted, what came is served to its end, and what is known is written down.
//!
//! In: tokens that the parts cancel when they are through. Out: whoever ends the process waits for them, within limits.

use std::time::Duration;

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::runtime::drain::Drain;

/// How long listeners may take to stop, and what they accepted to reach the pipeline: both take microseconds.
const STOP_LIMIT: Duration = Duration::from_secs(2);

/// What an end in order passes through: accepting, handing on, draining.
#[derive(Debug, Default)]
pub(super) struct Shutdown {
    /// What takes something in: the listeners, and the reader of the kernel's events.
    pub(super) accepting: TaskTracker,
    /// Nobody accepts any more.
    pub(super) last: CancellationToken,
    /// What was accepted is with the drain.
    pub(super) handed_on: CancellationToken,
    pub(super) drain: Drain,
    /// Nothing is served any more, so that nothing more is denied.
    pub(super) served: CancellationToken,
    /// The denials are with the audit log.
    pub(super) written: CancellationToken,
    /// The API server knows that this agent stops, or is not told.
    pub(super) said: CancellationToken,
}

impl Shutdown {
    /// Waits until nothing more comes, and what came is being served.
    pub(super) async fn stop_accepting(&self) {
        self.accepting.close();
        if timeout(STOP_LIMIT, self.accepting.wait()).await.is_err() {
            tracing::warn!("a listener does not stop accepting in time");
        }
        self.last.cancel();
        if timeout(STOP_LIMIT, self.handed_on.cancelled()).await.is_err() {
            tracing::warn!("connections that were just accepted are not served in time");
        }
    }

    /// Waits until the API server knows that this agent stops, as long as that may take.
    pub(super) async fn say_stopped(&self) {
        if timeout(STOP_LIMIT, self.said.cancelled()).await.is_err() {
            tracing::debug!("the last status of this node is not written in time");
        }
    }

    /// Waits until the denials that are known are with the audit log.
    pub(super) async fn write_denials(&self) {
        self.served.cancel();
        if timeout(STOP_LIMIT, self.written.cancelled()).await.is_err() {
            tracing::warn!("the last denied connections are not recorded in time");
        }
    }
}

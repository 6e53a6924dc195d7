//! How often the webhooks gave each answer.
//!
//! In: what became of each request. Out: one line of the log a minute, where any came.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How often the counts are told.
const PERIOD: Duration = Duration::from_secs(60);

/// What became of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AdmissionResult {
    /// The object was changed.
    Changed,
    /// All was as it has to be.
    Unchanged,
    /// The object was refused.
    Refused,
    /// It was no question of the API server's: another path, no AdmissionReview, or a body that is too long.
    Invalid,
    /// It ended without a question: no TLS, too slow, or too many connections of one address.
    Failed,
}

const RESULTS: [AdmissionResult; 5] = [
    AdmissionResult::Changed,
    AdmissionResult::Unchanged,
    AdmissionResult::Refused,
    AdmissionResult::Invalid,
    AdmissionResult::Failed,
];

/// The counts since the start.
#[derive(Debug, Default)]
pub(super) struct AdmissionCounts([AtomicU64; RESULTS.len()]);

impl AdmissionCounts {
    pub(super) fn count(&self, result: AdmissionResult) {
        self.0[result as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn of(&self, result: AdmissionResult) -> u64 {
        self.0[result as usize].load(Ordering::Relaxed)
    }

    /// Tells them each minute in which any changed.
    pub(super) async fn tell(&self) {
        let mut before = 0;
        loop {
            tokio::time::sleep(PERIOD).await;
            let [changed, unchanged, refused, invalid, failed] = RESULTS.map(|result| self.of(result));
            let all = changed + unchanged + refused + invalid + failed;
            if all != before {
                tracing::info!(
                    changed,
                    unchanged,
                    refused,
                    invalid,
                    failed,
                    "what the webhooks answered since the start"
                );
            }
            before = all;
        }
    }
}

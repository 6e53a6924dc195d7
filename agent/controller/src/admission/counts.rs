//! How often the webhooks gave each answer.
//!
//! In: what became of each request. Out: a metric, and one line of the log a minute, where any came.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use picket_metrics::CounterFamily;

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

impl AdmissionResult {
    fn label(self) -> &'static str {
        match self {
            Self::Changed => "changed",
            Self::Unchanged => "unchanged",
            Self::Refused => "refused",
            Self::Invalid => "invalid",
            Self::Failed => "failed",
        }
    }
}

/// The counts since the start.
#[derive(Debug)]
pub(super) struct AdmissionCounts {
    counts: [AtomicU64; RESULTS.len()],
    metric: CounterFamily<1>,
}

impl AdmissionCounts {
    pub(super) fn new(metric: CounterFamily<1>) -> Self {
        for result in RESULTS {
            metric.show([result.label()]);
        }
        Self {
            counts: Default::default(),
            metric,
        }
    }

    pub(super) fn count(&self, result: AdmissionResult) {
        self.counts[result as usize].fetch_add(1, Ordering::Relaxed);
        self.metric.inc([result.label()]);
    }

    pub(super) fn of(&self, result: AdmissionResult) -> u64 {
        self.counts[result as usize].load(Ordering::Relaxed)
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

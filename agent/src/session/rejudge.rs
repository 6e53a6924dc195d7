//! Judges the sessions again whenever something changed that a judgement depends on.
//!
//! In: changes of the policy set, of pods, and the passing of time. Out: [`Registry::sweep`], on a thread that may block, so
//! that thousands of sessions do not hold up those that carry requests. Changes that come during a sweep share the next.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};

use super::Registry;
use crate::reject::Rejection;

/// The longest sleep until an expiry. The expiry is a date and the sleep is not, so the clock is looked at again: it may
/// have been set, or the machine may have slept.
const NAP: Duration = Duration::from_secs(1);

/// How long to sleep when an expiry is `milliseconds` away.
pub(super) fn nap(milliseconds: i64) -> Duration {
    Duration::from_millis(u64::try_from(milliseconds).unwrap_or(0)).min(NAP)
}

/// Tells that what is known of a pod was replaced, or that a pod was released; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct PodChanges(Arc<Notify>);

impl PodChanges {
    /// To be called after the change.
    pub fn changed(&self) {
        self.0.notify_one();
    }
}

/// Sweeps after each change of `policy` and of `pods`, and when time alone ends a session; for as long as it is polled.
pub async fn run<T>(registry: Registry, mut policy: watch::Receiver<T>, pods: PodChanges) {
    let mut policy_changes = true;
    loop {
        tokio::select! {
            changed = policy.changed(), if policy_changes => policy_changes = changed.is_ok(),
            () = pods.0.notified() => {}
            () = registry.expired() => {}
        }
        let (sweeping, since) = (registry.clone(), Instant::now());
        let swept = tokio::task::spawn_blocking(move || sweeping.sweep(since)).await;
        match swept {
            Ok(0) => {}
            Ok(ended) => tracing::info!(ended, millis = since.elapsed().as_millis(), "sessions were ended"),
            Err(error) => {
                let ended = registry.end_all(&Rejection::Unjudged, since);
                tracing::error!(%error, ended, "sessions could not be judged again, so they were ended");
            }
        }
    }
}

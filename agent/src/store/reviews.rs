//! Identities that somebody should have looked at: told in the log and counted.
//!
//! In: the identities in force, and the time. Out: a warning for each whose `reviewBy` has passed, at once and then daily; and the
//! metric `picket_identities_review_overdue`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use picket_policy::Identity;
use picket_policy::api::v1alpha1::State;
use prometheus_client::metrics::gauge::Gauge;

use super::Store;
use crate::metrics::MetricsRegistry;

/// How often somebody is told of the same identity.
const AGAIN: SignedDuration = SignedDuration::from_hours(24);

/// How often the clock is looked at: a review is a matter of days.
const LOOK: Duration = Duration::from_secs(60);

/// The metric of reviews; cheap to clone.
#[derive(Debug, Clone)]
pub struct ReviewMetrics {
    overdue: Gauge,
}

impl ReviewMetrics {
    /// Registers it.
    pub fn register(registry: &MetricsRegistry) -> Self {
        Self {
            overdue: registry.gauge(
                "identities_review_overdue",
                "AgentIdentities in force whose reviewBy has passed, but for revoked ones",
            ),
        }
    }

    /// Counts and tells for as long as it is polled. `now` is the clock.
    pub(crate) async fn follow(self, store: Arc<Store>, now: impl Fn() -> Timestamp) {
        let mut changes = store.changes();
        let mut reminders = Reminders::default();
        loop {
            let set = store.current();
            let due = reminders.look(set.identities(), now());
            self.overdue.set(i64::try_from(due.overdue).unwrap_or(i64::MAX));
            for (identity, at) in due.to_tell {
                tracing::warn!(
                    identity = %identity.name,
                    owner = %identity.owner,
                    review_by = %at,
                    "the review of an agent is overdue: look at it with `picket identity review`, and set a later reviewBy"
                );
            }
            drop(set);
            // Whichever comes first; without a store nothing changes any more.
            let changed = tokio::time::timeout(LOOK, changes.changed()).await;
            if matches!(changed, Ok(Err(_))) {
                std::future::pending::<()>().await;
            }
        }
    }
}

/// When somebody was told of each identity.
#[derive(Debug, Default)]
struct Reminders {
    told: HashMap<String, (Timestamp, Timestamp)>,
}

/// What a look finds.
#[derive(Debug, Default)]
struct Due<'i> {
    overdue: usize,
    /// Identities that somebody is to be told of now, with the moment of each review.
    to_tell: Vec<(&'i Identity, Timestamp)>,
}

impl Reminders {
    /// Looks at the identities in force. One whose review was put off and is overdue again is told of at once.
    fn look<'i>(&mut self, identities: &'i [Arc<Identity>], now: Timestamp) -> Due<'i> {
        let (mut due, mut told) = (Due::default(), HashMap::new());
        for identity in identities {
            let Some(at) = identity
                .review_by
                .filter(|at| *at <= now && identity.state != State::Revoked)
            else {
                continue;
            };
            due.overdue += 1;
            let before = self.told.get(&identity.name).filter(|(review, _)| *review == at);
            let last = match before {
                Some((_, last)) if now.duration_since(*last) < AGAIN => *last,
                _ => {
                    due.to_tell.push((identity, at));
                    now
                }
            };
            told.insert(identity.name.clone(), (at, last));
        }
        self.told = told;
        due
    }
}

#[cfg(test)]
mod tests {
    use picket_policy::{PolicySet, read_documents};

    use super::*;

    fn set(review_by: &str, state: &str) -> PolicySet {
        let text = format!(
            "apiVersion: picket.dev/v1alpha1\nkind: AgentIdentity\nmetadata: {{name: a}}\nspec: {{owner: o, state: {state}, reviewBy: {review_by}, \
             attest: {{pod: {{namespace: n, serviceAccount: s}}}}}}\n"
        );
        PolicySet::compile(read_documents("a.yaml", &text).expect("readable")).expect("valid")
    }

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a moment")
    }

    #[test]
    fn an_overdue_review_is_told_at_once_and_then_daily() {
        let set = set("2026-01-02T00:00:00Z", "Active");
        let mut reminders = Reminders::default();
        for (now, overdue, told) in [
            ("2026-01-01T23:59:59Z", 0, 0),
            ("2026-01-02T00:00:00Z", 1, 1),
            ("2026-01-02T00:01:00Z", 1, 0),
            ("2026-01-02T23:59:59Z", 1, 0),
            ("2026-01-03T00:00:00Z", 1, 1),
            ("2026-01-03T00:01:00Z", 1, 0),
        ] {
            let due = reminders.look(set.identities(), at(now));
            assert_eq!((due.overdue, due.to_tell.len()), (overdue, told), "{now}");
        }
    }

    #[test]
    fn a_review_that_was_put_off_is_told_anew_and_a_revoked_agent_needs_none() {
        let mut reminders = Reminders::default();
        let first = set("2026-01-02T00:00:00Z", "Suspended");
        assert_eq!(
            reminders
                .look(first.identities(), at("2026-01-02T00:00:00Z"))
                .to_tell
                .len(),
            1
        );
        let later = set("2026-01-02T12:00:00Z", "Active");
        assert_eq!(
            reminders
                .look(later.identities(), at("2026-01-02T11:00:00Z"))
                .overdue,
            0
        );
        assert_eq!(
            reminders
                .look(later.identities(), at("2026-01-02T12:00:00Z"))
                .to_tell
                .len(),
            1
        );
        let revoked = set("2026-01-02T00:00:00Z", "Revoked");
        assert_eq!(
            reminders
                .look(revoked.identities(), at("2026-02-02T00:00:00Z"))
                .overdue,
            0
        );
    }

    #[tokio::test(start_paused = true)]
    async fn time_alone_makes_a_review_overdue() {
        let folder = tempfile::tempdir().expect("a folder");
        let text = "apiVersion: picket.dev/v1alpha1\nkind: AgentIdentity\nmetadata: {name: a}\nspec: {owner: o, reviewBy: \
             2026-01-02T00:00:00Z, attest: {pod: {namespace: n, serviceAccount: s}}}\n";
        std::fs::write(folder.path().join("a.yaml"), text).expect("written");
        let store = Arc::new(Store::open(&[folder.path().to_owned()]).expect("valid"));
        let registry = MetricsRegistry::default();
        let metrics = ReviewMetrics::register(&registry);
        let began = tokio::time::Instant::now();
        let clock = move || {
            let passed = SignedDuration::try_from(began.elapsed()).unwrap_or_default();
            at("2026-01-01T23:58:00Z")
                .saturating_add(passed)
                .unwrap_or(Timestamp::MAX)
        };
        let following = tokio::spawn(metrics.clone().follow(store, clock));
        tokio::time::sleep(Duration::from_secs(30)).await;
        assert_eq!(metrics.overdue.get(), 0);
        tokio::time::sleep(Duration::from_secs(150)).await;
        assert_eq!(metrics.overdue.get(), 1);
        following.abort();
    }
}

//! Tells the API server what became of the cluster's objects, in the conditions of their status.
//!
//! In: the objects as they were judged last, and the conditions that the API server shows. Out: server-side applies of the conditions,
//! only where they differ.
//!
//! Every agent judges an object alike, so that one write is enough for a cluster. All agents write as one field manager: an apply is
//! the whole truth about the conditions, and the last one holds. Before it writes, an agent waits for a moment of its own choice and
//! looks again: mostly another agent was earlier. The chance of a moment grows with time, so that of many agents few come first
//! together, and a single one is not late.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use kube::api::{DynamicObject, Patch, PatchParams};
use kube::{Api, Client};
use picket_policy::api::API_VERSION;
use picket_policy::api::v1alpha1::ObjectCondition;
use serde_json::json;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::cluster::{ClusterObjects, KINDS, same_condition};
use super::follow::api_resource;
use super::judged::Judged;
use super::{Store, StoreMetrics};
use crate::cluster::{Connector, printable};

/// The field manager of every agent's conditions.
const MANAGER: &str = "picket";

/// The longest that an agent waits for another one to write first. A fault is told within 2 s.
const LONGEST_WAIT: Duration = Duration::from_millis(1200);

/// How often an agent may write the same about one object, where others write otherwise or a write failed.
const REPEAT: Duration = Duration::from_secs(30);

/// The pause between two writes of one agent: at most 20 a second.
const PACE: Duration = Duration::from_millis(50);

/// How often the conditions are compared without a new set: somebody may have changed or removed them.
const COMPARE: Duration = Duration::from_secs(30);

/// How long one write may take.
const WRITE_LIMIT: Duration = Duration::from_secs(5);

/// An object by kind, name and UID.
type ObjectId = (usize, String, String);

/// A write that waits for its moment.
#[derive(Debug, Clone, Copy)]
struct Planned {
    due: Instant,
    generation: i64,
    ready: bool,
}

impl Store {
    /// Writes conditions until cancelled.
    pub(crate) async fn report_conditions(
        self: Arc<Self>,
        connector: Connector,
        metrics: StoreMetrics,
        cancel: CancellationToken,
    ) {
        let Some(cluster) = self.cluster.clone() else {
            return cancel.cancelled().await;
        };
        let reporter = Reporter {
            store: self,
            cluster,
            connector,
            metrics,
            client: None,
            planned: BTreeMap::new(),
            written: BTreeMap::new(),
            failing: false,
        };
        tokio::select! {
            () = cancel.cancelled() => {}
            () = reporter.run() => {}
        }
    }
}

struct Reporter {
    store: Arc<Store>,
    cluster: Arc<ClusterObjects>,
    connector: Connector,
    metrics: StoreMetrics,
    client: Option<Client>,
    planned: BTreeMap<ObjectId, Planned>,
    /// What this agent wrote last, and when.
    written: BTreeMap<ObjectId, (i64, bool, Instant)>,
    failing: bool,
}

impl Reporter {
    async fn run(mut self) {
        let mut changes = self.store.changes();
        loop {
            self.plan();
            let next = self.next();
            let due = next.as_ref().map_or(COMPARE, |(_, planned)| {
                planned.due.saturating_duration_since(Instant::now())
            });
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(due) => if let Some((id, _)) = next {
                    self.planned.remove(&id);
                    self.write(id).await;
                }
            }
        }
    }

    /// The write that is due first; of those that are due, faults go before good news.
    fn next(&self) -> Option<(ObjectId, Planned)> {
        let now = Instant::now();
        let order = |planned: &Planned| (planned.due.max(now), planned.ready);
        let first = self.planned.iter().min_by_key(|(_, planned)| order(planned));
        first.map(|(id, planned)| (id.clone(), *planned))
    }

    /// Plans a write for each object whose conditions differ, and drops those that differ no more.
    fn plan(&mut self) {
        let judged = self.judged();
        let mut planned = BTreeMap::new();
        let now = Instant::now();
        for object in judged.objects() {
            let entry = object.entry;
            let Some(shown) = self
                .cluster
                .shown_conditions(entry.place, &entry.name, &entry.uid)
            else {
                continue;
            };
            if agree(&object.conditions(Timestamp::UNIX_EPOCH), &shown) {
                continue;
            }
            let (id, ready) = (
                (entry.place, entry.name.clone(), entry.uid.clone()),
                object.is_ready(),
            );
            let wanted = (entry.generation, ready);
            let earliest = match self.written.get(&id) {
                Some((generation, was_ready, at)) if (*generation, *was_ready) == wanted => *at + REPEAT,
                _ => now,
            };
            let before = self.planned.get(&id);
            let before = before.filter(|before| (before.generation, before.ready) == wanted);
            let due = before.map_or_else(|| earliest + wait(chance()), |before| before.due);
            planned.insert(
                id,
                Planned {
                    due,
                    generation: entry.generation,
                    ready,
                },
            );
        }
        self.planned = planned;
        self.written.retain(|_, (_, _, at)| at.elapsed() < REPEAT);
    }

    fn judged(&self) -> Arc<Judged> {
        Arc::clone(&self.store.judged.lock())
    }

    /// Writes an object's conditions, if they still differ.
    async fn write(&mut self, id: ObjectId) {
        let (place, name, uid) = &id;
        let judged = self.judged();
        let object = judged.objects().find(|object| {
            (object.entry.place, &object.entry.name, &object.entry.uid) == (*place, name, uid)
        });
        let shown = self.cluster.shown_conditions(*place, name, uid);
        let (Some(object), Some(shown)) = (object, shown) else {
            return;
        };
        let mut wanted = object.conditions(Timestamp::now());
        if agree(&wanted, &shown) {
            return;
        }
        keep_times(&mut wanted, &shown);
        let stamp = (object.entry.generation, object.is_ready(), Instant::now());
        let written = timeout(WRITE_LIMIT, self.apply(*place, name, uid, &wanted)).await;
        let error = match written {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error),
            Err(_) => Some("the API server does not answer".to_owned()),
        };
        self.metrics.status_written(error.is_none());
        match error {
            None => self.failing = false,
            Some(error) => {
                self.client = None;
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::warn!(
                        error,
                        name,
                        "the agent cannot write an object's status; deploy/rbac.yaml has the rights for it"
                    );
                }
            }
        }
        self.written.insert(id, stamp);
        tokio::time::sleep(PACE).await;
    }

    async fn apply(
        &mut self,
        place: usize,
        name: &str,
        uid: &str,
        conditions: &[ObjectCondition],
    ) -> Result<(), String> {
        let client = match &self.client {
            Some(client) => client.clone(),
            None => {
                let client = self
                    .connector
                    .connect()
                    .await
                    .map_err(|error| error.to_string())?;
                self.client.insert(client).clone()
            }
        };
        let api = Api::<DynamicObject>::all_with(client, &api_resource(place));
        // The UID keeps the status of a removed object from one that was made anew under its name.
        let patch = json!({
            "apiVersion": API_VERSION, "kind": KINDS[place].kind,
            "metadata": {"name": name, "uid": uid},
            "status": {"conditions": conditions},
        });
        let parameters = PatchParams::apply(MANAGER).force();
        let applied = api.patch_status(name, &parameters, &Patch::Apply(&patch)).await;
        applied.map(drop).map_err(|error| printable(&error))
    }
}

/// Whether conditions say the same, their times and words aside.
fn agree(wanted: &[ObjectCondition], shown: &[ObjectCondition]) -> bool {
    let said = |condition: &ObjectCondition| shown.iter().any(|shown| same_condition(condition, shown));
    wanted.len() == shown.len() && wanted.iter().all(said)
}

/// A condition that holds as before has the time from before.
fn keep_times(wanted: &mut [ObjectCondition], shown: &[ObjectCondition]) {
    for condition in wanted {
        let before = shown.iter().find(|shown| shown.kind == condition.kind);
        if let Some(before) = before.filter(|before| before.status == condition.status) {
            condition.last_transition_time = before.last_transition_time;
        }
    }
}

/// A number from 0 to 1, by chance.
pub(super) fn chance() -> f64 {
    f64::from(u32::try_from(uuid::Uuid::new_v4().as_u128() & 0xffff_ffff).unwrap_or_default())
        / f64::from(u32::MAX)
}

/// The wait for a chance: its fourth root, of the longest.
fn wait(chance: f64) -> Duration {
    LONGEST_WAIT.mul_f64(chance.clamp(0.0, 1.0).sqrt().sqrt())
}

#[cfg(test)]
mod tests {
    use picket_policy::api::v1alpha1::ConditionStatus;

    use super::*;

    fn ready(status: ConditionStatus, generation: i64, time: &str) -> ObjectCondition {
        ObjectCondition {
            kind: "Ready".to_owned(),
            status,
            observed_generation: generation,
            last_transition_time: time.parse().expect("a time"),
            reason: "InForce".to_owned(),
            message: time.to_owned(),
        }
    }

    #[test]
    fn words_and_times_alone_are_no_difference() {
        let (one, other) = ("2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z");
        let wanted = [ready(ConditionStatus::True, 2, one)];
        assert!(agree(&wanted, &[ready(ConditionStatus::True, 2, other)]));
        assert!(!agree(&wanted, &[ready(ConditionStatus::True, 1, one)]));
        assert!(!agree(&wanted, &[ready(ConditionStatus::False, 2, one)]));
        assert!(!agree(&wanted, &[]));
    }

    #[test]
    fn a_condition_that_holds_as_before_keeps_its_time() {
        let (old, new) = ("2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z");
        let mut wanted = [ready(ConditionStatus::True, 2, new)];
        keep_times(&mut wanted, &[ready(ConditionStatus::False, 1, old)]);
        assert_eq!(wanted[0].last_transition_time.to_string(), new);
        keep_times(&mut wanted, &[ready(ConditionStatus::True, 1, old)]);
        assert_eq!(wanted[0].last_transition_time.to_string(), old);
    }

    /// Of this many agents, those that come within 100 ms of the first one write too.
    #[test]
    fn of_500_agents_few_write_first_together_and_one_alone_is_not_late() {
        let (agents, seen_after) = (500, Duration::from_millis(100));
        let mut writers = 0;
        let rounds = 100;
        for _ in 0..rounds {
            let mut waits: Vec<_> = (0..agents).map(|_| wait(chance())).collect();
            waits.sort();
            writers += waits
                .iter()
                .filter(|wait| **wait <= waits[0] + seen_after)
                .count();
        }
        assert!(writers / rounds < 10, "{writers} in {rounds} rounds");
        assert!(wait(1.0) <= LONGEST_WAIT);
    }
}

//! Tells the API server what became of the cluster's objects, in the conditions of their status.
//!
//! In: the objects as they were judged last, and the conditions that the API server shows. Out: server-side applies of the conditions,
//! only where they differ.
//!
//! Every agent judges an object alike, so that one write is enough for a cluster. All agents write as one field manager: an apply is
//! the whole truth about the conditions, and the last one holds. Before it writes, an agent waits for a moment of its own choice and
//! looks again: mostly another agent was earlier. The chance of a moment grows with time, so that of many agents few come first
//! together, and a single one is not late.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use picket_policy::api::v1alpha1::ObjectCondition;
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::cluster::ClusterObjects;
use super::judged::Judged;
use super::status_queue::{ObjectId, StatusQueue};
use super::writer::StatusWriter;
use super::{Store, StoreMetrics};
use crate::cluster::Connector;
use crate::runtime::chance::chance;

/// The field manager of every agent's conditions.
const MANAGER: &str = "picket";

/// The longest that an agent waits for another one to write first. A fault is told within 2 s.
const LONGEST_WAIT: Duration = Duration::from_millis(1200);

/// The least time from one write of an agent to the next: at most 20 a second.
const PACE: Duration = Duration::from_millis(50);

/// How often the conditions are compared without a new set: somebody may have changed or removed them.
const COMPARE: Duration = Duration::from_secs(30);

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
        let writer = StatusWriter::new(connector, metrics, "an object's status");
        let mut reporter = Reporter::new(self, cluster, writer);
        tokio::select! {
            () = cancel.cancelled() => {}
            () = reporter.run() => {}
        }
    }
}

struct Reporter {
    store: Arc<Store>,
    cluster: Arc<ClusterObjects>,
    writer: StatusWriter,
    queue: StatusQueue,
    /// The objects as they were at the last look, and the place of each there.
    judged: Arc<Judged>,
    places: HashMap<ObjectId, usize>,
}

impl Reporter {
    fn new(store: Arc<Store>, cluster: Arc<ClusterObjects>, writer: StatusWriter) -> Self {
        Self {
            store,
            cluster,
            writer,
            queue: StatusQueue::default(),
            judged: Arc::default(),
            places: HashMap::new(),
        }
    }

    /// Looks at all objects when a set comes into force and now and then, and not at each write: after a change of many objects every
    /// one of them is written.
    async fn run(&mut self) {
        let mut changes = self.store.changes();
        self.look();
        let mut looked = Instant::now();
        loop {
            let again = looked + COMPARE;
            let next = self.queue.next().filter(|(_, due)| *due <= again);
            tokio::select! {
                biased;
                changed = changes.changed() => match changed {
                    Ok(()) => {
                        self.look();
                        looked = Instant::now();
                    }
                    Err(_) => return,
                },
                () = tokio::time::sleep_until(next.as_ref().map_or(again, |(_, due)| *due)) => match next {
                    Some((id, _)) => {
                        self.queue.take(&id);
                        self.write(id).await;
                    }
                    None => {
                        self.look();
                        looked = Instant::now();
                    }
                }
            }
        }
    }

    /// Queues a write for each object whose conditions differ, and drops those that differ no more.
    fn look(&mut self) {
        let judged = Arc::clone(&self.store.judged.lock());
        let before = std::mem::replace(&mut self.judged, judged);
        let places_before = std::mem::take(&mut self.places);
        // Of an identity that was there at the last look: whoever suspends an agent waits for the answer.
        let is_urgent = |id: &ObjectId, limits: &Option<Value>| {
            let before = places_before.get(id).and_then(|place| before.object(*place));
            before.is_some_and(|before| before.entry.limits != *limits)
        };
        let mut look = self.queue.begin();
        for (place, object) in self.judged.objects().enumerate() {
            let entry = object.entry;
            let id = (entry.place, entry.name.clone(), entry.uid.clone());
            self.places.insert(id.clone(), place);
            let shown = self
                .cluster
                .shown_conditions(entry.place, &entry.name, &entry.uid);
            if let Some(shown) = shown {
                let workloads = self.cluster.shown_workloads(entry.place, &entry.name, &entry.uid);
                let wanted = object.conditions(&workloads, Timestamp::UNIX_EPOCH);
                let urgent = is_urgent(&id, &entry.limits);
                look.object(
                    id,
                    &wanted,
                    &shown,
                    (object.is_ready(), urgent),
                    || wait(chance()),
                );
            }
        }
    }

    /// Writes an object's conditions, if they still differ.
    async fn write(&mut self, id: ObjectId) {
        let judged = Arc::clone(&self.judged);
        let object = self.places.get(&id).and_then(|place| judged.object(*place));
        let (place, name, uid) = &id;
        let shown = self.cluster.shown_conditions(*place, name, uid);
        let (Some(object), Some(shown)) = (object, shown) else {
            return;
        };
        let workloads = self.cluster.shown_workloads(*place, name, uid);
        let (mut wanted, ready) = (object.conditions(&workloads, Timestamp::now()), object.is_ready());
        if !self.queue.differs(&id, &wanted, &shown, ready) {
            return;
        }
        keep_times(&mut wanted, &shown);
        let next = Instant::now() + PACE;
        let status = json!({"conditions": wanted});
        let done = self.writer.write((*place, name, uid), MANAGER, status).await;
        self.queue.wrote(id, &wanted, ready, done, wait(chance()));
        tokio::time::sleep_until(next).await;
    }
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

/// The wait for a chance: its fourth root, of the longest.
fn wait(chance: f64) -> Duration {
    LONGEST_WAIT.mul_f64(chance.clamp(0.0, 1.0).sqrt().sqrt())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use kube::runtime::watcher::Event;
    use picket_policy::api::API_VERSION;
    use picket_policy::api::v1alpha1::ConditionStatus;
    use tokio::time::timeout;

    use super::super::cluster::KINDS;
    use super::*;
    use crate::metrics::MetricsRegistry;

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
    fn a_condition_that_holds_as_before_keeps_its_time() {
        let (old, new) = ("2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z");
        let mut wanted = [ready(ConditionStatus::True, 2, new)];
        keep_times(&mut wanted, &[ready(ConditionStatus::False, 1, old)]);
        assert_eq!(wanted[0].last_transition_time.to_string(), new);
        keep_times(&mut wanted, &[ready(ConditionStatus::True, 1, old)]);
        assert_eq!(wanted[0].last_transition_time.to_string(), old);
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_of_many_objects_is_one_look_at_each_and_not_one_at_each_write() {
        const COUNT: usize = 200;
        let store = Arc::new(Store::open_or_deny_all(&[], true));
        let cluster = store.cluster.clone().expect("a cluster");
        for (place, kind) in KINDS.iter().enumerate() {
            cluster.event(place, Event::Init);
            for number in (0..COUNT).filter(|_| place == 0) {
                let name = format!("a{number}");
                let object = json!({
                    "apiVersion": API_VERSION, "kind": kind.kind, "metadata": {"name": name, "uid": name, "generation": 1},
                    "spec": {"owner": "o", "attest": {"pod": {"namespace": "n", "serviceAccount": name}}},
                });
                let object = serde_json::from_value(object).expect("an object");
                cluster.event(place, Event::InitApply(object));
            }
            cluster.event(place, Event::InitDone);
        }
        store.judge_cluster();
        let registry = MetricsRegistry::default();
        // Every write fails here.
        let connector = Connector::new(Path::new("/nonexistent/kubeconfig"));
        let writer = StatusWriter::new(connector, StoreMetrics::register(&registry), "a status");
        let mut reporter = Reporter::new(store, cluster, writer);
        let ran = timeout(COMPARE - Duration::from_secs(1), reporter.run()).await;
        assert!(ran.is_err());
        let failures = format!("picket_object_status_writes_total{{result=\"failure\"}} {COUNT}");
        let shown = registry.encode().expect("metrics");
        assert!(shown.contains(&failures), "{shown}");
        assert_eq!(reporter.queue.scans, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn an_agent_that_is_suspended_among_many_is_written_first() {
        let store = Arc::new(Store::open_or_deny_all(&[], true));
        let cluster = store.cluster.clone().expect("a cluster");
        let object = |name: &str, generation: i64, state: &str| {
            serde_json::from_value(json!({
                "apiVersion": API_VERSION, "kind": KINDS[0].kind,
                "metadata": {"name": name, "uid": name, "generation": generation},
                "spec": {"owner": "o", "state": state, "attest": {"pod": {"namespace": "n", "serviceAccount": name}}},
            }))
            .expect("an object")
        };
        for place in 0..KINDS.len() {
            cluster.event(place, Event::Init);
            for name in ["a", "b", "c", "d"].into_iter().filter(|_| place == 0) {
                cluster.event(place, Event::InitApply(object(name, 1, "Active")));
            }
            cluster.event(place, Event::InitDone);
        }
        store.judge_cluster();
        let connector = Connector::new(Path::new("/nonexistent/kubeconfig"));
        let metrics = StoreMetrics::register(&MetricsRegistry::default());
        let writer = StatusWriter::new(connector, metrics, "a status");
        let mut reporter = Reporter::new(Arc::clone(&store), Arc::clone(&cluster), writer);
        reporter.look();
        cluster.event(0, Event::Apply(object("c", 2, "Suspended")));
        // Another label of an object is nobody's hurry.
        cluster.event(0, Event::Apply(object("b", 2, "Active")));
        store.judge_cluster();
        reporter.look();
        tokio::time::advance(LONGEST_WAIT).await;
        // It waits for its turn over further looks.
        reporter.look();
        let mut order = Vec::new();
        while let Some((id, _)) = reporter.queue.next() {
            reporter.queue.take(&id);
            order.push(id.1);
        }
        assert_eq!(order, ["c", "a", "b", "d"]);
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

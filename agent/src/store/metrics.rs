//! Metrics of the objects: how many there are and in which state, and whether files and API server are read.
//!
//! In: the status that the [`Store`] has after each reading. Out: counters and gauges in the registry.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;

use super::Store;
use super::cluster::KINDS;
use crate::metrics::{CounterFamily, GaugeFamily, MetricsRegistry, TimeFamily, count};

/// The metrics of the store; cheap to clone.
#[derive(Debug, Clone)]
pub struct StoreMetrics {
    reloads: CounterFamily<2>,
    generation: Gauge,
    invalid: Gauge,
    unlisted: Gauge,
    namespaces_unlisted: Gauge,
    status_writes: CounterFamily<1>,
    objects: GaugeFamily<2>,
    heard: TimeFamily<1>,
    reversed: Counter,
}

/// What became of an object, as a label: in force as it is written, in force as it was before, or not in force at all.
const STATES: [&str; 3] = ["in_force", "last_good", "refused"];

/// How often the time of the last success is set while a watch goes on in silence.
const SILENT: Duration = Duration::from_secs(15);

impl StoreMetrics {
    /// Registers them.
    pub fn register(registry: &MetricsRegistry) -> Self {
        let reloads = registry.counters(
            "config_reloads",
            ["kind", "result"],
            "Times that files were read again, by kind and result",
        );
        for result in ["success", "failure"] {
            reloads.show(["policy", result]);
        }
        let status_writes = registry.counters(
            "object_status_writes",
            ["result"],
            "Statuses that were written to objects of the cluster, by result",
        );
        for result in ["success", "failure"] {
            status_writes.show([result]);
        }
        let objects = registry.gauges(
            "objects",
            ["kind", "state"],
            "Objects by kind and state: `in_force` as it is written, `last_good` where a version from before is in force, or what denies everything in its place, `refused` where none is",
        );
        for kind in KINDS {
            for state in STATES {
                objects.show([kind.kind, state]);
            }
        }
        Self {
            reloads,
            status_writes,
            objects,
            heard: registry.times(
                "objects_watch_last_success_timestamp",
                ["kind"],
                "Moment at which the list and watch of a kind of the cluster's objects worked last; a silent watch counts as working for up to 3 minutes after its connection died",
            ),
            reversed: registry.counter(
                "revocations_reversed",
                "Revocations of AgentIdentities that were taken back while the agent ran: the object says something else now",
            ),
            invalid: registry.gauge(
                "invalid_objects",
                "Objects whose latest version is not in force",
            ),
            unlisted: registry.gauge(
                "unlisted_kinds",
                "Kinds of objects that the API server has not listed, because it is away or the CRD is not installed",
            ),
            namespaces_unlisted: registry.gauge(
                "namespaces_unlisted",
                "1 while rules look at namespaces (`namespaceSelector`, `namespaceObject`) and the agent knows none: the API server has not listed them, refuses to, or their watch has failed for a minute. Such rules fire for every namespace. 0 otherwise",
            ),
            generation: registry.gauge(
                "policy_generation",
                "Number of policy sets that took effect; does not grow while reloads fail",
            ),
        }
    }

    /// Counts a status that was written, or was not.
    pub(super) fn status_written(&self, written: bool) {
        self.status_writes
            .inc([if written { "success" } else { "failure" }]);
    }

    /// Counts a revocation that was taken back.
    pub(crate) fn revocation_reversed(&self) {
        self.reversed.inc();
    }

    fn show(&self, store: &Store) {
        let statuses = store.statuses();
        let invalid = statuses.iter().filter(|status| !status.ready).count();
        self.invalid.set(i64::try_from(invalid).unwrap_or(i64::MAX));
        for kind in KINDS {
            let mut counts = [0_usize; STATES.len()];
            for status in statuses.iter().filter(|status| status.kind == kind.kind) {
                let state = match (status.ready, status.generation) {
                    (true, _) => 0,
                    (false, Some(_)) => 1,
                    (false, None) => 2,
                };
                counts[state] += 1;
            }
            for (state, count) in STATES.into_iter().zip(counts) {
                self.objects.set([kind.kind, state], count);
            }
        }
        self.namespaces_unlisted
            .set(i64::from(store.why_no_namespaces().is_some()));
        self.unlisted
            .set(i64::try_from(store.unlisted()).unwrap_or(i64::MAX));
    }

    fn show_heard(&self, store: &Store) {
        let heard = store
            .cluster
            .as_ref()
            .map(|cluster| cluster.heard(Instant::now()));
        for (kind, heard) in KINDS.iter().zip(heard.into_iter().flatten()) {
            if let Some(ago) = heard {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                self.heard.set([kind.kind], now.saturating_sub(ago));
            }
        }
    }

    /// Counts each reading of the policy files, for as long as it is polled.
    pub(crate) async fn follow(self, store: Arc<Store>) {
        let mut changes = store.changes();
        let mut counted = store.file_reads();
        self.generation.set(count(changes.borrow_and_update().generation));
        self.show(&store);
        loop {
            self.show_heard(&store);
            let reads = store.file_reads();
            self.reloads.add(["policy", "success"], reads.0 - counted.0);
            self.reloads.add(["policy", "failure"], reads.1 - counted.1);
            counted = reads;
            let changed = tokio::time::timeout(SILENT, changes.changed()).await;
            match changed {
                Err(_) => continue,
                Ok(Err(_)) => return,
                Ok(Ok(())) => {}
            }
            let now = changes.borrow_and_update().clone();
            self.generation.set(count(now.generation));
            self.show(&store);
        }
    }
}

//! Tells of processes that left their pod's cgroup and kept its network.
//!
//! In: the namespaces of enforced pods. Out: for each such process, once, a warning, a count and a record. A process that
//! is only passing through, such as a network plugin at work in the pod's namespace, is gone at the second look.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::enforcer::InForce;
use super::refusals;
use crate::audit::Connection;
use crate::runtime::metrics::Metrics;
use crate::workload::Names;
use crate::workload::strays::{Stray, strays};

/// How often all processes are looked at; what such a process dials is seen at once.
const EVERY: Duration = Duration::from_secs(30);

/// How long one has to stay to count.
const STAYS: Duration = Duration::from_secs(2);

/// Looks for as long as it is polled.
pub(super) async fn watch(
    in_force: Arc<InForce>,
    names: Arc<Names>,
    metrics: Arc<Metrics>,
    records: mpsc::Sender<Connection>,
) {
    let mut told: HashSet<(u32, u64)> = HashSet::new();
    loop {
        tokio::time::sleep(EVERY - STAYS).await;
        let mut found = look(&in_force).await;
        // Also where none is there, so that the interval stays.
        tokio::time::sleep(STAYS).await;
        if !found.is_empty() {
            let still: HashSet<_> = look(&in_force).await.iter().map(key).collect();
            found.retain(|stray| still.contains(&key(stray)));
        }
        let now: HashSet<_> = found.iter().map(key).collect();
        for stray in found.iter().filter(|stray| !told.contains(&key(stray))) {
            let pod = names.by_uid(&stray.pod);
            let name = pod.as_ref().map_or("", |pod| &pod.name);
            tracing::warn!(
                pid = stray.pid,
                comm = stray.comm,
                cgroup = stray.cgroup,
                pod = name,
                "a process in a pod's network is outside its cgroup"
            );
            metrics.moved_process();
            refusals::tell(&records, &metrics, refusals::moved(stray, pod.as_ref()));
        }
        told = now;
    }
}

async fn look(in_force: &InForce) -> Vec<Stray> {
    let pods = in_force.served().namespaces();
    tokio::task::spawn_blocking(move || strays(&pods))
        .await
        .unwrap_or_else(|error| {
            tracing::error!(%error, "processes could not be looked at");
            Vec::new()
        })
}

fn key(stray: &Stray) -> (u32, u64) {
    (stray.pid, stray.started)
}

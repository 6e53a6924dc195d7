//! Tells of processes that left their pod's cgroup.
//!
//! In: the enforced pods. Out: for each such process, once, a warning, a count and a record. A process that
//! is only passing through, such as a network plugin at work in the pod's namespace, is gone at the second look.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::{collect, write};
use crate::audit::Connection;
use crate::enforce::Served;
use crate::metrics::Metrics;
use crate::workload::Names;
use crate::workload::escapes::{ProcessKey, Stray, Strays};

/// How often all processes are looked at; what such a process dials is seen at once.
const EVERY: Duration = Duration::from_secs(30);

/// How long one has to stay to count.
const STAYS: Duration = Duration::from_secs(2);

/// Looks for as long as it is polled.
pub(crate) async fn watch(
    pods: Served,
    names: Arc<Names>,
    metrics: Arc<Metrics>,
    records: mpsc::Sender<Connection>,
) {
    let mut told: HashSet<ProcessKey> = HashSet::new();
    let mut strays = Strays::default();
    loop {
        tokio::time::sleep(EVERY - STAYS).await;
        let first: HashSet<_> = look(&pods, &mut strays).await.iter().map(Stray::key).collect();
        tokio::time::sleep(STAYS).await;
        let mut found = look(&pods, &mut strays).await;
        found.retain(|stray| first.contains(&stray.key()));
        let now: HashSet<_> = found.iter().map(Stray::key).collect();
        for stray in found.iter().filter(|stray| !told.contains(&stray.key())) {
            let pod = names.by_uid(&stray.pod);
            let name = pod.as_ref().map_or("", |pod| &pod.name);
            tracing::warn!(
                pid = stray.pid,
                comm = stray.comm,
                cgroup = stray.cgroup,
                pod = name,
                held = stray.held,
                "a process of a pod's is outside its cgroup"
            );
            metrics.moved_process();
            write::tell(&records, &metrics, collect::moved(stray, pod.as_ref()));
        }
        told = now;
    }
}

async fn look(pods: &Served, strays: &mut Strays) -> Vec<Stray> {
    let pods = pods.processes();
    let mut taken = std::mem::take(strays);
    let looked = tokio::task::spawn_blocking(move || (taken.look(&pods), taken)).await;
    match looked {
        Ok((found, taken)) => {
            *strays = taken;
            found
        }
        Err(error) => {
            tracing::error!(%error, "processes could not be looked at");
            Vec::new()
        }
    }
}

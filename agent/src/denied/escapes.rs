//! Reports processes that escaped their pod's cgroup.
//!
//! In: the enforced pods. Out: for each such process, once, a warning, a count and a record. A process that
//! is only passing through, such as a network plugin at work in the pod's namespace, is gone at the second look.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use super::collect;
use super::write::Denials;
use crate::enforce::EnforcedPods;
use crate::workload::Names;
use crate::workload::escapes::{CgroupEscape, EscapeTracker, ProcessKey};

/// How often all processes are looked at; what such a process dials is seen at once.
const SCAN_INTERVAL: Duration = Duration::from_secs(30);

/// How long one has to stay to count.
const MIN_STAY: Duration = Duration::from_secs(2);

/// Looks at the pods' processes again and again, for as long as it is polled.
pub(crate) async fn watch(pods: EnforcedPods, names: Arc<Names>, denials: Denials) {
    let mut reported: HashSet<ProcessKey> = HashSet::new();
    let mut escapes = EscapeTracker::default();
    loop {
        tokio::time::sleep(SCAN_INTERVAL - MIN_STAY).await;
        let first: HashSet<_> = find_escapes(&pods, &mut escapes)
            .await
            .iter()
            .map(CgroupEscape::key)
            .collect();
        tokio::time::sleep(MIN_STAY).await;
        let mut found = find_escapes(&pods, &mut escapes).await;
        found.retain(|escape| first.contains(&escape.key()));
        let now: HashSet<_> = found.iter().map(CgroupEscape::key).collect();
        for escape in found.iter().filter(|escape| !reported.contains(&escape.key())) {
            let pod = names.by_uid(&escape.pod);
            let name = pod.as_ref().map_or("", |pod| &pod.name);
            tracing::warn!(
                pid = escape.pid,
                comm = escape.comm,
                cgroup = escape.cgroup,
                pod = name,
                held = escape.held,
                "a process of a pod is outside the pod's cgroup"
            );
            denials.metrics.cgroup_escape();
            denials.submit(collect::escaped(escape, pod.as_ref()), pod.as_ref());
        }
        reported = now;
    }
}

async fn find_escapes(pods: &EnforcedPods, escapes: &mut EscapeTracker) -> Vec<CgroupEscape> {
    let pods = pods.processes();
    let mut taken = std::mem::take(escapes);
    let found = tokio::task::spawn_blocking(move || (taken.find(&pods), taken)).await;
    match found {
        Ok((found, taken)) => {
            *escapes = taken;
            found
        }
        Err(error) => {
            tracing::error!(%error, "the agent cannot look for processes outside the cgroups of their pods");
            Vec::new()
        }
    }
}

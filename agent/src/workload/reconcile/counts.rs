//! How many pods are in which class.
//!
//! In: what is in force for each pod, and the pods that the API server knows. Out: [`PodCounts`] through a watch channel.

use std::collections::{BTreeMap, BTreeSet};

use super::Reconciler;
use crate::workload::enforce::Enforcer;
use crate::workload::levels;
use crate::workload::pods::PodMap;
use crate::workload::slot::Applied;

/// How many pods are in which class, for metrics and readiness.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodCounts {
    /// Whether the API server's pods are known and every pod there was then has been judged.
    pub synced: bool,
    /// Pods that run here and that the API server has, as pods of this node.
    pub reported: usize,
    /// Pods whose protected endpoints lead to the agent.
    pub enforced: usize,
    /// Pods left alone.
    pub exempt: usize,
    /// Those of them that are static and that the API server has not reported: nobody knows whether they should be.
    pub assumed_exempt: usize,
    /// Pods that are closed until they can be judged or enforced.
    pub pending: usize,
    /// Enforced pods whose packets come out where nothing drops those that pass no socket's hook: pods that share the
    /// node's network, and those with interfaces that have no side in the node's.
    pub egress_unfiltered: usize,
    /// Selected pods that run, the kubelet says, and have no cgroup below the configured folder: nothing holds them. A pod
    /// that ends is counted for a moment.
    pub no_cgroup: usize,
    /// Pods whose cgroup lies deeper than the kernel programs look. These find the class of the folder of all pods, which is closed:
    /// such a pod reaches no protected endpoint, and an exempt one neither.
    pub too_deep: usize,
    /// Enforced pods whose connections cannot be redirected, by their RuntimeClass: it gives them a network stack of their own.
    pub sandboxed: BTreeMap<String, usize>,
    /// Attempts that failed since the start.
    pub failures: u64,
}

impl PodCounts {
    /// Whether pods run here that nobody can judge, and the API server has none of this node's: the agent follows another's.
    #[must_use]
    pub fn is_foreign(&self) -> bool {
        self.synced && self.reported == 0 && self.pending + self.assumed_exempt > 0
    }
}

impl<E: Enforcer> Reconciler<E> {
    /// Counts the pods by what is in force for them.
    pub(super) fn count(&self, pods: Option<&PodMap>) {
        let mut status = PodCounts {
            synced: pods.is_some(),
            failures: self.failures,
            ..PodCounts::default()
        };
        for slot in self.slots.values() {
            status.too_deep += usize::from(levels::check(slot.found.group.level).is_err());
            match &slot.applied {
                Applied::Enforced { covered, pod, .. } => {
                    status.enforced += 1;
                    if let Some(class) = &pod.load().sandboxed_by {
                        *status.sandboxed.entry(class.clone()).or_default() += 1;
                    }
                    status.egress_unfiltered += usize::from(*covered == Some(false));
                }
                Applied::Exempt => status.exempt += 1,
                Applied::AssumedExempt => {
                    status.exempt += 1;
                    status.assumed_exempt += 1;
                }
                Applied::Closed | Applied::Nothing | Applied::Unknown | Applied::Redirected => {
                    status.pending += 1;
                    // Waiting for a sandbox counts as judged; a first attempt that has not ended does not.
                    status.synced &= !slot.busy || slot.attempts.count() > 0;
                }
            }
        }
        if let Some(pods) = pods {
            let seen: BTreeSet<_> = self.slots.values().map(|slot| &slot.found.uid).collect();
            status.reported = pods.keys().filter(|uid| seen.contains(uid)).count();
            status.no_cgroup = pods
                .values()
                .filter(|known| known.running && self.selection.enforces(known))
                .filter(|known| !seen.contains(&known.cgroup_uid))
                .count();
        }
        // Once synced it stays so: pods that come later are no reason to be not ready.
        status.synced |= self.status.borrow().synced;
        self.status.send_if_modified(|last| {
            let changed = *last != status;
            *last = status;
            changed
        });
    }
}

//! How many pods are in which class, and which should be enforced and are not.
//!
//! In: what is in force for each pod, and the pods that the API server knows. Out: [`PodCounts`] through a watch channel.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use picket_policy::api::v1alpha1::{MAX_UNCOVERED_PODS, UncoveredPod, UncoveredReason};

use super::Reconciler;
use crate::workload::Pod;
use crate::workload::enforce::Enforcer;
use crate::workload::levels;
use crate::workload::pods::PodMap;
use crate::workload::sandbox;
use crate::workload::slot::{Applied, Slot};

/// How long a new pod may be closed before it counts as not covered: it waits for its sandbox, which an image may hold up.
const PATIENCE: Duration = Duration::from_secs(10);

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
    /// Pods that should be enforced and are not, or not wholly.
    pub not_covered: usize,
    /// The first of those by name, at most [`MAX_UNCOVERED_PODS`].
    pub uncovered: Vec<UncoveredPod>,
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
        let mut uncovered = Vec::new();
        for slot in self.slots.values() {
            uncovered.extend(uncovered_slot(slot, pods));
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
            let without = pods
                .values()
                .filter(|known| known.running && self.selection.enforces(known))
                .filter(|known| !seen.contains(&known.cgroup_uid));
            let before = uncovered.len();
            uncovered.extend(without.map(|known| UncoveredPod {
                pod: full_name(&known.pod),
                reason: UncoveredReason::NoCgroup,
                message: "it has no cgroup below kernel.cgroupRoot, so that nothing holds it".to_owned(),
            }));
            status.no_cgroup = uncovered.len() - before;
        }
        status.not_covered = uncovered.len();
        // In an order that stays: what differs is told.
        uncovered.sort();
        uncovered.truncate(MAX_UNCOVERED_PODS);
        status.uncovered = uncovered;
        // Once synced it stays so: pods that come later are no reason to be not ready.
        status.synced |= self.status.borrow().synced;
        self.status.send_if_modified(|last| {
            let changed = *last != status;
            *last = status;
            changed
        });
    }
}

fn full_name(pod: &Pod) -> String {
    format!("{}/{}", pod.namespace, pod.name)
}

/// Why a pod that has a cgroup is not covered; none where it is, or need not be.
fn uncovered_slot<H>(slot: &Slot<H>, pods: Option<&PodMap>) -> Option<UncoveredPod> {
    let of = |name: String, reason, message: String| {
        Some(UncoveredPod {
            pod: name,
            reason,
            message,
        })
    };
    match &slot.applied {
        Applied::Exempt | Applied::AssumedExempt => None,
        Applied::Enforced { pod, covered, .. } => {
            let pod = pod.load();
            if let Some(class) = &pod.sandboxed_by {
                return of(
                    full_name(&pod),
                    UncoveredReason::RuntimeClass,
                    sandbox::note(class),
                );
            }
            let why = match (covered, pod.host_network) {
                (Some(false), true) => "it shares the node's network",
                (Some(false), false) => "an interface of it has no side in the node's network",
                _ => return None,
            };
            let message = format!(
                "{why}: its connections are redirected, and packets that pass no socket are not dropped"
            );
            of(full_name(&pod), UncoveredReason::EgressUnfiltered, message)
        }
        Applied::Closed | Applied::Nothing | Applied::Unknown | Applied::Redirected => {
            let known = pods.and_then(|pods| pods.get(&slot.found.uid));
            let name = known.or(slot.last.as_ref()).map(|known| full_name(&known.pod));
            let name = name.unwrap_or_else(|| slot.found.uid.0.clone());
            if let Err(error) = levels::check(slot.found.group.level) {
                return of(name, UncoveredReason::TooDeep, error.to_string());
            }
            if let Some(fault) = &slot.fault {
                let message =
                    format!("the agent cannot enforce it, and it reaches no protected endpoint: {fault}");
                return of(name, UncoveredReason::Closed, message);
            }
            // Before the first list of pods nobody knows which should be enforced.
            if pods.is_none() || slot.since.is_some_and(|since| since.elapsed() < PATIENCE) {
                return None;
            }
            match (known, &slot.last) {
                (Some(_), _) => {
                    let message = "it has no network namespace yet, and reaches no protected endpoint";
                    of(name, UncoveredReason::Closed, message.to_owned())
                }
                // It was enforced, and ends.
                (None, Some(_)) => None,
                (None, None) => {
                    let message = "the API server has not reported a pod of this node with this UID; it reaches no protected endpoint";
                    of(name, UncoveredReason::Unreported, message.to_owned())
                }
            }
        }
    }
}

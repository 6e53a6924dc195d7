//! The pods that are enforced now, by their cgroups: one table for all who have to know.
//!
//! In: each pod as it is enforced, and its end. Out: whose a connection at the node's listener is, which namespaces and
//! cgroups to look into, and what is covered already.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::handover::Offer;
use crate::listener::Owner;
use crate::workload::{CgroupId, Home, NetnsId, PodUid, pod_of};

/// A pod that is enforced.
pub(super) struct Pod {
    /// The number in its class.
    pub(super) number: u64,
    pub(super) owner: Owner,
    pub(super) home: Home,
    /// Its cgroup's folder.
    pub(super) path: PathBuf,
    /// Its listener and number, as they can be handed over.
    pub(super) offer: Arc<Offer>,
}

/// What is kept beside it.
struct Entry {
    pod: Pod,
    /// The node's interfaces that are covered for it.
    covered: HashSet<u32>,
    /// Whether it was said that one cannot be.
    told: bool,
}

/// The table.
#[derive(Default, Clone)]
pub(super) struct Served {
    pods: Arc<Mutex<HashMap<CgroupId, Entry>>>,
}

impl Served {
    /// The pod is enforced from now on; an earlier entry of its cgroup's goes.
    pub(super) fn insert(&self, cgroup: CgroupId, pod: Pod) {
        let entry = Entry {
            pod,
            covered: HashSet::new(),
            told: false,
        };
        self.lock().insert(cgroup, entry);
    }

    /// The pod with this number is not enforced any more. A later one of the same cgroup stays.
    pub(super) fn remove(&self, cgroup: CgroupId, number: u64) {
        let mut pods = self.lock();
        if pods.get(&cgroup).is_some_and(|entry| entry.pod.number == number) {
            pods.remove(&cgroup);
        }
    }

    /// The pod that a cgroup and a number stand for.
    pub(super) fn owner(&self, cgroup: CgroupId, number: u64) -> Option<Owner> {
        let pods = self.lock();
        let entry = pods.get(&cgroup).filter(|entry| entry.pod.number == number)?;
        Some(entry.pod.owner.clone())
    }

    /// What can be handed over.
    pub(super) fn offers(&self) -> Vec<Arc<Offer>> {
        let pods = self.lock();
        pods.values().map(|entry| Arc::clone(&entry.pod.offer)).collect()
    }

    /// The pods' own network namespaces, and the UIDs that their cgroups carry.
    pub(super) fn namespaces(&self) -> HashMap<NetnsId, PodUid> {
        let pods = self.lock();
        let own = pods
            .values()
            .filter_map(|entry| Some((entry.pod.home.own()?, pod_of(&entry.pod.path)?)));
        own.collect()
    }

    /// Where each pod is.
    pub(super) fn places(&self) -> Vec<(Home, PathBuf)> {
        let pods = self.lock();
        pods.values()
            .map(|entry| (entry.pod.home.clone(), entry.pod.path.clone()))
            .collect()
    }

    /// Which of these interfaces are not covered yet for the pod.
    pub(super) fn uncovered(&self, cgroup: CgroupId, interfaces: &[u32]) -> Vec<u32> {
        let pods = self.lock();
        let Some(entry) = pods.get(&cgroup) else {
            return Vec::new();
        };
        let open = interfaces
            .iter()
            .filter(|interface| !entry.covered.contains(interface));
        open.copied().collect()
    }

    /// Notes that an interface is covered for the pod.
    pub(super) fn covered(&self, cgroup: CgroupId, interface: u32) {
        if let Some(entry) = self.lock().get_mut(&cgroup) {
            entry.covered.insert(interface);
        }
    }

    /// Whether it has to be said that the pod cannot be covered: once is enough.
    pub(super) fn tell(&self, cgroup: CgroupId) -> bool {
        self.lock()
            .get_mut(&cgroup)
            .is_some_and(|entry| !std::mem::replace(&mut entry.told, true))
    }

    /// A poisoned lock guards a plain map, which has no state that a panic could have left half done.
    fn lock(&self) -> MutexGuard<'_, HashMap<CgroupId, Entry>> {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

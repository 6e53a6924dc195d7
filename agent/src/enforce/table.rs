//! The pods that are enforced now, by their cgroups: one table for all who have to know.
//!
//! In: each pod as it is enforced, and its end. Out: whose a connection at the node's listener is, which namespaces and
//! cgroups to look into, and what is covered already.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::kernel::{CgroupId, Class};
use crate::listener::{EnforcedPodIndex, Owner};
use crate::upgrade::ListenerOffer;
use crate::workload::escapes::EnforcedPodRef;
use crate::workload::{Pod, PodChanges, PodNetwork, pod_of};
use parking_lot::{Mutex, MutexGuard};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// A pod that is enforced.
pub(crate) struct EnforcedPod {
    /// The number in its class.
    pub(crate) number: u64,
    pub(crate) owner: Owner,
    pub(crate) network: PodNetwork,
    /// Its cgroup's folder.
    pub(crate) path: PathBuf,
    /// Its listener and number, as they can be transferred.
    pub(crate) offer: Arc<ListenerOffer>,
    /// How its own listener is served; none of a pod that the node's listener serves.
    pub(crate) accepting: Option<Accepting>,
    /// The ports that its listener has left, because programs of the pod want them.
    pub(crate) left: BTreeSet<u16>,
}

/// How a pod's own listener is served.
pub(crate) struct Accepting {
    /// Ends it at once.
    pub(crate) cancel: CancellationToken,
    /// Ends it once nothing waits at the listener any more.
    pub(crate) leave: CancellationToken,
    /// What accepts, until it has closed the listener.
    pub(crate) task: JoinHandle<()>,
}

/// What is kept beside it.
struct Entry {
    pod: EnforcedPod,
    /// Whether it was said that an interface of its cannot be covered.
    reported: bool,
}

/// The table.
#[derive(Default, Clone)]
pub(crate) struct EnforcedPods {
    pods: Arc<Mutex<HashMap<CgroupId, Entry>>>,
    names: Arc<Mutex<Names>>,
    senders: Arc<Mutex<Vec<Sender>>>,
    changes: PodChanges,
}

/// A pod whose requests this agent answers. It is one from its enforcement until it is released, though its entry may go before.
struct Sender {
    pod: Arc<ArcSwap<Pod>>,
    released: CancellationToken,
}

/// Addresses and UIDs of the enforced pods, for whoever comes to the gateway. They are collected when somebody asks after a change:
/// a pod changes some times in its life, and connections come by the thousand.
#[derive(Default)]
struct Names {
    /// Counts the changes; what was collected before the last one does not count.
    changes: u64,
    collected: Option<CollectedNames>,
}

#[derive(Default)]
struct CollectedNames {
    at: u64,
    addresses: HashSet<IpAddr>,
    uids: HashSet<String>,
}

impl EnforcedPods {
    /// The pod is enforced from now on; an earlier entry of its cgroup's goes, and what was accepted for it is released.
    pub(crate) fn insert(&self, cgroup: CgroupId, pod: EnforcedPod) {
        self.release(cgroup);
        let sender = Sender {
            pod: Arc::clone(&pod.owner.pod),
            released: pod.owner.released.clone(),
        };
        self.lock().insert(cgroup, Entry { pod, reported: false });
        let mut senders = self.senders.lock();
        senders.retain(|sender| !sender.released.is_cancelled());
        senders.push(sender);
        drop(senders);
        self.changed();
    }

    /// The pods that can send: those whose requests this agent answers, while it drains too.
    pub(crate) fn senders(&self) -> Vec<Arc<Pod>> {
        let senders = self.senders.lock();
        let now = senders.iter().filter(|sender| !sender.released.is_cancelled());
        now.map(|sender| sender.pod.load_full()).collect()
    }

    /// The pod of this cgroup, if there is one, is not to be asked for any more by the connections it has. Not called where the
    /// agent ends: those then finish what they do.
    pub(crate) fn release(&self, cgroup: CgroupId) {
        if let Some(entry) = self.lock().get(&cgroup) {
            entry.pod.owner.released.cancel();
            self.changes.changed();
        }
    }

    /// What is known of a pod was replaced, or there is a new one.
    pub(crate) fn changed(&self) {
        self.names.lock().changes += 1;
        self.changes.changed();
    }

    /// Reports new pods, releases, and what [`Enforcer::changed`](crate::workload::Enforcer::changed) says.
    pub(crate) fn changes(&self) -> &PodChanges {
        &self.changes
    }

    /// The pod with this number is not enforced any more. A later one of the same cgroup stays.
    pub(crate) fn remove(&self, cgroup: CgroupId, number: u64) {
        let mut pods = self.lock();
        if pods.get(&cgroup).is_some_and(|entry| entry.pod.number == number) {
            pods.remove(&cgroup);
            self.names.lock().changes += 1;
        }
    }

    /// The pod that a cgroup and a number stand for.
    pub(crate) fn owner(&self, cgroup: CgroupId, number: u64) -> Option<Owner> {
        let pods = self.lock();
        let entry = pods.get(&cgroup).filter(|entry| entry.pod.number == number)?;
        Some(entry.pod.owner.clone())
    }

    fn with_names<T>(&self, look: impl FnOnce(&CollectedNames) -> T) -> T {
        let mut names = self.names.lock();
        let at = names.changes;
        if names
            .collected
            .as_ref()
            .is_none_or(|collected| collected.at != at)
        {
            // The table's lock comes before this one elsewhere, so this one is let go. A change meanwhile counts as a later one.
            drop(names);
            let collected = self.collect_names(at);
            names = self.names.lock();
            names.collected = Some(collected);
        }
        look(names.collected.get_or_insert_default())
    }

    fn collect_names(&self, at: u64) -> CollectedNames {
        let mut collected = CollectedNames {
            at,
            ..CollectedNames::default()
        };
        for entry in self.lock().values() {
            let owner = &entry.pod.owner;
            let facts = owner.pod.load();
            // The node's own addresses are many callers'. The kernel programs deny such a pod the gateway's port by its cgroup.
            if !facts.host_network {
                let addresses = owner.seen.iter().chain(&facts.addresses);
                collected.addresses.extend(addresses);
            }
            collected.uids.insert(facts.uid.0.clone());
        }
        collected
    }

    /// The pods.
    pub(crate) fn pods(&self) -> Vec<Arc<Pod>> {
        let pods = self.lock();
        pods.values()
            .map(|entry| entry.pod.owner.pod.load_full())
            .collect()
    }

    /// What can be transferred.
    pub(crate) fn offers(&self) -> Vec<Arc<ListenerOffer>> {
        let pods = self.lock();
        pods.values().map(|entry| Arc::clone(&entry.pod.offer)).collect()
    }

    /// Where the pods' processes should be.
    pub(crate) fn processes(&self) -> Vec<EnforcedPodRef> {
        let pods = self.lock();
        let places = pods.values().filter_map(|entry| {
            Some(EnforcedPodRef {
                uid: pod_of(&entry.pod.path)?,
                path: entry.pod.path.clone(),
                netns: entry.pod.network.own(),
            })
        });
        places.collect()
    }

    /// Where each pod is.
    pub(crate) fn networks(&self) -> Vec<(PodNetwork, PathBuf)> {
        let pods = self.lock();
        pods.values()
            .map(|entry| (entry.pod.network.clone(), entry.pod.path.clone()))
            .collect()
    }

    /// Has the pod's class put in force, if the pod is one. Its listener does not move meanwhile.
    pub(crate) fn put_class<E>(
        &self,
        cgroup: CgroupId,
        put: impl FnOnce(Class) -> Result<(), E>,
    ) -> Result<(), E> {
        let pods = self.lock();
        match pods.get(&cgroup) {
            Some(entry) => put(entry.pod.offer.listener.class()),
            None => Ok(()),
        }
    }

    /// Looks at a pod, or changes it, if it is enforced as this number. Nobody else sees or changes the table meanwhile.
    pub(super) fn with<T>(
        &self,
        cgroup: CgroupId,
        number: u64,
        work: impl FnOnce(&mut EnforcedPod) -> T,
    ) -> Option<T> {
        let mut pods = self.lock();
        let entry = pods.get_mut(&cgroup).filter(|entry| entry.pod.number == number)?;
        Some(work(&mut entry.pod))
    }

    /// Whether it has to be said that the pod cannot be covered: once is enough.
    pub(crate) fn should_report(&self, cgroup: CgroupId) -> bool {
        self.lock()
            .get_mut(&cgroup)
            .is_some_and(|entry| !std::mem::replace(&mut entry.reported, true))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<CgroupId, Entry>> {
        self.pods.lock()
    }
}

impl fmt::Debug for EnforcedPods {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("EnforcedPods").finish_non_exhaustive()
    }
}

impl EnforcedPodIndex for EnforcedPods {
    fn has_address(&self, address: IpAddr) -> bool {
        self.with_names(|names| names.addresses.contains(&address))
    }

    fn has_uid(&self, uid: &str) -> bool {
        self.with_names(|names| names.uids.contains(uid))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use futures::FutureExt;
    use tokio::sync::Semaphore;

    use super::*;
    use crate::runtime::epoch::Epoch;
    use crate::upgrade::TransferredListener;
    use crate::workload::{Pod, PodUid, WorkloadName};

    pub(in crate::enforce) const POD: CgroupId = CgroupId(7);

    pub(in crate::enforce) fn pod(number: u64) -> EnforcedPod {
        let facts = Pod {
            uid: PodUid("0d5a3c3e-7f3a-4a59-9a5b-0c6f4f0b8f11".to_owned()),
            namespace: "agents".to_owned(),
            name: "one".to_owned(),
            service_account: "default".to_owned(),
            workload: WorkloadName("Pod/one".to_owned()),
            labels: Default::default(),
            node: "node-a".to_owned(),
            host_network: true,
            addresses: Vec::new(),
            ports: Default::default(),
            sandboxed_by: None,
            containers: Default::default(),
            cgroup: None,
        };
        EnforcedPod {
            number,
            owner: Owner {
                pod: Arc::new(ArcSwap::from_pointee(facts)),
                connections: Arc::new(Semaphore::new(1)),
                share: Arc::default(),
                released: CancellationToken::new(),
                seen: Arc::default(),
            },
            network: PodNetwork::Node,
            path: "/kubepods/pod0d5a3c3e-7f3a-4a59-9a5b-0c6f4f0b8f11".into(),
            offer: Arc::new(ListenerOffer {
                listener: TransferredListener {
                    cgroup: POD.0,
                    pod: "0d5a3c3e-7f3a-4a59-9a5b-0c6f4f0b8f11".to_owned(),
                    number,
                    port: 4443,
                    cookie: 1,
                    device: 4,
                    inode: 2,
                    descriptors: 0,
                },
                descriptors: Vec::new(),
            }),
            accepting: None,
            left: BTreeSet::new(),
        }
    }

    #[test]
    fn a_connection_is_its_pods_by_cgroup_and_number_while_that_enforcement_lasts() {
        let enforced = EnforcedPods::default();
        enforced.insert(POD, pod(1));
        assert!(enforced.owner(POD, 1).is_some());
        assert!(enforced.owner(POD, 2).is_none(), "an earlier enforcement's");
        assert!(enforced.owner(CgroupId(8), 1).is_none(), "another pod's");
        enforced.insert(POD, pod(2));
        enforced.remove(POD, 1);
        assert!(enforced.owner(POD, 2).is_some(), "the later one stays");
        enforced.remove(POD, 2);
        assert!(enforced.owner(POD, 2).is_none());
        assert!(enforced.networks().is_empty() && enforced.processes().is_empty());
    }

    #[test]
    fn connections_are_let_go_with_their_pod_and_stay_where_the_agent_ends() {
        let enforced = EnforcedPods::default();
        let (first, second) = (pod(1), pod(2));
        let left = [first.owner.released.clone(), second.owner.released.clone()];
        let fired = || left.clone().map(|left| left.is_cancelled());
        enforced.insert(POD, first);
        enforced.release(CgroupId(8));
        assert_eq!(fired(), [false, false], "another pod's");
        enforced.insert(POD, second);
        assert_eq!(fired(), [true, false], "a listener before this one");
        enforced.remove(POD, 2);
        enforced.release(POD);
        assert_eq!(fired(), [true, false], "the agent ends");
        enforced.insert(POD, pod(3));
        let third = enforced.owner(POD, 3).unwrap().released;
        enforced.release(POD);
        assert!(third.is_cancelled());
    }

    #[test]
    fn whoever_judges_by_pods_is_woken_by_each_new_pod_and_each_release_and_by_nothing_else() {
        let enforced = EnforcedPods::default();
        let woken = || enforced.changes().next().now_or_never().is_some();
        enforced.insert(POD, pod(1));
        assert!(woken(), "it may claim what another pod is");
        enforced.release(CgroupId(8));
        assert!(!woken(), "nothing was released");
        enforced.insert(POD, pod(2));
        assert!(woken(), "an earlier enforcement is released");
        enforced.release(POD);
        assert!(woken());
        enforced.remove(POD, 2);
        assert!(!woken(), "what it has open goes on");
    }

    #[test]
    fn a_pod_can_send_until_it_is_released_though_its_listener_is_gone() {
        let enforced = EnforcedPods::default();
        let epoch = Epoch::default();
        enforced.changes().raise(&epoch);
        let senders = || enforced.senders().len();
        let before = epoch.now();
        enforced.insert(POD, pod(1));
        assert!(senders() == 1 && epoch.now() != before, "told once it is there");
        let first = enforced.owner(POD, 1).unwrap().released;
        enforced.insert(CgroupId(8), pod(2));
        assert_eq!(senders(), 2);
        // As where the agent drains.
        enforced.remove(POD, 1);
        assert_eq!(senders(), 2, "what it has open goes on");
        first.cancel();
        assert_eq!(senders(), 1);
        enforced.insert(CgroupId(8), pod(3));
        assert_eq!(senders(), 1, "an earlier enforcement is released");
        enforced.release(CgroupId(8));
        assert_eq!(senders(), 0);
        enforced.insert(POD, pod(4));
        assert_eq!(enforced.senders.lock().len(), 1, "who was released is not kept");
    }

    #[test]
    fn addresses_and_uids_are_those_of_the_pods_as_they_are_now() {
        let enforced = EnforcedPods::default();
        let (one, other) = (IpAddr::from([10, 1, 0, 7]), IpAddr::from([10, 1, 0, 8]));
        assert!(!enforced.has_address(one));
        let mut first = pod(1);
        first.owner.seen = [one].into();
        let facts = Arc::clone(&first.owner.pod);
        facts.rcu(|facts| Pod {
            host_network: false,
            ..Pod::clone(facts)
        });
        let uid = facts.load().uid.0.clone();
        enforced.insert(POD, first);
        assert!(enforced.has_address(one) && !enforced.has_address(other));
        assert!(enforced.has_uid(&uid) && !enforced.has_uid("another"));
        // The API server told a second one.
        let mut later = Pod::clone(&facts.load());
        later.addresses = vec![other];
        facts.store(Arc::new(later));
        enforced.changed();
        assert!(enforced.has_address(one) && enforced.has_address(other));
        enforced.insert(POD, pod(2));
        assert!(!enforced.has_address(one) && !enforced.has_address(other));
        assert!(enforced.has_uid(&uid));
        enforced.remove(POD, 2);
        assert!(!enforced.has_uid(&uid));
    }

    #[test]
    fn a_pod_on_the_nodes_network_keeps_nobody_at_the_nodes_address_out() {
        let enforced = EnforcedPods::default();
        let node = IpAddr::from([10, 1, 0, 1]);
        let mut hosted = pod(1);
        hosted.owner.seen = [node].into();
        let facts = Arc::clone(&hosted.owner.pod);
        facts.rcu(|facts| Pod {
            addresses: vec![node],
            ..Pod::clone(facts)
        });
        enforced.insert(POD, hosted);
        assert!(!enforced.has_address(node) && enforced.has_uid(&facts.load().uid.0));
    }

    #[test]
    fn that_a_pod_cannot_be_covered_is_told_once_for_each_enforcement() {
        let enforced = EnforcedPods::default();
        enforced.insert(POD, pod(1));
        assert_eq!(
            (enforced.should_report(POD), enforced.should_report(POD)),
            (true, false)
        );
        enforced.insert(POD, pod(2));
        assert!(enforced.should_report(POD));
    }
}

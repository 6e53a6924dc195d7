//! Puts a pod's class in force: a listener first, the kernel's redirect last, and then what goes with it.
//!
//! In: what the reconciler wants. Out: listeners that feed one channel, entries in CLASSES, programs at the pods' cgroups
//! and interfaces, and connections destroyed that are older than all of it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::maintain::Maintainer;
use super::metrics::EnforceMetrics;
use super::table::{Accepting, EnforcedPod, EnforcedPods};
use crate::kernel::{CgroupId, Class, Kernel};
use crate::listener::{Arrival, CONNECTIONS_PER_POD, InPodListener, NodeServing, Owner, Serving, Sockets};
use crate::notify::EventQueue;
use crate::upgrade::{InheritedListeners, ListenerOffer, TransferredListener};
use crate::workload::{CoverageReport, EnforceError, Enforcement, Enforcer, Netns, PodNetwork};

/// What an attempt to attach to a pod's cgroup is for.
const HOLD: &str = "have the pod's packets to protected endpoints dropped";

/// What an attempt to mark a listener is for.
pub(super) const MARK: &str = "mark a listener as Picket's";

/// The enforcer over the real kernel.
pub(crate) struct KernelEnforcer {
    pub(super) kernel: Arc<Kernel>,
    sink: mpsc::Sender<Arrival>,
    /// The node's own namespace, and the port of the listener there.
    node: (u64, u16),
    maintainer: Arc<Maintainer>,
    /// Numbers the listeners, so that a flow of an earlier one, an earlier agent's included, is told apart.
    next: AtomicU64,
    pub(super) served: EnforcedPods,
    pub(super) metrics: EnforceMetrics,
    /// The node's listener, as it can be transferred.
    node_offer: Arc<ListenerOffer>,
    /// Listeners and numbers of the agent before this one.
    inherited: Arc<InheritedListeners>,
    /// What accepts.
    accepting: TaskTracker,
}

/// The listener in the node's own namespace, which [`KernelEnforcer::serve_node`] has to serve.
pub(crate) struct NodeListener<'a> {
    pub(crate) netns: Netns,
    pub(crate) listener: &'a InPodListener,
}

impl KernelEnforcer {
    /// Nothing is enforced yet.
    ///
    /// # Errors
    /// When the protected endpoints cannot be read, or no descriptor is left.
    pub(crate) fn new(
        kernel: Arc<Kernel>,
        metrics: EnforceMetrics,
        events: EventQueue,
        sink: mpsc::Sender<Arrival>,
        node: NodeListener<'_>,
        inherited: Arc<InheritedListeners>,
        accepting: TaskTracker,
    ) -> anyhow::Result<Self> {
        let NodeListener { netns, listener } = node;
        let served = EnforcedPods::default();
        let node_offer = ListenerOffer {
            listener: TransferredListener::node(listener, netns.id()),
            descriptors: listener.descriptors()?,
        };
        Ok(Self {
            maintainer: Maintainer::new(
                Arc::clone(&kernel),
                metrics.clone(),
                events,
                netns,
                served.clone(),
            )?,
            kernel,
            sink,
            node: (listener.netns_cookie(), listener.port()),
            next: AtomicU64::new(first_number()),
            served,
            metrics,
            node_offer: Arc::new(node_offer.counted()),
            inherited,
            accepting,
        })
    }

    /// The listeners, as they can be transferred, and the numbers of pods that the node's listener serves.
    pub(crate) fn offers(&self) -> Vec<Arc<ListenerOffer>> {
        let mut offers = self.served.offers();
        offers.push(Arc::clone(&self.node_offer));
        offers
    }

    /// Serves the pods that share the node's network until it is cancelled.
    pub(crate) async fn serve_node(&self, sockets: Sockets, cancel: CancellationToken) {
        let served = self.served.clone();
        let serving = NodeServing {
            kernel: Arc::clone(&self.kernel),
            find: Arc::new(move |cgroup, number| served.owner(cgroup, number)),
            sink: self.sink.clone(),
            cancel,
        };
        serving.run(sockets).await;
    }

    /// The pods that are enforced.
    pub(crate) fn enforced(&self) -> &EnforcedPods {
        &self.served
    }

    /// What looks after them.
    pub(crate) fn maintainer(&self) -> &Arc<Maintainer> {
        &self.maintainer
    }

    fn class(&self, cgroup: CgroupId, class: Class) -> Result<(), EnforceError> {
        self.kernel
            .set_class(cgroup, class)
            .map_err(EnforceError::at("set the class of a pod's cgroup"))
    }

    fn release(&self, cgroup: CgroupId) -> Result<(), EnforceError> {
        self.kernel
            .release(cgroup)
            .map_err(EnforceError::at("take a pod's programs away"))
    }

    /// Serves what arrives at a pod's own listener until `cancel` fires.
    pub(super) fn listen(
        &self,
        sockets: Sockets,
        cgroup: CgroupId,
        number: u64,
        owner: Owner,
        cancel: CancellationToken,
    ) -> Accepting {
        let leave = CancellationToken::new();
        let serving = Serving {
            kernel: Arc::clone(&self.kernel),
            cgroup,
            number,
            owner,
            sink: self.sink.clone(),
            cancel: cancel.clone(),
            leave: leave.clone(),
        };
        Accepting {
            cancel,
            leave,
            task: self.accepting.spawn(serving.run(sockets)),
        }
    }
}

/// One pod's listener; dropping it ends the listener and releases what was accepted there.
pub(crate) struct EnforcedPodHandle {
    cgroup: CgroupId,
    number: u64,
    served: EnforcedPods,
    /// Fires when the pod is released.
    released: CancellationToken,
    /// None for a pod that the node's listener serves, and once nothing is accepted any more.
    serving: Option<DropGuard>,
}

impl EnforcedPodHandle {
    fn release(&self) {
        if !self.released.is_cancelled() {
            self.released.cancel();
            self.served.changes().changed();
        }
    }

    fn stop_accepting(&mut self) {
        self.serving = None;
        self.served.remove(self.cgroup, self.number);
    }
}

impl Drop for EnforcedPodHandle {
    fn drop(&mut self) {
        self.stop_accepting();
        // Nobody would learn of the pod's changes any more.
        self.release();
    }
}

impl Enforcer for KernelEnforcer {
    type Handle = EnforcedPodHandle;

    async fn enforce(&self, wanted: Enforcement) -> Result<EnforcedPodHandle, EnforceError> {
        let Enforcement { group, network, pod } = wanted.clone();
        let (kernel, at, held) = (Arc::clone(&self.kernel), network.clone(), group.clone());
        let reserved = pod.load().ports.clone();
        let (taken, number) = self.inherited.claim(group.id, network.own());
        // Entering a namespace blocks, so it happens on a thread that may.
        let opened = tokio::task::spawn_blocking(move || {
            let listener = match (&at, taken) {
                (PodNetwork::Own(_), Some(taken)) => Some(taken),
                (PodNetwork::Own(netns), None) => Some(
                    InPodListener::open(netns, &reserved)
                        .map_err(EnforceError::at("open a listener in the pod"))?,
                ),
                (PodNetwork::Node, _) => None,
            };
            if let Some(listener) = &listener {
                kernel
                    .mark_listener(listener.sockets())
                    .map_err(EnforceError::at(MARK))?;
            }
            // Before anything is redirected: from here on nothing older gets through either.
            kernel
                .attach_egress_filter(&held.path, held.id, listener.is_none())
                .map_err(EnforceError::at(HOLD))?;
            Ok(listener)
        });
        let listener = opened
            .await
            .map_err(EnforceError::at("open a listener in the pod"))??;
        let (netns, port) = listener
            .as_ref()
            .map_or(self.node, |listener| (listener.netns_cookie(), listener.port()));
        let number = number.unwrap_or_else(|| self.next.fetch_add(1, Ordering::Relaxed));
        let descriptors = listener.as_ref().map(InPodListener::descriptors).transpose();
        let id = network.own();
        let transferred = TransferredListener {
            cgroup: group.id.0,
            pod: pod.load().uid.0.clone(),
            number,
            port,
            cookie: netns,
            device: id.map_or(0, |id| id.device),
            inode: id.map_or(0, |id| id.inode),
            descriptors: 0,
        };
        let class = transferred.class();
        let offer = ListenerOffer {
            listener: transferred,
            descriptors: descriptors
                .map_err(EnforceError::at("keep descriptors of a listener"))?
                .unwrap_or_default(),
        };
        let seen = listener.as_ref().map(|listener| listener.addresses().into());
        let owner = Owner {
            pod: Arc::clone(&pod),
            connections: Arc::new(Semaphore::new(CONNECTIONS_PER_POD)),
            share: Arc::default(),
            released: CancellationToken::new(),
            seen: seen.unwrap_or_default(),
        };
        let sockets = listener.map(Sockets::new).transpose();
        let sockets = sockets.map_err(EnforceError::at("serve a listener"))?;
        let accepting = sockets
            .map(|sockets| self.listen(sockets, group.id, number, owner.clone(), CancellationToken::new()));
        let serving = accepting
            .as_ref()
            .map(|accepting| accepting.cancel.clone().drop_guard());
        let released = owner.released.clone();
        let entry = EnforcedPod {
            number,
            owner,
            network,
            path: group.path,
            offer: Arc::new(offer.counted()),
            accepting,
            left: BTreeSet::new(),
        };
        self.served.insert(group.id, entry);
        let listening = EnforcedPodHandle {
            cgroup: group.id,
            number,
            served: self.served.clone(),
            released,
            serving,
        };
        // Before the class too. Where it fails the look that follows tells.
        let (maintainer, covers) = (Arc::clone(&self.maintainer), wanted.clone());
        let _told_later = tokio::task::spawn_blocking(move || maintainer.attach_filters(&covers)).await;
        self.class(group.id, class)?;
        let pod = pod.load();
        tracing::info!(namespace = pod.namespace, pod = pod.name, port, "enforced");
        Ok(listening)
    }

    async fn maintain(&self, pod: Enforcement, destroy: bool) -> Result<CoverageReport, EnforceError> {
        // One that was to take over from this agent, and failed, may have changed either. The class comes first: what is held
        // for a pod that is not enforced is released.
        self.served
            .put_class(pod.group.id, |class| self.class(pod.group.id, class))?;
        let (kernel, group, shares) = (
            Arc::clone(&self.kernel),
            pod.group.clone(),
            pod.network.own().is_none(),
        );
        tokio::task::spawn_blocking(move || kernel.attach_egress_filter(&group.path, group.id, shares))
            .await
            .map_err(EnforceError::at(HOLD))?
            .map_err(EnforceError::at(HOLD))?;
        let maintainer = Arc::clone(&self.maintainer);
        tokio::task::spawn_blocking(move || maintainer.maintain(&pod, destroy))
            .await
            .map_err(EnforceError::at("look after the pod"))?
    }

    fn exempt(&self, cgroup: CgroupId) -> Result<(), EnforceError> {
        self.class(cgroup, Class::Exempt)?;
        self.served.release(cgroup);
        self.release(cgroup)
    }

    fn close(&self, folder: CgroupId) -> Result<(), EnforceError> {
        self.class(folder, Class::Unclassified)
    }

    fn pending(&self, cgroup: CgroupId) -> Result<(), EnforceError> {
        self.class(cgroup, Class::Pending)?;
        self.served.release(cgroup);
        Ok(())
    }

    fn forget(&self, cgroup: CgroupId) -> Result<(), EnforceError> {
        self.served.release(cgroup);
        // The class last: it is by the class that the next agent knows of a pod that is gone.
        self.release(cgroup)?;
        self.kernel
            .remove_class(cgroup)
            .map_err(EnforceError::at("take a gone cgroup's class away"))
    }

    fn changed(&self) {
        self.served.changed();
    }

    fn release(&self, handle: &EnforcedPodHandle) {
        handle.release();
    }

    fn stop_accepting(&self, handle: &mut EnforcedPodHandle) {
        handle.stop_accepting();
    }
}

/// Serves the pods that share the node's network, from the moment that they are known; `accepting` goes at the end.
pub(crate) async fn node_listener(
    enforcer: Arc<KernelEnforcer>,
    sockets: Sockets,
    known: impl Future<Output = ()>,
    accepting: TaskTrackerToken,
    cancel: CancellationToken,
) {
    let _accepting = accepting;
    tokio::select! {
        () = known => {}
        () = cancel.cancelled() => return,
    }
    enforcer.serve_node(sockets, cancel).await;
}

/// Where this agent's numbers begin: beyond those of agents before it.
fn first_number() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::super::table::tests::{POD, pod};
    use super::*;

    fn handle(served: &EnforcedPods, number: u64) -> (EnforcedPodHandle, CancellationToken) {
        let pod = pod(number);
        let released = pod.owner.released.clone();
        served.insert(POD, pod);
        let handle = EnforcedPodHandle {
            cgroup: POD,
            number,
            served: served.clone(),
            released: released.clone(),
            serving: None,
        };
        (handle, released)
    }

    #[test]
    fn what_was_accepted_goes_on_while_its_handle_is_there_and_no_longer() {
        let served = EnforcedPods::default();
        let changes = || served.changes().next().now_or_never().is_some();
        let (mut handle, released) = handle(&served, 1);
        assert!(changes(), "of the new pod");
        handle.stop_accepting();
        assert!(served.owner(POD, 1).is_none(), "nothing more is attributed to it");
        assert!(!released.is_cancelled() && !changes());
        handle.release();
        assert!(
            released.is_cancelled() && changes(),
            "those who judge by it look again"
        );
        handle.release();
        assert!(!changes(), "said once");
        let (handle, released) = self::handle(&served, 2);
        drop(handle);
        assert!(released.is_cancelled() && changes());
        assert!(served.owner(POD, 2).is_none());
    }
}

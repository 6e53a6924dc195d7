//! What an enforced pod needs besides a listener: older connections destroyed, and its interfaces covered.
//!
//! In: enforced pods and the protected endpoints in force. Out: sockets that the kernel destroys, programs at the node's side
//! of the pods' interfaces, and counts. All of it blocks, and runs on threads that may.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::Notify;

use super::metrics::EnforceMetrics;
use super::new_endpoints;
use super::table::EnforcedPods;
use crate::endpoints::by_link;
use crate::kernel::destroy_sockets::{DestroySocketsError, DestroyedSockets, destroy_sockets};
use crate::kernel::interface::{InterfaceError, host_side};
use crate::kernel::{CgroupId, Ifindex, Kernel, KernelError};
use crate::notify::{EventQueue, KubeEvent, Reason};
use crate::workload::cgroup::subtree;
use crate::workload::{CoverageReport, EnforceError, Enforcement, Netns, Pod, PodNetwork};

/// What an attempt to list a pod's interfaces is for.
const FIND_INTERFACES: &str = "find the pod's interfaces";

/// The Event's text about a pod that is not covered.
const EGRESS_UNFILTERED: &str = "Picket cannot drop this pod's packet sockets' packets where they come out of it: give it neither \
     NET_RAW nor NET_ADMIN";

/// Cuts and covers.
pub(crate) struct Maintainer {
    kernel: Arc<Kernel>,
    metrics: EnforceMetrics,
    events: EventQueue,
    node: Netns,
    enforced: EnforcedPods,
    /// The protected endpoints when they last changed; to read them from the kernel takes long where there are thousands.
    endpoints: ArcSwap<HashSet<SocketAddr>>,
    changed: Notify,
}

impl Maintainer {
    pub(crate) fn new(
        kernel: Arc<Kernel>,
        metrics: EnforceMetrics,
        events: EventQueue,
        node: Netns,
        enforced: EnforcedPods,
    ) -> Result<Arc<Self>, KernelError> {
        let endpoints = ArcSwap::from_pointee(addresses(&kernel)?);
        Ok(Arc::new(Self {
            kernel,
            metrics,
            events,
            node,
            enforced,
            endpoints,
            changed: Notify::new(),
        }))
    }

    /// To be called once other protected endpoints are in force.
    pub(crate) fn endpoints_changed(&self) {
        self.changed.notify_one();
    }

    /// Destroys the enforced pods' connections to protected endpoints that are new, for as long as it is polled.
    pub(crate) async fn destroy_at_new_endpoints(self: Arc<Self>) {
        let (reader, destroyer) = (Arc::clone(&self), Arc::clone(&self));
        let read = || {
            let maintainer = Arc::clone(&reader);
            blocking(move || maintainer.read_endpoints().map_err(anyhow::Error::from))
        };
        let destroy = || {
            let maintainer = Arc::clone(&destroyer);
            blocking(move || maintainer.destroy_all())
        };
        new_endpoints::follow(&self.changed, read, destroy).await;
    }

    /// Reads the protected endpoints anew; says whether some are new.
    fn read_endpoints(&self) -> Result<bool, KernelError> {
        let now = Arc::new(addresses(&self.kernel)?);
        let before = self.endpoints.swap(Arc::clone(&now));
        Ok(!now.is_subset(&before))
    }

    /// Destroys the connections of every enforced pod to protected endpoints. One pod's failure keeps none of the others'.
    fn destroy_all(&self) -> anyhow::Result<()> {
        let (mut shared, mut failed) = (HashSet::new(), 0_usize);
        for (network, path) in self.enforced.networks() {
            match network {
                PodNetwork::Own(netns) => {
                    if let Err(error) = self.destroy_own(&netns) {
                        tracing::warn!(%error, cgroup = %path.display(), "the agent cannot destroy a pod's connections to new protected endpoints");
                        failed += 1;
                    }
                }
                PodNetwork::Node => shared.extend(subtree(&path)),
            }
        }
        if !shared.is_empty()
            && let Err(error) = self.destroy_shared(&shared)
        {
            tracing::warn!(%error, "the agent cannot destroy connections to new protected endpoints in the node's network");
            failed += 1;
        }
        anyhow::ensure!(
            failed == 0,
            "connections of {failed} network namespaces could not be looked for"
        );
        Ok(())
    }

    /// Ends the older connections of a pod with a namespace of its own. What it calls loopback is its own and no protected endpoint.
    fn destroy_own(&self, netns: &Netns) -> Result<DestroyedSockets, DestroySocketsError> {
        let endpoints = self.endpoints.load_full();
        let is_protected =
            |address: SocketAddr| !address.ip().is_loopback() && is_endpoint(&endpoints, address);
        self.count(destroy_sockets(netns, &is_protected, None))
    }

    /// Ends those of pods in the node's namespace, which differ from the node's own by their cgroups.
    fn destroy_shared(&self, cgroups: &HashSet<CgroupId>) -> Result<DestroyedSockets, DestroySocketsError> {
        let endpoints = self.endpoints.load_full();
        let is_protected = |address: SocketAddr| is_endpoint(&endpoints, address);
        self.count(destroy_sockets(&self.node, &is_protected, Some(cgroups)))
    }

    fn count(
        &self,
        outcome: Result<DestroyedSockets, DestroySocketsError>,
    ) -> Result<DestroyedSockets, DestroySocketsError> {
        let (sockets, unlisted) = match &outcome {
            Ok(sockets) => (*sockets, 0),
            Err(error) => (error.done(), 1),
        };
        let counts = [
            ("destroyed", sockets.destroyed),
            ("left", sockets.left),
            ("unknown", sockets.unknown),
            ("unlisted", unlisted),
        ];
        for (outcome, count) in counts {
            self.metrics.connections(outcome, count);
        }
        outcome
    }

    /// Looks after one pod.
    pub(crate) fn maintain(&self, pod: &Enforcement, first: bool) -> Result<CoverageReport, EnforceError> {
        // First, and whether or not connections can be destroyed: a pod's packets are dropped here where all else fails.
        let covered = self.attach_filters(pod)?;
        if first {
            let destroyed = match &pod.network {
                PodNetwork::Own(netns) => self.destroy_own(netns),
                PodNetwork::Node => self.destroy_shared(&subtree(&pod.group.path)),
            };
            let destroyed = destroyed.map_err(EnforceError::at("destroy older connections"))?;
            if destroyed != DestroyedSockets::default() {
                let facts = pod.pod.load();
                tracing::info!(
                    namespace = facts.namespace,
                    pod = facts.name,
                    ?destroyed,
                    "the agent destroyed connections to protected endpoints that the pod had opened before enforcement"
                );
            }
        }
        Ok(CoverageReport { covered })
    }

    fn report_egress_unfiltered(&self, pod: &Pod) {
        self.events.report(KubeEvent {
            about: pod.about(),
            reason: Reason::EgressUnfiltered,
            detail: String::new(),
            note: EGRESS_UNFILTERED.to_owned(),
        });
    }

    /// Attaches the filter to the interfaces that the pod's packets come out of; says whether all of them have it.
    pub(crate) fn attach_filters(&self, pod: &Enforcement) -> Result<bool, EnforceError> {
        let PodNetwork::Own(netns) = &pod.network else {
            // They come out of the node's own interfaces, where nobody can tell them apart.
            return Ok(false);
        };
        let (side, incomplete) = match host_side(netns) {
            Ok(side) => (side, None),
            // Those that are known get the filter all the same; that others may lack it is an error, and tried again.
            Err(InterfaceError::Incomplete { found, source }) => {
                (found.clone(), Some(InterfaceError::Incomplete { found, source }))
            }
            Err(error) => return Err(EnforceError::at(FIND_INTERFACES)(error)),
        };
        let (cgroup, mut all, facts) = (pod.group.id, side.covers(), pod.pod.load());
        let Pod { namespace, name, .. } = &**facts;
        if !all && self.enforced.should_report(cgroup) {
            tracing::warn!(namespace, pod = name, others = ?side.others, "the agent cannot filter the packets that leave a pod by these interfaces");
            self.report_egress_unfiltered(&facts);
        }
        for interface in side.interfaces {
            if let Err(error) = self.kernel.attach_interface_filter(Ifindex(interface), cgroup) {
                all = false;
                if self.enforced.should_report(cgroup) {
                    tracing::warn!(namespace, pod = name, interface, %error, "the agent cannot attach the packet filter to a pod's interface");
                    self.report_egress_unfiltered(&facts);
                }
            }
        }
        incomplete.map_or(Ok(all), |error| Err(EnforceError::at(FIND_INTERFACES)(error)))
    }
}

/// Runs what blocks on a thread that may; a panic there is an error as any other.
async fn blocking<T: Send + 'static>(
    call: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    tokio::task::spawn_blocking(call).await?
}

/// As the kernel's programs find it: at its own address, or by its link.
fn is_endpoint(endpoints: &HashSet<SocketAddr>, address: SocketAddr) -> bool {
    let link = SocketAddr::new(by_link(address.ip()), address.port());
    endpoints.contains(&address) || endpoints.contains(&link)
}

/// Where the protected endpoints are, redirected and refused ones alike.
fn addresses(kernel: &Kernel) -> Result<HashSet<SocketAddr>, KernelError> {
    Ok(kernel
        .endpoints()?
        .into_iter()
        .map(|endpoint| endpoint.addr)
        .collect())
}

//! The pods of this node as the API server tells of them.
//!
//! In: a kubeconfig, the node's name, and whether enrolment counts. Out: the node's pods by the UID that their cgroups carry,
//! through a watch channel; `None` until the first whole list was read. While the API server is away the last known pods stand.
//!
//! Where enrolment counts, a pod is told of once it is known whether its namespace is enrolled: a pod that nobody tells of is closed.
//!
//! Only [`Pod`] is kept of each object; the rest is dropped as it is read.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;
use kube::Api;
use kube::runtime::watcher;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::enrolment::{NamespaceCache, is_enrolled};
use super::layout::is_manifest_hash;
use super::sandbox::has_own_stack;
use super::{Controller, Pod, PodUid, WorkloadName};
use crate::cluster::{self, Connector, follow};

/// The kubelet's mark on the mirror of a static pod (`pkg/kubelet/types/pod_update.go`).
const MIRROR_ANNOTATION: &str = "kubernetes.io/config.mirror";

/// A pod with what ties it to its cgroup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodePod {
    /// The pod.
    pub pod: Pod,
    /// The UID that its cgroup carries.
    pub cgroup_uid: PodUid,
    /// Whether the kubelet says that it runs.
    pub running: bool,
    /// Whether a label of its own or of its namespace enrols it.
    pub enrolled: bool,
    /// When it was made, in seconds since 1970.
    created: i64,
}

/// The node's pods by the UID that their cgroups carry.
pub(crate) type PodMap = HashMap<PodUid, Arc<NodePod>>;

impl NodePod {
    /// A running pod whose cgroup carries this UID, made so many seconds after 1970.
    pub(super) fn new(cgroup_uid: PodUid, pod: Pod, created: i64) -> Self {
        Self {
            enrolled: is_enrolled(&pod.labels),
            pod,
            cgroup_uid,
            running: true,
            created,
        }
    }

    /// What is kept of the API server's object.
    fn read(object: core::Pod) -> Option<Self> {
        let meta = object.metadata;
        let spec = object.spec?;
        let status = object.status.unwrap_or_default();
        let uid = PodUid(meta.uid?);
        // A static pod's cgroup carries the hash of its manifest, not the UID of its mirror. Whoever may make pods can
        // write annotations, so only a hash is taken from them, which is never the UID of another pod from the API.
        let hash = meta.annotations.unwrap_or_default().remove(MIRROR_ANNOTATION);
        let cgroup_uid = hash
            .filter(|hash| is_manifest_hash(hash))
            .map_or_else(|| uid.clone(), PodUid);
        let ports = ports(&spec);
        let has_overhead = spec.overhead.is_some_and(|overhead| !overhead.is_empty());
        let sandboxed_by = (spec.runtime_class_name).filter(|class| has_own_stack(class, has_overhead));
        let addresses = addresses(&status, spec.host_network.unwrap_or_default());
        let running = status.phase.as_deref() == Some("Running");
        let containers = [
            status.container_statuses,
            status.init_container_statuses,
            status.ephemeral_container_statuses,
        ]
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|container| {
            let id = container.container_id?;
            let (_, id) = id.split_once("://")?;
            Some((id.to_owned(), container.name))
        })
        .collect();
        let (name, labels) = (meta.name?, meta.labels.unwrap_or_default());
        let owners = meta.owner_references.unwrap_or_default();
        let controller = owners.iter().find(|owner| owner.controller == Some(true));
        let controller = controller.map(|owner| Controller {
            api_version: &owner.api_version,
            kind: &owner.kind,
            name: &owner.name,
        });
        let pod = Pod {
            uid,
            namespace: meta.namespace?,
            workload: WorkloadName::of(&name, controller, &labels),
            name,
            service_account: spec.service_account_name.unwrap_or_default(),
            labels,
            node: spec.node_name.unwrap_or_default(),
            host_network: spec.host_network.unwrap_or_default(),
            addresses,
            ports,
            sandboxed_by,
            containers,
            cgroup: None,
        };
        let created = meta.creation_timestamp.map_or(0, |time| time.0.as_second());
        Some(Self {
            running,
            ..Self::new(cgroup_uid, pod, created)
        })
    }
}

/// The ports that a pod's manifest declares, on the pod and on its node.
fn ports(spec: &core::PodSpec) -> BTreeSet<u16> {
    let init = spec.init_containers.iter().flatten();
    let declared = spec
        .containers
        .iter()
        .chain(init)
        .flat_map(|container| &container.ports);
    declared
        .flatten()
        .flat_map(|port| [Some(port.container_port), port.host_port])
        .flatten()
        .filter_map(|port| u16::try_from(port).ok())
        .collect()
}

/// A pod's addresses as its status has them. The kubelet gives pods on the node's network the node's addresses, and tells
/// of the node's before it reports the pod's.
fn addresses(status: &core::PodStatus, host_network: bool) -> Vec<IpAddr> {
    let list = status.pod_ips.iter().flatten().map(|entry| entry.ip.as_str());
    let of_pod = list.chain(status.pod_ip.as_deref());
    let of_node = status.host_ips.iter().flatten().map(|entry| entry.ip.as_str());
    let of_node = of_node.chain(status.host_ip.as_deref()).filter(|_| host_network);
    let mut addresses: Vec<IpAddr> = Vec::new();
    for address in of_pod.chain(of_node).filter_map(cluster::address::address) {
        if !addresses.iter().any(|known| known.is_ipv4() == address.is_ipv4()) {
            addresses.push(address);
        }
    }
    addresses
}

/// The pods reported so far, by their own UID.
#[derive(Debug, Default)]
struct PodCache {
    known: BTreeMap<PodUid, Arc<NodePod>>,
    /// A new list while it is coming in.
    coming: BTreeMap<PodUid, Arc<NodePod>>,
    /// Whether a whole list has come in once.
    whole: bool,
}

impl PodCache {
    /// Takes an event in; says whether the known pods changed.
    fn take(&mut self, event: watcher::Event<core::Pod>) -> bool {
        match event {
            watcher::Event::Init => self.coming.clear(),
            watcher::Event::InitApply(object) => {
                if let Some(pod) = NodePod::read(object) {
                    self.coming.insert(pod.pod.uid.clone(), Arc::new(pod));
                }
            }
            watcher::Event::InitDone => {
                let first = !std::mem::replace(&mut self.whole, true);
                let before = std::mem::replace(&mut self.known, std::mem::take(&mut self.coming));
                return first || before != self.known;
            }
            watcher::Event::Apply(object) => {
                if let Some(pod) = NodePod::read(object) {
                    let pod = Arc::new(pod);
                    return self.known.insert(pod.pod.uid.clone(), pod.clone()) != Some(pod);
                }
            }
            watcher::Event::Delete(object) => {
                let uid = object.metadata.uid.map(PodUid);
                return uid.is_some_and(|uid| self.known.remove(&uid).is_some());
            }
        }
        false
    }

    /// The pods by the UID of their cgroups, without those of whose namespaces nothing is known where enrolment counts. Of two
    /// that claim one cgroup, which takes a forged mirror, the older one is believed.
    fn by_cgroup(&self, namespaces: Option<&NamespaceCache>) -> PodMap {
        let mut map = PodMap::with_capacity(self.known.len());
        let judged = |pod: &Arc<NodePod>| match namespaces {
            Some(namespaces) if !pod.enrolled => match namespaces.enrols(&pod.pod.namespace)? {
                true => Some(Arc::new(NodePod {
                    enrolled: true,
                    ..NodePod::clone(pod)
                })),
                false => Some(Arc::clone(pod)),
            },
            _ => Some(Arc::clone(pod)),
        };
        for pod in self.known.values().filter_map(judged) {
            match map.entry(pod.cgroup_uid.clone()) {
                std::collections::hash_map::Entry::Vacant(free) => {
                    free.insert(pod);
                }
                std::collections::hash_map::Entry::Occupied(mut taken) => {
                    tracing::warn!(
                        one = %taken.get().pod.name, other = %pod.pod.name, cgroup = %pod.cgroup_uid.0,
                        "two pods name one cgroup; the agent takes the older pod for its owner"
                    );
                    if pod.created < taken.get().created {
                        taken.insert(pod);
                    }
                }
            }
        }
        map
    }
}

/// What is known of the pods, and of the namespaces where enrolment counts.
#[derive(Debug)]
struct Known {
    pods: PodCache,
    namespaces: Option<NamespaceCache>,
}

impl Known {
    /// Tells of the pods, once a whole list of each kind has come in.
    fn publish(&self, pods: &watch::Sender<Option<Arc<PodMap>>>) {
        let namespaces = self.namespaces.as_ref();
        if self.pods.whole && namespaces.is_none_or(|namespaces| namespaces.whole) {
            pods.send_replace(Some(Arc::new(self.pods.by_cgroup(namespaces))));
        }
    }
}

/// Pods of a page. One that is read takes many times the bytes that its maker wrote: 1.3 MB of environment variables come to 45 MB for as
/// long as the page is read.
const PODS_PAGE: u32 = 10;

/// Follows the pods of this node until it is cancelled, and all namespaces where enrolment counts.
pub(super) async fn follow_pods(
    connector: Connector,
    node: String,
    by_enrolment: bool,
    pods: watch::Sender<Option<Arc<PodMap>>>,
    cancel: CancellationToken,
) {
    let known = Mutex::new(Known {
        pods: PodCache::default(),
        namespaces: by_enrolment.then(NamespaceCache::default),
    });
    let here = watcher::Config::default()
        .fields(&format!("spec.nodeName={node}"))
        .page_size(PODS_PAGE);
    let of_pods = follow(&connector, "pods", Api::all, here, &cancel, |event| {
        let mut known = known.lock();
        if known.pods.take(event) {
            known.publish(&pods);
        }
    });
    let of_namespaces = async {
        if !by_enrolment {
            return;
        }
        let all = watcher::Config::default();
        follow(&connector, "namespaces", Api::all, all, &cancel, |event| {
            let mut known = known.lock();
            if known
                .namespaces
                .as_mut()
                .is_some_and(|namespaces| namespaces.take(event))
            {
                known.publish(&pods);
            }
        })
        .await;
    };
    tokio::join!(of_pods, of_namespaces);
}

#[cfg(test)]
#[path = "pods_tests.rs"]
mod tests;

//! A pod as the rest of the agent sees it: plain facts, no handles.
//!
//! In: what the API server and the cgroup tree say of a pod. Out: a [`Pod`], and its address of the family that a client
//! dialled.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;

use crate::notify::About;

/// The UID the API server gave a pod; also the pod's part in its cgroup's name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PodUid(pub String);

/// What made a pod, as `KIND/NAME` in the pod's namespace, such as `Deployment/fixer`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkloadName(pub String);

/// The label by which a Deployment tells the ReplicaSets of its versions apart. It ends each one's name.
const TEMPLATE_HASH: &str = "pod-template-hash";

impl WorkloadName {
    /// The workload of a pod by its controller's kind and name. A ReplicaSet that a Deployment made stands for the Deployment, so that
    /// a rollout is one workload. A pod without a controller is its own, and so is the mirror of a static pod, whose controller is the
    /// node.
    #[must_use]
    pub fn of(pod: &str, controller: Option<(&str, &str)>, labels: &BTreeMap<String, String>) -> Self {
        let (kind, name) = match controller {
            None | Some(("Node", _)) => ("Pod", pod),
            Some(("ReplicaSet", name)) => {
                let hash = labels.get(TEMPLATE_HASH).filter(|hash| !hash.is_empty());
                let deployment = hash
                    .and_then(|hash| name.strip_suffix(hash.as_str())?.strip_suffix('-'))
                    .filter(|deployment| !deployment.is_empty());
                deployment.map_or(("ReplicaSet", name), |deployment| ("Deployment", deployment))
            }
            Some((kind, name)) => (kind, name),
        };
        Self(format!("{kind}/{name}"))
    }
}

/// One pod on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// The pod's UID.
    pub uid: PodUid,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The service account it runs as.
    pub service_account: String,
    /// What made it, as far as its own facts say.
    pub workload: WorkloadName,
    /// Its labels at the last look.
    pub labels: BTreeMap<String, String>,
    /// The node it runs on.
    pub node: String,
    /// Whether it shares the node's network namespace.
    pub host_network: bool,
    /// Its addresses as its status has them, the first of each family; the node's where it shares the node's network.
    pub addresses: Vec<IpAddr>,
    /// The ports that its manifest declares: Picket's listener takes none of them.
    pub ports: BTreeSet<u16>,
    /// Its RuntimeClass, where that gives it a network stack of its own.
    pub sandboxed_by: Option<String>,
    /// Container id (as the runtime names it, without `containerd://`) to the container's name in the manifest.
    pub containers: BTreeMap<String, String>,
    /// Its cgroup v2 folder, once seen.
    pub cgroup: Option<PathBuf>,
}

/// The address among these that a connection to `dialled` comes from: one of its family, else the first.
#[must_use]
pub fn source_for(addresses: &[IpAddr], dialled: IpAddr) -> Option<IpAddr> {
    let same_family = |address: &&IpAddr| address.is_ipv4() == dialled.to_canonical().is_ipv4();
    addresses
        .iter()
        .find(same_family)
        .or_else(|| addresses.first())
        .copied()
}

impl Pod {
    /// What a notice about it is about.
    #[must_use]
    pub fn about(&self) -> About {
        About::Pod {
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            uid: self.uid.0.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rollout_is_one_workload_and_a_pod_that_nobody_made_is_its_own() {
        let labels = BTreeMap::from([(TEMPLATE_HASH.to_owned(), "7d9f".to_owned())]);
        let of = |controller, labels: &BTreeMap<_, _>| WorkloadName::of("p", controller, labels).0;
        let none = BTreeMap::new();
        for (controller, labels, workload) in [
            (Some(("ReplicaSet", "fixer-7d9f")), &labels, "Deployment/fixer"),
            // None that a Deployment made.
            (Some(("ReplicaSet", "fixer-7d9f")), &none, "ReplicaSet/fixer-7d9f"),
            (
                Some(("ReplicaSet", "fixer-1111")),
                &labels,
                "ReplicaSet/fixer-1111",
            ),
            (Some(("ReplicaSet", "fixer7d9f")), &labels, "ReplicaSet/fixer7d9f"),
            (Some(("ReplicaSet", "-7d9f")), &labels, "ReplicaSet/-7d9f"),
            (
                Some(("StatefulSet", "fixer-7d9f")),
                &labels,
                "StatefulSet/fixer-7d9f",
            ),
            (Some(("Job", "nightly")), &none, "Job/nightly"),
            (Some(("Node", "node-1")), &none, "Pod/p"),
            (None, &labels, "Pod/p"),
        ] {
            assert_eq!(of(controller, labels), workload, "{controller:?}");
        }
    }
}

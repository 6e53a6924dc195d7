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

//! What the tests of this module share.

use super::pods::NodePod;
use super::{Pod, PodUid, WorkloadName};

impl Pod {
    /// A pod with no more than a name.
    pub(crate) fn for_tests(namespace: &str, name: &str) -> Self {
        Self {
            uid: PodUid(uuid::Uuid::new_v4().to_string()),
            namespace: namespace.into(),
            name: name.into(),
            service_account: "default".into(),
            workload: WorkloadName(format!("Pod/{name}")),
            labels: Default::default(),
            node: "node".into(),
            host_network: false,
            addresses: Vec::new(),
            ports: Default::default(),
            sandboxed_by: None,
            containers: Default::default(),
            cgroup: None,
        }
    }
}

impl NodePod {
    /// What the API server would tell of this pod.
    pub(super) fn for_tests(pod: Pod) -> Self {
        Self::new(pod.uid.clone(), pod, 0)
    }
}

//! What the tests of this module share.

use std::path::{Path, PathBuf};

use super::api::NodePod;
use super::{Pod, PodUid};

/// A folder of the test's own, removed with it.
pub(super) struct Folder(PathBuf);

impl Folder {
    pub(super) fn new() -> Self {
        let path = std::env::temp_dir().join(format!("picket-workload-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Pod {
    /// A pod with no more than a name.
    pub(crate) fn for_tests(namespace: &str, name: &str) -> Self {
        Self {
            uid: PodUid(uuid::Uuid::new_v4().to_string()),
            namespace: namespace.into(),
            name: name.into(),
            service_account: "default".into(),
            labels: Default::default(),
            node: "node".into(),
            host_network: false,
            ip: None,
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

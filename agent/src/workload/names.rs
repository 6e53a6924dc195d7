//! Which pod is meant: for records of what the kernel denied, whatever class the pod has.
//!
//! In: the cgroups of the tree and the API server's pods, from the reconciler. Out: a pod's facts by its cgroup, or by the
//! UID that its cgroup's name carries: a pod that nobody judged yet is denied in the name of the folder of all pods.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;

use super::cgroup::Scan;
use super::layout::pod_of;
use super::pods::{NodePod, PodMap};
use super::{Pod, PodUid};
use crate::kernel::CgroupId;

/// The pods that are known, replaced as a whole when something changes.
#[derive(Debug, Default)]
pub struct Names {
    known: ArcSwap<Known>,
}

#[derive(Debug, Default)]
struct Known {
    cgroups: HashMap<CgroupId, PodUid>,
    pods: HashMap<PodUid, Arc<NodePod>>,
}

impl Names {
    /// Takes in what there is now.
    pub(super) fn set(&self, scan: &Scan, pods: Option<&PodMap>) {
        let cgroups = scan.pods.iter().map(|pod| (pod.group.id, pod.uid.clone()));
        self.known.store(Arc::new(Known {
            cgroups: cgroups.collect(),
            pods: pods.cloned().unwrap_or_default(),
        }));
    }

    /// The pod with this cgroup; else the one whose part of the cgroup tree `path` lies in, where the path of a process is
    /// known.
    #[must_use]
    pub fn find(&self, cgroup: CgroupId, path: Option<&Path>) -> Option<Arc<NodePod>> {
        let known = self.known.load();
        let uid = match known.cgroups.get(&cgroup) {
            Some(uid) => uid.clone(),
            None => pod_of(path?)?,
        };
        known.pods.get(&uid).cloned()
    }

    /// The pod whose cgroup carries this UID.
    #[must_use]
    pub fn by_uid(&self, uid: &PodUid) -> Option<Pod> {
        self.known.load().pods.get(uid).map(|known| known.pod.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::super::cgroup::{Group, PodGroup};
    use super::*;

    #[test]
    fn a_pod_is_named_by_its_cgroup_or_by_where_its_process_is() {
        let (one, two) = (Pod::for_tests("default", "one"), Pod::for_tests("default", "two"));
        let (first, second) = (one.uid.clone(), two.uid.clone());
        let names = Names::default();
        let scan = Scan {
            pods: vec![PodGroup {
                group: Group {
                    id: CgroupId(7),
                    path: format!("/kubepods/pod{}", first.0).into(),
                    level: 2,
                },
                uid: first.clone(),
                children: Vec::new(),
            }],
            ..Scan::default()
        };
        let name = |cgroup: u64, path: Option<&str>| {
            let found = names.find(CgroupId(cgroup), path.map(Path::new));
            found.map(|pod| pod.pod.name.clone())
        };
        names.set(&scan, None);
        assert_eq!(name(7, None), None, "the API server has not told");
        let map = [one, two].map(|pod| (pod.uid.clone(), Arc::new(NodePod::for_tests(pod))));
        names.set(&scan, Some(&PodMap::from(map)));
        assert_eq!(name(7, None).as_deref(), Some("one"));
        let inside = format!("/kubepods/burstable/pod{}/aa11", second.0);
        assert_eq!(
            name(1, Some(&inside)).as_deref(),
            Some("two"),
            "of the folder of all pods"
        );
        assert_eq!(
            name(7, Some(&inside)).as_deref(),
            Some("one"),
            "the kernel is believed first"
        );
        assert_eq!(name(1, Some("/system.slice/sshd.service")), None);
        assert_eq!(name(1, None), None);
        assert_eq!(names.by_uid(&second).unwrap().name, "two");
    }
}

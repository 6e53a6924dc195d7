//! Closes a node that no agent enforced on before, as soon as the kernel programs are loaded.
//!
//! In: the protected endpoints that are known without the cluster, the cgroups that are there, and what the operator wants of static
//! pods. Out: all of it in the kernel, so that a start that fails later leaves the node's pods closed, and static pods open where the
//! operator wants that. A pod that an earlier agent judged stays as it is.

use std::collections::BTreeMap;

use super::endpoints::put_in_force;
use crate::endpoints::ProtectedEndpoints;
use crate::kernel::{CgroupId, Class, FailMode, Kernel};
use crate::workload::cgroup::{Scan, own_pod};
use crate::workload::layout::is_manifest_hash;

/// Closes the folders of all pods to these endpoints, and exempts the agent's own pod. Programs of another map layout hold the
/// pods that they know until all are judged, and nothing is closed beside them.
///
/// With [`FailMode::Open`], static pods that nobody judged are exempt: a control plane of static pods must come up though no agent does.
/// An agent whose start goes on closes them again until it has asked the API server for their mirrors.
///
/// # Errors
/// When the kernel does not take it.
pub(crate) fn close_node(
    kernel: &Kernel,
    endpoints: &ProtectedEndpoints,
    scan: &Scan,
    static_pods: FailMode,
) -> anyhow::Result<()> {
    if kernel.older()? {
        return Ok(());
    }
    let known: BTreeMap<CgroupId, Class> = kernel.classes()?.into_iter().collect();
    for (cgroup, class) in classes_at_start(scan, static_pods, own_pod(scan)) {
        let is_judged = match (known.get(&cgroup), class) {
            // An earlier start that failed may have closed it; no agent had judged it then.
            (Some(Class::Pending | Class::Unclassified), Class::Exempt) => false,
            (known, _) => known.is_some(),
        };
        if !is_judged {
            kernel.set_class(cgroup, class)?;
        }
    }
    put_in_force(kernel, endpoints)
}

/// What each cgroup is before any pod is judged. Exempt ones come first: they must not lose what they have for a moment.
fn classes_at_start(
    scan: &Scan,
    static_pods: FailMode,
    own: Option<CgroupId>,
) -> impl Iterator<Item = (CgroupId, Class)> {
    let are_open = static_pods == FailMode::Open;
    let of_manifests = scan
        .pods
        .iter()
        .filter(move |pod| are_open && is_manifest_hash(&pod.uid.0));
    let exempt = own.into_iter().chain(of_manifests.map(|pod| pod.group.id));
    let folders = scan.roots.iter().map(|root| (root.id, Class::Unclassified));
    exempt.map(|cgroup| (cgroup, Class::Exempt)).chain(folders)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::PodUid;
    use crate::workload::cgroup::{Group, PodGroup};

    fn group(id: u64) -> Group {
        Group {
            id: CgroupId(id),
            path: format!("/{id}").into(),
            level: 1,
        }
    }

    #[test]
    fn static_pods_are_open_before_the_folders_close_where_the_operator_wants_that() {
        let pod = |id, uid: &str| PodGroup {
            group: group(id),
            uid: PodUid(uid.to_owned()),
            children: Vec::new(),
        };
        let scan = Scan {
            roots: vec![group(1)],
            pods: vec![
                pod(2, "f0e1d2c3b4a5968778695a4b3c2d1e0f"),
                pod(3, "0d5a3c3e-7f3a-4a59-9a5b-0c6f4f0b8f11"),
            ],
            above: Vec::new(),
        };
        let classes = |mode| {
            let found = classes_at_start(&scan, mode, Some(CgroupId(4)));
            found.map(|(cgroup, class)| (cgroup.0, class)).collect::<Vec<_>>()
        };
        assert_eq!(
            classes(FailMode::Open),
            [(4, Class::Exempt), (2, Class::Exempt), (1, Class::Unclassified)]
        );
        assert_eq!(
            classes(FailMode::Closed),
            [(4, Class::Exempt), (1, Class::Unclassified)]
        );
    }
}

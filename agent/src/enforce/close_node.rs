//! Closes a node that no agent enforced on before, as soon as the kernel programs are loaded.
//!
//! In: the protected endpoints that are known without the cluster, and the cgroups that are there. Out: both in the kernel, so that
//! a start that fails later leaves the node's pods closed. Whatever an earlier agent left in the kernel stays as it is.

use std::collections::BTreeSet;

use super::endpoints::put_in_force;
use crate::endpoints::ProtectedEndpoints;
use crate::kernel::{CgroupId, Class, Kernel};
use crate::workload::cgroup::{Scan, own_pod};

/// Closes the folders of all pods to these endpoints, and exempts the agent's own pod. Programs of another map layout hold the
/// pods that they know until all are judged, and nothing is closed beside them.
///
/// # Errors
/// When the kernel does not take it.
pub(crate) fn close_node(kernel: &Kernel, endpoints: &ProtectedEndpoints, scan: &Scan) -> anyhow::Result<()> {
    if kernel.older()? {
        return Ok(());
    }
    let known: BTreeSet<CgroupId> = kernel.classes()?.into_iter().map(|(cgroup, _)| cgroup).collect();
    let own = own_pod(scan).map(|own| (own, Class::Exempt));
    let folders = scan.roots.iter().map(|root| (root.id, Class::Unclassified));
    for (cgroup, class) in own.into_iter().chain(folders) {
        if !known.contains(&cgroup) {
            kernel.set_class(cgroup, class)?;
        }
    }
    put_in_force(kernel, endpoints)
}

//! The trait between the reconciler, which decides, and `enforce`, which acts: [`Enforcer`].
//!
//! In: the reconciler's decision on one cgroup: enforce (with an [`Enforcement`]), exempt, pending, close or forget. Out: the
//! kernel's class and a listener, as a handle; a [`CoverageReport`] of an enforced pod; or an [`EnforceError`].

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::Pod;
use super::cgroup::Group;
use super::netns::{Netns, NetnsId};
use crate::kernel::CgroupId;

/// Why something could not be put in force.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {source}")]
pub struct EnforceError {
    /// What was tried.
    pub what: &'static str,
    /// Why it failed.
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

impl EnforceError {
    /// Says what was tried, beside why it failed.
    pub fn at<E>(what: &'static str) -> impl FnOnce(E) -> Self
    where
        E: std::error::Error + Send + Sync + 'static,
    {
        move |source| Self {
            what,
            source: Box::new(source),
        }
    }
}

/// The network namespace that a pod's processes are in.
#[derive(Debug, Clone)]
pub enum PodNetwork {
    /// One of the pod's own.
    Own(Netns),
    /// The node's, which the pod shares with it.
    Node,
}

impl PodNetwork {
    /// Which namespace of its own the pod has.
    #[must_use]
    pub fn own(&self) -> Option<NetnsId> {
        match self {
            Self::Own(netns) => Some(netns.id()),
            Self::Node => None,
        }
    }
}

/// A pod to put in force.
#[derive(Debug, Clone)]
pub struct Enforcement {
    /// Its cgroup.
    pub group: Group,
    /// Its network namespace.
    pub network: PodNetwork,
    /// What is known of it; replaced when its labels or containers change.
    pub pod: Arc<ArcSwap<Pod>>,
}

/// What was found when an enforced pod was looked after.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CoverageReport {
    /// Whether packets that pass no socket's hook are dropped too, where they come out of the pod.
    pub covered: bool,
}

/// What puts classes in force: the kernel's map and the listeners.
pub trait Enforcer: Send + Sync + 'static {
    /// A listener that serves one pod. Dropping it ends it and releases what the pod has open through it.
    type Handle: Send + 'static;

    /// Opens a listener in the pod's namespace, or uses the node's for a pod that shares it, and, as the last step, tells
    /// the kernel to redirect the cgroup to it. It may be called for a cgroup that is enforced already; the last call wins,
    /// and the earlier handle is dropped after.
    ///
    /// # Errors
    /// [`EnforceError`]; the cgroup's class must then be what it was, or closed.
    fn enforce(&self, pod: Enforcement) -> impl Future<Output = Result<Self::Handle, EnforceError>> + Send;

    /// Looks after an enforced pod: puts in force again what another agent may have changed, covers the interfaces that its
    /// packets come out of and, if `destroy`, ends its connections to protected endpoints that are older than its enforcement. Its listener
    /// stays what it is.
    ///
    /// # Errors
    /// [`EnforceError`]; the pod stays enforced and is looked after again.
    fn maintain(
        &self,
        pod: Enforcement,
        destroy: bool,
    ) -> impl Future<Output = Result<CoverageReport, EnforceError>> + Send;

    /// Lets the cgroup reach the protected endpoints.
    ///
    /// # Errors
    /// [`EnforceError`].
    fn exempt(&self, cgroup: CgroupId) -> Result<(), EnforceError>;

    /// Closes the protected endpoints to all pods of a folder that nobody has judged.
    ///
    /// # Errors
    /// [`EnforceError`].
    fn close(&self, folder: CgroupId) -> Result<(), EnforceError>;

    /// Closes the protected endpoints to the cgroup.
    ///
    /// # Errors
    /// [`EnforceError`].
    fn pending(&self, cgroup: CgroupId) -> Result<(), EnforceError>;

    /// Takes away what the kernel holds for a cgroup that is gone. It is no error where it holds nothing.
    ///
    /// # Errors
    /// [`EnforceError`].
    fn forget(&self, cgroup: CgroupId) -> Result<(), EnforceError>;

    /// What is known of an enforced pod was replaced: who goes by it is to look again.
    fn changed(&self);

    /// Releases what the pod has open with this agent, and changes nothing in the kernel: that is another agent's to do, or stays
    /// as it is because this one stops.
    fn release(&self, handle: &Self::Handle);

    /// Accepts no more for the pod, since the agent stops. What the pod has open goes on until [`Enforcer::release`].
    fn stop_accepting(&self, handle: &mut Self::Handle);
}

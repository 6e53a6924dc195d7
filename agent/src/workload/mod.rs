//! The pods on this node: which there are, where they are, and that each is treated as it should be.
//!
//! In: the API server's pods, namespaces, Services, endpoint slices and nodes, and the node's cgroup tree and addresses. Out: each pod's
//! class through an [`Enforcer`], and the addresses that are protected endpoints.
//!
//! [`start`] puts the parts together: [`pods`] and [`endpoints`] follow the API server, [`tree`] the cgroups, and [`reconcile`]
//! makes of both the calls to the enforcer.

mod attempt;
pub mod cgroup;
mod changes;
pub mod enforce;
mod enrolment;
pub mod escapes;
pub mod layout;
pub mod levels;
mod metrics;
pub mod names;
pub mod netns;
mod pause;
mod pod;
mod pods;
pub mod reconcile;
mod sandbox;
pub mod selection;
mod slot;
#[cfg(test)]
mod testing;
pub mod tree;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use changes::PodChanges;
pub use enforce::{CoverageReport, EnforceError, Enforcement, Enforcer, PodNetwork};
pub use layout::{container_of, pod_of};
pub use metrics::WorkloadMetrics;
pub use names::Names;
pub use netns::{Netns, NetnsId, NodeNetns};
pub use pod::{Controller, Pod, PodUid, WorkloadName, source_for};
pub use reconcile::{Judged, PodCounts};
pub use selection::Selection;

use crate::cluster::Connector;
use crate::endpoints::{self, EndpointTarget, ProtectedEndpoints, ProtectedEndpointsConfig};
use crate::kernel::{CgroupId, FailMode};
use crate::notify::EventQueue;
use crate::runtime::phase::PhaseWatch;

/// The settings of this part.
#[derive(Clone)]
pub struct WorkloadConfig {
    /// The node's name, as the pods' `spec.nodeName` has it.
    pub node: String,
    /// The cgroup v2 folder below which this node's pods live.
    pub cgroup_root: PathBuf,
    /// Its kubeconfig's current context may read pods, Services, endpoint slices and nodes, and namespaces where enrolment counts.
    pub connector: Connector,
    /// Which pods are enforced.
    pub selection: Selection,
    /// What becomes of static pods that the API server has not reported.
    pub static_pods: FailMode,
    /// Which addresses are protected endpoints besides those that the cluster names.
    pub endpoints: ProtectedEndpointsConfig,
    /// The cgroups that the kernel has a class for already, from an agent before this one.
    pub known: BTreeSet<CgroupId>,
    /// Those of them whose connects it redirects.
    pub redirected: BTreeSet<CgroupId>,
    /// How far the agent is: while the kernel write lease is lent, nothing is changed.
    pub phase: PhaseWatch,
    /// Learns how long a new pod took until it was enforced or left alone.
    pub judged: Judged,
    /// Where to tell of pods that cannot be enforced.
    pub kube_events: EventQueue,
}

/// Why this part cannot start.
#[derive(Debug, thiserror::Error)]
pub enum WorkloadError {
    /// The cgroup tree cannot be used.
    #[error(transparent)]
    Cgroup(#[from] cgroup::CgroupError),
    /// The node's network namespace cannot be looked at.
    #[error(transparent)]
    Netns(#[from] netns::NetnsError),
}

/// A task that runs until it is cancelled; one that ends before is an error of the process.
pub type Task = (&'static str, BoxFuture<'static, ()>);

/// What [`start`] hands out.
pub struct Workload {
    /// The addresses that are protected endpoints.
    pub endpoints: watch::Receiver<ProtectedEndpoints>,
    /// How many pods are in which class.
    pub status: watch::Receiver<PodCounts>,
    /// Whether nothing is changed, and no change is under way, because the kernel write lease is lent.
    pub paused: watch::Receiver<bool>,
    /// Which pod is which cgroup, of every class.
    pub names: Arc<Names>,
    /// What has to be spawned.
    pub tasks: Vec<Task>,
}

/// Reads the cgroup tree, closes the folders of all pods to the protected endpoints, exempts the agent's own pod, and hands out what
/// does the rest. Nothing here waits for the API server.
///
/// # Errors
/// [`WorkloadError`] where the configuration does not fit this machine.
pub async fn start<E: Enforcer>(
    config: WorkloadConfig,
    enforcer: Arc<E>,
    cancel: &CancellationToken,
) -> Result<Workload, WorkloadError> {
    let connector = config.connector;
    let (tree, scans) = tree::Tree::open(config.cgroup_root)?;
    let own = cgroup::own_pod(&scans.borrow());
    let node = NodeNetns::current()?;
    let find = Arc::new(move |cgroup: &std::path::Path| netns::of_pod(cgroup, &node));
    let (pod_sender, pods) = watch::channel(None);
    let mut configured = config.endpoints;
    // The address by which this agent reads is an API server's too. A kubeconfig that cannot be used must not end the agent, which
    // would leave the pods unjudged for good; it is read again.
    let server = connector.server().await;
    if let Ok(server) = &server {
        configured.redirect.extend(EndpointTarget::of_url(server));
    }
    let (endpoints, finder) = endpoints::start(configured, endpoints::LocalSources::machine());
    let finder = match server {
        Ok(_) => finder,
        Err(_) => finder.learning_server(),
    };
    let by_enrolment = config.selection.by_enrolment();
    let mut reconciler = reconcile::Reconciler::new(enforcer, config.selection, find, own, config.known)
        .static_pods(config.static_pods)
        .redirected(config.redirected)
        .pauses_with(config.phase)
        .reports_to(config.judged)
        .notifies(config.kube_events);
    let paused = reconciler.paused();
    reconciler.close(&scans.borrow());
    let status = reconciler.status();
    let names = reconciler.names();
    // The source of pods does not end with the others: what pods have open while the agent drains is judged by their changes.
    let never = CancellationToken::new();
    let tasks = vec![
        ("cgroup tree", tree.run(never.clone()).boxed()),
        (
            "pods",
            pods::follow_pods(connector.clone(), config.node, by_enrolment, pod_sender, never).boxed(),
        ),
        (
            "protected endpoints",
            finder.run(connector, cancel.clone()).boxed(),
        ),
        ("reconcile", reconciler.run(scans, pods, cancel.clone()).boxed()),
    ];
    Ok(Workload {
        endpoints,
        status,
        paused,
        names,
        tasks,
    })
}

//! How the parts are joined: one function for each part, which starts the part's tasks with the handles that they need.
//!
//! In: every part, opened. Out: [`Tasks`] that run until the process ends.

mod cluster;
mod node;
mod node_status;
mod requests;
mod shown;

use std::sync::Arc;

use futures::FutureExt;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::checkpoint::NodeCheckpoint;
use super::files::FileParts;
use super::metrics::ModuleMetrics;
use super::shutdown::Shutdown;
use crate::audit::AuditLog;
use crate::cluster::Connector;
use crate::config::Config;
use crate::denied::{Denials, DeniedConnection};
use crate::enforce::{KernelEnforcer, NodeListener};
use crate::kernel::lease::KernelWriteLease;
use crate::kernel::{Kernel, KernelMetrics};
use crate::listener::{Arrival, InPodListener};
use crate::notify::EventQueue;
use crate::runtime::phase::PhaseControl;
use crate::runtime::readiness::Readiness;
use crate::runtime::workers::Workers;
use crate::session::Registry;
use crate::store::{PodFacts, Store};
use crate::upgrade::Successor;
use crate::workload::{Netns, Pod};

pub(super) use cluster::{
    cluster_objects, first_set, kubeconfig, namespaces, node_ca, notify, object_status, unreadable,
};
pub(super) use node::{
    checkpoint, denied, endpoints, initial_sync, kernel, node_listener, node_name, upgrade, workload,
};
pub(super) use node_status::node_status;
pub(super) use requests::{connections, files, gateway, observer};
pub(super) use shown::{admin, admin_socket, metrics, metrics_port};

/// Connections between accept and their own task; each holds a few hundred bytes, and handing one on takes microseconds.
const ARRIVALS: usize = 1024;

/// What any part may be given; cheap to clone.
#[derive(Clone)]
pub(super) struct Handles {
    pub(super) config: Arc<Config>,
    /// The way to the API server. Its copies tell each other where the objects were set back.
    pub(super) connector: Connector,
    pub(super) checkpoint: NodeCheckpoint,
    pub(super) metrics: ModuleMetrics,
    pub(super) store: Arc<Store>,
    pub(super) files: FileParts,
    pub(super) workers: Workers,
    pub(super) audit: AuditLog,
    pub(super) sessions: Registry,
    pub(super) kernel: Arc<Kernel>,
    pub(super) kernel_metrics: KernelMetrics,
    pub(super) readiness: Readiness,
    pub(super) kube_events: EventQueue,
    pub(super) phase: PhaseControl,
    pub(super) cancel: CancellationToken,
}

/// The running parts. Each runs until the process ends.
#[derive(Default)]
pub(super) struct Tasks(JoinSet<anyhow::Error>);

impl Tasks {
    /// Starts a part that never ends by itself.
    pub(super) fn spawn(&mut self, name: &'static str, part: impl Future<Output = ()> + Send + 'static) {
        self.0
            .spawn(part.map(move |()| anyhow::anyhow!("the part `{name}` ended by itself")));
    }

    /// Starts a part that ends only where it fails.
    fn spawn_fallible<E: Into<anyhow::Error> + 'static>(
        &mut self,
        part: impl Future<Output = E> + Send + 'static,
    ) {
        self.0.spawn(part.map(Into::into));
    }

    /// Waits until a part ends, though none should.
    pub(super) async fn first_end(&mut self) -> anyhow::Error {
        match self.0.join_next().await {
            Some(Ok(error)) => error,
            Some(Err(error)) => anyhow::anyhow!("a part of the agent failed: {error}"),
            None => anyhow::anyhow!("no part of the agent runs"),
        }
    }

    /// Ends them all.
    pub(super) async fn abort(mut self) {
        self.0.shutdown().await;
    }
}

/// What two parts or more share, and only the parts of a running agent have.
pub(super) struct Shared {
    enforcer: Arc<KernelEnforcer>,
    lease: KernelWriteLease,
    denials: Denials,
    /// Where the gateway's connections go, as the pods' do.
    arrivals: mpsc::Sender<Arrival>,
    /// When this agent became another one's successor.
    succeeded: Option<Instant>,
}

/// Where what the parts send each other comes out.
pub(super) struct Receivers {
    arrivals: mpsc::Receiver<Arrival>,
    denials: mpsc::Receiver<DeniedConnection>,
}

/// Makes the enforcer and the channels between the parts.
///
/// # Errors
/// Where the enforcer cannot be made.
pub(super) fn shared(
    handles: &Handles,
    shutdown: &Shutdown,
    successor: Option<&Successor>,
    netns: Netns,
    listener: &InPodListener,
) -> anyhow::Result<(Shared, Receivers)> {
    let (sink, arrivals) = mpsc::channel(ARRIVALS);
    let store = Arc::clone(&handles.store);
    let identify = move |pod: &Pod| {
        let policies = store.current();
        let identity = policies.sole_identity_of_pod(&pod.namespace, &pod.service_account, &pod.labels)?;
        Some(Arc::<str>::from(&*identity.name))
    };
    let (denials, to_write) = Denials::channel(handles.metrics.denied.clone(), identify);
    let inherited = successor.map(|successor| Arc::clone(&successor.inherited));
    let enforcer = KernelEnforcer::new(
        Arc::clone(&handles.kernel),
        handles.metrics.enforce.clone(),
        handles.kube_events.clone(),
        sink.clone(),
        NodeListener { netns, listener },
        inherited.unwrap_or_default(),
        shutdown.accepting.clone(),
    )?;
    enforcer.enforced().changes().raise(handles.sessions.epoch());
    let senders = enforcer.enforced().clone();
    let claimants = move || senders.senders().iter().map(pod_facts).collect();
    handles.store.set_claimants(Arc::new(claimants));
    let shared = Shared {
        enforcer: Arc::new(enforcer),
        lease: KernelWriteLease::new(handles.phase.watch()),
        denials,
        arrivals: sink,
        succeeded: successor.map(|_| Instant::now()),
    };
    let receivers = Receivers {
        arrivals,
        denials: to_write,
    };
    Ok((shared, receivers))
}

/// A pod as the store knows pods.
fn pod_facts(pod: &Arc<Pod>) -> PodFacts {
    PodFacts {
        namespace: pod.namespace.clone(),
        name: pod.name.clone(),
        service_account: pod.service_account.clone(),
        labels: pod.labels.clone(),
        workload: pod.workload.0.clone(),
    }
}

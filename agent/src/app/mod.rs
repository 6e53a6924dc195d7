//! The composition root: opens every part, joins the parts, and serves until the process is asked to stop.
//!
//! In: a checked [`Config`]. Out: nothing but the process's end. What others write to files, objects among it, stops no start: what
//! cannot be used refuses what depends on it (files.rs). A part that cannot be opened stops the start, after the kernel programs
//! have closed the node. A part that ends while the others run ends the process, since a node with half an agent would look enforced
//! and not be.

mod boot;
mod checkpoint;
mod files;
mod initial_sync;
mod metrics;
mod node_name;
mod revocations;
mod settings;
mod shutdown;
mod unprovable;
mod wiring;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use picket_common::LAYOUT;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::admin::{self, ConfiguredName, SocketError};
use crate::audit::{self, AuditLog};
use crate::cluster::Connector;
use crate::config::Config;
use crate::kernel::{KernelCounters, KernelMetrics};
use crate::listener::InPodListener;
use crate::notify::{EventQueue, KubeEvent};
use crate::runtime::phase::PhaseControl;
use crate::runtime::readiness::{Pending, Readiness};
use crate::runtime::signals;
use crate::runtime::workers::{self, Workers};
use crate::session::Registry;
use crate::store::Store;
use crate::upgrade::{self, Successor, SuccessorConnection, UpgradeMetrics};
use crate::workload::Netns;

pub use boot::close_node;
pub use checkpoint::{CheckpointError, NodeCheckpoint};
pub use metrics::metrics_reference;
pub use unprovable::without_bundle as without_trust_bundle;

use files::FileParts;
use metrics::ModuleMetrics;
use shutdown::Shutdown;
use wiring::{Handles, Tasks};

/// How long the listeners stay open after the older programs are detached that redirected to them: what was redirected before is
/// established within a round on the loopback.
const LAST_REDIRECTS: Duration = Duration::from_millis(500);

/// How long a successor waits for the API server to list the cluster's objects. The predecessor serves meanwhile.
const LIST_LIMIT: Duration = Duration::from_secs(20);

/// How long audit sinks may take at the end. What they do not deliver stays in the spool for the next agent.
const LAST_DELIVERIES: Duration = Duration::from_secs(2);

/// Every part, opened and not yet serving.
pub struct App {
    handles: Handles,
    tasks: Tasks,
    /// The Kubernetes Events that wait to be posted.
    to_post: mpsc::Receiver<KubeEvent>,
    /// The upgrade under way, where this agent is a successor.
    successor: Option<Successor>,
    /// The node's own network namespace, and the listener for pods that share it.
    node: Netns,
    node_listener: InPodListener,
    /// Not ready until the pods are classified, and until the protected endpoints are in the kernel.
    pods_ready: Pending,
    endpoints_ready: Pending,
}

impl std::fmt::Debug for App {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("App")
            .field("node", &self.handles.config.node_name)
            .finish_non_exhaustive()
    }
}

impl App {
    /// Opens every part. The kernel comes as early as may be: after a boot the node is open until its programs are loaded, and
    /// stays closed once they are, whatever fails later.
    ///
    /// # Errors
    /// The part that cannot be opened, with file, line and reason where there are any. Objects and other files that cannot be used
    /// stop the start of a successor only; other agents refuse what depends on them until they can.
    pub async fn build(config: Config, checkpoint: NodeCheckpoint) -> anyhow::Result<Self> {
        let metrics = ModuleMetrics::register();
        let store = Arc::new(Store::open_or_deny_all(
            &config.objects.files,
            config.objects.cluster,
        ));
        let mut tasks = Tasks::default();
        store.set_node(&config.node_name);
        // Before anything that takes time: until the objects are listed, every request is denied.
        tasks.spawn("objects of the cluster", wiring::cluster_objects(&config, &store));
        let threads = workers::count();
        let files = FileParts::open(&config, &metrics, threads)?;
        let successor = successor(&config, &store, &files, &metrics.upgrade).await?;
        let readiness = Readiness::default();
        let (place, alone) = (config.admin.socket.clone(), successor.is_none());
        let socket = tokio::task::spawn_blocking(move || admin::own_socket(&place, alone)).await?;
        // What fails beside another agent fails before the kernel programs are replaced: that agent's hold the node.
        let socket = match socket {
            Err(error) if !alone || matches!(error, SocketError::Taken(_)) => return Err(error.into()),
            socket => socket,
        };
        let observer = || Some(wiring::observer(&metrics, &store));
        let joined = successor
            .as_ref()
            .map(|_| AuditLog::join(&config.audit, observer()));
        let joined = joined.transpose()?;
        let kernel = boot::load_kernel(&config, &checkpoint, &readiness, alone).await?;
        let (node, node_listener) = boot::node_listener(successor.as_ref())?;
        boot::prepare_kernel(&kernel, &config, &node_listener)?;
        let socket = socket?;
        let workers = Workers::start(threads).context("cannot start the threads of the data path")?;
        let audit = match joined {
            Some(joined) => joined,
            None => AuditLog::open(&config.audit, observer())?,
        };
        audit::register_metrics(&metrics.registry, Arc::clone(audit.stats()));
        let sessions = Registry::new(metrics.session.clone(), store.epoch().clone());
        let cancel = CancellationToken::new();
        // Before anybody can ask.
        let pods_ready = readiness.register("pods");
        let endpoints_ready = readiness.register("protected-endpoints");
        let phase = PhaseControl::new(successor.is_some());
        let name = ConfiguredName::of(&socket, &config.admin.socket);
        let shown = wiring::admin(
            &metrics.registry,
            &readiness,
            &audit,
            &files,
            &sessions,
            &store,
            &phase,
        );
        let served = wiring::admin_socket(socket, name, shown, phase.watch());
        tasks.spawn("admin socket", served);
        let kernel_metrics =
            KernelMetrics::register(&metrics.registry, KernelCounters::of(Arc::clone(&kernel)));
        let (kube_events, to_post) = EventQueue::channel(metrics.notify.clone());
        let handles = Handles {
            config: Arc::new(config),
            checkpoint,
            metrics,
            store,
            files,
            workers,
            audit,
            sessions,
            kernel,
            kernel_metrics,
            readiness,
            kube_events,
            phase,
            cancel,
        };
        Ok(Self {
            handles,
            tasks,
            to_post,
            successor,
            node,
            node_listener,
            pods_ready,
            endpoints_ready,
        })
    }

    /// Serves until SIGTERM or SIGINT, or until a successor has taken over, then lets requests in flight end for a limited time.
    /// The kernel programs stay attached: while no agent runs they deny, and the next agent adopts them.
    ///
    /// # Errors
    /// A part that cannot start, or that ended by itself.
    pub async fn run(self) -> anyhow::Result<()> {
        let stop = signals::stop();
        let shutdown = Shutdown::default();
        let handles = self.handles.clone();
        let (replaced, mut successors) = mpsc::channel(1);
        let mut tasks = self.start(&shutdown, replaced).await?;

        let outcome = tokio::select! {
            signal = stop => {
                tracing::info!(signal = signal?, connections = shutdown.drain.open(), "stopping");
                Ok(None)
            }
            Some(successor) = successors.recv() => {
                tracing::info!(connections = shutdown.drain.open(), "a successor has taken over; stopping");
                Ok(Some(successor))
            }
            error = tasks.first_end() => {
                tracing::error!(%error, "stopping");
                Err(error)
            }
        };
        let successor = outcome.as_ref().ok().and_then(Option::as_ref);
        if successor.is_some_and(|successor| successor.own_listeners) {
            tokio::time::sleep(LAST_REDIRECTS).await;
        }
        handles.phase.end();
        // The listeners close with the reconciler, so that no connection comes that nobody would serve.
        handles.cancel.cancel();
        shutdown.stop_accepting().await;
        if let Some(successor) = successor {
            upgrade::say_stopped_to(successor).await;
        }
        let limit = Duration::from_secs(handles.config.shutdown.drain_seconds);
        let ended = shutdown.drain.drain(limit).await;
        if ended > 0 {
            tracing::warn!(
                connections = ended,
                "connections were still open after the drain time and were closed"
            );
        }
        shutdown.write_denials().await;
        tasks.abort().await;
        let flushed = handles.audit.flush().await;
        handles.audit.close(LAST_DELIVERIES).await;
        // The end of the log is a last try.
        if let Some(reason) = handles.audit.stats().failure() {
            flushed.with_context(|| format!("the last audit records could not be written: {reason}"))?;
        }
        outcome.map(drop)
    }

    /// Joins the parts and starts them.
    async fn start(
        self,
        shutdown: &Shutdown,
        replaced: mpsc::Sender<SuccessorConnection>,
    ) -> anyhow::Result<Tasks> {
        let (handles, mut tasks) = (self.handles, self.tasks);
        let (shared, receivers) = wiring::shared(
            &handles,
            shutdown,
            self.successor.as_ref(),
            self.node,
            &self.node_listener,
        )?;
        let workload = wiring::workload(&handles, &shared).await?;
        let (pods, endpoints) = (workload.status, workload.endpoints);
        wiring::upgrade(
            &mut tasks,
            &handles,
            &shared,
            shutdown,
            workload.paused,
            self.successor,
            replaced,
        );
        wiring::kernel(&mut tasks, &handles, &shared);
        let ready = self.endpoints_ready;
        wiring::endpoints(
            &mut tasks,
            &handles,
            &shared,
            endpoints.clone(),
            pods.clone(),
            ready,
        );
        wiring::node_listener(&mut tasks, &handles, &shared, shutdown, self.node_listener)?;
        wiring::gateway(&mut tasks, &handles, &shared, shutdown);
        wiring::initial_sync(&mut tasks, &handles, &shared, pods.clone(), self.pods_ready);
        wiring::kubeconfig(&mut tasks, &handles);
        wiring::node_name(&mut tasks, &handles, pods.clone());
        wiring::files(&mut tasks, &handles, &shared);
        wiring::metrics(&mut tasks, &handles, pods);
        wiring::object_status(&mut tasks, &handles, &shared);
        wiring::notify(&mut tasks, &handles, self.to_post);
        let last = endpoints.clone();
        wiring::denied(&mut tasks, &handles, &shared, shutdown, endpoints, workload.names);
        wiring::connections(&mut tasks, &handles, shared, receivers, shutdown)?;
        // Nothing stops the start from here on, so that the configuration is a good one.
        wiring::checkpoint(&mut tasks, &handles, last);
        for (name, part) in workload.tasks {
            tasks.spawn(name, part);
        }
        tracing::info!(
            node = handles.config.node_name,
            version = env!("CARGO_PKG_VERSION"),
            "started"
        );
        Ok(tasks)
    }
}

/// Begins an upgrade, where another agent runs on the node.
///
/// # Errors
/// Where the other agent refuses or does not answer; and where the objects are not valid or another file cannot be used, since it
/// keeps serving by those that can. It is not asked for anything then: a start that is tried again and again would have it pause each time.
async fn successor(
    config: &Config,
    store: &Store,
    files: &FileParts,
    metrics: &UpgradeMetrics,
) -> anyhow::Result<Option<Successor>> {
    let (socket, limit) = (config.admin.upgrade_socket(), upgrade::REQUEST_LIMIT);
    // Alone, the agent closes the node before it asks for anything that may take long: the kubeconfig's credential plugin is a program
    // that can wait for a network.
    if !upgrade::has_predecessor(&socket, limit).await? {
        return Ok(None);
    }
    if store.why_deny_all().is_some() {
        store.listed(LIST_LIMIT).await;
    }
    if let Some(reason) = unfit(config, store, files).await {
        upgrade::give_up(&socket, &reason, limit).await;
        bail!("upgrade failed: the predecessor keeps serving, because {reason}");
    }
    Ok(upgrade::request(&socket, &config.node_name, LAYOUT, limit, metrics).await?)
}

/// Why an agent would serve worse than one that has read good files: what others wrote that cannot be used now.
async fn unfit(config: &Config, store: &Store, files: &FileParts) -> Option<String> {
    if let Some(reason) = store.why_deny_all() {
        return Some(format!("the objects are not valid: {reason}"));
    }
    if let Some((part, fault)) = files.faults().into_iter().next() {
        return Some(format!("the files of `{part}` cannot be used: {fault}"));
    }
    let connected = Connector::new(&config.cluster.kubeconfig).connect().await;
    connected.err().map(|error| error.to_string())
}

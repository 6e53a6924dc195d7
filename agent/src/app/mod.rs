//! The composition root: opens every part, joins the parts, and serves until the process is asked to stop.
//!
//! In: a checked [`Config`]. Out: nothing but the process's end. What others write to files, objects among it, stops no start: what
//! cannot be used refuses what depends on it (files.rs). A part that cannot be opened stops the start, after the kernel programs
//! have closed the node. A part that ends while the others run ends the process, since a node with half an agent would look enforced
//! and not be.

mod boot;
mod checkpoint;
mod files;
mod guard;
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

use anyhow::Context as _;
use picket_common::LAYOUT;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::admin;
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
use crate::upgrade::{self, Successor, SuccessorConnection, UpgradeFailed, UpgradeMetrics};
use crate::workload::Netns;

pub use boot::close_node;
pub use checkpoint::{CheckpointError, NodeCheckpoint};
pub use guard::{GuardEnd, guard_node};
pub use metrics::metrics_reference;
pub use unprovable::without_bundle as without_trust_bundle;

use boot::{Beginning, ProgrammedNode};
use files::FileParts;
use metrics::ModuleMetrics;
use shutdown::Shutdown;
use wiring::{Handles, Tasks};

/// How long the listeners stay open after the older programs are detached that redirected to them: what was redirected before is
/// established within a round on the loopback.
const LAST_REDIRECTS: Duration = Duration::from_millis(500);

/// How long a successor waits for the API server to list the cluster's objects. The predecessor serves meanwhile.
const LIST_LIMIT: Duration = Duration::from_secs(20);

/// How long a successor waits for a node CA where its predecessor left none.
const NODE_CA_LIMIT: Duration = Duration::from_secs(60);

/// What the last line of a successor's log begins with, whatever it failed by.
const UPGRADE_FAILED: &str = "upgrade failed";

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
    /// Opens every part. Alone, the kernel comes first: after a boot the node is open until its programs are loaded, and stays closed
    /// once they are, whatever fails later. Beside another agent it comes last, since that one's programs hold the node.
    ///
    /// # Errors
    /// The part that cannot be opened, with file, line and reason where there are any. Objects and other files that cannot be used
    /// stop the start of a successor only; other agents refuse what depends on them until they can.
    pub async fn build(config: Config, checkpoint: NodeCheckpoint) -> anyhow::Result<Self> {
        let (metrics, readiness) = (ModuleMetrics::register(), Readiness::default());
        let alone = boot::begin_alone(&config, &checkpoint, &readiness).await?;
        let store = Arc::new(Store::open_or_deny_all(
            &config.objects.files,
            config.objects.cluster,
        ));
        let mut tasks = Tasks::default();
        store.set_node(&config.node_name);
        // Until the objects are listed, every request is denied.
        let connector = Connector::new(&config.cluster.kubeconfig);
        let objects = wiring::cluster_objects(connector.clone(), &store);
        tasks.spawn("objects of the cluster", objects);
        tasks.spawn("namespaces", wiring::namespaces(connector.clone(), &store));
        let objects_ready = readiness.register("objects");
        tasks.spawn("first set", wiring::first_set(Arc::clone(&store), objects_ready));
        let threads = workers::count();
        let files = FileParts::open(&config, checkpoint.node_ca(), &metrics, threads);
        let files = match alone {
            Some(_) => files?,
            None => files.context(UPGRADE_FAILED)?,
        };
        let (beginning, upgrade) = match alone {
            Some(beginning) => (beginning, None),
            None => begin_beside(&config, &checkpoint, &readiness, &store, &files, &metrics).await?,
        };
        let Beginning { socket, node } = beginning;
        let (socket, name) = socket?;
        let workers = Workers::start(threads).context("cannot start the threads of the data path")?;
        let (successor, audit) = match upgrade {
            Some((successor, audit)) => (Some(successor), audit),
            None => {
                let observer = wiring::observer(&metrics, &store);
                (None, AuditLog::open(&config.audit, Some(observer))?)
            }
        };
        audit::register_metrics(&metrics.registry, Arc::clone(audit.stats()));
        let sessions = Registry::new(metrics.session.clone(), store.epoch().clone());
        let cancel = CancellationToken::new();
        // Before anybody can ask.
        let pods_ready = readiness.register("pods");
        let endpoints_ready = readiness.register("protected-endpoints");
        let phase = PhaseControl::new(successor.is_some());
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
            KernelMetrics::register(&metrics.registry, KernelCounters::of(Arc::clone(&node.kernel)));
        let (kube_events, to_post) = EventQueue::channel(metrics.notify.clone());
        let handles = Handles {
            config: Arc::new(config),
            connector,
            checkpoint,
            metrics,
            store,
            files,
            workers,
            audit,
            sessions,
            kernel: node.kernel,
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
            node: node.netns,
            node_listener: node.listener,
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
        shutdown.say_stopped().await;
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
        wiring::unreadable(&mut tasks, &handles);
        wiring::node_name(&mut tasks, &handles, pods.clone());
        wiring::files(&mut tasks, &handles, &shared);
        wiring::node_ca(&mut tasks, &handles);
        wiring::node_status(&mut tasks, &handles, shutdown, pods.clone());
        wiring::metrics(&mut tasks, &handles, pods);
        wiring::metrics_port(&mut tasks, &handles);
        wiring::object_status(&mut tasks, &handles, &shared);
        wiring::notify(&mut tasks, &handles, self.to_post);
        let last = endpoints.clone();
        wiring::denied(&mut tasks, &handles, &shared, shutdown, endpoints, workload.names);
        wiring::connections(&mut tasks, &handles, shared, receivers, shutdown)?;
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

/// Begins beside another agent, whose kernel programs hold the node: what fails, fails before they are replaced. Where that agent has
/// ended meanwhile, begins alone.
///
/// # Errors
/// As [`request_upgrade`]; and where the admin socket, the audit log or the kernel programs cannot be had.
async fn begin_beside(
    config: &Config,
    checkpoint: &NodeCheckpoint,
    readiness: &Readiness,
    store: &Arc<Store>,
    files: &FileParts,
    metrics: &ModuleMetrics,
) -> anyhow::Result<(Beginning, Option<(Successor, AuditLog)>)> {
    let Some(successor) = request_upgrade(config, store, files, &metrics.upgrade).await? else {
        let beginning = boot::begin_first(config, checkpoint, readiness).await?;
        return Ok((beginning, None));
    };
    let begun = async {
        let socket = Ok(admin::open_own_socket(&config.admin.socket, false).await?);
        let audit = AuditLog::join(&config.audit, Some(wiring::observer(metrics, store)))?;
        let node = ProgrammedNode::start(config, checkpoint, readiness, Some(&successor)).await?;
        anyhow::Ok((Beginning { socket, node }, audit))
    };
    let (beginning, audit) = begun.await.context(UPGRADE_FAILED)?;
    Ok((beginning, Some((successor, audit))))
}

/// Begins an upgrade; `None` where the other agent has ended.
///
/// # Errors
/// Where the other agent refuses or does not answer, or this one is stopped while it waits; and where the objects are not valid or
/// another file cannot be used, since the other agent keeps serving by those that can. It is not asked for anything then: a start that is
/// tried again and again would have it pause each time.
async fn request_upgrade(
    config: &Config,
    store: &Store,
    files: &FileParts,
    metrics: &UpgradeMetrics,
) -> Result<Option<Successor>, UpgradeFailed> {
    let (socket, limit) = (config.admin.upgrade_socket(), upgrade::REQUEST_LIMIT);
    let ask = async || {
        if store.why_deny_all().is_some() {
            store.listed(LIST_LIMIT).await;
        }
        store.namespaces_tried(LIST_LIMIT).await;
        files.first_node_ca(NODE_CA_LIMIT).await;
        if let Some(reason) = unfit(config, store, files).await {
            upgrade::give_up(&socket, &reason, limit).await;
            return Err(UpgradeFailed::Unfit(reason));
        }
        upgrade::request(&socket, &config.node_name, LAYOUT, limit, metrics).await
    };
    upgrade::when_it_may_be_replaced(ask, signals::stop()).await
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

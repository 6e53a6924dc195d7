//! How the parts are joined: one function for each part, which starts the part's tasks with the handles that they need.
//!
//! In: every part, opened. Out: [`Tasks`] that run until the process ends.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use futures::FutureExt;
use jiff::Timestamp;
use picket_common::LAYOUT;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::checkpoint::NodeCheckpoint;
use super::files::FileParts;
use super::initial_sync::InitialSync;
use super::metrics::ModuleMetrics;
use super::node_name;
use super::settings::{cgroup_root, endpoints_config};
use super::shutdown::Shutdown;
use super::{revocations, unprovable};
use crate::admin::api::ObjectList;
use crate::admin::{Admin, AgentState, ConfiguredName, Failing, PrivateSocket, ReadyReport};
use crate::audit::{AuditLog, Observer, Outcome, Summary};
use crate::cluster::Connector;
use crate::config::Config;
use crate::denied::{self, Denials, DeniedConnection};
use crate::endpoints::ProtectedEndpoints;
use crate::enforce::{self, KernelEnforcer, NodeListener, watchdog};
use crate::kernel::lease::KernelWriteLease;
use crate::kernel::{Class, Kernel, KernelMetrics};
use crate::listener::{Arrival, GatewayListener, GatewayServing, InPodListener, Sockets};
use crate::metrics::MetricsRegistry;
use crate::notify::{self, EventQueue, KubeEvent};
use crate::pipeline::{IdentitySources, Pipeline, arrivals};
use crate::runtime::backoff::Backoff;
use crate::runtime::phase::{Phase, PhaseControl, PhaseWatch};
use crate::runtime::readiness::{Pending, Readiness};
use crate::runtime::workers::Workers;
use crate::session::{self, Registry};
use crate::store::{PodFacts, Store};
use crate::upgrade::{self, Predecessor, Successor, SuccessorConnection};
use crate::workload::{self, Names, Netns, Pod, PodCounts, Selection, Workload, WorkloadConfig};

/// Connections between accept and their own task; each holds a few hundred bytes, and handing one on takes microseconds.
const ARRIVALS: usize = 1024;

/// The name in `/readyz` of the gateway.
const GATEWAY: &str = "gateway";

/// The first and the longest pause after the gateway's address could not be listened at.
const GATEWAY_PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// The name in `/readyz` of the kubeconfig.
const CLUSTER: &str = "cluster";

/// How often a kubeconfig is read that could not be used at the start.
const KUBECONFIG_INTERVAL: Duration = Duration::from_secs(1);

/// What `/readyz` says of an agent that drains.
const DRAINING: &str = "the agent is stopping and accepts no more connections";

/// What any part may be given; cheap to clone.
#[derive(Clone)]
pub(super) struct Handles {
    pub(super) config: Arc<Config>,
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

/// Opens the pods and the protected endpoints of the node.
///
/// # Errors
/// Where the configuration does not fit this machine, or the kernel's maps cannot be read.
pub(super) async fn workload(handles: &Handles, shared: &Shared) -> anyhow::Result<Workload> {
    let Handles { config, kernel, .. } = handles;
    let classes = kernel.classes()?;
    let redirected = classes
        .iter()
        .filter(|(_, class)| matches!(class, Class::Enforced { .. }));
    let metrics = handles.metrics.workload.clone();
    let settings = WorkloadConfig {
        node: config.node_name.clone(),
        cgroup_root: cgroup_root(config)?,
        kubeconfig: config.cluster.kubeconfig.clone(),
        selection: Selection::with_labels(config.enforce.namespaces.clone(), &config.enforce.match_labels)?,
        static_pods: config.enforce.static_pods,
        endpoints: endpoints_config(config, enforce::in_kernel(kernel)?),
        redirected: redirected.map(|(cgroup, _)| *cgroup).collect(),
        known: classes.iter().map(|(cgroup, _)| *cgroup).collect(),
        phase: handles.phase.watch(),
        judged: Arc::new(move |after| metrics.classified(after)),
        kube_events: handles.kube_events.clone(),
    };
    Ok(workload::start(settings, Arc::clone(&shared.enforcer), &handles.cancel).await?)
}

/// Upgrades: from a predecessor, where one runs, and later to a successor.
pub(super) fn upgrade(
    tasks: &mut Tasks,
    handles: &Handles,
    shared: &Shared,
    shutdown: &Shutdown,
    paused: watch::Receiver<bool>,
    successor: Option<Successor>,
    replaced: mpsc::Sender<SuccessorConnection>,
) {
    let admin = &handles.config.admin;
    if let Some(successor) = successor {
        successor.hold_until_exit();
        let metrics = handles.metrics.upgrade.clone();
        tasks.spawn_fallible(successor.run(handles.phase.clone(), handles.audit.clone(), metrics));
    }
    let enforcer = Arc::clone(&shared.enforcer);
    let predecessor = Predecessor {
        node: handles.config.node_name.clone(),
        layout: LAYOUT,
        phase: handles.phase.clone(),
        paused,
        lease: shared.lease.clone(),
        offers: Arc::new(move || enforcer.offers()),
        audit: handles.audit.clone(),
        metrics: handles.metrics.upgrade.clone(),
        limit: upgrade::SYNC_LIMIT,
        succeeded: shared.succeeded,
        replaced,
        last: shutdown.last.clone(),
    };
    let socket = admin.upgrade_socket();
    tasks.spawn("upgrade socket", predecessor.run(socket, handles.cancel.clone()));
}

/// The kernel programs: they know that the agent lives, and they stay attached.
pub(super) fn kernel(tasks: &mut Tasks, handles: &Handles, shared: &Shared) {
    let kernel = &handles.kernel;
    tasks.spawn("heartbeat", watchdog::heartbeat(Arc::clone(kernel)));
    tasks.spawn(
        "watchdog",
        watchdog::watch(
            Arc::clone(kernel),
            shared.lease.clone(),
            handles.readiness.clone(),
            handles.metrics.enforce.clone(),
            handles.audit.clone(),
            handles.kube_events.clone(),
        ),
    );
    let metrics = handles.kernel_metrics.clone();
    tasks.spawn("map usage", metrics.follow(Arc::clone(kernel)));
}

/// The protected endpoints: put in force, and older connections to new ones destroyed.
pub(super) fn endpoints(
    tasks: &mut Tasks,
    handles: &Handles,
    shared: &Shared,
    endpoints: watch::Receiver<ProtectedEndpoints>,
    pods: watch::Receiver<PodCounts>,
    ready: Pending,
) {
    let maintainer = shared.enforcer.maintainer();
    tasks.spawn(
        "protected endpoints in force",
        enforce::endpoints(
            Arc::clone(&handles.kernel),
            handles.metrics.enforce.clone(),
            endpoints,
            shared.lease.clone(),
            enforce::Start {
                ready,
                phase: handles.phase.clone(),
                pods,
            },
            Arc::clone(maintainer),
        ),
    );
    tasks.spawn(
        "connections to new protected endpoints",
        Arc::clone(maintainer).destroy_at_new_endpoints(),
    );
}

/// The configuration and the protected endpoints, kept for the next boot.
pub(super) fn checkpoint(
    tasks: &mut Tasks,
    handles: &Handles,
    endpoints: watch::Receiver<ProtectedEndpoints>,
) {
    let checkpoint = handles.checkpoint.clone();
    tasks.spawn(
        "checkpoint",
        checkpoint.follow(endpoints, handles.phase.watch(), handles.readiness.clone()),
    );
}

/// The listener for pods on the node's network. A listener that was transferred is served once the pods behind it are known.
///
/// # Errors
/// Where the sockets cannot be served.
pub(super) fn node_listener(
    tasks: &mut Tasks,
    handles: &Handles,
    shared: &Shared,
    shutdown: &Shutdown,
    listener: InPodListener,
) -> anyhow::Result<()> {
    let sockets = Sockets::new(listener).context("the listener for pods in the node's network")?;
    let (phase, was_transferred) = (handles.phase.watch(), shared.succeeded.is_some());
    let pods_known = async move {
        if was_transferred {
            let _or_stopping = phase.reached(Phase::Established).await;
        }
    };
    let served = enforce::node_listener(
        Arc::clone(&shared.enforcer),
        sockets,
        pods_known,
        shutdown.accepting.token(),
        handles.cancel.clone(),
    );
    tasks.spawn("node listener", served);
    Ok(())
}

/// The gateway, where there is one. It listens once the enforced pods are known, since it serves none of them. Not before: the kernel
/// gives a part of the connections to each agent that listens, and a successor's would wait until its sync.
pub(super) fn gateway(tasks: &mut Tasks, handles: &Handles, shared: &Shared, shutdown: &Shutdown) {
    let Some(gateway) = &handles.config.gateway else {
        return;
    };
    let address = gateway.listen;
    let serving = GatewayServing {
        pods: Arc::new(shared.enforcer.enforced().clone()),
        sink: shared.arrivals.clone(),
        cancel: handles.cancel.clone(),
    };
    let (phase, accepting) = (handles.phase.watch(), shutdown.accepting.token());
    let (readiness, cancel) = (handles.readiness.clone(), handles.cancel.clone());
    tasks.spawn("gateway", async move {
        if phase.reached(Phase::Established).await.is_ok() {
            let opened = cancel.run_until_cancelled(gateway_listener(address, &readiness));
            if let Some(listener) = opened.await {
                serving.run(listener).await;
            }
        }
        drop(accepting);
        std::future::pending::<()>().await;
    });
}

/// Listens at the gateway's address, however often that has to be tried: another program may have the port for a time, and an address
/// may come after the boot. Pods are served meanwhile.
async fn gateway_listener(address: SocketAddr, readiness: &Readiness) -> GatewayListener {
    let mut pauses = Backoff::exact(GATEWAY_PAUSES.0, GATEWAY_PAUSES.1);
    loop {
        let error = match GatewayListener::open(address) {
            Ok(listener) => {
                if readiness.works(GATEWAY) {
                    tracing::info!(%address, "the gateway listens");
                }
                return listener;
            }
            Err(error) => error,
        };
        if readiness.fails(GATEWAY, format!("gateway.listen: {address}: {error}")) {
            tracing::error!(%address, %error, "the gateway cannot listen, and tries again");
        }
        tokio::time::sleep(pauses.pause()).await;
    }
}

/// The initial sync.
pub(super) fn initial_sync(
    tasks: &mut Tasks,
    handles: &Handles,
    shared: &Shared,
    status: watch::Receiver<PodCounts>,
    ready: Pending,
) {
    let sync = InitialSync {
        status,
        phase: handles.phase.clone(),
        lease: shared.lease.clone(),
        ready,
    };
    let kernel = Arc::clone(&handles.kernel);
    tasks.spawn("initial sync", sync.run(move || Ok(kernel.retire_others()?)));
}

/// The objects that the cluster keeps. Not ended with the others: requests and sessions go on while the agent drains, and are
/// judged by them.
pub(super) fn cluster_objects(
    config: &Config,
    store: &Arc<Store>,
) -> impl Future<Output = ()> + Send + use<> {
    let connector = Connector::new(&config.cluster.kubeconfig);
    Arc::clone(store).follow_cluster(connector, CancellationToken::new())
}

/// The kubeconfig, where it could not be used at the start: `/readyz` says so until it can.
pub(super) fn kubeconfig(tasks: &mut Tasks, handles: &Handles) {
    let connector = Connector::new(&handles.config.cluster.kubeconfig);
    let readiness = handles.readiness.clone();
    tasks.spawn("kubeconfig", async move {
        while let Err(error) = connector.connect().await {
            readiness.fails(CLUSTER, error.to_string());
            tokio::time::sleep(KUBECONFIG_INTERVAL).await;
        }
        if readiness.works(CLUSTER) {
            tracing::info!("the kubeconfig can be used");
        }
        std::future::pending::<()>().await;
    });
}

/// Whether the configured node name is this node's.
pub(super) fn node_name(tasks: &mut Tasks, handles: &Handles, status: watch::Receiver<PodCounts>) {
    let (node, readiness) = (handles.config.node_name.clone(), handles.readiness.clone());
    tasks.spawn("node name", node_name::watch(status, node, readiness));
}

/// What is read from files again while the agent runs: policies, certificates, trust bundles, the credential.
pub(super) fn files(tasks: &mut Tasks, handles: &Handles, shared: &Shared) {
    let Handles {
        store, files, cancel, ..
    } = handles;
    let FileParts {
        issuers,
        certificates,
        upstream,
    } = files;

    // Not ended with the others: requests and sessions go on while the agent drains, and are judged by the files.
    tasks.spawn("policy files", Arc::clone(store).watch(CancellationToken::new()));
    tasks.spawn(
        "revocations that were taken back",
        revocations::watch(
            Arc::clone(store),
            handles.metrics.store.clone(),
            handles.audit.clone(),
        ),
    );
    tasks.spawn("token issuers", issuers.clone().run());
    tasks.spawn("certificates", Arc::clone(certificates).run(cancel.clone()));
    // Sessions are judged by these too.
    let (bundles, pods) = (certificates.trust_bundles(), shared.enforcer.enforced().clone());
    tasks.spawn(
        "identities that nobody can prove",
        unprovable::warn(Arc::clone(store), issuers.clone(), Arc::clone(bundles)),
    );
    let changed = move || pods.changes().changed();
    issuers.when_changed(changed.clone());
    tasks.spawn(
        "trust bundles",
        Arc::clone(bundles).run(CancellationToken::new(), changed),
    );
    tasks.spawn("upstream", upstream.clone().run(cancel.clone()));
}

/// Metrics that are read from the parts.
pub(super) fn metrics(tasks: &mut Tasks, handles: &Handles, status: watch::Receiver<PodCounts>) {
    let ModuleMetrics {
        certificates,
        claims,
        reviews,
        store,
        workload,
        ..
    } = handles.metrics.clone();
    let FileParts {
        upstream, issuers, ..
    } = handles.files.clone();
    let expiry = move || {
        [
            ("upstream", upstream.credential_not_after()),
            ("upstream-ca", upstream.ca_not_after()),
            ("issuer-ca", issuers.ca_not_after()),
        ]
    };
    let served = Arc::clone(&handles.files.certificates);
    tasks.spawn("certificate metrics", certificates.follow(served, expiry));
    tasks.spawn("pod metrics", workload.follow(status));
    tasks.spawn("policy metrics", store.follow(Arc::clone(&handles.store)));
    let reviews = reviews.follow(Arc::clone(&handles.store), Timestamp::now);
    tasks.spawn("overdue reviews", reviews);
    tasks.spawn("exclusive identities", claims.follow(Arc::clone(&handles.store)));
}

/// What learns of each request's end.
pub(super) fn observer(metrics: &ModuleMetrics, store: &Arc<Store>) -> Observer {
    let (counted, store) = (metrics.pipeline.observer(), Arc::clone(store));
    Arc::new(move |summary: &Summary<'_>| {
        counted(summary);
        let denied = match summary.outcome {
            Outcome::Allow | Outcome::Unknown => false,
            Outcome::Deny => true,
            _ => return,
        };
        if let Some(identity) = summary.identity {
            store.usage().note(identity, denied, Timestamp::now());
        }
    })
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

/// The status of the cluster's objects.
pub(super) fn object_status(tasks: &mut Tasks, handles: &Handles, shared: &Shared) {
    let enforced = shared.enforcer.enforced().clone();
    let pods = move || enforced.pods().iter().map(pod_facts).collect();
    let nodes = Arc::clone(&handles.store).report_nodes(
        Connector::new(&handles.config.cluster.kubeconfig),
        handles.metrics.store.clone(),
        Arc::new(pods),
        handles.cancel.clone(),
    );
    tasks.spawn("nodes in statuses", nodes);
    let written = Arc::clone(&handles.store).report_conditions(
        Connector::new(&handles.config.cluster.kubeconfig),
        handles.metrics.store.clone(),
        CancellationToken::new(),
    );
    tasks.spawn("status of objects", written);
}

/// Kubernetes Events.
pub(super) fn notify(tasks: &mut Tasks, handles: &Handles, events: mpsc::Receiver<KubeEvent>) {
    let posted = notify::post(
        Connector::new(&handles.config.cluster.kubeconfig),
        handles.config.node_name.clone(),
        events,
        handles.metrics.notify.clone(),
        notify::Patience::default(),
    );
    tasks.spawn("kubernetes events", posted);
}

/// Connections that never become requests: what the kernel denies, and processes outside their pods' cgroups.
pub(super) fn denied(
    tasks: &mut Tasks,
    handles: &Handles,
    shared: &Shared,
    shutdown: &Shutdown,
    endpoints: watch::Receiver<ProtectedEndpoints>,
    names: Arc<Names>,
) {
    let reader = denied::EventReader {
        kernel: Arc::clone(&handles.kernel),
        phase: handles.phase.watch(),
        cancel: handles.cancel.clone(),
        _reading: shutdown.accepting.token(),
    };
    let denials = &shared.denials;
    let wanted_ports = enforce::WantedPorts::new(handles.metrics.enforce.clone());
    tasks.spawn(
        "listener moves",
        enforce::moves(
            Arc::clone(&shared.enforcer),
            shared.lease.clone(),
            wanted_ports.clone(),
        ),
    );
    tasks.spawn(
        "kernel events",
        denied::kernel_events(
            reader,
            endpoints,
            Arc::clone(&names),
            wanted_ports,
            denials.clone(),
        ),
    );
    let pods = shared.enforcer.enforced().clone();
    tasks.spawn(
        "cgroup escapes",
        denied::escapes::watch(pods, names, denials.clone()),
    );
}

/// Accepted connections, and the records of those that never become requests.
///
/// # Errors
/// Where the pipeline cannot be made.
pub(super) fn connections(
    tasks: &mut Tasks,
    handles: &Handles,
    shared: Shared,
    receivers: Receivers,
    shutdown: &Shutdown,
) -> anyhow::Result<()> {
    let pipeline = Pipeline::new(
        &handles.files.certificates,
        IdentitySources {
            store: Arc::clone(&handles.store),
            issuers: handles.files.issuers.clone(),
        },
        handles.files.upstream.clone(),
        handles.audit.clone(),
        shutdown.drain.clone(),
        handles.sessions.clone(),
        handles.kube_events.clone(),
    )?;
    tasks.spawn("data path", handles.workers.clone().ended());
    tasks.spawn(
        "sessions",
        session::rejudge(
            handles.sessions.clone(),
            handles.store.changes(),
            shared.enforcer.enforced().changes().clone(),
        ),
    );
    tasks.spawn(
        "connections",
        arrivals::connections(
            receivers.arrivals,
            arrivals::DataPath {
                pipeline,
                workers: handles.workers.clone(),
                drain: shutdown.drain.clone(),
                metrics: handles.metrics.pipeline.clone(),
            },
            shared.denials,
            shutdown.last.clone(),
            shutdown.handed_on.clone(),
        ),
    );
    tasks.spawn(
        "denied connections",
        denied::write(
            receivers.denials,
            handles.audit.clone(),
            handles.kube_events.clone(),
            shutdown.served.clone(),
            shutdown.written.clone(),
        ),
    );
    Ok(())
}

/// What the admin socket shows.
pub(super) fn admin(
    metrics: &Arc<MetricsRegistry>,
    readiness: &Readiness,
    audit: &AuditLog,
    files: &FileParts,
    sessions: &Registry,
    store: &Arc<Store>,
    phase: &PhaseControl,
) -> Admin {
    let listing = Arc::clone(store);
    let (reported, listed) = (phase.watch(), phase.watch());
    Admin {
        metrics: Arc::clone(metrics),
        objects: Arc::new(move || ObjectList::from(&*listing)),
        sessions: sessions.clone(),
        state: Arc::new(move || state(&listed)),
        ready: report(
            readiness.clone(),
            audit.clone(),
            files.clone(),
            Arc::clone(store),
            reported,
        ),
    }
}

fn state(phase: &PhaseWatch) -> AgentState {
    if phase.has_ended() {
        AgentState::Draining
    } else if phase.has_reached(Phase::PredecessorStopped) {
        AgentState::Serving
    } else {
        AgentState::Starting
    }
}

/// Serves the agent's own admin socket to the end of the process: its sessions are listed and ended while it drains too. The
/// configured name leads there once the predecessor serves no more.
pub(super) async fn admin_socket(
    socket: PrivateSocket,
    name: ConfiguredName,
    admin: Admin,
    phase: PhaseWatch,
) {
    let named = async {
        if phase.reached(Phase::PredecessorStopped).await.is_ok() {
            name.take_with_retries().await;
        }
        std::future::pending::<()>().await;
    };
    tokio::join!(socket.serve(admin, CancellationToken::new()), named);
}

/// The answer of `/readyz`: which parts are not ready yet, and which were and fail now.
fn report(
    readiness: Readiness,
    audit: AuditLog,
    files: FileParts,
    store: Arc<Store>,
    phase: PhaseWatch,
) -> Arc<dyn Fn() -> ReadyReport + Send + Sync> {
    Arc::new(move || {
        let draining = phase.has_ended().then(|| DRAINING.to_owned());
        let failing = [
            ("audit", audit.stats().failure()),
            ("drain", draining),
            ("objects", store.why_deny_all()),
        ];
        let failing = failing
            .into_iter()
            .filter_map(|(part, reason)| reason.map(|reason| (part, reason)))
            .chain(files.failing());
        ReadyReport {
            waiting: readiness.waiting().into_iter().map(str::to_owned).collect(),
            failing: readiness
                .failing()
                .into_iter()
                .chain(failing)
                .map(|(part, reason)| Failing { part, reason })
                .collect(),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_gateway_that_cannot_listen_fails_in_readiness_until_it_can() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("an address");
        let address = taken.local_addr().expect("its address");
        let readiness = Readiness::default();
        let mut opening = std::pin::pin!(gateway_listener(address, &readiness));
        tokio::select! {
            biased;
            _ = &mut opening => panic!("two listen at {address}"),
            () = std::future::ready(()) => {}
        }
        let failing = readiness.failing();
        assert!(
            matches!(&failing[..], [(GATEWAY, reason)] if reason.contains("in use")),
            "{failing:?}"
        );
        drop(taken);
        let _listener = opening.await;
        assert!(readiness.failing().is_empty());
    }
}

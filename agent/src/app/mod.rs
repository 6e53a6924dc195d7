//! The composition root: opens every part, puts the parts together, and serves until the process is asked to stop.
//!
//! In: a checked [`Config`]. Out: nothing but the process's end. What cannot be opened stops the start; a part that ends
//! while the others run ends the process, since a node with half an agent would look enforced and not be.

mod initial_sync;
mod settings;
mod shutdown;
mod wiring;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use futures::FutureExt;
use futures::future::BoxFuture;
use picket_common::LAYOUT;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::admin::PrivateSocket;
use crate::audit::AuditLog;
use crate::cluster::Connector;
use crate::config::Config;
use crate::denied;
use crate::endpoints::ProtectedEndpointsConfig;
use crate::enforce::{self, KernelEnforcer, NodeListener, watchdog};
use crate::kernel::lease::KernelWriteLease;
use crate::kernel::{Class, Kernel, KernelConfig, Node, Program};
use crate::listener::{InPodListener, Sockets};
use crate::metrics::{Metrics, gauges};
use crate::notify::{self, EventQueue};
use crate::pipeline::{Pipeline, arrivals};
use crate::pki::CaFiles;
use crate::runtime::phase::{Phase, PhaseControl};
use crate::runtime::readiness::{Pending, Readiness};
use crate::runtime::signals;
use crate::session::{self, Registry};
use crate::store::Store;
use crate::tls::Certificates;
use crate::upgrade::{self, Predecessor, Successor, SuccessorConnection, UpgradeFailed};
use crate::upstream::Upstream;
use crate::workload::{self, Netns, Selection, WorkloadConfig};

use initial_sync::InitialSync;
use settings::{api_servers, cgroup_root, server_names, upstream_config};
use shutdown::Shutdown;

/// Connections between accept and their own task; each holds a few hundred bytes, and handing one on takes microseconds.
const ARRIVALS: usize = 1024;

/// How long the listeners stay open after the older programs are gone that led to them: what was redirected before is
/// established within a round on the loopback.
const LAST_REDIRECTS: Duration = Duration::from_millis(500);

/// How long audit sinks may take at the end. What they do not deliver stays in the spool for the next agent.
const LAST_DELIVERIES: Duration = Duration::from_secs(2);

/// Every part, opened and not yet serving.
pub struct App {
    config: Config,
    cgroup_root: PathBuf,
    metrics: Arc<Metrics>,
    store: Arc<Store>,
    certificates: Arc<Certificates>,
    upstream: Upstream,
    audit: AuditLog,
    sessions: Registry,
    kernel: Arc<Kernel>,
    readiness: Readiness,
    pods_ready: Pending,
    endpoints_ready: Pending,
    cancel: CancellationToken,
    tasks: JoinSet<&'static str>,
    /// The upgrade under way, where this agent is a successor.
    takeover: Option<Successor>,
    /// The node's own network namespace, and the listener for pods that share it.
    node: Netns,
    node_listener: InPodListener,
}

impl std::fmt::Debug for App {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("App")
            .field("node", &self.config.node_name)
            .finish_non_exhaustive()
    }
}

impl App {
    /// Opens every part. The kernel comes last: it is the one whose effect outlives a start that fails.
    ///
    /// # Errors
    /// The part that cannot be opened, with file, line and reason where there are any.
    pub async fn build(config: Config) -> anyhow::Result<Self> {
        let metrics = Arc::new(Metrics::new());
        let store = Arc::new(Store::open(&config.objects)?);
        let files = CaFiles {
            certificate: config.tls.ca_certificate_file.clone(),
            key: config.tls.ca_key_file.clone(),
        };
        let certificates = Certificates::open(files, &server_names(&config))?;
        let upstream = Upstream::open(upstream_config(&config)?)?;
        let upgrade = config.admin.upgrade_socket();
        let takeover = upgrade::request(&upgrade, &config.node_name, LAYOUT, upgrade::REQUEST_LIMIT).await?;
        let audit = match &takeover {
            Some(_) => AuditLog::join(&config.audit, Some(metrics.observer()))?,
            None => AuditLog::open(&config.audit, Some(metrics.observer()))?,
        };
        metrics.watch_audit(Arc::clone(audit.stats()));
        let of_sessions = session::Metrics::default();
        metrics.add(|registry| of_sessions.register(registry));
        let sessions = Registry::new(of_sessions);
        let cancel = CancellationToken::new();
        let readiness = Readiness::default();
        // Before anybody can ask.
        let (pods_ready, endpoints_ready) = (
            readiness.register("pods"),
            readiness.register("protected-endpoints"),
        );
        let mut tasks = JoinSet::new();
        if takeover.is_none() {
            // Served from here on, since loading the kernel programs may have to wait. Where an agent before this one runs,
            // it goes on serving the socket.
            let socket = PrivateSocket::bind(&config.admin.socket)?;
            let admin = wiring::admin(&metrics, &readiness, &audit, &upstream, &sessions);
            spawn(
                &mut tasks,
                "admin socket",
                socket.serve(admin, cancel.clone()).boxed(),
            );
        }
        let cgroup_root = cgroup_root(&config)?;
        let kernel = watchdog::load(
            &KernelConfig {
                cgroup_root: cgroup_root.clone(),
                bpffs: config.kernel.bpffs.clone(),
            },
            &readiness,
            takeover.is_none(),
        )?;
        let node = Netns::open(Path::new("/proc/self/ns/net"))?;
        let taken = takeover
            .as_ref()
            .and_then(|from| from.inherited.claim_node(node.id()));
        let listener = match taken {
            Some(taken) => taken,
            None => InPodListener::open(&node).context("the listener for pods in the node's network")?,
        };
        kernel.set_node(Node {
            netns: listener.netns_cookie(),
            port: Some(listener.port()),
            unclassified: config.enforce.unclassified_pods,
        })?;
        kernel.heartbeat()?;
        // The protected endpoints of an agent before this one redirect already, so what they are dialled by must be in the certificates.
        certificates.set_endpoints(enforce::redirected(&enforce::in_kernel(&kernel)?))?;
        for program in Program::ALL {
            metrics.program(program.name());
        }
        let counted = Arc::clone(&kernel);
        metrics.watch_kernel(move || gauges::counters(&counted));
        Ok(Self {
            config,
            cgroup_root,
            metrics,
            store,
            certificates,
            upstream,
            audit,
            sessions,
            kernel,
            readiness,
            pods_ready,
            endpoints_ready,
            cancel,
            tasks,
            takeover,
            node,
            node_listener: listener,
        })
    }

    /// Serves until SIGTERM or SIGINT, or until another agent has taken over, then lets requests in flight end for a limited
    /// time. The kernel programs stay: while no agent runs they refuse, and the next agent adopts them.
    ///
    /// # Errors
    /// A part that cannot start, or that ended by itself.
    pub async fn run(self) -> anyhow::Result<()> {
        let stop = signals::stop();
        let cancel = self.cancel.clone();
        let shutdown = Shutdown::default();
        let limit = Duration::from_secs(self.config.shutdown.drain_seconds);
        let audit = self.audit.clone();
        let phase = PhaseControl::new(self.takeover.is_some());
        let (replaced, mut successors) = mpsc::channel(1);
        let (failed, mut failures) = mpsc::channel(1);
        let mut tasks = self.start(&shutdown, phase.clone(), replaced, failed).await?;

        let outcome = tokio::select! {
            signal = stop => {
                tracing::info!(signal = signal?, connections = shutdown.drain.open(), "stopping");
                Ok(None)
            }
            Some(successor) = successors.recv() => {
                tracing::info!(connections = shutdown.drain.open(), "a successor has taken over; stopping");
                Ok(Some(successor))
            }
            Some(failed) = failures.recv() => Err(failed.into()),
            ended = tasks.join_next() => Err(describe(ended)),
        };
        let successor = outcome.as_ref().ok().and_then(Option::as_ref);
        if successor.is_some_and(|successor| successor.own_listeners) {
            tokio::time::sleep(LAST_REDIRECTS).await;
        }
        phase.end();
        // The listeners close with the reconciler, so that no connection comes that nobody would serve.
        cancel.cancel();
        shutdown.stop_accepting().await;
        if let Some(successor) = successor {
            upgrade::say_stopped_to(successor).await;
        }
        let cut = shutdown.drain.drain(limit).await;
        if cut > 0 {
            tracing::warn!(
                connections = cut,
                "connections ended by force after the drain time"
            );
        }
        shutdown.write_refusals().await;
        tasks.shutdown().await;
        audit
            .flush()
            .await
            .context("the last audit records could not be written")?;
        audit.close(LAST_DELIVERIES).await;
        outcome.map(drop)
    }

    async fn start(
        self,
        shutdown: &Shutdown,
        phase: PhaseControl,
        replaced: mpsc::Sender<SuccessorConnection>,
        failed: mpsc::Sender<UpgradeFailed>,
    ) -> anyhow::Result<JoinSet<&'static str>> {
        let (cancel, drain, mut tasks) = (self.cancel, &shutdown.drain, self.tasks);
        let readiness = self.readiness;
        let (sink, arrivals) = mpsc::channel(ARRIVALS);
        let inherited = self.takeover.as_ref().map(|from| Arc::clone(&from.inherited));
        let (kube_events, to_post) = EventQueue::channel(Arc::clone(&self.metrics));
        let enforcer = &Arc::new(KernelEnforcer::new(
            Arc::clone(&self.kernel),
            Arc::clone(&self.metrics),
            kube_events.clone(),
            sink,
            NodeListener {
                netns: self.node,
                listener: &self.node_listener,
            },
            inherited.unwrap_or_default(),
            shutdown.accepting.clone(),
        )?);
        let pipeline = Pipeline::new(
            &self.certificates,
            Arc::clone(&self.store),
            self.upstream.clone(),
            self.audit.clone(),
            drain.clone(),
            kube_events.clone(),
        )?;
        let classes = self.kernel.classes()?;
        let redirects = |class: &Class| matches!(class, Class::Enforced { .. });
        let known = classes.iter().map(|(cgroup, _)| *cgroup).collect();
        let redirected = classes
            .iter()
            .filter(|(_, class)| redirects(class))
            .map(|(cgroup, _)| *cgroup)
            .collect();
        let selection = Selection::with_labels(
            self.config.enforce.namespaces.clone(),
            &self.config.enforce.match_labels,
        )?;
        let endpoints = ProtectedEndpointsConfig {
            node: self.config.node_name.clone(),
            redirect: api_servers(&self.config),
            deny: self.config.protected_endpoints.deny.clone(),
            allow: self.config.protected_endpoints.allow.iter().copied().collect(),
            inherited: enforce::in_kernel(&self.kernel)?,
        };
        let judged = Arc::clone(&self.metrics);
        let config = WorkloadConfig {
            node: self.config.node_name.clone(),
            cgroup_root: self.cgroup_root,
            kubeconfig: self.config.cluster.kubeconfig.clone(),
            selection,
            static_pods: self.config.enforce.static_pods,
            endpoints,
            known,
            redirected,
            phase: phase.watch(),
            judged: Arc::new(move |after| judged.pod_judged(after)),
            kube_events: kube_events.clone(),
        };
        let workload = workload::start(config, Arc::clone(enforcer), &cancel).await?;

        let admin = wiring::admin(
            &self.metrics,
            &readiness,
            &self.audit,
            &self.upstream,
            &self.sessions,
        );
        let lease = KernelWriteLease::new(phase.watch());
        // A listener that was transferred is served once the pods behind it are known.
        let (upgrades, established) = (self.takeover.is_some(), phase.watch());
        let serves_node = async move {
            if upgrades {
                let _or_stopping = established.reached(Phase::Established).await;
            }
        };
        let succeeded = self.takeover.as_ref().map(|_| Instant::now());
        let (refused, to_write) = mpsc::channel(denied::QUEUE_LENGTH);
        let mut parts: Vec<(&'static str, BoxFuture<'static, ()>)> = workload.tasks;
        if let Some(takeover) = self.takeover {
            let socket = self.config.admin.socket.clone();
            takeover.hold_until_exit();
            parts.extend([
                (
                    "upgrade",
                    succeed(
                        takeover,
                        phase.clone(),
                        self.audit.clone(),
                        Arc::clone(&self.metrics),
                        failed,
                    )
                    .boxed(),
                ),
                (
                    "admin socket",
                    wiring::admin_once_alone(socket, phase.watch(), admin, cancel.clone()).boxed(),
                ),
            ]);
        }
        let offered = Arc::clone(enforcer);
        let predecessor = Predecessor {
            node: self.config.node_name.clone(),
            layout: LAYOUT,
            phase: phase.clone(),
            resting: workload.resting,
            lease: lease.clone(),
            offers: Arc::new(move || offered.offers()),
            audit: self.audit.clone(),
            metrics: Arc::clone(&self.metrics),
            limit: upgrade::SYNC_LIMIT,
            succeeded,
            replaced,
            last: shutdown.last.clone(),
        };
        parts.extend([
            (
                "upgrade socket",
                predecessor
                    .run(self.config.admin.upgrade_socket(), cancel.clone())
                    .boxed(),
            ),
            (
                "map fill",
                gauges::fill(Arc::clone(&self.kernel), Arc::clone(&self.metrics)).boxed(),
            ),
            ("heartbeat", watchdog::heartbeat(Arc::clone(&self.kernel)).boxed()),
            (
                "links",
                watchdog::watch(
                    Arc::clone(&self.kernel),
                    lease.clone(),
                    readiness.clone(),
                    Arc::clone(&self.metrics),
                    self.audit.clone(),
                    kube_events.clone(),
                )
                .boxed(),
            ),
            (
                "policy files",
                Arc::clone(&self.store).watch(cancel.clone()).boxed(),
            ),
            (
                "certificates",
                Arc::clone(&self.certificates).run(cancel.clone()).boxed(),
            ),
            ("upstream", self.upstream.clone().run(cancel.clone()).boxed()),
            (
                "protected endpoints in force",
                enforce::endpoints(
                    Arc::clone(&self.kernel),
                    Arc::clone(&self.certificates),
                    Arc::clone(&self.metrics),
                    workload.endpoints.clone(),
                    lease.clone(),
                    enforce::Start {
                        ready: self.endpoints_ready,
                        phase: phase.clone(),
                        pods: workload.status.clone(),
                    },
                    Arc::clone(enforcer.maintainer()),
                )
                .boxed(),
            ),
            (
                "kernel events",
                denied::kernel_events(
                    denied::EventReader {
                        kernel: Arc::clone(&self.kernel),
                        phase: phase.watch(),
                        cancel: cancel.clone(),
                        _reading: shutdown.accepting.token(),
                    },
                    workload.endpoints.clone(),
                    Arc::clone(&workload.names),
                    Arc::clone(&self.metrics),
                    refused.clone(),
                )
                .boxed(),
            ),
            (
                "node listener",
                enforce::node_listener(
                    Arc::clone(enforcer),
                    Sockets::new(self.node_listener)
                        .context("the listener for pods in the node's network")?,
                    serves_node,
                    shutdown.accepting.token(),
                    cancel.clone(),
                )
                .boxed(),
            ),
            (
                "connections at new protected endpoints",
                Arc::clone(enforcer.maintainer()).cut_at_new_endpoints().boxed(),
            ),
            (
                "moved processes",
                denied::escapes::watch(
                    enforcer.served().clone(),
                    workload.names,
                    Arc::clone(&self.metrics),
                    refused.clone(),
                )
                .boxed(),
            ),
            (
                "refusals",
                denied::write(
                    to_write,
                    self.audit,
                    kube_events,
                    shutdown.served.clone(),
                    shutdown.written.clone(),
                )
                .boxed(),
            ),
            (
                "kubernetes events",
                notify::post(
                    Connector::new(&self.config.cluster.kubeconfig),
                    self.config.node_name.clone(),
                    to_post,
                    Arc::clone(&self.metrics),
                    notify::Patience::default(),
                )
                .boxed(),
            ),
            (
                "connections",
                arrivals::connections(
                    arrivals,
                    pipeline,
                    drain.clone(),
                    Arc::clone(&self.metrics),
                    refused,
                    shutdown.last.clone(),
                    shutdown.handed_on.clone(),
                )
                .boxed(),
            ),
            (
                "gauges",
                gauges::gauges(
                    Arc::clone(&self.metrics),
                    Arc::clone(&self.certificates),
                    self.upstream,
                    workload.status.clone(),
                )
                .boxed(),
            ),
            (
                "reloads",
                gauges::reloads(Arc::clone(&self.metrics), self.store).boxed(),
            ),
            (
                "first pods",
                InitialSync {
                    status: workload.status,
                    phase,
                    lease,
                    ready: self.pods_ready,
                }
                .run(move || Ok(self.kernel.retire_others()?))
                .boxed(),
            ),
        ]);
        for (name, part) in parts {
            spawn(&mut tasks, name, part);
        }
        tracing::info!(
            node = self.config.node_name,
            version = env!("CARGO_PKG_VERSION"),
            "started"
        );
        Ok(tasks)
    }
}

fn spawn(tasks: &mut JoinSet<&'static str>, name: &'static str, part: BoxFuture<'static, ()>) {
    tasks.spawn(part.map(move |()| name));
}

/// Runs the newer agent's side of an upgrade; tells where it failed.
async fn succeed(
    successor: Successor,
    phase: PhaseControl,
    audit: AuditLog,
    metrics: Arc<Metrics>,
    failed: mpsc::Sender<UpgradeFailed>,
) {
    let error = successor.run(phase, audit, metrics).await;
    tracing::error!(%error, "stopping");
    let _stopping = failed.send(error).await;
    std::future::pending().await
}

/// Which task ended, though none should.
fn describe(ended: Option<Result<&'static str, tokio::task::JoinError>>) -> anyhow::Error {
    match ended {
        Some(Ok(name)) => anyhow::anyhow!("the part `{name}` ended by itself"),
        Some(Err(error)) => anyhow::anyhow!("a part of the agent failed: {error}"),
        None => anyhow::anyhow!("no part of the agent runs"),
    }
}

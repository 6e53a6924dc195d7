//! The composition root: opens every part, puts the parts together, and serves until the process is asked to stop.
//!
//! In: a checked [`Config`]. Out: nothing but the process's end. What cannot be opened stops the start; a part that ends
//! while the others run ends the process, since a node with half an agent would look enforced and not be.

mod enforcer;
mod fold;
mod refusals;
mod watchers;

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::admin::{Admin, AdminSocket};
use crate::audit::{AuditConfig, AuditLog};
use crate::config::Config;
use crate::kernel::{self, Kernel, KernelConfig, KernelEvents, Node, Unknown, netns_cookie};
use crate::listener::Arrival;
use crate::pipeline::Pipeline;
use crate::runtime::drain::Drain;
use crate::runtime::metrics::Metrics;
use crate::runtime::readiness::Readiness;
use crate::runtime::signals;
use crate::store::Store;
use crate::tls::{CaFiles, Certificates};
use crate::upstream::{Credential, Upstream, UpstreamConfig};
use crate::workload::{self, Selection, WorkloadConfig};

use enforcer::InForce;

/// Connections between accept and their own task; each holds a few hundred bytes, and handing one on takes microseconds.
const ARRIVALS: usize = 1024;

/// Every part, opened and not yet serving.
pub struct App {
    config: Config,
    cgroup_root: PathBuf,
    metrics: Arc<Metrics>,
    store: Arc<Store>,
    certificates: Arc<Certificates>,
    upstream: Upstream,
    audit: AuditLog,
    admin: AdminSocket,
    kernel: Arc<Kernel>,
    events: KernelEvents,
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
        let certificates = Certificates::open(files, &config.tls.extra_names)?;
        let upstream = Upstream::open(upstream_config(&config)?)?;
        let audit = AuditLog::open(
            &AuditConfig {
                file: Some(config.audit.file.clone()),
                stdout: config.audit.stdout,
                node: config.node_name.clone(),
            },
            Some(metrics.observer()),
        )?;
        metrics.watch_audit(Arc::clone(audit.stats()));
        let admin = AdminSocket::bind(&config.admin.socket)?;
        let cgroup_root = cgroup_root(&config)?;
        let kernel = Arc::new(Kernel::load(&KernelConfig {
            cgroup_root: cgroup_root.clone(),
            bpffs: config.kernel.bpffs.clone(),
        })?);
        kernel.set_node(Node {
            netns: netns_cookie(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?)?,
            port: None,
            unknown: Unknown::Closed,
        })?;
        kernel.beat()?;
        // The doors of an agent before this one redirect already, so what they are dialled by must be in the certificates.
        certificates.set_doors(kernel.doors()?.into_iter().map(|door| door.ip()).collect())?;
        let events = kernel.events()?;
        let counted = Arc::clone(&kernel);
        metrics.watch_kernel(move || watchers::counters(&counted));
        Ok(Self {
            config,
            cgroup_root,
            metrics,
            store,
            certificates,
            upstream,
            audit,
            admin,
            kernel,
            events,
        })
    }

    /// Serves until SIGTERM or SIGINT, then lets requests in flight end for a limited time. The kernel programs stay:
    /// while no agent runs they refuse, and the next agent adopts them.
    ///
    /// # Errors
    /// A part that cannot start, or that ended by itself.
    pub async fn run(self) -> anyhow::Result<()> {
        let stop = signals::stop();
        let cancel = CancellationToken::new();
        let drain = Drain::default();
        let (sink, arrivals) = mpsc::channel(ARRIVALS);
        let in_force = Arc::new(InForce::new(Arc::clone(&self.kernel), sink));
        let limit = Duration::from_secs(self.config.shutdown.drain_seconds);
        let audit = self.audit.clone();
        let mut tasks = self.start(&cancel, &drain, &in_force, arrivals).await?;

        let outcome = tokio::select! {
            signal = stop => {
                tracing::info!(signal = signal?, connections = drain.open(), "stopping");
                Ok(())
            }
            ended = tasks.join_next() => Err(describe(ended)),
        };
        // The listeners close with the reconciler, so that no connection comes that nobody would serve.
        cancel.cancel();
        let cut = drain.drain(limit).await;
        if cut > 0 {
            tracing::warn!(connections = cut, "cut after the drain time");
        }
        tasks.shutdown().await;
        audit
            .flush()
            .await
            .context("the last audit records could not be written")?;
        outcome
    }

    async fn start(
        self,
        cancel: &CancellationToken,
        drain: &Drain,
        in_force: &Arc<InForce>,
        arrivals: mpsc::Receiver<Arrival>,
    ) -> anyhow::Result<JoinSet<&'static str>> {
        let readiness = Readiness::default();
        let (pods_ready, doors_ready) = (readiness.register("pods"), readiness.register("doors"));
        let pipeline = Pipeline::new(
            &self.certificates,
            Arc::clone(&self.store),
            self.upstream.clone(),
            self.audit.clone(),
            drain.clone(),
        )?;
        let known: BTreeSet<_> = self
            .kernel
            .classes()?
            .into_iter()
            .map(|(cgroup, _)| cgroup)
            .collect();
        let selection = Selection::with_labels(
            self.config.enforce.namespaces.clone(),
            &self.config.enforce.match_labels,
        )?;
        let config = WorkloadConfig {
            node: self.config.node_name.clone(),
            cgroup_root: self.cgroup_root,
            kubeconfig: self.config.cluster.kubeconfig.clone(),
            selection,
            doors: self.config.doors.iter().copied().collect(),
            known,
        };
        let workload = workload::start(config, Arc::clone(in_force), cancel).await?;

        let report = watchers::report(readiness, self.audit.clone(), self.upstream.clone());
        let admin = Admin {
            metrics: Arc::clone(&self.metrics),
            ready: report,
        };
        let (doors_in_force, doors_are) = watch::channel(false);
        let (refused, to_write) = mpsc::channel(refusals::WAITING);
        let mut parts: Vec<(&'static str, BoxFuture<'static, ()>)> = workload.tasks;
        parts.extend([
            ("admin socket", self.admin.serve(admin, cancel.clone()).boxed()),
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
                "doors in force",
                watchers::doors(
                    Arc::clone(&self.kernel),
                    Arc::clone(&self.certificates),
                    workload.doors,
                    doors_ready,
                    doors_in_force,
                )
                .boxed(),
            ),
            (
                "kernel events",
                refusals::events(
                    self.events,
                    Arc::clone(in_force),
                    Arc::clone(&self.metrics),
                    refused.clone(),
                )
                .boxed(),
            ),
            ("refusals", refusals::records(to_write, self.audit).boxed()),
            (
                "connections",
                watchers::connections(
                    arrivals,
                    pipeline,
                    drain.clone(),
                    Arc::clone(&self.metrics),
                    refused,
                )
                .boxed(),
            ),
            (
                "gauges",
                watchers::gauges(
                    Arc::clone(&self.metrics),
                    Arc::clone(&self.certificates),
                    self.upstream,
                    workload.status.clone(),
                )
                .boxed(),
            ),
            (
                "reloads",
                watchers::reloads(Arc::clone(&self.metrics), self.store).boxed(),
            ),
            (
                "first pods",
                watchers::settled(workload.status, doors_are, pods_ready, self.kernel).boxed(),
            ),
        ]);
        let mut tasks = JoinSet::new();
        for (name, part) in parts {
            tasks.spawn(part.map(move |()| name));
        }
        tracing::info!(
            node = self.config.node_name,
            version = env!("CARGO_PKG_VERSION"),
            "started"
        );
        Ok(tasks)
    }
}

fn upstream_config(config: &Config) -> anyhow::Result<UpstreamConfig> {
    let given = &config.upstream;
    let credential = match (
        &given.client_certificate_file,
        &given.client_key_file,
        &given.token_file,
    ) {
        (Some(certificate), Some(key), None) => Credential::ClientCertificate {
            certificate: certificate.clone(),
            key: key.clone(),
        },
        (None, None, Some(token)) => Credential::TokenFile(token.clone()),
        // Config refuses the other combinations before it gets here.
        _ => bail!("upstream: give either clientCertificateFile with clientKeyFile, or tokenFile"),
    };
    Ok(UpstreamConfig {
        server: given.server.parse().context("upstream.server")?,
        server_name: None,
        ca: given.ca_file.clone(),
        credential,
    })
}

/// The configured cgroup folder, or the cgroup v2 mount.
fn cgroup_root(config: &Config) -> anyhow::Result<PathBuf> {
    match &config.kernel.cgroup_root {
        Some(folder) => Ok(folder.clone()),
        None => {
            kernel::cgroup_mount().context("kernel.cgroupRoot is not given, and no cgroup v2 mount was found")
        }
    }
}

/// Which task ended, though none should.
fn describe(ended: Option<Result<&'static str, tokio::task::JoinError>>) -> anyhow::Error {
    match ended {
        Some(Ok(name)) => anyhow::anyhow!("the part `{name}` ended by itself"),
        Some(Err(error)) => anyhow::anyhow!("a part of the agent failed: {error}"),
        None => anyhow::anyhow!("no part of the agent runs"),
    }
}

//! The parts of the node: its pods and protected endpoints, the kernel programs, an upgrade, and what the kernel denies.
//!
//! In: the opened parts. Out: their tasks.

use std::sync::Arc;

use anyhow::Context;
use picket_common::LAYOUT;
use tokio::sync::{mpsc, watch};

use super::super::initial_sync::InitialSync;
use super::super::node_name;
use super::super::settings::{cgroup_root, endpoints_config};
use super::super::shutdown::Shutdown;
use super::{Handles, Shared, Tasks};
use crate::denied;
use crate::endpoints::ProtectedEndpoints;
use crate::enforce::{self, watchdog};
use crate::kernel::Class;
use crate::listener::{InPodListener, Sockets};
use crate::runtime::phase::Phase;
use crate::runtime::readiness::Pending;
use crate::upgrade::{self, Predecessor, Successor, SuccessorConnection};
use crate::workload::{self, Names, PodCounts, Selection, Workload, WorkloadConfig};

/// Opens the pods and the protected endpoints of the node.
///
/// # Errors
/// Where the configuration does not fit this machine, or the kernel's maps cannot be read.
pub(in crate::app) async fn workload(handles: &Handles, shared: &Shared) -> anyhow::Result<Workload> {
    let Handles { config, kernel, .. } = handles;
    let classes = kernel.classes()?;
    let redirected = classes
        .iter()
        .filter(|(_, class)| matches!(class, Class::Enforced { .. }));
    let metrics = handles.metrics.workload.clone();
    let settings = WorkloadConfig {
        node: config.node_name.clone(),
        cgroup_root: cgroup_root(config)?,
        connector: handles.connector.clone(),
        selection: Selection::new(
            config.enforce.namespaces.clone(),
            &config.enforce.match_labels,
            config.enforce.enrolled,
        )?,
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
pub(in crate::app) fn upgrade(
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
pub(in crate::app) fn kernel(tasks: &mut Tasks, handles: &Handles, shared: &Shared) {
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
pub(in crate::app) fn endpoints(
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
                readiness: handles.readiness.clone(),
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
pub(in crate::app) fn checkpoint(
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
pub(in crate::app) fn node_listener(
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

/// The initial sync.
pub(in crate::app) fn initial_sync(
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

/// Whether the configured node name is this node's.
pub(in crate::app) fn node_name(tasks: &mut Tasks, handles: &Handles, status: watch::Receiver<PodCounts>) {
    let (node, readiness) = (handles.config.node_name.clone(), handles.readiness.clone());
    tasks.spawn("node name", node_name::watch(status, node, readiness));
}

/// Connections that never become requests: what the kernel denies, and processes outside their pods' cgroups.
pub(in crate::app) fn denied(
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

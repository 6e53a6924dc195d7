//! The small tasks between the parts: each carries what one part says to those that act on it or count it.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::enforcer::InForce;
use super::handover::Hands;
use super::tend::Tending;
use super::{records, refusals};
use crate::admin::{Admin, Failing, PrivateSocket, ReadyReport};
use crate::audit::{AuditLog, Connection};
use crate::endpoints::Doors;
use crate::kernel::{Counter, Door, DoorAction, Kernel};
use crate::listener::{Accepted, Arrival, Sockets};
use crate::pipeline::Pipeline;
use crate::runtime::drain::Drain;
use crate::runtime::metrics::Metrics;
use crate::runtime::readiness::{Pending, Readiness};
use crate::runtime::signals;
use crate::store::Store;
use crate::tls::Certificates;
use crate::upstream::Upstream;
use crate::workload::Status;

/// How often gauges are brought up to date: more often than any scraper asks.
const GAUGES_EVERY: Duration = Duration::from_secs(5);

/// How often the kernel's maps are counted: full ones take some 50 ms.
const FILL_EVERY: Duration = Duration::from_secs(30);

/// Dials from outside a pod's cgroup are logged no more often than that.
const OUTSIDE_EVERY: Duration = Duration::from_secs(1);

/// The pause after a socket could not be made.
const SOCKET_PAUSE: Duration = Duration::from_secs(1);

/// The pause after the kernel did not take the doors.
const DOORS_PAUSE: Duration = Duration::from_secs(1);

/// How the doors come into force at the start.
pub(super) struct Start {
    /// Goes once they are all there.
    pub(super) ready: Pending,
    /// Told then, too.
    pub(super) in_force: watch::Sender<bool>,
    /// How the pods stand.
    pub(super) pods: watch::Receiver<Status>,
}

impl Start {
    /// Where programs of another layout are still attached, those hold the pods, and it is waited until all are judged: no
    /// pod that is left alone must meet a door before. Without such, doors come first and pods wait for judgement.
    async fn wait(&mut self, kernel: &Kernel) -> Result<(), watch::error::RecvError> {
        let older = kernel.older().unwrap_or_else(|error| {
            tracing::error!(%error, "cannot tell whether an earlier version's programs are there");
            false
        });
        if older {
            self.pods.wait_for(|status| status.settled).await?;
        }
        Ok(())
    }
}

/// Puts the doors in force, the API server's in the certificates first: a client that is redirected must not meet a
/// certificate without the address it dialled.
pub(super) async fn doors(
    kernel: Arc<Kernel>,
    certificates: Arc<Certificates>,
    metrics: Arc<Metrics>,
    mut told: watch::Receiver<Doors>,
    mut hands: Hands,
    mut start: Start,
    tending: Arc<Tending>,
) {
    if start.wait(&kernel).await.is_err() {
        return;
    }
    let mut ready = Some(start.ready);
    let mut at_work = false;
    loop {
        let Some(turn) = hands.turn().await else {
            return;
        };
        let now = told.borrow_and_update().clone();
        let (of_kernel, of_tls, wanted) = (Arc::clone(&kernel), Arc::clone(&certificates), now.clone());
        // A system call for each door, and there may be very many.
        let outcome = tokio::task::spawn_blocking(move || put_in_force(&of_kernel, &of_tls, &wanted))
            .await
            .unwrap_or_else(|error| Err(error.into()));
        drop(turn);
        match outcome {
            Ok(()) => {
                if !std::mem::replace(&mut at_work, true) {
                    signals::at_work();
                }
                tending.doors_changed();
                metrics.doors(now.redirect.len(), now.refuse.len(), now.left_out);
                if now.whole {
                    if let Some(ready) = ready.take() {
                        ready.ready();
                    }
                    start.in_force.send_replace(true);
                }
                let changed = tokio::select! {
                    changed = told.changed() => changed.is_ok(),
                    turned = hands.turned() => turned,
                };
                if !changed {
                    return;
                }
            }
            Err(error) => {
                tracing::error!(%error, waiting = ready.is_some(), "the doors are not in force");
                tokio::time::sleep(DOORS_PAUSE).await;
            }
        }
    }
}

fn put_in_force(kernel: &Kernel, certificates: &Certificates, now: &Doors) -> anyhow::Result<()> {
    certificates.set_doors(redirected(now))?;
    let redirect = now.redirect.iter().copied().map(Door::redirect);
    let doors: BTreeSet<Door> = redirect
        .chain(now.refuse.iter().copied().map(Door::refuse))
        .collect();
    if now.whole {
        kernel.set_doors(&doors)?
    } else {
        kernel.add_doors(&doors)?
    }
    Ok(())
}

/// The addresses by which clients dial Picket.
pub(super) fn redirected(doors: &Doors) -> BTreeSet<IpAddr> {
    doors.redirect.iter().map(|address| address.ip()).collect()
}

/// The doors in force, those of an agent before this one at the start.
pub(super) fn in_kernel(kernel: &Kernel) -> anyhow::Result<Doors> {
    let mut doors = Doors::default();
    for door in kernel.doors()? {
        match door.action {
            DoorAction::Redirect => doors.redirect.insert(door.addr),
            DoorAction::Refuse => doors.refuse.insert(door.addr),
        };
    }
    Ok(doors)
}

/// Gives each accepted connection a task of its own, and writes down those that came by no redirect. Once nobody accepts
/// any more, which `last` says, those that wait are still handed on, and `done` is told.
pub(super) async fn connections(
    mut arrivals: mpsc::Receiver<Arrival>,
    pipeline: Arc<Pipeline>,
    drain: Drain,
    metrics: Arc<Metrics>,
    refusals: mpsc::Sender<Connection>,
    last: CancellationToken,
    done: CancellationToken,
) {
    let mut told = None;
    loop {
        let arrival = tokio::select! {
            biased;
            arrival = arrivals.recv() => arrival,
            () = last.cancelled(), if !arrivals.is_closed() => {
                arrivals.close();
                continue;
            }
        };
        let Some(arrival) = arrival else { break };
        match arrival {
            Arrival::Accepted(accepted) => {
                if accepted.process.outside {
                    outside(&accepted, &metrics, &mut told);
                }
                let (pipeline, open) = (Arc::clone(&pipeline), metrics.connection());
                drain.serve(async move {
                    pipeline.serve(*accepted).await;
                    drop(open);
                });
            }
            Arrival::NoFlow(no_flow) => {
                metrics.no_flow();
                records::tell(&refusals, &metrics, refusals::closed(&no_flow));
            }
        }
    }
    // The agent is stopping, and the connections that are open are the drain's.
    done.cancel();
    std::future::pending::<()>().await;
}

/// Serves the pods that share the node's network, from the moment that they are known; `accepting` goes at the end.
pub(super) async fn node_listener(
    in_force: Arc<InForce>,
    sockets: Sockets,
    mut known: watch::Receiver<bool>,
    accepting: TaskTrackerToken,
    cancel: CancellationToken,
) {
    let _accepting = accepting;
    tokio::select! {
        _ = known.wait_for(|known| *known) => {}
        () = cancel.cancelled() => return,
    }
    in_force.serve_node(sockets, cancel).await;
}

/// Says that a connection of a pod's was made from outside the pod's cgroup, once in a while: each request's record has it, and
/// a pod can bring it about without end. It is judged as the pod's all the same.
fn outside(accepted: &Accepted, metrics: &Metrics, told: &mut Option<Instant>) {
    let (pod, process) = (accepted.workload.load(), &accepted.process);
    metrics.moved_process();
    if told.is_some_and(|told| told.elapsed() < OUTSIDE_EVERY) {
        return;
    }
    *told = Some(Instant::now());
    tracing::warn!(
        namespace = pod.namespace,
        pod = pod.name,
        pid = process.pid,
        comm = process.comm,
        cgroup = process.cgroup,
        "a process outside a pod's cgroup connected as the pod"
    );
}

/// Tells how full the kernel's maps are.
pub(super) async fn fill(kernel: Arc<Kernel>, metrics: Arc<Metrics>) {
    let mut tick = tokio::time::interval(FILL_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let kernel = Arc::clone(&kernel);
        match tokio::task::spawn_blocking(move || kernel.fill()).await {
            Ok(Ok(maps)) => {
                for map in maps {
                    metrics.map_fill(map.map, map.entries, map.capacity);
                }
            }
            Ok(Err(error)) => tracing::warn!(%error, "the kernel's maps cannot be counted"),
            Err(error) => tracing::warn!(%error, "the kernel's maps cannot be counted"),
        }
    }
}

/// Keeps gauges up to date.
pub(super) async fn gauges(
    metrics: Arc<Metrics>,
    certificates: Arc<Certificates>,
    upstream: Upstream,
    status: watch::Receiver<Status>,
) {
    let mut tick = tokio::time::interval(GAUGES_EVERY);
    let mut unseen_before = 0;
    loop {
        tick.tick().await;
        metrics.certificate_expiry("leaf", since_epoch(certificates.not_after()));
        metrics.certificate_expiry("node-ca", since_epoch(certificates.ca_not_after()));
        if let Some(end) = upstream.credential_not_after() {
            metrics.certificate_expiry("upstream", since_epoch(end));
        }
        let pods = *status.borrow();
        metrics.pods("enforced", pods.enforced);
        metrics.pods("exempt", pods.exempt);
        metrics.pods("presumed", pods.presumed);
        metrics.pods("pending", pods.pending);
        metrics.pods("uncovered", pods.uncovered);
        metrics.pods("unseen", pods.unseen);
        // Twice in a row, since a pod that ends leaves its cgroup before the API server hears of it.
        let unseen = pods.unseen.min(unseen_before);
        if unseen > 0 {
            tracing::error!(
                pods = unseen,
                "pods that are to be enforced run in no cgroup below kernel.cgroupRoot: nothing holds them"
            );
        }
        unseen_before = pods.unseen;
    }
}

fn since_epoch(time: SystemTime) -> Duration {
    time.duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Counts how readings of the policy files went.
pub(super) async fn reloads(metrics: Arc<Metrics>, store: Arc<Store>) {
    let mut changes = store.changes();
    metrics.policy_generation(changes.borrow_and_update().generation);
    while changes.changed().await.is_ok() {
        let now = changes.borrow_and_update().clone();
        metrics.reload("policy", now.last_error.is_none());
        metrics.policy_generation(now.generation);
    }
}

/// The kernel's counters by name.
pub(super) fn counters(kernel: &Kernel) -> Vec<(&'static str, u64)> {
    match kernel.counters() {
        Ok(counters) => Counter::ALL
            .into_iter()
            .map(|counter| (counter.as_str(), counters.get(counter)))
            .collect(),
        Err(error) => {
            tracing::warn!(%error, "the kernel's counters cannot be read");
            Vec::new()
        }
    }
}

/// What the admin socket shows.
pub(super) fn admin(
    metrics: &Arc<Metrics>,
    readiness: &Readiness,
    audit: &AuditLog,
    upstream: &Upstream,
) -> Admin {
    Admin {
        metrics: Arc::clone(metrics),
        ready: report(readiness.clone(), audit.clone(), upstream.clone()),
    }
}

/// Serves the admin socket from the moment that the agent before this one serves no more.
pub(super) async fn admin_once_alone(
    path: PathBuf,
    mut alone: watch::Receiver<bool>,
    admin: Admin,
    cancel: CancellationToken,
) {
    if alone.wait_for(|alone| *alone).await.is_err() {
        return;
    }
    let socket = private_socket(&path).await;
    socket.serve(admin, cancel).await;
}

/// Makes the socket in the place of whoever had it, however often that has to be tried: pods are served without it too.
pub(super) async fn private_socket(path: &Path) -> PrivateSocket {
    loop {
        match PrivateSocket::replace(path) {
            Ok(socket) => return socket,
            Err(error) => {
                tracing::error!(%error, "trying again");
                tokio::time::sleep(SOCKET_PAUSE).await;
            }
        }
    }
}

/// What `/readyz` says: who is not up yet, and who came up and fails now.
fn report(
    readiness: Readiness,
    audit: AuditLog,
    upstream: Upstream,
) -> Arc<dyn Fn() -> ReadyReport + Send + Sync> {
    Arc::new(move || {
        let failing = [
            ("audit", audit.stats().failure()),
            ("upstream", upstream.credential_error()),
        ];
        let failing = failing
            .into_iter()
            .filter_map(|(part, reason)| reason.map(|reason| (part, reason)));
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

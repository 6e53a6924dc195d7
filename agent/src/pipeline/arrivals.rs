//! Gives each connection that a listener accepted a task of its own.
//!
//! In: what arrives at the listeners. Out: served connections, and records of those that came by no redirect.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::server::ConnectionEnd;
use super::{Pipeline, PipelineMetrics};
use crate::denied::{self, Denials, DeniedMetrics};
use crate::listener::{Arrival, Process};
use crate::runtime::drain::Drain;
use crate::runtime::workers::Workers;
use crate::workload::Pod;

/// Dials from outside a pod's cgroup are logged no more often than that.
const OUTSIDE_EVERY: Duration = Duration::from_secs(1);

/// What serves connections.
pub(crate) struct DataPath {
    /// The stages.
    pub(crate) pipeline: Arc<Pipeline>,
    /// The threads.
    pub(crate) workers: Workers,
    /// What ends the connections.
    pub(crate) drain: Drain,
    /// What counts them.
    pub(crate) metrics: PipelineMetrics,
}

/// Gives each accepted connection a task of its own on one of the data path's threads, and writes down those that came by no
/// redirect. Once nobody accepts any more, which `last` says, those that wait are still served, and `done` is cancelled.
pub(crate) async fn connections(
    mut arrivals: mpsc::Receiver<Arrival>,
    path: DataPath,
    denials: Denials,
    last: CancellationToken,
    done: CancellationToken,
) {
    let DataPath {
        pipeline,
        workers,
        drain,
        metrics,
    } = path;
    let mut told = None;
    let _looking = AbortOnDropHandle::new(tokio::spawn(Arc::clone(&pipeline).watch_bodies()));
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
                if let (Some(process), Some(pod)) = (&accepted.process, &accepted.workload)
                    && process.outside
                {
                    outside((process, &pod.load()), &denials.metrics, &mut told);
                }
                let (pipeline, metrics) = (Arc::clone(&pipeline), metrics.clone());
                let open = metrics.connection();
                let assignment = workers.assign();
                let runtime = assignment.runtime().clone();
                let serving = async move {
                    if pipeline.serve(accepted, (open, assignment)).await == ConnectionEnd::Flooded {
                        metrics.flooded_connection();
                    }
                };
                drain.serve_on(&runtime, serving);
            }
            Arrival::UnattributedConnection(unattributed_connection) => {
                metrics.unattributed_connection(unattributed_connection.cause);
                let pod = unattributed_connection.workload.as_deref();
                denials.submit(denied::closed(&unattributed_connection), pod);
            }
        }
    }
    // The agent is stopping, and the connections that are open are the drain's.
    done.cancel();
    std::future::pending::<()>().await;
}

/// Says that a connection of a pod's was made from outside the pod's cgroup, once in a while: each request's record has it, and
/// a pod can bring it about without end. It is judged as the pod's all the same.
fn outside((process, pod): (&Process, &Pod), metrics: &DeniedMetrics, told: &mut Option<Instant>) {
    metrics.cgroup_escape();
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

//! What the agent shows of itself: metrics that are read from the parts, the admin socket, and metrics over TLS.
//!
//! In: the opened parts. Out: their tasks, and the answer of `/readyz`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::super::files::FileParts;
use super::super::metrics::ModuleMetrics;
use super::{Handles, Tasks};
use crate::admin::api::ObjectList;
use crate::admin::{Admin, AgentState, ConfiguredName, Failing, PrivateSocket, ReadyReport};
use crate::audit::AuditLog;
use crate::metrics::MetricsRegistry;
use crate::metrics_server::MetricsServer;
use crate::runtime::backoff::Backoff;
use crate::runtime::phase::{Phase, PhaseControl, PhaseWatch};
use crate::runtime::readiness::Readiness;
use crate::session::Registry;
use crate::store::Store;
use crate::workload::PodCounts;

/// The first and the longest pause after the metrics' address could not be listened at.
const METRICS_PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// What `/readyz` says of an agent that drains.
const DRAINING: &str = "the agent is stopping and accepts no more connections";

/// Metrics that are read from the parts.
pub(in crate::app) fn metrics(tasks: &mut Tasks, handles: &Handles, status: watch::Receiver<PodCounts>) {
    let ModuleMetrics {
        certificates,
        claims,
        reviews,
        store,
        workload,
        ..
    } = handles.metrics.clone();
    let FileParts {
        upstream,
        issuers,
        metrics_tls,
        ..
    } = handles.files.clone();
    let expiry = move || {
        [
            (
                "metrics",
                metrics_tls.as_ref().and_then(|tls| tls.own_not_after()),
            ),
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

/// Metrics over TLS, where they are wanted. The port is the predecessor's until that one has stopped. It is no part of `/readyz`: an
/// agent without it enforces as well, and the scraper sees that nothing answers.
pub(in crate::app) fn metrics_port(tasks: &mut Tasks, handles: &Handles) {
    let (Some(given), Some(tls)) = (&handles.config.metrics, &handles.files.metrics_tls) else {
        return;
    };
    let server = MetricsServer::new(
        Arc::clone(&handles.metrics.registry),
        handles.connector.clone(),
        Arc::clone(tls),
        handles.metrics.scrapes.clone(),
    );
    let (address, phase, cancel) = (given.listen, handles.phase.watch(), handles.cancel.clone());
    tasks.spawn("metrics over TLS", async move {
        if phase.reached(Phase::PredecessorStopped).await.is_ok()
            && let Some(listener) = cancel.run_until_cancelled(metrics_listener(address)).await
        {
            server.run(listener, cancel).await;
        }
        std::future::pending::<()>().await;
    });
}

/// Listens, however often that has to be tried: another program may have the port for a time.
async fn metrics_listener(address: SocketAddr) -> TcpListener {
    let mut pauses = Backoff::exact(METRICS_PAUSES.0, METRICS_PAUSES.1);
    let mut told = false;
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => {
                tracing::info!(%address, "metrics are served over TLS");
                return listener;
            }
            Err(error) if !told => {
                tracing::error!(%address, %error, "metrics cannot be served over TLS: metrics.listen cannot be had; the agent tries again");
                told = true;
            }
            Err(_) => {}
        }
        tokio::time::sleep(pauses.pause()).await;
    }
}

/// What the admin socket shows.
pub(in crate::app) fn admin(
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
pub(in crate::app) async fn admin_socket(
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
pub(super) fn report(
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

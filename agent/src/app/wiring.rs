//! How the parts are put together.

use std::path::PathBuf;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::admin::{Admin, Failing, PrivateSocket, ReadyReport};
use crate::audit::AuditLog;
use crate::metrics::Metrics;
use crate::runtime::phase::{Phase, PhaseWatch};
use crate::runtime::readiness::Readiness;
use crate::session::Registry;
use crate::upstream::Upstream;

/// What the admin socket shows.
pub(super) fn admin(
    metrics: &Arc<Metrics>,
    readiness: &Readiness,
    audit: &AuditLog,
    upstream: &Upstream,
    sessions: &Registry,
) -> Admin {
    Admin {
        metrics: Arc::clone(metrics),
        sessions: sessions.clone(),
        ready: report(readiness.clone(), audit.clone(), upstream.clone()),
    }
}

/// Serves the admin socket once the predecessor serves no more.
pub(super) async fn admin_once_alone(
    path: PathBuf,
    phase: PhaseWatch,
    admin: Admin,
    cancel: CancellationToken,
) {
    if phase.reached(Phase::PredecessorStopped).await.is_err() {
        return;
    }
    let socket = PrivateSocket::replace_with_retries(&path).await;
    socket.serve(admin, cancel).await;
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

//! Whether the configured node name is this node's.
//!
//! In: the pods' status. Out: the failing part `node` in readiness, and a warning again and again, while pods run here and the
//! API server has none of that name's node. Such pods reach no API server, and nothing else says why.

use std::time::Duration;

use tokio::sync::watch;

use crate::runtime::readiness::Readiness;
use crate::workload::PodCounts;

/// The part in `/readyz`.
const PART: &str = "node";

/// How long the API server's pods and the node's may differ: a new pod starts well after its report, and an old one's cgroup is
/// removed within the default grace period.
const PATIENCE: Duration = Duration::from_secs(30);

/// How often the warning comes again, for those who read the end of the log.
const AGAIN: Duration = Duration::from_secs(600);

/// Follows the pods' status for as long as it is polled.
pub(super) async fn watch(status: watch::Receiver<PodCounts>, node: String, readiness: Readiness) {
    watch_with(status, node, readiness, PATIENCE, AGAIN).await;
}

async fn watch_with(
    mut status: watch::Receiver<PodCounts>,
    node: String,
    readiness: Readiness,
    patience: Duration,
    again: Duration,
) {
    let is_own = |now: &PodCounts| !now.is_foreign();
    loop {
        if status.wait_for(PodCounts::is_foreign).await.is_err() {
            break;
        }
        if tokio::time::timeout(patience, status.wait_for(is_own))
            .await
            .is_ok()
        {
            continue;
        }
        loop {
            let (reason, closed) = {
                let now = status.borrow();
                (reason(&node, &now), now.pending)
            };
            tracing::warn!(node, pods = closed, "{reason}");
            readiness.fails(PART, reason);
            if tokio::time::timeout(again, status.wait_for(is_own)).await.is_ok() {
                break;
            }
        }
        if readiness.works(PART) {
            tracing::info!(node, "the API server has pods of this node");
        }
    }
    // A core task does not end by itself; the status ends with the agent.
    std::future::pending::<()>().await;
}

fn reason(node: &str, now: &PodCounts) -> String {
    format!(
        "the API server has no pod of node {node}, and {} pods run here, {} of them closed: nodeName must be a name that `kubectl \
         get nodes` shows, and this node's",
        now.pending + now.exempt + now.enforced,
        now.pending
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_node_without_reported_pods_is_not_ready_and_is_warned_about() {
        let readiness = Readiness::default();
        let status = watch::Sender::new(PodCounts::default());
        let of = status.subscribe();
        tokio::spawn(watch(of, "node-1".to_owned(), readiness.clone()));
        let sleep = |limit| tokio::time::sleep(limit);
        // Not before the pods are known.
        status.send_modify(|now| now.pending = 2);
        sleep(2 * PATIENCE).await;
        assert!(readiness.failing().is_empty());
        // Not where the API server has one of them.
        status.send_modify(|now| (now.synced, now.reported) = (true, 1));
        sleep(2 * PATIENCE).await;
        assert!(readiness.failing().is_empty());
        // Nor for a moment.
        status.send_modify(|now| now.reported = 0);
        sleep(PATIENCE / 2).await;
        status.send_modify(|now| now.reported = 1);
        sleep(2 * PATIENCE).await;
        assert!(readiness.failing().is_empty());
        status.send_modify(|now| now.reported = 0);
        sleep(PATIENCE + Duration::from_secs(1)).await;
        let [(part, reason)] = &readiness.failing()[..] else {
            panic!("{:?}", readiness.failing())
        };
        assert_eq!(*part, "node");
        let words = "the API server has no pod of node node-1, and 2 pods run here, 2 of them closed: ";
        assert!(reason.starts_with(words), "{reason}");
        status.send_modify(|now| now.reported = 2);
        sleep(Duration::from_secs(1)).await;
        assert!(readiness.failing().is_empty());
    }
}

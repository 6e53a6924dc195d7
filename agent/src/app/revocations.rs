//! Revocations that were taken back: an agent that was ended may act again.
//!
//! In: the identities of which the store says so, after each new set. Out: a metric, and an alarm in the audit log for each. In files a
//! revocation lasts as long as the file says it, so that a tool that distributes files can undo it without anybody's notice.

use std::sync::Arc;

use crate::audit::{Alarm, AlarmSubject, AuditLog};
use crate::store::{Store, StoreMetrics};

/// The reason in the records.
const REASON: &str = "revocation_reversed";

/// Tells of each for as long as it is polled.
pub(super) async fn watch(store: Arc<Store>, metrics: StoreMetrics, audit: AuditLog) {
    let mut changes = store.changes();
    loop {
        changes.mark_unchanged();
        let reversed = store.take_reversed();
        for identity in reversed {
            metrics.revocation_reversed();
            let message =
                format!("agent {identity} was revoked, and may act again as its AgentIdentity says now");
            let alarm = Alarm {
                subject: AlarmSubject::Identity(identity.into()),
                reason: REASON,
                message,
            };
            if let Err(error) = audit.alarm(alarm) {
                tracing::error!(%error, "the agent cannot write the audit record of a revocation that was taken back");
            }
        }
        if changes.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::AuditConfig;
    use crate::audit::spool::segment::stored_text;
    use crate::metrics::MetricsRegistry;

    #[tokio::test]
    async fn a_revocation_that_was_taken_back_is_counted_and_recorded() {
        let folder = tempfile::tempdir().expect("a folder");
        let (file, spool) = (folder.path().join("a.yaml"), folder.path().join("spool"));
        let write = |state: &str| {
            let text = format!(
                "apiVersion: picket.dev/v1alpha1\nkind: AgentIdentity\nmetadata: {{name: a}}\nspec: {{owner: o, state: {state}, attest: \
                 {{pod: {{namespace: n, serviceAccount: s}}}}}}\n"
            );
            std::fs::write(&file, text).expect("written");
        };
        write("Revoked");
        let store = Arc::new(Store::open(std::slice::from_ref(&file)).expect("valid"));
        let config = AuditConfig {
            directory: spool.clone(),
            ..AuditConfig::default()
        };
        let audit = AuditLog::open(&config, None).expect("a log");
        let registry = MetricsRegistry::default();
        let metrics = StoreMetrics::register(&registry);
        write("Active");
        store.reload();
        let watching = tokio::spawn(watch(store, metrics, audit.clone()));
        // One look is all that it needs.
        let counted = || {
            registry
                .encode()
                .expect("text")
                .contains("picket_revocations_reversed_total 1")
        };
        while !counted() {
            tokio::task::yield_now().await;
        }
        watching.abort();
        let _aborted = watching.await;
        audit.flush().await.expect("written");
        let text = stored_text(&spool);
        let record: serde_json::Value = serde_json::from_str(text.trim()).expect("one record");
        assert_eq!(record["decision"]["reason"], REASON);
        assert_eq!(record["agent"]["identity"], "a");
        assert_eq!(
            record["requestURI"],
            "/apis/picket.dev/v1alpha1/agentidentities/a"
        );
        assert_eq!(record["annotations"]["picket.dev/severity"], "critical");
    }
}

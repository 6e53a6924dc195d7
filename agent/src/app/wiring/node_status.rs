//! How the agent is now, as the status of its node's PicketNode says it.
//!
//! In: the opened parts. Out: the task that writes the status, and the source that it asks.

use std::fs;
use std::sync::Arc;
use std::time::SystemTime;

use jiff::Timestamp;
use parking_lot::Mutex;
use picket_policy::api::v1alpha1::{
    NodeAudit, NodeCertificates, NodeFault, NodeKernel, NodePhase, NodePods, NodePolicy, PicketNodeStatus,
};
use tokio::sync::watch;

use super::super::files::FileParts;
use super::super::shutdown::Shutdown;
use super::shown::report;
use super::{Handles, Tasks};
use crate::audit::AuditLog;
use crate::kernel::{Kernel, Program};
use crate::node_status::{NodeReporter, NodeStatusSource};
use crate::runtime::phase::{Phase, PhaseWatch};
use crate::store::{Store, StoreStatus};
use crate::workload::PodCounts;

/// Where the kernel says its release.
const RELEASE: &str = "/proc/sys/kernel/osrelease";

/// Writes the status of this node's PicketNode.
pub(in crate::app) fn node_status(
    tasks: &mut Tasks,
    handles: &Handles,
    shutdown: &Shutdown,
    pods: watch::Receiver<PodCounts>,
) {
    let reporter = NodeReporter::new(
        &handles.config.node_name,
        handles.connector.clone(),
        source(handles, pods),
        handles.phase.watch(),
        handles.metrics.node_status.clone(),
    );
    tasks.spawn(
        "node status",
        reporter.run(handles.cancel.clone(), shutdown.said.clone()),
    );
}

fn source(handles: &Handles, pods: watch::Receiver<PodCounts>) -> NodeStatusSource {
    let ready = report(
        handles.readiness.clone(),
        handles.audit.clone(),
        handles.files.clone(),
        Arc::clone(&handles.store),
        handles.phase.watch(),
    );
    let (started, phase) = (Timestamp::now(), handles.phase.watch());
    let release = fs::read_to_string(RELEASE).unwrap_or_default().trim().to_owned();
    let policy = PolicySource::new(Arc::clone(&handles.store));
    let (kernel, files, audit) = (
        Arc::clone(&handles.kernel),
        handles.files.clone(),
        handles.audit.clone(),
    );
    Arc::new(move || {
        let ready = ready();
        let failing = ready.failing.into_iter();
        PicketNodeStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started,
            phase: phase_of(&phase),
            waiting: ready.waiting,
            failing: failing
                .map(|failing| fault(failing.part, failing.reason))
                .collect(),
            kernel: kernel_of(&kernel, &release),
            pods: pods_of(&pods.borrow()),
            policy: policy.now(),
            certificates: certificates_of(&files),
            audit: audit_of(&audit),
            last_heartbeat: Timestamp::now(),
            conditions: Vec::new(),
        }
    })
}

fn fault(part: &str, reason: String) -> NodeFault {
    NodeFault {
        part: part.to_owned(),
        reason,
    }
}

fn phase_of(phase: &PhaseWatch) -> NodePhase {
    if phase.has_ended() {
        NodePhase::Draining
    } else if phase.has_reached(Phase::Established) {
        NodePhase::Serving
    } else {
        NodePhase::Starting
    }
}

fn kernel_of(kernel: &Kernel, release: &str) -> NodeKernel {
    NodeKernel {
        release: release.to_owned(),
        attached: number(kernel.attached()),
        programs: number(Program::ROOT.len()),
    }
}

fn pods_of(counts: &PodCounts) -> NodePods {
    NodePods {
        enforced: number(counts.enforced),
        exempt: number(counts.exempt),
        assumed_exempt: number(counts.assumed_exempt),
        closed: number(counts.pending),
        not_covered: number(counts.not_covered),
        uncovered: counts.uncovered.clone(),
    }
}

fn certificates_of(files: &FileParts) -> NodeCertificates {
    let moment = |at: Option<SystemTime>| at.and_then(|at| Timestamp::try_from(at).ok());
    NodeCertificates {
        node_ca: moment(files.certificates.ca_not_after()),
        gateway: moment(files.certificates.gateway_not_after()),
        upstream: moment(files.upstream.credential_not_after()),
        upstream_ca: moment(files.upstream.ca_not_after()),
    }
}

fn audit_of(audit: &AuditLog) -> NodeAudit {
    let stats = audit.stats();
    let sinks = stats.sinks().iter();
    let failing = sinks.filter_map(|sink| Some(fault(sink.name(), sink.failure()?)));
    let segments = stats.spool().segments();
    NodeAudit {
        spool_bytes: segments.iter().map(|segment| segment.length).sum(),
        failing_sinks: failing.collect(),
    }
}

fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// The set in force, which is read anew where it changed.
struct PolicySource {
    store: Arc<Store>,
    changes: Mutex<watch::Receiver<StoreStatus>>,
    last: Mutex<Option<NodePolicy>>,
}

impl PolicySource {
    fn new(store: Arc<Store>) -> Self {
        Self {
            changes: Mutex::new(store.changes()),
            last: Mutex::new(None),
            store,
        }
    }

    fn now(&self) -> NodePolicy {
        let mut last = self.last.lock();
        let changed = {
            let mut changes = self.changes.lock();
            let changed = changes.has_changed().unwrap_or(false);
            changes.mark_unchanged();
            changed
        };
        if let Some(last) = last.as_ref().filter(|_| !changed) {
            return last.clone();
        }
        let summary = self.store.summary();
        let same = last.as_ref().filter(|last| last.hash == summary.hash);
        let since = same.map_or_else(
            || summary.hash.as_ref().map(|_| Timestamp::now()),
            |last| last.since,
        );
        let now = NodePolicy {
            hash: summary.hash,
            generation: summary.generation,
            since,
            valid: number(summary.valid),
            invalid: number(summary.invalid),
            last_error: summary.last_error,
        };
        *last = Some(now.clone());
        now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDENTITY: &str = "apiVersion: picket.dev/v1alpha1\nkind: AgentIdentity\nmetadata: {name: a}\n\
                            spec: {owner: OWNER, attest: {pod: {namespace: n, serviceAccount: a}}}\n";

    #[test]
    fn the_policy_is_read_anew_where_it_changed_and_keeps_its_time_where_it_did_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("a.yaml");
        fs::write(&file, IDENTITY).expect("written");
        let store = Arc::new(Store::open_or_deny_all(&[folder.path().to_owned()], false));
        let source = PolicySource::new(Arc::clone(&store));
        let first = source.now();
        assert!(first.hash.is_some() && first.since.is_some() && first.valid == 1);
        assert_eq!(source.now(), first);
        // Another generation, and the same set.
        fs::write(&file, format!("# a comment\n{IDENTITY}")).expect("written");
        store.reload();
        let second = source.now();
        assert!(second.generation > first.generation);
        assert_eq!((&second.hash, second.since), (&first.hash, first.since));
        fs::write(&file, IDENTITY.replace("OWNER", "other")).expect("written");
        store.reload();
        let third = source.now();
        assert_ne!(third.hash, first.hash);
        assert!(third.since > first.since);
    }

    #[test]
    fn the_phase_is_serving_once_all_pods_are_classified_and_draining_at_the_end() {
        let control = crate::runtime::phase::PhaseControl::new(false);
        let watch = control.watch();
        assert_eq!(phase_of(&watch), NodePhase::Starting);
        control.reach(Phase::Established);
        assert_eq!(phase_of(&watch), NodePhase::Serving);
        control.end();
        assert_eq!(phase_of(&watch), NodePhase::Draining);
    }
}

//! What this node's agent says of itself at the API server: the status of the node's PicketNode.
//!
//! In: a source that says how the agent is now. Out: server-side applies of the PicketNode and its status, when something changed and
//! each minute.
//!
//! `picket status` and `kubectl get picketnodes` read the objects. Nobody waits for a write, and no request depends on one: where
//! the API server is away, or the CRD or a right is missing, the reporter says so once and tries again. The version that a write makes
//! shows whether the API server's objects were set back ([`crate::cluster`]).
//!
//! | file | holds |
//! |---|---|
//! | `mod` | when the status is written |
//! | `writer` | the requests |
//! | `metrics` | how many writes there were |

mod metrics;
mod writer;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use picket_policy::api::v1alpha1::{ConditionStatus, NodePhase, ObjectCondition, PicketNodeStatus};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub(crate) use metrics::NodeStatusMetrics;

use crate::cluster::Connector;
use crate::runtime::backoff::Backoff;
use crate::runtime::chance::chance;
use crate::runtime::phase::{Phase, PhaseWatch};
use writer::{NodeWriter, WriteError};

/// How often the source is asked.
const LOOK: Duration = Duration::from_secs(1);

/// The least time between two writes for changes, but for those that somebody waits for.
const LEAST: Duration = Duration::from_secs(10);

/// Most writes for changes within a minute, and how many of them may come sooner than that: an agent that flaps must not burden the
/// API server.
const MOST: usize = 6;
const MOST_EARLY: usize = 3;
const MINUTE: Duration = Duration::from_secs(60);

/// How often the status is written though nothing changed, and by how much earlier by chance: agents that start together do not
/// write together for long.
const HEARTBEAT: Duration = Duration::from_secs(60);
const SPREAD: Duration = Duration::from_secs(10);

/// The first and the longest pause after failures, which are up to twice as long by chance. No longer than the heartbeat's: a write that
/// succeeds shows whether etcd was restored meanwhile.
const FAILURE_PAUSE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(30));

/// How long the last write may take, while the agent stops.
const LAST: Duration = Duration::from_secs(1);

/// The condition that says whether the agent is ready.
pub(crate) const READY: &str = "Ready";

/// Says how the agent is now. It may take a moment, so it is asked on a thread of its own.
pub(crate) type NodeStatusSource = Arc<dyn Fn() -> PicketNodeStatus + Send + Sync>;

/// Writes this node's status.
pub(crate) struct NodeReporter {
    source: NodeStatusSource,
    writer: NodeWriter,
    phase: PhaseWatch,
    /// What was written last, and when.
    written: Option<(PicketNodeStatus, Instant)>,
    /// When the writes of the last minute were made, and whether each came sooner than [`LEAST`] after the one before.
    recent: VecDeque<(Instant, bool)>,
}

impl NodeReporter {
    /// A reporter for the Node of this name.
    #[must_use]
    pub(crate) fn new(
        node: &str,
        connector: Connector,
        source: NodeStatusSource,
        phase: PhaseWatch,
        metrics: NodeStatusMetrics,
    ) -> Self {
        Self {
            source,
            writer: NodeWriter::new(node, connector, metrics),
            phase,
            written: None,
            recent: VecDeque::new(),
        }
    }

    /// Writes until cancelled, then says that the agent stops, and that this is said. A successor writes from the moment at which its
    /// predecessor serves no more; a predecessor's last word would be older than that.
    pub(crate) async fn run(mut self, cancel: CancellationToken, said: CancellationToken) {
        tokio::select! {
            () = cancel.cancelled() => {}
            () = self.report() => {}
        }
        if self.written.is_some() {
            // What is not told in time shows as an old heartbeat.
            let _late = tokio::time::timeout(LAST, self.write()).await;
        }
        said.cancel();
        std::future::pending::<()>().await;
    }

    async fn report(&mut self) {
        if self.phase.reached(Phase::PredecessorStopped).await.is_err() {
            return std::future::pending().await;
        }
        let mut pauses = Backoff::jittered(FAILURE_PAUSE.0, FAILURE_PAUSE.1);
        let mut heartbeat = HEARTBEAT;
        loop {
            let now = self.look().await;
            if let Some(now) = now.filter(|now| self.is_due(now, heartbeat)) {
                match self.send(now).await {
                    Ok(()) => {
                        pauses.reset();
                        heartbeat = HEARTBEAT - SPREAD.mul_f64(chance());
                    }
                    Err(error) => {
                        tracing::debug!(%error, "the node's status is not written");
                        tokio::time::sleep(pauses.pause()).await;
                    }
                }
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// How the agent is now; nothing where the source failed, or where another agent serves the node or is about to.
    async fn look(&self) -> Option<PicketNodeStatus> {
        if self.phase.lease().lent {
            return None;
        }
        let source = Arc::clone(&self.source);
        let asked = tokio::task::spawn_blocking(move || source()).await;
        let mut status = asked.ok()?.bounded();
        let before = self.written.as_ref().map(|(status, _)| status);
        status.conditions = vec![ready(&status, before)];
        Some(status)
    }

    fn is_due(&self, now: &PicketNodeStatus, heartbeat: Duration) -> bool {
        match &self.written {
            None => true,
            Some((_, at)) if at.elapsed() >= heartbeat => true,
            Some((before, at)) => {
                let may_be_early = is_awaited(now, before) && self.count_recent(|early| early) < MOST_EARLY;
                differs(now, before)
                    && self.count_recent(|_| true) < MOST
                    && (at.elapsed() >= LEAST || may_be_early)
            }
        }
    }

    fn count_recent(&self, is_meant: impl Fn(bool) -> bool) -> usize {
        let recent = self.recent.iter().filter(|(at, _)| at.elapsed() < MINUTE);
        recent.filter(|(_, early)| is_meant(*early)).count()
    }

    async fn send(&mut self, status: PicketNodeStatus) -> Result<(), WriteError> {
        self.writer.write(&status).await?;
        self.keep(status);
        Ok(())
    }

    /// Keeps what was written, and when.
    fn keep(&mut self, status: PicketNodeStatus) {
        let early = self.written.as_ref().is_some_and(|(_, at)| at.elapsed() < LEAST);
        self.recent.retain(|(at, _)| at.elapsed() < MINUTE);
        self.recent.push_back((Instant::now(), early));
        self.written = Some((status, Instant::now()));
    }

    async fn write(&mut self) {
        if let Some(status) = self.look().await {
            let _failed_and_counted = self.send(status).await;
        }
    }
}

/// Whether something changed that is worth a write. The time, and the size of the audit log, grow all the while.
fn differs(now: &PicketNodeStatus, before: &PicketNodeStatus) -> bool {
    let plain = |status: &PicketNodeStatus| {
        let mut status = status.clone();
        status.last_heartbeat = Timestamp::UNIX_EPOCH;
        status.audit.spool_bytes = 0;
        // A token is read anew each hour or so.
        status.certificates.upstream = None;
        status
    };
    plain(now) != plain(before)
}

/// Whether something changed that people wait for, as after an installation: that the agent is ready, and that it enforces pods.
fn is_awaited(now: &PicketNodeStatus, before: &PicketNodeStatus) -> bool {
    let of = |status: &PicketNodeStatus| {
        let word = status.condition(READY).map(|condition| condition.status);
        (word, status.pods.enforced > 0)
    };
    of(now) != of(before)
}

/// The condition of this status, with the time of the one before where that holds as it did.
fn ready(status: &PicketNodeStatus, before: Option<&PicketNodeStatus>) -> ObjectCondition {
    let failing = status
        .failing
        .iter()
        .map(|fault| format!("{}: {}", fault.part, fault.reason));
    let waiting = status
        .waiting
        .iter()
        .map(|part| format!("{part} has not come up"));
    let said: Vec<_> = failing.chain(waiting).collect();
    let is_ready = said.is_empty() && status.phase != NodePhase::Draining;
    let reason = match (status.phase, status.failing.is_empty(), is_ready) {
        (NodePhase::Draining, _, _) => "Draining",
        (_, false, _) => "Failing",
        (_, _, false) => "Waiting",
        (_, _, true) => "Serving",
    };
    let mut message = said.join("; ");
    if let Some((end, _)) = message.char_indices().nth(4096) {
        message.truncate(end);
    }
    let word = match is_ready {
        true => ConditionStatus::True,
        false => ConditionStatus::False,
    };
    let held = before
        .and_then(|before| before.condition(READY))
        .filter(|held| held.status == word);
    ObjectCondition {
        kind: READY.to_owned(),
        status: word,
        observed_generation: 1,
        last_transition_time: held.map_or(status.last_heartbeat, |held| held.last_transition_time),
        reason: reason.to_owned(),
        message,
    }
}

#[cfg(test)]
mod tests;

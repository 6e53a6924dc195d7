//! One pod's cgroup: what is in force for it, what should be, and the step from the one to the other.
//!
//! In: what the API server says of the pod, and the selection. Out: a class for the cgroup, or word that an attempt to enforce
//! the pod is due.

use std::mem::{Discriminant, discriminant};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::time::Instant;

use super::cgroup::PodGroup;
use super::enforce::{CoverageReport, EnforceError, Enforcer};
use super::layout::is_manifest_hash;
use super::netns::NetnsId;
use super::pods::{NodePod, PodMap};
use super::{Pod, Selection};
use crate::kernel::{CgroupId, FailMode};
use crate::runtime::backoff::Backoff;

/// The first and the longest pause while a namespace is not there: short at first, since a sandbox has its own within milliseconds.
const NETNS_PAUSE: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(500));

/// The same after a failure; at the longest, a pod still works soon after what it failed by is mended.
pub(super) const FAILURE_PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// How often an enforced pod is checked again though nothing changed in its cgroup.
pub(super) const CHECK_INTERVAL: Duration = Duration::from_secs(30);

/// When an enforced pod is checked for the second time: a connect that was on its way when the first check listed the
/// sockets has ended by then, and the five seconds in which older connections must end have not.
pub(super) const SECOND_CHECK: Duration = Duration::from_secs(3);

/// Longer than a list takes where the API server answers, and short against a kubelet's patience with a pod that fails.
pub(super) const API_SERVER_TIMEOUT: Duration = Duration::from_secs(10);

/// When enforced pods are checked, and static pods left alone.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    pub(super) again: Duration,
    pub(super) every: Duration,
    /// How long the API server has to tell its pods at the start, until static pods that it might have reported are left alone.
    pub(super) api_server_timeout: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            again: SECOND_CHECK,
            every: CHECK_INTERVAL,
            api_server_timeout: API_SERVER_TIMEOUT,
        }
    }
}

/// Why an attempt has to be repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Retry {
    /// The pod's network namespace is not there yet.
    NoNetns,
    /// It failed.
    Failure,
}

/// Attempts in a row without success, and the pauses between them.
pub(super) struct Attempts {
    count: u32,
    no_netns: Backoff,
    failure: Backoff,
}

impl Default for Attempts {
    fn default() -> Self {
        let pauses = |(first, longest)| Backoff::exact(first, longest);
        Self {
            count: 0,
            no_netns: pauses(NETNS_PAUSE),
            failure: pauses(FAILURE_PAUSE),
        }
    }
}

impl Attempts {
    /// How many there were in a row.
    pub(super) fn count(&self) -> u32 {
        self.count
    }

    /// The next one is a first one again.
    pub(super) fn reset(&mut self) {
        self.count = 0;
        self.no_netns.reset();
        self.failure.reset();
    }

    /// Counts one more; gives the pause until the next.
    fn pause(&mut self, retry: Retry) -> Duration {
        self.count = self.count.saturating_add(1);
        match retry {
            Retry::NoNetns => self.no_netns.pause(),
            Retry::Failure => self.failure.pause(),
        }
    }
}

/// How many of an enforced pod's first checks destroy its older connections.
pub(super) const DESTROYING_CHECKS: u32 = 2;

/// What is in force for a pod.
pub(super) enum Applied<H> {
    /// Nothing of its own: the folder of all pods stands for it.
    Nothing,
    /// Something that this agent did not put there, or put there in part.
    Unknown,
    /// A redirect that this agent did not put there: closed but for a listener, whoever's it is.
    Redirected,
    /// Closed.
    Closed,
    /// Exempt.
    Exempt,
    /// Exempt, though nobody told what the pod is.
    AssumedExempt,
    /// Enforced.
    Enforced {
        /// The listener; dropping it ends it.
        handle: H,
        /// The namespace of its own that it is served in.
        own: Option<NetnsId>,
        pod: Arc<ArcSwap<Pod>>,
        /// What it has open was released while the kernel was another agent's to change: its listener serves it no more.
        released: bool,
        /// When the next look is due, and how many there were.
        check: Instant,
        checks: u32,
        /// What the last one found.
        covered: Option<bool>,
    },
}

/// What should be in force for a pod.
pub(super) enum Wanted {
    /// Nothing is known that would change it: leave all as it is.
    Same,
    Closed,
    Exempt,
    /// Exempt until something is known of it.
    AssumedExempt,
    Enforced(Arc<NodePod>),
}

/// One pod's cgroup.
pub(super) struct Slot<H> {
    pub(super) found: PodGroup,
    pub(super) applied: Applied<H>,
    /// An attempt is under way.
    pub(super) busy: bool,
    /// The cgroup vanished while an attempt was under way.
    pub(super) gone: bool,
    /// The pod as the API server reported it last, where the selection named it then.
    pub(super) last: Option<Arc<NodePod>>,
    /// It was found redirected, and nothing was reported of it since: it is one of the selection's.
    pub(super) enforced_before: bool,
    /// Since when it waits, closed, for the API server to tell of it, and whether that was said.
    pub(super) unreported: Option<(Instant, bool)>,
    /// Something about the cgroup changed since the namespace was checked at.
    pub(super) stale: bool,
    /// Attempts in a row without success, whether they failed or found no namespace yet, and when the next is due.
    pub(super) attempts: Attempts,
    pub(super) failing: bool,
    /// Why the last attempt to enforce the pod failed, until one succeeds.
    pub(super) fault: Option<String>,
    pub(super) due: Option<Instant>,
    /// What was last aimed at; a new goal does not wait for the pause that an old one's failure set.
    pub(super) goal: Discriminant<Wanted>,
    /// When the cgroup was first seen, until its pod is enforced or left alone; not for those that were before.
    pub(super) since: Option<Instant>,
}

/// What should be in force for a pod, by what the API server says of it.
///
/// A pod from the node's own files is known there by a mirror that its kubelet makes, so that nothing is known of it where the
/// API server is what it runs. With `static_pods` open such a pod is left alone, unless it was enforced: then it stays so.
pub(super) fn wanted<H>(
    slot: &Slot<H>,
    pods: Option<&PodMap>,
    selection: &Selection,
    static_pods: FailMode,
) -> Wanted {
    match pods.and_then(|pods| pods.get(&slot.found.uid)) {
        Some(known) if selection.enforces(known) => Wanted::Enforced(known.clone()),
        Some(_) => Wanted::Exempt,
        None if static_pods == FailMode::Open && is_manifest_hash(&slot.found.uid.0) => {
            match (&slot.last, &slot.applied) {
                (Some(last), _) => Wanted::Enforced(Arc::clone(last)),
                (None, Applied::Redirected) => Wanted::Same,
                // Another agent may have changed its class meanwhile.
                (None, _) if slot.enforced_before => Wanted::Closed,
                (None, _) => Wanted::AssumedExempt,
            }
        }
        None if pods.is_none() => Wanted::Same,
        None => Wanted::Closed,
    }
}

impl<H> Slot<H> {
    /// A cgroup that was just found. `inherited`: the kernel has a class for it; `redirected`: one that enforces it.
    pub(super) fn new(found: &PodGroup, inherited: bool, redirected: bool) -> Self {
        Self {
            found: found.clone(),
            applied: match (inherited, redirected) {
                (true, true) => Applied::Redirected,
                (true, false) => Applied::Unknown,
                (false, _) => Applied::Nothing,
            },
            busy: false,
            gone: false,
            last: None,
            enforced_before: inherited && redirected,
            unreported: None,
            stale: false,
            attempts: Attempts::default(),
            failing: false,
            fault: None,
            due: None,
            goal: discriminant(&Wanted::Same),
            since: (!inherited).then(Instant::now),
        }
    }

    /// Does at once what can be done at once; hands back the pod where an attempt to enforce it is due.
    pub(super) fn step<E: Enforcer<Handle = H>>(
        &mut self,
        id: CgroupId,
        wanted: &Wanted,
        enforcer: &E,
        now: Instant,
    ) -> Result<Option<Arc<NodePod>>, EnforceError> {
        match wanted {
            Wanted::Same => {}
            Wanted::Exempt => {
                if !matches!(self.applied, Applied::Exempt | Applied::AssumedExempt) {
                    enforcer.exempt(id)?;
                }
                self.settle(Applied::Exempt);
                self.last = None;
                self.enforced_before = false;
            }
            Wanted::AssumedExempt => {
                if !matches!(self.applied, Applied::Exempt | Applied::AssumedExempt) {
                    enforcer.exempt(id)?;
                    tracing::info!(cgroup = %id, pod = %self.found.uid.0, "a static pod is exempt until the API server reports it");
                }
                self.settle(Applied::AssumedExempt);
            }
            Wanted::Closed => {
                if !matches!(self.applied, Applied::Closed) {
                    enforcer.pending(id)?;
                    self.settle(Applied::Closed);
                }
            }
            Wanted::Enforced(pod) => {
                self.last = Some(Arc::clone(pod));
                match &self.applied {
                    Applied::Enforced {
                        pod: facts, check, ..
                    } => {
                        let latest = self.facts(pod);
                        if **facts.load() != latest {
                            facts.store(Arc::new(latest));
                            enforcer.changed();
                        }
                        if !self.stale && now < *check {
                            return Ok(None);
                        }
                    }
                    Applied::Closed | Applied::Redirected => {}
                    // Closed before anything else: it may be open, and to enforce it can take a while.
                    Applied::Nothing | Applied::Unknown | Applied::Exempt | Applied::AssumedExempt => {
                        enforcer.pending(id)?;
                        // A step on the way: the tries before it count on.
                        self.applied = Applied::Closed;
                    }
                }
                return Ok(Some(pod.clone()));
            }
        }
        Ok(None)
    }

    /// Judges by `wanted` what an enforced pod has open, and changes nothing in the kernel. A pod that is released stays so: what
    /// it asks this agent for is refused until it is enforced anew.
    pub(super) fn observe<E: Enforcer<Handle = H>>(&mut self, wanted: &Wanted, enforcer: &E) {
        let latest = match wanted {
            Wanted::Enforced(pod) => Some(self.facts(pod)),
            Wanted::Same | Wanted::Closed | Wanted::Exempt | Wanted::AssumedExempt => None,
        };
        let Applied::Enforced {
            handle,
            pod,
            released,
            ..
        } = &mut self.applied
        else {
            return;
        };
        match latest {
            Some(latest) if **pod.load() != latest => {
                pod.store(Arc::new(latest));
                enforcer.changed();
            }
            Some(_) => {}
            None if matches!(wanted, Wanted::Same) => {}
            None => {
                if !std::mem::replace(released, true) {
                    enforcer.release(handle);
                }
            }
        }
    }

    /// Says, once it has waited for long, that a static pod waits closed for the API server: it may be what runs that. Gives
    /// when to look again.
    pub(super) fn check(
        &mut self,
        id: CgroupId,
        known: bool,
        now: Instant,
        api_server_timeout: Duration,
    ) -> Option<Instant> {
        let waits = !known
            && is_manifest_hash(&self.found.uid.0)
            && matches!(self.applied, Applied::Nothing | Applied::Closed);
        if !waits {
            self.unreported = None;
            return None;
        }
        let (since, said) = self.unreported.get_or_insert((now, false));
        if *said {
            return None;
        }
        if now < *since + api_server_timeout {
            return Some(*since + api_server_timeout);
        }
        *said = true;
        tracing::warn!(
            cgroup = %id, pod = %self.found.uid.0,
            "a static pod reaches no protected endpoint until the API server reports it; if the pod runs the API server, set \
             enforce.staticPods to failOpen"
        );
        None
    }

    /// Notes what is in force now; a listener that was there ends here, after the kernel stopped leading to it.
    pub(super) fn settle(&mut self, applied: Applied<H>) {
        self.applied = applied;
        self.fault = None;
        self.attempts.reset();
    }

    /// Notes a look after an enforced pod, and when the next is due. `None` where the pod has no process that could be
    /// checked at.
    pub(super) fn checked(&mut self, now: Instant, pace: Pace, found: Option<CoverageReport>) {
        self.attempts.reset();
        if let Applied::Enforced {
            check,
            checks,
            covered,
            ..
        } = &mut self.applied
        {
            if let Some(found) = found {
                *checks = checks.saturating_add(1);
                *covered = Some(found.covered);
            }
            *check = now
                + if *checks < DESTROYING_CHECKS {
                    pace.again
                } else {
                    pace.every
                };
        }
    }

    /// Sets the next look after one that failed. What is in force stays, so nothing else waits for it.
    pub(super) fn recheck(&mut self, now: Instant) {
        self.later(Retry::Failure, now);
        let due = self.due.take();
        if let Applied::Enforced { check, covered, .. } = &mut self.applied {
            *check = due.unwrap_or(now);
            *covered = Some(false);
        }
    }

    /// The pod as the listener sees it.
    pub(super) fn facts(&self, pod: &NodePod) -> Pod {
        let mut facts = pod.pod.clone();
        facts.cgroup = Some(self.found.group.path.clone());
        facts
    }

    /// Sets the next attempt.
    pub(super) fn later(&mut self, retry: Retry, now: Instant) {
        self.due = Some(now + self.attempts.pause(retry));
    }
}

#[cfg(test)]
mod tests {
    use super::super::cgroup::Group;
    use super::*;

    fn slot(uid: &str) -> Slot<()> {
        let group = Group {
            id: CgroupId(7),
            path: format!("/kubepods/pod{uid}").into(),
            level: 2,
        };
        let found = PodGroup {
            group,
            uid: super::super::PodUid(uid.to_owned()),
            children: Vec::new(),
        };
        Slot::new(&found, false, false)
    }

    #[test]
    fn a_static_pod_that_waits_for_long_is_said_once() {
        const HASH: &str = "f0e1d2c3b4a5968778695a4b3c2d1e0f";
        let (id, start) = (CgroupId(7), Instant::now());
        let mut one = slot(HASH);
        let mut check = |told, after| one.check(id, told, start + after, API_SERVER_TIMEOUT);
        assert_eq!(check(false, Duration::ZERO), Some(start + API_SERVER_TIMEOUT));
        assert_eq!(check(true, API_SERVER_TIMEOUT / 2), None, "it is reported");
        assert_eq!(
            check(false, API_SERVER_TIMEOUT),
            Some(start + 2 * API_SERVER_TIMEOUT),
            "its mirror is gone"
        );
        assert_eq!(check(false, 2 * API_SERVER_TIMEOUT), None);
        assert_eq!(one.unreported, Some((start + API_SERVER_TIMEOUT, true)));
        one.applied = Applied::AssumedExempt;
        assert_eq!(one.check(id, false, start, API_SERVER_TIMEOUT), None);
        assert_eq!(one.unreported, None, "it waits no more");
        let mut other = slot("0d5a3c3e-7f3a-4a59-9a5b-0c6f4f0b8f11");
        assert_eq!(
            other.check(id, false, start, API_SERVER_TIMEOUT),
            None,
            "no static pod"
        );
    }
}

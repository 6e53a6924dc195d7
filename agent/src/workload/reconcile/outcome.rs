//! What follows from an attempt to enforce a pod, or to check that it still is enforced.
//!
//! In: the [`Outcome`]. Out: what is in force for the pod now, when it is tried again, and Events at pods that cannot be enforced.

use tokio::task::JoinError;
use tokio::time::Instant;

use super::Reconciler;
use crate::kernel::CgroupId;
use crate::notify::{KubeEvent, Reason};
use crate::workload::attempt::Outcome;
use crate::workload::enforce::Enforcer;
use crate::workload::sandbox;
use crate::workload::slot::{Applied, Retry};

/// A pod that cannot be enforced gets an Event after so many tries: one that is just ending is no news.
const ATTEMPTS_BEFORE_EVENT: u32 = 3;

impl<E: Enforcer> Reconciler<E> {
    /// Takes in how an attempt ended.
    pub(super) fn take_attempt(&mut self, ended: Result<(CgroupId, Outcome<E::Handle>), JoinError>) {
        let now = Instant::now();
        // An attempt does not panic: what it calls is caught inside it.
        let Ok((id, outcome)) = ended else { return };
        let Some(slot) = self.slots.get_mut(&id) else {
            return;
        };
        slot.busy = false;
        slot.failing &= matches!(outcome, Outcome::Failed(_));
        match outcome {
            Outcome::Same(Ok(report)) => slot.checked(now, self.pace, Some(report)),
            Outcome::Same(Err(error)) => {
                tracing::warn!(cgroup = %id, pod = %slot.found.uid.0, error, "the agent cannot check an enforced pod; it tries again");
                self.failures += 1;
                slot.recheck(now);
            }
            Outcome::Enforced { handle, own, pod } => {
                slot.attempts.reset();
                slot.fault = None;
                if let Some(since) = slot.since.take() {
                    (self.judged)(since.elapsed());
                }
                tracing::info!(cgroup = %id, pod = %slot.found.uid.0, "the pod is enforced");
                if let (Some(class), Some(kube_events)) = (&pod.load().sandboxed_by, &self.kube_events) {
                    tracing::warn!(cgroup = %id, class, "the agent cannot redirect the pod's connections, because its RuntimeClass has a network stack of its own");
                    kube_events.report(KubeEvent {
                        about: pod.load().about(),
                        reason: Reason::RuntimeUnsupported,
                        detail: String::new(),
                        note: sandbox::note(class),
                    });
                }
                slot.applied = Applied::Enforced {
                    handle,
                    own,
                    pod,
                    released: false,
                    check: now,
                    checks: 0,
                    covered: None,
                };
            }
            Outcome::NotYet => {
                if let Applied::Enforced { .. } = &slot.applied {
                    slot.checked(now, self.pace, None);
                } else {
                    slot.later(Retry::NoNetns, now);
                }
            }
            Outcome::TooDeep(error) => {
                self.failures += 1;
                // The kernel programs find the class of the folder of all pods, which is closed, if that lies higher.
                let reaches = match self.deep_root {
                    true => "protected endpoints",
                    false => "no API server",
                };
                if let (Some(kube_events), Some(pod)) = (&self.kube_events, &slot.last) {
                    kube_events.report(KubeEvent {
                        about: pod.pod.about(),
                        reason: Reason::EnforcementFailed,
                        detail: String::new(),
                        note: format!("Picket cannot enforce this pod, which reaches {reaches}: {error}"),
                    });
                }
                // It lies as deep the next time; the attempt repeats what is said.
                slot.due = Some(now + self.pace.every);
            }
            Outcome::Failed(error) => {
                tracing::warn!(cgroup = %id, pod = %slot.found.uid.0, %error, "the agent cannot enforce a pod; it tries again, and the pod reaches no protected endpoint meanwhile");
                self.failures += 1;
                if !std::mem::replace(&mut slot.failing, true) {
                    slot.attempts.reset();
                }
                if slot.attempts.count() >= ATTEMPTS_BEFORE_EVENT
                    && let (Some(kube_events), Some(pod)) = (&self.kube_events, &slot.last)
                {
                    kube_events.report(KubeEvent {
                        about: pod.pod.about(),
                        reason: Reason::EnforcementFailed,
                        detail: String::new(),
                        note: format!("Picket cannot enforce this pod, which reaches no API server until it can: {error}"),
                    });
                }
                slot.fault = Some(error.to_string());
                slot.applied = Applied::Unknown;
                slot.later(Retry::Failure, now);
            }
        }
        if slot.gone {
            self.slots.remove(&id);
            self.forget.insert(id);
        }
    }
}

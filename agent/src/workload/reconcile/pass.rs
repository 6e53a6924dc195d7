//! One pass over the pods: which cgroups there are, and one step for each pod.
//!
//! In: a reading of the cgroup tree, and the pods that the API server knows. Out: calls to the [`Enforcer`], attempts that run
//! beside the others, and when the next pass is due.

use std::collections::BTreeSet;
use std::mem::discriminant;
use std::sync::Arc;

use tokio::time::Instant;

use super::Reconciler;
use crate::kernel::FailMode;
use crate::workload::attempt::attempt;
use crate::workload::cgroup::Scan;
use crate::workload::enforce::Enforcer;
use crate::workload::levels;
use crate::workload::pods::PodMap;
use crate::workload::slot::{Applied, FAILURE_PAUSE, Retry, Slot, Wanted, wanted};

impl<E: Enforcer> Reconciler<E> {
    /// Takes in which cgroups there are.
    pub(super) fn take_scan(&mut self, scan: &Scan) {
        let here: BTreeSet<_> = scan.pods.iter().map(|pod| pod.group.id).collect();
        for found in &scan.pods {
            let id = found.group.id;
            let inherited = self.known.remove(&id);
            let redirected = self.redirected.remove(&id);
            let slot = self.slots.entry(id).or_insert_with(|| {
                if let Err(error) = levels::check(found.group.level) {
                    tracing::error!(cgroup = %id, pod = %found.uid.0, %error, "the kernel programs cannot enforce a pod");
                }
                Slot::new(found, inherited, redirected)
            });
            if slot.found != *found {
                // A new container, perhaps a new sandbox with another namespace.
                slot.found = found.clone();
                slot.stale = true;
                slot.attempts.reset();
                slot.due = None;
            }
        }
        for (id, slot) in &mut self.slots {
            slot.gone = !here.contains(id);
        }
        let forget = &mut self.forget;
        self.slots.retain(|id, slot| {
            if slot.gone && !slot.busy {
                forget.insert(*id);
            }
            !slot.gone || slot.busy
        });
        for root in scan
            .roots
            .iter()
            .filter(|root| !self.roots.contains_key(&root.id))
        {
            if let Err(error) = levels::check(root.level) {
                tracing::error!(cgroup = %root.id, path = %root.path.display(), %error, "the kernel programs cannot deny protected endpoints to the pods of a cgroup folder");
            }
        }
        self.deep_root = scan.roots.iter().any(|root| levels::check(root.level).is_err());
        let roots: BTreeSet<_> = scan.roots.iter().map(|root| root.id).collect();
        self.roots.retain(|root, _| {
            let here = roots.contains(root);
            if !here {
                forget.insert(*root);
            }
            here
        });
        for root in roots {
            self.known.remove(&root);
            self.roots.entry(root).or_insert(false);
        }
        // What is left of the inherited ones is not in the tree.
        forget.append(&mut self.known);
    }

    /// Brings every pod one step on; says when to look again if nothing changes.
    pub(super) fn pass(&mut self, pods: Option<&PodMap>) -> Instant {
        let now = Instant::now();
        let mut next = now + self.pace.every;
        let (mut static_pods, heard) = (self.static_pods, self.started + self.pace.api_server_timeout);
        if pods.is_none() && now < heard {
            static_pods = FailMode::Closed;
            next = next.min(heard);
        }
        let enforcer = self.enforcer.clone();
        self.forget.retain(|id| match enforcer.forget(*id) {
            Ok(()) => false,
            Err(error) => {
                tracing::warn!(cgroup = %id, %error, "the agent cannot remove the kernel's entries of a deleted cgroup; it tries again");
                self.failures += 1;
                next = next.min(now + FAILURE_PAUSE.0);
                true
            }
        });
        for (id, slot) in self.slots.iter_mut().filter(|(_, slot)| !slot.busy) {
            let wanted = match self.own {
                Some(own) if own == *id => Wanted::Exempt,
                _ => wanted(slot, pods, &self.selection, static_pods),
            };
            let told = pods.is_some_and(|pods| pods.contains_key(&slot.found.uid));
            if let Some(later) = slot.check(*id, told, now, self.pace.api_server_timeout) {
                next = next.min(later);
            }
            if slot.goal != discriminant(&wanted) {
                slot.goal = discriminant(&wanted);
                slot.attempts.reset();
                slot.due = None;
            }
            if let Some(due) = slot.due.filter(|due| *due > now) {
                next = next.min(due);
                continue;
            }
            match slot.step(*id, &wanted, &*self.enforcer, now) {
                Ok(None) => {
                    slot.due = None;
                    if matches!(slot.applied, Applied::Exempt | Applied::AssumedExempt)
                        && let Some(since) = slot.since.take()
                    {
                        (self.judged)(since.elapsed());
                    }
                }
                Ok(Some(pod)) => {
                    slot.busy = true;
                    slot.stale = false;
                    let attempt = attempt(Arc::clone(&self.enforcer), Arc::clone(&self.find), slot, pod);
                    let id = *id;
                    self.attempts.spawn(async move { (id, attempt.await) });
                }
                Err(error) => {
                    tracing::warn!(cgroup = %id, pod = %slot.found.uid.0, %error, "the agent cannot set the class of a pod's cgroup; it tries again");
                    self.failures += 1;
                    slot.later(Retry::Failure, now);
                    next = next.min(slot.due.unwrap_or(next));
                }
            }
            if let Applied::Enforced { check, .. } = &slot.applied {
                next = next.min(*check);
            }
        }
        // After the pods, so that the agent's own can reach the API server throughout.
        for (root, closed) in self.roots.iter_mut().filter(|(_, closed)| !**closed) {
            match self.enforcer.close(*root) {
                Ok(()) => *closed = true,
                Err(error) => {
                    tracing::error!(cgroup = %root, %error, "the agent cannot set the class of the kubepods cgroup; it tries again");
                    self.failures += 1;
                    next = next.min(now + FAILURE_PAUSE.0);
                }
            }
        }
        self.count(pods);
        next
    }
}

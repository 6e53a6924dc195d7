//! Brings what is in force to what should be, pod by pod.
//!
//! In: the cgroup tree and the API server's pods, whenever one of them changes. Out: calls to an [`Enforcer`], and
//! counts in a [`PodCounts`].
//!
//! What should be: the folders of all pods are closed to the protected endpoints, so that a pod nobody judged yet is closed; a pod
//! that the selection names is enforced as soon as its network namespace is there, or at once where it shares the node's;
//! every other pod of the API server is exempt; a pod that the API server does not know is closed, unless it is a static one
//! and the operator leaves those alone.
//!
//! An enforced pod is looked after once it is enforced, once more soon after, and now and then: what it had open before is
//! cut in the first two, the interfaces that its packets come out of are covered, and its class is told again.
//!
//! Each pod is brought there by itself: one that fails is tried again later and holds nobody up.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::mem::discriminant;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Selection;
use super::attempt::{FindNetns, Outcome, attempt};
use super::cgroup::Scan;
use super::enforce::Enforcer;
use super::levels;
use super::names::Names;
use super::pause::PauseGate;
use super::pods::PodMap;
use super::sandbox;
use super::slot::{Applied, FAILURE_PAUSE, NETNS_PAUSE, Pace, Slot, Wanted, wanted};
use crate::kernel::{CgroupId, FailMode};
use crate::notify::{EventQueue, KubeEvent, Reason};
use crate::runtime::phase::PhaseWatch;

/// A pod that cannot be enforced is told of when it was tried so often: one that is just ending is no news.
const PATIENT_TRIES: u32 = 3;

/// Told how long a new pod took until it was enforced or left alone.
pub type Judged = Arc<dyn Fn(Duration) + Send + Sync>;

/// How many pods are in which class, for metrics and readiness.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodCounts {
    /// Whether the API server's pods are known and every pod there was then has been judged.
    pub synced: bool,
    /// Pods whose protected endpoints lead to the agent.
    pub enforced: usize,
    /// Pods left alone.
    pub exempt: usize,
    /// Those of them that are static and that the API server has not told of: nobody knows whether they should be.
    pub assumed_exempt: usize,
    /// Pods that are closed until they can be judged or enforced.
    pub pending: usize,
    /// Enforced pods whose packets come out where nothing drops those that pass no socket's hook: pods that share the
    /// node's network, and those with interfaces that have no side in the node's.
    pub egress_unfiltered: usize,
    /// Selected pods that run, the kubelet says, and have no cgroup below the configured folder: nothing holds them. A pod
    /// that ends is counted for a moment.
    pub no_cgroup: usize,
    /// Pods whose cgroup lies deeper than the kernel programs look, and that are not exempt: nothing holds them.
    pub too_deep: usize,
    /// Enforced pods whose connections cannot be redirected, by their RuntimeClass: it gives them a network stack of their own.
    pub sandboxed: BTreeMap<String, usize>,
    /// Attempts that failed since the start.
    pub failures: u64,
}

/// Brings what is in force to what should be.
pub struct Reconciler<E: Enforcer> {
    enforcer: Arc<E>,
    selection: Selection,
    find: FindNetns,
    /// The agent's own pod, which is always exempt.
    own: Option<CgroupId>,
    /// What becomes of static pods that the API server has not told of.
    static_pods: FailMode,
    started: Instant,
    kube_events: Option<EventQueue>,
    slots: HashMap<CgroupId, Slot<E::Handle>>,
    /// Folders of all pods, and whether each is closed.
    roots: HashMap<CgroupId, bool>,
    /// What the kernel may hold for cgroups that are gone.
    forget: BTreeSet<CgroupId>,
    /// Inherited cgroups that were not seen in the tree yet.
    known: BTreeSet<CgroupId>,
    /// Those of them that the kernel redirects.
    redirected: BTreeSet<CgroupId>,
    pause: PauseGate,
    judged: Judged,
    names: Arc<Names>,
    pace: Pace,
    attempts: JoinSet<(CgroupId, Outcome<E::Handle>)>,
    status: watch::Sender<PodCounts>,
    failures: u64,
}

impl<E: Enforcer> Reconciler<E> {
    /// A reconciler that has put nothing in force yet. `own` is the agent's own pod; `known` are the cgroups that the
    /// kernel holds a class for.
    #[must_use]
    pub fn new(
        enforcer: Arc<E>,
        selection: Selection,
        find: FindNetns,
        own: Option<CgroupId>,
        known: BTreeSet<CgroupId>,
    ) -> Self {
        Self {
            enforcer,
            selection,
            find,
            own,
            static_pods: FailMode::default(),
            started: Instant::now(),
            kube_events: None,
            slots: HashMap::new(),
            roots: HashMap::new(),
            forget: BTreeSet::new(),
            known,
            redirected: BTreeSet::new(),
            pause: PauseGate::default(),
            judged: Arc::new(drop),
            names: Arc::default(),
            pace: Pace::default(),
            attempts: JoinSet::new(),
            status: watch::Sender::new(PodCounts::default()),
            failures: 0,
        }
    }

    /// Says which of the known cgroups the kernel redirects. Such a pod is not closed before it is enforced anew: there is no
    /// way past the redirect, and connections that its listener's next owner would accept are not denied meanwhile.
    #[must_use]
    pub fn redirected(mut self, cgroups: BTreeSet<CgroupId>) -> Self {
        self.redirected = cgroups;
        self
    }

    /// Says what becomes of static pods that the API server has not told of: closed unless this is said, and for the first
    /// [`Pace::patience`] without its pods.
    #[must_use]
    pub fn static_pods(mut self, unclassified: FailMode) -> Self {
        self.static_pods = unclassified;
        self
    }

    /// Says where to tell of pods that cannot be enforced.
    #[must_use]
    pub fn notifies(mut self, kube_events: EventQueue) -> Self {
        self.kube_events = Some(kube_events);
        self
    }

    /// Pauses the reconciler while the kernel write lease is lent.
    #[must_use]
    pub fn pauses_with(mut self, phase: PhaseWatch) -> Self {
        self.pause.asked = Some(phase);
        self
    }

    /// Says whom to tell how long new pods took.
    #[must_use]
    pub fn tells(mut self, judged: Judged) -> Self {
        self.judged = judged;
        self
    }

    /// Whether it is paused: it changes nothing, and nothing of it is under way.
    #[must_use]
    pub fn paused(&self) -> watch::Receiver<bool> {
        self.pause.told.subscribe()
    }

    /// The counts, as they change.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<PodCounts> {
        self.status.subscribe()
    }

    /// The pods by their cgroups, as they change.
    #[must_use]
    pub fn names(&self) -> Arc<Names> {
        Arc::clone(&self.names)
    }

    /// Takes in the first reading of the tree: the agent's own pod may reach the API server, which everything else
    /// waits for; every other pod is closed until it is judged; what is gone is forgotten.
    pub fn close(&mut self, scan: &Scan) {
        self.take_scan(scan);
        self.pass(None);
    }

    /// Runs until it is cancelled. What is in force then stays, and nothing more is accepted. Until the process ends, what pods have
    /// open is judged by each change of the pods.
    pub async fn run(
        mut self,
        mut scans: watch::Receiver<Arc<Scan>>,
        mut pods: watch::Receiver<Option<Arc<PodMap>>>,
        cancel: CancellationToken,
    ) {
        let mut seen: Option<Arc<Scan>> = None;
        let mut named: Option<Arc<PodMap>> = None;
        loop {
            if self.pause.wanted() {
                tokio::select! {
                    () = cancel.cancelled() => break,
                    () = self.pause(&mut scans, &mut pods) => {}
                }
            }
            let scan = scans.borrow_and_update().clone();
            let known = pods.borrow_and_update().clone();
            let same_scan = seen.as_ref().is_some_and(|seen| Arc::ptr_eq(seen, &scan));
            if !same_scan || named.as_ref().map(Arc::as_ptr) != known.as_ref().map(Arc::as_ptr) {
                self.names.set(&scan, known.as_deref());
                named.clone_from(&known);
            }
            if !same_scan {
                self.take_scan(&scan);
                seen = Some(scan);
            }
            let due = self.pass(known.as_deref());
            tokio::select! {
                () = cancel.cancelled() => break,
                changed = scans.changed() => if changed.is_err() { return },
                changed = pods.changed() => if changed.is_err() { return },
                Some(ended) = self.attempts.join_next() => self.take_attempt(ended),
                () = self.pause.called() => {}
                () = tokio::time::sleep_until(due) => {}
            }
        }
        self.drain(&mut scans, &mut pods).await;
    }

    /// Lets attempts end, then changes nothing until it is called back. What is in force is then another's: all is brought
    /// there again. The listeners of enforced pods were served all the while and stay: those pods are looked after as when
    /// they were new, since the other may have left them alone. A pod that was released meanwhile is enforced anew.
    async fn pause(
        &mut self,
        scans: &mut watch::Receiver<Arc<Scan>>,
        pods: &mut watch::Receiver<Option<Arc<PodMap>>>,
    ) {
        while !self.attempts.is_empty() {
            self.observe(scans, pods);
            tokio::select! {
                Some(ended) = self.attempts.join_next() => self.take_attempt(ended),
                () = changed(scans, pods) => {}
            }
        }
        self.pause.told.send_replace(true);
        loop {
            self.observe(scans, pods);
            tokio::select! {
                () = self.pause.over() => break,
                () = changed(scans, pods) => {}
            }
        }
        self.pause.told.send_replace(false);
        for slot in self.slots.values_mut() {
            match &mut slot.applied {
                Applied::Enforced {
                    check,
                    looks,
                    released: false,
                    ..
                } => {
                    *check = Instant::now();
                    *looks = 0;
                }
                applied => *applied = Applied::Unknown,
            }
            slot.due = None;
        }
        for closed in self.roots.values_mut() {
            *closed = false;
        }
    }

    /// Accepts no more and leaves the kernel as it is. What enforced pods have open is judged for as long as there is anybody who
    /// tells of pods, which is until the process ends.
    async fn drain(
        mut self,
        scans: &mut watch::Receiver<Arc<Scan>>,
        pods: &mut watch::Receiver<Option<Arc<PodMap>>>,
    ) {
        // A listener that an attempt under way has opened goes with the attempt, and what was accepted there is released.
        self.attempts = JoinSet::new();
        for slot in self.slots.values_mut() {
            if let Applied::Enforced { handle, .. } = &mut slot.applied {
                self.enforcer.stop_accepting(handle);
            }
        }
        loop {
            self.observe(scans, pods);
            changed(scans, pods).await;
        }
    }

    /// Judges what enforced pods have open by what is known now, and changes nothing in the kernel.
    fn observe(
        &mut self,
        scans: &mut watch::Receiver<Arc<Scan>>,
        pods: &mut watch::Receiver<Option<Arc<PodMap>>>,
    ) {
        let scan = scans.borrow_and_update().clone();
        let pods = pods.borrow_and_update().clone();
        let here: BTreeSet<_> = scan.pods.iter().map(|pod| pod.group.id).collect();
        for (id, slot) in &mut self.slots {
            let wanted = if here.contains(id) {
                wanted(slot, pods.as_deref(), &self.selection, self.static_pods)
            } else {
                Wanted::Closed
            };
            slot.observe(&wanted, &*self.enforcer);
        }
    }

    /// Takes in which cgroups there are.
    fn take_scan(&mut self, scan: &Scan) {
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
                slot.tries = 0;
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
                tracing::error!(cgroup = %root.id, path = %root.path.display(), %error, "the kernel programs do not hold the pods of a folder");
            }
        }
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
    fn pass(&mut self, pods: Option<&PodMap>) -> Instant {
        let now = Instant::now();
        let mut next = now + self.pace.every;
        let (mut static_pods, heard) = (self.static_pods, self.started + self.pace.patience);
        if pods.is_none() && now < heard {
            static_pods = FailMode::Closed;
            next = next.min(heard);
        }
        let enforcer = self.enforcer.clone();
        self.forget.retain(|id| match enforcer.forget(*id) {
            Ok(()) => false,
            Err(error) => {
                tracing::warn!(cgroup = %id, %error, "cannot forget a cgroup that is gone");
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
            if let Some(later) = slot.check(*id, told, now, self.pace.patience) {
                next = next.min(later);
            }
            if slot.aim != discriminant(&wanted) {
                slot.aim = discriminant(&wanted);
                slot.tries = 0;
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
                    tracing::warn!(cgroup = %id, pod = %slot.found.uid.0, %error, "cannot put a pod's class in force, trying again");
                    self.failures += 1;
                    slot.later(FAILURE_PAUSE, now);
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
                    tracing::error!(cgroup = %root, %error, "cannot close the folder of all pods, trying again");
                    self.failures += 1;
                    next = next.min(now + FAILURE_PAUSE.0);
                }
            }
        }
        self.count(pods);
        next
    }

    /// Takes in how an attempt ended.
    fn take_attempt(&mut self, ended: Result<(CgroupId, Outcome<E::Handle>), tokio::task::JoinError>) {
        let now = Instant::now();
        // An attempt does not panic: what it calls is caught inside it.
        let Ok((id, outcome)) = ended else { return };
        let Some(slot) = self.slots.get_mut(&id) else {
            return;
        };
        slot.busy = false;
        slot.failing &= matches!(outcome, Outcome::Failed(_));
        match outcome {
            Outcome::Same(Ok(report)) => slot.looked(now, self.pace, Some(report)),
            Outcome::Same(Err(error)) => {
                tracing::warn!(cgroup = %id, pod = %slot.found.uid.0, error, "cannot look after an enforced pod, trying again");
                self.failures += 1;
                slot.recheck(now);
            }
            Outcome::Served { handle, own, pod } => {
                slot.tries = 0;
                if let Some(since) = slot.since.take() {
                    (self.judged)(since.elapsed());
                }
                tracing::info!(cgroup = %id, pod = %slot.found.uid.0, "pod enforced");
                if let (Some(class), Some(kube_events)) = (&pod.load().sandboxed_by, &self.kube_events) {
                    tracing::warn!(cgroup = %id, class, "a pod's connections cannot be redirected: its RuntimeClass gives it a network stack of its own");
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
                    looks: 0,
                    covered: None,
                };
            }
            Outcome::NotYet => {
                if let Applied::Enforced { .. } = &slot.applied {
                    slot.looked(now, self.pace, None);
                } else {
                    slot.later(NETNS_PAUSE, now);
                }
            }
            Outcome::TooDeep(error) => {
                self.failures += 1;
                if let (Some(kube_events), Some(pod)) = (&self.kube_events, &slot.last) {
                    kube_events.report(KubeEvent {
                        about: pod.pod.about(),
                        reason: Reason::EnforcementFailed,
                        detail: String::new(),
                        note: format!(
                            "Picket cannot enforce this pod, which reaches protected endpoints: {error}"
                        ),
                    });
                }
                // It lies as deep the next time; the attempt repeats what is said.
                slot.due = Some(now + self.pace.every);
            }
            Outcome::Failed(error) => {
                tracing::warn!(cgroup = %id, pod = %slot.found.uid.0, %error, "cannot enforce a pod, it stays closed until it works");
                self.failures += 1;
                if !std::mem::replace(&mut slot.failing, true) {
                    slot.tries = 0;
                }
                if slot.tries >= PATIENT_TRIES
                    && let (Some(kube_events), Some(pod)) = (&self.kube_events, &slot.last)
                {
                    kube_events.report(KubeEvent {
                        about: pod.pod.about(),
                        reason: Reason::EnforcementFailed,
                        detail: String::new(),
                        note: format!("Picket cannot enforce this pod, which reaches no API server until it can: {error}"),
                    });
                }
                slot.applied = Applied::Unknown;
                slot.later(FAILURE_PAUSE, now);
            }
        }
        if slot.gone {
            self.slots.remove(&id);
            self.forget.insert(id);
        }
    }

    fn count(&self, pods: Option<&PodMap>) {
        let mut status = PodCounts {
            synced: pods.is_some(),
            failures: self.failures,
            ..PodCounts::default()
        };
        for slot in self.slots.values() {
            let exempt = matches!(slot.applied, Applied::Exempt | Applied::AssumedExempt);
            status.too_deep += usize::from(!exempt && levels::check(slot.found.group.level).is_err());
            match &slot.applied {
                Applied::Enforced { covered, pod, .. } => {
                    status.enforced += 1;
                    if let Some(class) = &pod.load().sandboxed_by {
                        *status.sandboxed.entry(class.clone()).or_default() += 1;
                    }
                    status.egress_unfiltered += usize::from(*covered == Some(false));
                }
                Applied::Exempt => status.exempt += 1,
                Applied::AssumedExempt => {
                    status.exempt += 1;
                    status.assumed_exempt += 1;
                }
                Applied::Closed | Applied::Nothing | Applied::Unknown | Applied::Redirected => {
                    status.pending += 1;
                    // Waiting for a sandbox counts as judged; a first attempt that has not ended does not.
                    status.synced &= !slot.busy || slot.tries > 0;
                }
            }
        }
        if let Some(pods) = pods {
            let seen: BTreeSet<_> = self.slots.values().map(|slot| &slot.found.uid).collect();
            status.no_cgroup = pods
                .values()
                .filter(|known| known.running && self.selection.enforces(&known.pod))
                .filter(|known| !seen.contains(&known.cgroup_uid))
                .count();
        }
        // Once synced it stays so: pods that come later are no reason to be not ready.
        status.synced |= self.status.borrow().synced;
        self.status.send_if_modified(|last| {
            let changed = *last != status;
            *last = status;
            changed
        });
    }
}

/// Waits until the tree or the pods have changed; for ever where nobody tells of one of them any more.
async fn changed(scans: &mut watch::Receiver<Arc<Scan>>, pods: &mut watch::Receiver<Option<Arc<PodMap>>>) {
    let told = tokio::select! {
        told = scans.changed() => told,
        told = pods.changed() => told,
    };
    if told.is_err() {
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
#[path = "reconcile_tests.rs"]
mod tests;

//! Brings what is in force to what should be, pod by pod.
//!
//! In: the cgroup tree and the API server's pods, whenever one of them changes. Out: calls to an [`Enforcer`], and counts in a
//! [`PodCounts`].
//!
//! What should be: the folders of all pods are closed to the protected endpoints, so that a pod nobody judged yet is closed; a
//! pod that the selection names is enforced as soon as its network namespace is there, or at once where it shares the node's;
//! every other pod of the API server is exempt; a pod that the API server does not know is closed, unless it is a static one
//! and the operator leaves those alone.
//!
//! An enforced pod is checked once it is enforced, once more soon after, and now and then: its older connections are destroyed
//! in the first two checks, its interfaces are covered, and its class is set in the kernel again.
//!
//! Each pod is brought there by itself: one that fails is tried again later and holds nobody up.
//!
//! | file | holds |
//! |---|---|
//! | `mod` | the reconciler's life: run, pause while the kernel write lease is lent, drain |
//! | `pass` | which cgroups there are, and one step for each pod |
//! | `outcome` | what follows from an attempt to enforce a pod |
//! | `counts` | how many pods are in which class |

mod counts;
mod outcome;
mod pass;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use counts::PodCounts;

use super::Selection;
use super::attempt::{FindNetns, Outcome};
use super::cgroup::Scan;
use super::enforce::Enforcer;
use super::names::Names;
use super::pause::PauseGate;
use super::pods::PodMap;
use super::slot::{Applied, Pace, Slot, Wanted, wanted};
use crate::kernel::{CgroupId, FailMode};
use crate::notify::EventQueue;
use crate::runtime::phase::PhaseWatch;

/// Learns how long a new pod took until it was enforced or left alone.
pub type Judged = Arc<dyn Fn(Duration) + Send + Sync>;

/// Brings what is in force to what should be.
pub struct Reconciler<E: Enforcer> {
    enforcer: Arc<E>,
    selection: Selection,
    find: FindNetns,
    /// The agent's own pod, which is always exempt.
    own: Option<CgroupId>,
    /// What becomes of static pods that the API server has not reported.
    static_pods: FailMode,
    started: Instant,
    kube_events: Option<EventQueue>,
    slots: HashMap<CgroupId, Slot<E::Handle>>,
    /// Folders of all pods, and whether each is closed.
    roots: HashMap<CgroupId, bool>,
    /// A folder of all pods lies deeper than the kernel programs look, so that nothing holds the pods below it.
    deep_root: bool,
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
            deep_root: false,
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

    /// Says what becomes of static pods that the API server has not reported: closed unless this is said, and for the first
    /// [`Pace::api_server_timeout`] without its pods.
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
        self.pause.phase = Some(phase);
        self
    }

    /// Says whom to tell how long new pods took.
    #[must_use]
    pub fn reports_to(mut self, judged: Judged) -> Self {
        self.judged = judged;
        self
    }

    /// Whether it is paused: it changes nothing, and nothing of it is under way.
    #[must_use]
    pub fn paused(&self) -> watch::Receiver<bool> {
        self.pause.paused.subscribe()
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
                () = self.pause.requested() => {}
                () = tokio::time::sleep_until(due) => {}
            }
        }
        self.drain(&mut scans, &mut pods).await;
    }

    /// Lets attempts end, then changes nothing until it is called back. What is in force is then another's: all is brought
    /// there again. The listeners of enforced pods were served all the while and stay: those pods are checked as when
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
        self.pause.paused.send_replace(true);
        loop {
            self.observe(scans, pods);
            tokio::select! {
                () = self.pause.ended() => break,
                () = changed(scans, pods) => {}
            }
        }
        self.pause.paused.send_replace(false);
        for slot in self.slots.values_mut() {
            match &mut slot.applied {
                Applied::Enforced {
                    check,
                    checks,
                    released: false,
                    ..
                } => {
                    *check = Instant::now();
                    *checks = 0;
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
    /// reports pods, which is until the process ends.
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
}

/// Waits until the tree or the pods have changed; for ever where nobody reports one of them any more.
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
mod tests;

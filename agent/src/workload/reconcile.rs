//! Brings what is in force to what should be, pod by pod.
//!
//! In: the cgroup tree and the API server's pods, whenever one of them changes. Out: calls to an [`Enforcer`], and
//! counts in a [`Status`].
//!
//! What should be: the folders of all pods are closed to the doors, so that a pod nobody judged yet is closed; a pod
//! that the selection names is enforced as soon as its network namespace is there, or at once where it shares the node's;
//! every other pod of the API server is exempt; a pod that the API server does not know is closed.
//!
//! An enforced pod is looked after once it is enforced, once more soon after, and now and then: what it had open before is
//! cut in the first two, the interfaces that its packets come out of are covered, and its class is told again.
//!
//! Each pod is brought there by itself: one that fails is tried again later and holds nobody up.

use std::collections::{BTreeSet, HashMap};
use std::mem::{Discriminant, discriminant};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::api::{NodePod, PodMap};
use super::cgroup::{PodGroup, Scan};
use super::enforce::{EnforceError, Enforcement, Enforcer, Home, Tended};
use super::names::Names;
use super::netns::{Netns, NetnsError, NetnsId};
use super::rest::Rest;
use super::{Pod, Selection};
use crate::kernel::CgroupId;

/// Pauses while a namespace is not there: short at first, since a sandbox has its own within milliseconds.
const NETNS_PAUSE: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(500));

/// Pauses after a failure.
const FAILURE_PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(30));

/// How long one attempt may take; opening a listener takes milliseconds.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(5);

/// How often an enforced pod is looked after again though nothing changed in its cgroup.
const CHECK_EVERY: Duration = Duration::from_secs(30);

/// When an enforced pod is looked after for the second time: a connect that was on its way when the first look listed the
/// sockets has ended by then, and the five seconds in which older connections must end have not.
const CHECK_AGAIN: Duration = Duration::from_secs(3);

/// When enforced pods are looked after.
#[derive(Debug, Clone, Copy)]
struct Pace {
    again: Duration,
    every: Duration,
}

/// How many of an enforced pod's first looks cut its connections.
const CUTS: u32 = 2;

/// Finds the network namespace of the pod with this cgroup.
pub type FindNetns = Arc<dyn Fn(&Path) -> Result<Netns, NetnsError> + Send + Sync>;

/// Told how long a new pod took until it was enforced or left alone.
pub type Judged = Arc<dyn Fn(Duration) + Send + Sync>;

/// How many pods are in which class, for metrics and readiness.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Status {
    /// Whether the API server's pods are known and every pod there was then has been judged.
    pub settled: bool,
    /// Pods whose doors lead to the agent.
    pub enforced: usize,
    /// Pods left alone.
    pub exempt: usize,
    /// Pods that are closed until they can be judged or enforced.
    pub pending: usize,
    /// Enforced pods whose packets come out where nothing drops those that pass no socket's hook: pods that share the
    /// node's network, and those with interfaces that have no side in the node's.
    pub uncovered: usize,
    /// Selected pods that run, the kubelet says, and have no cgroup below the configured folder: nothing holds them. A pod
    /// that ends is counted for a moment.
    pub unseen: usize,
    /// Attempts that failed since the start.
    pub failures: u64,
}

/// What is in force for a pod.
enum Applied<H> {
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
    /// Enforced.
    Enforced {
        /// The listener; held because dropping it ends it.
        _handle: H,
        /// The namespace of its own that it is served in.
        own: Option<NetnsId>,
        pod: Arc<ArcSwap<Pod>>,
        /// When the next look is due, and how many there were.
        check: Instant,
        looks: u32,
        /// What the last one found.
        covered: Option<bool>,
    },
}

/// What should be in force for a pod.
enum Wanted {
    /// The API server has not told its pods: leave all as it is.
    Same,
    Closed,
    Exempt,
    Enforced(Arc<NodePod>),
}

/// One pod's cgroup.
struct Slot<H> {
    found: PodGroup,
    applied: Applied<H>,
    /// An attempt is under way.
    busy: bool,
    /// The cgroup vanished while an attempt was under way.
    gone: bool,
    /// Something about the cgroup changed since the namespace was looked at.
    stale: bool,
    /// Attempts in a row without success, and when the next is due.
    tries: u32,
    due: Option<Instant>,
    /// What was last aimed at; a new aim does not wait for the pause that an old one's failure set.
    aim: Discriminant<Wanted>,
    /// When the cgroup was first seen, until its pod is enforced or left alone; not for those that were before.
    since: Option<Instant>,
}

/// How an attempt ended.
enum Outcome<H> {
    /// It is served already where it should be; how the look after it ended.
    Same(Result<Tended, String>),
    /// A listener serves it.
    Served {
        handle: H,
        own: Option<NetnsId>,
        pod: Arc<ArcSwap<Pod>>,
    },
    /// There is no namespace yet.
    NotYet,
    /// It failed; what the kernel holds may have changed.
    Failed(String),
}

/// Brings what is in force to what should be.
pub struct Reconciler<E: Enforcer> {
    enforcer: Arc<E>,
    selection: Selection,
    find: FindNetns,
    /// The agent's own pod, which is always exempt.
    own: Option<CgroupId>,
    slots: HashMap<CgroupId, Slot<E::Handle>>,
    /// Folders of all pods, and whether each is closed.
    roots: HashMap<CgroupId, bool>,
    /// What the kernel may hold for cgroups that are gone.
    forget: BTreeSet<CgroupId>,
    /// Inherited cgroups that were not seen in the tree yet.
    known: BTreeSet<CgroupId>,
    /// Those of them that the kernel redirects.
    redirected: BTreeSet<CgroupId>,
    rest: Rest,
    judged: Judged,
    names: Arc<Names>,
    pace: Pace,
    attempts: JoinSet<(CgroupId, Outcome<E::Handle>)>,
    status: watch::Sender<Status>,
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
            slots: HashMap::new(),
            roots: HashMap::new(),
            forget: BTreeSet::new(),
            known,
            redirected: BTreeSet::new(),
            rest: Rest::default(),
            judged: Arc::new(drop),
            names: Arc::default(),
            pace: Pace {
                again: CHECK_AGAIN,
                every: CHECK_EVERY,
            },
            attempts: JoinSet::new(),
            status: watch::Sender::new(Status::default()),
            failures: 0,
        }
    }

    /// Says which of the known cgroups the kernel redirects. Such a pod is not closed before it is enforced anew: there is no
    /// way past the redirect, and connections that its listener's next owner would accept are not refused meanwhile.
    #[must_use]
    pub fn redirected(mut self, cgroups: BTreeSet<CgroupId>) -> Self {
        self.redirected = cgroups;
        self
    }

    /// Has the reconciler rest while the channel says so.
    #[must_use]
    pub fn rests(mut self, asked: watch::Receiver<bool>) -> Self {
        self.rest.asked = Some(asked);
        self
    }

    /// Says whom to tell how long new pods took.
    #[must_use]
    pub fn tells(mut self, judged: Judged) -> Self {
        self.judged = judged;
        self
    }

    /// Whether it rests: it changes nothing, and nothing of it is under way.
    #[must_use]
    pub fn resting(&self) -> watch::Receiver<bool> {
        self.rest.told.subscribe()
    }

    /// The counts, as they change.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<Status> {
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

    /// Runs until it is cancelled. What is in force then stays; the listeners end with the reconciler.
    pub async fn run(
        mut self,
        mut scans: watch::Receiver<Arc<Scan>>,
        mut pods: watch::Receiver<Option<Arc<PodMap>>>,
        cancel: CancellationToken,
    ) {
        let mut seen: Option<Arc<Scan>> = None;
        let mut named: Option<Arc<PodMap>> = None;
        loop {
            if self.rest.wanted() {
                tokio::select! {
                    () = cancel.cancelled() => return,
                    () = self.rest() => {}
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
                () = cancel.cancelled() => return,
                changed = scans.changed() => if changed.is_err() { return },
                changed = pods.changed() => if changed.is_err() { return },
                Some(ended) = self.attempts.join_next() => self.take_attempt(ended),
                () = self.rest.called() => {}
                () = tokio::time::sleep_until(due) => {}
            }
        }
    }

    /// Lets attempts end, then does nothing until it is called back. What is in force is then another's: all is brought
    /// there again. The listeners of enforced pods were served all the while and stay: those pods are looked after as when
    /// they were new, since the other may have left them alone.
    async fn rest(&mut self) {
        while let Some(ended) = self.attempts.join_next().await {
            self.take_attempt(ended);
        }
        self.rest.told.send_replace(true);
        self.rest.over().await;
        self.rest.told.send_replace(false);
        for slot in self.slots.values_mut() {
            if let Applied::Enforced { check, looks, .. } = &mut slot.applied {
                *check = Instant::now();
                *looks = 0;
            } else {
                slot.applied = Applied::Unknown;
            }
            slot.due = None;
        }
        for closed in self.roots.values_mut() {
            *closed = false;
        }
    }

    /// Takes in which cgroups there are.
    fn take_scan(&mut self, scan: &Scan) {
        let here: BTreeSet<_> = scan.pods.iter().map(|pod| pod.group.id).collect();
        for found in &scan.pods {
            let id = found.group.id;
            let inherited = self.known.remove(&id);
            let redirected = self.redirected.remove(&id);
            let slot = self.slots.entry(id).or_insert_with(|| Slot {
                found: found.clone(),
                applied: match (inherited, redirected) {
                    (true, true) => Applied::Redirected,
                    (true, false) => Applied::Unknown,
                    (false, _) => Applied::Nothing,
                },
                busy: false,
                gone: false,
                stale: false,
                tries: 0,
                due: None,
                aim: discriminant(&Wanted::Same),
                since: (!inherited).then(Instant::now),
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
            let wanted = wanted(*id, slot, pods, self.own, &self.selection);
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
                    if matches!(slot.applied, Applied::Exempt)
                        && let Some(since) = slot.since.take()
                    {
                        (self.judged)(since.elapsed());
                    }
                }
                Ok(Some(pod)) => {
                    slot.busy = true;
                    slot.stale = false;
                    let attempt = attempt(self.enforcer.clone(), self.find.clone(), slot, pod);
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
        match outcome {
            Outcome::Same(Ok(tended)) => slot.looked(now, self.pace, Some(tended)),
            Outcome::Same(Err(error)) => {
                tracing::warn!(cgroup = %id, pod = %slot.found.uid.0, error, "cannot look after an enforced pod, trying again");
                self.failures += 1;
                slot.look_again(now);
            }
            Outcome::Served { handle, own, pod } => {
                slot.tries = 0;
                if let Some(since) = slot.since.take() {
                    (self.judged)(since.elapsed());
                }
                tracing::info!(cgroup = %id, pod = %slot.found.uid.0, "pod enforced");
                slot.applied = Applied::Enforced {
                    _handle: handle,
                    own,
                    pod,
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
            Outcome::Failed(error) => {
                tracing::warn!(cgroup = %id, pod = %slot.found.uid.0, %error, "cannot enforce a pod, it stays closed until it works");
                self.failures += 1;
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
        let mut status = Status {
            settled: pods.is_some(),
            failures: self.failures,
            ..Status::default()
        };
        for slot in self.slots.values() {
            match &slot.applied {
                Applied::Enforced { covered, .. } => {
                    status.enforced += 1;
                    status.uncovered += usize::from(*covered == Some(false));
                }
                Applied::Exempt => status.exempt += 1,
                Applied::Closed | Applied::Nothing | Applied::Unknown | Applied::Redirected => {
                    status.pending += 1;
                    // Waiting for a sandbox counts as judged; a first attempt that has not ended does not.
                    status.settled &= !slot.busy || slot.tries > 0;
                }
            }
        }
        if let Some(pods) = pods {
            let seen: BTreeSet<_> = self.slots.values().map(|slot| &slot.found.uid).collect();
            status.unseen = pods
                .values()
                .filter(|known| known.running && self.selection.enforces(&known.pod))
                .filter(|known| !seen.contains(&known.cgroup_uid))
                .count();
        }
        // Once settled it stays so: pods that come later are no reason to be not ready.
        status.settled |= self.status.borrow().settled;
        self.status.send_if_modified(|last| {
            let changed = *last != status;
            *last = status;
            changed
        });
    }
}

fn wanted<H>(
    id: CgroupId,
    slot: &Slot<H>,
    pods: Option<&PodMap>,
    own: Option<CgroupId>,
    selection: &Selection,
) -> Wanted {
    if own == Some(id) {
        return Wanted::Exempt;
    }
    let Some(pods) = pods else {
        return Wanted::Same;
    };
    let Some(known) = pods.get(&slot.found.uid) else {
        return Wanted::Closed;
    };
    if selection.enforces(&known.pod) {
        Wanted::Enforced(known.clone())
    } else {
        Wanted::Exempt
    }
}

impl<H> Slot<H> {
    /// Does at once what can be done at once; hands back the pod where an attempt to enforce it is due.
    fn step<E: Enforcer<Handle = H>>(
        &mut self,
        id: CgroupId,
        wanted: &Wanted,
        enforcer: &E,
        now: Instant,
    ) -> Result<Option<Arc<NodePod>>, EnforceError> {
        match wanted {
            Wanted::Same => {}
            Wanted::Exempt => {
                if !matches!(self.applied, Applied::Exempt) {
                    enforcer.exempt(id)?;
                    self.settle(Applied::Exempt);
                }
            }
            Wanted::Closed => {
                if !matches!(self.applied, Applied::Closed) {
                    enforcer.pending(id)?;
                    self.settle(Applied::Closed);
                }
            }
            Wanted::Enforced(pod) => {
                match &self.applied {
                    Applied::Enforced {
                        pod: facts, check, ..
                    } => {
                        let latest = self.facts(pod);
                        if **facts.load() != latest {
                            facts.store(Arc::new(latest));
                        }
                        if !self.stale && now < *check {
                            return Ok(None);
                        }
                    }
                    Applied::Closed | Applied::Redirected => {}
                    // Closed before anything else: it may be open, and to enforce it can take a while.
                    Applied::Nothing | Applied::Unknown | Applied::Exempt => {
                        enforcer.pending(id)?;
                        self.settle(Applied::Closed);
                    }
                }
                return Ok(Some(pod.clone()));
            }
        }
        Ok(None)
    }

    /// Notes what is in force now; a listener that was there ends here, after the kernel stopped leading to it.
    fn settle(&mut self, applied: Applied<H>) {
        self.applied = applied;
        self.tries = 0;
    }

    /// Notes a look after an enforced pod, and when the next is due. `None` where the pod has no process that could be
    /// looked at.
    fn looked(&mut self, now: Instant, pace: Pace, found: Option<Tended>) {
        self.tries = 0;
        if let Applied::Enforced {
            check,
            looks,
            covered,
            ..
        } = &mut self.applied
        {
            if let Some(found) = found {
                *looks = looks.saturating_add(1);
                *covered = Some(found.covered);
            }
            *check = now + if *looks < CUTS { pace.again } else { pace.every };
        }
    }

    /// Sets the next look after one that failed. What is in force stays, so nothing else waits for it.
    fn look_again(&mut self, now: Instant) {
        self.later(FAILURE_PAUSE, now);
        let due = self.due.take();
        if let Applied::Enforced { check, covered, .. } = &mut self.applied {
            *check = due.unwrap_or(now);
            *covered = Some(false);
        }
    }

    /// What the listener is told of the pod.
    fn facts(&self, pod: &NodePod) -> Pod {
        let mut facts = pod.pod.clone();
        facts.cgroup = Some(self.found.group.path.clone());
        facts
    }

    /// Sets the next attempt, each pause twice the last.
    fn later(&mut self, (first, longest): (Duration, Duration), now: Instant) {
        let pause = first.saturating_mul(1 << self.tries.min(16)).min(longest);
        self.tries = self.tries.saturating_add(1);
        self.due = Some(now + pause);
    }
}

/// One attempt to enforce a pod, or to see that it still is.
fn attempt<E: Enforcer>(
    enforcer: Arc<E>,
    find: FindNetns,
    slot: &Slot<E::Handle>,
    pod: Arc<NodePod>,
) -> impl Future<Output = Outcome<E::Handle>> + Send + use<E> {
    let served = match &slot.applied {
        Applied::Enforced { own, pod, looks, .. } => Some((*own, pod.clone(), *looks)),
        _ => None,
    };
    let group = slot.found.group.clone();
    let facts = Arc::new(ArcSwap::from_pointee(slot.facts(&pod)));
    async move {
        let home = if pod.pod.host_network {
            Home::Node
        } else {
            let path: PathBuf = group.path.clone();
            match tokio::task::spawn_blocking(move || find(&path)).await {
                Ok(Ok(netns)) => Home::Own(netns),
                Ok(Err(NetnsError::NotYet)) => return Outcome::NotYet,
                Ok(Err(error)) => return Outcome::Failed(error.to_string()),
                Err(error) => return Outcome::Failed(error.to_string()),
            }
        };
        let own = home.own();
        if let Some((_, pod, looks)) = served.filter(|(served, ..)| *served == own) {
            let enforcement = Enforcement { group, home, pod };
            let cut = looks < CUTS;
            return Outcome::Same(guarded(async move { enforcer.tend(enforcement, cut).await }).await);
        }
        let enforcement = Enforcement {
            group,
            home,
            pod: facts.clone(),
        };
        match guarded(async move { enforcer.enforce(enforcement).await }).await {
            Ok(handle) => Outcome::Served {
                handle,
                own,
                pod: facts,
            },
            Err(error) => Outcome::Failed(error),
        }
    }
}

/// Runs one of an enforcer's calls for a limited time, in a task of its own, so that a panic in it is one pod's failure and
/// nobody else's.
async fn guarded<T: Send + 'static>(
    call: impl Future<Output = Result<T, EnforceError>> + Send + 'static,
) -> Result<T, String> {
    let mut tasks = JoinSet::new();
    tasks.spawn(call);
    match tokio::time::timeout(ATTEMPT_LIMIT, tasks.join_next()).await {
        Ok(Some(Ok(outcome))) => outcome.map_err(|error| error.to_string()),
        Ok(Some(Err(error))) => Err(error.to_string()),
        Ok(None) | Err(_) => Err(format!("it took longer than {} s", ATTEMPT_LIMIT.as_secs())),
    }
}

#[cfg(test)]
#[path = "reconcile_tests.rs"]
mod tests;

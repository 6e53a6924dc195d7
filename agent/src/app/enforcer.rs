//! Puts a pod's class in force: a listener in its namespace first, the kernel's redirect last.
//!
//! In: what the reconciler wants. Out: listeners that feed one channel, entries in CLASSES, and, for whoever has to name
//! the pod behind a kernel event, which pod a cgroup is.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::handover::{Handed, Offer, SetAside};
use crate::kernel::{Class, Kernel};
use crate::listener::{Arrival, CONNECTIONS_PER_POD, InPodListener, Serving};
use crate::workload::{CgroupId, EnforceError, Enforcement, Enforcer, Pod};

/// What a cgroup's number stands for while its pod is enforced, and its listener as it can be handed over.
type Served = HashMap<CgroupId, (Arc<Offer>, Arc<ArcSwap<Pod>>)>;

/// The enforcer over the real kernel.
pub(super) struct InForce {
    kernel: Arc<Kernel>,
    sink: mpsc::Sender<Arrival>,
    /// Numbers the listeners, so that a flow of an earlier one, an earlier agent's included, is told apart.
    next: AtomicU64,
    served: Arc<Mutex<Served>>,
    /// Listeners of the agent before this one.
    set_aside: Arc<SetAside>,
    /// What accepts.
    accepting: TaskTracker,
}

impl InForce {
    pub(super) fn new(
        kernel: Arc<Kernel>,
        sink: mpsc::Sender<Arrival>,
        set_aside: Arc<SetAside>,
        accepting: TaskTracker,
    ) -> Self {
        Self {
            kernel,
            sink,
            next: AtomicU64::new(first_number()),
            served: Arc::default(),
            set_aside,
            accepting,
        }
    }

    /// The listeners, as they can be handed over.
    pub(super) fn offers(&self) -> Vec<Arc<Offer>> {
        lock(&self.served)
            .values()
            .map(|(offer, _)| Arc::clone(offer))
            .collect()
    }

    /// The pod that is enforced at this cgroup, if one is.
    pub(super) fn pod(&self, cgroup: CgroupId) -> Option<Arc<Pod>> {
        lock(&self.served).get(&cgroup).map(|(_, pod)| pod.load_full())
    }

    fn class(&self, cgroup: CgroupId, class: Class) -> Result<(), EnforceError> {
        self.kernel
            .set_class(cgroup, class)
            .map_err(failed("set the class of a pod's cgroup"))
    }
}

/// One pod's listener; dropping it ends the listener.
pub(super) struct Listening {
    cgroup: CgroupId,
    number: u64,
    served: Arc<Mutex<Served>>,
    _serving: DropGuard,
}

impl Drop for Listening {
    fn drop(&mut self) {
        let mut served = lock(&self.served);
        // A later listener for the same cgroup has taken the place already.
        if served
            .get(&self.cgroup)
            .is_some_and(|(offer, _)| offer.handed.number == self.number)
        {
            served.remove(&self.cgroup);
        }
    }
}

impl Enforcer for InForce {
    type Handle = Listening;

    async fn enforce(&self, wanted: Enforcement) -> Result<Listening, EnforceError> {
        let Enforcement { group, netns, pod } = wanted;
        let id = netns.id();
        let (listener, number) = match self.set_aside.claim(group.id, id) {
            Some(taken) => taken,
            None => {
                // Entering a namespace blocks, so it happens on a thread that may.
                let listener = tokio::task::spawn_blocking(move || InPodListener::open(&netns))
                    .await
                    .map_err(failed("open a listener in the pod"))?
                    .map_err(failed("open a listener in the pod"))?;
                (listener, self.next.fetch_add(1, Ordering::Relaxed))
            }
        };
        let (port, own) = (listener.port(), listener.netns_cookie());
        let descriptors = listener
            .descriptors()
            .map_err(failed("keep descriptors of a listener"))?;
        let offer = Arc::new(Offer {
            handed: Handed {
                cgroup: group.id.0,
                pod: pod.load().uid.0.clone(),
                number,
                port,
                cookie: own,
                device: id.device,
                inode: id.inode,
                descriptors: descriptors.len(),
            },
            descriptors,
        });
        let cancel = CancellationToken::new();
        let serving = Serving {
            kernel: Arc::clone(&self.kernel),
            cgroup: group.id,
            number,
            pod: Arc::clone(&pod),
            limit: CONNECTIONS_PER_POD,
            sink: self.sink.clone(),
            cancel: cancel.clone(),
        };
        let guard = cancel.drop_guard();
        self.accepting.spawn(async move {
            if let Err(error) = serving.run(listener).await {
                tracing::error!(%error, "a pod's listener ended: its connects are refused");
            }
        });
        lock(&self.served).insert(group.id, (offer, Arc::clone(&pod)));
        let listening = Listening {
            cgroup: group.id,
            number,
            served: Arc::clone(&self.served),
            _serving: guard,
        };
        self.class(
            group.id,
            Class::Enforced {
                pod: number,
                port,
                netns: own,
            },
        )?;
        let pod = pod.load();
        tracing::info!(namespace = pod.namespace, pod = pod.name, port, "enforced");
        Ok(listening)
    }

    fn exempt(&self, cgroup: CgroupId) -> Result<(), EnforceError> {
        self.class(cgroup, Class::Exempt)
    }

    fn pending(&self, cgroup: CgroupId) -> Result<(), EnforceError> {
        self.class(cgroup, Class::Pending)
    }

    fn forget(&self, cgroup: CgroupId) -> Result<(), EnforceError> {
        self.kernel
            .remove_class(cgroup)
            .map_err(failed("take a gone cgroup's class away"))
    }
}

/// Where this agent's numbers begin: beyond those of agents before it.
fn first_number() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(1)
}

fn failed<E>(what: &'static str) -> impl FnOnce(E) -> EnforceError
where
    E: std::error::Error + Send + Sync + 'static,
{
    move |source| EnforceError {
        what,
        source: Box::new(source),
    }
}

/// A poisoned lock guards a plain map, which has no state that a panic could have left half done.
fn lock(served: &Mutex<Served>) -> MutexGuard<'_, Served> {
    served.lock().unwrap_or_else(PoisonError::into_inner)
}

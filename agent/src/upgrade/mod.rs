//! An upgrade: a newer agent, the successor, takes the listeners of the running one, its predecessor, so that no connect is
//! refused.
//!
//! In: the configuration's upgrade socket, beside the admin socket. Out: listeners that two agents accept from, and the
//! predecessor's track of the agent's [phase](crate::runtime::phase).
//!
//! ```text
//!  successor                                             predecessor
//!    Hello ------------------------------------------------>   lends the kernel write lease, shares the audit log
//!    keeps the listeners        <---- Listeners, Offered ---   goes on accepting
//!    Synced ----------------------------------------------->   or Withdrawn after 120 s: the predecessor keeps serving
//!    detaches its programs,     <-------------------- Agreed   takes nothing back while the successor lives
//!    where they are others
//!    ProgramsReplaced ------------------------------------->   accepts no more, reads no more kernel events
//!    PredecessorStopped         <------------------- Stopped   drains its streams and exits with 0
//! ```
//!
//! Each start sends `Probe` first, on a connection of its own. Where an agent answers and the newer one's objects are not valid or
//! another file of its cannot be used, the newer one sends `Unfit` in place of `Hello` and ends; the older one counts a failed upgrade.
//!
//! An agent that accepts a connection on the upgrade socket counts as running, even if it says nothing: it serves one successor at a
//! time, and another waits in the queue. The newcomer then ends with an error that names the process. A predecessor that hangs is
//! its supervisor's to end, or the operator's: its end closes the socket, and the next start is the first agent's.
//!
//! A connection goes to whichever of the two accepts it, and its flow with it. Each message but the first answers one: never do
//! both detach the other's programs. Where the successor ends before `ProgramsReplaced`, the predecessor keeps serving as
//! before.
//!
//! How the predecessor stops accepting, drains and exits is in app/mod.rs: [`App::run`](crate::app::App::run).
//!
//! A listener keeps its number when it is transferred. So the class in the kernel stays what it was, and flows that were noted
//! before are good for both.

mod metrics;
mod predecessor;
mod protocol;
mod successor;

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::time::Duration;

use parking_lot::Mutex;

pub(crate) use metrics::UpgradeMetrics;
pub(crate) use predecessor::{Predecessor, SYNC_LIMIT, SuccessorConnection, say_stopped_to};
pub(crate) use protocol::TransferredListener;
pub(crate) use successor::{
    REQUEST_LIMIT, Successor, UpgradeFailed, give_up, has_predecessor, request, when_it_may_be_replaced,
};

use crate::kernel::CgroupId;
use crate::listener::InPodListener;
use crate::workload::NetnsId;

/// Listeners that are transferred at most: far more than the pods of a node, and few enough for the limit of descriptors.
const LISTENERS_MAX: usize = 4096;

/// How long a message is waited for, where the other agent has nothing to do but send it.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a predecessor may take until it has offered its listeners: an attempt to enforce a pod, which it lets end, takes 5 s
/// at most.
const OFFER_LIMIT: Duration = Duration::from_secs(10);

/// How long a successor refuses its own replacement. A supervisor that starts the predecessor again would otherwise have the two
/// replace each other without end.
const UPGRADE_PAUSE: Duration = Duration::from_secs(60);

/// A listener as it can be transferred.
#[derive(Debug)]
pub(crate) struct ListenerOffer {
    /// Whose it is, and where.
    pub(crate) listener: TransferredListener,
    /// Descriptors of its own.
    pub(crate) descriptors: Vec<OwnedFd>,
}

/// The predecessor's listeners, until their pods are enforced.
#[derive(Debug, Default)]
pub(crate) struct InheritedListeners(Mutex<HashMap<CgroupId, ListenerOffer>>);

impl ListenerOffer {
    /// With the count of its descriptors.
    pub(crate) fn counted(mut self) -> Self {
        self.listener.descriptors = self.descriptors.len();
        self
    }
}

impl InheritedListeners {
    fn keep(&self, offer: ListenerOffer) {
        self.0.lock().insert(CgroupId(offer.listener.cgroup), offer);
    }

    /// The pod's listener, if there is one and it is in this namespace of the pod's, and the pod's number. A pod in the
    /// node's network has no listener of its own, and none of its own to be in.
    pub(crate) fn claim(
        &self,
        cgroup: CgroupId,
        netns: Option<NetnsId>,
    ) -> (Option<InPodListener>, Option<u64>) {
        let Some(offer) = self.0.lock().remove(&cgroup) else {
            return (None, None);
        };
        let number = offer.listener.number;
        match (netns, offer.descriptors.is_empty()) {
            (None, true) => (None, Some(number)),
            // The number goes with the listener: another's flows are not this one's.
            (Some(netns), false) => match adopt(offer, netns) {
                Some(listener) => (Some(listener), Some(number)),
                None => (None, None),
            },
            _ => (None, None),
        }
    }

    /// The listener in the node's own namespace, if this is the one.
    pub(crate) fn claim_node(&self, netns: NetnsId) -> Option<InPodListener> {
        let offer = self.0.lock().remove(&CgroupId(protocol::NODE))?;
        adopt(offer, netns)
    }

    /// Closes those that nobody claimed; gives their number.
    fn clear(&self) -> usize {
        std::mem::take(&mut *self.0.lock()).len()
    }
}

fn adopt(offer: ListenerOffer, netns: NetnsId) -> Option<InPodListener> {
    let ListenerOffer {
        listener,
        descriptors,
    } = offer;
    if (listener.device, listener.inode) != (netns.device, netns.inode) {
        tracing::info!(
            pod = listener.pod,
            "a transferred listener is of a network namespace that the pod has left"
        );
        return None;
    }
    InPodListener::adopt(descriptors, listener.port, listener.cookie)
        .inspect_err(
            |error| tracing::warn!(%error, pod = listener.pod, "a transferred listener cannot be used"),
        )
        .ok()
}

#[cfg(test)]
mod tests;

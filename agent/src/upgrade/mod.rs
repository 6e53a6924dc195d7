//! A new agent process takes over the listeners of the one before it, so that an upgrade refuses nobody.
//!
//! The older agent serves a unix socket beside the admin socket. The newer one asks there at its start ([`successor`]); from
//! then on the older one changes nothing in the kernel, shares its audit log, and gives its listeners away ([`predecessor`]),
//! which both then accept from: a connection goes to whoever accepts it, and its flow with it. Once the newer one's classes
//! and protected endpoints are in force it says so; the older one agrees that it takes nothing back while the newer one lives, and only then
//! does that end the older one's programs, where its own are others: never do both end the other's. The older one accepts
//! no more, lets its streams end for the drain time, and exits. Where the newer one ends before that, the older one goes on
//! as before.
//!
//! A listener keeps its number when it changes lease, so the class in the kernel stays what it was, and flows that were noted
//! before are good for both.

mod predecessor;
mod protocol;
mod successor;

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub(crate) use predecessor::{Predecessor, SYNC_LIMIT, SuccessorConnection, say_stopped_to};
pub(crate) use protocol::TransferredListener;
pub(crate) use successor::{Progress, REQUEST_LIMIT, Successor, ask};

use crate::kernel::CgroupId;
use crate::listener::InPodListener;
use crate::workload::NetnsId;

/// Listeners given away at most: far more than the pods of a node, and few enough for the limit of descriptors.
const LISTENERS_MAX: usize = 4096;

/// How long each of the other's messages is waited for, where it has nothing to do but say it.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long the older agent may take until it has offered what it has: an attempt to enforce a pod, which it lets end, takes
/// 5 s at most.
const OFFER_LIMIT: Duration = Duration::from_secs(10);

/// A listener as it can be given away.
#[derive(Debug)]
pub(crate) struct ListenerOffer {
    /// What it is of.
    pub(crate) listener: TransferredListener,
    /// Descriptors of its own.
    pub(crate) descriptors: Vec<OwnedFd>,
}

/// Listeners of the agent before this one, set aside until their pods are enforced.
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
        self.lock().insert(CgroupId(offer.listener.cgroup), offer);
    }

    /// The pod's listener, if there is one and it is in this namespace of the pod's, and the pod's number. A pod in the
    /// node's network has no listener of its own, and none of its own to be in.
    pub(crate) fn claim(
        &self,
        cgroup: CgroupId,
        netns: Option<NetnsId>,
    ) -> (Option<InPodListener>, Option<u64>) {
        let Some(offer) = self.lock().remove(&cgroup) else {
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
        let offer = self.lock().remove(&CgroupId(protocol::NODE))?;
        adopt(offer, netns)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<CgroupId, ListenerOffer>> {
        // A plain map, which has no state that a panic could have left half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes those that nobody claimed; gives their number.
    fn clear(&self) -> usize {
        std::mem::take(&mut *self.lock()).len()
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

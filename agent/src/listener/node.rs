//! Accepts on the node's own loopback, for every pod that shares the node's network.
//!
//! In: connections at the node's listener, and a function that finds a cgroup's [`Owner`]. Out: an [`Arrival`] for each, as
//! from a pod's own listener.
//!
//! A pod that shares the node's network has no loopback of its own, so one listener serves all such pods. It also serves
//! sockets that a pod's process got from the node's namespace. Anybody on the node can dial it: only the kernel's flow tells
//! whose a connection is.

use std::fmt;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::attribute::Incoming;
use super::serve::Sockets;
use super::{Arrival, Owner};
use crate::kernel::{CgroupId, Kernel};

/// Finds the pod that a cgroup and the number in its class stand for, while it is enforced.
pub type FindOwner = Arc<dyn Fn(CgroupId, u64) -> Option<Owner> + Send + Sync>;

/// What the node's listener needs to serve.
pub struct NodeServing {
    /// Where flows are looked up.
    pub kernel: Arc<Kernel>,
    /// The pods.
    pub find: FindOwner,
    /// Where connections go. While it is full nothing is accepted, and clients wait in the kernel.
    pub sink: mpsc::Sender<Arrival>,
    /// Ends the serving.
    pub cancel: CancellationToken,
}

impl fmt::Debug for NodeServing {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("NodeServing").finish_non_exhaustive()
    }
}

impl NodeServing {
    /// Serves until cancelled, or until nobody takes connections any more.
    pub async fn run(self, sockets: Sockets) {
        loop {
            let (stream, peer) = tokio::select! {
                biased;
                () = self.cancel.cancelled() => return,
                accepted = sockets.accept() => accepted,
            };
            let incoming = Incoming {
                kernel: &self.kernel,
                netns_cookie: sockets.netns_cookie(),
                stream,
                peer,
            };
            let Some(arrival) = incoming.at_node(&*self.find) else {
                continue;
            };
            if self.sink.send(arrival).await.is_err() {
                return;
            }
        }
    }
}

//! Accepts on the node's own loopback, for every pod that shares the node's network.
//!
//! In: connections at the node's listener, and a function that finds a cgroup's [`Owner`]. Out: an [`Arrival`] for each, as
//! from a pod's own listener.
//!
//! A pod that shares the node's network has no loopback of its own, so one listener serves all such pods. It also serves
//! sockets that a pod's process got from the node's namespace. Anybody on the node can dial it: only the kernel's flow tells
//! whose a connection is.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::attribute::{Attribution, attribute};
use super::serve::Sockets;
use super::{Accepted, Arrival, Owner, UnattributedCause, UnattributedConnection};
use crate::kernel::{CgroupId, Flow, Kernel};

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
            let Some(arrival) = self.judge(sockets.netns_cookie(), stream, peer) else {
                continue;
            };
            if self.sink.send(arrival).await.is_err() {
                return;
            }
        }
    }

    /// Finds out who is there. `None` for a client that hung up before it could be asked.
    fn judge(&self, cookie: u64, stream: TcpStream, peer: SocketAddr) -> Option<Arrival> {
        let (local, attribution) = attribute(&stream, |local| self.kernel.take_flow(cookie, local, peer));
        let (workload, cause) = match attribution {
            Attribution::Flow(flow) => match (self.find)(flow.cgroup, flow.pod) {
                Some(owner) => match accepted(&owner, &flow, stream, peer) {
                    Ok(accepted) => return Some(Arrival::Accepted(accepted)),
                    Err(cause) => (Some(owner.pod.load_full()), cause),
                },
                None => (None, UnattributedCause::OtherPod),
            },
            Attribution::HungUp => return None,
            Attribution::Unattributed(cause) => (None, cause),
        };
        Some(Arrival::UnattributedConnection(UnattributedConnection {
            workload,
            peer,
            local,
            cause,
        }))
    }
}

/// The connection with a permit among its pod's. Where none is free it is closed: to wait for one here would hold up the
/// other pods.
fn accepted(
    owner: &Owner,
    flow: &Flow,
    stream: TcpStream,
    peer: SocketAddr,
) -> Result<Box<Accepted>, UnattributedCause> {
    let permit = Arc::clone(&owner.connections)
        .try_acquire_owned()
        .map_err(|_| UnattributedCause::Full)?;
    Accepted::new(owner, flow, (stream, peer), permit)
}

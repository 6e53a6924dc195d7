//! Accepts on one pod's listener, and attributes each connection to the pod and its process.
//!
//! In: the listener's sockets, the pod's [`Owner`], and the flows of the kernel. Out: an [`Arrival`] for each connection, until
//! the serving is cancelled or the listener has moved.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::attribute::Incoming;
use super::{Arrival, InPodListener, ListenerError, Owner};
use crate::kernel::{CgroupId, Kernel};

/// How long to wait after an accept failed for want of descriptors or memory: long enough for some to come
/// free, short enough that a client does not notice.
pub(super) const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How long nothing must come to a listener that closes until it has taken everything: what was established before is in its
/// queue, and loopback takes microseconds.
const QUIET: Duration = Duration::from_millis(5);

/// How long a listener that closes takes connections at most, and waits for places for those in its queue.
pub const DRAIN_LIMIT: Duration = Duration::from_secs(1);

/// Connections of one pod at once. A client that speaks HTTP/1.1 opens one for each watch and a thousand watches have to
/// work; at some 50 KB each, a pod that holds as many as it can keeps 100 MB of the node, and not the others' descriptors.
/// Further ones wait in the kernel's queue until one ends.
pub const CONNECTIONS_PER_POD: usize = 2048;

/// What one pod's listener needs to serve.
#[derive(Debug)]
pub struct Serving {
    /// Where flows are looked up.
    pub kernel: Arc<Kernel>,
    /// The pod's cgroup. Flows of any other are not the pod's, though namespaces may be shared.
    pub cgroup: CgroupId,
    /// The number that the pod's class carries while this listener serves it: a flow with another one was redirected to a
    /// listener before this.
    pub number: u64,
    /// The pod.
    pub owner: Owner,
    /// Where connections go. While it is full nothing is accepted, and clients wait in the kernel.
    pub sink: mpsc::Sender<Arrival>,
    /// Ends the serving.
    pub cancel: CancellationToken,
    /// Ends it once nothing waits any more: the listener has moved, and nothing is redirected here.
    pub leave: CancellationToken,
}

impl Serving {
    /// Serves until cancelled, or until nobody takes connections any more.
    pub async fn run(self, sockets: Sockets) {
        loop {
            // Before accepting, so that what has no place is not taken out of the kernel's queue.
            let permit = tokio::select! {
                biased;
                () = self.cancel.cancelled() => return,
                () = self.leave.cancelled() => return self.drain(&sockets).await,
                permit = Arc::clone(&self.owner.connections).acquire_owned() => permit,
            };
            let Ok(permit) = permit else {
                // Nobody closes it.
                return;
            };
            let (stream, peer) = tokio::select! {
                biased;
                () = self.cancel.cancelled() => return,
                accepted = sockets.accept() => accepted,
                () = self.leave.cancelled() => {
                    drop(permit);
                    return self.drain(&sockets).await;
                }
            };
            if !self.take(&sockets, stream, peer, permit).await {
                return;
            }
        }
    }

    /// Takes what still waits at a listener that closes. It ends whether or not somebody goes on dialling the port itself.
    async fn drain(&self, sockets: &Sockets) {
        let end = Instant::now() + DRAIN_LIMIT;
        while Instant::now() < end {
            let permit = Arc::clone(&self.owner.connections).acquire_owned();
            let Ok(Ok(permit)) = timeout_at(end, permit).await else {
                return;
            };
            let Ok((stream, peer)) = timeout(QUIET, sockets.accept()).await else {
                return;
            };
            if self.cancel.is_cancelled() || !self.take(sockets, stream, peer, permit).await {
                return;
            }
        }
    }

    /// Passes a connection on; false where nobody takes any.
    async fn take(
        &self,
        sockets: &Sockets,
        stream: TcpStream,
        peer: SocketAddr,
        permit: OwnedSemaphorePermit,
    ) -> bool {
        let incoming = Incoming {
            kernel: &self.kernel,
            netns_cookie: sockets.netns_cookie(),
            stream,
            peer,
        };
        match incoming.at_pod((self.cgroup, self.number), &self.owner, permit) {
            // Not given up when the serving ends: who was accepted is served.
            Some(arrival) => self.sink.send(arrival).await.is_ok(),
            None => true,
        }
    }
}

/// The sockets of a listener, accepted from as one.
#[derive(Debug)]
pub struct Sockets {
    v4: TcpListener,
    v6: Option<TcpListener>,
    netns_cookie: u64,
}

impl Sockets {
    /// Gives them to the tokio runtime.
    ///
    /// # Errors
    /// When it does not take them.
    pub fn new(listener: InPodListener) -> Result<Self, ListenerError> {
        let netns_cookie = listener.netns_cookie();
        let v6 = listener.v6.map(TcpListener::from_std).transpose();
        Ok(Self {
            v4: TcpListener::from_std(listener.v4).map_err(ListenerError::Serve)?,
            v6: v6.map_err(ListenerError::Serve)?,
            netns_cookie,
        })
    }

    /// The cookie of the network namespace that they are in.
    pub(super) fn netns_cookie(&self) -> u64 {
        self.netns_cookie
    }

    /// The next connection, as soon as there is one that can be had. Given up halfway, it takes none.
    pub(super) async fn accept(&self) -> (TcpStream, SocketAddr) {
        loop {
            let accepted = tokio::select! {
                accepted = self.v4.accept() => accepted,
                accepted = self.accept_v6() => accepted,
            };
            match accepted {
                Ok(accepted) => return accepted,
                Err(error) => {
                    tracing::warn!(%error, "a listener cannot accept a connection; it tries again");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn accept_v6(&self) -> io::Result<(TcpStream, SocketAddr)> {
        match &self.v6 {
            Some(v6) => v6.accept().await,
            None => std::future::pending().await,
        }
    }
}

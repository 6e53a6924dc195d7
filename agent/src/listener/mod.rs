//! Picket's end of a redirected connection: a listener inside the pod's own network namespace, and one in the node's for the
//! pods that share it.
//!
//! In: connections that the kernel redirected, and their flows. Out: an [`Accepted`] for each, with the address that the client
//! dialled and the process that dialled it. A connection without a flow is closed and becomes an [`UnattributedConnection`].
//!
//! | file | holds |
//! |---|---|
//! | `serve` | a pod's own listener |
//! | `attribute` | attributes each connection to its pod and process by the kernel's flow, or says why it cannot |
//! | `node` | the same for pods that share the node's network, by their cgroup |
//! | `gateway` | the node's port for callers that are no enforced pods, and what strangers may have (strangers.rs) |
//! | `open` | the sockets of a listener, opened in a network namespace or inherited from a predecessor |
//! | `process` | what /proc adds to the process that dialled |

mod attribute;
mod gateway;
mod node;
mod open;
mod process;
mod serve;
mod share;

use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

pub use gateway::{
    EnforcedPodIndex, GatewayCaller, GatewayCallers, GatewayListener, GatewayMetrics, GatewayServing,
    REFUSED_STRANGER_LIMIT, STRANGER_HANDSHAKE_LIMIT, STRANGER_LIMIT,
};
pub use node::{FindOwner, NodeServing};
pub use open::InPodListener;
pub use process::{Process, ProcessView};
pub use serve::{CONNECTIONS_PER_POD, DRAIN_LIMIT, Serving, Sockets};
pub use share::{PodShare, TUNNELS_PER_POD};

use crate::kernel::KernelError;
use crate::workload::{Pod, source_for};

/// An enforced pod as its listener sees it.
#[derive(Debug, Clone)]
pub struct Owner {
    /// What is known of it, replaced when it changes.
    pub pod: Arc<ArcSwap<Pod>>,
    /// Places for its connections that are served at once; [`CONNECTIONS_PER_POD`] outside tests.
    pub connections: Arc<Semaphore>,
    /// Its share of the node beside those.
    pub share: Arc<PodShare>,
    /// Fires when it is released: it is exempt, closed, gone, or in another namespace.
    pub released: CancellationToken,
    /// Its addresses as its network namespace has them: the API server hears of them only after the pod's first requests.
    pub seen: Arc<[IpAddr]>,
}

impl Owner {
    /// The pod's own address, as a server at `dialled` would see it. Inside the pod the connection is one of loopback.
    #[must_use]
    pub fn source(&self, dialled: IpAddr) -> Option<IpAddr> {
        source_for(&self.pod.load().addresses, dialled).or_else(|| source_for(&self.seen, dialled))
    }
}

/// A connection whose beginning the kernel saw, or one at the gateway.
#[derive(Debug)]
pub struct Accepted {
    /// The bytes, of no runtime yet: another thread than the one that accepted may serve them.
    pub stream: TcpStream,
    /// The address the client dialled.
    pub origin: SocketAddr,
    /// The client's end of the connection: inside a pod its loopback, at the gateway the client's address.
    pub peer: SocketAddr,
    /// The client's address as other machines see it, once one is known.
    pub source: Option<IpAddr>,
    /// What is known of the pod, replaced when it changes: an identity that goes by labels must see them change on
    /// connections that are open already. `None` at the gateway.
    pub workload: Option<Arc<ArcSwap<Pod>>>,
    /// The process that dialled, where the kernel knows it.
    pub process: Option<Process>,
    /// Whether it came to the gateway from an address of an enforced pod, which has no business there.
    pub of_enforced_pod: bool,
    /// The connection's place among its pod's, free again when dropped; `None` at the gateway.
    pub permit: Option<OwnedSemaphorePermit>,
    /// Its caller, with the connection's places, where it came to the gateway.
    pub gateway: Option<GatewayCaller>,
    /// The client's share of the node; at the gateway until it is known who the client is.
    pub share: Arc<PodShare>,
    /// Fires when the pod is released: what it asks for from then on is none of Picket's to answer as its agent's.
    pub released: CancellationToken,
}

/// A connection that was closed unread, because nobody can say who made it.
#[derive(Debug, Clone)]
pub struct UnattributedConnection {
    /// The pod whose listener it came to, or that a flow names; `None` at the node's listener where there is no flow.
    pub workload: Option<Arc<Pod>>,
    /// The client's own address, inside the pod.
    pub peer: SocketAddr,
    /// The listener's address it came to; `None` where the system did not tell it.
    pub local: Option<SocketAddr>,
    /// Why it was closed.
    pub cause: UnattributedCause,
}

/// Why a connection was closed unread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum UnattributedCause {
    /// The kernel redirected no such connection: somebody dialled the listener itself.
    Unknown,
    /// The kernel redirected it for another pod, or for one that is not enforced any more.
    OtherPod,
    /// The pod, or the gateway's client, has as many connections open as one may have.
    Full,
    /// The kernel could not be asked, or the connection not be taken over.
    Internal,
}

impl UnattributedCause {
    /// Each of them.
    pub const ALL: [Self; 4] = [Self::Unknown, Self::OtherPod, Self::Full, Self::Internal];

    /// The reason in records, and the cause in metrics.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Unknown => "unattributed_connection",
            Self::OtherPod => "other_pod",
            Self::Full => "too_many_connections",
            Self::Internal => "internal",
        }
    }

    /// What it means to a person.
    #[must_use]
    pub fn explain(self) -> &'static str {
        match self {
            Self::Unknown => "the kernel redirected no such connection",
            Self::OtherPod => {
                "the kernel redirected the connection for another pod, or for an enforcement that has ended"
            }
            Self::Full => "the pod, or the gateway's client, has as many open connections as one may have",
            Self::Internal => "the agent could not find out which process made the connection",
        }
    }
}

/// What a listener passes to the pipeline.
#[derive(Debug)]
pub enum Arrival {
    /// A connection to serve.
    Accepted(Box<Accepted>),
    /// A connection that was closed; it is to be audited.
    UnattributedConnection(UnattributedConnection),
}

/// Why a listener could not be opened or stopped serving.
#[derive(Debug, thiserror::Error)]
pub enum ListenerError {
    /// The pod's namespace could not be entered.
    #[error("cannot enter the pod's network namespace: {0}")]
    Namespace(#[source] io::Error),
    /// The namespace's loopback has no port to give.
    #[error("cannot listen on the pod's loopback: {0}")]
    Bind(#[source] io::Error),
    /// No port was free in both families.
    #[error("no port is free on 127.0.0.1 and ::1 alike after {0} tries")]
    NoPort(u32),
    /// The kernel does not tell the namespace's cookie.
    #[error("cannot read the network namespace's cookie (SO_NETNS_COOKIE, Linux 5.14): {0}")]
    Cookie(#[source] io::Error),
    /// A descriptor that another agent transferred as a listener is none of this port and namespace.
    #[error("a transferred descriptor is not this pod's listener: {0}")]
    Foreign(&'static str),
    /// The runtime did not take the socket.
    #[error("cannot serve the listener: {0}")]
    Serve(#[source] io::Error),
    /// The kernel's map could not be read.
    #[error(transparent)]
    Kernel(#[from] KernelError),
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_cause_has_a_code_and_a_text_of_its_own() {
        let codes: BTreeSet<_> = UnattributedCause::ALL.map(UnattributedCause::code).into();
        let texts: BTreeSet<_> = UnattributedCause::ALL.map(UnattributedCause::explain).into();
        assert_eq!((codes.len(), texts.len()), (4, 4));
        assert_eq!(UnattributedCause::Full.code(), "too_many_connections");
    }
}

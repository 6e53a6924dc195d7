//! Attributes an accepted connection to a pod and a process, by the kernel's flow.
//!
//! In: a connection, and the kernel's flows. Out: the flow, or why there is none; every connection that is closed for it gets a
//! record.

use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::sync::Arc;

use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;

use super::{Accepted, Arrival, Owner, Process, UnattributedCause, UnattributedConnection};
use crate::kernel::{CgroupId, Flow, Kernel, KernelError};

/// A connection that a listener has accepted and that is nobody's yet.
#[derive(Debug)]
pub(super) struct Incoming<'a> {
    /// Where flows are looked up.
    pub(super) kernel: &'a Kernel,
    /// The cookie of the listener's network namespace.
    pub(super) netns_cookie: u64,
    pub(super) stream: TcpStream,
    pub(super) peer: SocketAddr,
}

impl Incoming<'_> {
    /// Attributes a connection at a pod's own listener. Its flow must be of the pod's cgroup, and of the number in the pod's
    /// class. `None` for a client that hung up before it could be asked.
    pub(super) fn at_pod(
        self,
        (cgroup, number): (CgroupId, u64),
        owner: &Owner,
        permit: OwnedSemaphorePermit,
    ) -> Option<Arrival> {
        let (local, attribution) = self.attribute();
        let cause = match attribution {
            Attribution::Flow(flow) if flow.cgroup == cgroup && flow.pod == number => {
                match Accepted::new(owner, &flow, (self.stream, self.peer), permit) {
                    Ok(accepted) => return Some(Arrival::Accepted(accepted)),
                    Err(cause) => cause,
                }
            }
            Attribution::Flow(_) => UnattributedCause::OtherPod,
            Attribution::HungUp => return None,
            Attribution::Unattributed(cause) => cause,
        };
        Some(unattributed(Some(owner), self.peer, local, cause))
    }

    /// Attributes a connection at the node's listener to the pod that `find` knows by the flow's cgroup and number. `None` for
    /// a client that hung up before it could be asked.
    pub(super) fn at_node(self, find: &dyn Fn(CgroupId, u64) -> Option<Owner>) -> Option<Arrival> {
        let (local, attribution) = self.attribute();
        let (owner, cause) = match attribution {
            Attribution::Flow(flow) => match find(flow.cgroup, flow.pod) {
                Some(owner) => match with_permit(&owner, &flow, self.stream, self.peer) {
                    Ok(accepted) => return Some(Arrival::Accepted(accepted)),
                    Err(cause) => (Some(owner), cause),
                },
                None => (None, UnattributedCause::OtherPod),
            },
            Attribution::HungUp => return None,
            Attribution::Unattributed(cause) => (None, cause),
        };
        Some(unattributed(owner.as_ref(), self.peer, local, cause))
    }

    fn attribute(&self) -> (Option<SocketAddr>, Attribution) {
        attribute(&self.stream, |local| {
            self.kernel.take_flow(self.netns_cookie, local, self.peer)
        })
    }
}

/// The record's facts of a connection that is closed.
fn unattributed(
    owner: Option<&Owner>,
    peer: SocketAddr,
    local: Option<SocketAddr>,
    cause: UnattributedCause,
) -> Arrival {
    Arrival::UnattributedConnection(UnattributedConnection {
        workload: owner.map(|owner| owner.pod.load_full()),
        peer,
        local,
        cause,
    })
}

/// The socket that made a connection, as the kernel knows it.
#[derive(Debug)]
enum Attribution {
    /// The socket that this flow is of.
    Flow(Flow),
    /// A client that hung up before it could be asked.
    HungUp,
    /// Nobody that is known.
    Unattributed(UnattributedCause),
}

/// Finds the flow of a connection; `take_flow` looks it up by the listener's end of the connection. Gives that end too, where the
/// system tells it.
fn attribute(
    stream: &TcpStream,
    take_flow: impl FnOnce(SocketAddr) -> Result<Option<Flow>, KernelError>,
) -> (Option<SocketAddr>, Attribution) {
    let local = match stream.local_addr() {
        Ok(local) => local,
        Err(error) => {
            tracing::error!(%error, "the agent cannot read the address that a connection came to, and closes the connection");
            return (None, Attribution::Unattributed(UnattributedCause::Internal));
        }
    };
    let attribution = match take_flow(local) {
        Ok(Some(flow)) => Attribution::Flow(flow),
        Ok(None) if hung_up(stream) => Attribution::HungUp,
        Ok(None) => Attribution::Unattributed(UnattributedCause::Unknown),
        Err(error) => {
            tracing::error!(%error, "the agent cannot read the kernel's flows, and closes the connection");
            Attribution::Unattributed(UnattributedCause::Internal)
        }
    };
    (Some(local), attribution)
}

/// Whether the client has closed the connection, or reset it, and said nothing: what was noted of it went with its socket, so
/// that nobody can tell any more who it was, and a port probe is no alarm.
fn hung_up(stream: &TcpStream) -> bool {
    let mut first = [MaybeUninit::uninit()];
    match SockRef::from(stream).peek(&mut first) {
        Ok(read) => read == 0,
        Err(error) => error.kind() != io::ErrorKind::WouldBlock,
    }
}

/// The connection with a permit among its pod's. Where none is free it is closed: to wait for one here would hold up the
/// other pods.
fn with_permit(
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

impl Accepted {
    /// The connection of a pod's, with its permit among the pod's connections.
    ///
    /// # Errors
    /// [`UnattributedCause::Internal`] where the runtime does not give the socket back.
    fn new(
        owner: &Owner,
        flow: &Flow,
        (stream, peer): (TcpStream, SocketAddr),
        permit: OwnedSemaphorePermit,
    ) -> Result<Box<Self>, UnattributedCause> {
        let stream = stream.into_std().map_err(|error| {
            tracing::error!(%error, "the agent cannot take a connection from its runtime, and closes the connection");
            UnattributedCause::Internal
        })?;
        Ok(Box::new(Self {
            stream,
            origin: flow.origin,
            peer,
            source: owner.source(flow.origin.ip()),
            process: Some(Process::of(flow, &owner.pod.load())),
            workload: Some(Arc::clone(&owner.pod)),
            of_enforced_pod: false,
            permit: Some(permit),
            gateway: None,
            share: Arc::clone(&owner.share),
            released: owner.released.clone(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;

    use super::*;

    #[tokio::test]
    async fn a_connection_whose_address_cannot_be_read_is_closed_with_a_record() {
        // A pipe in a socket's place: the system tells no address of it.
        let (pipe, _other) = io::pipe().unwrap();
        let stream = std::net::TcpStream::from(OwnedFd::from(pipe));
        stream.set_nonblocking(true).unwrap();
        let stream = TcpStream::from_std(stream).unwrap();
        let (local, attribution) = attribute(&stream, |_| Ok(None));
        assert_eq!(local, None);
        assert!(
            matches!(
                attribution,
                Attribution::Unattributed(UnattributedCause::Internal)
            ),
            "{attribution:?}"
        );
    }

    #[tokio::test]
    async fn a_client_without_a_flow_is_told_apart_from_one_that_hung_up_and_from_a_failure() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let client = std::net::TcpStream::connect(address).unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let (local, attribution) = attribute(&stream, |_| Ok(None));
        assert_eq!(local, Some(address));
        assert!(matches!(
            attribution,
            Attribution::Unattributed(UnattributedCause::Unknown)
        ));
        let (_, attribution) = attribute(&stream, |_| Err(KernelError::EventsTaken));
        assert!(matches!(
            attribution,
            Attribution::Unattributed(UnattributedCause::Internal)
        ));
        drop(client);
        stream.readable().await.unwrap();
        assert!(matches!(attribute(&stream, |_| Ok(None)).1, Attribution::HungUp));
    }
}

//! The gateway: a port of the node for callers that are no enforced pods, such as a CI job or a person.
//!
//! In: connections from the network. Out: an [`Arrival`] for each that has a place. The kernel attests nobody here, so that the stages
//! behind want a credential for each request. Until then a caller is a stranger ([`strangers`]).

mod metrics;
mod strangers;

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::serve::ACCEPT_PAUSE;
use super::{Accepted, Arrival, UnattributedCause, UnattributedConnection};

pub use metrics::GatewayMetrics;
use strangers::FreePlace;
pub use strangers::{
    GatewayCaller, GatewayCallers, REFUSED_STRANGER_LIMIT, STRANGER_HANDSHAKE_LIMIT, STRANGER_LIMIT,
};

/// Connections that wait to be accepted; the kernel's own limit is 4096.
const BACKLOG: i32 = 1024;

/// The gateway's socket.
#[derive(Debug)]
pub struct GatewayListener(TcpListener);

impl GatewayListener {
    /// Listens, on the runtime that this is called on. A predecessor on the node may listen at the same address until it ends: an
    /// upgrade leaves no gap.
    ///
    /// # Errors
    /// Where the address cannot be listened at.
    pub fn open(address: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        if address.is_ipv6() {
            socket.set_only_v6(false)?;
        }
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        TcpListener::from_std(socket.into()).map(Self)
    }
}

/// The node's enforced pods, which the gateway does not serve.
pub trait EnforcedPodIndex: fmt::Debug + Send + Sync {
    /// Whether one of them has this address.
    fn has_address(&self, address: IpAddr) -> bool;

    /// Whether one of them has this UID.
    fn has_uid(&self, uid: &str) -> bool;
}

/// What the gateway needs to serve.
pub struct GatewayServing {
    /// The node's enforced pods.
    pub pods: Arc<dyn EnforcedPodIndex>,
    /// What counts how often all places are taken.
    pub metrics: GatewayMetrics,
    /// Where connections go. While it is full nothing is accepted, and clients wait in the kernel.
    pub sink: mpsc::Sender<Arrival>,
    /// Ends the serving.
    pub cancel: CancellationToken,
}

impl fmt::Debug for GatewayServing {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("GatewayServing").finish_non_exhaustive()
    }
}

impl GatewayServing {
    /// Serves until cancelled, or until nobody takes connections any more.
    pub async fn run(self, GatewayListener(listener): GatewayListener) {
        let callers = GatewayCallers::new(Arc::clone(&self.pods));
        loop {
            // Before accepting, so that what has no place is not taken out of the kernel's queue.
            let place = tokio::select! {
                biased;
                () = self.cancel.cancelled() => return,
                place = callers.place(&self.metrics) => place,
            };
            let Some(place) = place else { return };
            let accepted = tokio::select! {
                biased;
                () = self.cancel.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "the gateway cannot accept a connection; it tries again");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let arrival = self.arrival(&callers, stream, peer, place);
            if self.sink.send(arrival).await.is_err() {
                return;
            }
        }
    }

    fn arrival(
        &self,
        callers: &GatewayCallers,
        stream: TcpStream,
        peer: SocketAddr,
        place: FreePlace,
    ) -> Arrival {
        let local = stream.local_addr().ok();
        let closed = |cause| {
            Arrival::UnattributedConnection(UnattributedConnection {
                workload: None,
                peer,
                local,
                cause,
            })
        };
        let address = peer.ip().to_canonical();
        let Some((caller, share)) = callers.admit(place, address) else {
            return closed(UnattributedCause::Full);
        };
        let (Some(local), Ok(stream)) = (local, stream.into_std()) else {
            return closed(UnattributedCause::Internal);
        };
        Arrival::Accepted(Box::new(Accepted {
            stream,
            origin: SocketAddr::new(local.ip().to_canonical(), local.port()),
            peer: SocketAddr::new(address, peer.port()),
            source: Some(address),
            workload: None,
            process: None,
            of_enforced_pod: self.pods.has_address(address),
            permit: None,
            gateway: Some(caller),
            share,
            released: CancellationToken::new(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::strangers::STRANGERS_PER_ADDRESS;
    use super::*;

    /// One enforced pod.
    #[derive(Debug)]
    struct PodAt(IpAddr);

    impl EnforcedPodIndex for PodAt {
        fn has_address(&self, address: IpAddr) -> bool {
            address == self.0
        }

        fn has_uid(&self, _: &str) -> bool {
            false
        }
    }

    #[tokio::test]
    async fn a_connection_arrives_with_its_address_and_no_pod_and_a_crowd_is_cut_off() {
        let listener = GatewayListener::open("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.0.local_addr().unwrap();
        // A successor listens beside its predecessor.
        drop(GatewayListener::open(address).unwrap());
        let (sink, mut arrivals) = mpsc::channel(2 * STRANGERS_PER_ADDRESS);
        let cancel = CancellationToken::new();
        let serving = GatewayServing {
            pods: Arc::new(PodAt(IpAddr::from([127, 0, 0, 2]))),
            metrics: GatewayMetrics::unread(),
            sink,
            cancel: cancel.clone(),
        };
        let running = tokio::spawn(serving.run(listener));
        let mut clients = Vec::new();
        let mut accepted = Vec::new();
        for number in 0..=STRANGERS_PER_ADDRESS {
            clients.push(TcpStream::connect(address).await.unwrap());
            match arrivals.recv().await.expect("an arrival") {
                Arrival::Accepted(one) if number < STRANGERS_PER_ADDRESS => accepted.push(one),
                Arrival::UnattributedConnection(one) if number == STRANGERS_PER_ADDRESS => {
                    assert_eq!(one.cause, UnattributedCause::Full);
                }
                other => panic!("{number}: {other:?}"),
            }
        }
        let one = &accepted[0];
        assert!(one.workload.is_none() && one.process.is_none() && !one.of_enforced_pod);
        assert_eq!((one.origin, one.source), (address, Some([127, 0, 0, 1].into())));
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
        let _pod = socket.connect(address).await.unwrap();
        let Some(Arrival::Accepted(of_pod)) = arrivals.recv().await else {
            panic!("not accepted")
        };
        assert!(of_pod.of_enforced_pod);
        cancel.cancel();
        tokio::time::timeout(Duration::from_secs(5), running)
            .await
            .unwrap()
            .unwrap();
    }
}

//! The gateway: a port of the node for callers that are no enforced pods, such as a CI job or a person.
//!
//! In: connections from the network. Out: an [`Arrival`] for each that has a place. The kernel attests nobody here, so that the stages
//! behind want a credential for each request. Until then a caller is a stranger, and strangers are counted by their addresses: none
//! takes what the others need, and all of them together leave the node's pods theirs.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use parking_lot::Mutex;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use super::serve::ACCEPT_PAUSE;
use super::{Accepted, Arrival, PodShare, UnattributedCause, UnattributedConnection};

/// Connections of the gateway at once, from everywhere: as many as one pod may have. Further ones wait in the kernel's queue.
const CONNECTIONS: usize = 2048;

/// Connections from one address at once. A client that speaks HTTP/1.1 has one for each watch, and some callers are behind one
/// address; eight such addresses fill the gateway.
const CONNECTIONS_PER_ADDRESS: usize = 256;

/// Addresses whose share is remembered after their last connection, so that who comes again does not begin anew. Each is some 500
/// bytes; beyond this many those without a connection are forgotten.
const ADDRESSES: usize = 8192;

/// Connections that wait to be accepted; the kernel's own limit is 4096.
const BACKLOG: i32 = 1024;

/// The gateway's socket.
#[derive(Debug)]
pub struct GatewayListener(std::net::TcpListener);

impl GatewayListener {
    /// Listens. A predecessor on the node may listen at the same address until it ends: an upgrade leaves no gap.
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
        Ok(Self(socket.into()))
    }
}

/// Whether an enforced pod of this node has an address.
pub type IsEnforced = Arc<dyn Fn(IpAddr) -> bool + Send + Sync>;

/// What the gateway needs to serve.
pub struct GatewayServing {
    /// The node's enforced pods.
    pub is_enforced: IsEnforced,
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
    pub async fn run(self, listener: GatewayListener) {
        let listener = match TcpListener::from_std(listener.0) {
            Ok(listener) => listener,
            Err(error) => {
                tracing::error!(%error, "the gateway cannot be served");
                return;
            }
        };
        let (total, strangers) = (Arc::new(Semaphore::new(CONNECTIONS)), Strangers::default());
        loop {
            // Before accepting, so that what has no place is not taken out of the kernel's queue.
            let place = tokio::select! {
                biased;
                () = self.cancel.cancelled() => return,
                place = Arc::clone(&total).acquire_owned() => place,
            };
            // Nobody closes it.
            let Ok(place) = place else { return };
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
            let arrival = self.arrival(&strangers, stream, peer, place);
            if self.sink.send(arrival).await.is_err() {
                return;
            }
        }
    }

    fn arrival(
        &self,
        strangers: &Strangers,
        stream: TcpStream,
        peer: SocketAddr,
        place: OwnedSemaphorePermit,
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
        let Some((share, permit)) = strangers.place(address) else {
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
            of_enforced_pod: (self.is_enforced)(address),
            permit,
            gateway: Some(place),
            share,
            released: CancellationToken::new(),
        }))
    }
}

/// The shares of the gateway's callers, by their addresses.
#[derive(Debug, Default)]
struct Strangers(Mutex<HashMap<IpAddr, Stranger>>);

#[derive(Debug)]
struct Stranger {
    share: Arc<PodShare>,
    connections: Arc<Semaphore>,
}

impl Strangers {
    /// A place for one more connection from an address, where one is left.
    fn place(&self, address: IpAddr) -> Option<(Arc<PodShare>, OwnedSemaphorePermit)> {
        let mut known = self.0.lock();
        if known.len() >= ADDRESSES {
            known.retain(|_, stranger| stranger.connections.available_permits() < CONNECTIONS_PER_ADDRESS);
        }
        let stranger = known.entry(network(address)).or_insert_with(|| Stranger {
            share: Arc::default(),
            connections: Arc::new(Semaphore::new(CONNECTIONS_PER_ADDRESS)),
        });
        let permit = Arc::clone(&stranger.connections).try_acquire_owned().ok()?;
        Some((Arc::clone(&stranger.share), permit))
    }
}

/// What counts as one address: of IPv6 the network of 64 bits, since one machine has as many addresses of it as it likes.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_address_has_its_share_and_takes_no_other_one_s() {
        let strangers = Strangers::default();
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let places: Vec<_> = (0..CONNECTIONS_PER_ADDRESS)
            .map(|_| strangers.place(address("192.0.2.1")).expect("a place"))
            .collect();
        assert!(strangers.place(address("192.0.2.1")).is_none());
        let (other, _place) = strangers.place(address("192.0.2.2")).expect("a place");
        assert!(!Arc::ptr_eq(&other, &places[0].0));
        // One machine has all addresses of an IPv6 network.
        let one = strangers.place(address("2001:db8::1")).expect("a place");
        let same = strangers.place(address("2001:db8::ffff:1")).expect("a place");
        let next = strangers.place(address("2001:db8:0:1::1")).expect("a place");
        assert!(Arc::ptr_eq(&one.0, &same.0) && !Arc::ptr_eq(&one.0, &next.0));
        // Who comes again is the same stranger.
        let share = Arc::clone(&places[0].0);
        drop(places);
        let (again, _place) = strangers.place(address("192.0.2.1")).expect("a place");
        assert!(Arc::ptr_eq(&share, &again));
    }

    #[test]
    fn strangers_without_a_connection_are_forgotten_before_they_fill_the_memory() {
        let strangers = Strangers::default();
        let kept = strangers.place(IpAddr::from([192, 0, 2, 1])).expect("a place");
        for number in 0..ADDRESSES as u32 * 3 {
            let address = std::net::Ipv4Addr::from_bits(0x0a00_0000 + number);
            drop(strangers.place(address.into()).expect("a place"));
        }
        assert!(strangers.0.lock().len() <= ADDRESSES);
        let (share, _place) = strangers.place(IpAddr::from([192, 0, 2, 1])).expect("a place");
        assert!(Arc::ptr_eq(&share, &kept.0));
    }

    #[tokio::test]
    async fn a_connection_arrives_with_its_address_and_no_pod_and_a_crowd_is_cut_off() {
        let listener = GatewayListener::open("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.0.local_addr().unwrap();
        // A successor listens beside its predecessor.
        drop(GatewayListener::open(address).unwrap());
        let (sink, mut arrivals) = mpsc::channel(2 * CONNECTIONS_PER_ADDRESS);
        let cancel = CancellationToken::new();
        let serving = GatewayServing {
            is_enforced: Arc::new(|address| address == IpAddr::from([127, 0, 0, 2])),
            sink,
            cancel: cancel.clone(),
        };
        let running = tokio::spawn(serving.run(listener));
        let mut clients = Vec::new();
        let mut accepted = Vec::new();
        for number in 0..=CONNECTIONS_PER_ADDRESS {
            clients.push(TcpStream::connect(address).await.unwrap());
            match arrivals.recv().await.expect("an arrival") {
                Arrival::Accepted(one) if number < CONNECTIONS_PER_ADDRESS => accepted.push(one),
                Arrival::UnattributedConnection(one) if number == CONNECTIONS_PER_ADDRESS => {
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

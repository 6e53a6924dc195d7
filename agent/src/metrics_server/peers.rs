//! What callers of the metrics' port may have of the node: connections at once and a second, all together and from one address.
//!
//! In: a connection's address. Out: a permit that is free again with the connection, or none.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// Connections at once, from everywhere. Further ones wait in the kernel's queue.
const CONNECTIONS: usize = 32;

/// Likewise from one address. Some scrapers are behind one address; four such addresses fill the port.
pub(super) const CONNECTIONS_PER_ADDRESS: usize = 8;

/// New connections a second, from everywhere. A handshake costs a core about half a millisecond, and a token that nobody knows costs
/// the API server a review.
const PER_SECOND: u32 = 40;

/// Likewise from one address.
const ADDRESS_PER_SECOND: u32 = 10;

/// Addresses that are remembered; beyond this many those without a connection are forgotten.
const REMEMBERED: usize = 1024;

/// Connections as the time until which they have used their part.
#[derive(Debug, Default, Clone, Copy)]
struct Used(Duration);

impl Used {
    /// Counts one more, where a second's worth is not used up; else says how long until there is room.
    fn take(&mut self, now: Duration, per_second: u32) -> Result<(), Duration> {
        let until = self.0.max(now) + Duration::from_secs(1) / per_second;
        match until.checked_sub(now + Duration::from_secs(1)) {
            None | Some(Duration::ZERO) => {
                self.0 = until;
                Ok(())
            }
            Some(wait) => Err(wait),
        }
    }
}

/// All callers.
#[derive(Debug)]
pub(super) struct Peers {
    began: Instant,
    connections: Arc<Semaphore>,
    used: Mutex<Used>,
    known: Mutex<HashMap<IpAddr, Peer>>,
}

#[derive(Debug)]
struct Peer {
    connections: Arc<Semaphore>,
    used: Used,
}

/// A permit for a connection that is still to be accepted.
#[derive(Debug)]
pub(super) struct OpenPermit {
    _permit: Option<OwnedSemaphorePermit>,
}

/// A connection's permit, among all and among those of its address.
#[derive(Debug)]
pub(super) struct PeerPermit {
    _permits: (OpenPermit, OwnedSemaphorePermit),
}

impl Default for Peers {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            connections: Arc::new(Semaphore::new(CONNECTIONS)),
            used: Mutex::default(),
            known: Mutex::default(),
        }
    }
}

impl Peers {
    /// A permit, once there is one, and room for one more connection in this second.
    pub(super) async fn permit(&self) -> OpenPermit {
        // Nobody closes it.
        let permit = Arc::clone(&self.connections).acquire_owned().await.ok();
        loop {
            let taken = self.used.lock().take(self.began.elapsed(), PER_SECOND);
            match taken {
                Ok(()) => return OpenPermit { _permit: permit },
                Err(wait) => tokio::time::sleep(wait).await,
            }
        }
    }

    /// The permit for an address; `None` where the address has as many as it may have.
    pub(super) fn admit(&self, permit: OpenPermit, address: IpAddr) -> Option<PeerPermit> {
        let mut known = self.known.lock();
        if known.len() >= REMEMBERED {
            known.retain(|_, peer| peer.connections.available_permits() < CONNECTIONS_PER_ADDRESS);
        }
        let peer = known.entry(network(address)).or_insert_with(|| Peer {
            connections: Arc::new(Semaphore::new(CONNECTIONS_PER_ADDRESS)),
            used: Used::default(),
        });
        let of_address = Arc::clone(&peer.connections).try_acquire_owned().ok()?;
        peer.used.take(self.began.elapsed(), ADDRESS_PER_SECOND).ok()?;
        Some(PeerPermit {
            _permits: (permit, of_address),
        })
    }
}

/// What counts as one address: of IPv6 the network of 64 bits, since one machine has as many addresses of it as it likes.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_has_its_part_at_once_and_another_has_its_own() {
        let peers = Peers::default();
        let mut held = Vec::new();
        for _ in 0..CONNECTIONS_PER_ADDRESS {
            held.push(peers.admit(peers.permit().await, address(1)).expect("a permit"));
        }
        assert!(peers.admit(peers.permit().await, address(1)).is_none());
        assert!(peers.admit(peers.permit().await, address(2)).is_some());
        held.pop();
        assert!(peers.admit(peers.permit().await, address(1)).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_has_its_part_of_a_second() {
        let peers = Peers::default();
        for _ in 0..ADDRESS_PER_SECOND {
            assert!(peers.admit(peers.permit().await, address(1)).is_some());
        }
        assert!(peers.admit(peers.permit().await, address(1)).is_none());
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(peers.admit(peers.permit().await, address(1)).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn all_together_wait_for_a_place_and_for_the_next_second() {
        let peers = Peers::default();
        let mut held = Vec::new();
        for _ in 0..CONNECTIONS {
            held.push(peers.permit().await);
        }
        assert!(peers.permit().now_or_never().is_none(), "every permit is taken");
        held.clear();
        for _ in CONNECTIONS..PER_SECOND as usize {
            peers.permit().await;
        }
        assert!(
            peers.permit().now_or_never().is_none(),
            "this second's are used up"
        );
        tokio::time::timeout(Duration::from_secs(1), peers.permit())
            .await
            .expect("room in the next second");
    }

    #[tokio::test(start_paused = true)]
    async fn one_network_of_ipv6_is_one_address_and_what_is_remembered_is_bounded() {
        let peers = Peers::default();
        let permit = || OpenPermit { _permit: None };
        let of = |text: &str| text.parse::<IpAddr>().expect("an address");
        assert_eq!(network(of("2001:db8::1")), network(of("2001:db8::ffff:1")));
        assert_eq!(network(of("::ffff:192.0.2.1")), address(1));
        for number in 0..2 * REMEMBERED as u32 {
            peers.admit(permit(), IpAddr::from(number.to_be_bytes()));
        }
        assert!(peers.known.lock().len() <= REMEMBERED);
    }
}

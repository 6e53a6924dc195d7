//! What the gateway's callers may have of the node before a credential has made them known, and how they become known.
//!
//! In: the address of a connection, and later the agent that the connection's first request proved to come from. Out: a
//! [`GatewayCaller`] where there is a place. All strangers together have one small budget, which is apart from what the node's pods
//! have; each address has a part of it. A connection that has become known has the share of its identity, whatever others at
//! its address do.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::EnforcedPodIndex;
use super::metrics::{GatewayLimit, GatewayMetrics};
use crate::listener::PodShare;
use crate::listener::share::ShareLimits;

/// Connections of the gateway at once, from everywhere: as many as one pod may have. Further ones wait in the kernel's queue.
pub(super) const CONNECTIONS: usize = 2048;

/// Connections from one address at once. A client that speaks HTTP/1.1 has one for each watch, and some callers are behind one
/// address; eight such addresses fill the gateway.
pub(super) const CONNECTIONS_PER_ADDRESS: usize = 256;

/// Connections of strangers at once. Each is known or closed within seconds. At some 100 KB each they take 50 MB of the node.
pub(super) const STRANGERS: usize = 512;

/// Likewise from one address: a client that starts opens some ten at once, and eight addresses fill the strangers' places.
pub(super) const STRANGERS_PER_ADDRESS: usize = 64;

/// New connections a second that do not become known: a handshake costs a core about half a millisecond, so that strangers take a
/// quarter of a core at most. A connection that becomes known gives its part back.
const STRANGERS_PER_SECOND: u32 = 512;
/// Likewise from one address.
const ADDRESS_PER_SECOND: u32 = 64;

/// Addresses whose share is remembered after their last connection, so that who comes again does not begin anew. Each is some 500
/// bytes; beyond this many those without a connection are forgotten. Likewise identities.
pub(super) const REMEMBERED: usize = 8192;

/// The longest that a stranger may take for the TLS handshake: four round trips around the world, and a slow machine.
pub const STRANGER_HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);

/// How long a stranger may take from there until its first request has made it known. An issuer of tokens that does not answer
/// takes 5 s of it (`identity::jwt`).
pub const STRANGER_LIMIT: Duration = Duration::from_secs(10);

/// How long a stranger's connection goes on after a refusal, so that the client can read it.
pub const REFUSED_STRANGER_LIMIT: Duration = Duration::from_secs(2);

/// What the strangers of one address have. What a connection keeps for longer than it is a stranger's is as a pod's.
const STRANGER: ShareLimits = ShareLimits {
    requests: STRANGERS_PER_ADDRESS,
    tunnels: 0,
    windows: 0,
    windows_following: 0,
    heads_read: 1,
    // One head of the greatest length, and one that is nearly so long.
    head_kilobytes: 2 * 1024,
    judged_kilobytes: 2 * 1024,
    filtered_kilobytes: 16 * 1024,
    ..ShareLimits::POD
};

/// The gateway's callers; cheap to clone.
#[derive(Debug, Clone)]
pub struct GatewayCallers(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    pods: Arc<dyn EnforcedPodIndex>,
    began: Instant,
    total: Arc<Semaphore>,
    strangers: Arc<Semaphore>,
    addresses: Mutex<Addresses>,
    identities: Mutex<HashMap<Arc<str>, Arc<PodShare>>>,
}

#[derive(Debug, Default)]
struct Addresses {
    known: HashMap<IpAddr, Address>,
    rate: Rate,
}

#[derive(Debug)]
struct Address {
    share: Arc<PodShare>,
    connections: Arc<Semaphore>,
    strangers: Arc<Semaphore>,
    rate: Rate,
}

/// Connections that did not become known, as the time until which they have used their part.
#[derive(Debug, Default)]
struct Rate(Duration);

impl Rate {
    /// Counts one more, where a second's worth is not used up.
    fn take(&mut self, now: Duration, per_second: u32) -> bool {
        let until = self.0.max(now) + Duration::from_secs(1) / per_second;
        let fits = until <= now + Duration::from_secs(1);
        if fits {
            self.0 = until;
        }
        fits
    }

    fn give_back(&mut self, per_second: u32) {
        self.0 = self.0.saturating_sub(Duration::from_secs(1) / per_second);
    }

    /// How long until there is room for one more.
    fn wait(&self, now: Duration, per_second: u32) -> Option<Duration> {
        let next = self.0 + Duration::from_secs(1) / per_second;
        let wait = next.saturating_sub(now + Duration::from_secs(1));
        (!wait.is_zero()).then_some(wait)
    }
}

/// A place for a connection that is still to be accepted.
#[derive(Debug)]
pub(super) struct FreePlace([OwnedSemaphorePermit; 2]);

/// A connection's caller: a stranger, until it is known.
#[derive(Debug)]
pub struct GatewayCaller {
    callers: GatewayCallers,
    address: IpAddr,
    /// Among all connections, and among those of its address.
    _places: [OwnedSemaphorePermit; 2],
    stranger: Mutex<Option<[OwnedSemaphorePermit; 2]>>,
}

impl GatewayCallers {
    /// None yet.
    #[must_use]
    pub fn new(pods: Arc<dyn EnforcedPodIndex>) -> Self {
        Self(Arc::new(Inner {
            pods,
            began: Instant::now(),
            total: Arc::new(Semaphore::new(CONNECTIONS)),
            strangers: Arc::new(Semaphore::new(STRANGERS)),
            addresses: Mutex::default(),
            identities: Mutex::default(),
        }))
    }

    /// A place for a stranger, once there is one, and room for one more handshake.
    pub(super) async fn place(&self, metrics: &GatewayMetrics) -> Option<FreePlace> {
        let one = async |of: &Arc<Semaphore>, limit| {
            if of.available_permits() == 0 {
                metrics.reached(limit);
            }
            // Nobody closes them.
            Arc::clone(of).acquire_owned().await.ok()
        };
        let total = one(&self.0.total, GatewayLimit::Connections).await?;
        let stranger = one(&self.0.strangers, GatewayLimit::Strangers).await?;
        loop {
            let wait = (self.0.addresses.lock().rate).wait(self.0.began.elapsed(), STRANGERS_PER_SECOND);
            match wait {
                Some(wait) => {
                    metrics.reached(GatewayLimit::StrangersPerSecond);
                    tokio::time::sleep(wait).await;
                }
                None => return Some(FreePlace([total, stranger])),
            }
        }
    }

    /// The caller of a connection from an address, and its share while it is a stranger; `None` where the address has as many
    /// connections as it may have.
    pub(super) fn admit(
        &self,
        FreePlace([total, stranger]): FreePlace,
        address: IpAddr,
    ) -> Option<(GatewayCaller, Arc<PodShare>)> {
        let (address, now) = (network(address), self.0.began.elapsed());
        let mut addresses = self.0.addresses.lock();
        let Addresses { known, rate } = &mut *addresses;
        if known.len() >= REMEMBERED {
            known.retain(|_, known| known.connections.available_permits() < CONNECTIONS_PER_ADDRESS);
        }
        let of_address = known.entry(address).or_insert_with(|| Address {
            share: Arc::new(PodShare::with(STRANGER)),
            connections: Arc::new(Semaphore::new(CONNECTIONS_PER_ADDRESS)),
            strangers: Arc::new(Semaphore::new(STRANGERS_PER_ADDRESS)),
            rate: Rate::default(),
        });
        let one = |of: &Arc<Semaphore>| Arc::clone(of).try_acquire_owned().ok();
        let places = [total, one(&of_address.connections)?];
        let stranger = [stranger, one(&of_address.strangers)?];
        if !of_address.rate.take(now, ADDRESS_PER_SECOND) {
            return None;
        }
        // There is room: [`Self::place`] waited for it, and connections are admitted one after another.
        rate.take(now, STRANGERS_PER_SECOND);
        let caller = GatewayCaller {
            callers: self.clone(),
            address,
            _places: places,
            stranger: Mutex::new(Some(stranger)),
        };
        Some((caller, Arc::clone(&of_address.share)))
    }

    /// None yet, at a node of which one enforced pod has this UID.
    #[cfg(test)]
    pub(crate) fn beside_pod(uid: &'static str) -> Self {
        #[derive(Debug)]
        struct OnePod(&'static str);
        impl EnforcedPodIndex for OnePod {
            fn has_address(&self, _: IpAddr) -> bool {
                false
            }

            fn has_uid(&self, uid: &str) -> bool {
                uid == self.0
            }
        }
        Self::new(Arc::new(OnePod(uid)))
    }

    /// A stranger at an address.
    #[cfg(test)]
    pub(crate) fn stranger(&self, address: IpAddr) -> Option<(GatewayCaller, Arc<PodShare>)> {
        let place = |of: &Arc<Semaphore>| Arc::clone(of).try_acquire_owned().ok();
        let place = FreePlace([place(&self.0.total)?, place(&self.0.strangers)?]);
        self.admit(place, address)
    }

    /// How many places are left for strangers.
    #[cfg(test)]
    pub(crate) fn left_for_strangers(&self) -> usize {
        self.0.strangers.available_permits()
    }
}

impl GatewayCaller {
    /// The node's enforced pods.
    pub fn enforced_pods(&self) -> &dyn EnforcedPodIndex {
        &*self.callers.0.pods
    }

    /// The connection is known to be an agent's: its place among the strangers is free again. Gives the identity's share.
    pub fn known_as(&self, identity: &Arc<str>) -> Arc<PodShare> {
        let inner = &self.callers.0;
        if self.stranger.lock().take().is_some() {
            let mut addresses = inner.addresses.lock();
            addresses.rate.give_back(STRANGERS_PER_SECOND);
            if let Some(address) = addresses.known.get_mut(&self.address) {
                address.rate.give_back(ADDRESS_PER_SECOND);
            }
        }
        let mut identities = inner.identities.lock();
        if identities.len() >= REMEMBERED {
            identities.retain(|_, share| Arc::strong_count(share) > 1);
        }
        Arc::clone(identities.entry(Arc::clone(identity)).or_default())
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
#[path = "strangers_tests.rs"]
mod tests;

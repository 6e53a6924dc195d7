//! What callers of a port may have at once: connections, all together and from one address.
//!
//! In: a connection's address. Out: a permit that is free again with the connection, or none.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// All callers.
#[derive(Debug)]
pub(crate) struct ConnectionCapacity {
    all: Arc<Semaphore>,
    /// Half of all: whoever dials from one address leaves as many to the others.
    of_address: usize,
    by_address: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// A connection's permit.
#[derive(Debug)]
pub(crate) struct ConnectionPermit {
    address: IpAddr,
    by_address: Arc<Mutex<HashMap<IpAddr, usize>>>,
    _permit: Option<OwnedSemaphorePermit>,
}

impl ConnectionCapacity {
    /// So many connections at once. Each ends within seconds; further ones wait in the kernel's queue.
    pub(crate) fn new(all: usize) -> Self {
        Self {
            all: Arc::new(Semaphore::new(all)),
            of_address: all.div_ceil(2),
            by_address: Arc::default(),
        }
    }

    /// A permit for a connection that is still to be accepted, once there is one.
    pub(crate) async fn open(&self) -> Option<OwnedSemaphorePermit> {
        // Nobody closes it.
        Arc::clone(&self.all).acquire_owned().await.ok()
    }

    /// The permit for an address; `None` where the address has as many as it may have.
    pub(crate) fn admit(
        &self,
        permit: Option<OwnedSemaphorePermit>,
        address: IpAddr,
    ) -> Option<ConnectionPermit> {
        let address = address.to_canonical();
        let mut known = self.by_address.lock();
        let count = known.entry(address).or_default();
        if *count >= self.of_address {
            return None;
        }
        *count += 1;
        Some(ConnectionPermit {
            address,
            by_address: Arc::clone(&self.by_address),
            _permit: permit,
        })
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        let mut known = self.by_address.lock();
        if let Some(count) = known.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                known.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_takes_half_of_the_places_and_gives_them_back() {
        const CONNECTIONS: usize = 8;
        let capacity = ConnectionCapacity::new(CONNECTIONS);
        let one: IpAddr = "192.0.2.1".parse().unwrap();
        let mut held = Vec::new();
        for _ in 0..CONNECTIONS / 2 {
            let permit = capacity.open().await;
            held.push(capacity.admit(permit, one).expect("a permit"));
        }
        let permit = capacity.open().await;
        assert!(
            capacity
                .admit(permit, "::ffff:192.0.2.1".parse().unwrap())
                .is_none()
        );
        let permit = capacity.open().await;
        let other = capacity.admit(permit, "192.0.2.2".parse().unwrap());
        assert!(other.is_some());
        assert_eq!(capacity.all.available_permits(), CONNECTIONS / 2 - 1);
        drop((held, other));
        assert_eq!(capacity.all.available_permits(), CONNECTIONS);
        assert!(capacity.by_address.lock().is_empty(), "addresses are forgotten");
    }
}

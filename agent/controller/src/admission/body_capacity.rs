//! How much text of bodies the webhooks hold at once: all together, and of one address.
//!
//! In: the address and the length of a body that is to be read. Out: capacity for it, once there is some. Bodies of common length have room
//! of their own, so that long ones, or whoever says that a long one comes and sends none, do not keep them waiting.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The longest body of common length, in bytes. A pod has some ten thousand.
const COMMON: u32 = 256 * 1024;

/// Room for bodies of common length, and for longer ones, in KiB. One of the longest bodies takes half of the latter.
const COMMON_KIB: usize = 4 * 1024;
const LONG_KIB: usize = 16 * 1024;

/// What all bodies together may take.
#[derive(Debug)]
pub(super) struct BodyCapacity {
    common: Part,
    long: Part,
}

impl Default for BodyCapacity {
    fn default() -> Self {
        Self {
            common: Part::new(COMMON_KIB),
            long: Part::new(LONG_KIB),
        }
    }
}

impl BodyCapacity {
    /// Room for a body of so many bytes, once there is some.
    pub(super) async fn take(&self, address: IpAddr, length: u32) -> Taken {
        let part = if length <= COMMON {
            &self.common
        } else {
            &self.long
        };
        part.take(address.to_canonical(), length.div_ceil(1024)).await
    }
}

type ByAddress = Arc<Mutex<HashMap<IpAddr, Share>>>;

#[derive(Debug)]
struct Part {
    all: Arc<Semaphore>,
    of_address: usize,
    by_address: ByAddress,
}

/// What one address may take.
#[derive(Debug)]
struct Share {
    left: Arc<Semaphore>,
    /// Those who hold or wait for a part of it.
    users: usize,
}

impl Part {
    fn new(kib: usize) -> Self {
        Self {
            all: Arc::new(Semaphore::new(kib)),
            of_address: kib / 2,
            by_address: Arc::default(),
        }
    }

    async fn take(&self, address: IpAddr, kib: u32) -> Taken {
        let (user, left) = self.user(address);
        // The address's own first: one that has its share waits there, and in nobody's way. Nobody closes a semaphore.
        let own = left.acquire_many_owned(kib).await.ok();
        let all = Arc::clone(&self.all).acquire_many_owned(kib).await.ok();
        Taken {
            _permits: [own, all],
            _user: user,
        }
    }

    fn user(&self, address: IpAddr) -> (User, Arc<Semaphore>) {
        let mut known = self.by_address.lock();
        let share = known.entry(address).or_insert_with(|| Share {
            left: Arc::new(Semaphore::new(self.of_address)),
            users: 0,
        });
        share.users += 1;
        let user = User {
            address,
            by_address: Arc::clone(&self.by_address),
        };
        (user, Arc::clone(&share.left))
    }
}

/// Room that is free again when this is dropped.
#[derive(Debug)]
pub(super) struct Taken {
    _permits: [Option<OwnedSemaphorePermit>; 2],
    _user: User,
}

#[derive(Debug)]
struct User {
    address: IpAddr,
    by_address: ByAddress,
}

impl Drop for User {
    fn drop(&mut self) {
        let mut known = self.by_address.lock();
        if let Some(share) = known.get_mut(&self.address) {
            share.users -= 1;
            if share.users == 0 {
                known.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const LONGEST: u32 = 8 * 1024 * 1024;

    /// Whether there is room now.
    async fn now(bodies: &BodyCapacity, address: &str, length: u32) -> Option<Taken> {
        let taken = bodies.take(address.parse().unwrap(), length);
        tokio::time::timeout(Duration::from_millis(1), taken).await.ok()
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_takes_half_of_the_room_and_leaves_the_rest() {
        let bodies = BodyCapacity::default();
        let first = now(&bodies, "192.0.2.1", LONGEST).await;
        assert!(first.is_some());
        assert!(now(&bodies, "::ffff:192.0.2.1", LONGEST).await.is_none());
        let other = now(&bodies, "192.0.2.2", LONGEST).await;
        assert!(other.is_some());
        // Long bodies are in the way of long ones alone.
        assert!(now(&bodies, "192.0.2.3", LONGEST).await.is_none());
        let mut common = Vec::new();
        while let Some(taken) = now(&bodies, "192.0.2.1", COMMON).await {
            common.push(taken);
        }
        assert_eq!(common.len(), 8);
        assert!(now(&bodies, "192.0.2.3", COMMON).await.is_some());
        drop((first, other, common));
        for part in [&bodies.common, &bodies.long] {
            assert!(part.by_address.lock().is_empty(), "addresses are forgotten");
        }
        assert_eq!(bodies.common.all.available_permits(), COMMON_KIB);
        assert_eq!(bodies.long.all.available_permits(), LONG_KIB);
    }
}

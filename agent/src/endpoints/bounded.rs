//! The addresses that objects may bring which count as the API server itself: only so many, whoever wrote the objects.
//!
//! In: addresses and ports of such objects, never multiplied out. Out: those that count, with the ones withdrawn a short time ago, and
//! how many are left out.
//!
//! What counts as the API server goes before everything else in the kernel's table. Without a bound, whoever may write the
//! Service `kubernetes` or its slices would push all other protected endpoints out, and fill the agent's memory.

use std::collections::{BTreeSet, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::time::Instant;

use super::grace::GracePeriods;

/// How many addresses with ports may count, and how many different ports among them. Each port counts on every address of the nodes
/// that run an API server.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bound {
    pub(super) endpoints: usize,
    pub(super) ports: usize,
}

/// For the EndpointSlice `kubernetes`, which the API servers themselves write. A control plane has one to seven API servers, and
/// one port. Those of the last minutes count too, so that a control plane can be replaced many times over.
pub(super) const OWN_SLICE: Bound = Bound {
    endpoints: 256,
    ports: 16,
};

/// For slices of the Service `kubernetes` with other names: no part of Kubernetes writes one. They take nothing of the former.
pub(super) const OTHER_SLICES: Bound = Bound {
    endpoints: 64,
    ports: 8,
};

/// For the cluster addresses of the Service `kubernetes`: one or two, with one port.
pub(super) const OWN_SERVICE: Bound = Bound {
    endpoints: 64,
    ports: 32,
};

/// Every address with every port.
#[derive(Debug)]
pub(super) struct Product {
    addresses: BTreeSet<IpAddr>,
    ports: BTreeSet<u16>,
}

impl Product {
    pub(super) fn new(
        addresses: impl IntoIterator<Item = IpAddr>,
        ports: impl IntoIterator<Item = u16>,
    ) -> Self {
        Self {
            addresses: addresses.into_iter().collect(),
            ports: ports.into_iter().collect(),
        }
    }

    fn has(&self, at: &SocketAddr) -> bool {
        self.ports.contains(&at.port()) && self.addresses.contains(&at.ip())
    }

    fn len(&self) -> usize {
        self.addresses.len().saturating_mul(self.ports.len())
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Addresses that count, no more than a [`Bound`].
#[derive(Debug)]
pub(super) struct BoundedEndpoints {
    bound: Bound,
    held: GracePeriods<SocketAddr>,
    omitted: usize,
}

impl BoundedEndpoints {
    /// None yet. What is withdrawn counts for so long.
    pub(super) fn new(bound: Bound, stays: Duration) -> Self {
        Self {
            bound,
            held: GracePeriods::new(stays),
            omitted: 0,
        }
    }

    /// Takes in all that is named now. Where that is too much, what counts already stays; then comes what the kernel holds.
    pub(super) fn refresh(&mut self, now: Instant, named: &[Product], in_kernel: &HashSet<SocketAddr>) {
        // Those whose time is over leave first, and make room.
        let is_named = |at: &SocketAddr| named.iter().any(|product| product.has(at));
        let still: Vec<SocketAddr> = self.held.keys().copied().filter(is_named).collect();
        self.held.refresh(now, still.into_iter().map(|at| (at, ())));
        let total = named
            .iter()
            .fold(0_usize, |sum, product| sum.saturating_add(product.len()));
        let mut room = Room::new(self.bound, self.held.keys());
        if total > self.bound.endpoints || named.iter().any(|product| product.ports.len() > self.bound.ports)
        {
            let mut protected: Vec<_> = in_kernel.iter().copied().filter(is_named).collect();
            protected.sort_unstable();
            for at in protected {
                room.take(at);
            }
        }
        for product in named {
            room.take_all(product);
        }
        self.held.add(room.taken);
        let omitted =
            |product: &Product| product.len() - self.held.keys().filter(|at| product.has(at)).count();
        self.omitted = named
            .iter()
            .fold(0, |sum, product| usize::saturating_add(sum, omitted(product)));
    }

    /// Those that count.
    pub(super) fn keys(&self) -> impl Iterator<Item = &SocketAddr> {
        self.held.keys()
    }

    /// How many count.
    pub(super) fn len(&self) -> usize {
        self.held.len()
    }

    /// How many are named now and do not count; at least so many.
    pub(super) fn omitted(&self) -> usize {
        self.omitted
    }
}

/// Whether any of them has an address with a port.
pub(super) fn names_any(named: &[Product]) -> bool {
    named.iter().any(|product| !product.is_empty())
}

/// What a bound leaves beside what counts already.
struct Room {
    bound: Bound,
    held: BTreeSet<SocketAddr>,
    ports: BTreeSet<u16>,
    taken: BTreeSet<SocketAddr>,
}

impl Room {
    fn new<'a>(bound: Bound, held: impl Iterator<Item = &'a SocketAddr>) -> Self {
        let held: BTreeSet<_> = held.copied().collect();
        Self {
            bound,
            ports: held.iter().map(SocketAddr::port).collect(),
            held,
            taken: BTreeSet::new(),
        }
    }

    fn is_full(&self) -> bool {
        self.held.len() + self.taken.len() >= self.bound.endpoints
    }

    fn admits(&self, port: u16) -> bool {
        self.ports.contains(&port) || self.ports.len() < self.bound.ports
    }

    fn take(&mut self, at: SocketAddr) {
        if self.held.contains(&at) || self.is_full() || !self.admits(at.port()) {
            return;
        }
        self.ports.insert(at.port());
        self.taken.insert(at);
    }

    /// As much of a product as there is room for, without a look at the rest.
    fn take_all(&mut self, product: &Product) {
        for port in &product.ports {
            for address in &product.addresses {
                if self.is_full() {
                    return;
                }
                if !self.admits(*port) {
                    break;
                }
                self.take(SocketAddr::new(*address, *port));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUND: Bound = Bound {
        endpoints: 4,
        ports: 2,
    };

    const STAYS: Duration = Duration::from_secs(300);

    fn product(first: u8, count: u8, ports: &[u16]) -> Product {
        let addresses = (0..count).map(|number| IpAddr::from([10, 0, 0, first + number]));
        Product::new(addresses, ports.iter().copied())
    }

    fn texts(of: &BoundedEndpoints) -> Vec<String> {
        of.keys().map(ToString::to_string).collect()
    }

    #[test]
    fn no_more_than_the_bound_counts_and_the_rest_is_counted() {
        let mut bounded = BoundedEndpoints::new(BOUND, STAYS);
        let none = HashSet::new();
        let start = Instant::now();
        bounded.refresh(start, &[product(1, 2, &[6443])], &none);
        assert_eq!((bounded.len(), bounded.omitted()), (2, 0));
        bounded.refresh(start, &[product(1, 200, &[1, 2, 6443])], &none);
        assert_eq!((bounded.len(), bounded.omitted()), (4, 596));
        let now = texts(&bounded);
        assert!(now.contains(&"10.0.0.1:6443".to_owned()) && now.contains(&"10.0.0.2:6443".to_owned()));
        let ports: BTreeSet<u16> = bounded.keys().map(SocketAddr::port).collect();
        assert_eq!(ports, [1, 6443].into(), "no third port");
    }

    #[test]
    fn the_withdrawn_take_room_until_their_time_is_over() {
        let mut bounded = BoundedEndpoints::new(BOUND, STAYS);
        let none = HashSet::new();
        let start = Instant::now();
        for (round, first) in [(0, 1), (1, 11), (2, 21), (3, 31)] {
            let now = start + Duration::from_secs(round);
            bounded.refresh(now, &[product(first, 3, &[6443])], &none);
            assert!(bounded.len() <= 4, "one after the other fills nothing");
        }
        assert!(
            texts(&bounded).contains(&"10.0.0.1:6443".to_owned()),
            "it was first"
        );
        bounded.refresh(start + STAYS * 2, &[product(31, 3, &[6443])], &none);
        assert_eq!(
            texts(&bounded),
            ["10.0.0.31:6443", "10.0.0.32:6443", "10.0.0.33:6443"]
        );
    }

    #[test]
    fn what_the_kernel_holds_goes_before_what_is_new() {
        let mut bounded = BoundedEndpoints::new(BOUND, STAYS);
        let in_kernel = ["10.0.0.9:6443", "10.0.0.200:6443"];
        let in_kernel = in_kernel.iter().map(|at| at.parse().unwrap()).collect();
        bounded.refresh(Instant::now(), &[product(1, 20, &[1, 2, 6443])], &in_kernel);
        let now = texts(&bounded);
        assert!(now.contains(&"10.0.0.9:6443".to_owned()), "{now:?}");
        assert!(!now.contains(&"10.0.0.200:6443".to_owned()), "nobody names it");
    }

    #[test]
    fn a_product_is_not_multiplied_out() {
        let addresses = (0..100_000_u32).map(|number| IpAddr::from((0x0a00_0000 + number).to_be_bytes()));
        let product = Product::new(addresses, 1..=u16::MAX);
        let mut bounded = BoundedEndpoints::new(OWN_SLICE, STAYS);
        bounded.refresh(Instant::now(), &[product], &HashSet::new());
        assert_eq!(bounded.len(), OWN_SLICE.endpoints);
        assert_eq!(bounded.omitted(), 100_000 * 65_535 - OWN_SLICE.endpoints);
    }
}

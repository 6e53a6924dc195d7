//! Which addresses are protected endpoints, from all that is known at one moment.
//!
//! In: the cluster's objects, the node's own addresses, names' addresses, and the configuration. Out: an [`EndpointSet`], by a
//! plain function. `grace` keeps what was a protected endpoint a moment ago.
//!
//! An address can be both redirected and denied. The API server's own addresses are always redirected: a denied API server is
//! of no use, and a redirect lets nothing past either. Other addresses stay denied, so nobody can open them to Picket's
//! listener by a Service with mixed endpoints.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::LazyLock;

use picket_policy::DEFAULT_NAMESPACE;

use super::cache::ObjectCache;
use super::dns::DnsNames;
use super::projections::{Key, NodeProjection, ServicePort, ServiceProjection, SliceProjection};
use super::target::EndpointTarget;

/// The name of the API server's own Service, which is in the namespace `default`, and of the slice that API servers write.
const OWN_SERVICE: &str = "kubernetes";

/// Where clouds tell a machine what it is, its credentials included: nearly all of them (the first), and by other addresses AWS,
/// Google, OpenStack, Oracle (the older cloud too), Alibaba, Scaleway, and Azure's own agent with its two ports. The
/// last three are GKE's metadata server, which a node's rules take its pods to.
static METADATA: LazyLock<Vec<SocketAddr>> = LazyLock::new(|| {
    let addresses = [
        "169.254.169.254:80",
        "[fd00:ec2::254]:80",
        "[fd20:ce::254]:80",
        "[fe80::a9fe:a9fe]:80",
        "[fd00:c1::a9fe:a9fe]:80",
        "192.0.0.192:80",
        "100.100.100.200:80",
        "[fd00:100::100:200]:80",
        "169.254.42.42:80",
        "[fd00:42::42]:80",
        "168.63.129.16:80",
        "168.63.129.16:32526",
        "169.254.169.252:988",
        "169.254.169.254:988",
        "169.254.169.254:8080",
    ];
    addresses.iter().filter_map(|text| text.parse().ok()).collect()
});

/// GKE's metadata server on each node: it gives pods the credentials of their service accounts, and listens on all addresses.
const NODE_METADATA: [u16; 1] = [988];

/// The kubelet's port where a node tells no other, and its old one without authentication.
const KUBELET: [u16; 2] = [10_250, 10_255];

/// etcd for its clients and for its peers. An API server's own etcd runs on the same nodes.
const ETCD: [u16; 2] = [2379, 2380];

/// A container runtime's socket as a TCP port: Docker's, without and with TLS.
const RUNTIME: [u16; 2] = [2375, 2376];

/// Where a node takes packets out of packets, whoever sent them: VXLAN (RFC 7348), VXLAN as Linux and flannel have it, Geneve
/// (RFC 8926). What is inside goes on to wherever it says.
const TUNNELS: [u16; 3] = [4789, 8472, 6081];

/// Services that lead to Services that lead to a protected endpoint are followed so far. A packet is translated at most once on each node
/// that it passes, and does not pass more than its hop limit, 64 unless a system is configured otherwise.
pub(super) const ROUNDS: usize = 64;

/// What is kept of a slice's addresses that lead to protected endpoints where there is no room for all: more than an API server has,
/// so that each port that leads to one still does.
const LEADING_ADDRESSES: usize = 64;

/// A word for what is at a denied address, by where such things are: few words, whatever pods dial.
#[must_use]
pub fn denied_as(address: SocketAddr) -> &'static str {
    let by_port: [(&[u16], _); 5] = [
        (&NODE_METADATA, "metadata"),
        (&KUBELET, "kubelet"),
        (&ETCD, "etcd"),
        (&RUNTIME, "container-runtime"),
        (&TUNNELS, "tunnel"),
    ];
    if METADATA.contains(&address) {
        return "metadata";
    }
    let found = by_port.iter().find(|(ports, _)| ports.contains(&address.port()));
    found.map_or("other", |(_, word)| word)
}

/// The address by which the kernel's programs judge this one: an IPv6 link-local address stands for all of them, as each pod
/// adds a link to its node, and others stand for themselves.
#[must_use]
pub fn by_link(address: IpAddr) -> IpAddr {
    if picket_common::Address::from(address).is_link_local() {
        picket_common::Address::LINK_LOCAL.to_ip()
    } else {
        address
    }
}

/// What happens at a protected endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Action {
    /// Taken to Picket.
    Redirect,
    /// Denied.
    Deny,
}

/// Why an address is a protected endpoint; where there are more protected endpoints than the kernel holds, the first are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rank {
    /// Configured: nothing that objects bring goes before it.
    Configured,
    /// The API server's own.
    Api,
    /// The cloud's metadata.
    Fixed,
    /// Beside the API server.
    Etcd,
    /// A Service that leads to a protected endpoint.
    Service,
    /// On every node.
    Kubelet,
    /// Likewise, and seldom open.
    Runtime,
}

/// One protected endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RankedEndpoint {
    pub(super) rank: Rank,
    pub(super) action: Action,
}

/// All that tells which addresses are protected endpoints.
pub(super) struct Sources<'a> {
    /// This node's name.
    pub(super) node: &'a str,
    /// Its addresses, from its kernel.
    pub(super) node_addresses: &'a BTreeSet<IpAddr>,
    /// Where the configuration says that the API server is.
    pub(super) redirect: &'a [EndpointTarget],
    /// What the configuration denies.
    pub(super) deny: &'a [EndpointTarget],
    /// Ports that are denied on every node.
    pub(super) deny_on_nodes: &'a [u16],
    /// What the configuration leaves open of what would be denied.
    pub(super) allow: &'a BTreeSet<SocketAddr>,
    /// The API server's endpoints.
    pub(super) api_servers: &'a BTreeSet<SocketAddr>,
    /// The cluster addresses of the API server's Service with its ports.
    pub(super) own_service: &'a BTreeSet<SocketAddr>,
    /// The API server's Service, as it was when it last had a cluster address.
    pub(super) service: Option<&'a ServiceProjection>,
    pub(super) services: &'a ObjectCache<ServiceProjection>,
    pub(super) slices: &'a ObjectCache<SliceProjection>,
    pub(super) nodes: &'a ObjectCache<NodeProjection>,
    pub(super) names: &'a DnsNames,
    /// What was found last.
    pub(super) before: &'a EndpointSet,
    /// Whether the cluster had told all by then.
    pub(super) whole: bool,
    /// The protected endpoints that the kernel holds.
    pub(super) in_kernel: &'a HashSet<SocketAddr>,
    /// The same by their ports.
    pub(super) in_kernel_at: &'a HashMap<u16, Vec<IpAddr>>,
    /// How many it can hold.
    pub(super) limit: usize,
}

/// The protected endpoints, and the names that have to be looked up to know them all.
#[derive(Debug, Default)]
pub(super) struct EndpointSet {
    endpoints: HashMap<SocketAddr, RankedEndpoint>,
    /// In the order of their importance, each once.
    names: Vec<String>,
    wanted: HashSet<String>,
    /// Protected endpoints by Services alone.
    by_services: usize,
    /// Of those, how many are reserved for what was found last.
    reserved: usize,
    /// Of those, how many did not fit.
    omitted: usize,
    /// Whether only those by Services count for now that the kernel holds already.
    only_held: bool,
}

/// Whether an object is the API server's own Service, or a slice of it.
pub(super) fn is_own(namespace: &str, service: &str) -> bool {
    namespace == DEFAULT_NAMESPACE && service == OWN_SERVICE
}

/// Under which the API server's own Service is listed, and the slice that API servers write.
pub(super) fn own_service() -> Key {
    (DEFAULT_NAMESPACE.to_owned(), OWN_SERVICE.to_owned())
}

impl EndpointSet {
    /// Finds all protected endpoints.
    pub(super) fn new(from: &Sources<'_>) -> Self {
        let mut found = Self {
            reserved: from.before.by_services.min(from.limit / 2),
            ..Self::default()
        };
        let nodes = nodes(from);
        let everywhere: BTreeSet<IpAddr> = nodes
            .iter()
            .flat_map(|node| node.addresses.iter().copied())
            .collect();
        found.api_server(from, &nodes);
        found.denied(from, &nodes);
        found.services(from, &everywhere);
        found
    }

    /// All protected endpoints by their addresses.
    pub(super) fn endpoints(&self) -> impl Iterator<Item = (SocketAddr, RankedEndpoint)> {
        self.endpoints
            .iter()
            .map(|(address, endpoint)| (*address, *endpoint))
    }

    /// The names to look up, the most important first.
    pub(super) fn names(&self) -> &[String] {
        &self.names
    }

    /// Whether an address is one.
    pub(super) fn contains(&self, address: &SocketAddr) -> bool {
        self.endpoints.contains_key(address)
    }

    /// How many protected endpoints did not fit.
    pub(super) fn omitted(&self) -> usize {
        self.omitted
    }

    /// Whether a slice leads to a protected endpoint.
    pub(super) fn reached_by(&self, slice: &SliceProjection) -> bool {
        let addresses = |port: u16| {
            slice
                .addresses
                .iter()
                .map(move |address| SocketAddr::new(*address, port))
        };
        let mut all = slice.ports.iter().flat_map(|(_, port)| addresses(*port));
        all.any(|address| self.endpoints.contains_key(&address))
    }

    /// What of a slice leads to protected endpoints, as far as it takes to know that its Service does.
    pub(super) fn leading_part(&self, slice: &SliceProjection) -> Option<SliceProjection> {
        let leads = |address: &IpAddr| {
            let mut ports = slice.ports.iter();
            ports.any(|(_, port)| self.endpoints.contains_key(&SocketAddr::new(*address, *port)))
        };
        let leading = slice.addresses.iter().copied().filter(leads);
        let addresses: Box<[IpAddr]> = leading.take(LEADING_ADDRESSES).collect();
        (!addresses.is_empty()).then(|| SliceProjection {
            service: slice.service.clone(),
            addresses,
            ports: slice.ports.clone(),
        })
    }

    fn api_server(&mut self, from: &Sources<'_>, nodes: &[NodeProjection]) {
        let configured = self.resolve(from.redirect, from.names);
        for address in &configured {
            self.put(*address, Action::Redirect, Rank::Configured);
        }
        for address in from.api_servers.iter().chain(from.own_service) {
            self.put(*address, Action::Redirect, Rank::Api);
        }
        // What is bound to all addresses of a node answers on each of them: the pod bridge's, a tunnel's, loopback.
        let listens: BTreeSet<SocketAddr> = from.api_servers.iter().chain(&configured).copied().collect();
        for node in nodes {
            for port in api_ports(node, &listens, from.api_servers) {
                for address in &node.addresses {
                    self.put(SocketAddr::new(*address, port), Action::Redirect, Rank::Api);
                }
            }
        }
    }

    fn denied(&mut self, from: &Sources<'_>, nodes: &[NodeProjection]) {
        let configured = self.resolve(from.deny, from.names);
        let metadata = METADATA.iter().copied();
        let mut deny = |address, rank| {
            if !from.allow.contains(&address) {
                self.put(address, Action::Deny, rank);
            }
        };
        for address in configured {
            deny(address, Rank::Configured);
        }
        for address in metadata {
            deny(address, Rank::Fixed);
        }
        for node in nodes {
            let etcd = !api_ports(node, from.api_servers, from.api_servers).is_empty();
            for address in &node.addresses {
                let mut ports = |ports: &[u16], rank| {
                    for port in ports {
                        deny(SocketAddr::new(*address, *port), rank);
                    }
                };
                if etcd {
                    ports(&ETCD, Rank::Etcd);
                }
                ports(&KUBELET, Rank::Kubelet);
                ports(from.deny_on_nodes, Rank::Kubelet);
                ports(node.kubelet.as_slice(), Rank::Kubelet);
                ports(&RUNTIME, Rank::Runtime);
                ports(&NODE_METADATA, Rank::Kubelet);
                ports(&TUNNELS, Rank::Kubelet);
            }
        }
    }

    /// Services that lead to a protected endpoint, and Services that lead to those.
    fn services(&mut self, from: &Sources<'_>, everywhere: &BTreeSet<IpAddr>) {
        // An agent before this one protected some of them, and this one has not found all yet: those first, so that they stay so.
        self.only_held = !from.whole;
        if self.only_held {
            for _ in 0..ROUNDS {
                if !self.services_round(from, everywhere) {
                    break;
                }
            }
            self.only_held = false;
        }
        for _ in 0..ROUNDS {
            if !self.services_round(from, everywhere) {
                return;
            }
        }
        // The next round is for the number alone.
        let (endpoints, by_services) = (self.endpoints.clone(), self.by_services);
        self.services_round(from, everywhere);
        let left_out = self.endpoints.len() - endpoints.len();
        (self.endpoints, self.by_services) = (endpoints, by_services);
        self.omitted += left_out;
        if left_out > 0 {
            tracing::error!(
                limit = ROUNDS,
                omitted = left_out,
                "Services lead to protected endpoints by longer chains of Services than the agent follows: enforced pods can reach them"
            );
        }
    }

    /// Services that lead to what is a protected endpoint so far; says whether they added to it.
    fn services_round(&mut self, from: &Sources<'_>, everywhere: &BTreeSet<IpAddr>) -> bool {
        // Most endpoints have ports that no protected endpoint has, and need no look at their addresses.
        let ports: HashSet<u16> = self.endpoints.keys().map(SocketAddr::port).collect();
        let mut changed = false;
        self.omitted = 0;
        // Of the API server's own Service, whatever the cluster did not give it: whoever may write it may bring any number.
        for port in from.service.iter().flat_map(|service| &service.ports) {
            changed |= self.service(from, from.service, port, everywhere, Action::Redirect);
        }
        for ((namespace, _), slice) in from.slices.iter() {
            if is_own(namespace, &slice.service) {
                continue;
            }
            for (name, port) in slice.ports.iter().filter(|(_, port)| ports.contains(port)) {
                let endpoints = slice.addresses.iter().filter_map(|address| {
                    let endpoint = self.endpoints.get(&SocketAddr::new(*address, *port))?;
                    Some(endpoint.action)
                });
                let Some(action) = endpoints.max() else {
                    continue;
                };
                let service = from.services.get(&(namespace.clone(), slice.service.clone()));
                let leading = service.into_iter().flat_map(|service| &service.ports);
                for port in leading.filter(|port| port.name == *name) {
                    changed |= self.service(from, service, port, everywhere, action);
                }
            }
        }
        changed
    }

    /// One port of a Service at its own addresses and on all nodes.
    fn service(
        &mut self,
        from: &Sources<'_>,
        service: Option<&ServiceProjection>,
        port: &ServicePort,
        everywhere: &BTreeSet<IpAddr>,
        action: Action,
    ) -> bool {
        let Some(service) = service else {
            return false;
        };
        let mut changed = false;
        for name in &service.names {
            self.want(name);
            for address in from.names.addresses(name) {
                changed |= self.put_limited(SocketAddr::new(address, port.port), action, from);
            }
        }
        if service.addresses.len().saturating_mul(service.ports.len()) > from.limit / 2 {
            changed |= self.large_service(from, service, port.port, action);
        } else {
            for address in &service.addresses {
                changed |= self.put_limited(SocketAddr::new(*address, port.port), action, from);
            }
        }
        for address in port
            .node_port
            .iter()
            .flat_map(|port| everywhere.iter().map(|address| (*address, *port)))
        {
            changed |= self.put_limited(address.into(), action, from);
        }
        changed
    }

    /// One port of a Service that has more addresses with ports than Services may have at all: those that the kernel holds, and others
    /// until there is no room. So nobody keeps the agent busy with the rest.
    fn large_service(
        &mut self,
        from: &Sources<'_>,
        service: &ServiceProjection,
        port: u16,
        action: Action,
    ) -> bool {
        let mut changed = false;
        let held = from.in_kernel_at.get(&port).into_iter().flatten();
        for address in held.filter(|address| service.addresses.contains(address)) {
            changed |= self.put_limited(SocketAddr::new(*address, port), action, from);
        }
        if self.only_held {
            return changed;
        }
        for (place, address) in service.addresses.iter().enumerate() {
            if self.by_services + self.reserved >= from.limit / 2 {
                self.omitted += service.addresses.len() - place;
                break;
            }
            changed |= self.put_limited(SocketAddr::new(*address, port), action, from);
        }
        changed
    }

    /// The addresses of the configuration's targets.
    fn resolve(&mut self, targets: &[EndpointTarget], names: &DnsNames) -> Vec<SocketAddr> {
        let mut addresses = Vec::new();
        for target in targets {
            match target {
                EndpointTarget::Address(address) => addresses.push(*address),
                EndpointTarget::Name { host, port } => {
                    self.want(host);
                    addresses.extend(
                        names
                            .addresses(host)
                            .map(|address| SocketAddr::new(address, *port)),
                    );
                }
            }
        }
        addresses
    }

    fn want(&mut self, name: &str) {
        if self.wanted.insert(name.to_owned()) {
            self.names.push(name.to_owned());
        }
    }

    /// As [`EndpointSet::put`], but of what anybody can make any number of no more than half of what the kernel holds: nobody pushes
    /// the kubelets out, nor what was found before.
    fn put_limited(
        &mut self,
        address: SocketAddr,
        action: Action,
        Sources {
            before,
            in_kernel,
            limit,
            ..
        }: &Sources<'_>,
    ) -> bool {
        if self.endpoints.contains_key(&address) {
            // Its rank stays: a kubelet's address is no less one because a Service has it too.
            return self.put(address, action, Rank::Runtime);
        }
        if self.only_held && !in_kernel.contains(&address) {
            return false;
        }
        if before.is_by_service(address) {
            self.reserved = self.reserved.saturating_sub(1);
        } else if self.by_services + self.reserved >= limit / 2 {
            self.omitted += 1;
            return false;
        }
        self.by_services += 1;
        self.put(address, action, Rank::Service)
    }

    fn is_by_service(&self, address: SocketAddr) -> bool {
        let endpoint = self.endpoints.get(&address);
        endpoint.is_some_and(|endpoint| endpoint.rank == Rank::Service)
    }

    /// Makes an address a protected endpoint; says whether that changed what happens there.
    fn put(&mut self, address: SocketAddr, action: Action, rank: Rank) -> bool {
        let Some(endpoint) = self.endpoints.get_mut(&address) else {
            self.endpoints.insert(address, RankedEndpoint { rank, action });
            return true;
        };
        if endpoint.rank <= Rank::Api && endpoint.action == Action::Redirect {
            return false;
        }
        endpoint.rank = endpoint.rank.min(rank);
        let stricter = action > endpoint.action;
        endpoint.action = endpoint.action.max(action);
        stricter
    }
}

/// The ports at which an API server listens on a node: those of addresses that are this node's, and on a node of the control
/// plane those of all endpoints.
fn api_ports(
    node: &NodeProjection,
    listens: &BTreeSet<SocketAddr>,
    endpoints: &BTreeSet<SocketAddr>,
) -> BTreeSet<u16> {
    let here = listens
        .iter()
        .filter(|at| node.addresses.contains(&by_link(at.ip())));
    let marked = endpoints.iter().filter(|_| node.control_plane);
    here.chain(marked).map(SocketAddr::port).collect()
}

/// All nodes; this one also with what its kernel says, and even if the cluster does not know it.
fn nodes(from: &Sources<'_>) -> Vec<NodeProjection> {
    let told = from
        .nodes
        .iter()
        .map(|((_, name), facts)| (name.as_str(), facts.clone()));
    let mut nodes: BTreeMap<&str, NodeProjection> = told.collect();
    let own = from.node_addresses.iter().copied().map(by_link);
    nodes.entry(from.node).or_default().addresses.extend(own);
    nodes.into_values().collect()
}

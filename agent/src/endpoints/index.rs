//! All that is known about protected endpoints, kept up, and what follows from it at any time.
//!
//! In: events of the watches, the node's own addresses, answers of lookups. Out: [`ProtectedEndpoints`] when asked, and whether
//! it is worth asking again. Nothing here waits for anything, and callers pass the time.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::watcher;
use tokio::time::Instant;

use super::bounded::{self, BoundedEndpoints, Product, names_any};
use super::cache::{Change, ObjectCache};
use super::derive::{Action, EndpointSet, Rank, RankedEndpoint, Sources, is_own, own_service};
use super::dns::DnsNames;
use super::grace::GracePeriods;
use super::projections::{Key, NodeProjection, ServiceProjection, SliceProjection};
use super::target::EndpointTarget;
use super::{ProtectedEndpoints, ProtectedEndpointsConfig};

/// How long an address stays a protected endpoint when nothing makes it one any more: an API server that was taken out of its endpoints
/// still answers, and a deleted Service is still translated until the node's proxy has heard. The ways to a withdrawn
/// endpoint count as withdrawn when its own time is over, so that it is twice as long in all.
const GRACE_PERIOD: Duration = Duration::from_secs(300);

/// What is known.
#[derive(Debug)]
pub(super) struct EndpointIndex {
    config: ProtectedEndpointsConfig,
    limit: usize,
    /// The API server's own Service as it was when it last had a cluster address: it is made anew, with the same address, when
    /// somebody removes it.
    service: Option<ServiceProjection>,
    /// The cluster addresses of that Service with its ports.
    own_service: BoundedEndpoints,
    /// The API server's endpoints by the slice that API servers write, those withdrawn a short time ago too: what leads to them leads to
    /// an API server.
    own_slice: BoundedEndpoints,
    /// Likewise by other slices of that Service.
    other_slices: BoundedEndpoints,
    services: ObjectCache<ServiceProjection>,
    slices: ObjectCache<SliceProjection>,
    nodes: ObjectCache<NodeProjection>,
    node_addresses: BTreeSet<IpAddr>,
    names: DnsNames,
    /// What was found last.
    found: EndpointSet,
    endpoints: GracePeriods<SocketAddr, RankedEndpoint>,
    /// What the kernel holds: what was told last, and what an agent before this one held until the cluster has told all.
    in_kernel: HashSet<SocketAddr>,
    /// Whether the cluster has told all once.
    whole: bool,
}

impl EndpointIndex {
    /// With what the configuration says, and a limit for the number of protected endpoints.
    pub(super) fn new(config: ProtectedEndpointsConfig, limit: usize) -> Self {
        let inherited = config.inherited.redirect.iter().chain(&config.inherited.deny);
        Self {
            in_kernel: inherited.copied().collect(),
            config,
            limit,
            service: None,
            own_service: BoundedEndpoints::new(bounded::OWN_SERVICE, GRACE_PERIOD),
            own_slice: BoundedEndpoints::new(bounded::OWN_SLICE, GRACE_PERIOD),
            other_slices: BoundedEndpoints::new(bounded::OTHER_SLICES, GRACE_PERIOD),
            services: ObjectCache::default(),
            slices: ObjectCache::default(),
            nodes: ObjectCache::default(),
            node_addresses: BTreeSet::new(),
            names: DnsNames::default(),
            found: EndpointSet::default(),
            endpoints: GracePeriods::new(GRACE_PERIOD),
            whole: false,
        }
    }

    /// Takes an event in; says whether the protected endpoints may be others now.
    pub(super) fn service(&mut self, event: watcher::Event<Service>) -> bool {
        let leads = |(namespace, name): &Key| {
            let mut slices = self.slices.iter();
            is_own(namespace, name)
                || slices.any(|((of, _), slice)| {
                    of == namespace && slice.service == *name && self.found.reached_by(slice)
                })
        };
        let essential = |key: &Key, service: &ServiceProjection| leads(key).then(|| service.clone());
        match self.services.take(event, essential) {
            Change::Nothing => false,
            Change::Many => true,
            Change::One(key, _) => leads(&key),
        }
    }

    /// Likewise. In a large cluster endpoints change all the time, and hardly ever those of a protected endpoint.
    pub(super) fn slice(&mut self, event: watcher::Event<EndpointSlice>) -> bool {
        // Other slices of the API server's Service are anybody's: of those only what leads to a protected endpoint.
        let essential = |(namespace, name): &Key, slice: &SliceProjection| {
            if is_own(namespace, name) {
                Some(slice.clone())
            } else {
                self.found.leading_part(slice)
            }
        };
        match self.slices.take(event, essential) {
            Change::Nothing => false,
            Change::Many => true,
            Change::One(key, before) => {
                let mut both = before.iter().chain(self.slices.get(&key));
                both.any(|slice| is_own(&key.0, &slice.service) || self.found.reached_by(slice))
            }
        }
    }

    /// Likewise.
    pub(super) fn node(&mut self, event: watcher::Event<Node>) -> bool {
        self.nodes.take(event, |_, _| None) != Change::Nothing
    }

    /// The node's own addresses; says whether they are others than before.
    pub(super) fn set_node_addresses(&mut self, addresses: BTreeSet<IpAddr>) -> bool {
        let changed = self.node_addresses != addresses;
        self.node_addresses = addresses;
        changed
    }

    /// An API server's address that was not known at the start.
    pub(super) fn redirect_too(&mut self, target: EndpointTarget) -> bool {
        self.config.redirect.push(target);
        true
    }

    /// The answer to a lookup.
    pub(super) fn answer(&mut self, host: &str, found: &[IpAddr], now: Instant) {
        self.names.answer(host, found, now);
    }

    /// The names to look up.
    pub(super) fn wanted(&self) -> Vec<String> {
        self.names.wanted()
    }

    /// The protected endpoints at this time, and whether there are names that were not wanted before.
    pub(super) fn refresh(&mut self, now: Instant) -> (ProtectedEndpoints, bool) {
        self.learn_api_server(now);
        let api_servers = self.own_slice.keys().chain(self.other_slices.keys());
        let api_servers: BTreeSet<SocketAddr> = api_servers.copied().collect();
        let own_service: BTreeSet<SocketAddr> = self.own_service.keys().copied().collect();
        let mut in_kernel_at: HashMap<u16, Vec<IpAddr>> = HashMap::new();
        for at in &self.in_kernel {
            in_kernel_at.entry(at.port()).or_default().push(at.ip());
        }
        self.found = EndpointSet::new(&Sources {
            node: &self.config.node,
            node_addresses: &self.node_addresses,
            redirect: &self.config.redirect,
            deny: &self.config.deny,
            deny_on_nodes: &self.config.deny_on_nodes,
            allow: &self.config.allow,
            api_servers: &api_servers,
            own_service: &own_service,
            service: self.service.as_ref(),
            services: &self.services,
            slices: &self.slices,
            nodes: &self.nodes,
            names: &self.names,
            before: &self.found,
            whole: self.whole,
            in_kernel: &self.in_kernel,
            in_kernel_at: &in_kernel_at,
            limit: self.limit,
        });
        let new_names = self.names.want(self.found.names());
        let was_whole = self.whole;
        self.whole = self.whole || self.is_whole();
        if self.whole && !was_whole {
            // What an agent before this one held may have been withdrawn a moment ago; until now it stood anyway.
            let endpoint = |action| {
                move |address: &SocketAddr| {
                    let rank = Rank::Runtime;
                    (*address, RankedEndpoint { rank, action })
                }
            };
            let ProtectedEndpoints { redirect, deny, .. } = &self.config.inherited;
            let deny = deny.iter().filter(|address| !self.config.allow.contains(address));
            let before = redirect.iter().map(endpoint(Action::Redirect));
            self.endpoints
                .inherit(now, before.chain(deny.map(endpoint(Action::Deny))));
        }
        self.endpoints.refresh(now, self.found.endpoints());
        (self.choose(), new_names)
    }

    /// Takes the API server's own Service and endpoints out of all of them. A cluster that names no address at all is
    /// one that has lost its mind, and the last ones stand.
    fn learn_api_server(&mut self, now: Instant) {
        if let Some(facts) = self
            .services
            .get(&own_service())
            .filter(|facts| !facts.cluster.is_empty())
        {
            self.service = Some(facts.clone());
        }
        if let Some(service) = &self.service {
            let ports = service.ports.iter().map(|port| port.port);
            let product = Product::new(service.cluster.iter().copied(), ports);
            self.own_service.refresh(now, &[product], &self.in_kernel);
        }
        let slices = self.slices.iter();
        let own = slices.filter(|((namespace, _), slice)| is_own(namespace, &slice.service));
        let (by_name, others): (Vec<_>, Vec<_>) =
            own.partition(|((namespace, name), _)| is_own(namespace, name));
        let products = |slices: Vec<(&Key, &SliceProjection)>| -> Vec<Product> {
            let products = slices.into_iter().map(|(_, slice)| {
                let ports = slice.ports.iter().map(|(_, port)| *port);
                Product::new(slice.addresses.iter().copied(), ports)
            });
            products.collect()
        };
        let (by_name, others) = (products(by_name), products(others));
        if names_any(&by_name) {
            self.own_slice.refresh(now, &by_name, &self.in_kernel);
        }
        if names_any(&by_name) || names_any(&others) {
            self.other_slices.refresh(now, &others, &self.in_kernel);
        }
    }

    /// Addresses that would count as the API server itself, and are too many.
    fn api_omitted(&self) -> usize {
        let omitted = self
            .own_slice
            .omitted()
            .saturating_add(self.other_slices.omitted());
        omitted.saturating_add(self.own_service.omitted())
    }

    /// Whether everything has been reported once: all lists, the API server's own addresses among them, and an answer for each
    /// name of the configuration. What the kernel holds already must stand until then.
    fn is_whole(&self) -> bool {
        let lists = self.services.whole() && self.slices.whole() && self.nodes.whole();
        let own = self.service.is_some() && self.own_slice.len() + self.other_slices.len() > 0;
        lists && own && self.waiting_for_name().is_none()
    }

    /// A name of the configuration that has had no answer yet.
    pub(super) fn waiting_for_name(&self) -> Option<&str> {
        let targets = self.config.redirect.iter().chain(&self.config.deny);
        targets
            .filter_map(|target| match target {
                EndpointTarget::Name { host, .. } => Some(host.as_str()),
                EndpointTarget::Address(_) => None,
            })
            .find(|host| !self.names.answered(host))
    }

    /// As many protected endpoints as the kernel holds, the most important first: of those the ones that the kernel holds already, so that
    /// nobody can push them out, and then the ones that are named now. Services get no more than half, as long as others need the room.
    fn choose(&mut self) -> ProtectedEndpoints {
        let all = self.endpoints.iter();
        let mut all: Vec<(SocketAddr, RankedEndpoint)> =
            all.map(|(address, endpoint)| (*address, *endpoint)).collect();
        let mut left_out = Vec::new();
        if all.len() > self.limit {
            all.sort_by_cached_key(|(address, endpoint)| {
                let is_new = !self.in_kernel.contains(address);
                (endpoint.rank, is_new, !self.found.contains(address), *address)
            });
            let mut services = 0;
            let (first, last): (Vec<_>, Vec<_>) = all.into_iter().partition(|(_, endpoint)| {
                services += usize::from(endpoint.rank == Rank::Service);
                endpoint.rank != Rank::Service || services <= self.limit / 2
            });
            all = first;
            all.extend(last);
            left_out = all.split_off(self.limit);
        }
        let essential = left_out
            .iter()
            .filter(|(_, endpoint)| endpoint.rank <= Rank::Fixed);
        let api_omitted = self.api_omitted();
        let mut endpoints = ProtectedEndpoints {
            whole: self.whole,
            essential_omitted: essential.count().saturating_add(api_omitted),
            omitted: (left_out.len() + self.found.omitted() + self.names.omitted())
                .saturating_add(self.services.omitted() + self.slices.omitted() + self.nodes.omitted())
                .saturating_add(api_omitted),
            ..ProtectedEndpoints::default()
        };
        for (address, endpoint) in all {
            match endpoint.action {
                Action::Redirect => endpoints.redirect.insert(address),
                Action::Deny => endpoints.deny.insert(address),
            };
        }
        self.remember(&endpoints, left_out.is_empty());
        endpoints
    }

    /// Notes what the kernel holds from now on. What is withdrawn and not in the kernel is forgotten, so that objects that come and go
    /// fill no memory.
    fn remember(&mut self, endpoints: &ProtectedEndpoints, is_all: bool) {
        if endpoints.whole {
            self.in_kernel.clear();
        }
        self.in_kernel
            .extend(endpoints.redirect.iter().chain(&endpoints.deny));
        if !is_all {
            let in_kernel = &self.in_kernel;
            self.endpoints
                .retain_withdrawn(|address| in_kernel.contains(address));
        }
    }
}

#[cfg(test)]
#[path = "index_tests.rs"]
mod tests;

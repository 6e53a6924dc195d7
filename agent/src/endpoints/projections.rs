//! What is kept of each Service, endpoint slice and node: addresses, ports, and what ties them together.
//!
//! In: the API server's objects. Out: small values; the rest of an object is dropped as it is read. Two readings that are
//! equal mean the same for the protected endpoints, which most changes of objects do.

use std::collections::BTreeSet;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::{Resource, ResourceExt};

use crate::cluster;

/// The label that ties a slice to its Service (`k8s.io/api/discovery/v1`, well_known_labels.go).
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// The label of nodes that run an API server.
const CONTROL_PLANE: &str = "node-role.kubernetes.io/control-plane";

/// Namespace and name.
pub(super) type Key = (String, String);

/// What is kept of one kind of object.
pub(super) trait Projection: Clone + PartialEq {
    /// The API server's object.
    type Object: Resource + Clone;

    /// What is kept; `None` where nothing of it matters.
    fn read(object: &Self::Object) -> Option<Self>;

    /// How many addresses, ports and names it holds.
    fn size(&self) -> usize;

    /// By what it is kept.
    fn key(object: &Self::Object) -> Key {
        (object.namespace().unwrap_or_default(), object.name_any())
    }
}

/// One port of a Service, whatever its protocol: a protected endpoint is one by each, and what leads to a tunnel's end leads there by UDP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ServicePort {
    /// Its name, which ties it to the ports of slices; empty where it has none.
    pub(super) name: String,
    /// The port at the Service's addresses.
    pub(super) port: u16,
    /// The port on every node.
    pub(super) node_port: Option<u16>,
}

/// A Service's addresses and ports.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct ServiceProjection {
    /// Cluster, external and load-balancer addresses.
    pub(super) addresses: BTreeSet<IpAddr>,
    /// Of those, the ones that the cluster itself gave the Service.
    pub(super) cluster: BTreeSet<IpAddr>,
    /// The load balancers' names.
    pub(super) names: BTreeSet<String>,
    /// The ports of every protocol, whose names differ.
    pub(super) ports: Vec<ServicePort>,
}

impl Projection for ServiceProjection {
    type Object = Service;

    fn read(object: &Service) -> Option<Self> {
        let spec = object.spec.as_ref()?;
        let balancers = object
            .status
            .iter()
            .filter_map(|status| status.load_balancer.as_ref())
            .flat_map(|balancer| balancer.ingress.iter().flatten());
        let (balancer_addresses, balancer_names): (Vec<_>, Vec<_>) =
            balancers.map(|entry| (&entry.ip, &entry.hostname)).unzip();
        // `None` stands in place of an address where a Service has none.
        let cluster = spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip);
        let cluster: BTreeSet<_> = cluster.filter_map(|text| address(text)).collect();
        let external = spec.external_ips.iter().flatten();
        let external = external.chain(balancer_addresses.into_iter().flatten());
        let external = external.filter_map(|text| address(text));
        let ports = spec.ports.iter().flatten();
        let facts = Self {
            addresses: cluster.iter().copied().chain(external).collect(),
            cluster,
            names: balancer_names.into_iter().flatten().cloned().collect(),
            ports: ports
                .filter_map(|port| {
                    Some(ServicePort {
                        name: port.name.clone().unwrap_or_default(),
                        port: number(port.port)?,
                        node_port: port.node_port.and_then(number),
                    })
                })
                .collect(),
        };
        let reached = !facts.addresses.is_empty() || !facts.names.is_empty();
        (reached && !facts.ports.is_empty()).then_some(facts)
    }

    fn size(&self) -> usize {
        self.addresses.len() + self.names.len() + self.ports.len()
    }
}

/// Where a Service leads, or a part of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SliceProjection {
    /// The Service, in the slice's own namespace.
    pub(super) service: String,
    /// Every endpoint's addresses; of those not ready too, since they may answer all the same.
    pub(super) addresses: Box<[IpAddr]>,
    /// The ports of every protocol with their names.
    pub(super) ports: Box<[(String, u16)]>,
}

impl Projection for SliceProjection {
    type Object = EndpointSlice;

    fn read(object: &EndpointSlice) -> Option<Self> {
        let service = object.labels().get(SERVICE_NAME)?.clone();
        let endpoints = object.endpoints.iter().flatten();
        let addresses: BTreeSet<_> = endpoints
            .flat_map(|endpoint| &endpoint.addresses)
            .filter_map(|text| address(text))
            .collect();
        let ports = object.ports.iter().flatten();
        let ports: Box<[_]> = ports
            .filter_map(|port| Some((port.name.clone().unwrap_or_default(), number(port.port?)?)))
            .collect();
        (!addresses.is_empty() && !ports.is_empty()).then(|| Self {
            service,
            addresses: addresses.into_iter().collect(),
            ports,
        })
    }

    fn size(&self) -> usize {
        self.addresses.len() + self.ports.len()
    }
}

/// A node's addresses and what runs there.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct NodeProjection {
    /// Those that the API tells: see [`NodeProjection::read`].
    pub(super) addresses: BTreeSet<IpAddr>,
    /// Whether the node is marked as one that runs an API server.
    pub(super) control_plane: bool,
    /// The kubelet's port, where the node tells it.
    pub(super) kubelet: Option<u16>,
}

impl Projection for NodeProjection {
    type Object = Node;

    /// A node's addresses are those of its status; the first two of each range of pod addresses, of which tunnels (flannel's)
    /// take the first and bridges the second; and every annotation that is an address, as network plugins note their tunnels'
    /// (`projectcalico.org/IPv4VXLANTunnelAddr`) and hosts'.
    fn read(object: &Node) -> Option<Self> {
        let (spec, status) = (object.spec.as_ref(), object.status.as_ref());
        let told = status.iter().flat_map(|status| status.addresses.iter().flatten());
        let told = told.filter_map(|entry| address(&entry.address));
        let ranges = spec.into_iter().flat_map(|spec| {
            let ranges = spec.pod_cidrs.iter().flatten();
            ranges.chain(&spec.pod_cidr)
        });
        let noted = object.annotations().values().flat_map(|value| {
            let parts = value.split([',', ' ']);
            parts.filter_map(|part| address(part.split_once('/').map_or(part, |(address, _)| address)))
        });
        let daemons = status.and_then(|status| status.daemon_endpoints.as_ref());
        let kubelet = daemons.and_then(|daemons| daemons.kubelet_endpoint.as_ref());
        Some(Self {
            addresses: told
                .chain(ranges.flat_map(|range| first_two(range)))
                .chain(noted)
                .collect(),
            control_plane: object.labels().contains_key(CONTROL_PLANE),
            kubelet: kubelet.and_then(|endpoint| number(endpoint.port)),
        })
    }

    fn size(&self) -> usize {
        self.addresses.len()
    }
}

/// The first two addresses of a range such as `10.244.1.0/24`.
fn first_two(range: &str) -> Vec<IpAddr> {
    let Some(first) = range.split_once('/').and_then(|(first, _)| address(first)) else {
        return Vec::new();
    };
    let second = match first {
        IpAddr::V4(v4) => IpAddr::V4((u32::from(v4).wrapping_add(1)).into()),
        IpAddr::V6(v6) => IpAddr::V6((u128::from(v6).wrapping_add(1)).into()),
    };
    vec![first, second]
}

fn address(text: &str) -> Option<IpAddr> {
    cluster::address::address(text).filter(|address| !address.is_unspecified())
}

fn number(port: i32) -> Option<u16> {
    u16::try_from(port).ok().filter(|port| *port != 0)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read<F: Projection>(value: Value) -> Option<F>
    where
        F::Object: serde::de::DeserializeOwned,
    {
        F::read(&serde_json::from_value(value).unwrap())
    }

    fn ips<C: FromIterator<IpAddr>>(texts: &[&str]) -> C {
        texts.iter().map(|text| text.parse::<IpAddr>().unwrap()).collect()
    }

    #[test]
    fn a_service_is_its_addresses_names_and_ports() {
        let facts: ServiceProjection = read(json!({
            "spec": {"clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1", "fd00::1"], "externalIPs": ["192.0.2.1"],
                     "ports": [{"name": "https", "port": 443, "nodePort": 30443}, {"name": "dns", "port": 53, "protocol": "UDP"}]},
            "status": {"loadBalancer": {"ingress": [{"ip": "198.51.100.1"}, {"hostname": "lb.example"}]}},
        }))
        .unwrap();
        assert_eq!(
            facts.addresses,
            ips(&["10.96.0.1", "fd00::1", "192.0.2.1", "198.51.100.1"])
        );
        assert_eq!(facts.names, ["lb.example".to_owned()].into());
        let ports =
            [("https", 443, Some(30443)), ("dns", 53, None)].map(|(name, port, node_port)| ServicePort {
                name: name.into(),
                port,
                node_port,
            });
        assert_eq!(facts.ports, ports);
        assert_eq!(
            read::<ServiceProjection>(json!({"spec": {"clusterIP": "None", "ports": [{"port": 443}]}})),
            None
        );
        assert_eq!(
            read::<ServiceProjection>(
                json!({"spec": {"type": "ExternalName", "externalName": "api.example"}})
            ),
            None
        );
    }

    #[test]
    fn an_address_with_leading_zeros_is_the_address_that_it_leads_to() {
        let service: ServiceProjection = read(json!({
            "spec": {"clusterIP": "10.096.0.77", "externalIPs": ["0192.0.2.1"], "ports": [{"port": 443}]},
            "status": {"loadBalancer": {"ingress": [{"ip": "198.051.100.1"}]}},
        }))
        .unwrap();
        assert_eq!(
            service.addresses,
            ips(&["10.96.0.77", "192.0.2.1", "198.51.100.1"])
        );
        let slice: SliceProjection = read(json!({
            "metadata": {"labels": {SERVICE_NAME: "s"}}, "addressType": "IPv4",
            "endpoints": [{"addresses": ["010.250.0.1"]}], "ports": [{"port": 6443}],
        }))
        .unwrap();
        assert_eq!(*slice.addresses, ips::<Vec<_>>(&["10.250.0.1"])[..]);
    }

    #[test]
    fn a_slice_has_its_endpoints_ready_or_not() {
        let slice = |labels: Value| {
            json!({"metadata": {"namespace": "x", "name": "s", "labels": labels}, "addressType": "IPv4",
                "endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": false}}, {"addresses": ["api.example", "10.0.0.2"]}],
                "ports": [{"port": 6443}, {"name": "udp", "port": 4789, "protocol": "UDP"}, {"name": "all"}]})
        };
        let facts: SliceProjection = read(slice(json!({"kubernetes.io/service-name": "api"}))).unwrap();
        assert_eq!(facts.service, "api");
        assert_eq!(facts.addresses, ips(&["10.0.0.1", "10.0.0.2"]));
        assert_eq!(*facts.ports, [(String::new(), 6443), ("udp".to_owned(), 4789)]);
        assert_eq!(
            read::<SliceProjection>(slice(json!({}))),
            None,
            "no Service leads through it"
        );
    }

    #[test]
    fn a_node_has_told_first_and_noted_addresses() {
        let facts: NodeProjection = read(json!({
            "metadata": {"name": "n", "labels": {"node-role.kubernetes.io/control-plane": ""}, "annotations": {
                "projectcalico.org/IPv4Address": "10.0.0.1/24", "projectcalico.org/IPv4VXLANTunnelAddr": "10.244.7.64",
                "alpha.kubernetes.io/provided-node-ip": "10.0.0.1,fd00::5", "note": "1", "empty": ""}},
            "spec": {"podCIDR": "10.244.0.0/24", "podCIDRs": ["10.244.0.0/24", "fd01::/64"]},
            "status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.1"}, {"type": "Hostname", "address": "n"}],
                       "daemonEndpoints": {"kubeletEndpoint": {"Port": 10260}}},
        }))
        .unwrap();
        let all = [
            "10.0.0.1",
            "10.244.0.0",
            "10.244.0.1",
            "fd01::",
            "fd01::1",
            "10.244.7.64",
            "fd00::5",
        ];
        assert_eq!(facts.addresses, ips(&all));
        assert!(facts.control_plane);
        assert_eq!(facts.kubelet, Some(10260));
        let bare: NodeProjection = read(json!({"metadata": {"name": "n"}})).unwrap();
        assert_eq!(bare, NodeProjection::default());
    }
}

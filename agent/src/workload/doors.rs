//! The addresses that are the API server.
//!
//! In: the Service `default/kubernetes`, its endpoint slices, and addresses from the configuration. Out: [`Doors`]
//! through a watch channel. While the API server is away, or says that it has no address at all, the last ones stand.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, MutexGuard, PoisonError};

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::watcher;
use kube::{Api, ResourceExt};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::api::{Connector, follow};

/// The namespace and the name of the API server's own Service.
const NAMESPACE: &str = "default";
const SERVICE: &str = "kubernetes";

/// The addresses that are the API server.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Doors {
    /// The addresses.
    pub addresses: BTreeSet<SocketAddr>,
    /// Whether the cluster has told its own. Until then the set holds the configured ones alone and must be added to
    /// what the kernel holds, never put in its place: that would open the doors that are missing.
    pub whole: bool,
}

/// What the cluster told, by the objects' names.
#[derive(Debug, Default)]
struct Told {
    service: Option<BTreeSet<SocketAddr>>,
    slices: BTreeMap<String, BTreeSet<SocketAddr>>,
    coming: BTreeMap<String, BTreeSet<SocketAddr>>,
    slices_whole: bool,
}

impl Told {
    fn service(&mut self, event: watcher::Event<Service>) {
        match event {
            watcher::Event::Apply(service) | watcher::Event::InitApply(service) => {
                self.service = Some(service_addresses(&service));
            }
            // The API server makes its Service anew when somebody removes it, with the same address.
            watcher::Event::Delete(_) | watcher::Event::Init | watcher::Event::InitDone => {}
        }
    }

    fn slice(&mut self, event: watcher::Event<EndpointSlice>) {
        match event {
            watcher::Event::Init => self.coming.clear(),
            watcher::Event::InitApply(slice) => {
                self.coming.insert(slice.name_any(), slice_addresses(&slice));
            }
            watcher::Event::InitDone => {
                self.slices = std::mem::take(&mut self.coming);
                self.slices_whole = true;
            }
            watcher::Event::Apply(slice) => {
                self.slices.insert(slice.name_any(), slice_addresses(&slice));
            }
            watcher::Event::Delete(slice) => {
                self.slices.remove(&slice.name_any());
            }
        }
    }

    /// All addresses, once both kinds of objects have named some.
    fn doors(&self, configured: &BTreeSet<SocketAddr>) -> Option<Doors> {
        let service = self.service.as_ref().filter(|addresses| !addresses.is_empty())?;
        let slices: BTreeSet<_> = self.slices.values().flatten().copied().collect();
        if !self.slices_whole || slices.is_empty() {
            return None;
        }
        Some(Doors {
            addresses: configured.iter().chain(service).chain(&slices).copied().collect(),
            whole: true,
        })
    }
}

/// Each cluster address with each TCP port.
fn service_addresses(service: &Service) -> BTreeSet<SocketAddr> {
    let Some(spec) = &service.spec else {
        return BTreeSet::new();
    };
    let addresses = spec
        .cluster_ips
        .iter()
        .flatten()
        .chain(&spec.cluster_ip)
        .chain(spec.external_ips.iter().flatten());
    let balancers = service
        .status
        .iter()
        .filter_map(|status| status.load_balancer.as_ref());
    let balancers = balancers
        .flat_map(|balancer| balancer.ingress.iter().flatten())
        .filter_map(|entry| entry.ip.as_ref());
    let ports = spec
        .ports
        .iter()
        .flatten()
        .filter(|port| is_tcp(port.protocol.as_deref()))
        .map(|port| port.port);
    pairs(addresses.chain(balancers), ports)
}

/// Each endpoint's address with each TCP port; those not ready too, since they may answer all the same.
fn slice_addresses(slice: &EndpointSlice) -> BTreeSet<SocketAddr> {
    let addresses = slice
        .endpoints
        .iter()
        .flatten()
        .flat_map(|endpoint| &endpoint.addresses);
    let ports = slice
        .ports
        .iter()
        .flatten()
        .filter(|port| is_tcp(port.protocol.as_deref()))
        .filter_map(|port| port.port);
    pairs(addresses, ports)
}

/// The protocol's default is TCP.
fn is_tcp(protocol: Option<&str>) -> bool {
    protocol.is_none_or(|protocol| protocol == "TCP")
}

/// Each address with each port; `None` as a Service without an address has it, and names, are left out.
fn pairs<'a>(
    addresses: impl Iterator<Item = &'a String>,
    ports: impl Iterator<Item = i32>,
) -> BTreeSet<SocketAddr> {
    let ports: Vec<_> = ports.filter_map(|port| u16::try_from(port).ok()).collect();
    addresses
        .filter_map(|address| address.parse::<IpAddr>().ok())
        .flat_map(|address| ports.iter().map(move |port| SocketAddr::new(address, *port)))
        .collect()
}

/// Follows the addresses until it is cancelled. `doors` should begin with the configured addresses.
pub async fn doors(connector: Connector, doors: watch::Sender<Doors>, cancel: CancellationToken) {
    let configured = doors.borrow().addresses.clone();
    let told = Mutex::new(Told::default());
    let publish = || {
        if let Some(found) = lock(&told).doors(&configured) {
            doors.send_if_modified(|last| {
                let changed = *last != found;
                if changed {
                    tracing::info!(addresses = ?found.addresses, "the API server's addresses");
                    *last = found;
                }
                changed
            });
        }
    };
    let by_name = watcher::Config::default().fields(&format!("metadata.name={SERVICE}"));
    let by_label = watcher::Config::default().labels(&format!("kubernetes.io/service-name={SERVICE}"));
    tokio::join!(
        follow(
            &connector,
            "service",
            |client| Api::namespaced(client, NAMESPACE),
            by_name,
            &cancel,
            |event| {
                lock(&told).service(event);
                publish();
            }
        ),
        follow(
            &connector,
            "endpoint slices",
            |client| Api::namespaced(client, NAMESPACE),
            by_label,
            &cancel,
            |event| {
                lock(&told).slice(event);
                publish();
            }
        ),
    );
}

/// Held for a moment by one of two watches that run in one task.
fn lock(told: &Mutex<Told>) -> MutexGuard<'_, Told> {
    told.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn service(value: serde_json::Value) -> Service {
        serde_json::from_value(value).unwrap()
    }

    fn slice(name: &str, kind: &str, addresses: &[&str], ready: bool) -> EndpointSlice {
        serde_json::from_value(json!({
            "metadata": {"name": name}, "addressType": kind,
            "endpoints": [{"addresses": addresses, "conditions": {"ready": ready}}],
            "ports": [{"name": "https", "port": 6443, "protocol": "TCP"}, {"port": 6443, "protocol": "UDP"}],
        }))
        .unwrap()
    }

    fn addresses(texts: &[&str]) -> BTreeSet<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn service_endpoints_and_configuration_are_all_doors_in_both_families() {
        let configured = addresses(&["192.0.2.9:443"]);
        let mut told = Told::default();
        told.service(watcher::Event::InitApply(service(json!({
            "spec": {"clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1", "fd00::1"],
                     "ports": [{"name": "https", "port": 443}, {"port": 53, "protocol": "UDP"}]},
        }))));
        assert_eq!(told.doors(&configured), None, "the endpoints are not known yet");
        told.slice(watcher::Event::Init);
        told.slice(watcher::Event::InitApply(slice("a", "IPv4", &["10.0.0.2"], true)));
        told.slice(watcher::Event::InitApply(slice("b", "IPv6", &["fd00::2"], false)));
        assert_eq!(told.doors(&configured), None, "the list is not whole yet");
        told.slice(watcher::Event::InitDone);
        let doors = told.doors(&configured).unwrap();
        assert!(doors.whole);
        let all = [
            "192.0.2.9:443",
            "10.96.0.1:443",
            "[fd00::1]:443",
            "10.0.0.2:6443",
            "[fd00::2]:6443",
        ];
        assert_eq!(doors.addresses, addresses(&all));
        told.slice(watcher::Event::Delete(slice("b", "IPv6", &[], true)));
        assert_eq!(told.doors(&configured).unwrap().addresses, addresses(&all[..4]));
    }

    #[test]
    fn a_cluster_that_names_no_address_changes_nothing() {
        let mut told = Told::default();
        told.service(watcher::Event::InitApply(service(
            json!({"spec": {"clusterIP": "None", "ports": [{"port": 443}]}}),
        )));
        told.slice(watcher::Event::InitApply(slice("a", "IPv4", &["10.0.0.2"], true)));
        told.slice(watcher::Event::InitDone);
        assert_eq!(told.doors(&BTreeSet::new()), None);
    }
}

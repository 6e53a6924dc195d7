//! Objects for the tests of this module, as the API server gives them.

use serde_json::{Value, json};

/// A Service.
pub(super) fn service(namespace: &str, name: &str, spec: Value) -> Value {
    json!({"metadata": {"namespace": namespace, "name": name}, "spec": spec})
}

/// A slice of a Service's endpoints.
pub(super) fn slice(namespace: &str, name: &str, service: &str, endpoints: &[&str], ports: Value) -> Value {
    let endpoints: Vec<Value> = endpoints
        .iter()
        .map(|address| json!({"addresses": [address]}))
        .collect();
    json!({"metadata": {"namespace": namespace, "name": name, "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4", "endpoints": endpoints, "ports": ports})
}

/// A node.
pub(super) fn node(name: &str, address: &str, pods: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"podCIDR": pods, "podCIDRs": [pods]},
        "status": {"addresses": [{"type": "InternalIP", "address": address}, {"type": "Hostname", "address": name}]}})
}

//! What enrolment changes in a pod: the same as the MutatingAdmissionPolicies of deploy/enrolment.yaml.
//!
//! In: a request to create a pod, or to add debug containers. Out: the patch; none where all is there already. Which pods are enrolled is
//! decided before: the webhook's selectors and conditions are those of the policies. tests/chart/webhook.rs holds the two equal.

use serde_json::{Map, Value, json};

use super::patch::{PatchOperation, set_in_map};
use super::review::{AdmissionRequest, ReviewFault};
use crate::names::{AGENT_LABEL, AGENT_READY, BUNDLE, BUNDLE_KEY, ENROLLED};

/// The audience of tokens that Picket takes, and the API server does not.
const AUDIENCE: &str = "picket.dev";

/// The cluster's own bundle, for which Picket's stands in under the same key.
const ROOT_CA: &str = "kube-root-ca.crt";

/// Who signs the API server's certificate, where the cluster publishes that as a ClusterTrustBundle: by signer, or by one object's name.
const SERVING_SIGNER: &str = "kubernetes.io/kube-apiserver-serving";
const SERVING_BUNDLES: &str = "kubernetes.io:kube-apiserver-serving:";

/// Names by which a container might ask for the capability, in capital letters.
const ADDED_RAW: [&str; 3] = ["ALL", "NET_RAW", "CAP_NET_RAW"];

/// What drops it in every runtime. containerd puts `CAP_` before each name, and so drops nothing for `CAP_NET_RAW`.
const DROPPED_RAW: [&str; 2] = ["ALL", DROPPED];
const DROPPED: &str = "NET_RAW";

/// The lists of containers in a pod.
const CREATED: [&str; 2] = ["containers", "initContainers"];
const EPHEMERAL: &str = "ephemeralContainers";

/// What has to change.
pub(super) fn patch(request: &AdmissionRequest) -> Result<Vec<PatchOperation>, ReviewFault> {
    let resource = &request.resource;
    let is_core = resource.group.is_empty() && resource.resource == "pods";
    let created = match (request.operation.as_str(), request.sub_resource.as_str()) {
        ("CREATE", "") if is_core => true,
        ("UPDATE", "ephemeralcontainers") if is_core => false,
        _ => return Err(ReviewFault::unexpected(request)),
    };
    let (metadata, spec) = (&request.object["metadata"], &request.object["spec"]);
    if !metadata.is_object() {
        return Err(ReviewFault::Object("metadata"));
    }
    if !spec["containers"].is_array() {
        return Err(ReviewFault::Object("spec.containers"));
    }
    let mut patch = Vec::new();
    if created {
        patch.extend(set_in_map(
            &metadata["labels"],
            "/metadata/labels",
            ENROLLED,
            "true",
        ));
        patch.extend(set_in_map(
            &spec["nodeSelector"],
            "/spec/nodeSelector",
            AGENT_LABEL,
            AGENT_READY,
        ));
        credentials(&spec["volumes"], &mut patch);
    }
    // A process of Windows has no such capabilities, and the API server takes none.
    if spec["os"]["name"] != "windows" {
        raw_packets(request, created, &mut patch);
    }
    Ok(patch)
}

fn items(list: &Value) -> impl Iterator<Item = (usize, &Value)> {
    list.as_array().into_iter().flatten().enumerate()
}

/// Tokens and bundles of the pod's volumes.
fn credentials(volumes: &Value, patch: &mut Vec<PatchOperation>) {
    for (at, volume) in items(volumes) {
        let path = format!("/spec/volumes/{at}");
        bundle(volume, &path, patch);
        for (which, source) in items(&volume["projected"]["sources"]) {
            let path = format!("{path}/projected/sources/{which}");
            bundle(source, &path, patch);
            let token = &source["serviceAccountToken"];
            if token.is_object() && token["audience"].as_str().is_none_or(str::is_empty) {
                patch.push(PatchOperation::add(
                    format!("{path}/serviceAccountToken/audience"),
                    AUDIENCE,
                ));
            }
            let trust = &source["clusterTrustBundle"];
            let named = |key: &str| trust[key].as_str().unwrap_or_default();
            if named("signerName") == SERVING_SIGNER || named("name").starts_with(SERVING_BUNDLES) {
                // The file keeps its path.
                let items = json!([{"key": BUNDLE_KEY, "path": named("path")}]);
                patch.push(PatchOperation::add(
                    format!("{path}/configMap"),
                    json!({"name": BUNDLE, "items": items}),
                ));
                patch.push(PatchOperation::Remove {
                    path: format!("{path}/clusterTrustBundle"),
                });
            }
        }
    }
}

/// The cluster's bundle, in a volume or in a source of one.
fn bundle(of: &Value, path: &str, patch: &mut Vec<PatchOperation>) {
    if of["configMap"]["name"] == ROOT_CA {
        patch.push(PatchOperation::add(format!("{path}/configMap/name"), BUNDLE));
    }
}

/// Drops NET_RAW in containers that would have it by the runtime's default. One that asks for it by name is left to the guards.
fn raw_packets(request: &AdmissionRequest, created: bool, patch: &mut Vec<PatchOperation>) {
    let spec = &request.object["spec"];
    // Ephemeral containers that are there already cannot change.
    let older: Vec<&Value> = items(&request.old_object["spec"][EPHEMERAL])
        .map(|(_, container)| &container["name"])
        .collect();
    let made = CREATED.iter().filter(|_| created);
    for list in made.chain([&EPHEMERAL]) {
        for (at, container) in items(&spec[list]) {
            let is_older = *list == EPHEMERAL && older.contains(&&container["name"]);
            if !is_older {
                patch.extend(drop_raw(container, &format!("/spec/{list}/{at}")));
            }
        }
    }
}

/// Adds to the deepest part of the path that the container has.
fn drop_raw(container: &Value, path: &str) -> Option<PatchOperation> {
    let security = &container["securityContext"];
    let capabilities = &security["capabilities"];
    let any = |key: &str, test: fn(&str) -> bool| {
        items(&capabilities[key]).any(|(_, name)| name.as_str().is_some_and(test))
    };
    let is_left = security["privileged"] == true
        || any("add", |name| {
            ADDED_RAW.contains(&name.to_ascii_uppercase().as_str())
        })
        || any("drop", |name| DROPPED_RAW.contains(&name));
    if is_left {
        return None;
    }
    let missing = [
        (security, "securityContext"),
        (capabilities, "capabilities"),
        (&capabilities["drop"], "drop"),
    ];
    let mut place = path.to_owned();
    let mut keys = missing.iter().map(|(value, key)| (value.is_null(), *key));
    for (is_missing, key) in keys.by_ref() {
        place = format!("{place}/{key}");
        if is_missing {
            // What lies below the missing part comes with it.
            let below: Vec<&str> = keys.map(|(_, key)| key).collect();
            let value = below.iter().rev().fold(json!([DROPPED]), |value, key| {
                Value::Object(Map::from_iter([((*key).to_owned(), value)]))
            });
            return Some(PatchOperation::add(place, value));
        }
    }
    Some(PatchOperation::add(format!("{place}/-"), DROPPED))
}

#[cfg(test)]
#[path = "pods_tests.rs"]
mod tests;

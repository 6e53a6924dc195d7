//! Objects that the API server cannot send as JSON, whose writers would hide every endpoint that comes behind them.
//!
//! Go's encoding/json knows 10,000 levels, and takes as many in `managedFields` as it cannot write: with what is around them, there are more.
//! The node's kube-proxy goes on, since it asks in protobuf. So must the agent, or a Service that leads to the API server leads past Picket.

use std::process::Command;

use anyhow::{Result, ensure};
use picket_tests::tests;
use serde_json::{Value, json};

use crate::Test;
use crate::protected_endpoints::{
    ENFORCED, cluster_address, comes_to_be_redirected, delete, lead, leads, server_address,
};
use crate::world::World;

pub(crate) const TESTS: &[Test] = tests! {
    a_service_that_ends_every_watch_in_json_hides_no_endpoint,
    an_endpoint_slice_that_breaks_every_list_in_json_hides_no_endpoint,
};

const SERVICES: &str = "/api/v1/namespaces/lab/services";
const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/lab/endpointslices";

/// Makes a Service with `managedFields` of 9,996 levels in JSON, or an EndpointSlice with 10,000 in protobuf, as the path (argument 5) says. Its
/// name is `deep`. The API server (1) has a certificate of an authority (2); the user has a certificate (3) and its key (4).
const MAKE: &str = r#"
import http.client, json, ssl, sys, urllib.parse
server, authority, certificate, key, path = sys.argv[1:6]

def nested(levels):
    keys = ["f:metadata", "f:annotations"] + ["f:x"] * (levels - 2)
    return "".join('{"%s":' % key for key in keys) + "null" + "}" * levels

def number(value):
    return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + number(value >> 7)

def field(place, value):
    if isinstance(value, int):
        return number(place << 3) + number(value)
    value = value.encode() if isinstance(value, str) else value
    return number(place << 3 | 2) + number(len(value)) + value

if path.endswith("/services"):
    media = "application/json"
    body = json.dumps({"apiVersion": "v1", "kind": "Service", "spec": {"ports": [{"port": 80}]}, "metadata": {"name": "deep",
        "managedFields": [{"manager": "x", "operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": "@"}]}})
    body = body.replace('"@"', nested(9996)).encode()
else:
    media, version = "application/vnd.kubernetes.protobuf", "discovery.k8s.io/v1"
    managed = field(1, "x") + field(2, "Update") + field(3, version) + field(6, "FieldsV1") + field(7, field(1, nested(10000)))
    metadata = field(1, "deep") + field(3, "lab") + field(17, managed)
    slice = field(1, metadata) + field(2, field(1, "192.0.2.9")) + field(3, field(2, "TCP") + field(3, 80)) + field(4, "IPv4")
    body = b"k8s\0" + field(1, field(1, version) + field(2, "EndpointSlice")) + field(2, slice)
context = ssl.create_default_context(cafile=authority)
context.load_cert_chain(certificate, key)
connection = http.client.HTTPSConnection(urllib.parse.urlparse(server).netloc, context=context, timeout=20)
connection.request("POST", path, body, {"Content-Type": media, "Accept": media})
print(connection.getresponse().status)
"#;

/// Makes the object.
fn make(world: &World, path: &str) -> Result<()> {
    let files = world
        .cluster
        .client_certificate("deep", "deep", Some("system:masters"))?;
    let mut python = Command::new("python3");
    python.args(["-c", MAKE, world.cluster.server()]);
    python.args([world.cluster.ca_cert(), files.cert, files.key]);
    python.arg(path);
    let done = world.cluster.node().output(python)?;
    ensure!(done.stdout == b"201\n", "{path}: {done:?}");
    Ok(())
}

/// Removes it. kubectl would read the object first.
fn remove(world: &World, path: &str) -> Result<()> {
    world
        .admin(&["delete", "--raw", &format!("{path}/deep")])
        .map(drop)
}

/// A new Service leads to the API server, and each enforced pod comes to reach it through Picket.
fn a_new_endpoint_is_found(world: &World, name: &str, port: u16) -> Result<()> {
    let ports = json!({"ports": [{"port": port}]});
    lead(world, name, &ports, (&server_address(world), 6443))?;
    let address = cluster_address(world, name)?;
    let at = (address.as_str(), port);
    leads(world, at)?;
    ENFORCED
        .iter()
        .try_for_each(|pod| comes_to_be_redirected(world, pod, at))?;
    delete(world, name)
}

/// Checks what holds while there is such an object, and once it is gone.
fn beside(
    world: &mut World,
    path: &str,
    check: impl FnOnce(&mut World) -> Result<()>,
    port_behind: u16,
) -> Result<()> {
    make(world, path)?;
    let checked = check(world);
    // Later tests list this kind too.
    remove(world, path)?;
    checked?;
    // Its end is an event that has the object once more.
    a_new_endpoint_is_found(world, "behind", port_behind)
}

fn a_service_that_ends_every_watch_in_json_hides_no_endpoint(world: &mut World) -> Result<()> {
    let check = |world: &mut World| {
        let services = format!("{SERVICES}?fieldSelector=metadata.name%3Ddeep");
        let listed = world.admin(&["get", "--raw", &services])?;
        ensure!(listed.contains("f:annotations"), "no such Service: {listed:.300}");
        let watch = format!("{services}&watch=true&timeoutSeconds=2");
        let watched = world.admin(&["get", "--raw", &watch])?;
        ensure!(watched.trim().is_empty(), "the event was sent: {watched:.300}");
        a_new_endpoint_is_found(world, "beside", 8446)
    };
    beside(world, SERVICES, check, 8447)
}

fn an_endpoint_slice_that_breaks_every_list_in_json_hides_no_endpoint(world: &mut World) -> Result<()> {
    let check = |world: &mut World| {
        // The answer is one of success whose text is cut, which kubectl may find too.
        let list = world.admin(&["get", "--raw", SLICES]);
        let is_readable = list.is_ok_and(|list| serde_json::from_str::<Value>(&list).is_ok());
        ensure!(!is_readable, "the list can be read");
        a_new_endpoint_is_found(world, "beside", 8448)?;
        // An agent that starts lists all of them.
        world.other.stop()?;
        world.other.restart()?;
        a_new_endpoint_is_found(world, "again", 8449)
    };
    beside(world, SLICES, check, 8450)
}

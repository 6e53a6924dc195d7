//! Connections that the kernel did not redirect: the pod's own listener serves no one who comes by another way.

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::Test;
use crate::world::World;

pub(crate) const TESTS: &[Test] = &[(
    "a_direct_dial_of_the_listener_is_closed",
    a_direct_dial_of_the_listener_is_closed,
)];

/// Finds what listens on loopback in this network namespace, and dials each with a TLS handshake's first byte.
const DIAL: &str = r#"
import json, socket
def listening(path, loopback):
    for line in open(path).read().splitlines()[1:]:
        local, state = line.split()[1], line.split()[3]
        address, port = local.split(":")
        if state == "0A" and address == loopback:
            yield int(port, 16)
found = [("127.0.0.1", port) for port in listening("/proc/net/tcp", "0100007F")]
try:
    found += [("::1", port) for port in listening("/proc/net/tcp6", "00000000000000000000000001000000")]
except OSError:
    pass
results = []
for host, port in found:
    with socket.create_connection((host, port), timeout=20) as connection:
        try:
            connection.sendall(b"\x16")
            results.append([host, port, connection.recv(100).hex()])
        except (ConnectionResetError, BrokenPipeError):
            results.append([host, port, ""])
print(json.dumps(results))
"#;

fn a_direct_dial_of_the_listener_is_closed(world: &mut World) -> Result<()> {
    let picket = world.picket_log();
    let before = world.agent.metric("picket_no_flow_total", &[])?;
    let said = world.python("worker", DIAL, &[])?.good()?;
    let dialled: Value = serde_json::from_str(&said)?;
    let dialled = dialled.as_array().map(Vec::as_slice).unwrap_or_default();
    ensure!(!dialled.is_empty(), "nothing listens in the pod");
    ensure!(
        dialled.iter().all(|one| one[2] == ""),
        "a listener answered: {said}"
    );
    let record = picket.wait("the connection", |record| {
        record["decision"]["reason"] == "no_flow"
    })?;
    ensure!(
        record["agent"]["pod"]["name"] == "worker" && record["decision"]["outcome"] != "allow",
        "{record:#}"
    );
    let counted = world.agent.metric("picket_no_flow_total", &[])? - before;
    ensure!(counted >= dialled.len() as f64, "{counted} counted of {said}");
    Ok(())
}

//! A program in a pod that wants the port of Picket's listener there.
//!
//! In: a running pod with Python. Out: how often it had to bind until the port was its own, and what connected to it since.

use anyhow::{Context, Result};
use serde_json::Value;

use crate::cluster::Cluster;
use crate::running::Running;

/// For each line `take <address>`: binds the port that Picket listens on at that moment, without any option, until it may. `stop`
/// tells how many have connected.
const PROGRAM: &str = r#"
import json, socket, sys, threading, time
connected = []
def listeners():
    with open("/proc/net/tcp") as table:
        rows = [line.split() for line in list(table)[1:]]
    ports = [int(row[1].split(":")[1], 16) for row in rows if row[3] == "0A" and row[1].startswith("0100007F:")]
    return [port for port in ports if 64320 <= port <= 64351]
def serve(server):
    while True:
        connected.append(server.accept())
print("ready", json.dumps(listeners()), flush=True)
for line in sys.stdin:
    words = line.split()
    if words[0] == "stop":
        break
    port = listeners()[0] if len(words) < 3 else int(words[2])
    family = socket.AF_INET6 if ":" in words[1] else socket.AF_INET
    tries, began, error = 0, time.monotonic(), None
    while time.monotonic() - began < 10:
        tries += 1
        server = socket.socket(family, socket.SOCK_STREAM)
        try:
            server.bind((words[1], port))
            server.listen(16)
            threading.Thread(target=serve, args=(server,), daemon=True).start()
            error = None
            break
        except OSError as failed:
            error = failed.errno
            server.close()
            time.sleep(0.001)
    millis = (time.monotonic() - began) * 1000
    print(json.dumps({"taken": port, "tries": tries, "millis": millis, "error": error, "listeners": listeners()}), flush=True)
time.sleep(0.2)
print(json.dumps({"connected": len(connected)}), flush=True)
"#;

/// The program while it runs.
#[derive(Debug)]
pub struct PortTaker(Running);

/// What came of a bind.
#[derive(Debug)]
pub struct TakenPort {
    /// The port that Picket had.
    pub port: u16,
    /// How often it was bound until that succeeded.
    pub tries: u64,
    /// How long that took.
    pub millis: f64,
    /// The last error's number, where it never did.
    pub error: Option<i64>,
    /// The ports of loopback that Picket may have now.
    pub listeners: Vec<u64>,
}

impl PortTaker {
    /// Starts it; gives the port that Picket listens on.
    ///
    /// # Errors
    /// It cannot be run, or Picket does not listen there.
    pub fn start(cluster: &Cluster, namespace: &str, pod: &str) -> Result<(Self, u16)> {
        let argv = ["python3", "-c", PROGRAM];
        let running = Running::start(&cluster.kubectl_client(), namespace, pod, &argv)?;
        let said = running.line_with("ready")?;
        let ports: Vec<u16> = serde_json::from_str(said.trim_start_matches("ready"))?;
        let port = ports.first().context("no listener is in the pod")?;
        Ok((Self(running), *port))
    }

    /// Binds the listener's port of this moment at this address.
    ///
    /// # Errors
    /// The program does not answer.
    pub fn take(&mut self, address: &str) -> Result<TakenPort> {
        self.bind(&format!("take {address}"))
    }

    /// Binds this port, whoever has it.
    ///
    /// # Errors
    /// The program does not answer.
    pub fn take_port(&mut self, address: &str, port: u16) -> Result<TakenPort> {
        self.bind(&format!("take {address} {port}"))
    }

    fn bind(&mut self, line: &str) -> Result<TakenPort> {
        self.0.send(line)?;
        let said = self.0.line_with("taken")?;
        let told: Value = serde_json::from_str(&said)?;
        Ok(TakenPort {
            port: u16::try_from(told["taken"].as_u64().context("no port")?)?,
            tries: told["tries"].as_u64().context("no count")?,
            millis: told["millis"].as_f64().context("no time")?,
            error: told["error"].as_i64(),
            listeners: told["listeners"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_u64)
                .collect(),
        })
    }

    /// Ends it; gives how many connections came to the ports that it took.
    ///
    /// # Errors
    /// The program does not answer.
    pub fn stop(mut self) -> Result<u64> {
        self.0.send("stop")?;
        let told: Value = serde_json::from_str(&self.0.line_with("connected")?)?;
        told["connected"].as_u64().context("no count")
    }
}

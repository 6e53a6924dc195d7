//! `picket agent` on a simulated node, with the fast upstream as its API server.
//!
//! In: the node, the pod that will be enforced, the upstream's address. Out: an agent that serves. Its bpf file system is in a
//! mount namespace of its own, so that what it pins ends with it.

use std::fs;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use picket_tests::sim::SimNode;
use serde_json::json;

use crate::process::Guarded;

/// How long it may take until it serves: under a second, and more beside a compiler.
const READY_LIMIT: Duration = Duration::from_secs(30);

/// Who the pod is, what it may do, and rules that each of its requests is held against.
pub(crate) const OBJECTS: &str = include_str!("objects.yaml");
/// The namespace that the objects name.
pub(crate) const NAMESPACE: &str = "bench";
/// The service account that they name.
pub(crate) const SERVICE_ACCOUNT: &str = "load";
/// The user that the grant impersonates.
pub(crate) const USER: &str = "agent:load";
/// The group that the grant impersonates.
pub(crate) const GROUP: &str = "agents:bench";

/// A running agent and where it keeps things.
pub(crate) struct Agent {
    process: Guarded,
    dir: PathBuf,
}

impl Agent {
    /// Starts it on the node and waits until it is ready.
    pub(crate) fn start(
        node: &SimNode,
        binary: &Path,
        name: &str,
        upstream: SocketAddr,
        ca: &Path,
    ) -> Result<Self> {
        let dir = node.dir().join("picket");
        let file = |name: &str| dir.join(name);
        fs::create_dir_all(file("objects"))?;
        fs::create_dir_all(file("bpf"))?;
        fs::write(file("objects/bench.yaml"), OBJECTS)?;
        fs::write(file("token"), "bench")?;
        fs::write(file("kubeconfig"), kubeconfig(upstream, ca).to_string())?;
        let mut create = Command::new(binary);
        let made = create
            .args(["ca", "create", "--out"])
            .arg(file("ca"))
            .stdin(Stdio::null())
            .output();
        let made = made.with_context(|| format!("cannot run {}", binary.display()))?;
        ensure!(
            made.status.success(),
            "picket ca create: {}",
            String::from_utf8_lossy(&made.stderr).trim()
        );
        let config = json!({
            "nodeName": name,
            "cluster": {"kubeconfig": file("kubeconfig")},
            "upstream": {"server": format!("https://{upstream}"), "caFile": ca, "tokenFile": file("token")},
            "tls": {"caCertificateFile": file("ca/ca.crt"), "caKeyFile": file("ca/ca.key")},
            "kernel": {"cgroupRoot": node.cgroup(), "bpffs": file("bpf")},
            "enforce": {"namespaces": [NAMESPACE]},
            "objects": [file("objects")],
            "audit": {"directory": file("audit")},
            "admin": {"socket": file("admin.sock")},
            "log": {"filter": "warn"},
            "shutdown": {"drainSeconds": 1},
        });
        fs::write(file("agent.yaml"), config.to_string())?;
        let log = fs::File::create(file("picket.log"))?;
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-euc"]);
        command
            .arg("mount -t bpf picket \"$1\"; shift; exec \"$@\"")
            .arg("sh")
            .arg(file("bpf"));
        command
            .arg(binary)
            .args(["agent", "--config"])
            .arg(file("agent.yaml"));
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        node.place().apply(&mut command)?;
        let mut agent = Self {
            process: Guarded::spawn("picket", &mut command)?,
            dir: dir.clone(),
        };
        let until = Instant::now() + READY_LIMIT;
        while !agent.ready() {
            if let Err(error) = agent.process.check() {
                bail!("{error}; its log ends:\n{}", agent.log_end());
            }
            ensure!(
                Instant::now() < until,
                "picket is not ready; its log ends:\n{}",
                agent.log_end()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(agent)
    }

    pub(crate) fn pid(&self) -> i32 {
        self.process.pid()
    }

    /// The bundle that the pod trusts.
    pub(crate) fn ca(&self) -> PathBuf {
        self.dir.join("ca/ca.crt")
    }

    /// The last lines of its log.
    pub(crate) fn log_end(&self) -> String {
        let text = fs::read_to_string(self.dir.join("picket.log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }

    fn ready(&self) -> bool {
        let ask = || -> std::io::Result<bool> {
            let mut stream = UnixStream::connect(self.dir.join("admin.sock"))?;
            stream.set_read_timeout(Some(Duration::from_secs(2)))?;
            stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: picket\r\nConnection: close\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer.starts_with("HTTP/1.1 200"))
        };
        ask().unwrap_or(false)
    }
}

/// JSON is YAML.
fn kubeconfig(server: SocketAddr, ca: &Path) -> serde_json::Value {
    json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "bench",
        "clusters": [{"name": "bench", "cluster": {"server": format!("https://{server}"), "certificate-authority": ca}}],
        "users": [{"name": "bench", "user": {"token": "bench"}}],
        "contexts": [{"name": "bench", "context": {"cluster": "bench", "user": "bench"}}],
    })
}

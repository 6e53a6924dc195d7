//! Daemons that end and start again, and a node without power.
//!
//! In: a running cluster. Out: a daemon or a whole node stopped, as by a crash, and started as it was.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt as _;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use super::{Cluster, TestNode};
use crate::cgroup;
use crate::state::ProcessId;

/// How long a killed process may take to be gone.
const END_LIMIT: Duration = Duration::from_secs(20);

/// How long a daemon may take to serve again.
const START_LIMIT: Duration = Duration::from_secs(60);

/// What a node runs beside its pods, in the order in which it starts.
const OF_NODE: [&str; 3] = ["containerd", "kubelet", "kube-proxy"];

/// What a boot leaves nothing of: mounts of containers and of pods, what lies in memory, and the kernel programs. `mount` and `umount`
/// with -n write nothing of their own under /run.
const FORGET: &str = r#"
for at in $(cut -d ' ' -f 2 /proc/self/mounts | grep -E "^($1/containerd/state|$1/lib/kubelet|/var/lib/kubelet)/" | sort -r); do
  umount -n -l "$at" 2>/dev/null || true
done
rm -rf "$1"/containerd/state/* /run/picket /sys/fs/bpf/picket
"#;

/// A daemon that was ended.
#[derive(Debug)]
pub struct Stopped<'c> {
    cluster: &'c Cluster,
    node: &'c TestNode,
    what: String,
    argv: Vec<OsString>,
}

/// A node without power.
#[derive(Debug)]
pub struct PoweredOff<'c>(Vec<Stopped<'c>>);

impl Cluster {
    /// Ends a daemon of a node without a word: `containerd`, `kubelet`, `kube-proxy`, and on the first node `etcd`, `kube-apiserver` and so
    /// on.
    ///
    /// # Errors
    /// It does not run, or does not end.
    pub fn kill_daemon<'c>(&'c self, node: &'c TestNode, what: &str) -> Result<Stopped<'c>> {
        let id = self.daemon_of(node, what)?;
        let line = fs::read(format!("/proc/{}/cmdline", id.pid))?;
        let words = line.split(|byte| *byte == 0).filter(|word| !word.is_empty());
        let argv: Vec<OsString> = words.map(|word| OsString::from_vec(word.to_vec())).collect();
        ensure!(!argv.is_empty(), "{what} of {} has no command", node.name);
        kill(Pid::from_raw(id.pid), Signal::SIGKILL)?;
        ended(&[id])?;
        Ok(Stopped {
            cluster: self,
            node,
            what: what.to_owned(),
            argv,
        })
    }

    /// Takes a node's power: its daemons and containers end at once, and all that was in memory is lost, kernel programs among it. What is
    /// on its disk stays.
    ///
    /// # Errors
    /// The node runs the control plane, or something does not end.
    pub fn power_off<'c>(&'c self, node: &'c TestNode) -> Result<PoweredOff<'c>> {
        ensure!(
            node.name != self.node().name,
            "the first node runs the control plane"
        );
        // The kubelet first: it would start containers again.
        let order = OF_NODE.iter().rev();
        let mut daemons: Vec<Stopped<'c>> = order
            .map(|what| self.kill_daemon(node, what))
            .collect::<Result<_>>()?;
        daemons.reverse();
        let deadline = Instant::now() + END_LIMIT;
        loop {
            let mut left = cgroup::processes(&node.cgroup);
            // The process that holds the node's mounts is the node itself.
            left.retain(|pid| *pid != node.holder);
            if left.is_empty() {
                break;
            }
            ensure!(
                Instant::now() < deadline,
                "processes {left:?} of {} do not end",
                node.name
            );
            for pid in left {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let mut command = Command::new("/bin/sh");
        command.args(["-euc", FORGET, "sh"]).arg(&node.dir);
        let done = node.output(command)?;
        if !done.status.success() {
            bail!("{}: {}", node.name, String::from_utf8_lossy(&done.stderr).trim());
        }
        cgroup::remove(&format!("{}/kubepods", node.cgroup_name))?;
        Ok(PoweredOff(daemons))
    }

    pub(super) fn daemon_of(&self, node: &TestNode, what: &str) -> Result<ProcessId> {
        let name = format!("{what} on {}", node.name);
        self.state
            .process(&name)
            .with_context(|| format!("{name} does not run"))
    }
}

impl Stopped<'_> {
    /// Starts it as it was started before.
    ///
    /// # Errors
    /// It cannot be run, or does not serve.
    pub fn start(self) -> Result<()> {
        let (program, arguments) = self.argv.split_first().context("no command")?;
        let mut command = Command::new(program);
        command.args(arguments);
        let pid = self.node.daemon(&self.cluster.state, &self.what, command)?;
        match self.what.as_str() {
            "containerd" => {
                let socket = self.node.dir.join("containerd.sock");
                let connects = || std::os::unix::net::UnixStream::connect(&socket).is_ok();
                self.node.wait(pid, &self.what, START_LIMIT, connects)
            }
            "kube-apiserver" => {
                let client = self.cluster.kubectl_client();
                let ready = || {
                    let done = client.output(&["get", "--raw", "/readyz"], None);
                    done.is_ok_and(|done| done.status.success())
                };
                self.node.wait(pid, &self.what, START_LIMIT, ready)
            }
            _ => Ok(()),
        }
    }
}

impl PoweredOff<'_> {
    /// Starts the node's daemons.
    ///
    /// # Errors
    /// One does not start.
    pub fn boot(self) -> Result<()> {
        self.0.into_iter().try_for_each(Stopped::start)
    }
}

/// Waits until they are gone. This process collects those that are its own children; init collects others.
fn ended(all: &[ProcessId]) -> Result<()> {
    let deadline = Instant::now() + END_LIMIT;
    while let Some(id) = all.iter().find(|id| id.alive()) {
        let _ = waitpid(Pid::from_raw(id.pid), Some(WaitPidFlag::WNOHANG));
        ensure!(Instant::now() < deadline, "process {} does not end", id.pid);
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

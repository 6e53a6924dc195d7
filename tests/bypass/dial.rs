//! Dials by the attacker, and what has to come of them.

use std::fmt;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::Ordering;

use anyhow::{Context, Result, bail, ensure};
use picket_tests::pod::{RealPod, TestPod};
use picket_tests::sys::Placement;
use serde::Deserialize;

use crate::target::GREETING;
use crate::world::World;

/// The issuer of the API server's own certificate.
const SERVERS_ISSUER: &str = "CN=picket test cluster";

/// How long an attacker waits where something has to come: a SYN that was lost is sent again after a second.
const PATIENCE_MILLIS: &str = "10000";

/// What the attacker says.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Report {
    outcome: String,
    step: Option<String>,
    errno: Option<i32>,
    error: Option<String>,
    pub(crate) peer: Option<String>,
    issuer: Option<String>,
    first: Option<String>,
}

/// What that means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Picket answered.
    Redirected,
    /// Whom the protected endpoint belongs to answered.
    Reached,
    /// A call failed with EPERM.
    Forbidden,
    /// A call failed for another reason.
    Failed,
    /// The kernel has no such socket.
    Unsupported,
    /// The socket was made, and no more was tried.
    Made,
    /// Nothing came of it.
    Nothing,
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:?}: {}", self.verdict(), self.outcome)?;
        let parts = [
            (" at ", &self.step),
            (": ", &self.error),
            (" as ", &self.peer),
            (" by ", &self.issuer),
            (" with ", &self.first),
        ];
        for (word, part) in parts {
            if let Some(part) = part {
                write!(out, "{word}{part}")?;
            }
        }
        Ok(())
    }
}

impl Report {
    pub(crate) fn verdict(&self) -> Verdict {
        match (self.outcome.as_str(), &self.issuer) {
            ("answered", Some(issuer)) if issuer == SERVERS_ISSUER => Verdict::Reached,
            ("answered", Some(_)) => Verdict::Redirected,
            ("answered", None) if matches!(self.first.as_deref(), Some(GREETING | "echo")) => {
                Verdict::Reached
            }
            ("refused", _) if self.errno == Some(libc::EPERM) => Verdict::Forbidden,
            ("refused", _) => Verdict::Failed,
            ("unsupported", _) => Verdict::Unsupported,
            ("made", _) => Verdict::Made,
            _ => Verdict::Nothing,
        }
    }

    /// Says that this was not what had to come of it.
    pub(crate) fn expect(&self, what: &str, wanted: Verdict) -> Result<()> {
        ensure!(self.verdict() == wanted, "{what} is not {wanted:?} but {self}");
        Ok(())
    }
}

/// Where an attacker stands.
#[derive(Debug, Clone)]
pub(crate) struct Stand {
    netns: PathBuf,
    pub(crate) cgroup: PathBuf,
}

impl Stand {
    /// In a container of this pod.
    pub(crate) fn pod(pod: &RealPod) -> Result<Self> {
        let containers = fs::read_dir(pod.cgroup())?.flatten().map(|entry| entry.path());
        let mut populated = containers.filter(|folder| {
            fs::read_to_string(folder.join("cgroup.procs")).is_ok_and(|processes| !processes.is_empty())
        });
        Ok(Self {
            netns: pod.netns().to_owned(),
            cgroup: populated.next().context("the pod has no container")?,
        })
    }

    /// As a daemon of the first node.
    pub(crate) fn node(world: &World) -> Self {
        let node = world.cluster.node();
        Self {
            netns: node.netns.clone(),
            cgroup: node.cgroup.join("system"),
        }
    }

    /// The same in another network namespace.
    pub(crate) fn in_netns(&self, netns: &Path) -> Self {
        Self {
            netns: netns.to_owned(),
            ..self.clone()
        }
    }

    /// The same in another cgroup.
    pub(crate) fn in_cgroup(&self, cgroup: &Path) -> Self {
        Self {
            cgroup: cgroup.to_owned(),
            ..self.clone()
        }
    }

    pub(crate) fn netns(&self) -> &Path {
        &self.netns
    }
}

/// The cgroup of a container in a new pod that is on the first node's network, so that nothing but its cgroup tells what it is,
/// and that no agent is told of. It goes when this is dropped, as soon as its last process has.
#[derive(Debug)]
pub(crate) struct NewPod(PathBuf);

impl NewPod {
    pub(crate) fn new(world: &World) -> Result<Self> {
        let uid = fs::read_to_string("/proc/sys/kernel/random/uuid")?;
        Self::called(world, uid.trim())
    }

    /// One whose cgroup looks like a static pod's.
    pub(crate) fn of_manifest(world: &World) -> Result<Self> {
        let uid = fs::read_to_string("/proc/sys/kernel/random/uuid")?;
        Self::called(world, &uid.trim().replace('-', ""))
    }

    fn called(world: &World, uid: &str) -> Result<Self> {
        let kubepods = world.cluster.node().cgroup.join("kubepods/besteffort");
        let pod = Self(kubepods.join(format!("pod{uid}/{:064x}", 1)));
        fs::create_dir_all(&pod.0).with_context(|| format!("make {}", pod.0.display()))?;
        Ok(pod)
    }

    /// In its container.
    pub(crate) fn stand(&self, world: &World) -> Stand {
        Stand::node(world).in_cgroup(&self.0)
    }
}

impl Drop for NewPod {
    fn drop(&mut self) {
        for folder in self.0.ancestors().take(2) {
            for _ in 0..200 {
                // Its last process has ended, but the kernel may not have finished with it.
                if fs::remove_dir(folder).is_ok() || !folder.exists() {
                    break;
                }
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
        }
    }
}

impl World {
    /// As `dial`, with patience where something has to come of it: this machine may be busy.
    pub(crate) fn expecting<T>(&self, wanted: Verdict, dial: impl FnOnce(&Self) -> T) -> T {
        self.patient.store(wanted != Verdict::Nothing, Ordering::Relaxed);
        let outcome = dial(self);
        self.patient.store(false, Ordering::Relaxed);
        outcome
    }

    /// Dials once from there; `arguments` are the attacker's: the way, the address, and where the socket comes from.
    pub(crate) fn dial(&self, from: &Stand, arguments: &[&str]) -> Result<Report> {
        let mut all = vec!["dial"];
        all.extend(arguments);
        Attacker::start(self, from, &all)?.report()
    }
}

/// A running attacker.
#[derive(Debug)]
pub(crate) struct Attacker {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Attacker {
    /// Starts it there.
    pub(crate) fn start(world: &World, from: &Stand, arguments: &[&str]) -> Result<Self> {
        let mut command = Command::new(&world.attack);
        command.args(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        if world.patient.load(Ordering::Relaxed) {
            command.env("PICKET_ATTACK_PATIENCE", PATIENCE_MILLIS);
        }
        Placement::new()
            .net(&from.netns)
            .cgroup(&from.cgroup)
            .apply(&mut command)?;
        let mut child = command.spawn().context("run picket-attack")?;
        let output = BufReader::new(child.stdout.take().context("no output")?);
        Ok(Self { child, output })
    }

    /// Starts it, and waits until it has made its socket.
    pub(crate) fn made(world: &World, from: &Stand, arguments: &[&str]) -> Result<Self> {
        let mut attacker = Self::start(world, from, arguments)?;
        let line = attacker.line()?;
        ensure!(line == "made", "{arguments:?} says {line}");
        Ok(attacker)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Has it go on.
    pub(crate) fn go(&mut self) -> Result<()> {
        let input = self.child.stdin.as_mut().context("no input")?;
        Ok(input.write_all(b"go\n")?)
    }

    /// Its report; it ends with that.
    pub(crate) fn report(mut self) -> Result<Report> {
        let line = self.line()?;
        serde_json::from_str(&line).with_context(|| format!("no report: {line}"))
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        if self.output.read_line(&mut line)? == 0 {
            bail!("the attacker ended: {}", self.child.wait()?);
        }
        Ok(line.trim().to_owned())
    }
}

impl Drop for Attacker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

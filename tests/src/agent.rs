//! The real `picket agent` on a node of a test cluster, as an operator would set it up.
//!
//! In: a cluster, one of its nodes, and [`AgentOptions`] with the identity, grant and policy files. Out: an [`Agent`] that
//! serves, with handles to its files, its audit log and its administrators' socket, and ways to kill, restart and stop it; and
//! [`enrol`], which makes namespaces whose pods trust Picket.
//!
//! The agent's folder is in the cluster's, its process in the node's cgroup, its bpf file system in the node's mount namespace.
//! So taking the cluster down takes all of it along, whatever became of the process that started it.

mod rights;

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::cluster::{Cluster, TestNode};
use crate::pki::{CertificateFiles, kubeconfig};

pub use rights::enrol;
use rights::{certificate_authority, give_rights, node_certificate};

/// How long the agent may take until it serves. Under a second is usual; a machine that also compiles takes longer.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// How long it may take to end when asked to: its drain time and some.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);
/// Requests in flight at the end get this long; tests hold none that are worth more.
const DRAIN_SECONDS: u64 = 2;

/// What an agent enforces and as whom it may ask.
#[derive(Debug, Clone, Default)]
pub struct AgentOptions {
    /// Files with AgentIdentity, AgentGrant and AgentPolicy objects: name (as in `worker.yaml`) and text.
    pub objects: Vec<(String, String)>,
    /// Namespaces whose pods are enforced.
    pub namespaces: Vec<String>,
    /// Users that the grants name: those the node may impersonate, and no others.
    pub users: Vec<String>,
    /// Groups that the grants name, likewise.
    pub groups: Vec<String>,
    /// A `tracing` filter for the agent's log; `info` where it is empty.
    pub log: String,
    /// The binary; found by [`picket_binary`] where it is not given.
    pub binary: Option<PathBuf>,
    /// More of the configuration, laid over the rest: objects are merged, all else is replaced.
    pub more: Value,
}

/// A `picket agent` on one node. Dropping it kills the process, unless it was kept; the rest goes with the cluster.
#[derive(Debug)]
pub struct Agent {
    node: TestNode,
    dir: PathBuf,
    binary: PathBuf,
    child: Option<Child>,
    /// Where it tells a supervisor that it is at work (sd_notify(3)).
    supervisor: UnixDatagram,
}

/// The built `picket`: `PICKET_BIN`, or the newer of the target folder's debug and release builds.
///
/// # Errors
/// There is none.
pub fn picket_binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("PICKET_BIN") {
        return Ok(PathBuf::from(path));
    }
    let target = target_dir();
    let built = |profile: &str| {
        let path = target.join(profile).join("picket");
        let when = fs::metadata(&path).and_then(|found| found.modified()).ok()?;
        Some((when, path))
    };
    let newest = [built("debug"), built("release")].into_iter().flatten().max();
    let (_, path) =
        newest.with_context(|| format!("no picket in {}; run `cargo build -p picket`", target.display()))?;
    Ok(path)
}

/// Asks the agent that serves this administrators' socket; gives the status and the body.
///
/// # Errors
/// Nobody answers there.
pub fn ask(socket: &Path, path: &str) -> Result<(u16, String)> {
    let mut stream = UnixStream::connect(socket).context("dial the administrators' socket")?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    stream
        .write_all(format!("GET {path} HTTP/1.1\r\nHost: picket\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .context("an answer without a head")?;
    let code = head
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .context("an answer without a status")?;
    Ok((code, body.to_owned()))
}

/// Cargo's target folder: `CARGO_TARGET_DIR`, or `target` of this repository.
pub fn target_dir() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |target| root.join(target))
}

/// Builds a program of the workspace that the tests run, which is no dependency of theirs and so is not built with them;
/// where the environment variable `given` has a path, that is taken instead.
///
/// # Errors
/// It cannot be built.
pub fn test_binary(name: &str, given: &str) -> Result<PathBuf> {
    if let Some(path) = std::env::var_os(given) {
        return Ok(PathBuf::from(path));
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    // The same selection as cargo xtask builds, so that shared dependencies are not compiled with other features.
    let mut command = Command::new(cargo);
    command.args([
        "build",
        "--quiet",
        "--workspace",
        "--exclude",
        "picket-ebpf",
        "--bin",
        name,
    ]);
    let built = command.current_dir(root).output().context("run cargo")?;
    ensure!(
        built.status.success(),
        "build {name}:\n{}",
        String::from_utf8_lossy(&built.stderr)
    );
    Ok(target_dir().join("debug").join(name))
}

impl Agent {
    /// Sets an agent up on `node`, starts it and waits until it serves.
    ///
    /// # Errors
    /// Something cannot be set up, or the agent ends or does not become ready; the error then holds its log's end.
    pub fn start(cluster: &Cluster, node: &TestNode, options: &AgentOptions) -> Result<Self> {
        let mut agent = Self::install(cluster, node, options)?;
        agent.restart()?;
        Ok(agent)
    }

    /// Sets an agent up without starting it.
    ///
    /// # Errors
    /// Something cannot be set up.
    pub fn install(cluster: &Cluster, node: &TestNode, options: &AgentOptions) -> Result<Self> {
        let dir = node.dir.join("picket");
        fs::create_dir_all(dir.join("objects"))?;
        let binary = options.binary.clone().map_or_else(picket_binary, Ok)?;
        let agent = Self {
            node: node.clone(),
            binary: copy_into(&binary, &dir)?,
            supervisor: UnixDatagram::bind(dir.join("supervisor.sock"))?,
            dir,
            child: None,
        };
        let certificate = node_certificate(cluster, node)?;
        fs::write(
            agent.dir.join("kubeconfig"),
            kubeconfig(cluster.server(), &cluster.ca_cert(), &certificate),
        )?;
        give_rights(cluster, options)?;
        for (name, text) in &options.objects {
            agent.write_objects(name, text)?;
        }
        let authority = certificate_authority(cluster)?;
        let mut config = json!({
            "nodeName": node.name,
            "cluster": {"kubeconfig": agent.dir.join("kubeconfig")},
            "upstream": {
                "server": cluster.server(),
                "caFile": cluster.ca_cert(),
                "clientCertificateFile": certificate.cert,
                "clientKeyFile": certificate.key,
            },
            "tls": {"caCertificateFile": authority.join("ca.crt"), "caKeyFile": authority.join("ca.key")},
            "kernel": {"cgroupRoot": node.cgroup, "bpffs": agent.bpffs()},
            "enforce": {"namespaces": options.namespaces},
            "objects": [agent.objects_dir()],
            "audit": {"directory": agent.audit_directory()},
            "admin": {"socket": agent.admin_socket()},
            "log": {"filter": if options.log.is_empty() { "info" } else { &options.log }},
            "shutdown": {"drainSeconds": DRAIN_SECONDS},
        });
        lay_over(&mut config, &options.more);
        fs::write(agent.config_file(), serde_json::to_string_pretty(&config)?)?;
        agent.mount_bpffs()?;
        Ok(agent)
    }

    /// A bpf file system of the agent's own, in the node's mount namespace: its pins end with the node.
    fn mount_bpffs(&self) -> Result<()> {
        fs::create_dir_all(self.bpffs())?;
        let mut command = Command::new("mount");
        command.args(["-t", "bpf", "picket"]).arg(self.bpffs());
        let done = self.node.output(command)?;
        ensure!(
            done.status.success(),
            "mount a bpf file system: {}",
            String::from_utf8_lossy(&done.stderr).trim()
        );
        Ok(())
    }

    /// Starts the agent, which must not be running, and waits until it serves; gives the time that took.
    ///
    /// # Errors
    /// As [`Agent::start`].
    pub fn restart(&mut self) -> Result<Duration> {
        ensure!(self.child.is_none(), "the agent runs already");
        let started = Instant::now();
        self.child = Some(self.spawn()?);
        self.wait_ready(started)?;
        Ok(started.elapsed())
    }

    /// Starts the agent, which must not be running, and does not wait for it.
    ///
    /// # Errors
    /// It cannot be run.
    pub fn begin(&mut self) -> Result<()> {
        ensure!(self.child.is_none(), "the agent runs already");
        self.child = Some(self.spawn()?);
        Ok(())
    }

    /// Starts a second process beside the one that runs, to take over from it; gives the first one, whose end is waited for by
    /// the caller. From here on this is a handle to the second.
    ///
    /// # Errors
    /// None runs, or the second cannot be run.
    pub fn succeed(&mut self) -> Result<Child> {
        let before = self.child.take().context("the agent does not run")?;
        self.child = Some(self.spawn()?);
        Ok(before)
    }

    /// Puts another program in the place of the agent's, for what is started from now on; gives the one before.
    pub fn replace_binary(&mut self, binary: PathBuf) -> PathBuf {
        std::mem::replace(&mut self.binary, binary)
    }

    /// Kills the second process of [`Agent::succeed`], as a crash would; from here on this is a handle to the first again.
    ///
    /// # Errors
    /// It does not run.
    pub fn fall_back(&mut self, before: Child) -> Result<()> {
        self.kill9()?;
        self.child = Some(before);
        Ok(())
    }

    fn spawn(&self) -> Result<Child> {
        // The kernel holds a dozen messages that nobody reads.
        self.told_supervisor()?;
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log_file())?;
        let mut command = self.command(&["agent", "--config"]);
        command
            .arg(self.config_file())
            .arg("--state-directory")
            .arg(self.state_directory())
            .env("NOTIFY_SOCKET", self.dir.join("supervisor.sock"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        self.node.spawn(command)
    }

    /// Waits until the agent that was started serves.
    ///
    /// # Errors
    /// As [`Agent::start`].
    pub fn wait(&mut self) -> Result<()> {
        self.wait_ready(Instant::now())
    }

    fn wait_ready(&mut self, started: Instant) -> Result<()> {
        while !self.admin("/readyz").is_ok_and(|(code, _)| code == 200) {
            if let Some(status) = self
                .child
                .as_mut()
                .and_then(|child| child.try_wait().transpose())
                .transpose()?
            {
                self.child = None;
                bail!("the agent ended with {status}; its log ends:\n{}", self.log_end());
            }
            if started.elapsed() > READY_TIMEOUT {
                let readiness = self.admin("/readyz").map(|(_, body)| body).unwrap_or_default();
                bail!(
                    "the agent is not ready ({}); its log ends:\n{}",
                    readiness.trim(),
                    self.log_end()
                );
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// `picket` with these arguments, to be run in the node by [`TestNode::spawn`] or [`TestNode::output`].
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.args(arguments).current_dir("/");
        for proxy in [
            "HTTP_PROXY",
            "HTTPS_PROXY",
            "http_proxy",
            "https_proxy",
            "ALL_PROXY",
            "all_proxy",
        ] {
            command.env_remove(proxy);
        }
        command
    }

    /// Runs `picket` with these arguments in the node to its end.
    ///
    /// # Errors
    /// It cannot be run; that it fails is in the output.
    pub fn picket(&self, arguments: &[&str]) -> Result<Output> {
        self.node.output(self.command(arguments))
    }

    /// The agent's process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Ends the agent as a crash would: at once, with no chance to clean up.
    ///
    /// # Errors
    /// It does not run.
    pub fn kill9(&mut self) -> Result<()> {
        let mut child = self.child.take().context("the agent does not run")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// What its supervisor was told since the last call, or since the last process was started.
    ///
    /// # Errors
    /// The socket fails.
    pub fn told_supervisor(&self) -> Result<Vec<String>> {
        self.supervisor.set_nonblocking(true)?;
        let (mut told, mut message) = (Vec::new(), [0; 256]);
        loop {
            match self.supervisor.recv(&mut message) {
                Ok(length) => told.push(String::from_utf8_lossy(&message[..length]).trim().to_owned()),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(told),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Asks the agent to end, and waits until it has; its kernel programs stay and keep refusing.
    ///
    /// # Errors
    /// It does not run, or does not end in time.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        let child = self.child.as_mut().context("the agent does not run")?;
        kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM)?;
        let deadline = Instant::now() + STOP_TIMEOUT;
        loop {
            if let Some(status) = child.try_wait()? {
                self.child = None;
                return Ok(status);
            }
            ensure!(
                Instant::now() < deadline,
                "the agent does not end; its log ends:\n{}",
                self.log_end()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Leaves the agent running when this process ends; it ends with the cluster.
    pub fn keep(mut self) {
        self.child = None;
    }

    /// Takes the stopped agent's kernel programs away, as `picket uninstall` does: from here on nothing is enforced.
    ///
    /// # Errors
    /// The agent runs, or something does not go away.
    pub fn uninstall(&self) -> Result<()> {
        ensure!(self.child.is_none(), "stop the agent first");
        let mut command = self.command(&["uninstall", "--config"]);
        command
            .arg(self.config_file())
            .arg("--state-directory")
            .arg(self.state_directory());
        let done = self.node.output(command)?;
        ensure!(
            done.status.success(),
            "picket uninstall: {}",
            String::from_utf8_lossy(&done.stderr).trim()
        );
        Ok(())
    }

    /// Takes the stopped agent's kernel programs away as a boot does: what the agent keeps for its next start stays.
    ///
    /// # Errors
    /// As [`Agent::uninstall`].
    pub fn lose_programs(&self) -> Result<()> {
        let (state, kept) = (self.state_directory(), self.dir.join("state.kept"));
        let exists = state.exists();
        if exists {
            fs::rename(&state, &kept)?;
        }
        self.uninstall()?;
        if exists {
            fs::rename(&kept, &state)?;
        }
        Ok(())
    }

    /// Writes or replaces a file of objects at once, so that the agent never reads half of it.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write_objects(&self, name: &str, yaml: &str) -> Result<()> {
        let draft = self.dir.join(format!("{name}.new"));
        fs::write(&draft, yaml)?;
        fs::rename(&draft, self.objects_dir().join(name)).with_context(|| format!("write {name}"))
    }

    /// Removes a file of objects.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn remove_objects(&self, name: &str) -> Result<()> {
        fs::remove_file(self.objects_dir().join(name)).with_context(|| format!("remove {name}"))
    }

    /// Replaces the node's client certificate and its key by new ones, in the files that the agent reads them from.
    ///
    /// # Errors
    /// They cannot be written.
    pub fn rotate_certificate(&self, cluster: &Cluster) -> Result<CertificateFiles> {
        node_certificate(cluster, &self.node)
    }

    /// Asks the administrators' socket; gives the HTTP status and the body.
    ///
    /// # Errors
    /// Nobody answers there.
    pub fn admin(&self, path: &str) -> Result<(u16, String)> {
        ask(&self.admin_socket(), path)
    }

    /// The sum of a metric's samples whose labels hold all of `labels` (each as in `outcome="deny"`).
    ///
    /// # Errors
    /// The agent does not answer.
    pub fn metric(&self, name: &str, labels: &[&str]) -> Result<f64> {
        let (_, text) = self.admin("/metrics")?;
        let samples = text
            .lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| {
                let (series, value) = line.rsplit_once(' ')?;
                let (found, given) = series.split_once('{').unwrap_or((series, ""));
                (found == name && labels.iter().all(|label| given.contains(label)))
                    .then(|| value.parse::<f64>().ok())?
            });
        Ok(samples.sum())
    }

    /// The agent's folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The node it serves.
    pub fn node(&self) -> &TestNode {
        &self.node
    }

    /// The binary it runs.
    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// Its configuration (JSON, which is YAML too).
    pub fn config_file(&self) -> PathBuf {
        self.dir.join("agent.yaml")
    }

    /// Where its objects are.
    pub fn objects_dir(&self) -> PathBuf {
        self.dir.join("objects")
    }

    /// Its audit spool: segments with one JSON record a line.
    pub fn audit_directory(&self) -> PathBuf {
        self.dir.join("audit")
    }

    /// What it keeps for its next start.
    pub fn state_directory(&self) -> PathBuf {
        self.dir.join("state")
    }

    /// Its administrators' socket.
    pub fn admin_socket(&self) -> PathBuf {
        self.dir.join("admin.sock")
    }

    /// Its own log.
    pub fn log_file(&self) -> PathBuf {
        self.dir.join("picket.log")
    }

    /// The names of what the agent has pinned.
    ///
    /// # Errors
    /// The node is gone.
    pub fn pins(&self) -> Result<Vec<String>> {
        let mut command = Command::new("find");
        // The two files in every bpf file system are the kernel's own.
        command
            .arg(self.bpffs())
            .args(["-mindepth", "1", "!", "-name", "*.debug"]);
        let found = self.node.output(command)?;
        Ok(String::from_utf8_lossy(&found.stdout)
            .lines()
            .map(str::to_owned)
            .collect())
    }

    /// Its folder on a bpf file system, which only the node's mount namespace shows.
    pub fn bpffs(&self) -> PathBuf {
        self.dir.join("bpf")
    }

    /// The last lines of its own log.
    pub fn log_end(&self) -> String {
        let text = fs::read_to_string(self.log_file()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Lays `more` over `config`: objects are merged, null changes nothing, all else is replaced.
fn lay_over(config: &mut Value, more: &Value) {
    match (config, more) {
        (_, Value::Null) => {}
        (Value::Object(config), Value::Object(more)) => {
            for (key, value) in more {
                lay_over(config.entry(key).or_insert(Value::Null), value);
            }
        }
        (config, more) => *config = more.clone(),
    }
}

/// A copy, since a node's own view of the file system may not have the folder it was built in, and since a build that
/// replaces the original must not change what a restart runs.
fn copy_into(binary: &Path, dir: &Path) -> Result<PathBuf> {
    let own = dir.join("picket");
    let mut from = File::open(binary).with_context(|| format!("open {}", binary.display()))?;
    let _ = fs::remove_file(&own);
    let mut to = File::create(&own)?;
    std::io::copy(&mut from, &mut to)?;
    fs::set_permissions(&own, fs::metadata(binary)?.permissions())?;
    Ok(own)
}

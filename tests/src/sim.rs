//! Simulated pods: a cgroup in the kubelet's layout, a network namespace joined by veth, a service-account folder.
//!
//! In: how a pod shall look. Out: a pod that the kernel cannot tell from a kubelet's, in a few milliseconds, for kernel and
//! load tests by the hundred. The node they hang on is a network namespace without uplink with a bridge; a test runs its agent
//! and its fake API server there.

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::{Context, Result, bail, ensure};
use ring::digest;

use crate::build::hex;
use crate::pod::TestPod;
use crate::state::{StateFolder, Thing};
use crate::sys::Placement;
use crate::{cgroup, net};

/// How many pods a node's address range holds, less the node's own addresses.
const PODS_MAX: u16 = 60_000;

/// Which of the kubelet's cgroup drivers a pod's folder looks like.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Layout {
    /// `kubepods/burstable/pod<UID>/<container>`
    #[default]
    Cgroupfs,
    /// `kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod<UID with _>.slice/cri-containerd-<container>.scope`
    Systemd,
}

/// A pod's quality-of-service class; guaranteed pods have no folder of their class.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Qos {
    /// Requests equal limits.
    Guaranteed,
    /// Some requests.
    Burstable,
    /// No requests.
    #[default]
    BestEffort,
}

/// How a simulated pod shall look.
#[derive(Debug, Clone)]
pub struct SimOptions {
    /// The pod's name.
    pub name: String,
    /// Its Kubernetes namespace.
    pub namespace: String,
    /// Its UID; a random one if empty. Static pods have 32 hexadecimal digits without dashes.
    pub uid: String,
    /// The cgroup driver.
    pub layout: Layout,
    /// The class.
    pub qos: Qos,
    /// The token in its service-account folder.
    pub token: String,
    /// The CA bundle in its service-account folder, PEM.
    pub ca: String,
}

impl Default for SimOptions {
    fn default() -> Self {
        Self {
            name: "sim".to_owned(),
            namespace: "default".to_owned(),
            uid: String::new(),
            layout: Layout::default(),
            qos: Qos::default(),
            token: String::new(),
            ca: String::new(),
        }
    }
}

/// What simulated pods hang on. Dropping it removes it and all its pods.
#[derive(Debug)]
pub struct SimNode {
    state: StateFolder,
    netns: PathBuf,
    cgroup: PathBuf,
    next: AtomicU16,
    down: bool,
}

impl SimNode {
    /// Makes a node called `name` (1 to 8 lower-case letters and digits).
    ///
    /// # Errors
    /// The caller is not root, or the name is taken.
    pub fn up(name: &str) -> Result<Self> {
        ensure!(nix::unistd::geteuid().is_root(), "simulated pods need root");
        let unified = cgroup::unified()?;
        let state = StateFolder::create(name)?;
        let netns_name = state.prefixed();
        let cgroup = unified.join(&netns_name);
        // An error from here on drops the node, which removes what there is.
        let node = Self {
            netns: net::path(&netns_name),
            cgroup,
            state,
            next: AtomicU16::new(0),
            down: false,
        };
        node.state.record_all(&[
            Thing::Netns(netns_name.clone()),
            Thing::Cgroup(netns_name.clone()),
        ])?;
        net::create(&netns_name)?;
        fs::create_dir_all(node.cgroup.join("system")).context("make the node's cgroup")?;
        // nodad: an address may be used at once, nobody else has it.
        let lines = format!(
            "link set lo up\nlink add br0 type bridge\naddr add {}/16 dev br0\naddr add {}/64 dev br0 nodad\n\
             link set br0 up\nroute add unreachable default\n",
            node.address(),
            node.address6(),
        );
        net::ip(&node.netns, &lines)?;
        net::sysctls(&node.netns, &[("ipv4/ip_forward", "1")])?;
        Ok(node)
    }

    /// Removes the node and all its pods.
    ///
    /// # Errors
    /// Something does not go away.
    pub fn down(mut self) -> Result<()> {
        self.down = true;
        self.state.teardown()
    }

    /// Its address, which pods have as their default route.
    pub fn address(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 251, 0, 1)
    }

    /// Its version 6 address.
    pub fn address6(&self) -> Ipv6Addr {
        Ipv6Addr::new(0xfd00, 0x251, 0, 0, 0, 0, 0, 1)
    }

    /// The handle of its network namespace.
    pub fn netns(&self) -> &Path {
        &self.netns
    }

    /// Its cgroup in the unified hierarchy; pods are below `kubepods` or `kubepods.slice` in it.
    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// Its cgroup relative to the unified hierarchy's root.
    pub fn cgroup_name(&self) -> String {
        self.state.prefixed()
    }

    /// A folder that goes away with it.
    pub fn dir(&self) -> &Path {
        self.state.dir()
    }

    /// The node's place: its network namespace, and the cgroup that daemons are in.
    pub fn place(&self) -> Placement {
        Placement::new()
            .net(&self.netns)
            .cgroup(&self.cgroup.join("system"))
    }

    /// Starts a program in the node, outside every pod. The caller waits for it; it is ended with the node.
    ///
    /// # Errors
    /// It cannot be run.
    pub fn spawn(&self, mut command: Command) -> Result<Child> {
        self.place().apply(&mut command)?;
        command
            .spawn()
            .with_context(|| format!("run {}", command.get_program().to_string_lossy()))
    }

    /// Makes one pod.
    ///
    /// # Errors
    /// A part of it cannot be made.
    pub fn pod(&self, options: SimOptions) -> Result<SimPod> {
        let mut pods = self.pods([options])?;
        pods.pop().context("no pod was made")
    }

    /// Makes many pods, with few forks for each.
    ///
    /// # Errors
    /// A part of one cannot be made.
    pub fn pods(&self, options: impl IntoIterator<Item = SimOptions>) -> Result<Vec<SimPod>> {
        let mut pods = Vec::new();
        for wanted in options {
            pods.push(self.plan(wanted)?);
        }
        let netns: Vec<Thing> = pods
            .iter()
            .map(|pod| Thing::Netns(pod.netns_name.clone()))
            .collect();
        self.state.record_all(&netns)?;
        let mut lines = String::new();
        for pod in &pods {
            net::create(&pod.netns_name)?;
            lines.push_str(&format!(
                "link add {0} type veth peer name eth0 netns {1}\nlink set {0} master br0 up\n",
                pod.interface, pod.netns_name
            ));
        }
        net::ip(&self.netns, &lines)?;
        for pod in &mut pods {
            let lines = format!(
                "link set lo up\naddr add {}/16 dev eth0\naddr add {}/64 dev eth0 nodad\nlink set eth0 up\n\
                 route add default via {}\nroute add default via {}\n",
                pod.address,
                pod.address6,
                self.address(),
                self.address6(),
            );
            net::ip(&pod.netns, &lines)?;
            fs::create_dir_all(&pod.container_cgroup)
                .with_context(|| format!("create {}", pod.container_cgroup.display()))?;
            pod.write_service_account()?;
            // As a real pod's sandbox: the process that shows which network namespace the cgroup's pod has.
            let mut sleeper = Command::new("sleep");
            sleeper
                .arg("infinity")
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            pod.sleeper = Some(pod.spawn(sleeper)?);
        }
        Ok(pods)
    }

    fn plan(&self, options: SimOptions) -> Result<SimPod> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        ensure!(
            number < PODS_MAX,
            "a simulated node has no more than {PODS_MAX} pods"
        );
        let uid = if options.uid.is_empty() {
            fs::read_to_string("/proc/sys/kernel/random/uuid")?
                .trim()
                .to_owned()
        } else {
            options.uid.clone()
        };
        if !uid.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-') {
            bail!("{uid:?} is no pod's UID");
        }
        let cgroup = self.cgroup.join(pod_folder(options.layout, options.qos, &uid));
        let container = hex(digest::digest(&digest::SHA256, uid.as_bytes()).as_ref());
        let container_cgroup = match options.layout {
            Layout::Cgroupfs => cgroup.join(&container),
            Layout::Systemd => cgroup.join(format!("cri-containerd-{container}.scope")),
        };
        let netns_name = format!("{}-p{number}", self.state.prefixed());
        // Addresses of the first /24 are the node's.
        let [high, low] = (number + 256).to_be_bytes();
        Ok(SimPod {
            interface: format!("p{number}"),
            address: Ipv4Addr::new(10, 251, high, low),
            address6: Ipv6Addr::new(0xfd00, 0x251, 0, 0, 0, 0, 0, number + 256),
            netns: net::path(&netns_name),
            netns_name,
            service_account: self.state.dir().join(format!("pods/{number}/serviceaccount")),
            uid,
            cgroup,
            container_cgroup,
            container,
            options,
            sleeper: None,
        })
    }
}

impl Drop for SimNode {
    fn drop(&mut self) {
        if self.down {
            return;
        }
        if let Err(error) = self.state.teardown() {
            eprintln!(
                "simulated node {} is not down: {error:#}; try `cargo xtask clean`",
                self.state.name()
            );
        }
    }
}

/// The pod's folder below the node's, as the kubelet names it (pkg/kubelet/cm, cgroup_manager_linux.go).
fn pod_folder(layout: Layout, qos: Qos, uid: &str) -> String {
    let class = match qos {
        Qos::Guaranteed => None,
        Qos::Burstable => Some("burstable"),
        Qos::BestEffort => Some("besteffort"),
    };
    match (layout, class) {
        (Layout::Cgroupfs, None) => format!("kubepods/pod{uid}"),
        (Layout::Cgroupfs, Some(class)) => format!("kubepods/{class}/pod{uid}"),
        (Layout::Systemd, None) => format!("kubepods.slice/kubepods-pod{}.slice", uid.replace('-', "_")),
        (Layout::Systemd, Some(class)) => {
            let uid = uid.replace('-', "_");
            format!("kubepods.slice/kubepods-{class}.slice/kubepods-{class}-pod{uid}.slice")
        }
    }
}

/// One simulated pod. Dropping it ends its processes and removes it.
#[derive(Debug)]
pub struct SimPod {
    options: SimOptions,
    uid: String,
    container: String,
    cgroup: PathBuf,
    container_cgroup: PathBuf,
    netns_name: String,
    netns: PathBuf,
    interface: String,
    address: Ipv4Addr,
    address6: Ipv6Addr,
    service_account: PathBuf,
    sleeper: Option<Child>,
}

impl SimPod {
    /// Its address.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Its version 6 address.
    pub fn address6(&self) -> Ipv6Addr {
        self.address6
    }

    /// Its container's id.
    pub fn container_id(&self) -> &str {
        &self.container
    }

    /// Its container's cgroup, where its processes are.
    pub fn container_cgroup(&self) -> &Path {
        &self.container_cgroup
    }

    /// The folder with `token`, `ca.crt` and `namespace`.
    pub fn service_account(&self) -> &Path {
        &self.service_account
    }

    /// The place of its processes.
    pub fn place(&self) -> Placement {
        Placement::new().net(&self.netns).cgroup(&self.container_cgroup)
    }

    /// Starts a program that is in the pod's cgroup and network namespace from its first instruction.
    ///
    /// # Errors
    /// It cannot be run.
    pub fn spawn(&self, mut command: Command) -> Result<Child> {
        self.place().apply(&mut command)?;
        command.spawn().with_context(|| {
            format!(
                "run {} in {}",
                command.get_program().to_string_lossy(),
                self.options.name
            )
        })
    }

    fn write_service_account(&self) -> Result<()> {
        fs::create_dir_all(&self.service_account)?;
        fs::write(self.service_account.join("namespace"), &self.options.namespace)?;
        fs::write(self.service_account.join("token"), &self.options.token)?;
        Ok(fs::write(self.service_account.join("ca.crt"), &self.options.ca)?)
    }
}

impl TestPod for SimPod {
    fn name(&self) -> &str {
        &self.options.name
    }

    fn namespace(&self) -> &str {
        &self.options.namespace
    }

    fn uid(&self) -> &str {
        &self.uid
    }

    fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    fn netns(&self) -> &Path {
        &self.netns
    }

    fn run(&self, argv: &[&str]) -> Result<Output> {
        let (program, arguments) = argv.split_first().context("no program to run")?;
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null());
        self.place().apply(&mut command)?;
        command
            .output()
            .with_context(|| format!("run {program} in {}", self.options.name))
    }
}

impl Drop for SimPod {
    fn drop(&mut self) {
        // Whatever fails here, the node's own end removes.
        let _ = cgroup::kill_folder(&self.cgroup);
        if let Some(mut sleeper) = self.sleeper.take() {
            let _ = sleeper.kill();
            let _ = sleeper.wait();
        }
        let _ = cgroup::remove_folder(&self.cgroup);
        let _ = net::delete(&self.netns_name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_named_as_a_kubelet_names_them() {
        let uid = "0a1b-2c";
        assert_eq!(
            pod_folder(Layout::Cgroupfs, Qos::Guaranteed, uid),
            "kubepods/pod0a1b-2c"
        );
        assert_eq!(
            pod_folder(Layout::Cgroupfs, Qos::BestEffort, uid),
            "kubepods/besteffort/pod0a1b-2c"
        );
        assert_eq!(
            pod_folder(Layout::Systemd, Qos::Guaranteed, uid),
            "kubepods.slice/kubepods-pod0a1b_2c.slice"
        );
        assert_eq!(
            pod_folder(Layout::Systemd, Qos::Burstable, uid),
            "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod0a1b_2c.slice"
        );
    }
}

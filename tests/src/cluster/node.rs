//! One node: a network namespace, a mount namespace, a cgroup, and containerd, kubelet and kube-proxy in them.
//!
//! In: its number and the cluster's state. Out: a running node, and commands started inside it.

use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::config;
use crate::images::Image;
use crate::pki::{Authority, kubeconfig};
use crate::state::{ProcessId, StateFolder, Thing};
use crate::sys::Placement;
use crate::{cgroup, net};

/// The search path that everything in a node runs with.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How long a node's part may take to come up, which takes a second or two: this machine may be busy.
const START_LIMIT: Duration = Duration::from_secs(60);

/// What the mount namespace's first process does. /var/lib, /var/log and /run get a layer of the node's own, so that
/// nothing a kubelet or containerd writes there is left behind, or met by another node; big and mounted things lie in
/// the node's folder. The layers, and containerd's, are in memory: unmounting one on a disk waits until the disk is in sync,
/// which on a busy machine takes half a minute. Other states' network namespaces are let go of, or they would live as long as this node.
/// -n: mount keeps no notes of its own under /run.
const MOUNTS: &str = r#"
for netns in /run/netns/picket-tests-*; do
  if [ -e "$netns" ]; then umount -n -l "$netns" 2>/dev/null || true; fi
done
for path in containerd over; do
  mkdir -p "$1/$path"
  mount -n -t tmpfs -o mode=700 tmpfs "$1/$path"
done
for path in var/lib var/log run; do
  mkdir -p "$1/over/$path/upper" "$1/over/$path/work"
  mount -n -t overlay overlay -o "lowerdir=/$path,upperdir=$1/over/$path/upper,workdir=$1/over/$path/work" "/$path"
done
for path in kubelet cni; do
  mkdir -p "$1/lib/$path" "/var/lib/$path"
  mount -n --bind "$1/lib/$path" "/var/lib/$path"
done
mount -n --bind "$1/resolv.conf" /etc/resolv.conf
mount -n --make-rshared /
: > "$1/mounts.ready"
exec sleep infinity
"#;

/// One node of a cluster.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TestNode {
    /// Its name in the API.
    pub name: String,
    /// Its address on the nodes' network.
    pub address: Ipv4Addr,
    /// Where its pods' addresses are.
    pub pod_cidr: String,
    /// Its network namespace's handle.
    pub netns: PathBuf,
    /// Its cgroup, relative to every hierarchy's root; pods are below `<this>/kubepods`, daemons in `<this>/system`.
    pub cgroup_name: String,
    /// Its cgroup in the unified hierarchy, as an absolute path.
    pub cgroup: PathBuf,
    /// The folder for everything of this node; it looks the same from inside and outside its mount namespace.
    pub dir: PathBuf,
    /// The process that holds its mount namespace; zero until there is one.
    pub holder: i32,
}

impl TestNode {
    pub(super) fn new(state: &StateFolder, number: u8) -> Result<Self> {
        let cgroup_name = format!("{}/n{number}", state.prefixed());
        Ok(Self {
            name: format!("node{number}"),
            address: Ipv4Addr::new(10, 250, 0, number),
            pod_cidr: format!("10.244.{number}.0/24"),
            netns: net::path(&format!("{}-n{number}", state.prefixed())),
            cgroup: cgroup::unified()?.join(&cgroup_name),
            cgroup_name,
            dir: state.dir().join(format!("n{number}")),
            holder: 0,
        })
    }

    /// Where its kubelet finds the manifests of static pods.
    pub fn manifests(&self) -> PathBuf {
        self.dir.join("manifests")
    }

    /// The handle of its mount namespace.
    pub fn mount_namespace(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/ns/mnt", self.holder))
    }

    /// A file of the node's as this process opens it.
    pub fn file(&self, path: &Path) -> PathBuf {
        let path = path.strip_prefix("/").unwrap_or(path);
        PathBuf::from(format!("/proc/{}/root", self.holder)).join(path)
    }

    /// The node's place: both namespaces, and the cgroup its daemons are in.
    pub fn place(&self) -> Placement {
        let place = Placement::new()
            .net(&self.netns)
            .cgroup(&self.cgroup.join("system"));
        if self.holder == 0 {
            place
        } else {
            place.mounts(&self.mount_namespace())
        }
    }

    /// Starts a program in the node, as its daemons run. The caller waits for it; it is ended with the cluster.
    ///
    /// # Errors
    /// The node is gone, or the program cannot be run.
    pub fn spawn(&self, mut command: Command) -> Result<Child> {
        self.place().apply(&mut command)?;
        command
            .spawn()
            .with_context(|| format!("run {} in {}", command.get_program().to_string_lossy(), self.name))
    }

    /// Runs a program in the node to its end.
    ///
    /// # Errors
    /// The node is gone, or the program cannot be run.
    pub fn output(&self, mut command: Command) -> Result<Output> {
        self.place().apply(&mut command)?;
        command
            .output()
            .with_context(|| format!("run {} in {}", command.get_program().to_string_lossy(), self.name))
    }

    /// Puts an image into the node's containerd.
    ///
    /// # Errors
    /// containerd refuses it.
    pub fn load_image(&self, image: &Image) -> Result<()> {
        let mut command = Command::new("ctr");
        command.arg("--address").arg(self.dir.join("containerd.sock"));
        command.args(["--namespace", "k8s.io", "images", "import", "-"]);
        // By its input: the node's own view of the file system may not have the archive's folder.
        command
            .stdin(File::open(&image.archive).with_context(|| format!("open {}", image.archive.display()))?);
        let done = self.output(command)?;
        if !done.status.success() {
            bail!(
                "load {} into {}: {}",
                image.reference,
                self.name,
                String::from_utf8_lossy(&done.stderr).trim()
            );
        }
        Ok(())
    }

    /// Makes the mount namespace and starts the process that holds it.
    pub(super) fn hold_mounts(&mut self, state: &StateFolder) -> Result<()> {
        fs::create_dir_all(&self.dir)?;
        fs::write(self.dir.join("resolv.conf"), config::RESOLV_CONF)?;
        let mut command = Command::new("unshare");
        command
            .args([
                "--mount",
                "--propagation",
                "private",
                "--",
                "/bin/sh",
                "-euc",
                MOUNTS,
                "sh",
            ])
            .arg(&self.dir);
        let child = self.daemon(state, "mounts", command)?;
        let ready = self.dir.join("mounts.ready");
        self.wait(child, "mounts", START_LIMIT, || ready.exists())?;
        self.holder = child;
        Ok(())
    }

    pub(super) fn start_containerd(&self, state: &StateFolder, sandbox_image: &Image) -> Result<()> {
        let config = self.dir.join("containerd.toml");
        fs::write(&config, config::containerd(&self.dir, &sandbox_image.reference))?;
        fs::create_dir_all(self.dir.join("cni"))?;
        fs::write(
            self.dir.join("cni/10-picket.conflist"),
            config::cni(&self.pod_cidr),
        )?;
        let mut command = Command::new("containerd");
        command.arg("--config").arg(&config);
        let child = self.daemon(state, "containerd", command)?;
        let socket = self.dir.join("containerd.sock");
        let connects = || std::os::unix::net::UnixStream::connect(&socket).is_ok();
        self.wait(child, "containerd", START_LIMIT, connects)
    }

    pub(super) fn start_kubelet(
        &self,
        state: &StateFolder,
        program: &Path,
        pki: &Authority,
        server: &str,
    ) -> Result<()> {
        let address = self.address.to_string();
        let serving = pki.server(&format!("kubelet-{}", self.name), &[&self.name, &address])?;
        let user = format!("system:node:{}", self.name);
        let client = pki.client(&user.replace(':', "-"), &user, Some("system:nodes"))?;
        let login = self.dir.join("kubelet.kubeconfig");
        let ca = pki.pair().cert;
        fs::write(&login, kubeconfig(server, &ca, &client))?;
        let config = self.dir.join("kubelet.json");
        let with = config::Kubelet {
            dir: &self.dir,
            address: self.address,
            cgroup: &self.cgroup_name,
            ca: &ca,
            cert: &serving.cert,
            key: &serving.key,
        };
        fs::create_dir_all(self.manifests())?;
        fs::write(&config, config::kubelet(&with))?;
        let mut command = Command::new(program);
        command
            .arg("kubelet")
            .arg("--config")
            .arg(&config)
            .arg("--kubeconfig")
            .arg(&login);
        command.args([
            format!("--hostname-override={}", self.name),
            format!("--node-ip={address}"),
        ]);
        self.daemon(state, "kubelet", command).map(drop)
    }

    pub(super) fn start_proxy(
        &self,
        state: &StateFolder,
        program: &Path,
        pki: &Authority,
        server: &str,
    ) -> Result<()> {
        let client = pki.client(&format!("proxy-{}", self.name), "system:kube-proxy", None)?;
        let login = self.dir.join("proxy.kubeconfig");
        fs::write(&login, kubeconfig(server, &pki.pair().cert, &client))?;
        let mut command = Command::new(program);
        command.arg("kube-proxy").arg("--kubeconfig").arg(&login);
        command.arg(format!("--hostname-override={}", self.name));
        command.arg(format!("--cluster-cidr={}", config::POD_RANGE));
        // The connection-tracking limits are the machine's own and stay as they are.
        command.args(["--proxy-mode=nftables", "--conntrack-max-per-core=0"]);
        command.args([
            "--conntrack-tcp-timeout-established=0s",
            "--conntrack-tcp-timeout-close-wait=0s",
        ]);
        command.args([
            "--healthz-bind-address=127.0.0.1:10256",
            "--metrics-bind-address=127.0.0.1:10249",
        ]);
        self.daemon(state, "kube-proxy", command).map(drop)
    }

    /// Starts a daemon that outlives the caller, with its output in `<what>.log` of the node's folder.
    pub(super) fn daemon(&self, state: &StateFolder, what: &str, mut command: Command) -> Result<i32> {
        // Appended to where the daemon starts again.
        let log = self.dir.join(format!("{what}.log"));
        let log = File::options().create(true).append(true).open(log)?;
        command
            .env_clear()
            .env("PATH", PATH)
            .env("HOME", &self.dir)
            .current_dir("/");
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.place().own_session().apply(&mut command)?;
        let child = command
            .spawn()
            .with_context(|| format!("start {what} on {}", self.name))?;
        let pid = child.id().cast_signed();
        state.record(&Thing::Process {
            what: format!("{what} on {}", self.name),
            id: ProcessId::of(pid)?,
        })?;
        Ok(pid)
    }

    /// Waits until `ready`, or says what the daemon's log ends with.
    pub(super) fn wait(&self, pid: i32, what: &str, limit: Duration, ready: impl Fn() -> bool) -> Result<()> {
        let deadline = Instant::now() + limit;
        while !ready() {
            let ended =
                fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z "));
            if ended || Instant::now() > deadline {
                let why = if ended {
                    "has ended"
                } else {
                    "is not ready in time"
                };
                bail!(
                    "{what} on {} {why}; its log ends:\n{}",
                    self.name,
                    self.log_end(what)
                );
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// The last lines of a daemon's log (`containerd`, `kubelet`, `kube-proxy`, and on the first node `etcd` and so on).
    pub fn log_end(&self, what: &str) -> String {
        let text = fs::read_to_string(self.dir.join(format!("{what}.log"))).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }
}

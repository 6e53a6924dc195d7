//! What a test stands on: a cgroup, a network namespace, a BPF filesystem; and children that dial inside them.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use picket::workload::{Pod, PodUid, WorkloadName};

/// The environment variable that makes a child of this program.
pub(crate) const ORDER: &str = "PICKET_TEST_DIAL";

/// What the child's line begins with.
pub(crate) const MARK: &str = "DIALLED ";

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// Everything one test stands on, taken down when dropped.
pub(crate) struct Testbed {
    /// A plain folder of its own.
    pub(crate) folder: PathBuf,
    /// A folder on a BPF filesystem, not made yet.
    pub(crate) bpffs: PathBuf,
    /// The cgroup that programs attach to.
    pub(crate) cgroup: PathBuf,
    /// A pod's cgroup below it.
    pub(crate) pod: PathBuf,
    /// A container's cgroup below that.
    pub(crate) container: PathBuf,
    /// The network namespace.
    pub(crate) netns: File,
}

impl Testbed {
    pub(crate) fn new() -> Self {
        assert!(
            nix::unistd::Uid::effective().is_root(),
            "the kernel tests load BPF programs: run them as root"
        );
        let name = format!(
            "picket-kernel-{}-{}",
            std::process::id(),
            NUMBER.fetch_add(1, Ordering::Relaxed)
        );
        let folder = std::env::temp_dir().join(&name);
        let mounted = folder.join("bpf");
        fs::create_dir_all(&mounted).unwrap();
        mount(Some("bpf"), &mounted, Some("bpf"), MsFlags::empty(), None::<&str>).unwrap();
        let cgroup = unified().join(&name);
        let pod = cgroup.join("pod");
        let container = pod.join("container");
        fs::create_dir_all(&container).unwrap();
        Self {
            bpffs: mounted.join("picket"),
            folder,
            cgroup,
            pod,
            container,
            netns: namespace(),
        }
    }

    /// Runs something on a thread inside the namespace.
    pub(crate) fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        inside(&self.netns, work)
    }

    /// A server inside the namespace. It ends with the process.
    pub(crate) fn serve(&self, address: &str) -> SocketAddr {
        let listener = self.inside(|| TcpListener::bind(address).unwrap());
        let address = listener.local_addr().unwrap();
        thread::spawn(move || super::answer(&listener));
        address
    }

    /// Starts a child inside the namespace and a cgroup that dials.
    pub(crate) fn dial(&self, cgroup: &Path, how: &str, address: &str) -> Dial {
        let order = format!("{} {how} {address}", cgroup.display());
        let child = self.inside(|| {
            Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "dialler::dialler", "--nocapture", "--test-threads=1"])
                .env(ORDER, order)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap()
        });
        Dial { child }
    }

    /// The folder of the maps and links.
    pub(crate) fn layout(&self) -> PathBuf {
        self.layouts().next().unwrap()
    }

    /// The folders of all layouts.
    pub(crate) fn layouts(&self) -> impl Iterator<Item = PathBuf> {
        fs::read_dir(&self.bpffs)
            .unwrap()
            .map(|layout| layout.unwrap().path())
    }
}

impl Drop for Testbed {
    fn drop(&mut self) {
        let _ = umount2(&self.folder.join("bpf"), MntFlags::MNT_DETACH);
        let _ = fs::remove_dir_all(&self.folder);
        let begun = Instant::now();
        for cgroup in [&self.container, &self.pod, &self.cgroup] {
            // A child's exit reaches the cgroup a moment after it is waited for.
            while fs::remove_dir(cgroup).is_err() && begun.elapsed() < Duration::from_secs(5) {
                thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

/// A child that dials.
pub(crate) struct Dial {
    child: Child,
}

impl Dial {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for it to tell.
    pub(crate) fn outcome(self) -> Dialled {
        let output = self.child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let line = text.lines().find_map(|line| line.strip_prefix(MARK));
        Dialled::read(line.unwrap_or_else(|| panic!("the child told nothing: {text}")))
    }

    /// Ends its input, upon which it stops.
    pub(crate) fn stop(mut self) -> Dialled {
        drop(self.child.stdin.take());
        self.outcome()
    }
}

/// What came of a dial.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Dialled {
    /// Somebody answered.
    Reached {
        /// The peer as getpeername tells it.
        peer: SocketAddr,
        /// Who: the listener says `p`, a server `s`.
        answer: char,
    },
    /// Connected, and closed without an answer.
    Closed,
    /// Not connected.
    Failed(String),
}

impl Dialled {
    pub(crate) fn failed(kind: &str) -> Self {
        Self::Failed(kind.to_owned())
    }

    fn read(line: &str) -> Self {
        match line.split(' ').collect::<Vec<_>>().as_slice() {
            ["reached", peer, answer] => Self::Reached {
                peer: peer.parse().unwrap(),
                answer: answer.chars().next().unwrap(),
            },
            ["closed"] => Self::Closed,
            ["failed", kind] => Self::failed(kind),
            _ => panic!("the child told {line:?}"),
        }
    }
}

impl fmt::Display for Dialled {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reached { peer, answer } => write!(out, "reached {peer} {answer}"),
            Self::Closed => out.write_str("closed"),
            Self::Failed(kind) => write!(out, "failed {kind}"),
        }
    }
}

/// A pod as the listener is told of it.
pub(crate) fn pod() -> Pod {
    Pod {
        uid: PodUid("0d5a3c3e-7f3a-4a59-9a5b-0c6f4f0b8f11".to_owned()),
        namespace: "agents".to_owned(),
        name: "one".to_owned(),
        service_account: "default".to_owned(),
        workload: WorkloadName("Pod/one".to_owned()),
        labels: BTreeMap::new(),
        node: "node-a".to_owned(),
        host_network: false,
        addresses: Vec::new(),
        ports: Default::default(),
        sandboxed_by: None,
        containers: BTreeMap::new(),
        cgroup: None,
    }
}

/// Where cgroup v2 is mounted.
pub(crate) fn unified() -> PathBuf {
    picket::kernel::cgroup_mount().expect("cgroup v2 is mounted nowhere")
}

/// A namespace with loopback and some addresses on it, the protected endpoints' among them, and no way out.
pub(crate) fn namespace() -> File {
    let made = thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        ip("link set lo up");
        ip("address add 10.96.0.1/32 dev lo");
        ip("address add 10.96.0.2/32 dev lo");
        ip("-6 address add fd00:10:96::1/128 dev lo nodad");
        File::open("/proc/thread-self/ns/net").unwrap()
    });
    made.join().unwrap()
}

pub(crate) fn ip(line: &str) {
    let status = Command::new("ip").args(line.split(' ')).status().unwrap();
    assert!(status.success(), "ip {line}");
}

/// Runs something on a thread inside a namespace.
pub(crate) fn inside<T: Send>(netns: &File, work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let inside = scope.spawn(|| {
            setns(netns, CloneFlags::CLONE_NEWNET).unwrap();
            work()
        });
        inside.join().unwrap()
    })
}

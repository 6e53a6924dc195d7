//! The kernel's side in the agent's own words.
//!
//! In: plain numbers from `picket_common`. Out: types that the rest of the agent reads without knowing how the maps are laid
//! out.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use picket_common::{
    Address, COMM_LEN, ClassKind, ClassValue, Counter, DenyReason, DialRecord, EndpointAction, EndpointKey,
    Event, Hook, LEVELS_MAX, NodeValue,
};

/// How many levels of the cgroup hierarchy the kernel programs look at, its root being the first.
pub const LEVELS: usize = LEVELS_MAX as usize;

/// The number of a cgroup v2 folder, as the kernel's cgroup programs see it (`bpf_get_current_ancestor_cgroup_id`).
/// It is the folder's inode number; the kernel does not give it to another cgroup until it boots again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CgroupId(pub u64);

impl CgroupId {
    /// The number of the cgroup with this folder.
    ///
    /// # Errors
    /// What the system says where the folder cannot be looked at.
    pub fn of(folder: &Path) -> io::Result<Self> {
        Ok(Self(std::fs::metadata(folder)?.ino()))
    }
}

impl std::fmt::Display for CgroupId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// Where the programs attach and where they are pinned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelConfig {
    /// The cgroup v2 folder the programs attach to: the mount's root, or a parent of everything this node runs.
    pub cgroup_root: PathBuf,
    /// A folder on a BPF filesystem, this agent's own. It is made when missing; the filesystem is not.
    pub bpffs: PathBuf,
}

/// An address of the control plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProtectedEndpoint {
    /// Where it is.
    pub addr: SocketAddr,
    /// What happens there.
    pub action: EndpointAction,
}

impl ProtectedEndpoint {
    /// An API server: enforced pods are taken to their listener instead.
    pub fn redirect(addr: SocketAddr) -> Self {
        Self {
            addr,
            action: EndpointAction::Redirect,
        }
    }

    /// An address that enforced pods may not reach at all.
    pub fn deny(addr: SocketAddr) -> Self {
        Self {
            addr,
            action: EndpointAction::Deny,
        }
    }

    /// The key in ENDPOINTS.
    pub(super) fn key(&self) -> EndpointKey {
        EndpointKey::new(Address::from(self.addr.ip()), self.addr.port())
    }
}

/// What the kernel does with the connects of a cgroup and of all below it that have no class of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// Nothing.
    Exempt,
    /// Refuses those to protected endpoints until somebody knows better.
    Pending,
    /// The same for a folder of pods, whose pods nobody has judged: [`FailMode`] tells what becomes of them while no
    /// agent runs.
    Unclassified,
    /// Takes those to protected endpoints to the pod's listener.
    Enforced {
        /// The agent's own number for the pod; flows and events carry it.
        pod: u64,
        /// The listener's port on 127.0.0.1 and ::1.
        port: u16,
        /// The network namespace that the listener is in (`SO_NETNS_COOKIE`): the pod's own, or the node's.
        netns: u64,
    },
}

/// What becomes of pods that nobody has judged while no agent runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum FailMode {
    /// Protected endpoints are closed to them.
    #[default]
    Closed,
    /// They reach protected endpoints as if Picket were not there; each connect is counted (`allowed_unclassified`).
    Open,
}

/// The node itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeState {
    /// The node's own network namespace (`SO_NETNS_COOKIE`).
    pub netns: u64,
    /// The port of the listener there, which serves pods that share the node's network; `None` while there is none.
    pub port: Option<u16>,
    /// What becomes of pods that nobody has judged.
    pub unclassified: FailMode,
}

impl NodeState {
    pub(super) fn value(self) -> NodeValue {
        NodeValue {
            netns: self.netns,
            port: self.port.unwrap_or_default(),
            unclassified_open: u16::from(self.unclassified == FailMode::Open),
            reserved: 0,
        }
    }
}

impl Class {
    pub(super) fn value(self) -> ClassValue {
        let (kind, pod, port, netns) = match self {
            Self::Exempt => (ClassKind::Exempt, 0, 0, 0),
            Self::Pending => (ClassKind::Pending, 0, 0, 0),
            Self::Unclassified => (ClassKind::Unclassified, 0, 0, 0),
            Self::Enforced { pod, port, netns } => (ClassKind::Enforced, pod, port, netns),
        };
        ClassValue {
            kind: kind.code(),
            port,
            retiring: 0,
            pod,
            netns,
        }
    }

    pub(super) fn from_value(value: ClassValue) -> Self {
        match ClassKind::from_code(value.kind) {
            ClassKind::Exempt => Self::Exempt,
            ClassKind::Pending => Self::Pending,
            ClassKind::Unclassified => Self::Unclassified,
            ClassKind::Enforced => Self::Enforced {
                pod: value.pod,
                port: value.port,
                netns: value.netns,
            },
        }
    }
}

/// Who connected, as the kernel saw it inside connect(2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flow {
    /// The address the client dialled, in canonical form.
    pub origin: SocketAddr,
    /// The classified cgroup that decided.
    pub cgroup: CgroupId,
    /// The agent's number for the pod, as the class had it at that moment.
    pub pod: u64,
    /// The process id in the initial PID namespace.
    pub pid: u32,
    /// The thread id in the initial PID namespace.
    pub tid: u32,
    /// The user id in the initial user namespace.
    pub uid: u32,
    /// The thread's name.
    pub comm: String,
    /// When connect was called, in nanoseconds of the boot clock. A process that started later is another one.
    pub dialled_ns: u64,
}

impl From<&DialRecord> for Flow {
    fn from(record: &DialRecord) -> Self {
        Self {
            origin: SocketAddr::new(record.dialled.canonical().to_ip(), record.dialled_port),
            cgroup: CgroupId(record.cgroup),
            pod: record.pod,
            pid: record.pid,
            tid: record.tid,
            uid: record.uid,
            comm: comm(&record.comm),
            dialled_ns: record.dialled_ns,
        }
    }
}

/// A connect that the kernel denied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelEvent {
    /// The program that denied.
    pub hook: Option<Hook>,
    /// Why; `None` when a program of another version gave a reason this agent does not know.
    pub reason: Option<DenyReason>,
    /// The address the client dialled, in canonical form.
    pub origin: SocketAddr,
    /// The IP protocol of the socket: 6 is TCP, 17 UDP.
    pub protocol: u32,
    /// The classified cgroup that decided.
    pub cgroup: CgroupId,
    /// The agent's number for the pod; zero where it is not enforced.
    pub pod: u64,
    /// The socket's network namespace cookie.
    pub netns: u64,
    /// The process id in the initial PID namespace.
    pub pid: u32,
    /// The thread id in the initial PID namespace.
    pub tid: u32,
    /// The user id in the initial user namespace.
    pub uid: u32,
    /// The thread's name.
    pub comm: String,
    /// When, in nanoseconds of the boot clock.
    pub at_ns: u64,
}

impl From<&Event> for KernelEvent {
    fn from(event: &Event) -> Self {
        Self {
            hook: Hook::from_code(event.hook),
            reason: DenyReason::from_code(event.reason),
            origin: SocketAddr::new(event.dialled.canonical().to_ip(), event.dialled_port),
            protocol: event.protocol,
            cgroup: CgroupId(event.cgroup),
            pod: event.pod,
            netns: event.netns,
            pid: event.pid,
            tid: event.tid,
            uid: event.uid,
            comm: comm(&event.comm),
            at_ns: event.at_ns,
        }
    }
}

/// What the programs counted since their maps were made, over all CPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters([u64; picket_common::COUNTERS as usize]);

impl Counters {
    /// One of them.
    pub fn get(&self, counter: Counter) -> u64 {
        self.0.get(counter.index() as usize).copied().unwrap_or(0)
    }

    pub(super) fn set(&mut self, counter: Counter, value: u64) {
        if let Some(slot) = self.0.get_mut(counter.index() as usize) {
            *slot = value;
        }
    }
}

/// A task's name up to its terminating zero; a client may choose any bytes.
fn comm(bytes: &[u8; COMM_LEN]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(COMM_LEN);
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_of_every_spelling_share_a_key() {
        let key = |text: &str| ProtectedEndpoint::redirect(text.parse().unwrap()).key();
        assert_eq!(key("10.96.0.1:443"), key("[::ffff:10.96.0.1]:443"));
        assert_eq!(key("10.96.0.1:443"), key("[64:ff9b::10.96.0.1]:443"));
        assert_ne!(key("10.96.0.1:443"), key("10.96.0.1:6443"));
    }

    #[test]
    fn classes_read_back() {
        for class in [
            Class::Exempt,
            Class::Pending,
            Class::Unclassified,
            Class::Enforced {
                pod: 9,
                port: 41_000,
                netns: 4,
            },
        ] {
            assert_eq!(Class::from_value(class.value()), class);
        }
    }

    #[test]
    fn a_name_ends_at_its_zero_or_fills_the_field() {
        assert_eq!(comm(b"kubectl\0\0\0\0\0\0\0\0\0"), "kubectl");
        assert_eq!(comm(b"sixteen-bytes-xx"), "sixteen-bytes-xx");
    }
}

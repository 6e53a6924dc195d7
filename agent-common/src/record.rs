//! The keys and values of the maps.
//!
//! In: addresses, classes and ports of either side. Out: `repr(C)` types that one side writes and the other reads, and the
//! limits of each map.
//!
//! Each type asserts its size. [`LAYOUT`] hashes them all and names the folder that the maps are pinned in. So an agent never
//! adopts maps whose layout it does not share.

use crate::{Address, COMM_LEN, COUNTERS, Event};

/// Entries of ENDPOINTS: every control-plane port at every address of every node, so a few for each node. Entries take
/// memory as they come.
pub const ENDPOINTS_MAX: u32 = 65_536;

/// Entries of CLASSES: one per pod, plus the parents. A kubelet runs 110 pods by default and about 500 at most.
pub const CLASSES_MAX: u32 = 8192;

/// Entries of FLOWS: connections established and not accepted yet. The oldest go first when a client makes
/// more than this, and a connection without its flow is closed.
pub const FLOWS_MAX: u32 = 65_536;

/// Entries of NETNS: one per enforced pod with a network namespace of its own.
pub const NETNS_MAX: u32 = 4096;

/// Entries of INTERFACES: a pod has one as a rule, and a few where networks are attached to it.
pub const INTERFACES_MAX: u32 = 8192;

/// Entries of LIMITS: one per pod that had something denied lately. The oldest go first.
pub const LIMITS_MAX: u32 = 8192;

/// Events of one pod in one second; further ones are counted. A person reads a few, and a pod that tries in a loop
/// must not push those of others out of the ring.
pub const EVENTS_PER_SECOND: u32 = 64;

/// How old the agent's last sign of life may be, in nanoseconds of the boot clock, before the kernel takes it for gone.
/// It gives one every second; a machine under load may hold it up for some.
pub const HEARTBEAT_MAX_NS: u64 = 10_000_000_000;

/// Bytes of the event ring: about 2,000 events between two looks of the agent.
pub const EVENTS_BYTES: u32 = 256 * 1024;

/// The ports that listeners take: outside the range that Linux gives out by itself (32768 to 60999), and above the ports that
/// programs are known by.
pub const LISTENER_PORTS: core::ops::RangeInclusive<u16> = 64_320..=64_351;

/// How deep below the cgroup root a classified cgroup may lie. The kubelet's systemd layout nests 4 deep, and
/// a cluster run inside containers adds its own; a task may sit deeper, its pod may not.
pub const LEVELS_MAX: i32 = 16;

/// The key of ENDPOINTS: an address of the control plane, in canonical form.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EndpointKey {
    /// The address, canonical.
    pub address: Address,
    /// The port in host order.
    pub port: u16,
    /// Zero.
    pub reserved: u16,
}

impl EndpointKey {
    /// The key for what a client dials; `port` in host order.
    #[inline(always)]
    pub const fn new(address: Address, port: u16) -> Self {
        Self {
            address: address.endpoint(),
            port,
            reserved: 0,
        }
    }
}

/// What happens at a protected endpoint; the value of ENDPOINTS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EndpointAction {
    /// An API server: enforced pods are taken to their listener.
    Redirect,
    /// Nothing an enforced pod may reach at all.
    Deny,
}

impl EndpointAction {
    /// The number in the map.
    pub const fn code(self) -> u32 {
        match self {
            Self::Redirect => 1,
            Self::Deny => 2,
        }
    }

    /// Reads the map's number; what is unknown denies.
    #[inline(always)]
    pub const fn from_code(code: u32) -> Self {
        match code {
            1 => Self::Redirect,
            _ => Self::Deny,
        }
    }
}

/// What kind of cgroup this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ClassKind {
    /// Connects as if Picket were not there.
    Exempt,
    /// Not classified yet: every protected endpoint is shut.
    Pending,
    /// Its connects to protected endpoints go to its listener.
    Enforced,
    /// A folder of pods: those below it that have no class of their own were never judged. As [`Self::Pending`],
    /// unless the operator wants such pods let through while no agent runs.
    Unclassified,
}

impl ClassKind {
    /// The number in the map.
    pub const fn code(self) -> u32 {
        match self {
            Self::Exempt => 1,
            Self::Pending => 2,
            Self::Enforced => 3,
            Self::Unclassified => 4,
        }
    }

    /// Reads the map's number; what is unknown is pending, because pending denies.
    #[inline(always)]
    pub const fn from_code(code: u32) -> Self {
        match code {
            1 => Self::Exempt,
            3 => Self::Enforced,
            4 => Self::Unclassified,
            _ => Self::Pending,
        }
    }
}

/// The value of CLASSES; its key is the cgroup's id.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClassValue {
    /// A [`ClassKind`] by its code.
    pub kind: u32,
    /// The listener's port in host order; zero where there is none.
    pub port: u16,
    /// A port that the listener is about to leave, in host order: connections redirected there are still taken. Zero where
    /// there is none.
    pub retiring: u16,
    /// The agent's own number for the pod.
    pub pod: u64,
    /// The network namespace that the port is in (`SO_NETNS_COOKIE`).
    pub netns: u64,
}

/// The node itself; the one value of NODE.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NodeValue {
    /// The node's own network namespace (`SO_NETNS_COOKIE`); zero while nobody has told it.
    pub netns: u64,
    /// The port of the listener there, in host order; zero where there is none.
    pub port: u16,
    /// One where pods that nobody judged may reach protected endpoints while no agent runs; zero where they may not.
    pub unclassified_open: u16,
    /// Zero.
    pub reserved: u32,
}

/// How much a pod was heard lately; the value of LIMITS.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LimitValue {
    /// When the second began, in nanoseconds of the boot clock.
    pub since_ns: u64,
    /// Events in it.
    pub events: u32,
    /// Zero.
    pub reserved: u32,
}

/// Where a redirected socket stands; see [`DialRecord::state`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DialState {
    /// Its connect was rewritten.
    Dialling,
    /// Its flow is written. A later connect of the same socket gets none unless it is rewritten again.
    Noted,
    /// It was established with a socket other than a listener of Picket's: nothing that it sends goes out.
    Misdirected,
    /// It is a listener of Picket's, which no program of a pod can say of a socket of its own.
    Listener,
}

impl DialState {
    /// The number in the record.
    pub const fn code(self) -> u32 {
        match self {
            Self::Dialling => 1,
            Self::Noted => 2,
            Self::Misdirected => 3,
            Self::Listener => 4,
        }
    }
}

/// A redirected connect: kept with its socket (SOCKETS) from the connect on, and copied to FLOWS when the
/// socket is established. A listener of Picket's has one too, with [`DialState::Listener`] and nothing else in it.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DialRecord {
    /// The address as the client dialled it, not yet canonical: getpeername gives it back.
    pub dialled: Address,
    /// The port it dialled, in host order.
    pub dialled_port: u16,
    /// The listener's port it was taken to, in host order.
    pub listener_port: u16,
    /// A [`DialState`] by its code.
    pub state: u32,
    /// The classified cgroup that decided.
    pub cgroup: u64,
    /// The agent's number for the pod.
    pub pod: u64,
    /// The socket's network namespace (`SO_NETNS_COOKIE`).
    pub netns: u64,
    /// When the client called connect, in nanoseconds of the boot clock (`CLOCK_BOOTTIME`).
    pub dialled_ns: u64,
    /// The process id (the kernel's tgid) in the initial PID namespace.
    pub pid: u32,
    /// The thread id in the initial PID namespace.
    pub tid: u32,
    /// The user id in the initial user namespace.
    pub uid: u32,
    /// Zero.
    pub reserved: u32,
    /// The thread's name, ended by a zero.
    pub comm: [u8; COMM_LEN],
}

impl DialRecord {
    /// The record of a listener of Picket's.
    pub const LISTENER: Self = Self {
        dialled: Address::NOWHERE,
        dialled_port: 0,
        listener_port: 0,
        state: DialState::Listener.code(),
        cgroup: 0,
        pod: 0,
        netns: 0,
        dialled_ns: 0,
        pid: 0,
        tid: 0,
        uid: 0,
        reserved: 0,
        comm: [0; COMM_LEN],
    };
}

/// The key of FLOWS: a connection as the listener sees it when it accepts.
///
/// The source port alone would not do: sockets bound to different loopback addresses may share it.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// The network namespace (`SO_NETNS_COOKIE`).
    pub netns: u64,
    /// The client's own address, canonical, which tells the families apart.
    pub source: Address,
    /// The client's own port in host order.
    pub source_port: u16,
    /// The listener's port in host order.
    pub listener_port: u16,
    /// Zero.
    pub reserved: u32,
}

impl FlowKey {
    /// The key of a connection from `source`; ports in host order.
    #[inline(always)]
    pub const fn new(netns: u64, source: Address, source_port: u16, listener_port: u16) -> Self {
        Self {
            netns,
            source: source.canonical(),
            source_port,
            listener_port,
            reserved: 0,
        }
    }
}

const _: () = assert!(size_of::<EndpointKey>() == 20);
const _: () = assert!(size_of::<ClassValue>() == 24);
const _: () = assert!(size_of::<NodeValue>() == 16);
const _: () = assert!(size_of::<LimitValue>() == 16);
const _: () = assert!(size_of::<DialRecord>() == 88);
const _: () = assert!(size_of::<FlowKey>() == 32);

/// What the fields mean. Raised by hand when a meaning changes and no size does.
const MEANING: u64 = 4;

/// A hash over the shape of every map, for the name of the folder they are pinned in (FNV-1a, 64 bits).
pub const LAYOUT: u64 = {
    let facts = [
        MEANING,
        size_of::<EndpointKey>() as u64,
        size_of::<ClassValue>() as u64,
        size_of::<DialRecord>() as u64,
        size_of::<FlowKey>() as u64,
        size_of::<Event>() as u64,
        size_of::<NodeValue>() as u64,
        size_of::<LimitValue>() as u64,
        COUNTERS as u64,
        ENDPOINTS_MAX as u64,
        CLASSES_MAX as u64,
        FLOWS_MAX as u64,
        NETNS_MAX as u64,
        INTERFACES_MAX as u64,
        LIMITS_MAX as u64,
        EVENTS_BYTES as u64,
    ];
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut at = 0;
    while at < facts.len() {
        hash = (hash ^ facts[at]).wrapping_mul(0x0000_0100_0000_01b3);
        at += 1;
    }
    hash
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_codes_are_the_strict_ones() {
        for code in [0, 5, u32::MAX] {
            assert_eq!(ClassKind::from_code(code), ClassKind::Pending);
        }
        for code in [0, 3, u32::MAX] {
            assert_eq!(EndpointAction::from_code(code), EndpointAction::Deny);
        }
    }

    #[test]
    fn codes_read_back() {
        for kind in [
            ClassKind::Exempt,
            ClassKind::Pending,
            ClassKind::Enforced,
            ClassKind::Unclassified,
        ] {
            assert_eq!(ClassKind::from_code(kind.code()), kind);
        }
        for action in [EndpointAction::Redirect, EndpointAction::Deny] {
            assert_eq!(EndpointAction::from_code(action.code()), action);
        }
    }
}

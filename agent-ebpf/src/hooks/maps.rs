//! The maps.
//!
//! In: what the agent writes: protected endpoints, classes, namespaces, interfaces, the node's state, the heartbeat. Out: what
//! the programs write: flows, events, counters and socket storage.
//!
//! The agent pins each map under its name here. No map asks to be pinned itself, so that the programs can be tried without
//! leaving anything.

use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::btf_maps::SkStorage;
use aya_ebpf::macros::{btf_map, map};
use aya_ebpf::maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf};
use picket_common::{
    CLASSES_MAX, COUNTERS as COUNTERS_MAX, ClassValue, DialRecord, ENDPOINTS_MAX, EVENTS_BYTES, EndpointKey,
    FLOWS_MAX, FlowKey, INTERFACES_MAX, LIMITS_MAX, LimitValue, NETNS_MAX, NodeValue,
};

/// Addresses of the control plane; the value is the code of a `EndpointAction`.
#[map]
pub(super) static ENDPOINTS: HashMap<EndpointKey, u32> =
    HashMap::with_max_entries(ENDPOINTS_MAX, BPF_F_NO_PREALLOC);

/// Classified cgroups by their id.
#[map]
pub(super) static CLASSES: HashMap<u64, ClassValue> = HashMap::with_max_entries(CLASSES_MAX, 0);

/// The cgroup of the pod that a network namespace belongs to, from when it is first enforced until the pod is released.
#[map]
pub(super) static NETNS: HashMap<u64, u64> = HashMap::with_max_entries(NETNS_MAX, 0);

/// The cgroup of the enforced pod behind an interface of the node.
#[map]
pub(super) static INTERFACES: HashMap<u32, u64> = HashMap::with_max_entries(INTERFACES_MAX, 0);

/// What the agent told of the node.
#[map]
pub(super) static NODE: Array<NodeValue> = Array::with_max_entries(1, 0);

/// The agent's last sign of life, in nanoseconds of the boot clock.
#[map]
pub(super) static HEARTBEAT: Array<u64> = Array::with_max_entries(1, 0);

/// How much each classified cgroup was heard lately.
#[map]
pub(super) static LIMITS: LruHashMap<u64, LimitValue> = LruHashMap::with_max_entries(LIMITS_MAX, 0);

/// Established connections to listeners, until the listener takes them.
#[map]
pub(super) static FLOWS: LruHashMap<FlowKey, DialRecord> = LruHashMap::with_max_entries(FLOWS_MAX, 0);

/// Denied connects.
#[map]
pub(super) static EVENTS: RingBuf = RingBuf::with_byte_size(EVENTS_BYTES, 0);

/// Counts per CPU, by the index of a `Counter`.
#[map]
pub(super) static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(COUNTERS_MAX, 0);

/// What is known of a redirected socket, kept with the socket itself: it goes when the socket goes, and no
/// other client can push it out.
#[btf_map]
pub(super) static SOCKETS: SkStorage<DialRecord> = SkStorage::new();

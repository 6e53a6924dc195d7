//! The maps. The agent pins each under its name here; none asks for it itself, so that the programs can be tried
//! without leaving anything.

use aya_ebpf::btf_maps::SkStorage;
use aya_ebpf::macros::{btf_map, map};
use aya_ebpf::maps::{HashMap, LruHashMap, PerCpuArray, RingBuf};
use picket_common::{
    CLASSES_MAX, COUNTERS as COUNTERS_MAX, ClassValue, DOORS_MAX, DialRecord, DoorKey, EVENTS_BYTES,
    FLOWS_MAX, FlowKey,
};

/// Addresses of the control plane; the value is the code of a `DoorAction`.
#[map]
pub(super) static DOORS: HashMap<DoorKey, u32> = HashMap::with_max_entries(DOORS_MAX, 0);

/// Classified cgroups by their id.
#[map]
pub(super) static CLASSES: HashMap<u64, ClassValue> = HashMap::with_max_entries(CLASSES_MAX, 0);

/// Established connections to listeners, until the listener takes them.
#[map]
pub(super) static FLOWS: LruHashMap<FlowKey, DialRecord> = LruHashMap::with_max_entries(FLOWS_MAX, 0);

/// Refused connects.
#[map]
pub(super) static EVENTS: RingBuf = RingBuf::with_byte_size(EVENTS_BYTES, 0);

/// Counts per CPU, by the index of a `Counter`.
#[map]
pub(super) static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(COUNTERS_MAX, 0);

/// What is known of a redirected socket, kept with the socket itself: it goes when the socket goes, and no
/// other client can push it out.
#[btf_map]
pub(super) static SOCKETS: SkStorage<DialRecord> = SkStorage::new();

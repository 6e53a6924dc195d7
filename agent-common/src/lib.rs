//! Map keys, values, events and decisions that Picket's kernel programs and its agent share.
//!
//! In: plain numbers as the kernel gives them. Out: the types that lie in the maps, and decisions as plain functions.
//!
//! Every type is `repr(C)` without implicit padding, because the kernel compares map keys byte by byte. Nothing here calls the
//! kernel, so the host's tests run the decisions as they are.
#![cfg_attr(not(test), no_std)]

mod address;
mod decide;
mod event;
mod packet;
mod record;

#[cfg(feature = "user")]
mod pod;

pub use address::Address;
pub use decide::{
    KernelVerdict, Socket, alternative, gone, is_followed, judge, judge_unfollowed, rewrite, serves,
    takes_listener_port, was_listener_port,
};
pub use event::{COUNTERS, Counter, DenyReason, Event, Hook};
pub use packet::{Destination, PacketBytes, destination, is_tagged};
pub use record::{
    CLASSES_MAX, ClassKind, ClassValue, DialRecord, DialState, ENDPOINTS_MAX, EVENTS_BYTES,
    EVENTS_PER_SECOND, EndpointAction, EndpointKey, FLOWS_MAX, FlowKey, HEARTBEAT_MAX_NS, INTERFACES_MAX,
    LAYOUT, LEVELS_MAX, LIMITS_MAX, LISTENER_PORTS, LimitValue, NETNS_MAX, NodeValue,
};

/// Bytes of a task's name, the terminating zero included (`TASK_COMM_LEN`, include/linux/sched.h).
pub const COMM_LEN: usize = 16;

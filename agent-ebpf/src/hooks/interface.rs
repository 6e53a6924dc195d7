//! Packets that reach the node from an enforced pod's interface, whatever sent them: packet sockets, AF_XDP, sockets made in
//! another cgroup.
//!
//! In: each packet at the node's end of the interface, and its destination. Out: the packet goes on, or is dropped and
//! reported.

use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use picket_common::{Hook, is_tagged};

use super::packet::{HIDDEN, Loopback, Packet, dropped, forbidden};
use super::{Classified, class_of, maps};

/// Go on with the next program (`TCX_NEXT`, include/uapi/linux/bpf.h).
const NEXT: i32 = -1;

/// Drop the packet (`TCX_DROP`).
const DROP: i32 = 2;

/// Attached as `BPF_TCX_INGRESS` to the node's end of the pod's interface.
#[classifier]
pub(crate) fn interface(ctx: TcContext) -> i32 {
    let packet = Packet(ctx.skb.skb);
    // SAFETY: the context is valid while the program runs.
    let (index, protocol) = unsafe { ((*packet.0).ifindex, (*packet.0).protocol) };
    // The kernel takes one tag off before this program and the others after it, so that what is inside is not to be seen.
    let why = if is_tagged(u16::from_be(protocol as u16)) {
        Some(HIDDEN)
    } else {
        forbidden(&packet, Loopback::Never)
    };
    let Some(why) = why else {
        return NEXT;
    };
    // SAFETY: the number is copied at once, and the agent never changes one in place.
    if let Some(cgroup) = unsafe { maps::INTERFACES.get(index) }
        && let Some(class) = class_of(*cgroup)
    {
        let by = Classified {
            cgroup: *cgroup,
            class: *class,
        };
        dropped(&by, Hook::Interface, why);
    }
    DROP
}

//! Packets that leave sockets of an enforced pod.
//!
//! In: each packet on its way out, and its destination. Out: refuse for packets to protected endpoints, and for redirected
//! connections that would come to another socket than Picket's.
//!
//! There are two programs: one for pods with a network namespace of their own, one for pods that share the node's. To the
//! first, loopback is the pod's own.

use aya_ebpf::helpers::generated as helper;
use aya_ebpf::macros::cgroup_skb;
use aya_ebpf::programs::SkBuffContext;
use picket_common::Hook;

use super::listener::is_misdirected;
use super::packet::{Loopback, Packet, dropped, forbidden};
use super::{PASS, REFUSE, classify};

/// The loopback interface's number, which is the first of every network namespace (net/core/dev.c, `LOOPBACK_IFINDEX`).
const LOOPBACK: u32 = 1;

/// Attached as `BPF_CGROUP_INET_EGRESS` to each enforced pod's cgroup.
#[cgroup_skb(egress)]
pub(crate) fn egress(ctx: SkBuffContext) -> i32 {
    // SAFETY: the context is valid while the program runs.
    let interface = unsafe { (*ctx.skb.skb).ifindex };
    if interface != LOOPBACK {
        leave(&ctx, Loopback::Never)
    } else if is_misdirected(&Packet(ctx.skb.skb)) {
        REFUSE
    } else {
        leave(&ctx, Loopback::Own)
    }
}

/// The same for pods that share the node's network.
#[cgroup_skb(egress)]
pub(crate) fn egress_node(ctx: SkBuffContext) -> i32 {
    // SAFETY: the context is valid while the program runs.
    let interface = unsafe { (*ctx.skb.skb).ifindex };
    if interface == LOOPBACK && is_misdirected(&Packet(ctx.skb.skb)) {
        return REFUSE;
    }
    leave(&ctx, Loopback::Listed)
}

#[inline(always)]
fn leave(ctx: &SkBuffContext, loopback: Loopback) -> i32 {
    let packet = Packet(ctx.skb.skb);
    let Some(why) = forbidden(&packet, loopback) else {
        return PASS;
    };
    // SAFETY: the context is the one the kernel called this program with; zero below the socket's own level.
    let by = classify(|level| unsafe { helper::bpf_skb_ancestor_cgroup_id(packet.0, level) });
    // Without a class there is nobody to name, and the packet is dropped all the same: the program is attached to
    // enforced pods alone.
    if !by.is_nobody() {
        dropped(&by, Hook::Egress, why);
    }
    REFUSE
}

//! getpeername(2) on an IPv6 socket: a redirected client sees the address it dialled.
//!
//! In: the kernel's context, and the socket's dial record. Out: the dialled address in place of the listener's.

use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use picket_common::rewrite;

use super::{PASS, dial_record, set_user_ip6, set_user_port, user_ip6, user_port};

/// Attached as `BPF_CGROUP_INET6_GETPEERNAME`; the kernel allows it no other answer than "go on".
///
/// The peer is compared with the listener first, because a socket may have been connected elsewhere since.
#[cgroup_sock_addr(getpeername6)]
pub(crate) fn getpeername6(ctx: SockAddrContext) -> i32 {
    if let Some(record) = dial_record(&ctx)
        && record.listener_port == user_port(&ctx)
        && rewrite(record.dialled) == user_ip6(&ctx)
    {
        set_user_ip6(&ctx, record.dialled);
        set_user_port(&ctx, record.dialled_port);
    }
    PASS
}

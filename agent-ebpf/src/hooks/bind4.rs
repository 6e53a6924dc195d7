//! bind(2) to an IPv4 address.
//!
//! In: the kernel's context of the call. Out: what [`bind`](super::bind) makes of it.

use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use picket_common::Hook;

use super::bind::bind;
use super::user_ip4;

/// Attached as `BPF_CGROUP_INET4_BIND`.
#[cgroup_sock_addr(bind4)]
pub(crate) fn bind4(ctx: SockAddrContext) -> i32 {
    bind(&ctx, Hook::Bind4, || user_ip4(&ctx))
}

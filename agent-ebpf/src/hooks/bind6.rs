//! bind(2) to an IPv6 address, mapped IPv4 ones included.
//!
//! In: the kernel's context of the call. Out: what [`bind`](super::bind) makes of it.

use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use picket_common::Hook;

use super::bind::bind;
use super::user_ip6;

/// Attached as `BPF_CGROUP_INET6_BIND`.
#[cgroup_sock_addr(bind6)]
pub(crate) fn bind6(ctx: SockAddrContext) -> i32 {
    bind(&ctx, Hook::Bind6, || user_ip6(&ctx))
}

//! connect(2) with an IPv6 address, mapped IPv4 ones included.
//!
//! In: the kernel's context of the call. Out: pass, refuse, or the listener's address in place of the dialled one.

use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use picket_common::Hook;

use super::connect::{Outcome, connect};
use super::{PASS, REFUSE, set_user_ip6, set_user_port, user_ip6};

/// Attached as `BPF_CGROUP_INET6_CONNECT`.
#[cgroup_sock_addr(connect6)]
pub(crate) fn connect6(ctx: SockAddrContext) -> i32 {
    match connect(&ctx, Hook::Connect6, user_ip6(&ctx)) {
        Outcome::Pass => PASS,
        Outcome::Deny => REFUSE,
        Outcome::Rewrite(address, port) => {
            set_user_ip6(&ctx, address);
            set_user_port(&ctx, port);
            PASS
        }
    }
}

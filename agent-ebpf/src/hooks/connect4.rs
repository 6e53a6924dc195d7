//! connect(2) with an IPv4 address.
//!
//! In: the kernel's context of the call. Out: pass, refuse, or the listener's address in place of the dialled one.

use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use picket_common::Hook;

use super::connect::{Outcome, connect};
use super::{PASS, REFUSE, set_user_ip4, set_user_port, user_ip4};

/// Attached as `BPF_CGROUP_INET4_CONNECT`.
#[cgroup_sock_addr(connect4)]
pub(crate) fn connect4(ctx: SockAddrContext) -> i32 {
    match connect(&ctx, Hook::Connect4, user_ip4(&ctx)) {
        Outcome::Pass => PASS,
        Outcome::Deny => REFUSE,
        Outcome::Rewrite(address, port) => {
            set_user_ip4(&ctx, address);
            set_user_port(&ctx, port);
            PASS
        }
    }
}

//! sendto(2) and sendmsg(2) of UDP to an IPv4 address, mapped ones included, without a connect before.
//!
//! In: the kernel's context of the call. Out: pass or refuse; a datagram is never redirected.

use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use picket_common::Hook;

use super::connect::{Outcome, connect};
use super::{PASS, REFUSE, user_ip4};

/// Attached as `BPF_CGROUP_UDP4_SENDMSG`. UDP is never redirected, so what does not pass is denied.
#[cgroup_sock_addr(sendmsg4)]
pub(crate) fn sendmsg4(ctx: SockAddrContext) -> i32 {
    let answer = match connect(&ctx, Hook::SendMsg4, user_ip4(&ctx)) {
        Outcome::Pass => PASS,
        Outcome::Deny | Outcome::Rewrite(..) => REFUSE,
    };
    // The compiler makes the answer out of the outcome by arithmetic, whose bounds the verifier cannot see.
    core::hint::black_box(answer) & PASS
}

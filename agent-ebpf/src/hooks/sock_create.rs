//! socket(2) of the internet families: kinds of sockets that no other hook follows are not made.
//!
//! In: the kind and protocol of a new socket, and the task's class. Out: pass, or refuse with a report.

use aya_ebpf::helpers::generated as helper;
use aya_ebpf::macros::cgroup_sock;
use aya_ebpf::programs::SockContext;
use picket_common::{Address, Counter, Hook, KernelVerdict, is_followed, judge_unfollowed};

use super::report::{Denied, report};
use super::{PASS, REFUSE, agent_gone, classify_current, count, current_task, node};

/// Attached as `BPF_CGROUP_INET_SOCK_CREATE`. TCP and UDP sockets, which are nearly all, cost two comparisons.
#[cgroup_sock(sock_create)]
pub(crate) fn sock_create(ctx: SockContext) -> i32 {
    // SAFETY: the context is valid while the program runs.
    let (kind, protocol) = unsafe { ((*ctx.sock).type_, (*ctx.sock).protocol) };
    if is_followed(kind, protocol) {
        return PASS;
    }
    let classified = classify_current();
    if classified.is_nobody() {
        return PASS;
    }
    match judge_unfollowed(&classified.class, &node(), kind, protocol, agent_gone()) {
        KernelVerdict::Deny(reason) => {
            // SAFETY: the context is the one the kernel called this program with.
            let netns = unsafe { helper::bpf_get_netns_cookie(ctx.sock.cast()) };
            report(
                &classified,
                Denied {
                    hook: Hook::SockCreate,
                    reason,
                    task: current_task(),
                    netns,
                    address: Address::NOWHERE,
                    port: 0,
                    protocol,
                },
            );
            REFUSE
        }
        KernelVerdict::PassUnclassified => {
            count(Counter::AllowedUnclassified);
            PASS
        }
        KernelVerdict::Pass | KernelVerdict::Redirect(_) => PASS,
    }
}

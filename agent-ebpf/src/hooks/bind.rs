//! What bind4 and bind6 share: a program of a pod that binds the port of the pod's listener is reported, and the listener
//! moves.
//!
//! In: the socket, its address and the pod's class. Out: an event to the agent; the bind itself always passes.
//!
//! While the listener is there, the kernel itself fails such a bind (`EADDRINUSE`), so nothing is refused here. `listener` sees
//! to it that no redirected connection comes to whoever has the port later.

use aya_ebpf::helpers::generated as helper;
use aya_ebpf::programs::SockAddrContext;
use picket_common::{Address, DenyReason, Hook, Socket, takes_listener_port, was_listener_port};

use super::report::{Denied, report};
use super::{Classified, PASS, class_of, current_task, maps, netns_cookie, user_port};

/// `SOL_SOCKET` and `SO_REUSEADDR` (include/uapi/asm-generic/socket.h).
const SOL_SOCKET: i32 = 1;
const SO_REUSEADDR: i32 = 2;

/// Looks at a bind, and lets it go on.
#[inline(always)]
pub(super) fn bind(ctx: &SockAddrContext, hook: Hook, address: impl Fn() -> Address) -> i32 {
    let port = user_port(ctx);
    // The kernel chooses, and chooses none that is taken.
    if port == 0 {
        return PASS;
    }
    let netns = netns_cookie(ctx);
    // SAFETY: the number is copied at once, and the agent never changes one in place.
    let Some(cgroup) = (unsafe { maps::NETNS.get(netns) }) else {
        return PASS;
    };
    let cgroup = *cgroup;
    let Some(class) = class_of(cgroup) else {
        return PASS;
    };
    let class = *class;
    // SAFETY: the context is valid while the program runs.
    let (kind, protocol) = unsafe { ((*ctx.sock_addr).type_, (*ctx.sock_addr).protocol) };
    let socket = Socket {
        netns,
        kind,
        protocol,
    };
    if was_listener_port(&class, &socket, port) {
        reuse(ctx);
    }
    let address = address();
    if takes_listener_port(&class, &socket, address, port) {
        report(
            &Classified { cgroup, class },
            Denied {
                hook,
                reason: DenyReason::ListenerPort,
                task: current_task(),
                netns,
                address,
                port,
                protocol,
            },
        );
    }
    PASS
}

/// Lets the socket share its port with connections that a listener accepted there before it moved. A kernel that does not let
/// programs set it leaves it to the pod's program, as most programs do set it.
#[inline(always)]
fn reuse(ctx: &SockAddrContext) {
    let mut on = 1_i32;
    // SAFETY: the context is the one the kernel called this program with, and the value lives across the call.
    let _ = unsafe {
        helper::bpf_setsockopt(
            ctx.sock_addr.cast(),
            SOL_SOCKET,
            SO_REUSEADDR,
            (&raw mut on).cast(),
            size_of::<i32>() as i32,
        )
    };
}

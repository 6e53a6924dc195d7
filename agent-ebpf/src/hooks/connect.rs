//! What connect4, connect6, sendmsg4 and sendmsg6 share: find the protected endpoint, judge, note, report.
//!
//! In: the socket, the dialled address, the task's class and the map of protected endpoints. Out: an [`Outcome`], a dial record
//! in the socket's storage, and an event for a denied connect.

use aya_ebpf::programs::SockAddrContext;
use picket_common::{
    Address, Counter, DenyReason, DialRecord, DialState, EndpointAction, EndpointKey, Hook, KernelVerdict,
    Socket, alternative, judge, rewrite,
};

use super::report::{Denied, report};
use super::{
    Classified, agent_gone, boot_ns, classify_user, count, current_task, maps, netns_cookie, node, user_port,
};

/// What a connect hook does with its context.
pub(super) enum Outcome {
    /// Nothing.
    Pass,
    /// Writes this address and port into it.
    Rewrite(Address, u16),
    /// Fails the call.
    Deny,
}

/// Decides about a connect to `dialled`.
#[inline(always)]
pub(super) fn connect(ctx: &SockAddrContext, hook: Hook, dialled: Address) -> Outcome {
    let port = user_port(ctx);
    // First of all and for nearly every connect on the node the only thing: is this a protected endpoint?
    let Some(action) = endpoint(dialled, port) else {
        return Outcome::Pass;
    };
    // SAFETY: the context is valid while the program runs.
    let (kind, protocol) = unsafe { ((*ctx.sock_addr).type_, (*ctx.sock_addr).protocol) };
    let socket = Socket {
        netns: netns_cookie(ctx),
        kind,
        protocol,
    };
    let classified = classify_user(socket.netns);
    if classified.is_nobody() {
        return Outcome::Pass;
    }
    let loopback = dialled.endpoint().is_loopback();
    match judge(
        action,
        &classified.class,
        &node(),
        &socket,
        loopback,
        agent_gone(),
    ) {
        KernelVerdict::Pass => Outcome::Pass,
        KernelVerdict::PassUnclassified => {
            count(Counter::AllowedUnclassified);
            Outcome::Pass
        }
        KernelVerdict::Deny(reason) => deny(hook, dialled, port, &socket, &classified, reason),
        KernelVerdict::Redirect(listener_port) => {
            let Classified { cgroup, class } = classified;
            let task = current_task();
            let record = DialRecord {
                dialled,
                dialled_port: port,
                listener_port,
                state: DialState::Dialling.code(),
                cgroup,
                pod: class.pod,
                netns: socket.netns,
                dialled_ns: boot_ns(),
                pid: task.pid,
                tid: task.tid,
                uid: task.uid,
                reserved: 0,
                comm: task.comm,
            };
            if note(ctx, record) {
                count(Counter::Redirected);
                Outcome::Rewrite(rewrite(dialled), listener_port)
            } else {
                deny(hook, dialled, port, &socket, &classified, DenyReason::Internal)
            }
        }
    }
}

#[inline(always)]
fn endpoint(dialled: Address, port: u16) -> Option<EndpointAction> {
    if let Some(action) = lookup(dialled, port) {
        return Some(action);
    }
    lookup(alternative(dialled)?, port)
}

#[inline(always)]
fn lookup(address: Address, port: u16) -> Option<EndpointAction> {
    // SAFETY: the number is copied at once, and the agent never changes one in place.
    unsafe { maps::ENDPOINTS.get(EndpointKey::new(address, port)) }
        .map(|code| EndpointAction::from_code(*code))
}

/// Keeps the record with the socket; false when the kernel has no room for it.
#[inline(always)]
fn note(ctx: &SockAddrContext, mut record: DialRecord) -> bool {
    // SAFETY: asks with the context's own socket and a value that lives across the call.
    let kept = unsafe { maps::SOCKETS.get_or_insert_ptr_mut(ctx, Some(&mut record)) };
    // SAFETY: null is told apart; otherwise the pointer is to this socket's own record. A socket that is
    // connected again has an old one, which the new one replaces.
    match unsafe { kept.as_mut() } {
        Some(kept) => {
            *kept = record;
            true
        }
        None => false,
    }
}

#[inline(always)]
fn deny(
    hook: Hook,
    dialled: Address,
    port: u16,
    socket: &Socket,
    by: &Classified,
    reason: DenyReason,
) -> Outcome {
    report(
        by,
        Denied {
            hook,
            reason,
            task: current_task(),
            netns: socket.netns,
            address: dialled,
            port,
            protocol: socket.protocol,
        },
    );
    Outcome::Deny
}

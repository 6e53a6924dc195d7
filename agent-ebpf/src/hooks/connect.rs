//! What connect4 and connect6, and sendmsg4 and sendmsg6, share: find the door, judge, note, report.

use aya_ebpf::programs::SockAddrContext;
use picket_common::{
    Address, Counter, DialRecord, DialState, DoorAction, DoorKey, Event, Hook, Refusal, Verdict, judge,
    looks, rewrite,
};

use super::{Classified, boot_ns, classify_current, count, current_task, maps, netns_cookie, user_port};

/// What a connect hook does with its context.
pub(super) enum Outcome {
    /// Nothing.
    Pass,
    /// Writes this address and port into it.
    Rewrite(Address, u16),
    /// Fails the call.
    Refuse,
}

/// Decides about a connect to `dialled`.
#[inline(always)]
pub(super) fn connect(ctx: &SockAddrContext, hook: Hook, dialled: Address) -> Outcome {
    let port = user_port(ctx);
    // First of all and for nearly every connect on the node the only thing: is this a door?
    let Some(action) = door(dialled, port) else {
        return Outcome::Pass;
    };
    // SAFETY: the context is valid while the program runs.
    let (socket_type, protocol) = unsafe { ((*ctx.sock_addr).type_, (*ctx.sock_addr).protocol) };
    let Some(Classified { cgroup, class }) = classify_current() else {
        return Outcome::Pass;
    };
    match judge(action, Some(&class), socket_type, protocol) {
        Verdict::Pass => Outcome::Pass,
        Verdict::Refuse(refusal) => refuse(
            ctx,
            hook,
            dialled,
            &Classified { cgroup, class },
            protocol,
            refusal,
        ),
        Verdict::Redirect(listener_port) => {
            let task = current_task();
            let record = DialRecord {
                dialled,
                dialled_port: port,
                listener_port,
                state: DialState::Dialling.code(),
                cgroup,
                pod: class.pod,
                netns: netns_cookie(ctx),
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
                refuse(
                    ctx,
                    hook,
                    dialled,
                    &Classified { cgroup, class },
                    protocol,
                    Refusal::Fault,
                )
            }
        }
    }
}

#[inline(always)]
fn door(dialled: Address, port: u16) -> Option<DoorAction> {
    if let Some(action) = look(dialled, port) {
        return Some(action);
    }
    look(looks(dialled)?, port)
}

#[inline(always)]
fn look(address: Address, port: u16) -> Option<DoorAction> {
    // SAFETY: the number is copied at once, and the agent never changes one in place.
    unsafe { maps::DOORS.get(DoorKey::new(address, port)) }.map(|code| DoorAction::from_code(*code))
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
fn refuse(
    ctx: &SockAddrContext,
    hook: Hook,
    dialled: Address,
    by: &Classified,
    protocol: u32,
    refusal: Refusal,
) -> Outcome {
    count(refusal.counter());
    let task = current_task();
    let event = Event {
        at_ns: boot_ns(),
        cgroup: by.cgroup,
        pod: by.class.pod,
        netns: netns_cookie(ctx),
        dialled,
        pid: task.pid,
        tid: task.tid,
        uid: task.uid,
        dialled_port: user_port(ctx),
        hook: hook.code(),
        refusal: refusal.code(),
        protocol,
        reserved: 0,
        comm: task.comm,
    };
    if maps::EVENTS.output::<Event>(event, 0).is_err() {
        count(Counter::EventsLost);
    }
    Outcome::Refuse
}

//! Reports to the agent what was denied, and counts it.
//!
//! In: a [`Denied`] connect, bind or packet. Out: a count of its reason, and an event in the ring buffer, within a limit per
//! second for each pod.

use picket_common::{Address, Counter, DenyReason, EVENTS_PER_SECOND, Event, Hook, LimitValue};

use super::{Classified, Task, boot_ns, count, maps};

/// One second of the boot clock.
const SECOND_NS: u64 = 1_000_000_000;

/// What was denied.
pub(super) struct Denied {
    pub(super) hook: Hook,
    pub(super) reason: DenyReason,
    pub(super) task: Task,
    pub(super) netns: u64,
    pub(super) address: Address,
    pub(super) port: u16,
    pub(super) protocol: u32,
}

/// Counts it, and tells it unless the pod was heard enough.
#[inline(always)]
pub(super) fn report(by: &Classified, denied: Denied) {
    count(denied.reason.counter());
    let now = boot_ns();
    if !heard(by.cgroup, now) {
        count(Counter::EventsLimited);
        return;
    }
    let event = Event {
        at_ns: now,
        cgroup: by.cgroup,
        pod: by.class.pod,
        netns: denied.netns,
        dialled: denied.address,
        pid: denied.task.pid,
        tid: denied.task.tid,
        uid: denied.task.uid,
        dialled_port: denied.port,
        hook: denied.hook.code(),
        reason: denied.reason.code(),
        protocol: denied.protocol,
        reserved: 0,
        comm: denied.task.comm,
    };
    if maps::EVENTS.output::<Event>(event, 0).is_err() {
        count(Counter::EventsLost);
    }
}

/// Whether a cgroup may tell one more in this second. Two CPUs at once may let one too many through, which is as good.
#[inline(always)]
fn heard(cgroup: u64, now: u64) -> bool {
    if let Some(limit) = maps::LIMITS.get_ptr_mut(cgroup) {
        // SAFETY: the pointer is to a value of the map, which stays in place while the program runs.
        let limit = unsafe { &mut *limit };
        if now.saturating_sub(limit.since_ns) < SECOND_NS {
            limit.events = limit.events.saturating_add(1);
            return limit.events <= EVENTS_PER_SECOND;
        }
        limit.since_ns = now;
        limit.events = 1;
        return true;
    }
    let first = LimitValue {
        since_ns: now,
        events: 1,
        reserved: 0,
    };
    // A map without room for it limits nothing, and the ring is bounded by itself.
    let _ = maps::LIMITS.insert(cgroup, first, 0);
    true
}

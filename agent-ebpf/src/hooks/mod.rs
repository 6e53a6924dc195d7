//! The hooks, and what they share: reading contexts, looking into maps, reporting.
//!
//! In: the kernel's contexts and the maps. Out: plain values for the functions of `picket_common`, which judge them, and the
//! codes that the kernel takes.
#![expect(
    unsafe_code,
    reason = "contexts and map values are raw pointers from the kernel, and programs are found by exported names"
)]

mod bind;
mod bind4;
mod bind6;
mod connect;
mod connect4;
mod connect6;
mod egress;
mod getpeername4;
mod getpeername6;
mod interface;
mod listener;
mod maps;
mod packet;
mod report;
mod sendmsg4;
mod sendmsg6;
mod sock_create;
mod sock_ops;

use aya_ebpf::helpers::generated as helper;
use aya_ebpf::helpers::{bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_get_current_uid_gid};
use aya_ebpf::programs::SockAddrContext;
use picket_common::{
    Address, COMM_LEN, ClassKind, ClassValue, Counter, DialRecord, LEVELS_MAX, NodeValue, gone,
};

/// The licence the kernel asks for before it lends its helpers.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// A hook's answer: go on.
const PASS: i32 = 1;

/// A hook's answer: the system call fails with EPERM.
const REFUSE: i32 = 0;

/// A classified cgroup, and its class; [`NOBODY`] where there is none.
///
/// No `Option`: the compiler carries what is in none of them along in registers that the verifier finds unwritten.
#[derive(Clone, Copy)]
struct Classified {
    cgroup: u64,
    class: ClassValue,
}

/// A process of the node itself.
const NOBODY: Classified = Classified {
    cgroup: 0,
    class: ClassValue {
        kind: 0,
        port: 0,
        retiring: 0,
        pod: 0,
        netns: 0,
    },
};

impl Classified {
    #[inline(always)]
    fn is_nobody(&self) -> bool {
        self.cgroup == 0
    }

    #[inline(always)]
    fn is(&self, kind: ClassKind) -> bool {
        !self.is_nobody() && self.class.kind == kind.code()
    }
}

/// The class of the nearest classified cgroup among the ancestors that `ancestor` tells by their level.
///
/// The walk goes down from the root and keeps the last it finds, so that a task may sit as deep as it likes
/// without outrunning the bound.
#[inline(always)]
fn classify(ancestor: impl Fn(i32) -> u64) -> Classified {
    let mut found = NOBODY;
    let mut level = 0;
    while level < LEVELS_MAX {
        let cgroup = ancestor(level);
        if cgroup == 0 {
            break;
        }
        if let Some(class) = class_of(cgroup) {
            found = Classified {
                cgroup,
                class: *class,
            };
        }
        level += 1;
    }
    found
}

/// The class of the current task.
#[inline(always)]
fn classify_current() -> Classified {
    // SAFETY: takes a number and returns one; zero below the task's own level.
    classify(|level| unsafe { helper::bpf_get_current_ancestor_cgroup_id(level) })
}

/// Whose a socket is that is in use: the current task's, unless that is free to go, and then the pod's whose
/// network namespace the socket is in.
#[inline(always)]
fn classify_user(netns: u64) -> Classified {
    let mut found = classify_current();
    if !found.is_nobody() && !found.is(ClassKind::Exempt) {
        return found;
    }
    // SAFETY: the number is copied at once, and the agent never changes one in place.
    if let Some(cgroup) = unsafe { maps::NETNS.get(netns) } {
        let cgroup = *cgroup;
        if let Some(class) = class_of(cgroup)
            && class.kind != ClassKind::Exempt.code()
        {
            found = Classified {
                cgroup,
                class: *class,
            };
        }
    }
    found
}

/// A cgroup's own class.
#[inline(always)]
fn class_of(cgroup: u64) -> Option<&'static ClassValue> {
    // SAFETY: callers copy the value at once. The kernel gives an entry that was replaced to the next that is written, so a
    // copy is torn only where the agent changes this class and another between the lookup and the copy, some nanoseconds
    // apart; it writes none that stays what it is.
    unsafe { maps::CLASSES.get(cgroup) }
}

/// What the agent told of the node.
#[inline(always)]
fn node() -> NodeValue {
    maps::NODE.get(0).copied().unwrap_or_default()
}

/// Whether the agent has given no sign of life for long.
#[inline(always)]
fn agent_gone() -> bool {
    gone(maps::HEARTBEAT.get(0).copied().unwrap_or_default(), boot_ns())
}

/// The facts about the calling task that both records and events carry.
struct Task {
    pid: u32,
    tid: u32,
    uid: u32,
    comm: [u8; COMM_LEN],
}

#[inline(always)]
fn current_task() -> Task {
    let ids = bpf_get_current_pid_tgid();
    Task {
        pid: (ids >> 32) as u32,
        tid: ids as u32,
        uid: bpf_get_current_uid_gid() as u32,
        // The helper fails only for kernel threads without a task, which do not connect.
        comm: bpf_get_current_comm().unwrap_or([0; COMM_LEN]),
    }
}

/// Nanoseconds of the boot clock.
#[inline(always)]
fn boot_ns() -> u64 {
    // SAFETY: takes nothing and returns a number.
    unsafe { helper::bpf_ktime_get_boot_ns() }
}

/// The network namespace of the context's socket.
#[inline(always)]
fn netns_cookie(ctx: &SockAddrContext) -> u64 {
    // SAFETY: the context is the one the kernel called this program with.
    unsafe { helper::bpf_get_netns_cookie(ctx.sock_addr.cast()) }
}

#[inline(always)]
fn count(counter: Counter) {
    if let Some(slot) = maps::COUNTERS.get_ptr_mut(counter.index()) {
        // SAFETY: the slot is this CPU's own, and programs on one CPU follow each other.
        unsafe { *slot += 1 };
    }
}

/// The port of a `bpf_sock_addr`, in host order: it lies in the lower half of the word, in network order.
#[inline(always)]
fn user_port(ctx: &SockAddrContext) -> u16 {
    // SAFETY: the context is valid while the program runs.
    u16::from_be(unsafe { (*ctx.sock_addr).user_port } as u16)
}

#[inline(always)]
fn set_user_port(ctx: &SockAddrContext, port: u16) {
    // SAFETY: the context is valid while the program runs, and the kernel lets this field be written.
    unsafe { (*ctx.sock_addr).user_port = u32::from(port.to_be()) };
}

#[inline(always)]
fn user_ip4(ctx: &SockAddrContext) -> Address {
    // SAFETY: the context is valid while the program runs.
    Address::from_v4_word(unsafe { (*ctx.sock_addr).user_ip4 })
}

#[inline(always)]
fn set_user_ip4(ctx: &SockAddrContext, address: Address) {
    // SAFETY: the context is valid while the program runs, and the kernel lets this field be written.
    unsafe { (*ctx.sock_addr).user_ip4 = address.v4_word() };
}

/// Volatile, word by word: the verifier denies the wider loads that the compiler would merge these into on
/// some kernels.
#[inline(always)]
fn user_ip6(ctx: &SockAddrContext) -> Address {
    // SAFETY: the context is valid while the program runs, and the four words lie inside it.
    unsafe {
        let words = (&raw const (*ctx.sock_addr).user_ip6).cast::<u32>();
        Address::from_v6_words([
            words.read_volatile(),
            words.add(1).read_volatile(),
            words.add(2).read_volatile(),
            words.add(3).read_volatile(),
        ])
    }
}

#[inline(always)]
fn set_user_ip6(ctx: &SockAddrContext, address: Address) {
    let [first, second, third, last] = address.words();
    // SAFETY: the context is valid while the program runs, the four words lie inside it, and the kernel lets
    // them be written.
    unsafe {
        let words = (&raw mut (*ctx.sock_addr).user_ip6).cast::<u32>();
        words.write_volatile(first);
        words.add(1).write_volatile(second);
        words.add(2).write_volatile(third);
        words.add(3).write_volatile(last);
    }
}

/// What is kept with the context's socket, if it was ever redirected.
#[inline(always)]
fn dial_record(ctx: &SockAddrContext) -> Option<DialRecord> {
    // SAFETY: asks with the context's own socket; the value is copied at once, and null is told apart.
    unsafe { maps::SOCKETS.get_ptr_mut(ctx).as_ref().copied() }
}

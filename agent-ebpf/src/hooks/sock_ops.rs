//! TCP's own moments: a redirected socket becomes established, and its flow is written.
//!
//! In: the kernel's callback, and the socket's dial record. Out: an entry in FLOWS for the listener.
//!
//! Of the callbacks, `ACTIVE_ESTABLISHED_CB` is the right one. It runs when the client has the SYN-ACK and before it sends the
//! ACK (net/ipv4/tcp_input.c, `tcp_rcv_synsent_state_process`). There `tcp_finish_connect` comes before `tcp_send_ack`, so the
//! flow is written before the listener's accept can return. `TCP_CONNECT_CB` would leave flows of connects that never come
//! about. A server accepts earlier in one case only: TCP Fast Open, which Picket's listeners do not offer. Where a node forces
//! it on, the flow is missing and the connection is closed: too strict, never too lax.
//!
//! It runs in softirq on behalf of nobody in particular, so the task's facts are noted at connect.

use aya_ebpf::bindings::{
    BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB, BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_STATE_CB_FLAG, BPF_TCP_CLOSE,
};
use aya_ebpf::helpers::generated as helper;
use aya_ebpf::macros::sock_ops;
use aya_ebpf::programs::SockOpsContext;
use picket_common::{Address, Counter, DialRecord, DialState, FlowKey, rewrite, serves};

use super::{PASS, class_of, count, maps, node};

/// `TCP_CLOSE` as callbacks have it.
const TCP_CLOSE: u32 = BPF_TCP_CLOSE;

/// `AF_INET` (include/linux/socket.h).
const AF_INET: u32 = 2;

/// `IPPROTO_TCP` and `TCP_USER_TIMEOUT` (include/uapi/linux/tcp.h).
const IPPROTO_TCP: i32 = 6;
const TCP_USER_TIMEOUT: i32 = 18;

/// How long a socket that reaches nobody tries, in milliseconds.
const GIVE_UP_MS: i32 = 1000;

/// Attached as `BPF_CGROUP_SOCK_OPS`.
#[sock_ops]
pub(crate) fn sock_ops(ctx: SockOpsContext) -> u32 {
    match ctx.op() {
        BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB => established(&ctx),
        BPF_SOCK_OPS_STATE_CB if ctx.arg(1) == TCP_CLOSE => closed(&ctx),
        _ => {}
    }
    PASS as u32
}

#[inline(always)]
fn established(ctx: &SockOpsContext) {
    let Some(record) = record(ctx) else {
        return;
    };
    if record.state != DialState::Dialling.code() {
        return;
    }
    let (local, remote) = ends(ctx);
    let remote_port = u32::from_be(ctx.remote_port()) as u16;
    if remote_port != record.listener_port || remote != rewrite(record.dialled) {
        return;
    }
    if !is_served(record) {
        record.state = DialState::Misdirected.code();
        give_up_soon(ctx);
        return;
    }
    let key = FlowKey::new(record.netns, local, ctx.local_port() as u16, record.listener_port);
    record.state = DialState::Noted.code();
    if maps::FLOWS.insert(key, *record, 0).is_ok() {
        count(Counter::FlowsWritten);
        // To be told when it closes. A kernel that denies leaves the flow to be pushed out by others.
        let _ = ctx.set_cb_flags((ctx.cb_flags() | BPF_SOCK_OPS_STATE_CB_FLAG) as i32);
    } else {
        count(Counter::FlowsLost);
    }
}

/// Whether a listener of Picket's still has the port. The agent closes one only after the class names it no more, so that whoever
/// else answered there did so after that.
#[inline(always)]
fn is_served(record: &DialRecord) -> bool {
    match class_of(record.cgroup) {
        Some(class) => serves(class, &node(), record.netns, record.listener_port),
        None => false,
    }
}

/// Nothing that the socket sends goes out any more: it fails after a second (`ETIMEDOUT`) and not after a quarter of an hour.
#[inline(always)]
fn give_up_soon(ctx: &SockOpsContext) {
    let mut limit = GIVE_UP_MS;
    // SAFETY: the context is the one the kernel called this program with, and the value lives across the call.
    let _ = unsafe {
        helper::bpf_setsockopt(
            ctx.ops.cast(),
            IPPROTO_TCP,
            TCP_USER_TIMEOUT,
            (&raw mut limit).cast(),
            size_of::<i32>() as i32,
        )
    };
}

/// A flow lives no longer than its socket. Nobody may have accepted: a client that resets its connection before its last ACK
/// leaves nothing to accept, and whoever had its source port next would be taken for it.
#[inline(always)]
fn closed(ctx: &SockOpsContext) {
    let Some(record) = record(ctx) else {
        return;
    };
    if record.state != DialState::Noted.code() {
        return;
    }
    let (local, _) = ends(ctx);
    let key = FlowKey::new(record.netns, local, ctx.local_port() as u16, record.listener_port);
    // As a rule the listener has taken it long ago.
    let _ = maps::FLOWS.remove(key);
}

/// What was noted with the socket when it was redirected.
#[inline(always)]
fn record<'a>(ctx: &SockOpsContext) -> Option<&'a mut DialRecord> {
    // SAFETY: the context is valid while the program runs.
    let sk = unsafe { (*ctx.ops).__bindgen_anon_2.sk };
    if sk.is_null() {
        return None;
    }
    let map = (&raw const maps::SOCKETS).cast_mut().cast();
    // SAFETY: the socket is the context's own and not null; without a value to start from, the helper only
    // looks.
    let record = unsafe { helper::bpf_sk_storage_get(map, sk.cast(), core::ptr::null_mut(), 0) };
    // SAFETY: null is told apart; otherwise the pointer is to this socket's own record.
    unsafe { record.cast::<DialRecord>().as_mut() }
}

/// The local and the remote address of the socket.
#[inline(always)]
fn ends(ctx: &SockOpsContext) -> (Address, Address) {
    if ctx.family() == AF_INET {
        return (
            Address::from_v4_word(ctx.local_ip4()),
            Address::from_v4_word(ctx.remote_ip4()),
        );
    }
    // SAFETY: the context is valid while the program runs, and the words lie inside it. Volatile, because the
    // kernel allows loads of one word only.
    unsafe {
        let local = (&raw const (*ctx.ops).local_ip6).cast::<u32>();
        let remote = (&raw const (*ctx.ops).remote_ip6).cast::<u32>();
        (
            Address::from_v6_words([
                local.read_volatile(),
                local.add(1).read_volatile(),
                local.add(2).read_volatile(),
                local.add(3).read_volatile(),
            ]),
            Address::from_v6_words([
                remote.read_volatile(),
                remote.add(1).read_volatile(),
                remote.add(2).read_volatile(),
                remote.add(3).read_volatile(),
            ]),
        )
    }
}

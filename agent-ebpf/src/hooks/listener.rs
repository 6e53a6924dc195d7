//! A redirected connection comes to a listener of Picket's, and to no socket that a program of the pod has on its port.
//!
//! In: the first packet of a redirected connection, and the mark in the listener's own storage. Out: whether the packet is
//! misdirected, and must not leave.
//!
//! After a listener moves or an agent ends, any program of the pod can take the port. The agent marks each listener in the
//! socket's own storage, where no program of a pod can write. The first packet leaves only where such a socket has the port, or
//! nobody. The listener may close while that packet is on its way, so `sock_ops` looks at the class once more before anything
//! else is sent.

use aya_ebpf::bindings::{BPF_F_CURRENT_NETNS, bpf_sock};
use aya_ebpf::helpers::generated as helper;
use picket_common::{Address, DenyReason, Destination, DialRecord, DialState, Hook, destination, rewrite};

use super::packet::Packet;
use super::report::{Denied, report};
use super::{Classified, NOBODY, Task, class_of, maps};

/// `struct bpf_sock_tuple` for IPv4: addresses and ports in network order; the source is nobody, so that listeners alone match.
#[repr(C)]
struct Tuple4 {
    source: u32,
    destination: u32,
    ports: [u16; 2],
}

/// The same for IPv6.
#[repr(C)]
struct Tuple6 {
    source: [u32; 4],
    destination: [u32; 4],
    ports: [u16; 2],
}

/// Drops and reports a packet of a redirected connection that would come to a socket that is no listener of Picket's. True where
/// it is to be dropped.
#[inline(always)]
pub(super) fn is_misdirected(packet: &Packet) -> bool {
    // SAFETY: the context is the one the kernel called this program with.
    let sk = unsafe { (*packet.0).__bindgen_anon_2.sk };
    let Some(record) = storage(sk) else {
        return false;
    };
    let dialling = record.state == DialState::Dialling.code();
    if !dialling && record.state != DialState::Misdirected.code() {
        return false;
    }
    let Destination::Port(address, port) = destination(packet) else {
        return false;
    };
    // A socket may be connected elsewhere later.
    if port != record.listener_port || address != rewrite(record.dialled) {
        return false;
    }
    if dialling && !is_taken(packet, address, port) {
        return false;
    }
    tell(record);
    true
}

/// Whether a socket listens there that is no listener of Picket's.
#[inline(always)]
fn is_taken(packet: &Packet, address: Address, port: u16) -> bool {
    let ports = [0, port.to_be()];
    let sk = if address.is_v4() {
        let mut tuple = Tuple4 {
            source: 0,
            destination: address.v4_word(),
            ports,
        };
        look_up(packet, (&raw mut tuple).cast(), size_of::<Tuple4>())
    } else {
        let mut tuple = Tuple6 {
            source: [0; 4],
            destination: address.words(),
            ports,
        };
        look_up(packet, (&raw mut tuple).cast(), size_of::<Tuple6>())
    };
    if sk.is_null() {
        return false;
    }
    let pickets = storage(sk).is_some_and(|record| record.state == DialState::Listener.code());
    // SAFETY: the reference that the lookup took, given back once.
    unsafe { helper::bpf_sk_release(sk.cast()) };
    !pickets
}

#[inline(always)]
fn look_up(packet: &Packet, tuple: *mut core::ffi::c_void, size: usize) -> *mut bpf_sock {
    // SAFETY: the context is the one the kernel called this program with, and the tuple is as long as told and lives across the
    // call.
    unsafe {
        helper::bpf_sk_lookup_tcp(
            packet.0.cast(),
            tuple.cast(),
            size as u32,
            BPF_F_CURRENT_NETNS as i64 as u64,
            0,
        )
    }
}

/// What is kept with a socket.
#[inline(always)]
fn storage<'a>(sk: *mut bpf_sock) -> Option<&'a DialRecord> {
    if sk.is_null() {
        return None;
    }
    let map = (&raw const maps::SOCKETS).cast_mut().cast();
    // SAFETY: the socket is not null; without a value to start from, the helper only looks.
    let record = unsafe { helper::bpf_sk_storage_get(map, sk.cast(), core::ptr::null_mut(), 0) };
    // SAFETY: null is told apart; otherwise the pointer is to this socket's own record.
    unsafe { record.cast::<DialRecord>().as_ref() }
}

/// IANA's number.
const TCP: u32 = 6;

/// Reports by what was noted when the connection was redirected.
#[inline(always)]
fn tell(record: &DialRecord) {
    let by = match class_of(record.cgroup) {
        Some(class) => Classified {
            cgroup: record.cgroup,
            class: *class,
        },
        None => NOBODY,
    };
    report(
        &by,
        Denied {
            hook: Hook::Egress,
            reason: DenyReason::Misdirected,
            task: Task {
                pid: record.pid,
                tid: record.tid,
                uid: record.uid,
                comm: record.comm,
            },
            netns: record.netns,
            address: record.dialled,
            port: record.dialled_port,
            protocol: TCP,
        },
    );
}

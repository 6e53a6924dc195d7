//! What the programs share that see packets: find out where one goes, and whether it may.
//!
//! In: a packet, and the map of protected endpoints. Out: why the packet is forbidden, or none; and the report of a dropped
//! one.
//!
//! A redirected connection goes to loopback, so no packet of an enforced pod has business at a protected endpoint. Such a
//! packet comes from a raw or packet socket, a connection older than the enforcement, or a socket that no hook saw.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::generated as helper;
use picket_common::{
    Address, COMM_LEN, DenyReason, Destination, EndpointKey, Hook, PacketBytes, destination,
};

use super::report::{Denied, report};
use super::{Classified, Task, maps};

/// `BPF_HDR_START_NET` (include/uapi/linux/bpf.h): offsets count from the network header.
const FROM_NETWORK_HEADER: u32 = 1;

/// A packet from its network header on.
pub(super) struct Packet(pub(super) *mut __sk_buff);

impl PacketBytes for Packet {
    #[inline(always)]
    fn read<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        // SAFETY: the context is the one the kernel called this program with, and the helper writes `N` bytes to a
        // buffer of that size, or fails.
        let outcome = unsafe {
            helper::bpf_skb_load_bytes_relative(
                self.0.cast(),
                offset,
                bytes.as_mut_ptr().cast(),
                N as u32,
                FROM_NETWORK_HEADER,
            )
        };
        (outcome == 0).then_some(bytes)
    }
}

/// A packet that hides where it goes.
pub(super) const HIDDEN: (DenyReason, Address, u16) = (DenyReason::Encapsulated, Address::NOWHERE, 0);

/// What loopback addresses are where a packet is seen.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Loopback {
    /// The pod's own business.
    Own,
    /// Protected endpoints where they are listed as such: the node's.
    Listed,
    /// Nothing that a packet could be for (RFC 1122 section 3.2.1.3): it is out of the namespace already, and would be taken
    /// for the node's own where `route_localnet` is set.
    Never,
}

/// Why a packet may not go on, and where it was going; `None` when it may.
#[inline(always)]
pub(super) fn forbidden(packet: &Packet, loopback: Loopback) -> Option<(DenyReason, Address, u16)> {
    match destination(packet) {
        Destination::Other => None,
        Destination::Hidden => Some(HIDDEN),
        Destination::Port(address, port) => {
            if address.endpoint().is_loopback() {
                match loopback {
                    Loopback::Own => return None,
                    Loopback::Never => return Some((DenyReason::Packet, address, port)),
                    Loopback::Listed => {}
                }
            }
            let protected = is_endpoint(address, port)
                || (address.is_link_local() && is_endpoint(Address::LINK_LOCAL, port));
            protected.then_some((DenyReason::Packet, address, port))
        }
    }
}

#[inline(always)]
fn is_endpoint(address: Address, port: u16) -> bool {
    // SAFETY: only asked whether it is there.
    unsafe { maps::ENDPOINTS.get(EndpointKey::new(address, port)) }.is_some()
}

/// Reports a packet that is dropped. No process is named: packets leave on behalf of whoever happens to run.
#[inline(always)]
pub(super) fn dropped(by: &Classified, hook: Hook, why: (DenyReason, Address, u16)) {
    let (reason, address, port) = why;
    report(
        by,
        Denied {
            hook,
            reason,
            task: Task {
                pid: 0,
                tid: 0,
                uid: 0,
                comm: [0; COMM_LEN],
            },
            netns: by.class.netns,
            address,
            port,
            protocol: 0,
        },
    );
}

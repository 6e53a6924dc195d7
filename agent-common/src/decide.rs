//! What happens to a connect, decided from plain values.
//!
//! The hooks read the kernel's contexts and maps, ask here, and do what they are told.

use crate::{Address, ClassKind, ClassValue, DoorAction, Refusal};

/// `SOCK_STREAM` (include/linux/net.h).
const SOCK_STREAM: u32 = 1;

/// `IPPROTO_TCP`.
const TCP: u32 = 6;

/// `IPPROTO_MPTCP`, which speaks TCP on the wire (include/uapi/linux/in.h).
const MPTCP: u32 = 262;

/// What to do with a connect to a door.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Let it go where it goes.
    Pass,
    /// Take it to the listener at this port (host order) on loopback.
    Redirect(u16),
    /// Fail it.
    Refuse(Refusal),
}

/// Judges a connect to a door by the class of the task that calls it.
///
/// `class` is `None` for a task in no classified cgroup: a process of the node itself, which is none of
/// Picket's business. `socket_type` and `protocol` are those of `struct bpf_sock_addr`.
#[inline(always)]
pub const fn judge(
    action: DoorAction,
    class: Option<&ClassValue>,
    socket_type: u32,
    protocol: u32,
) -> Verdict {
    let Some(class) = class else {
        return Verdict::Pass;
    };
    match ClassKind::from_code(class.kind) {
        ClassKind::Exempt => Verdict::Pass,
        ClassKind::Pending => Verdict::Refuse(Refusal::Pending),
        ClassKind::Enforced => match action {
            DoorAction::Refuse => Verdict::Refuse(Refusal::Door),
            DoorAction::Redirect => {
                if socket_type != SOCK_STREAM || (protocol != TCP && protocol != MPTCP) {
                    Verdict::Refuse(Refusal::Protocol)
                } else if class.port == 0 {
                    Verdict::Refuse(Refusal::NoListener)
                } else {
                    Verdict::Redirect(class.port)
                }
            }
        },
    }
}

/// The further address to look for among the doors, beside the canonical one.
///
/// The kernel takes a connect to `::` to `::1`, or to `127.0.0.1` when the socket is bound to a mapped address
/// (net/ipv6/tcp_ipv6.c, `tcp_v6_connect`); which of the two, a program cannot see.
#[inline(always)]
pub const fn looks(dialled: Address) -> Option<Address> {
    if dialled.is_v6_any() {
        Some(Address::V4_LOOPBACK)
    } else {
        None
    }
}

/// The loopback address that stands in for `dialled`: a socket that dialled a mapped address may be bound to
/// IPv4, so it stays there.
#[inline(always)]
pub const fn rewrite(dialled: Address) -> Address {
    if dialled.is_v4() {
        Address::V4_LOOPBACK
    } else {
        Address::V6_LOOPBACK
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::IpAddr;

    const UDP: u32 = 17;
    const SCTP: u32 = 132;
    const SOCK_DGRAM: u32 = 2;
    const SOCK_RAW: u32 = 3;

    fn class(kind: ClassKind, port: u16) -> ClassValue {
        ClassValue {
            kind: kind.code(),
            port,
            reserved: 0,
            pod: 7,
        }
    }

    #[test]
    fn an_enforced_task_goes_to_its_listener() {
        let class = class(ClassKind::Enforced, 4443);
        for protocol in [TCP, MPTCP] {
            let verdict = judge(DoorAction::Redirect, Some(&class), SOCK_STREAM, protocol);
            assert_eq!(verdict, Verdict::Redirect(4443));
        }
    }

    #[test]
    fn an_enforced_task_has_no_other_protocol() {
        let class = class(ClassKind::Enforced, 4443);
        for (socket_type, protocol) in [
            (SOCK_DGRAM, UDP),
            (SOCK_STREAM, SCTP),
            (SOCK_RAW, TCP),
            (SOCK_DGRAM, TCP),
        ] {
            let verdict = judge(DoorAction::Redirect, Some(&class), socket_type, protocol);
            assert_eq!(
                verdict,
                Verdict::Refuse(Refusal::Protocol),
                "{socket_type} {protocol}"
            );
        }
    }

    #[test]
    fn an_enforced_task_without_a_listener_is_refused() {
        let class = class(ClassKind::Enforced, 0);
        let verdict = judge(DoorAction::Redirect, Some(&class), SOCK_STREAM, TCP);
        assert_eq!(verdict, Verdict::Refuse(Refusal::NoListener));
    }

    #[test]
    fn a_shut_door_is_shut_for_the_enforced_and_the_pending_only() {
        let enforced = class(ClassKind::Enforced, 4443);
        let verdict = judge(DoorAction::Refuse, Some(&enforced), SOCK_STREAM, TCP);
        assert_eq!(verdict, Verdict::Refuse(Refusal::Door));
        let pending = class(ClassKind::Pending, 0);
        let verdict = judge(DoorAction::Refuse, Some(&pending), SOCK_STREAM, TCP);
        assert_eq!(verdict, Verdict::Refuse(Refusal::Pending));
        assert_eq!(judge(DoorAction::Refuse, None, SOCK_STREAM, TCP), Verdict::Pass);
    }

    #[test]
    fn pending_is_refused_whatever_it_speaks() {
        let class = class(ClassKind::Pending, 0);
        for (socket_type, protocol) in [(SOCK_STREAM, TCP), (SOCK_DGRAM, UDP)] {
            let verdict = judge(DoorAction::Redirect, Some(&class), socket_type, protocol);
            assert_eq!(verdict, Verdict::Refuse(Refusal::Pending));
        }
    }

    #[test]
    fn a_class_nobody_knows_is_refused() {
        let class = ClassValue {
            kind: 9,
            port: 4443,
            reserved: 0,
            pod: 7,
        };
        let verdict = judge(DoorAction::Redirect, Some(&class), SOCK_STREAM, TCP);
        assert_eq!(verdict, Verdict::Refuse(Refusal::Pending));
    }

    #[test]
    fn the_exempt_and_the_node_itself_pass() {
        let class = class(ClassKind::Exempt, 0);
        assert_eq!(
            judge(DoorAction::Redirect, Some(&class), SOCK_STREAM, TCP),
            Verdict::Pass
        );
        assert_eq!(judge(DoorAction::Redirect, None, SOCK_DGRAM, UDP), Verdict::Pass);
    }

    #[test]
    fn a_mapped_dial_stays_mapped() {
        let address = |text: &str| Address::from(text.parse::<IpAddr>().unwrap());
        assert_eq!(rewrite(address("10.96.0.1")), Address::V4_LOOPBACK);
        assert_eq!(rewrite(address("::ffff:10.96.0.1")), Address::V4_LOOPBACK);
        assert_eq!(rewrite(address("fd00:10:96::1")), Address::V6_LOOPBACK);
        assert_eq!(rewrite(address("64:ff9b::10.96.0.1")), Address::V6_LOOPBACK);
        assert_eq!(looks(address("::")), Some(Address::V4_LOOPBACK));
        assert_eq!(looks(address("::1")), None);
    }
}

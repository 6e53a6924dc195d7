//! What happens to a connect, decided from plain values.
//!
//! In: what the hooks read from the kernel's contexts and maps: class, socket, address, time. Out: a [`KernelVerdict`] and the
//! address to rewrite to, which the hooks carry out.

use crate::{
    Address, ClassKind, ClassValue, DenyReason, EndpointAction, HEARTBEAT_MAX_NS, LISTENER_PORTS, NodeValue,
};

/// `SOCK_STREAM`, `SOCK_DGRAM` and `SOCK_RAW` (include/linux/net.h).
const SOCK_STREAM: u32 = 1;
const SOCK_DGRAM: u32 = 2;
const SOCK_RAW: u32 = 3;

/// IP protocols (IANA), and Linux' own number for MPTCP, which speaks TCP on the wire (include/uapi/linux/in.h).
const ICMP: u32 = 1;
const TCP: u32 = 6;
const UDP: u32 = 17;
const ICMPV6: u32 = 58;
const MPTCP: u32 = 262;

/// What to do with a connect to a protected endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KernelVerdict {
    /// Let it go where it goes.
    Pass,
    /// Let it go, and count that nobody judged the pod: the operator wants it so while no agent runs.
    PassUnclassified,
    /// Take it to the listener at this port (host order) on loopback.
    Redirect(u16),
    /// Fail it.
    Deny(DenyReason),
}

/// The socket that is connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Socket {
    /// Its network namespace (`SO_NETNS_COOKIE`).
    pub netns: u64,
    /// `type` of `struct bpf_sock_addr` or `struct bpf_sock`.
    pub kind: u32,
    /// `protocol` of the same.
    pub protocol: u32,
}

/// Judges a connect to a protected endpoint by the class of the pod that makes it.
///
/// `loopback` tells whether the protected endpoint is the machine's own loopback: it is one where the socket is in the node's own
/// network namespace, and in a pod's it is the pod's own business. `gone` tells whether the agent has given no sign of
/// life for long ([`gone`]).
#[inline(always)]
pub const fn judge(
    action: EndpointAction,
    class: &ClassValue,
    node: &NodeValue,
    socket: &Socket,
    loopback: bool,
    gone: bool,
) -> KernelVerdict {
    // While nobody has told the node's namespace every loopback counts: too strict, never too lax.
    if loopback && node.netns != 0 && socket.netns != node.netns {
        return KernelVerdict::Pass;
    }
    match ClassKind::from_code(class.kind) {
        ClassKind::Exempt => KernelVerdict::Pass,
        ClassKind::Pending => KernelVerdict::Deny(DenyReason::Pending),
        ClassKind::Unclassified => {
            if gone && node.unclassified_open == 1 {
                KernelVerdict::PassUnclassified
            } else {
                KernelVerdict::Deny(DenyReason::Pending)
            }
        }
        ClassKind::Enforced => match action {
            EndpointAction::Deny => KernelVerdict::Deny(DenyReason::DeniedEndpoint),
            EndpointAction::Redirect => {
                if socket.kind != SOCK_STREAM || (socket.protocol != TCP && socket.protocol != MPTCP) {
                    KernelVerdict::Deny(DenyReason::Protocol)
                } else {
                    listener(class, node, socket.netns)
                }
            }
        },
    }
}

/// The listener that a socket of an enforced pod is taken to: the one in its own network namespace.
#[inline(always)]
const fn listener(class: &ClassValue, node: &NodeValue, netns: u64) -> KernelVerdict {
    let port = if netns == class.netns {
        class.port
    } else if node.netns != 0 && netns == node.netns {
        node.port
    } else {
        return KernelVerdict::Deny(DenyReason::Namespace);
    };
    if port == 0 {
        KernelVerdict::Deny(DenyReason::NoListener)
    } else {
        KernelVerdict::Redirect(port)
    }
}

/// Whether a bind would take the address that the pod's listener has: the same port, on that loopback address or on all
/// addresses. `class` is the one of the pod whose network namespace `socket` is in.
#[inline(always)]
pub const fn takes_listener_port(class: &ClassValue, socket: &Socket, address: Address, port: u16) -> bool {
    let canonical = address.canonical();
    is_of_pod(class, socket)
        && port != 0
        && (port == class.port || port == class.retiring)
        && (canonical.is(Address::V4_LOOPBACK) || canonical.is(Address::V6_LOOPBACK))
}

/// Whether a bind to this port gets by a listener's former connections only with `SO_REUSEADDR`: they keep the port until they
/// end, and a program that got it would be refused as long.
///
/// These are all ports of [`LISTENER_PORTS`], not only those that the class names: connections outlive the listener's move, the agent
/// that accepted them, and (TIME-WAIT) their process. No agent after it knows their ports. It gives a program nothing that it could
/// not set by itself: with `SO_REUSEADDR` too, a port that a socket listens on is taken.
#[inline(always)]
pub const fn was_listener_port(class: &ClassValue, socket: &Socket, port: u16) -> bool {
    is_of_pod(class, socket) && *LISTENER_PORTS.start() <= port && port <= *LISTENER_PORTS.end()
}

#[inline(always)]
const fn is_of_pod(class: &ClassValue, socket: &Socket) -> bool {
    matches!(ClassKind::from_code(class.kind), ClassKind::Enforced)
        && socket.kind == SOCK_STREAM
        && socket.netns == class.netns
}

/// Whether a listener of Picket's has this port, in this network namespace, for pods of this class: a connection that was
/// redirected there a moment ago may have been answered by whoever had the port after the listener.
#[inline(always)]
pub const fn serves(class: &ClassValue, node: &NodeValue, netns: u64, port: u16) -> bool {
    if !matches!(ClassKind::from_code(class.kind), ClassKind::Enforced) || port == 0 {
        return false;
    }
    let own = netns == class.netns && (port == class.port || port == class.retiring);
    own || (node.netns != 0 && netns == node.netns && port == node.port)
}

/// Whether the agent is gone: its last sign of life, both in nanoseconds of the boot clock, is too old.
#[inline(always)]
pub const fn gone(beat_ns: u64, now_ns: u64) -> bool {
    now_ns.saturating_sub(beat_ns) > HEARTBEAT_MAX_NS
}

/// Whether the hooks follow a socket of this kind wherever it goes: connect and sendmsg run for each of them. Nearly all
/// sockets of a node are such. For UDP-Lite (136) only sendmsg does: its connect runs no program (net/ipv4/udplite.c has no
/// `pre_connect`), and after it sendmsg neither.
#[inline(always)]
pub const fn is_followed(kind: u32, protocol: u32) -> bool {
    match kind {
        SOCK_STREAM => protocol == TCP || protocol == MPTCP,
        SOCK_DGRAM => protocol == UDP || protocol == ICMP || protocol == ICMPV6,
        _ => false,
    }
}

/// Judges the making of a socket that the hooks do not follow. Raw sockets for ICMP are left to enforced pods, since
/// `ping` has them and the pod's egress program sees what else they may send.
#[inline(always)]
pub const fn judge_unfollowed(
    class: &ClassValue,
    node: &NodeValue,
    kind: u32,
    protocol: u32,
    gone: bool,
) -> KernelVerdict {
    match ClassKind::from_code(class.kind) {
        ClassKind::Exempt => KernelVerdict::Pass,
        ClassKind::Unclassified if gone && node.unclassified_open == 1 => KernelVerdict::PassUnclassified,
        ClassKind::Enforced if kind == SOCK_RAW && (protocol == ICMP || protocol == ICMPV6) => {
            KernelVerdict::Pass
        }
        _ => KernelVerdict::Deny(DenyReason::Socket),
    }
}

/// The further address to look for among the protected endpoints, beside the canonical one.
///
/// The kernel takes a connect to `::` to `::1`, or to `127.0.0.1` when the socket is bound to a mapped address
/// (net/ipv6/tcp_ipv6.c, `tcp_v6_connect`); which of the two, a program cannot see. A link-local address stands for its link.
#[inline(always)]
pub const fn alternative(dialled: Address) -> Option<Address> {
    if dialled.is_v6_any() {
        Some(Address::V4_LOOPBACK)
    } else if dialled.is_link_local() {
        Some(Address::LINK_LOCAL)
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

    const SCTP: u32 = 132;
    const POD: u64 = 100;
    const NODE: NodeValue = NodeValue {
        netns: 1,
        port: 9443,
        unclassified_open: 0,
        reserved: 0,
    };
    const OPEN: NodeValue = NodeValue {
        unclassified_open: 1,
        ..NODE
    };

    fn class(kind: ClassKind, port: u16) -> ClassValue {
        ClassValue {
            kind: kind.code(),
            port,
            retiring: 0,
            pod: 7,
            netns: POD,
        }
    }

    fn socket(netns: u64) -> Socket {
        Socket {
            netns,
            kind: SOCK_STREAM,
            protocol: TCP,
        }
    }

    fn verdict(class: &ClassValue, socket: Socket) -> KernelVerdict {
        judge(EndpointAction::Redirect, class, &NODE, &socket, false, false)
    }

    #[test]
    fn an_enforced_task_goes_to_the_listener_in_the_sockets_namespace() {
        let class = class(ClassKind::Enforced, 4443);
        for protocol in [TCP, MPTCP] {
            let socket = Socket {
                protocol,
                ..socket(POD)
            };
            assert_eq!(verdict(&class, socket), KernelVerdict::Redirect(4443));
        }
        assert_eq!(verdict(&class, socket(NODE.netns)), KernelVerdict::Redirect(9443));
        assert_eq!(
            verdict(&class, socket(55)),
            KernelVerdict::Deny(DenyReason::Namespace)
        );
        // Before anybody told the node's namespace, none is it.
        let told = judge(
            EndpointAction::Redirect,
            &class,
            &NodeValue::default(),
            &socket(0),
            false,
            false,
        );
        assert_eq!(told, KernelVerdict::Deny(DenyReason::Namespace));
    }

    #[test]
    fn an_enforced_task_has_no_other_protocol() {
        let class = class(ClassKind::Enforced, 4443);
        for (kind, protocol) in [
            (SOCK_DGRAM, UDP),
            (SOCK_STREAM, SCTP),
            (SOCK_RAW, TCP),
            (SOCK_DGRAM, TCP),
        ] {
            let socket = Socket {
                kind,
                protocol,
                netns: POD,
            };
            assert_eq!(
                verdict(&class, socket),
                KernelVerdict::Deny(DenyReason::Protocol),
                "{kind} {protocol}"
            );
        }
    }

    #[test]
    fn an_enforced_task_without_a_listener_is_refused() {
        let class = class(ClassKind::Enforced, 0);
        assert_eq!(
            verdict(&class, socket(POD)),
            KernelVerdict::Deny(DenyReason::NoListener)
        );
        let node = NodeValue { port: 0, ..NODE };
        let told = judge(
            EndpointAction::Redirect,
            &class,
            &node,
            &socket(NODE.netns),
            false,
            false,
        );
        assert_eq!(told, KernelVerdict::Deny(DenyReason::NoListener));
    }

    #[test]
    fn some_endpoints_are_shut_to_all_that_is_enforced() {
        let class = class(ClassKind::Enforced, 4443);
        let told = judge(EndpointAction::Deny, &class, &NODE, &socket(POD), false, false);
        assert_eq!(told, KernelVerdict::Deny(DenyReason::DeniedEndpoint));
    }

    #[test]
    fn loopback_is_an_endpoint_on_the_node_alone() {
        let loopback = |class: &ClassValue, node: &NodeValue, netns| {
            judge(EndpointAction::Redirect, class, node, &socket(netns), true, false)
        };
        let enforced = class(ClassKind::Enforced, 4443);
        assert_eq!(loopback(&enforced, &NODE, POD), KernelVerdict::Pass);
        assert_eq!(
            loopback(&enforced, &NODE, NODE.netns),
            KernelVerdict::Redirect(9443)
        );
        assert_eq!(
            loopback(&enforced, &NodeValue::default(), POD),
            KernelVerdict::Redirect(4443)
        );
        let pending = class(ClassKind::Pending, 0);
        assert_eq!(
            loopback(&pending, &NODE, NODE.netns),
            KernelVerdict::Deny(DenyReason::Pending)
        );
    }

    #[test]
    fn a_pending_task_is_shut_out_and_an_exempt_one_passes() {
        for action in [EndpointAction::Redirect, EndpointAction::Deny] {
            let told = |kind, node: &NodeValue, gone| {
                judge(action, &class(kind, 0), node, &socket(POD), false, gone)
            };
            assert_eq!(told(ClassKind::Exempt, &NODE, false), KernelVerdict::Pass);
            for (node, gone) in [(NODE, false), (NODE, true), (OPEN, false), (OPEN, true)] {
                assert_eq!(
                    told(ClassKind::Pending, &node, gone),
                    KernelVerdict::Deny(DenyReason::Pending)
                );
                let unknown = told(ClassKind::Unclassified, &node, gone);
                if gone && node.unclassified_open == 1 {
                    assert_eq!(unknown, KernelVerdict::PassUnclassified);
                } else {
                    assert_eq!(unknown, KernelVerdict::Deny(DenyReason::Pending));
                }
            }
        }
    }

    #[test]
    fn a_bind_takes_the_listeners_port_on_its_address_or_on_all() {
        let mut enforced = class(ClassKind::Enforced, 64_320);
        let takes = |class: &ClassValue, netns, address: &str, port| {
            let address = Address::from(address.parse::<IpAddr>().unwrap());
            takes_listener_port(class, &socket(netns), address, port)
        };
        for address in [
            "0.0.0.0",
            "127.0.0.1",
            "::",
            "::1",
            "::ffff:0.0.0.0",
            "::ffff:127.0.0.1",
        ] {
            assert!(takes(&enforced, POD, address, 64_320), "{address}");
            assert!(!takes(&enforced, POD, address, 64_321), "{address}");
            assert!(!takes(&enforced, NODE.netns, address, 64_320), "{address}");
            assert!(!takes(&class(ClassKind::Pending, 64_320), POD, address, 64_320));
            assert!(!takes(&class(ClassKind::Enforced, 0), POD, address, 0));
        }
        for address in ["127.0.0.2", "10.0.0.7", "fd00::7"] {
            assert!(!takes(&enforced, POD, address, 64_320), "{address}");
        }
        enforced.retiring = 64_330;
        assert!(takes(&enforced, POD, "0.0.0.0", 64_330));
        let datagrams = Socket {
            kind: SOCK_DGRAM,
            ..socket(POD)
        };
        assert!(!takes_listener_port(
            &enforced,
            &datagrams,
            Address::V4_LOOPBACK,
            64_320
        ));
        let was = |port| was_listener_port(&enforced, &socket(POD), port);
        assert_eq!(
            [64_319, 64_320, 64_351, 64_352].map(was),
            [false, true, true, false]
        );
        assert!(!was_listener_port(&enforced, &socket(1), 64_330));
    }

    #[test]
    fn a_port_is_a_listeners_until_the_listener_has_left_it() {
        let mut enforced = class(ClassKind::Enforced, 64_321);
        enforced.retiring = 64_320;
        let port = |class: &ClassValue, netns, port| serves(class, &NODE, netns, port);
        assert!(port(&enforced, POD, 64_321) && port(&enforced, POD, 64_320));
        assert!(!port(&enforced, POD, 64_322) && !port(&enforced, 5, 64_321));
        enforced.retiring = 0;
        assert!(!port(&enforced, POD, 64_320) && !port(&enforced, POD, 0));
        assert!(port(&enforced, NODE.netns, NODE.port) && !port(&enforced, NODE.netns, 64_321));
        assert!(
            !port(&class(ClassKind::Pending, 64_321), POD, 64_321),
            "it has none any more"
        );
        assert!(!serves(
            &class(ClassKind::Enforced, 0),
            &NodeValue::default(),
            0,
            0
        ));
    }

    #[test]
    fn an_agent_is_gone_after_its_last_sign_of_life_is_old() {
        assert!(!gone(5, 5 + HEARTBEAT_MAX_NS));
        assert!(gone(5, 6 + HEARTBEAT_MAX_NS));
        assert!(!gone(7, 5), "a sign from the future is one");
    }

    #[test]
    fn what_no_hook_follows_is_not_made() {
        let told = |kind, socket_kind, protocol| {
            assert!(!is_followed(socket_kind, protocol), "{socket_kind} {protocol}");
            judge_unfollowed(&class(kind, 0), &NODE, socket_kind, protocol, true)
        };
        for (socket_kind, protocol) in [
            (SOCK_RAW, 255),
            (SOCK_RAW, TCP),
            (SOCK_STREAM, SCTP),
            (5, SCTP),
            (6, 33),
            (SOCK_DGRAM, 115),
            (SOCK_DGRAM, 136),
        ] {
            for kind in [ClassKind::Enforced, ClassKind::Pending, ClassKind::Unclassified] {
                assert_eq!(
                    told(kind, socket_kind, protocol),
                    KernelVerdict::Deny(DenyReason::Socket)
                );
            }
            assert_eq!(
                told(ClassKind::Exempt, socket_kind, protocol),
                KernelVerdict::Pass
            );
        }
        for protocol in [ICMP, ICMPV6] {
            assert_eq!(told(ClassKind::Enforced, SOCK_RAW, protocol), KernelVerdict::Pass);
            assert_eq!(
                told(ClassKind::Pending, SOCK_RAW, protocol),
                KernelVerdict::Deny(DenyReason::Socket)
            );
        }
        for (kind, protocol) in [
            (SOCK_STREAM, TCP),
            (SOCK_STREAM, MPTCP),
            (SOCK_DGRAM, UDP),
            (SOCK_DGRAM, ICMPV6),
        ] {
            assert!(is_followed(kind, protocol));
        }
    }

    #[test]
    fn a_mapped_dial_stays_mapped() {
        let address = |text: &str| Address::from(text.parse::<IpAddr>().unwrap());
        assert_eq!(rewrite(address("10.96.0.1")), Address::V4_LOOPBACK);
        assert_eq!(rewrite(address("::ffff:10.96.0.1")), Address::V4_LOOPBACK);
        assert_eq!(rewrite(address("fd00:10:96::1")), Address::V6_LOOPBACK);
        assert_eq!(rewrite(address("64:ff9b::10.96.0.1")), Address::V6_LOOPBACK);
        assert_eq!(alternative(address("::")), Some(Address::V4_LOOPBACK));
        assert_eq!(alternative(address("::1")), None);
        assert_eq!(alternative(address("fe80::a:b")), Some(Address::LINK_LOCAL));
    }
}

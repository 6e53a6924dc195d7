//! What the kernel programs report: denied connects one by one, within a limit for each pod, and everything else by count.
//!
//! In: hooks and reasons as codes. Out: an [`Event`] as it lies in the ring buffer, and the [`Counter`] of each outcome.

use crate::{Address, COMM_LEN};

/// Which program speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Hook {
    /// connect(2) with an IPv4 address.
    Connect4,
    /// connect(2) with an IPv6 address.
    Connect6,
    /// UDP sent to an IPv4 address without a connect.
    SendMsg4,
    /// UDP sent to an IPv6 address without a connect.
    SendMsg6,
    /// A packet that leaves a socket of the pod.
    Egress,
    /// A packet that leaves the pod by its interface.
    Interface,
    /// socket(2).
    SockCreate,
    /// bind(2) to an IPv4 address.
    Bind4,
    /// bind(2) to an IPv6 address.
    Bind6,
}

impl Hook {
    /// The number in an event.
    pub const fn code(self) -> u8 {
        match self {
            Self::Connect4 => 1,
            Self::Connect6 => 2,
            Self::SendMsg4 => 3,
            Self::SendMsg6 => 4,
            Self::Egress => 5,
            Self::Interface => 6,
            Self::SockCreate => 7,
            Self::Bind4 => 8,
            Self::Bind6 => 9,
        }
    }

    /// Reads an event's number.
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Connect4),
            2 => Some(Self::Connect6),
            3 => Some(Self::SendMsg4),
            4 => Some(Self::SendMsg6),
            5 => Some(Self::Egress),
            6 => Some(Self::Interface),
            7 => Some(Self::SockCreate),
            8 => Some(Self::Bind4),
            9 => Some(Self::Bind6),
            _ => None,
        }
    }

    /// The program's name, as `bpftool prog` lists it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connect4 => "connect4",
            Self::Connect6 => "connect6",
            Self::SendMsg4 => "sendmsg4",
            Self::SendMsg6 => "sendmsg6",
            Self::Egress => "egress",
            Self::Interface => "interface",
            Self::SockCreate => "sock_create",
            Self::Bind4 => "bind4",
            Self::Bind6 => "bind6",
        }
    }
}

/// Why a connect was denied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DenyReason {
    /// The pod is not classified yet.
    Pending,
    /// Not TCP: an enforced pod reaches an API server by TCP alone.
    Protocol,
    /// The pod is enforced and has no listener.
    NoListener,
    /// The protected endpoint is one that nobody enforced may reach.
    DeniedEndpoint,
    /// The kernel could not note the connect, so nobody could have answered for it.
    Internal,
    /// The socket is in a network namespace that has no listener of the pod's.
    Namespace,
    /// A packet to a protected endpoint that comes from no redirected connection.
    Packet,
    /// A packet that hides where it goes: one inside another, or one that cannot be read.
    Encapsulated,
    /// A kind of socket that no hook could follow.
    Socket,
    /// A bind to the port of the pod's listener, which the kernel fails: the listener moves away.
    ListenerPort,
    /// A redirected connection that would come to a socket other than Picket's.
    Misdirected,
}

impl DenyReason {
    /// The number in an event.
    pub const fn code(self) -> u8 {
        match self {
            Self::Pending => 1,
            Self::Protocol => 2,
            Self::NoListener => 3,
            Self::DeniedEndpoint => 4,
            Self::Internal => 5,
            Self::Namespace => 6,
            Self::Packet => 7,
            Self::Encapsulated => 8,
            Self::Socket => 9,
            Self::ListenerPort => 10,
            Self::Misdirected => 11,
        }
    }

    /// Reads an event's number.
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Pending),
            2 => Some(Self::Protocol),
            3 => Some(Self::NoListener),
            4 => Some(Self::DeniedEndpoint),
            5 => Some(Self::Internal),
            6 => Some(Self::Namespace),
            7 => Some(Self::Packet),
            8 => Some(Self::Encapsulated),
            9 => Some(Self::Socket),
            10 => Some(Self::ListenerPort),
            11 => Some(Self::Misdirected),
            _ => None,
        }
    }

    /// A word for records and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Protocol => "protocol",
            Self::NoListener => "no_listener",
            Self::DeniedEndpoint => "denied_endpoint",
            Self::Internal => "internal",
            Self::Namespace => "namespace",
            Self::Packet => "packet",
            Self::Encapsulated => "encapsulated",
            Self::Socket => "socket",
            Self::ListenerPort => "listener_port",
            Self::Misdirected => "misdirected",
        }
    }

    /// What it means to a person.
    pub const fn explain(self) -> &'static str {
        match self {
            Self::Pending => "the pod has not been classified yet",
            Self::Protocol => "an enforced pod reaches the API server by TCP alone",
            Self::NoListener => "the pod is enforced and its listener is not open",
            Self::DeniedEndpoint => "no enforced pod may reach this address",
            Self::Internal => "the kernel could not record the connect",
            Self::Namespace => "the socket is in a network namespace without a listener of the pod's",
            Self::Packet => "the packet belongs to no redirected connection",
            Self::Encapsulated => "the packet is encapsulated, so its destination is unknown",
            Self::Socket => "no kernel hook sees what a socket of this kind sends",
            Self::ListenerPort => "Picket's listener has this port and moves to another one: bind again",
            Self::Misdirected => "no listener of Picket's would have answered the redirected connection",
        }
    }

    /// The counter that counts it.
    #[inline(always)]
    pub const fn counter(self) -> Counter {
        match self {
            Self::Pending => Counter::DeniedPending,
            Self::Protocol => Counter::DeniedProtocol,
            Self::NoListener => Counter::DeniedNoListener,
            Self::DeniedEndpoint => Counter::DeniedEndpoint,
            Self::Internal => Counter::DeniedInternal,
            Self::Namespace => Counter::DeniedNamespace,
            Self::Packet => Counter::DroppedPackets,
            Self::Encapsulated => Counter::DroppedEncapsulated,
            Self::Socket => Counter::DeniedSockets,
            Self::ListenerPort => Counter::DeniedListenerPorts,
            Self::Misdirected => Counter::DroppedMisdirected,
        }
    }
}

/// One denied connect, as the ring buffer carries it.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    /// When, in nanoseconds of the boot clock.
    pub at_ns: u64,
    /// The classified cgroup that decided.
    pub cgroup: u64,
    /// The agent's number for the pod; zero where it is not enforced.
    pub pod: u64,
    /// The socket's network namespace.
    pub netns: u64,
    /// The address as the client dialled it.
    pub dialled: Address,
    /// The process id in the initial PID namespace; zero for packets, which are on their way without a process.
    pub pid: u32,
    /// The thread id in the initial PID namespace; zero for packets.
    pub tid: u32,
    /// The user id in the initial user namespace.
    pub uid: u32,
    /// The port it dialled, in host order.
    pub dialled_port: u16,
    /// A [`Hook`] by its code.
    pub hook: u8,
    /// A [`DenyReason`] by its code.
    pub reason: u8,
    /// The IP protocol of the socket (6 is TCP, 17 UDP).
    pub protocol: u32,
    /// Zero.
    pub reserved: u32,
    /// The thread's name, ended by a zero.
    pub comm: [u8; COMM_LEN],
}

const _: () = assert!(size_of::<Event>() == 88);

/// An index into COUNTERS, which holds one number per CPU for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Counter {
    /// Connects taken to a listener.
    Redirected,
    /// Connects denied because the pod is pending.
    DeniedPending,
    /// Connects denied because they are not TCP.
    DeniedProtocol,
    /// Connects denied because the pod has no listener.
    DeniedNoListener,
    /// Connects denied because of the protected endpoint.
    DeniedEndpoint,
    /// Connects denied because they could not be noted.
    DeniedInternal,
    /// Flows written.
    FlowsWritten,
    /// Flows that the map did not take.
    FlowsLost,
    /// Events that the ring had no room for.
    EventsLost,
    /// Connects denied because the socket's namespace has no listener of the pod's.
    DeniedNamespace,
    /// Packets to protected endpoints dropped.
    DroppedPackets,
    /// Packets dropped because they hide where they go.
    DroppedEncapsulated,
    /// Sockets denied because of their kind.
    DeniedSockets,
    /// Events left out because the pod had many.
    EventsLimited,
    /// Connects to protected endpoints let through because nobody judged the pod, no agent runs, and the operator wants it so.
    AllowedUnclassified,
    /// Binds to the port of a pod's listener.
    DeniedListenerPorts,
    /// Packets of redirected connections dropped, because no listener of Picket's would have taken them.
    DroppedMisdirected,
}

/// How many counters there are.
pub const COUNTERS: u32 = 17;

impl Counter {
    /// Every counter, by its index.
    pub const ALL: [Self; COUNTERS as usize] = [
        Self::Redirected,
        Self::DeniedPending,
        Self::DeniedProtocol,
        Self::DeniedNoListener,
        Self::DeniedEndpoint,
        Self::DeniedInternal,
        Self::FlowsWritten,
        Self::FlowsLost,
        Self::EventsLost,
        Self::DeniedNamespace,
        Self::DroppedPackets,
        Self::DroppedEncapsulated,
        Self::DeniedSockets,
        Self::EventsLimited,
        Self::AllowedUnclassified,
        Self::DeniedListenerPorts,
        Self::DroppedMisdirected,
    ];

    /// A word for metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Redirected => "redirected",
            Self::DeniedPending => "denied_pending",
            Self::DeniedProtocol => "denied_protocol",
            Self::DeniedNoListener => "denied_no_listener",
            Self::DeniedEndpoint => "denied_endpoint",
            Self::DeniedInternal => "denied_internal",
            Self::FlowsWritten => "flows_written",
            Self::FlowsLost => "flows_lost",
            Self::EventsLost => "events_lost",
            Self::DeniedNamespace => "denied_namespace",
            Self::DroppedPackets => "dropped_packets",
            Self::DroppedEncapsulated => "dropped_encapsulated",
            Self::DeniedSockets => "denied_sockets",
            Self::EventsLimited => "events_limited",
            Self::AllowedUnclassified => "allowed_unclassified",
            Self::DeniedListenerPorts => "denied_listener_ports",
            Self::DroppedMisdirected => "dropped_misdirected",
        }
    }

    /// Its place in the map.
    #[inline(always)]
    pub const fn index(self) -> u32 {
        self as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_stand_at_their_index() {
        for (index, counter) in Counter::ALL.into_iter().enumerate() {
            assert_eq!(counter.index() as usize, index);
        }
    }

    #[test]
    fn codes_read_back() {
        for reason in [
            DenyReason::Pending,
            DenyReason::Protocol,
            DenyReason::NoListener,
            DenyReason::DeniedEndpoint,
            DenyReason::Internal,
            DenyReason::Namespace,
            DenyReason::Packet,
            DenyReason::Encapsulated,
            DenyReason::Socket,
        ] {
            assert_eq!(DenyReason::from_code(reason.code()), Some(reason));
        }
        for hook in [
            Hook::Connect4,
            Hook::Connect6,
            Hook::SendMsg4,
            Hook::SendMsg6,
            Hook::Egress,
            Hook::Interface,
            Hook::SockCreate,
        ] {
            assert_eq!(Hook::from_code(hook.code()), Some(hook));
        }
        assert_eq!(DenyReason::from_code(0), None);
        assert_eq!(Hook::from_code(0), None);
    }
}

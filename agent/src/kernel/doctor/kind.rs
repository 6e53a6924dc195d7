//! The kinds of sockets that a pod may try a protected endpoint with.
//!
//! In: a kind, by its word on the command line. Out: its title in the table, and what the kernel should do with it.

/// A way to use a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SocketKind {
    /// Plain TCP.
    Tcp,
    /// TCP that does not wait for its connect.
    NonBlocking,
    /// TCP by io_uring.
    IoUring,
    /// TCP whose first bytes go with the connect.
    FastOpen,
    /// The same by an option of the socket's.
    FastOpenConnect,
    /// Connected elsewhere, disconnected, and connected again.
    Again,
    /// Multipath TCP.
    Mptcp,
    /// TCP to an IPv6 address.
    Tcp6,
    /// TCP to an IPv4 address in an IPv6 one.
    Mapped,
    /// A socket that was made before the process was the pod's.
    Earlier,
    /// A socket that a process outside made and passed on.
    Received,
    /// The pod's socket, used by a process outside.
    Outside,
    /// UDP with a connect.
    Udp,
    /// UDP without.
    UdpUnconnected,
    /// The same to an IPv6 address.
    Udp6,
    /// UDP-Lite.
    UdpLite,
    /// A raw socket of no protocol.
    Raw,
    /// A raw socket of TCP that writes the IP header by itself.
    RawHeader,
    /// SCTP.
    Sctp,
    /// DCCP.
    Dccp,
    /// SMC, which begins as TCP.
    Smc,
    /// A packet socket.
    Packet,
    /// A socket past the kernel's network stack.
    Xdp,
    /// A connection that was open before the pod was enforced.
    Open,
    /// The socket of a pod on the node's network, used by a process outside.
    OutsideNode,
}

/// What should become of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// Picket gets it.
    Redirected,
    /// It is denied.
    Denied,
    /// Its packets are dropped.
    Dropped,
}

impl SocketKind {
    /// All of them, in the table's order. Those for which something is attached to the pod come last: it stays, and would drop
    /// what another's guard lets pass. Of these the ones that leave a connection behind, whose end is dropped too and counts,
    /// come last.
    pub(super) const ALL: [Self; 25] = [
        Self::Tcp,
        Self::NonBlocking,
        Self::IoUring,
        Self::FastOpen,
        Self::FastOpenConnect,
        Self::Again,
        Self::Mptcp,
        Self::Tcp6,
        Self::Mapped,
        Self::Earlier,
        Self::Received,
        Self::Outside,
        Self::Udp,
        Self::UdpUnconnected,
        Self::Udp6,
        Self::UdpLite,
        Self::Raw,
        Self::RawHeader,
        Self::Sctp,
        Self::Dccp,
        Self::Smc,
        Self::Packet,
        Self::Xdp,
        Self::Open,
        Self::OutsideNode,
    ];

    /// Its word on the probe's command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::NonBlocking => "non-blocking",
            Self::IoUring => "io-uring",
            Self::FastOpen => "fast-open",
            Self::FastOpenConnect => "fast-open-connect",
            Self::Again => "again",
            Self::Mptcp => "mptcp",
            Self::Tcp6 => "tcp6",
            Self::Mapped => "mapped",
            Self::Earlier => "earlier",
            Self::Received => "received",
            Self::Outside => "outside",
            Self::Udp => "udp",
            Self::UdpUnconnected => "udp-unconnected",
            Self::Udp6 => "udp6",
            Self::UdpLite => "udp-lite",
            Self::Raw => "raw",
            Self::RawHeader => "raw-header",
            Self::Sctp => "sctp",
            Self::Dccp => "dccp",
            Self::Smc => "smc",
            Self::Packet => "packet",
            Self::Xdp => "xdp",
            Self::Open => "open",
            Self::OutsideNode => "outside-node",
        }
    }

    /// Reads the word.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word)
    }

    /// Its name where people read it.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Tcp => "socket TCP",
            Self::NonBlocking => "socket TCP, non-blocking",
            Self::IoUring => "socket TCP, io_uring",
            Self::FastOpen => "socket TCP fast open",
            Self::FastOpenConnect => "socket TCP_FASTOPEN_CONNECT",
            Self::Again => "socket TCP, reconnected",
            Self::Mptcp => "socket MPTCP",
            Self::Tcp6 => "socket TCP, IPv6",
            Self::Mapped => "socket TCP, mapped IPv4",
            Self::Earlier => "socket made earlier",
            Self::Received => "socket received from outside",
            Self::Outside => "socket used from outside",
            Self::Udp => "socket UDP",
            Self::UdpUnconnected => "socket UDP, unconnected",
            Self::Udp6 => "socket UDP, IPv6",
            Self::UdpLite => "socket UDP-Lite",
            Self::Raw => "socket raw",
            Self::RawHeader => "socket raw, IP_HDRINCL",
            Self::Sctp => "socket SCTP",
            Self::Dccp => "socket DCCP",
            Self::Smc => "socket SMC",
            Self::Packet => "socket packet",
            Self::Xdp => "socket AF_XDP",
            Self::Open => "connection before enforcement",
            Self::OutsideNode => "socket used from outside, node network",
        }
    }

    /// What should become of it at a protected endpoint.
    pub(super) fn wanted(self) -> Wanted {
        match self {
            Self::Tcp
            | Self::NonBlocking
            | Self::IoUring
            | Self::FastOpen
            | Self::FastOpenConnect
            | Self::Again
            | Self::Mptcp
            | Self::Tcp6
            | Self::Mapped
            | Self::Earlier
            | Self::Received
            | Self::Outside
            | Self::Smc => Wanted::Redirected,
            Self::Udp
            | Self::UdpUnconnected
            | Self::Udp6
            | Self::UdpLite
            | Self::Raw
            | Self::RawHeader
            | Self::Sctp
            | Self::Dccp => Wanted::Denied,
            Self::Packet | Self::Xdp | Self::Open | Self::OutsideNode => Wanted::Dropped,
        }
    }

    /// Whether its packets pass no socket of IP's, so that only the pod's interface shows them.
    pub(super) fn passes_stack(self) -> bool {
        matches!(self, Self::Packet | Self::Xdp)
    }

    /// Whether a process outside the pod makes the socket and gives it to the pod's.
    pub fn is_given(self) -> bool {
        self == Self::Received
    }
}

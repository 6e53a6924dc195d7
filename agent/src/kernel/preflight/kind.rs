//! The kinds of sockets that a pod may try a door with, and what should become of each.

/// A way to use a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Plain TCP.
    Tcp,
    /// TCP that does not wait for its connect.
    NonBlocking,
    /// TCP by io_uring.
    IoUring,
    /// TCP whose first bytes go with the connect.
    FastOpen,
    /// Connected elsewhere, disconnected, and connected again.
    Again,
    /// Multipath TCP.
    Mptcp,
    /// A socket that was made before the process was the pod's.
    Earlier,
    /// UDP with a connect.
    Udp,
    /// UDP without.
    UdpUnconnected,
    /// A raw socket.
    Raw,
    /// SCTP.
    Sctp,
    /// DCCP.
    Dccp,
    /// SMC, which begins as TCP.
    Smc,
    /// A connection that was open before the pod was enforced.
    Open,
    /// A packet socket.
    Packet,
}

/// What should become of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// Picket gets it.
    Taken,
    /// It is refused, or its packets dropped.
    Stopped,
}

impl Kind {
    /// All of them, in the table's order.
    pub(super) const ALL: [Self; 15] = [
        Self::Tcp,
        Self::NonBlocking,
        Self::IoUring,
        Self::FastOpen,
        Self::Again,
        Self::Mptcp,
        Self::Earlier,
        Self::Udp,
        Self::UdpUnconnected,
        Self::Raw,
        Self::Sctp,
        Self::Dccp,
        Self::Smc,
        Self::Open,
        Self::Packet,
    ];

    /// The word the probe is told it by.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::NonBlocking => "non-blocking",
            Self::IoUring => "io-uring",
            Self::FastOpen => "fast-open",
            Self::Again => "again",
            Self::Mptcp => "mptcp",
            Self::Earlier => "earlier",
            Self::Udp => "udp",
            Self::UdpUnconnected => "udp-unconnected",
            Self::Raw => "raw",
            Self::Sctp => "sctp",
            Self::Dccp => "dccp",
            Self::Smc => "smc",
            Self::Open => "open",
            Self::Packet => "packet",
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
            Self::Again => "socket TCP, reconnected",
            Self::Mptcp => "socket MPTCP",
            Self::Earlier => "socket from before",
            Self::Udp => "socket UDP",
            Self::UdpUnconnected => "socket UDP, unconnected",
            Self::Raw => "socket raw",
            Self::Sctp => "socket SCTP",
            Self::Dccp => "socket DCCP",
            Self::Smc => "socket SMC",
            Self::Open => "connection from before",
            Self::Packet => "socket packet",
        }
    }

    /// What should become of it at a door.
    pub(super) fn wanted(self) -> Wanted {
        match self {
            Self::Tcp
            | Self::NonBlocking
            | Self::IoUring
            | Self::FastOpen
            | Self::Again
            | Self::Mptcp
            | Self::Earlier
            | Self::Smc => Wanted::Taken,
            Self::Udp
            | Self::UdpUnconnected
            | Self::Raw
            | Self::Sctp
            | Self::Dccp
            | Self::Open
            | Self::Packet => Wanted::Stopped,
        }
    }
}

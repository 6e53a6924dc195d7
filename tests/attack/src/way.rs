//! The ways to dial: which socket each needs, and who dials with it.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use clap::ValueEnum;

use crate::report::{Failed, Report};
use crate::{datagram, packet, raw, stream, sys};

/// A way to dial.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Way {
    /// A TCP connect.
    Tcp,
    /// A TCP connect that does not wait.
    Nonblocking,
    /// MPTCP.
    Mptcp,
    /// TCP fast open by sendto with MSG_FASTOPEN.
    FastopenSendto,
    /// TCP fast open by TCP_FASTOPEN_CONNECT and a write.
    FastopenConnect,
    /// A TCP socket that was connected to itself, then to AF_UNSPEC, and then to the address.
    Unspec,
    /// A TCP connect by io_uring.
    Uring,
    /// By io_uring's worker thread.
    UringAsync,
    /// By io_uring's polling thread.
    UringSqpoll,
    /// TCP fast open by io_uring's sendmsg.
    UringFastopen,
    /// UDP after a connect.
    UdpConnected,
    /// UDP by sendto.
    UdpSendto,
    /// UDP by sendmsg.
    UdpSendmsg,
    /// UDP by sendmmsg.
    UdpSendmmsg,
    /// A UDP socket that was connected elsewhere, with the address in sendto.
    UdpReused,
    /// UDP by io_uring's sendmsg.
    UringUdp,
    /// UDP by sendmsg of io_uring's polling thread.
    UringUdpSqpoll,
    /// UDP-Lite with a connect, which no hook sees.
    UdpLite,
    /// A SYN with its own IP header by IPPROTO_RAW.
    RawTcp,
    /// A datagram with its own IP header by IPPROTO_RAW.
    RawUdp,
    /// A SYN with its own IP header by a raw TCP socket with IP_HDRINCL.
    RawHdrincl,
    /// A datagram by a raw UDP socket; the kernel writes the IP header.
    RawPlain,
    /// A SYN with its own IP header by a raw ICMP socket with IP_HDRINCL.
    RawIcmp,
    /// A SYN behind IP options, by a raw ICMP socket with IP_HDRINCL.
    RawOptions,
    /// A datagram in two fragments, by a raw ICMP socket with IP_HDRINCL.
    RawFragments,
    /// A SYN with its own IPv6 header by IPPROTO_RAW.
    Raw6,
    /// A SYN behind extension headers by a raw ICMPv6 socket with IPV6_HDRINCL.
    Raw6Extended,
    /// A datagram by a raw UDP socket of IPv6; the kernel writes the IP header.
    Raw6Plain,
    /// A raw socket made by io_uring, and a SYN by it.
    UringRaw,
    /// SCTP.
    Sctp,
    /// DCCP.
    Dccp,
    /// SMC of its own family.
    Smc,
    /// SMC as a protocol of IP.
    SmcInet,
    /// L2TP over IP.
    L2tp,
    /// TIPC.
    Tipc,
    /// RDS.
    Rds,
    /// A virtual machine's socket, which is only made.
    Vsock,
    /// A whole frame by AF_PACKET.
    Packet,
    /// A whole frame by AF_PACKET, behind two VLAN tags that mean nothing.
    PacketTagged,
    /// A packet by AF_PACKET; the kernel writes the frame's header.
    PacketDgram,
    /// A SYN by AF_PACKET; the kernel writes the frame's header.
    PacketSyn,
    /// A frame by AF_XDP.
    Xdp,
    /// An echo request by an ICMP datagram socket or, where that is not allowed, a raw ICMP socket.
    Ping,
}

/// What a way's socket is: domain, type and protocol.
type Kind = (i32, i32, i32);

impl Way {
    fn kind(self, address: &SocketAddr) -> Kind {
        let family = if address.is_ipv4() {
            libc::AF_INET
        } else {
            libc::AF_INET6
        };
        let (stream, dgram, raw) = (libc::SOCK_STREAM, libc::SOCK_DGRAM, libc::SOCK_RAW);
        match self {
            Self::Tcp
            | Self::Nonblocking
            | Self::FastopenSendto
            | Self::FastopenConnect
            | Self::Unspec
            | Self::Uring
            | Self::UringAsync
            | Self::UringSqpoll
            | Self::UringFastopen => (family, stream, libc::IPPROTO_TCP),
            Self::Mptcp => (family, stream, libc::IPPROTO_MPTCP),
            Self::UdpConnected
            | Self::UdpSendto
            | Self::UdpSendmsg
            | Self::UdpSendmmsg
            | Self::UdpReused
            | Self::UringUdp
            | Self::UringUdpSqpoll => (family, dgram, libc::IPPROTO_UDP),
            Self::UdpLite => (family, dgram, libc::IPPROTO_UDPLITE),
            Self::RawTcp | Self::RawUdp | Self::UringRaw => (libc::AF_INET, raw, libc::IPPROTO_RAW),
            Self::RawHdrincl => (libc::AF_INET, raw, libc::IPPROTO_TCP),
            Self::RawPlain => (libc::AF_INET, raw, libc::IPPROTO_UDP),
            Self::RawIcmp | Self::RawOptions | Self::RawFragments | Self::Ping => {
                (libc::AF_INET, raw, libc::IPPROTO_ICMP)
            }
            Self::Raw6 => (libc::AF_INET6, raw, libc::IPPROTO_RAW),
            Self::Raw6Extended => (libc::AF_INET6, raw, libc::IPPROTO_ICMPV6),
            Self::Raw6Plain => (libc::AF_INET6, raw, libc::IPPROTO_UDP),
            Self::Sctp => (family, stream, libc::IPPROTO_SCTP),
            Self::Dccp => (family, libc::SOCK_DCCP, libc::IPPROTO_DCCP),
            Self::Smc => (sys::AF_SMC, stream, 0),
            Self::SmcInet => (family, stream, sys::IPPROTO_SMC),
            Self::L2tp => (family, dgram, sys::IPPROTO_L2TP),
            Self::Tipc => (libc::AF_TIPC, stream, 0),
            Self::Rds => (libc::AF_RDS, libc::SOCK_SEQPACKET, 0),
            Self::Vsock => (libc::AF_VSOCK, stream, 0),
            Self::Packet | Self::PacketTagged => (libc::AF_PACKET, raw, 0),
            Self::PacketDgram | Self::PacketSyn => (libc::AF_PACKET, dgram, 0),
            Self::Xdp => (libc::AF_XDP, raw, 0),
        }
    }

    /// Makes the socket that this way needs for that address.
    pub(crate) fn make(self, address: &SocketAddr) -> Result<OwnedFd, Failed> {
        let (domain, kind, protocol) = self.kind(address);
        let made = match self {
            Self::UringRaw => sys::uring_socket(domain, kind, protocol),
            _ => sys::socket(domain, kind, protocol),
        };
        let socket = made.map_err(Failed::at("socket"))?;
        sys::limit(&socket).map_err(Failed::at("setsockopt"))?;
        Ok(socket)
    }

    /// Dials.
    pub(crate) fn dial(self, socket: OwnedFd, address: &SocketAddr) -> Result<Report, Failed> {
        match self {
            Self::Tcp
            | Self::Nonblocking
            | Self::Mptcp
            | Self::FastopenSendto
            | Self::FastopenConnect
            | Self::Unspec
            | Self::Uring
            | Self::UringAsync
            | Self::UringSqpoll
            | Self::UringFastopen
            | Self::Sctp
            | Self::Dccp
            | Self::Smc
            | Self::SmcInet
            | Self::Tipc
            | Self::Rds
            | Self::Vsock => stream::dial(self, socket, address),
            Self::UdpConnected
            | Self::UdpSendto
            | Self::UdpSendmsg
            | Self::UdpSendmmsg
            | Self::UdpReused
            | Self::UringUdp
            | Self::UringUdpSqpoll
            | Self::UdpLite
            | Self::L2tp => datagram::dial(self, &socket, address),
            Self::RawTcp
            | Self::RawUdp
            | Self::RawHdrincl
            | Self::RawPlain
            | Self::RawIcmp
            | Self::RawOptions
            | Self::RawFragments
            | Self::Raw6
            | Self::Raw6Extended
            | Self::Raw6Plain
            | Self::UringRaw
            | Self::Ping => raw::dial(self, &socket, address),
            Self::Packet | Self::PacketTagged | Self::PacketDgram | Self::PacketSyn | Self::Xdp => {
                packet::dial(self, &socket, address)
            }
        }
    }
}

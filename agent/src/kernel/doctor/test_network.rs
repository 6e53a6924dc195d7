//! Where the trials are made: a protected endpoint with a server of its own behind it, and a listener that stands for Picket's.
//!
//! In: the node's network, or a new namespace. Out: a [`TestNetwork`]: the node's own, whose protected endpoints are on
//! loopback, or one such as most pods have. Interface filters are tried in the latter alone: on the node's loopback they would
//! drop everybody's packets.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::thread;

use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::SockProtocol;

use crate::kernel::attachments::Ifindex;
use crate::kernel::netlink::Netlink;
use crate::kernel::{Class, netns_cookie, within};

/// The protected endpoint where pods have a network of their own: an address that is nobody's (RFC 5737).
pub(super) const NOBODY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub(super) const NOBODYS_PORT: u16 = 443;

/// The loopback interface's number, which is the first of every network namespace (net/core/dev.c, `LOOPBACK_IFINDEX`).
pub(super) const LOOPBACK: Ifindex = Ifindex(1);

/// How often to look for a port that is free on both loopback addresses.
const PORTS_TRIED: u32 = 20;

/// `RTM_NEWLINK` and `RTM_NEWADDR` (include/uapi/linux/rtnetlink.h), `IFF_UP`, and `IFA_LOCAL` (include/uapi/linux/if_addr.h).
const NEW_LINK: u16 = 16;
const NEW_ADDRESS: u16 = 20;
const UP: u32 = 1;
const LOCAL: u16 = 2;

/// A network with a protected endpoint in it. Its sockets do not block.
pub(super) struct TestNetwork {
    pub(super) netns: File,
    /// The namespace as the kernel's programs know it.
    pub(super) cookie: u64,
    /// The listener's port, on every loopback address that there is.
    pub(super) port: u16,
    pub(super) endpoint: SocketAddr,
    /// The same on `::1`, where that is there.
    pub(super) endpoint6: Option<SocketAddr>,
    pub(super) endpoints: Vec<TcpListener>,
    pub(super) datagrams: Vec<UdpSocket>,
    pub(super) listeners: Vec<TcpListener>,
}

impl TestNetwork {
    /// In the network namespace of the calling thread.
    pub(super) fn node() -> io::Result<Self> {
        let mut endpoints = vec![TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?];
        endpoints.extend(on_loopback6(0)?);
        Self::with(File::open("/proc/thread-self/ns/net")?, endpoints)
    }

    /// In a network namespace of its own.
    pub(super) fn apart() -> io::Result<Self> {
        let netns = namespace()?;
        let inside = netns.try_clone()?;
        within(&netns, || {
            let mut address = vec![libc::AF_INET as u8, 32, 0, 0];
            address.extend(LOOPBACK.0.to_ne_bytes());
            address.extend(8_u16.to_ne_bytes());
            address.extend(LOCAL.to_ne_bytes());
            address.extend(NOBODY.octets());
            Netlink::open(SockProtocol::NetlinkRoute)?.one(NEW_ADDRESS, &address, |_| {})?;
            Self::with(inside, vec![TcpListener::bind((NOBODY, NOBODYS_PORT))?])
        })?
    }

    fn with(netns: File, endpoints: Vec<TcpListener>) -> io::Result<Self> {
        let addresses: Vec<_> = endpoints
            .iter()
            .map(TcpListener::local_addr)
            .collect::<Result<_, _>>()?;
        let datagrams: Vec<_> = addresses.iter().map(UdpSocket::bind).collect::<Result<_, _>>()?;
        let (listeners, port) = listeners()?;
        for socket in endpoints.iter().chain(&listeners) {
            socket.set_nonblocking(true)?;
        }
        for socket in &datagrams {
            socket.set_nonblocking(true)?;
        }
        let of_family = |v6| addresses.iter().copied().find(|address| address.is_ipv6() == v6);
        Ok(Self {
            netns,
            cookie: netns_cookie(listeners.first().ok_or(ErrorKind::NotFound)?)?,
            port,
            endpoint: of_family(false).ok_or(ErrorKind::NotFound)?,
            endpoint6: of_family(true),
            endpoints,
            datagrams,
            listeners,
        })
    }

    /// The class of a pod in this network.
    pub(super) fn class(&self) -> Class {
        Class::Enforced {
            pod: 1,
            port: self.port,
            netns: self.cookie,
        }
    }
}

/// Listens on both loopback addresses, at one port.
fn listeners() -> io::Result<(Vec<TcpListener>, u16)> {
    for _ in 0..PORTS_TRIED {
        let v4 = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = v4.local_addr()?.port();
        match on_loopback6(port) {
            Ok(v6) => return Ok(([v4].into_iter().chain(v6).collect(), port)),
            Err(error) if error.kind() == ErrorKind::AddrInUse => {}
            Err(error) => return Err(error),
        }
    }
    Err(ErrorKind::AddrInUse.into())
}

/// Listens on `::1`, where the namespace has it.
fn on_loopback6(port: u16) -> io::Result<Option<TcpListener>> {
    match TcpListener::bind((Ipv6Addr::LOCALHOST, port)) {
        Ok(listener) => Ok(Some(listener)),
        Err(error)
            if error.kind() == ErrorKind::AddrNotAvailable
                || error.raw_os_error() == Some(libc::EAFNOSUPPORT) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// A new network namespace, with loopback and nothing else.
pub(super) fn namespace() -> io::Result<File> {
    let netns = thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET)?;
        File::open("/proc/thread-self/ns/net")
    })
    .join()
    .unwrap_or_else(|_| {
        Err(io::Error::other(
            "the thread that makes a network namespace panicked",
        ))
    })?;
    // `struct ifinfomsg`: no family, no type, the index, the flags and which of them are meant.
    let mut up = vec![0; 4];
    for word in [LOOPBACK.0, UP, UP] {
        up.extend(word.to_ne_bytes());
    }
    within(&netns, || {
        Netlink::open(SockProtocol::NetlinkRoute)?.one(NEW_LINK, &up, |_| {})
    })??;
    Ok(netns)
}

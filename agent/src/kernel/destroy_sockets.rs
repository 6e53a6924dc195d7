//! Ends connections that were open to a protected endpoint before they could be judged.
//!
//! In: a network namespace, what a protected endpoint is, and, where the namespace is shared, whose sockets are meant. Out: how
//! many sockets the kernel destroyed (`SOCK_DESTROY`, sock_diag(7)). The client reads ECONNABORTED, the server a reset, and
//! what was still to be sent is dropped.
//!
//! The list is not of one moment: a socket that connects while it is read may be missing, so the caller comes again. Where the
//! kernel says that entries are missing, those that were listed are destroyed and the rest is an error. A kernel without
//! CONFIG_INET_DIAG_DESTROY says so; the pod's egress program drops those sockets' packets in any case.

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::AddAssign;
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::sys::socket::SockProtocol;
use picket_common::Address;

use super::namespace::within;
use super::netlink::{ListError, Listing, Netlink, array, attributes, u64_at};
use crate::kernel::CgroupId;

/// `SOCK_DIAG_BY_FAMILY` and `SOCK_DESTROY` (include/uapi/linux/sock_diag.h).
const BY_FAMILY: u16 = 20;
const DESTROY: u16 = 21;

/// `INET_DIAG_CGROUP_ID` (include/uapi/linux/inet_diag.h), Linux 5.9.
const CGROUP_ID: u16 = 21;

/// The size of `struct inet_diag_msg`, and where `struct inet_diag_sockid` lies in it.
const MESSAGE: usize = 72;
const SOCKET_ID: usize = 4;

/// The size of `struct inet_diag_sockid`.
const SOCKET_ID_BYTES: usize = 48;

/// Every state (include/net/tcp_states.h) but TIME_WAIT, which sends nothing any more, and LISTEN, which has no peer.
const STATES: u32 = !((1 << 6) | (1 << 10));

/// SYN_SENT alone: nobody has answered yet.
const DIALLING: u32 = 1 << 2;

/// What is looked at: a connected UDP socket is a connection too.
const KINDS: [(u8, Protocol); 4] = [
    (libc::AF_INET as u8, Protocol::Tcp),
    (libc::AF_INET6 as u8, Protocol::Tcp),
    (libc::AF_INET as u8, Protocol::Udp),
    (libc::AF_INET6 as u8, Protocol::Udp),
];

/// A protocol whose sockets can be listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// TCP, and MPTCP's subflows.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }
}

/// What became of the connections to protected endpoints.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DestroyedSockets {
    /// Ended.
    pub destroyed: usize,
    /// Ended by themselves between list and order.
    pub gone: usize,
    /// Still open: the kernel cannot end them (CONFIG_INET_DIAG_DESTROY), or did not.
    pub left: usize,
    /// Left alone, because the kernel does not say whose they are.
    pub unknown: usize,
}

impl AddAssign for DestroyedSockets {
    fn add_assign(&mut self, other: Self) {
        self.destroyed += other.destroyed;
        self.gone += other.gone;
        self.left += other.left;
        self.unknown += other.unknown;
    }
}

/// Why connections could not be looked for.
#[derive(Debug, thiserror::Error)]
pub enum DestroySocketsError {
    /// The namespace could not be entered.
    #[error("cannot enter the network namespace: {0}")]
    Namespace(#[source] io::Error),
    /// The kernel has no socket diagnosis.
    #[error("cannot ask for sockets (NETLINK_SOCK_DIAG): {0}")]
    Open(#[source] io::Error),
    /// The sockets of a protocol cannot be listed.
    #[error("cannot list {protocol:?} sockets: {source}")]
    List {
        /// Whose.
        protocol: Protocol,
        /// What the kernel said; ENOENT where it has no module for them.
        source: ListError,
        /// What became of those that were listed.
        done: DestroyedSockets,
    },
}

impl DestroySocketsError {
    /// What became of the connections that were found all the same.
    #[must_use]
    pub fn done(&self) -> DestroyedSockets {
        match self {
            Self::Namespace(_) | Self::Open(_) => DestroyedSockets::default(),
            Self::List { done, .. } => *done,
        }
    }
}

/// Ends every connection in the namespace whose remote end is a protected endpoint; with `only`, of those the ones that were made in these
/// cgroups. `is_protected` is asked in the form that protected endpoints are compared in ([`Address::endpoint`]), whichever way the socket
/// spells it. It blocks, for as long as the namespace has sockets to list.
///
/// # Errors
/// [`DestroySocketsError`], after the connections that could be found were destroyed.
pub fn destroy_sockets(
    netns: &(impl AsFd + Sync),
    is_protected: &(dyn Fn(SocketAddr) -> bool + Sync),
    only: Option<&HashSet<CgroupId>>,
) -> Result<DestroyedSockets, DestroySocketsError> {
    within(netns, || inside(STATES, is_protected, only)).map_err(DestroySocketsError::Namespace)?
}

/// Ends every dial in the namespace to a port on loopback that nobody has answered yet; the client may dial again at once. For a
/// listener that is about to close there, whose queue was full: the kernel would send such a dial again to whoever has the port
/// next. It blocks as [`destroy_sockets`] does.
///
/// # Errors
/// [`DestroySocketsError`], after what could be ended was ended.
pub fn destroy_dials(netns: &(impl AsFd + Sync), port: u16) -> Result<DestroyedSockets, DestroySocketsError> {
    let there = |remote: SocketAddr| remote.port() == port && remote.ip().is_loopback();
    within(netns, || inside(DIALLING, &there, None)).map_err(DestroySocketsError::Namespace)?
}

fn inside(
    states: u32,
    is_protected: &dyn Fn(SocketAddr) -> bool,
    only: Option<&HashSet<CgroupId>>,
) -> Result<DestroyedSockets, DestroySocketsError> {
    let mut netlink = Netlink::open(SockProtocol::NetlinkSockDiag).map_err(DestroySocketsError::Open)?;
    let mut sum = DestroyedSockets::default();
    let mut failed = None;
    for (family, protocol) in KINDS {
        // The other kinds' sockets are destroyed all the same.
        let listed = destroy_kind(
            &mut netlink,
            (family, protocol, states),
            is_protected,
            only,
            &mut sum,
        );
        if let Err(source) = listed {
            failed = Some((protocol, source));
        }
    }
    match failed {
        None => Ok(sum),
        Some((protocol, source)) => Err(DestroySocketsError::List {
            protocol,
            source,
            done: sum,
        }),
    }
}

/// Ends the connections of one family and protocol that are in one of these states.
fn destroy_kind(
    netlink: &mut Netlink,
    (family, protocol, states): (u8, Protocol, u32),
    is_protected: &dyn Fn(SocketAddr) -> bool,
    only: Option<&HashSet<CgroupId>>,
    sum: &mut DestroyedSockets,
) -> Result<(), ListError> {
    let body = request(family, protocol, states, &[0; SOCKET_ID_BYTES]);
    let sockets = netlink.list(BY_FAMILY, &body, Socket::read)?;
    destroy_listed(netlink, protocol, &sockets, is_protected, only, sum)
}

/// Ends those that were listed, also where others may be missing.
fn destroy_listed(
    netlink: &mut Netlink,
    protocol: Protocol,
    sockets: &Listing<Socket>,
    is_protected: &dyn Fn(SocketAddr) -> bool,
    only: Option<&HashSet<CgroupId>>,
    sum: &mut DestroyedSockets,
) -> Result<(), ListError> {
    for socket in sockets
        .entries
        .iter()
        .filter(|socket| is_protected(socket.remote))
    {
        *sum += end(netlink, protocol, socket, only);
    }
    sockets.outcome()
}

fn end(
    netlink: &mut Netlink,
    protocol: Protocol,
    socket: &Socket,
    only: Option<&HashSet<CgroupId>>,
) -> DestroyedSockets {
    let mut destroyed = DestroyedSockets::default();
    match (only, socket.cgroup) {
        (Some(only), Some(cgroup)) if !only.contains(&cgroup) => return destroyed,
        (Some(_), None) => {
            destroyed.unknown += 1;
            return destroyed;
        }
        _ => {}
    }
    // The cookie in it makes sure that no other socket is meant.
    let body = request(socket.family, protocol, STATES, &socket.id);
    match netlink.one(DESTROY, &body, |_| {}) {
        Ok(()) => destroyed.destroyed += 1,
        Err(error) if error.raw_os_error() == Some(Errno::ENOENT as i32) => destroyed.gone += 1,
        Err(error) => {
            tracing::warn!(remote = %socket.remote, %error, "the kernel cannot destroy a connection to a protected endpoint");
            destroyed.left += 1;
        }
    }
    destroyed
}

/// `struct inet_diag_req_v2`.
fn request(family: u8, protocol: Protocol, states: u32, id: &[u8; SOCKET_ID_BYTES]) -> Vec<u8> {
    let mut body = vec![family, protocol.number(), 0, 0];
    body.extend(states.to_ne_bytes());
    body.extend(id);
    body
}

/// A socket with a remote end.
#[derive(Debug)]
struct Socket {
    family: u8,
    /// As the kernel wrote it.
    id: [u8; SOCKET_ID_BYTES],
    /// In the form that protected endpoints are compared in.
    remote: SocketAddr,
    /// The cgroup of the process that made it.
    cgroup: Option<CgroupId>,
}

impl Socket {
    /// Reads a `struct inet_diag_msg` and its attributes.
    fn read(message: &[u8]) -> Option<Self> {
        let family = *message.first()?;
        let id: [u8; SOCKET_ID_BYTES] = array(message, SOCKET_ID)?;
        // Ports and addresses are in network order; an IPv4 address takes the first of its four words.
        let port = u16::from_be_bytes(array(&id, 2)?);
        let ip = if i32::from(family) == libc::AF_INET {
            IpAddr::V4(Ipv4Addr::from(array::<4>(&id, 20)?))
        } else {
            IpAddr::V6(Ipv6Addr::from(array::<16>(&id, 20)?))
        };
        let cgroup = attributes(message.get(MESSAGE..)?)
            .find(|(number, _)| *number == CGROUP_ID)
            .and_then(|(_, value)| u64_at(value, 0))
            .map(CgroupId);
        (port != 0).then(|| Self {
            family,
            id,
            remote: SocketAddr::new(Address::from(ip).endpoint().to_ip(), port),
            cgroup,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(family: i32, remote: &[u8], port: u16, attributes: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; MESSAGE];
        bytes[0] = family as u8;
        bytes[6..8].copy_from_slice(&port.to_be_bytes());
        bytes[24..24 + remote.len()].copy_from_slice(remote);
        bytes.extend(attributes);
        bytes
    }

    #[test]
    fn a_socket_is_read_with_its_remote_end_and_cgroup() {
        let mut cgroup = vec![12, 0, CGROUP_ID as u8, 0];
        cgroup.extend(0x1234_5678_9abc_u64.to_ne_bytes());
        let socket = Socket::read(&message(libc::AF_INET, &[10, 96, 0, 1], 443, &cgroup)).unwrap();
        assert_eq!(socket.remote, "10.96.0.1:443".parse().unwrap());
        assert_eq!(socket.cgroup, Some(CgroupId(0x1234_5678_9abc)));

        let mapped = "::ffff:10.96.0.1".parse::<Ipv6Addr>().unwrap().octets();
        let socket = Socket::read(&message(libc::AF_INET6, &mapped, 443, &[])).unwrap();
        assert_eq!(socket.remote, "10.96.0.1:443".parse().unwrap());
        assert_eq!(socket.cgroup, None);

        assert!(
            Socket::read(&message(libc::AF_INET, &[], 0, &[])).is_none(),
            "not connected"
        );
        assert!(Socket::read(&[2; MESSAGE - 1]).is_none(), "cut short");
    }

    #[test]
    fn of_an_incomplete_list_the_known_connections_are_destroyed_and_the_rest_is_an_error() {
        let mut netlink = Netlink::open(SockProtocol::NetlinkSockDiag).unwrap();
        let other_pods = Socket::read(&message(libc::AF_INET, &[10, 96, 0, 1], 443, &[])).unwrap();
        let sockets = Listing {
            entries: vec![other_pods],
            interrupted: true,
        };
        let mut sum = DestroyedSockets::default();
        let listed = destroy_listed(
            &mut netlink,
            Protocol::Tcp,
            &sockets,
            &|_| true,
            Some(&HashSet::new()),
            &mut sum,
        );
        assert!(matches!(listed, Err(ListError::Interrupted)));
        assert_eq!(sum.unknown, 1, "the socket was looked at");
    }
}

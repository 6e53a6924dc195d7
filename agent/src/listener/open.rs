//! Opens the listener: one port on the pod's 127.0.0.1 and ::1.
//!
//! In: a network namespace and the ports that are taken, or descriptors from a predecessor. Out: an [`InPodListener`].
//!
//! The port is one of [`LISTENER_PORTS`]. Nothing has to be reserved where a pod has widened its
//! `net.ipv4.ip_local_port_range`: the kernel gives out no port that has a listener.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, getsockopt, listen, setsockopt,
    socket, sockopt,
};

use super::ListenerError;
use crate::kernel::{LISTENER_PORTS, netns_cookie, within};

/// How many other ports are tried where the programs of the pod have taken all of [`LISTENER_PORTS`]. A second try is rare, since the
/// kernel gives out a port that is free in one family and pods have few listeners on the other's loopback.
const TRIES: u32 = 32;

/// Connections that may wait to be accepted. A client that starts with a burst of watches opens a few hundred;
/// the kernel caps this at `net.core.somaxconn`, 4096 since Linux 5.4.
const BACKLOG: i32 = 4096;

/// A listener inside a pod's network namespace, which it keeps alive.
#[derive(Debug)]
pub struct InPodListener {
    pub(super) v4: TcpListener,
    pub(super) v6: Option<TcpListener>,
    port: u16,
    netns_cookie: u64,
    addresses: Vec<IpAddr>,
}

impl InPodListener {
    /// Opens one on a port of [`LISTENER_PORTS`] that is free and not `reserved`, or on another where there is none. It blocks for about a
    /// millisecond. A namespace without IPv6 gets a listener without: connects that the kernel takes to ::1 fail there.
    ///
    /// # Errors
    /// When the namespace cannot be entered or has no free port.
    pub fn open(netns: &(impl AsFd + Sync), reserved: &BTreeSet<u16>) -> Result<Self, ListenerError> {
        within(netns, || Self::bind(reserved)).map_err(ListenerError::Namespace)?
    }

    /// The port, the same in both families.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The namespace's cookie, as the kernel's programs see it.
    #[must_use]
    pub fn netns_cookie(&self) -> u64 {
        self.netns_cookie
    }

    /// The namespace's own addresses when it was opened; none of a transferred listener.
    #[must_use]
    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// Its sockets.
    pub fn sockets(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        [Some(&self.v4), self.v6.as_ref()]
            .into_iter()
            .flatten()
            .map(AsFd::as_fd)
    }

    /// Further descriptors of its sockets: what is accepted through them and through this listener comes from one queue.
    ///
    /// # Errors
    /// When the process has no descriptor left.
    pub fn descriptors(&self) -> io::Result<Vec<OwnedFd>> {
        self.sockets().map(|socket| socket.try_clone_to_owned()).collect()
    }

    /// The listener behind descriptors that an agent before this one transferred, if they are what it says: sockets that
    /// listen on `port` of 127.0.0.1, and of ::1 where there is a second, in the namespace with this cookie.
    ///
    /// # Errors
    /// [`ListenerError::Foreign`] where they are not.
    pub fn adopt(descriptors: Vec<OwnedFd>, port: u16, netns_cookie: u64) -> Result<Self, ListenerError> {
        let mut descriptors = descriptors.into_iter();
        let v4 = adopted(
            descriptors.next(),
            (Ipv4Addr::LOCALHOST, port).into(),
            netns_cookie,
        )?;
        let v6 = adopted(
            descriptors.next(),
            (Ipv6Addr::LOCALHOST, port).into(),
            netns_cookie,
        )?;
        match (v4, v6, descriptors.next()) {
            (Some(v4), v6, None) => Ok(Self {
                v4,
                v6,
                port,
                netns_cookie,
                addresses: Vec::new(),
            }),
            _ => Err(ListenerError::Foreign("not one or two sockets")),
        }
    }

    fn bind(reserved: &BTreeSet<u16>) -> Result<Self, ListenerError> {
        let wanted = LISTENER_PORTS.filter(|port| !reserved.contains(port));
        for port in wanted.chain(std::iter::repeat_n(0, TRIES as usize)) {
            let v4 = match listener(SocketAddr::from((Ipv4Addr::LOCALHOST, port))) {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && port != 0 => continue,
                opened => opened.map_err(ListenerError::Bind)?,
            };
            let port = v4.local_addr().map_err(ListenerError::Bind)?.port();
            if reserved.contains(&port) {
                continue;
            }
            let v6 = match listener(SocketAddr::from((Ipv6Addr::LOCALHOST, port))) {
                Ok(v6) => Some(v6),
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => continue,
                Err(error) if without_ipv6(&error) => None,
                Err(error) => return Err(ListenerError::Bind(error)),
            };
            let netns_cookie = netns_cookie(&v4).map_err(ListenerError::Cookie)?;
            return Ok(Self {
                v4,
                v6,
                port,
                netns_cookie,
                addresses: own_addresses(),
            });
        }
        Err(ListenerError::NoPort(TRIES))
    }
}

/// The addresses of the thread's network namespace that others can know the pod by. Without them a record lacks an address
/// for a moment, which is no reason not to listen.
fn own_addresses() -> Vec<IpAddr> {
    let link_local = |address: &IpAddr| match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    getifaddrs()
        .into_iter()
        .flatten()
        .filter_map(|interface| {
            let address = interface.address?;
            let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
        })
        .filter(|address| !address.is_loopback() && !link_local(address))
        .collect()
}

/// Takes a listening socket over, if it is the one that it should be.
fn adopted(
    descriptor: Option<OwnedFd>,
    address: SocketAddr,
    cookie: u64,
) -> Result<Option<TcpListener>, ListenerError> {
    let Some(descriptor) = descriptor else {
        return Ok(None);
    };
    // Asked before it counts as a TCP socket: a descriptor may be of anything.
    if !getsockopt(&descriptor, sockopt::AcceptConn).is_ok_and(|listens| listens) {
        return Err(ListenerError::Foreign("not a socket that listens"));
    }
    if !netns_cookie(&descriptor).is_ok_and(|found| found == cookie) {
        return Err(ListenerError::Foreign("a socket of another network namespace"));
    }
    let socket = TcpListener::from(descriptor);
    if !socket.local_addr().is_ok_and(|local| local == address) {
        return Err(ListenerError::Foreign("a socket with another address"));
    }
    socket.set_nonblocking(true).map_err(ListenerError::Serve)?;
    share_port(&socket).map_err(|error| ListenerError::Serve(error.into()))?;
    Ok(Some(socket))
}

/// The kernel was built without IPv6, or the namespace has it switched off.
fn without_ipv6(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable
        || error.raw_os_error() == Some(Errno::EAFNOSUPPORT as i32)
}

/// Sets `SO_REUSEADDR`. Connections that are accepted inherit it: they keep no program of the pod from the port once the listener has
/// moved. Two listeners still exclude each other. A listener of an agent before this one may have been opened without it.
fn share_port(socket: &impl AsFd) -> nix::Result<()> {
    setsockopt(socket, sockopt::ReuseAddr, &true)
}

/// A listening socket; the standard library sets neither the backlog nor the family's limits.
fn listener(address: SocketAddr) -> io::Result<TcpListener> {
    let family = if address.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd: OwnedFd = socket(family, SockType::Stream, flags, None)?;
    if address.is_ipv6() {
        setsockopt(&fd, sockopt::Ipv6V6Only, &true)?;
    }
    share_port(&fd)?;
    bind(
        std::os::fd::AsRawFd::as_raw_fd(&fd),
        &SockaddrStorage::from(address),
    )?;
    listen(&fd, Backlog::new(BACKLOG)?)?;
    Ok(TcpListener::from(fd))
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn both_families_share_the_port_and_the_cookie_is_the_namespaces() {
        // The test's own namespace will do: entering it needs no privilege beyond what setns asks.
        let listener = InPodListener::bind(&BTreeSet::new()).unwrap();
        assert_ne!(listener.port(), 0);
        assert_eq!(listener.v4.local_addr().unwrap().port(), listener.port());
        if let Some(v6) = &listener.v6 {
            assert_eq!(
                v6.local_addr().unwrap(),
                SocketAddr::from((Ipv6Addr::LOCALHOST, listener.port()))
            );
        }
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        assert_eq!(listener.netns_cookie(), netns_cookie(&other).unwrap());
    }

    /// In a namespace of its own, since the tests of this process share the others' ports.
    fn apart<T: Send>(work: impl FnOnce() -> T + Send) -> Option<T> {
        std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).ok()?;
                    let up = std::process::Command::new("ip")
                        .args(["link", "set", "lo", "up"])
                        .status();
                    assert!(up.unwrap().success());
                    Some(work())
                })
                .join()
                .unwrap()
        })
    }

    #[test]
    fn the_port_is_one_of_few_and_none_that_the_pod_declares_or_has() {
        let outcome = apart(|| {
            let first = InPodListener::bind(&BTreeSet::new()).unwrap();
            assert_eq!(first.port(), *LISTENER_PORTS.start());
            let declared: BTreeSet<u16> = (*LISTENER_PORTS.start()..*LISTENER_PORTS.end() - 2).collect();
            let second = InPodListener::bind(&declared).unwrap();
            assert_eq!(second.port(), *LISTENER_PORTS.end() - 2);
            // A program of the pod's, on all addresses.
            let _taken = TcpListener::bind(("0.0.0.0", *LISTENER_PORTS.end() - 1)).unwrap();
            assert_eq!(
                InPodListener::bind(&declared).unwrap().port(),
                *LISTENER_PORTS.end()
            );
            let _others = [LISTENER_PORTS.clone()]
                .into_iter()
                .flatten()
                .filter_map(|port| TcpListener::bind(("0.0.0.0", port)).ok());
            let _others: Vec<_> = _others.collect();
            let last = InPodListener::bind(&BTreeSet::new()).unwrap();
            assert!(!LISTENER_PORTS.contains(&last.port()), "the pod has them all");
        });
        if outcome.is_none() {
            eprintln!("not tried: no right to make a network namespace");
        }
    }

    #[test]
    fn a_port_that_the_kernel_gives_out_is_none_that_the_pod_declares() {
        let outcome = apart(|| {
            let _all: Vec<_> = LISTENER_PORTS
                .filter_map(|port| TcpListener::bind(("0.0.0.0", port)).ok())
                .collect();
            // Three ports, of which the pod declares two: a try in three finds the other one.
            std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "40000 40002").unwrap();
            let declared = BTreeSet::from([40_000, 40_002]);
            for _ in 0..8 {
                assert_eq!(InPodListener::bind(&declared).unwrap().port(), 40_001);
            }
            let all = (40_000..=40_002).collect();
            assert!(matches!(InPodListener::bind(&all), Err(ListenerError::NoPort(_))));
        });
        if outcome.is_none() {
            eprintln!("not tried: no right to make a network namespace");
        }
    }

    #[test]
    fn what_is_handed_over_is_the_same_listener_or_is_refused() {
        let listener = InPodListener::bind(&BTreeSet::new()).unwrap();
        let (port, cookie) = (listener.port(), listener.netns_cookie());
        let adopted = InPodListener::adopt(listener.descriptors().unwrap(), port, cookie).unwrap();
        // One queue: what was dialled before the first one goes is accepted by the second.
        let _client = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        let foreign = |descriptors: Vec<OwnedFd>, port, cookie| {
            matches!(
                InPodListener::adopt(descriptors, port, cookie),
                Err(ListenerError::Foreign(_))
            )
        };
        assert!(foreign(listener.descriptors().unwrap(), port ^ 1, cookie));
        assert!(foreign(listener.descriptors().unwrap(), port, cookie ^ 1));
        assert!(foreign(Vec::new(), port, cookie));
        assert!(foreign(
            vec![File::open("/dev/null").unwrap().into()],
            port,
            cookie
        ));
        let connected = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        assert!(foreign(vec![connected.into()], port, cookie));
        let mut three = listener.descriptors().unwrap();
        three.extend(listener.descriptors().unwrap());
        assert!(foreign(three, port, cookie));
        drop(listener);
        assert!(adopted.v4.accept().is_ok());
    }

    #[test]
    fn a_transferred_listener_shares_its_port_with_programs_as_a_new_one_does() {
        let listener = InPodListener::bind(&BTreeSet::new()).unwrap();
        let (port, cookie) = (listener.port(), listener.netns_cookie());
        for socket in listener.sockets() {
            // As an agent of before opened it.
            setsockopt(&socket, sockopt::ReuseAddr, &false).unwrap();
        }
        let adopted = InPodListener::adopt(listener.descriptors().unwrap(), port, cookie).unwrap();
        drop(listener);
        for socket in adopted.sockets() {
            assert!(getsockopt(&socket, sockopt::ReuseAddr).unwrap());
        }
        // A connection that is left from before the listener moved.
        let client = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        let (accepted, _) = adopted.v4.accept().unwrap();
        drop(adopted);
        // Another test's listener may have the port for a moment.
        let bind = || TcpListener::bind(("127.0.0.1", port));
        let mut program = bind();
        for _ in 0..100 {
            if program.is_ok() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
            program = bind();
        }
        assert!(program.is_ok(), "{program:?}");
        drop((client, accepted));
    }

    #[test]
    fn a_file_that_is_no_namespace_is_an_error() {
        let file = File::open("/dev/null").unwrap();
        assert!(matches!(
            InPodListener::open(&file, &BTreeSet::new()),
            Err(ListenerError::Namespace(_))
        ));
    }
}

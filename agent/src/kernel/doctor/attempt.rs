//! One attempt at a protected endpoint with one kind of socket, made by a process that stands for a pod.
//!
//! In: the kind, a cgroup to join and an address. Out: a [`TrialOutcome`].

use std::fs;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, SockaddrStorage, sendto, setsockopt, sockopt};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::kind::SocketKind;
use super::passed;
use super::test_network::{LOOPBACK, NOBODY, NOBODYS_PORT};
use crate::kernel::sys;

/// How long an answer may take; loopback takes a millisecond.
pub(super) const REPLY_TIMEOUT: Duration = Duration::from_secs(2);

/// How long to wait for what must not come.
pub(super) const NOTHING: Duration = Duration::from_millis(400);

/// What the listener says, and what the server behind the protected endpoint says.
pub(super) const LISTENER: &[u8; 6] = b"picket";
pub(super) const SERVER: &[u8; 6] = b"server";

/// `MSG_FASTOPEN`, `IPPROTO_MPTCP`, `IPPROTO_SCTP`, `IPPROTO_DCCP`, `SOCK_DCCP` and `AF_SMC` (include/linux/socket.h,
/// include/uapi/linux/in.h, include/linux/net.h).
const MSG_FASTOPEN: i32 = 0x2000_0000;
const MPTCP: i32 = 262;
const SCTP: i32 = 132;
const DCCP: i32 = 33;
const SOCK_DCCP: i32 = 6;
const AF_SMC: i32 = 43;

/// Who may use io_uring: 0 is everybody.
const RINGS_DISABLED: &str = "/proc/sys/kernel/io_uring_disabled";

/// What became of an attempt, as the process that made it saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TrialOutcome {
    /// The listener answered.
    Redirected,
    /// The server behind the protected endpoint answered, or the kernel let it go there.
    Past,
    /// The call failed with `EPERM`.
    Denied,
    /// It was sent, and the kernel dropped it; only the one who counts the drops can tell.
    Dropped,
    /// This kernel has no such sockets.
    Absent,
}

impl TrialOutcome {
    /// Its word in the probe's output.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Redirected => "redirected",
            Self::Past => "past",
            Self::Denied => "denied",
            Self::Dropped => "dropped",
            Self::Absent => "absent",
        }
    }

    /// Reads the word.
    pub fn from_word(word: &str) -> Option<Self> {
        [
            Self::Redirected,
            Self::Past,
            Self::Denied,
            Self::Dropped,
            Self::Absent,
        ]
        .into_iter()
        .find(|attempt| attempt.as_str() == word)
    }
}

/// The process' own part: joins the cgroup, and tries the address.
///
/// # Errors
/// When the cgroup cannot be joined, or something fails that says nothing about the kind.
pub fn attempt(kind: SocketKind, cgroup: &Path, address: SocketAddr) -> io::Result<TrialOutcome> {
    // Where a socket of the pod's is made or used by somebody else, that is below the cgroup that the programs are
    // attached to too.
    if kind == SocketKind::Earlier {
        join(passed::outside(cgroup))?;
        let socket = tcp_socket(address)?;
        join(cgroup)?;
        return connected(&socket, socket.connect(&address.into()));
    }
    join(cgroup)?;
    let to = SockAddr::from(address);
    match kind {
        SocketKind::Tcp
        | SocketKind::Earlier
        | SocketKind::Mapped
        | SocketKind::Tcp6
        | SocketKind::NonBlocking
        | SocketKind::Again => tcp(kind, address),
        SocketKind::IoUring => io_uring(address),
        SocketKind::FastOpen => fast_open(address),
        SocketKind::FastOpenConnect => fast_open_connect(address),
        SocketKind::Received => {
            let socket = passed::take(io::stdin())?;
            connected(&socket, socket.connect(&to))
        }
        SocketKind::Outside | SocketKind::OutsideNode => used_outside(kind, cgroup, address),
        SocketKind::Mptcp => stream(Domain::IPV4, Type::STREAM, MPTCP, &to),
        SocketKind::Smc => stream(Domain::from(AF_SMC), Type::STREAM, 0, &to),
        SocketKind::Sctp => stream(Domain::IPV4, Type::STREAM, SCTP, &to),
        SocketKind::Dccp => stream(Domain::IPV4, Type::from(SOCK_DCCP), DCCP, &to),
        SocketKind::Raw => raw(libc::IPPROTO_RAW, &to),
        SocketKind::RawHeader => raw(libc::IPPROTO_TCP, &to),
        SocketKind::UdpLite => made(Domain::IPV4, Type::DGRAM, libc::IPPROTO_UDPLITE, |socket| {
            socket.connect(&to)?;
            socket.send(b"u").map(|_| TrialOutcome::Past)
        }),
        SocketKind::Udp | SocketKind::UdpUnconnected | SocketKind::Udp6 => udp(kind, address),
        SocketKind::Open => open(address),
        SocketKind::Packet => packet(),
        SocketKind::Xdp => xdp(),
    }
}

/// Moves this process to a cgroup.
fn join(cgroup: &Path) -> io::Result<()> {
    fs::write(cgroup.join("cgroup.procs"), "0")
}

fn tcp_socket(address: SocketAddr) -> io::Result<Socket> {
    Socket::new(Domain::for_address(address), Type::STREAM, None)
}

/// TCP by `connect`.
fn tcp(kind: SocketKind, address: SocketAddr) -> io::Result<TrialOutcome> {
    let to = SockAddr::from(address);
    let socket = match tcp_socket(address) {
        // IPv6 may be switched off.
        Err(error) if is_absent(&error) => return Ok(TrialOutcome::Absent),
        socket => socket?,
    };
    match kind {
        SocketKind::NonBlocking => connected(&socket, socket.connect_timeout(&to, REPLY_TIMEOUT)),
        SocketKind::Again => {
            let elsewhere = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
            socket.connect(&SockAddr::from(elsewhere.local_addr()?))?;
            rustix::net::connect_unspec(&socket)?;
            connected(&socket, socket.connect(&to))
        }
        _ => connected(&socket, socket.connect(&to)),
    }
}

/// TCP by io_uring.
fn io_uring(address: SocketAddr) -> io::Result<TrialOutcome> {
    let socket = tcp_socket(address)?;
    match sys::connect_by_ring(&socket, &address.into()) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EINVAL)) => {
            Ok(TrialOutcome::Absent)
        }
        // Nobody has it (Documentation/admin-guide/sysctl/kernel.rst).
        Err(_) if fs::read_to_string(RINGS_DISABLED).is_ok_and(|disabled| disabled.trim() == "2") => {
            Ok(TrialOutcome::Absent)
        }
        outcome => connected(&socket, outcome),
    }
}

/// TCP whose first bytes go with the connect, by a flag of the call.
fn fast_open(address: SocketAddr) -> io::Result<TrialOutcome> {
    let socket = tcp_socket(address)?;
    let flags = MsgFlags::from_bits_retain(MSG_FASTOPEN);
    match sendto(socket.as_raw_fd(), b"f", &SockaddrStorage::from(address), flags) {
        Err(Errno::EOPNOTSUPP) => Ok(TrialOutcome::Absent),
        sent => connected(&socket, sent.map(drop).map_err(io::Error::from)),
    }
}

/// The same by an option of the socket's.
fn fast_open_connect(address: SocketAddr) -> io::Result<TrialOutcome> {
    let socket = tcp_socket(address)?;
    match setsockopt(&socket, sockopt::TcpFastOpenConnect, &true) {
        Err(Errno::EOPNOTSUPP) => Ok(TrialOutcome::Absent),
        set => {
            set?;
            // Where the kernel knows a cookie of the server's, nothing goes out before the first bytes do.
            let sent = socket.connect(&address.into()).and_then(|()| socket.send(b"f"));
            connected(&socket, sent.map(drop))
        }
    }
}

/// The pod's socket, used by a process outside; on the node's network the packets are dropped, so nothing answers.
fn used_outside(kind: SocketKind, cgroup: &Path, address: SocketAddr) -> io::Result<TrialOutcome> {
    let socket = tcp_socket(address)?;
    join(passed::outside(cgroup))?;
    let to = SockAddr::from(address);
    if kind == SocketKind::Outside {
        return connected(&socket, socket.connect(&to));
    }
    match socket.connect_timeout(&to, NOTHING) {
        Err(error) if error.kind() == ErrorKind::TimedOut => Ok(TrialOutcome::Past),
        outcome => connected(&socket, outcome),
    }
}

fn udp(kind: SocketKind, address: SocketAddr) -> io::Result<TrialOutcome> {
    let own: IpAddr = if address.is_ipv4() {
        Ipv4Addr::LOCALHOST.into()
    } else {
        Ipv6Addr::LOCALHOST.into()
    };
    let socket = UdpSocket::bind((own, 0))?;
    let sent = if kind == SocketKind::Udp {
        socket.connect(address).and_then(|()| socket.send(b"u"))
    } else {
        socket.send_to(b"u", address)
    };
    outcome(sent.map(|_| TrialOutcome::Past))
}

fn raw(protocol: i32, to: &SockAddr) -> io::Result<TrialOutcome> {
    made(Domain::IPV4, Type::RAW, protocol, |socket| {
        socket.set_header_included_v4(true)?;
        socket.send_to(&syn(), to).map(|_| TrialOutcome::Past)
    })
}

fn packet() -> io::Result<TrialOutcome> {
    made(Domain::PACKET, Type::DGRAM, 0, |socket| {
        sys::send_by_interface(socket, LOOPBACK.0, &syn()).map(|()| TrialOutcome::Past)
    })
}

fn xdp() -> io::Result<TrialOutcome> {
    made(Domain::from(libc::AF_XDP), Type::RAW, 0, |socket| {
        // Loopback has no hardware addresses.
        let mut frame = vec![0; 12];
        frame.extend((libc::ETH_P_IP as u16).to_be_bytes());
        frame.extend(syn());
        sys::send_by_xdp(socket, LOOPBACK.0, &frame).map(|()| TrialOutcome::Past)
    })
}

/// Makes a socket of a kind that the kernel may not have, and connects it.
fn stream(domain: Domain, kind: Type, protocol: i32, to: &SockAddr) -> io::Result<TrialOutcome> {
    made(domain, kind, protocol, |socket| {
        socket.connect(to).and_then(|()| heard(socket))
    })
}

/// Makes a socket of a kind that the kernel may not have, and uses it.
fn made(
    domain: Domain,
    kind: Type,
    protocol: i32,
    used: impl FnOnce(&Socket) -> io::Result<TrialOutcome>,
) -> io::Result<TrialOutcome> {
    match Socket::new(domain, kind, Some(Protocol::from(protocol))) {
        Err(error) if is_absent(&error) => Ok(TrialOutcome::Absent),
        socket => outcome(socket.and_then(|socket| used(&socket))),
    }
}

/// Whether the kernel has no such sockets, or has them switched off. Anything else that keeps one from being made may not keep
/// a pod's process from it.
fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EAFNOSUPPORT | libc::EPROTONOSUPPORT | libc::ESOCKTNOSUPPORT | libc::ENOPROTOOPT)
    )
}

/// What became of a connect.
fn connected(socket: &Socket, connect: io::Result<()>) -> io::Result<TrialOutcome> {
    outcome(connect.and_then(|()| heard(socket)))
}

/// Who is at the other end.
fn heard(mut socket: &Socket) -> io::Result<TrialOutcome> {
    socket.set_read_timeout(Some(REPLY_TIMEOUT))?;
    let mut word = [0; LISTENER.len()];
    socket.read_exact(&mut word)?;
    Ok(if &word == LISTENER {
        TrialOutcome::Redirected
    } else {
        TrialOutcome::Past
    })
}

/// A refusal is an answer, not an error. Picket's is `EPERM`; `EACCES` is somebody else's, and says nothing of Picket.
fn outcome(tried: io::Result<TrialOutcome>) -> io::Result<TrialOutcome> {
    match tried {
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => Ok(TrialOutcome::Denied),
        tried => tried,
    }
}

/// Connects while nothing is enforced, waits for a word, and talks on. That it was sent says nothing; the server hears
/// whether it gets through, and the count of drops tells the rest.
fn open(address: SocketAddr) -> io::Result<TrialOutcome> {
    let mut stream = TcpStream::connect_timeout(&address, REPLY_TIMEOUT)?;
    stream.set_read_timeout(Some(REPLY_TIMEOUT))?;
    stream.read_exact(&mut [0; SERVER.len()])?;
    let _ = stream.write_all(b"more");
    std::thread::sleep(NOTHING);
    Ok(TrialOutcome::Past)
}

/// A SYN to nobody, as far as anybody looks: 20 bytes of IPv4 and 20 of TCP.
fn syn() -> [u8; 40] {
    let mut syn = [0; 40];
    syn[0] = 0x45;
    syn[3] = 40;
    syn[8] = 64;
    syn[9] = 6;
    syn[12..16].copy_from_slice(&[192, 0, 2, 2]);
    syn[16..20].copy_from_slice(&NOBODY.octets());
    syn[22..24].copy_from_slice(&NOBODYS_PORT.to_be_bytes());
    syn[32] = 0x50;
    syn[33] = 2;
    syn
}

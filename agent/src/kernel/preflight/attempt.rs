//! One attempt at a door with one kind of socket, as the process makes it that stands for a pod.
//!
//! In comes the kind, a cgroup to join and an address; out goes an [`Attempt`].

use std::fs;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{MsgFlags, SockaddrStorage, sendto};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::kind::Kind;
use crate::kernel::hold::Ifindex;
use crate::kernel::sys;

/// How long an answer may take; loopback takes a millisecond.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// How long to wait for what must not come.
pub(super) const NOTHING: Duration = Duration::from_millis(400);

/// What the listener says, and what the server behind the door says.
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

/// An address that is nobody's (RFC 5737), for the packet socket's trial.
pub(super) const NOBODY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 443);

/// What became of an attempt, as the process that made it saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attempt {
    /// The listener answered.
    Taken,
    /// The server behind the door answered, or the kernel let it go there.
    Past,
    /// The call failed with `EPERM`.
    Refused,
    /// It was sent, and the kernel dropped it; only the one who counts the drops can tell.
    Dropped,
    /// This kernel has no such sockets.
    Absent,
}

impl Attempt {
    /// The word the probe tells it by.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Taken => "taken",
            Self::Past => "past",
            Self::Refused => "refused",
            Self::Dropped => "dropped",
            Self::Absent => "absent",
        }
    }

    /// Reads the word.
    pub fn from_word(word: &str) -> Option<Self> {
        [
            Self::Taken,
            Self::Past,
            Self::Refused,
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
pub fn attempt(kind: Kind, cgroup: &Path, address: SocketAddr) -> io::Result<Attempt> {
    let join = |cgroup: &Path| fs::write(cgroup.join("cgroup.procs"), "0");
    let tcp = || Socket::new(Domain::IPV4, Type::STREAM, None);
    let to = SockAddr::from(address);
    if kind == Kind::Earlier {
        // Below the cgroup that the programs are attached to, and not in the pod.
        join(cgroup.parent().unwrap_or(cgroup))?;
        let socket = tcp()?;
        join(cgroup)?;
        return outcome(socket.connect(&to).and_then(|()| heard(&socket)));
    }
    join(cgroup)?;
    match kind {
        Kind::Tcp | Kind::Earlier => {
            let socket = tcp()?;
            outcome(socket.connect(&to).and_then(|()| heard(&socket)))
        }
        Kind::NonBlocking => {
            let socket = tcp()?;
            outcome(
                socket
                    .connect_timeout(&to, PATIENCE)
                    .and_then(|()| heard(&socket)),
            )
        }
        Kind::IoUring => {
            let socket = tcp()?;
            match sys::connect_by_ring(&socket, &to) {
                Err(error) if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EINVAL)) => {
                    Ok(Attempt::Absent)
                }
                connected => outcome(connected.and_then(|()| heard(&socket))),
            }
        }
        Kind::FastOpen => {
            let socket = tcp()?;
            let flags = MsgFlags::from_bits_retain(MSG_FASTOPEN);
            let sent = sendto(socket.as_raw_fd(), b"f", &SockaddrStorage::from(address), flags);
            match sent {
                Err(Errno::EOPNOTSUPP) => Ok(Attempt::Absent),
                sent => outcome(sent.map_err(io::Error::from).and_then(|_| heard(&socket))),
            }
        }
        Kind::Again => {
            let elsewhere = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
            let socket = tcp()?;
            socket.connect(&SockAddr::from(elsewhere.local_addr()?))?;
            sys::disconnect(&socket)?;
            outcome(socket.connect(&to).and_then(|()| heard(&socket)))
        }
        Kind::Mptcp => stream(Domain::IPV4, Type::STREAM, MPTCP, &to),
        Kind::Smc => stream(Domain::from(AF_SMC), Type::STREAM, 0, &to),
        Kind::Sctp => stream(Domain::IPV4, Type::STREAM, SCTP, &to),
        Kind::Dccp => stream(Domain::IPV4, Type::from(SOCK_DCCP), DCCP, &to),
        Kind::Raw => stream(Domain::IPV4, Type::RAW, libc::IPPROTO_RAW, &to),
        Kind::Udp => {
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
            outcome(
                socket
                    .connect(address)
                    .and_then(|()| socket.send(b"u"))
                    .map(|_| Attempt::Past),
            )
        }
        Kind::UdpUnconnected => {
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
            outcome(socket.send_to(b"u", address).map(|_| Attempt::Past))
        }
        Kind::Open => open(address),
        Kind::Packet => packet(),
    }
}

/// Makes a socket of a kind that the kernel may not have, and connects it.
fn stream(domain: Domain, kind: Type, protocol: i32, to: &SockAddr) -> io::Result<Attempt> {
    let socket = match Socket::new(domain, kind, Some(Protocol::from(protocol))) {
        Ok(socket) => socket,
        Err(error) if error.kind() == ErrorKind::PermissionDenied => return outcome(Err(error)),
        Err(_) => return Ok(Attempt::Absent),
    };
    if kind == Type::RAW {
        return Ok(Attempt::Past);
    }
    outcome(socket.connect(to).and_then(|()| heard(&socket)))
}

/// Who is at the other end.
fn heard(mut socket: &Socket) -> io::Result<Attempt> {
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut word = [0; LISTENER.len()];
    socket.read_exact(&mut word)?;
    Ok(if &word == LISTENER {
        Attempt::Taken
    } else {
        Attempt::Past
    })
}

/// A refusal is an answer, not an error. Picket's is `EPERM`; `EACCES` is somebody else's, and says nothing of Picket.
fn outcome(tried: io::Result<Attempt>) -> io::Result<Attempt> {
    match tried {
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => Ok(Attempt::Refused),
        tried => tried,
    }
}

/// Connects while nothing is enforced, waits for a word, and talks on. That it was sent says nothing; the server hears
/// whether it gets through, and the count of drops tells the rest.
fn open(address: SocketAddr) -> io::Result<Attempt> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.read_exact(&mut [0; SERVER.len()])?;
    let _ = stream.write_all(b"more");
    std::thread::sleep(NOTHING);
    Ok(Attempt::Past)
}

/// Sends a packet for the door through a packet socket. That it was sent says nothing; the count of drops does.
fn packet() -> io::Result<Attempt> {
    let socket = match Socket::new(Domain::PACKET, Type::DGRAM, None) {
        Ok(socket) => socket,
        Err(error) if error.kind() == ErrorKind::PermissionDenied => return outcome(Err(error)),
        Err(_) => return Ok(Attempt::Absent),
    };
    // A SYN, as far as anybody looks: 20 bytes of IPv4 and 20 of TCP.
    let mut syn = [0; 40];
    syn[0] = 0x45;
    syn[3] = 40;
    syn[8] = 64;
    syn[9] = 6;
    syn[12..16].copy_from_slice(&[192, 0, 2, 2]);
    syn[16..20].copy_from_slice(&[192, 0, 2, 1]);
    syn[22..24].copy_from_slice(&NOBODY.port().to_be_bytes());
    syn[32] = 0x50;
    syn[33] = 2;
    sys::send_by_interface(&socket, loopback()?.0, &syn)?;
    Ok(Attempt::Past)
}

/// The interface that is always there.
pub(super) fn loopback() -> io::Result<Ifindex> {
    Ok(Ifindex(if_nametoindex("lo")?))
}

//! System calls that the standard library and nix do not offer in the form an attack needs. The one module with `unsafe`.
#![expect(
    unsafe_code,
    reason = "sockets of every family, addresses as bytes and shared rings have no safe interface"
)]

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::time::Duration;

use io_uring::{IoUring, opcode, squeue, types};
use libc::{c_int, c_void, socklen_t};

/// The family of SMC sockets (include/linux/socket.h).
pub(crate) const AF_SMC: c_int = 43;
/// SMC as a protocol of IP (include/uapi/linux/in.h).
pub(crate) const IPPROTO_SMC: c_int = 256;
/// L2TP over IP (include/uapi/linux/l2tp.h).
pub(crate) const IPPROTO_L2TP: c_int = 115;

/// How long a connect, a write or a read may take, in milliseconds, where nobody says otherwise: an answer on one machine takes
/// a few.
const LIMIT_MILLIS: u16 = 900;

/// The same, where an answer has to come: as many milliseconds as this says.
const PATIENCE: &str = "PICKET_ATTACK_PATIENCE";

/// How long a call may take.
pub(crate) fn patience() -> Duration {
    let told = std::env::var(PATIENCE).ok().and_then(|told| told.parse().ok());
    Duration::from_millis(told.unwrap_or(LIMIT_MILLIS).into())
}

/// Calls until nothing interrupts it: an io_uring tells of its work, which may come late, by interrupting whatever the thread waits in.
pub(crate) fn again<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

fn checked(result: c_int) -> io::Result<c_int> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}

fn sized(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// Makes a socket.
pub(crate) fn socket(domain: c_int, kind: c_int, protocol: c_int) -> io::Result<OwnedFd> {
    // SAFETY: takes no pointers.
    let socket = checked(unsafe { libc::socket(domain, kind | libc::SOCK_CLOEXEC, protocol) })?;
    Ok(own(socket))
}

/// Takes a descriptor that was just received or made, and that nobody else has.
pub(crate) fn own(socket: RawFd) -> OwnedFd {
    // SAFETY: the callers have it from the kernel, which gave it to them alone.
    unsafe { OwnedFd::from_raw_fd(socket) }
}

/// Limits how long the socket's calls may take.
pub(crate) fn limit(socket: &OwnedFd) -> io::Result<()> {
    let patience = patience();
    let limit = libc::timeval {
        tv_sec: patience.as_secs() as libc::time_t,
        tv_usec: libc::suseconds_t::from(patience.subsec_micros()),
    };
    for name in [libc::SO_RCVTIMEO, libc::SO_SNDTIMEO] {
        set(socket, libc::SOL_SOCKET, name, &limit)?;
    }
    Ok(())
}

/// Sets an option that is a number.
pub(crate) fn option(socket: &OwnedFd, level: c_int, name: c_int, value: c_int) -> io::Result<()> {
    set(socket, level, name, &value)
}

fn set<T>(socket: &OwnedFd, level: c_int, name: c_int, value: &T) -> io::Result<()> {
    let pointer: *const T = value;
    // SAFETY: the pointer and the size are those of one live value.
    checked(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            pointer.cast(),
            size_of::<T>() as socklen_t,
        )
    })
    .map(drop)
}

/// Whether the socket's calls return at once.
pub(crate) fn nonblocking(socket: &OwnedFd, on: bool) -> io::Result<()> {
    let mut value = c_int::from(on);
    // SAFETY: FIONBIO reads one int.
    checked(unsafe { libc::ioctl(socket.as_raw_fd(), libc::FIONBIO, &raw mut value) }).map(drop)
}

/// Connects to an address given as bytes.
pub(crate) fn connect(socket: &OwnedFd, address: &[u8]) -> io::Result<()> {
    // SAFETY: the pointer and the length are those of one live slice, which the kernel only reads.
    checked(unsafe {
        libc::connect(
            socket.as_raw_fd(),
            address.as_ptr().cast(),
            address.len() as socklen_t,
        )
    })
    .map(drop)
}

/// Binds to an address given as bytes.
pub(crate) fn bind(socket: &OwnedFd, address: &[u8]) -> io::Result<()> {
    // SAFETY: as in `connect`.
    checked(unsafe {
        libc::bind(
            socket.as_raw_fd(),
            address.as_ptr().cast(),
            address.len() as socklen_t,
        )
    })
    .map(drop)
}

/// Waits until a connect that did not block is done, and gives its error.
pub(crate) fn wait_connected(socket: &OwnedFd) -> io::Result<()> {
    let mut poll = libc::pollfd {
        fd: socket.as_raw_fd(),
        events: libc::POLLOUT,
        revents: 0,
    };
    let limit = patience().as_millis() as c_int;
    // SAFETY: one live entry, and the count says one.
    if checked(unsafe { libc::poll(&raw mut poll, 1, limit) })? == 0 {
        return Err(io::Error::from_raw_os_error(libc::ETIMEDOUT));
    }
    let (mut error, mut size): (c_int, _) = (0, size_of::<c_int>() as socklen_t);
    // SAFETY: the kernel writes one int of the size given.
    checked(unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ERROR,
            (&raw mut error).cast(),
            &raw mut size,
        )
    })?;
    match error {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

/// Sends to an address given as bytes, or to the one the socket is connected to where there are none.
pub(crate) fn sendto(socket: &OwnedFd, data: &[u8], flags: c_int, address: &[u8]) -> io::Result<usize> {
    let target = if address.is_empty() {
        ptr::null()
    } else {
        address.as_ptr()
    };
    // SAFETY: pointers and lengths are those of two live slices, which the kernel only reads.
    sized(unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            data.as_ptr().cast(),
            data.len(),
            flags | libc::MSG_NOSIGNAL,
            target.cast(),
            address.len() as socklen_t,
        )
    })
}

/// A message header over two slices, and the vector that it points to. Neither may move while the kernel reads it.
struct Message {
    header: libc::msghdr,
    part: Box<libc::iovec>,
}

impl Message {
    fn new(data: &[u8], address: &[u8]) -> Self {
        let part = Box::new(libc::iovec {
            iov_base: data.as_ptr().cast_mut().cast(),
            iov_len: data.len(),
        });
        // SAFETY: all zeros is a message header without anything in it.
        let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
        header.msg_name = address.as_ptr().cast_mut().cast();
        header.msg_namelen = address.len() as socklen_t;
        Self { header, part }
    }

    fn header(&mut self) -> &mut libc::msghdr {
        self.header.msg_iov = &raw mut *self.part;
        self.header.msg_iovlen = 1;
        &mut self.header
    }
}

/// As [`sendto`], by sendmsg.
pub(crate) fn sendmsg(socket: &OwnedFd, data: &[u8], address: &[u8]) -> io::Result<usize> {
    let mut message = Message::new(data, address);
    // SAFETY: what the header points to lives until the call returns, and is only read.
    sized(unsafe { libc::sendmsg(socket.as_raw_fd(), message.header(), libc::MSG_NOSIGNAL) })
}

/// As [`sendto`], by sendmmsg with one message.
pub(crate) fn sendmmsg(socket: &OwnedFd, data: &[u8], address: &[u8]) -> io::Result<usize> {
    let mut message = Message::new(data, address);
    let mut one = libc::mmsghdr {
        msg_hdr: *message.header(),
        msg_len: 0,
    };
    // SAFETY: as in `sendmsg`; the count says one.
    let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), &raw mut one, 1, libc::MSG_NOSIGNAL) };
    checked(sent)?;
    Ok(one.msg_len as usize)
}

/// Receives into the buffer.
pub(crate) fn receive(socket: &OwnedFd, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the kernel writes no more than the slice holds.
    sized(unsafe { libc::recv(socket.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) })
}

/// Receives a packet; gives its length and which way it went (`PACKET_OUTGOING` and so on).
pub(crate) fn receive_packet(socket: &OwnedFd, buffer: &mut [u8]) -> io::Result<(usize, u8)> {
    // SAFETY: all zeros is an address without anything in it.
    let mut from: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    let mut size = size_of::<libc::sockaddr_ll>() as socklen_t;
    // SAFETY: the kernel writes no more than the slice and the address hold.
    let read = sized(unsafe {
        libc::recvfrom(
            socket.as_raw_fd(),
            buffer.as_mut_ptr().cast(),
            buffer.len(),
            0,
            (&raw mut from).cast(),
            &raw mut size,
        )
    })?;
    Ok((read, from.sll_pkttype))
}

/// The interface's number.
pub(crate) fn interface(name: &str) -> io::Result<u32> {
    Ok(nix::net::if_::if_nametoindex(name)?)
}

/// The hardware address of the interface that a packet socket is bound to.
pub(crate) fn hardware_address(socket: &OwnedFd) -> io::Result<[u8; 6]> {
    // SAFETY: all zeros is an address without anything in it.
    let mut own: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    let mut size = size_of::<libc::sockaddr_ll>() as socklen_t;
    // SAFETY: the kernel writes no more than the address holds.
    checked(unsafe { libc::getsockname(socket.as_raw_fd(), (&raw mut own).cast(), &raw mut size) })?;
    let mut address = [0; 6];
    address.copy_from_slice(&own.sll_addr[..6]);
    Ok(address)
}

/// A `struct sockaddr_in` or `sockaddr_in6`.
pub(crate) fn address_bytes(address: &SocketAddr) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(28);
    match address {
        SocketAddr::V4(address) => {
            bytes.extend((libc::AF_INET as u16).to_ne_bytes());
            bytes.extend(address.port().to_be_bytes());
            bytes.extend(address.ip().octets());
            bytes.extend([0; 8]);
        }
        SocketAddr::V6(address) => {
            bytes.extend((libc::AF_INET6 as u16).to_ne_bytes());
            bytes.extend(address.port().to_be_bytes());
            bytes.extend([0; 4]);
            bytes.extend(address.ip().octets());
            bytes.extend(address.scope_id().to_ne_bytes());
        }
    }
    bytes
}

/// The address that dissolves a connection.
pub(crate) fn unspecified() -> Vec<u8> {
    vec![0; 16]
}

/// A `struct sockaddr_ll`.
pub(crate) fn packet_address(interface: u32, protocol: u16, hardware: [u8; 6]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(20);
    bytes.extend((libc::AF_PACKET as u16).to_ne_bytes());
    bytes.extend(protocol.to_be_bytes());
    bytes.extend(interface.to_ne_bytes());
    bytes.extend([0, 0, 0, 6]);
    bytes.extend(hardware);
    bytes.extend([0; 2]);
    bytes
}

/// An io_uring for one call at a time.
pub(crate) struct Uring {
    ring: IoUring,
}

impl Uring {
    /// One whose calls are begun by the task that submits them.
    pub(crate) fn plain() -> io::Result<Self> {
        Ok(Self {
            ring: IoUring::new(4)?,
        })
    }

    /// One whose calls are made by a thread of the kernel's that looks for them.
    pub(crate) fn polled() -> io::Result<Self> {
        Ok(Self {
            ring: IoUring::builder().setup_sqpoll(100).build(4)?,
        })
    }

    /// Connects; `aside` has a worker thread do it.
    pub(crate) fn connect(&mut self, socket: &OwnedFd, address: &[u8], aside: bool) -> io::Result<()> {
        let entry = opcode::Connect::new(
            types::Fd(socket.as_raw_fd()),
            address.as_ptr().cast(),
            address.len() as socklen_t,
        )
        .build();
        let flags = if aside {
            squeue::Flags::ASYNC
        } else {
            squeue::Flags::empty()
        };
        // SAFETY: the address lives until the call is complete, which `wait` waits for.
        unsafe { self.wait(entry.flags(flags)) }.map(drop)
    }

    /// Sends a message; gives how much of it has gone out.
    pub(crate) fn sendmsg(
        &mut self,
        socket: &OwnedFd,
        data: &[u8],
        flags: c_int,
        address: &[u8],
    ) -> io::Result<usize> {
        let mut message = Message::new(data, address);
        let header: *const libc::msghdr = message.header();
        let entry = opcode::SendMsg::new(types::Fd(socket.as_raw_fd()), header)
            .flags(flags as u32)
            .build();
        // SAFETY: what the header points to lives until the call is complete, which `wait` waits for.
        let sent = unsafe { self.wait(entry) }?;
        Ok(sent as usize)
    }

    /// # Safety
    /// What the entry points to must live until this returns.
    unsafe fn wait(&mut self, entry: squeue::Entry) -> io::Result<i32> {
        // SAFETY: the caller's promise.
        unsafe { self.ring.submission().push(&entry) }.map_err(io::Error::other)?;
        // What was submitted before an interruption is submitted once.
        again(|| self.ring.submit_and_wait(1))?;
        let done = self.ring.completion().next();
        let result = done.ok_or_else(|| io::Error::other("no completion"))?.result();
        if result < 0 {
            return Err(io::Error::from_raw_os_error(-result));
        }
        Ok(result)
    }
}

/// Makes a socket by io_uring.
pub(crate) fn uring_socket(domain: c_int, kind: c_int, protocol: c_int) -> io::Result<OwnedFd> {
    let mut ring = Uring::plain()?;
    // SAFETY: the entry points to nothing.
    let socket = unsafe { ring.wait(opcode::Socket::new(domain, kind, protocol).build()) }?;
    Ok(own(socket))
}

/// Size of a frame of the memory that an AF_XDP socket shares with the kernel.
const FRAME: usize = 4096;
/// How many frames, and entries of each ring.
const FRAMES: u32 = 4;

/// Sends one frame by an AF_XDP socket, by the interface's first queue.
pub(crate) fn xdp_send(socket: &OwnedFd, interface: u32, frame: &[u8]) -> io::Result<()> {
    let descriptor = socket.as_raw_fd();
    let memory = share(FRAME * FRAMES as usize, -1, 0)?;
    let region = libc::xdp_umem_reg {
        addr: memory as u64,
        len: (FRAME * FRAMES as usize) as u64,
        chunk_size: FRAME as u32,
        headroom: 0,
        flags: 0,
        tx_metadata_len: 0,
    };
    set(socket, libc::SOL_XDP, libc::XDP_UMEM_REG, &region)?;
    for ring in [
        libc::XDP_UMEM_FILL_RING,
        libc::XDP_UMEM_COMPLETION_RING,
        libc::XDP_TX_RING,
    ] {
        set(socket, libc::SOL_XDP, ring, &FRAMES)?;
    }
    // SAFETY: all zeros are offsets.
    let mut offsets: libc::xdp_mmap_offsets = unsafe { std::mem::zeroed() };
    let mut size = size_of::<libc::xdp_mmap_offsets>() as socklen_t;
    // SAFETY: the kernel writes no more than the structure holds.
    checked(unsafe {
        libc::getsockopt(
            descriptor,
            libc::SOL_XDP,
            libc::XDP_MMAP_OFFSETS,
            (&raw mut offsets).cast(),
            &raw mut size,
        )
    })?;
    let entries = FRAMES as usize * size_of::<libc::xdp_desc>();
    let ring = share(
        offsets.tx.desc as usize + entries,
        descriptor,
        libc::XDP_PGOFF_TX_RING,
    )?;
    // SAFETY: all zeros is an address without anything in it.
    let mut address: libc::sockaddr_xdp = unsafe { std::mem::zeroed() };
    address.sxdp_family = libc::AF_XDP as u16;
    address.sxdp_flags = libc::XDP_COPY;
    address.sxdp_ifindex = interface;
    // SAFETY: one live address of the size given.
    checked(unsafe {
        libc::bind(
            descriptor,
            (&raw const address).cast(),
            size_of::<libc::sockaddr_xdp>() as socklen_t,
        )
    })?;
    let length = frame.len().min(FRAME);
    // SAFETY: the memory holds FRAME bytes and more; the ring holds its producer and its first descriptor at these offsets, and
    // nobody writes either but this thread.
    unsafe {
        ptr::copy_nonoverlapping(frame.as_ptr(), memory.cast(), length);
        let first = ring.byte_add(offsets.tx.desc as usize);
        first.cast::<libc::xdp_desc>().write_volatile(libc::xdp_desc {
            addr: 0,
            len: length as u32,
            options: 0,
        });
        let producer = ring.byte_add(offsets.tx.producer as usize).cast::<u32>();
        (*producer.cast::<std::sync::atomic::AtomicU32>()).store(1, std::sync::atomic::Ordering::Release);
    }
    sendto(socket, &[], libc::MSG_DONTWAIT, &[]).map(drop)
}

/// Memory shared with the kernel, which stays until the process ends.
fn share(size: usize, descriptor: RawFd, offset: libc::off_t) -> io::Result<*mut c_void> {
    let flags = if descriptor < 0 {
        libc::MAP_PRIVATE | libc::MAP_ANONYMOUS
    } else {
        libc::MAP_SHARED | libc::MAP_POPULATE
    };
    // SAFETY: a new mapping wherever the kernel likes.
    let memory = unsafe {
        libc::mmap(
            ptr::null_mut(),
            size,
            libc::PROT_READ | libc::PROT_WRITE,
            flags,
            descriptor,
            offset,
        )
    };
    if memory == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    Ok(memory)
}

//! What the standard library and nix do not wrap: this package's one module with `unsafe`.
//!
//! In: descriptors, paths of pins, packets. Out: the results of system calls as safe types.
#![expect(
    unsafe_code,
    reason = "SO_NETNS_COOKIE, bpf(2) for links, tokio's AsyncFd, and some of what the doctor tries have no safe wrapper"
)]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use aya::maps::{MapData, RingBuf};
use rustix::net::xdp::{
    SocketAddrXdp, SocketAddrXdpFlags, XDP_PGOFF_TX_RING, XdpDesc, XdpDescOptions, XdpUmemReg,
    XdpUmemRegFlags,
};
use rustix::net::{SendFlags, sockopt};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The cookie of the network namespace that a socket belongs to: the number that the kernel's programs know it
/// by, unique for as long as the machine runs (`SO_NETNS_COOKIE`, Linux 5.14).
///
/// # Errors
/// When the kernel does not know the option.
pub fn netns_cookie(socket: impl AsFd) -> io::Result<u64> {
    let mut cookie = 0_u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the descriptor is open for the call, and the kernel writes at most `length` bytes to `cookie`,
    // which is that long.
    let outcome = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if outcome != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(cookie)
}

/// `BPF_OBJ_GET`, `BPF_OBJ_GET_INFO_BY_FD` and `BPF_LINK_DETACH` (include/uapi/linux/bpf.h, `enum bpf_cmd`).
const OBJ_GET: libc::c_long = 7;
const OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const LINK_DETACH: libc::c_long = 34;

/// `union bpf_attr` as `BPF_OBJ_GET` reads it.
#[repr(C)]
struct ObjGet {
    path: u64,
    fd: u32,
    flags: u32,
}

/// `union bpf_attr` as `BPF_OBJ_GET_INFO_BY_FD` reads it.
#[repr(C)]
struct GetInfo {
    fd: u32,
    length: u32,
    info: u64,
}

/// `BPF_LINK_TYPE_TCX` (include/uapi/linux/bpf.h).
const LINK_TYPE_TCX: u32 = 11;

/// The beginning of `struct bpf_link_info`, up to the fields that cgroup and TCX links have.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct LinkFacts {
    kind: u32,
    pub(super) id: u32,
    /// The program's id.
    pub(super) program: u32,
    reserved: u32,
    /// A cgroup link's cgroup, its id in both; a TCX link's interface, its index, and then the kind of attachment.
    target: [u32; 2],
    more: [u64; 6],
}

impl LinkFacts {
    /// Whether it is attached to nothing any more: there is no cgroup and no interface of the number zero.
    pub(super) fn is_detached(&self) -> bool {
        match self.kind {
            LINK_TYPE_TCX => self.target[0] == 0,
            _ => self.target == [0, 0],
        }
    }
}

/// What the kernel says of a pinned link; `NotFound` where there is no such pin.
///
/// aya tells a link's program and not what it is attached to, which is all that is lost by a detach.
pub(super) fn link_facts(pin: &Path) -> io::Result<LinkFacts> {
    let link = open_pin(pin)?;
    let mut facts = LinkFacts::default();
    let mut ask = GetInfo {
        fd: link.as_raw_fd() as u32,
        length: size_of::<LinkFacts>() as u32,
        info: (&raw mut facts) as u64,
    };
    // SAFETY: the kernel writes at most `length` bytes to `facts`, which is that long and lives across the call.
    let outcome = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            OBJ_GET_INFO_BY_FD,
            &raw mut ask,
            size_of::<GetInfo>(),
        )
    };
    if outcome < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(facts)
}

/// Ends what a pinned link does before this returns; the pin stays. aya's links are detached with their last handle, whenever
/// the kernel comes to that.
pub(super) fn detach(pin: &Path) -> io::Result<()> {
    let link = open_pin(pin)?;
    let mut detach = link.as_raw_fd() as u32;
    // SAFETY: the attribute is the descriptor's number alone, and as large as it says.
    let outcome = unsafe { libc::syscall(libc::SYS_bpf, LINK_DETACH, &raw mut detach, size_of::<u32>()) };
    if outcome < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn open_pin(pin: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let mut get = ObjGet {
        path: path.as_ptr() as u64,
        fd: 0,
        flags: 0,
    };
    // SAFETY: the attribute is as large as it says, and the path lives across the call.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, OBJ_GET, &raw mut get, size_of::<ObjGet>()) };
    let fd = i32::try_from(fd).unwrap_or(-1);
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made the descriptor for this call alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sends an IPv4 packet by an interface, through a packet socket.
pub(super) fn send_by_interface(socket: impl AsFd, interface: u32, packet: &[u8]) -> io::Result<()> {
    // SAFETY: all zero is a value of this plain structure.
    let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    to.sll_family = libc::AF_PACKET as u16;
    to.sll_protocol = (libc::ETH_P_IP as u16).to_be();
    to.sll_ifindex = i32::try_from(interface).unwrap_or_default();
    to.sll_halen = 6;
    // SAFETY: the descriptor is open for the call, and packet and address are as long as told.
    let sent = unsafe {
        libc::sendto(
            socket.as_fd().as_raw_fd(),
            packet.as_ptr().cast(),
            packet.len(),
            0,
            (&raw const to).cast(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )
    };
    if sent < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// The size of a frame of the memory that an AF_XDP socket shares with the kernel, and how many there are, which is how many
/// entries its rings have: one is sent.
const XDP_FRAME: usize = 4096;
const XDP_FRAMES: u32 = 2;

/// Sends one frame by an interface's first queue, through an AF_XDP socket. What it shares with the kernel stays mapped until
/// the process ends.
pub(super) fn send_by_xdp(socket: impl AsFd, interface: u32, frame: &[u8]) -> io::Result<()> {
    let socket = socket.as_fd();
    if frame.len() > XDP_FRAME {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let size = XDP_FRAME * XDP_FRAMES as usize;
    let memory = share(size, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0)?;
    let region = XdpUmemReg {
        addr: memory as u64,
        len: size as u64,
        chunk_size: XDP_FRAME as u32,
        headroom: 0,
        flags: XdpUmemRegFlags::empty(),
        tx_metadata_len: 0,
    };
    sockopt::set_xdp_umem_reg(socket, region)?;
    sockopt::set_xdp_umem_fill_ring_size(socket, XDP_FRAMES)?;
    sockopt::set_xdp_umem_completion_ring_size(socket, XDP_FRAMES)?;
    sockopt::set_xdp_tx_ring_size(socket, XDP_FRAMES)?;
    let offsets = sockopt::xdp_mmap_offsets(socket)?.tx;
    let (first, producer) = (offsets.desc as usize, offsets.producer as usize);
    let ring = share(
        first + XDP_FRAMES as usize * size_of::<XdpDesc>(),
        libc::MAP_SHARED | libc::MAP_POPULATE,
        socket.as_raw_fd(),
        XDP_PGOFF_TX_RING as libc::off_t,
    )?;
    rustix::net::bind(
        socket,
        &SocketAddrXdp::new(SocketAddrXdpFlags::XDP_COPY, interface, 0),
    )?;
    let descriptor = XdpDesc {
        addr: 0,
        len: frame.len() as u32,
        options: XdpDescOptions::empty(),
    };
    // SAFETY: the frame fits into the memory. The ring has its producer and its first descriptor at these offsets, which the
    // kernel told and aligned, and nobody writes either but this thread.
    unsafe {
        std::ptr::copy_nonoverlapping(frame.as_ptr(), memory.cast(), frame.len());
        ring.byte_add(first).cast::<XdpDesc>().write(descriptor);
        AtomicU32::from_ptr(ring.byte_add(producer).cast()).store(1, Ordering::Release);
    }
    rustix::net::send(socket, &[], SendFlags::DONTWAIT)?;
    Ok(())
}

/// Memory shared with the kernel.
fn share(size: usize, flags: i32, descriptor: RawFd, offset: libc::off_t) -> io::Result<*mut libc::c_void> {
    let access = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping, wherever the kernel likes.
    let memory = unsafe { libc::mmap(std::ptr::null_mut(), size, access, flags, descriptor, offset) };
    if memory == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    Ok(memory)
}

/// connect(2) by io_uring.
pub(super) fn connect_by_ring(socket: impl AsFd, address: &socket2::SockAddr) -> io::Result<()> {
    let mut ring = io_uring::IoUring::new(2)?;
    let fd = io_uring::types::Fd(socket.as_fd().as_raw_fd());
    let connect = io_uring::opcode::Connect::new(fd, address.as_ptr().cast(), address.len()).build();
    // SAFETY: descriptor and address live until the ring has said that it is done with them, below.
    unsafe { ring.submission().push(&connect) }.map_err(io::Error::other)?;
    ring.submit_and_wait(1)?;
    let done = ring.completion().next().map(|entry| entry.result());
    match done {
        Some(result) if result < 0 => Err(io::Error::from_raw_os_error(-result)),
        Some(_) => Ok(()),
        None => Err(io::Error::other("the ring completed nothing")),
    }
}

/// `RingBuf` has no `Debug` of its own.
pub(super) struct Ring(pub(super) RingBuf<MapData>);

impl std::fmt::Debug for Ring {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Ring")
    }
}

impl std::os::fd::AsRawFd for Ring {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Has the runtime wait for the ring to become readable.
pub(super) fn readable(ring: Ring) -> io::Result<AsyncFd<Ring>> {
    // SAFETY: the ring owns its map's descriptor and keeps it open and the same for as long as it lives, and it
    // moves into what is returned.
    Ok(unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }?)
}

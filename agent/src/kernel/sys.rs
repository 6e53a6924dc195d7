//! What the standard library and nix do not wrap: this package's one module with `unsafe`.
#![expect(
    unsafe_code,
    reason = "SO_NETNS_COOKIE and tokio's AsyncFd have no safe wrapper"
)]

use std::io;
use std::os::fd::{AsFd, AsRawFd as _};

use aya::maps::{MapData, RingBuf};
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

/// `RingBuf` has no `Debug` of its own.
pub(super) struct Ring(pub(super) RingBuf<MapData>);

impl std::fmt::Debug for Ring {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Ring")
    }
}

impl std::os::fd::AsRawFd for Ring {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.0.as_raw_fd()
    }
}

/// Has the runtime wait for the ring to become readable.
pub(super) fn readable(ring: Ring) -> io::Result<AsyncFd<Ring>> {
    // SAFETY: the ring owns its map's descriptor and keeps it open and the same for as long as it lives, and it
    // moves into what is returned.
    Ok(unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }?)
}

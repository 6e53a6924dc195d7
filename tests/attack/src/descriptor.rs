//! Sockets that pass from one process to another by a unix socket.

use std::io::{self, IoSlice, IoSliceMut, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use anyhow::{Context, Result};
use nix::cmsg_space;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, UnixAddr, recvmsg, sendmsg};

use crate::sys;

/// Listens at `path`, says so, and hands the socket to the first who comes.
pub(crate) fn give(path: &Path, socket: &OwnedFd) -> Result<()> {
    let listener = UnixListener::bind(path).with_context(|| format!("listen at {}", path.display()))?;
    println!("made");
    io::stdout().flush()?;
    let (receiver, _) = listener.accept()?;
    let rights = [socket.as_raw_fd()];
    let message = [ControlMessage::ScmRights(&rights)];
    sendmsg::<UnixAddr>(
        receiver.as_raw_fd(),
        &[IoSlice::new(b"x")],
        &message,
        MsgFlags::empty(),
        None,
    )
    .context("send the socket")?;
    Ok(())
}

/// Takes a socket from whoever listens at `path`.
pub(crate) fn take(path: &Path) -> io::Result<OwnedFd> {
    let sender = UnixStream::connect(path)?;
    let (mut byte, mut space) = ([0], cmsg_space!([i32; 1]));
    let mut parts = [IoSliceMut::new(&mut byte)];
    let message = recvmsg::<UnixAddr>(
        sender.as_raw_fd(),
        &mut parts,
        Some(&mut space),
        MsgFlags::empty(),
    )?;
    for part in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(received) = part
            && let Some(&socket) = received.first()
        {
            return Ok(sys::own(socket));
        }
    }
    Err(io::Error::other("no socket came"))
}

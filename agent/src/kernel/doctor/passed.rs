//! A socket that passes from a process outside the pod to one of the pod's, by a unix socket (`SCM_RIGHTS`, unix(7)).
//!
//! In: the pod's cgroup, and a unix socket between the two processes. Out: a TCP socket that was made outside the pod.

use std::fs;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use socket2::{Domain, Socket, Type};

/// The outside process' own part: makes a TCP socket beside the pod, below the cgroup that the programs are attached to,
/// and gives it to whoever is at the other end of `to`.
///
/// # Errors
/// When the cgroup cannot be joined, and when nobody takes the socket.
pub fn give(pod: &Path, to: impl AsFd) -> io::Result<()> {
    fs::write(outside(pod).join("cgroup.procs"), "0")?;
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let rights = [socket.as_fd()];
    control.push(SendAncillaryMessage::ScmRights(&rights));
    sendmsg(to, &[IoSlice::new(b"s")], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// The cgroup outside the pod that the programs are attached to.
pub(super) fn outside(pod: &Path) -> &Path {
    pod.parent().unwrap_or(pod)
}

/// Takes the socket that was given.
pub(super) fn take(from: impl AsFd) -> io::Result<Socket> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    recvmsg(
        from,
        &mut [IoSliceMut::new(&mut [0])],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    control
        .drain()
        .find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut sockets) => sockets.next(),
            _ => None,
        })
        .map(Socket::from)
        .ok_or_else(|| io::Error::other("no socket was given"))
}

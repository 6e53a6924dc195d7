//! The messages of an upgrade: frames of JSON, with descriptors beside them.
//!
//! In: a unix stream whose other end is checked. Out: a [`Message`] and the descriptors that came with it. A frame is its
//! length in four bytes and that many bytes of JSON; descriptors travel with the frame's first byte (`SCM_RIGHTS`). Sizes
//! and counts are bounded before anything is read, and the caller bounds the time.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::net::UnixStream;

use crate::kernel::Class;
use crate::listener::InPodListener;
use crate::workload::NetnsId;

/// The version both ends must speak. Fields that are added with a default need no new one.
pub(super) const VERSION: u32 = 3;

/// Stands for the node where other listeners have a pod's cgroup; no cgroup has this id.
pub(super) const NODE: u64 = 0;

/// The longest frame: a message about [`PER_MESSAGE`] listeners takes some 20 KB.
const FRAME_MAX: usize = 64 * 1024;

/// Listeners in one message. Each has two descriptors at most, and the kernel takes 253 at once (SCM_MAX_FD).
pub(super) const PER_MESSAGE: usize = 100;

/// Descriptors that come with one message at most.
const DESCRIPTORS_MAX: usize = 2 * PER_MESSAGE;

/// Why the other agent was not understood.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProtocolError {
    /// The other end closed the connection between two messages: its process has ended, or gave up.
    #[error("the other agent closed the connection")]
    Closed,
    /// The connection failed.
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
    /// A frame is larger than any message is.
    #[error("a message of {0} bytes is larger than any")]
    TooLong(usize),
    /// More descriptors came than fit.
    #[error("a message came with too many descriptors")]
    TooMany,
    /// A frame holds no message.
    #[error("a message cannot be read: {0}")]
    Malformed(#[from] serde_json::Error),
}

/// Every message, in this order: the successor's `Hello`; `Refused`, or `Listeners` as often as needed and `Offered`; the
/// successor's `Synced` and the predecessor's `Agreed`, or its `Withdrawn`; the successor's `ProgramsReplaced`; and `Stopped`. On
/// connections of their own, `Probe` and its answer `Running`, and `Unfit` without one; an agent that is older than they are closes
/// the connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub(crate) enum Message {
    /// The successor asks for the listeners.
    Hello {
        /// Its [`VERSION`].
        version: u32,
        /// Its node's name: two agents of different nodes have nothing to give each other.
        node: String,
        /// The layout of its kernel maps. Where it is another, the predecessor's flows cannot be read, and its listeners
        /// are of no use.
        layout: u64,
    },
    /// Asks whether an agent runs, as each start does first.
    Probe,
    /// The successor does not ask for the listeners, because it would serve worse.
    Unfit {
        /// Why, for the log.
        reason: String,
    },
    /// An agent runs, and goes on as before.
    Running,
    /// The predecessor refuses the upgrade.
    Refused {
        /// Why, for the log.
        reason: String,
        /// After how many seconds it would not be refused any more; `None` where time changes nothing.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retry_after: Option<u64>,
    },
    /// Some of the listeners; their descriptors come along, in the same order.
    Listeners {
        /// Which.
        listeners: Vec<TransferredListener>,
    },
    /// There are no more; from here on the predecessor changes nothing in the kernel and shares its audit log.
    Offered {
        /// How many listeners there were.
        count: usize,
    },
    /// The successor's classes and protected endpoints are in force.
    Synced,
    /// The predecessor waited too long and keeps serving.
    Withdrawn {
        /// Why, for the log.
        reason: String,
    },
    /// The predecessor takes nothing back unless the successor's process ends.
    Agreed,
    /// The predecessor's kernel programs are detached, where the successor has others.
    ProgramsReplaced,
    /// The predecessor accepts no more and reads no more kernel events; it exits once its streams have ended.
    Stopped,
}

/// What a listener is of, and where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TransferredListener {
    /// The pod's cgroup; [`NODE`] for the listener in the node's own namespace.
    pub(crate) cgroup: u64,
    /// The pod's UID, for the log.
    pub(crate) pod: String,
    /// The number that the pod's class and its flows carry; it stays with the listener.
    pub(crate) number: u64,
    /// The port on 127.0.0.1 and ::1.
    pub(crate) port: u16,
    /// The network namespace's cookie.
    pub(crate) cookie: u64,
    /// The namespace's device.
    pub(crate) device: u64,
    /// The namespace's number on that device.
    pub(crate) inode: u64,
    /// How many descriptors are its own. A pod that the node's listener serves has none: its number alone is transferred.
    pub(crate) descriptors: usize,
}

impl TransferredListener {
    /// What the kernel does with the pod while this listener serves it.
    pub(crate) fn class(&self) -> Class {
        Class::Enforced {
            pod: self.number,
            port: self.port,
            netns: self.cookie,
        }
    }

    /// The listener in the node's own namespace.
    pub(crate) fn node(listener: &InPodListener, netns: NetnsId) -> Self {
        Self {
            cgroup: NODE,
            pod: String::new(),
            number: 0,
            port: listener.port(),
            cookie: listener.netns_cookie(),
            device: netns.device,
            inode: netns.inode,
            descriptors: 0,
        }
    }
}

/// Sends a message.
pub(super) async fn send(
    stream: &UnixStream,
    message: &Message,
    descriptors: &[BorrowedFd<'_>],
) -> Result<(), ProtocolError> {
    let body = serde_json::to_vec(message)?;
    if body.len() > FRAME_MAX {
        return Err(ProtocolError::TooLong(body.len()));
    }
    if descriptors.len() > DESCRIPTORS_MAX {
        return Err(ProtocolError::TooMany);
    }
    let length = u32::try_from(body.len()).map_err(|_| ProtocolError::TooLong(body.len()))?;
    let mut frame = length.to_be_bytes().to_vec();
    frame.extend(body);
    let mut left = frame.as_slice();
    let mut descriptors = descriptors;
    while !left.is_empty() {
        let sent = stream
            .async_io(Interest::WRITABLE, || send_some(stream, left, descriptors))
            .await?;
        // They went along with the first byte.
        descriptors = &[];
        left = left.get(sent..).unwrap_or_default();
    }
    Ok(())
}

fn send_some(socket: impl AsFd, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(descriptors));
    }
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    Ok(sendmsg(socket, &[IoSlice::new(bytes)], &mut control, flags)?)
}

/// Waits for a message. A future that is dropped in the middle of one leaves the connection without use.
pub(super) async fn receive(stream: &UnixStream) -> Result<(Message, Vec<OwnedFd>), ProtocolError> {
    let mut descriptors = Vec::new();
    let mut length = [0; 4];
    read_exact(stream, &mut length, &mut descriptors).await?;
    let length = u32::from_be_bytes(length) as usize;
    if length > FRAME_MAX {
        return Err(ProtocolError::TooLong(length));
    }
    let mut body = vec![0; length];
    match read_exact(stream, &mut body, &mut descriptors).await {
        Err(ProtocolError::Closed) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
        read => read?,
    }
    Ok((serde_json::from_slice(&body)?, descriptors))
}

/// Fills `bytes`; [`ProtocolError::Closed`] where the connection ended before the first of them.
async fn read_exact(
    stream: &UnixStream,
    bytes: &mut [u8],
    descriptors: &mut Vec<OwnedFd>,
) -> Result<(), ProtocolError> {
    let mut filled = 0;
    while filled < bytes.len() {
        let (read, came, cut) = stream
            .async_io(Interest::READABLE, || {
                receive_some(stream, bytes.get_mut(filled..).unwrap_or_default())
            })
            .await?;
        descriptors.extend(came);
        if cut || descriptors.len() > DESCRIPTORS_MAX {
            return Err(ProtocolError::TooMany);
        }
        match read {
            0 if filled == 0 => return Err(ProtocolError::Closed),
            0 => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            read => filled += read,
        }
    }
    Ok(())
}

/// What one look gives: how many bytes, the descriptors that came, and whether some were lost for want of room.
fn receive_some(socket: impl AsFd, bytes: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>, bool)> {
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let read = recvmsg(socket, &mut [IoSliceMut::new(bytes)], &mut control, flags)?;
    let descriptors = control
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
            _ => None,
        })
        .flatten()
        .collect();
    Ok((read.bytes, descriptors, read.flags.contains(ReturnFlags::CTRUNC)))
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Seek as _, Write as _};

    use tokio::io::AsyncWriteExt as _;

    use super::*;

    fn transferred(cgroup: u64) -> TransferredListener {
        TransferredListener {
            cgroup,
            pod: "0d5a3c3e-7f3a-4a59-9a5b-0c6f4f0b8f11".to_owned(),
            number: u64::MAX,
            port: 40_000,
            cookie: u64::MAX,
            device: u64::MAX,
            inode: u64::MAX,
            descriptors: 2,
        }
    }

    fn file(text: &str) -> std::fs::File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file
    }

    #[tokio::test]
    async fn a_full_message_arrives_with_its_descriptors_and_the_next_one_without() {
        let (one, other) = UnixStream::pair().unwrap();
        let listeners: Vec<_> = (0..PER_MESSAGE as u64).map(transferred).collect();
        let message = Message::Listeners { listeners };
        let files: Vec<_> = (0..DESCRIPTORS_MAX)
            .map(|number| file(&number.to_string()))
            .collect();
        let borrowed: Vec<_> = files.iter().map(AsFd::as_fd).collect();
        let sending = async {
            send(&one, &message, &borrowed).await.unwrap();
            send(&one, &Message::Offered { count: 100 }, &[]).await.unwrap();
        };
        let hearing = async {
            let (heard, descriptors) = receive(&other).await.unwrap();
            assert_eq!(heard, message);
            assert_eq!(descriptors.len(), DESCRIPTORS_MAX);
            for (number, descriptor) in descriptors.into_iter().enumerate() {
                let (mut file, mut text) = (std::fs::File::from(descriptor), String::new());
                file.rewind().unwrap();
                file.read_to_string(&mut text).unwrap();
                assert_eq!(text, number.to_string());
            }
            let (heard, descriptors) = receive(&other).await.unwrap();
            assert_eq!(heard, Message::Offered { count: 100 });
            assert!(descriptors.is_empty());
        };
        tokio::join!(sending, hearing);
        drop(one);
        assert!(matches!(receive(&other).await, Err(ProtocolError::Closed)));
    }

    #[tokio::test]
    async fn what_is_too_long_or_no_message_is_refused_before_it_is_read() {
        let (mut one, other) = UnixStream::pair().unwrap();
        one.write_all(&(FRAME_MAX as u32 + 1).to_be_bytes())
            .await
            .unwrap();
        assert!(matches!(receive(&other).await, Err(ProtocolError::TooLong(_))));

        let (mut one, other) = UnixStream::pair().unwrap();
        one.write_all(b"\0\0\0\x02{}").await.unwrap();
        assert!(matches!(receive(&other).await, Err(ProtocolError::Malformed(_))));

        let (mut one, other) = UnixStream::pair().unwrap();
        one.write_all(b"\0\0\0\x02{").await.unwrap();
        drop(one);
        assert!(matches!(receive(&other).await, Err(ProtocolError::Io(_))));

        let (one, _other) = UnixStream::pair().unwrap();
        let file = file("x");
        let many = vec![file.as_fd(); DESCRIPTORS_MAX + 1];
        assert!(matches!(
            send(&one, &Message::Synced, &many).await,
            Err(ProtocolError::TooMany)
        ));
    }
}

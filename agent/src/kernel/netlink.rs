//! As much of netlink as the agent needs: one request, and the kernel's answers read within their bounds.
//!
//! In: a message's type, flags and body. Out: each answer's body, up to the kernel's own end. The two families asked here
//! (socket diagnosis, links) have answers of a handful of fields, and no crate at hand reads all of them; a socket belongs
//! to the network namespace that its thread is in when it opens it.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recvfrom, sendto, setsockopt,
    socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike as _};

/// `NLM_F_REQUEST`, `NLM_F_ACK` and `NLM_F_DUMP` (include/uapi/linux/netlink.h).
const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
const DUMP: u16 = 0x300;

/// `NLM_F_DUMP_INTR`: what is listed changed while it was.
const INTERRUPTED: u16 = 0x10;

/// `NLMSG_ERROR`, which also says that all went well, and `NLMSG_DONE`.
const ERROR: u16 = 2;
const DONE: u16 = 3;

/// The size of `struct nlmsghdr`.
const HEADER: usize = 16;

/// The kernel fills at most 32 KB at once (net/netlink/af_netlink.c, `netlink_dump`).
const BUFFER: usize = 64 * 1024;

/// A list that changed while the kernel wrote it is read again so often.
const READINGS: u32 = 3;

/// How long the kernel may take for one answer. It answers within the call that asks.
const REPLY_TIMEOUT_SECONDS: i64 = 2;

/// Why a list is not complete.
#[derive(Debug, thiserror::Error)]
pub enum ListError {
    /// The kernel refused the list, or did not answer.
    #[error(transparent)]
    Kernel(#[from] io::Error),
    /// The list changed during every reading, so that entries may be missing.
    #[error("the list changed during each of {READINGS} readings (NLM_F_DUMP_INTR)")]
    Interrupted,
}

/// A list of the kernel's, as far as it was read.
pub(super) struct Listing<T> {
    /// The entries. Where the list was interrupted, those of the last reading.
    pub(super) entries: Vec<T>,
    /// Whether entries may be missing.
    pub(super) interrupted: bool,
}

impl<T> Listing<T> {
    /// Reads until a reading is of one moment, [`READINGS`] times at most; `read` says whether its reading was.
    fn read(mut read: impl FnMut(&mut Vec<T>) -> io::Result<bool>) -> io::Result<Self> {
        let mut entries = Vec::new();
        for _ in 0..READINGS {
            entries.clear();
            if read(&mut entries)? {
                return Ok(Self {
                    entries,
                    interrupted: false,
                });
            }
        }
        Ok(Self {
            entries,
            interrupted: true,
        })
    }

    /// What remains to be said once the entries are used.
    pub(super) fn outcome(&self) -> Result<(), ListError> {
        if self.interrupted {
            return Err(ListError::Interrupted);
        }
        Ok(())
    }
}

/// A netlink socket in the network namespace of the thread that opened it.
pub(super) struct Netlink {
    fd: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Netlink {
    pub(super) fn open(protocol: SockProtocol) -> io::Result<Self> {
        let fd = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            protocol,
        )?;
        setsockopt(
            &fd,
            sockopt::ReceiveTimeout,
            &TimeVal::seconds(REPLY_TIMEOUT_SECONDS),
        )?;
        Ok(Self {
            fd,
            sequence: 0,
            buffer: vec![0; BUFFER],
        })
    }

    /// Asks for a list, again where it changed meanwhile; `entry` reads an entry's body, and gives none for one that is not
    /// meant.
    pub(super) fn list<T>(
        &mut self,
        kind: u16,
        body: &[u8],
        entry: impl Fn(&[u8]) -> Option<T>,
    ) -> io::Result<Listing<T>> {
        Listing::read(|entries| {
            self.ask(kind, REQUEST | DUMP, body, |message| {
                entries.extend(entry(message));
            })
        })
    }

    /// Asks for one thing; `on` gets the answer's body, where there is one.
    pub(super) fn one(&mut self, kind: u16, body: &[u8], on: impl FnMut(&[u8])) -> io::Result<()> {
        self.ask(kind, REQUEST | ACK, body, on).map(drop)
    }

    fn ask(&mut self, kind: u16, flags: u16, body: &[u8], mut on: impl FnMut(&[u8])) -> io::Result<bool> {
        self.sequence = self.sequence.wrapping_add(1);
        let length = u32::try_from(HEADER + body.len()).map_err(io::Error::other)?;
        let mut message = Vec::with_capacity(HEADER + body.len());
        message.extend(length.to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend(flags.to_ne_bytes());
        message.extend(self.sequence.to_ne_bytes());
        message.extend(0_u32.to_ne_bytes());
        message.extend(body);
        let kernel = NetlinkAddr::new(0, 0);
        sendto(self.fd.as_raw_fd(), &message, &kernel, MsgFlags::empty())?;
        let mut answer = Answer::to(self.sequence);
        loop {
            let (length, sender) = match recvfrom::<NetlinkAddr>(self.fd.as_raw_fd(), &mut self.buffer) {
                Err(Errno::EINTR) => continue,
                received => received?,
            };
            // A privileged process of the pod may send here too, and is not believed.
            if sender.is_none_or(|sender| sender.pid() != 0) {
                continue;
            }
            let datagram = self.buffer.get(..length).unwrap_or_default();
            if let Some(complete) = answer.take(datagram, &mut on)? {
                return Ok(complete);
            }
        }
    }
}

/// An answer that comes in.
struct Answer {
    sequence: u32,
    /// Whether nothing interrupted it so far.
    complete: bool,
}

impl Answer {
    /// To the request with this number.
    fn to(sequence: u32) -> Self {
        Self {
            sequence,
            complete: true,
        }
    }

    /// Takes a datagram in. Once it ends the answer, says whether the answer is of one moment.
    fn take(&mut self, datagram: &[u8], on: &mut impl FnMut(&[u8])) -> io::Result<Option<bool>> {
        let mut rest = datagram;
        while !rest.is_empty() {
            let (message, after) = Message::split(rest).ok_or_else(malformed)?;
            rest = after;
            // What is left of an earlier request that was given up.
            if message.sequence != self.sequence {
                continue;
            }
            self.complete &= message.flags & INTERRUPTED == 0;
            match message.kind {
                DONE | ERROR => {
                    // A dump's end carries its outcome as an error does; the number is negative.
                    let code = i32_at(message.body, 0).ok_or_else(malformed)?;
                    if code == 0 {
                        return Ok(Some(self.complete));
                    }
                    return Err(io::Error::from_raw_os_error(code.saturating_neg()));
                }
                _ => on(message.body),
            }
        }
        Ok(None)
    }
}

/// One message of a datagram.
struct Message<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    body: &'a [u8],
}

impl<'a> Message<'a> {
    /// The first message, and what follows it.
    fn split(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let length = usize::try_from(u32_at(bytes, 0)?).ok()?;
        let body = bytes.get(HEADER..length)?;
        let rest = bytes.get(aligned(length)..).unwrap_or_default();
        let message = Self {
            kind: u16_at(bytes, 4)?,
            flags: u16_at(bytes, 6)?,
            sequence: u32_at(bytes, 8)?,
            body,
        };
        Some((message, rest))
    }
}

/// The attributes in these bytes, each with its number; what is malformed ends them.
pub(super) fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    /// `NLA_TYPE_MASK`: the two upper bits say how the value is written.
    const NUMBER: u16 = 0x3fff;
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(rest, 0)?);
        let number = u16_at(rest, 2)? & NUMBER;
        let value = rest.get(4..length)?;
        rest = rest.get(aligned(length)..).unwrap_or_default();
        Some((number, value))
    })
}

/// Messages and attributes begin at multiples of four.
fn aligned(length: usize) -> usize {
    length.saturating_add(3) & !3
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(array(bytes, at)?))
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(array(bytes, at)?))
}

pub(super) fn i32_at(bytes: &[u8], at: usize) -> Option<i32> {
    Some(i32::from_ne_bytes(array(bytes, at)?))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(array(bytes, at)?))
}

/// So many bytes from there on.
pub(super) fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

fn malformed() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "a netlink message is not as long as it says",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(length: u32, kind: u16, body: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(length.to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0; 10]);
        bytes.extend(body);
        bytes
    }

    #[test]
    fn messages_are_read_within_their_bounds() {
        let mut bytes = message(18, 20, &[1, 2, 0, 0]);
        bytes.extend(message(16, 3, &[]));
        let (first, rest) = Message::split(&bytes).unwrap();
        assert_eq!((first.kind, first.body), (20, &[1, 2][..]));
        let (second, rest) = Message::split(rest).unwrap();
        assert_eq!((second.kind, second.body.len(), rest.len()), (3, 0, 0));
        for length in [0, 15, 17, u32::MAX] {
            assert!(Message::split(&message(length, 20, &[])).is_none(), "{length}");
        }
        assert!(Message::split(&[1, 2, 3]).is_none());
    }

    /// A datagram of an answer to request 7: an entry of one byte with these flags, and the list's end.
    fn datagram(flags: u16) -> Vec<u8> {
        let mut entry = message(17, 20, &[9, 0, 0, 0]);
        let mut done = message(20, DONE, &[0; 4]);
        entry[6..8].copy_from_slice(&flags.to_ne_bytes());
        for one in [&mut entry, &mut done] {
            one[8..12].copy_from_slice(&7_u32.to_ne_bytes());
        }
        entry.extend(done);
        entry
    }

    fn reading(flags: u16, entries: &mut Vec<u8>) -> io::Result<bool> {
        let taken = Answer::to(7).take(&datagram(flags), &mut |body| entries.extend(body))?;
        Ok(taken.expect("the list ends"))
    }

    #[test]
    fn a_list_that_changes_during_every_reading_is_not_complete() {
        let mut readings = 0;
        let listing = Listing::read(|entries| {
            readings += 1;
            reading(INTERRUPTED, entries)
        })
        .unwrap();
        assert_eq!(readings, READINGS);
        assert_eq!(
            listing.entries,
            [9],
            "of one reading, to be used as far as it goes"
        );
        assert!(matches!(listing.outcome(), Err(ListError::Interrupted)));
    }

    #[test]
    fn a_list_that_changed_once_is_read_again_and_complete() {
        let mut flags = [INTERRUPTED, 0].into_iter();
        let listing = Listing::read(|entries| reading(flags.next().unwrap(), entries)).unwrap();
        assert_eq!(listing.entries, [9]);
        assert!(listing.outcome().is_ok());
    }

    #[test]
    fn attributes_are_read_within_their_bounds() {
        let mut bytes = vec![5, 0, 21, 0x80, 7, 0, 0, 0];
        bytes.extend([8, 0, 5, 0, 1, 2, 3, 4]);
        let expected: [(u16, &[u8]); 2] = [(21, &[7]), (5, &[1, 2, 3, 4])];
        assert!(attributes(&bytes).eq(expected));
        // Too short for its own head, longer than what is there, and of no length, which must not go on for ever.
        for bytes in [&[3, 0, 1, 0][..], &[9, 0, 1, 0, 1], &[0, 0, 1, 0]] {
            assert_eq!(attributes(bytes).count(), 0, "{bytes:?}");
        }
    }

    #[test]
    fn the_kernel_says_what_it_does_not_know() {
        let mut netlink = Netlink::open(SockProtocol::NetlinkRoute).unwrap();
        let error = netlink.one(0x7fff, &[0; 16], |_| {}).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(Errno::EOPNOTSUPP as i32));
    }
}

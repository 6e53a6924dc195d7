//! A sink that writes records to a stream: standard output.
//!
//! In: lines. Out: the same bytes, blocked for as long as nobody reads them. A stream cannot be asked what it has, so after a
//! crash the records since the last checkpoint come twice.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsFd, BorrowedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{Sink, SinkError};

/// A stream that records are written to.
pub(super) struct StreamSink<W> {
    stream: W,
    name: &'static str,
    /// Bytes of the next delivery that a failed one wrote: it begins at the same place.
    written: usize,
}

impl StreamSink<File> {
    /// Standard output, without the buffer that std puts in front.
    pub(super) fn stdout() -> Result<Self, SinkError> {
        let descriptor = io::stdout().as_fd().try_clone_to_owned()?;
        Ok(Self::new(File::from(descriptor), "standard output"))
    }
}

impl<W> StreamSink<W> {
    fn new(stream: W, name: &'static str) -> Self {
        Self {
            stream,
            name,
            written: 0,
        }
    }
}

impl<W: Write + AsFd + Send> Sink for StreamSink<W> {
    fn deliver(&mut self, lines: &[u8]) -> Result<(), SinkError> {
        while self.written < lines.len() {
            match self.stream.write(&lines[self.written..]) {
                Ok(0) => return Err(self.failed(ErrorKind::WriteZero.into())),
                Ok(count) => self.written += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Somebody else who holds the stream made it non-blocking.
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    wait(self.stream.as_fd()).map_err(|error| self.failed(error))?;
                }
                Err(error) => return Err(self.failed(error)),
            }
        }
        self.written = 0;
        self.stream.flush().map_err(|error| self.failed(error))
    }
}

impl<W> StreamSink<W> {
    fn failed(&self, source: io::Error) -> SinkError {
        SinkError::Target {
            target: self.name.to_owned(),
            source,
        }
    }
}

/// Waits until the stream takes bytes.
fn wait(stream: BorrowedFd<'_>) -> io::Result<()> {
    poll(&mut [PollFd::new(stream, PollFlags::POLLOUT)], PollTimeout::NONE)?;
    Ok(())
}

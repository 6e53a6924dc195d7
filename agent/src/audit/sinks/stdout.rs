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

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::OwnedFd;

    use nix::fcntl::OFlag;
    use nix::sys::resource::{UsageWho, getrusage};
    use nix::sys::time::{TimeVal, TimeValLike as _};
    use nix::unistd::pipe2;

    use super::*;

    /// Takes so many bytes at once, and fails at each `None`.
    struct Stream {
        taken: Vec<u8>,
        takes: Vec<Option<usize>>,
        /// A signal comes before each write.
        interrupted: Option<bool>,
        file: File,
    }

    impl Write for Stream {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if let Some(interrupted) = &mut self.interrupted {
                *interrupted = !*interrupted;
                if *interrupted {
                    return Err(ErrorKind::Interrupted.into());
                }
            }
            let Some(count) = self.takes.pop().unwrap_or(Some(usize::MAX)) else {
                return Err(io::Error::other("the reader is gone"));
            };
            let count = count.min(bytes.len());
            self.taken.extend(&bytes[..count]);
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl AsFd for Stream {
        fn as_fd(&self) -> BorrowedFd<'_> {
            self.file.as_fd()
        }
    }

    fn sink(mut takes: Vec<Option<usize>>) -> StreamSink<Stream> {
        takes.reverse();
        let stream = Stream {
            taken: Vec::new(),
            takes,
            interrupted: None,
            file: tempfile::tempfile().expect("a file"),
        };
        StreamSink::new(stream, "a stream")
    }

    #[test]
    fn a_stream_that_takes_a_few_bytes_at_once_gets_all_of_them_once() {
        let mut sink = sink(vec![Some(1), Some(4), Some(2)]);
        sink.deliver(b"one\ntwo\n").expect("taken");
        sink.deliver(b"three\n").expect("taken");
        assert_eq!(sink.stream.taken, b"one\ntwo\nthree\n");
    }

    #[test]
    fn a_signal_is_no_failure() {
        let mut sink = sink(vec![Some(1), Some(2)]);
        sink.stream.interrupted = Some(false);
        sink.deliver(b"one\ntwo\n").expect("taken");
        assert_eq!(sink.stream.taken, b"one\ntwo\n");
    }

    #[test]
    fn a_stream_that_stalls_costs_no_time() {
        let (read, write): (OwnedFd, OwnedFd) = pipe2(OFlag::O_NONBLOCK).expect("a pipe");
        let stalled = std::time::Duration::from_secs(1);
        let reader = std::thread::spawn(move || {
            std::thread::sleep(stalled);
            rustix::io::ioctl_fionbio(&read, false).expect("it blocks from here on");
            let mut text = Vec::new();
            File::from(read).read_to_end(&mut text).expect("reads");
            text
        });
        let lines = b"a line\n".repeat(20_000);
        let mut sink = StreamSink::new(File::from(write), "a pipe");
        let time = || {
            let used = getrusage(UsageWho::RUSAGE_THREAD).expect("usage");
            let of = |time: TimeVal| std::time::Duration::from_micros(time.num_microseconds().unsigned_abs());
            of(used.user_time()) + of(used.system_time())
        };
        let before = time();
        sink.deliver(&lines).expect("taken");
        let used = time() - before;
        assert!(used < stalled / 20, "{used:?}");
        drop(sink);
        assert!(reader.join().expect("the reader") == lines);
    }

    #[test]
    fn what_a_failed_delivery_wrote_is_not_written_again() {
        let mut sink = sink(vec![Some(5), None, Some(1), None]);
        for _ in 0..2 {
            let error = sink.deliver(b"one\ntwo\n").expect_err("it fails").to_string();
            assert_eq!(error, "a stream: the reader is gone");
        }
        // More has come meanwhile.
        sink.deliver(b"one\ntwo\nthree\n").expect("taken");
        sink.deliver(b"four\n").expect("taken");
        assert_eq!(sink.stream.taken, b"one\ntwo\nthree\nfour\n");
    }

    #[test]
    fn a_stream_that_takes_nothing_is_a_failure_and_no_endless_loop() {
        let error = sink(vec![Some(0)]).deliver(b"one\n").expect_err("it fails");
        assert!(matches!(error, SinkError::Target { source, .. } if source.kind() == ErrorKind::WriteZero));
    }

    #[test]
    fn a_pipe_that_does_not_block_is_waited_for() {
        let (read, write): (OwnedFd, OwnedFd) = pipe2(OFlag::O_NONBLOCK).expect("a pipe");
        // Far more than the pipe holds.
        let lines: Vec<u8> = (0..40_000)
            .flat_map(|line| format!("line {line}\n").into_bytes())
            .collect();
        let reader = std::thread::spawn(move || {
            let (mut pipe, mut text, mut buffer) = (File::from(read), Vec::<u8>::new(), [0; 1000]);
            loop {
                match pipe.read(&mut buffer) {
                    Ok(0) => return text,
                    Ok(count) => text.extend(&buffer[..count]),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::yield_now(),
                    Err(error) => panic!("{error}"),
                }
            }
        });
        let mut sink = StreamSink::new(File::from(write), "a pipe");
        sink.deliver(&lines).expect("taken");
        drop(sink);
        assert!(reader.join().expect("the reader") == lines);
    }
}

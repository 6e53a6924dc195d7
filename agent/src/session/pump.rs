//! One direction of a tunnel: bytes from one side to the other, until the one has no more and the other knows.
//!
//! In: two sides. Out: whatever the one sends, as fast as the other takes it, and then the end.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What is read at once: one TLS record. Reading stops while the other side does not take it.
const BUFFER: usize = 16 * 1024;

/// Bytes on their way.
pub(super) struct Pump {
    buffer: Box<[u8]>,
    /// What was read and not written yet.
    start: usize,
    end: usize,
    unflushed: bool,
    /// The side that is read from has no more.
    over: bool,
}

impl Pump {
    pub(super) fn new() -> Pump {
        Pump {
            buffer: vec![0; BUFFER].into_boxed_slice(),
            start: 0,
            end: 0,
            unflushed: false,
            over: false,
        }
    }

    /// Whether the side that is read from has no more.
    pub(super) fn is_over(&self) -> bool {
        self.over
    }

    /// Carries bytes for as long as there are any; ready once all are written and the other side has learned so.
    pub(super) fn poll<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut R,
        to: &mut W,
    ) -> Poll<io::Result<()>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        loop {
            if self.start < self.end {
                let written = ready!(Pin::new(&mut *to).poll_write(cx, &self.buffer[self.start..self.end]))?;
                if written == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                self.start += written;
                self.unflushed = true;
                continue;
            }
            if self.over {
                return Pin::new(to).poll_shutdown(cx);
            }
            let mut read = ReadBuf::new(&mut self.buffer);
            if Pin::new(&mut *from).poll_read(cx, &mut read)?.is_pending() {
                if self.unflushed {
                    ready!(Pin::new(to).poll_flush(cx))?;
                    self.unflushed = false;
                }
                return Poll::Pending;
            }
            (self.start, self.end) = (0, read.filled().len());
            self.over = self.end == 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, BufWriter, duplex};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_was_written_is_flushed_once_no_more_comes() {
        let (mut source, mut from) = duplex(64);
        let (near, mut far) = duplex(64);
        let mut to = BufWriter::new(near);
        source.write_all(b"word").await.expect("written");
        let mut pump = Pump::new();
        let mut read = [0; 4];
        tokio::select! {
            _ = poll_fn(|cx| pump.poll(cx, &mut from, &mut to)) => panic!("the source is open"),
            read = far.read_exact(&mut read) => drop(read.expect("bytes")),
            () = tokio::time::sleep(Duration::from_secs(5)) => panic!("the word stays in a buffer"),
        }
        assert_eq!(&read, b"word");
    }

    /// Takes nothing, and says so.
    struct Full(usize);

    impl AsyncWrite for Full {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
            self.0 += 1;
            assert!(self.0 < 100, "it is asked for ever");
            Poll::Ready(Ok(0))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn a_side_that_takes_no_byte_is_an_error() {
        let (mut source, mut from) = duplex(64);
        source.write_all(b"word").await.expect("written");
        let (mut pump, mut full) = (Pump::new(), Full(0));
        let error = poll_fn(|cx| pump.poll(cx, &mut from, &mut full)).await;
        assert_eq!(
            error.expect_err("nothing is taken").kind(),
            io::ErrorKind::WriteZero
        );
    }
}

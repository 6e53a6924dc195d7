//! Sends a request whose target is longer than a URI.
//!
//! In: what hyper writes on a connection of the request's own, with [`STAND_IN`] for its target. Out: the same with the target
//! in its place. Only the first request line is touched.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use picket_policy::LongTarget;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The target that hyper writes.
pub(super) const STAND_IN: &str = "/long-target";

enum State {
    /// Nothing was written.
    Before(LongTarget),
    /// The request line's beginning is being written; so many of hyper's bytes it stands for.
    Writing {
        line: Vec<u8>,
        at: usize,
        stands_for: usize,
    },
    /// Everything passes.
    After,
}

/// A connection on which the first target is replaced.
pub(super) struct Retarget<S> {
    stream: S,
    state: State,
}

impl<S> Retarget<S> {
    /// A connection for a request to this target; any connection where there is none.
    pub(super) fn new(stream: S, target: Option<LongTarget>) -> Retarget<S> {
        Retarget {
            stream,
            state: target.map_or(State::After, State::Before),
        }
    }
}

/// The request line up to the target's end, and the length of what it replaces.
fn line(bytes: &[u8], target: &LongTarget) -> Option<(Vec<u8>, usize)> {
    let method = bytes.iter().position(|byte| *byte == b' ')? + 1;
    let stands_for = method + STAND_IN.len();
    let stand_in = bytes.get(method..stands_for)? == STAND_IN.as_bytes();
    (stand_in && bytes.get(stands_for) == Some(&b' ')).then(|| {
        let line = [&bytes[..method], target.as_str().as_bytes()].concat();
        (line, stands_for)
    })
}

impl<S: AsyncRead + Unpin> AsyncRead for Retarget<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Retarget<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        loop {
            match &mut this.state {
                State::After => return Pin::new(&mut this.stream).poll_write(cx, bytes),
                State::Before(target) => {
                    // hyper writes a head at once, so this is a fault of ours; what would be sent is not what was judged.
                    let Some((line, stands_for)) = line(bytes, target) else {
                        return Poll::Ready(Err(io::Error::other(
                            "the request line does not begin as it should",
                        )));
                    };
                    this.state = State::Writing {
                        line,
                        at: 0,
                        stands_for,
                    };
                }
                State::Writing { line, at, stands_for } => {
                    if *at == line.len() {
                        let stands_for = *stands_for;
                        this.state = State::After;
                        return Poll::Ready(Ok(stands_for));
                    }
                    let written = ready!(Pin::new(&mut this.stream).poll_write(cx, &line[*at..]))?;
                    if written == 0 {
                        return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                    }
                    *at += written;
                }
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn the_target_takes_its_stand_ins_place_and_all_else_passes() {
        let target = format!("/exec?command={}", "a".repeat(100_000));
        let (near, mut far) = tokio::io::duplex(1000);
        let mut sending = Retarget::new(near, LongTarget::new(target.as_bytes()));
        let reading = tokio::spawn(async move {
            let mut read = String::new();
            far.read_to_string(&mut read).await.expect("text");
            read
        });
        let head = format!("POST {STAND_IN} HTTP/1.1\r\nhost: {STAND_IN}\r\n\r\n");
        sending.write_all(head.as_bytes()).await.expect("written");
        sending.write_all(b"body /long-target ").await.expect("written");
        drop(sending);
        let read = reading.await.expect("read");
        assert_eq!(
            read,
            format!("POST {target} HTTP/1.1\r\nhost: {STAND_IN}\r\n\r\nbody /long-target ")
        );
    }

    #[tokio::test]
    async fn what_does_not_begin_as_it_should_is_not_sent() {
        for head in [
            "GET /other HTTP/1.1\r\n",
            "GET /long-targets HTTP/1.1\r\n",
            "GET /long",
            "",
        ] {
            let (near, _far) = tokio::io::duplex(1000);
            let mut sending = Retarget::new(near, LongTarget::new(b"/x"));
            let sent = sending.write(head.as_bytes()).await;
            assert!(sent.is_err(), "{head:?}");
        }
        let (near, mut far) = tokio::io::duplex(1000);
        Retarget::new(near, None)
            .write_all(b"GET /x")
            .await
            .expect("written");
        let mut read = String::new();
        far.read_to_string(&mut read).await.expect("text");
        assert_eq!(read, "GET /x");
    }
}

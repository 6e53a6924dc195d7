//! The frames of an HTTP/2 client, counted before they are read.
//!
//! In: a client's bytes. Out: the same bytes, or an error once the client sends frames without end that ask for nothing. Such
//! frames are PING, SETTINGS, WINDOW_UPDATE, PRIORITY, RST_STREAM, and DATA that is empty or padding alone. They cost the node time that
//! other pods' requests need, and hyper answers them for as long as they come (CVE-2019-9512 to 9518). Requests and what is sent to the
//! client earn further ones, so that clients that work never meet the limit.
//!
//! A client that has opened a connection and does not begin to speak is given up too.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// How long a client may take for the connection preface (RFC 9113 section 3.4), which it sends at once after the handshake.
const PREFACE_LIMIT: Duration = Duration::from_secs(10);
const PREFACE_BYTES: usize = 24;

/// Control frames that a connection has in hand at most, and that it gets back a second. Clients send a PING every 15 s, and
/// a few SETTINGS in all; 2,048 connections of a pod come to 41,000 frames a second, a few percent of a core.
const BURST: f64 = 1000.0;
const PER_SECOND: f64 = 20.0;

/// Control frames that a request earns: its reset, and the updates of two windows, some times over.
const PER_REQUEST: f64 = 8.0;

/// Bytes sent to the client that earn one control frame. Go's client updates two windows each 4 KB (golang.org/x/net/http2
/// transport.go, `transportDefaultStreamMinRefresh`), others more seldom.
const BYTES_PER_FRAME: f64 = 512.0;

const DATA: u8 = 0;
const HEADERS: u8 = 1;

/// The flag of a frame whose payload begins with the length of the padding at its end (RFC 9113 section 6.1).
const PADDED: u8 = 0x8;

/// Why a connection was closed.
#[derive(Debug, thiserror::Error)]
enum FrameError {
    #[error("the client sends control frames without end")]
    Flood,
    #[error("the client did not begin to speak HTTP/2 within {} s", PREFACE_LIMIT.as_secs())]
    Silent,
}

/// What became of a connection, for whoever serves it.
#[derive(Debug, Clone, Default)]
pub(super) struct FrameReport {
    begun: Arc<AtomicBool>,
    flooded: Arc<AtomicBool>,
}

impl FrameReport {
    /// Whether the client has sent its preface.
    pub(super) fn has_begun(&self) -> bool {
        self.begun.load(Ordering::Relaxed)
    }

    /// Whether the connection was closed for its frames.
    pub(super) fn was_flooded(&self) -> bool {
        self.flooded.load(Ordering::Relaxed)
    }
}

/// A connection whose frames are counted.
pub(super) struct CountedFrames<S> {
    inner: S,
    meter: Meter,
    report: FrameReport,
    silent: Option<Pin<Box<Sleep>>>,
}

impl<S> CountedFrames<S> {
    pub(super) fn new(inner: S) -> CountedFrames<S> {
        CountedFrames {
            inner,
            meter: Meter::new(Instant::now()),
            report: FrameReport::default(),
            silent: Some(Box::pin(tokio::time::sleep(PREFACE_LIMIT))),
        }
    }

    pub(super) fn report(&self) -> FrameReport {
        self.report.clone()
    }

    fn wrote(&mut self, written: &Poll<io::Result<usize>>) {
        if let Poll::Ready(Ok(bytes)) = written {
            self.meter.earn(*bytes as f64 / BYTES_PER_FRAME);
        }
    }
}

/// Reads frame heads (RFC 9113 section 4.1) out of a stream of bytes, and keeps the count.
struct Meter {
    /// Bytes of the preface, or of a frame's payload, that are still to come.
    skip: usize,
    begun: bool,
    head: [u8; 9],
    /// Bytes of the head that have come.
    have: usize,
    /// Whether the next byte is the padding's length of a DATA frame.
    padded: bool,
    in_hand: f64,
    refilled: Instant,
}

impl Meter {
    fn new(now: Instant) -> Meter {
        Meter {
            skip: PREFACE_BYTES,
            begun: false,
            head: [0; 9],
            have: 0,
            padded: false,
            in_hand: BURST,
            refilled: now,
        }
    }

    fn earn(&mut self, frames: f64) {
        self.in_hand = (self.in_hand + frames).min(BURST);
    }

    /// Counts the frames that begin in these bytes; false once there are too many.
    fn take(&mut self, mut bytes: &[u8], now: impl Fn() -> Instant) -> bool {
        while !bytes.is_empty() {
            if self.padded {
                self.padded = false;
                // The padding ends the payload, so that nothing is left for data where the padding is as long as the rest.
                self.skip -= 1;
                let is_data = usize::from(bytes[0]) < self.skip;
                bytes = &bytes[1..];
                if !is_data && !self.spend(&now) {
                    return false;
                }
                continue;
            }
            if self.skip > 0 {
                let skipped = self.skip.min(bytes.len());
                self.skip -= skipped;
                bytes = &bytes[skipped..];
                continue;
            }
            self.begun = true;
            let taken = (self.head.len() - self.have).min(bytes.len());
            self.head[self.have..self.have + taken].copy_from_slice(&bytes[..taken]);
            self.have += taken;
            bytes = &bytes[taken..];
            if self.have == self.head.len() {
                self.have = 0;
                if !self.count(&now) {
                    return false;
                }
            }
        }
        self.begun |= self.skip == 0;
        true
    }

    /// Counts the frame whose head has come.
    fn count(&mut self, now: impl Fn() -> Instant) -> bool {
        let [a, b, c, kind, flags, ..] = self.head;
        self.skip = u32::from_be_bytes([0, a, b, c]) as usize;
        match kind {
            HEADERS => self.earn(PER_REQUEST),
            DATA if self.skip > 0 => self.padded = flags & PADDED != 0,
            _ => return self.spend(now),
        }
        true
    }

    /// Takes one control frame; false where none is in hand.
    fn spend(&mut self, now: impl Fn() -> Instant) -> bool {
        self.in_hand -= 1.0;
        if self.in_hand < 0.0 {
            let now = now();
            self.earn((now - self.refilled).as_secs_f64() * PER_SECOND);
            self.refilled = now;
        }
        self.in_hand >= 0.0
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for CountedFrames<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let counted = self.get_mut();
        let before = buffer.filled().len();
        let read = Pin::new(&mut counted.inner).poll_read(cx, buffer);
        if matches!(read, Poll::Ready(Ok(()))) {
            let fits = counted.meter.take(&buffer.filled()[before..], Instant::now);
            if counted.meter.begun && counted.silent.take().is_some() {
                counted.report.begun.store(true, Ordering::Relaxed);
            }
            if !fits {
                counted.report.flooded.store(true, Ordering::Relaxed);
                return Poll::Ready(Err(io::Error::other(FrameError::Flood)));
            }
        } else if let Some(silent) = &mut counted.silent
            && silent.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, FrameError::Silent)));
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for CountedFrames<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let counted = self.get_mut();
        let written = Pin::new(&mut counted.inner).poll_write(cx, bytes);
        counted.wrote(&written);
        written
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let counted = self.get_mut();
        let written = Pin::new(&mut counted.inner).poll_write_vectored(cx, bytes);
        counted.wrote(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    const PING: u8 = 6;

    fn frame(kind: u8, payload: usize) -> Vec<u8> {
        let mut frame = (payload as u32).to_be_bytes()[1..].to_vec();
        frame.extend([kind, 0, 0, 0, 0, 1]);
        frame.extend(vec![0; payload]);
        frame
    }

    /// A meter past the preface, and the moment it began.
    fn begun() -> (Meter, Instant) {
        let now = Instant::now();
        let mut meter = Meter::new(now);
        assert!(meter.take(&[0; PREFACE_BYTES], || now) && meter.begun);
        (meter, now)
    }

    /// How many such frames pass before one is too many, and no time passes.
    fn pass(kind: u8, payload: usize, most: usize) -> usize {
        let (mut meter, now) = begun();
        (0..most)
            .take_while(|_| meter.take(&frame(kind, payload), || now))
            .count()
    }

    #[test]
    fn control_frames_without_end_are_too_many_and_data_and_requests_never() {
        for (kind, payload) in [(PING, 8), (4, 0), (8, 4), (2, 5), (3, 4), (DATA, 0), (0x42, 100)] {
            assert_eq!(pass(kind, payload, 5000), BURST as usize, "{kind}");
        }
        assert_eq!(pass(DATA, 1, 5000), 5000);
        assert_eq!(pass(HEADERS, 30, 5000), 5000);
    }

    /// A DATA frame with this many bytes of padding and of data.
    fn padded(padding: u8, data: usize) -> Vec<u8> {
        let mut frame = frame(DATA, 1 + data + usize::from(padding));
        frame[4] = PADDED;
        frame[9] = padding;
        frame
    }

    #[test]
    fn data_that_is_padding_alone_is_a_control_frame() {
        let passed = |frame: &[u8], piece: usize| {
            let (mut meter, now) = begun();
            let takes = |_: &usize| frame.chunks(piece).all(|piece| meter.take(piece, || now));
            (0..5000).take_while(takes).count()
        };
        for piece in [1, 9, 10, 1000] {
            for padding in [0, 1, 255] {
                assert_eq!(passed(&padded(padding, 0), piece), BURST as usize, "{padding}");
                assert_eq!(passed(&padded(padding, 1), piece), 5000, "{padding}");
            }
            // One whose padding is longer than its payload is an error of the protocol.
            let mut wrong = padded(0, 3);
            wrong[9] = 200;
            assert_eq!(passed(&wrong, piece), BURST as usize);
        }
        // The flag means nothing of other frames.
        let mut headers = frame(HEADERS, 30);
        headers[4] = PADDED;
        assert_eq!(passed(&headers, 7), 5000);
    }

    #[test]
    fn requests_answers_and_time_earn_further_ones() {
        let (mut meter, now) = begun();
        for _ in 0..10_000 {
            let mut bytes = frame(HEADERS, 30);
            bytes.extend([frame(8, 4), frame(8, 4), frame(3, 4)].concat());
            assert!(meter.take(&bytes, || now));
        }
        let (mut meter, now) = begun();
        for _ in 0..100_000 {
            meter.earn(4096.0 / BYTES_PER_FRAME);
            assert!(meter.take(&[frame(8, 4), frame(8, 4)].concat(), || now));
        }
        let (mut meter, now) = begun();
        for second in 0..1000 {
            for _ in 0..PER_SECOND as usize - 1 {
                assert!(meter.take(&frame(PING, 8), || now + Duration::from_secs(second)));
            }
        }
    }

    #[test]
    fn what_was_earned_is_worth_one_burst_at_most() {
        let (mut meter, now) = begun();
        meter.earn(1e9);
        let passed = (0..5000)
            .take_while(|_| meter.take(&frame(PING, 8), || now))
            .count();
        assert_eq!(passed, BURST as usize);
    }

    #[test]
    fn heads_are_found_wherever_the_bytes_are_cut() {
        let now = Instant::now();
        let mut bytes = vec![0; PREFACE_BYTES];
        for payload in 0..50 {
            bytes.extend(frame(DATA, 3 * payload + 1));
            bytes.extend(frame(PING, 8));
        }
        for piece in 1..30 {
            let mut meter = Meter::new(now);
            assert!(bytes.chunks(piece).all(|piece| meter.take(piece, || now)));
            assert_eq!(meter.in_hand, BURST - 50.0, "{piece}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_begin_is_given_up() {
        let (mut near, far) = tokio::io::duplex(1024);
        near.write_all(b"PRI * HTTP/2.0").await.expect("written");
        let mut counted = CountedFrames::new(far);
        let mut read = vec![0; 100];
        assert_eq!(counted.read(&mut read).await.expect("bytes"), 14);
        let error = counted.read(&mut read).await.expect_err("nothing more comes");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(!counted.report().has_begun());
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_began_may_be_silent() {
        let (mut near, far) = tokio::io::duplex(1024);
        near.write_all(&[0; PREFACE_BYTES]).await.expect("written");
        let mut counted = CountedFrames::new(far);
        let mut read = vec![0; 100];
        assert_eq!(counted.read(&mut read).await.expect("bytes"), PREFACE_BYTES);
        let silence = tokio::time::timeout(PREFACE_LIMIT * 100, counted.read(&mut read)).await;
        assert!(silence.is_err() && counted.report().has_begun());
    }
}

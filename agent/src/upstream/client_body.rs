//! The body of a client's request as it comes, with word of whether all of it came.
//!
//! In: what a client's connection receives. Out: the same data, and an error where the client left before the end. Trailers are
//! dropped: a field of theirs could speak for somebody else as a header could, and the API server reads none. When the client
//! resets a stream of HTTP/2 with NO_ERROR, hyper ends the body without an error: half a body would pass for a whole one. When
//! the client resets the stream after a whole body, hyper ends the body with an error.

use std::error::Error;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use bytes::{Buf as _, Bytes};
use http::Version;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

/// Why a body ended early.
#[derive(Debug, thiserror::Error)]
#[error("the client left before its request's body was complete")]
struct Truncated;

/// Says of a body, whoever holds it, whether its client broke it off.
#[derive(Debug, Clone, Default)]
pub struct BodyLoss(Arc<AtomicBool>);

impl BodyLoss {
    /// Whether the client left before the body's end.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// A client's body.
#[derive(Debug)]
pub struct ClientBody {
    body: Incoming,
    /// What the client said that it would send, where it did.
    length: Option<u64>,
    received: u64,
    version: Version,
    loss: BodyLoss,
}

impl ClientBody {
    /// The body of a request of this version.
    pub(super) fn new(body: Incoming, version: Version) -> ClientBody {
        ClientBody {
            length: body.size_hint().exact(),
            body,
            received: 0,
            version,
            loss: BodyLoss::default(),
        }
    }

    pub(super) fn loss(&self) -> BodyLoss {
        self.loss.clone()
    }

    fn lost(&self) {
        self.loss.0.store(true, Ordering::Release);
    }

    /// Whether a body that brings no more has brought everything. Only HTTP/2 leaves that open: a stream that was reset is not
    /// at its end, unless the length shows that nothing was missing.
    fn is_whole(&self) -> bool {
        self.version != Version::HTTP_2 || self.body.is_end_stream() || self.length == Some(self.received)
    }
}

impl Body for ClientBody {
    type Data = Bytes;
    type Error = Box<dyn Error + Send + Sync>;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        let mut polled = Pin::new(&mut this.body).poll_frame(cx);
        while matches!(&polled, Poll::Ready(Some(Ok(frame))) if frame.is_trailers()) {
            polled = Pin::new(&mut this.body).poll_frame(cx);
        }
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                this.received += frame.data_ref().map_or(0, |data| data.remaining() as u64);
            }
            // The client got rid of its stream after the last byte, which takes nothing back.
            Poll::Ready(Some(Err(_))) if this.length == Some(this.received) => return Poll::Ready(None),
            Poll::Ready(Some(Err(_))) => this.lost(),
            Poll::Ready(None) if !this.is_whole() => {
                this.lost();
                return Poll::Ready(Some(Err(Truncated.into())));
            }
            Poll::Ready(None) | Poll::Pending => {}
        }
        polled.map_err(Into::into)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

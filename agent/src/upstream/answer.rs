//! A response's body on its way to the client: frames pass one by one, as fast as the slower side takes them.
//!
//! In: what a connection to the API server receives. Out: the same frames, trailers included. The body holds its lease on
//! that connection and gives it back when it ends or is dropped; dropping it resets the stream.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::pool::Lease;

/// What the API server answers.
#[derive(Debug)]
pub struct ResponseBody {
    incoming: Incoming,
    /// None for a connection that serves this one request.
    lease: Option<Lease>,
}

impl ResponseBody {
    pub(super) fn new(incoming: Incoming, lease: Option<Lease>) -> ResponseBody {
        let mut body = ResponseBody { incoming, lease };
        if body.incoming.is_end_stream() {
            body.finish();
        }
        body
    }

    fn finish(&mut self) {
        if let Some(lease) = self.lease.take() {
            lease.finished();
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let body = self.get_mut();
        let frame = Pin::new(&mut body.incoming).poll_frame(cx);
        if matches!(frame, Poll::Ready(None)) || body.incoming.is_end_stream() {
            body.finish();
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

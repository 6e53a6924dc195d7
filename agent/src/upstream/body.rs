//! Bodies on their way through: frames pass one by one, as fast as the slower side takes them.
//!
//! In: what a connection receives. Out: the same frames, trailers included. A response's body holds its place on the
//! connection and gives it back when the body ends or is dropped; dropping it resets the stream upstream.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::pool::Lease;

/// What is sent to the API server.
#[derive(Debug)]
pub enum RequestBody {
    /// No body; such a request can be sent again if it surely was not seen.
    Empty,
    /// The client's.
    Incoming(Incoming),
}

impl From<Incoming> for RequestBody {
    fn from(body: Incoming) -> RequestBody {
        if body.is_end_stream() {
            RequestBody::Empty
        } else {
            RequestBody::Incoming(body)
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.get_mut() {
            RequestBody::Empty => Poll::Ready(None),
            RequestBody::Incoming(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            RequestBody::Empty => true,
            RequestBody::Incoming(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            RequestBody::Empty => SizeHint::with_exact(0),
            RequestBody::Incoming(body) => body.size_hint(),
        }
    }
}

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

//! What a client is answered with: a body of Picket's own, or the API server's as it comes.
//!
//! In: the answer and the request's audit record. Out: the same frames, one by one. The record lives in the body, so it
//! ends when the last byte was taken, when either side fails, or when the client goes away.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf as _, Bytes};
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;

use crate::audit::{EndReason, Record};
use crate::upstream::ResponseBody;

/// A response's body.
pub(super) enum Served {
    /// Picket's own, or none.
    Own(Full<Bytes>),
    /// The API server's.
    Passed(Passed),
}

/// The API server's body with the record of its request.
pub(super) struct Passed {
    body: ResponseBody,
    record: Option<Record>,
    bytes: u64,
}

impl Passed {
    pub(super) fn new(body: ResponseBody, record: Record) -> Passed {
        let mut passed = Passed {
            body,
            record: Some(record),
            bytes: 0,
        };
        if passed.body.is_end_stream() {
            passed.end(EndReason::Completed);
        }
        passed
    }

    fn end(&mut self, how: EndReason) {
        if let Some(mut record) = self.record.take() {
            record.session_bytes(0, self.bytes);
            record.finish(how);
        }
    }
}

impl Drop for Passed {
    fn drop(&mut self) {
        self.end(EndReason::ClientClosed);
    }
}

impl Body for Served {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let passed = match self.get_mut() {
            Served::Own(body) => return Pin::new(body).poll_frame(cx).map_err(|never| match never {}),
            Served::Passed(passed) => passed,
        };
        let frame = Pin::new(&mut passed.body).poll_frame(cx);
        match &frame {
            Poll::Ready(Some(Ok(frame))) => {
                passed.bytes += frame.data_ref().map_or(0, |data| data.remaining() as u64);
                if passed.body.is_end_stream() {
                    passed.end(EndReason::Completed);
                }
            }
            Poll::Ready(Some(Err(_))) => passed.end(EndReason::Failed),
            Poll::Ready(None) => passed.end(EndReason::Completed),
            Poll::Pending => {}
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Served::Own(body) => body.is_end_stream(),
            Served::Passed(passed) => passed.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Served::Own(body) => body.size_hint(),
            Served::Passed(passed) => passed.body.size_hint(),
        }
    }
}

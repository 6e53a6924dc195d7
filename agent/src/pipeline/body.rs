//! What a client is answered with: a body of Picket's own, or the API server's as it comes.
//!
//! In: the answer and the request's audit record. Out: the same frames, one by one. The record lives in the body, so it
//! ends when the last byte was taken, when either side fails, or when the client goes away.

use std::error::Error;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use hyper::body::Incoming;

use super::filtered::{ItemFiltering, ShownBody, Tally};
use super::watched::WatchedBody;
use crate::audit::{EndReason, Record};
use crate::session::{Ending, Terminate};
use crate::upstream::{BodyEnd, CountedBody, HeldLease, OnEnd, UpstreamBody};

/// A response's body.
pub(super) enum ResponseBody {
    /// Picket's own, or none.
    Local(Full<Bytes>),
    /// The API server's.
    Upstream(AuditedBody),
    /// Likewise, while it takes long or is a session's.
    Watched(WatchedBody),
}

/// The API server's body with the record of its request.
pub(super) type AuditedBody = CountedBody<ShownBody<Incoming>, RecordEnd>;

/// The record of a request that ends with its response, and the lease that does.
pub(super) struct RecordEnd {
    record: Record,
    lease: Option<HeldLease>,
    /// What is taken out of the response.
    tally: Option<Arc<Tally>>,
}

impl RecordEnd {
    /// Tells the record what was hidden, and why the response broke off.
    fn tell(tally: Option<&Arc<Tally>>, record: &mut Record) {
        let Some(tally) = tally else {
            return;
        };
        let (items, hidden) = tally.counts();
        record.masked(items, hidden);
        if let Some(failure) = tally.failure() {
            record.error(failure.code(), failure.to_string());
        }
    }
}

/// Puts a record into the body whose end is the record's, and takes out what is hidden.
pub(super) fn audited(
    body: UpstreamBody,
    record: Record,
    filtering: Option<Box<ItemFiltering>>,
) -> AuditedBody {
    let tally = filtering.as_ref().map(|filtering| filtering.tally());
    body.ending(
        |body| ShownBody::new(body, filtering),
        |lease| RecordEnd { record, lease, tally },
    )
}

impl AuditedBody {
    /// Notes in the log that the response goes on; false where the log has no room now.
    pub(super) fn note_started(&mut self) -> bool {
        self.end_mut().is_none_or(|end| end.record.note_started())
    }

    /// Ends the record of a response that the end of the agent breaks off.
    pub(super) fn end_with_agent(&mut self) {
        self.break_off(|record| record.finish(EndReason::Terminated));
    }

    fn break_off(&mut self, end: impl FnOnce(Record)) {
        if let Some((
            RecordEnd {
                mut record,
                lease,
                tally,
            },
            bytes,
        )) = self.take_end()
        {
            RecordEnd::tell(tally.as_ref(), &mut record);
            if let Some(lease) = lease {
                lease.ended(BodyEnd::Dropped, bytes);
            }
            record.session_bytes(0, bytes);
            end(record);
        }
    }
}

impl OnEnd for RecordEnd {
    fn ended(mut self, how: BodyEnd, bytes: u64) {
        if let Some(lease) = self.lease {
            lease.ended(how, bytes);
        }
        Self::tell(self.tally.as_ref(), &mut self.record);
        self.record.session_bytes(0, bytes);
        self.record.finish(match how {
            BodyEnd::Completed => EndReason::Completed,
            BodyEnd::Failed => EndReason::Failed,
            BodyEnd::Dropped => EndReason::ClientClosed,
        });
    }
}

impl Terminate for AuditedBody {
    fn terminate(mut self, ending: &Ending) {
        self.break_off(|record| record.terminated(ending.cause, ending.message()));
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Box<dyn Error + Send + Sync>;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match self.get_mut() {
            ResponseBody::Local(body) => Pin::new(body).poll_frame(cx).map_err(|never| match never {}),
            ResponseBody::Upstream(body) => Pin::new(body).poll_frame(cx),
            ResponseBody::Watched(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            ResponseBody::Local(body) => body.is_end_stream(),
            ResponseBody::Upstream(body) => body.is_end_stream(),
            ResponseBody::Watched(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            ResponseBody::Local(body) => body.size_hint(),
            ResponseBody::Upstream(body) => body.size_hint(),
            ResponseBody::Watched(body) => body.size_hint(),
        }
    }
}

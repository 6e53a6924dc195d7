//! Answers from which hidden objects are taken out as they stream.
//!
//! In: the API server's response to a list or watch, and the [`ItemFilter`] of its permit. Out: the same frames without those
//! objects, and how many there were. What cannot be filtered never reaches the client: before the head it is a refusal, after it
//! the response breaks off, which no client takes for its end.

use std::error::Error;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::Response;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, ETAG, RETRY_AFTER};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use picket_masking::media::Encoding;
use picket_masking::{Filter, FilterError, ItemHead};
use picket_policy::{ItemFilter, Namespaces, Permit, Verb};
use tokio::sync::OwnedSemaphorePermit;

use super::session::Basis;
use crate::listener::PodShare;
use crate::reject::{Rejection, UnfilterableError, WithheldAnswer};
use crate::upstream::{SendError, UpstreamBody, filterable_accept};

/// What a response may hold of an item before the pod's share is asked. Most items are smaller.
const SMALL_ITEM: usize = 16 * 1024;

/// What is held back of a list at most until its first item has come: a Table's columns take a few KB.
const BEGUN: usize = 64 * 1024;

/// What is known of namespaces whenever it is asked.
type KnownNamespaces = Box<dyn Fn() -> Arc<Namespaces> + Send + Sync>;

/// How a response is filtered, from its head on.
pub(super) struct ItemFiltering {
    filter: Filter,
    hidden: Arc<ItemFilter>,
    /// The namespaces of now, where rules select them by labels.
    namespaces: Option<KnownNamespaces>,
    tally: Arc<Tally>,
    share: Arc<PodShare>,
    /// The pod's memory that it has for an item that has come in part.
    room: Option<OwnedSemaphorePermit>,
    /// What was let through before the client was answered.
    begun: Vec<u8>,
    over: bool,
}

/// What became of a filtered response, for its record.
#[derive(Debug, Default)]
pub(super) struct Tally {
    items: AtomicU64,
    hidden: AtomicU64,
    failed: OnceLock<UnfilterableError>,
}

impl Tally {
    /// How many items were looked at, and how many of them hidden.
    pub(super) fn counts(&self) -> (u64, u64) {
        (
            self.items.load(Ordering::Relaxed),
            self.hidden.load(Ordering::Relaxed),
        )
    }

    /// Why the response broke off.
    pub(super) fn failure(&self) -> Option<&UnfilterableError> {
        self.failed.get()
    }
}

/// Checks that the client takes an encoding that can be filtered, before its request is sent.
///
/// # Errors
/// When it takes none.
pub(super) fn check_accept(permit: &Permit) -> Result<(), Rejection> {
    let Some(filter) = permit.filter() else {
        return Ok(());
    };
    match filterable_accept(permit.headers()) {
        Some(_) => Ok(()),
        None => Err(Rejection::Unfilterable(UnfilterableError::Accept(
            filter.to_string(),
        ))),
    }
}

impl ItemFiltering {
    /// Prepares the response with this head for filtering; nothing where nothing is hidden.
    ///
    /// # Errors
    /// When its body is in an encoding that cannot be filtered.
    pub(super) fn of_response<B>(
        basis: &Basis,
        is_head: bool,
        response: &mut Response<B>,
    ) -> Result<Option<Box<ItemFiltering>>, Rejection> {
        let Some(hidden) = basis.filter() else {
            return Ok(None);
        };
        let status = response.status();
        let is_success = status.is_success();
        let headers = response.headers_mut();
        // Its length, or a digest of it, would tell of what is hidden.
        headers.remove(CONTENT_LENGTH);
        headers.remove(ETAG);
        if is_head {
            // There is nothing to read. The body that comes from the API server still knows the length of the whole list.
            let none = Filter::list(Encoding::Json);
            return Ok(Some(Self::new(basis, hidden, none, true)));
        }
        let text = |name| {
            headers
                .get(name)
                .and_then(|value| value.to_str().ok())
                .unwrap_or_default()
        };
        let unreadable = || {
            if !is_success {
                let retry_after = headers.get(RETRY_AFTER);
                return Err(Rejection::Withheld(WithheldAnswer::new(status, retry_after)));
            }
            let error = UnfilterableError::Answer {
                rules: hidden.to_string(),
                media_type: text(CONTENT_TYPE).chars().take(64).collect(),
            };
            Err(Rejection::Unfilterable(error))
        };
        if !matches!(text(CONTENT_ENCODING), "" | "identity") {
            return unreadable();
        }
        let Ok(encoding) = Encoding::of_content_type(text(CONTENT_TYPE)) else {
            return unreadable();
        };
        // What answers a failed watch is one Status.
        let filter = match basis.request().verb == Verb::Watch && is_success {
            true => Filter::watch(encoding),
            false => Filter::list(encoding),
        };
        Ok(Some(Self::new(basis, hidden, filter, false)))
    }

    fn new(basis: &Basis, hidden: &Arc<ItemFilter>, filter: Filter, over: bool) -> Box<ItemFiltering> {
        Box::new(ItemFiltering {
            filter,
            hidden: Arc::clone(hidden),
            namespaces: hidden
                .reads_namespaces()
                .then(|| -> KnownNamespaces { Box::new(basis.namespaces()) }),
            tally: Arc::default(),
            share: Arc::clone(basis.share()),
            room: None,
            begun: Vec::new(),
            over,
        })
    }

    /// Reads a list up to its first item, so that one that cannot be read is most often answered with a refusal. Of a watch nothing may
    /// come for long.
    ///
    /// # Errors
    /// When it cannot be filtered.
    pub(super) async fn begin(&mut self, body: &mut UpstreamBody, verb: Verb) -> Result<(), Rejection> {
        let mut begins = verb == Verb::List;
        while begins && !self.over {
            match body.frame().await {
                Some(Ok(frame)) => {
                    let Ok(piece) = frame.into_data() else { continue };
                    let shown = self.show(&piece).map_err(Rejection::Unfilterable)?;
                    self.begun.extend_from_slice(&shown);
                    begins = self.filter.counts().judged == 0 && self.begun.len() < BEGUN;
                }
                Some(Err(error)) => return Err(Rejection::Upstream(SendError::Interrupted(error))),
                None => self.finish().map_err(Rejection::Unfilterable)?,
            }
        }
        Ok(())
    }

    /// What will have become of it.
    pub(super) fn tally(&self) -> Arc<Tally> {
        Arc::clone(&self.tally)
    }

    fn failure(&self, error: FilterError) -> UnfilterableError {
        UnfilterableError::Content {
            rules: self.hidden.to_string(),
            error,
        }
    }

    /// The body is over; it must have ended in order.
    fn finish(&mut self) -> Result<(), UnfilterableError> {
        self.over = true;
        self.filter
            .finish()
            .map(drop)
            .map_err(|error| self.failure(error))
    }

    /// What of a piece may be shown.
    fn show(&mut self, piece: &[u8]) -> Result<Vec<u8>, UnfilterableError> {
        let mut shown = Vec::with_capacity(piece.len());
        let hidden = &self.hidden;
        let namespaces = self.namespaces.as_ref().map(|known| known());
        let mut hides =
            |item: &ItemHead<'_>| hidden.hides_now(namespaces.as_deref(), item.namespace, item.name);
        let pushed = self.filter.push(piece, &mut hides, &mut shown);
        let counts = self.filter.counts();
        self.tally.items.store(counts.judged, Ordering::Relaxed);
        self.tally.hidden.store(counts.hidden, Ordering::Relaxed);
        pushed.map_err(|error| self.failure(error))?;
        let held = self.filter.held();
        if held <= SMALL_ITEM {
            self.room = None;
        } else if self
            .room
            .as_ref()
            .is_none_or(|room| room.num_permits() * 1024 < held)
        {
            // What it has counts for what it needs: a pod's last item must not wait for itself.
            self.room = None;
            self.room = Some(self.share.filtered(held as u64).ok_or(UnfilterableError::Busy)?);
        }
        Ok(shown)
    }

    /// Nothing more may be shown.
    fn fail(&mut self, failure: UnfilterableError) -> BoxError {
        self.over = true;
        self.room = None;
        let _first = self.tally.failed.set(failure.clone());
        failure.into()
    }
}

/// A response's body, whole or without what is hidden.
pub(super) enum ShownBody<B> {
    /// As it comes.
    Whole(B),
    /// Without hidden objects.
    Filtered(Box<FilteredBody<B>>),
}

/// A body that is filtered.
pub(super) struct FilteredBody<B> {
    body: B,
    filtering: ItemFiltering,
}

impl<B> ShownBody<B> {
    /// The body, filtered where something is hidden.
    pub(super) fn new(body: B, filtering: Option<Box<ItemFiltering>>) -> ShownBody<B> {
        match filtering {
            None => ShownBody::Whole(body),
            Some(filtering) => ShownBody::Filtered(Box::new(FilteredBody {
                body,
                filtering: *filtering,
            })),
        }
    }
}

type BoxError = Box<dyn Error + Send + Sync>;

impl<B> Body for ShownBody<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let FilteredBody { body, filtering } = match self.get_mut() {
            ShownBody::Whole(body) => return Pin::new(body).poll_frame(cx).map_err(Into::into),
            ShownBody::Filtered(filtered) => &mut **filtered,
        };
        if !filtering.begun.is_empty() {
            let begun = std::mem::take(&mut filtering.begun);
            return Poll::Ready(Some(Ok(Frame::data(begun.into()))));
        }
        while !filtering.over {
            let frame = match Pin::new(&mut *body).poll_frame(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => match filtering.finish() {
                    Ok(()) => break,
                    Err(failure) => return Poll::Ready(Some(Err(filtering.fail(failure)))),
                },
                Poll::Ready(Some(Err(error))) => {
                    filtering.over = true;
                    return Poll::Ready(Some(Err(error.into())));
                }
                Poll::Ready(Some(Ok(frame))) => frame,
            };
            // Trailers say nothing that a client of Kubernetes reads, and come after an end that has not been checked.
            let Ok(piece) = frame.into_data() else { continue };
            match filtering.show(&piece) {
                Ok(shown) if shown.is_empty() => {}
                Ok(shown) => return Poll::Ready(Some(Ok(Frame::data(shown.into())))),
                Err(failure) => return Poll::Ready(Some(Err(filtering.fail(failure)))),
            }
        }
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        match self {
            ShownBody::Whole(body) => body.is_end_stream(),
            // Whether the end is in order shows when it is asked for.
            ShownBody::Filtered(filtered) => filtered.filtering.over && filtered.filtering.begun.is_empty(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            ShownBody::Whole(body) => body.size_hint(),
            ShownBody::Filtered(_) => SizeHint::default(),
        }
    }
}

#[cfg(test)]
#[path = "filtered_tests.rs"]
mod tests;

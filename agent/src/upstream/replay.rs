//! A request's body that can be sent again, from its first byte, to an API server that surely did not take it.
//!
//! In: the client's body, and who says whether the request still is permitted. Out: for each try a body with the same bytes,
//! those that policy judged; a try that is superseded gets no more of them. What passed is kept only up to a limit for each
//! request and one for the node: beyond either, a body is sent once.

use std::error::Error;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::{Buf as _, Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use parking_lot::Mutex;

use super::body::{Guard, NoLongerPermitted, RequestBody};

/// What is kept of one body: 99 of 100 objects are smaller, by kube-apiserver's own measure (`resourceBody99Percentile` in
/// k8s.io/apiserver pkg/server/secure_serving.go).
pub(super) const KEPT_PER_REQUEST: usize = 256 * 1024;

/// What is kept of all bodies of the node that are under way: 16,000 writes of 1 KB at once, or 64 of the largest.
const KEPT_PER_NODE: usize = 64 * KEPT_PER_REQUEST;

/// How much the node keeps of bodies. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct ReplayBudget(Arc<AtomicUsize>);

impl Default for ReplayBudget {
    fn default() -> ReplayBudget {
        ReplayBudget(Arc::new(AtomicUsize::new(KEPT_PER_NODE)))
    }
}

impl ReplayBudget {
    #[cfg(test)]
    pub(super) fn with(bytes: usize) -> ReplayBudget {
        ReplayBudget(Arc::new(AtomicUsize::new(bytes)))
    }

    #[cfg(test)]
    pub(super) fn left(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    fn take(&self, bytes: usize) -> bool {
        self.0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                left.checked_sub(bytes)
            })
            .is_ok()
    }
}

/// A body for as many tries as it takes. What is kept is given up when this is dropped.
pub(super) enum Replay {
    /// Nothing to send; it is asked before each further try all the same.
    Empty(Option<Guard>),
    Kept(Arc<Mutex<Shared>>),
}

/// The client's body, and what of it passed.
pub(super) struct Shared {
    source: RequestBody,
    permitted: Option<Guard>,
    /// None once it is more than may be kept, or not all of the body.
    kept: Option<Kept>,
    /// The number of the try that may read.
    turn: u32,
    ended: bool,
}

impl Replay {
    pub(super) fn new(body: RequestBody, budget: &ReplayBudget) -> Replay {
        let (source, permitted) = body.unguarded();
        if source.is_end_stream() {
            return Replay::Empty(permitted);
        }
        Replay::Kept(Arc::new(Mutex::new(Shared {
            source,
            permitted,
            kept: Some(Kept::new(budget.clone())),
            turn: 0,
            ended: false,
        })))
    }

    /// The body for the first try.
    pub(super) fn first(&self) -> RequestBody {
        match self {
            Replay::Empty(_) => RequestBody::Empty,
            Replay::Kept(shared) => RequestBody::Replayed(Box::new(ReplayBody::new(shared, 0))),
        }
    }

    /// Whether the request still is permitted, to be asked right before its head is sent.
    pub(super) fn is_permitted(&self) -> bool {
        match self {
            Replay::Empty(permitted) => asked(permitted),
            Replay::Kept(shared) => asked(&shared.lock().permitted),
        }
    }

    /// The body for one more try, which ends the one before; none where the request is no longer permitted, or where not
    /// every byte that passed is there.
    pub(super) fn again(&self) -> Option<RequestBody> {
        match self {
            Replay::Empty(permitted) => asked(permitted).then_some(RequestBody::Empty),
            Replay::Kept(shared) => {
                // Under one lock: the try before may still be reading.
                let mut state = shared.lock();
                if state.kept.is_none() || !asked(&state.permitted) {
                    return None;
                }
                state.turn += 1;
                Some(RequestBody::Replayed(Box::new(ReplayBody::new(
                    shared, state.turn,
                ))))
            }
        }
    }
}

impl Drop for Replay {
    fn drop(&mut self) {
        if let Replay::Kept(shared) = self {
            // The rest of the body may be under way for long, beside an early answer.
            shared.lock().kept = None;
        }
    }
}

fn asked(permitted: &Option<Guard>) -> bool {
    permitted.as_ref().is_none_or(Guard::is_permitted)
}

/// The bytes that passed.
struct Kept {
    data: Data,
    budget: ReplayBudget,
}

enum Data {
    /// A body most often comes in one piece, which need not be copied.
    Piece(Bytes),
    /// Pieces are copied together: a tiny one may hold a large buffer.
    Pieces(BytesMut),
}

impl Kept {
    fn new(budget: ReplayBudget) -> Kept {
        Kept {
            data: Data::Piece(Bytes::new()),
            budget,
        }
    }

    fn len(&self) -> usize {
        match &self.data {
            Data::Piece(piece) => piece.len(),
            Data::Pieces(pieces) => pieces.len(),
        }
    }

    /// Keeps one more frame, or says that it may not.
    fn add(&mut self, frame: &Frame<Bytes>) -> bool {
        let Some(data) = frame.data_ref().filter(|data| !data.is_empty()) else {
            return true;
        };
        if data.len() > KEPT_PER_REQUEST - self.len() || !self.budget.take(data.len()) {
            return false;
        }
        match &mut self.data {
            Data::Piece(piece) if piece.is_empty() => *piece = data.clone(),
            Data::Piece(piece) => {
                let mut pieces = BytesMut::with_capacity(piece.len() + data.len());
                pieces.extend_from_slice(piece);
                pieces.extend_from_slice(data);
                self.data = Data::Pieces(pieces);
            }
            Data::Pieces(pieces) => pieces.extend_from_slice(data),
        }
        true
    }

    fn from(&self, place: usize) -> Bytes {
        match &self.data {
            Data::Piece(piece) => piece.slice(place..),
            Data::Pieces(pieces) => Bytes::copy_from_slice(&pieces[place..]),
        }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.budget.0.fetch_add(self.len(), Ordering::Relaxed);
    }
}

/// Why a try's body breaks off: another try has it.
#[derive(Debug, thiserror::Error)]
#[error("the request is being sent again")]
struct Superseded;

/// The body of one try.
pub struct ReplayBody {
    shared: Arc<Mutex<Shared>>,
    turn: u32,
    /// How much of the data this try has sent.
    place: usize,
}

impl ReplayBody {
    fn new(shared: &Arc<Mutex<Shared>>, turn: u32) -> ReplayBody {
        ReplayBody {
            shared: Arc::clone(shared),
            turn,
            place: 0,
        }
    }
}

impl std::fmt::Debug for ReplayBody {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("ReplayBody")
            .field("turn", &self.turn)
            .field("place", &self.place)
            .finish_non_exhaustive()
    }
}

type Polled = Poll<Option<Result<Frame<Bytes>, Box<dyn Error + Send + Sync>>>>;

impl Shared {
    /// The next frame: one that is kept, or the client's next.
    fn next(&mut self, place: &mut usize, cx: &mut Context<'_>) -> Polled {
        if let Some(kept) = &self.kept
            && *place < kept.len()
        {
            let data = kept.from(*place);
            *place = kept.len();
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        if self.ended {
            return Poll::Ready(None);
        }
        let polled = Pin::new(&mut self.source).poll_frame(cx);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                *place += frame.data_ref().map_or(0, |data| data.remaining());
                if self.kept.as_mut().is_some_and(|kept| !kept.add(frame)) {
                    self.kept = None;
                }
            }
            Poll::Ready(Some(Err(_))) => self.kept = None,
            Poll::Ready(None) => self.ended = true,
            Poll::Pending => {}
        }
        polled
    }
}

impl Body for ReplayBody {
    type Data = Bytes;
    type Error = Box<dyn Error + Send + Sync>;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled {
        let body = self.get_mut();
        let mut shared = body.shared.lock();
        if shared.turn != body.turn {
            return Poll::Ready(Some(Err(Superseded.into())));
        }
        let polled = shared.next(&mut body.place, cx);
        if polled.is_ready() && !asked(&shared.permitted) {
            shared.kept = None;
            return Poll::Ready(Some(Err(NoLongerPermitted.into())));
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        let shared = self.shared.lock();
        let sent = shared.kept.as_ref().is_none_or(|kept| self.place == kept.len());
        sent && (shared.ended || shared.source.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        let shared = self.shared.lock();
        let again = shared
            .kept
            .as_ref()
            .map_or(0, |kept| (kept.len() - self.place) as u64);
        let rest = shared.source.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(again + rest.lower());
        if let Some(upper) = rest.upper() {
            hint.set_upper(again + upper);
        }
        hint
    }
}

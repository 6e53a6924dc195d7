//! A request's body on its way to the API server.
//!
//! In: what a client's connection receives. Out: the same data: frame by frame as fast as the slower side takes them, or,
//! where a decision needs the body, after it was read up to a limit.
//!
//! A client can hold a body back for as long as it likes, and the API server acts when it has all of it. So whether the
//! request still would be permitted is asked before each frame and before the end; where it would not, the body breaks off.
//! What has no body is asked about right before it is sent.

use std::collections::VecDeque;
use std::error::Error;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf as _, Bytes, BytesMut};
use http::Version;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use picket_policy::BodyInput;

use super::client_body::{BodyLoss, ClientBody};
use super::replay::ReplayBody;

/// What is sent to the API server.
#[derive(Debug)]
pub enum RequestBody {
    /// No body.
    Empty,
    /// The client's, as it comes.
    Incoming(ClientBody),
    /// The client's, as far as it was read for a decision, and what is still to come.
    Buffered(Box<Buffered>),
    /// No body, of a request that is sent only while it is permitted.
    GuardedEmpty(Guard),
    /// One of these, for as long as its request is permitted.
    Guarded(Box<Guarded>),
    /// One of these, for one of several tries.
    Replayed(Box<ReplayBody>),
}

/// Knows whether a request that is under way still is permitted.
pub trait StillPermitted: Send + Sync {
    /// Whether it is, by what holds now.
    fn is_permitted(&self) -> bool;
}

impl<F: Fn() -> bool + Send + Sync> StillPermitted for F {
    fn is_permitted(&self) -> bool {
        self()
    }
}

/// Asked before anything of a request is sent.
#[derive(Clone)]
pub struct Guard(Arc<dyn StillPermitted>);

impl Guard {
    pub(super) fn is_permitted(&self) -> bool {
        self.0.is_permitted()
    }
}

impl std::fmt::Debug for Guard {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_tuple("Guard").finish_non_exhaustive()
    }
}

/// A body that goes on only while its request is permitted.
#[derive(Debug)]
pub struct Guarded {
    body: RequestBody,
    permitted: Guard,
}

/// Why a body broke off that its client did not break off.
#[derive(Debug, thiserror::Error)]
#[error("the request is no longer permitted, so its body was not sent to the end")]
pub(super) struct NoLongerPermitted;

/// A body that was read for a decision.
#[derive(Debug)]
pub struct Buffered {
    /// All of the body's data, where it kept to the limit.
    whole: Option<Bytes>,
    frames: VecDeque<Frame<Bytes>>,
    rest: Option<ClientBody>,
}

impl RequestBody {
    /// The body of a client's request of this version, and who knows whether the client breaks it off.
    #[must_use]
    pub fn of_client(body: Incoming, version: Version) -> (RequestBody, BodyLoss) {
        if body.is_end_stream() {
            return (RequestBody::Empty, BodyLoss::default());
        }
        let body = ClientBody::new(body, version);
        let loss = body.loss();
        (RequestBody::Incoming(body), loss)
    }

    /// A body of Picket's own.
    pub(super) fn of_bytes(bytes: Bytes) -> RequestBody {
        RequestBody::Buffered(Box::new(Buffered {
            whole: Some(bytes.clone()),
            frames: VecDeque::from([Frame::data(bytes)]),
            rest: None,
        }))
    }

    /// What was judged, in place of what the client sent.
    #[must_use]
    pub fn judged(bytes: impl Into<Bytes>) -> RequestBody {
        Self::of_bytes(bytes.into())
    }

    /// Reads the body as long as it keeps to `limit` bytes. Nothing of it is lost: it is sent as it came.
    ///
    /// # Errors
    /// When the client breaks off.
    pub async fn buffer(&mut self, limit: usize) -> Result<(), Box<dyn Error + Send + Sync>> {
        let RequestBody::Incoming(incoming) = self else {
            return Ok(());
        };
        let mut buffered = Buffered {
            whole: None,
            frames: VecDeque::new(),
            rest: None,
        };
        // A body that announces its size is not read in vain.
        let mut too_large = incoming.size_hint().lower() > limit as u64;
        let mut data = BytesMut::new();
        while !too_large && let Some(frame) = incoming.frame().await {
            // There are no others: the client's trailers were dropped.
            let Ok(bytes) = frame?.into_data() else { continue };
            too_large = bytes.len() > limit - data.len();
            if too_large {
                buffered.frames.push_back(Frame::data(bytes));
            } else {
                data.extend_from_slice(&bytes);
            }
        }
        let data = data.freeze();
        if !data.is_empty() {
            buffered.frames.push_front(Frame::data(data.clone()));
        }
        let taken = std::mem::replace(self, RequestBody::Empty);
        match taken {
            RequestBody::Incoming(rest) if too_large => buffered.rest = Some(rest),
            _ => buffered.whole = Some(data),
        }
        *self = RequestBody::Buffered(Box::new(buffered));
        Ok(())
    }

    /// The same body, which breaks off once the request is no longer permitted, and is not sent again then.
    #[must_use]
    pub fn guarded(self, permitted: Arc<dyn StillPermitted>) -> RequestBody {
        let permitted = Guard(permitted);
        match self {
            RequestBody::Empty => RequestBody::GuardedEmpty(permitted),
            body => RequestBody::Guarded(Box::new(Guarded { body, permitted })),
        }
    }

    /// The body, and who says whether its request still is permitted.
    pub(super) fn unguarded(self) -> (RequestBody, Option<Guard>) {
        match self {
            RequestBody::GuardedEmpty(permitted) => (RequestBody::Empty, Some(permitted)),
            RequestBody::Guarded(guarded) => (guarded.body, Some(guarded.permitted)),
            body => (body, None),
        }
    }

    /// Whether the request still is permitted, to be asked right before its head is sent.
    pub(super) fn is_permitted(&self) -> bool {
        match self {
            RequestBody::GuardedEmpty(permitted) => permitted.is_permitted(),
            RequestBody::Guarded(guarded) => guarded.permitted.is_permitted(),
            _ => true,
        }
    }

    /// The body, where all of it was read.
    #[must_use]
    pub fn whole(&self) -> Option<Bytes> {
        match self {
            RequestBody::Empty | RequestBody::GuardedEmpty(_) => Some(Bytes::new()),
            RequestBody::Incoming(_) | RequestBody::Replayed(_) => None,
            RequestBody::Guarded(guarded) => guarded.body.whole(),
            RequestBody::Buffered(buffered) => buffered.whole.clone(),
        }
    }

    /// The body for a decision.
    #[must_use]
    pub fn buffered(&self) -> BodyInput<'_> {
        match self {
            RequestBody::Empty | RequestBody::GuardedEmpty(_) => BodyInput::Whole(&[]),
            RequestBody::Incoming(_) | RequestBody::Replayed(_) => BodyInput::Unread,
            RequestBody::Guarded(guarded) => guarded.body.buffered(),
            RequestBody::Buffered(buffered) => match &buffered.whole {
                Some(whole) => BodyInput::Whole(whole),
                None => BodyInput::TooLarge,
            },
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Box<dyn Error + Send + Sync>;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match self.get_mut() {
            RequestBody::Empty | RequestBody::GuardedEmpty(_) => Poll::Ready(None),
            RequestBody::Incoming(body) => Pin::new(body).poll_frame(cx),
            RequestBody::Replayed(body) => Pin::new(&mut **body).poll_frame(cx),
            RequestBody::Buffered(buffered) => match (buffered.frames.pop_front(), &mut buffered.rest) {
                (Some(frame), _) => Poll::Ready(Some(Ok(frame))),
                (None, Some(rest)) => Pin::new(rest).poll_frame(cx),
                (None, None) => Poll::Ready(None),
            },
            RequestBody::Guarded(guarded) => {
                let polled = Pin::new(&mut guarded.body).poll_frame(cx);
                if polled.is_ready() && !guarded.permitted.is_permitted() {
                    return Poll::Ready(Some(Err(NoLongerPermitted.into())));
                }
                polled
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            RequestBody::Empty | RequestBody::GuardedEmpty(_) => true,
            RequestBody::Incoming(body) => body.is_end_stream(),
            RequestBody::Replayed(body) => body.is_end_stream(),
            RequestBody::Buffered(buffered) => {
                buffered.frames.is_empty() && buffered.rest.as_ref().is_none_or(Body::is_end_stream)
            }
            RequestBody::Guarded(guarded) => guarded.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            RequestBody::Empty | RequestBody::GuardedEmpty(_) => SizeHint::with_exact(0),
            RequestBody::Incoming(body) => body.size_hint(),
            RequestBody::Replayed(body) => body.size_hint(),
            RequestBody::Guarded(guarded) => guarded.body.size_hint(),
            RequestBody::Buffered(buffered) => {
                let read: u64 = buffered
                    .frames
                    .iter()
                    .filter_map(Frame::data_ref)
                    .map(|data| data.remaining() as u64)
                    .sum();
                let rest = buffered
                    .rest
                    .as_ref()
                    .map_or(SizeHint::with_exact(0), Body::size_hint);
                let mut hint = SizeHint::new();
                hint.set_lower(read + rest.lower());
                if let Some(upper) = rest.upper() {
                    hint.set_upper(read + upper);
                }
                hint
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;

    use super::super::tests::client::{listening, received};
    use super::*;

    /// Longest body that the tests read.
    const LIMIT: usize = 8;

    /// The data that is sent on, without a trailer.
    async fn sent(body: RequestBody) -> Bytes {
        let collected = body.collect().await.expect("whole");
        assert_eq!(collected.trailers(), None);
        collected.to_bytes()
    }

    #[tokio::test]
    async fn a_body_within_the_limit_is_seen_and_sent_whole() {
        let mut body = received(&["abc", "defgh", "trailer:1"], None).await;
        assert_eq!(body.buffered(), BodyInput::Unread);
        body.buffer(LIMIT).await.expect("read");
        assert_eq!(body.buffered(), BodyInput::Whole(b"abcdefgh"));
        assert_eq!(body.size_hint().exact(), Some(8));
        assert!(!body.is_end_stream());
        assert_eq!(sent(body).await, "abcdefgh");
    }

    #[tokio::test]
    async fn trailers_stay_behind_whether_a_body_is_read_or_not() {
        for pieces in [&["abc", "trailer:1"][..], &["trailer:1"]] {
            let whole: String = pieces
                .iter()
                .filter(|piece| !piece.starts_with("trailer"))
                .copied()
                .collect();
            assert_eq!(sent(received(pieces, None).await).await, whole);
            for limit in [LIMIT, 1] {
                let mut body = received(pieces, None).await;
                body.buffer(limit).await.expect("read");
                assert_eq!(sent(body).await, whole);
            }
        }
    }

    #[tokio::test]
    async fn a_body_over_the_limit_is_told_and_sent_whole() {
        for (pieces, length) in [
            (&["abcdefgh", "i", "jkl", "trailer:1"][..], None),
            (&["abc", "defghijkl"][..], Some(12)),
        ] {
            let mut body = received(pieces, length).await;
            body.buffer(LIMIT).await.expect("read");
            assert_eq!(body.buffered(), BodyInput::TooLarge, "{pieces:?}");
            assert!(body.size_hint().lower() >= length.unwrap_or_default() as u64);
            assert_eq!(sent(body).await, "abcdefghijkl");
        }
    }

    #[tokio::test]
    async fn no_body_is_an_empty_one_and_can_be_sent_again() {
        let mut body = received(&[], Some(0)).await;
        assert_eq!(body.buffered(), BodyInput::Whole(b""));
        body.buffer(LIMIT).await.expect("nothing to read");
        assert!(matches!(body, RequestBody::Empty));
    }

    #[tokio::test]
    async fn a_client_that_breaks_off_is_an_error() {
        let (mut near, mut bodies) = listening();
        let sent = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nabc";
        near.write_all(sent).await.expect("sent");
        drop(near);
        let body = bodies.recv().await.expect("a body");
        let (mut body, loss) = RequestBody::of_client(body, Version::HTTP_11);
        assert!(body.buffer(LIMIT).await.is_err() && loss.is_lost());
    }
}

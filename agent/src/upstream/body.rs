//! A request's body on its way to the API server.
//!
//! In: what a client's connection receives. Out: the same bytes, trailers included: frame by frame as fast as the slower
//! side takes them, or, where a decision needs the body, after it was read up to a limit.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf as _, Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use picket_policy::BodyInput;

/// What is sent to the API server.
#[derive(Debug)]
pub enum RequestBody {
    /// No body; such a request can be sent again if it surely was not seen.
    Empty,
    /// The client's, as it comes.
    Incoming(Incoming),
    /// The client's, as far as it was read for a decision, and what is still to come.
    Buffered(Box<Buffered>),
}

/// A body that was read for a decision.
#[derive(Debug)]
pub struct Buffered {
    /// All of the body's data, where it kept to the limit.
    whole: Option<Bytes>,
    frames: VecDeque<Frame<Bytes>>,
    rest: Option<Incoming>,
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

impl RequestBody {
    /// Reads the body as long as it keeps to `limit` bytes. Nothing of it is lost: it is sent as it came.
    ///
    /// # Errors
    /// When the client breaks off.
    pub async fn buffer(&mut self, limit: usize) -> hyper::Result<()> {
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
        let (mut data, mut trailers) = (BytesMut::new(), None);
        while !too_large && let Some(frame) = incoming.frame().await {
            match frame?.into_data() {
                Ok(bytes) => {
                    too_large = bytes.len() > limit - data.len();
                    if too_large {
                        buffered.frames.push_back(Frame::data(bytes));
                    } else {
                        data.extend_from_slice(&bytes);
                    }
                }
                Err(frame) => trailers = Some(frame),
            }
        }
        let data = data.freeze();
        if !data.is_empty() {
            buffered.frames.push_front(Frame::data(data.clone()));
        }
        buffered.frames.extend(trailers);
        let taken = std::mem::replace(self, RequestBody::Empty);
        match taken {
            RequestBody::Incoming(rest) if too_large => buffered.rest = Some(rest),
            _ => buffered.whole = Some(data),
        }
        *self = RequestBody::Buffered(Box::new(buffered));
        Ok(())
    }

    /// The body for a decision.
    #[must_use]
    pub fn buffered(&self) -> BodyInput<'_> {
        match self {
            RequestBody::Empty => BodyInput::Whole(&[]),
            RequestBody::Incoming(_) => BodyInput::Unread,
            RequestBody::Buffered(buffered) => match &buffered.whole {
                Some(whole) => BodyInput::Whole(whole),
                None => BodyInput::TooLarge,
            },
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
            RequestBody::Buffered(buffered) => match (buffered.frames.pop_front(), &mut buffered.rest) {
                (Some(frame), _) => Poll::Ready(Some(Ok(frame))),
                (None, Some(rest)) => Pin::new(rest).poll_frame(cx),
                (None, None) => Poll::Ready(None),
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            RequestBody::Empty => true,
            RequestBody::Incoming(body) => body.is_end_stream(),
            RequestBody::Buffered(buffered) => {
                buffered.frames.is_empty() && buffered.rest.as_ref().is_none_or(Body::is_end_stream)
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            RequestBody::Empty => SizeHint::with_exact(0),
            RequestBody::Incoming(body) => body.size_hint(),
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

//! A body that is counted as it passes, and that tells whoever waits for its end how it ended.
//!
//! In: a body, and what must live until its end: the lease of a connection, an audit record. Out: the same frames, one by
//! one, as fast as the slower side takes them, trailers included. Dropping the body ends it, and resets its stream.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf as _, Bytes};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::pool::ConnectionLease;

/// How a body ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyEnd {
    /// The last byte was taken.
    Completed,
    /// The side that sends it failed.
    Failed,
    /// The side that takes it went away.
    Dropped,
}

/// What waits for the end of a body.
pub trait OnEnd {
    /// Called once. `bytes` is how much of the body passed.
    fn ended(self, how: BodyEnd, bytes: u64);
}

/// A body with what waits for its end.
#[derive(Debug)]
pub struct CountedBody<B, E: OnEnd> {
    body: B,
    tail: Tail<E>,
}

/// The count, apart from the body so that the body can be moved out of it.
#[derive(Debug)]
struct Tail<E: OnEnd> {
    on_end: Option<E>,
    bytes: u64,
}

impl<E: OnEnd> Tail<E> {
    fn end(&mut self, how: BodyEnd) {
        if let Some(on_end) = self.on_end.take() {
            on_end.ended(how, self.bytes);
        }
    }
}

impl<E: OnEnd> Drop for Tail<E> {
    fn drop(&mut self) {
        self.end(BodyEnd::Dropped);
    }
}

impl<B: Body<Data = Bytes> + Unpin, E: OnEnd> CountedBody<B, E> {
    /// A body that ends `on_end`, at once where nothing of it is to come.
    pub fn new(body: B, on_end: E) -> CountedBody<B, E> {
        let mut counted = CountedBody {
            body,
            tail: Tail {
                on_end: Some(on_end),
                bytes: 0,
            },
        };
        if counted.body.is_end_stream() {
            counted.tail.end(BodyEnd::Completed);
        }
        counted
    }

    /// What `wrap` makes of the same body, with something else to end. `change` gets what has not been ended yet.
    pub fn ending<C, F>(
        self,
        wrap: impl FnOnce(B) -> C,
        change: impl FnOnce(Option<E>) -> F,
    ) -> CountedBody<C, F>
    where
        C: Body<Data = Bytes> + Unpin,
        F: OnEnd,
    {
        let CountedBody { body, mut tail } = self;
        CountedBody::new(wrap(body), change(tail.on_end.take()))
    }

    /// What waits for the end.
    pub fn end_mut(&mut self) -> Option<&mut E> {
        self.tail.on_end.as_mut()
    }

    /// Takes out what waits for the end, with the bytes so far, for whoever ends the body in another way.
    pub fn take_end(&mut self) -> Option<(E, u64)> {
        Some((self.tail.on_end.take()?, self.tail.bytes))
    }
}

impl<B: Body<Data = Bytes> + Unpin, E: OnEnd + Unpin> Body for CountedBody<B, E> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let CountedBody { body, tail } = self.get_mut();
        let frame = Pin::new(&mut *body).poll_frame(cx);
        match &frame {
            Poll::Ready(Some(Ok(frame))) => {
                tail.bytes += frame.data_ref().map_or(0, |data| data.remaining() as u64);
                if body.is_end_stream() {
                    tail.end(BodyEnd::Completed);
                }
            }
            Poll::Ready(Some(Err(_))) => tail.end(BodyEnd::Failed),
            Poll::Ready(None) => tail.end(BodyEnd::Completed),
            Poll::Pending => {}
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// What the API server answers, with the lease of the connection that it comes over.
pub type UpstreamBody = CountedBody<Incoming, HeldLease>;

/// The lease behind a response; none for a connection that serves this one request.
#[derive(Debug)]
pub struct HeldLease(pub(super) Option<ConnectionLease>);

impl OnEnd for HeldLease {
    fn ended(self, how: BodyEnd, _bytes: u64) {
        // A connection whose response broke off serves no other: dropping the lease closes it.
        if let (BodyEnd::Completed, Some(lease)) = (how, self.0) {
            lease.finished();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use http_body_util::{BodyExt as _, Full, StreamBody};

    use super::*;

    #[derive(Clone, Default)]
    struct Log(Rc<RefCell<Vec<(BodyEnd, u64)>>>);

    impl OnEnd for Log {
        fn ended(self, how: BodyEnd, bytes: u64) {
            self.0.borrow_mut().push((how, bytes));
        }
    }

    fn frames(
        frames: Vec<Result<&'static str, &'static str>>,
    ) -> impl Body<Data = Bytes, Error = &'static str> + Unpin {
        StreamBody::new(futures::stream::iter(frames.into_iter().map(|frame| {
            frame.map(|text| Frame::data(Bytes::from_static(text.as_bytes())))
        })))
    }

    #[tokio::test]
    async fn an_end_is_told_once_and_with_what_passed() {
        let log = Log::default();
        let body = CountedBody::new(frames(vec![Ok("ab"), Ok("cde")]), log.clone());
        assert_eq!(body.collect().await.expect("a body").to_bytes(), "abcde");
        assert_eq!(*log.0.borrow(), [(BodyEnd::Completed, 5)]);

        let log = Log::default();
        let body = CountedBody::new(frames(vec![Ok("ab"), Err("gone")]), log.clone());
        assert_eq!(body.collect().await.err(), Some("gone"));
        assert_eq!(*log.0.borrow(), [(BodyEnd::Failed, 2)]);

        let log = Log::default();
        let mut body = CountedBody::new(frames(vec![Ok("ab"), Ok("c")]), log.clone());
        assert!(body.frame().await.is_some());
        drop(body);
        assert_eq!(*log.0.borrow(), [(BodyEnd::Dropped, 2)]);
    }

    #[test]
    fn an_empty_body_ends_at_once_and_a_changed_end_only_once() {
        let log = Log::default();
        let body = CountedBody::new(Full::new(Bytes::new()), log.clone());
        assert_eq!(*log.0.borrow(), [(BodyEnd::Completed, 0)]);
        let second = Log::default();
        let body = body.ending(
            |body| body,
            |first| {
                assert!(first.is_none(), "it has been reported");
                second.clone()
            },
        );
        assert_eq!(*second.0.borrow(), [(BodyEnd::Completed, 0)]);
        drop(body);
        assert_eq!((log.0.borrow().len(), second.0.borrow().len()), (1, 1));

        let log = Log::default();
        let mut body = CountedBody::new(Full::new(Bytes::from_static(b"x")), log.clone());
        assert!(body.take_end().is_some_and(|(_, bytes)| bytes == 0));
        drop(body);
        assert!(log.0.borrow().is_empty(), "whoever took the end tells it");
    }
}

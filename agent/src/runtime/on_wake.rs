//! A future that is polled only once it was woken itself.
//!
//! In: what ends a connection in the end, such as a cancellation that all connections share. Out: the same, for a `select!` beside
//! the connection. The connection wakes for each request, and `select!` then polls its other branches too; a cancellation that
//! is polled takes locks that every thread takes.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures::Stream as _;
use futures::stream::FuturesUnordered;

/// The future, with a waker of its own.
#[derive(Debug)]
pub struct OnWake<F>(FuturesUnordered<F>);

impl<F: Future> OnWake<F> {
    /// Wraps a future; it is polled for the first time with the wrapper.
    #[must_use]
    pub fn new(future: F) -> Self {
        Self(std::iter::once(future).collect())
    }
}

impl<F: Future> Future for OnWake<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        match Pin::new(&mut self.0).poll_next(cx) {
            Poll::Ready(Some(output)) => Poll::Ready(output),
            // It has given its output before; nobody polls it then.
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::future::poll_fn;

    use tokio_util::sync::CancellationToken;

    use super::*;

    #[tokio::test]
    async fn a_future_that_was_not_woken_is_left_alone() {
        let (polls, token) = (Cell::new(0), CancellationToken::new());
        let cancelled = token.clone().cancelled_owned();
        let mut cancelled = Box::pin(cancelled);
        let mut counted = OnWake::new(poll_fn(|cx| {
            polls.set(polls.get() + 1);
            cancelled.as_mut().poll(cx)
        }));
        for _ in 0..5 {
            // What a connection does that has work.
            let polled = poll_fn(|cx| Poll::Ready(Pin::new(&mut counted).poll(cx))).await;
            assert!(polled.is_pending());
        }
        assert_eq!(polls.get(), 1);
        token.cancel();
        counted.await;
        assert_eq!(polls.get(), 2);
    }
}

//! Ending in order: connections are asked to finish, get a limited time to do so, and are then closed.
//!
//! In: the futures that serve connections. Out: how many had to be closed.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::FutureExt as _;
use hyper::rt::Executor;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::on_wake::OnWake;

/// How long the parts of connections that were closed may take to notice. They are woken at once, so this is for a node that has
/// no time for them; what they leave unwritten then is lost.
const PARTS_LIMIT: Duration = Duration::from_secs(5);

/// The connections being served, and the two signals that end them; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Drain {
    tracker: TaskTracker,
    parts: Parts,
    finish: CancellationToken,
    close: CancellationToken,
    /// Beside `close`, whose lock all connections would take to ask.
    closed: Arc<AtomicBool>,
}

impl Drain {
    /// Fires when no new work is to be taken and what is under way should come to its end.
    #[must_use]
    pub fn finishing(&self) -> CancellationToken {
        self.finish.clone()
    }

    /// Serves one connection as a task of its own, which is dropped when the limit of [`Drain::drain`] has passed.
    pub fn serve(&self, connection: impl Future<Output = ()> + Send + 'static) {
        self.serve_on(&Handle::current(), connection);
    }

    /// Likewise, on another runtime.
    pub fn serve_on(&self, runtime: &Handle, connection: impl Future<Output = ()> + Send + 'static) {
        let close = OnWake::new(self.close.clone().cancelled_owned());
        // Boxed: an async block would have room for the connection twice, where it is captured and where it is polled.
        let served = futures::future::select(Box::pin(connection), close).map(drop);
        self.tracker.spawn_on(served, runtime);
    }

    /// Runs the parts of the connections that are served, to be waited for too.
    #[must_use]
    pub fn parts(&self) -> Parts {
        self.parts.clone()
    }

    /// Whether the limit has passed: what is still open then is closed by the agent, and not by its client.
    #[must_use]
    pub fn has_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// The connections open now.
    #[must_use]
    pub fn open(&self) -> usize {
        self.tracker.len()
    }

    /// Asks every connection to finish, waits for `limit`, and closes the rest; gives the number that was closed.
    pub async fn drain(&self, limit: Duration) -> usize {
        self.finish.cancel();
        self.tracker.close();
        let left = match tokio::time::timeout(limit, self.tracker.wait()).await {
            Ok(()) => 0,
            Err(_) => {
                let left = self.tracker.len();
                self.closed.store(true, Ordering::Release);
                self.close.cancel();
                self.tracker.wait().await;
                left
            }
        };
        self.parts.end().await;
        // What the parts handed over at their end.
        self.tracker.wait().await;
        left
    }
}

/// Tasks that belong to connections: hyper serves each HTTP/2 stream in one, which ends by itself once its connection has, but
/// a moment later. The audit record of a stream's request ends with its task, so the process must not end before.
#[derive(Debug, Clone, Default)]
pub struct Parts(TaskTracker);

impl Parts {
    async fn end(&self) {
        self.0.close();
        if tokio::time::timeout(PARTS_LIMIT, self.0.wait()).await.is_err() {
            tracing::warn!(parts = self.0.len(), "parts of connections do not end in time");
        }
    }
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Parts {
    fn execute(&self, part: F) {
        self.0.spawn(part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn waits_for_those_that_finish_and_closes_those_that_do_not() {
        let drain = Drain::default();
        let finishing = drain.finishing();
        drain.serve(async move { finishing.cancelled().await });
        drain.serve(std::future::pending());
        assert_eq!(drain.open(), 2);
        assert!(!drain.has_closed());
        assert_eq!(drain.drain(Duration::from_millis(50)).await, 1);
        assert_eq!(drain.open(), 0);
        assert!(drain.has_closed());
    }

    #[tokio::test]
    async fn waits_for_the_parts_of_a_connection_that_was_closed() {
        let drain = Drain::default();
        let (connection, ends) = tokio::sync::oneshot::channel::<()>();
        let (noticed, mut notices) = tokio::sync::oneshot::channel();
        drain.parts().execute(async move {
            let _closed = ends.await;
            tokio::task::yield_now().await;
            noticed.send(()).unwrap();
        });
        drain.serve(async move {
            let _held = connection;
            std::future::pending().await
        });
        assert_eq!(drain.drain(Duration::from_millis(50)).await, 1);
        assert!(notices.try_recv().is_ok());
    }
}

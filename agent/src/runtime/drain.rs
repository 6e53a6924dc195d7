//! Ending in order: connections are told to finish, get a limited time to do so, and are then cut.
//!
//! In: the futures that serve connections. Out: a report of how many had to be cut.

use std::future::Future;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The connections being served, and the two signals that end them; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Drain {
    tracker: TaskTracker,
    finish: CancellationToken,
    cut: CancellationToken,
}

impl Drain {
    /// Fires when no new work is to be taken and what is under way should come to its end.
    #[must_use]
    pub fn finishing(&self) -> CancellationToken {
        self.finish.clone()
    }

    /// Serves one connection as a task of its own, which is dropped when the limit of [`Drain::drain`] has passed.
    pub fn serve(&self, connection: impl Future<Output = ()> + Send + 'static) {
        let cut = self.cut.clone();
        self.tracker.spawn(async move {
            tokio::select! {
                () = connection => {}
                () = cut.cancelled() => {}
            }
        });
    }

    /// The connections open now.
    #[must_use]
    pub fn open(&self) -> usize {
        self.tracker.len()
    }

    /// Asks every connection to finish, waits for `limit`, and cuts the rest; gives the number that was cut.
    pub async fn drain(&self, limit: Duration) -> usize {
        self.finish.cancel();
        self.tracker.close();
        if tokio::time::timeout(limit, self.tracker.wait()).await.is_ok() {
            return 0;
        }
        let left = self.tracker.len();
        self.cut.cancel();
        self.tracker.wait().await;
        left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn waits_for_those_that_finish_and_cuts_those_that_do_not() {
        let drain = Drain::default();
        let finishing = drain.finishing();
        drain.serve(async move { finishing.cancelled().await });
        drain.serve(std::future::pending());
        assert_eq!(drain.open(), 2);
        assert_eq!(drain.drain(Duration::from_millis(50)).await, 1);
        assert_eq!(drain.open(), 0);
    }
}

//! Destroys connections that were open to an address before that address became a protected endpoint.
//!
//! In: notifications that other protected endpoints are in force. Out: calls that read the protected endpoints and destroy
//! connections to new ones. A notification stays due until both calls have succeeded; later notifications join in.

use std::future::Future;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::runtime::backoff::Backoff;

/// How often connections are destroyed after protected endpoints were added, as after a pod is enforced: those that were on their
/// way when the sockets were listed are established by the second round.
const ROUNDS: u32 = 2;
const BETWEEN_ROUNDS: Duration = Duration::from_secs(3);

/// Pauses after a failure; the longest is as long as the time between two checks of an enforced pod.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// What is still to be done.
struct Due {
    /// The protected endpoints have changed, and were not read since.
    unread: bool,
    /// Rounds that have not succeeded yet.
    rounds: u32,
    /// When to go on without a notification.
    at: Option<Instant>,
    backoff: Backoff,
}

/// Follows the notifications for as long as it is polled. `read` says whether some protected endpoints are new, and `destroy` ends
/// the connections to all of them; both are called again after they failed.
pub(super) async fn follow<R, D>(changed: &Notify, read: impl Fn() -> R, destroy: impl Fn() -> D)
where
    R: Future<Output = anyhow::Result<bool>>,
    D: Future<Output = anyhow::Result<()>>,
{
    let mut due = Due {
        unread: false,
        rounds: 0,
        at: None,
        backoff: Backoff::exact(FIRST_PAUSE, LONGEST_PAUSE),
    };
    loop {
        let timer = due.at;
        tokio::select! {
            () = changed.notified() => due.unread = true,
            () = async { tokio::time::sleep_until(timer.unwrap_or_else(Instant::now)).await }, if timer.is_some() => {}
        }
        if due.unread {
            match read().await {
                Ok(new) => due.was_read(new),
                Err(error) => due.failed(
                    &error,
                    "the agent cannot read the protected endpoints from the kernel",
                ),
            }
        }
        if due.rounds > 0 && due.at.is_some_and(|at| at <= Instant::now()) {
            match destroy().await {
                Ok(()) => due.round_done(),
                Err(error) => due.failed(
                    &error,
                    "the agent cannot destroy all connections to new protected endpoints",
                ),
            }
        }
    }
}

impl Due {
    fn was_read(&mut self, new: bool) {
        self.unread = false;
        if new {
            self.rounds = ROUNDS;
            self.at = Some(Instant::now());
        }
        if self.rounds == 0 {
            self.done();
        }
    }

    fn round_done(&mut self) {
        self.rounds -= 1;
        if self.rounds == 0 && !self.unread {
            self.done();
        } else {
            self.at = Some(Instant::now() + BETWEEN_ROUNDS);
        }
    }

    fn done(&mut self) {
        self.at = None;
        self.backoff.reset();
    }

    fn failed(&mut self, error: &anyhow::Error, message: &str) {
        let pause = self.backoff.pause();
        tracing::error!(error = format!("{error:#}"), retry_in = ?pause, "{message}");
        self.at = Some(Instant::now() + pause);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use super::*;

    /// What was called, and how the calls go.
    #[derive(Default)]
    struct Fake {
        calls: RefCell<Vec<&'static str>>,
        unreadable: Cell<u32>,
        undestroyed: Cell<u32>,
    }

    impl Fake {
        fn fails(left: &Cell<u32>) -> anyhow::Result<()> {
            let before = left.get();
            left.set(before.saturating_sub(1));
            anyhow::ensure!(before == 0, "not now");
            Ok(())
        }

        async fn calls(&self, changed: &Notify, new: bool, time: Duration) -> Vec<&'static str> {
            let read = async || {
                self.calls.borrow_mut().push("read");
                Self::fails(&self.unreadable).map(|()| new)
            };
            let destroy = async || {
                self.calls.borrow_mut().push("destroy");
                Self::fails(&self.undestroyed)
            };
            let follow = follow(changed, read, destroy);
            assert!(tokio::time::timeout(time, follow).await.is_err());
            self.calls.take()
        }
    }

    const MINUTE: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn a_change_is_not_lost_where_the_protected_endpoints_are_unreadable_at_that_moment() {
        let (fake, changed) = (Fake::default(), Notify::new());
        fake.unreadable.set(2);
        changed.notify_one();
        let calls = fake.calls(&changed, true, MINUTE).await;
        assert_eq!(calls, ["read", "read", "read", "destroy", "destroy"]);
    }

    #[tokio::test(start_paused = true)]
    async fn connections_are_destroyed_again_where_that_failed() {
        let (fake, changed) = (Fake::default(), Notify::new());
        fake.undestroyed.set(2);
        changed.notify_one();
        let calls = fake.calls(&changed, true, MINUTE).await;
        assert_eq!(calls, ["read", "destroy", "destroy", "destroy", "destroy"]);
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_destroyed_where_no_protected_endpoint_is_new() {
        let (fake, changed) = (Fake::default(), Notify::new());
        changed.notify_one();
        assert_eq!(fake.calls(&changed, false, MINUTE).await, ["read"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_that_lasts_hides_no_later_change() {
        let (fake, changed) = (Fake::default(), Notify::new());
        fake.undestroyed.set(u32::MAX);
        changed.notify_one();
        let again = async {
            tokio::time::sleep(MINUTE).await;
            changed.notify_one();
        };
        let (calls, ()) = tokio::join!(fake.calls(&changed, true, 2 * MINUTE), again);
        assert_eq!(
            calls.iter().filter(|call| **call == "read").count(),
            2,
            "{calls:?}"
        );
        assert!((10..20).contains(&calls.len()), "at a slow pace: {}", calls.len());
    }
}

//! What one pod may have of the node at once, beside its connections, so that no pod takes what the others need.
//!
//! In: what a pod's connections ask for. Out: places, in the order in which they were asked for.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Tunnels (exec, attach, port-forward) of one pod at once. Each has a connection to the API server of its own and two buffers
/// of 16 KB; the node has 1,024.
pub const TUNNELS_PER_POD: usize = 128;

/// Requests of one pod under way at once, watches included: a quarter of what the audit log and the connections to the API
/// server carry for the node. Further ones wait until one ends.
const REQUESTS_PER_POD: usize = 8192;

/// HTTP/2 connections of one pod that may carry as many requests at once as any client wants; further ones carry a few. An agent
/// has one such connection for each client library that runs in it, seldom more than ten.
const WIDE_CONNECTIONS: usize = 32;

/// Bytes of records that refusals of one pod may write: 128 a second of 2 KB each, and 4 MB at once, as a client that looks
/// around is refused some hundred times. Requests of a pod that wrote more wait until that much time has passed. At this rate
/// it takes a pod more than an hour to turn over a spool of 1 GB.
const REFUSALS_PER_SECOND: u64 = 256 * 1024;
const REFUSALS_AT_ONCE: u64 = 4 * 1024 * 1024;

/// Responses of one pod that may have a large flow-control window (256 KB) on the API server's side. Further ones have 16 KB each,
/// so that 1,000 lists of which their clients read nothing hold 32 MB of the node's memory.
const LARGE_WINDOWS: usize = 64;

/// Likewise of watches and followed logs, apart: their events are small, and a list has its window beside a thousand watches.
const LARGE_WINDOWS_FOLLOWING: usize = 32;

/// Long heads of one pod that are read at once, and their kilobytes while their requests are under way; a node reads 8 and
/// holds 32 MB.
const HEADS_READ: usize = 2;
const HEAD_KILOBYTES: usize = 8 * 1024;

/// Kilobytes of bodies of one pod that are read for rules and kept with their requests until these end: two objects of the largest size,
/// or hundreds of usual ones. Where each value is alone in a mapping, a body takes 85 times its bytes once it is read, and 90 MB at most, so
/// that a pod takes some 350 MB at its worst. Further requests wait.
const JUDGED_KILOBYTES: usize = 4 * 1024;

/// Kilobytes of items that have come in part, in responses of one pod from which rules hide objects: forty of the largest size that etcd
/// takes. A response for which there is no room is refused, or breaks off where it has begun.
const FILTERED_KILOBYTES: usize = 64 * 1024;

/// How much of each a share has.
#[derive(Debug, Clone, Copy)]
pub(super) struct ShareLimits {
    pub(super) wide: usize,
    pub(super) tunnels: usize,
    pub(super) requests: usize,
    pub(super) windows: usize,
    pub(super) windows_following: usize,
    pub(super) heads_read: usize,
    pub(super) head_kilobytes: usize,
    pub(super) judged_kilobytes: usize,
    pub(super) filtered_kilobytes: usize,
}

impl ShareLimits {
    /// A pod's.
    pub(super) const POD: Self = Self {
        wide: WIDE_CONNECTIONS,
        tunnels: TUNNELS_PER_POD,
        requests: REQUESTS_PER_POD,
        windows: LARGE_WINDOWS,
        windows_following: LARGE_WINDOWS_FOLLOWING,
        heads_read: HEADS_READ,
        head_kilobytes: HEAD_KILOBYTES,
        judged_kilobytes: JUDGED_KILOBYTES,
        filtered_kilobytes: FILTERED_KILOBYTES,
    };
}

/// The share of one pod, or of one caller of the gateway.
#[derive(Debug)]
pub struct PodShare {
    wide: Arc<Semaphore>,
    /// Places for tunnels.
    pub tunnels: Arc<Semaphore>,
    /// Places for requests; given in the order in which they were asked for.
    pub requests: Arc<Semaphore>,
    /// Large windows of responses that end by themselves, and of watches and followed logs.
    windows: Arc<Semaphore>,
    windows_following: Arc<Semaphore>,
    /// Long heads that are being read.
    pub heads_read: Arc<Semaphore>,
    /// Kilobytes of long heads whose requests are under way.
    pub head_kilobytes: Arc<Semaphore>,
    /// Kilobytes of bodies that are judged.
    judged_kilobytes: Arc<Semaphore>,
    /// Kilobytes of items of filtered responses.
    filtered_kilobytes: Arc<Semaphore>,
    began: Instant,
    /// Microseconds since `began` until which the refusals so far have used the pod's share; 0 before the first one.
    refusals_until: AtomicU64,
}

impl Default for PodShare {
    fn default() -> PodShare {
        PodShare::with(ShareLimits::POD)
    }
}

/// A started one counts.
fn kilobytes(bytes: u64) -> u32 {
    u32::try_from(bytes / 1024 + 1).unwrap_or(u32::MAX)
}

fn micros(bytes: u64) -> u64 {
    bytes * 1_000_000 / REFUSALS_PER_SECOND
}

impl PodShare {
    pub(super) fn with(limits: ShareLimits) -> PodShare {
        let places = |count| Arc::new(Semaphore::new(count));
        PodShare {
            wide: places(limits.wide),
            tunnels: places(limits.tunnels),
            requests: places(limits.requests),
            windows: places(limits.windows),
            windows_following: places(limits.windows_following),
            heads_read: places(limits.heads_read),
            head_kilobytes: places(limits.head_kilobytes),
            judged_kilobytes: places(limits.judged_kilobytes),
            filtered_kilobytes: places(limits.filtered_kilobytes),
            began: Instant::now(),
            refusals_until: AtomicU64::new(0),
        }
    }

    /// The right of one more HTTP/2 connection to carry many requests at once, until it is dropped.
    #[must_use]
    pub fn wide(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.wide).try_acquire_owned().ok()
    }

    /// Room for a body of so many bytes, in the order of asking. None once the share is closed.
    pub async fn judged(&self, bytes: u64) -> Option<OwnedSemaphorePermit> {
        let judged = Arc::clone(&self.judged_kilobytes);
        judged.acquire_many_owned(kilobytes(bytes)).await.ok()
    }

    /// Likewise, where there is room at once.
    #[must_use]
    pub fn judged_at_once(&self, bytes: u64) -> Option<OwnedSemaphorePermit> {
        let judged = Arc::clone(&self.judged_kilobytes);
        judged.try_acquire_many_owned(kilobytes(bytes)).ok()
    }

    /// Room for so many bytes of an item of a filtered response, where there is room at once.
    #[must_use]
    pub fn filtered(&self, bytes: u64) -> Option<OwnedSemaphorePermit> {
        let filtered = Arc::clone(&self.filtered_kilobytes);
        filtered.try_acquire_many_owned(kilobytes(bytes)).ok()
    }

    /// A place for a tunnel, where one is left.
    #[must_use]
    pub fn tunnel(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.tunnels).try_acquire_owned().ok()
    }

    /// The right of one more response to have a large window, where one is left. `follow` is of a watch or a followed log.
    #[must_use]
    pub fn large_window(&self, follow: bool) -> Option<OwnedSemaphorePermit> {
        let windows = match follow {
            true => &self.windows_following,
            false => &self.windows,
        };
        Arc::clone(windows).try_acquire_owned().ok()
    }

    /// A place for a request, at once where one is left, and else when it is its turn.
    pub async fn request(&self) -> Option<OwnedSemaphorePermit> {
        let place = match Arc::clone(&self.requests).try_acquire_owned() {
            Ok(place) => Some(place),
            // Boxed: few wait, and what that takes would be part of every request's future. Nobody closes the semaphore.
            Err(_) => Box::pin(Arc::clone(&self.requests).acquire_owned()).await.ok(),
        };
        while let Some(wait) = self.refusals_wait(self.now()) {
            Box::pin(tokio::time::sleep(wait)).await;
        }
        place
    }

    /// Notes that a refusal wrote a record of so many bytes.
    pub fn refused(&self, bytes: usize) {
        self.note_refusal(bytes as u64, self.now());
    }

    /// Whether a refusal was noted.
    #[cfg(test)]
    pub fn has_refused(&self) -> bool {
        self.refusals_until.load(Ordering::Relaxed) != 0
    }

    fn now(&self) -> u64 {
        self.began.elapsed().as_micros() as u64
    }

    fn note_refusal(&self, bytes: u64, now: u64) {
        let next = |until: u64| Some(until.max(now) + micros(bytes).max(1));
        // The closure always gives a value.
        let _noted = self
            .refusals_until
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
    }

    /// How long the pod's next request has to wait for what its refusals wrote.
    fn refusals_wait(&self, now: u64) -> Option<Duration> {
        let until = self.refusals_until.load(Ordering::Relaxed);
        let wait = until.saturating_sub(now + micros(REFUSALS_AT_ONCE));
        (wait > 0).then(|| Duration::from_micros(wait))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORD: u64 = 2048;

    #[test]
    fn a_pod_writes_so_many_bytes_of_refusals_a_second_and_no_more() {
        let (share, mut now, mut written) = (PodShare::default(), 0, 0);
        while now < 60_000_000 {
            match share.refusals_wait(now) {
                Some(wait) => now += wait.as_micros() as u64,
                None => {
                    share.note_refusal(RECORD, now);
                    written += RECORD;
                }
            }
        }
        let most = REFUSALS_AT_ONCE + 60 * REFUSALS_PER_SECOND;
        assert!((most..=most + 2 * RECORD).contains(&written), "{written}");
    }

    #[tokio::test]
    async fn what_is_judged_and_filtered_takes_each_started_kilobyte() {
        assert_eq!([0, 1023, 1024, 4000].map(kilobytes), [1, 1, 2, 4]);
        assert_eq!(kilobytes(u64::MAX), u32::MAX);
        let share = PodShare::default();
        let most = (JUDGED_KILOBYTES as u64 - 1) * 1024;
        let held = share.judged(most).await.expect("all of it");
        assert!(share.judged_at_once(0).is_none());
        drop(held);
        let held = share.judged_at_once(most).expect("all of it");
        assert!(share.judged_at_once(0).is_none());
        drop(held);
        let most = (FILTERED_KILOBYTES as u64 - 1) * 1024;
        let held = share.filtered(most).expect("all of it");
        assert!(share.filtered(0).is_none());
        drop(held);
        assert!(share.filtered(u64::MAX).is_none());
    }

    #[test]
    fn a_pod_that_is_refused_now_and_then_never_waits() {
        let share = PodShare::default();
        for second in 0..1000 {
            for _ in 0..100 {
                assert_eq!(share.refusals_wait(second * 1_000_000), None);
                share.note_refusal(RECORD, second * 1_000_000);
            }
        }
    }
}

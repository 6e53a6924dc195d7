//! Responses whose bodies take long, though they are no sessions: noted in the audit log while they run, judged again, and
//! ended where their clients have stopped taking them.
//!
//! In: a response's body on its way to a client, sessions' too. Out: the same frames. A client decides how fast it takes a
//! response. Until the last byte is taken there is no last record, and up to 320 KB wait in the node's memory.

use std::collections::HashMap;
use std::error::Error;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use parking_lot::Mutex;
use tokio::time::MissedTickBehavior;

use super::Pipeline;
use super::body::AuditedBody;
use super::session::Basis;
use crate::listener::PodShare;
use crate::reject::Rejection;
use crate::runtime::drain::Drain;
use crate::runtime::workers;
use crate::session::{Ending, SessionBody, Slot, Stop as _};
use crate::upstream::StillPermitted as _;

/// How often they are looked at, and how old one is before it is noted: most responses are over within milliseconds.
const BODY_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// How long a client may take nothing of a response, as with all of a connection (`client`).
const STALL_LIMIT: Duration = Duration::from_secs(600);

/// Responses of one pod that their clients have stopped taking. Each holds a window on the API server's side (256 KB, and 16 KB beyond
/// the pod's share of large ones) and 64 KB on the client's, so that these are 33 MB at most; the ones that have stood still for
/// longest are ended first.
const STALLED_PER_POD: usize = 128;

/// All responses under way; cheap to clone. Each thread of the data path has a list of its own, whose lock nobody else takes but
/// the look once a second.
#[derive(Clone)]
pub(super) struct WatchedBodies(Arc<Shared>);

struct Shared {
    open: Box<[Mutex<Open>]>,
    drain: Drain,
}

#[derive(Default)]
struct Open {
    last: u64,
    bodies: HashMap<u64, Arc<Watched>>,
}

/// One response under way.
struct Watched {
    slot: Arc<Slot<AuditedBody>>,
    /// Tells its pod from others.
    pod: Arc<PodShare>,
    began: Instant,
    /// Microseconds after `began`, plus one, at which the client was given what it has not gone beyond; 0 while it waits for
    /// the API server.
    stalled: AtomicU64,
    noted: AtomicBool,
    ended: AtomicBool,
    /// What it is judged by; none for a session, which is judged by itself.
    basis: Option<Arc<Basis>>,
}

impl Watched {
    /// The client has what there was.
    fn gave(&self) {
        let at = self.began.elapsed().as_micros() as u64 + 1;
        self.stalled.store(at, Ordering::Relaxed);
    }

    /// The client asks for more.
    fn asked(&self) {
        self.stalled.store(0, Ordering::Relaxed);
    }

    /// For how long the client has taken nothing.
    fn stalled(&self) -> Option<Duration> {
        let at = self.stalled.load(Ordering::Relaxed);
        let since = Duration::from_micros(at.checked_sub(1)?);
        Some(self.began.elapsed().saturating_sub(since))
    }

    fn end(&self, rejection: &Rejection) {
        self.ended.store(true, Ordering::Relaxed);
        let ending = Ending {
            cause: rejection.code(),
            status: rejection.status(self.basis.as_ref().map(|basis| basis.request())),
            since: Instant::now(),
        };
        self.slot.stop(&Arc::new(ending));
    }
}

/// Which of one pod's stalled responses are ended; they are given with how long each has stalled.
fn too_many<T>(mut stalled: Vec<(Duration, T)>) -> impl Iterator<Item = T> {
    stalled.sort_by_key(|(time, _)| std::cmp::Reverse(*time));
    let beyond = stalled.len().saturating_sub(STALLED_PER_POD);
    let ended = stalled.into_iter().enumerate();
    ended.filter_map(move |(at, (time, one))| (at < beyond || time >= STALL_LIMIT).then_some(one))
}

impl WatchedBodies {
    /// None yet. `drain` ends those that are left when the agent stops.
    pub(super) fn new(drain: Drain) -> WatchedBodies {
        WatchedBodies(Arc::new(Shared {
            open: (0..workers::count().get()).map(|_| Mutex::default()).collect(),
            drain,
        }))
    }

    /// How many clients have taken nothing for so long.
    #[cfg(test)]
    pub(super) fn stalled(&self, age: Duration) -> usize {
        let of_list = |list: &Mutex<Open>| {
            let open = list.lock();
            let stalled = open.bodies.values().filter_map(|watched| watched.stalled());
            stalled.filter(|time| *time >= age).count()
        };
        self.0.open.iter().map(of_list).sum()
    }

    /// Watches a response of this pod.
    pub(super) fn watch(
        &self,
        slot: Arc<Slot<AuditedBody>>,
        body: SessionBody<AuditedBody>,
        pod: Arc<PodShare>,
        basis: Option<Arc<Basis>>,
    ) -> WatchedBody {
        let watched = Arc::new(Watched {
            slot,
            pod,
            began: Instant::now(),
            // Until it first asks.
            stalled: AtomicU64::new(1),
            noted: AtomicBool::new(basis.is_none()),
            ended: AtomicBool::new(false),
            basis,
        });
        let list = workers::current() % self.0.open.len();
        let mut open = self.0.open[list].lock();
        open.last += 1;
        let number = open.last;
        open.bodies.insert(number, Arc::clone(&watched));
        drop(open);
        WatchedBody {
            body,
            watched,
            list,
            number,
            all: self.clone(),
        }
    }
}

/// The frames of a response that is watched.
pub(super) struct WatchedBody {
    body: SessionBody<AuditedBody>,
    watched: Arc<Watched>,
    /// Where it is listed, and as what.
    list: usize,
    number: u64,
    all: WatchedBodies,
}

impl Body for WatchedBody {
    type Data = Bytes;
    type Error = Box<dyn Error + Send + Sync>;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let body = self.get_mut();
        body.watched.asked();
        let frame = Pin::new(&mut body.body).poll_frame(cx);
        if frame.is_ready() {
            body.watched.gave();
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

impl Drop for WatchedBody {
    fn drop(&mut self) {
        if self.all.0.drain.has_closed() {
            // The agent closed the connection as it stopped; the client did not.
            self.watched.slot.while_running(AuditedBody::end_with_agent);
        }
        let gone = self.all.0.open[self.list].lock().bodies.remove(&self.number);
        // Outside the lock.
        drop(gone);
    }
}

impl Pipeline {
    /// Looks at the responses under way until the future is dropped.
    pub(super) async fn watch_bodies(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(BODY_CHECK_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.check_bodies(BODY_CHECK_INTERVAL);
        }
    }

    /// One look, at those that are at least so old.
    pub(super) fn check_bodies(&self, age: Duration) {
        let mut open = Vec::new();
        for list in &self.watched.0.open {
            open.extend(list.lock().bodies.values().cloned());
        }
        let mut stalled: HashMap<*const PodShare, Vec<(Duration, Arc<Watched>)>> = HashMap::new();
        // One that was ended stays in the list until its connection lets it go, and must not cost another its place.
        open.retain(|watched| watched.began.elapsed() >= age && !watched.ended.load(Ordering::Relaxed));
        for watched in open {
            if !note_and_judge(&watched) {
                watched.end(&Rejection::NoLongerPermitted);
                continue;
            }
            if let Some(time) = watched.stalled().filter(|time| *time >= age) {
                stalled
                    .entry(Arc::as_ptr(&watched.pod))
                    .or_default()
                    .push((time, watched));
            }
        }
        for watched in stalled.into_values().flat_map(too_many) {
            watched.end(&Rejection::Stalled);
        }
    }
}

/// Notes a long response once; false where it is no longer permitted.
fn note_and_judge(watched: &Watched) -> bool {
    let Some(basis) = &watched.basis else {
        return true;
    };
    if !watched.noted.load(Ordering::Relaxed) {
        let noted = watched.slot.while_running(AuditedBody::note_started);
        // Where the log is full, the next look tries again.
        watched.noted.store(noted.unwrap_or(true), Ordering::Relaxed);
    }
    basis.is_permitted()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_stalled_end_first_and_none_stands_still_for_ever() {
        let seconds = |count: u64| {
            (0..count)
                .map(|at| (Duration::from_secs(at), at))
                .collect::<Vec<_>>()
        };
        assert_eq!(too_many(seconds(STALLED_PER_POD as u64)).count(), 0);
        let ended: Vec<_> = too_many(seconds(STALLED_PER_POD as u64 + 2)).collect();
        assert_eq!(ended, [STALLED_PER_POD as u64 + 1, STALLED_PER_POD as u64]);
        assert_eq!(too_many(vec![(STALL_LIMIT, ())]).count(), 1);
    }
}

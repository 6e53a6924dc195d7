//! Who waits for a stream while all are taken, and which pod's turn it is.
//!
//! In: requests that found no connection with a free stream. Out: leases, as streams come free and connections open. Pods take
//! turns: a pod with a thousand requests in the queue delays another pod's by one stream and not by a thousand.

use std::collections::VecDeque;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash as _, Hasher as _};
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use picket_policy::{Principal, ServiceAccount};
use tokio::sync::oneshot;

use super::ConnectionLease;
use crate::upstream::SendError;

/// Connections that open at once for those who wait. A crowd of 3,000 watches needs 30, and one handshake after another would
/// take seconds; the API server should not meet all of them in one moment.
const OPENING_AT_ONCE: usize = 8;

/// The pod or the gateway's client that a request comes from, as far as turns go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::upstream) struct PodKey(pub(in crate::upstream) u64);

impl PodKey {
    pub(in crate::upstream) fn of(principal: &Principal) -> PodKey {
        let mut hasher = DefaultHasher::new();
        principal.origin().hash(&mut hasher);
        PodKey(hasher.finish())
    }

    /// Of requests for this account's tokens, which take turns as a pod of their own does.
    pub(in crate::upstream) fn of_account(account: &ServiceAccount) -> PodKey {
        let mut hasher = DefaultHasher::new();
        account.hash(&mut hasher);
        PodKey(hasher.finish())
    }
}

/// Why those who waited get nothing. (A `SendError` can be given to one only.)
#[derive(Debug, Clone)]
pub(super) enum NoStream {
    Unreachable(String),
    Exhausted,
}

impl From<SendError> for NoStream {
    fn from(error: SendError) -> NoStream {
        match error {
            SendError::Exhausted => NoStream::Exhausted,
            error => NoStream::Unreachable(match error {
                SendError::Unreachable(reason) => reason,
                error => error.to_string(),
            }),
        }
    }
}

impl From<NoStream> for SendError {
    fn from(reason: NoStream) -> SendError {
        match reason {
            NoStream::Unreachable(reason) => SendError::Unreachable(reason),
            NoStream::Exhausted => SendError::Exhausted,
        }
    }
}

/// Where one request waits.
pub(super) type Waiter<T> = oneshot::Sender<Result<T, NoStream>>;

/// The queue of one pool.
#[derive(Debug)]
pub(super) struct Waiting<T = ConnectionLease> {
    /// How many wait, for whoever only wants to know whether anybody does.
    count: AtomicUsize,
    state: Mutex<State<T>>,
}

#[derive(Debug)]
struct State<T> {
    /// The pods whose requests wait; the first one has the next turn.
    pods: VecDeque<(PodKey, VecDeque<Waiter<T>>)>,
    opening: usize,
}

impl<T> Default for Waiting<T> {
    fn default() -> Waiting<T> {
        let state = State {
            pods: VecDeque::new(),
            opening: 0,
        };
        Waiting {
            count: AtomicUsize::new(0),
            state: Mutex::new(state),
        }
    }
}

impl<T> Waiting<T> {
    pub(super) fn is_empty(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }

    /// Queues up behind the same pod's requests.
    pub(super) fn join(&self, pod: PodKey) -> oneshot::Receiver<Result<T, NoStream>> {
        let (turn, waiting) = oneshot::channel();
        let mut state = self.state.lock();
        match state.pods.iter_mut().find(|(queued, _)| *queued == pod) {
            Some((_, turns)) => turns.push_back(turn),
            None => state.pods.push_back((pod, VecDeque::from([turn]))),
        }
        self.count.fetch_add(1, Ordering::AcqRel);
        waiting
    }

    /// Whose turn it is, of those who still wait.
    pub(super) fn next(&self) -> Option<Waiter<T>> {
        let mut state = self.state.lock();
        while let Some((pod, mut turns)) = state.pods.pop_front() {
            let turn = turns.pop_front();
            if !turns.is_empty() {
                state.pods.push_back((pod, turns));
            }
            let Some(turn) = turn else { continue };
            self.count.fetch_sub(1, Ordering::AcqRel);
            if !turn.is_closed() {
                return Some(turn);
            }
        }
        None
    }

    /// Notes that a connection is to be opened, where those that are opening carry fewer than wait.
    pub(super) fn begin_opening(&self, per_connection: usize) -> bool {
        let mut state = self.state.lock();
        let waiting = self.count.load(Ordering::Acquire);
        let more = state.opening < OPENING_AT_ONCE && state.opening * per_connection < waiting;
        state.opening += usize::from(more);
        more
    }

    /// Notes that one is open, or failed.
    pub(super) fn end_opening(&self) {
        self.state.lock().opening -= 1;
    }

    /// Sends everybody away, unless a connection is still opening: they may get that.
    pub(super) fn fail(&self, reason: &NoStream) {
        let all = {
            let mut state = self.state.lock();
            if state.opening > 0 {
                return;
            }
            self.count.store(0, Ordering::Release);
            std::mem::take(&mut state.pods)
        };
        for turn in all.into_iter().flat_map(|(_, turns)| turns) {
            // Whoever went away meanwhile needs no reason.
            let _gone = turn.send(Err(reason.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Who gets the numbers from 0 on, in the order in which they were queued.
    fn order(pods: &[u64]) -> Vec<Option<usize>> {
        let waiting = Waiting::<usize>::default();
        let mut queued: Vec<_> = pods.iter().map(|pod| waiting.join(PodKey(*pod))).collect();
        for number in 0..pods.len() {
            let turn = waiting.next().expect("somebody waits");
            turn.send(Ok(number)).expect("it waits");
        }
        assert!(waiting.is_empty() && waiting.next().is_none());
        queued
            .iter_mut()
            .map(|turn| turn.try_recv().expect("a turn").ok())
            .collect()
    }

    #[test]
    fn pods_take_turns_and_a_crowd_delays_nobody() {
        assert_eq!(order(&[1, 1, 1, 1, 2]), [0, 2, 3, 4, 1].map(Some));
        assert_eq!(order(&[1, 1, 2, 2, 3]), [0, 3, 1, 4, 2].map(Some));
    }

    #[test]
    fn who_went_away_gets_no_turn() {
        let waiting = Waiting::<usize>::default();
        drop(waiting.join(PodKey(1)));
        let mut stays = waiting.join(PodKey(1));
        waiting.next().expect("one waits").send(Ok(7)).expect("it waits");
        assert_eq!(stays.try_recv().expect("a turn").ok(), Some(7));
    }

    #[test]
    fn as_many_connections_open_as_those_who_wait_need_and_a_failure_is_the_last_one_s() {
        let waiting = Waiting::<usize>::default();
        assert!(!waiting.begin_opening(100));
        let mut all: Vec<_> = (0..250).map(|_| waiting.join(PodKey(1))).collect();
        assert!(waiting.begin_opening(100) && waiting.begin_opening(100) && waiting.begin_opening(100));
        assert!(!waiting.begin_opening(100));
        let failure = NoStream::Unreachable("refused".to_owned());
        for _ in 0..2 {
            waiting.end_opening();
            waiting.fail(&failure);
            assert!(!waiting.is_empty(), "others are opening");
        }
        waiting.end_opening();
        waiting.fail(&failure);
        assert!(waiting.is_empty());
        assert!(all.iter_mut().all(|turn| matches!(turn.try_recv(), Ok(Err(_)))));
        let _many: Vec<_> = (0..5_000).map(|_| waiting.join(PodKey(1))).collect();
        let opening = (0..50).filter(|_| waiting.begin_opening(100)).count();
        assert_eq!(opening, OPENING_AT_ONCE);
    }
}

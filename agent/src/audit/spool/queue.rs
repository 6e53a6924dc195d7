//! The queue between those who record and the thread that writes.
//!
//! In: lines, and who waits for them to be on disk. Out: as many at once as there are, in their order.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::audit::AuditError;
use crate::audit::event::Event;

/// A short wait that lets records gather, so that a busy node wakes the writer 200 times a second at most and not
/// once for each record. Records that must be on disk never wait for it.
const GATHER: Duration = Duration::from_millis(5);

/// So many waiting records end the gathering early.
const GATHER_LIMIT: usize = 512;

/// Where somebody waits for a line to be on disk.
pub(in crate::audit) type Done = oneshot::Sender<Result<(), AuditError>>;

/// One piece of work for the writer.
pub(in crate::audit) enum Item {
    /// A line; `room` is given back once it is written, `done` is called once it is on disk.
    Line {
        /// What to write.
        event: Box<Event>,
        /// Its reserved room, and its bytes among those that wait.
        room: Reservation,
        /// Who waits for it.
        done: Option<Done>,
    },
    /// Tells when everything before it is on disk.
    Flush(Done),
}

/// A line's room, given back when dropped.
pub(in crate::audit) struct Reservation {
    bytes: usize,
    waiting: Arc<AtomicUsize>,
    _slot: OwnedSemaphorePermit,
}

impl Reservation {
    /// The room of a line of so many bytes, which count among `waiting` until it is written.
    pub(in crate::audit) fn of(
        slot: OwnedSemaphorePermit,
        bytes: usize,
        waiting: &Arc<AtomicUsize>,
    ) -> Reservation {
        waiting.fetch_add(bytes, Relaxed);
        Reservation {
            bytes,
            waiting: Arc::clone(waiting),
            _slot: slot,
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.waiting.fetch_sub(self.bytes, Relaxed);
    }
}

/// What the writer has to do next.
pub(in crate::audit) enum Work {
    /// Items to write.
    Items,
    /// Nothing came for the given time.
    Idle,
    /// Every handle is gone.
    Closed,
}

/// A queue that many push to and one thread empties. Its length is bounded by the capacity that the log reserves.
#[derive(Default)]
pub(in crate::audit) struct Queue {
    state: Mutex<QueueState>,
    wake: Condvar,
    /// Whether the file is shared with another process; the writer looks before each batch.
    shared: AtomicBool,
}

#[derive(Default)]
struct QueueState {
    items: Vec<Item>,
    /// Something waits for the disk.
    urgent: bool,
    /// The writer sleeps until something comes; once woken it gathers, and only urgent items wake it again.
    asleep: bool,
    closed: bool,
}

impl Queue {
    pub(in crate::audit) fn push(&self, item: Item, urgent: bool) {
        self.push_all(std::iter::once(item), urgent);
    }

    /// Pushes several at once, in their order.
    pub(in crate::audit) fn push_all(&self, items: impl Iterator<Item = Item>, urgent: bool) {
        let mut state = self.state.lock();
        let before = state.items.len();
        state.items.extend(items);
        let first_urgent = urgent && !state.urgent;
        state.urgent |= urgent;
        let full = before < GATHER_LIMIT && state.items.len() >= GATHER_LIMIT;
        let wake = first_urgent || state.asleep || full;
        state.asleep = false;
        drop(state);
        if wake {
            self.wake.notify_one();
        }
    }

    /// Says whether another process writes to the file too.
    pub(in crate::audit) fn share(&self, shared: bool) {
        self.shared.store(shared, Relaxed);
    }

    pub(in crate::audit) fn shared(&self) -> bool {
        self.shared.load(Relaxed)
    }

    pub(in crate::audit) fn close(&self) {
        self.state.lock().closed = true;
        self.wake.notify_one();
    }

    /// Waits for items, at most for `patience`, and moves them behind those in `items`.
    pub(in crate::audit) fn take(&self, items: &mut Vec<Item>, patience: Option<Duration>) -> Work {
        let mut state = self.state.lock();
        if state.items.is_empty() && !state.closed {
            state.asleep = true;
            let sleeping = |state: &mut QueueState| state.items.is_empty() && !state.closed;
            match patience {
                None => self.wake.wait_while(&mut state, sleeping),
                Some(patience) => {
                    self.wake.wait_while_for(&mut state, sleeping, patience);
                }
            }
            state.asleep = false;
        }
        if state.items.is_empty() {
            return if state.closed { Work::Closed } else { Work::Idle };
        }
        let gathering =
            |state: &mut QueueState| !state.urgent && !state.closed && state.items.len() < GATHER_LIMIT;
        self.wake.wait_while_for(&mut state, gathering, GATHER);
        items.append(&mut state.items);
        state.urgent = false;
        Work::Items
    }
}

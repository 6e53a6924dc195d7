//! What the spool's writer tells everybody else: which segments there are, how far they are written, and what holds them up.
//!
//! In: the writer's word after each batch. Out: the end that sinks may read to, and numbers for metrics. What is behind that
//! end may be truncated, so nobody reads it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::segment::{Position, Segment, SegmentId};

/// The spool, as those see it who do not write.
#[derive(Debug, Default)]
pub struct SpoolView {
    state: Mutex<State>,
    changed: Condvar,
    rotations: AtomicU64,
    removed: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    segments: Vec<Segment>,
    held_by: Vec<String>,
    /// The writer has ended.
    closed: bool,
    /// Sinks that run.
    reading: usize,
    /// Grows with each change.
    version: u64,
}

impl SpoolView {
    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state.lock();
        change(&mut state);
        state.version += 1;
        drop(state);
        self.changed.notify_all();
    }

    /// The spool consists of these segments now.
    pub(in crate::audit) fn holds(&self, segments: Vec<Segment>) {
        self.change(|state| state.segments = segments);
    }

    /// The last segment is written up to here.
    pub(super) fn wrote(&self, id: SegmentId, length: u64) {
        self.change(|state| {
            if let Some(last) = state.segments.last_mut().filter(|last| last.id == id) {
                last.length = length;
            }
        });
    }

    /// Sinks that hold up the spool; none while there is room.
    pub(super) fn hold(&self, sinks: &[String]) {
        let mut state = self.state.lock();
        if state.held_by != sinks {
            state.held_by = sinks.to_vec();
        }
    }

    pub(super) fn rotated(&self) {
        self.rotations.fetch_add(1, Relaxed);
    }

    pub(super) fn removed(&self, count: usize) {
        self.removed
            .fetch_add(u64::try_from(count).unwrap_or(u64::MAX), Relaxed);
    }

    /// No more lines come.
    pub(in crate::audit) fn close(&self) {
        self.change(|state| state.closed = true);
    }

    /// The segments, the oldest first, as far as they are written.
    #[must_use]
    pub fn segments(&self) -> Vec<Segment> {
        self.state.lock().segments.clone()
    }

    /// Where the last line ends.
    #[must_use]
    pub fn end(&self) -> Option<Position> {
        self.state.lock().segments.last().map(|last| Position {
            segment: last.id,
            offset: last.length,
        })
    }

    /// Sinks that have not read what must go for the next record; while there are any, the spool takes none.
    #[must_use]
    pub fn held_by(&self) -> Vec<String> {
        self.state.lock().held_by.clone()
    }

    /// Segments that were ended since the start.
    #[must_use]
    pub fn rotations(&self) -> u64 {
        self.rotations.load(Relaxed)
    }

    /// Segments that were removed since the start.
    #[must_use]
    pub fn removals(&self) -> u64 {
        self.removed.load(Relaxed)
    }

    /// Counts a reader until the guard is dropped.
    pub(in crate::audit) fn reading(self: &Arc<Self>) -> Reading {
        self.state.lock().reading += 1;
        Reading(Arc::clone(self))
    }

    /// A number that grows with each change, and whether it was the last one.
    pub(in crate::audit) fn version(&self) -> (u64, bool) {
        let state = self.state.lock();
        (state.version, state.closed)
    }

    /// Waits for a change since `version`, at most for `patience`.
    pub(in crate::audit) fn wait(&self, version: u64, patience: Option<Duration>) {
        self.wait_while(patience, |state| state.version == version);
    }

    /// Waits for the end, at most for `patience`.
    pub(in crate::audit) fn wait_closed(&self, patience: Duration) {
        self.wait_while(Some(patience), |state| !state.closed);
    }

    /// Waits until the writer and all readers have ended, at most for `patience`; whether they have.
    pub(in crate::audit) fn wait_ended(&self, patience: Duration) -> bool {
        let runs = |state: &State| !state.closed || state.reading > 0;
        self.wait_while(Some(patience), runs);
        !runs(&self.state.lock())
    }

    fn wait_while(&self, patience: Option<Duration>, wait: impl Fn(&State) -> bool) {
        let mut state = self.state.lock();
        match patience {
            None => self.changed.wait_while(&mut state, |state| wait(state)),
            Some(patience) => {
                self.changed
                    .wait_while_for(&mut state, |state| wait(state), patience);
            }
        }
    }
}

/// A reader that runs.
#[derive(Debug)]
pub(in crate::audit) struct Reading(Arc<SpoolView>);

impl Drop for Reading {
    fn drop(&mut self) {
        self.0.change(|state| state.reading -= 1);
    }
}

//! Counts the changes that judgements depend on, so that who judged before a change knows that it is to judge again.
//!
//! In: each change, once it is in force. Out: a number that was another before it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The count; cheap to clone, and the clones are one.
#[derive(Debug, Clone, Default)]
pub struct Epoch(Arc<AtomicU64>);

impl Epoch {
    /// The number now. Read before what may change is read.
    #[must_use]
    pub fn now(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    /// To be called after the change is in force, and before anybody is told of it.
    pub fn raise(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

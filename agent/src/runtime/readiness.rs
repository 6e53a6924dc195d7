//! Which parts of the agent have come up: each registers itself before it starts and says when it serves.
//!
//! In: a [`Pending`] held by a part until it is ready. Out: the names still outstanding, for `/readyz` and the log.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

/// The parts that are not ready yet; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Readiness {
    waiting: Arc<Mutex<BTreeSet<&'static str>>>,
}

impl Readiness {
    /// Registers a part; it counts as not ready until the returned guard is dropped.
    #[must_use]
    pub fn register(&self, part: &'static str) -> Pending {
        self.waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(part);
        Pending {
            part,
            readiness: self.clone(),
        }
    }

    /// The parts that are not ready, in order of their names; empty once the agent serves.
    #[must_use]
    pub fn waiting(&self) -> Vec<&'static str> {
        self.waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .copied()
            .collect()
    }
}

/// A part that is not ready yet.
#[derive(Debug)]
pub struct Pending {
    part: &'static str,
    readiness: Readiness,
}

impl Pending {
    /// The part serves.
    pub fn ready(self) {
        drop(self);
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        let mut waiting = self
            .readiness
            .waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        waiting.remove(self.part);
        if waiting.is_empty() {
            tracing::info!("ready");
        } else {
            tracing::debug!(part = self.part, waiting = ?waiting, "part ready");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_ready_when_every_part_is() {
        let readiness = Readiness::default();
        let kernel = readiness.register("kernel");
        let pods = readiness.register("pods");
        assert_eq!(readiness.waiting(), ["kernel", "pods"]);
        kernel.ready();
        assert_eq!(readiness.waiting(), ["pods"]);
        pods.ready();
        assert!(readiness.waiting().is_empty());
    }
}

//! Which parts of the agent have come up: each registers itself before it starts and says when it serves.
//!
//! And which of those that came up do not work now.
//!
//! In: a [`Pending`] held by a part until it is ready, and what parts say of themselves. Out: the names still outstanding
//! and the reasons of those that fail, for `/readyz` and the log.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use parking_lot::Mutex;

/// The parts that are not ready; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Readiness {
    waiting: Arc<Mutex<BTreeSet<&'static str>>>,
    failing: Arc<Mutex<BTreeMap<&'static str, String>>>,
}

impl Readiness {
    /// Registers a part; it is waited for until the returned guard says that it is ready.
    #[must_use]
    pub fn register(&self, part: &'static str) -> Pending {
        self.waiting.lock().insert(part);
        Pending {
            part,
            readiness: self.clone(),
        }
    }

    /// Says that a part does not work, and why, until [`Readiness::works`]; true where it did before.
    pub fn fails(&self, part: &'static str, reason: String) -> bool {
        let mut failing = self.failing.lock();
        failing.insert(part, reason).is_none()
    }

    /// Says that a part works; true where it did not before.
    pub fn works(&self, part: &'static str) -> bool {
        let mut failing = self.failing.lock();
        failing.remove(part).is_some()
    }

    /// The parts that do not work, with the reasons.
    #[must_use]
    pub fn failing(&self) -> Vec<(&'static str, String)> {
        let failing = self.failing.lock();
        failing
            .iter()
            .map(|(part, reason)| (*part, reason.clone()))
            .collect()
    }

    /// The parts that are not ready, in order of their names; empty once the agent serves.
    #[must_use]
    pub fn waiting(&self) -> Vec<&'static str> {
        self.waiting.lock().iter().copied().collect()
    }
}

/// A part that is not ready yet.
#[derive(Debug)]
pub struct Pending {
    part: &'static str,
    readiness: Readiness,
}

impl Pending {
    /// The part serves. A guard that merely goes says nothing of the sort: its part is waited for.
    pub fn ready(self) {
        let waiting = {
            let waiting = &self.readiness.waiting;
            let mut waiting = waiting.lock();
            waiting.remove(self.part);
            waiting.clone()
        };
        tracing::debug!(part = self.part, ?waiting, "part ready");
        if waiting.is_empty() {
            tracing::info!("ready");
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

    #[test]
    fn what_never_got_ready_is_waited_for_when_it_goes() {
        let readiness = Readiness::default();
        drop(readiness.register("pods"));
        assert_eq!(readiness.waiting(), ["pods"]);
    }

    #[test]
    fn a_part_fails_until_it_works() {
        let readiness = Readiness::default();
        assert!(readiness.fails("kernel", "a link is lost".to_owned()));
        assert!(!readiness.fails("kernel", "two links are lost".to_owned()));
        assert_eq!(readiness.failing(), [("kernel", "two links are lost".to_owned())]);
        assert!(readiness.works("kernel"));
        assert!(!readiness.works("kernel"));
        assert!(readiness.failing().is_empty());
    }
}

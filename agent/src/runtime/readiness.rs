//! Which parts of the agent have come up: each registers itself before it starts and says when it serves.
//!
//! And which of those that came up do not work now.
//!
//! In: a [`Pending`] held by a part until it is ready, and what parts say of themselves. Out: the names still outstanding
//! and the reasons of those that fail, for `/readyz` and the log.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

/// The parts that are not ready; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Readiness {
    waiting: Arc<Mutex<BTreeSet<&'static str>>>,
    failing: Arc<Mutex<BTreeMap<&'static str, String>>>,
}

impl Readiness {
    /// Registers a part; it is waited for until the returned guard says that it is ready, or goes.
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

    /// Says that a part does not work, and why, until [`Readiness::works`]; true where it did before.
    pub fn fails(&self, part: &'static str, reason: String) -> bool {
        let mut failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        failing.insert(part, reason).is_none()
    }

    /// Says that a part works; true where it did not before.
    pub fn works(&self, part: &'static str) -> bool {
        let mut failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        failing.remove(part).is_some()
    }

    /// The parts that do not work, with the reasons.
    #[must_use]
    pub fn failing(&self) -> Vec<(&'static str, String)> {
        let failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        failing
            .iter()
            .map(|(part, reason)| (*part, reason.clone()))
            .collect()
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
    /// The part serves, which it may be the last to do. A guard that merely goes says nothing of the sort: with a start that
    /// fails, all of them do.
    pub fn ready(self) {
        let readiness = self.readiness.clone();
        drop(self);
        if readiness.waiting().is_empty() {
            tracing::info!("ready");
        }
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
        tracing::debug!(part = self.part, waiting = ?waiting, "no longer waited for");
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::mpsc;

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
    fn what_never_got_ready_does_not_say_so_when_it_goes() {
        let said = |work: fn(Readiness)| {
            let (to, from) = mpsc::channel();
            let lines = tracing_subscriber::fmt()
                .with_ansi(false)
                .with_writer(move || Sent(to.clone()))
                .finish();
            tracing::subscriber::with_default(lines, || work(Readiness::default()));
            from.iter().collect::<String>()
        };
        let silent = said(|readiness| drop((readiness.register("pods"), readiness.register("doors"))));
        assert_eq!(silent, "");
        let told = said(|readiness| {
            let (pods, doors) = (readiness.register("pods"), readiness.register("doors"));
            drop(doors);
            pods.ready();
        });
        assert!(told.ends_with(": ready\n"), "{told:?}");
    }

    struct Sent(mpsc::Sender<String>);

    impl io::Write for Sent {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let text = String::from_utf8_lossy(bytes).into_owned();
            self.0.send(text).map_err(io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
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

//! The node CA as it is kept in the node's state folder.
//!
//! In: the folder, and a CA that was checked. Out: one file for root alone with the key and its certificates, replaced in one step, so that
//! nobody ever reads a key beside another's certificate; and from when on a new one is due.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use crate::pki::ca::{CaFiles, CaSource, NodeCa};
use crate::pki::{IssuedCa, PkiError};
use crate::runtime::state::{StateDirectory, StateError, StateLock};

/// The file with key and certificates.
const FILE: &str = "node-ca.pem";

/// Whoever gets a new CA holds this.
const LOCK: &str = "node-ca.lock";

/// A new CA is due after this part of the life of the last.
const DUE_AFTER: u32 = 3;

/// Nodes ask for theirs within this part of the life after that, each at a moment of its own.
const SPREAD: u32 = 30;

/// Why no CA is kept.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeepError {
    /// The folder or the file.
    #[error(transparent)]
    State(#[from] StateError),
    /// It holds no CA that can be used now.
    #[error(transparent)]
    Pki(#[from] PkiError),
}

/// The times of a CA that is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KeptTimes {
    /// From then on a new one is due.
    pub(super) renew_at: SystemTime,
    /// From then on it is a fault that none came.
    pub(super) late_at: SystemTime,
    pub(super) not_after: SystemTime,
}

impl KeptTimes {
    fn of(node: &str, not_before: SystemTime, not_after: SystemTime) -> Self {
        let life = not_after.duration_since(not_before).unwrap_or_default();
        Self {
            renew_at: not_before + life / DUE_AFTER + spread(node, life / SPREAD),
            late_at: not_after - life / DUE_AFTER,
            not_after,
        }
    }
}

/// A node's own part of a time, always the same.
fn spread(node: &str, over: Duration) -> Duration {
    let mut hasher = DefaultHasher::new();
    node.hash(&mut hasher);
    let part = u32::try_from(hasher.finish() & 0xffff).unwrap_or_default();
    over * part / 0x1_0000
}

/// The node CA of a state folder; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct KeptNodeCa(StateDirectory);

impl KeptNodeCa {
    /// In this folder.
    pub(crate) fn new(folder: StateDirectory) -> Self {
        Self(folder)
    }

    /// Where it is.
    pub(crate) fn files(&self) -> CaFiles {
        CaFiles::in_one(self.0.file(FILE))
    }

    /// The times of the CA that is kept; `None` where there is none.
    ///
    /// # Errors
    /// [`KeepError`] where it cannot be used now.
    pub(super) fn look(&self, node: &str, now: SystemTime) -> Result<Option<KeptTimes>, KeepError> {
        let Some(bytes) = self.0.read(FILE)? else {
            return Ok(None);
        };
        let ca = NodeCa::parse(&self.files(), &CaSource::in_one(bytes), now)?;
        Ok(Some(KeptTimes::of(node, ca.not_before, ca.not_after)))
    }

    /// Puts a CA in the place of the last.
    pub(super) fn keep(&self, ca: &IssuedCa) -> Result<(), StateError> {
        self.0.write(FILE, ca.pem.as_bytes())
    }

    /// The turn to get a new one; `None` while another agent of the node has it.
    pub(super) fn turn(&self) -> Result<Option<StateLock>, StateError> {
        self.0.try_lock(LOCK)
    }

    /// Removes it: the next agent on this node begins without.
    ///
    /// # Errors
    /// [`StateError`] where a file stays.
    pub(crate) fn remove(&self) -> Result<(), StateError> {
        self.0.remove(FILE)?;
        self.0.remove(LOCK)
    }

    /// The file, for messages.
    pub(super) fn path(&self) -> PathBuf {
        self.0.file(FILE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn a_new_one_is_due_after_a_third_at_a_moment_of_the_node_s_own() {
        let start = SystemTime::now();
        let times = |node: &str| KeptTimes::of(node, start, start + 72 * HOUR);
        let nodes: Vec<String> = (0..200).map(|number| format!("node-{number}")).collect();
        let mut due: Vec<_> = nodes.iter().map(|node| times(node).renew_at).collect();
        assert!(
            due.iter()
                .all(|at| *at >= start + 24 * HOUR && *at < start + 27 * HOUR)
        );
        assert_eq!(times("node-1"), times("node-1"), "the same after a restart");
        due.sort();
        due.dedup();
        assert!(due.len() > 190, "{} moments of 200 nodes", due.len());
        assert!(due[199.min(due.len() - 1)] > start + 26 * HOUR);
        assert_eq!(times("node-1").late_at, start + 48 * HOUR);
    }
}

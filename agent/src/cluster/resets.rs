//! Whether the API server's objects were set back to an older state, as by a restore of etcd from a backup.
//!
//! In: the resource versions of answers. Out: [`StoreResets`], by which every watch of the process is begun anew with a list.
//!
//! Resource versions run again from an older one then. A watch that is taken up from a version yet to come is accepted, and hears of
//! nothing below it (kubernetes/kubernetes#107457): a revoked identity would go on. Versions of one kind compare as numbers (KEP-5504), so
//! that an answer older than the one before it tells of the reset.

use std::sync::Arc;

use tokio::sync::watch;

/// How often the objects were set back, as the process found.
#[derive(Debug, Clone)]
pub(crate) struct StoreResets(Arc<watch::Sender<u64>>);

impl Default for StoreResets {
    fn default() -> Self {
        Self(Arc::new(watch::channel(0).0))
    }
}

impl StoreResets {
    /// Wakes at each further one.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.0.subscribe()
    }

    fn count(&self) -> u64 {
        *self.0.borrow()
    }
}

/// The version of the last answer about objects of one kind.
#[derive(Debug, Default)]
pub(crate) struct LastVersion(Option<Known>);

/// A version, and how many resets there were by then.
#[derive(Debug, Clone, Copy)]
struct Known {
    version: u64,
    resets: u64,
}

impl LastVersion {
    /// Takes up the version of an answer that was asked for after the one before had come. Says whether it is older, which
    /// nobody else found yet; all watches are begun anew then.
    pub(crate) fn shows_reset(&mut self, version: Option<&str>, resets: &StoreResets) -> bool {
        // A version that is no number compares with nothing.
        let Some(version) = version.and_then(|version| version.parse().ok()) else {
            return false;
        };
        let count = resets.count();
        let known = Known {
            version,
            resets: count,
        };
        let before = self.0.replace(known);
        let is_older = before.is_some_and(|before| before.resets == count && version < before.version);
        if is_older {
            self.0 = Some(Known {
                resets: count + 1,
                ..known
            });
            resets.0.send_modify(|count| *count += 1);
        }
        is_older
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_version_shows_one_reset() {
        let resets = StoreResets::default();
        let (mut one, mut heard) = (LastVersion::default(), resets.subscribe());
        for version in ["9", "10", "10", "1000"] {
            assert!(!one.shows_reset(Some(version), &resets), "{version}");
        }
        assert!(!heard.has_changed().unwrap());
        assert!(one.shows_reset(Some("999"), &resets));
        assert_eq!(*heard.borrow_and_update(), 1);
        assert!(!one.shows_reset(Some("1000"), &resets));
        assert!(one.shows_reset(Some("2"), &resets), "the next one");
    }

    #[test]
    fn a_reset_that_another_answer_showed_is_not_counted_again() {
        let resets = StoreResets::default();
        let (mut one, mut other) = (LastVersion::default(), LastVersion::default());
        assert!(!one.shows_reset(Some("1000"), &resets) && !other.shows_reset(Some("1001"), &resets));
        assert!(one.shows_reset(Some("500"), &resets));
        assert!(!other.shows_reset(Some("501"), &resets));
        assert!(other.shows_reset(Some("499"), &resets), "the next one");
    }

    #[test]
    fn what_is_no_number_shows_nothing() {
        let resets = StoreResets::default();
        let mut last = LastVersion::default();
        for version in [Some("1000"), Some("a"), None, Some(""), Some("1000")] {
            assert!(!last.shows_reset(version, &resets), "{version:?}");
        }
        assert!(last.shows_reset(Some("999"), &resets));
    }
}

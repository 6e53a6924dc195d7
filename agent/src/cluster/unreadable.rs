//! Kinds of objects whose list the agent cannot read, though the API server answers.
//!
//! In: the failures of lists and watches. Out: [`UnreadableLists`], the kinds that have been so for a while, with the reason, for `/readyz`: the
//! agent goes by what it knew before, and nobody else would notice.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use kube::runtime::watcher;
use tokio::sync::watch;
use tokio::time::Instant;

use super::printable;
use super::protobuf::is_unreadable;

/// After so long a kind counts. An API server that is being replaced may answer with half a list.
const PATIENCE: Duration = Duration::from_secs(60);

/// A kind, and which of its followers: two parts of the agent may each follow one.
pub(crate) type Followed = (&'static str, u64);

/// The kinds, with the reasons; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct UnreadableLists(Arc<watch::Sender<BTreeMap<Followed, String>>>);

impl Default for UnreadableLists {
    fn default() -> Self {
        Self(Arc::new(watch::channel(BTreeMap::new()).0))
    }
}

impl UnreadableLists {
    /// The kinds now, and each change of them.
    pub(crate) fn subscribe(&self) -> watch::Receiver<BTreeMap<Followed, String>> {
        self.0.subscribe()
    }

    /// What happens to the lists of one follower of a kind.
    pub(super) fn of(&self, kind: &'static str) -> Lists {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Lists {
            all: self.clone(),
            followed: (kind, NEXT.fetch_add(1, Ordering::Relaxed)),
            since: None,
        }
    }
}

/// What happens to the lists of one follower of a kind.
#[derive(Debug)]
pub(super) struct Lists {
    all: UnreadableLists,
    followed: Followed,
    since: Option<Instant>,
}

impl Lists {
    /// A list was read to its end.
    pub(super) fn read(&mut self) {
        self.since = None;
        self.forget();
    }

    /// A list or watch failed. That the API server does not answer, or refuses, is no matter of what it sends.
    pub(super) fn failed(&mut self, error: &watcher::Error) {
        let is_of_list = match error {
            watcher::Error::InitialListFailed(kube::Error::SerdeError(_) | kube::Error::FromUtf8(_)) => true,
            watcher::Error::InitialListFailed(error) => is_unreadable(error),
            _ => false,
        };
        if !is_of_list {
            return;
        }
        let now = Instant::now();
        let since = *self.since.get_or_insert(now);
        if now.duration_since(since) >= PATIENCE {
            let reason = printable(error);
            self.all.0.send_if_modified(|all| {
                let before = all.insert(self.followed, reason);
                before.as_ref() != all.get(&self.followed)
            });
        }
    }

    fn forget(&self) {
        let removed = |all: &mut BTreeMap<_, _>| all.remove(&self.followed).is_some();
        self.all.0.send_if_modified(removed);
    }
}

impl Drop for Lists {
    /// Whoever follows no longer misses nothing.
    fn drop(&mut self) {
        self.forget();
    }
}

#[cfg(test)]
mod tests {
    use super::super::protobuf::UnreadableAnswer;
    use super::*;

    fn unreadable() -> watcher::Error {
        let error = serde_json::from_str::<u8>("x").unwrap_err();
        watcher::Error::InitialListFailed(kube::Error::SerdeError(error))
    }

    #[tokio::test(start_paused = true)]
    async fn a_kind_counts_after_a_while_until_its_list_is_read() {
        let all = UnreadableLists::default();
        let mut kinds = all.subscribe();
        let mut pods = all.of("pods");
        pods.failed(&unreadable());
        tokio::time::advance(PATIENCE / 2).await;
        pods.failed(&unreadable());
        assert!(kinds.borrow_and_update().is_empty());
        tokio::time::advance(PATIENCE / 2).await;
        let refused = kube::core::Status::failure("no", "Forbidden").with_code(403);
        pods.failed(&watcher::Error::InitialListFailed(kube::Error::Api(Box::new(
            refused,
        ))));
        assert!(!kinds.has_changed().unwrap(), "a refusal can be read");
        pods.failed(&unreadable());
        assert!(kinds.has_changed().unwrap());
        let told = |all: &BTreeMap<Followed, String>| all.keys().map(|(kind, _)| *kind).collect::<Vec<_>>();
        assert_eq!(told(&kinds.borrow_and_update()), ["pods"]);
        pods.failed(&unreadable());
        assert!(!kinds.has_changed().unwrap(), "nothing new");
        let error = serde_json::from_str::<u8>("[").unwrap_err();
        pods.failed(&watcher::Error::InitialListFailed(kube::Error::SerdeError(error)));
        assert!(kinds.has_changed().unwrap(), "another reason");
        kinds.mark_unchanged();
        pods.failed(&watcher::Error::InitialListFailed(kube::Error::Service(
            "the connection was reset".into(),
        )));
        assert!(!kinds.has_changed().unwrap(), "nothing was read");
        let broken = kube::Error::Service(UnreadableAnswer::LongList.into());
        pods.failed(&watcher::Error::InitialListFailed(broken));
        assert!(kinds.has_changed().unwrap(), "protobuf that cannot be read");
        // Another follower of the kind reads its list.
        all.of("pods").read();
        assert_eq!(told(&kinds.borrow_and_update()), ["pods"]);
        pods.read();
        assert!(kinds.borrow_and_update().is_empty());
        pods.failed(&unreadable());
        assert!(!kinds.has_changed().unwrap(), "its time begins anew");
        tokio::time::advance(PATIENCE).await;
        pods.failed(&unreadable());
        drop(pods);
        assert!(kinds.borrow_and_update().is_empty());
    }
}

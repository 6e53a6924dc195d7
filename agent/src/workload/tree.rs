//! The cgroup tree, followed.
//!
//! In: the root folder. Out: the latest [`Scan`] through a watch channel, within a few milliseconds of a change.
//!
//! The kernel tells of new and removed folders by inotify, asked for no more than that: the runtimes and monitors open
//! and read files there all the time. A rescan now and then catches what inotify could not tell (a full queue, no
//! watches left).

use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::cgroup::{CgroupError, Group, Scan, check_root, scan};
use super::levels;
use crate::kernel::CgroupId;

/// How often the tree is read although inotify reported nothing; a read of a node's tree costs a few milliseconds.
const BACKSTOP: Duration = Duration::from_secs(10);

/// The same while some folder could not be watched.
const BACKSTOP_UNWATCHED: Duration = Duration::from_millis(500);

/// A pod's folders come in bursts; waiting this long after the first sign makes one reading of them.
const BURST: Duration = Duration::from_millis(2);

/// The folders that hold pods, and the pods' own, in which containers appear.
const MASK: AddWatchFlags = AddWatchFlags::IN_CREATE
    .union(AddWatchFlags::IN_DELETE)
    .union(AddWatchFlags::IN_MOVED_FROM)
    .union(AddWatchFlags::IN_MOVED_TO)
    .union(AddWatchFlags::IN_ONLYDIR);

/// Follows the tree below one root.
#[derive(Debug)]
pub struct Tree {
    root: PathBuf,
    /// The root's level in the hierarchy.
    level: usize,
    watches: Option<Watches>,
    scans: watch::Sender<Arc<Scan>>,
}

impl Tree {
    /// Reads the tree once, so that the receiver starts with what is there.
    ///
    /// # Errors
    /// [`CgroupError`] where the root is no readable cgroup v2 folder, or its pods lie deeper than the kernel programs look.
    pub fn open(root: PathBuf) -> Result<(Self, watch::Receiver<Arc<Scan>>), CgroupError> {
        check_root(&root)?;
        let level = levels::level_of(&root).map_err(|source| CgroupError::Root {
            root: root.clone(),
            source,
        })?;
        let (tree, scans) = Self::open_unchecked(root, level)?;
        levels::check_scan(&tree.root, level, &scans.borrow())?;
        Ok((tree, scans))
    }

    fn open_unchecked(
        root: PathBuf,
        level: usize,
    ) -> Result<(Self, watch::Receiver<Arc<Scan>>), CgroupError> {
        let (scans, receiver) = watch::channel(Arc::new(scan(&root, level)?));
        let watches = Watches::new()
            .inspect_err(
                |error| tracing::warn!(%error, "the agent cannot use inotify, and reads the cgroup tree twice a second"),
            )
            .ok();
        let tree = Self {
            root,
            level,
            watches,
            scans,
        };
        Ok((tree, receiver))
    }

    /// Follows the tree until it is cancelled.
    pub async fn run(mut self, cancel: CancellationToken) {
        loop {
            let complete = self.read();
            let pause = if complete { BACKSTOP } else { BACKSTOP_UNWATCHED };
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
                () = changed(self.watches.as_mut()) => tokio::time::sleep(BURST).await,
            }
        }
    }

    /// Reads the tree until every folder seen was watched before it was read; says whether all could be watched.
    fn read(&mut self) -> bool {
        if let Some(watches) = &self.watches {
            // What is reported up to here is seen by the reading that follows.
            watches.drain();
        }
        loop {
            let found = match scan(&self.root, self.level) {
                Ok(found) => found,
                Err(error) => {
                    tracing::warn!(%error, "the agent cannot read the cgroup tree, and keeps the last reading");
                    return false;
                }
            };
            let outcome = self.watches.as_mut().map(|watches| watches.cover(&found));
            self.scans.send_if_modified(|last| {
                let changed = **last != found;
                if changed {
                    *last = Arc::new(found);
                }
                changed
            });
            match outcome {
                Some(WatchOutcome::New) => {}
                Some(WatchOutcome::Same) => return true,
                Some(WatchOutcome::Partial) | None => return false,
            }
        }
    }
}

/// Waits for a sign of change; for ever where there is no inotify.
async fn changed(watches: Option<&mut Watches>) {
    match watches {
        Some(watches) => {
            // An error would come back at once, again and again; the backstop is what remains then.
            if watches.readable().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
        None => std::future::pending().await,
    }
}

/// What became of watching all folders of a scan.
#[derive(Debug, PartialEq, Eq)]
enum WatchOutcome {
    /// Each was watched already.
    Same,
    /// Some are watched from now on: what happened in them before has to be read.
    New,
    /// Some cannot be watched.
    Partial,
}

/// The inotify instance and what it watches.
#[derive(Debug)]
struct Watches {
    inotify: AsyncFd<Instance>,
    watched: HashMap<PathBuf, CgroupId>,
}

#[derive(Debug)]
struct Instance(Inotify);

impl AsRawFd for Instance {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl Watches {
    fn new() -> std::io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        #[expect(
            deprecated,
            reason = "its successor is the same but unsafe, for types whose descriptor may close early; Instance owns its own"
        )]
        let inotify = AsyncFd::new(Instance(inotify))?;
        Ok(Self {
            inotify,
            watched: HashMap::new(),
        })
    }

    /// Watches the scan's folders. The kernel drops a watch with its folder, so none is removed here.
    fn cover(&mut self, found: &Scan) -> WatchOutcome {
        let folders: HashMap<_, _> = found
            .above
            .iter()
            .chain(found.pods.iter().map(|pod| &pod.group))
            .map(|Group { id, path, .. }| (path, *id))
            .collect();
        self.watched.retain(|path, id| folders.get(path) == Some(id));
        let mut outcome = WatchOutcome::Same;
        for (path, id) in folders {
            if self.watched.contains_key(path) {
                continue;
            }
            match self.inotify.get_ref().0.add_watch(path, MASK) {
                Ok(_) => {
                    self.watched.insert(path.clone(), id);
                    if outcome == WatchOutcome::Same {
                        outcome = WatchOutcome::New;
                    }
                }
                // Gone already; its parent's watch tells.
                Err(Errno::ENOENT) => {}
                Err(error) => {
                    tracing::debug!(path = %path.display(), %error, "the agent cannot watch a cgroup folder");
                    outcome = WatchOutcome::Partial;
                }
            }
        }
        outcome
    }

    /// Waits until something is reported. To be followed by [`Self::drain`], after which it waits for later reports.
    async fn readable(&mut self) -> std::io::Result<()> {
        self.inotify.readable().await?.clear_ready();
        Ok(())
    }

    /// Forgets all reports so far: the runtime notices only a report that is added to none.
    fn drain(&self) {
        while self
            .inotify
            .get_ref()
            .0
            .read_events()
            .is_ok_and(|events| !events.is_empty())
        {}
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::cluster::testing::Folder;

    const UID: &str = "0d5a3c3e-7f3a-4a59-9a5b-0c6f4f0b8f11";

    async fn until(
        scans: &mut watch::Receiver<Arc<Scan>>,
        what: &str,
        holds: impl FnMut(&Arc<Scan>) -> bool,
    ) {
        let found = tokio::time::timeout(Duration::from_secs(2), scans.wait_for(holds)).await;
        assert!(found.is_ok(), "{what} was not told within two seconds");
    }

    #[tokio::test]
    async fn what_was_told_wakes_once() {
        let folder = Folder::new();
        let mut watches = Watches::new().unwrap();
        watches
            .inotify
            .get_ref()
            .0
            .add_watch(folder.path(), MASK)
            .unwrap();
        for round in 0..3 {
            std::fs::create_dir(folder.path().join(format!("{round}"))).unwrap();
            let told = tokio::time::timeout(Duration::from_secs(2), watches.readable()).await;
            assert!(told.is_ok(), "a new folder is reported");
            watches.drain();
            let again = tokio::time::timeout(Duration::from_millis(50), watches.readable()).await;
            assert!(again.is_err(), "and then nothing is");
        }
    }

    #[tokio::test]
    async fn a_pod_is_told_soon_however_deep_it_appears_and_goes() {
        let folder = Folder::new();
        let (tree, mut scans) = Tree::open_unchecked(folder.path().to_owned(), 0).unwrap();
        let cancel = CancellationToken::new();
        let running = tokio::spawn(tree.run(cancel.clone()));
        let pod = folder
            .path()
            .join(format!("kubelet/kubepods/besteffort/pod{UID}"));
        let began = Instant::now();
        std::fs::create_dir_all(&pod).unwrap();
        until(&mut scans, "a pod", |scan| scan.pods.len() == 1).await;
        std::fs::create_dir(pod.join("aa11")).unwrap();
        until(&mut scans, "a container", |scan| scan.pods[0].children.len() == 1).await;
        std::fs::remove_dir_all(&pod).unwrap();
        until(&mut scans, "a pod's end", |scan| scan.pods.is_empty()).await;
        // The same path again is another folder and needs a watch of its own.
        std::fs::create_dir_all(&pod).unwrap();
        until(&mut scans, "the pod again", |scan| scan.pods.len() == 1).await;
        std::fs::create_dir(pod.join("bb22")).unwrap();
        until(&mut scans, "its container", |scan| {
            scan.pods[0].children.len() == 1
        })
        .await;
        assert!(began.elapsed() < BACKSTOP, "told by inotify, not by the backstop");
        cancel.cancel();
        running.await.unwrap();
    }
}

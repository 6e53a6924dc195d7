//! Notices that files changed, and reads them again.
//!
//! In: file events of the sources' folders, gathered for a moment, and a timer for filesystems that send none. Out:
//! [`Store::reload`].

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::Store;
use crate::runtime::backoff::Backoff;

/// How long files must lie still. A change of several files, or the kubelet's swap of a ConfigMap's `..data`, comes as a
/// burst of events within milliseconds. A revoked identity's sessions run on for as long, so no longer than a burst takes.
const QUIET: Duration = Duration::from_millis(40);

/// How long a burst may hold a reading back.
const LONGEST_BURST: Duration = Duration::from_secs(2);

/// How often the files are looked at without an event: some filesystems send none, and a folder that was replaced is
/// watched no more.
const READ_INTERVAL: Duration = Duration::from_secs(15);

/// The pause before files are read again that could not be read or are not valid. A file system that fails for a moment, or a kubelet
/// that has not put a file in place yet, would otherwise cost a node that has just started [`READ_INTERVAL`] of denied requests.
const RETRY_FIRST: Duration = Duration::from_millis(100);

/// Reloads the store on changes until cancelled.
pub(super) async fn run(store: Arc<Store>, cancel: CancellationToken) {
    let (wake, mut woken) = mpsc::channel::<()>(1);
    let mut _watcher = watch(&store.folders(), wake.clone());
    let mut retries = Backoff::exact(RETRY_FIRST, READ_INTERVAL);
    loop {
        let pause = match store.status().last_error {
            Some(_) => retries.pause(),
            None => READ_INTERVAL,
        };
        let changed = tokio::select! {
            () = cancel.cancelled() => return,
            changed = settle(&mut woken, pause) => changed,
        };
        if changed {
            retries.reset();
        }
        // Made anew, so that folders that came back or were replaced are watched again; and before the files are read,
        // so that no change falls between.
        _watcher = watch(&store.folders(), wake.clone());
        let reading = store.clone();
        if let Err(error) = tokio::task::spawn_blocking(move || reading.reload()).await {
            tracing::error!(%error, "the agent cannot read the policy files again; the last valid policy set stays in force");
        }
        if store.status().last_error.is_none() {
            retries.reset();
        }
    }
}

/// Waits for a change and for quiet after it, or for the time of the next look; says whether there was a change.
async fn settle(woken: &mut mpsc::Receiver<()>, pause: Duration) -> bool {
    if timeout(pause, woken.recv()).await.is_err() {
        return false;
    }
    let end = Instant::now() + LONGEST_BURST;
    loop {
        tokio::select! {
            () = sleep_until(end) => return true,
            more = timeout(QUIET, woken.recv()) => if more.is_err() { return true },
        }
    }
}

/// Watches the folders that hold the files. `None` where the system gives no watches: then the slow look alone serves.
fn watch(folders: &BTreeSet<PathBuf>, wake: mpsc::Sender<()>) -> Option<RecommendedWatcher> {
    let notice = move |event: notify::Result<notify::Event>| {
        // Reading a file is an event too; taking it for a change would never end.
        if !matches!(
            event,
            Ok(notify::Event {
                kind: EventKind::Access(_),
                ..
            })
        ) {
            let _ = wake.try_send(());
        }
    };
    let mut watcher = match notify::recommended_watcher(notice) {
        Ok(watcher) => watcher,
        Err(error) => {
            tracing::warn!(%error, "the agent gets no file events, and reads the policy files every {} s", READ_INTERVAL.as_secs());
            return None;
        }
    };
    for folder in folders {
        if let Err(error) = watcher.watch(folder, RecursiveMode::NonRecursive) {
            tracing::debug!(folder = %folder.display(), %error, "the agent cannot watch a folder of policy files");
        }
    }
    Some(watcher)
}

//! What the parts share in their talk with the API server: labels and watches.
//!
//! In: errors of kube's, objects of watches. Out: what failed, and a watch that goes on through failures.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::time::Duration;

use futures::stream::BoxStream;
use futures::{Stream, StreamExt as _, stream};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;

pub(crate) use crate::faults::printable;
use crate::lenient::{Lenient, is_unread};
use crate::names::OWN_LABELS;
use crate::relist::RelistPauses;

/// A watch that tells nothing for this many seconds is begun anew, so that a connection that died in silence is noticed.
const WATCH_SECONDS: u32 = 120;

/// Objects of one answer. Each may have a megabyte, and all of an answer are held at once.
pub(crate) const PAGE: u32 = 50;

/// How long a response may be silent: longer than a watch lasts.
pub(crate) const READ_LIMIT: Duration = Duration::from_secs(WATCH_SECONDS as u64 + 60);

/// The labels of what the controller makes.
pub(crate) fn labels() -> BTreeMap<String, String> {
    OWN_LABELS
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
}

/// Each event of a watch, which begins anew after failures with growing pauses. `what` is for the log, and `failed` is called for each.
pub(crate) fn follow<K>(
    api: Api<Lenient<K>>,
    config: watcher::Config,
    what: &'static str,
    failed: impl Fn() + Send + 'static,
) -> BoxStream<'static, watcher::Event<K>>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    K::DynamicType: Default,
{
    let config = config.timeout(WATCH_SECONDS).page_size(PAGE);
    logged(
        begun_anew(move || watcher(api.clone(), config.clone()).default_backoff()),
        what,
        failed,
    )
    .map(Lenient::event)
    .boxed()
}

/// A watch that begins anew with a list where it could not read an event.
fn begun_anew<S, K>(begin: impl Fn() -> S + Send + 'static) -> impl Stream<Item = S::Item> + Send + 'static
where
    S: Stream<Item = Result<watcher::Event<K>, watcher::Error>> + Send + 'static,
    K: Send + 'static,
{
    let (first, pauses) = (Some(Box::pin(begin())), RelistPauses::default());
    stream::unfold((first, begin, pauses), async |(events, begin, mut pauses)| {
        let mut events = match events {
            Some(events) => events,
            None => {
                pauses.pause().await;
                Box::pin(begin())
            }
        };
        let event = events.next().await?;
        let is_over = matches!(&event, Err(error) if is_unread(error));
        Some((event, ((!is_over).then_some(events), begin, pauses)))
    })
}

fn logged<K>(
    events: impl Stream<Item = Result<watcher::Event<K>, watcher::Error>> + Send + 'static,
    what: &'static str,
    failed: impl Fn() + Send + 'static,
) -> impl Stream<Item = watcher::Event<K>> + Send + 'static
where
    K: Send + 'static,
{
    events.filter_map(move |event| {
        let event = event
            .inspect_err(|error| {
                if is_old(error) {
                    return;
                }
                failed();
                tracing::warn!(
                    what,
                    error = printable(error),
                    "the controller cannot watch objects; it tries again"
                );
            })
            .ok();
        std::future::ready(event)
    })
}

/// Whether a watch only has to begin anew, because the API server keeps no events from so long ago.
pub(crate) fn is_old(error: &watcher::Error) -> bool {
    let status = match error {
        watcher::Error::WatchError(status) => Some(status),
        watcher::Error::WatchStartFailed(kube::Error::Api(status)) => Some(status),
        _ => None,
    };
    status.is_some_and(|status| status.code == 410)
}

/// Whether the API server says that the object, or its namespace, is gone.
pub(crate) fn is_gone(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use k8s_openapi::api::core::v1::Pod;
    use kube::core::Status;

    use super::*;

    fn refused(code: u16) -> kube::Error {
        kube::Error::Api(Box::new(Status::failure("no", "No").with_code(code)))
    }

    /// What a watch says that fails so once, and otherwise goes on: how often it was begun, and how many failures were counted.
    async fn begun(failure: fn() -> watcher::Error) -> (usize, usize) {
        let (begun, failed) = (Arc::new(AtomicUsize::default()), Arc::new(AtomicUsize::default()));
        let (begins, fails) = (Arc::clone(&begun), Arc::clone(&failed));
        let begin = move || {
            let first = begins.fetch_add(1, Ordering::Relaxed) == 0;
            let events = [
                first.then(failure).map(Err),
                Some(Ok(watcher::Event::<Pod>::InitDone)),
            ];
            stream::iter(events.into_iter().flatten()).chain(stream::pending())
        };
        let count = move || _ = fails.fetch_add(1, Ordering::Relaxed);
        let mut events = std::pin::pin!(logged(begun_anew(begin), "pods", count));
        assert!(matches!(events.next().await, Some(watcher::Event::InitDone)));
        (begun.load(Ordering::Relaxed), failed.load(Ordering::Relaxed))
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_that_fails_counts_and_one_that_could_not_read_an_event_begins_anew() {
        let unread = || watcher::Error::WatchFailed(refused(0));
        assert_eq!(begun(unread).await, (2, 1));
        let not_json = || {
            let error = serde_json::from_str::<u8>("x").unwrap_err();
            watcher::Error::WatchFailed(kube::Error::SerdeError(error))
        };
        assert_eq!(begun(not_json).await, (2, 1));
        assert_eq!(
            begun(|| watcher::Error::InitialListFailed(refused(403))).await,
            (1, 1)
        );
        // That the API server keeps no events from so long ago is no failure.
        assert_eq!(
            begun(|| watcher::Error::WatchStartFailed(refused(410))).await,
            (1, 0)
        );
    }
}

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

/// A watch that tells nothing for this many seconds is begun anew, so that a connection that died in silence is noticed.
const WATCH_SECONDS: u32 = 120;

/// Objects of one answer. Each may have a megabyte, and all of an answer are held at once.
const PAGE: u32 = 50;

/// Before a list that follows an event which could not be read.
const RETRY: Duration = Duration::from_secs(1);

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
    let first = Box::pin(begin());
    stream::unfold((first, begin), async |(mut events, begin)| {
        let event = events.next().await?;
        if matches!(&event, Err(error) if is_unread(error)) {
            tokio::time::sleep(RETRY).await;
            events = Box::pin(begin());
        }
        Some((event, (events, begin)))
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

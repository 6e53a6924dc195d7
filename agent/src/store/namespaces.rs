//! The namespaces of the cluster, for rules about their labels.
//!
//! In: the list and watch of Namespaces, only while rules of the set in force ask for them, so that a node without such rules needs no
//! right to them. Out: what is known of them for each decision ([`Namespaces`]), without a lock. Each change has the running sessions
//! judged again, as a new set has.
//!
//! What is not known makes such rules fire: before the first list, without the right, and while the watch has failed for a while. After a
//! short failure what was known stands.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use kube::Api;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind};
use kube::runtime::watcher::{self, Event};
use parking_lot::Mutex;
use picket_controller::lenient::Lenient;
use picket_policy::{NamespaceFacts, NamespaceUse, Namespaces, PolicySet, UnknownNamespace};
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Store;
use crate::cluster::{Connector, follow_with};

/// How long the watch may fail before the namespaces are listed anew. A watch that goes on without an event does not say so.
const RELIST_AFTER: Duration = Duration::from_secs(10);

/// How long the watch may fail before what was known counts no more: somebody may have labelled a namespace meanwhile.
const STALE_AFTER: Duration = Duration::from_secs(60);

/// How often the age of the failure of the watch is checked.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);

/// Most bytes that are kept of one namespace, and of all: several times what an API server stores of one by default for labels and
/// annotations (256 KiB), and what large clusters have. Whoever makes namespaces could otherwise fill the node's memory.
const MAX_NAMESPACE: usize = 512 * 1024;
const MAX_ALL: usize = 64 * 1024 * 1024;

/// What is known of namespaces.
#[derive(Debug)]
pub(super) struct NamespaceIndex {
    known: ArcSwap<Namespaces>,
    state: Mutex<FollowState>,
}

/// How following them goes.
#[derive(Debug, Default)]
struct FollowState {
    /// What is kept of each.
    uses: NamespaceUse,
    /// What a list that is under way has told so far, and its size.
    listing: Vec<(String, NamespaceFacts)>,
    listed_size: usize,
    /// Since when the watch fails.
    failing: Option<Instant>,
    /// Whether the API server refused the last list.
    is_forbidden: bool,
}

impl Default for NamespaceIndex {
    fn default() -> Self {
        Self {
            known: ArcSwap::from_pointee(Namespaces::unknown(UnknownNamespace::NotListed)),
            state: Mutex::default(),
        }
    }
}

/// What a check of the watch comes to.
#[derive(Debug, PartialEq, Eq)]
enum WatchCheck {
    /// It works, or has failed for a moment only.
    Healthy,
    /// They are to be listed anew.
    Relist,
}

impl NamespaceIndex {
    fn known(&self) -> Arc<Namespaces> {
        self.known.load_full()
    }

    /// Puts another state in force; says whether it is another.
    fn publish(&self, namespaces: Namespaces) -> bool {
        let is_new = **self.known.load() != namespaces;
        if is_new {
            self.known.store(Arc::new(namespaces));
        }
        is_new
    }

    /// Begins to follow them for this use. What is known stands until the list has come.
    fn begin(&self, uses: NamespaceUse) {
        let mut state = self.state.lock();
        state.uses = uses;
        state.listing.clear();
        state.listed_size = 0;
    }

    /// Nobody asks for namespaces any more.
    fn forget(&self) -> bool {
        *self.state.lock() = FollowState::default();
        self.publish(Namespaces::unknown(UnknownNamespace::NotListed))
    }

    /// Takes up an event; says whether judgements may differ now.
    fn event(&self, event: Event<DynamicObject>) -> bool {
        let mut state = self.state.lock();
        let is_whole = match event {
            Event::Init | Event::InitApply(_) => false,
            // A watch that goes on after a refusal tells of what changes alone: without a list the rest stays unknown.
            Event::Apply(_) | Event::Delete(_) => self.known().why_unknown().is_none(),
            Event::InitDone => true,
        };
        if is_whole {
            state.failing = None;
        }
        match event {
            Event::Init => {
                state.listing.clear();
                state.listed_size = 0;
                false
            }
            Event::InitApply(object) => {
                let used = state.listed_size;
                if let Some((name, facts)) = kept(&object, state.uses, used) {
                    state.listed_size += facts.size();
                    state.listing.push((name, facts));
                }
                false
            }
            Event::InitDone => {
                state.listed_size = 0;
                if std::mem::take(&mut state.is_forbidden) {
                    tracing::info!("the API server lets the agent list namespaces again");
                }
                let all = std::mem::take(&mut state.listing);
                self.publish(Namespaces::listed(all))
            }
            Event::Apply(object) => {
                let known = self.known();
                let Some((name, facts)) = kept(&object, state.uses, known.size()) else {
                    return false;
                };
                let changed = known.with(&name, Some(facts));
                changed.is_some_and(|changed| self.publish(changed))
            }
            Event::Delete(object) => {
                let name = object.metadata.name.unwrap_or_default();
                let changed = self.known().with(&name, None);
                changed.is_some_and(|changed| self.publish(changed))
            }
        }
    }

    /// Notes a failure; says whether judgements differ now.
    fn failed(&self, error: &watcher::Error, now: Instant) -> bool {
        let mut state = self.state.lock();
        state.failing.get_or_insert(now);
        if code_of(error) != Some(403) {
            return false;
        }
        if !std::mem::replace(&mut state.is_forbidden, true) {
            tracing::error!(
                "the API server does not let the agent list and watch namespaces: rules with namespaceSelector, and those whose `when` has \
                 namespaceObject, fire for every namespace. Apply deploy/rbac.yaml"
            );
        }
        self.publish(Namespaces::unknown(UnknownNamespace::Forbidden))
    }

    /// Checks for how long the watch has been failing; says what to do, and whether judgements differ now.
    fn check(&self, now: Instant, begun: Instant) -> (WatchCheck, bool) {
        let Some(since) = self.state.lock().failing else {
            return (WatchCheck::Healthy, false);
        };
        let failing = now.saturating_duration_since(since);
        let is_known = self.known.load().why_unknown().is_none();
        let mut differs = false;
        if failing >= STALE_AFTER && is_known {
            tracing::error!(
                seconds = failing.as_secs(),
                "the agent cannot watch namespaces: rules about their labels fire for every namespace until it can"
            );
            differs = self.publish(Namespaces::unknown(UnknownNamespace::WatchFails));
        }
        let waits = failing < RELIST_AFTER || now.saturating_duration_since(begun) < RELIST_AFTER;
        (
            if waits {
                WatchCheck::Healthy
            } else {
                WatchCheck::Relist
            },
            differs,
        )
    }
}

/// The HTTP code of a failure.
fn code_of(error: &watcher::Error) -> Option<u16> {
    let of_kube = |error: &kube::Error| match error {
        kube::Error::Api(status) => Some(status.code),
        _ => None,
    };
    match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => of_kube(error),
        watcher::Error::WatchError(status) => Some(status.code),
        watcher::Error::NoResourceVersion => None,
    }
}

/// What is kept of a namespace beside this much of others.
fn kept(object: &DynamicObject, uses: NamespaceUse, used: usize) -> Option<(String, NamespaceFacts)> {
    let metadata = serde_json::to_value(&object.metadata).ok()?;
    let part = |name: &str| object.data.get(name).cloned().unwrap_or(Value::Null);
    let mut whole = json!({"metadata": metadata});
    for name in ["spec", "status"] {
        let part = part(name);
        if !part.is_null() {
            whole[name] = part;
        }
    }
    let (name, facts) = NamespaceFacts::of_object(&whole, uses == NamespaceUse::Objects)?;
    let size = facts.size();
    if size <= MAX_NAMESPACE && used + size <= MAX_ALL {
        return Some((name, facts));
    }
    tracing::error!(
        namespace = name,
        size,
        limit = MAX_NAMESPACE,
        limit_of_all = MAX_ALL,
        "the agent keeps nothing of a namespace that is too large: rules about its labels fire"
    );
    Some((name, NamespaceFacts::too_large()))
}

/// How an API server names namespaces.
fn api_resource() -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk("", "v1", "Namespace"), "namespaces")
}

impl Store {
    /// What is known of the namespaces, where rules of this set look at them.
    #[must_use]
    pub fn namespaces(&self, policies: &PolicySet) -> Option<Arc<Namespaces>> {
        (policies.namespace_use() != NamespaceUse::Nothing).then(|| self.namespaces.known())
    }

    /// What is known of the namespaces now, for an answer that goes on.
    #[must_use]
    pub(crate) fn known_namespaces(&self) -> Arc<Namespaces> {
        self.namespaces.known()
    }

    /// Why no namespace is known though rules look at them.
    #[must_use]
    pub fn why_no_namespaces(&self) -> Option<UnknownNamespace> {
        let policies = self.current();
        self.namespaces(&policies)?.why_unknown()
    }

    /// Makes other namespaces known, as the API server's watch does, for tests of what follows.
    #[cfg(test)]
    pub(crate) fn set_namespaces_for_tests(&self, namespaces: Namespaces) {
        self.namespaces.publish(namespaces);
        self.namespaces_changed();
    }

    /// Has what judgements depend on judged again.
    fn namespaces_changed(&self) {
        self.epoch.raise();
        // Whoever follows the set judges by these too.
        self.status.send_modify(|_| {});
    }

    /// Follows the namespaces while rules ask for them, until cancelled.
    pub async fn follow_namespaces(self: Arc<Self>, connector: Connector, cancel: CancellationToken) {
        let mut changes = self.changes();
        let follow = async {
            loop {
                changes.mark_unchanged();
                let uses = self.current().namespace_use();
                if uses == NamespaceUse::Nothing {
                    if self.namespaces.forget() {
                        self.namespaces_changed();
                    }
                    if changes.changed().await.is_err() {
                        return;
                    }
                    continue;
                }
                self.namespaces.begin(uses);
                let stop = CancellationToken::new();
                tokio::select! {
                    () = self.follow_for(&connector, &stop) => {}
                    () = self.until_another_use(uses) => {}
                    () = self.until_to_list_again(Instant::now()) => {}
                }
            }
        };
        tokio::select! {
            () = cancel.cancelled() => {}
            () = follow => {}
        }
    }

    async fn follow_for(&self, connector: &Connector, stop: &CancellationToken) {
        let note = |differs: bool| {
            if differs {
                self.namespaces_changed();
            }
        };
        let resource = api_resource();
        follow_with(
            connector,
            "namespaces",
            |client| Api::<Lenient<DynamicObject>>::all_with(client, &resource),
            watcher::Config::default(),
            stop,
            |event| note(self.namespaces.event(event)),
            |error| note(self.namespaces.failed(error, Instant::now())),
        )
        .await;
    }

    /// Waits until the set in force looks at other parts of namespaces.
    async fn until_another_use(&self, uses: NamespaceUse) {
        let mut changes = self.changes();
        while self.current().namespace_use() == uses {
            if changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Waits until the watch has failed for so long that a new list is to show whether it works.
    async fn until_to_list_again(&self, begun: Instant) {
        loop {
            tokio::time::sleep(CHECK_INTERVAL).await;
            let (checked, differs) = self.namespaces.check(Instant::now(), begun);
            if differs {
                self.namespaces_changed();
            }
            if checked == WatchCheck::Relist {
                return;
            }
        }
    }

    /// Waits until the namespaces are known where rules look at them, or cannot be had, or for as long as that may take.
    pub async fn namespaces_tried(&self, limit: Duration) {
        let mut changes = self.changes();
        let is_waiting = || self.why_no_namespaces() == Some(UnknownNamespace::NotListed);
        if !is_waiting() {
            return;
        }
        let tried = async {
            while is_waiting() {
                if changes.changed().await.is_err() {
                    return;
                }
            }
        };
        // Whoever asks finds out by the first refusal.
        let _late = tokio::time::timeout(limit, tried).await;
    }
}

#[cfg(test)]
#[path = "namespaces_tests.rs"]
mod tests;

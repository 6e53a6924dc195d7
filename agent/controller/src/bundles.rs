//! Keeps the ConfigMap `picket-ca.crt` where pods go through Picket, and nowhere else.
//!
//! In: the labels of namespaces and pods, the ConfigMaps of that name, and the bundle. Out: ConfigMaps applied and deleted, which
//! bundle all of them hold, on which a rotation waits, and for which namespaces it waits.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::select_all;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod};
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::core::{PartialObjectMeta, Status};
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, ResourceExt as _};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::health::{Health, few};
use crate::kubernetes::{follow, is_gone, labels, printable};
use crate::lenient::Lenient;
use crate::metrics::{BundleWrite, ControllerMetrics, Part};
use crate::names::{BUNDLE, BUNDLE_KEY, ENROLLED, FIELD_MANAGER};
use crate::root::Trust;

/// Says on each of them who keeps it.
const DESCRIPTION: &str = "picket.dev/description";
const DESCRIBED: &str = "The CA that pods trust whose API requests go through Picket. The Picket controller keeps it, and undoes changes.";

/// How soon a write is tried again that failed; twice as long after each time, up to the second. A full quota may stay full.
const RETRY: Duration = Duration::from_secs(2);
const LONGEST_RETRY: Duration = Duration::from_secs(30);

/// What is seen of the cluster.
enum Seen {
    Namespace(Event<PartialObjectMeta<Namespace>>),
    Pod(Event<PartialObjectMeta<Pod>>),
    ConfigMap(Event<ConfigMap>),
}

/// Keeps the ConfigMaps for as long as it is polled. While there is no root it writes and removes none.
pub(crate) struct Bundles {
    client: Client,
    trust: watch::Receiver<Option<Arc<Trust>>>,
    /// What every ConfigMap holds, once all do.
    published: watch::Sender<Option<Arc<str>>>,
    health: Health,
    metrics: ControllerMetrics,
    enrolment: Enrolment,
    failures: BTreeMap<String, WriteFailure>,
}

/// A write that failed in a namespace, and is due again.
struct WriteFailure {
    change: BundleChange,
    reason: String,
    pause: Duration,
    due: Instant,
}

impl Bundles {
    /// `own` is the release's namespace: who scrapes the agents checks their certificates against the bundle there.
    pub(crate) fn new(
        client: Client,
        own: &str,
        trust: watch::Receiver<Option<Arc<Trust>>>,
        published: watch::Sender<Option<Arc<str>>>,
        health: Health,
        metrics: ControllerMetrics,
    ) -> Self {
        Self {
            client,
            trust,
            published,
            health,
            metrics,
            enrolment: Enrolment {
                own: own.to_owned(),
                ..Enrolment::default()
            },
            failures: BTreeMap::new(),
        }
    }

    /// Follows the cluster until it is dropped.
    pub(crate) async fn run(mut self) {
        let client = self.client.clone();
        let enrolled = watcher::Config::default().labels(&format!("{ENROLLED}=true"));
        let namespaces = Api::<Lenient<PartialObjectMeta<Namespace>>>::all(client.clone());
        let pods = Api::<Lenient<PartialObjectMeta<Pod>>>::all(client.clone());
        let maps = Api::<Lenient<ConfigMap>>::all(client);
        // The role names the ConfigMap, and the API server compares the name with this selector.
        let of_name = watcher::Config::default().fields(&format!("metadata.name={BUNDLE}"));
        let failed = || self.metrics.failing(Part::Bundles);
        let mut seen = select_all([
            follow(namespaces, watcher::Config::default(), "namespaces", failed())
                .map(Seen::Namespace)
                .boxed(),
            follow(pods, enrolled, "enrolled pods", failed())
                .map(Seen::Pod)
                .boxed(),
            follow(maps, of_name, "bundles", failed())
                .map(Seen::ConfigMap)
                .boxed(),
        ]);
        self.take_trust();
        loop {
            let due = self.write().await;
            let retry = async {
                match due {
                    None => std::future::pending().await,
                    Some(due) => tokio::time::sleep_until(due).await,
                }
            };
            tokio::select! {
                Some(event) = seen.next() => self.enrolment.see(event),
                Ok(()) = self.trust.changed() => self.take_trust(),
                () = retry => {}
            }
        }
    }

    fn take_trust(&mut self) {
        let trust = self.trust.borrow_and_update().clone();
        if let Some(trust) = trust {
            self.enrolment.set_bundle(&trust.bundle);
        }
    }

    /// Writes what differs; gives when to try again what failed.
    async fn write(&mut self) -> Option<Instant> {
        let mut before = std::mem::take(&mut self.failures);
        let mut has_failed = false;
        for (namespace, change) in self.enrolment.take_changes() {
            let earlier = before
                .remove(&namespace)
                .filter(|earlier| earlier.change == change);
            let failure = match earlier {
                Some(earlier) if Instant::now() < earlier.due => Some(earlier),
                earlier => {
                    let failure = self.try_once(&namespace, change, earlier).await;
                    has_failed |= failure.is_some();
                    failure
                }
            };
            if let Some(failure) = failure {
                self.failures.insert(namespace, failure);
            }
        }
        match self.failures.is_empty() {
            // Until then nothing is known to be absent.
            true if self.enrolment.is_complete() => self.metrics.succeeded(Part::Bundles),
            false if has_failed => self.metrics.failed(Part::Bundles),
            _ => {}
        }
        let lacking = self
            .failures
            .iter()
            .filter(|(_, failure)| failure.change.outcome() == BundleWrite::Written);
        let lacking: BTreeSet<_> = lacking.map(|(namespace, _)| namespace.clone()).collect();
        self.metrics.set_lacking(lacking.len());
        self.tell_of(&lacking);
        self.enrolment.dirty.extend(self.failures.keys().cloned());
        if let Some(bundle) = self.enrolment.everywhere() {
            self.published.send_if_modified(|before| {
                let is_new = before.as_ref() != Some(bundle);
                *before = Some(Arc::clone(bundle));
                is_new
            });
        }
        self.failures.values().map(|failure| failure.due).min()
    }

    /// Makes a change; gives why it failed. `earlier` is the same change's failure before.
    async fn try_once(
        &self,
        namespace: &str,
        change: BundleChange,
        earlier: Option<WriteFailure>,
    ) -> Option<WriteFailure> {
        let maps = Api::<Lenient<ConfigMap>>::namespaced(self.client.clone(), namespace);
        let written = match &change {
            BundleChange::Apply(bundle, uid) => put(&maps, bundle, uid.as_deref()).await,
            BundleChange::Remove(preconditions) => remove(&maps, preconditions).await,
        };
        let error = match written {
            Ok(()) => {
                self.metrics.bundle(change.outcome());
                let what = change.outcome().label();
                tracing::info!(namespace, "the CA bundle is {what}");
                return None;
            }
            // The namespace or the ConfigMap ended meanwhile; the watch tells of both.
            Err(error) if is_gone(&error) => return None,
            Err(error) => error,
        };
        self.metrics.bundle(BundleWrite::Failed);
        let reason = printable(&error);
        if earlier.as_ref().is_none_or(|earlier| earlier.reason != reason) {
            tracing::warn!(
                namespace,
                error = reason,
                "the CA bundle cannot be written; the controller tries again"
            );
        }
        let pause = earlier.map_or(RETRY, |earlier| (earlier.pause * 2).min(LONGEST_RETRY));
        Some(WriteFailure {
            change,
            reason,
            pause,
            due: Instant::now() + pause,
        })
    }

    /// Says for which namespaces a rotation waits: nobody else sees that the root stays as it is.
    fn tell_of(&self, failed: &BTreeSet<String>) {
        let is_new = *self.published.borrow() != self.enrolment.bundle;
        let awaited = match is_new {
            true => failed.clone(),
            false => BTreeSet::new(),
        };
        let (is_news, names) = (self.health.set_awaited(&awaited), few(&awaited));
        if is_news && !awaited.is_empty() {
            tracing::warn!(
                namespaces = names,
                "a rotation of the root CA waits until the CA bundle is written in these namespaces"
            );
        }
    }
}

/// Applies the bundle. Where the API server finds the ConfigMap itself at fault, which is immutable or full, another one takes its place;
/// only the one that was looked at is removed.
async fn put(maps: &Api<Lenient<ConfigMap>>, bundle: &str, uid: Option<&str>) -> Result<(), kube::Error> {
    let applied = apply(maps, bundle).await;
    let is_at_fault = matches!(&applied, Err(kube::Error::Api(status)) if is_invalid(status));
    let Some(uid) = uid.filter(|_| is_at_fault) else {
        return applied;
    };
    let preconditions = Preconditions {
        uid: Some(uid.to_owned()),
        resource_version: None,
    };
    match remove(maps, &preconditions).await {
        Err(error) if !is_gone(&error) => return Err(error),
        _ => {}
    }
    apply(maps, bundle).await
}

/// Whether a field of the object is refused. An admission policy that denies the write answers with 422 too, names no field, and would
/// deny the next ConfigMap as well.
fn is_invalid(status: &Status) -> bool {
    let mut causes = status.details.iter().flat_map(|details| &details.causes);
    status.code == 422 && causes.any(|cause| !cause.field.is_empty())
}

async fn apply(maps: &Api<Lenient<ConfigMap>>, bundle: &str) -> Result<(), kube::Error> {
    let map = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": BUNDLE, "labels": labels(), "annotations": {DESCRIPTION: DESCRIBED}},
        "data": {BUNDLE_KEY: bundle},
    });
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    maps.patch(BUNDLE, &parameters, &Patch::Apply(&map))
        .await
        .map(drop)
}

async fn remove(maps: &Api<Lenient<ConfigMap>>, preconditions: &Preconditions) -> Result<(), kube::Error> {
    let parameters = DeleteParams {
        preconditions: Some(preconditions.clone()),
        ..DeleteParams::default()
    };
    maps.delete(BUNDLE, &parameters).await.map(drop)
}

/// What a namespace's ConfigMap needs.
#[derive(Debug, Clone, PartialEq)]
enum BundleChange {
    /// The bundle, and the uid of the ConfigMap that is there.
    Apply(Arc<str>, Option<String>),
    Remove(Preconditions),
}

impl BundleChange {
    /// What it is once it succeeds.
    fn outcome(&self) -> BundleWrite {
        match self {
            Self::Apply(..) => BundleWrite::Written,
            Self::Remove(_) => BundleWrite::Removed,
        }
    }
}

/// Objects of one kind by namespace, through lists that begin anew.
#[derive(Debug)]
struct Known<V> {
    by_namespace: BTreeMap<String, V>,
    /// What a list that is under way has named so far.
    listed: Option<BTreeMap<String, V>>,
    is_complete: bool,
}

impl<V> Default for Known<V> {
    fn default() -> Self {
        Self {
            by_namespace: BTreeMap::new(),
            listed: None,
            is_complete: false,
        }
    }
}

impl<V: PartialEq> Known<V> {
    /// Ends a list: what it did not name is gone. Gives the namespaces that differ from before.
    fn end_list(&mut self) -> Vec<String> {
        self.is_complete = true;
        let listed = self.listed.take().unwrap_or_default();
        let before = std::mem::replace(&mut self.by_namespace, listed);
        let after = &self.by_namespace;
        let changed = before.keys().chain(after.keys());
        let changed = changed.filter(|name| before.get(*name) != after.get(*name));
        changed.cloned().collect()
    }
}

/// Where a bundle is needed, and where one is. Decides and does no I/O.
#[derive(Debug, Default)]
struct Enrolment {
    /// Namespaces, and whether each has the label. One that ends is not among them.
    namespaces: Known<bool>,
    /// The enrolled pods of each namespace.
    pods: Known<BTreeSet<String>>,
    maps: Known<MapFacts>,
    bundle: Option<Arc<str>>,
    /// The release's namespace, which has a bundle always.
    own: String,
    /// Namespaces to look at.
    dirty: BTreeSet<String>,
}

/// What is known of a ConfigMap.
#[derive(Debug, Clone, PartialEq)]
struct MapFacts {
    content: Option<String>,
    /// The controller made it.
    is_ours: bool,
    is_described: bool,
    uid: Option<String>,
    resource_version: Option<String>,
}

impl MapFacts {
    fn of(map: &ConfigMap) -> Self {
        Self {
            content: map.data.as_ref().and_then(|data| data.get(BUNDLE_KEY).cloned()),
            is_ours: labels()
                .iter()
                .all(|(key, value)| map.labels().get(key) == Some(value)),
            is_described: map
                .annotations()
                .get(DESCRIPTION)
                .is_some_and(|text| text == DESCRIBED),
            uid: map.uid(),
            resource_version: map.resource_version(),
        }
    }
}

impl Enrolment {
    fn set_bundle(&mut self, bundle: &str) {
        if self.bundle.as_deref() != Some(bundle) {
            self.bundle = Some(Arc::from(bundle));
            let maps = self.maps.by_namespace.keys();
            let pods = self.pods.by_namespace.keys();
            self.dirty.extend(
                maps.chain(pods)
                    .chain(self.namespaces.by_namespace.keys())
                    .cloned(),
            );
        }
    }

    /// Whether each kind of object was listed once: before that nothing is known to be absent.
    fn is_complete(&self) -> bool {
        self.namespaces.is_complete && self.pods.is_complete && self.maps.is_complete
    }

    /// What every ConfigMap holds that is needed. Nothing before all was listed, and while a namespace lacks it: a rotation that goes
    /// on would sign with a root that pods there do not trust. One that is left where no pod needs it holds nothing up.
    fn everywhere(&self) -> Option<&Arc<str>> {
        let bundle = self.bundle.as_ref().filter(|_| self.is_complete())?;
        let mut changes = self
            .dirty
            .iter()
            .filter_map(|namespace| self.change(namespace, bundle));
        let lacks = changes.any(|change| change.outcome() == BundleWrite::Written);
        (!lacks).then_some(bundle)
    }

    fn see(&mut self, seen: Seen) {
        match seen {
            Seen::Namespace(event) => {
                let fact = |namespace: &PartialObjectMeta<Namespace>| {
                    let is_labelled = namespace
                        .labels()
                        .get(ENROLLED)
                        .is_some_and(|value| value == "true");
                    (
                        namespace.name_any(),
                        namespace
                            .metadata
                            .deletion_timestamp
                            .is_none()
                            .then_some(is_labelled),
                    )
                };
                note(&mut self.namespaces, &mut self.dirty, event, fact);
            }
            Seen::ConfigMap(event) => {
                let fact = |map: &ConfigMap| (map.namespace().unwrap_or_default(), Some(MapFacts::of(map)));
                note(&mut self.maps, &mut self.dirty, event, fact);
            }
            Seen::Pod(event) => self.see_pod(event),
        }
    }

    fn see_pod(&mut self, event: Event<PartialObjectMeta<Pod>>) {
        let place = |pod: &PartialObjectMeta<Pod>| (pod.namespace().unwrap_or_default(), pod.name_any());
        match event {
            Event::Init => self.pods.listed = Some(BTreeMap::new()),
            Event::InitApply(pod) => {
                let (namespace, name) = place(&pod);
                let listed = self.pods.listed.get_or_insert_default();
                listed.entry(namespace).or_default().insert(name);
            }
            Event::InitDone => self.dirty.extend(self.pods.end_list()),
            Event::Apply(pod) => {
                let (namespace, name) = place(&pod);
                let pods = self.pods.by_namespace.entry(namespace.clone()).or_default();
                // A pod changes often, and its namespace is in need of a bundle all the same.
                if pods.insert(name) {
                    self.dirty.insert(namespace);
                }
            }
            Event::Delete(pod) => {
                let (namespace, name) = place(&pod);
                if let Some(pods) = self.pods.by_namespace.get_mut(&namespace) {
                    pods.remove(&name);
                    if pods.is_empty() {
                        self.pods.by_namespace.remove(&namespace);
                    }
                }
                self.dirty.insert(namespace);
            }
        }
    }

    /// What to do in the namespaces that changed.
    fn take_changes(&mut self) -> Vec<(String, BundleChange)> {
        // Until then everything stays on the list.
        let Some(bundle) = self.bundle.clone().filter(|_| self.is_complete()) else {
            return Vec::new();
        };
        let dirty = std::mem::take(&mut self.dirty);
        let change = |namespace: String| Some((namespace.clone(), self.change(&namespace, &bundle)?));
        dirty.into_iter().filter_map(change).collect()
    }

    fn change(&self, namespace: &str, bundle: &Arc<str>) -> Option<BundleChange> {
        // One that ends takes its objects along, and takes no new ones.
        let is_labelled = *self.namespaces.by_namespace.get(namespace)?;
        let has_pods = self.pods.by_namespace.contains_key(namespace);
        let is_needed = is_labelled || has_pods || namespace == self.own;
        let found = self.maps.by_namespace.get(namespace);
        match (is_needed, found) {
            (true, Some(map))
                if map.is_ours && map.is_described && map.content.as_deref() == Some(&**bundle) =>
            {
                None
            }
            (true, found) => Some(BundleChange::Apply(
                Arc::clone(bundle),
                found.and_then(|map| map.uid.clone()),
            )),
            (false, Some(map)) if map.is_ours => Some(BundleChange::Remove(Preconditions {
                uid: map.uid.clone(),
                resource_version: map.resource_version.clone(),
            })),
            (false, _) => None,
        }
    }
}

/// Notes an event about the one object of a namespace; `fact` gives the namespace, and what to remember unless it is nothing.
fn note<K, V: PartialEq>(
    known: &mut Known<V>,
    dirty: &mut BTreeSet<String>,
    event: Event<K>,
    fact: impl Fn(&K) -> (String, Option<V>),
) {
    match event {
        Event::Init => known.listed = Some(BTreeMap::new()),
        Event::InitApply(object) => {
            if let (namespace, Some(value)) = fact(&object) {
                known.listed.get_or_insert_default().insert(namespace, value);
            }
        }
        Event::InitDone => dirty.extend(known.end_list()),
        Event::Apply(object) => {
            let (namespace, value) = fact(&object);
            match value {
                Some(value) => drop(known.by_namespace.insert(namespace.clone(), value)),
                None => drop(known.by_namespace.remove(&namespace)),
            }
            dirty.insert(namespace);
        }
        Event::Delete(object) => {
            let (namespace, _) = fact(&object);
            known.by_namespace.remove(&namespace);
            dirty.insert(namespace);
        }
    }
}

#[cfg(test)]
#[path = "bundles_tests.rs"]
mod tests;

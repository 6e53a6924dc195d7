//! Objects that the cluster keeps, as its API server told of them last.
//!
//! In: the lists and watches of the three kinds. Out: the [`Snapshot`] of all objects, once every kind was listed, and a number that
//! grows with each change.
//!
//! Of an object that is not valid the last version that was in force stays, or what stands in for it ([`super::stand_in`]).

use std::collections::BTreeMap;
use std::iter;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use kube::api::DynamicObject;
use kube::runtime::watcher::Event;
use parking_lot::Mutex;
use picket_policy::Document;
use picket_policy::api::v1alpha1::{
    AgentGrantSpec, AgentIdentitySpec, AgentPolicySpec, ConditionStatus, IdentityNode, MAX_NODES,
    ObjectCondition, Spec,
};
use picket_policy::api::{API_VERSION, read_documents};
use picket_policy::{ClusterObject, ObjectVerdict};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::judged::READY;
use super::stand_in;
use super::status::Limits;

/// A kind that the cluster keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ClusterKind {
    /// The kind as it is written.
    pub(crate) kind: &'static str,
    /// The kind in URLs.
    pub(crate) plural: &'static str,
}

/// The kinds.
pub(crate) const KINDS: [ClusterKind; 3] = [
    ClusterKind {
        kind: AgentIdentitySpec::KIND,
        plural: AgentIdentitySpec::PLURAL,
    },
    ClusterKind {
        kind: AgentGrantSpec::KIND,
        plural: AgentGrantSpec::PLURAL,
    },
    ClusterKind {
        kind: AgentPolicySpec::KIND,
        plural: AgentPolicySpec::PLURAL,
    },
];

/// Whether the API server has told of all objects of a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Listed {
    /// It has not yet.
    #[default]
    No,
    /// It has.
    Yes,
    /// It does not know the kind: the CRD is not installed.
    NotInstalled,
}

/// One object.
#[derive(Debug, Clone)]
struct Entry {
    uid: String,
    generation: i64,
    /// As the API server has it. A generation alone may come twice: etcd can be set back to an older state.
    spec: Arc<Value>,
    created: i64,
    /// The latest version, or what is wrong with it by itself.
    latest: Result<Document, Vec<String>>,
    /// The last version that was in force.
    good: Option<Document>,
    /// What takes effect while the latest version is not in force, where that is not the last good one.
    stand_in: Option<Document>,
    /// Whether the latest version was in force: here, or by its condition on some node.
    known: bool,
    conditions: Vec<ObjectCondition>,
    nodes: ShownNodes,
    /// Of an identity, what the latest version says of when its agent may act, faulty or not.
    limits: Option<Value>,
}

/// What the status of an identity says of nodes.
#[derive(Debug, Clone, Default)]
pub(super) struct ShownNodes {
    /// Of this node.
    pub(super) own: Option<IdentityNode>,
    /// The entries of other nodes, where they leave no room for this one's.
    pub(super) others: Arc<[IdentityNode]>,
    /// The workloads that claim the identity, by the nodes that say so, each with one of those nodes.
    pub(super) workloads: BTreeMap<String, String>,
}

/// The objects of one kind.
#[derive(Debug, Default)]
struct KindObjects {
    objects: BTreeMap<String, Entry>,
    /// What a list that is under way has told so far.
    listing: Option<BTreeMap<String, Entry>>,
    listed: Listed,
    watch: WatchState,
}

/// How the list and watch of a kind goes.
#[derive(Debug, Clone, Copy, Default)]
struct WatchState {
    /// When it told something last; `None` before the first list was complete.
    heard: Option<Instant>,
    /// Whether it failed since.
    failing: bool,
}

/// The objects of the cluster.
#[derive(Debug)]
pub struct ClusterObjects {
    kinds: Mutex<[KindObjects; 3]>,
    changes: watch::Sender<u64>,
    /// Whether there are files beside the cluster, which serve where the CRDs are not installed.
    beside_files: bool,
    /// This node's name.
    node: OnceLock<String>,
}

/// An object at a moment.
#[derive(Debug, Clone)]
pub(super) struct SnapshotEntry {
    /// Which of [`KINDS`] it is.
    pub(super) place: usize,
    pub(super) name: String,
    pub(super) uid: String,
    pub(super) generation: i64,
    pub(super) spec: Arc<Value>,
    /// What is wrong with the latest version by itself.
    pub(super) errors: Vec<String>,
    /// Whether what is in force denies everything to a policy's subjects, in place of a valid version.
    pub(super) has_barrier: bool,
    /// Of an identity, what the latest version says of when its agent may act, faulty or not.
    pub(super) limits: Option<Value>,
    /// What is in force of the identity of the same name in a file, where `limits` are stricter.
    pub(super) limits_file: Option<Limits>,
}

/// All objects at a moment, in an order that every node has: the older first.
#[derive(Debug, Clone, Default)]
pub(super) struct Snapshot {
    pub(super) entries: Vec<SnapshotEntry>,
    pub(super) objects: Vec<ClusterObject>,
}

impl ClusterObjects {
    /// None yet. `beside_files` says that files have objects too.
    pub(crate) fn new(beside_files: bool) -> Arc<Self> {
        Arc::new(Self {
            kinds: Mutex::default(),
            changes: watch::channel(0).0,
            beside_files,
            node: OnceLock::new(),
        })
    }

    /// Says which node this is.
    pub(super) fn set_node(&self, node: &str) {
        // A second name of the node would be of no use to anybody.
        let _ = self.node.set(node.to_owned());
    }

    /// This node's name, where it was said.
    pub(super) fn node(&self) -> Option<&str> {
        self.node.get().map(String::as_str)
    }

    /// Wakes at each change that may matter.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// How far each kind is.
    pub(super) fn listed(&self) -> [Listed; 3] {
        let kinds = self.kinds.lock();
        [kinds[0].listed, kinds[1].listed, kinds[2].listed]
    }

    /// How long ago the watch of each kind worked last: now, while it does not fail. `None` where it never did.
    pub(super) fn heard(&self, now: Instant) -> [Option<Duration>; 3] {
        let kinds = self.kinds.lock();
        let heard = |kind: &KindObjects| {
            let ago = now.saturating_duration_since(kind.watch.heard?);
            Some(if kind.watch.failing { ago } else { Duration::ZERO })
        };
        [heard(&kinds[0]), heard(&kinds[1]), heard(&kinds[2])]
    }

    /// Notes that a kind's list or watch failed.
    pub(super) fn failed(&self, place: usize) {
        let watch = &mut self.kinds.lock()[place].watch;
        // Up to this moment it worked.
        if !std::mem::replace(&mut watch.failing, true) && watch.heard.is_some() {
            watch.heard = Some(Instant::now());
        }
    }

    /// Why the objects cannot be judged yet.
    pub(super) fn why_unlisted(&self) -> Option<String> {
        let listed = self.listed();
        let of = |wanted: Listed| {
            let kinds = KINDS.iter().zip(listed).filter(|(_, listed)| *listed == wanted);
            kinds.map(|(kind, _)| kind.kind).collect::<Vec<_>>().join(", ")
        };
        let missing = of(Listed::NotInstalled);
        if !missing.is_empty() && !self.beside_files {
            return Some(format!(
                "the API server does not know {missing}: install the CRDs with `picket crds | kubectl apply --server-side -f -`"
            ));
        }
        let unlisted = of(Listed::No);
        (!unlisted.is_empty()).then(|| format!("the API server has not listed {unlisted} yet"))
    }

    /// Takes the cluster for one without objects, to look at files alone.
    pub(super) fn assume_empty(&self) {
        for kind in &mut *self.kinds.lock() {
            kind.listed = Listed::Yes;
        }
    }

    /// Takes up an event of a kind's watch.
    pub(super) fn event(&self, place: usize, event: Event<DynamicObject>) {
        let mut kinds = self.kinds.lock();
        let kind = &mut kinds[place];
        // The mark of a new list is made before the API server was asked, and a list counts when it is complete.
        if !matches!(event, Event::Init | Event::InitApply(_)) {
            kind.watch = WatchState {
                heard: Some(Instant::now()),
                failing: false,
            };
        }
        let changed = match event {
            Event::Init => {
                kind.listing = Some(BTreeMap::new());
                false
            }
            Event::InitApply(object) => {
                if let Some((name, entry)) = Entry::read(place, object, &kind.objects, self.node()) {
                    kind.listing.get_or_insert_default().insert(name, entry);
                }
                false
            }
            Event::InitDone => {
                let listed = kind.listing.take().unwrap_or_default();
                let same = kind.listed == Listed::Yes && same_versions(&kind.objects, &listed);
                kind.objects = listed;
                kind.listed = Listed::Yes;
                !same
            }
            Event::Apply(object) => match Entry::read(place, object, &kind.objects, self.node()) {
                Some((name, entry)) => {
                    let before = kind.objects.insert(name.clone(), entry);
                    let now = &kind.objects[&name];
                    before.is_none_or(|before| before.version() != now.version())
                }
                None => false,
            },
            Event::Delete(object) => {
                let name = object.metadata.name.unwrap_or_default();
                kind.objects.remove(&name).is_some()
            }
        };
        drop(kinds);
        if changed {
            self.changes.send_modify(|count| *count += 1);
        }
    }

    /// Notes that the API server does not know a kind. What it told before stays.
    pub(super) fn not_installed(&self, place: usize) {
        let mut kinds = self.kinds.lock();
        let first = kinds[place].listed == Listed::No;
        if first {
            kinds[place].listed = Listed::NotInstalled;
        }
        drop(kinds);
        if first {
            tracing::error!(
                kind = KINDS[place].kind,
                "the API server does not know this kind; install the CRDs with `picket crds | kubectl apply --server-side -f -`"
            );
            self.changes.send_modify(|count| *count += 1);
        }
    }

    /// All objects as they are now.
    pub(super) fn snapshot(&self) -> Snapshot {
        let kinds = self.kinds.lock();
        let all = kinds.iter().enumerate();
        let mut all: Vec<_> = all
            .flat_map(|(place, kind)| kind.objects.iter().map(move |(name, entry)| (place, name, entry)))
            .collect();
        all.sort_by_key(|(place, name, entry)| (entry.created, *place, *name));
        let mut snapshot = Snapshot::default();
        for (place, name, entry) in all {
            let (versions, known_from) = entry.versions();
            snapshot.objects.push(ClusterObject {
                file: file_of(place, name).into(),
                versions,
                known_from,
            });
            snapshot.entries.push(SnapshotEntry {
                place,
                name: name.clone(),
                uid: entry.uid.clone(),
                generation: entry.generation,
                spec: Arc::clone(&entry.spec),
                errors: entry.latest.as_ref().err().cloned().unwrap_or_default(),
                has_barrier: entry.good.is_none() && entry.stand_in.is_some(),
                limits: entry.limits.clone(),
                limits_file: None,
            });
        }
        snapshot
    }

    /// Remembers the versions that came into force.
    pub(super) fn came_into_force(&self, snapshot: &Snapshot, verdicts: &[ObjectVerdict]) {
        let mut kinds = self.kinds.lock();
        for (shown, verdict) in snapshot.entries.iter().zip(verdicts) {
            let entry = kinds[shown.place].objects.get_mut(&shown.name);
            if let Some(entry) = entry
                && verdict.in_force == Some(0)
                && entry.version() == (&*shown.uid, shown.generation, &*shown.spec)
                && let Ok(latest) = &entry.latest
            {
                entry.good = Some(latest.clone());
                entry.stand_in = None;
                entry.known = true;
            }
        }
    }

    /// Each identity by name and UID, with what the API server shows of this node.
    pub(super) fn shown_nodes(&self) -> Vec<(String, String, ShownNodes)> {
        let kinds = self.kinds.lock();
        let identities = kinds.iter().zip(KINDS);
        let identities = identities.filter(|(_, kind)| kind.kind == AgentIdentitySpec::KIND);
        let entries = identities.flat_map(|(objects, _)| &objects.objects);
        entries
            .map(|(name, entry)| (name.clone(), entry.uid.clone(), entry.nodes.clone()))
            .collect()
    }

    /// The workloads that claim an identity on any node, each with a node that says so. One write of a node says so to every agent.
    pub(super) fn shown_workloads(&self, place: usize, name: &str, uid: &str) -> BTreeMap<String, String> {
        let kinds = self.kinds.lock();
        let entry = kinds[place].objects.get(name).filter(|entry| entry.uid == uid);
        entry.map_or_else(BTreeMap::new, |entry| entry.nodes.workloads.clone())
    }

    /// The conditions that the API server shows of an object of this version.
    pub(super) fn shown_conditions(
        &self,
        place: usize,
        name: &str,
        uid: &str,
    ) -> Option<Vec<ObjectCondition>> {
        let kinds = self.kinds.lock();
        let entry = kinds[place].objects.get(name).filter(|entry| entry.uid == uid)?;
        Some(entry.conditions.clone())
    }
}

/// What stands for a file in messages about an object of the cluster.
pub(super) fn file_of(place: usize, name: &str) -> String {
    format!("cluster/{}/{name}", KINDS[place].kind)
}

fn same_versions(one: &BTreeMap<String, Entry>, other: &BTreeMap<String, Entry>) -> bool {
    let mut pairs = iter::zip(one, other);
    one.len() == other.len()
        && pairs.all(|((name, entry), (other_name, other_entry))| {
            name == other_name && entry.version() == other_entry.version()
        })
}

impl Entry {
    /// What tells a version from another. A change of the status is none.
    fn version(&self) -> (&str, i64, &Value) {
        (&self.uid, self.generation, &self.spec)
    }

    /// The versions that may come into force, the best one first, and the first of them that was in force before.
    fn versions(&self) -> (Vec<Document>, usize) {
        match (&self.latest, &self.stand_in, &self.good) {
            (Ok(latest), stand_in, good) => {
                let versions = iter::once(latest).chain(stand_in.as_ref().or(good.as_ref()));
                (versions.cloned().collect(), usize::from(!self.known))
            }
            (Err(_), Some(stand_in), _) => (vec![stand_in.clone()], 0),
            (Err(_), None, good) => (good.iter().cloned().collect(), 0),
        }
    }

    /// Reads an object. `known` are those that were told of before, and `node` is this node.
    fn read(
        place: usize,
        object: DynamicObject,
        known: &BTreeMap<String, Self>,
        node: Option<&str>,
    ) -> Option<(String, Self)> {
        let (name, uid) = (object.metadata.name?, object.metadata.uid?);
        let generation = object.metadata.generation.unwrap_or_default();
        let created = object
            .metadata
            .creation_timestamp
            .map_or(0, |time| time.0.as_second());
        let conditions = object.data.pointer("/status/conditions").cloned();
        let conditions = conditions.and_then(|conditions| serde_json::from_value(conditions).ok());
        let conditions: Vec<ObjectCondition> = conditions.unwrap_or_default();
        let nodes = node
            .map(|node| shown_nodes(&object.data, node))
            .unwrap_or_default();
        let spec = object.data.get("spec").cloned().unwrap_or_default();
        let before = known.get(&name).filter(|before| before.uid == uid);
        if let Some(before) =
            before.filter(|before| (before.generation, &*before.spec) == (generation, &spec))
        {
            let known = before.known || conditions.iter().any(|shown| is_ready(shown, generation));
            let entry = Self {
                conditions,
                nodes,
                known,
                ..before.clone()
            };
            return Some((name, entry));
        }
        // What was in force of a version that is not before this one is lost: the objects were set back meanwhile.
        let before = before.filter(|before| before.generation < generation);
        let limits = (KINDS[place].kind == AgentIdentitySpec::KIND).then(|| stand_in::limits(&spec));
        let latest = document(place, &name, &spec);
        let good = before.and_then(|before| before.good.clone());
        let stand_in = match (&latest, &good, KINDS[place].kind) {
            (Err(_), None, AgentPolicySpec::KIND) => {
                stand_in::barrier(&spec, |spec| document(place, &name, spec).ok())
            }
            // A valid version can still be refused beside other objects, and shuts its agent out all the same.
            (_, Some(good), AgentIdentitySpec::KIND) => stand_in::shut_out(good, &spec),
            _ => None,
        };
        let entry = Self {
            uid,
            generation,
            spec: Arc::new(spec),
            created,
            good,
            stand_in,
            latest,
            known: conditions.iter().any(|shown| is_ready(shown, generation)),
            conditions,
            nodes,
            limits: limits.flatten(),
        };
        Some((name, entry))
    }
}

/// An object as a document, by the reader of files: the same is refused for the same reasons.
fn document(place: usize, name: &str, spec: &Value) -> Result<Document, Vec<String>> {
    let object = json!({
        "apiVersion": API_VERSION, "kind": KINDS[place].kind, "metadata": {"name": name}, "spec": spec,
    });
    match read_documents(&file_of(place, name), &object.to_string()) {
        Ok(documents) => documents
            .into_iter()
            .next()
            .ok_or_else(|| vec!["it is empty".to_owned()]),
        Err(errors) => Err(errors.into_iter().map(|error| error.reason).collect()),
    }
}

/// What the status of an identity says of nodes, this one among them.
fn shown_nodes(object: &Value, node: &str) -> ShownNodes {
    let nodes = object.pointer("/status/nodes").and_then(Value::as_array);
    let nodes = nodes.map_or(&[][..], Vec::as_slice);
    let read = |entry: &Value| serde_json::from_value(entry.clone()).ok();
    let own = nodes.iter().find(|entry| entry["node"] == node);
    let is_full = own.is_none() && nodes.len() >= MAX_NODES;
    let mut workloads = BTreeMap::new();
    for entry in nodes {
        let claimed = entry["workloads"].as_array().into_iter().flatten();
        for workload in claimed.filter_map(Value::as_str) {
            let node = entry["node"].as_str().unwrap_or_default();
            workloads
                .entry(workload.to_owned())
                .or_insert_with(|| node.to_owned());
        }
    }
    ShownNodes {
        own: own.and_then(read),
        others: nodes.iter().filter(|_| is_full).filter_map(read).collect(),
        workloads,
    }
}

/// Whether a condition says that the version of this generation is in force.
fn is_ready(shown: &ObjectCondition, generation: i64) -> bool {
    shown.kind == READY && shown.status == ConditionStatus::True && shown.observed_generation == generation
}

/// What a condition says, but for its time.
pub(super) fn same_condition(one: &ObjectCondition, other: &ObjectCondition) -> bool {
    let said = |condition: &ObjectCondition| {
        let ObjectCondition {
            kind,
            status,
            observed_generation,
            reason,
            ..
        } = condition.clone();
        (kind, status, observed_generation, reason)
    };
    said(one) == said(other)
}

/// A condition of now.
pub(super) fn condition(
    kind: &str,
    holds: bool,
    generation: i64,
    reason: &str,
    message: String,
    now: Timestamp,
) -> ObjectCondition {
    ObjectCondition {
        kind: kind.to_owned(),
        status: if holds {
            ConditionStatus::True
        } else {
            ConditionStatus::False
        },
        observed_generation: generation,
        last_transition_time: now,
        reason: reason.to_owned(),
        message,
    }
}

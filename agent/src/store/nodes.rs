//! What this node knows of each AgentIdentity of the cluster: its pods here, when it was served and refused last, and what needs a
//! person.
//!
//! In: the node's enforced pods, the set in force, the [`Usage`](super::usage::Usage), and what the API server shows of this node. Out:
//! server-side applies of one entry of `status.nodes`, only where it differs.
//!
//! Each node writes as a field manager of its own, so that nodes never write over each other. A node without a pod of an identity, and
//! without a request of it, writes nothing about it: the writes grow with the pods and not with nodes times identities.
//!
//! A status has room for [`MAX_NODES`](picket_policy::api::v1alpha1::MAX_NODES) entries, and nobody removes that of a node that is gone. A
//! node without room takes the place of the entry that was longest without use, where that node has no pod of the identity, or is no
//! Node of the cluster any more. Only a later use takes a place, by [`COARSE`] or more: two nodes never take turns.
//!
//! Where several workloads claim an exclusive identity, a node that has an entry takes out that of a claimant whose node is gone.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::ListParams;
use picket_controller::lenient::Lenient;
use picket_policy::api::v1alpha1::{IdentityNode, MAX_NODE_NAMES};
use picket_policy::{Identity, PodClaim, PolicySet};
use serde_json::json;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::cluster::{ClusterObjects, ShownNodes};
use super::writer::StatusWriter;
use super::{Store, StoreMetrics};
use crate::cluster::Connector;
use crate::runtime::chance::chance;

/// How often the entries are compared.
const COMPARE: Duration = Duration::from_secs(2);

/// How often this node writes about one identity at most, and by how much later by chance, so that nodes that learn of something
/// together do not write together.
const REPEAT: Duration = Duration::from_secs(30);
const SPREAD: Duration = Duration::from_secs(10);

/// How much later a moment must be to be written again. Each write is told to every node.
const COARSE: SignedDuration = SignedDuration::from_hours(1);

/// The pause between two writes of this node. A write is told to every node, so that 500 nodes that all write cost 100 writes and
/// 50,000 watch events a second.
const PACE: Duration = Duration::from_secs(5);

/// How long an entry that could not be replaced is left alone: its node has pods and is there, or somebody else wrote it.
const LEFT_ALONE: Duration = Duration::from_secs(3600);

/// How long the node of another claimant counts as there once it was seen: a lost node's object goes some minutes after it.
const CLAIMANT_SEEN: Duration = Duration::from_secs(300);

/// The place of identities among the kinds.
const IDENTITIES: usize = 0;

/// The longest name of a field manager that an API server takes.
const MAX_MANAGER: usize = 128;

/// An enforced pod of this node.
#[derive(Debug, Clone)]
pub struct PodFacts {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The service account it runs as.
    pub service_account: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// What made it, such as `Deployment/fixer`.
    pub workload: String,
}

impl PodFacts {
    /// What it claims of exclusive identities.
    pub(super) fn claim(&self) -> PodClaim<'_> {
        PodClaim {
            namespace: &self.namespace,
            service_account: &self.service_account,
            labels: &self.labels,
            workload: &self.workload,
        }
    }
}

/// The enforced pods of this node, as they are when asked.
pub type PodsOfNode = Arc<dyn Fn() -> Vec<PodFacts> + Send + Sync>;

impl Store {
    /// Writes this node's entries until cancelled.
    pub(crate) async fn report_nodes(
        self: Arc<Self>,
        connector: Connector,
        metrics: StoreMetrics,
        pods: PodsOfNode,
        cancel: CancellationToken,
    ) {
        let cluster = self.cluster.clone();
        let Some((cluster, node)) =
            cluster.and_then(|cluster| Some((Arc::clone(&cluster), cluster.node()?.to_owned())))
        else {
            return cancel.cancelled().await;
        };
        let writer = StatusWriter::new(connector, metrics, "this node's entry in an identity's status");
        let reporter = NodeReporter::new(self, cluster, node, writer, pods);
        tokio::select! {
            () = cancel.cancelled() => {}
            () = reporter.run() => {}
        }
    }
}

struct NodeReporter {
    store: Arc<Store>,
    cluster: Arc<ClusterObjects>,
    node: String,
    writer: StatusWriter,
    pods: PodsOfNode,
    /// Before when nothing is written about an identity, by its UID.
    next: HashMap<String, Instant>,
    /// Until when an entry is left alone, by the identity's UID and the node.
    left_alone: HashMap<(String, String), Instant>,
}

impl NodeReporter {
    fn new(
        store: Arc<Store>,
        cluster: Arc<ClusterObjects>,
        node: String,
        writer: StatusWriter,
        pods: PodsOfNode,
    ) -> Self {
        Self {
            store,
            cluster,
            node,
            writer,
            pods,
            next: HashMap::new(),
            left_alone: HashMap::new(),
        }
    }

    async fn run(mut self) {
        loop {
            tokio::time::sleep(COMPARE).await;
            let set = self.store.current();
            let identities: HashMap<&str, &Identity> = set
                .identities()
                .iter()
                .map(|identity| (identity.name.as_str(), identity.as_ref()))
                .collect();
            self.store.usage.retain(|name| identities.contains_key(name));
            let claims = self.store.claims(&set);
            let facts = facts(&set, &(self.pods)());
            let now = Timestamp::now();
            self.next.retain(|_, at| *at > Instant::now());
            self.left_alone.retain(|_, at| *at > Instant::now());
            for (
                name,
                uid,
                ShownNodes {
                    own: shown,
                    others,
                    workloads: claimed,
                },
            ) in self.cluster.shown_nodes()
            {
                if shown.is_some() && claimed.len() > 1 {
                    self.remove_gone(&name, &uid, &claimed).await;
                }
                if self.next.contains_key(&uid) {
                    continue;
                }
                let wanted = self.wanted(
                    identities.get(name.as_str()).copied(),
                    facts.get(&name),
                    claims.workloads(&name),
                    &name,
                    (shown.as_ref(), now),
                );
                let Some(wanted) = wanted.filter(|wanted| differs(wanted, shown.as_ref())) else {
                    continue;
                };
                let is_left_alone =
                    |node: &str| self.left_alone.contains_key(&(uid.clone(), node.to_owned()));
                match replaceable(&others, &wanted, now, is_left_alone) {
                    Some(other) => self.replace(&name, &uid, other, &wanted).await,
                    None if others.is_empty() => self.write(&name, &uid, &wanted).await,
                    None => continue,
                }
                self.next
                    .insert(uid, Instant::now() + REPEAT + SPREAD.mul_f64(chance()));
                tokio::time::sleep(PACE).await;
            }
        }
    }

    /// This node's entry of an identity; none where the node has nothing to say of it and never had.
    fn wanted<'w>(
        &self,
        identity: Option<&Identity>,
        pods: Option<&PodsOf>,
        workloads: impl Iterator<Item = &'w str>,
        name: &str,
        (shown, now): (Option<&IdentityNode>, Timestamp),
    ) -> Option<IdentityNode> {
        let (used, denied) = self.store.usage.of(name);
        if pods.is_none() && used.is_none() && denied.is_none() && shown.is_none() {
            return None;
        }
        // What an earlier agent of this node wrote stays true.
        let later = |of: fn(&IdentityNode) -> Option<Timestamp>, here: Option<Timestamp>| {
            shown.and_then(of).into_iter().chain(here).max()
        };
        let review_by = identity.and_then(|identity| identity.review_by);
        Some(IdentityNode {
            node: self.node.clone(),
            pods: pods.map_or(0, |pods| pods.count),
            pod_names: pods.map(|pods| pods.names.clone()).unwrap_or_default(),
            last_used: later(|shown| shown.last_used, used),
            last_denied: later(|shown| shown.last_denied, denied),
            conflicts: pods.map(|pods| pods.conflicts.clone()).unwrap_or_default(),
            workloads: workloads.take(MAX_NODE_NAMES).map(str::to_owned).collect(),
            review_due: review_by.is_some_and(|at| at <= now),
        })
    }

    async fn write(&mut self, name: &str, uid: &str, entry: &IdentityNode) {
        let status = json!({"nodes": [entry]});
        let manager = manager(&self.node);
        self.writer.write((IDENTITIES, name, uid), &manager, status).await;
    }

    /// Writes this node's entry in place of another one, as the manager of which it is taken out. Of a node with pods only where that is
    /// gone: one that ended with its pods had no time to say so.
    async fn replace(&mut self, name: &str, uid: &str, other: &IdentityNode, entry: &IdentityNode) {
        let until = Instant::now() + LEFT_ALONE;
        self.left_alone
            .insert((uid.to_owned(), other.node.clone()), until);
        if other.pods > 0 && !self.is_gone(&other.node).await {
            return;
        }
        tracing::info!(
            identity = name,
            node = other.node,
            last_used = ?other.last_used,
            "the identity's status has no room: this node takes the place of the one that was longest without use"
        );
        let other = manager(&other.node);
        if self
            .writer
            .write((IDENTITIES, name, uid), &other, json!({}))
            .await
        {
            self.write(name, uid, entry).await;
        }
    }

    /// Takes out the entries of claimants whose nodes are gone: their workloads would look like a conflict for ever.
    async fn remove_gone(&mut self, name: &str, uid: &str, claimed: &BTreeMap<String, String>) {
        let others: BTreeSet<_> = claimed.values().filter(|node| **node != self.node).collect();
        for node in others {
            let of_node = (uid.to_owned(), node.clone());
            if self.left_alone.contains_key(&of_node) {
                continue;
            }
            self.left_alone.insert(of_node, Instant::now() + CLAIMANT_SEEN);
            if self.is_gone(node).await {
                tracing::info!(
                    identity = name,
                    node,
                    "the entry of a node that is gone is taken out of the exclusive identity's status"
                );
                let target = (IDENTITIES, name, uid);
                self.writer.write(target, &manager(node), json!({})).await;
            }
            tokio::time::sleep(PACE).await;
        }
    }

    /// Whether the cluster has no such Node. The agent may list Nodes, and not get one.
    async fn is_gone(&mut self, node: &str) -> bool {
        let wanted = ListParams::default().fields(&format!("metadata.name={node}"));
        let list = |client| async move { Api::<Lenient<Node>>::all(client).list(&wanted).await };
        let listed = self.writer.ask(list).await;
        listed.is_ok_and(|nodes| nodes.items.is_empty())
    }
}

/// The entry of a full list whose place one of `wanted` may take: of those that were used earlier, the first without pods, and then the
/// first of all.
fn replaceable<'e>(
    others: &'e [IdentityNode],
    wanted: &IdentityNode,
    now: Timestamp,
    is_left_alone: impl Fn(&str) -> bool,
) -> Option<&'e IdentityNode> {
    let last = |entry: &IdentityNode| entry.last_used.max(entry.last_denied);
    // With a pod here, the agent is at work now.
    let used = last(wanted).filter(|_| wanted.pods == 0).unwrap_or(now);
    let earlier = others
        .iter()
        .filter(|other| last(other).is_none_or(|last| used.duration_since(last) >= COARSE));
    earlier
        .filter(|other| !is_left_alone(&other.node))
        .min_by_key(|other| (other.pods > 0, last(other)))
}

/// The field manager of a node. A node's name may be longer than that of a field manager.
fn manager(node: &str) -> String {
    let mut manager = format!("picket-node-{node}");
    if manager.len() > MAX_MANAGER {
        // Two nodes whose names begin alike would write over each other's entries.
        let digest = ring::digest::digest(&ring::digest::SHA256, node.as_bytes());
        let own: String = digest
            .as_ref()
            .iter()
            .take(16)
            .map(|byte| format!("{byte:02x}"))
            .collect();
        // Of another node the name is what an entry says.
        manager.truncate(manager.floor_char_boundary(MAX_MANAGER - own.len()));
        manager.push_str(&own);
    }
    manager
}

/// The pods of one identity on this node.
#[derive(Debug, Default, PartialEq, Eq)]
struct PodsOf {
    count: u32,
    names: Vec<String>,
    conflicts: Vec<String>,
}

/// The pods of each identity.
fn facts(set: &PolicySet, pods: &[PodFacts]) -> BTreeMap<String, PodsOf> {
    let mut facts: BTreeMap<String, PodsOf> = BTreeMap::new();
    for pod in pods {
        let identities = set.identities_of_pod(&pod.namespace, &pod.service_account, &pod.labels);
        for identity in &identities {
            let of = facts.entry(identity.name.clone()).or_default();
            of.count += 1;
            of.names.push(format!("{}/{}", pod.namespace, pod.name));
            let others = identities.iter().filter(|other| other.name != identity.name);
            of.conflicts.extend(others.map(|other| other.name.clone()));
        }
    }
    for of in facts.values_mut() {
        for names in [&mut of.names, &mut of.conflicts] {
            // In an order that stays: what differs is written.
            names.sort();
            names.dedup();
            names.truncate(MAX_NODE_NAMES);
        }
    }
    facts
}

/// Whether an entry is worth a write.
fn differs(wanted: &IdentityNode, shown: Option<&IdentityNode>) -> bool {
    let Some(shown) = shown else { return true };
    let moment = |wanted: Option<Timestamp>, shown: Option<Timestamp>| match (wanted, shown) {
        (Some(wanted), Some(shown)) => wanted.duration_since(shown) >= COARSE,
        (wanted, shown) => wanted.is_some() != shown.is_some(),
    };
    let moments_apart = |entry: &IdentityNode| IdentityNode {
        last_used: None,
        last_denied: None,
        ..entry.clone()
    };
    moments_apart(wanted) != moments_apart(shown)
        || moment(wanted.last_used, shown.last_used)
        || moment(wanted.last_denied, shown.last_denied)
}

#[cfg(test)]
#[path = "nodes_tests.rs"]
mod tests;

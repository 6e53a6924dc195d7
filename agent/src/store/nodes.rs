//! What this node knows of each AgentIdentity of the cluster: its pods here, when it was served and refused last, and what needs a
//! person.
//!
//! In: the node's enforced pods, the set in force, the [`Usage`](super::usage::Usage), and what the API server shows of this node. Out:
//! server-side applies of one entry of `status.nodes`, only where it differs.
//!
//! Each node writes as a field manager of its own, so that nodes never write over each other. A node without a pod of an identity, and
//! without a request of it, writes nothing about it: the writes grow with the pods and not with nodes times identities.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use kube::api::{DynamicObject, Patch, PatchParams};
use kube::{Api, Client};
use picket_policy::api::API_VERSION;
use picket_policy::api::v1alpha1::{AgentIdentitySpec, IdentityNode, MAX_NODE_NAMES, MAX_NODES, Spec as _};
use picket_policy::{Identity, PodClaim, PolicySet};
use serde_json::json;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::cluster::{ClusterObjects, ShownNodes};
use super::follow::api_resource;
use super::report::chance;
use super::{Store, StoreMetrics};
use crate::cluster::{Connector, printable};

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

/// How long one write may take.
const WRITE_LIMIT: Duration = Duration::from_secs(5);

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
        let reporter = NodeReporter {
            store: self,
            cluster,
            node,
            connector,
            metrics,
            pods,
            client: None,
            next: HashMap::new(),
            failing: false,
        };
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
    connector: Connector,
    metrics: StoreMetrics,
    pods: PodsOfNode,
    client: Option<Client>,
    /// Before when nothing is written about an identity, by its UID.
    next: HashMap<String, Instant>,
    failing: bool,
}

impl NodeReporter {
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
            for (
                name,
                uid,
                ShownNodes {
                    own: shown, count, ..
                },
            ) in self.cluster.shown_nodes()
            {
                let is_full = shown.is_none() && count >= MAX_NODES;
                if is_full || self.next.contains_key(&uid) {
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
                self.write(&name, &uid, &wanted).await;
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
        let written = timeout(WRITE_LIMIT, self.apply(name, uid, entry)).await;
        let error = match written {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error),
            Err(_) => Some("the API server does not answer".to_owned()),
        };
        self.metrics.status_written(error.is_none());
        match error {
            None => self.failing = false,
            Some(error) => {
                self.client = None;
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::warn!(
                        error,
                        name,
                        "the agent cannot write this node's entry in an identity's status; deploy/rbac.yaml has the rights for it"
                    );
                }
            }
        }
    }

    async fn apply(&mut self, name: &str, uid: &str, entry: &IdentityNode) -> Result<(), String> {
        let client = match &self.client {
            Some(client) => client.clone(),
            None => {
                let client = self
                    .connector
                    .connect()
                    .await
                    .map_err(|error| error.to_string())?;
                self.client.insert(client).clone()
            }
        };
        let api = Api::<DynamicObject>::all_with(client, &api_resource(IDENTITIES));
        let patch = json!({
            "apiVersion": API_VERSION, "kind": AgentIdentitySpec::KIND,
            "metadata": {"name": name, "uid": uid},
            "status": {"nodes": [entry]},
        });
        let parameters = PatchParams::apply(&manager(&self.node)).force();
        let applied = api.patch_status(name, &parameters, &Patch::Apply(&patch)).await;
        applied.map(drop).map_err(|error| printable(&error))
    }
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
        manager.truncate(MAX_MANAGER - own.len());
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

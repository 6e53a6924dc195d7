//! Labels each node that has a ready agent, so that enrolled pods go to no other.
//!
//! In: the agents' pods of the controller's namespace, and the nodes' labels. Out: the label `picket.dev/agent=ready` set and removed,
//! and a Kubernetes Event on the node for each change.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::select;
use k8s_openapi::api::core::v1::{Node, ObjectReference, Pod};
use kube::api::{Patch, PatchParams};
use kube::core::PartialObjectMeta;
use kube::runtime::events::{Event as KubeEvent, EventType, Recorder, Reporter};
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, ResourceExt as _};
use serde_json::json;
use tokio::time::Instant;

use crate::kubernetes::{follow, is_gone, printable};
use crate::lenient::Lenient;
use crate::metrics::{ControllerMetrics, NodeCounts, Part};
use crate::names::{AGENT_LABEL, AGENT_READY, AGENTS, FIELD_MANAGER};

/// How long a node keeps its label without a ready agent. An agent that is replaced in place, or whose probe fails once, is back
/// within that; pods that come meanwhile wait for their token or stay closed, as on any node without an agent.
const PAUSE: Duration = Duration::from_secs(10);

/// How soon a write is tried again that failed.
const RETRY: Duration = Duration::from_secs(2);

#[expect(
    clippy::large_enum_variant,
    reason = "one event at a time is held, and a box for each would cost more"
)]
enum Seen {
    Pod(Event<AgentPod>),
    Node(Event<PartialObjectMeta<Node>>),
}

/// What counts of an agent's pod.
struct AgentPod {
    name: String,
    /// Its node, if it is Ready.
    ready_on: Option<String>,
}

/// Labels nodes for as long as it is polled.
pub(crate) struct NodeLabels {
    client: Client,
    namespace: String,
    recorder: Recorder,
    readiness: Readiness,
    metrics: ControllerMetrics,
}

impl NodeLabels {
    pub(crate) fn new(client: Client, namespace: &str, identity: &str, metrics: ControllerMetrics) -> Self {
        let reporter = Reporter {
            controller: "picket.dev/controller".to_owned(),
            instance: Some(identity.to_owned()),
        };
        Self {
            recorder: Recorder::new(client.clone(), reporter),
            client,
            namespace: namespace.to_owned(),
            readiness: Readiness::default(),
            metrics,
        }
    }

    /// Follows pods and nodes until it is dropped.
    pub(crate) async fn run(mut self) {
        let pods = Api::<Lenient<Pod>>::namespaced(self.client.clone(), &self.namespace);
        let nodes = Api::<Lenient<PartialObjectMeta<Node>>>::all(self.client.clone());
        let agents = watcher::Config::default().labels(AGENTS);
        let failed = || self.metrics.failing(Part::Nodes);
        let mut seen = select(
            follow(pods, agents, "agents", failed()).map(|event| Seen::Pod(condensed(event))),
            follow(nodes, watcher::Config::default(), "nodes", failed()).map(Seen::Node),
        );
        loop {
            let is_settled = self.write().await;
            let due = match is_settled {
                true => self.readiness.next_due(),
                false => Some(Instant::now() + RETRY),
            };
            let due = async {
                match due {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                Some(event) = seen.next() => self.readiness.see(event, Instant::now()),
                () = due => {}
            }
        }
    }

    /// Writes what differs; whether nothing is left to be tried again.
    async fn write(&mut self) -> bool {
        let nodes = Api::<Lenient<PartialObjectMeta<Node>>>::all(self.client.clone());
        let mut is_settled = true;
        for (node, change) in self.readiness.changes(Instant::now()) {
            let value = (change == LabelChange::Set).then_some(AGENT_READY);
            let patch = Patch::Merge(json!({"metadata": {"labels": {AGENT_LABEL: value}}}));
            let parameters = PatchParams {
                field_manager: Some(FIELD_MANAGER.to_owned()),
                ..PatchParams::default()
            };
            match nodes.patch(&node, &parameters, &patch).await {
                Ok(_) => {
                    tracing::info!(
                        node,
                        label = AGENT_LABEL,
                        ready = change == LabelChange::Set,
                        "the node's label is written"
                    );
                    self.readiness.written(&node, change);
                    self.post(&node, change).await;
                }
                // The watch may tell so later, and until then the change would be due all the while.
                Err(error) if is_gone(&error) => self.readiness.forget(&node),
                Err(error) => {
                    tracing::warn!(
                        node,
                        error = printable(&error),
                        "the node's label cannot be written; the controller tries again"
                    );
                    is_settled = false;
                }
            }
        }
        if self.readiness.is_known() {
            self.metrics.set_nodes(self.readiness.counts());
            match is_settled {
                true => self.metrics.succeeded(Part::Nodes),
                false => self.metrics.failed(Part::Nodes),
            }
        }
        is_settled
    }

    /// An Event is for people; that it cannot be written stops nothing.
    async fn post(&self, node: &str, change: LabelChange) {
        let (type_, reason, note) = match change {
            LabelChange::Set => (
                EventType::Normal,
                "AgentReady",
                "Picket's agent is ready: enrolled pods may be scheduled here.",
            ),
            LabelChange::Remove => (
                EventType::Warning,
                "AgentNotReady",
                "No agent of Picket is ready here: no enrolled pod is scheduled to this node. Running ones stay.",
            ),
        };
        let event = KubeEvent {
            type_,
            reason: reason.to_owned(),
            note: Some(note.to_owned()),
            action: "LabelNode".to_owned(),
            secondary: None,
        };
        let regarding = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Node".to_owned()),
            name: Some(node.to_owned()),
            // The kubelet names its node so too, and `kubectl describe node` asks for it.
            uid: Some(node.to_owned()),
            ..ObjectReference::default()
        };
        if let Err(error) = self.recorder.publish(&event, &regarding).await {
            tracing::warn!(
                node,
                reason,
                error = printable(&error),
                "the API server did not accept a Kubernetes Event"
            );
        }
    }
}

/// What to do with a node's label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LabelChange {
    Set,
    Remove,
}

/// Which nodes have a ready agent, and which have the label. Decides and does no I/O.
#[derive(Debug, Default)]
struct Readiness {
    /// The node of each agent's pod that is Ready, by the pod's name.
    ready: BTreeMap<String, String>,
    listed: BTreeMap<String, String>,
    /// Whether each node has the label.
    nodes: BTreeMap<String, bool>,
    listed_nodes: BTreeMap<String, bool>,
    pods_are_known: bool,
    nodes_are_known: bool,
    /// Labelled nodes without a ready agent, and since when.
    without: BTreeMap<String, Instant>,
}

impl Readiness {
    fn see(&mut self, seen: Seen, now: Instant) {
        match seen {
            Seen::Pod(Event::Init) => self.listed.clear(),
            Seen::Pod(Event::InitApply(pod)) => {
                if let Some(node) = pod.ready_on {
                    self.listed.insert(pod.name, node);
                }
            }
            Seen::Pod(Event::InitDone) => {
                self.ready = std::mem::take(&mut self.listed);
                self.pods_are_known = true;
            }
            Seen::Pod(Event::Apply(pod)) => match pod.ready_on {
                Some(node) => drop(self.ready.insert(pod.name, node)),
                None => drop(self.ready.remove(&pod.name)),
            },
            Seen::Pod(Event::Delete(pod)) => drop(self.ready.remove(&pod.name)),
            Seen::Node(Event::Init) => self.listed_nodes.clear(),
            Seen::Node(Event::InitApply(node)) => {
                self.listed_nodes.insert(node.name_any(), is_labelled(&node));
            }
            Seen::Node(Event::InitDone) => {
                self.nodes = std::mem::take(&mut self.listed_nodes);
                self.nodes_are_known = true;
            }
            Seen::Node(Event::Apply(node)) => {
                self.nodes.insert(node.name_any(), is_labelled(&node));
            }
            Seen::Node(Event::Delete(node)) => self.forget(&node.name_any()),
        }
        self.count(now);
    }

    /// Begins the pause of each labelled node that has no ready agent, and ends that of the others.
    fn count(&mut self, now: Instant) {
        let ready = self.nodes_with_agent();
        let lacking = self
            .nodes
            .iter()
            .filter(|(node, labelled)| **labelled && !ready.contains(*node));
        let lacking = lacking.map(|(node, _)| (node.clone(), *self.without.get(node).unwrap_or(&now)));
        self.without = lacking.collect();
    }

    fn nodes_with_agent(&self) -> BTreeSet<String> {
        self.ready.values().cloned().collect()
    }

    fn is_known(&self) -> bool {
        self.pods_are_known && self.nodes_are_known
    }

    /// What to write now.
    fn changes(&self, now: Instant) -> Vec<(String, LabelChange)> {
        if !self.is_known() {
            return Vec::new();
        }
        let ready = self.nodes_with_agent();
        let unlabelled = ready
            .into_iter()
            .filter(|node| self.nodes.get(node) == Some(&false));
        let over = self.without.iter().filter(|(_, since)| now >= **since + PAUSE);
        let set = unlabelled.map(|node| (node, LabelChange::Set));
        set.chain(over.map(|(node, _)| (node.clone(), LabelChange::Remove)))
            .collect()
    }

    fn counts(&self) -> NodeCounts {
        let (ready, mut counts) = (self.nodes_with_agent(), NodeCounts::default());
        for (node, is_labelled) in &self.nodes {
            let of = match (ready.contains(node), is_labelled) {
                (true, true) => &mut counts.ready_labelled,
                (true, false) => &mut counts.ready_unlabelled,
                (false, true) => &mut counts.without_labelled,
                (false, false) => &mut counts.without_unlabelled,
            };
            *of += 1;
        }
        counts
    }

    /// When the next pause is over.
    fn next_due(&self) -> Option<Instant> {
        let due = self.without.values().map(|since| *since + PAUSE);
        due.min().filter(|_| self.is_known())
    }

    /// A node is gone.
    fn forget(&mut self, node: &str) {
        self.nodes.remove(node);
        self.without.remove(node);
    }

    /// A label was written; the watch says so later, and says otherwise when somebody changes it.
    fn written(&mut self, node: &str, change: LabelChange) {
        self.without.remove(node);
        if let Some(labelled) = self.nodes.get_mut(node) {
            *labelled = change == LabelChange::Set;
        }
    }
}

/// The same event without what counts nothing.
fn condensed(event: Event<Pod>) -> Event<AgentPod> {
    let of = |pod: Pod| AgentPod {
        name: pod.name_any(),
        ready_on: ready_on(&pod),
    };
    match event {
        Event::Apply(pod) => Event::Apply(of(pod)),
        Event::Delete(pod) => Event::Delete(of(pod)),
        Event::InitApply(pod) => Event::InitApply(of(pod)),
        Event::Init => Event::Init,
        Event::InitDone => Event::InitDone,
    }
}

/// The node of a pod that is Ready.
fn ready_on(pod: &Pod) -> Option<String> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let is_ready = conditions
        .iter()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True");
    pod.spec.as_ref()?.node_name.clone().filter(|_| is_ready)
}

fn is_labelled(node: &PartialObjectMeta<Node>) -> bool {
    node.labels()
        .get(AGENT_LABEL)
        .is_some_and(|value| value == AGENT_READY)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::FakeServer;

    fn pod(name: &str, node: &str, ready: bool) -> Pod {
        let status = if ready { "True" } else { "False" };
        serde_json::from_value(json!({
            "metadata": {"name": name},
            "spec": {"nodeName": node, "containers": []},
            "status": {"conditions": [{"type": "Ready", "status": status}]},
        }))
        .unwrap()
    }

    fn node(name: &str, labelled: bool) -> PartialObjectMeta<Node> {
        let labels = if labelled {
            json!({AGENT_LABEL: AGENT_READY})
        } else {
            json!({})
        };
        serde_json::from_value(json!({"metadata": {"name": name, "labels": labels}})).unwrap()
    }

    /// Nodes `n` with the label and `m` without, and these agents.
    fn known(pods: &[Pod], now: Instant) -> Readiness {
        let mut readiness = Readiness::default();
        let events = [Event::Init]
            .into_iter()
            .chain(pods.iter().cloned().map(Event::InitApply))
            .chain([Event::InitDone]);
        events.for_each(|event| readiness.see(Seen::Pod(condensed(event)), now));
        let nodes = [node("n", true), node("m", false)].map(Event::InitApply);
        let events = [Event::Init].into_iter().chain(nodes).chain([Event::InitDone]);
        events.for_each(|event| readiness.see(Seen::Node(event), now));
        readiness
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_node_gets_the_label_at_once_and_loses_it_after_a_pause() {
        let now = Instant::now();
        let mut readiness = known(&[pod("a", "m", true)], now);
        assert_eq!(readiness.changes(now), [("m".to_owned(), LabelChange::Set)]);
        assert_eq!(readiness.next_due(), Some(now + PAUSE));
        let counts = NodeCounts {
            ready_unlabelled: 1,
            without_labelled: 1,
            ..NodeCounts::default()
        };
        assert_eq!(readiness.counts(), counts);
        readiness.see(Seen::Node(Event::Apply(node("o", false))), now);
        assert_eq!(readiness.counts().without_unlabelled, 1);
        readiness.see(Seen::Node(Event::Apply(node("m", true))), now);
        assert_eq!(readiness.counts().ready_labelled, 1);
        let after = readiness.changes(now + PAUSE);
        assert!(
            after.contains(&("n".to_owned(), LabelChange::Remove)),
            "{after:?}"
        );
    }

    #[test]
    fn a_node_that_is_gone_is_written_no_more_though_the_watch_is_behind() {
        let now = Instant::now();
        let mut readiness = known(&[pod("a", "m", true)], now);
        assert_eq!(readiness.changes(now + PAUSE).len(), 2);
        readiness.forget("n");
        readiness.forget("m");
        assert_eq!(readiness.changes(now + PAUSE), []);
        assert_eq!(readiness.next_due(), None);
    }

    /// What is left to do after a write of labels that the API server answers so.
    async fn written(code: u16) -> (bool, Vec<(String, LabelChange)>) {
        let server = FakeServer::start(move |request| match request.method.as_str() {
            "PATCH" => {
                let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": "no"});
                (code, status.to_string())
            }
            _ => (201, request.object.to_string()),
        })
        .await;
        let metrics = ControllerMetrics::register(&picket_metrics::MetricsRegistry::default());
        let mut labels = NodeLabels::new(server.client(), "picket-system", "one", metrics);
        let now = Instant::now();
        labels.readiness = known(&[pod("a", "m", true)], now);
        assert_eq!(
            labels.readiness.changes(now),
            [("m".to_owned(), LabelChange::Set)]
        );
        (labels.write().await, labels.readiness.changes(now))
    }

    #[tokio::test]
    async fn a_node_that_the_api_server_says_is_gone_is_not_written_again() {
        assert_eq!(written(404).await, (true, vec![]));
        let again = vec![("m".to_owned(), LabelChange::Set)];
        assert_eq!(written(403).await, (false, again));
    }

    #[test]
    fn an_upgrade_by_surge_does_not_flap() {
        let now = Instant::now();
        let mut readiness = known(&[pod("old", "n", true)], now);
        readiness.see(Seen::Pod(condensed(Event::Apply(pod("new", "n", false)))), now);
        readiness.see(Seen::Pod(condensed(Event::Apply(pod("new", "n", true)))), now);
        readiness.see(Seen::Pod(condensed(Event::Delete(pod("old", "n", true)))), now);
        assert!(readiness.without.is_empty());
        assert_eq!(readiness.changes(now + 10 * PAUSE), []);
        // Back before the pause is over: it begins anew the next time.
        readiness.see(Seen::Pod(condensed(Event::Apply(pod("new", "n", false)))), now);
        readiness.see(
            Seen::Pod(condensed(Event::Apply(pod("new", "n", true)))),
            now + PAUSE - SECOND,
        );
        readiness.see(
            Seen::Pod(condensed(Event::Apply(pod("new", "n", false)))),
            now + PAUSE,
        );
        assert_eq!(readiness.changes(now + PAUSE + SECOND), []);
        assert_eq!(
            readiness.changes(now + 2 * PAUSE),
            [("n".to_owned(), LabelChange::Remove)]
        );
    }

    #[test]
    fn nothing_is_removed_before_all_is_known() {
        let now = Instant::now();
        let mut readiness = Readiness::default();
        for event in [Event::Init, Event::InitApply(node("n", true)), Event::InitDone] {
            readiness.see(Seen::Node(event), now);
        }
        assert_eq!(readiness.changes(now + 2 * PAUSE), []);
        assert_eq!(readiness.next_due(), None);
    }

    #[test]
    fn a_label_that_somebody_changed_is_put_back() {
        let now = Instant::now();
        let mut readiness = known(&[pod("a", "n", true)], now);
        assert_eq!(readiness.changes(now), []);
        readiness.see(Seen::Node(Event::Apply(node("n", false))), now);
        assert_eq!(readiness.changes(now), [("n".to_owned(), LabelChange::Set)]);
        readiness.written("n", LabelChange::Set);
        assert_eq!(readiness.changes(now), []);
        readiness.see(Seen::Node(Event::Apply(node("m", true))), now);
        assert_eq!(
            readiness.changes(now + PAUSE),
            [("m".to_owned(), LabelChange::Remove)]
        );
    }
}

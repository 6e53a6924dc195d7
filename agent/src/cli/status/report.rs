//! What is told of the nodes, and what of it is to be acted on.
//!
//! In: what the API server said, and the time. Out: a [`StatusReport`]: a line a node, the pods that are not enforced, enrolled
//! namespaces, and the findings.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use picket_controller::names::ENROLLED;
use picket_policy::api::v1alpha1::{NodePhase, PicketNodeStatus, UncoveredPod};
use serde::Serialize;

use super::ask::{Answers, EnrolledNamespace, NodeTold};
use super::objects;
use crate::cli::output::age;

/// After so long without a word an agent counts as not heard: it writes each minute.
const SILENT: Duration = Duration::from_secs(180);

/// From then on a change of objects counts: an agent writes its status at most every ten seconds.
const SETTLED: Duration = Duration::from_secs(20);

/// A CA of somebody else's that ends later than that has no end that anybody waits for: 9999 is written for none.
const FAR: Duration = Duration::from_secs(20 * 365 * 24 * 3600);

/// Most names in one finding.
const NAMED: usize = 10;

/// All that `picket status` tells.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::cli) struct StatusReport {
    /// A line a node, in the order of names.
    pub(super) nodes: Vec<NodeLine>,
    /// The pods that should be enforced and are not, or not wholly.
    pub(super) not_enforced: Vec<NotEnforced>,
    /// The enrolled namespaces.
    pub(super) namespaces: Vec<NamespaceLine>,
    /// What is to be acted on.
    pub(super) findings: Vec<String>,
    /// What is not known, and why.
    pub(super) unknown: Vec<String>,
}

/// How a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) enum NodeState {
    /// Its agent is ready.
    Ready,
    /// Its agent says that it is not.
    NotReady,
    /// Its agent said that it stops.
    Stopped,
    /// Its agent has not been heard for some minutes.
    NotHeard,
    /// It has none.
    NoAgent,
    /// None is meant for it, by the DaemonSet's node selector, affinity or tolerations, and none runs.
    NotSelected,
    /// No agent can run there.
    OtherSystem,
    /// What its agent says cannot be read.
    Unreadable,
}

impl NodeState {
    /// Whether an agent runs there, as far as it is known.
    fn runs(self) -> bool {
        matches!(self, Self::Ready | Self::NotReady | Self::Unreadable)
    }
}

/// What is told of a node.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct NodeLine {
    pub(super) node: String,
    pub(super) state: NodeState,
    /// How long ago its agent was heard, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) heard_seconds_ago: Option<u64>,
    /// Whether it has another set of objects in force than the node whose set is the newest.
    pub(super) policy_differs: bool,
    /// What its agent said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) status: Option<PicketNodeStatus>,
}

/// A pod that should be enforced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct NotEnforced {
    pub(super) node: String,
    #[serde(flatten)]
    pub(super) pod: UncoveredPod,
}

/// Whether pods of the node cannot reach the API server without its agent, by what that told last: the kernel's programs stay.
fn leaves_pods(line: &NodeLine) -> bool {
    let mut pods = line.status.iter().map(|status| &status.pods);
    pods.any(|pods| pods.enforced > 0 || pods.closed > 0)
}

/// An enrolled namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct NamespaceLine {
    pub(super) namespace: String,
    pub(super) pods: usize,
    /// Pods that were made before the namespace was enrolled.
    pub(super) without_enrolment: Vec<String>,
}

impl StatusReport {
    /// Of what the API server said. Certificates that end within `expiring` are findings.
    pub(super) fn of(answers: Answers, now: Timestamp, expiring: Duration) -> Self {
        let newest = newest(&answers.told, now);
        let mut nodes: BTreeMap<String, NodeLine> = answers
            .told
            .into_iter()
            .map(|told| (told.node.clone(), line(told, now, newest.as_deref())))
            .collect();
        let mut left = Vec::new();
        for facts in answers.nodes.iter().flatten() {
            let state = match (facts.is_linux, facts.is_selected) {
                (true, true) => NodeState::NoAgent,
                (true, false) => NodeState::NotSelected,
                (false, _) => NodeState::OtherSystem,
            };
            let bare = NodeLine {
                node: facts.name.clone(),
                state,
                heard_seconds_ago: None,
                policy_differs: false,
                status: None,
            };
            match nodes.entry(facts.name.clone()) {
                Entry::Vacant(entry) => drop(entry.insert(bare)),
                // An agent was there that is meant for the node no more.
                Entry::Occupied(mut entry) if !facts.is_selected && !entry.get().state.runs() => {
                    if leaves_pods(entry.get()) {
                        left.push(facts.name.clone());
                    }
                    entry.insert(bare);
                }
                Entry::Occupied(_) => {}
            }
        }
        let nodes: Vec<_> = nodes.into_values().collect();
        let uncovered = nodes.iter().flat_map(|line| {
            let pods = line.status.iter().flat_map(|status| &status.pods.uncovered);
            pods.map(|pod| NotEnforced {
                node: line.node.clone(),
                pod: pod.clone(),
            })
        });
        let not_enforced = uncovered.collect();
        let namespaces: Vec<_> = answers.enrolled.into_iter().flatten().map(namespace).collect();
        let told = answers.objects.as_deref().unwrap_or_default();
        let mut findings = of_nodes(&nodes, objects::refused(told));
        if !left.is_empty() {
            findings.push(format!(
                "{} with an agent before, and selected by its DaemonSet no more: the kernel's programs stay, and enrolled pods there reach no \
                 API server. Run `picket uninstall` there, and then: kubectl delete picketnode {}",
                few(&left),
                left.join(" ")
            ));
        }
        findings.extend(objects::findings(told));
        findings.extend(answers.rollouts);
        findings.extend(of_certificates(&nodes, now, expiring));
        findings.extend(of_versions(&nodes));
        findings.extend(of_rights(&answers.lacked, answers.helm_gives_rights));
        findings.extend(answers.mislabelled.iter().map(of_label));
        findings.extend(namespaces.iter().filter_map(of_namespace));
        Self {
            nodes,
            not_enforced,
            namespaces,
            findings,
            unknown: answers.unknown,
        }
    }
}

/// The digest of the set that came into force last on a node that is heard; nothing while it is new.
fn newest(told: &[NodeTold], now: Timestamp) -> Option<String> {
    let statuses = told.iter().filter_map(|told| told.status.as_ref()?.as_ref().ok());
    let heard = statuses.filter(|status| since(status.last_heartbeat, now) < SILENT);
    let of = heard.filter_map(|status| Some((status.policy.since?, status.policy.hash.clone()?)));
    // What others have in force they may not have written yet.
    let (begun, hash) = of.max()?;
    (since(begun, now) >= SETTLED).then_some(hash)
}

fn line(told: NodeTold, now: Timestamp, newest: Option<&str>) -> NodeLine {
    let (state, status) = match told.status {
        None => (NodeState::NoAgent, None),
        Some(Err(_)) => (NodeState::Unreadable, None),
        Some(Ok(status)) => (state(&status, now), Some(*status)),
    };
    let heard = status
        .as_ref()
        .map(|status| since(status.last_heartbeat, now).as_secs());
    let differs = |status: &PicketNodeStatus| status.policy.hash.as_deref() != newest;
    NodeLine {
        node: told.node,
        policy_differs: newest.is_some()
            && matches!(state, NodeState::Ready | NodeState::NotReady)
            && status.as_ref().is_some_and(differs),
        state,
        heard_seconds_ago: heard,
        status,
    }
}

fn state(status: &PicketNodeStatus, now: Timestamp) -> NodeState {
    if status.phase == NodePhase::Draining {
        NodeState::Stopped
    } else if since(status.last_heartbeat, now) >= SILENT {
        NodeState::NotHeard
    } else if status.failing.is_empty() && status.waiting.is_empty() {
        NodeState::Ready
    } else {
        NodeState::NotReady
    }
}

/// How long ago that was; a clock that goes before the others says now.
pub(super) fn since(then: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(then)).unwrap_or_default()
}

fn namespace(of: EnrolledNamespace) -> NamespaceLine {
    NamespaceLine {
        namespace: of.name,
        pods: of.pods,
        without_enrolment: of.without,
    }
}

/// What is to be acted on at each node. So many objects of the cluster are told of besides.
fn of_nodes(nodes: &[NodeLine], refused: usize) -> Vec<String> {
    let named = |state: NodeState| {
        let of = nodes.iter().filter(move |line| line.state == state);
        of.map(|line| line.node.clone()).collect::<Vec<_>>()
    };
    let mut findings = Vec::new();
    let mut say = |names: Vec<String>, what: &str| {
        if !names.is_empty() {
            findings.push(format!("{} {what}", few(&names)));
        }
    };
    say(
        named(NodeState::NoAgent),
        "without an agent: pods there are not enforced. See that the DaemonSet's pods can be scheduled and start there: kubectl -n picket-system get pods",
    );
    say(
        named(NodeState::NotHeard),
        "not heard for some minutes: enrolled pods there reach no API server while no agent runs. See the agent's pod and its log",
    );
    say(
        named(NodeState::Stopped),
        "with an agent that stopped: enrolled pods there reach no API server until one runs",
    );
    say(
        named(NodeState::Unreadable),
        "with an agent of another version, whose status this command cannot read",
    );
    let differ = nodes.iter().filter(|line| line.policy_differs);
    say(
        differ.map(|line| line.node.clone()).collect(),
        "without the newest objects in force: see that the agent reaches the API server, or its files",
    );
    for line in nodes {
        findings.extend(of_status(line, refused));
    }
    findings
}

/// What is to be acted on by what an agent says itself.
fn of_status(line: &NodeLine, refused: usize) -> Vec<String> {
    let Some(status) = line
        .status
        .as_ref()
        .filter(|_| matches!(line.state, NodeState::Ready | NodeState::NotReady))
    else {
        return Vec::new();
    };
    let node = &line.node;
    let mut findings = Vec::new();
    for fault in &status.failing {
        findings.push(format!("{node}: {} fails: {}", fault.part, fault.reason));
    }
    if !status.waiting.is_empty() {
        findings.push(format!("{node}: {} not come up yet", has(&status.waiting)));
    }
    if status.kernel.attached < status.kernel.programs {
        findings.push(format!(
            "{node}: {} of {} kernel programs are attached",
            status.kernel.attached, status.kernel.programs
        ));
    }
    match (&status.policy.hash, &status.policy.last_error) {
        // The part `objects` fails then, and says why.
        (None, _) => {}
        (Some(_), Some(error)) => {
            findings.push(format!(
                "{node}: the last reading of the objects is not in force: {error}"
            ));
        }
        (Some(_), None) if usize::try_from(status.policy.invalid).is_ok_and(|count| count > refused) => {
            findings.push(format!(
                "{node}: {} not in force as written: see `kubectl get picket`",
                match status.policy.invalid {
                    1 => "1 object is".to_owned(),
                    count => format!("{count} objects are"),
                }
            ))
        }
        (Some(_), None) => {}
    }
    for sink in &status.audit.failing_sinks {
        findings.push(format!(
            "{node}: audit sink {} takes no records: {}",
            sink.part, sink.reason
        ));
    }
    if status.pods.not_covered > 0 {
        findings.push(format!(
            "{node}: {} not enforced, or not wholly",
            match status.pods.not_covered {
                1 => "1 pod is".to_owned(),
                count => format!("{count} pods are"),
            }
        ));
    }
    findings
}

fn has(parts: &[String]) -> String {
    match parts {
        [one] => format!("{one} has"),
        all => format!("{} have", all.join(", ")),
    }
}

/// The certificates of a node with what each is. A token is read anew all the while, so that only its end is news.
pub(super) fn certificates(
    status: &PicketNodeStatus,
    now: Timestamp,
) -> impl Iterator<Item = (&'static str, Timestamp, bool)> {
    let of = &status.certificates;
    let upstream_ca = of.upstream_ca.filter(|at| since(now, *at) <= FAR);
    let all = [
        ("the node CA", of.node_ca, true),
        ("the gateway's certificate", of.gateway, true),
        ("the upstream CA bundle", upstream_ca, true),
        ("the upstream credential", of.upstream, false),
    ];
    all.into_iter()
        .filter_map(|(name, at, early)| Some((name, at?, early)))
}

fn of_certificates(nodes: &[NodeLine], now: Timestamp, expiring: Duration) -> Vec<String> {
    let mut findings = Vec::new();
    for line in nodes {
        let of = |status| certificates(status, now);
        for (name, at, early) in line.status.iter().flat_map(of) {
            let left = since(now, at);
            if left.is_zero() {
                findings.push(format!("{}: {name} ended {} ago", line.node, age(since(at, now))));
            } else if early && left < expiring {
                findings.push(format!("{}: {name} ends in {}", line.node, age(left)));
            }
        }
    }
    findings
}

fn of_versions(nodes: &[NodeLine]) -> Option<String> {
    let mut versions: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for line in nodes {
        if let Some(status) = &line.status {
            versions.entry(&status.version).or_default().insert(&line.node);
        }
    }
    if versions.len() < 2 {
        return None;
    }
    let said = versions.iter().map(|(version, nodes)| match nodes.len() {
        1 => format!("{version} on 1 node"),
        count => format!("{version} on {count} nodes"),
    });
    Some(format!(
        "agents of {} versions run: {}. A rollout is under way, or stopped half way",
        versions.len(),
        said.collect::<Vec<_>>().join(", ")
    ))
}

/// The API server tells an AI agent alone, whose kubectl may show no more than `Forbidden`.
pub(super) fn of_rights(lacked: &[String], by_helm: bool) -> Option<String> {
    let each = |said: &String| said.strip_prefix("may not ").unwrap_or(said).to_owned();
    let lacked: Vec<_> = lacked.iter().map(each).collect();
    (!lacked.is_empty()).then(|| {
        format!(
            "the agents may not: {}. The API server refuses each request by a grant that takes this. {}",
            first(&lacked),
            match by_helm {
                true =>
                    "List the users and groups under impersonate.users and impersonate.groups of the chart and run helm upgrade, or apply \
                     what `kubectl picket grant rbac` prints",
                false => "Apply what `kubectl picket grant rbac` prints",
            }
        )
    })
}

/// A label of enrolment with another value than `true` looks like one.
fn of_label(said: &(String, String)) -> String {
    let (namespace, value) = said;
    format!(
        "namespace {namespace}: label {ENROLLED}={value} enrols nothing. The value is `true`: kubectl label namespace {namespace} \
         {ENROLLED}=true --overwrite"
    )
}

fn of_namespace(line: &NamespaceLine) -> Option<String> {
    let names = &line.without_enrolment;
    (!names.is_empty()).then(|| {
        format!(
            "namespace {}: {} of {} pods run without enrolment: {}. Recreate them",
            line.namespace,
            names.len(),
            line.pods,
            first(names)
        )
    })
}

/// The nodes of these names.
fn few(names: &[String]) -> String {
    match names {
        [one] => format!("node {one} is"),
        all => format!("{} nodes ({}) are", all.len(), first(all)),
    }
}

/// The first names of a list.
pub(super) fn first(names: &[String]) -> String {
    let mut shown: Vec<_> = names.iter().take(NAMED).map(String::as_str).collect();
    if names.len() > NAMED {
        shown.push("...");
    }
    shown.join(", ")
}

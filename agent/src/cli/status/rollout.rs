//! Whether the chart's workloads run as they are written.
//!
//! In: the DaemonSets of agents, the Deployment of the controller, and where something is amiss their pods. Out: findings.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt as _};
use picket_controller::lenient::Lenient;
use picket_controller::names::{AGENTS, CONTROLLER};

use super::report::first;
use crate::cli::target::person::{AskError, list};

/// States of a container that is on its way.
const STARTING: [&str; 2] = ["ContainerCreating", "PodInitializing"];

/// What a cluster lacks without a controller.
const WITHOUT: &str = "Until one runs, no node gets or renews its CA, and no namespace its ConfigMap picket-ca.crt; new pods of enrolled \
                       namespaces can wait";

/// A workload that does not run as it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Amiss {
    namespace: String,
    /// The labels of its pods, as a selector.
    pods: &'static str,
    said: String,
    /// What it means, and what to do.
    then: String,
}

/// The controller's Deployments.
pub(super) async fn controllers(client: &Client) -> Result<Vec<Deployment>, AskError> {
    let all = Api::<Lenient<Deployment>>::all(client.clone());
    list(&all, "deployments", &ListParams::default().labels(CONTROLLER)).await
}

/// What is to be acted on, and why more is not known. Of the controllers nothing is told where they could not be listed.
pub(super) async fn findings(
    client: &Client,
    agents: &[DaemonSet],
    controllers: Option<&[Deployment]>,
) -> (Vec<String>, Option<String>) {
    let of_controllers = controllers.into_iter().flatten().filter_map(of_controller);
    let amiss: Vec<_> = agents
        .iter()
        .filter_map(of_agents)
        .chain(of_controllers)
        .collect();
    let (mut findings, mut unknown) = (Vec::new(), None);
    // The chart has both.
    if let (Some(set), Some([])) = (agents.first(), controllers) {
        let namespace = set.namespace().unwrap_or_default();
        findings.push(format!(
            "There is no controller (Deployment {namespace}/picket-controller). {WITHOUT}: run helm upgrade, which makes it anew"
        ));
    }
    for Amiss {
        namespace,
        pods,
        said,
        then,
    } in amiss
    {
        let waiting = match waiting(client, &namespace, pods).await {
            Ok(waiting) if waiting.is_empty() => String::new(),
            Ok(waiting) => format!(". Pods wait: {}", first(&waiting)),
            Err(error) => {
                unknown = Some(format!("why pods in namespace {namespace} wait: {error}"));
                String::new()
            }
        };
        findings.push(format!("{said}{waiting}. {then}"));
    }
    (findings, unknown)
}

fn of_agents(set: &DaemonSet) -> Option<Amiss> {
    let status = set.status.as_ref()?;
    let is_read = status.observed_generation >= set.metadata.generation;
    let (wanted, updated) = (
        status.desired_number_scheduled,
        status.updated_number_scheduled.unwrap_or_default(),
    );
    let unavailable = status.number_unavailable.unwrap_or_default();
    let mut said = Vec::new();
    if is_read && updated < wanted {
        said.push(format!(
            "{updated} of {wanted} nodes have a pod of its latest version"
        ));
    }
    if is_read && unavailable > 0 {
        said.push(format!("{unavailable} of {wanted} nodes have no available pod"));
    }
    let namespace = set.namespace().unwrap_or_default();
    (!said.is_empty()).then(|| Amiss {
        said: format!(
            "DaemonSet {namespace}/{}: {}",
            set.name_any(),
            said.join(", and ")
        ),
        then: match updated < wanted {
            true => format!(
                "A rollout is under way, or stopped: kubectl -n {namespace} rollout status daemonset/{}",
                set.name_any()
            ),
            false => format!("See which: kubectl -n {namespace} get pods -o wide -l {AGENTS}"),
        },
        namespace,
        pods: AGENTS,
    })
}

fn of_controller(deployment: &Deployment) -> Option<Amiss> {
    let status = deployment.status.as_ref();
    let wanted = deployment.spec.replicas.unwrap_or(1);
    let available = status
        .and_then(|status| status.available_replicas)
        .unwrap_or_default();
    let conditions = status.and_then(|status| status.conditions.as_deref());
    let is_stuck = conditions.unwrap_or_default().iter().any(|condition| {
        condition.type_.as_deref() == Some("Progressing") && condition.status.as_deref() == Some("False")
    });
    let (namespace, name) = (deployment.namespace().unwrap_or_default(), deployment.name_any());
    let of = format!("the controller (Deployment {namespace}/{name})");
    let (said, then) = match (wanted, available) {
        (0, _) => (format!("{of} is scaled to 0"), true),
        (_, ..=0) => (format!("{of} has no available replica"), true),
        _ if is_stuck => (format!("the rollout of {of} is stuck"), false),
        _ => return None,
    };
    let then = match then {
        true => format!("{WITHOUT}: kubectl -n {namespace} describe deployment/{name}"),
        false => format!("See kubectl -n {namespace} describe deployment/{name}"),
    };
    Some(Amiss {
        said,
        then,
        namespace,
        pods: CONTROLLER,
    })
}

/// The pods that wait, by why they do: `picket-x2b7d (ImagePullBackOff)`.
async fn waiting(client: &Client, namespace: &str, pods: &str) -> Result<Vec<String>, AskError> {
    let api = Api::<Lenient<Pod>>::namespaced(client.clone(), namespace);
    let what = format!("pods in namespace {namespace}");
    let pods = list(&api, &what, &ListParams::default().labels(pods)).await?;
    let mut by_reason: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for pod in &pods {
        if let Some(reason) = reason(pod) {
            by_reason.entry(reason).or_default().insert(pod.name_any());
        }
    }
    let told = by_reason.into_iter().map(|(reason, pods)| {
        let pods: Vec<_> = pods.into_iter().collect();
        format!("{} ({reason})", first(&pods))
    });
    Ok(told.collect())
}

/// Why a pod waits; nothing of one that runs or is on its way.
fn reason(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    let containers = |list: &Option<Vec<ContainerStatus>>| list.clone().unwrap_or_default();
    let all = containers(&status.init_container_statuses).into_iter();
    let waiting = all
        .chain(containers(&status.container_statuses))
        .filter_map(|container| container.state?.waiting?.reason);
    let waits = waiting
        .filter(|reason| !STARTING.contains(&reason.as_str()))
        .min();
    let conditions = status.conditions.as_deref().unwrap_or_default();
    let unscheduled = conditions
        .iter()
        .find(|condition| condition.type_ == "PodScheduled" && condition.status == "False");
    let unscheduled = unscheduled.map(|condition| {
        let reason = condition.reason.clone().unwrap_or_default();
        match &condition.message {
            Some(message) => format!("{reason}: {message}"),
            None => reason,
        }
    });
    waits.or(unscheduled)
}

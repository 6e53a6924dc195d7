//! What `picket status` asks the API server for.
//!
//! In: a client with the person's own rights. Out: the cluster's Nodes, what their agents say and may not do for grants, and the pods
//! of enrolled namespaces, what the objects say of themselves, and how the workloads of Picket are; where the person may not list one of
//! these, what is not known for that.

use std::collections::BTreeSet;

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use kube::api::{DynamicObject, ListParams};
use kube::{Api, Client, ResourceExt};
use picket_controller::lenient::Lenient;
use picket_controller::names::ENROLLED;
use picket_policy::api::v1alpha1::{PICKET_NODE_KIND, PICKET_NODE_PLURAL, PicketNodeStatus};

use super::objects::{self, ObjectTold};
use super::rollout;
use super::selection::is_selected;
use crate::cli::doctor;
use crate::cli::target::chart;
use crate::cli::target::person::{AskError, list};
use crate::cluster::rights::Account;

/// The label by which a kubelet tells its operating system.
const SYSTEM: &str = "kubernetes.io/os";

/// What the API server said.
#[derive(Debug, Clone, Default)]
pub(super) struct Answers {
    /// The Nodes by name; nothing where the person may not list them.
    pub(super) nodes: Option<Vec<NodeFacts>>,
    /// What agents say.
    pub(super) told: Vec<NodeTold>,
    /// The pods of each enrolled namespace, which may have none; nothing where the person may not list them.
    pub(super) enrolled: Option<Vec<EnrolledNamespace>>,
    /// The namespaces whose label of enrolment has a value that enrols nothing, with that value.
    pub(super) mislabelled: Vec<(String, String)>,
    /// What the cluster's objects say of themselves; nothing where the person may not list them, or asks about one node.
    pub(super) objects: Option<Vec<ObjectTold>>,
    /// What is to be acted on of the DaemonSets of agents and of the controller.
    pub(super) rollouts: Vec<String>,
    /// What the agents may not do at the API server that grants take, as `may not ...`.
    pub(super) lacked: Vec<String>,
    /// Whether Helm keeps the role by which the agents impersonate users.
    pub(super) helm_gives_rights: bool,
    /// What is not known, and why.
    pub(super) unknown: Vec<String>,
}

/// A Node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NodeFacts {
    pub(super) name: String,
    /// Whether an agent can run there.
    pub(super) is_linux: bool,
    /// Whether a DaemonSet of agents is meant for it. Where none is known, every node counts.
    pub(super) is_selected: bool,
}

/// What an agent says of its node.
#[derive(Debug, Clone)]
pub(super) struct NodeTold {
    pub(super) node: String,
    /// Nothing where no status is written yet; or why it cannot be read.
    pub(super) status: Option<Result<Box<PicketNodeStatus>, String>>,
}

/// A namespace with the label of enrolment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct EnrolledNamespace {
    pub(super) name: String,
    /// How many pods run in it.
    pub(super) pods: usize,
    /// Those of them that were made without enrolment.
    pub(super) without: Vec<String>,
}

/// Asks for all of it, or for what is about one node.
///
/// # Errors
/// Where the person cannot ask what the agents say; with what to do about it.
pub(super) async fn ask(client: &Client, node: Option<&str>) -> Result<Answers, AskError> {
    let mut answers = Answers::default();
    let of_node = match node {
        Some(node) => ListParams::default().fields(&format!("metadata.name={node}")),
        None => ListParams::default(),
    };
    let picket_nodes = objects::of_kind(client, PICKET_NODE_KIND, PICKET_NODE_PLURAL);
    let told = list(&picket_nodes, PICKET_NODE_PLURAL, &of_node).await;
    answers.told = told.map_err(explained)?.iter().map(told_by).collect();
    let agents = chart::daemonsets(client).await;
    let has_none = agents.as_ref().is_ok_and(Vec::is_empty);
    if answers.told.is_empty() && node.is_none() && has_none {
        return Err(AskError::Other(
            "Picket is not installed in this cluster: no agent has a PicketNode, and there is no DaemonSet of agents. Install it: helm \
             install picket deploy/charts/picket --namespace picket-system --create-namespace; deploy/docs/install.md has the values"
                .to_owned(),
        ));
    }
    match list(&Api::<Lenient<Node>>::all(client.clone()), "nodes", &of_node).await {
        Ok(nodes) => {
            let agents = agents.as_deref().unwrap_or_default();
            answers.nodes = Some(nodes.iter().map(|node| facts(node, agents)).collect());
        }
        Err(error) => answers.unknown.push(format!("nodes without an agent: {error}")),
    }
    match enrolled(client, node).await {
        Ok((enrolled, mislabelled)) => {
            answers.enrolled = Some(enrolled);
            // Of one node there is nothing to tell of these.
            answers.mislabelled = match node {
                Some(_) => Vec::new(),
                None => mislabelled,
            };
        }
        Err(error) => answers
            .unknown
            .push(format!("pods that run without enrolment: {error}")),
    }
    if node.is_some() {
        return Ok(answers);
    }
    of_cluster(client, &agents, &mut answers).await;
    Ok(answers)
}

/// What is about no single node.
async fn of_cluster(client: &Client, agents: &Result<Vec<DaemonSet>, AskError>, answers: &mut Answers) {
    match objects::ask(client).await {
        Ok(objects) => answers.objects = Some(objects),
        Err(error) => answers
            .unknown
            .push(format!("objects that are not in force or conflict: {error}")),
    }
    let controllers = rollout::controllers(client).await;
    if let Err(error) = &controllers {
        answers
            .unknown
            .push(format!("whether the controller runs: {error}"));
    }
    let known = agents.as_deref().unwrap_or_default();
    let (rollouts, why_unknown) = rollout::findings(client, known, controllers.as_deref().ok()).await;
    answers.rollouts = rollouts;
    answers.unknown.extend(why_unknown);
    let agents = match agents {
        Ok(agents) => agents,
        Err(error) => {
            answers.unknown.push(format!(
                "whether the agents' DaemonSet is rolled out, and the agents may act as the users that grants name: {error}"
            ));
            return;
        }
    };
    match lacked(client, agents).await {
        Ok(lacked) => answers.lacked = lacked,
        Err(error) => answers.unknown.push(format!(
            "whether the agents may act as the users that grants name: {error}"
        )),
    }
    if !answers.lacked.is_empty() {
        answers.helm_gives_rights = chart::helm_has_role(client).await;
    }
}

/// What the service accounts of these may not do.
async fn lacked(client: &Client, agents: &[DaemonSet]) -> Result<Vec<String>, String> {
    let account = |agents: &DaemonSet| {
        let (namespace, name) = chart::account_of(agents);
        Account::new(&namespace, &name)
    };
    let accounts: BTreeSet<_> = agents.iter().map(account).collect();
    let mut all = Vec::new();
    for account in accounts {
        all.extend(doctor::agents::lacked(client, &account).await?);
    }
    Ok(all)
}

/// The same error with what to do about it.
fn explained(error: AskError) -> AskError {
    match error {
        AskError::NoKind(_) => AskError::NoKind(format!(
            "kind {PICKET_NODE_KIND}: Picket is not installed, or older than this command. Where it is installed, apply this version's \
             CRDs: picket crds | kubectl apply --server-side -f -"
        )),
        AskError::Denied(said) => AskError::Denied(format!(
            "{said}\nThe command needs the verb list on picketnodes.picket.dev, and, to show nodes without an agent and pods without \
             enrolment, on nodes, namespaces and pods"
        )),
        other @ AskError::Other(_) => other,
    }
}

fn told_by(object: &DynamicObject) -> NodeTold {
    let status = object.data.get("status").cloned();
    let read = |status| serde_json::from_value::<PicketNodeStatus>(status).map(Box::new);
    NodeTold {
        node: object.name_any(),
        status: status.map(|status| read(status).map_err(|error| error.to_string())),
    }
}

fn facts(node: &Node, agents: &[DaemonSet]) -> NodeFacts {
    let system = node.labels().get(SYSTEM);
    NodeFacts {
        name: node.name_any(),
        is_linux: system.is_none_or(|system| system == "linux"),
        is_selected: agents.is_empty() || agents.iter().any(|agents| is_selected(agents, node)),
    }
}

/// The enrolled namespaces with their pods, of one node where one is meant; and those with a label that enrols nothing.
async fn enrolled(
    client: &Client,
    node: Option<&str>,
) -> Result<(Vec<EnrolledNamespace>, Vec<(String, String)>), AskError> {
    let labelled = ListParams::default().labels(ENROLLED);
    let namespaces = list(
        &Api::<Lenient<Namespace>>::all(client.clone()),
        "namespaces",
        &labelled,
    )
    .await?;
    let of_node = match node {
        Some(node) => ListParams::default().fields(&format!("spec.nodeName={node}")),
        None => ListParams::default(),
    };
    let (mut found, mut mislabelled) = (Vec::new(), Vec::new());
    for namespace in namespaces {
        let name = namespace.name_any();
        match namespace.labels().get(ENROLLED).map_or("true", String::as_str) {
            "true" => {}
            // Whoever writes this means it.
            "false" => continue,
            other => {
                mislabelled.push((name, other.to_owned()));
                continue;
            }
        }
        let pods = Api::<Lenient<Pod>>::namespaced(client.clone(), &name);
        let what = format!("pods in namespace {name}");
        let pods = list(&pods, &what, &of_node).await?;
        let (mut running, mut without) = (0, Vec::new());
        for pod in pods.iter().filter(|pod| is_running(pod)) {
            running += 1;
            if !pod.labels().contains_key(ENROLLED) {
                without.push(pod.name_any());
            }
        }
        found.push(EnrolledNamespace {
            name,
            pods: running,
            without,
        });
    }
    Ok((found, mislabelled))
}

/// Whether a pod is neither done nor about to be deleted.
fn is_running(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    pod.metadata.deletion_timestamp.is_none() && !matches!(phase, Some("Succeeded" | "Failed"))
}

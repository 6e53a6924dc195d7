//! `picket uninstall --cluster`: takes Picket out of every node, and then removes what it made in the cluster.
//!
//! In: the DaemonSet that runs `picket uninstall` on each node, as the chart's hook before `helm uninstall` gives it. Out: no agent, no
//! kernel program and no object of Picket's own making; or the names of the nodes that still hold programs, and what to do about each.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::error::ErrorKind;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::{ContainerStatus, Node, Pod};
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::{Api, Client};
use picket_controller::lenient::{self, Lenient};
use tokio::time::{Instant, sleep, timeout};

use super::leftovers;
use crate::cli::output;
use crate::cluster::{PersonalConfig, printable};

/// The webhooks of the controller, on clusters without MutatingAdmissionPolicy.
const WEBHOOKS: &str = "enrolment.picket.dev";

/// The agents' DaemonSet.
const AGENTS: &str = "picket";

/// Pods that keep Picket in a node or make objects: those of the agents and of the controller.
const WORKING_PODS: &str =
    "app.kubernetes.io/name=picket,app.kubernetes.io/component notin (uninstall,uninstaller)";

/// Pods of the DaemonSet that cleans the nodes.
const CLEANING_PODS: &str = "app.kubernetes.io/name=picket,app.kubernetes.io/component=uninstall";

/// Between two looks at what the cluster does.
const PAUSE: Duration = Duration::from_millis(500);

/// How long one request may take. One that the node drops is never answered.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);

/// Objects that one answer lists.
const PAGE: u32 = 50;

/// Arguments of the cluster's uninstallation.
#[derive(Debug, Default, clap::Args)]
pub(super) struct ClusterUninstallArgs {
    /// Take Picket out of all nodes, and remove what Picket made in the cluster. The chart runs this before `helm uninstall`
    #[arg(long, conflicts_with_all = ["config", "bpffs", "state_directory", "remove_folder", "error_file"])]
    cluster: bool,
    /// The DaemonSet that runs `picket uninstall` on each node, as JSON. A pod of it is Ready once its node is clean
    #[arg(long, value_name = "FILE", requires = "cluster")]
    daemonset: Option<PathBuf>,
    /// How long the nodes may take
    // The chart adds uninstall.timeoutSeconds and shutdown.drainSeconds, each of which may be an hour.
    #[arg(long, value_name = "SECONDS", default_value_t = 180, value_parser = clap::value_parser!(u16).range(1..=7200),
        requires = "cluster")]
    timeout: u16,
}

impl ClusterUninstallArgs {
    pub(super) fn is_asked(&self) -> bool {
        self.cluster
    }
}

/// Does it.
///
/// # Errors
/// The DaemonSet cannot be read, the API server refuses, or nodes still hold Picket.
pub(super) fn remove(args: &ClusterUninstallArgs) -> anyhow::Result<()> {
    let Some(file) = &args.daemonset else {
        let says = "--cluster is for the chart's hook, which knows the DaemonSet that cleans the nodes (--daemonset). To take Picket out: \
                    helm uninstall picket --namespace picket-system\n";
        return Err(clap::Error::raw(ErrorKind::MissingRequiredArgument, says).into());
    };
    let text = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let cleaner: DaemonSet =
        serde_json::from_slice(&text).with_context(|| format!("{} is no DaemonSet", file.display()))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("cannot start the runtime")?;
    runtime.block_on(async {
        let remark = |sentence: &str| output::warn(format_args!("picket: {}", output::clean(sentence)));
        let client = PersonalConfig::default().connect(&remark).await?;
        let limit = Duration::from_secs(args.timeout.into());
        Uninstall::new(client, cleaner, limit)?.run().await
    })
}

/// An uninstallation under way.
pub(super) struct Uninstall {
    pub(super) client: Client,
    /// Picket's namespace.
    pub(super) namespace: String,
    cleaner: DaemonSet,
    deadline: Instant,
}

impl Uninstall {
    pub(super) fn new(client: Client, cleaner: DaemonSet, limit: Duration) -> anyhow::Result<Self> {
        let namespace = cleaner.metadata.namespace.clone();
        Ok(Self {
            client,
            namespace: namespace.context("the DaemonSet names no namespace")?,
            cleaner,
            deadline: Instant::now() + limit,
        })
    }

    async fn run(&self) -> anyhow::Result<()> {
        self.stop_agents().await?;
        let unclean = self.clean_nodes().await?;
        // Also where a node still holds programs: with `helm uninstall --no-hooks` nobody comes by here again.
        leftovers::remove(self).await?;
        if unclean.is_empty() {
            // Last: until Helm has removed the admission policies, new enrolled pods wait for a node with the label.
            return leftovers::remove_node_labels(self).await;
        }
        let (name, namespace) = (self.cleaner_name(), &self.namespace);
        bail!(
            "these nodes are not clean. Picket's kernel programs refuse connections for as long as they are in a node:\n  {}\n\
             DaemonSet {name} stays, and cleans a node that is back. Run helm uninstall again then.\n\
             A node that is gone for good: kubectl delete node NAME, and helm uninstall again.\n\
             To remove the release all the same: helm uninstall --no-hooks, and kubectl -n {namespace} delete daemonset {name}. Then run \
             `picket uninstall` on each such node. Without bootGuard a reboot takes the programs out too.",
            unclean.join("\n  ")
        )
    }

    /// Ends the agents, which would go on as if they enforced, and the controller, which would make its objects again.
    async fn stop_agents(&self) -> anyhow::Result<()> {
        // First: the API server would refuse pods of enrolled namespaces while nobody answers, and for as long as this command is not run
        // to its end. Until Helm removes the guards, they refuse such pods that nobody enrolled.
        let webhooks: Api<Lenient<MutatingWebhookConfiguration>> = Api::all(self.client.clone());
        self.delete(&webhooks, WEBHOOKS).await?;
        let agents = self.objects::<DaemonSet>();
        self.delete(&agents, AGENTS).await?;
        let deployments = self.objects::<Deployment>();
        let of_picket = ListParams::default().labels("app.kubernetes.io/name=picket");
        for name in names(&self.list(&deployments, &of_picket).await?) {
            self.delete(&deployments, &name).await?;
        }
        output::say(format_args!("the agents end"));
        self.until_gone(WORKING_PODS).await
    }

    /// Waits until no pod with these labels is left, but for those of nodes that do not answer: a kubelet that does not answer ends no
    /// pod. Such a node is told about at the end.
    async fn until_gone(&self, labels: &str) -> anyhow::Result<()> {
        let pods = self.objects::<Pod>();
        let which = ListParams::default().labels(labels);
        loop {
            let left = self.list(&pods, &which).await?;
            if left.is_empty() || self.is_late() {
                return Ok(());
            }
            let absent = self.absent_nodes().await?;
            if left
                .iter()
                .all(|pod| node_of(pod).is_some_and(|node| absent.contains(node)))
            {
                return Ok(());
            }
            sleep(PAUSE).await;
        }
    }

    /// Runs the DaemonSet until each node is clean. Gives the nodes that are not, each with the reason.
    async fn clean_nodes(&self) -> anyhow::Result<Vec<String>> {
        let sets = self.objects::<DaemonSet>();
        let pods = self.objects::<Pod>();
        let name = self.cleaner_name();
        let cleaning = ListParams::default().labels(CLEANING_PODS);
        // Helm made one before this command, for nodes whose agent does not run: such a node closes new pods to the API server, this
        // command's too. What its pods found counts for nothing here, since an agent may have started after them.
        self.delete(&sets, name).await?;
        self.until_gone(CLEANING_PODS).await?;
        let parameters = PostParams::default();
        let cleaner = Lenient(self.cleaner.clone());
        self.ask(|| sets.create(&parameters, &cleaner)).await?;
        loop {
            let set = self.ask(|| sets.get(name)).await?;
            if set.is_some_and(|set| is_done(&set.0)) {
                break;
            }
            if self.is_late() {
                let absent = self.absent_nodes().await?;
                let pods = self.list(&pods, &cleaning).await?;
                return Ok(unclean(&pods, &absent));
            }
            sleep(PAUSE).await;
        }
        for pod in self.list(&pods, &cleaning).await? {
            output::say(format_args!("{}: clean", node_of(&pod).unwrap_or("a node")));
        }
        self.delete(&sets, name).await?;
        self.until_gone(CLEANING_PODS).await?;
        Ok(Vec::new())
    }

    fn cleaner_name(&self) -> &str {
        self.cleaner
            .metadata
            .name
            .as_deref()
            .unwrap_or("picket-uninstall")
    }

    /// The nodes whose kubelets do not answer.
    async fn absent_nodes(&self) -> anyhow::Result<BTreeSet<String>> {
        let nodes: Api<Lenient<Node>> = Api::all(self.client.clone());
        let nodes = self.list(&nodes, &ListParams::default()).await?;
        let absent = nodes.into_iter().filter(|node| !is_ready(node));
        Ok(absent.filter_map(|node| node.metadata.name).collect())
    }

    fn is_late(&self) -> bool {
        Instant::now() >= self.deadline
    }

    /// Objects of Picket's namespace.
    pub(super) fn objects<K>(&self) -> Api<Lenient<K>>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Lists objects. Of a kind that the cluster does not have there are none.
    pub(super) async fn list<K>(&self, api: &Api<Lenient<K>>, which: &ListParams) -> anyhow::Result<Vec<K>>
    where
        K: Clone + serde::de::DeserializeOwned + std::fmt::Debug,
    {
        let (mut objects, mut next) = (Vec::new(), None);
        loop {
            let mut page = which.clone().limit(PAGE);
            page.continue_token = next;
            let Some(found) = self.ask(|| lenient::list(api, &page)).await? else {
                return Ok(objects);
            };
            objects.extend(found.items);
            next = found.metadata.continue_.filter(|token| !token.is_empty());
            if next.is_none() {
                return Ok(objects);
            }
        }
    }

    /// Deletes an object, with what depends on it.
    pub(super) async fn delete<K>(&self, api: &Api<K>, name: &str) -> anyhow::Result<()>
    where
        K: Clone + serde::de::DeserializeOwned + std::fmt::Debug,
    {
        let parameters = DeleteParams::background();
        self.ask(|| api.delete(name, &parameters)).await.map(drop)
    }

    /// Asks until the API server answers, once at least; none where what is asked for is not there. The first requests may fail: the
    /// command's own pod reaches the API server from when the agent of its node has seen the pod.
    pub(super) async fn ask<T, F>(&self, ask: impl Fn() -> F) -> anyhow::Result<Option<T>>
    where
        F: Future<Output = kube::Result<T>>,
    {
        loop {
            let why = match timeout(REQUEST_LIMIT, ask()).await {
                Ok(Ok(answer)) => return Ok(Some(answer)),
                Ok(Err(kube::Error::Api(status))) if status.code == 404 => return Ok(None),
                Ok(Err(kube::Error::Api(status))) if status.code < 500 && status.code != 429 => {
                    bail!("{}", status.message)
                }
                Ok(Err(error)) => printable(&error).to_string(),
                Err(_) => "it does not answer".to_owned(),
            };
            if self.is_late() {
                bail!("the API server cannot be asked: {why}");
            }
            sleep(PAUSE).await;
        }
    }
}

fn names<K: kube::ResourceExt>(objects: &[K]) -> Vec<String> {
    objects.iter().map(kube::ResourceExt::name_any).collect()
}

fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref()
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    let mut conditions = conditions.into_iter().flatten();
    conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Whether the DaemonSet's controller has seen it, and each of its pods is Ready.
fn is_done(set: &DaemonSet) -> bool {
    set.status.as_ref().is_some_and(|status| {
        status
            .observed_generation
            .is_some_and(|seen| Some(seen) >= set.metadata.generation)
            && status.desired_number_scheduled == status.number_ready
    })
}

/// The nodes of those pods that are not Ready, each with the reason.
fn unclean(pods: &[Pod], absent: &BTreeSet<String>) -> Vec<String> {
    let of = |pod: &Pod| {
        let node = node_of(pod).unwrap_or("a node");
        let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
        let mut conditions = conditions.into_iter().flatten();
        let is_clean = conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True");
        let reason = if absent.contains(node) {
            "its kubelet does not answer (NotReady)".to_owned()
        } else if is_clean {
            return None;
        } else {
            reason(pod).unwrap_or_else(|| "the pod has not ended its work".to_owned())
        };
        Some(format!("{node}: {}", output::clean(&reason)))
    };
    let found: Vec<_> = pods.iter().filter_map(of).collect();
    if found.is_empty() {
        return vec!["nodes whose pods are not created yet".to_owned()];
    }
    found
}

/// What the pod's first container says that keeps it from its end.
fn reason(pod: &Pod) -> Option<String> {
    let statuses = pod.status.as_ref()?.init_container_statuses.as_ref()?;
    let of = |status: &ContainerStatus| {
        let ended = [&status.state, &status.last_state].into_iter().flatten();
        let message = ended
            .filter_map(|state| state.terminated.as_ref()?.message.clone())
            .next();
        let waiting = status.state.as_ref().and_then(|state| state.waiting.as_ref());
        message.or_else(|| waiting?.message.clone().or_else(|| waiting?.reason.clone()))
    };
    // What it wrote as its error, or else the end of its log, whose last line is the error.
    let text = statuses.iter().find_map(of)?;
    text.trim().lines().next_back().map(str::to_owned)
}

#[cfg(test)]
#[path = "cluster_tests.rs"]
mod tests;

//! A pod as the rest of the agent sees it: plain facts, no handles.
//!
//! In: what the API server and the cgroup tree say of a pod. Out: a [`Pod`], and its address of the family that a client
//! dialled.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;

use crate::notify::About;

/// The UID the API server gave a pod; also the pod's part in its cgroup's name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PodUid(pub String);

/// What made a pod, as `KIND/NAME` in the pod's namespace, such as `Deployment/fixer`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkloadName(pub String);

/// The label by which a Deployment tells the ReplicaSets of its versions apart. It ends each one's name.
const TEMPLATE_HASH: &str = "pod-template-hash";

/// Likewise of a Rollout of Argo's (github.com/argoproj/argo-rollouts, `DefaultRolloutUniqueLabelKey`).
const ROLLOUT_HASH: &str = "rollouts-pod-template-hash";

/// The label of pods with the name of their OpenShift DeploymentConfig, whose ReplicationControllers are that name and a number
/// (github.com/openshift/library-go pkg/apps/appsutil, `DeploymentConfigLabel`).
const DEPLOYMENT_CONFIG: &str = "deploymentconfig";

/// What a pod's metadata says of who controls it.
#[derive(Debug, Clone, Copy)]
pub struct Controller<'a> {
    /// The version of its API, such as `apps/v1`.
    pub api_version: &'a str,
    /// Its kind.
    pub kind: &'a str,
    /// Its name.
    pub name: &'a str,
}

impl<'a> Controller<'a> {
    /// Its API group; empty for the core's.
    fn group(self) -> &'a str {
        self.api_version.split_once('/').map_or("", |(group, _)| group)
    }
}

impl WorkloadName {
    /// The workload of a pod by its controller. A ReplicaSet that a Deployment made stands for the Deployment, so that a rollout is one
    /// workload. A pod without a controller is its own, and so is the mirror of a static pod, whose controller is the node. Kinds of
    /// other APIs than Kubernetes' own have their group in the name, since they may have the same names.
    #[must_use]
    pub fn of(pod: &str, controller: Option<Controller<'_>>, labels: &BTreeMap<String, String>) -> Self {
        let label = |key| {
            labels
                .get(key)
                .map(String::as_str)
                .filter(|value| !value.is_empty())
        };
        let before = |name: &str, end| {
            let of = name.strip_suffix(label(end)?)?.strip_suffix('-')?;
            (!of.is_empty()).then(|| of.to_owned())
        };
        let is_version = |name: &str, of: &str| {
            let number = name.strip_prefix(of).and_then(|rest| rest.strip_prefix('-'));
            number.is_some_and(|number| number.parse::<u32>().is_ok())
        };
        Self(match controller.map(|by| (by.group(), by.kind, by.name)) {
            None | Some(("", "Node", _)) => format!("Pod/{pod}"),
            Some(("apps", "ReplicaSet", name)) => {
                let deployment = before(name, TEMPLATE_HASH).map(|of| format!("Deployment/{of}"));
                let rollout = || before(name, ROLLOUT_HASH).map(|of| format!("Rollout.argoproj.io/{of}"));
                let by_itself = || format!("ReplicaSet/{name}");
                deployment.or_else(rollout).unwrap_or_else(by_itself)
            }
            Some(("", "ReplicationController", name)) => match label(DEPLOYMENT_CONFIG) {
                Some(of) if is_version(name, of) => format!("DeploymentConfig.apps.openshift.io/{of}"),
                _ => format!("ReplicationController/{name}"),
            },
            Some(("" | "apps" | "batch", kind, name)) => format!("{kind}/{name}"),
            Some((group, kind, name)) => format!("{kind}.{group}/{name}"),
        })
    }
}

/// One pod on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// The pod's UID.
    pub uid: PodUid,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The service account it runs as.
    pub service_account: String,
    /// What made it, as far as its own facts say.
    pub workload: WorkloadName,
    /// Its labels at the last look.
    pub labels: BTreeMap<String, String>,
    /// The node it runs on.
    pub node: String,
    /// Whether it shares the node's network namespace.
    pub host_network: bool,
    /// Its addresses as its status has them, the first of each family; the node's where it shares the node's network.
    pub addresses: Vec<IpAddr>,
    /// The ports that its manifest declares: Picket's listener takes none of them.
    pub ports: BTreeSet<u16>,
    /// Its RuntimeClass, where that gives it a network stack of its own.
    pub sandboxed_by: Option<String>,
    /// Container id (as the runtime names it, without `containerd://`) to the container's name in the manifest.
    pub containers: BTreeMap<String, String>,
    /// Its cgroup v2 folder, once seen.
    pub cgroup: Option<PathBuf>,
}

/// The address among these that a connection to `dialled` comes from: one of its family, else the first.
#[must_use]
pub fn source_for(addresses: &[IpAddr], dialled: IpAddr) -> Option<IpAddr> {
    let same_family = |address: &&IpAddr| address.is_ipv4() == dialled.to_canonical().is_ipv4();
    addresses
        .iter()
        .find(same_family)
        .or_else(|| addresses.first())
        .copied()
}

impl Pod {
    /// What a notice about it is about.
    #[must_use]
    pub fn about(&self) -> About {
        About::Pod {
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            uid: self.uid.0.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The workload of the pod `p` with this controller (version of its API, kind, name) and these labels.
    fn made_by(controller: Option<(&str, &str, &str)>, labels: &BTreeMap<String, String>) -> String {
        let controller = controller.map(|(api_version, kind, name)| Controller {
            api_version,
            kind,
            name,
        });
        WorkloadName::of("p", controller, labels).0
    }

    #[test]
    fn a_rollout_is_one_workload_and_a_pod_that_nobody_made_is_its_own() {
        let labels = BTreeMap::from([(TEMPLATE_HASH.to_owned(), "7d9f".to_owned())]);
        let of = |controller: Option<(&str, &str)>, labels: &BTreeMap<_, _>| {
            let with_api = |(kind, name)| {
                let api_version = match kind {
                    "Node" => "v1",
                    "Job" => "batch/v1",
                    _ => "apps/v1",
                };
                (api_version, kind, name)
            };
            made_by(controller.map(with_api), labels)
        };
        let none = BTreeMap::new();
        for (controller, labels, workload) in [
            (Some(("ReplicaSet", "fixer-7d9f")), &labels, "Deployment/fixer"),
            // None that a Deployment made.
            (Some(("ReplicaSet", "fixer-7d9f")), &none, "ReplicaSet/fixer-7d9f"),
            (
                Some(("ReplicaSet", "fixer-1111")),
                &labels,
                "ReplicaSet/fixer-1111",
            ),
            (Some(("ReplicaSet", "fixer7d9f")), &labels, "ReplicaSet/fixer7d9f"),
            (Some(("ReplicaSet", "-7d9f")), &labels, "ReplicaSet/-7d9f"),
            (
                Some(("StatefulSet", "fixer-7d9f")),
                &labels,
                "StatefulSet/fixer-7d9f",
            ),
            (Some(("Job", "nightly")), &none, "Job/nightly"),
            (Some(("Node", "node-1")), &none, "Pod/p"),
            (None, &labels, "Pod/p"),
        ] {
            assert_eq!(of(controller, labels), workload, "{controller:?}");
        }
    }

    #[test]
    fn versions_of_argos_and_openshifts_workloads_are_one_workload() {
        let labels = BTreeMap::from([
            (ROLLOUT_HASH.to_owned(), "7d9f".to_owned()),
            (DEPLOYMENT_CONFIG.to_owned(), "shop".to_owned()),
        ]);
        let of = |api_version, kind, name| made_by(Some((api_version, kind, name)), &labels);
        assert_eq!(
            of("apps/v1", "ReplicaSet", "fixer-7d9f"),
            "Rollout.argoproj.io/fixer"
        );
        assert_eq!(of("apps/v1", "ReplicaSet", "fixer-8888"), "ReplicaSet/fixer-8888");
        let config = "DeploymentConfig.apps.openshift.io/shop";
        assert_eq!(of("v1", "ReplicationController", "shop-3"), config);
        for other in ["shop", "shop-", "shop-x", "shop-a-3", "shops-3"] {
            let name = format!("ReplicationController/{other}");
            assert_eq!(of("v1", "ReplicationController", other), name);
        }
    }

    #[test]
    fn kinds_of_two_apis_are_two_workloads() {
        let labels = BTreeMap::from([(TEMPLATE_HASH.to_owned(), "7d9f".to_owned())]);
        let of = |api_version, kind, name| made_by(Some((api_version, kind, name)), &labels);
        assert_eq!(of("batch/v1", "Job", "x"), "Job/x");
        assert_eq!(
            of("v1", "ReplicationController", "x-1"),
            "ReplicationController/x-1"
        );
        assert_eq!(
            of("batch.volcano.sh/v1alpha1", "Job", "x"),
            "Job.batch.volcano.sh/x"
        );
        assert_eq!(
            of("evil.test/v1", "Deployment", "fixer"),
            "Deployment.evil.test/fixer"
        );
        assert_eq!(
            of("evil.test/v1", "ReplicaSet", "fixer-7d9f"),
            "ReplicaSet.evil.test/fixer-7d9f"
        );
        assert_eq!(of("evil.test/v1", "Node", "n"), "Node.evil.test/n");
    }
}

//! What a bundle asks the API server for.
//!
//! In: a client with the person's own rights. Out: an archive of what was given, without secrets, and what was left out with the reason.

use std::fmt::Write as _;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, ListParams, LogParams};
use kube::{Api, Client};
use picket_controller::lenient::Lenient;
use picket_policy::api::GROUP;
use serde_json::{Value, json};

use super::archive::{Added, Archive};
use super::scrub::Scrubber;
use crate::cli::status;
use crate::cli::target::person::{self, AskError, list};

/// Picket's own workloads and pods (deploy/charts/picket).
const OWN: &str = "app.kubernetes.io/name=picket";

/// The ConfigMap with the agents' configuration.
const CONFIG: &str = "metadata.name=picket";

/// Most pods whose logs are taken. Each agent's says much the same.
const MAX_PODS: usize = 100;

/// Most bytes of one log.
const MAX_LOG: i64 = 2 * 1024 * 1024;

/// A resource: group, version, kind and plural.
type Resource = (&'static str, &'static str, &'static str, &'static str);

/// Those of Picket's group, with the file of each.
const OBJECTS: [Resource; 4] = [
    (GROUP, "v1alpha1", "PicketNode", "picketnodes"),
    (GROUP, "v1alpha1", "AgentIdentity", "agentidentities"),
    (GROUP, "v1alpha1", "AgentGrant", "agentgrants"),
    (GROUP, "v1alpha1", "AgentPolicy", "agentpolicies"),
];

/// Those in Picket's namespace with its label.
const WORKLOADS: [Resource; 3] = [
    ("apps", "v1", "DaemonSet", "daemonsets"),
    ("apps", "v1", "Deployment", "deployments"),
    ("", "v1", "Pod", "pods"),
];

const ADMISSION: &str = "admissionregistration.k8s.io";

/// Admission, of which Picket's have a name that ends with its group.
const POLICIES: [Resource; 6] = [
    (
        ADMISSION,
        "v1",
        "MutatingAdmissionPolicy",
        "mutatingadmissionpolicies",
    ),
    (
        ADMISSION,
        "v1",
        "MutatingAdmissionPolicyBinding",
        "mutatingadmissionpolicybindings",
    ),
    (
        ADMISSION,
        "v1",
        "ValidatingAdmissionPolicy",
        "validatingadmissionpolicies",
    ),
    (
        ADMISSION,
        "v1",
        "ValidatingAdmissionPolicyBinding",
        "validatingadmissionpolicybindings",
    ),
    (
        ADMISSION,
        "v1",
        "MutatingWebhookConfiguration",
        "mutatingwebhookconfigurations",
    ),
    (
        ADMISSION,
        "v1",
        "ValidatingWebhookConfiguration",
        "validatingwebhookconfigurations",
    ),
];

/// What is left out of every bundle, whoever makes it.
const NEVER: &str = "\
- Secrets, tokens, kubeconfigs and audit records: none is asked for.
- `managedFields`, and the annotation in which kubectl repeats an object.
- Of Nodes all but labels, taints, `providerID`, conditions and `nodeInfo`.
- What looks like a secret in any text: `***redacted***` or `***LENGTH:DIGEST***` stands for it. Equal marks with a digest stand for
  equal secrets.
";

/// What was collected.
pub(super) struct Collected {
    pub(super) archive: Archive,
    /// What is not in it, and why.
    pub(super) left_out: Vec<String>,
}

/// Collects a bundle.
pub(super) struct Collector {
    client: Client,
    namespace: String,
    log_lines: u32,
    scrubber: Scrubber,
    archive: Archive,
    left_out: Vec<String>,
}

impl Collector {
    pub(super) fn new(client: Client, namespace: &str, log_lines: u32) -> Self {
        Self {
            client,
            namespace: namespace.to_owned(),
            log_lines,
            scrubber: Scrubber::new(),
            archive: Archive::default(),
            left_out: Vec::new(),
        }
    }

    /// Asks for all of it. What is refused is left out.
    pub(super) async fn collect(mut self, now: Timestamp) -> Collected {
        self.versions(now).await;
        self.status().await;
        self.objects().await;
        self.workloads().await;
        self.nodes().await;
        self.admission().await;
        self.logs().await;
        let manifest = self.manifest(now);
        // There is room for it: a file that was refused for want of room was longer.
        self.archive.add("MANIFEST.md", manifest);
        Collected {
            archive: self.archive,
            left_out: self.left_out,
        }
    }

    async fn versions(&mut self, now: Timestamp) {
        let server = match self.client.apiserver_version().await {
            Ok(version) => format!("{} ({})", version.git_version, version.platform),
            Err(error) => {
                let error = person::of(&error, "the version").to_string();
                self.left_out.push(format!("the API server's version: {error}"));
                "unknown".to_owned()
            }
        };
        let text = format!(
            "picket (this command): {}\nKubernetes: {server}\nmade: {now}\n",
            env!("CARGO_PKG_VERSION")
        );
        self.add("versions.txt", text);
    }

    /// What `picket status` says.
    async fn status(&mut self) {
        match status::report(&self.client, None, status::EXPIRING).await {
            Ok(report) => {
                let text = self.scrubber.text(&status::text(&report));
                self.add("status.txt", text);
            }
            Err(error) => self.left_out.push(format!("status.txt: {error}")),
        }
    }

    async fn objects(&mut self) {
        for resource in OBJECTS {
            let listed = self.list(resource, None, &ListParams::default()).await;
            self.put(&format!("objects/{}.json", resource.3), resource.3, listed);
        }
        let crds = (
            "apiextensions.k8s.io",
            "v1",
            "CustomResourceDefinition",
            "customresourcedefinitions",
        );
        let listed = self.list(crds, None, &ListParams::default()).await;
        let own = listed.map(|crds| of_group(crds, &format!(".{GROUP}"), crd));
        self.put("objects/crds.json", crds.3, own);
    }

    async fn workloads(&mut self) {
        let namespace = self.namespace.clone();
        let labelled = ListParams::default().labels(OWN);
        for resource in WORKLOADS {
            let listed = self.list(resource, Some(&namespace), &labelled).await;
            self.put(&format!("workloads/{}.json", resource.3), resource.3, listed);
        }
        let events = ("events.k8s.io", "v1", "Event", "events");
        let listed = self.list(events, Some(&namespace), &ListParams::default()).await;
        self.put("workloads/events.json", "events", listed);
        let config = ("", "v1", "ConfigMap", "configmaps");
        let of_name = ListParams::default().fields(CONFIG);
        let listed = self.list(config, Some(&namespace), &of_name).await;
        self.put("workloads/configmap.json", "ConfigMap picket", listed);
    }

    async fn nodes(&mut self) {
        let nodes = ("", "v1", "Node", "nodes");
        let listed = self.list(nodes, None, &ListParams::default()).await;
        let part = |nodes: Vec<Value>| nodes.iter().map(node).collect();
        self.put("nodes.json", "nodes", listed.map(part));
    }

    async fn admission(&mut self) {
        for resource in POLICIES {
            let file = format!("admission/{}.json", resource.3);
            let listed = self.list(resource, None, &ListParams::default()).await;
            let own = listed.map(|policies| of_group(policies, &format!(".{GROUP}"), |policy| policy));
            match own {
                // Releases before 1.36 have no MutatingAdmissionPolicy.
                Err(AskError::NoKind(_)) => {}
                own => self.put(&file, resource.3, own),
            }
        }
    }

    /// The end of each log of Picket's pods, and of the container before where it ended.
    async fn logs(&mut self) {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &self.namespace);
        let listed: Api<Lenient<Pod>> = Api::namespaced(self.client.clone(), &self.namespace);
        let pods = match list(&listed, "pods", &ListParams::default().labels(OWN)).await {
            Ok(pods) => pods,
            Err(error) => return self.left_out.push(format!("logs: {error}")),
        };
        if pods.len() > MAX_PODS {
            let without = pods.len() - MAX_PODS;
            self.left_out
                .push(format!("logs of {without} pods: there are more than {MAX_PODS}"));
        }
        for (number, pod) in pods.iter().take(MAX_PODS).enumerate() {
            let name = pod.metadata.name.clone().unwrap_or_default();
            let statuses = pod.status.iter();
            let statuses = statuses.flat_map(|status| {
                let init = status.init_container_statuses.iter().flatten();
                init.chain(status.container_statuses.iter().flatten())
            });
            for container in statuses {
                for previous in [false, true] {
                    if previous && container.restart_count == 0 {
                        continue;
                    }
                    let file = log_path(number, &name, &container.name, previous);
                    let parameters = LogParams {
                        container: Some(container.name.clone()),
                        previous,
                        tail_lines: Some(i64::from(self.log_lines)),
                        limit_bytes: Some(MAX_LOG),
                        timestamps: true,
                        ..LogParams::default()
                    };
                    match api.logs(&name, &parameters).await {
                        Ok(log) => {
                            let log = self.scrubber.text(&log);
                            self.add(&file, log);
                        }
                        Err(error) => {
                            let error = person::of(&error, "logs");
                            self.left_out.push(format!("{file}: {error}"));
                        }
                    }
                }
            }
        }
    }

    async fn list(
        &self,
        (group, version, kind, plural): Resource,
        namespace: Option<&str>,
        parameters: &ListParams,
    ) -> Result<Vec<Value>, AskError> {
        let kind = GroupVersionKind::gvk(group, version, kind);
        let resource = ApiResource::from_gvk_with_plural(&kind, plural);
        let api: Api<Lenient<DynamicObject>> = match namespace {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &resource),
            None => Api::all_with(self.client.clone(), &resource),
        };
        let objects = list(&api, plural, parameters).await?;
        // An object of texts, lists and maps is always a value.
        let values = objects
            .into_iter()
            .map(|object| serde_json::to_value(object).unwrap_or_default());
        Ok(values.collect())
    }

    /// Adds objects without their secrets, or says why they are left out.
    fn put(&mut self, file: &str, what: &str, listed: Result<Vec<Value>, AskError>) {
        match listed {
            Ok(items) => {
                let items: Vec<_> = items.into_iter().map(|item| self.scrubber.object(item)).collect();
                let text = format!("{:#}\n", json!({"kind": "List", "items": items}));
                self.add(file, text);
            }
            Err(error) => self.left_out.push(format!("{file}: {what}: {error}")),
        }
    }

    /// Adds a text that has no secrets any more.
    fn add(&mut self, file: &str, text: String) {
        match self.archive.add(file, text) {
            Added::Whole => {}
            Added::Cut => self.left_out.push(format!("{file}: its beginning, for its size")),
            Added::Full => self.left_out.push(format!("{file}: the archive is full")),
        }
    }

    fn manifest(&self, now: Timestamp) -> String {
        let mut text = format!(
            "# Support bundle of Picket\n\nMade {now} by `picket support-bundle` {}, of namespace {}. Look into it before you \
             send it.\n\n## What is in it\n\n| file | bytes |\n|---|---|\n",
            env!("CARGO_PKG_VERSION"),
            self.namespace
        );
        for (path, bytes) in self.archive.sizes() {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "| {path} | {bytes} |");
        }
        let _ = write!(text, "\n## What is not in it\n\n{NEVER}");
        for left_out in &self.left_out {
            let _ = writeln!(text, "- {}", self.scrubber.text(left_out).replace('\n', " "));
        }
        text
    }
}

/// Those whose name ends so, each as `part` shows it.
fn of_group(objects: Vec<Value>, end: &str, part: impl Fn(Value) -> Value) -> Vec<Value> {
    let is_own = |object: &Value| {
        let name = object["metadata"]["name"].as_str();
        name.is_some_and(|name| name.ends_with(end))
    };
    objects.into_iter().filter(is_own).map(part).collect()
}

/// A CRD without its schemas, which this version's `picket crds` prints.
fn crd(mut crd: Value) -> Value {
    if let Some(versions) = crd["spec"]["versions"].as_array_mut() {
        for version in versions {
            if let Some(version) = version.as_object_mut() {
                version.remove("schema");
            }
        }
    }
    crd
}

/// The part of a Node that says what it is and how it is.
fn node(node: &Value) -> Value {
    json!({
        "metadata": {
            "name": node["metadata"]["name"],
            "labels": node["metadata"]["labels"],
            "creationTimestamp": node["metadata"]["creationTimestamp"],
        },
        "spec": {
            "providerID": node["spec"]["providerID"],
            "taints": node["spec"]["taints"],
            "unschedulable": node["spec"]["unschedulable"],
        },
        "status": {"conditions": node["status"]["conditions"], "nodeInfo": node["status"]["nodeInfo"]},
    })
}
/// Where a container's log is. Names are long, and with the folder's a path in an archive has 100 bytes at most.
pub(super) fn log_path(number: usize, pod: &str, container: &str, previous: bool) -> String {
    let short = |name: &str, length| name.chars().take(length).collect::<String>();
    let (pod, container) = (short(pod, 24), short(container, 20));
    let word = if previous { "previous.log" } else { "log" };
    format!("logs/{number:03}-{pod}/{container}.{word}")
}

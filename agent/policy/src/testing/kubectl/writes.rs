//! Commands that change something.
//!
//! In: `create`, `apply`, `delete`, `patch`, `scale`, `rollout` and the like. Out: their requests.

use http::Method;
use serde_json::{Value as Json, json};

use super::created::fill;
use super::objects::Manifest;
use super::resources::{self, Resource, served};
use super::{EXAMPLE, Plan};
use crate::body::MediaType;
use crate::testing::input::{InputError, RequestRole};

/// What `kubectl create KIND` makes: the word, group, resource and kind.
#[rustfmt::skip]
const CREATED: [(&str, &str, &str, &str); 19] = [
    ("clusterrole", "rbac.authorization.k8s.io", "clusterroles", "ClusterRole"),
    ("clusterrolebinding", "rbac.authorization.k8s.io", "clusterrolebindings", "ClusterRoleBinding"),
    ("configmap", "", "configmaps", "ConfigMap"),
    ("cm", "", "configmaps", "ConfigMap"),
    ("cronjob", "batch", "cronjobs", "CronJob"),
    ("deployment", "apps", "deployments", "Deployment"),
    ("deploy", "apps", "deployments", "Deployment"),
    ("ingress", "networking.k8s.io", "ingresses", "Ingress"),
    ("job", "batch", "jobs", "Job"),
    ("namespace", "", "namespaces", "Namespace"),
    ("ns", "", "namespaces", "Namespace"),
    ("pdb", "policy", "poddisruptionbudgets", "PodDisruptionBudget"),
    ("poddisruptionbudget", "policy", "poddisruptionbudgets", "PodDisruptionBudget"),
    ("priorityclass", "scheduling.k8s.io", "priorityclasses", "PriorityClass"),
    ("quota", "", "resourcequotas", "ResourceQuota"),
    ("role", "rbac.authorization.k8s.io", "roles", "Role"),
    ("rolebinding", "rbac.authorization.k8s.io", "rolebindings", "RoleBinding"),
    ("serviceaccount", "", "serviceaccounts", "ServiceAccount"),
    ("sa", "", "serviceaccounts", "ServiceAccount"),
];

impl Plan<'_> {
    /// Adds the requests of a command that writes; `false` where it is none.
    pub(super) fn writes(&mut self, command: &str) -> Result<bool, InputError> {
        match command {
            "create" => self.create()?,
            "run" => self.run()?,
            "apply" => self.apply()?,
            "replace" => self.replace()?,
            "delete" => self.delete()?,
            "patch" => self.patch()?,
            "edit" => self.change_each(self.rest(), Resource::edited_patch, &json!({}))?,
            "label" | "annotate" => self.label(command)?,
            "set" => self.set()?,
            "scale" => self.scale()?,
            "autoscale" | "expose" => self.derive(command)?,
            "rollout" => self.rollout()?,
            "taint" => self.change_nodes(self.rest(), &json!({"spec": {"taints": []}}))?,
            "cordon" | "uncordon" => {
                let patch = json!({"spec": {"unschedulable": command == "cordon"}});
                self.change_nodes(self.rest(), &patch)?;
            }
            "drain" => self.drain()?,
            "certificate" => self.certificate()?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn refuse_client_dry_run(&self) -> Result<(), InputError> {
        match self.is_client_dry_run() {
            true => Err(self.no_request("--dry-run=client")),
            false => Ok(()),
        }
    }

    /// `--raw PATH`: the path as it is, with what `-f -` reads as the body; `false` without the flag.
    fn raw(&mut self, method: &Method) -> Result<bool, InputError> {
        let Some(path) = self.arguments.value("raw") else {
            return Ok(false);
        };
        let body = match self.arguments.files.is_empty() {
            true => "",
            false => self.stdin()?,
        };
        let body = body.as_bytes().to_vec();
        self.ask(RequestRole::Acting, method.clone(), path.to_owned(), &[])
            .body = body;
        Ok(true)
    }

    fn create(&mut self) -> Result<(), InputError> {
        if self.raw(&Method::POST)? {
            return Ok(());
        }
        self.refuse_client_dry_run()?;
        let query = self.write_query("kubectl-create");
        let (word, rest) = match self.rest() {
            [] => {
                for manifest in self.manifests()? {
                    self.post(&manifest, &query);
                }
                return Ok(());
            }
            [word, rest @ ..] => (word.as_str(), rest),
        };
        let (of_type, rest) = match (word, rest) {
            // `create secret generic NAME`, `create service clusterip NAME`
            ("secret" | "service" | "svc", [of_type, rest @ ..]) => (of_type.as_str(), rest),
            (_, rest) => ("", rest),
        };
        let Some(name) = rest.first() else {
            return Err(InputError(format!("the name is missing after `create {word}`")));
        };
        if word == "token" {
            let path = self.path(&served("", "serviceaccounts"), Some(name), Some("token"));
            let request =
                json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
            self.send(
                RequestRole::Acting,
                Method::POST,
                path,
                &[],
                (MediaType::Json, &request),
            );
            return Ok(());
        }
        let made = match word {
            "secret" => Some(("", "secrets", "Secret")),
            "service" | "svc" => Some(("", "services", "Service")),
            word => CREATED
                .iter()
                .find(|row| row.0 == word)
                .map(|row| (row.1, row.2, row.3)),
        };
        let Some((group, plural, kind)) = made else {
            return Err(InputError(format!(
                "kubectl has no `create {word}`: write `create -f -`, and the object under `stdin`"
            )));
        };
        let resource = served(group, plural);
        if let Some(from) = self.arguments.value("from").and_then(|from| from.split_once('/')) {
            self.get(RequestRole::Needed, &resources::one(from.0)?, from.1);
        }
        let mut object = self.made(&resource, kind, name);
        fill(&mut object, kind, of_type, self.arguments)?;
        let path = resource.path(Some(&self.namespace), None, None);
        self.send(
            RequestRole::Acting,
            Method::POST,
            path,
            &query,
            (MediaType::Json, &object),
        );
        Ok(())
    }

    fn post(&mut self, manifest: &Manifest, query: &[(&str, String)]) {
        let path = self.manifest_path(manifest, None);
        self.send(
            RequestRole::Acting,
            Method::POST,
            path,
            query,
            (MediaType::Json, &manifest.object),
        );
    }

    fn run(&mut self) -> Result<(), InputError> {
        self.refuse_client_dry_run()?;
        let Some(name) = self.rest().first().cloned() else {
            return Err(InputError(
                "the name is missing: write `run NAME --image=IMAGE`".to_owned(),
            ));
        };
        let pods = resources::pods();
        let object = self.made(&pods, "Pod", &name);
        let path = pods.path(Some(&self.namespace), None, None);
        let query = self.write_query("kubectl-run");
        self.send(
            RequestRole::Acting,
            Method::POST,
            path,
            &query,
            (MediaType::Json, &object),
        );
        self.join(&name);
        if self.arguments.has("rm") {
            let path = pods.path(Some(&self.namespace), Some(&name), None);
            self.ask(RequestRole::Needed, Method::DELETE, path, &[]);
        }
        Ok(())
    }

    fn apply(&mut self) -> Result<(), InputError> {
        match self.rest().first().map(String::as_str) {
            None => {}
            Some("view-last-applied") => {
                for (resource, name) in self.each(&self.rest()[1..])? {
                    self.get(RequestRole::Acting, &resource, &name);
                }
                return Ok(());
            }
            Some("edit-last-applied") => {
                return self.change(&self.rest()[1..], MediaType::MergePatch, &json!({"metadata": {}}));
            }
            Some(other) => {
                return Err(InputError(format!(
                    "{other:?} is unexpected: write `apply -f -`, and the objects under `stdin`"
                )));
            }
        }
        if self.arguments.has("prune") {
            return Err(InputError(
                "--prune deletes what only the cluster can tell: test the deletions apart".to_owned(),
            ));
        }
        for manifest in self.manifests()? {
            let path = self.manifest_path(&manifest, Some(&manifest.name));
            if self.arguments.has("server-side") {
                let mut query = self.write_query("kubectl");
                let force = self.arguments.has("force-conflicts");
                query.push(("force", force.to_string()));
                let body = (MediaType::ApplyYaml, &manifest.object);
                self.send(RequestRole::Acting, Method::PATCH, path, &query, body);
                continue;
            }
            let role = if self.is_client_dry_run() {
                RequestRole::Acting
            } else {
                RequestRole::Needed
            };
            self.ask(role, Method::GET, path.clone(), &[]);
            if self.is_client_dry_run() {
                continue;
            }
            let query = self.write_query("kubectl-client-side-apply");
            if self.around.exists {
                self.send(
                    RequestRole::Acting,
                    Method::PATCH,
                    path,
                    &query,
                    (manifest.resource.applied_patch(), &manifest.object),
                );
            } else {
                self.post(&manifest, &query);
            }
        }
        Ok(())
    }

    fn replace(&mut self) -> Result<(), InputError> {
        if self.raw(&Method::PUT)? {
            return Ok(());
        }
        self.refuse_client_dry_run()?;
        let query = self.write_query("kubectl-replace");
        for manifest in self.manifests()? {
            let namespace = self.namespace_of(&manifest).to_owned();
            let path = manifest
                .resource
                .path(Some(&namespace), Some(&manifest.name), None);
            if self.arguments.has("force") {
                self.ask(RequestRole::Acting, Method::DELETE, path, &[]);
                self.post(&manifest, &query);
            } else {
                self.ask(RequestRole::Needed, Method::GET, path.clone(), &[]);
                self.send(
                    RequestRole::Acting,
                    Method::PUT,
                    path,
                    &query,
                    (MediaType::Json, &manifest.object),
                );
            }
        }
        Ok(())
    }

    fn delete(&mut self) -> Result<(), InputError> {
        self.refuse_client_dry_run()?;
        if self.raw(&Method::DELETE)? {
            return Ok(());
        }
        let mut objects = Vec::new();
        if self.arguments.files.is_empty() {
            let namespace = self.namespace.clone();
            for (resource, name) in self.each(self.rest())? {
                objects.push((resource, name, namespace.clone()));
            }
        } else {
            for manifest in self.manifests()? {
                let namespace = self.namespace_of(&manifest).to_owned();
                objects.push((manifest.resource, manifest.name, namespace));
            }
        }
        let query = match self.arguments.value("dry-run") {
            Some("server") => vec![("dryRun", "All".to_owned())],
            _ => Vec::new(),
        };
        let mut options =
            json!({"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"});
        if !query.is_empty() {
            options["dryRun"] = json!(["All"]);
        }
        for (resource, name, namespace) in objects {
            let path = resource.path(Some(&namespace), Some(&name), None);
            self.send(
                RequestRole::Acting,
                Method::DELETE,
                path,
                &query,
                (MediaType::Json, &options),
            );
            if self.arguments.value("wait") != Some("false") && query.is_empty() {
                let before = std::mem::replace(&mut self.namespace, namespace);
                self.await_object(RequestRole::Optional, &resource, &name);
                self.namespace = before;
            }
        }
        Ok(())
    }

    fn patch(&mut self) -> Result<(), InputError> {
        let Some(text) = self.arguments.value("patch") else {
            return Err(InputError("the patch is missing: write -p '{...}'".to_owned()));
        };
        let patch = crate::yaml::parse("patch", text)
            .ok()
            .and_then(|nodes| nodes.first().map(crate::api::plain));
        let patch =
            patch.ok_or_else(|| InputError(format!("the patch {text:?} is neither JSON nor YAML")))?;
        let kind = match self.arguments.value("type").unwrap_or("strategic") {
            "json" => MediaType::JsonPatch,
            "merge" => MediaType::MergePatch,
            "strategic" => MediaType::StrategicMergePatch,
            other => {
                return Err(InputError(format!(
                    "{other:?} is no type of patch: write json, merge or strategic"
                )));
            }
        };
        self.change(self.rest(), kind, &patch)
    }

    /// A patch of each object that words name.
    fn change(&mut self, words: &[String], kind: MediaType, patch: &Json) -> Result<(), InputError> {
        self.change_each(words, |_| kind, patch)
    }

    /// Likewise, of a kind that goes by the resource.
    fn change_each(
        &mut self,
        words: &[String],
        kind: impl Fn(&Resource) -> MediaType,
        patch: &Json,
    ) -> Result<(), InputError> {
        let query = self.write_query(&format!("kubectl-{}", self.arguments.command));
        let sub = self.arguments.value("subresource").map(str::to_owned);
        for (resource, name) in self.objects(words)? {
            self.get(RequestRole::Needed, &resource, &name);
            if self.is_client_dry_run() {
                continue;
            }
            let path = self.path(&resource, Some(&name), sub.as_deref());
            self.send(
                RequestRole::Acting,
                Method::PATCH,
                path,
                &query,
                (kind(&resource), patch),
            );
        }
        if self.is_client_dry_run() {
            return Err(self.no_request("--dry-run=client"));
        }
        Ok(())
    }

    /// The objects of words or of `-f -`.
    fn objects(&mut self, words: &[String]) -> Result<Vec<(Resource, String)>, InputError> {
        if self.arguments.files.is_empty() {
            return self.each(words);
        }
        let manifests = self.manifests()?.into_iter();
        Ok(manifests
            .map(|manifest| (manifest.resource, manifest.name))
            .collect())
    }

    fn label(&mut self, command: &str) -> Result<(), InputError> {
        let is_change = |word: &&String| word.contains('=') || word.ends_with('-');
        let objects: Vec<_> = self
            .rest()
            .iter()
            .filter(|word| !is_change(word))
            .cloned()
            .collect();
        let field = if command == "label" {
            "labels"
        } else {
            "annotations"
        };
        let mut values = serde_json::Map::new();
        for word in self.rest().iter().filter(is_change) {
            match word.split_once('=') {
                Some((name, value)) => values.insert(name.to_owned(), json!(value)),
                None => values.insert(word.trim_end_matches('-').to_owned(), Json::Null),
            };
        }
        if self.arguments.has("list") && values.is_empty() {
            for (resource, name) in self.objects(&objects)? {
                self.get(RequestRole::Acting, &resource, &name);
            }
            return Ok(());
        }
        if values.is_empty() {
            return Err(InputError(format!(
                "nothing to change: write such as `{command} pod web team=a` or `team-`"
            )));
        }
        let mut metadata = serde_json::Map::new();
        metadata.insert(field.to_owned(), Json::Object(values));
        self.change(&objects, MediaType::MergePatch, &json!({"metadata": metadata}))
    }

    /// `set image deploy/web web=nginx` and the like change a template.
    fn set(&mut self) -> Result<(), InputError> {
        let (what, rest) = match self.rest() {
            [what, rest @ ..] => (what.as_str(), rest),
            [] => {
                return Err(InputError(
                    "write such as `set image deploy/web web=nginx`".to_owned(),
                ));
            }
        };
        let assigns = |word: &&String| word.contains('=');
        let mut objects: Vec<_> = rest.iter().filter(|word| !assigns(word)).cloned().collect();
        if what == "serviceaccount" || what == "sa" {
            objects.pop();
        }
        let containers: Vec<_> = rest
            .iter()
            .filter_map(|word| word.split_once('='))
            .map(|(name, value)| match what {
                "image" => json!({"name": name, "image": value}),
                _ => json!({"name": "*", "env": [{"name": name, "value": value}]}),
            })
            .collect();
        let patch = match what {
            "image" | "env" | "resources" => {
                json!({"spec": {"template": {"spec": {"containers": containers}}}})
            }
            "serviceaccount" | "sa" => {
                json!({"spec": {"template": {"spec": {"serviceAccountName": rest.last()}}}})
            }
            "selector" => json!({"spec": {"selector": {}}}),
            "subject" => json!({"subjects": []}),
            other => return Err(InputError(format!("kubectl has no `set {other}`"))),
        };
        self.change(&objects, MediaType::StrategicMergePatch, &patch)
    }

    fn scale(&mut self) -> Result<(), InputError> {
        let replicas: u32 = self
            .arguments
            .value("replicas")
            .and_then(|replicas| replicas.parse().ok())
            .ok_or_else(|| InputError("write --replicas=NUMBER".to_owned()))?;
        self.refuse_client_dry_run()?;
        let query = self.write_query("");
        for (resource, name) in self.objects(self.rest())? {
            self.get(RequestRole::Needed, &resource, &name);
            let path = self.path(&resource, Some(&name), Some("scale"));
            let patch = json!({"spec": {"replicas": replicas}});
            self.send(
                RequestRole::Acting,
                Method::PATCH,
                path,
                &query,
                (MediaType::MergePatch, &patch),
            );
        }
        Ok(())
    }

    /// `expose` and `autoscale` make an object of another.
    fn derive(&mut self, command: &str) -> Result<(), InputError> {
        self.refuse_client_dry_run()?;
        let (resource, kind) = match command {
            "expose" => (served("", "services"), "Service"),
            _ => (
                served("autoscaling", "horizontalpodautoscalers"),
                "HorizontalPodAutoscaler",
            ),
        };
        let query = self.write_query(&format!("kubectl-{command}"));
        for (of, name) in self.objects(self.rest())? {
            self.get(RequestRole::Needed, &of, &name);
            let name = self.arguments.value("name").unwrap_or(&name).to_owned();
            let object = self.made(&resource, kind, &name);
            let path = resource.path(Some(&self.namespace), None, None);
            self.send(
                RequestRole::Acting,
                Method::POST,
                path,
                &query,
                (MediaType::Json, &object),
            );
        }
        Ok(())
    }

    fn rollout(&mut self) -> Result<(), InputError> {
        let (what, rest) = match self.rest() {
            [what, rest @ ..] => (what.as_str(), rest),
            [] => {
                return Err(InputError(
                    "write such as `rollout restart deploy/web`".to_owned(),
                ));
            }
        };
        let template = |value: &str| json!({"spec": {"template": {"metadata": {"annotations": {"kubectl.kubernetes.io/restartedAt": value}}}}});
        match what {
            "restart" => self.change(
                rest,
                MediaType::StrategicMergePatch,
                &template("2026-01-01T00:00:00Z"),
            ),
            "pause" => self.change(
                rest,
                MediaType::StrategicMergePatch,
                &json!({"spec": {"paused": true}}),
            ),
            "resume" => self.change(
                rest,
                MediaType::StrategicMergePatch,
                &json!({"spec": {"paused": null}}),
            ),
            "undo" => {
                let mut patch = (MediaType::StrategicMergePatch, json!({"spec": {"template": {}}}));
                for (resource, _) in self.each(rest)? {
                    self.revisions(RequestRole::Needed, &resource);
                    if resource.is("apps", "deployments") {
                        let template = json!({"op": "replace", "path": "/spec/template", "value": {}});
                        patch = (MediaType::JsonPatch, json!([template]));
                    }
                }
                self.change(rest, patch.0, &patch.1)
            }
            "history" => {
                for (resource, name) in self.each(rest)? {
                    self.get(RequestRole::Acting, &resource, &name);
                    self.revisions(RequestRole::Acting, &resource);
                }
                Ok(())
            }
            "status" => {
                for (resource, name) in self.each(rest)? {
                    self.get(RequestRole::Acting, &resource, &name);
                    self.await_object(RequestRole::Acting, &resource, &name);
                }
                Ok(())
            }
            other => Err(InputError(format!(
                "kubectl has no `rollout {other}`: write history, pause, restart, resume, status or undo"
            ))),
        }
    }

    /// Where the earlier versions of a workload are.
    fn revisions(&mut self, role: RequestRole, of: &Resource) {
        let plural = if of.is("apps", "deployments") {
            "replicasets"
        } else {
            "controllerrevisions"
        };
        let path = served("apps", plural).path(Some(&self.namespace), None, None);
        self.ask(role, Method::GET, path, &[]);
    }

    fn change_nodes(&mut self, words: &[String], patch: &Json) -> Result<(), InputError> {
        let words = words.strip_prefix(&["node".to_owned()][..]).unwrap_or(words);
        let words = words.strip_prefix(&["nodes".to_owned()][..]).unwrap_or(words);
        let taints = self.arguments.command == "taint";
        let is_taint = |word: &&String| taints && (word.contains([':', '=']) || word.ends_with('-'));
        let names: Vec<_> = words.iter().filter(|word| !is_taint(word)).cloned().collect();
        let nodes = served("", "nodes");
        if names.is_empty() && !self.arguments.selects() {
            return Err(InputError(
                "the node is missing: write such as `cordon node-1`".to_owned(),
            ));
        }
        let words: Vec<_> = ["nodes".to_owned()].into_iter().chain(names).collect();
        self.refuse_client_dry_run()?;
        for (_, name) in self.each(&words)? {
            self.get(RequestRole::Needed, &nodes, &name);
            let query = self.write_query(&format!("kubectl-{}", self.arguments.command));
            let path = nodes.path(None, Some(&name), None);
            self.send(
                RequestRole::Acting,
                Method::PATCH,
                path,
                &query,
                (MediaType::StrategicMergePatch, patch),
            );
        }
        Ok(())
    }

    fn drain(&mut self) -> Result<(), InputError> {
        self.change_nodes(self.rest(), &json!({"spec": {"unschedulable": true}}))?;
        let pods = resources::pods();
        let node = self.rest().last().map_or(EXAMPLE, String::as_str).to_owned();
        let all = pods.path(None, None, None);
        self.ask(
            RequestRole::Needed,
            Method::GET,
            all,
            &[("fieldSelector", format!("spec.nodeName={node}"))],
        );
        if self.arguments.has("disable-eviction") {
            let path = pods.path(Some(&self.namespace), Some(EXAMPLE), None);
            self.ask(RequestRole::Acting, Method::DELETE, path, &[]);
        } else {
            self.evict();
        }
        self.get(RequestRole::Optional, &pods, EXAMPLE);
        Ok(())
    }

    fn certificate(&mut self) -> Result<(), InputError> {
        let (what, names) = match self.rest() {
            [what, names @ ..] if !names.is_empty() => (what.as_str(), names),
            _ => {
                return Err(InputError(
                    "write `certificate approve NAME` or `certificate deny NAME`".to_owned(),
                ));
            }
        };
        if !matches!(what, "approve" | "deny") {
            return Err(InputError(format!(
                "kubectl has no `certificate {what}`: write approve or deny"
            )));
        }
        let requests = served("certificates.k8s.io", "certificatesigningrequests");
        for name in names {
            self.get(RequestRole::Needed, &requests, name);
            let path = requests.path(None, Some(name), Some("approval"));
            let object = self.made(&requests, "CertificateSigningRequest", name);
            self.send(
                RequestRole::Acting,
                Method::PUT,
                path,
                &[],
                (MediaType::Json, &object),
            );
        }
        Ok(())
    }
}

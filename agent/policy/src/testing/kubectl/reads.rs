//! Commands that read.
//!
//! In: `get`, `describe`, `logs`, `top`, `events`, `wait`, `diff` and the like. Out: their requests.

use http::Method;
use serde_json::json;

use super::resources::{self, Resource, served};
use super::{EXAMPLE, Named, Plan};
use crate::body::MediaType;
use crate::testing::input::{InputError, RequestRole};

impl Plan<'_> {
    /// Adds the requests of a command that reads; `false` where it is none.
    pub(super) fn reads(&mut self, command: &str) -> Result<bool, InputError> {
        match command {
            "get" => self.get_command()?,
            "describe" => self.describe()?,
            "logs" => self.logs()?,
            "events" => self.events(),
            "top" => self.top()?,
            "wait" => self.wait()?,
            "diff" => self.diff()?,
            "explain" => self.paths(&["/openapi/v3"]),
            "api-resources" | "api-versions" => self.paths(&["/api", "/apis"]),
            "version" => self.paths(&["/version"]),
            "cluster-info" => self.cluster_info(),
            "auth" => self.auth()?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn paths(&mut self, paths: &[&str]) {
        for path in paths {
            self.ask(RequestRole::Acting, Method::GET, (*path).to_owned(), &[]);
        }
    }

    fn get_command(&mut self) -> Result<(), InputError> {
        if let Some(path) = self.arguments.value("raw") {
            self.paths(&[path]);
            return Ok(());
        }
        let named = match self.arguments.files.is_empty() {
            true => self.named(self.rest())?,
            false => self.named_by_file()?,
        };
        let watches = self.arguments.has("watch") || self.arguments.has("watch-only");
        for Named { resource, name } in named {
            let sub = self.arguments.value("subresource");
            match name {
                Some(name) if watches => {
                    self.get(RequestRole::Acting, &resource, &name);
                    let path = resource.path(Some(&self.namespace), None, None);
                    let query = [
                        ("fieldSelector", format!("metadata.name={name}")),
                        ("watch", "true".to_owned()),
                    ];
                    self.ask(RequestRole::Acting, Method::GET, path, &query);
                }
                Some(name) => {
                    let path = self.path(&resource, Some(&name), sub);
                    self.ask(RequestRole::Acting, Method::GET, path, &[]);
                }
                None => {
                    self.list(RequestRole::Acting, &resource, &[]);
                    if watches {
                        self.list(RequestRole::Acting, &resource, &[("watch", "true".to_owned())]);
                    }
                }
            }
        }
        Ok(())
    }

    fn named_by_file(&mut self) -> Result<Vec<Named>, InputError> {
        let manifests = self.manifests()?.into_iter();
        let named = manifests.map(|manifest| Named {
            resource: manifest.resource,
            name: Some(manifest.name),
        });
        Ok(named.collect())
    }

    fn describe(&mut self) -> Result<(), InputError> {
        for Named { resource, name } in self.named(self.rest())? {
            let name = match name {
                Some(name) => name,
                None => {
                    self.list(RequestRole::Acting, &resource, &[]);
                    EXAMPLE.to_owned()
                }
            };
            self.get(RequestRole::Acting, &resource, &name);
            let related: &[(&str, &str)] = match resource.plural.as_str() {
                "deployments" => &[("apps", "replicasets")],
                "services" => &[("discovery.k8s.io", "endpointslices")],
                "nodes" => &[("coordination.k8s.io", "leases"), ("", "pods")],
                "namespaces" => &[("", "resourcequotas"), ("", "limitranges")],
                "daemonsets" | "replicasets" | "statefulsets" => &[("", "pods")],
                _ => &[],
            };
            for (group, plural) in related {
                let path = served(group, plural).path(Some(&self.namespace), None, None);
                self.ask(RequestRole::Optional, Method::GET, path, &[]);
            }
            if self.arguments.value("show-events") != Some("false") {
                let path = served("", "events").path(Some(&self.namespace), None, None);
                let query = [("fieldSelector", format!("involvedObject.name={name}"))];
                self.ask(RequestRole::Optional, Method::GET, path, &query);
            }
        }
        Ok(())
    }

    fn logs(&mut self) -> Result<(), InputError> {
        let pod = match self.rest().first() {
            Some(word) => self.pod(word)?,
            None if self.arguments.selects() => {
                self.list(RequestRole::Needed, &resources::pods(), &[]);
                EXAMPLE.to_owned()
            }
            None => {
                return Err(InputError(
                    "the pod is missing: write such as `logs web`, or -l SELECTOR".to_owned(),
                ));
            }
        };
        let mut query = Vec::new();
        if let Some(container) = self
            .arguments
            .value("container")
            .or(self.rest().get(1).map(String::as_str))
        {
            query.push(("container", container.to_owned()));
        }
        for (flag, name) in [
            ("follow", "follow"),
            ("previous", "previous"),
            ("timestamps", "timestamps"),
        ] {
            if self.arguments.has(flag) {
                query.push((name, "true".to_owned()));
            }
        }
        if let Some(lines) = self.arguments.value("tail") {
            query.push(("tailLines", lines.to_owned()));
        }
        let path = self.path(&resources::pods(), Some(&pod), Some("log"));
        self.ask(RequestRole::Acting, Method::GET, path, &query);
        Ok(())
    }

    fn events(&mut self) {
        let of = self.arguments.value("for").map(|object| {
            let name = object.split_once('/').map_or(object, |(_, name)| name);
            ("fieldSelector", format!("involvedObject.name={name}"))
        });
        let of: Vec<_> = of.into_iter().collect();
        let events = served("", "events");
        self.list(RequestRole::Acting, &events, &of);
        if self.arguments.has("watch") {
            self.list(RequestRole::Acting, &events, &[("watch", "true".to_owned())]);
        }
    }

    fn top(&mut self) -> Result<(), InputError> {
        let (kind, names) = match self.rest() {
            [kind, names @ ..] => (kind.as_str(), names),
            [] => return Err(InputError("write `top pod` or `top node`".to_owned())),
        };
        let plural = match resources::one(kind)?.plural.as_str() {
            "pods" => "pods",
            "nodes" => "nodes",
            _ => {
                return Err(InputError(format!(
                    "kubectl has no `top {kind}`: write `top pod` or `top node`"
                )));
            }
        };
        let metrics = served("metrics.k8s.io", plural);
        match names.first() {
            Some(name) => self.get(RequestRole::Acting, &metrics, name),
            None => self.list(RequestRole::Acting, &metrics, &[]),
        }
        if plural == "nodes" {
            let nodes = served("", "nodes");
            match names.first() {
                Some(name) => self.get(RequestRole::Needed, &nodes, name),
                None => self.list(RequestRole::Needed, &nodes, &[]),
            }
        }
        Ok(())
    }

    fn wait(&mut self) -> Result<(), InputError> {
        for (resource, name) in self.each(self.rest())? {
            self.get(RequestRole::Acting, &resource, &name);
            self.await_object(RequestRole::Acting, &resource, &name);
        }
        Ok(())
    }

    /// What the API server would make of an apply: a dry run.
    fn diff(&mut self) -> Result<(), InputError> {
        for manifest in self.manifests()? {
            self.ask(
                RequestRole::Needed,
                Method::GET,
                self.manifest_path(&manifest, Some(&manifest.name)),
                &[],
            );
            let server_side = self.arguments.has("server-side");
            let manager = match server_side {
                true => "kubectl",
                false => "kubectl-client-side-apply",
            };
            let manager = self.arguments.value("field-manager").unwrap_or(manager);
            let mut query = vec![("dryRun", "All".to_owned()), ("fieldManager", manager.to_owned())];
            if server_side || self.around.exists {
                let kind = match server_side {
                    true => MediaType::ApplyYaml,
                    false => manifest.resource.applied_patch(),
                };
                if server_side {
                    let force = self.arguments.has("force-conflicts");
                    query.push(("force", force.to_string()));
                }
                self.send(
                    RequestRole::Acting,
                    Method::PATCH,
                    self.manifest_path(&manifest, Some(&manifest.name)),
                    &query,
                    (kind, &manifest.object),
                );
            } else {
                self.send(
                    RequestRole::Acting,
                    Method::POST,
                    self.manifest_path(&manifest, None),
                    &query,
                    (MediaType::Json, &manifest.object),
                );
            }
        }
        Ok(())
    }

    fn cluster_info(&mut self) {
        let services = served("", "services");
        if self.rest().first().is_some_and(|word| word == "dump") {
            let nodes = served("", "nodes").path(None, None, None);
            self.ask(RequestRole::Acting, Method::GET, nodes, &[]);
            for (group, plural) in [
                ("", "events"),
                ("", "replicationcontrollers"),
                ("", "services"),
                ("apps", "daemonsets"),
                ("apps", "deployments"),
                ("apps", "replicasets"),
                ("", "pods"),
            ] {
                let path = served(group, plural).path(Some(&self.namespace), None, None);
                self.ask(RequestRole::Acting, Method::GET, path, &[]);
            }
            let path = resources::pods().path(Some(&self.namespace), Some(EXAMPLE), Some("log"));
            self.ask(RequestRole::Acting, Method::GET, path, &[]);
        } else {
            let query = [("labelSelector", "kubernetes.io/cluster-service=true".to_owned())];
            self.ask(
                RequestRole::Acting,
                Method::GET,
                services.path(Some("kube-system"), None, None),
                &query,
            );
        }
    }

    fn auth(&mut self) -> Result<(), InputError> {
        let review = |kind: &str| -> (Resource, serde_json::Value) {
            let group = match kind {
                "SelfSubjectReview" => "authentication.k8s.io",
                _ => "authorization.k8s.io",
            };
            let plural = format!("{}s", kind.to_ascii_lowercase());
            let object = json!({"apiVersion": format!("{group}/v1"), "kind": kind});
            (served(group, &plural), object)
        };
        let (resource, object) = match self.rest().first().map(String::as_str) {
            Some("can-i") if self.arguments.has("list") => review("SelfSubjectRulesReview"),
            Some("can-i") => review("SelfSubjectAccessReview"),
            Some("whoami") => review("SelfSubjectReview"),
            Some("reconcile") => return self.reconcile(),
            _ => {
                return Err(InputError(
                    "write `auth can-i`, `auth whoami` or `auth reconcile`".to_owned(),
                ));
            }
        };
        let path = resource.path(None, None, None);
        self.send(
            RequestRole::Acting,
            Method::POST,
            path,
            &[],
            (MediaType::Json, &object),
        );
        Ok(())
    }

    fn reconcile(&mut self) -> Result<(), InputError> {
        for manifest in self.manifests()? {
            self.ask(
                RequestRole::Needed,
                Method::GET,
                self.manifest_path(&manifest, Some(&manifest.name)),
                &[],
            );
            let (method, name) = match self.around.exists {
                true => (Method::PUT, Some(manifest.name.as_str())),
                false => (Method::POST, None),
            };
            self.send(
                RequestRole::Acting,
                method,
                self.manifest_path(&manifest, name),
                &[],
                (MediaType::Json, &manifest.object),
            );
        }
        Ok(())
    }
}

//! The objects that commands send: those of `-f -`, and those that kubectl makes by itself.
//!
//! In: the text that kubectl reads, or a command's flags. Out: objects as JSON, each with its resource.

use serde_json::{Map, Value as Json, json};

use super::Plan;
use super::resources::{self, Resource};
use crate::testing::input::InputError;
use crate::yaml::{YamlNode, parse};

/// An object that a command sends.
#[derive(Debug, Clone)]
pub(super) struct Manifest {
    /// Its resource.
    pub(super) resource: Resource,
    /// Its namespace, where it says one.
    pub(super) namespace: Option<String>,
    /// Its name; empty where the API server makes one.
    pub(super) name: String,
    /// The object.
    pub(super) object: Json,
}

impl Plan<'_> {
    /// The objects of `-f -`.
    pub(super) fn manifests(&self) -> Result<Vec<Manifest>, InputError> {
        if self.arguments.value("kustomize").is_some() {
            return Err(InputError(
                "-k builds from files: write the objects under `stdin`, with -f -".to_owned(),
            ));
        }
        let text = self.stdin()?;
        let nodes = parse("stdin", text).map_err(|error| {
            InputError(format!(
                "`stdin` cannot be read, in its line {}: {}",
                error.line, error.reason
            ))
        })?;
        if nodes.is_empty() {
            return Err(InputError("`stdin` has no object".to_owned()));
        }
        let mut manifests = Vec::new();
        for node in &nodes {
            manifests.push(self.manifest(node)?);
        }
        Ok(manifests)
    }

    /// What `-f -` reads.
    pub(super) fn stdin(&self) -> Result<&str, InputError> {
        if self.arguments.files.iter().any(|file| file != "-") {
            return Err(InputError(
                "a test reads no file of -f: write -f -, and the objects under `stdin`".to_owned(),
            ));
        }
        self.around.stdin.ok_or_else(|| {
            InputError("the case has no objects for -f -: write them under `stdin`".to_owned())
        })
    }

    fn manifest(&self, node: &YamlNode) -> Result<Manifest, InputError> {
        let mut object = crate::api::plain(node);
        let text = |pointer: &str| object.pointer(pointer).and_then(Json::as_str).map(str::to_owned);
        let (Some(version), Some(kind)) = (text("/apiVersion"), text("/kind")) else {
            return Err(InputError(
                "an object of `stdin` has no apiVersion or kind".to_owned(),
            ));
        };
        let resource = resources::of_object(&version, &kind);
        let namespace = text("/metadata/namespace");
        let name = text("/metadata/name").unwrap_or_default();
        if name.is_empty() && text("/metadata/generateName").is_none() {
            return Err(InputError(format!("the {kind} of `stdin` has no metadata.name")));
        }
        if let (Some(of_object), Some(asked)) = (&namespace, self.arguments.value("namespace"))
            && of_object != asked
        {
            return Err(InputError(format!(
                "the {kind} of `stdin` is in namespace {of_object:?}, and the line says -n {asked}: kubectl refuses that"
            )));
        }
        if resource.namespaced && namespace.is_none() {
            object["metadata"]["namespace"] = json!(self.namespace);
        }
        Ok(Manifest {
            resource,
            namespace,
            name,
            object,
        })
    }

    /// The namespace of an object.
    pub(super) fn namespace_of<'m>(&'m self, manifest: &'m Manifest) -> &'m str {
        manifest.namespace.as_deref().unwrap_or(&self.namespace)
    }

    /// The path of an object, or of all of its resource in its namespace.
    pub(super) fn manifest_path(&self, manifest: &Manifest, name: Option<&str>) -> String {
        manifest
            .resource
            .path(Some(self.namespace_of(manifest)), name, None)
    }

    /// The object that `kubectl create KIND NAME` or `kubectl run NAME` makes, as far as policies look into it.
    pub(super) fn made(&self, resource: &Resource, kind: &str, name: &str) -> Json {
        let version = match resource.group.as_str() {
            "" => resource.version.clone(),
            group => format!("{group}/{}", resource.version),
        };
        let mut metadata = Map::new();
        metadata.insert("name".to_owned(), json!(name));
        if resource.namespaced {
            metadata.insert("namespace".to_owned(), json!(self.namespace));
        }
        let mut object = json!({"apiVersion": version, "kind": kind, "metadata": metadata});
        let pod = || json!({"containers": [self.container(name)], "restartPolicy": "Never"});
        match kind {
            "Pod" => {
                object["metadata"]["labels"] = json!({"run": name});
                object["spec"] = pod();
            }
            "Deployment" => {
                let labels = json!({"app": name});
                object["spec"] = json!({
                    "replicas": 1,
                    "selector": {"matchLabels": labels},
                    "template": {"metadata": {"labels": labels}, "spec": {"containers": [self.container(name)]}},
                });
            }
            "Job" => object["spec"] = json!({"template": {"spec": pod()}}),
            "CronJob" => {
                let schedule = self.arguments.value("schedule").unwrap_or_default();
                object["spec"] = json!({
                    "schedule": schedule,
                    "jobTemplate": {"spec": {"template": {"spec": pod()}}},
                });
            }
            _ => {}
        }
        object
    }

    /// The container of a made pod.
    pub(super) fn container(&self, name: &str) -> Json {
        let image = self.arguments.value("image").unwrap_or_default();
        let mut container = json!({"name": name, "image": image});
        if let Some(command) = self
            .arguments
            .after_dash
            .as_ref()
            .filter(|command| !command.is_empty())
        {
            // `run` takes the words for the arguments of the image, and `debug` for a command.
            let field = match self.arguments.command.as_str() {
                "run" if !self.arguments.has("command") => "args",
                "debug" if self.arguments.has("arguments-only") => "args",
                _ => "command",
            };
            container[field] = json!(command);
        }
        if self.arguments.has("privileged") {
            container["securityContext"] = json!({"privileged": true});
        }
        container
    }
}

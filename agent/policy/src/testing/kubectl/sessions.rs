//! Commands that open a session in a pod.
//!
//! In: `exec`, `attach`, `port-forward`, `cp`, `debug`. Out: their requests, over WebSockets as kubectl 1.36 sends them.

use http::Method;
use serde_json::{Value as Json, json};

use super::resources::{self, served};
use super::{EXAMPLE, Plan};
use crate::body::MediaType;
use crate::testing::input::{InputError, RequestRole};

impl Plan<'_> {
    /// Adds the requests of a command that opens sessions; `false` where it is none.
    pub(super) fn sessions(&mut self, command: &str) -> Result<bool, InputError> {
        match command {
            "exec" => self.exec()?,
            "attach" => self.attach()?,
            "port-forward" => self.port_forward()?,
            "cp" => self.copy()?,
            "debug" => self.debug()?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn first(&self, command: &str) -> Result<&str, InputError> {
        let first = self.rest().first().map(String::as_str);
        first.ok_or_else(|| InputError(format!("the pod is missing: write such as `{command} web`")))
    }

    /// A session of a pod's subresource.
    fn open(&mut self, pod: &str, sub: &str, query: &[(&str, String)]) {
        let path = resources::pods().path(Some(&self.namespace), Some(pod), Some(sub));
        let request = self.ask(RequestRole::Acting, Method::GET, path, query);
        *request = request.clone().over_websocket();
    }

    fn streams(&self) -> Vec<(&'static str, String)> {
        let mut query = Vec::new();
        if let Some(container) = self.arguments.value("container") {
            query.push(("container", container.to_owned()));
        }
        for flag in ["stdin", "tty"] {
            if self.arguments.has(flag) {
                query.push((flag, "true".to_owned()));
            }
        }
        query.push(("stdout", "true".to_owned()));
        if !self.arguments.has("tty") {
            query.push(("stderr", "true".to_owned()));
        }
        query
    }

    fn run_in(&mut self, pod: &str, command: &[String]) {
        let mut query: Vec<_> = command.iter().map(|word| ("command", word.clone())).collect();
        query.extend(self.streams());
        self.open(pod, "exec", &query);
    }

    fn exec(&mut self) -> Result<(), InputError> {
        let pod = self.first("exec")?.to_owned();
        let command = match &self.arguments.after_dash {
            Some(command) if !command.is_empty() => command.clone(),
            _ => {
                return Err(InputError(
                    "the command is missing: write `exec POD -- COMMAND`".to_owned(),
                ));
            }
        };
        if self.rest().len() > 1 {
            return Err(InputError(
                "kubectl wants `--` before the command: write `exec POD -- COMMAND`".to_owned(),
            ));
        }
        let pod = self.pod(&pod)?;
        self.run_in(&pod, &command);
        Ok(())
    }

    fn attach(&mut self) -> Result<(), InputError> {
        let pod = self.first("attach")?.to_owned();
        let pod = self.pod(&pod)?;
        let query = self.streams();
        self.open(&pod, "attach", &query);
        Ok(())
    }

    fn port_forward(&mut self) -> Result<(), InputError> {
        let pod = self.first("port-forward")?.to_owned();
        if self.rest().len() < 2 {
            return Err(InputError(
                "the port is missing: write such as `port-forward web 8080:80`".to_owned(),
            ));
        }
        let pod = self.pod(&pod)?;
        self.open(&pod, "portforward", &[]);
        Ok(())
    }

    /// Copies run `tar` in the container.
    fn copy(&mut self) -> Result<(), InputError> {
        let (from, to) = match self.rest() {
            [from, to] => (from.clone(), to.clone()),
            _ => {
                return Err(InputError(
                    "write `cp POD:PATH FILE` or `cp FILE POD:PATH`".to_owned(),
                ));
            }
        };
        let remote = |text: &str| {
            let (pod, path) = text.split_once(':')?;
            Some((pod.to_owned(), path.to_owned()))
        };
        let (place, commands): (_, Vec<Vec<String>>) = match (remote(&from), remote(&to)) {
            (Some((pod, path)), None) => (pod, vec![words(&["tar", "cf", "-", &path])]),
            (None, Some((pod, path))) => {
                let folder = path.rsplit_once('/').map_or(".", |(folder, _)| folder).to_owned();
                let folder = if folder.is_empty() { "/".to_owned() } else { folder };
                (
                    pod,
                    vec![
                        words(&["test", "-d", &path]),
                        words(&["tar", "-xmf", "-", "-C", &folder]),
                    ],
                )
            }
            _ => {
                return Err(InputError(
                    "one of the two must be in a pod, as POD:PATH or NAMESPACE/POD:PATH".to_owned(),
                ));
            }
        };
        let pod = match place.split_once('/') {
            Some((namespace, pod)) => {
                namespace.clone_into(&mut self.namespace);
                pod.to_owned()
            }
            None => place,
        };
        self.get(RequestRole::Needed, &resources::pods(), &pod);
        for command in commands {
            self.run_in(&pod, &command);
        }
        Ok(())
    }

    /// An ephemeral container of a pod, a copy of a pod, or a pod on a node.
    fn debug(&mut self) -> Result<(), InputError> {
        let target = self.first("debug")?.to_owned();
        if let Some(node) = target.strip_prefix("node/") {
            self.get(RequestRole::Needed, &served("", "nodes"), node);
            let name = format!("node-debugger-{node}");
            let mut pod = self.made(&resources::pods(), "Pod", &name);
            pod["spec"]["nodeName"] = json!(node);
            for field in ["hostPID", "hostNetwork", "hostIPC"] {
                pod["spec"][field] = json!(true);
            }
            pod["spec"]["volumes"] = json!([{"name": "host-root", "hostPath": {"path": "/"}}]);
            self.create_pod(&pod);
            self.join(&name);
            return Ok(());
        }
        let pod = self.pod(&target)?;
        if let Some(copy) = self.arguments.value("copy-to").map(str::to_owned) {
            let object = self.made(&resources::pods(), "Pod", &copy);
            self.create_pod(&object);
            self.join(&copy);
            return Ok(());
        }
        let mut container = self.container("debugger");
        for stream in ["stdin", "tty"] {
            container[stream] = json!(self.arguments.has(stream));
        }
        let patch = json!({"spec": {"ephemeralContainers": [container]}});
        let path = resources::pods().path(Some(&self.namespace), Some(&pod), Some("ephemeralcontainers"));
        self.send(
            RequestRole::Acting,
            Method::PATCH,
            path,
            &[],
            (MediaType::StrategicMergePatch, &patch),
        );
        self.join(&pod);
        Ok(())
    }

    fn create_pod(&mut self, pod: &Json) {
        let path = resources::pods().path(Some(&self.namespace), None, None);
        self.send(
            RequestRole::Acting,
            Method::POST,
            path,
            &[],
            (MediaType::Json, pod),
        );
    }

    /// Attaches to a new container, where the line asks for its streams.
    pub(super) fn join(&mut self, pod: &str) {
        if self.arguments.has("stdin") || self.arguments.has("attach") {
            self.await_object(RequestRole::Needed, &resources::pods(), pod);
            let query = self.streams();
            self.open(pod, "attach", &query);
        }
    }

    /// An eviction of an unknown pod.
    pub(super) fn evict(&mut self) {
        let path = resources::pods().path(Some(&self.namespace), Some(EXAMPLE), Some("eviction"));
        let eviction = json!({
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": EXAMPLE, "namespace": self.namespace},
        });
        self.send(
            RequestRole::Acting,
            Method::POST,
            path,
            &[],
            (MediaType::Json, &eviction),
        );
    }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

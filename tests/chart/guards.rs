//! What admission does with enrolled pods, with labels, and with Picket's own objects, on a real API server.
//!
//! In: the policies that the chart renders, and the rows of files/guards*.yaml. Out: each row's answer is the one that it names. Requests
//! are dry runs: they leave nothing behind.

use std::path::PathBuf;
use std::process::Output;

use anyhow::{Context, Result, ensure};
use picket_tests::cluster::Cluster;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::Test;
use crate::helm::{CHART, Helm, REQUIRED, Render as _, documents};
use crate::world::World;
use picket_tests::install::wait;

pub(crate) const TESTS: &[Test] = picket_tests::tests! {
    admission_answers_as_the_rows_say,
    a_static_pod_of_an_enrolled_namespace_has_its_mirror,
    a_restricted_namespace_takes_enrolled_pods,
};

/// The rows, and what they find in the cluster.
const ROWS: [&str; 3] = [
    include_str!("files/guards.yaml"),
    include_str!("files/guards-labels.yaml"),
    include_str!("files/guards-services.yaml"),
];
const CLUSTER: &str = include_str!("files/guards-cluster.yaml");
/// What the policies would refuse, made before them.
const EARLIER: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: odd, labels: {picket.dev/enrolled: 'yes'}}
---
apiVersion: v1
kind: Pod
metadata: {name: odd, namespace: odd, labels: {picket.dev/enrolled: 'yes'}}
spec: {schedulerName: nobody, containers: [{name: main, image: x}]}
";
const ENROLLER: &str = include_str!("../../deploy/examples/rbac/picket-enroller.yaml");

/// What the rows take for listed.
pub(crate) const LISTS: &str = "enrol.serviceAccounts={ci/builder},enrol.allowHostNetwork={agents/netops},enrol.allowHostPaths={/srv/models}";

/// The users of the rows: name, and whether it is an agent's.
const USERS: [(&str, &str, bool); 7] = [
    ("person", "pat", false),
    ("enroller", "eve", false),
    ("agent", "agent:everything", true),
    (
        "controller",
        "system:serviceaccount:picket-system:picket-controller",
        false,
    ),
    ("account", "system:serviceaccount:agents:netops", false),
    ("releaser", "system:serviceaccount:ci:builder", false),
    (
        "collector",
        "system:serviceaccount:kube-system:generic-garbage-collector",
        false,
    ),
];

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Row {
    pub(crate) name: String,
    #[serde(rename = "as")]
    user: Option<String>,
    namespace: Option<String>,
    pod: Option<Value>,
    run: Option<Vec<String>>,
    input: Option<Value>,
    debug: Option<Value>,
    #[serde(default)]
    unchanged: bool,
    refused: Option<String>,
    #[serde(default)]
    has: Vec<String>,
    #[serde(default)]
    lacks: Vec<String>,
}

/// All rows.
pub(crate) fn rows() -> Result<Vec<Row>> {
    let mut all = Vec::new();
    for text in ROWS {
        let rows = documents(text)?.pop().context("the rows")?;
        let rows: Vec<Row> = serde_json::from_value(rows)?;
        all.extend(rows);
    }
    Ok(all)
}

/// A cluster that the chart's policies guard. They go with it, and so does what the rows find there.
pub(crate) struct Guarded<'w> {
    cluster: &'w Cluster,
    helm: &'w Helm,
    /// The policies, and the definitions of Picket's objects.
    policies: String,
}

impl<'w> Guarded<'w> {
    fn new(world: &'w mut World) -> Result<Self> {
        let (helm, cluster) = world.cluster()?;
        let rendered = helm.template(&[&REQUIRED[..], &["--set", LISTS]].concat())?;
        let is_policy = |object: &Value| {
            let kind = object["kind"].as_str().unwrap_or_default();
            kind.contains("AdmissionPolicy")
        };
        let mut policies: Vec<Value> = rendered.into_iter().filter(is_policy).collect();
        ensure!(policies.len() > 30, "{} policies", policies.len());
        for file in std::fs::read_dir(format!("{CHART}/crds"))? {
            policies.extend(documents(&std::fs::read_to_string(file?.path())?)?);
        }
        let policies = json!({"apiVersion": "v1", "kind": "List", "items": policies}).to_string();
        let guarded = Self::by(helm, cluster, policies);
        // An account of a new namespace takes a moment, and so does the end of the policies of the test before.
        wait("what is older than the policies", || {
            Ok(guarded.cluster.apply(EARLIER).is_ok())
        })?;
        guarded.prepare()?;
        wait("the policies", || {
            let refused = guarded.send(&Row::of_pod("probe", json!({"spec": {"hostPID": true}})))?;
            Ok(!refused.status.success())
        })?;
        Ok(guarded)
    }

    /// With these policies, once it is prepared.
    pub(crate) fn by(helm: &'w Helm, cluster: &'w Cluster, policies: String) -> Self {
        Self {
            cluster,
            helm,
            policies,
        }
    }

    pub(crate) fn prepare(&self) -> Result<()> {
        self.cluster.apply(&self.policies)?;
        self.cluster.apply(ENROLLER)?;
        // The first try makes the namespaces, whose accounts take a moment, and no pod is made without.
        wait("the objects of the rows", || {
            Ok(self.cluster.apply(CLUSTER).is_ok())
        })?;
        self.wait_for_enrolment()
    }

    /// Waits until a new pod is changed.
    pub(crate) fn wait_for_enrolment(&self) -> Result<()> {
        wait("the changes of a pod", || {
            let changed = self.send(&Row::of_pod("probe", json!({})))?;
            Ok(shown(&changed).contains("picket.dev/agent"))
        })
    }

    fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.cluster.kubectl_client().run(arguments, None)
    }

    /// The kubeconfig of a row's user.
    fn kubeconfig(&self, user: &str) -> Result<PathBuf> {
        let (_, name, is_agent) = USERS
            .into_iter()
            .find(|(word, _, _)| *word == user)
            .with_context(|| format!("no user {user}"))?;
        let text = std::fs::read_to_string(self.cluster.kubeconfig())?;
        let mut config = documents(&text)?.pop().context("a kubeconfig")?;
        let login = &mut config["users"][0]["user"];
        login["as"] = json!(name);
        if is_agent {
            login["as-user-extra"] = json!({"picket.dev/identity": ["everything"]});
        }
        self.helm.file(&format!("{user}.kubeconfig"), &config.to_string())
    }

    pub(crate) fn send(&self, row: &Row) -> Result<Output> {
        let (mut arguments, input) = match (&row.pod, &row.run) {
            (Some(pod), None) => {
                let mut whole = json!({"apiVersion": "v1", "kind": "Pod",
                    "metadata": {"name": "p", "namespace": row.namespace.as_deref().unwrap_or("agents")},
                    "spec": {"containers": [{"name": "main", "image": "x"}]}});
                lay_over(&mut whole, pod);
                (
                    vec!["create".to_owned(), "-f".to_owned(), "-".to_owned()],
                    Some(whole),
                )
            }
            (None, Some(run)) => (run.clone(), row.input.clone()),
            _ => anyhow::bail!("{}: either pod or run", row.name),
        };
        let input = match &row.debug {
            Some(container) => {
                let mut pod: Value = serde_json::from_str(
                    &self.kubectl(&["-n", "agents", "get", "pod", "kept", "-o", "json"])?,
                )?;
                pod["spec"]["ephemeralContainers"] = json!([container]);
                Some(pod)
            }
            None => input,
        };
        if !arguments.iter().any(|argument| argument == "--raw") {
            arguments.push("--dry-run=server".to_owned());
            if arguments[0] != "delete" {
                arguments.push("--output=json".to_owned());
            }
        }
        if let Some(user) = &row.user {
            arguments.push(format!("--kubeconfig={}", self.kubeconfig(user)?.display()));
        }
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let input = input.map(|input| input.to_string());
        self.cluster.kubectl_client().output(&arguments, input.as_deref())
    }

    /// Takes all away, and gives what the test gave.
    pub(crate) fn end(self, outcome: Result<()>) -> Result<()> {
        let gone = |input: &str| {
            let arguments = ["delete", "--ignore-not-found", "-f", "-"];
            self.cluster
                .kubectl_client()
                .run(&arguments, Some(input))
                .map(drop)
        };
        let left = gone(&self.policies)
            .and_then(|()| gone(CLUSTER))
            .and_then(|()| gone(EARLIER))
            .and_then(|()| gone(ENROLLER));
        outcome.and(left)
    }
}

impl Row {
    pub(crate) fn of_pod(name: &str, pod: Value) -> Self {
        Self {
            name: name.to_owned(),
            user: None,
            namespace: None,
            pod: Some(pod),
            run: None,
            input: None,
            debug: None,
            unchanged: false,
            refused: None,
            has: Vec::new(),
            lacks: Vec::new(),
        }
    }

    /// Whether admission has to change something, or must not, in an object that passes.
    pub(crate) fn is_of_a_change(&self) -> bool {
        let says_what = !self.has.is_empty() || !self.lacks.is_empty();
        says_what && self.refused.is_none() && !self.unchanged
    }

    /// What is wrong with an answer.
    pub(crate) fn fault(&self, answer: &Output) -> Option<String> {
        let said = String::from_utf8_lossy(&answer.stderr);
        let object = shown(answer);
        let passes = answer.status.success();
        let fault = match &self.refused {
            Some(words) if passes => format!("passes, and should not: {words}\n{object}"),
            Some(words) if !said.contains(words.as_str()) => format!("is refused otherwise: {said}"),
            None if !passes => format!("is refused: {said}"),
            _ => {
                let missing = self.has.iter().find(|part| !object.contains(part.as_str()));
                let too_much = self.lacks.iter().find(|part| object.contains(part.as_str()));
                match (missing, too_much) {
                    (Some(part), _) => format!("lacks {part}:\n{object}"),
                    (None, Some(part)) => format!("has {part}:\n{object}"),
                    (None, None) => return None,
                }
            }
        };
        Some(format!("{}: {fault}", self.name))
    }
}

/// The object of an answer, as compact JSON.
pub(crate) fn shown(answer: &Output) -> String {
    let text = String::from_utf8_lossy(&answer.stdout);
    serde_json::from_str::<Value>(&text).map_or_else(|_| text.into_owned(), |object| object.to_string())
}

/// Mappings are merged; all else is replaced.
fn lay_over(below: &mut Value, above: &Value) {
    match (below, above) {
        (Value::Object(below), Value::Object(above)) => {
            for (key, value) in above {
                lay_over(below.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (below, above) => *below = above.clone(),
    }
}

fn admission_answers_as_the_rows_say(world: &mut World) -> Result<()> {
    let rows = rows()?;
    let refused = rows.iter().filter(|row| row.refused.is_some()).count();
    ensure!(
        rows.len() > 80 && refused > 40,
        "{} rows, {refused} of refusals",
        rows.len()
    );
    let guarded = Guarded::new(world)?;
    let answers = || -> Result<()> {
        let (later, first): (Vec<&Row>, Vec<&Row>) = rows.iter().partition(|row| row.unchanged);
        ensure!(
            later.len() > 5,
            "{} rows without the mutating policies",
            later.len()
        );
        let mut faults = Vec::new();
        for row in first {
            faults.extend(row.fault(&guarded.send(row)?));
        }
        guarded.kubectl(&["delete", "mutatingadmissionpolicybinding", "--all"])?;
        wait("the end of the mutating policies", || {
            Ok(!guarded.send(&Row::of_pod("probe", json!({})))?.status.success())
        })?;
        for row in later {
            faults.extend(row.fault(&guarded.send(row)?));
        }
        ensure!(faults.is_empty(), "{}", faults.join("\n"));
        Ok(())
    };
    let outcome = answers();
    guarded.end(outcome)
}

/// The kubelet starts such a pod from its file. Without a mirror nobody would see the pod, and no agent would judge it.
fn a_static_pod_of_an_enrolled_namespace_has_its_mirror(world: &mut World) -> Result<()> {
    let guarded = Guarded::new(world)?;
    let node = guarded.cluster.node();
    let file = node.manifests().join("still.yaml");
    let manifest = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "still", "namespace": "agents"},
        "spec": {"hostNetwork": true, "terminationGracePeriodSeconds": 1,
            "containers": [{"name": "main", "image": "picket.test/busybox:1", "imagePullPolicy": "Never",
            "command": ["sleep", "3600"]}]}});
    let appears = || -> Result<()> {
        std::fs::write(&file, manifest.to_string())?;
        let name = format!("still-{}", node.name);
        let mut mirror = String::new();
        wait("the mirror", || {
            let found = guarded.kubectl(&["-n", "agents", "get", "pod", &name, "-o", "json"]);
            mirror = found.unwrap_or_default();
            Ok(!mirror.is_empty())
        })?;
        ensure!(
            !mirror.contains("picket.dev/agent"),
            "the mirror is changed: {mirror}"
        );
        Ok(())
    };
    let outcome = appears();
    let removed = std::fs::remove_file(&file).context("the manifest");
    let gone = wait("the mirror's end", || {
        Ok(!guarded
            .kubectl(&["-n", "agents", "get", "pods"])?
            .contains("still"))
    });
    guarded.end(outcome.and(removed).and(gone))
}

/// Pod Security `restricted` refuses what it refuses without Picket, and nothing that Picket adds.
fn a_restricted_namespace_takes_enrolled_pods(world: &mut World) -> Result<()> {
    let guarded = Guarded::new(world)?;
    let taken = || -> Result<()> {
        let level = "pod-security.kubernetes.io/enforce=restricted";
        guarded.kubectl(&["label", "namespace", "agents", level])?;
        let plain = Row::of_pod("plain", json!({}));
        let restricted = Row {
            has: vec![
                r#""drop":["ALL"]"#.to_owned(),
                r#""picket.dev/agent":"ready""#.to_owned(),
            ],
            ..Row::of_pod(
                "restricted",
                json!({"spec": {"containers": [restricted("main")]}}),
            )
        };
        wait("the level", || Ok(!guarded.send(&plain)?.status.success()))?;
        let refused = String::from_utf8_lossy(&guarded.send(&plain)?.stderr).into_owned();
        ensure!(refused.contains("violates PodSecurity"), "{refused}");
        let fault = restricted.fault(&guarded.send(&restricted)?);
        ensure!(fault.is_none(), "{fault:?}");
        Ok(())
    };
    let outcome = taken();
    guarded.end(outcome)
}

/// A container that Pod Security `restricted` takes.
fn restricted(name: &str) -> Value {
    json!({"name": name, "image": "x", "securityContext": {
        "allowPrivilegeEscalation": false, "runAsNonRoot": true, "runAsUser": 65534,
        "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"}}})
}

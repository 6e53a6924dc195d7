//! The admission policy that holds each agent to its own node, at a real API server: agents are tokens of their service account.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use picket_tests::cluster::Cluster;
use rcgen::{CertificateParams, DnType, KeyPair};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::Test;
use crate::helm::{NAMESPACE, deployed, object};
use crate::world::World;

pub(crate) const TESTS: &[Test] = picket_tests::tests! { an_agent_writes_for_its_own_node_alone };

/// A Node without a machine.
const ELSEWHERE: &str = "elsewhere";

/// The roles of this test.
const ROLE: &str = "node-bound-test";

/// The identity whose status is written.
const IDENTITY: &str = "bound";

/// How long the API server may take to follow a new policy.
const LIMIT: Duration = Duration::from_secs(30);

/// Somebody with a token.
struct Agent<'c> {
    cluster: &'c Cluster,
    kubeconfig: PathBuf,
}

impl<'c> Agent<'c> {
    /// The agent of a node, or one whose token names none.
    fn of(cluster: &'c Cluster, folder: &TempDir, node: Option<&str>) -> Result<Self> {
        let mut arguments = vec!["-n", NAMESPACE, "create", "token", "picket"];
        let uid;
        if let Some(node) = node {
            uid = admin(
                cluster,
                &["get", "node", node, "-o", "jsonpath={.metadata.uid}"],
                None,
            )?;
            let bound = ["--bound-object-kind", "Node", "--bound-object-name", node];
            arguments.extend(bound);
            arguments.extend(["--bound-object-uid", &uid]);
        }
        let token = admin(cluster, &arguments, None)?;
        let kubeconfig = folder.path().join(node.unwrap_or("nowhere"));
        let text = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [{"name": "c", "cluster": {"server": cluster.server(), "certificate-authority": cluster.ca_cert()}}],
            "users": [{"name": "u", "user": {"token": token.trim()}}],
        });
        std::fs::write(&kubeconfig, text.to_string())?;
        Ok(Self { cluster, kubeconfig })
    }

    /// What kubectl prints with the token; or what it says where it fails.
    fn kubectl(&self, arguments: &[&str], input: Option<&Value>) -> Result<Result<String, String>> {
        let file = self.kubeconfig.to_string_lossy();
        let arguments = [&["--kubeconfig", &file][..], arguments].concat();
        let input = input.map(Value::to_string);
        let done = self
            .cluster
            .kubectl_client()
            .output(&arguments, input.as_deref())?;
        Ok(match done.status.success() {
            true => Ok(String::from_utf8(done.stdout)?),
            false => Err(String::from_utf8_lossy(&done.stderr).into_owned()),
        })
    }

    fn creates(&self, object: &Value) -> Result<Result<String, String>> {
        self.kubectl(&["create", "-o", "json", "-f", "-"], Some(object))
    }

    /// Has the identity's status say this of one node, as that node's agent applies it.
    fn applies(&self, manager_of: &str, entries: &Value) -> Result<Result<String, String>> {
        let manager = format!("--field-manager=picket-node-{manager_of}");
        let object = json!({
            "apiVersion": "picket.dev/v1alpha1", "kind": "AgentIdentity", "metadata": {"name": IDENTITY},
            "status": {"nodes": entries},
        });
        let arguments = [
            "apply",
            "--server-side",
            "--force-conflicts",
            "--subresource=status",
            "--validate=false",
            &manager,
            "-f",
            "-",
        ];
        self.kubectl(&arguments, Some(&object))
    }
}

fn admin(cluster: &Cluster, arguments: &[&str], input: Option<&str>) -> Result<String> {
    cluster.kubectl_client().run(arguments, input)
}

fn takes(what: &str, done: Result<String, String>) -> Result<String> {
    match done {
        Ok(said) => Ok(said),
        Err(said) => bail!("{what} is refused: {said}"),
    }
}

fn refuses(what: &str, done: Result<String, String>, words: &str) -> Result<()> {
    match done {
        Ok(said) => bail!("{what} is taken: {said}"),
        Err(said) => {
            ensure!(said.contains(words), "{what}: {said}");
            Ok(())
        }
    }
}

/// A request for a certificate, as an agent makes it.
fn signing_request(node: &str) -> Result<Value> {
    let mut params = CertificateParams::default();
    params
        .distinguished_name
        .push(DnType::CommonName, format!("picket node CA {node}"));
    let pem = params.serialize_request(&KeyPair::generate()?)?.pem()?;
    Ok(json!({
        "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
        "metadata": {"generateName": "picket-node-ca-"},
        "spec": {
            "request": BASE64_STANDARD.encode(pem), "signerName": "picket.dev/node-ca", "expirationSeconds": 259_200,
            "usages": ["cert sign", "digital signature"],
        },
    }))
}

/// An Event of a node's agent about a Node.
fn event(instance: &str, about: &str) -> Value {
    json!({
        "apiVersion": "events.k8s.io/v1", "kind": "Event",
        "metadata": {"generateName": "bound-", "namespace": "default"},
        "eventTime": "2026-01-01T00:00:00.000000Z", "type": "Warning", "reason": "NodeCaDenied", "action": "Enforce",
        "reportingController": "picket.dev/agent", "reportingInstance": instance, "note": "a note",
        "regarding": {"kind": "Node", "name": about, "uid": about},
    })
}

fn with(object: &Value, path: &str, value: Value) -> Result<Value> {
    let mut changed = object.clone();
    *changed.pointer_mut(path).with_context(|| path.to_owned())? = value;
    Ok(changed)
}

fn an_agent_writes_for_its_own_node_alone(world: &mut World) -> Result<()> {
    let (_, cluster) = world.cluster()?;
    clear(cluster)?;
    let tried = prepared(cluster).and_then(|()| each_write(cluster));
    let cleared = clear(cluster);
    tried.and(cleared)
}

/// What the test needs: the rights of deploy/rbac.yaml for the service account, the policy, and something to write about.
fn prepared(cluster: &Cluster) -> Result<()> {
    admin(cluster, &["apply", "--server-side", "-f", &file("crds")], None)?;
    let roles = deployed("rbac.yaml")?;
    let mut role = object(&roles, "ClusterRole", "picket-node")?.clone();
    role["metadata"]["name"] = json!(ROLE);
    // kubectl reads what it patches.
    let reads = json!([
        {"apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["get"]},
        {"apiGroups": ["picket.dev"], "resources": ["agentidentities", "agentidentities/status"], "verbs": ["get"]},
    ]);
    let rules = role["rules"].as_array_mut().context("rules")?;
    rules.extend(reads.as_array().cloned().unwrap_or_default());
    let made = json!({"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "picket", "namespace": NAMESPACE}},
        {"apiVersion": "v1", "kind": "Node", "metadata": {"name": ELSEWHERE}, "spec": {"unschedulable": true}},
        role,
        {
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": ROLE},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": ROLE},
            "subjects": [{"kind": "ServiceAccount", "name": "picket", "namespace": NAMESPACE}],
        },
        {
            "apiVersion": "picket.dev/v1alpha1", "kind": "AgentIdentity", "metadata": {"name": IDENTITY},
            "spec": {"owner": "o", "attest": {"pod": {"namespace": "agents", "serviceAccount": "a"}}},
        },
    ]});
    admin(cluster, &["apply", "-f", "-"], Some(&made.to_string()))?;
    let policy = json!({"apiVersion": "v1", "kind": "List", "items": deployed("node-bound.yaml")?});
    admin(cluster, &["apply", "-f", "-"], Some(&policy.to_string())).map(drop)
}

fn file(name: &str) -> String {
    format!("{}/../deploy/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// Nothing is left, and Helm may install: it takes over no object that it did not make.
fn clear(cluster: &Cluster) -> Result<()> {
    let gone: [&[&str]; 6] = [
        &["delete", "--ignore-not-found", "-f", &file("node-bound.yaml")],
        &[
            "-n",
            NAMESPACE,
            "delete",
            "--ignore-not-found",
            "serviceaccount",
            "picket",
        ],
        &["delete", "--ignore-not-found", "node", ELSEWHERE],
        &[
            "delete",
            "--ignore-not-found",
            "clusterrole,clusterrolebinding",
            ROLE,
        ],
        &["delete", "--ignore-not-found", "-f", &file("crds")],
        &[
            "delete",
            "csr",
            "--field-selector=spec.signerName=picket.dev/node-ca",
        ],
    ];
    for arguments in gone {
        admin(cluster, arguments, None)?;
    }
    Ok(())
}

fn each_write(cluster: &Cluster) -> Result<()> {
    let (folder, node) = (tempfile::tempdir()?, cluster.node().name.clone());
    let agent = Agent::of(cluster, &folder, Some(&node))?;
    let other = Agent::of(cluster, &folder, Some(ELSEWHERE))?;
    let nobody = Agent::of(cluster, &folder, None)?;
    let foreign = with(
        &signing_request(&node)?,
        "/spec/signerName",
        json!("kubernetes.io/kube-apiserver-client"),
    )?;
    let deadline = Instant::now() + LIMIT;
    while agent.creates(&foreign)?.is_ok() {
        ensure!(Instant::now() < deadline, "the policy is not in force");
        std::thread::sleep(Duration::from_millis(250));
    }
    certificates(&node, &agent, &nobody)?;
    statuses(&node, &agent, &other, &nobody)?;
    node_objects(&node, &agent)?;
    events(&node, &agent, &other, &nobody)
}

fn certificates(node: &str, agent: &Agent<'_>, nobody: &Agent<'_>) -> Result<()> {
    let good = signing_request(node)?;
    let made = takes("a request of the node's own", agent.creates(&good)?)?;
    let made: Value = serde_json::from_str(&made)?;
    let told = &made["spec"];
    ensure!(
        told["username"] == "system:serviceaccount:picket-system:picket"
            && told["extra"]["authentication.kubernetes.io/node-name"] == json!([node]),
        "the controller is told of another: {told:#}"
    );
    let foreign = with(
        &good,
        "/spec/signerName",
        json!("kubernetes.io/kube-apiserver-client"),
    )?;
    let words = "may ask signer picket.dev/node-ca alone, not kubernetes.io/kube-apiserver-client";
    refuses("another signer", agent.creates(&foreign)?, words)?;
    for (path, value) in [
        (
            "/spec/usages",
            json!(["cert sign", "digital signature", "client auth"]),
        ),
        ("/spec/expirationSeconds", json!(259_201)),
        ("/spec/expirationSeconds", Value::Null),
    ] {
        let words = "expirationSeconds of at most 259200";
        let changed = with(&good, path, value)?;
        refuses(&changed.to_string(), agent.creates(&changed)?, words)?;
    }
    refuses(
        "a token of no node",
        nobody.creates(&good)?,
        "the token names no node",
    )
}

fn statuses(node: &str, agent: &Agent<'_>, other: &Agent<'_>, nobody: &Agent<'_>) -> Result<()> {
    let entry = |node: &str, pods: u32| json!([{"node": node, "pods": pods, "reviewDue": false}]);
    takes("the node's own entry", agent.applies(node, &entry(node, 1))?)?;
    takes(
        "the other's own entry",
        other.applies(ELSEWHERE, &entry(ELSEWHERE, 2))?,
    )?;
    takes(
        "the node's own entry again",
        agent.applies(node, &entry(node, 3))?,
    )?;
    let words = format!("the agent of node {node} may add and change its own entry of status.nodes alone");
    refuses(
        "another's entry",
        agent.applies(ELSEWHERE, &entry(ELSEWHERE, 0))?,
        &words,
    )?;
    refuses(
        "an entry of a third",
        agent.applies("third", &entry("third", 1))?,
        &words,
    )?;
    takes("an entry taken out", agent.applies(ELSEWHERE, &json!([]))?)?;
    let words = "the token names no node";
    refuses(
        "a token of no node",
        nobody.applies(node, &entry(node, 9))?,
        words,
    )
}

/// The PicketNode, by which an agent tells how its node is.
fn node_objects(node: &str, agent: &Agent<'_>) -> Result<()> {
    let own = json!({"apiVersion": "picket.dev/v1alpha1", "kind": "PicketNode", "metadata": {"name": node}});
    takes("the node's own PicketNode", agent.creates(&own)?)?;
    let words = format!("the agent of node {node} may write the PicketNode of that name alone");
    let other = with(&own, "/metadata/name", json!(ELSEWHERE))?;
    refuses("another's PicketNode", agent.creates(&other)?, &words)
}

fn events(node: &str, agent: &Agent<'_>, other: &Agent<'_>, nobody: &Agent<'_>) -> Result<()> {
    let own = event(node, node);
    let made = takes("an Event of the node's own", agent.creates(&own)?)?;
    let made: Value = serde_json::from_str(&made)?;
    let name = made["metadata"]["name"].as_str().context("a name")?;
    let words = format!(
        "may write Events of reportingController picket.dev/agent and reportingInstance {node} alone"
    );
    refuses(
        "an Event of another",
        agent.creates(&event(ELSEWHERE, node))?,
        &words,
    )?;
    let kubelet = with(&own, "/reportingController", json!("kubelet"))?;
    refuses("an Event of the kubelet", agent.creates(&kubelet)?, &words)?;
    let words = format!("the agent of node {node} may write Events about that Node alone");
    refuses(
        "an Event about another",
        agent.creates(&event(node, ELSEWHERE))?,
        &words,
    )?;
    let pod = with(&own, "/regarding/kind", json!("Pod"))?;
    takes("an Event about a pod", agent.creates(&pod)?)?;
    let again = r#"{"series": {"count": 2, "lastObservedTime": "2026-01-01T00:00:01.000000Z"}}"#;
    let patch = ["patch", "events.events.k8s.io", name, "--type=merge", "-p"];
    let counted = [&["-n", "default"][..], &patch[..], &[again][..]].concat();
    takes("a second time", agent.kubectl(&counted, None)?)?;
    let words = format!("reportingInstance {ELSEWHERE} alone");
    refuses("a patch by another", other.kubectl(&counted, None)?, &words)?;
    refuses(
        "a token of no node",
        nobody.creates(&own)?,
        "the token names no node",
    )
}

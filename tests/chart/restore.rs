//! etcd set back to an older state, on two nodes, while pods ask without end.
//!
//! In: the [`crate::lab`], a backup of etcd, and changes after it. Out: agents and controller go by what the cluster has now, though its
//! resource versions run anew, and nobody starts one of them. The first node's agent finds the API server away, and lists all once it is
//! back. The second node's hears nothing at all, so that its watches would go on from versions that are yet to come.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use picket_tests::cluster::TestNode;
use picket_tests::install::{AGENTS, wait};
use serde_json::json;

use crate::Test;
use crate::helm::NAMESPACE;
use crate::lab::{ENROLLED, Lab, lab, load_of, mark};
use crate::watched::Watched;
use crate::world::World;

pub(crate) const TESTS: &[Test] = picket_tests::tests! {
    a_restored_etcd_is_followed_by_agents_and_controller,
};

/// How many revisions are lost: more than the cluster makes in the test's time, which would let a watch catch up.
const LOST: u32 = 3000;

/// Within this time a change counts on every node: an agent writes its status each minute, and that shows where the versions are.
const WITHIN: Duration = Duration::from_secs(180);

/// The identity of the pods that ask.
const IDENTITY: &str = "agentidentity/worker";

/// The kind that lets an identity do something.
const GRANT: &str = "agentgrant";

fn a_restored_etcd_is_followed_by_agents_and_controller(world: &mut World) -> Result<()> {
    let lab = lab(world)?;
    lab.grant("earlier", "serviceaccounts")?;
    lab.wait_allowed("serviceaccounts", true)?;
    let before = lab.agents_and_starts()?;
    let backup = lab.cluster.back_up()?;

    lab.cluster.pass_revisions(LOST)?;
    lab.kubectl(&["delete", GRANT, "earlier"])?;
    lab.grant("later", "services")?;
    // The version of this identity that is lost has the number of the one that suspends it.
    lab.change_identity(&json!({"owner": "lost@example.test"}))?;
    lab.wait_allowed("services", true)?;
    lab.wait_allowed("serviceaccounts", false)?;
    lab.wait_said(lab.version_of(GRANT, "later")?)?;

    let watched = Watched::start(&lab)?;
    lab.cluster.restore(&backup)?;
    let restored = Instant::now();
    ensure!(
        lab.kubectl(&["get", GRANT, "later"]).is_err(),
        "etcd has what came after the backup"
    );
    lab.change_identity(&json!({"state": "Suspended"}))?;
    for node in lab.cluster.nodes() {
        lab.wait_refused(node, restored)?;
        eprintln!("{}: suspended after {:.1?}", node.name, restored.elapsed());
    }
    lab.change_identity(&json!({"state": "Active"}))?;
    lab.wait_allowed("serviceaccounts", true)?;
    lab.wait_allowed("services", false)?;

    // The controller's watches and its Lease.
    let late = json!({
        "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "restored", "labels": {"picket.dev/enrolled": "true"}},
    });
    lab.cluster.apply(&late.to_string())?;
    wait("a namespace that came since has its bundle", || {
        let found = lab.kubectl(&["-n", "restored", "get", "configmap", "picket-ca.crt"]);
        Ok(found.is_ok())
    })?;
    let node = lab.cluster.node();
    let ca = lab.node_ca_of(node);
    lab.forget_node_ca(node)?;
    wait("another CA of the node", || {
        let now = lab.node_ca_of(node);
        Ok(now.is_some() && now != ca)
    })?;
    lab.kubectl(&["delete", "namespace", "restored", "--wait=false"])?;

    let since = mark();
    for node in lab.cluster.nodes() {
        lab.wait_answered(ENROLLED, node, since)?;
    }
    let failed = watched.nobody_went_past()?;
    eprintln!("meanwhile: {failed:?}");
    let is_expected = |why: &String| {
        ["status 50", "status 403", "TimeoutError("]
            .iter()
            .any(|word| why.starts_with(word))
    };
    ensure!(
        failed.keys().all(is_expected),
        "an enrolled pod saw more than that: {failed:?}"
    );
    let now = lab.agents_and_starts()?;
    ensure!(now == before, "agents started again: {before}, now {now}");
    lab.kubectl(&["delete", GRANT, "earlier"])?;
    lab.settle()?;
    lab.verify_records()
}

impl Lab<'_> {
    /// Lets the pods' identity get what this resource has in namespace `lab`.
    fn grant(&self, name: &str, resource: &str) -> Result<()> {
        let grant = json!({
            "apiVersion": "picket.dev/v1alpha1", "kind": "AgentGrant", "metadata": {"name": name},
            "spec": {
                "to": {"identities": ["worker"]},
                "upstream": {"impersonate": {"user": "agent:worker", "groups": ["agents:lab"]}},
                "rules": [{"apiGroups": [""], "resources": [resource], "verbs": ["list"]}],
            },
        });
        self.cluster.apply(&grant.to_string())
    }

    fn change_identity(&self, spec: &serde_json::Value) -> Result<()> {
        let patch = json!({"spec": spec}).to_string();
        self.kubectl(&["patch", IDENTITY, "--type=merge", "-p", &patch])
            .map(drop)
    }

    /// Waits until the pods on each node may list this resource, or are refused.
    fn wait_allowed(&self, resource: &str, allowed: bool) -> Result<()> {
        let list = ["kubectl", "-n", "lab", "get", resource, "-o", "name"];
        for node in self.cluster.nodes() {
            let mut said = String::new();
            wait(&format!("{resource} on {}: allowed {allowed}", node.name), || {
                let done = self.cluster.exec(ENROLLED, &load_of(node), "main", &list)?;
                said = String::from_utf8_lossy(&done.stderr).into_owned();
                Ok(match allowed {
                    true => done.status.success(),
                    false => said.contains("Forbidden"),
                })
            })
            .with_context(|| said.clone())?;
        }
        Ok(())
    }

    /// Waits until requests of the pod on this node are refused, and all of them.
    fn wait_refused(&self, node: &TestNode, since: Instant) -> Result<()> {
        loop {
            let begin = mark();
            std::thread::sleep(Duration::from_secs(1));
            // The kubelet may be starting.
            let seen = self.seen(ENROLLED, node, begin).unwrap_or_default();
            if seen.answered.is_empty() && seen.failed.contains_key("status 403") {
                return Ok(());
            }
            ensure!(since.elapsed() < WITHIN, "{}: not suspended: {seen:?}", node.name);
        }
    }

    /// The resource version of an object, which is a number.
    fn version_of(&self, kind: &str, name: &str) -> Result<u64> {
        let path = "jsonpath={.metadata.resourceVersion}";
        Ok(self.kubectl(&["get", kind, name, "-o", path])?.parse()?)
    }

    /// Waits until each agent has written its status since the cluster had this version.
    fn wait_said(&self, version: u64) -> Result<()> {
        for node in self.cluster.nodes() {
            wait("an agent's status", || {
                Ok(self.version_of("picketnode", &node.name)? > version)
            })?;
        }
        Ok(())
    }

    /// The agents' pods, and how often each started.
    fn agents_and_starts(&self) -> Result<String> {
        let path = "jsonpath={.items[*].status.containerStatuses[0].restartCount} {.items[*].metadata.name}";
        self.kubectl(&["-n", NAMESPACE, "get", "pods", "-l", AGENTS, "-o", path])
    }
}

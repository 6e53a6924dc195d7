//! What an agent may not make of itself: another agent, or the holder of a token that works without Picket.

use anyhow::{Context, Result, ensure};
use picket_tests::tests;

use crate::Test;
use crate::life::until;
use crate::world::World;

pub(crate) const TESTS: &[Test] = tests! {
    an_agent_does_not_become_another_one,
    an_agent_keeps_what_enrols_pods,
    a_secret_with_a_token_is_not_for_agents,
};

const FILE: &str = "escalation.yaml";

/// The pod `stranger` as an agent beside the worker.
const OTHER: &str = r#"
apiVersion: picket.dev/v1alpha1
kind: AgentIdentity
metadata: {name: other}
spec:
  owner: lab@example.test
  attest: {pod: {namespace: agents, serviceAccount: stranger}}
---
apiVersion: picket.dev/v1alpha1
kind: AgentGrant
metadata: {name: other-reads}
spec:
  to: {identities: [other]}
  upstream: {impersonate: {user: "agent:sleeper", groups: ["agents:lab"]}}
  rules:
  - {apiGroups: [""], resources: [configmaps], verbs: [get]}
"#;

const EXCEPTION: &str = r#"---
apiVersion: picket.dev/v1alpha1
kind: AgentPolicy
metadata: {name: worker-runs-others}
spec:
  subjects: {identities: [worker]}
  exceptions: [builtin/agent-pods]
"#;

const EXEC: &str =
    "kubectl exec stranger -n agents -- kubectl auth whoami -o jsonpath={.status.userInfo.username}";

fn an_agent_does_not_become_another_one(world: &mut World) -> Result<()> {
    world.agent.write_objects(FILE, OTHER)?;
    let whoami = ["kubectl", "auth", "whoami"];
    let done = (|| {
        until(|| Ok((world.run("agents", "stranger", &whoami)?.code == 0).then_some(())))?;
        let picket = world.picket_log();
        for line in [
            EXEC.to_owned(),
            "kubectl attach stranger -n agents".to_owned(),
            "kubectl run second -n agents --image=picket.test/tools:1 --overrides='{\"spec\": {\"serviceAccountName\": \"stranger\"}}'"
                .to_owned(),
        ] {
            world.worker(&line)?.refused(&["builtin/agent-pods"])?;
        }
        let record = picket.wait("the denial", |record| {
            record["objectRef"]["subresource"] == "exec" && record["objectRef"]["name"] == "stranger"
        })?;
        ensure!(
            record["decision"]["outcome"] == "deny" && record["decision"]["rule"] == "builtin/agent-pods",
            "{record:#}"
        );
        // The same where no built-in is in the way: the exec is the other agent's.
        world.agent.write_objects(FILE, &format!("{OTHER}{EXCEPTION}"))?;
        let became = until(|| {
            let said = world.worker(EXEC)?;
            Ok((said.code == 0).then_some(said.out))
        })?;
        ensure!(
            became.trim() == "agent:sleeper",
            "without the built-in it is {became:?}"
        );
        Ok(())
    })();
    world.agent.remove_objects(FILE)?;
    done
}

fn an_agent_keeps_what_enrols_pods(world: &mut World) -> Result<()> {
    for (line, kept) in [
        (
            "kubectl delete configmap picket-ca.crt -n agents",
            ["configmap", "picket-ca.crt"],
        ),
        (
            "kubectl delete --raw /api/v1/namespaces/agents/configmaps",
            ["configmap", "picket-ca.crt"],
        ),
        ("kubectl delete namespace agents", ["namespace", "agents"]),
    ] {
        world.worker(line)?.refused(&["builtin/picket-admission"])?;
        world.admin(&["get", kept[0], kept[1], "-n", "agents", "-o", "name"])?;
    }
    Ok(())
}

/// A Secret that the token controller fills.
const SECRET: &str = r#"{"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/service-account-token", "metadata": {"name": "mine", "namespace": "lab", "annotations": {"kubernetes.io/service-account.name": "default"}}}"#;

/// What the worker may do with Secrets here, by its grant and by RBAC; the pod that calls directly may do the same.
const RIGHTS: &str = r#"
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: token-secrets, namespace: lab}
rules:
- {apiGroups: [""], resources: [secrets], verbs: [create, get, delete]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: token-secrets, namespace: lab}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: token-secrets}
subjects:
- {kind: User, name: "agent:worker", apiGroup: rbac.authorization.k8s.io}
- {kind: ServiceAccount, name: worker, namespace: direct}
"#;

const SECRETS: &str = r#"
apiVersion: picket.dev/v1alpha1
kind: AgentGrant
metadata: {name: secrets}
spec:
  to: {identities: [worker]}
  upstream: {impersonate: {user: "agent:worker", groups: ["agents:lab", "picket:agents"]}}
  namespaces: [lab]
  rules:
  - {apiGroups: [""], resources: [secrets], verbs: [create, patch, get, delete]}
"#;

/// Leaves it to the API server.
const TOKENS_EXCEPTED: &str = r#"---
apiVersion: picket.dev/v1alpha1
kind: AgentPolicy
metadata: {name: token-secrets}
spec: {subjects: {identities: [worker]}, exceptions: [builtin/token-secrets]}
"#;

const POLICY: &str = include_str!("../../deploy/token-secrets.yaml");

fn a_secret_with_a_token_is_not_for_agents(world: &mut World) -> Result<()> {
    world.cluster.apply(RIGHTS)?;
    world.agent.write_objects(FILE, SECRETS)?;
    let done = token_secrets(world);
    world.agent.remove_objects(FILE)?;
    for kind in ["validatingadmissionpolicybinding", "validatingadmissionpolicy"] {
        world.admin(&["delete", kind, "token-secrets.picket.dev", "--ignore-not-found"])?;
    }
    world.admin(&[
        "delete",
        "secret",
        "mine",
        "plain",
        "-n",
        "lab",
        "--ignore-not-found",
    ])?;
    world.admin(&["delete", "role,rolebinding", "token-secrets", "-n", "lab"])?;
    done
}

fn token_secrets(world: &World) -> Result<()> {
    let create = format!("echo '{SECRET}' | kubectl create -f -");
    let delete = "kubectl delete secret mine -n lab";
    // The built-in reads the type, by creation and by apply, and leaves other Secrets alone.
    let apply = format!("echo '{SECRET}' | kubectl apply --server-side -f -");
    for line in [&create, &apply] {
        until(|| {
            let said = world.worker(line)?;
            Ok(said.err.contains("builtin/token-secrets").then_some(()))
        })
        .with_context(|| line.to_owned())?;
    }
    let plain = "kubectl create secret generic plain -n lab --from-literal=a=b";
    world.worker(plain)?.good()?;
    world.admin(&["delete", "secret", "plain", "-n", "lab"])?;
    // With an exception the agent has a token that nothing bounds: the second guard is needed.
    world
        .agent
        .write_objects(FILE, &format!("{SECRETS}{TOKENS_EXCEPTED}"))?;
    until(|| Ok((world.worker(&create)?.code == 0).then_some(())))?;
    until(|| {
        let said = world
            .worker("kubectl get secret mine -n lab -o jsonpath={.data.token}")?
            .good()?;
        Ok((!said.is_empty()).then_some(()))
    })?;
    world.worker(delete)?.good()?;

    world.cluster.apply(POLICY)?;
    let refused = until(|| {
        let said = world.worker(&create)?;
        if said.code == 0 {
            world.worker(delete)?.good()?;
        }
        Ok((said.code != 0).then_some(said))
    })?;
    refused.refused(&["agents may not write Secrets of type kubernetes.io/service-account-token"])?;
    world
        .worker("kubectl create secret generic plain -n lab --from-literal=a=b")?
        .good()?;
    // Nobody else is meant.
    world.run("direct", "worker", &["sh", "-c", &create])?.good()?;
    Ok(())
}

//! The examples of deploy/ with real kubectl: what each agent's work takes is allowed, and what is not its work is refused.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use picket_tests::output::Done;
use picket_tests::tests;
use serde_json::json;

use crate::Test;
use crate::life::until;
use crate::world::World;

pub(crate) const TESTS: &[Test] = tests! {
    the_platform_teams_agents_do_their_work_and_nothing_else,
    the_reader_reads_by_every_command_and_writes_nothing,
};

const AGENTS: &str = include_str!("../../deploy/examples/platform-team/agents.yaml");
const RIGHTS: &str = include_str!("../../deploy/examples/platform-team/rbac.yaml");
const ADMISSION: &str = include_str!("../../deploy/examples/platform-team/admission.yaml");

const IDENTITIES: &str = include_str!("../../deploy/examples/identities.yaml");
const GRANTS: &str = include_str!("../../deploy/examples/grants.yaml");
const POLICIES: &str = include_str!("../../deploy/examples/policies.yaml");
const READERS: &str = include_str!("../../deploy/examples/rbac/readers.yaml");

/// What the agents work on. The second revision of `web` comes later.
const SHOP: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  replicas: 1
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}, annotations: {revision: one}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - {name: main, image: "picket.test/busybox:1", imagePullPolicy: IfNotPresent, command: [sh, -c, "echo started; exec sleep infinity"]}
---
apiVersion: batch/v1
kind: Job
metadata: {name: over, namespace: shop}
spec:
  template:
    spec:
      restartPolicy: Never
      containers: [{name: main, image: "picket.test/busybox:1", imagePullPolicy: IfNotPresent, command: ["true"]}]
---
apiVersion: batch/v1
kind: Job
metadata: {name: running, namespace: shop}
spec:
  template:
    spec:
      restartPolicy: Never
      terminationGracePeriodSeconds: 0
      containers: [{name: main, image: "picket.test/busybox:1", imagePullPolicy: IfNotPresent, command: [sleep, infinity]}]
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {selector: {app: web}, ports: [{port: 80}]}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings, namespace: shop}
data: {colour: green}
---
apiVersion: v1
kind: Secret
metadata: {name: till, namespace: shop}
stringData: {code: "1234"}
"#;

/// How long a pod may take.
const POD_LIMIT: Duration = Duration::from_secs(90);

/// A pod of an agent, with the service account that the example names.
fn pod(name: &str) -> String {
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": "agents"}});
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "agents"},
        "spec": {"nodeName": "node1", "serviceAccountName": name, "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "main", "image": "picket.test/tools:1", "imagePullPolicy": "IfNotPresent",
                "command": ["sleep", "infinity"], "env": [{"name": "HOME", "value": "/tmp"}]}]}});
    json!({"apiVersion": "v1", "kind": "List", "items": [account, pod]}).to_string()
}

/// Agents with their pods, and what they work on, until `act` is over.
fn with_agents(
    world: &World,
    pods: &[&str],
    objects: &[(&str, &str)],
    cluster: &[&str],
    act: impl Fn(&World) -> Result<()>,
) -> Result<()> {
    for yaml in cluster.iter().chain([&SHOP]) {
        world.cluster.apply(yaml)?;
    }
    for (name, text) in objects {
        world.agent.write_objects(name, text)?;
    }
    for name in pods {
        world.cluster.apply(&pod(name))?;
    }
    let ready = || -> Result<()> {
        for name in pods {
            world.cluster.wait_ready("agents", name, POD_LIMIT)?;
        }
        let wait = ["-n", "shop", "--timeout=90s"];
        world.admin(&[&["wait", "--for=condition=Complete", "job/over"][..], &wait].concat())?;
        world.admin(&[&["rollout", "status", "deployment/web"][..], &wait].concat())?;
        world.admin(
            &[
                &["wait", "--for=jsonpath={.status.ready}=1", "job/running"][..],
                &wait,
            ]
            .concat(),
        )?;
        Ok(())
    };
    let outcome = ready().and_then(|()| act(world));
    for (name, _) in objects {
        world.agent.remove_objects(name)?;
    }
    for name in pods {
        world.admin(&["delete", "pod,serviceaccount", name, "-n", "agents"])?;
    }
    world.admin(&["delete", "namespace", "shop"])?;
    for yaml in cluster {
        world
            .cluster
            .kubectl_stdin(&["delete", "--ignore-not-found", "-f", "-"], yaml)?;
    }
    outcome
}

/// A shell line in an agent's pod.
fn agent(world: &World, pod: &str, line: &str) -> Result<Done> {
    world.run("agents", pod, &["sh", "-c", line])
}

/// Each line must succeed and print its word.
fn works(world: &World, pod: &str, lines: &[(&str, &str)]) -> Result<()> {
    for (line, word) in lines {
        let out = agent(world, pod, line)?
            .good()
            .with_context(|| format!("{pod}: {line}"))?;
        ensure!(out.contains(word), "{pod}: {line}: no {word:?} in\n{out}");
    }
    Ok(())
}

/// Each line must be refused with these words.
fn refused(world: &World, pod: &str, lines: &[(&str, &str)]) -> Result<()> {
    for (line, words) in lines {
        agent(world, pod, line)?
            .refused(&[words])
            .with_context(|| format!("{pod}: {line}"))?;
    }
    Ok(())
}

fn the_platform_teams_agents_do_their_work_and_nothing_else(world: &mut World) -> Result<()> {
    let pods = ["cost-cleanup", "log-triage", "deploy-rollback", "dashboards"];
    let objects = [("platform-team.yaml", AGENTS)];
    with_agents(world, &pods, &objects, &[RIGHTS, ADMISSION], |world| {
        // An admission policy and new roles take a moment to count.
        until(|| {
            let line = "kubectl delete job running -n shop --dry-run=server";
            let said = agent(world, "cost-cleanup", line)?;
            Ok(said.err.contains("The Job is not over").then_some(()))
        })
        .context("the admission policy is not in force")?;
        log_triage(world)?;
        dashboards(world)?;
        deploy_rollback(world)?;
        cost_cleanup(world)
    })
}

fn cost_cleanup(world: &World) -> Result<()> {
    let no_grant = "no grant allows it";
    refused(
        world,
        "cost-cleanup",
        &[
            ("kubectl delete job running -n shop", "The Job is not over"),
            (
                "kubectl delete --raw '/apis/batch/v1/namespaces/shop/jobs?fieldSelector=status.successful%3D1'",
                no_grant,
            ),
            ("kubectl delete deployment web -n shop", no_grant),
            ("kubectl delete pods --all -n shop", no_grant),
            ("kubectl create job more --image=x -n shop", no_grant),
            ("kubectl get jobs -n lab", no_grant),
            ("kubectl get secrets -n shop", no_grant),
        ],
    )?;
    works(
        world,
        "cost-cleanup",
        &[
            ("kubectl get jobs -n shop", "over"),
            ("kubectl delete job over -n shop", "deleted"),
        ],
    )?;
    // All that are over: kubectl names each that the selector finds.
    let selected = "kubectl delete jobs -n shop --field-selector status.successful=1";
    agent(world, "cost-cleanup", selected)?.good()?;
    let left = world.admin(&["get", "jobs", "-n", "shop", "-o", "name"])?;
    ensure!(left.trim() == "job.batch/running", "left are {left}");
    Ok(())
}

fn log_triage(world: &World) -> Result<()> {
    works(
        world,
        "log-triage",
        &[
            ("kubectl get pods -n shop", "web-"),
            ("kubectl logs deployment/web -n shop", "started"),
            ("kubectl logs -l app=web -n shop --tail=5", "started"),
            ("kubectl get events -n shop", "web-"),
            ("kubectl describe pods -l app=web -n shop", "Started"),
        ],
    )?;
    let no_grant = "no grant allows it";
    refused(
        world,
        "log-triage",
        &[
            ("kubectl exec deployment/web -n shop -- id", no_grant),
            ("kubectl delete pods -l app=web -n shop", no_grant),
            ("kubectl get configmap settings -n shop", no_grant),
            ("kubectl get secret till -n shop", no_grant),
            ("kubectl logs target -n lab", no_grant),
            ("kubectl get pods -A", no_grant),
        ],
    )
}

fn deploy_rollback(world: &World) -> Result<()> {
    let patch = r#"{"spec": {"template": {"metadata": {"annotations": {"revision": "two"}}}}}"#;
    world.admin(&["patch", "deployment", "web", "-n", "shop", "-p", patch])?;
    let status = "kubectl rollout status deployment/web -n shop --timeout=90s";
    works(
        world,
        "deploy-rollback",
        &[
            (status, "successfully rolled out"),
            ("kubectl rollout history deployment/web -n shop", "2"),
            ("kubectl rollout undo deployment/web -n shop", "rolled back"),
            (status, "successfully rolled out"),
        ],
    )?;
    let revision = "jsonpath={.spec.template.metadata.annotations.revision}";
    let now = world.admin(&["get", "deployment", "web", "-n", "shop", "-o", revision])?;
    ensure!(now == "one", "the Deployment is at revision {now}");
    let no_grant = "no grant allows it";
    refused(
        world,
        "deploy-rollback",
        &[
            ("kubectl delete deployment web -n shop", no_grant),
            ("kubectl scale deployment web --replicas=5 -n shop", no_grant),
            ("kubectl create deployment more --image=x -n shop", no_grant),
            ("kubectl get pods -n shop", no_grant),
            ("kubectl rollout undo deployment/web -n lab", no_grant),
        ],
    )
}

fn dashboards(world: &World) -> Result<()> {
    works(
        world,
        "dashboards",
        &[
            ("kubectl get all -n shop", "deployment.apps/web"),
            ("kubectl get pods -A", "web-"),
            ("kubectl get nodes", "node1"),
            ("kubectl get events -A", "web-"),
            (
                "timeout 3 kubectl get pods -n shop --watch -o name; true",
                "pod/web-",
            ),
        ],
    )?;
    let no_grant = "no grant allows it";
    refused(
        world,
        "dashboards",
        &[
            ("kubectl get secrets -A", no_grant),
            ("kubectl get secrets -n shop", no_grant),
            ("kubectl get configmaps -n shop", no_grant),
            ("kubectl logs deployment/web -n shop", no_grant),
            ("kubectl exec deployment/web -n shop -- id", no_grant),
            ("kubectl delete deployment web -n shop", no_grant),
            ("kubectl label node node1 a=b", no_grant),
        ],
    )
}

/// What people ask of a read-only agent, by command.
const READS: [(&str, &str); 17] = [
    ("kubectl get pods,services,deployments -n shop", "service/web"),
    ("kubectl describe deployment web -n shop", "OldReplicaSets"),
    ("kubectl describe pods -l app=web -n shop", "Started"),
    ("kubectl describe service web -n shop", "Endpoints"),
    ("kubectl describe namespace shop", "Active"),
    ("kubectl logs deployment/web -n shop", "started"),
    ("kubectl events -n shop", "web-"),
    ("kubectl get events -n shop", "web-"),
    ("kubectl explain deployment.spec.replicas", "desired pods"),
    ("kubectl api-resources", "deployments"),
    ("kubectl api-versions", "apps/v1"),
    ("kubectl auth can-i --list -n shop", "deployments"),
    ("kubectl auth whoami", "agent:triage"),
    (
        "kubectl rollout status deployment/web -n shop --timeout=60s",
        "successfully rolled out",
    ),
    (
        "kubectl wait --for=condition=Available deployment/web -n shop --timeout=60s",
        "condition met",
    ),
    (
        "kubectl get deployment web -n shop -o yaml > /tmp/web.yaml && kubectl diff -f /tmp/web.yaml && echo same",
        "same",
    ),
    (
        "sed 's/replicas: 1/replicas: 3/' /tmp/web.yaml > /tmp/three.yaml; kubectl diff -f /tmp/three.yaml; echo ended $?",
        "ended 1",
    ),
];

fn the_reader_reads_by_every_command_and_writes_nothing(world: &mut World) -> Result<()> {
    let objects = [
        ("identities.yaml", IDENTITIES),
        ("grants.yaml", GRANTS),
        ("policies.yaml", POLICIES),
    ];
    with_agents(world, &["triage"], &objects, &[READERS], |world| {
        until(|| {
            let said = agent(world, "triage", "kubectl get deployments -n shop -o name")?;
            Ok((said.code == 0).then_some(()))
        })
        .context("the reader's rights are not in force")?;
        works(world, "triage", &READS)?;
        // This cluster has no metrics API: kubectl says so after discovery, and nothing of rights.
        for what in ["pods -n shop", "nodes"] {
            let said = agent(world, "triage", &format!("kubectl top {what}"))?;
            ensure!(said.err.contains("Metrics API not available"), "{said:?}");
        }
        let no_grant = "no grant allows it";
        refused(
            world,
            "triage",
            &[
                ("kubectl apply -f /tmp/three.yaml", "as a dry run only"),
                ("kubectl scale deployment web --replicas=3 -n shop", no_grant),
                ("kubectl get secrets -n shop", no_grant),
                ("kubectl exec deployment/web -n shop -- id", no_grant),
                ("kubectl delete deployment web -n shop", no_grant),
            ],
        )?;
        let replicas = [
            "get",
            "deployment",
            "web",
            "-n",
            "shop",
            "-o",
            "jsonpath={.spec.replicas}",
        ];
        let replicas = world.admin(&replicas)?;
        ensure!(replicas == "1", "the reader wrote: {replicas} replicas");
        Ok(())
    })
}

//! Priority and fairness at the API server: what an agent asks for is queued apart from what people ask for.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use picket_tests::running::Running;
use picket_tests::tests;
use serde_json::Value;

use crate::Test;
use crate::world::World;

pub(crate) const TESTS: &[Test] = tests! {
    agents_are_queued_apart_from_people,
};

/// How many lists the agent asks for at once.
const LISTS: usize = 300;

/// The ConfigMaps that are listed, some 4 KB each.
const LISTED: usize = 150;

/// How long the first of the lists may take to be answered, all of them: 180 MB in all, which a busy machine serves slowly.
const FIRST_LISTS: Duration = Duration::from_mins(2);

/// Asks for a list from many threads at once, round after round until its input ends, and says `ready` once each has had an answer.
const AGENT: &str = r#"
import http.client, os, ssl, sys, threading
account = "/var/run/secrets/kubernetes.io/serviceaccount"
context = ssl.create_default_context(cafile=account + "/ca.crt")
token = open(account + "/token").read()
ended = threading.Event()
answered = threading.Semaphore(0)
def lists():
    connection = None
    first = True
    while not ended.is_set():
        try:
            if connection is None:
                connection = http.client.HTTPSConnection(os.environ["KUBERNETES_SERVICE_HOST"], 443, context=context, timeout=60)
            connection.request("GET", "/api/v1/namespaces/lab/configmaps", headers={"Authorization": "Bearer " + token})
            connection.getresponse().read()
            if first:
                first = False
                answered.release()
        except Exception:
            connection = None
threading.stack_size(256 * 1024)
for _ in range(int(sys.argv[1])):
    threading.Thread(target=lists, daemon=True).start()
for _ in range(int(sys.argv[1])):
    answered.acquire()
print("ready", flush=True)
sys.stdin.read()
ended.set()
os._exit(0)
"#;

/// A person's small reads one after the other, by the pod's own account that may act as the person. Prints the milliseconds of each,
/// for so many seconds.
const PERSON: &str = r#"
import http.client, json, os, ssl, sys, time
account = "/var/run/secrets/kubernetes.io/serviceaccount"
context = ssl.create_default_context(cafile=account + "/ca.crt")
headers = {"Authorization": "Bearer " + open(account + "/token").read(), "Impersonate-User": "person"}
connection = http.client.HTTPSConnection(os.environ["KUBERNETES_SERVICE_HOST"], 443, context=context, timeout=60)
took = []
ended = time.monotonic() + int(sys.argv[1])
while time.monotonic() < ended:
    begun = time.monotonic()
    connection.request("GET", "/api/v1/namespaces/lab/configmaps/seed", headers=headers)
    answer = connection.getresponse()
    answer.read()
    assert answer.status == 200, answer.status
    took.append(round((time.monotonic() - begun) * 1000, 1))
print(json.dumps(sorted(took)))
"#;

/// The person's rights, and those of direct/worker to act as the person.
const RIGHTS: &str = r#"
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: fairness}
rules:
- {apiGroups: [""], resources: [users], resourceNames: [person], verbs: [impersonate]}
- {apiGroups: [""], resources: [configmaps], verbs: [get]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: fairness}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: fairness}
subjects:
- {kind: ServiceAccount, namespace: direct, name: worker}
- {apiGroup: rbac.authorization.k8s.io, kind: User, name: person}
"#;

/// What the person sees beside 300 lists at once is printed, with the objects of deploy/flow-control.yaml and without; how far
/// apart the two are depends on the machine. That the agent is in its own level, and the person is not, does not.
fn agents_are_queued_apart_from_people(world: &mut World) -> Result<()> {
    world.cluster.apply(RIGHTS)?;
    world.cluster.apply(&many())?;
    let before = [
        dispatched(world, "picket-agents")?,
        dispatched(world, "global-default")?,
    ];
    let with = person_beside_lists(world)?;
    let after = [
        dispatched(world, "picket-agents")?,
        dispatched(world, "global-default")?,
    ];
    ensure!(
        after[0] - before[0] >= LISTS as f64,
        "of the agent's lists, its own level took {before:?} to {after:?}"
    );
    ensure!(
        (0.0..=100.0).contains(&(after[1] - before[1] - with.len() as f64)),
        "the person and the agent are in one level: {before:?} to {after:?}"
    );
    let saved = world.admin(&["get", "flowschema", "picket-agents", "-o", "json"])?;
    world.admin(&["delete", "flowschema", "picket-agents"])?;
    let without = person_beside_lists(world);
    world.cluster.apply(&fresh(&saved)?)?;
    let without = without?;
    eprintln!(
        "a person's reads beside {LISTS} lists at once of an agent: {} with deploy/flow-control.yaml, {} without",
        say(&with),
        say(&without)
    );
    world.admin(&[
        "delete",
        "configmap",
        "-n",
        "lab",
        "-l",
        "fairness=1",
        "--wait=false",
    ])?;
    world.admin(&["delete", "clusterrole,clusterrolebinding", "fairness"])?;
    Ok(())
}

/// The milliseconds of the person's reads beside the lists, sorted.
fn person_beside_lists(world: &World) -> Result<Vec<f64>> {
    let lists = LISTS.to_string();
    let mut agent = Running::start(
        &world.cluster.kubectl_client(),
        "agents",
        "worker",
        &["python3", "-c", AGENT, &lists],
    )?;
    let ready = agent.line_within(FIRST_LISTS)?;
    ensure!(ready == "ready", "the agent's lists: {ready}");
    let said = world
        .run("direct", "worker", &["python3", "-c", PERSON, "10"])?
        .good()?;
    agent.wait()?;
    serde_json::from_str(said.trim()).context("no times")
}

fn say(took: &[f64]) -> String {
    let at = |share: f64| took[((took.len() - 1) as f64 * share) as usize];
    format!(
        "{} reads, p50 {} ms, p99 {} ms, longest {} ms",
        took.len(),
        at(0.5),
        at(0.99),
        at(1.0)
    )
}

/// How many requests of a FlowSchema the API server has begun to serve.
fn dispatched(world: &World, schema: &str) -> Result<f64> {
    let text = world.admin(&["get", "--raw", "/metrics"])?;
    let lines = text.lines().filter(|line| {
        line.starts_with("apiserver_flowcontrol_dispatched_requests_total{")
            && line.contains(&format!("flow_schema=\"{schema}\""))
    });
    Ok(lines
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum())
}

/// An object as it can be applied again after it was deleted.
fn fresh(saved: &str) -> Result<String> {
    let mut object: Value = serde_json::from_str(saved)?;
    let meta = object["metadata"].as_object_mut().context("no metadata")?;
    meta.retain(|key, _| key == "name");
    Ok(object.to_string())
}

fn many() -> String {
    let text = "x".repeat(4096);
    let mut documents = String::new();
    for number in 0..LISTED {
        let _ = writeln!(
            documents,
            "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: fairness-{number}, namespace: lab, labels: {{fairness: \"1\"}}}}\ndata: {{text: {text}}}"
        );
    }
    documents
}

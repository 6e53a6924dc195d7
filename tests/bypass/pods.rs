//! Which processes are a pod's: on the node's network, in every kind of container, before anybody judged it, moved away; and
//! what was open before.
//!
//! Clients do not check certificates: one that got past would be answered by the API server, and be seen in its log.

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use picket_tests::audit::{Since, about};
use picket_tests::pod::RealPod;
use picket_tests::running::Running;
use picket_tests::tests;
use serde_json::{Value, json};

use crate::Test;
use crate::world::World;

pub(crate) const TESTS: &[Test] = tests! {
    a_pod_on_the_nodes_network_is_served_and_refused,
    every_container_is_redirected_from_its_start,
    a_pod_that_nobody_judged_is_refused_by_name,
    an_escaped_process_is_redirected_and_reported,
    what_was_open_before_is_destroyed_and_nothing_else,
    connections_to_a_new_endpoint_are_destroyed_too,
    a_released_pod_loses_its_open_connections,
};

/// How long connections from before may go on.
const DESTROY_LIMIT: Duration = Duration::from_secs(5);

/// How long a gauge may be behind; the agent brings them up to date every five seconds.
const GAUGES_LIMIT: Duration = Duration::from_secs(15);

/// How long a process outside its pod's cgroup may go unnoticed that dials nothing.
const LOOK_LIMIT: Duration = Duration::from_secs(60);

/// How long a pod may take to be Ready; two seconds is usual.
const POD_LIMIT: Duration = Duration::from_secs(90);

/// Asks for a ConfigMap under the name that is given, from its first moment and until it is answered.
const ASK: &str = r#"
import ssl, sys, time, urllib.request
url = "https://10.96.0.1/api/v1/namespaces/lab/configmaps/seed"
request = urllib.request.Request(url, headers={"User-Agent": sys.argv[1]})
while True:
    try:
        urllib.request.urlopen(request, context=ssl._create_unverified_context(), timeout=20).read()
        break
    except Exception:
        time.sleep(0.002)
print("answered", flush=True)
"#;

/// Keeps one connection open and asks on it for each line that comes in.
const HOLD: &str = r#"
import http.client, ssl, sys
server = http.client.HTTPSConnection("10.96.0.1", 443, context=ssl._create_unverified_context(), timeout=20)
server.connect()
server.auto_open = 0
print("open", flush=True)
for line in sys.stdin:
    try:
        server.request("GET", "/version", headers={"User-Agent": sys.argv[1]})
        answer = server.getresponse()
        answer.read()
        print("answered", answer.status, flush=True)
    except Exception as error:
        print("broken", repr(error), flush=True)
"#;

/// Prints each line that it is sent, and sends it back.
const ECHO: &str = r#"
import socketserver
class Echo(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            print("got", line.decode().strip(), flush=True)
            self.wfile.write(line)
socketserver.ThreadingTCPServer.allow_reuse_address = True
server = socketserver.ThreadingTCPServer(("", 8000), Echo)
print("listens", flush=True)
server.serve_forever()
"#;

/// Keeps a connection to that open, and sends it each line that comes in.
const SPEAK: &str = r#"
import socket, sys
server = socket.create_connection((sys.argv[1], 8000), timeout=10).makefile("rw")
print("open", flush=True)
for line in sys.stdin:
    try:
        server.write(line)
        server.flush()
        print("answered" if server.readline() else "broken", flush=True)
    except Exception as error:
        print("broken", repr(error), flush=True)
"#;

/// The records of one client.
fn by(log: &Since, agent: &str) -> Result<Vec<Value>> {
    log.all(|record| record["userAgent"] == agent)
}

/// Everything the API server saw of these clients came from Picket.
fn no_direct_request(server: &Since, agents: &[&str]) -> Result<()> {
    for agent in agents {
        let direct: Vec<_> = by(server, agent)?
            .into_iter()
            .filter(|record| record["impersonatedUser"]["username"] != "agent:worker")
            .collect();
        ensure!(direct.is_empty(), "{agent} got past: {direct:?}");
    }
    Ok(())
}

fn a_pod_on_the_nodes_network_is_served_and_refused(world: &mut World) -> Result<()> {
    let (picket, server) = (world.picket_log(), world.server_log());
    let kubectl = |line: &str| world.run("agents", "hosted", &["sh", "-c", line]);
    kubectl("kubectl get configmap seed -n lab -o name")?.good()?;
    let get = |record: &Value| about(record, "get", "configmaps", "seed");
    let record = picket.wait("the get", get)?;
    ensure!(
        record["agent"]["pod"]["name"] == "hosted" && record["agent"]["container"] == "main",
        "{record:#}"
    );
    let record = server.wait("the get", get)?;
    ensure!(
        record["impersonatedUser"]["username"] == "agent:worker",
        "{record:#}"
    );
    kubectl("kubectl delete namespace lab --wait=false")?.refused(&["keep-namespaces"])?;
    let begun = Instant::now();
    while world
        .agent
        .metric("picket_pods", &["class=\"egress_unfiltered\""])?
        < 1.0
    {
        ensure!(
            begun.elapsed() < GAUGES_LIMIT,
            "the pod is not counted as egress_unfiltered"
        );
        thread::sleep(Duration::from_millis(500));
    }

    // Beside it, what is no API server's client on the node is refused by name and file.
    let send = r#"
import socket, time
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
    print(one.connect_ex(("10.96.0.1", 443)))
    time.sleep(1)
"#;
    let code = world.run("agents", "hosted", &["python3", "-c", send])?.good()?;
    ensure!(
        code.trim() == "1",
        "UDP to a protected endpoint gives {code}, not EPERM"
    );
    let refused = picket.wait("the refused datagram", |record| {
        record["decision"]["reason"] == "protocol"
    })?;
    let agent = &refused["agent"];
    ensure!(
        agent["pod"]["name"] == "hosted" && agent["serviceAccount"] == "worker",
        "{refused:#}"
    );
    let exe = agent["process"]["exe"].as_str().unwrap_or_default();
    ensure!(exe.contains("python3"), "{refused:#}");
    Ok(())
}

fn every_container_is_redirected_from_its_start(world: &mut World) -> Result<()> {
    const CLIENTS: [&str; 5] = [
        "first-init",
        "first-app",
        "first-again",
        "first-debug",
        "first-exec",
    ];
    let (picket, server) = (world.picket_log(), world.server_log());
    // The app asks, ends, and asks under another name when the kubelet starts it again.
    let app = "if test -e /kept/asked; then name=first-again; else name=first-app; fi; touch /kept/asked; \
               python3 -c \"$ASK\" $name && test $name = first-again && sleep infinity";
    let container = |name: &str, command: Value| {
        json!({"name": name, "image": "picket.test/tools:1", "imagePullPolicy": "IfNotPresent", "command": command,
            "env": [{"name": "ASK", "value": ASK}], "volumeMounts": [{"name": "kept", "mountPath": "/kept"}]})
    };
    let manifest = json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "first", "namespace": "agents", "labels": {"app": "worker"}},
        "spec": {"nodeName": "node1", "serviceAccountName": "worker", "terminationGracePeriodSeconds": 0,
            "volumes": [{"name": "kept", "emptyDir": {}}],
            "initContainers": [container("init", json!(["python3", "-c", ASK, "first-init"]))],
            "containers": [container("app", json!(["sh", "-c", app]))]}});
    world.cluster.apply(&manifest.to_string())?;
    for client in ["first-init", "first-app", "first-again"] {
        picket.wait_within(POD_LIMIT, client, |record| record["userAgent"] == client)?;
    }
    world.cluster.wait_ready("agents", "first", POD_LIMIT)?;
    world.admin(&[
        "debug",
        "-n",
        "agents",
        "first",
        "--image=picket.test/tools:1",
        "--image-pull-policy=IfNotPresent",
        "--container=debug",
        "--",
        "python3",
        "-c",
        ASK,
        "first-debug",
    ])?;
    world
        .run("agents", "first", &["python3", "-c", ASK, "first-exec"])?
        .good()?;
    for client in CLIENTS {
        let record = picket.wait(client, |record| record["userAgent"] == client)?;
        ensure!(record["agent"]["pod"]["name"] == "first", "{record:#}");
    }
    no_direct_request(&server, &CLIENTS)?;
    world
        .admin(&["delete", "pod", "first", "-n", "agents", "--wait=false"])
        .map(drop)
}

fn a_pod_that_nobody_judged_is_refused_by_name(world: &mut World) -> Result<()> {
    let (picket, server) = (world.picket_log(), world.server_log());
    let agent = Pid::from_raw(i32::try_from(world.agent.pid().context("no agent")?)?);
    let manifest = json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "early", "namespace": "agents", "labels": {"app": "worker"}},
        "spec": {"nodeName": "node1", "serviceAccountName": "worker", "terminationGracePeriodSeconds": 0, "containers": [{
            "name": "main", "image": "picket.test/tools:1", "imagePullPolicy": "IfNotPresent",
            "command": ["python3", "-c", format!("{ASK}\ntime.sleep(3600)"), "early"]}]}});
    kill(agent, Signal::SIGSTOP)?;
    let started = world
        .cluster
        .apply(&manifest.to_string())
        .and_then(|()| world.cluster.wait_ready("agents", "early", POD_LIMIT));
    // Long enough for some hundred tries.
    thread::sleep(Duration::from_secs(1));
    kill(agent, Signal::SIGCONT)?;
    started?;
    let refused = picket.wait("a refusal in the name of the pod", |record| {
        record["decision"]["reason"] == "pending" && record["agent"]["pod"]["name"] == "early"
    })?;
    let exe = refused["agent"]["process"]["exe"].as_str().unwrap_or_default();
    ensure!(
        exe.contains("python3") && refused["agent"]["serviceAccount"] == "worker",
        "{refused:#}"
    );
    picket.wait("the answer once it is judged", |record| {
        record["userAgent"] == "early"
    })?;
    no_direct_request(&server, &["early"])?;
    world
        .admin(&["delete", "pod", "early", "-n", "agents", "--wait=false"])
        .map(drop)
}

/// A cgroup of the test's own, gone with it.
struct Sibling(PathBuf);

impl Drop for Sibling {
    fn drop(&mut self) {
        let begun = Instant::now();
        while fs::remove_dir(&self.0).is_err() && begun.elapsed() < DESTROY_LIMIT {
            thread::sleep(Duration::from_millis(50));
        }
    }
}

fn an_escaped_process_is_redirected_and_reported(world: &mut World) -> Result<()> {
    let (picket, server) = (world.picket_log(), world.server_log());
    let program = format!(
        "import sys\nfor line in sys.stdin:\n{}",
        ASK.trim()
            .lines()
            .map(|line| format!("    {line}\n"))
            .collect::<String>()
    );
    let argv = ["python3", "-c", &program, "mover"];
    let mut mover = Running::start(&world.cluster.kubectl_client(), "agents", "worker", &argv)?;
    mover.send("inside")?;
    mover.line_with("answered")?;
    let record = picket.wait("the first request", |record| record["userAgent"] == "mover")?;
    ensure!(record["agent"]["process"]["escapedTo"].is_null(), "{record:#}");
    let pid = &record["agent"]["process"]["pid"];

    let sibling = Sibling(world.cluster.node().cgroup.join("beside"));
    fs::create_dir(&sibling.0)?;
    fs::write(sibling.0.join("cgroup.procs"), pid.to_string())?;
    let before = world.agent.metric("picket_cgroup_escapes_total", &[])?;
    mover.send("outside")?;
    mover.line_with("answered")?;
    let record = picket.wait("the second request", |record| {
        record["userAgent"] == "mover" && record["agent"]["process"]["escapedTo"].is_string()
    })?;
    ensure!(record["agent"]["pod"]["name"] == "worker", "{record:#}");
    let moved = world.agent.metric("picket_cgroup_escapes_total", &[])? - before;
    ensure!(moved >= 1.0, "{moved} moved processes were counted");
    no_direct_request(&server, &["mover"])?;
    // It is told of without dialling, too.
    let told = |record: &Value| {
        record["decision"]["reason"] == "cgroup_escape" && &record["agent"]["process"]["pid"] == pid
    };
    let begun = Instant::now();
    while picket.all(told)?.is_empty() {
        ensure!(begun.elapsed() < LOOK_LIMIT, "nobody told of the process");
        thread::sleep(Duration::from_millis(500));
    }
    mover.close_input();
    mover.wait().map(drop)
}

fn what_was_open_before_is_destroyed_and_nothing_else(world: &mut World) -> Result<()> {
    world.agent.stop()?;
    world.agent.uninstall()?;
    let server = world.server_log();
    let begun = (|| {
        let mut clients = Vec::new();
        for (namespace, pod, name) in [
            ("agents", "worker", "old-worker"),
            ("agents", "hosted", "old-hosted"),
            ("direct", "worker", "old-direct"),
        ] {
            let argv = ["python3", "-c", HOLD, name];
            let mut client = Running::start(&world.cluster.kubectl_client(), namespace, pod, &argv)?;
            client.line_with("open")?;
            client.send("before")?;
            client.line_with("answered")?;
            clients.push((name, client));
        }
        Ok::<_, anyhow::Error>(clients)
    })();
    world.agent.restart()?;
    let ready = Instant::now();
    let mut clients = begun?;
    thread::sleep(DESTROY_LIMIT.saturating_sub(ready.elapsed()));
    for (name, client) in &mut clients {
        client.send("after")?;
        let line = client.line()?;
        let wanted = if *name == "old-direct" {
            "answered"
        } else {
            "broken"
        };
        ensure!(line.starts_with(wanted), "{name}: {line}");
        client.close_input();
        client.wait()?;
    }
    for (name, times) in [("old-worker", 1), ("old-hosted", 1), ("old-direct", 2)] {
        let seen = by(&server, name)?
            .iter()
            .filter(|record| record["stage"] == "ResponseComplete")
            .count();
        ensure!(seen == times, "the API server was asked {seen} times by {name}");
    }
    let closed = destroyed(world)?;
    ensure!(closed >= 2.0, "{closed} connections were destroyed");
    Ok(())
}

/// How many connections the kernel has ended for the agent. Their packets are dropped too, so that a client cannot tell.
fn destroyed(world: &World) -> Result<f64> {
    world
        .agent
        .metric("picket_connections_destroyed_total", &["outcome=\"destroyed\""])
}

/// An address with a connection from an enforced pod comes to lead to the API server.
fn connections_to_a_new_endpoint_are_destroyed_too(world: &mut World) -> Result<()> {
    let kubectl = world.cluster.kubectl_client();
    let address = RealPod::find(&world.cluster, "direct", "worker")?
        .address()
        .to_owned();
    let server = Running::start(&kubectl, "direct", "worker", &["python3", "-c", ECHO])?;
    server.line_with("listens")?;
    let argv = ["python3", "-c", SPEAK, &address];
    let mut client = Running::start(&kubectl, "agents", "worker", &argv)?;
    let mut beside = Running::start(&kubectl, "direct", "worker", &argv)?;
    for (name, client) in [("before", &mut client), ("beside", &mut beside)] {
        client.line_with("open")?;
        client.send(name)?;
        client.line_with("answered")?;
        server.line_with(name)?;
    }
    let before = destroyed(world)?;
    let api = world.cluster.node().address.to_string();
    let objects = json!({"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "twin", "namespace": "lab"},
            "spec": {"externalIPs": [address], "ports": [{"port": 8000, "targetPort": 6443}]}},
        {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": "twin", "namespace": "lab", "labels": {"kubernetes.io/service-name": "twin"}},
            "endpoints": [{"addresses": [api]}], "ports": [{"port": 6443}]}]});
    world.cluster.apply(&objects.to_string())?;
    thread::sleep(DESTROY_LIMIT);
    client.send("after")?;
    let line = client.line()?;
    beside.send("and beside")?;
    let other = beside.line()?;
    world.admin(&["delete", "service/twin", "endpointslice/twin", "-n", "lab"])?;
    ensure!(line.starts_with("broken"), "the enforced pod's: {line}");
    ensure!(other.starts_with("answered"), "the other's: {other}");
    let got = server.line()?;
    ensure!(got == "got and beside", "the server {got}");
    let closed = destroyed(world)? - before;
    ensure!(closed >= 1.0, "{closed} connections were destroyed");
    for mut client in [client, beside] {
        client.close_input();
        client.wait()?;
    }
    Ok(())
}

/// Asks on one connection at each line that comes in, and prints what was answered.
const KEEP_ALIVE: &str = r#"
import http.client, os, ssl, sys
account = "/var/run/secrets/kubernetes.io/serviceaccount"
context = ssl.create_default_context(cafile=account + "/ca.crt")
connection = http.client.HTTPSConnection(os.environ["KUBERNETES_SERVICE_HOST"], context=context, timeout=20)
connection.connect()
connection.auto_open = 0
headers = {"Authorization": "Bearer " + open(account + "/token").read()}
print("connected", flush=True)
for line in sys.stdin:
    try:
        connection.request("GET", "/api/v1/namespaces/lab/configmaps/seed", headers=headers)
        answer = connection.getresponse()
        answer.read()
        print("answered", answer.status, flush=True)
    except Exception as error:
        print("answered not:", repr(error), flush=True)
"#;

/// The pod's label goes, and it is exempt: what it asks for on a connection from before is not answered as its agent's.
fn a_released_pod_loses_its_open_connections(world: &mut World) -> Result<()> {
    let labelled = |config: &mut Value| config["enforce"]["matchLabels"] = json!({"app": "worker"});
    let outcome = world.configured(labelled, |world| {
        let argv = ["python3", "-c", KEEP_ALIVE];
        let mut client = Running::start(&world.cluster.kubectl_client(), "agents", "worker", &argv)?;
        client.line_with("connected")?;
        client.send("ask")?;
        let before = client.line_with("answered")?;
        ensure!(before == "answered 200", "{before}");
        let enforced = |wanted: f64| -> Result<()> {
            let since = Instant::now();
            while world.agent.metric("picket_pods", &["class=\"enforced\""])? != wanted {
                ensure!(
                    since.elapsed() < GAUGES_LIMIT,
                    "there are not {wanted} enforced pods"
                );
                thread::sleep(Duration::from_millis(50));
            }
            Ok(())
        };
        enforced(2.0)?;
        label(world, "app=free")?;
        enforced(1.0)?;
        client.send("ask")?;
        let after = client.line_with("answered")?;
        ensure!(after != "answered 200", "it is answered as before");
        Ok(())
    });
    label(world, "app=worker")?;
    outcome
}

/// Gives the enforced pod a label.
fn label(world: &World, label: &str) -> Result<()> {
    world.admin(&["label", "pod", "worker", "-n", "agents", "--overwrite", label])?;
    Ok(())
}

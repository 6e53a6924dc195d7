//! Pods that ask without end, what of it goes past, and what the agent's log says meanwhile.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use picket_tests::output::Done;
use picket_tests::packets::PacketCounter;
use picket_tests::pod::RealPod;
use picket_tests::running::Running;
use serde_json::Value;

use crate::world::World;

/// How long what is waited for may take.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);
/// Clients at once in the pod that dials without end.
const CLIENTS: &str = "20";

/// Asks for the path without end in as many threads as the arguments say, each time by a connection of its own, until a
/// line comes in; prints how many were answered, and what went wrong with the others.
const LOAD: &str = r#"
import collections, json, os, ssl, sys, threading, urllib.request
account = "/var/run/secrets/kubernetes.io/serviceaccount"
context = ssl.create_default_context(cafile=account + "/ca.crt")
url = "https://%s:%s%s" % (os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"], sys.argv[2])
token = open(account + "/token").read()
request = urllib.request.Request(url, headers={"Authorization": "Bearer " + token})
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
over, lock, answered, failed = threading.Event(), threading.Lock(), [0], collections.Counter()
def ask():
    while not over.is_set():
        try:
            with opener.open(request, timeout=20) as answer:
                answer.read()
            with lock:
                answered[0] += 1
        except Exception as error:
            with lock:
                failed[repr(error)] += 1
            over.wait(0.01)
threads = [threading.Thread(target=ask) for _ in range(int(sys.argv[1]))]
for thread in threads:
    thread.start()
print("running", flush=True)
sys.stdin.readline()
over.set()
for thread in threads:
    thread.join()
print(json.dumps({"answered": answered[0], "failed": failed}), flush=True)
"#;

/// A pod that asks without end.
pub(crate) struct Load(Running);

impl Load {
    /// In the pod that is enforced.
    pub(crate) fn enforced(world: &World) -> Result<Self> {
        let path = "/api/v1/namespaces/lab/configmaps/seed";
        Self::start(world, "agents", "worker", &[CLIENTS, path])
    }

    /// In the enforced pod that shares the node's network.
    pub(crate) fn hosted(world: &World) -> Result<Self> {
        let path = "/api/v1/namespaces/lab/configmaps/seed";
        Self::start(world, "agents", "hosted", &["4", path])
    }

    /// In the pod that is left alone; its account may read the version.
    pub(crate) fn exempt(world: &World) -> Result<Self> {
        Self::start(world, "direct", "worker", &["2", "/version"])
    }

    fn start(world: &World, namespace: &str, pod: &str, arguments: &[&str]) -> Result<Self> {
        let mut argv = vec!["python3", "-c", LOAD];
        argv.extend(arguments);
        let running = Running::start(&world.cluster.kubectl_client(), namespace, pod, &argv)?;
        running.line_with("running")?;
        Ok(Self(running))
    }

    /// Ends it; gives how many requests were answered, and what went wrong with others.
    pub(crate) fn stop(mut self) -> Result<(u64, Value)> {
        self.0.send("over")?;
        let told: Value = serde_json::from_str(&self.0.line_with("answered")?)?;
        Ok((
            told["answered"].as_u64().context("no count")?,
            told["failed"].clone(),
        ))
    }
}

pub(crate) fn nothing(failed: &Value) -> bool {
    failed.as_object().is_some_and(serde_json::Map::is_empty)
}

/// Counts, in the node, the packets that come from a pod and are for the API server: a redirected connect sends none.
pub(crate) struct Counter(PacketCounter);

impl Counter {
    pub(crate) fn start(world: &World, namespace: &str) -> Result<Self> {
        let pod = RealPod::find(&world.cluster, namespace, "worker")?;
        PacketCounter::start(world.agent.node(), &pod).map(Self)
    }

    pub(crate) fn packets(&self) -> Result<u64> {
        self.0.packets()
    }
}

/// The enforced pod asks for something that it may have.
pub(crate) fn asks(world: &World) -> Result<Done> {
    let argv = ["kubectl", "get", "configmap", "seed", "-n", "lab"];
    world.run("agents", "worker", &argv)
}

/// Tries until it is so, or says that it never was.
pub(crate) fn until(
    what: &str,
    limit: Duration,
    mut attempt: impl FnMut() -> Result<bool>,
) -> Result<Duration> {
    let began = Instant::now();
    while !attempt()? {
        ensure!(began.elapsed() < limit, "{what}: not within {limit:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(began.elapsed())
}

/// The ids of all bpf links of the machine, once none of those is among them that were let go of just before.
pub(crate) fn links() -> Result<BTreeSet<u32>> {
    let began = Instant::now();
    let mut last = links_now()?;
    loop {
        std::thread::sleep(Duration::from_millis(100));
        let now = links_now()?;
        if std::mem::replace(&mut last, now.clone()) == now {
            return Ok(now);
        }
        ensure!(began.elapsed() < LIMIT, "links come and go");
    }
}

fn links_now() -> Result<BTreeSet<u32>> {
    aya::programs::loaded_links()
        .filter_map(|link| match link {
            // It went between being listed and being opened.
            Err(_) => None,
            Ok(link) => Some(Ok(link.id())),
        })
        .collect()
}

pub(crate) fn verify_audit(world: &World) -> Result<()> {
    let spool = world.agent.audit_directory().display().to_string();
    Done::from(world.agent.picket(&["audit", "verify", &spool])?)
        .good()
        .map(drop)
}

pub(crate) fn log_since(world: &World, start: usize) -> Result<String> {
    let text = std::fs::read(world.agent.log_file())?;
    Ok(String::from_utf8_lossy(text.get(start..).unwrap_or_default()).into_owned())
}

pub(crate) fn log_length(world: &World) -> usize {
    std::fs::metadata(world.agent.log_file()).map_or(0, |found| found.len() as usize)
}

/// Pods are where this agent wants them, within the time in which a lost link must be back.
pub(crate) fn brought_back(world: &World) -> Result<()> {
    let direct = Load::exempt(world)?;
    std::thread::sleep(Duration::from_millis(500));
    let counted = Counter::start(world, "agents")?;
    for pod in ["worker", "hosted"] {
        served(world, "agents", pod)?;
    }
    let packets = counted.packets()?;
    ensure!(
        packets == 0,
        "the API server's address was sent {packets} packets"
    );
    let (answered, failed) = direct.stop()?;
    ensure!(
        answered > 0 && nothing(&failed),
        "a pod that is left alone saw {failed}"
    );
    Ok(())
}

pub(crate) fn served(world: &World, namespace: &str, pod: &str) -> Result<()> {
    let argv = ["kubectl", "get", "configmap", "seed", "-n", "lab"];
    world.run(namespace, pod, &argv)?.good().map(drop)
}

/// What listens in the pod that is enforced.
pub(crate) fn listeners(world: &World) -> Result<String> {
    let pod = RealPod::find(&world.cluster, "agents", "worker")?;
    let mut command = Command::new("nsenter");
    command.arg(format!(
        "--net={}",
        picket_tests::pod::TestPod::netns(&pod).display()
    ));
    command.args(["ss", "-Hltne"]);
    Done::from(command.output()?).good()
}

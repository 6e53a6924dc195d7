//! The agent is replaced, killed, upgraded and robbed of its links, while pods dial without end: nobody goes past, and
//! where a new process takes over nobody is refused.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use picket_tests::output::Done;
use picket_tests::pod::RealPod;
use picket_tests::running::Running;
use serde_json::{Value, json};

use crate::Test;
use crate::told::event;
use crate::world::World;

pub(crate) const TESTS: &[Test] = &[
    (
        "a_new_process_takes_over_and_refuses_nobody",
        a_new_process_takes_over_and_refuses_nobody,
    ),
    (
        "a_take_over_that_fails_changes_nothing",
        a_take_over_that_fails_changes_nothing,
    ),
    (
        "a_take_over_by_another_configuration_fails_at_every_stage",
        a_take_over_by_another_configuration_fails_at_every_stage,
    ),
    (
        "killed_again_and_again_nobody_goes_past",
        killed_again_and_again_nobody_goes_past,
    ),
    (
        "another_map_layout_stays_closed_until_its_classes_are_in_force",
        another_map_layout_stays_closed_until_its_classes_are_in_force,
    ),
    (
        "a_link_that_is_taken_away_comes_back",
        a_link_that_is_taken_away_comes_back,
    ),
    (
        "its_supervisor_hears_that_it_is_at_work",
        its_supervisor_hears_that_it_is_at_work,
    ),
    ("uninstalled_no_link_is_left", uninstalled_no_link_is_left),
];

/// How long what is waited for may take.
const LIMIT: Duration = Duration::from_secs(30);
/// The issue's own number: a link that is lost is noticed and put back within this time.
const LINK_LIMIT: Duration = Duration::from_secs(5);
/// Clients at once in the pod that dials without end.
const CLIENTS: &str = "20";
/// How often the agent is killed.
const KILLS: usize = 10;

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
struct Load(Running);

impl Load {
    /// In the pod that is enforced.
    fn enforced(world: &World) -> Result<Self> {
        let path = "/api/v1/namespaces/lab/configmaps/seed";
        Self::start(world, "agents", "worker", &[CLIENTS, path])
    }

    /// In the enforced pod that shares the node's network.
    fn hosted(world: &World) -> Result<Self> {
        let path = "/api/v1/namespaces/lab/configmaps/seed";
        Self::start(world, "agents", "hosted", &["4", path])
    }

    /// In the pod that is left alone; its account may read the version.
    fn exempt(world: &World) -> Result<Self> {
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
    fn stop(mut self) -> Result<(u64, Value)> {
        self.0.send("over")?;
        let told: Value = serde_json::from_str(&self.0.line_with("answered")?)?;
        Ok((
            told["answered"].as_u64().context("no count")?,
            told["failed"].clone(),
        ))
    }
}

fn nothing(failed: &Value) -> bool {
    failed.as_object().is_some_and(serde_json::Map::is_empty)
}

/// Counts, in the node, the packets that come from a pod and are for the API server: a redirected connect sends none.
pub(crate) struct Counter<'a> {
    world: &'a World,
    table: String,
}

impl<'a> Counter<'a> {
    pub(crate) fn start(world: &'a World, namespace: &str) -> Result<Self> {
        let pod = RealPod::find(&world.cluster, namespace, "worker")?;
        let table = format!("picket_test_{namespace}");
        let rules = format!(
            "table ip {table} {{\nchain seen {{\ntype filter hook prerouting priority -400;\n\
             ip saddr {} tcp dport {{ 443, 6443 }} counter\n}}\n}}",
            pod.address()
        );
        let counter = Self { world, table };
        counter.nft(&[&rules])?;
        Ok(counter)
    }

    pub(crate) fn packets(&self) -> Result<u64> {
        let shown = self.nft(&["-j", "list", "table", "ip", &self.table])?;
        let shown: Value = serde_json::from_str(&shown)?;
        let found = shown["nftables"].as_array().into_iter().flatten();
        found
            .filter_map(|one| one["rule"]["expr"].as_array())
            .flatten()
            .find_map(|one| one["counter"]["packets"].as_u64())
            .context("nft shows no counter")
    }

    fn nft(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new("nft");
        command.args(arguments);
        Done::from(self.world.agent.node().output(command)?).good()
    }
}

impl Drop for Counter<'_> {
    fn drop(&mut self) {
        // The node's namespace goes with the cluster anyway.
        let _ = self.nft(&["delete", "table", "ip", &self.table]);
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

/// The ids of all bpf links of the machine.
fn links() -> Result<BTreeSet<u32>> {
    aya::programs::loaded_links()
        .filter_map(|link| match link {
            // It went between being listed and being opened.
            Err(_) => None,
            Ok(link) => Some(Ok(link.id())),
        })
        .collect()
}

fn verify_audit(world: &World) -> Result<()> {
    let file = world.agent.audit_file().display().to_string();
    Done::from(world.agent.picket(&["audit", "verify", &file])?)
        .good()
        .map(drop)
}

fn log_since(world: &World, start: usize) -> Result<String> {
    let text = std::fs::read_to_string(world.agent.log_file())?;
    Ok(text.get(start..).unwrap_or_default().to_owned())
}

fn log_length(world: &World) -> usize {
    std::fs::metadata(world.agent.log_file()).map_or(0, |found| found.len() as usize)
}

fn a_new_process_takes_over_and_refuses_nobody(world: &mut World) -> Result<()> {
    let start = log_length(world);
    let (load, hosted) = (Load::enforced(world)?, Load::hosted(world)?);
    let watching = Running::start(
        &world.cluster.kubectl_client(),
        "agents",
        "worker",
        &[
            "kubectl",
            "get",
            "configmap",
            "seed",
            "-n",
            "lab",
            "--watch",
            "-o",
            "name",
        ],
    )?;
    watching.line_with("seed")?;
    std::thread::sleep(Duration::from_secs(1));

    let began = Instant::now();
    let mut before = world.agent.succeed()?;
    let yielded = until("the older agent steps back", LIMIT, || {
        Ok(log_since(world, start)?.contains("another agent has taken over"))
    })?;
    // The stream that was open goes on meanwhile.
    world.admin(&[
        "annotate",
        "configmap",
        "seed",
        "-n",
        "lab",
        "--overwrite",
        "turn=1",
    ])?;
    watching.line_with("seed")?;
    until("the older agent ends", LIMIT, || Ok(before.try_wait()?.is_some()))?;
    let ended = began.elapsed();
    let status = before.wait()?;
    world.agent.wait()?;
    std::thread::sleep(Duration::from_secs(1));
    let (answered, failed) = load.stop()?;
    let (in_node, failed_in_node) = hosted.stop()?;
    eprintln!(
        "take-over: stepped back after {yielded:?}, ended after {ended:?}; {answered} requests answered"
    );
    ensure!(nothing(&failed), "of {answered} requests some failed: {failed}");
    ensure!(
        nothing(&failed_in_node) && in_node > 20,
        "on the node's network {in_node} requests were answered, and some failed: {failed_in_node}"
    );
    ensure!(answered > 100, "only {answered} requests were made");
    ensure!(status.success(), "the older agent ended with {status}");
    let said = log_since(world, start)?;
    for line in [
        "handed over, waiting",
        "taking over from the agent",
        "has stepped back",
    ] {
        ensure!(said.contains(line), "no {line:?} in:\n{said}");
    }
    let served = world
        .agent
        .metric("picket_requests_total", &["outcome=\"allow\""])?;
    ensure!(served > 10.0, "the new agent served only {served} requests");
    verify_audit(world)
}

/// The newer process dies before it has settled: the older one goes on with the listeners that it had, and what the other
/// put in the place of links and classes is put back, as nobody's attack.
fn a_take_over_that_fails_changes_nothing(world: &mut World) -> Result<()> {
    // An agent that took over does not hand over soon after.
    world.agent.stop()?;
    world.agent.restart()?;
    let (start, picket) = (log_length(world), world.picket_log());
    let listening = listeners(world)?;
    let loads = [Load::enforced(world)?, Load::hosted(world)?, Load::exempt(world)?];
    let before = world.agent.succeed()?;
    until("it has begun", LIMIT, || {
        Ok(log_since(world, start)?.contains("handed over, waiting"))
    })?;
    until("the newer agent's programs are there", LIMIT, || {
        Ok(log_since(world, start)?.contains("version="))
    })?;
    let pid = before.id();
    world.agent.fall_back(before)?;
    until("the older agent goes on", LIMIT, || {
        Ok(log_since(world, start)?.contains("put back what the agent left"))
    })?;
    until("the pod is served", LIMIT, || Ok(asks(world)?.code == 0))?;
    let ready = world.agent.admin("/readyz")?;
    ensure!(ready.0 == 200 && world.agent.pid() == Some(pid), "{ready:?}");
    let [enforced, hosted, exempt] = loads.map(Load::stop);
    for (pod, load) in [("enforced", enforced), ("hosted", hosted)] {
        let (answered, failed) = load?;
        // What the newer agent had accepted ended with it; no connect was refused.
        let refused = failed.to_string();
        ensure!(
            answered > 20 && !refused.contains("refused") && !refused.contains("PermissionError"),
            "in the {pod} pod {answered} requests were answered, and others failed: {failed}"
        );
    }
    let (_, failed) = exempt?;
    ensure!(nothing(&failed), "a pod that is left alone saw {failed}");
    let now = listeners(world)?;
    ensure!(now == listening, "listeners before:\n{listening}now:\n{now}");
    let said = log_since(world, start)?;
    ensure!(!said.contains("not dropped"), "{said}");
    let alarms = picket.all(|record| record["decision"]["reason"] == "link_replaced")?;
    ensure!(alarms.is_empty(), "alarms: {alarms:?}");
    verify_audit(world)
}

/// The newer agent enforces whom the older one leaves alone, and leaves alone whom that enforces; it never settles, for a door's
/// name has no answer. Whatever it had done when it dies, the older one brings pods back where it wants them, new ones too.
fn a_take_over_by_another_configuration_fails_at_every_stage(world: &mut World) -> Result<()> {
    world.agent.stop()?;
    world.agent.restart()?;
    let pins = |world: &World| -> Result<BTreeSet<String>> { Ok(world.agent.pins()?.into_iter().collect()) };
    let (start, picket) = (log_length(world), world.picket_log());
    let before = (pins(world)?, listeners(world)?);
    let file = world.agent.config_file();
    let own = std::fs::read_to_string(&file)?;
    let mut other: Value = serde_json::from_str(&own)?;
    other["enforce"] = json!({"namespaces": ["direct"], "unknownPods": "open"});
    let doors = other["doors"].as_array_mut().context("no doors")?;
    doors.push("nowhere.invalid:443".into());
    std::fs::write(&file, other.to_string())?;
    let outcome: Result<()> = STAGES.iter().try_for_each(|(stage, pause)| {
        let here = log_length(world);
        let older = world.agent.succeed()?;
        let reached = until(stage, LIMIT, || Ok(log_since(world, here)?.contains(stage)));
        std::thread::sleep(*pause);
        let made = if pause.is_zero() {
            Ok(())
        } else {
            world.cluster.apply(MIDWAY)
        };
        world.agent.fall_back(older)?;
        reached.and(made)?;
        until("the older agent goes on", LIMIT, || {
            Ok(log_since(world, here)?.contains("put back what the agent left"))
        })?;
        brought_back(world).with_context(|| format!("killed after {stage:?} and {pause:?}"))?;
        if !pause.is_zero() {
            world.cluster.wait_ready("agents", "midway", LIMIT)?;
            served(world, "agents", "midway")?;
            for namespace in ["agents", "direct"] {
                world.admin(&["delete", "pod", "midway", "-n", namespace, "--now"])?;
            }
        }
        Ok(())
    });
    std::fs::write(&file, own)?;
    outcome?;
    until("the pins and listeners are those of before", LIMIT, || {
        Ok((pins(world)?, listeners(world)?) == before)
    })
    .with_context(|| format!("{before:?} before"))?;
    let (code, ready) = world.agent.admin("/readyz")?;
    ensure!(code == 200, "{ready}");
    let alarms = picket.all(|record| record["decision"]["reason"] == "link_replaced")?;
    ensure!(alarms.is_empty(), "alarms: {alarms:?}");
    let said = log_since(world, start)?;
    ensure!(!said.contains("another agent has taken over"), "{said}");
    verify_audit(world)
}

/// What the newer agent's or the older one's log says when the newer one is killed, and how long after it.
const STAGES: [(&str, Duration); 7] = [
    ("another agent takes over", Duration::ZERO),
    ("handed over, waiting", Duration::ZERO),
    ("taking over from the agent", Duration::ZERO),
    ("version=", Duration::ZERO),
    ("namespace=\"direct\"", Duration::ZERO),
    ("namespace=\"direct\"", Duration::from_millis(300)),
    ("namespace=\"direct\"", Duration::from_millis(2500)),
];

/// Pods that come while another agent takes over.
const MIDWAY: &str = r#"
{apiVersion: v1, kind: List, items: [
{apiVersion: v1, kind: Pod, metadata: {name: midway, namespace: agents, labels: {app: worker}}, spec: {nodeName: node1, serviceAccountName: worker,
containers: [{name: main, image: "picket.test/tools:1", command: [sleep, infinity], env: [{name: HOME, value: /tmp}]}]}},
{apiVersion: v1, kind: Pod, metadata: {name: midway, namespace: direct}, spec: {nodeName: node1,
containers: [{name: main, image: "picket.test/tools:1", command: [sleep, infinity]}]}}]}
"#;

/// Pods are where this agent wants them, within the time in which a lost link must be back.
fn brought_back(world: &World) -> Result<()> {
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

fn served(world: &World, namespace: &str, pod: &str) -> Result<()> {
    let argv = ["kubectl", "get", "configmap", "seed", "-n", "lab"];
    world.run(namespace, pod, &argv)?.good().map(drop)
}

fn killed_again_and_again_nobody_goes_past(world: &mut World) -> Result<()> {
    let pod = RealPod::find(&world.cluster, "agents", "worker")?
        .address()
        .to_owned();
    let server = world.server_log();
    let links_before = links()?.len();
    let load = Load::enforced(world)?;
    let direct = Load::exempt(world)?;
    {
        let mut dead = Vec::new();
        for _ in 0..KILLS {
            world.agent.kill9()?;
            let counted = Counter::start(world, "agents")?;
            std::thread::sleep(Duration::from_millis(200));
            let seen = counted.packets()?;
            drop(counted);
            dead.push(seen);
            world.agent.restart()?;
        }
        ensure!(
            dead.iter().all(|&packets| packets == 0),
            "while the agent was away the API server's address was sent {dead:?} packets"
        );
    }
    // Over a restart too, from before the kill until after the agent serves.
    world.agent.kill9()?;
    let begun = world.agent.begin();
    let (enforced, open) = {
        let (enforced, open) = (Counter::start(world, "agents")?, Counter::start(world, "direct")?);
        begun?;
        until("it serves", LIMIT, || {
            Ok(world.agent.admin("/readyz").is_ok_and(|(code, _)| code == 200))
        })?;
        std::thread::sleep(Duration::from_millis(500));
        (enforced.packets()?, open.packets()?)
    };
    ensure!(
        enforced == 0,
        "over a restart the API server's address was sent {enforced} packets"
    );
    ensure!(open > 0, "the counter counts nothing");
    let (answered, _) = load.stop()?;
    let (exempt, failed) = direct.stop()?;
    eprintln!("{KILLS} kills: {answered} requests answered in the enforced pod, {exempt} in the other");
    ensure!(answered > 0 && exempt > 0, "answered: {answered} and {exempt}");
    ensure!(nothing(&failed), "a pod that is left alone saw {failed}");
    let past = server.all(|record| {
        record["sourceIPs"]
            .as_array()
            .is_some_and(|sources| sources.iter().any(|source| source == pod.as_str()))
    })?;
    ensure!(
        past.is_empty(),
        "the API server was asked by the pod itself: {past:?}"
    );
    until("as many links as before", LIMIT, || {
        Ok(links()?.len() == links_before)
    })
    .with_context(|| format!("{links_before} links before"))?;
    verify_audit(world)
}

fn layouts(world: &World) -> Result<Vec<String>> {
    let mut command = Command::new("ls");
    command.arg(world.agent.bpffs());
    let shown = Done::from(world.agent.node().output(command)?).good()?;
    Ok(shown
        .lines()
        .filter(|name| name.starts_with("v1-"))
        .map(str::to_owned)
        .collect())
}

fn another_map_layout_stays_closed_until_its_classes_are_in_force(world: &mut World) -> Result<()> {
    let links_before = links()?.len();
    let load = Load::enforced(world)?;
    let direct = Load::exempt(world)?;
    world.agent.kill9()?;
    let own = layouts(world)?;
    ensure!(own.len() == 1, "layouts: {own:?}");
    // To the next agent these are another version's maps and links.
    let mut command = Command::new("mv");
    command
        .arg(world.agent.bpffs().join(&own[0]))
        .arg(world.agent.bpffs().join("v1-0000000000000001"));
    Done::from(world.agent.node().output(command)?).good()?;
    world.agent.begin()?;
    let packets = {
        let counted = Counter::start(world, "agents")?;
        until("it serves", LIMIT, || {
            Ok(world.agent.admin("/readyz").is_ok_and(|(code, _)| code == 200))
        })?;
        std::thread::sleep(Duration::from_millis(500));
        counted.packets()?
    };
    let left = layouts(world)?;
    ensure!(
        packets == 0,
        "the API server's address was sent {packets} packets"
    );
    ensure!(left == own, "layouts afterwards: {left:?}");
    asks(world)?.good()?;
    let (_, failed) = direct.stop()?;
    load.stop()?;
    ensure!(nothing(&failed), "a pod that is left alone saw {failed}");
    until("as many links as before", LIMIT, || {
        Ok(links()?.len() == links_before)
    })
    .with_context(|| format!("{links_before} links before"))
    .map(drop)
}

fn a_link_that_is_taken_away_comes_back(world: &mut World) -> Result<()> {
    let picket = world.picket_log();
    let before = world.agent.metric("picket_kernel_reattachments_total", &[])?;
    let pins = world.agent.pins()?;
    let pin = pins
        .iter()
        .find(|pin| pin.ends_with("/link_connect4"))
        .context("no pin of connect4")?;
    let mut command = Command::new("rm");
    command.arg(pin);
    Done::from(world.agent.node().output(command)?).good()?;
    let took = until("the link is back", LINK_LIMIT, || {
        Ok(world.agent.pins()?.contains(pin))
    })?;
    eprintln!("a link was back after {took:?}");
    let record = picket.wait("the lost link", |record| {
        record["decision"]["reason"] == "link_replaced"
    })?;
    ensure!(
        record["annotations"]["picket.dev/severity"] == "critical" && record["kernel"]["hook"] == "connect4",
        "{record:#}"
    );
    let now = world
        .agent
        .metric("picket_kernel_reattachments_total", &["program=\"connect4\""])?;
    ensure!(now - before == 1.0, "{before} re-attachments before, {now} now");
    let told = event(world, "default", "node1", "ProgramReplaced")?;
    ensure!(
        told["message"]
            .as_str()
            .is_some_and(|note| note.contains("connect4")),
        "{told:#}"
    );
    // It holds again.
    let counted = Counter::start(world, "agents")?;
    asks(world)?.good()?;
    ensure!(counted.packets()? == 0, "the connect went past");
    Ok(())
}

fn its_supervisor_hears_that_it_is_at_work(world: &mut World) -> Result<()> {
    world.agent.stop()?;
    world.agent.restart()?;
    let told = world.agent.told_supervisor()?;
    ensure!(told == ["READY=1"], "told: {told:?}");
    Ok(())
}

/// What listens in the pod that is enforced.
fn listeners(world: &World) -> Result<String> {
    let pod = RealPod::find(&world.cluster, "agents", "worker")?;
    let mut command = Command::new("nsenter");
    command.arg(format!(
        "--net={}",
        picket_tests::pod::TestPod::netns(&pod).display()
    ));
    command.args(["ss", "-Hltne"]);
    Done::from(command.output()?).good()
}

fn uninstalled_no_link_is_left(world: &mut World) -> Result<()> {
    let with = links()?;
    world.agent.kill9()?;
    world.agent.uninstall()?;
    let (left, without) = (world.agent.pins()?, links()?);
    let admin = world.agent.admin_socket();
    let sockets: Vec<_> = [admin.with_file_name("handover.sock"), admin]
        .into_iter()
        .filter(|socket| socket.exists())
        .collect();
    let listening = listeners(world);
    world.agent.restart()?;
    let again = links()?;
    let second = (|| {
        world.agent.stop()?;
        world.agent.uninstall()?;
        links()
    })();
    world.agent.restart()?;
    ensure!(left.is_empty(), "pins are left: {left:?}");
    ensure!(sockets.is_empty(), "sockets are left: {sockets:?}");
    let listening = listening?;
    ensure!(
        listening.is_empty(),
        "listeners are left in the pod:\n{listening}"
    );
    ensure!(
        without.len() < with.len(),
        "links before {with:?}, after {without:?}"
    );
    let second = second?;
    ensure!(
        again.len() > second.len() && second.is_subset(&without) && without.is_subset(&second),
        "links without Picket: {without:?}, then {second:?}"
    );
    Ok(())
}

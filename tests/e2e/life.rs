//! The agent comes and goes: closed while it is away, for pods it has never seen too, and open again soon after.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use picket_tests::tests;

use crate::Test;
use crate::world::World;
use picket_tests::audit::about;
use picket_tests::output::Done;
use picket_tests::running::Running;

pub(crate) const TESTS: &[Test] = tests! {
    killed_it_is_closed_and_restarted_it_works,
    stopped_it_is_closed_too,
    a_pod_that_starts_meanwhile_is_closed_too,
    uninstalled_nothing_is_left,
    the_audit_chain_is_whole_through_all_of_it,
};

/// How long a changed file may take to count.
const LIMIT: Duration = Duration::from_secs(20);
/// The issue's own number for a restart until requests work again.
const RESTART_LIMIT: Duration = Duration::from_secs(2);

pub(crate) const GET_SEED: &str = "kubectl get configmap seed -n lab -o name";

/// Dials each `address port` of the arguments once and prints the error's number, 0 for none.
const DIAL: &str = r#"
import json, socket, sys
results = []
for host, port in zip(sys.argv[1::2], sys.argv[2::2]):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as one:
        one.settimeout(20)
        results.append(one.connect_ex((host, int(port))))
print(json.dumps(results))
"#;

/// Asks for a ConfigMap each time a line comes in, again and again until it is answered, and prints after how many tries.
const ASK: &str = r#"
import os, ssl, sys, time, urllib.request
account = "/var/run/secrets/kubernetes.io/serviceaccount"
context = ssl.create_default_context(cafile=account + "/ca.crt")
url = "https://%s:%s/api/v1/namespaces/lab/configmaps/seed" % (os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"])
print("ready", flush=True)
for line in sys.stdin:
    tries, last = 0, None
    while tries < 6000:
        tries += 1
        try:
            with urllib.request.urlopen(urllib.request.Request(url), context=context, timeout=20) as answer:
                print("answered", answer.status, tries, flush=True)
                break
        except Exception as error:
            last = error
            time.sleep(0.01)
    else:
        print("gave up", repr(last), flush=True)
"#;

/// `ECONNREFUSED`.
pub(crate) const REFUSED: i64 = 111;

/// Tries until there is something, or says that there never was.
pub(crate) fn until<T>(mut attempt: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(found) = attempt()? {
            return Ok(found);
        }
        ensure!(Instant::now() < deadline, "it did not happen within {LIMIT:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

pub(crate) fn dial(world: &World, pod: &str) -> Result<Vec<i64>> {
    let address = world.cluster.node().address.to_string();
    let arguments = ["10.96.0.1", "443", &address, "6443", "::ffff:10.96.0.1", "443"];
    Ok(serde_json::from_str(
        &world.python(pod, DIAL, &arguments)?.good()?,
    )?)
}

fn killed_it_is_closed_and_restarted_it_works(world: &mut World) -> Result<()> {
    let argv = ["python3", "-c", ASK];
    let mut asking = Running::start(&world.cluster.kubectl_client(), "agents", "worker", &argv)?;
    asking.line_with("ready")?;
    asking.send("before")?;
    asking.line_with("answered 200")?;

    let (server, picket) = (world.server_log(), world.picket_log());
    world.agent.kill9()?;
    let dialled = dial(world, "worker")?;
    ensure!(
        dialled.iter().all(|&code| code == REFUSED),
        "while the agent is away a dial gives {dialled:?}"
    );
    // What was left alone stays so.
    world.run("direct", "worker", &["sh", "-c", GET_SEED])?.good()?;
    let let_through = server.all(|record| {
        record["userAgent"]
            .as_str()
            .is_some_and(|agent| agent.starts_with("Python"))
    })?;
    ensure!(let_through.is_empty(), "the API server saw {let_through:?}");

    // The pod asks all the time from before the agent is started; the clock runs until it is answered.
    asking.send("after")?;
    let started = Instant::now();
    let ready = world.agent.restart()?;
    asking.line_with("answered 200")?;
    let works = started.elapsed();
    eprintln!("restart: ready after {ready:?}, the first request answered after {works:?}");
    ensure!(
        works < RESTART_LIMIT,
        "it worked again only {works:?} after the start"
    );
    asking.wait()?;
    world.worker(GET_SEED)?.good()?;
    // The pods' classes still had the listeners of the agent before when it opened its own.
    let own = picket.all(|record| record.to_string().contains("listener_port"))?;
    ensure!(
        own.is_empty(),
        "the agent's own listeners are told as denials: {own:?}"
    );
    world
        .worker("kubectl delete namespace doomed")?
        .refused(&["keep-namespaces"])
        .map(drop)
}

/// Watches that are open when the agent is told to stop; enough that one that is forgotten shows.
const WATCHES: usize = 400;

fn stopped_it_is_closed_too(world: &mut World) -> Result<()> {
    let picket = world.picket_log();
    let count = WATCHES.to_string();
    let argv = ["picket-test-client", "watches", "lab", "tick", "--count", &count];
    let many = Running::start(&world.cluster.kubectl_client(), "agents", "worker", &argv)?;
    many.line_with("open")?;
    let watching = world.start_worker("kubectl get configmap tick -n lab --watch -o name")?;
    watching.line_with("tick")?;
    // kubectl shows what it has read before it asks to watch.
    let watches = |stage: &str| -> Result<BTreeSet<String>> {
        let of_stage = picket.all(|record| record["verb"] == "watch" && record["stage"] == stage)?;
        Ok(of_stage
            .iter()
            .map(|record| record["auditID"].to_string())
            .collect())
    };
    until(|| Ok((watches("ResponseStarted")?.len() > WATCHES).then_some(())))?;
    let status = world.agent.stop()?;
    let dialled = dial(world, "worker");
    let (started, ended) = (watches("ResponseStarted")?, watches("ResponseComplete")?);
    world.agent.restart()?;
    ensure!(status.success(), "it ended with {status}");
    let dialled = dialled?;
    ensure!(
        dialled.iter().all(|&code| code == REFUSED),
        "after the stop a dial gives {dialled:?}"
    );
    let without = started.difference(&ended).count();
    ensure!(
        without == 0,
        "{without} of {} watches have no record of their end",
        started.len()
    );
    world.worker(GET_SEED)?.good().map(drop)
}

/// What runs when the agent is away, in a pod that it has never seen, must not find the protected endpoint open either.
fn a_pod_that_starts_meanwhile_is_closed_too(world: &mut World) -> Result<()> {
    let server = world.server_log();
    world.agent.kill9()?;
    let manifest = serde_json::json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "late", "namespace": "agents", "labels": {"app": "worker"}},
        "spec": {"nodeName": "node1", "serviceAccountName": "worker", "terminationGracePeriodSeconds": 0, "containers": [{
            "name": "main", "image": "picket.test/tools:1", "imagePullPolicy": "IfNotPresent", "command": ["sleep", "infinity"]}]}});
    let begun = (|| {
        world.cluster.apply(&manifest.to_string())?;
        world
            .cluster
            .wait_ready("agents", "late", Duration::from_secs(90))?;
        let dialled = dial(world, "late")?;
        ensure!(
            dialled.iter().all(|&code| code != 0),
            "a new pod's dial gives {dialled:?}"
        );
        Ok(())
    })();
    world.agent.restart()?;
    begun?;
    until(|| Ok((world.run("agents", "late", &["sh", "-c", GET_SEED])?.code == 0).then_some(())))?;
    world.admin(&["delete", "pod", "late", "-n", "agents", "--wait=false"])?;
    let asked = server.wait("the late pod's request", |record| {
        about(record, "get", "configmaps", "seed")
    })?;
    ensure!(
        asked["impersonatedUser"]["username"] == "agent:worker",
        "{asked:#}"
    );
    Ok(())
}

fn uninstalled_nothing_is_left(world: &mut World) -> Result<()> {
    world.agent.stop()?;
    world.agent.uninstall()?;
    let left = world.agent.pins()?;
    let dialled = dial(world, "worker");
    world.agent.restart()?;
    ensure!(left.is_empty(), "pins are left: {left:?}");
    let dialled = dialled?;
    ensure!(
        dialled.iter().all(|&code| code == 0),
        "after the uninstall a dial gives {dialled:?}"
    );
    // Installed again, it enforces again.
    until(|| {
        Ok((world
            .worker("kubectl delete namespace doomed")?
            .err
            .contains("keep-namespaces"))
        .then_some(()))
    })
}

fn the_audit_chain_is_whole_through_all_of_it(world: &mut World) -> Result<()> {
    let spool = world.agent.audit_directory();
    Done::from(
        world
            .agent
            .picket(&["audit", "verify", &spool.display().to_string()])?,
    )
    .good()?;
    // What it proves: one changed byte is found.
    let changed = world.agent.dir().join("changed.jsonl");
    let mut text = String::new();
    for file in picket_tests::audit::files(&spool)? {
        text += &std::fs::read_to_string(file)?;
    }
    let text = text.replacen("\"outcome\":\"deny\"", "\"outcome\":\"allow\"", 1);
    std::fs::write(&changed, text)?;
    let done = Done::from(
        world
            .agent
            .picket(&["audit", "verify", &changed.display().to_string()])?,
    );
    ensure!(
        done.code == 1,
        "a changed record was not found:\n{}{}",
        done.out,
        done.err
    );
    Ok(())
}

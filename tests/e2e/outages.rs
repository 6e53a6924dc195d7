//! What API servers and clients do to connections: GOAWAY, standing still, being away for a while. Through Picket it is as
//! without.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use picket_tests::audit::Since;
use picket_tests::net;
use picket_tests::pod::TestPod;
use picket_tests::running::Running;
use picket_tests::tests;
use serde_json::Value;

use crate::Test;
use crate::life::until;
use crate::streams::tick;
use crate::world::World;

pub(crate) const TESTS: &[Test] = tests! {
    writes_survive_goaway,
    a_tunnel_ends_with_its_server,
    a_client_that_stands_still_keeps_its_watch,
    an_api_server_that_stands_still_costs_no_watch,
    informers_do_not_list_anew_after_an_outage,
};

/// The API server of this cluster answers one request of 50 with GOAWAY (`--goaway-chance`). Each write of the client would be
/// refused a second time, so each is carried out once.
/// How long each phase of the writes may take. Ten seconds are usual on two cores; a machine that also compiles takes longer.
const WRITES_LIMIT: Duration = Duration::from_secs(150);

fn writes_survive_goaway(world: &mut World) -> Result<()> {
    for http in ["1", "2"] {
        let prefix = format!("written-{http}");
        let argv = ["picket-test-client", "writes", "lab", &prefix, "--http", http];
        let mut writing = Running::start(&world.cluster.kubectl_client(), "agents", "worker", &argv)?;
        let said = loop {
            let line = writing.line_within(WRITES_LIMIT)?;
            if line.contains("written") {
                break line;
            }
        };
        writing.wait()?;
        let done: Value = serde_json::from_str(&said)?;
        eprintln!("over HTTP/{http}: {done}");
        ensure!(done["written"] == 2400, "{done}");
    }
    Ok(())
}

/// Runs `echo` in the target over a WebSocket, reads to the end, and keeps the socket until a line comes in.
const KEEP_OPEN: &str = r#"
import os, socket, ssl, sys
account = "/var/run/secrets/kubernetes.io/serviceaccount"
context = ssl.create_default_context(cafile=account + "/ca.crt")
host, port = os.environ["KUBERNETES_SERVICE_HOST"], int(os.environ["KUBERNETES_SERVICE_PORT"])
stream = context.wrap_socket(socket.create_connection((host, port), 20), server_hostname=host)
token = open(account + "/token").read().strip()
stream.sendall(("GET /api/v1/namespaces/lab/pods/target/exec?command=echo&command=kept-open&stdout=true HTTP/1.1\r\n"
    "Host: %s\r\nAuthorization: Bearer %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: v5.channel.k8s.io\r\n\r\n" % (host, token)).encode())
read = b""
while True:
    some = stream.recv(4096)
    if not some:
        break
    read += some
print("ended", b"kept-open" in read, flush=True)
sys.stdin.readline()
"#;

/// Longer than a tunnel may stay after its server's end, by this machine's load.
const TUNNEL_LIMIT: Duration = Duration::from_secs(10);

fn a_tunnel_ends_with_its_server(world: &mut World) -> Result<()> {
    let picket = world.picket_log();
    let argv = ["python3", "-c", KEEP_OPEN];
    let mut keeping = Running::start(&world.cluster.kubectl_client(), "agents", "worker", &argv)?;
    let said = keeping.line_with("ended")?;
    ensure!(said == "ended True", "{said}");
    let began = Instant::now();
    let of_exec = |record: &Value, stage: &str| {
        record["objectRef"]["subresource"] == "exec" && record["stage"] == stage
    };
    let ended = picket.wait_within(TUNNEL_LIMIT, "the session's end", |record| {
        of_exec(record, "ResponseComplete")
    })?;
    eprintln!("the tunnel ended {:?} after its server", began.elapsed());
    ensure!(ended["session"]["endReason"] == "completed", "{ended:#}");
    keeping.send("go")?;
    keeping.wait().map(drop)
}

/// Starts a watch in the background of a pod, where it outlasts the API server, and waits for its first line.
fn watch_in_background(world: &World, namespace: &str, pod: &str, object: &str) -> Result<String> {
    let file = format!("/tmp/watch-{object}");
    let show = "jsonpath={.data}{\"\\n\"}";
    let line = format!(
        "kubectl get configmap {object} -n lab --watch -o '{show}' > {file} 2>&1 < /dev/null & echo $!"
    );
    let pid = world.run(namespace, pod, &["sh", "-c", &line])?.good()?;
    until(|| {
        let read = world.run(namespace, pod, &["cat", &file])?.good()?;
        Ok((!read.is_empty()).then_some(()))
    })?;
    Ok(pid.trim().to_owned())
}

/// Waits until the watch that was started so has seen `value`, and ends it.
fn sees(world: &World, pod: &str, object: &str, pid: &str, value: &str) -> Result<()> {
    let file = format!("/tmp/watch-{object}");
    let read = || world.run("agents", pod, &["cat", &file])?.good();
    until(|| Ok(read()?.contains(value).then_some(())))
        .with_context(|| format!("{pod} read {:?}", read()))?;
    let read = read()?;
    ensure!(!read.to_lowercase().contains("error"), "{read}");
    world.run("agents", pod, &["kill", pid])?.good().map(drop)
}

/// How long clients stand still: longer than any ping would have waited.
const STOPPED: Duration = Duration::from_secs(55);

/// A client that vanished with nothing under way is noticed within a minute, and by this machine's load a little later.
const VANISHED_LIMIT: Duration = Duration::from_secs(75);

/// One client stands still and goes on; another's line is gone, which is noticed in the same time.
fn a_client_that_stands_still_keeps_its_watch(world: &mut World) -> Result<()> {
    let pid = watch_in_background(world, "agents", "worker", "tick")?;
    let gone = watch_in_background(world, "agents", "remote", "seed")?;
    let remote = world
        .cluster
        .wait_ready("agents", "remote", Duration::from_secs(30))?;
    let log = Since::now(&world.other.audit_directory());
    net::ip(remote.netns(), "link set lo down\n")?;
    let began = Instant::now();
    world.run("agents", "worker", &["kill", "-STOP", &pid])?.good()?;
    std::thread::sleep(STOPPED);
    world.run("agents", "worker", &["kill", "-CONT", &pid])?.good()?;
    tick(world, "after the stop")?;
    let goes_on = sees(world, "worker", "tick", &pid, "after the stop");

    let ended = log.wait_within(
        VANISHED_LIMIT.saturating_sub(began.elapsed()),
        "the end of the client that vanished",
        |record| record["verb"] == "watch" && record["stage"] == "ResponseComplete",
    );
    eprintln!("a client that vanished was noticed after {:?}", began.elapsed());
    net::ip(remote.netns(), "link set lo up\n")?;
    world.run("agents", "remote", &["kill", &gone])?;
    goes_on?;
    let ended = ended?;
    ensure!(ended["agent"]["pod"]["name"] == "remote", "{ended:#}");
    Ok(())
}

fn an_api_server_that_stands_still_costs_no_watch(world: &mut World) -> Result<()> {
    let pid = watch_in_background(world, "agents", "worker", "tick")?;
    let picket = world.picket_log();
    let paused = world.cluster.pause_api_server()?;
    std::thread::sleep(Duration::from_secs(60));
    let ended = picket.all(|record| record["verb"] == "watch" && record["stage"] == "ResponseComplete");
    drop(paused);
    until(|| Ok(tick(world, "after the pause").is_ok().then_some(())))?;
    sees(world, "worker", "tick", &pid, "after the pause")?;
    let ended = ended?;
    ensure!(ended.is_empty(), "{ended:#?}");
    follows_its_objects(world)
}

/// How long the API server's own informers may take: client-go waits for up to a minute between its tries.
const INFORMERS: Duration = Duration::from_secs(120);

/// Waits until the API server's authorizer knows a new binding. An outage is one for the API server's own informers too, and their
/// watches begin again after a while; what comes next must not be denied for that.
fn follows_its_objects(world: &World) -> Result<()> {
    let (name, since) = ("awake", Instant::now());
    world.admin(&[
        "create",
        "clusterrolebinding",
        name,
        "--clusterrole=view",
        "--user=awake",
    ])?;
    let asked = ["auth", "can-i", "list", "pods", "-A", "--as=awake"];
    while world.admin(&asked).is_err() {
        ensure!(
            since.elapsed() < INFORMERS,
            "not within {INFORMERS:?} after the outage"
        );
        std::thread::sleep(Duration::from_millis(500));
    }
    eprintln!(
        "the API server follows its objects again after {:?}",
        since.elapsed()
    );
    world.admin(&["delete", "clusterrolebinding", name])?;
    Ok(())
}

/// What of it is a list, in either way of listing: `list`, and a watch that begins with what there is.
fn lists(log: &Since, agent: &str) -> Result<usize> {
    let listed = log.all(|record| {
        let initial = record["requestURI"]
            .as_str()
            .is_some_and(|uri| uri.contains("sendInitialEvents=true"));
        // A watch's start is not counted as well as its end.
        record["userAgent"] == agent
            && ((record["verb"] == "list" && record["stage"] == "ResponseComplete")
                || (initial && record["stage"] == "ResponseStarted"))
    })?;
    Ok(listed.len())
}

/// Fifty informers of client-go, through Picket and direct, while the API server is cut off for 40 s. Those through Picket never
/// list anew; those that go direct are the measure beside them.
fn informers_do_not_list_anew_after_an_outage(world: &mut World) -> Result<()> {
    const WHO: [(&str, &str); 2] = [("agents", "informers-picket"), ("direct", "informers-direct")];
    let has = |namespace: &str, what: &str| -> Result<Option<()>> {
        let read = world
            .run(namespace, "worker", &["cat", "/tmp/informers"])?
            .good()?;
        Ok(read.contains(what).then_some(()))
    };
    let log = world.server_log();
    for (namespace, agent) in WHO {
        let line = format!(
            "informers --agent {agent} > /tmp/informers 2>&1 < /dev/null & echo $! > /tmp/informers.pid"
        );
        world.run(namespace, "worker", &["sh", "-c", &line])?.good()?;
        until(|| has(namespace, "synced"))?;
        let listed = lists(&log, agent)?;
        ensure!(listed >= 50, "{agent} has listed {listed} times");
    }
    // A watch that ends in its first second lists anew in any case.
    std::thread::sleep(Duration::from_secs(2));
    let log = world.server_log();
    let cut = world.cluster.cut_api_server_off()?;
    std::thread::sleep(Duration::from_secs(40));
    drop(cut);
    until(|| Ok(tick(world, "after the cut").is_ok().then_some(())))?;
    // client-go waits for up to a minute between its tries by then.
    for (namespace, agent) in WHO {
        let deadline = Instant::now() + Duration::from_secs(90);
        while has(namespace, "all have after the cut")?.is_none() {
            ensure!(Instant::now() < deadline, "{agent} does not go on");
            std::thread::sleep(Duration::from_millis(500));
        }
    }
    let counts = WHO.map(|(_, agent)| lists(&log, agent));
    for (namespace, _) in WHO {
        world
            .run(
                namespace,
                "worker",
                &["sh", "-c", "kill $(cat /tmp/informers.pid)"],
            )?
            .good()?;
    }
    let [through, direct] = counts;
    let (through, direct) = (through?, direct?);
    eprintln!("new lists of 50 informers: {through} through Picket, {direct} direct");
    // Direct, client-go lists anew now and then: where a dial ends in another error than a refused connection.
    ensure!(through == 0, "{through} new lists, {direct} direct");
    follows_its_objects(world)
}

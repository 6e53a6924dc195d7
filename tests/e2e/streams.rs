//! Long requests: they arrive as they happen, go both ways, and end upstream when they end here.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use picket_tests::tests;
use serde_json::Value;

use crate::Test;
use crate::world::World;
use picket_tests::running::Running;

pub(crate) const TESTS: &[Test] = tests! {
    logs_follow_line_by_line,
    watch_event_by_event,
    a_thousand_watches,
    exec_both_ways,
    attach,
    port_forward,
    cp_both_ways,
    bodies_are_not_gathered,
    cancel_reaches_upstream,
    cancel_of_a_session_reaches_upstream,
};

fn logs_follow_line_by_line(world: &mut World) -> Result<()> {
    let following = world.start_worker("kubectl logs -f target -n lab")?;
    following.line_with("started")?;
    for count in 1..=5 {
        ensure!(following.silent(), "a line before it was written");
        // The next line is written only when this one has arrived: nothing can be held back.
        world
            .run(
                "lab",
                "target",
                &["sh", "-c", &format!("echo line {count} > /proc/1/fd/1")],
            )?
            .good()?;
        let line = following.line()?;
        ensure!(
            line == format!("line {count}"),
            "{line:?} instead of line {count}"
        );
    }
    Ok(())
}

fn watch_event_by_event(world: &mut World) -> Result<()> {
    let show = "-o jsonpath='{.data.count}{\"\\n\"}'";
    let watching = world.start_worker(&format!("kubectl get configmap tick -n lab --watch {show}"))?;
    watching.line()?;
    for count in 1..=5 {
        ensure!(watching.silent(), "an event before the change");
        let value = format!("w{count}");
        tick(world, &value)?;
        let line = watching.line()?;
        ensure!(line == value, "{line:?} instead of {value:?}");
    }
    Ok(())
}

pub(crate) fn tick(world: &World, value: &str) -> Result<()> {
    let patch = serde_json::json!({"data": {"count": value}}).to_string();
    world
        .admin(&[
            "patch",
            "configmap",
            "tick",
            "-n",
            "lab",
            "--type=merge",
            "-p",
            &patch,
        ])
        .map(drop)
}

fn a_thousand_watches(world: &mut World) -> Result<()> {
    let argv = [
        "picket-test-client",
        "watches",
        "lab",
        "tick",
        "--count",
        "1000",
        "--changes",
        "3",
    ];
    let mut running = Running::start(&world.cluster.kubectl_client(), "agents", "worker", &argv)?;
    let open: Value = serde_json::from_str(&running.line_with("open")?)?;
    ensure!(open["open"] == 1000, "{open}");
    for change in 0..3 {
        tick(world, &format!("many {change}"))?;
    }
    let progressed: Value = serde_json::from_str(&running.line_with("progressed")?)?;
    eprintln!(
        "1,000 watches: open after {} ms, all progressed after {} ms",
        open["millis"], progressed["millis"]
    );
    let code = running.wait()?;
    ensure!(
        code == 0 && progressed["progressed"] == 1000,
        "{progressed}, ended with {code}"
    );
    // Others are served while and after they were open.
    world
        .worker("kubectl get configmap seed -n lab")?
        .good()
        .map(drop)
}

/// kubectl's two transports: WebSocket, and SPDY.
const TRANSPORTS: [&str; 2] = ["true", "false"];

fn exec_both_ways(world: &mut World) -> Result<()> {
    for transport in TRANSPORTS {
        let line = format!(
            "KUBECTL_REMOTE_COMMAND_WEBSOCKETS={transport} kubectl exec -i target -n lab -- \
             sh -c 'while read word; do echo got $word; done; echo over; exit 7'; echo code $?"
        );
        let picket = world.picket_log();
        let mut session = world.start_worker(&line)?;
        for count in 1..=3 {
            // Each answer is read before the next word is sent.
            session.send(&format!("word{count}"))?;
            let line = session.line()?;
            ensure!(line == format!("got word{count}"), "{line:?}");
        }
        session.close_input();
        session.line_with("over")?;
        session.line_with("code 7")?;
        let ended = picket.wait("the session's end", |record| {
            record["objectRef"]["subresource"] == "exec" && record["stage"] == "ResponseComplete"
        })?;
        ensure!(
            ended["session"]["bytes"]["toClient"]
                .as_u64()
                .is_some_and(|bytes| bytes > 0),
            "{ended:#}"
        );
        // A binary megabyte comes back as it went.
        let line = format!(
            "head -c 1048576 /dev/urandom > /tmp/sent; KUBECTL_REMOTE_COMMAND_WEBSOCKETS={transport} kubectl exec -i target -n lab -- \
             cat < /tmp/sent > /tmp/back && cmp /tmp/sent /tmp/back && echo same"
        );
        ensure!(world.worker(&line)?.good()? == "same\n", "the bytes differ");
    }
    Ok(())
}

fn attach(world: &mut World) -> Result<()> {
    for (name, transport) in ["echo-websocket", "echo-spdy"].into_iter().zip(TRANSPORTS) {
        let pod = serde_json::json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "lab"}, "spec": {
            "restartPolicy": "Never", "terminationGracePeriodSeconds": 0, "containers": [{
                "name": "main", "image": "picket.test/busybox:1", "imagePullPolicy": "IfNotPresent", "stdin": true, "stdinOnce": true,
                "command": ["sh", "-c", "while read word; do echo heard $word; done"]}]}});
        world.cluster.apply(&pod.to_string())?;
        world.cluster.wait_ready("lab", name, Duration::from_secs(90))?;
        let line = format!("KUBECTL_REMOTE_COMMAND_WEBSOCKETS={transport} kubectl attach -i {name} -n lab");
        let mut session = world.start_worker(&line)?;
        session.send("hello")?;
        session.line_with("heard hello")?;
        session.send("again")?;
        session.line_with("heard again")?;
        session.wait()?;
        world.admin(&["delete", "pod", name, "-n", "lab", "--wait=false"])?;
    }
    Ok(())
}

fn port_forward(world: &mut World) -> Result<()> {
    for (port, transport) in ["18080", "18081"].into_iter().zip(TRANSPORTS) {
        let line = format!(
            "KUBECTL_PORT_FORWARD_WEBSOCKETS={transport} kubectl port-forward pod/target -n lab {port}:8080 > /tmp/forward-{port} 2>&1 & \
             forward=$!; tries=0; \
             until grep -q Forwarding /tmp/forward-{port} || [ $tries -ge 100 ]; do sleep 0.2; tries=$((tries + 1)); done; \
             wget -q -O - http://127.0.0.1:{port}/ && wget -q -O - http://127.0.0.1:{port}/index.html; code=$?; \
             kill $forward; [ $code = 0 ] || cat /tmp/forward-{port}; exit $code"
        );
        let out = world.worker(&line)?.good()?;
        ensure!(out == "served\nserved\n", "{out:?}");
    }
    Ok(())
}

fn cp_both_ways(world: &mut World) -> Result<()> {
    let line = "rm -rf /tmp/there /tmp/back; mkdir -p /tmp/there/deep; head -c 300000 /dev/urandom > /tmp/there/deep/file; \
                kubectl cp /tmp/there lab/target:/tmp/copied && kubectl cp lab/target:/tmp/copied /tmp/back && \
                cmp /tmp/there/deep/file /tmp/back/deep/file && echo same";
    let out = world.worker(line)?.good()?;
    ensure!(out.ends_with("same\n"), "{out:?}");
    world
        .run("lab", "target", &["rm", "-r", "/tmp/copied"])?
        .good()
        .map(drop)
}

/// Opens as many lists as its argument says, reads each one's head and then nothing until a line comes in; then reads all,
/// and prints how many bytes that were.
const SLOW: &str = r#"
import http.client, os, ssl, sys
account = "/var/run/secrets/kubernetes.io/serviceaccount"
context = ssl.create_default_context(cafile=account + "/ca.crt")
answers = []
for _ in range(int(sys.argv[1])):
    connection = http.client.HTTPSConnection(os.environ["KUBERNETES_SERVICE_HOST"], context=context, timeout=60)
    connection.request("GET", "/api/v1/namespaces/lab/configmaps?labelSelector=size%3Dlarge")
    answers.append((connection, connection.getresponse()))
print("held", flush=True)
sys.stdin.readline()
print("read", sum(len(answer.read()) for _, answer in answers), flush=True)
"#;

/// Of a list of many megabytes that nobody reads, the agent holds a window's worth.
fn bodies_are_not_gathered(world: &mut World) -> Result<()> {
    const CONNECTIONS: usize = 16;
    const OBJECTS: usize = 16;
    const ROOM: u64 = 64 * 1024 * 1024;
    let data = "x".repeat(900_000);
    for number in 0..OBJECTS {
        let map = serde_json::json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"text": data},
            "metadata": {"name": format!("large-{number}"), "namespace": "lab", "labels": {"size": "large"}}});
        world
            .cluster
            .kubectl_client()
            .run(&["create", "-f", "-"], Some(&map.to_string()))?;
    }
    let before = resident(world)?;
    let argv = ["python3", "-c", SLOW, &CONNECTIONS.to_string()];
    let mut reading = Running::start(&world.cluster.kubectl_client(), "agents", "worker", &argv)?;
    reading.line_with("held")?;
    // What the agent would gather comes as fast as the API server gives it; a second is plenty for that.
    std::thread::sleep(Duration::from_secs(1));
    let held = resident(world)?.saturating_sub(before);
    reading.send("go")?;
    let read = reading.line_with("read")?;
    world.admin(&["delete", "configmap", "-n", "lab", "-l", "size=large"])?;
    let bytes = read
        .split(' ')
        .nth(1)
        .and_then(|bytes| bytes.parse::<u64>().ok())
        .unwrap_or_default();
    ensure!(
        bytes > (CONNECTIONS * OBJECTS * data.len()) as u64,
        "the lists were {bytes} bytes"
    );
    eprintln!("{bytes} bytes unread by clients: {held} more in the agent's memory");
    ensure!(held < ROOM, "the agent gathered {held} bytes");
    Ok(())
}

/// The agent's resident memory in bytes.
fn resident(world: &World) -> Result<u64> {
    let pid = world.agent.pid().context("the agent does not run")?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .context("no VmRSS")?;
    let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kilobytes * 1024)
}

fn cancel_reaches_upstream(world: &mut World) -> Result<()> {
    let line = "kubectl get configmap tick -n lab --watch -o name & sleeper=$!; \
                read go; kill -9 $sleeper; wait $sleeper; echo killed";
    cancel(world, line, "tick", |record| {
        record["requestURI"]
            .as_str()
            .unwrap_or_default()
            .contains("watch=true")
    })
}

fn cancel_of_a_session_reaches_upstream(world: &mut World) -> Result<()> {
    let line = "kubectl exec target -n lab -- sh -c 'echo here; sleep 3000' & sleeper=$!; \
                read go; kill -9 $sleeper; wait $sleeper; echo killed";
    cancel(world, line, "here", |record| {
        record["objectRef"]["subresource"] == "exec"
    })
}

/// Starts what goes on for long, waits until it has said `first`, kills the client, and waits for the API server's word
/// that the very request has ended; left alone it would have gone on for half an hour or more.
fn cancel(world: &World, line: &str, first: &str, long: fn(&Value) -> bool) -> Result<()> {
    let server = world.server_log();
    let mut running = world.start_worker(line)?;
    running.line_with(first)?;
    let started = server.wait("the start", |record| {
        let ours = record["impersonatedUser"]["username"] == "agent:worker";
        ours && record["stage"] == "ResponseStarted" && long(record)
    })?;
    let over =
        |record: &Value| record["stage"] == "ResponseComplete" && record["auditID"] == started["auditID"];
    ensure!(server.all(over)?.is_empty(), "it has ended by itself");
    running.send("go")?;
    running.line_with("killed")?;
    server.wait("the end", over).map(drop)
}

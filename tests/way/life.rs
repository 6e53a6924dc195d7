//! The agent comes, goes and reads again: closed while it is away, and never less strict than its last good files.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::Test;
use crate::audit::about;
use crate::output::Done;
use crate::running::Running;
use crate::world::World;

pub(crate) const TESTS: &[Test] = &[
    (
        "a_policy_takes_effect_when_its_file_changes",
        a_policy_takes_effect_when_its_file_changes,
    ),
    (
        "a_broken_policy_keeps_the_last_good",
        a_broken_policy_keeps_the_last_good,
    ),
    ("a_broken_file_stops_the_start", a_broken_file_stops_the_start),
    (
        "killed_it_is_closed_and_restarted_it_works",
        killed_it_is_closed_and_restarted_it_works,
    ),
    ("stopped_it_is_closed_too", stopped_it_is_closed_too),
    (
        "a_pod_that_starts_meanwhile_is_closed_too",
        a_pod_that_starts_meanwhile_is_closed_too,
    ),
    (
        "an_api_server_out_of_reach_is_503",
        an_api_server_out_of_reach_is_503,
    ),
    ("a_token_file_works_too", a_token_file_works_too),
    ("uninstalled_nothing_is_left", uninstalled_nothing_is_left),
    (
        "the_audit_chain_is_whole_through_all_of_it",
        the_audit_chain_is_whole_through_all_of_it,
    ),
];

/// How long a changed file may take to count.
const LIMIT: Duration = Duration::from_secs(20);
/// The issue's own number for a restart until requests work again.
const RESTART_LIMIT: Duration = Duration::from_secs(2);

const NO_SEED: &str = "apiVersion: picket.dev/v1alpha1\nkind: AgentPolicy\nmetadata: {name: later}\nspec:\n  rules:\n  \
                       - name: no-seed\n    match: {verbs: [get], resources: [configmaps], names: [seed]}\n    action: Deny\n    \
                       message: Not any more.\n";

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

fn a_policy_takes_effect_when_its_file_changes(world: &mut World) -> Result<()> {
    world.worker(GET_SEED)?.good()?;
    world.agent.write_objects("later.yaml", NO_SEED)?;
    let refused = until(|| {
        let said = world.worker(GET_SEED)?;
        Ok((said.code != 0).then_some(said))
    });
    world.agent.remove_objects("later.yaml")?;
    refused?.refused(&["later", "no-seed", "Not any more."])?;
    until(|| Ok((world.worker(GET_SEED)?.code == 0).then_some(())))
}

fn a_broken_policy_keeps_the_last_good(world: &mut World) -> Result<()> {
    world.agent.write_objects("later.yaml", NO_SEED)?;
    let done = (|| {
        until(|| Ok((world.worker(GET_SEED)?.code != 0).then_some(())))?;
        let failures = || {
            world.agent.metric(
                "picket_config_reloads_total",
                &["kind=\"policy\"", "result=\"failure\""],
            )
        };
        let before = failures()?;
        // A rule that is fine comes with one that is not: all or nothing.
        let broken = format!(
            "{}  - name: half\n    match: {{verbs: [get]}}\n    when: \"true\"\n    action: Deny\n",
            NO_SEED.replace("[seed]", "[tick]")
        );
        world.agent.write_objects("later.yaml", &broken)?;
        until(|| Ok((failures()? > before).then_some(())))?;
        let log = world.agent.log_end();
        ensure!(
            log.contains("later.yaml:12") && log.contains("when"),
            "the log does not say what is wrong:\n{log}"
        );
        world.worker(GET_SEED)?.refused(&["no-seed"])?;
        world
            .worker("kubectl get configmap tick -n lab -o name")?
            .good()?;
        Ok(())
    })();
    world.agent.remove_objects("later.yaml")?;
    until(|| Ok((world.worker(GET_SEED)?.code == 0).then_some(())))?;
    done
}

/// Copies of the running agent's configuration, each with one thing broken; none of them may come up.
fn a_broken_file_stops_the_start(world: &mut World) -> Result<()> {
    let dir = world.agent.dir().join("broken");
    std::fs::create_dir_all(&dir)?;
    let good: Value = serde_json::from_str(&std::fs::read_to_string(world.agent.config_file())?)?;
    let write = |name: &str, text: &str| -> Result<std::path::PathBuf> {
        let path = dir.join(name);
        std::fs::write(&path, text)?;
        Ok(path)
    };
    let with = |section: &str, field: &str, path: &std::path::Path| {
        let mut config = good.clone();
        // Never the running agent's socket or pins.
        config["admin"]["socket"] = Value::String(dir.join("admin.sock").display().to_string());
        config["kernel"]["bpffs"] = Value::String(dir.join("bpf").display().to_string());
        let path = path.display().to_string();
        if section.is_empty() {
            config[field] = serde_json::json!([path]);
        } else {
            config[section][field] = Value::String(path);
        }
        serde_json::to_string_pretty(&config).map_err(anyhow::Error::from)
    };

    let policy = write("policy.yaml", &NO_SEED.replace("action: Deny", "action: Shrug"))?;
    let certificate = write(
        "node-ca.crt",
        "-----BEGIN CERTIFICATE-----\nnothing\n-----END CERTIFICATE-----\n",
    )?;
    let unknown = serde_json::to_string_pretty(&good)?.replace("\"caFile\"", "\"caFlie\"");
    let line = 1 + unknown
        .lines()
        .position(|line| line.contains("caFlie"))
        .context("no caFile in the configuration")?;
    for (name, text, says) in [
        ("unknown.yaml", unknown, format!("unknown.yaml:{line}: ")),
        (
            "objects.yaml",
            with("", "objects", &policy)?,
            "policy.yaml:8:".to_owned(),
        ),
        (
            "certificate.yaml",
            with("tls", "caCertificateFile", &certificate)?,
            "node-ca.crt:".to_owned(),
        ),
        (
            "missing.yaml",
            with("upstream", "caFile", std::path::Path::new("/nowhere/ca.crt"))?,
            "/nowhere/ca.crt".to_owned(),
        ),
    ] {
        let config = write(name, &text)?.display().to_string();
        let mut command = std::process::Command::new("timeout");
        command
            .arg("20")
            .arg(world.agent.binary())
            .args(["agent", "--config", &config]);
        let done = Done::from(world.cluster.node().output(command)?);
        ensure!(
            done.code != 124,
            "{name}: it started with a broken file:\n{}{}",
            done.out,
            done.err
        );
        done.refused(&[&says]).with_context(|| name.to_owned())?;
    }
    world.worker(GET_SEED)?.good().map(drop)
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

    let server = world.server_log();
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
    world
        .worker("kubectl delete namespace doomed")?
        .refused(&["keep-namespaces"])
        .map(drop)
}

fn stopped_it_is_closed_too(world: &mut World) -> Result<()> {
    let picket = world.picket_log();
    let watching = world.start_worker("kubectl get configmap tick -n lab --watch -o name")?;
    watching.line_with("tick")?;
    let status = world.agent.stop()?;
    ensure!(status.success(), "it ended with {status}");
    let dialled = dial(world, "worker")?;
    ensure!(
        dialled.iter().all(|&code| code == REFUSED),
        "after the stop a dial gives {dialled:?}"
    );
    picket.wait("the watch's end", |record| {
        record["verb"] == "watch" && record["stage"] == "ResponseComplete"
    })?;
    world.agent.restart()?;
    world.worker(GET_SEED)?.good().map(drop)
}

/// What runs when the agent is away, in a pod that it has never seen, must not find the door open either.
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

/// Runs `work` with a changed configuration, and puts the old one back whatever came of it.
fn configured<T>(
    world: &mut World,
    change: impl FnOnce(&mut Value),
    work: impl FnOnce(&World) -> Result<T>,
) -> Result<T> {
    let file = world.agent.config_file();
    let good = std::fs::read_to_string(&file)?;
    let mut config: Value = serde_json::from_str(&good)?;
    change(&mut config);
    world.agent.stop()?;
    std::fs::write(&file, serde_json::to_string_pretty(&config)?)?;
    let started = world.agent.restart();
    let done = started.and_then(|_| work(world));
    if world.agent.pid().is_some() {
        world.agent.stop()?;
    }
    std::fs::write(&file, good)?;
    world.agent.restart()?;
    done
}

fn an_api_server_out_of_reach_is_503(world: &mut World) -> Result<()> {
    // Nobody listens there, so a dial is refused at once.
    let nowhere = format!("https://{}:6999", world.cluster.node().address);
    let change = |config: &mut Value| config["upstream"]["server"] = Value::String(nowhere);
    let answer = configured(world, change, |world| {
        let arguments = ["GET", "/api/v1/namespaces/lab/configmaps/seed"];
        world
            .python("worker", crate::identity::REQUEST, &arguments)?
            .good()
    })?;
    let answer: Value = serde_json::from_str(&answer)?;
    ensure!(
        answer["code"] == 503 && answer["body"]["kind"] == "Status",
        "{answer:#}"
    );
    ensure!(answer["body"]["reason"] == "ServiceUnavailable", "{answer:#}");
    let wait = answer["retryAfter"]
        .as_str()
        .and_then(|seconds| seconds.parse::<u32>().ok());
    ensure!(
        wait.is_some_and(|seconds| seconds > 0),
        "no Retry-After in {answer:#}"
    );
    world.worker(GET_SEED)?.good().map(drop)
}

/// A service account's token instead of a certificate, replaced while the agent runs; and records on standard output.
fn a_token_file_works_too(world: &mut World) -> Result<()> {
    world.cluster.apply(include_str!("files/token.yaml"))?;
    let token = world.agent.dir().join("token");
    let renew = |world: &World| -> Result<()> {
        let text = world.admin(&["create", "token", "node", "-n", "picket-system"])?;
        Ok(std::fs::write(world.agent.dir().join("token"), text)?)
    };
    renew(world)?;
    let change = |config: &mut Value| {
        config["audit"]["stdout"] = Value::Bool(true);
        let upstream = &mut config["upstream"];
        upstream["clientCertificateFile"] = Value::Null;
        upstream["clientKeyFile"] = Value::Null;
        upstream["tokenFile"] = Value::String(token.display().to_string());
    };
    configured(world, change, |world| {
        let ask = || -> Result<Value> {
            let (picket, server) = (world.picket_log(), world.server_log());
            world.worker(GET_SEED)?.good()?;
            let get = |record: &Value| about(record, "get", "configmaps", "seed");
            let theirs = server.wait("the get", |record| {
                get(record) && record["impersonatedUser"].is_object()
            })?;
            let user = &theirs["user"]["username"];
            ensure!(user == "system:serviceaccount:picket-system:node", "{theirs:#}");
            ensure!(
                theirs["impersonatedUser"]["username"] == "agent:worker",
                "{theirs:#}"
            );
            let ours = picket.wait("the get", get)?;
            ensure!(ours["credential"]["method"] == "token", "{ours:#}");
            let printed = std::fs::read_to_string(world.agent.log_file())?;
            let id = ours["auditID"].as_str().unwrap_or_default();
            ensure!(printed.contains(id), "the record is not on standard output");
            Ok(theirs["user"]["extra"]["authentication.kubernetes.io/credential-id"].clone())
        };
        let first = ask()?;
        renew(world)?;
        until(|| Ok((ask()? != first).then_some(())))
    })
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
    let file = world.agent.audit_file().display().to_string();
    Done::from(world.agent.picket(&["audit", "verify", &file])?).good()?;
    // What it proves: one changed byte is found.
    let changed = world.agent.dir().join("changed.jsonl");
    let text = std::fs::read_to_string(&file)?.replacen("\"outcome\":\"deny\"", "\"outcome\":\"allow\"", 1);
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

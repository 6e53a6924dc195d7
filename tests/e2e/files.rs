//! What the agent reads: a change counts soon, a broken file stops the start, and later keeps the last good. Objects that are not
//! valid at the start do not stop it: until they are, everything is denied.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use picket_tests::secrets::Reach;
use picket_tests::tests;
use serde_json::Value;

use crate::Test;
use crate::life::{GET_SEED, until};
use crate::world::World;
use picket_tests::audit::about;
use picket_tests::output::Done;

pub(crate) const TESTS: &[Test] = tests! {
    a_policy_takes_effect_when_its_file_changes,
    a_broken_policy_keeps_the_last_good,
    a_broken_file_stops_the_start,
    a_successor_with_broken_objects_leaves_the_predecessor_serving,
    without_valid_objects_everything_is_denied_until_they_are_corrected,
    an_api_server_out_of_reach_is_503,
    a_token_file_works_too,
};

const NO_SEED: &str = "apiVersion: picket.dev/v1alpha1\nkind: AgentPolicy\nmetadata: {name: later}\nspec:\n  rules:\n  \
                       - name: no-seed\n    match: {verbs: [get], resources: [configmaps], names: [seed]}\n    action: Deny\n    \
                       message: Not any more.\n";

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
        let begins = std::fs::read(world.agent.log_file())?.len();
        // A rule that is fine comes with one that is not: all or nothing.
        let broken = format!(
            "{}  - name: half\n    match: {{verbs: [get]}}\n    when: \"nobody\"\n    action: Deny\n",
            NO_SEED.replace("[seed]", "[tick]")
        );
        world.agent.write_objects("later.yaml", &broken)?;
        until(|| Ok((failures()? > before).then_some(())))?;
        let log = std::fs::read(world.agent.log_file())?;
        let log = String::from_utf8_lossy(&log[begins..]);
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
    let write = |name: &str, text: &str| -> Result<PathBuf> {
        let path = dir.join(name);
        std::fs::write(&path, text)?;
        Ok(path)
    };
    let with = |section: &str, field: &str, path: &Path| {
        let mut config = good.clone();
        config[section][field] = Value::String(path.display().to_string());
        serde_json::to_string_pretty(&config).map_err(anyhow::Error::from)
    };

    let certificate = write(
        "node-ca.crt",
        "-----BEGIN CERTIFICATE-----\nnothing\n-----END CERTIFICATE-----\n",
    )?;
    let unknown = serde_json::to_string_pretty(&good)?.replace("\"caFile\"", "\"caFlie\"");
    let line = 1 + unknown
        .lines()
        .position(|line| line.contains("caFlie"))
        .context("no caFile in the configuration")?;
    // Beside the agent that runs, as in an upgrade; alone, an agent closes the node first and waits for the file (tests/bypass/boot.rs).
    for (name, text, says) in [
        ("unknown.yaml", unknown, format!("unknown.yaml:{line}:")),
        (
            "certificate.yaml",
            with("tls", "caCertificateFile", &certificate)?,
            "node-ca.crt:".to_owned(),
        ),
        (
            "missing.yaml",
            with("upstream", "caFile", Path::new("/nowhere/ca.crt"))?,
            "/nowhere/ca.crt".to_owned(),
        ),
    ] {
        ends_at_once(world, &write(name, &text)?, &says).with_context(|| name.to_owned())?;
    }
    world.worker(GET_SEED)?.good().map(drop)
}

/// Starts one more agent with this configuration, which must end by itself and say why.
fn ends_at_once(world: &World, config: &Path, says: &str) -> Result<()> {
    let config = config.display().to_string();
    let mut command = Command::new("timeout");
    command
        .arg("20")
        .arg(world.agent.binary())
        .args(["agent", "--config", &config]);
    let done = Done::from(world.cluster.node().output(command)?);
    ensure!(
        done.code != 124,
        "it started with a broken file:\n{}{}",
        done.out,
        done.err
    );
    done.refused(&[says]).map(drop)
}

/// A policy with a word that no policy has, in line 8.
fn broken_policy() -> String {
    NO_SEED.replace("action: Deny", "action: Shrug")
}

fn a_successor_with_broken_objects_leaves_the_predecessor_serving(world: &mut World) -> Result<()> {
    let dir = world.agent.dir().join("broken");
    std::fs::create_dir_all(&dir)?;
    let policy = dir.join("policy.yaml");
    std::fs::write(&policy, broken_policy())?;
    let mut config: Value = serde_json::from_str(&std::fs::read_to_string(world.agent.config_file())?)?;
    config["objects"] = serde_json::json!([policy]);
    let file = dir.join("successor.yaml");
    std::fs::write(&file, serde_json::to_string_pretty(&config)?)?;
    ends_at_once(world, &file, "policy.yaml:8:")?;
    world.worker(GET_SEED)?.good()?;
    let (code, body) = world.agent.admin("/readyz")?;
    ensure!(code == 200, "{body}");
    Ok(())
}

fn without_valid_objects_everything_is_denied_until_they_are_corrected(world: &mut World) -> Result<()> {
    world.agent.stop()?;
    world.agent.write_objects("later.yaml", &broken_policy())?;
    world.agent.begin()?;
    let denied = is_denied_and_not_ready(world);
    world.agent.remove_objects("later.yaml")?;
    denied?;
    until(|| Ok((world.agent.admin("/readyz")?.0 == 200).then_some(())))?;
    world.worker(GET_SEED)?.good().map(drop)
}

fn is_denied_and_not_ready(world: &World) -> Result<()> {
    let picket = world.picket_log();
    let server = world.server_log();
    // Until the listener is open, the kernel denies.
    let said = until(|| {
        let said = world.worker(GET_SEED)?;
        Ok((said.code != 0 && said.err.contains("later.yaml")).then_some(said))
    })?;
    ensure!(
        !said.err.contains("Shrug"),
        "a pod reads what a file says: {}",
        said.err
    );
    said.refused(&["Forbidden", "later.yaml:8:", "Nothing is allowed until"])?;
    let record = picket.wait("the denial", |record| {
        record["decision"]["outcome"] == "deny"
            && record["decision"]["message"]
                .to_string()
                .contains("later.yaml:8:")
    })?;
    ensure!(record["responseStatus"]["code"] == 403, "{record:#}");
    let (code, body) = world.agent.admin("/readyz")?;
    ensure!(
        code == 503
            && body.contains("\"objects\"")
            && body.contains("later.yaml:8:")
            && body.contains("Shrug"),
        "{code} {body}"
    );
    world.admin(&["get", "namespace", "lab"])?;
    let asked = server.all(|record| about(record, "get", "configmaps", "seed"))?;
    ensure!(asked.is_empty(), "the API server was asked: {asked:?}");
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

/// Whether the token's account may impersonate the user of the pod `worker`.
const MAY_IMPERSONATE: &str = r#"{"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": {
    "user": "system:serviceaccount:picket-system:node",
    "resourceAttributes": {"verb": "impersonate:user-info", "group": "authentication.k8s.io", "resource": "users", "name": "agent:worker"}}}"#;

/// A service account's token instead of a certificate, replaced while the agent runs; and records on standard output.
fn a_token_file_works_too(world: &mut World) -> Result<()> {
    world.cluster.apply(include_str!("files/token.yaml"))?;
    let token = world.agent.dir().join("token");
    let renew = |world: &World| -> Result<()> {
        let text = world.admin(&["create", "token", "node", "-n", "picket-system"])?;
        world
            .secrets
            .add("the node's token", text.trim(), Reach::Everywhere)?;
        // In one step, as a kubelet does it: the agent never reads half of it.
        let fresh = world.agent.dir().join("token.fresh");
        std::fs::write(&fresh, text)?;
        Ok(std::fs::rename(fresh, world.agent.dir().join("token"))?)
    };
    renew(world)?;
    // The API server's authorizer learns of a new binding from its own watch.
    until(|| {
        let arguments = ["create", "-f", "-", "-o", "jsonpath={.status.allowed}"];
        let answer = world.cluster.kubectl_stdin(&arguments, MAY_IMPERSONATE)?;
        Ok((answer.stdout == b"true").then_some(()))
    })
    .context("the token's account may not impersonate the agent")?;
    let change = |config: &mut Value| {
        config["audit"]["sinks"] = serde_json::json!([{"name": "out", "stdout": {}}]);
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
            let id = ours["auditID"].as_str().unwrap_or_default();
            until(|| {
                let printed = std::fs::read(world.agent.log_file())?;
                Ok(String::from_utf8_lossy(&printed).contains(id).then_some(()))
            })
            .context("the record is not on standard output")?;
            Ok(theirs["user"]["extra"]["authentication.kubernetes.io/credential-id"].clone())
        };
        let first = ask()?;
        renew(world)?;
        until(|| Ok((ask()? != first).then_some(())))
    })
}

//! An agent's life from the command line, as an operator leads it, from files alone: create, scope, operate, review, revoke.
//!
//! The pod `stranger` is the agent `intern` here. The pod `worker` is another agent, whose watch goes on through all of it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use picket_tests::output::Done;
use picket_tests::running::Running;
use picket_tests::tests;
use serde_json::Value;

use crate::Test;
use crate::life::until;
use crate::world::World;

pub(crate) const TESTS: &[Test] = tests! {
    an_agent_from_create_to_revoke_in_files,
    a_change_that_the_agent_would_refuse_is_not_written,
    a_change_that_no_agent_here_reads_is_not_confirmed,
    kubectl_finds_the_plugin_and_its_completions,
};

/// How long an end may take from the command to the closed stream, this machine's load and kubectl's own end included.
const LIMIT: Duration = Duration::from_secs(5);

const GET: &str = "kubectl get configmap tick -n lab -o name";

/// Runs `picket` on the agent's node, by its configuration.
fn picket(world: &World, line: &str) -> Result<Done> {
    let config = world.agent.config_file().display().to_string();
    let words: Vec<&str> = line.split(' ').chain(["--config", &config]).collect();
    world.agent.picket(&words).map(Done::from)
}

/// As [`picket`], for a change that must be in force before the command ends.
fn change(world: &World, line: &str) -> Result<()> {
    let said = picket(world, line)?.good().with_context(|| line.to_owned())?;
    ensure!(said.contains("In force on this node after "), "{line}: {said}");
    Ok(())
}

fn stranger(world: &World, line: &str) -> Result<Done> {
    world.run("agents", "stranger", &["sh", "-c", line])
}

/// Reads a watch to its end, which must say these words.
fn ends(watch: &Running, words: &str) -> Result<()> {
    let (began, mut said) = (Instant::now(), Vec::new());
    loop {
        let line = watch
            .line()
            .with_context(|| format!("the end of the watch; before: {said:?}"))?;
        if line.starts_with("over ") {
            break;
        }
        said.push(line);
    }
    let took = began.elapsed();
    let said = said.join("\n");
    ensure!(said.contains(words), "the watch ended with {said}");
    ensure!(took < LIMIT, "the watch took {took:?} to end");
    Ok(())
}

fn an_agent_from_create_to_revoke_in_files(world: &mut World) -> Result<()> {
    let lived = life(world);
    for file in ["agentidentity-intern.yaml", "agentgrant-intern-reads.yaml"] {
        if world.agent.objects_dir().join(file).exists() {
            world.agent.remove_objects(file)?;
        }
    }
    lived
}

fn life(world: &World) -> Result<()> {
    // Create: named, and nothing is allowed yet.
    change(
        world,
        "identity create intern --owner lab@example.test --namespace agents --service-account stranger --selector \
         app=stranger --review-by 30d",
    )?;
    stranger(world, GET)?.refused(&["agent intern"])?;
    // Scope.
    change(
        world,
        "grant create intern-reads --to intern --user agent:worker --as-group agents:lab,picket:agents --verb \
         get,list,watch --resource configmaps",
    )?;
    // Operate.
    stranger(world, GET)?.good()?;
    stranger(world, "kubectl delete configmap tick -n lab")?.refused(&["agent intern", "get"])?;
    let others = world.watch_tick("worker")?;
    let first = world.watch_tick("stranger")?;
    // Review.
    let list = picket(world, "identity list -o json")?.good()?;
    let list: Value = serde_json::from_str(&list)?;
    let of_name = |item: &&Value| item["metadata"]["name"] == "intern";
    let intern = list["items"]
        .as_array()
        .and_then(|items| items.iter().find(of_name));
    ensure!(
        intern.is_some_and(|intern| intern["spec"]["owner"] == "lab@example.test"),
        "{list:#}"
    );
    let grants = picket(world, "grant list --identity intern -o name")?.good()?;
    ensure!(
        grants.trim() == "agentgrant.picket.dev/intern-reads",
        "{grants:?}"
    );
    described(world)?;
    narrowed(world)?;
    // Switched off and on.
    change(world, "identity suspend intern --reason INC-1")?;
    ends(&first, "agent intern is suspended")?;
    stranger(world, GET)?.refused(&["agent intern is suspended; its owner lab@example.test"])?;
    change(world, "identity resume intern --reason INC-1-is-closed")?;
    stranger(world, GET)?.good()?;
    // Revoke: for good, and nobody else's.
    let second = world.watch_tick("stranger")?;
    change(world, "identity revoke intern --reason retired --yes")?;
    ends(&second, "agent intern is revoked")?;
    stranger(world, GET)?.refused(&["agent intern is revoked"])?;
    let again = picket(world, "identity resume intern")?;
    ensure!(
        again.code == 1 && again.err.contains("a revoked agent does not come back"),
        "{again:?}"
    );
    stranger(world, GET)?.refused(&["agent intern is revoked"])?;
    ensure!(others.silent(), "the worker's watch ended too");
    taken_back(world)?;
    change(world, "grant delete intern-reads")
}

/// Somebody distributes a file from before the revocation: the agent is back, and that is told.
fn taken_back(world: &World) -> Result<()> {
    let file = world.agent.objects_dir().join("agentidentity-intern.yaml");
    let revoked = std::fs::read_to_string(&file)?;
    ensure!(revoked.contains("state: Revoked"), "{revoked}");
    let counted = || world.agent.metric("picket_revocations_reversed_total", &[]);
    let (before, log) = (counted()?, world.picket_log());
    std::fs::write(&file, revoked.replace("state: Revoked", "state: Active"))?;
    let record = log.wait("the revocation that was taken back", |record| {
        record["decision"]["reason"] == "revocation_reversed"
    })?;
    ensure!(
        record["agent"]["identity"] == "intern" && record["annotations"]["picket.dev/severity"] == "critical",
        "{record:#}"
    );
    ensure!(counted()? == before + 1.0, "it is not counted");
    stranger(world, GET)?.good().map(drop)
}

/// What the agent may do, does and did is told in one place.
fn described(world: &World) -> Result<()> {
    let described = until(|| {
        let said = picket(world, "identity describe intern -o json")?.good()?;
        let said: Value = serde_json::from_str(&said)?;
        // Records of reads are on disk a moment after the answer.
        let has = |list: &Value, verb: &str| {
            list.as_array()
                .is_some_and(|records| records.iter().any(|record| record["verb"] == verb))
        };
        let complete = has(&said["log"]["last"], "get") && has(&said["log"]["refused"], "delete");
        Ok(complete.then_some(said))
    })?;
    ensure!(
        described["state"] == "Active"
            && described["identity"]["spec"]["owner"] == "lab@example.test"
            && described["grants"][0]["metadata"]["name"] == "intern-reads"
            && described["sessions"][0]["kind"] == "watch",
        "{described:#}"
    );
    let text = picket(world, "identity describe intern")?.good()?;
    for words in [
        "lab@example.test",
        "intern-reads",
        "agents/stranger on ",
        "It was read back to ",
    ] {
        ensure!(text.contains(words), "{words:?} is not in\n{text}");
    }
    Ok(())
}

/// The proposal of a review is put in the grant's place: what was used goes on, and the rest is refused.
fn narrowed(world: &World) -> Result<()> {
    let elsewhere = "kubectl get configmaps -n agents -o name";
    let review = picket(world, "identity review intern -o json")?.good()?;
    let review: Value = serde_json::from_str(&review)?;
    let grant = &review["grants"][0];
    ensure!(
        grant["proposal"] == "narrow" && grant["proposed"]["namespaces"] == serde_json::json!(["lab"]),
        "{review:#}"
    );
    let proposed = picket(world, "identity review intern -o yaml")?.good()?;
    let file = "agentgrant-intern-reads.yaml";
    let before = std::fs::read_to_string(world.agent.objects_dir().join(file))?;
    world.agent.write_objects(file, &proposed)?;
    let refused = until(|| Ok(stranger(world, elsewhere)?.refused(&["agent intern"]).ok()));
    let used = stranger(world, GET)?;
    world.agent.write_objects(file, &before)?;
    refused?;
    used.good().with_context(|| proposed).map(drop)
}

/// The agent's files of objects.
fn texts(world: &World) -> Result<BTreeMap<String, String>> {
    let entries = std::fs::read_dir(world.agent.objects_dir())?;
    entries
        .map(|entry| {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            Ok((name, std::fs::read_to_string(entry.path())?))
        })
        .collect()
}

fn a_change_that_the_agent_would_refuse_is_not_written(world: &mut World) -> Result<()> {
    let before = texts(world)?;
    for (line, words) in [
        (
            "identity create twin --owner lab --namespace agents --service-account worker",
            "worker",
        ),
        (
            "grant create nobody --to intern --user agent:worker --verb get --resource configmaps",
            "intern",
        ),
        (
            "grant create odd --to worker --user agent:worker --verb gt --resource configmaps",
            "verb \"gt\"",
        ),
        ("grant delete nothing", "no AgentGrant \"nothing\""),
    ] {
        let done = picket(world, line)?;
        ensure!(done.code == 1 && done.err.contains(words), "{line}: {done:?}");
    }
    let after = texts(world)?;
    ensure!(before == after, "{before:#?} {after:#?}");
    world.worker(GET)?.good().map(drop)
}

/// The code says that the file is written and that nobody here is known to read it.
fn a_change_that_no_agent_here_reads_is_not_confirmed(world: &mut World) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let files = folder.path().display().to_string();
    let create = |name: &str, more: &str| {
        let line = format!(
            "identity create {name} --owner o --namespace elsewhere --service-account {name} --files {files}{more}"
        );
        picket(world, &line)
    };
    for (name, more, code, printed) in [
        ("one", "", 3, "created in"),
        ("two", " --wait 0 -o name", 0, "agentidentity.picket.dev/two"),
        ("three", " --dry-run -o json", 0, "\"name\": \"three\""),
        ("one", "", 1, ""),
    ] {
        let done = create(name, more)?;
        ensure!(
            done.code == code && done.out.contains(printed),
            "{name}{more}: {done:?}"
        );
    }
    let written = std::fs::read_dir(folder.path())?.count();
    ensure!(written == 2, "{written} files");
    Ok(())
}

/// By the names that kubectl looks for on its PATH.
fn kubectl_finds_the_plugin_and_its_completions(world: &mut World) -> Result<()> {
    let folder = tempfile::tempdir()?;
    for name in ["kubectl-picket", "kubectl_complete-picket"] {
        std::os::unix::fs::symlink(world.agent.binary(), folder.path().join(name))?;
    }
    let path = std::env::var("PATH").unwrap_or_default();
    let path = format!("{}:{path}", folder.path().display());
    let kubectl = |line: &str| -> Result<Done> {
        let words: Vec<&str> = line.split(' ').collect();
        let mut command = world.cluster.kubectl_client().command(&words)?;
        Ok(command.env("PATH", &path).output()?.into())
    };
    let config = world.agent.config_file().display().to_string();
    let list = kubectl(&format!("picket identity list --config {config}"))?.good()?;
    ensure!(list.contains("lab@example.test"), "{list}");
    let help = kubectl("picket identity revoke --help")?.good()?;
    ensure!(help.contains("Usage: kubectl picket identity revoke"), "{help}");
    let wrong = kubectl("picket identity describe nobody-is-called-so")?;
    ensure!(wrong.code != 0, "{wrong:?}");
    let offered = kubectl("__complete picket identity re")?.good()?;
    for word in ["review", "resume", "revoke", ":4"] {
        ensure!(
            offered.lines().any(|line| line.starts_with(word)),
            "{word}: {offered}"
        );
    }
    Ok(())
}

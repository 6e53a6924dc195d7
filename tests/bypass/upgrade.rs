//! Another process takes over from the agent, of its own version or of one with other maps, while pods dial without end:
//! nobody goes past and nobody is refused; and where it fails, everything is as before.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use picket_tests::other_layout;
use picket_tests::output::Done;
use picket_tests::port_taker::PortTaker;
use picket_tests::running::Running;
use picket_tests::tests;
use serde_json::{Value, json};

use crate::Test;
use crate::traffic::{
    Counter, LIMIT, Load, asks, brought_back, links, listeners, log_length, log_since, nothing, served,
    until, verify_audit,
};
use crate::world::World;

pub(crate) const TESTS: &[Test] = tests! {
    a_new_process_takes_over_and_refuses_nobody,
    a_listener_that_has_moved_is_handed_over,
    a_take_over_that_fails_changes_nothing,
    a_successor_whose_objects_are_not_valid_pauses_nobody,
    a_take_over_by_another_configuration_fails_at_every_stage,
    an_older_agent_that_is_ended_meanwhile_loses_nothing,
    another_map_layout_stays_closed_until_its_classes_are_in_force,
    another_map_layout_takes_over_and_refuses_nobody,
    a_take_over_by_another_map_layout_fails_at_every_stage,
};

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
    let yielded = until("the older agent stops serving", LIMIT, || {
        Ok(log_since(world, start)?.contains("a successor has taken over"))
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
        "upgrade: the predecessor stopped serving after {yielded:?}, ended after {ended:?}; {answered} requests answered"
    );
    ensure!(nothing(&failed), "of {answered} requests some failed: {failed}");
    ensure!(
        nothing(&failed_in_node) && in_node > 20,
        "on the node's network {in_node} requests were answered, and some failed: {failed_in_node}"
    );
    ensure!(answered > 100, "only {answered} requests were made");
    ensure!(status.success(), "the older agent ended with {status}");
    let said = log_since(world, start)?;
    for line in ["listeners transferred", "upgrade begun", "upgrade complete"] {
        ensure!(said.contains(line), "no {line:?} in:\n{said}");
    }
    let served = world
        .agent
        .metric("picket_requests_total", &["outcome=\"allow\""])?;
    ensure!(served > 10.0, "the new agent served only {served} requests");
    verify_audit(world)
}

/// The successor goes on with the listener of a pod where it moved to, and nothing comes to the program that has its former port.
fn a_listener_that_has_moved_is_handed_over(world: &mut World) -> Result<()> {
    // An agent that took over does not hand over soon after.
    world.agent.stop()?;
    world.agent.restart()?;
    let load = Load::enforced(world)?;
    let (mut program, first) = PortTaker::start(&world.cluster, "agents", "worker")?;
    let taken = program.take("0.0.0.0")?;
    ensure!(taken.error.is_none(), "{taken:?}");
    // Whose sockets, and where; how much waits in their queues changes.
    let sockets = |world: &World| -> Result<BTreeSet<String>> {
        let all = listeners(world)?;
        let facts = |line: &str| line.split_whitespace().skip(3).collect::<Vec<_>>().join(" ");
        Ok(all.lines().map(facts).collect())
    };
    let from = format!("127.0.0.1:{first} ");
    until("the former listener is closed", LIMIT, || {
        Ok(!sockets(world)?.iter().any(|socket| socket.starts_with(&from)))
    })?;
    let before = sockets(world)?;
    let start = log_length(world);
    let mut older = world.agent.succeed()?;
    until("the older agent stops serving", LIMIT, || {
        Ok(log_since(world, start)?.contains("a successor has taken over"))
    })?;
    until("the older agent ends", LIMIT, || Ok(older.try_wait()?.is_some()))?;
    older.wait()?;
    world.agent.wait()?;
    let after = sockets(world)?;
    ensure!(
        before == after,
        "sockets that listened were {before:?} and are {after:?}"
    );
    let (answered, failed) = load.stop()?;
    ensure!(nothing(&failed), "of {answered} requests some failed: {failed}");
    let came = program.stop()?;
    ensure!(came == 0, "{came} connections came to the program");
    Ok(())
}

/// The newer process dies before its initial sync: the older one goes on with the listeners that it had, and what the other
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
        Ok(log_since(world, start)?.contains("listeners transferred"))
    })?;
    until("the newer agent's programs are there", LIMIT, || {
        Ok(log_since(world, start)?.contains("version="))
    })?;
    let pid = before.id();
    world.agent.fall_back(before)?;
    until("the older agent goes on", LIMIT, || {
        Ok(log_since(world, start)?.contains("restored the kernel programs"))
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

/// A supervisor starts it again and again, and the agent that serves by the last valid objects does not notice.
fn a_successor_whose_objects_are_not_valid_pauses_nobody(world: &mut World) -> Result<()> {
    let start = log_length(world);
    world.agent.write_objects("broken.yaml", "kind: [")?;
    let outcome = (1..=3).try_for_each(|attempt| {
        let before = world.agent.succeed()?;
        let ended = until("the successor gives up", LIMIT, || {
            let said = log_since(world, start)?;
            Ok(said
                .matches("the predecessor keeps serving, because the objects are not valid")
                .count()
                == attempt)
        });
        world.agent.fall_back(before)?;
        ended.map(drop)
    });
    world.agent.remove_objects("broken.yaml")?;
    outcome?;
    ensure!(asks(world)?.code == 0, "the pod is not served");
    let said = log_since(world, start)?;
    for line in ["a successor has connected", "restored the kernel programs"] {
        ensure!(!said.contains(line), "{line}: {said}");
    }
    Ok(())
}

/// The newer agent enforces whom the older one leaves alone, and leaves alone whom that enforces; it never settles, for a protected
/// endpoint's name has no answer. Whatever it had done when it dies, the older one brings pods back where it wants them, new ones too.
fn a_take_over_by_another_configuration_fails_at_every_stage(world: &mut World) -> Result<()> {
    fails_at_every_stage(world, None)
}

/// The same by an agent of another version, whose programs and maps are beside the older one's.
fn a_take_over_by_another_map_layout_fails_at_every_stage(world: &mut World) -> Result<()> {
    let other = other_layout::write(world.agent.binary(), world.agent.dir())?;
    fails_at_every_stage(world, Some(other))
}

fn fails_at_every_stage(world: &mut World, program: Option<PathBuf>) -> Result<()> {
    world.agent.stop()?;
    world.agent.restart()?;
    let pins = |world: &World| -> Result<BTreeSet<String>> { Ok(world.agent.pins()?.into_iter().collect()) };
    let (start, picket) = (log_length(world), world.picket_log());
    let before = (pins(world)?, listeners(world)?);
    let file = world.agent.config_file();
    let own = std::fs::read_to_string(&file)?;
    let mut other: Value = serde_json::from_str(&own)?;
    other["enforce"] = json!({"namespaces": ["direct"], "unclassifiedPods": "failOpen"});
    let endpoints = other["protectedEndpoints"]["apiServer"]
        .as_array_mut()
        .context("no protected endpoints")?;
    endpoints.push("nowhere.invalid:443".into());
    std::fs::write(&file, other.to_string())?;
    let own_program = program.map(|program| world.agent.replace_binary(program));
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
            Ok(log_since(world, here)?.contains("restored the kernel programs"))
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
    if let Some(program) = own_program {
        world.agent.replace_binary(program);
    }
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
    ensure!(!said.contains("a successor has taken over"), "{said}");
    verify_audit(world)
}

/// What the newer agent's or the older one's log says when the newer one is killed, and how long after it.
const STAGES: [(&str, Duration); 7] = [
    ("a successor has connected", Duration::ZERO),
    ("listeners transferred", Duration::ZERO),
    ("upgrade begun", Duration::ZERO),
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

/// As where a supervisor ends the one before as soon as it has started the next.
fn an_older_agent_that_is_ended_meanwhile_loses_nothing(world: &mut World) -> Result<()> {
    world.agent.stop()?;
    world.agent.restart()?;
    let start = log_length(world);
    let load = Load::enforced(world)?;
    std::thread::sleep(Duration::from_millis(500));
    let mut before = world.agent.succeed()?;
    until("it has begun", LIMIT, || {
        Ok(log_since(world, start)?.contains("listeners transferred"))
    })?;
    kill(Pid::from_raw(before.id().cast_signed()), Signal::SIGTERM)?;
    let ended = until("the older agent ends", LIMIT, || Ok(before.try_wait()?.is_some()));
    if ended.is_err() {
        before.kill()?;
    }
    let status = before.wait()?;
    ended?;
    world.agent.wait()?;
    std::thread::sleep(Duration::from_millis(500));
    let (answered, failed) = load.stop()?;
    eprintln!("{answered} requests answered, failed: {failed}");
    ensure!(
        answered > 50 && nothing(&failed),
        "of {answered} requests some failed: {failed}"
    );
    ensure!(status.success(), "the older agent ended with {status}");
    let said = log_since(world, start)?;
    for wrong in [
        "cannot be written",
        "could not be written",
        "ended before the upgrade",
    ] {
        ensure!(!said.contains(wrong), "{said}");
    }
    ensure!(said.contains("upgrade complete"), "{said}");
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

/// An upgrade to a version with other maps: its programs and listeners are beside the older one's until its classes and protected endpoints
/// are in force.
fn another_map_layout_takes_over_and_refuses_nobody(world: &mut World) -> Result<()> {
    // An agent that took over does not hand over soon after.
    world.agent.stop()?;
    world.agent.restart()?;
    let (own, links_before) = (layouts(world)?, links()?.len());
    let other = other_layout::write(world.agent.binary(), world.agent.dir())?;
    let own_program = world.agent.replace_binary(other);
    let outcome = taken_over_by_another_layout(world, &own, links_before);
    world.agent.replace_binary(own_program);
    world.agent.stop()?;
    world.agent.restart()?;
    outcome?;
    let left = layouts(world)?;
    ensure!(left == own, "layouts afterwards: {left:?}");
    verify_audit(world)
}

fn taken_over_by_another_layout(world: &mut World, own: &[String], links_before: usize) -> Result<()> {
    let start = log_length(world);
    let loads = [Load::enforced(world)?, Load::hosted(world)?, Load::exempt(world)?];
    std::thread::sleep(Duration::from_secs(1));
    let mut before = world.agent.succeed()?;
    let packets = {
        let counted = Counter::start(world, "agents")?;
        let ended = until("the older agent ends", LIMIT, || Ok(before.try_wait()?.is_some()));
        if ended.is_err() {
            // Two of them would be in the way of what comes after.
            before.kill()?;
            before.wait()?;
        }
        ended?;
        std::thread::sleep(Duration::from_secs(1));
        counted.packets()?
    };
    world.agent.wait()?;
    let [enforced, hosted, exempt] = loads.map(Load::stop);
    for (pod, load) in [("enforced", enforced), ("hosted", hosted), ("exempt", exempt)] {
        let (answered, failed) = load?;
        eprintln!("{pod}: {answered} requests answered, failed: {failed}");
        ensure!(
            answered > 20 && nothing(&failed),
            "in the {pod} pod {answered} requests were answered, and others failed: {failed}"
        );
    }
    ensure!(
        packets == 0,
        "the API server's address was sent {packets} packets"
    );
    let said = log_since(world, start)?;
    for line in ["upgrade begun", "a successor has taken over", "upgrade complete"] {
        ensure!(said.contains(line), "no {line:?} in:\n{said}");
    }
    ensure!(!said.contains("not dropped"), "{said}");
    let now = layouts(world)?;
    ensure!(
        now.len() == 1 && now != own,
        "layouts before: {own:?}, now: {now:?}"
    );
    until("as many links as before", LIMIT, || {
        Ok(links()?.len() == links_before)
    })
    .with_context(|| format!("{links_before} links before"))?;
    asks(world)?.good().map(drop)
}

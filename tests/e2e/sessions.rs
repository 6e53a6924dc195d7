//! What runs for long ends when it would no longer be let through: watches, followed logs, exec and port-forward.
//!
//! The pod `stranger` is the agent `guest` here, by objects of this file's own. The pod `worker` is another agent, whose
//! watch goes on through all of it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use picket_tests::output::Done;
use picket_tests::running::Running;
use picket_tests::tests;
use serde_json::Value;

use crate::Test;
use crate::world::World;

pub(crate) const TESTS: &[Test] = tests! {
    a_suspended_identity_ends_all_that_runs,
    a_revoked_identity_ends_all_that_runs,
    an_expiry_ends_all_that_runs,
    the_end_of_a_grants_hours_ends_all_it_gave,
    a_narrowed_grant_ends_what_it_gave,
    a_new_deny_rule_ends_what_it_refuses,
    a_pod_that_is_no_longer_the_agent_ends_what_it_runs,
    an_operator_lists_and_kills,
    clients_that_speak_otherwise_are_told_too,
};

/// How long an end may take from the change of a file to the closed stream, this machine's load and `kubectl`'s own end
/// included. The agent's part has its own figure: `picket_session_end_duration_seconds`.
const LIMIT: Duration = Duration::from_secs(5);

const FILE: &str = "guest.yaml";

const GUEST: &str = r#"
apiVersion: picket.dev/v1alpha1
kind: AgentIdentity
metadata: {name: guest}
spec:
  owner: lab@example.test
  attest: {pod: {namespace: agents, serviceAccount: stranger, selector: {matchLabels: {app: stranger}}}}
---
apiVersion: picket.dev/v1alpha1
kind: AgentGrant
metadata: {name: guest-work}
spec:
  to: {identities: [guest]}
  upstream: {impersonate: {user: "agent:worker", groups: ["agents:lab", "picket:agents"]}}
  rules:
  - {apiGroups: [""], resources: [configmaps, pods, pods/log], verbs: [get, list, watch]}
  - {apiGroups: [""], resources: [pods/exec, pods/portforward], verbs: [get, create]}
"#;

const NO_WATCH: &str = r#"
---
apiVersion: picket.dev/v1alpha1
kind: AgentPolicy
metadata: {name: no-watch}
spec:
  subjects: {identities: [guest]}
  rules:
  - name: configmaps
    match: {verbs: [watch], resources: [configmaps]}
    action: Deny
    message: Nobody watches any more.
"#;

/// What runs: a name, and a shell line that says so when it has begun and when it is over.
const SESSIONS: [(&str, &str, &str); 7] = [
    (
        "watch",
        "ADDED",
        "kubectl get --raw '/api/v1/namespaces/lab/configmaps?watch=true&fieldSelector=metadata.name%3Dtick'",
    ),
    // Its last line, whatever other tests had it write.
    ("logs", "", "kubectl logs -f --tail=1 target -n lab"),
    (
        "exec",
        "running",
        "kubectl exec target -n lab -- sh -c 'echo running; exec sleep 300'",
    ),
    (
        "portforward",
        "Forwarding from 127.0.0.1",
        "kubectl port-forward --address 127.0.0.1 -n lab pod/target :8080",
    ),
    (
        "table-watch",
        "tick",
        "kubectl get configmaps tick -n lab --watch",
    ),
    (
        "spdy-exec",
        "running",
        "KUBECTL_REMOTE_COMMAND_WEBSOCKETS=false kubectl exec target -n lab -- sh -c 'echo running; exec sleep 300'",
    ),
    (
        "spdy-portforward",
        "Forwarding from 127.0.0.1",
        "KUBECTL_PORT_FORWARD_WEBSOCKETS=false kubectl port-forward --address 127.0.0.1 -n lab pod/target :8080",
    ),
];

/// A session that runs.
struct Session {
    kind: &'static str,
    running: Running,
}

fn start(world: &World, pod: &str, kind: &str) -> Result<Session> {
    let (kind, begun, line) = SESSIONS
        .into_iter()
        .find(|session| session.0 == kind)
        .context("no such session")?;
    let line = format!("{line} 2>&1; echo over $?");
    let running = world.start(pod, &line)?;
    running
        .line_with(begun)
        .with_context(|| format!("{kind} of {pod}"))?;
    Ok(Session { kind, running })
}

/// Starts every kind of session of the guest and a watch of the worker, makes the change, and checks that the sessions of
/// these kinds end, each with the words and with its cause in the audit log, and that the others go on.
fn ended_by(
    world: &mut World,
    kinds: &[&str],
    words: &str,
    cause: &str,
    change: impl FnOnce(&World) -> Result<()>,
) -> Result<()> {
    world.agent.write_objects(FILE, GUEST)?;
    let outcome = in_force(world).and_then(|()| ended_while(world, kinds, words, cause, change));
    outcome.and(guest_leaves(world))
}

/// Takes the guest's objects away, and waits until all that it still ran has ended for that.
fn guest_leaves(world: &World) -> Result<()> {
    world.agent.remove_objects(FILE)?;
    let deadline = Instant::now() + LIMIT;
    loop {
        let list = sessions(world, &["list", "--identity", "guest", "-o", "json"])?.good()?;
        let list: Value = serde_json::from_str(&list)?;
        if list["sessions"].as_array().is_some_and(Vec::is_empty) {
            return Ok(());
        }
        ensure!(
            Instant::now() < deadline,
            "the guest is gone, and still runs {list:#}"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// `picket sessions` on the agent's node.
fn sessions(world: &World, arguments: &[&str]) -> Result<Done> {
    let config = world.agent.config_file().display().to_string();
    let mut words = vec!["sessions"];
    words.extend(arguments);
    words.extend(["--config", &config]);
    world.agent.picket(&words).map(Done::from)
}

/// Waits until the guest may do something.
fn in_force(world: &World) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let asked = world.run(
            "agents",
            "stranger",
            &["kubectl", "get", "configmap", "tick", "-n", "lab"],
        )?;
        if asked.code == 0 {
            return Ok(());
        }
        ensure!(
            Instant::now() < deadline,
            "the guest is still refused: {}",
            asked.err
        );
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn ended_while(
    world: &World,
    kinds: &[&str],
    words: &str,
    cause: &str,
    change: impl FnOnce(&World) -> Result<()>,
) -> Result<()> {
    let log = world.picket_log();
    let others = start(world, "worker", "watch")?;
    let sessions = ALL
        .iter()
        .map(|kind| start(world, "stranger", kind))
        .collect::<Result<Vec<_>>>()?;
    change(world)?;
    let began = Instant::now();
    for session in sessions.iter().filter(|session| kinds.contains(&session.kind)) {
        let mut said = Vec::new();
        let code = loop {
            let line = session
                .running
                .line()
                .with_context(|| format!("the end of {}", session.kind))?;
            match line.strip_prefix("over ") {
                Some(code) => break code.to_owned(),
                None => said.push(line),
            }
        };
        let took = began.elapsed();
        let said = said.join("\n");
        eprintln!(
            "{cause}: {} ended after {took:?} with {code}: {said}",
            session.kind
        );
        ensure!(took < LIMIT, "{} took {took:?} to end", session.kind);
        // A watch's and an exec's clients are told why; the other protocols have no place for it.
        if matches!(session.kind, "watch" | "exec") {
            ensure!(
                said.contains(words),
                "{} says {said:?}, not {words:?}",
                session.kind
            );
        }
        let record = log.wait("the end's record", |record| {
            record["session"]["endCause"] == cause && about_kind(record, session.kind)
        })?;
        ensure!(
            record["session"]["endReason"] == "terminated" && record["agent"]["identity"] == "guest",
            "{record:#}"
        );
    }
    for session in sessions.iter().filter(|session| !kinds.contains(&session.kind)) {
        ensure!(
            session.running.silent(),
            "{} of the guest ended too",
            session.kind
        );
    }
    ensure!(others.running.silent(), "the worker's watch ended too");
    Ok(())
}

/// Whether a record is about a session of this kind.
fn about_kind(record: &Value, kind: &str) -> bool {
    let object = &record["objectRef"];
    match kind {
        "watch" => record["verb"] == "watch" && object["resource"] == "configmaps",
        "logs" => object["subresource"] == "log",
        kind => object["subresource"] == kind,
    }
}

/// One session of each kind. The others of [`SESSIONS`] are the same by another protocol.
const ALL: [&str; 4] = ["watch", "logs", "exec", "portforward"];

fn state(state: &str) -> String {
    GUEST.replacen("  owner:", &format!("  state: {state}\n  owner:"), 1)
}

fn a_suspended_identity_ends_all_that_runs(world: &mut World) -> Result<()> {
    ended_by(
        world,
        &ALL,
        "agent guest is suspended",
        "identity_suspended",
        |world| world.agent.write_objects(FILE, &state("Suspended")),
    )
}

fn a_revoked_identity_ends_all_that_runs(world: &mut World) -> Result<()> {
    ended_by(
        world,
        &ALL,
        "agent guest is revoked",
        "identity_revoked",
        |world| world.agent.write_objects(FILE, &state("Revoked")),
    )
}

fn an_expiry_ends_all_that_runs(world: &mut World) -> Result<()> {
    ended_by(world, &ALL, "agent guest expired", "identity_expired", |world| {
        let at = jiff::Timestamp::now() + Duration::from_secs(3);
        let expires = format!("  expiresAt: {at:.0}\n  owner:");
        world
            .agent
            .write_objects(FILE, &GUEST.replacen("  owner:", &expires, 1))?;
        std::thread::sleep(Duration::from_secs(2));
        Ok(())
    })
}

fn the_end_of_a_grants_hours_ends_all_it_gave(world: &mut World) -> Result<()> {
    ended_by(
        world,
        &ALL,
        "grant guest-work gives this from",
        "no_grant",
        |world| {
            let now = jiff::Timestamp::now();
            let clock = |moment: jiff::Timestamp| moment.strftime("%H:%M:%S").to_string();
            let (from, to) = (
                clock(now - Duration::from_secs(12 * 3600)),
                clock(now + Duration::from_secs(3)),
            );
            let hours =
                format!("  window: {{daily: {{from: '{from}', to: '{to}', timezone: UTC}}}}\n  rules:");
            world
                .agent
                .write_objects(FILE, &GUEST.replacen("  rules:", &hours, 1))?;
            std::thread::sleep(Duration::from_secs(2));
            Ok(())
        },
    )
}

fn a_narrowed_grant_ends_what_it_gave(world: &mut World) -> Result<()> {
    ended_by(world, &["exec", "portforward"], "may not", "no_grant", |world| {
        let narrowed = GUEST.replace(
            "resources: [pods/exec, pods/portforward]",
            "resources: [pods/attach]",
        );
        world.agent.write_objects(FILE, &narrowed)
    })
}

fn a_new_deny_rule_ends_what_it_refuses(world: &mut World) -> Result<()> {
    ended_by(world, &["watch"], "Nobody watches any more.", "policy", |world| {
        world.agent.write_objects(FILE, &format!("{GUEST}{NO_WATCH}"))
    })
}

fn a_pod_that_is_no_longer_the_agent_ends_what_it_runs(world: &mut World) -> Result<()> {
    let label = |world: &World, value: &str| {
        world
            .admin(&["label", "pod", "stranger", "-n", "agents", "--overwrite", value])
            .map(drop)
    };
    let outcome = ended_by(world, &ALL, "pod agents/stranger", "identity_none", |world| {
        label(world, "app=quarantined")
    });
    label(world, "app=stranger")?;
    outcome
}

fn an_operator_lists_and_kills(world: &mut World) -> Result<()> {
    world.agent.write_objects(FILE, GUEST)?;
    in_force(world)?;
    let outcome = listed_and_killed(world);
    outcome.and(guest_leaves(world))
}

/// kubectl's own watch reads tables, and before 1.30 it spoke SPDY.
fn clients_that_speak_otherwise_are_told_too(world: &mut World) -> Result<()> {
    world.agent.write_objects(FILE, GUEST)?;
    in_force(world)?;
    let outcome = otherwise(world);
    outcome.and(guest_leaves(world))
}

fn otherwise(world: &World) -> Result<()> {
    let mut running = Vec::new();
    for kind in ["table-watch", "spdy-exec", "spdy-portforward"] {
        running.push(start(world, "stranger", kind)?);
    }
    let began = Instant::now();
    sessions(
        world,
        &["kill", "--identity", "guest", "--reason", "it reads too much"],
    )?
    .good()?;
    for session in &running {
        let mut said = Vec::new();
        loop {
            let line = session.running.line()?;
            if line.starts_with("over ") {
                break;
            }
            said.push(line);
        }
        let said = said.join("\n");
        eprintln!(
            "{}: ended after {:?} with {said:?}",
            session.kind,
            began.elapsed()
        );
        let told = session.kind == "spdy-portforward" || said.contains("it reads too much");
        ensure!(told, "{} says {said:?}", session.kind);
    }
    Ok(())
}

fn listed_and_killed(world: &World) -> Result<()> {
    let picket = |arguments: &[&str]| sessions(world, arguments);
    let others = start(world, "worker", "watch")?;
    let watch = start(world, "stranger", "watch")?;
    let exec = start(world, "stranger", "exec")?;
    let table = picket(&["list", "--identity", "guest"])?.good()?;
    ensure!(
        table.starts_with("ID") && table.lines().count() == 3 && table.contains("agents/stranger"),
        "{table}"
    );
    let list: Value = serde_json::from_str(&picket(&["list", "--kind", "exec", "-o", "json"])?.good()?)?;
    let listed = list["sessions"].as_array().context("no sessions")?;
    ensure!(listed.len() == 1 && listed[0]["identity"] == "guest", "{list:#}");
    let id = listed[0]["id"].as_str().context("no id")?;

    let began = Instant::now();
    picket(&["kill", id, "--reason", "it reads too much"])?.good()?;
    let told = exec.running.line_with("it reads too much")?;
    exec.running.line_with("over")?;
    eprintln!("a killed exec ended after {:?} with {told:?}", began.elapsed());
    ensure!(watch.running.silent(), "the guest's watch ended too");
    picket(&["kill", "--identity", "guest"])?.good()?;
    watch.running.line_with("over")?;
    ensure!(others.running.silent(), "the worker's watch ended too");
    let nothing = picket(&["kill", "--identity", "guest"])?;
    ensure!(
        nothing.code == 1,
        "nothing was left to end, and it says {nothing:?}"
    );
    Ok(())
}

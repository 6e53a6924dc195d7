//! The agent's start on a node without kernel programs, as after a boot: files that cannot be used leave no protected endpoint open,
//! and are read again.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use picket_tests::agent::Agent;
use picket_tests::output::Done;
use picket_tests::running::Running;
use picket_tests::tests;
use serde_json::{Value, json};

use crate::Test;
use crate::dial::{Stand, Verdict};
use crate::static_pods::{Manifest, gone, running};
use crate::traffic::{asks, until};
use crate::world::World;

pub(crate) const TESTS: &[Test] = tests! {
    an_authentication_file_that_cannot_be_used_leaves_the_node_closed,
    a_trust_bundle_that_cannot_be_used_leaves_the_node_closed,
    a_node_ca_that_cannot_be_used_leaves_the_node_closed,
    a_credential_that_cannot_be_used_leaves_the_node_closed,
    a_kubeconfig_that_cannot_be_used_leaves_the_node_closed,
    a_credential_plugin_that_waits_leaves_the_node_closed,
    a_node_without_a_checkpoint_tells_that_the_service_is_open,
    a_start_that_fails_leaves_the_node_closed,
    a_start_that_fails_leaves_static_pods_as_the_operator_wants,
    a_configuration_that_is_not_valid_closes_the_node_as_the_last_good_one_said,
    a_name_that_no_certificate_can_have_closes_the_node_as_the_last_good_one_said,
    a_configuration_that_is_not_valid_leaves_a_node_alone_that_had_no_agent,
    a_configuration_that_is_not_valid_disturbs_no_agent_that_serves,
    the_guard_closes_a_node_until_the_agent_serves,
    the_guard_leaves_static_pods_as_the_operator_wants,
    a_guard_that_is_asked_to_stop_leaves_the_node_closed,
    a_guard_beside_an_agent_that_serves_disturbs_nothing,
};

/// The address of the Service `kubernetes`.
const SERVICE: &str = "10.96.0.1:443";

/// How long the agent may take until it says what is wrong.
const LIMIT: Duration = Duration::from_secs(30);

/// How long a credential plugin waits: far longer than the agent's start takes.
const PLUGIN_WAITS: Duration = Duration::from_secs(16);

/// A file of the configuration that cannot be used.
struct Faulty {
    /// Puts the file's path into the configuration.
    put: fn(&mut Value, &Path),
    /// The part that `/readyz` names.
    part: &'static str,
    /// The file's text once it is mended; where it is none, what the key held before.
    mended: Option<&'static str>,
    /// What a dial of the API server gives meanwhile.
    dials: Verdict,
    /// Whether requests are served meanwhile.
    serves: bool,
}

fn an_authentication_file_that_cannot_be_used_leaves_the_node_closed(world: &mut World) -> Result<()> {
    let put = |config: &mut Value, file: &Path| config["authentication"] = json!({"configFile": file});
    Faulty {
        put,
        part: "authentication",
        mended: Some("apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\n"),
        dials: Verdict::Redirected,
        serves: true,
    }
    .is_survived(world)
}

fn a_trust_bundle_that_cannot_be_used_leaves_the_node_closed(world: &mut World) -> Result<()> {
    let put = |config: &mut Value, file: &Path| {
        config["tls"]["trustBundles"] = json!([{"trustDomain": "example.org", "file": file}]);
    };
    Faulty {
        put,
        part: "trust-bundles",
        mended: None,
        dials: Verdict::Redirected,
        serves: true,
    }
    .is_survived(world)
}

fn a_node_ca_that_cannot_be_used_leaves_the_node_closed(world: &mut World) -> Result<()> {
    Faulty {
        put: |config, file| config["tls"]["caCertificateFile"] = json!(file),
        part: "node-ca",
        mended: None,
        // No certificate is sent.
        dials: Verdict::Nothing,
        serves: false,
    }
    .is_survived(world)
}

fn a_credential_that_cannot_be_used_leaves_the_node_closed(world: &mut World) -> Result<()> {
    Faulty {
        put: |config, file| config["upstream"]["caFile"] = json!(file),
        part: "upstream",
        mended: None,
        dials: Verdict::Redirected,
        serves: false,
    }
    .is_survived(world)
}

fn a_kubeconfig_that_cannot_be_used_leaves_the_node_closed(world: &mut World) -> Result<()> {
    Faulty {
        put: |config, file| config["cluster"]["kubeconfig"] = json!(file),
        part: "cluster",
        mended: None,
        // Nobody knows which pods are enforced.
        dials: Verdict::Forbidden,
        serves: false,
    }
    .is_survived(world)
}

/// After a boot a plugin may wait for a network that is not there yet.
fn a_credential_plugin_that_waits_leaves_the_node_closed(world: &mut World) -> Result<()> {
    let file = world.agent.dir().join("plugin");
    let plugin = json!({"apiVersion": "client.authentication.k8s.io/v1", "command": "sleep",
        "args": [PLUGIN_WAITS.as_secs().to_string()], "interactiveMode": "Never"});
    let cluster = json!({"server": world.cluster.server(), "insecure-skip-tls-verify": true});
    let kubeconfig = json!({"apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": cluster}], "users": [{"name": "u", "user": {"exec": plugin}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}]});
    fs::write(&file, kubeconfig.to_string())?;
    let file = file.display().to_string();
    booted(
        world,
        |config| config["cluster"]["kubeconfig"] = json!(file),
        |world| {
            let limit = PLUGIN_WAITS / 2;
            let closed = until("the node is closed", limit, || {
                Ok(dials_server(world, Verdict::Forbidden).is_ok())
            });
            // Neither does it keep the agent from ending, which happens while the plugin waits.
            let stopped = world.agent.stop();
            closed.and(stopped.map(drop))
        },
    )
}

impl Faulty {
    /// Starts the agent on a node without its programs. The protected endpoints are closed, `/readyz` names the file, and the agent
    /// serves once the file is mended.
    fn is_survived(&self, world: &mut World) -> Result<()> {
        let file = world.agent.dir().join("faulty");
        fs::write(&file, "jwt: [{}]\n")?;
        let mended = match self.mended {
            Some(text) => text.to_owned(),
            None => fs::read_to_string(self.was_before(world)?)?,
        };
        booted(
            world,
            |config| (self.put)(config, &file),
            |world| {
                self.is_named(world, &file)?;
                dials(world, self.dials)?;
                let said = asks(world)?;
                ensure!((said.code == 0) == self.serves, "a request: {said:?}");
                fs::write(&file, mended)?;
                world.agent.wait().context("the mended file is not taken")?;
                dials(world, Verdict::Redirected)?;
                asks(world)?.good().map(drop)
            },
        )
    }

    /// The file that the configuration names now; for a trust bundle any CA.
    fn was_before(&self, world: &World) -> Result<String> {
        let config: Value = serde_json::from_str(&fs::read_to_string(world.agent.config_file())?)?;
        let file = match self.part {
            "upstream" => &config["upstream"]["caFile"],
            "cluster" => &config["cluster"]["kubeconfig"],
            _ => &config["tls"]["caCertificateFile"],
        };
        Ok(file.as_str().context("no such file")?.to_owned())
    }

    /// Waits until all else is up and `/readyz` names the part and its file.
    fn is_named(&self, world: &World, file: &Path) -> Result<()> {
        let file = file.display().to_string();
        let mut last = String::new();
        let named = until("the fault is named", LIMIT, || {
            let Ok((code, body)) = world.agent.admin("/readyz") else {
                return Ok(false);
            };
            let report: Value = serde_json::from_str(&body)?;
            last = body;
            let failing = report["failing"].as_array().into_iter().flatten();
            let mut failing = failing.filter(|one| one["part"] == self.part);
            let reason = failing.next().and_then(|one| one["reason"].as_str());
            let waits = report["waiting"]
                .as_array()
                .is_some_and(|waiting| !waiting.is_empty());
            Ok(code == 503
                && reason.is_some_and(|reason| reason.contains(&file))
                && waits == (self.dials == Verdict::Forbidden))
        });
        named
            .map(drop)
            .with_context(|| format!("{last}\n{}", world.agent.log_end()))
    }
}

/// On a node that never had an agent, nobody knows the Service's address while the API server cannot be asked.
fn a_node_without_a_checkpoint_tells_that_the_service_is_open(world: &mut World) -> Result<()> {
    let file = world.agent.dir().join("faulty");
    fs::write(&file, "no kubeconfig")?;
    let good: Value = serde_json::from_str(&fs::read_to_string(world.agent.config_file())?)?;
    let good = good["cluster"]["kubeconfig"]
        .as_str()
        .context("no kubeconfig")?
        .to_owned();
    let file_name = file.display().to_string();
    let change = |config: &mut Value| {
        config["cluster"]["kubeconfig"] = json!(file_name);
        // Whoever lists addresses there lists the Service's.
        config["protectedEndpoints"]["apiServer"] = json!([]);
    };
    begun_after(world, Agent::uninstall, change, |world| {
        until("the open Service is named", LIMIT, || {
            let Ok((_, body)) = world.agent.admin("/readyz") else {
                return Ok(false);
            };
            Ok(body.contains("api-server-service"))
        })?;
        dials_server(world, Verdict::Forbidden)?;
        let worker = Stand::pod(&world.pod("agents", "worker")?)?;
        world
            .expecting(Verdict::Reached, |world| world.dial(&worker, &["tcp", SERVICE]))?
            .expect("a dial of an unknown Service", Verdict::Reached)?;
        fs::copy(&good, &file)?;
        world.agent.wait().context("the mended file is not taken")?;
        let (code, body) = world.agent.admin("/readyz")?;
        ensure!(code == 200 && !body.contains("api-server-service"), "{body}");
        dials(world, Verdict::Redirected)
    })
}

fn a_start_that_fails_leaves_the_node_closed(world: &mut World) -> Result<()> {
    for fault in [AUDIT_DIRECTORY, ADMIN_SOCKET] {
        failed_start(world, fault, |_| {}, |world| dials(world, Verdict::Forbidden))?;
    }
    Ok(())
}

fn a_start_that_fails_leaves_static_pods_as_the_operator_wants(world: &mut World) -> Result<()> {
    let manifest = Manifest::of_pod(world, "direct")?;
    let pod = running(world, "direct")?;
    let stand = Stand::pod(&pod)?;
    for (word, verdict) in [("failOpen", Verdict::Reached), ("failClosed", Verdict::Forbidden)] {
        failed_start(
            world,
            AUDIT_DIRECTORY,
            |config| config["enforce"]["staticPods"] = json!(word),
            |world| {
                let report = world.expecting(verdict, |world| world.dial(&stand, &["tcp", SERVICE]))?;
                report.expect(word, verdict)?;
                dials(world, Verdict::Forbidden)
            },
        )?;
    }
    drop(manifest);
    gone(&pod)
}

/// Puts a file in the place of a folder that no start goes without.
type Fault = fn(&mut Value, &Path);

const AUDIT_DIRECTORY: Fault = |config, file| config["audit"]["directory"] = json!(file);

/// Where nobody can look for a predecessor either.
const ADMIN_SOCKET: Fault = |config, file| config["admin"]["socket"] = json!(file.join("admin.sock"));

/// The agent cannot start at all.
fn failed_start(
    world: &mut World,
    fault: Fault,
    change: impl FnOnce(&mut Value),
    act: impl FnOnce(&World) -> Result<()>,
) -> Result<()> {
    let file = world.agent.dir().join("no-directory");
    fs::write(&file, "")?;
    let change = |config: &mut Value| {
        fault(config, &file);
        change(config);
    };
    booted(world, change, |world| {
        let ended = world.agent.wait();
        ensure!(
            ended.is_err_and(|error| error.to_string().contains("the agent ended")),
            "it serves without a folder"
        );
        act(world)
    })
}

/// What is wrong with a configuration that is not valid.
const NOT_VALID: &str = "field `nodeName` must be text";

fn a_configuration_that_is_not_valid_closes_the_node_as_the_last_good_one_said(
    world: &mut World,
) -> Result<()> {
    booted(
        world,
        |config| config["nodeName"] = json!([]),
        |world| {
            ends_as_not_valid(world, NOT_VALID)?;
            dials(world, Verdict::Forbidden)
        },
    )
}

fn a_name_that_no_certificate_can_have_closes_the_node_as_the_last_good_one_said(
    world: &mut World,
) -> Result<()> {
    booted(
        world,
        |config| config["tls"]["extraNames"] = json!(["*.example.com"]),
        |world| {
            ends_as_not_valid(world, "neither a DNS name nor an address")?;
            dials(world, Verdict::Forbidden)
        },
    )
}

fn a_configuration_that_is_not_valid_leaves_a_node_alone_that_had_no_agent(world: &mut World) -> Result<()> {
    begun_after(
        world,
        Agent::uninstall,
        |config| config["nodeName"] = json!([]),
        |world| {
            ends_as_not_valid(world, NOT_VALID)?;
            let worker = Stand::pod(&world.pod("agents", "worker")?)?;
            world
                .expecting(Verdict::Reached, |world| world.dial(&worker, &["tcp", SERVICE]))?
                .expect("a dial without Picket", Verdict::Reached)
        },
    )
}

fn a_configuration_that_is_not_valid_disturbs_no_agent_that_serves(world: &mut World) -> Result<()> {
    let file = world.agent.dir().join("not-valid.yaml");
    fs::write(&file, "nodeName: []\n")?;
    let (file, state) = (file.display().to_string(), world.agent.state_directory());
    let state = state.display().to_string();
    let before = pinned(world)?;
    let ended = world
        .agent
        .picket(&["agent", "--config", &file, "--state-directory", &state])?;
    let said = Done::from(ended);
    ensure!(said.code == 1 && said.err.contains(NOT_VALID), "{said:?}");
    let after = pinned(world)?;
    ensure!(before == after, "its programs were replaced:\n{before}\n{after}");
    dials(world, Verdict::Redirected)?;
    asks(world)?.good().map(drop)
}

/// The guard of this node, with its log on standard output.
fn guard_command(world: &World) -> Command {
    let (agent, node) = (&world.agent, world.cluster.node());
    let folder = |path: &Path| path.parent().unwrap_or(Path::new("/")).display().to_string();
    let line = [
        "guard".to_owned(),
        "run".to_owned(),
        format!("--cgroup-root={}", node.cgroup.display()),
        format!("--bpffs={}", agent.bpffs().display()),
        format!("--run-directory={}", folder(&agent.admin_socket())),
        format!("--state-directory={}", agent.state_directory().display()),
    ];
    let mut command = Command::new("sh");
    command
        .args(["-c", "exec \"$0\" \"$@\" 2>&1"])
        .arg(agent.binary())
        .args(&line)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    command
}

/// Takes the agent and its programs away as a boot does, starts the guard, does something, and puts the agent back.
fn guarded(
    world: &mut World,
    change: impl FnOnce(&mut Value),
    act: impl FnOnce(&mut World, &mut Running) -> Result<()>,
) -> Result<()> {
    let agent = &world.agent;
    let command = guard_command(world);
    let file = agent.state_directory().join("agent.yaml");
    until("the checkpoint is written", LIMIT, || Ok(file.exists()))?;
    world.agent.stop()?;
    world.agent.lose_programs()?;
    // What an agent with this configuration would have left.
    let mut config: Value = serde_json::from_str(&fs::read_to_string(&file)?)?;
    change(&mut config);
    fs::write(&file, config.to_string())?;
    let mut guard = Running::of(world.cluster.node().spawn(command)?)?;
    let outcome = guard
        .line_with("the guard closes the node")
        .map(drop)
        .and_then(|()| act(world, &mut guard));
    if world.agent.pid().is_none() {
        world.agent.restart()?;
    }
    let ended = guard.wait()?;
    outcome?;
    ensure!(ended == 0, "the guard ended with {ended}");
    dials(world, Verdict::Redirected)?;
    asks(world)?.good().map(drop)
}

/// Pods that were there, and one that comes.
fn the_guard_closes_a_node_until_the_agent_serves(world: &mut World) -> Result<()> {
    guarded(
        world,
        |_| {},
        |world, guard| {
            dials(world, Verdict::Forbidden)?;
            let manifest = Manifest::of_pod(world, "direct")?;
            let pod = running(world, "direct")?;
            let stand = Stand::pod(&pod)?;
            world
                .expecting(Verdict::Forbidden, |world| world.dial(&stand, &["tcp", SERVICE]))?
                .expect("a pod that starts after the guard", Verdict::Forbidden)?;
            drop(manifest);
            gone(&pod)?;
            world.agent.restart()?;
            guard.line_with("an agent serves").map(drop)
        },
    )
}

/// A control plane in static pods comes up before any agent can.
fn the_guard_leaves_static_pods_as_the_operator_wants(world: &mut World) -> Result<()> {
    guarded(
        world,
        |config| config["enforce"]["staticPods"] = json!("failOpen"),
        |world, _| {
            let manifest = Manifest::of_pod(world, "direct")?;
            let pod = running(world, "direct")?;
            let stand = Stand::pod(&pod)?;
            world
                .expecting(Verdict::Reached, |world| world.dial(&stand, &["tcp", SERVICE]))?
                .expect("a static pod", Verdict::Reached)?;
            dials(world, Verdict::Forbidden)?;
            drop(manifest);
            gone(&pod)
        },
    )
}

fn a_guard_that_is_asked_to_stop_leaves_the_node_closed(world: &mut World) -> Result<()> {
    guarded(
        world,
        |_| {},
        |world, guard| {
            guard.terminate()?;
            guard.line_with("what is closed stays closed")?;
            let ended = guard.wait()?;
            ensure!(ended == 0, "the guard ended with {ended}");
            dials(world, Verdict::Forbidden)
        },
    )
}

/// systemd may start it late, or a person by hand.
fn a_guard_beside_an_agent_that_serves_disturbs_nothing(world: &mut World) -> Result<()> {
    let file = world.agent.state_directory().join("agent.yaml");
    until("the checkpoint is written", LIMIT, || Ok(file.exists()))?;
    let before = pinned(world)?;
    let said = Done::from(world.cluster.node().output(guard_command(world))?).good()?;
    ensure!(
        said.contains("an agent serves") && !said.contains("the guard closes the node"),
        "{said}"
    );
    let after = pinned(world)?;
    ensure!(before == after, "its programs were replaced:\n{before}\n{after}");
    dials(world, Verdict::Redirected)?;
    asks(world)?.good().map(drop)
}

/// The pins of the agent's links and maps with their inodes: a link that is replaced has a new pin.
fn pinned(world: &World) -> Result<String> {
    let mut command = Command::new("find");
    command.arg(world.agent.bpffs()).args(["-printf", "%i %p\n"]);
    let found = world.agent.node().output(command)?;
    let text = String::from_utf8(found.stdout)?;
    ensure!(text.contains("link_"), "no pins: {text}");
    Ok(text)
}

/// The agent ends as it does where the configuration is not valid, and says so.
fn ends_as_not_valid(world: &mut World, reason: &str) -> Result<()> {
    let ended = world.agent.wait();
    let said = ended.err().map(|error| error.to_string()).unwrap_or_default();
    ensure!(
        said.contains("the agent ended with exit status: 1") && said.contains(reason),
        "{said}"
    );
    Ok(())
}

/// Begins the agent with another configuration on a node that has none of its programs, as after a boot, does something, and puts
/// all back.
fn booted(
    world: &mut World,
    change: impl FnOnce(&mut Value),
    act: impl FnOnce(&mut World) -> Result<()>,
) -> Result<()> {
    begun_after(world, Agent::lose_programs, change, act)
}

/// Likewise, after its programs were taken away in this manner.
fn begun_after(
    world: &mut World,
    take_away: impl FnOnce(&Agent) -> Result<()>,
    change: impl FnOnce(&mut Value),
    act: impl FnOnce(&mut World) -> Result<()>,
) -> Result<()> {
    let file = world.agent.config_file();
    let before = fs::read_to_string(&file)?;
    let mut config = serde_json::from_str(&before)?;
    change(&mut config);
    let state = world.agent.state_directory();
    until("the checkpoint is written", LIMIT, || {
        let files = ["agent.yaml", "protected-endpoints.json"];
        Ok(files.iter().all(|file| state.join(file).exists()))
    })?;
    world.agent.stop()?;
    take_away(&world.agent)?;
    fs::write(&file, config.to_string())?;
    world.agent.begin()?;
    let outcome = act(world);
    // Whatever fails, the next test finds the agent as it was.
    let stopped = match world.agent.pid() {
        Some(_) => world.agent.stop().map(drop),
        None => Ok(()),
    };
    if stopped.is_err() {
        world.agent.kill9()?;
    }
    fs::write(&file, before)?;
    world.agent.restart()?;
    outcome.and(stopped)
}

/// An enforced pod dials the node's kubelet, and the API server by its own address and by its Service's.
fn dials(world: &World, server: Verdict) -> Result<()> {
    dials_server(world, server)?;
    let worker = Stand::pod(&world.pod("agents", "worker")?)?;
    world
        .dial(&worker, &["tcp", SERVICE])?
        .expect("a dial of the Service", server)
}

/// Likewise, but of addresses that are known without the cluster.
fn dials_server(world: &World, server: Verdict) -> Result<()> {
    let worker = Stand::pod(&world.pod("agents", "worker")?)?;
    let kubelet = format!("{}:10250", world.cluster.node().address);
    let report = world.dial(&worker, &["tcp", &kubelet])?;
    report.expect("a dial of the kubelet", Verdict::Forbidden)?;
    let own = world.cluster.server().trim_start_matches("https://");
    world
        .dial(&worker, &["tcp", own])?
        .expect("a dial of the API server", server)
}

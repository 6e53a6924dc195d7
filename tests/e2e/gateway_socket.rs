//! The gateway's socket: opened when the agent can serve it, and tried again where the port is taken.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use picket_tests::output::Done;
use picket_tests::tests;
use serde_json::{Value, json};

use crate::Test;
use crate::life::until;
use crate::world::World;

pub(crate) const TESTS: &[Test] = tests! {
    a_taken_port_keeps_the_gateway_out_and_nothing_else,
    during_an_upgrade_the_gateway_answers_every_caller,
};

/// Not the port of the other tests of the gateway.
const PORT: u16 = 6445;
/// Connections during the upgrade: with a second socket that nobody serves, half of them would wait.
const DIALS: usize = 20;
/// How long one of them may take.
const DIAL_LIMIT: Duration = Duration::from_secs(5);
/// What an enforced pod may read.
const GET_SEED: &str = "kubectl get configmap seed -n lab";
/// Listens at a port without sharing it.
const TAKER: &str = "import socket, sys, time\nserver = socket.socket()\nserver.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)\n\
                     server.bind(('0.0.0.0', int(sys.argv[1])))\nserver.listen()\nprint('taken', flush=True)\ntime.sleep(600)\n";

/// Does something while the configuration of the first node's agent is another one. The agent is stopped before, and started after.
fn configured(
    world: &mut World,
    change: impl FnOnce(&mut Value),
    act: impl FnOnce(&mut World) -> Result<()>,
) -> Result<()> {
    let file = world.agent.config_file();
    let before = std::fs::read_to_string(&file)?;
    let mut config = serde_json::from_str(&before)?;
    change(&mut config);
    world.agent.stop()?;
    std::fs::write(&file, config.to_string())?;
    let outcome = act(world);
    if world.agent.pid().is_some() {
        world.agent.stop()?;
    }
    std::fs::write(&file, before)?;
    world.agent.restart()?;
    outcome
}

fn with_gateway(config: &mut Value) {
    config["gateway"] = json!({"listen": format!("0.0.0.0:{PORT}")});
    let bundle = json!({"trustDomain": "one.test", "file": config["tls"]["caCertificateFile"]});
    config["tls"]["trustBundles"] = json!([bundle]);
}

/// A caller whose token nobody issued, on the second node. Without any, kubectl would ask its terminal for one.
fn asks(world: &World) -> Result<Done> {
    let node = &world.cluster.nodes()[1];
    let mut command = Command::new(world.cluster.bin().join("kubectl"));
    let server = format!("https://{}:{PORT}", world.cluster.node().address);
    let limit = format!("{}s", DIAL_LIMIT.as_secs());
    command
        .args(["--insecure-skip-tls-verify", "--server", &server])
        .args([
            "--token",
            "nobody",
            "--request-timeout",
            &limit,
            "get",
            "--raw",
            "/version",
        ])
        .env("KUBECONFIG", "/nonexistent/kubeconfig");
    Ok(Done::from(node.output(command)?))
}

/// The gateway answers: it wants a credential that counts.
fn answers(world: &World) -> Result<()> {
    asks(world)?.refused(&["You must be logged in"]).map(drop)
}

/// Takes the gateway's port on the first node.
fn taker(world: &World) -> Result<Child> {
    use std::io::{BufRead as _, BufReader};
    let mut command = Command::new("python3");
    command
        .args(["-c", TAKER, &PORT.to_string()])
        .stdout(Stdio::piped());
    let mut child = world.cluster.node().spawn(command)?;
    let mut line = String::new();
    if let Some(out) = child.stdout.take() {
        BufReader::new(out).read_line(&mut line)?;
    }
    ensure!(line.trim() == "taken", "the port is not taken: {line:?}");
    Ok(child)
}

fn a_taken_port_keeps_the_gateway_out_and_nothing_else(world: &mut World) -> Result<()> {
    let mut taker = taker(world)?;
    let done = configured(world, with_gateway, |world| {
        world.agent.begin()?;
        let failing = until(|| {
            let Ok((code, body)) = world.agent.admin("/readyz") else {
                return Ok(None);
            };
            Ok((code == 503 && body.contains("gateway.listen")).then_some(body))
        })?;
        ensure!(failing.contains("\"gateway\""), "{failing}");
        world.worker(GET_SEED)?.good()?;
        taker.kill()?;
        taker.wait()?;
        world.agent.wait()?;
        answers(world)
    });
    let _ended = taker.kill();
    done
}

fn during_an_upgrade_the_gateway_answers_every_caller(world: &mut World) -> Result<()> {
    configured(world, with_gateway, |world| {
        world.agent.restart()?;
        answers(world)?;
        let log = std::fs::read_to_string(world.agent.log_file())?.len();
        // A successor that never hears of its pods, and so never serves.
        let file = world.agent.config_file();
        let before = std::fs::read_to_string(&file)?;
        let mut config: Value = serde_json::from_str(&before)?;
        let named = config["cluster"]["kubeconfig"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        let deaf = world.agent.dir().join("deaf");
        let server = world.cluster.server();
        std::fs::write(
            &deaf,
            std::fs::read_to_string(named)?.replace(server, "https://127.0.0.1:9"),
        )?;
        config["cluster"]["kubeconfig"] = json!(deaf);
        std::fs::write(&file, config.to_string())?;
        let predecessor = world.agent.succeed()?;
        let dialled = (|| {
            until(|| {
                let text = std::fs::read_to_string(world.agent.log_file())?;
                Ok(text[log..].contains("started node=").then_some(()))
            })?;
            let began = Instant::now();
            for number in 0..DIALS {
                answers(world).map_err(|error| error.context(format!("dial {number}")))?;
            }
            eprintln!("{DIALS} dials in {:?}", began.elapsed());
            Ok(())
        })();
        world.agent.fall_back(predecessor)?;
        dialled
    })
}

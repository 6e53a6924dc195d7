//! The agent is killed, robbed of its links and removed, while pods dial without end: nobody goes past.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use picket_tests::output::Done;
use picket_tests::pod::RealPod;
use picket_tests::tests;

use crate::Test;
use crate::kube_events::event;
use crate::traffic::{Counter, LIMIT, Load, asks, links, listeners, nothing, until, verify_audit};
use crate::world::World;

pub(crate) const TESTS: &[Test] = tests! {
    killed_again_and_again_nobody_goes_past,
    a_link_that_is_taken_away_comes_back,
    its_supervisor_hears_that_it_is_at_work,
    uninstalled_no_link_is_left,
};

/// The issue's own number: a link that is lost is noticed and put back within this time.
const LINK_LIMIT: Duration = Duration::from_secs(5);
/// How often the agent is killed.
const KILLS: usize = 10;

fn killed_again_and_again_nobody_goes_past(world: &mut World) -> Result<()> {
    let pod = RealPod::find(&world.cluster, "agents", "worker")?
        .address()
        .to_owned();
    let server = world.server_log();
    let links_before = links()?.len();
    let load = Load::enforced(world)?;
    let direct = Load::exempt(world)?;
    {
        let mut dead = Vec::new();
        for _ in 0..KILLS {
            world.agent.kill9()?;
            let counted = Counter::start(world, "agents")?;
            std::thread::sleep(Duration::from_millis(200));
            let seen = counted.packets()?;
            drop(counted);
            dead.push(seen);
            world.agent.restart()?;
        }
        ensure!(
            dead.iter().all(|&packets| packets == 0),
            "while the agent was away the API server's address was sent {dead:?} packets"
        );
    }
    // Over a restart too, from before the kill until after the agent serves.
    world.agent.kill9()?;
    let begun = world.agent.begin();
    let (enforced, open) = {
        let (enforced, open) = (Counter::start(world, "agents")?, Counter::start(world, "direct")?);
        begun?;
        until("it serves", LIMIT, || {
            Ok(world.agent.admin("/readyz").is_ok_and(|(code, _)| code == 200))
        })?;
        std::thread::sleep(Duration::from_millis(500));
        (enforced.packets()?, open.packets()?)
    };
    ensure!(
        enforced == 0,
        "over a restart the API server's address was sent {enforced} packets"
    );
    ensure!(open > 0, "the counter counts nothing");
    let (answered, _) = load.stop()?;
    let (exempt, failed) = direct.stop()?;
    eprintln!("{KILLS} kills: {answered} requests answered in the enforced pod, {exempt} in the other");
    ensure!(answered > 0 && exempt > 0, "answered: {answered} and {exempt}");
    ensure!(nothing(&failed), "a pod that is left alone saw {failed}");
    // The last address is the connection's own; those before it are what Picket tells the API server.
    let past = server.all(|record| {
        record["sourceIPs"]
            .as_array()
            .is_some_and(|sources| sources.last().is_some_and(|source| source == pod.as_str()))
    })?;
    ensure!(
        past.is_empty(),
        "the API server was asked by the pod itself: {past:?}"
    );
    until("as many links as before", LIMIT, || {
        Ok(links()?.len() == links_before)
    })
    .with_context(|| format!("{links_before} links before"))?;
    verify_audit(world)
}

fn a_link_that_is_taken_away_comes_back(world: &mut World) -> Result<()> {
    let picket = world.picket_log();
    let reattached = |world: &World| {
        world
            .agent
            .metric("picket_kernel_reattachments_total", &["program=\"connect4\""])
    };
    let before = reattached(world)?;
    let pins = world.agent.pins()?;
    let pin = pins
        .iter()
        .find(|pin| pin.ends_with("/link_connect4"))
        .context("no pin of connect4")?;
    let mut command = Command::new("rm");
    command.arg(pin);
    Done::from(world.agent.node().output(command)?).good()?;
    let took = until("the link is back", LINK_LIMIT, || {
        Ok(world.agent.pins()?.contains(pin))
    })?;
    eprintln!("a link was back after {took:?}");
    let record = picket.wait("the lost link", |record| {
        record["decision"]["reason"] == "link_replaced"
    })?;
    ensure!(
        record["annotations"]["picket.dev/severity"] == "critical" && record["kernel"]["hook"] == "connect4",
        "{record:#}"
    );
    let now = reattached(world)?;
    ensure!(now - before == 1.0, "{before} re-attachments before, {now} now");
    let told = event(world, "default", "node1", "ProgramReplaced")?;
    ensure!(
        told["message"]
            .as_str()
            .is_some_and(|note| note.contains("connect4")),
        "{told:#}"
    );
    // It holds again.
    let counted = Counter::start(world, "agents")?;
    asks(world)?.good()?;
    ensure!(counted.packets()? == 0, "the connect went past");
    Ok(())
}

fn its_supervisor_hears_that_it_is_at_work(world: &mut World) -> Result<()> {
    world.agent.stop()?;
    world.agent.restart()?;
    let mut told = Vec::new();
    until("it is told of", LIMIT, || {
        told.extend(world.agent.told_supervisor()?);
        Ok(!told.is_empty())
    })?;
    ensure!(told == ["READY=1"], "told: {told:?}");
    Ok(())
}

fn uninstalled_no_link_is_left(world: &mut World) -> Result<()> {
    let with = links()?;
    world.agent.kill9()?;
    world.agent.uninstall()?;
    let (left, without) = (world.agent.pins()?, links()?);
    let admin = world.agent.admin_socket();
    let sockets: Vec<_> = [
        admin.with_file_name("upgrade.sock"),
        admin.with_file_name("admin.sock.1"),
        admin,
    ]
    .into_iter()
    .filter(|socket| socket.exists())
    .collect();
    let listening = listeners(world);
    world.agent.restart()?;
    let again = links()?;
    let second = (|| {
        world.agent.stop()?;
        world.agent.uninstall()?;
        links()
    })();
    world.agent.restart()?;
    ensure!(left.is_empty(), "pins are left: {left:?}");
    ensure!(sockets.is_empty(), "sockets are left: {sockets:?}");
    let listening = listening?;
    ensure!(
        listening.is_empty(),
        "listeners are left in the pod:\n{listening}"
    );
    ensure!(
        without.len() < with.len(),
        "links before {with:?}, after {without:?}"
    );
    let second = second?;
    ensure!(
        again.len() > second.len() && second.is_subset(&without) && without.is_subset(&second),
        "links without Picket: {without:?}, then {second:?}"
    );
    Ok(())
}

//! What runs while its agent drains, told to stop or replaced by a successor: an operator still lists and ends it, and it ends with
//! what permitted it.

use std::process::Child;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use picket_tests::output::Done;
use picket_tests::tests;
use serde_json::Value;

use crate::Test;
use crate::life::until;
use crate::world::World;

pub(crate) const TESTS: &[Test] = tests! {
    an_agent_that_was_told_to_stop_lists_and_ends_its_sessions,
    a_predecessor_lists_and_ends_its_sessions,
    a_predecessor_learns_that_a_pod_changed,
};

/// Far longer than these tests take: what they end must not end by itself.
const DRAIN_SECONDS: u64 = 60;

/// How long an end may take, this machine's load included.
const LIMIT: Duration = Duration::from_secs(5);

/// Runs a test with an agent that drains for long; the agent is as before afterwards.
fn with_long_drain(world: &mut World, test: impl FnOnce(&mut World) -> Result<()>) -> Result<()> {
    let file = world.agent.config_file();
    let own = std::fs::read_to_string(&file)?;
    let mut config: Value = serde_json::from_str(&own)?;
    config["shutdown"]["drainSeconds"] = DRAIN_SECONDS.into();
    world.agent.stop()?;
    std::fs::write(&file, config.to_string())?;
    world.agent.restart()?;
    let outcome = test(world);
    std::fs::write(&file, own)?;
    // Its sessions ended with the test, or hold it for as long as it drains.
    let stopped = world.agent.stop().map(drop).or_else(|_| world.agent.kill9());
    stopped?;
    world.agent.restart()?;
    outcome
}

fn sessions(world: &World, arguments: &[&str]) -> Result<Done> {
    let config = world.agent.config_file().display().to_string();
    let mut words = vec!["sessions"];
    words.extend(arguments);
    words.extend(["--config", &config]);
    world.agent.picket(&words).map(Done::from)
}

/// The states of the agents that carry the worker's watches, in order.
fn states(world: &World) -> Result<Vec<String>> {
    let list = sessions(world, &["list", "--identity", "worker", "-o", "json"])?.good()?;
    let list: Value = serde_json::from_str(&list)?;
    let listed = list["sessions"].as_array().context("no sessions")?;
    let mut states: Vec<String> = listed
        .iter()
        .map(|session| session["agent"]["state"].as_str().unwrap_or_default().to_owned())
        .collect();
    states.sort();
    Ok(states)
}

fn terminate(pid: Option<u32>) -> Result<()> {
    let pid = pid.context("the agent does not run")?;
    Ok(kill(Pid::from_raw(pid.cast_signed()), Signal::SIGTERM)?)
}

/// Has a successor take over; gives the predecessor, which drains.
fn succeed(world: &mut World) -> Result<Child> {
    // The log goes on over restarts.
    let taken_over = |world: &World| -> Result<usize> {
        let said = std::fs::read_to_string(world.agent.log_file())?;
        Ok(said.matches("the predecessor has stopped serving").count())
    };
    let before = taken_over(world)?;
    let predecessor = world.agent.succeed()?;
    world.agent.wait()?;
    // Until then a connection that comes may still be the predecessor's.
    until(|| Ok((taken_over(world)? > before).then_some(())))?;
    Ok(predecessor)
}

fn an_agent_that_was_told_to_stop_lists_and_ends_its_sessions(world: &mut World) -> Result<()> {
    with_long_drain(world, |world| {
        let watch = world.watch_tick("worker")?;
        terminate(world.agent.pid())?;
        until(|| Ok((states(world)? == ["draining"]).then_some(())))?;
        let (code, ready) = world.agent.admin("/readyz")?;
        ensure!(code == 503 && ready.contains("stopping"), "{code} {ready}");
        ensure!(watch.silent(), "the watch ended by itself");
        let began = Instant::now();
        sessions(world, &["kill", "--identity", "worker", "--reason", "enough"])?.good()?;
        watch.line_with("enough")?;
        watch.line_with("over")?;
        // With its last session it ends.
        let status = world.agent.stop()?;
        eprintln!(
            "killed in an agent that drains: all over after {:?}",
            began.elapsed()
        );
        ensure!(
            status.success() && began.elapsed() < LIMIT,
            "it ended with {status} after {:?}",
            began.elapsed()
        );
        ensure!(!world.agent.admin_socket().exists(), "its admin socket is left");
        world.agent.restart().map(drop)
    })
}

fn a_predecessor_lists_and_ends_its_sessions(world: &mut World) -> Result<()> {
    with_long_drain(world, |world| {
        let older = world.watch_tick("worker")?;
        let mut predecessor = succeed(world)?;
        let newer = world.watch_tick("worker")?;
        let outcome = (|| {
            ensure!(
                states(world)? == ["draining", "serving"],
                "{:?}",
                sessions(world, &["list"])
            );
            ensure!(older.silent(), "the watch ended with the upgrade");
            let said = sessions(world, &["kill", "--all", "--reason", "enough"])?.good()?;
            ensure!(said.contains("Ended 2 sessions."), "{said}");
            for watch in [&older, &newer] {
                watch.line_with("enough")?;
                watch.line_with("over")?;
            }
            until(|| predecessor.try_wait().map_err(Into::into))
        })();
        end(&mut predecessor)?;
        ensure!(outcome?.success(), "the predecessor failed");
        Ok(())
    })
}

fn a_predecessor_learns_that_a_pod_changed(world: &mut World) -> Result<()> {
    let label = |world: &World, value: &str| {
        world
            .admin(&["label", "pod", "worker", "-n", "agents", "--overwrite", value])
            .map(drop)
    };
    let outcome = with_long_drain(world, |world| {
        let (watch, log) = (world.watch_tick("worker")?, world.picket_log());
        let mut predecessor = succeed(world)?;
        let outcome = (|| {
            ensure!(watch.silent(), "the watch ended with the upgrade");
            let began = Instant::now();
            label(world, "app=quarantined")?;
            watch.line_with("over")?;
            let took = began.elapsed();
            eprintln!("a label that changed ended a watch of the predecessor after {took:?}");
            ensure!(took < LIMIT, "it took {took:?}");
            log.wait("the end's record", |record| {
                record["verb"] == "watch" && record["session"]["endCause"] == "identity_none"
            })
        })();
        end(&mut predecessor)?;
        outcome.map(drop)
    });
    label(world, "app=worker")?;
    outcome
}

/// Two agents would be in the way of the next test.
fn end(predecessor: &mut Child) -> Result<()> {
    if predecessor.try_wait()?.is_none() {
        predecessor.kill()?;
    }
    predecessor.wait()?;
    Ok(())
}

//! Pods that nobody has seen yet dial on their first instruction.

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use picket_tests::tests;

use crate::Test;
use crate::dial::{Attacker, NewPod, Verdict};
use crate::guards::{Guard, without};
use crate::target::{ENDPOINT, HOST};
use crate::world::World;

pub(crate) const TESTS: &[Test] = tests! {
    two_hundred_pods_find_the_endpoints_shut,
};

/// How many pods at once; as many find an agent that stands still.
const PODS: usize = 100;
/// How many without the guard, to see that they would have arrived.
const SHOWN: usize = 10;

fn two_hundred_pods_find_the_endpoints_shut(world: &mut World) -> Result<()> {
    world.arrived()?;
    shut(world, PODS).context("while the agent runs")?;
    let pid = world.agent.pid().context("the agent does not run")?;
    let agent = |signal| kill(Pid::from_raw(pid.cast_signed()), signal).context("signal the agent");
    agent(Signal::SIGSTOP)?;
    let outcome = shut(world, PODS).context("while the agent stands still");
    agent(Signal::SIGCONT)?;
    outcome?;
    without(world, &[Guard::Connect], |world| {
        let verdicts = world.expecting(Verdict::Reached, |world| dial_all(world, SHOWN))?;
        ensure!(
            verdicts.iter().all(|&verdict| verdict == Verdict::Reached),
            "without the guard the dials are {verdicts:?}"
        );
        ensure!(!world.arrived()?.is_empty(), "nothing arrived");
        Ok(())
    })
}

fn shut(world: &World, pods: usize) -> Result<()> {
    let verdicts = dial_all(world, pods)?;
    let arrived = world.arrived()?;
    ensure!(
        arrived.is_empty(),
        "{} packets arrived: {arrived:?}",
        arrived.len()
    );
    let others: Vec<_> = verdicts
        .iter()
        .filter(|&&verdict| verdict != Verdict::Forbidden)
        .collect();
    ensure!(others.is_empty(), "some dials are {others:?}");
    Ok(())
}

/// Makes pods whose first process dials at once, all of them before the first is waited for: half at the counting target, half at
/// the API server.
fn dial_all(world: &World, count: usize) -> Result<Vec<Verdict>> {
    let endpoints = [format!("{HOST}:{ENDPOINT}"), "10.96.0.1:443".to_owned()];
    let (mut pods, mut dialling) = (Vec::new(), Vec::new());
    for number in 0..count {
        let pod = NewPod::new(world)?;
        let arguments = ["dial", "tcp", &endpoints[number % 2]];
        dialling.push(Attacker::start(world, &pod.stand(world), &arguments)?);
        pods.push(pod);
    }
    dialling
        .into_iter()
        .map(|attacker| Ok(attacker.report()?.verdict()))
        .collect()
}

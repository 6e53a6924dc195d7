//! Pods that nobody has seen yet dial on their first instruction.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::Test;
use crate::dial::{Attacker, Stand, Verdict};
use crate::guards::{Guard, without};
use crate::target::{DOOR, HOST};
use crate::world::World;

pub(crate) const TESTS: &[Test] = &[(
    "two_hundred_pods_find_the_doors_shut",
    two_hundred_pods_find_the_doors_shut,
)];

/// How many pods at once; as many find an agent that stands still.
const PODS: usize = 100;
/// How many without the guard, to see that they would have arrived.
const SHOWN: usize = 10;

fn two_hundred_pods_find_the_doors_shut(world: &mut World) -> Result<()> {
    world.arrived()?;
    shut(world, PODS).context("while the agent runs")?;
    let pid = world.agent.pid().context("the agent does not run")?;
    let agent = |signal| kill(Pid::from_raw(pid.cast_signed()), signal).context("signal the agent");
    agent(Signal::SIGSTOP)?;
    let outcome = shut(world, PODS).context("while the agent stands still");
    agent(Signal::SIGCONT)?;
    outcome?;
    without(world, &[Guard::Connect], |world| {
        let verdicts = dial_all(world, SHOWN)?;
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
/// the API server. They are on the node's network, so that nothing but their cgroup tells what they are.
fn dial_all(world: &World, pods: usize) -> Result<Vec<Verdict>> {
    let kubepods = world.cluster.node().cgroup.join("kubepods/besteffort");
    let doors = [format!("{HOST}:{DOOR}"), "10.96.0.1:443".to_owned()];
    let (mut dialling, mut made) = (Vec::new(), Made(Vec::new()));
    for number in 0..pods {
        let uid = fs::read_to_string("/proc/sys/kernel/random/uuid")?;
        let pod = kubepods.join(format!("pod{}", uid.trim()));
        let container = pod.join(format!("{number:064x}"));
        made.0.push(container.clone());
        fs::create_dir_all(&container).with_context(|| format!("make {}", container.display()))?;
        let stand = Stand::node(world).in_cgroup(&container);
        dialling.push(Attacker::start(
            world,
            &stand,
            &["dial", "tcp", &doors[number % 2]],
        )?);
    }
    dialling
        .into_iter()
        .map(|attacker| Ok(attacker.report()?.verdict()))
        .collect()
}

/// Containers' cgroups, which go with their pods' when this is dropped.
struct Made(Vec<PathBuf>);

impl Drop for Made {
    fn drop(&mut self) {
        for container in &self.0 {
            for folder in container.ancestors().take(2) {
                for _ in 0..200 {
                    // Its last process has ended, but the kernel may not have finished with it.
                    if fs::remove_dir(folder).is_ok() || !folder.exists() {
                        break;
                    }
                    std::thread::sleep(std::time::Duration::from_millis(5));
                }
            }
        }
    }
}

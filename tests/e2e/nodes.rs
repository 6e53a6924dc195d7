//! Two nodes and two agents on one kernel: each has its own pods, programs and records.

use anyhow::{Result, ensure};
use picket_tests::tests;
use serde_json::Value;

use crate::Test;
use crate::life::{GET_SEED, REFUSED, dial};
use crate::world::World;
use picket_tests::audit::{Since, about};

pub(crate) const TESTS: &[Test] = tests! {
    each_agent_serves_its_own_pods,
    one_agent_away_leaves_the_other,
};

fn each_agent_serves_its_own_pods(world: &mut World) -> Result<()> {
    let (first, second) = (world.picket_log(), Since::now(&world.other.audit_directory()));
    world.run("agents", "remote", &["sh", "-c", GET_SEED])?.good()?;
    world.worker(GET_SEED)?.good()?;
    let get = |record: &Value| about(record, "get", "configmaps", "seed");
    let record = second.wait("the remote pod's get", get)?;
    ensure!(
        record["agent"]["node"] == "node2" && record["agent"]["pod"]["name"] == "remote",
        "{record:#}"
    );
    ensure!(record["agent"]["identity"] == "worker", "{record:#}");
    first.wait("the worker's get", get)?;
    for (log, pod) in [(&first, "remote"), (&second, "worker")] {
        let escapes = log.all(|record| record["agent"]["pod"]["name"] == pod)?;
        ensure!(escapes.is_empty(), "the wrong agent served {escapes:?}");
    }
    Ok(())
}

fn one_agent_away_leaves_the_other(world: &mut World) -> Result<()> {
    world.other.kill9()?;
    let begun = (|| {
        let dialled = dial(world, "remote")?;
        ensure!(
            dialled.iter().all(|&code| code == REFUSED),
            "with its agent away a dial gives {dialled:?}"
        );
        world.worker(GET_SEED)?.good()
    })();
    world.other.restart()?;
    begun?;
    world
        .run("agents", "remote", &["sh", "-c", GET_SEED])?
        .good()
        .map(drop)
}

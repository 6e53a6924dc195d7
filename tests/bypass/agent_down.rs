//! No agent runs for longer than its sign of life is good for: what pods get that nobody judged, which the operator chooses,
//! and that the others keep what they had.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use picket_tests::tests;
use serde_json::json;

use crate::Test;
use crate::dial::{NewPod, Stand, Verdict};
use crate::world::World;

pub(crate) const TESTS: &[Test] = tests! {
    new_pods_find_the_endpoints_shut_however_long,
    new_pods_pass_in_time_where_the_operator_wants_it_so,
};

/// After how long without a sign of life the agent counts as gone; the last one was some time before it was killed.
const GONE: Duration = Duration::from_secs(10);
/// How long before that a test may still be sure that it does not.
const SURELY: Duration = Duration::from_secs(8);
/// The API server's Service.
const SERVER: &str = "10.96.0.1:443";

fn new_pods_find_the_endpoints_shut_however_long(world: &mut World) -> Result<()> {
    killed(world, Verdict::Forbidden)
}

fn new_pods_pass_in_time_where_the_operator_wants_it_so(world: &mut World) -> Result<()> {
    let open = |config: &mut serde_json::Value| config["enforce"]["unclassifiedPods"] = json!("failOpen");
    world.configured(open, |world| {
        let before = passed(world)?;
        killed(world, Verdict::Reached)?;
        let counted = passed(world)? - before;
        ensure!(counted == 1.0, "{counted} connects were counted");
        // An agent runs again.
        new_pod_gets(world, Verdict::Forbidden)
    })
}

/// Kills the agent for longer than its sign of life is good for, and starts it again. At first a new pod is refused; at the end
/// another one gets what is wanted. A pod that was enforced before fails whatever is wanted: it is taken to where nobody listens.
fn killed(world: &mut World, wanted: Verdict) -> Result<()> {
    world.agent.kill9()?;
    let since = Instant::now();
    let outcome = (|| {
        new_pod_gets(world, Verdict::Forbidden)?;
        ensure!(since.elapsed() < SURELY, "the machine is too slow to tell");
        thread::sleep((GONE + Duration::from_secs(1)).saturating_sub(since.elapsed()));
        new_pod_gets(world, wanted)?;
        let worker = Stand::pod(&world.pod("agents", "worker")?)?;
        let report = world.dial(&worker, &["tcp", SERVER])?;
        report.expect("an enforced pod's dial", Verdict::Failed)
    })();
    world.agent.restart()?;
    outcome
}

fn new_pod_gets(world: &World, wanted: Verdict) -> Result<()> {
    let pod = NewPod::new(world)?;
    let report = world.dial(&pod.stand(world), &["tcp", SERVER])?;
    report.expect("a new pod's dial", wanted)
}

fn passed(world: &World) -> Result<f64> {
    let label = "event=\"allowed_unclassified\"";
    world.agent.metric("picket_kernel_events_total", &[label])
}

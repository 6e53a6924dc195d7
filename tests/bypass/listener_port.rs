//! A program of an enforced pod takes the port of Picket's listener: it gets the port, and no connection that Picket is to answer;
//! those go on, through the listener's other port.

use anyhow::{Result, ensure};
use picket_tests::port_taker::PortTaker;
use picket_tests::running::Running;
use picket_tests::tests;

use crate::Test;
use crate::dial::{Stand, Verdict};
use crate::traffic::{LIMIT, Load, nothing, until};
use crate::world::World;

pub(crate) const TESTS: &[Test] = tests! {
    the_listener_moves_and_no_connection_is_lost,
    while_no_agent_runs_a_program_on_the_listeners_port_gets_nothing,
};

/// The API server's Service.
const SERVER: &str = "10.96.0.1:443";

fn the_listener_moves_and_no_connection_is_lost(world: &mut World) -> Result<()> {
    let moved = || {
        world
            .agent
            .metric("picket_listener_moves_total", &["outcome=\"moved\""])
    };
    let (before, log) = (moved()?, world.picket_log());
    let load = Load::enforced(world)?;
    let watch = "kubectl get configmap seed -n lab --watch -o name";
    let watching = Running::start(
        &world.cluster.kubectl_client(),
        "agents",
        "worker",
        &["sh", "-c", watch],
    )?;
    watching.line_with("seed")?;
    let (mut program, first) = PortTaker::start(&world.cluster, "agents", "worker")?;
    for (address, hook) in [("0.0.0.0", "bind4"), ("::", "bind6")] {
        let taken = program.take(address)?;
        eprintln!("{address}: {taken:?}");
        ensure!(taken.error.is_none(), "it never got the port: {taken:?}");
        ensure!(taken.millis < 5000.0, "it took long: {taken:?}");
        log.wait("the record of the bind", |record| {
            let kernel = &record["kernel"];
            kernel["hook"] == hook
                && record["decision"]["reason"] == "listener_port"
                && kernel["address"]
                    .as_str()
                    .is_some_and(|address| address.ends_with(&taken.port.to_string()))
        })?;
        ensure!(
            taken.listeners.iter().any(|port| *port != u64::from(taken.port)),
            "Picket listens nowhere else: {taken:?}"
        );
    }
    until("both moves are counted", LIMIT, || Ok(moved()? - before == 2.0))?;
    std::thread::sleep(std::time::Duration::from_secs(1));
    world.admin(&[
        "annotate",
        "configmap",
        "seed",
        "-n",
        "lab",
        "--overwrite",
        "moved=1",
    ])?;
    watching.line_with("seed")?;
    let (answered, failed) = load.stop()?;
    let came = program.stop()?;
    ensure!(
        nothing(&failed),
        "of {answered} requests during the moves from {first} some failed: {failed}"
    );
    ensure!(
        answered > 0 && came == 0,
        "{answered} answered, {came} came to the program"
    );
    Ok(())
}

fn while_no_agent_runs_a_program_on_the_listeners_port_gets_nothing(world: &mut World) -> Result<()> {
    let (mut program, port) = PortTaker::start(&world.cluster, "agents", "worker")?;
    let worker = Stand::pod(&world.pod("agents", "worker")?)?;
    world.agent.kill9()?;
    let outcome = (|| {
        let report = world.dial(&worker, &["tcp", SERVER])?;
        report.expect("a dial where nobody listens", Verdict::Failed)?;
        let taken = program.take_port("127.0.0.1", port)?;
        ensure!(taken.error.is_none(), "nobody has the port: {taken:?}");
        let report = world.dial(&worker, &["tcp", SERVER])?;
        report.expect("a dial where a program of the pod listens", Verdict::Nothing)?;
        // The program does listen.
        let report = world.dial(&worker, &["tcp", &format!("127.0.0.1:{port}")])?;
        ensure!(
            report.verdict() != Verdict::Failed,
            "nobody listens at the port: {report}"
        );
        Ok(())
    })();
    world.agent.restart()?;
    let came = program.stop()?;
    outcome?;
    ensure!(
        came == 1,
        "{came} connections came to the program, and one is its own pod's"
    );
    let report = world.dial(&worker, &["tcp", SERVER])?;
    report.expect("a dial once an agent runs", Verdict::Redirected)?;
    let dropped = world
        .agent
        .metric("picket_kernel_events_total", &["event=\"dropped_misdirected\""])?;
    ensure!(dropped > 0.0, "nothing was dropped");
    Ok(())
}

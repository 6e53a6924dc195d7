//! Simulated pods are what they say, come by the hundred, and go.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use picket_tests::pod::TestPod;
use picket_tests::sim::{Layout, Qos, SimNode, SimOptions};
use picket_tests::state::{Cleaned, clean};
use picket_tests::tests;

use crate::Test;
use crate::trace::Traces;

pub(crate) const TESTS: &[Test] = tests! {
    a_pod_is_in_its_cgroup_and_network,
    two_hundred_come_and_go,
    a_killed_owner_leaves_what_clean_removes,
};

fn a_pod_is_in_its_cgroup_and_network() -> Result<()> {
    let before = Traces::now()?;
    let node = SimNode::up("place")?;
    let systemd = SimOptions {
        layout: Layout::Systemd,
        qos: Qos::Burstable,
        ..SimOptions::default()
    };
    for options in [SimOptions::default(), systemd] {
        let pod = node.pod(options)?;
        let shown = pod.run(&["cat", "/proc/self/cgroup"])?;
        let shown = String::from_utf8(shown.stdout)?;
        let own = shown
            .lines()
            .find_map(|line| line.strip_prefix("0::"))
            .context("no unified cgroup")?;
        ensure!(
            pod.container_cgroup().ends_with(own.trim_start_matches('/')),
            "{own} is not {:?}",
            pod.container_cgroup()
        );
        let seen = pod.run(&["ip", "-brief", "address", "show", "eth0"])?;
        let seen = String::from_utf8(seen.stdout)?;
        ensure!(
            seen.contains(&pod.address().to_string()),
            "its address is not among {seen}"
        );
        let gateway = node.address().to_string();
        let mut dial = std::net::TcpListener::bind("127.0.0.1:0").map(drop);
        picket_tests::net::inside(node.netns(), || {
            let server = std::net::TcpListener::bind((node.address(), 4433))?;
            dial = picket_tests::net::inside(pod.netns(), || {
                Ok(std::net::TcpStream::connect((gateway.as_str(), 4433))?)
            })
            .map(drop)
            .map_err(std::io::Error::other);
            let (_, from) = server.accept()?;
            ensure!(from.ip() == pod.address(), "the node sees {from}");
            Ok(())
        })?;
        dial?;
        let away = picket_tests::net::inside(pod.netns(), || {
            Ok(
                std::net::TcpStream::connect_timeout(&"192.0.2.1:80".parse()?, Duration::from_secs(2))
                    .is_ok(),
            )
        })?;
        ensure!(!away, "there is a way out of the pod's network");
    }
    node.down()?;
    before.unchanged()
}

fn two_hundred_come_and_go() -> Result<()> {
    let before = Traces::now()?;
    let started = Instant::now();
    let node = SimNode::up("many")?;
    let named = (0..200).map(|number| SimOptions {
        name: format!("sim{number}"),
        ..SimOptions::default()
    });
    let pods = node.pods(named)?;
    let up = started.elapsed();
    for pod in &pods {
        let inside = fs::read_to_string(pod.container_cgroup().join("cgroup.procs"))?;
        ensure!(inside.lines().count() == 1, "{} has {inside:?}", pod.name());
    }
    let started = Instant::now();
    node.down()?;
    let down = started.elapsed();
    drop(pods);
    println!(
        "200 simulated pods: up in {:.1} s, down in {:.1} s",
        up.as_secs_f32(),
        down.as_secs_f32()
    );
    ensure!(
        up < Duration::from_secs(30) && down < Duration::from_secs(30),
        "too slow: up {up:?}, down {down:?}"
    );
    before.unchanged()
}

fn a_killed_owner_leaves_what_clean_removes() -> Result<()> {
    let before = Traces::now()?;
    killed_owner("sim")?;
    let done = clean(is_victim)?;
    ensure!(
        done.contains(&Cleaned::Removed("victim".to_owned())),
        "clean found only {done:?}"
    );
    before.unchanged()
}

/// Other clusters on this machine may be somebody's.
pub(crate) fn is_victim(name: &str) -> bool {
    name == "victim"
}

/// Has another process make something, and kills it so that it cannot take it down. While it lived, clean left it alone.
pub(crate) fn killed_owner(kind: &str) -> Result<()> {
    use std::io::{BufRead, BufReader};
    let mut command = Command::new(std::env::current_exe()?);
    let mut child = command
        .env(crate::trace::VICTIM, kind)
        .stdout(std::process::Stdio::piped())
        .spawn()?;
    let output = child.stdout.take().context("its output")?;
    let mut line = String::new();
    BufReader::new(output).read_line(&mut line)?;
    let alive = clean(is_victim);
    child.kill()?;
    child.wait()?;
    ensure!(line.trim() == "up", "it is not up");
    let alive = alive?;
    ensure!(
        alive
            .iter()
            .any(|one| matches!(one, Cleaned::InUse(name, _) if name == "victim")),
        "clean did {alive:?}"
    );
    Ok(())
}

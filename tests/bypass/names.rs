//! One protected endpoint by all its names.

use anyhow::{Context, Result, ensure};
use picket_tests::tests;

use crate::Test;
use crate::dial::{Stand, Verdict};
use crate::guards::{Guard, without};
use crate::target::{ENDPOINT, HOST, HOST6};
use crate::world::World;

pub(crate) const TESTS: &[Test] = tests! {
    every_form_of_an_address,
    every_form_of_the_nodes_own,
    a_pods_own_loopback_is_its_own,
};

/// All guards that a connection and a datagram of a pod have to pass.
const ALL: &[Guard] = &[Guard::Connect, Guard::SendMsg, Guard::Egress, Guard::Interface];

/// The API server's port on its node.
const SERVER: u16 = 6443;

fn every_form_of_an_address(world: &mut World) -> Result<()> {
    let endpoints = [
        format!("{HOST}:{ENDPOINT}"),
        format!("[::ffff:{HOST}]:{ENDPOINT}"),
        format!("[64:ff9b::{HOST}]:{ENDPOINT}"),
        format!("[{HOST6}]:{ENDPOINT}"),
        "10.96.0.1:443".to_owned(),
        "[::ffff:10.96.0.1]:443".to_owned(),
        format!("{}:{SERVER}", world.cluster.node().address),
        format!("[::ffff:{}]:{SERVER}", world.cluster.node().address),
    ];
    for pod in ["worker", "hosted"] {
        // Before the pods' own packets were seen, these are a connection's and a datagram's verdicts alone.
        prove(world, pod, &endpoints).context(pod)?;
    }
    // Nothing translates to version 4 for the API server here, so this one is only seen to be redirected.
    let worker = Stand::pod(&world.pod("agents", "worker")?)?;
    let wanted = Verdict::Redirected;
    world
        .expecting(wanted, |world| {
            world.dial(&worker, &["tcp", "[64:ff9b::10.96.0.1]:443"])
        })?
        .expect("the service by NAT64", wanted)
}

/// A pod on the node's network has the node's loopback, where the API server answers by every name.
fn every_form_of_the_nodes_own(world: &mut World) -> Result<()> {
    let hosts = [
        "0.0.0.0",
        "127.0.0.1",
        "127.9.9.9",
        "[::]",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:127.9.9.9]",
        "[::ffff:0.0.0.0]",
        "10.244.1.1",
        "[::ffff:10.244.1.1]",
    ];
    let endpoints: Vec<String> = hosts.iter().map(|host| format!("{host}:{SERVER}")).collect();
    prove(world, "hosted", &endpoints)
}

/// Each is redirected by TCP and refused by UDP, and with no guard leads to whom it names.
fn prove(world: &mut World, pod: &str, endpoints: &[String]) -> Result<()> {
    let pod = Stand::pod(&world.pod("agents", pod)?)?;
    let server = world.server_log();
    world.arrived()?;
    let mut wrong = Vec::new();
    for endpoint in endpoints {
        for (way, wanted) in [
            ("tcp", Verdict::Redirected),
            ("udp-sendto", Verdict::Forbidden),
            ("udp-connected", Verdict::Forbidden),
        ] {
            let report = world.expecting(wanted, |world| world.dial(&pod, &[way, endpoint]))?;
            if let Err(error) = report.expect(&format!("{way} to {endpoint}"), wanted) {
                wrong.push(error.to_string());
            }
        }
    }
    // The API server's log blocks its answers, so a request that came before this one is in it.
    world.admin(&["get", "namespace", "lab"])?;
    let asked = server
        .all(|record| record["userAgent"] == "picket-attack" && record["impersonatedUser"].is_null())?;
    ensure!(asked.is_empty(), "the API server was asked {asked:?}");
    let arrived = world.arrived()?;
    ensure!(
        wrong.is_empty() && arrived.is_empty(),
        "{}\n{arrived:?} arrived",
        wrong.join("\n")
    );
    without(world, ALL, |world| {
        for endpoint in endpoints {
            let wanted = Verdict::Reached;
            let report = world.expecting(wanted, |world| world.dial(&pod, &["tcp", endpoint]))?;
            if let Err(error) = report.expect(&format!("tcp to {endpoint}"), wanted) {
                wrong.push(error.to_string());
            }
        }
        Ok(())
    })?;
    ensure!(wrong.is_empty(), "with no guard: {}", wrong.join("\n"));
    Ok(())
}

/// What a pod with a network of its own dials at its loopback is no protected endpoint, whatever port it has: the pod's own server answers.
fn a_pods_own_loopback_is_its_own(world: &mut World) -> Result<()> {
    let worker = Stand::pod(&world.pod("agents", "worker")?)?;
    let server = picket_tests::net::inside(worker.netns(), || {
        Ok(std::net::TcpListener::bind(("127.0.0.1", SERVER))?)
    })?;
    std::thread::spawn(move || {
        use std::io::Write;
        if let Ok((mut stream, _)) = server.accept() {
            let _ = stream.write_all(b"TARGET\n");
        }
    });
    let wanted = Verdict::Reached;
    world
        .expecting(wanted, |world| {
            world.dial(&worker, &["tcp", &format!("127.0.0.1:{SERVER}")])
        })?
        .expect("a dial of the pod's own server", wanted)
}

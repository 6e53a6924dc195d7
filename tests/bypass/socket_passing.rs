//! Sockets made in one place and used in another, and attackers that leave their place.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use picket_tests::net;
use picket_tests::tests;

use crate::Test;
use crate::dial::{Attacker, Report, Stand, Verdict};
use crate::guards::{Guard, without};
use crate::target::{ENDPOINT, HOST};
use crate::world::World;

pub(crate) const TESTS: &[Test] = tests! {
    a_socket_made_before_joining_the_pod,
    a_socket_of_the_node_made_before_joining_the_pod,
    a_socket_received_from_outside,
    a_socket_of_the_node_received_from_outside,
    a_pods_socket_used_outside,
    a_hosted_pods_socket_used_outside,
    a_child_cgroup,
    a_sibling_cgroup,
    a_made_up_pods_cgroup,
    a_new_network_namespace_with_an_old_socket,
    a_new_network_namespace_with_a_way_out,
    a_new_user_namespace,
};

fn endpoint() -> String {
    format!("{HOST}:{ENDPOINT}")
}

/// An attack that must be held while `guards` are in force, and that arrives without them.
fn prove(
    world: &mut World,
    guards: &[Guard],
    wanted: Verdict,
    attack: impl Fn(&World, &str) -> Result<Report>,
) -> Result<()> {
    for way in ["tcp", "udp-sendto"] {
        world.arrived()?;
        let report = world.expecting(wanted, |world| attack(world, way))?;
        let arrived = world.arrived()?;
        ensure!(arrived.is_empty(), "{way} arrived: {arrived:?}; {report}");
        let wanted = if way == "tcp" || wanted == Verdict::Nothing {
            wanted
        } else {
            Verdict::Forbidden
        };
        // A datagram that is dropped on its way out is told of to the sender.
        if !(way != "tcp" && report.verdict() == Verdict::Forbidden) {
            report.expect(way, wanted)?;
        }
    }
    without(world, guards, |world| {
        for way in ["tcp", "udp-sendto"] {
            world.arrived()?;
            let report = attack(world, way)?;
            ensure!(
                !world.arrived()?.is_empty(),
                "without {guards:?} {way} does not arrive either: {report}"
            );
        }
        Ok(())
    })
}

/// Moves an attacker that holds a socket into the pod, and has it dial.
fn joined(world: &World, from: &Stand, pod: &Stand, way: &str) -> Result<Report> {
    let mut attacker = Attacker::made(world, from, &["dial", way, &endpoint(), "--wait"])?;
    fs::write(pod.cgroup.join("cgroup.procs"), attacker.pid().to_string()).context("move the attacker")?;
    attacker.go()?;
    attacker.report()
}

/// One process makes the socket, another dials by it.
fn passed(world: &World, from: &Stand, to: &Stand, way: &str) -> Result<Report> {
    let path = world.cluster.dir().join("handed.sock");
    let _ = fs::remove_file(&path);
    let shown = path.display().to_string();
    let _giver = Attacker::made(world, from, &["give", way, &endpoint(), &shown])?;
    world.dial(to, &[way, &endpoint(), "--take", &shown])
}

/// A way in which what is made in the first place is used in the second.
type Hand = fn(&World, &Stand, &Stand, &str) -> Result<Report>;

/// A socket of the pod's own network, made outside the pod and used in it.
fn of_the_pods_network(world: &mut World, hand: Hand) -> Result<()> {
    let pod = Stand::pod(&world.pod("agents", "worker")?)?;
    let outside = Stand::node(world).in_netns(pod.netns());
    prove(
        world,
        &[Guard::Connect, Guard::SendMsg, Guard::Interface],
        Verdict::Redirected,
        |world, way| hand(world, &outside, &pod, way),
    )
}

/// A socket of the node's network, made outside the pod and used in it.
fn of_the_nodes_network(world: &mut World, hand: Hand) -> Result<()> {
    let pod = Stand::pod(&world.pod("agents", "worker")?)?;
    let outside = Stand::node(world);
    prove(
        world,
        &[Guard::Connect, Guard::SendMsg],
        Verdict::Redirected,
        |world, way| hand(world, &outside, &pod, way),
    )
}

fn a_socket_made_before_joining_the_pod(world: &mut World) -> Result<()> {
    of_the_pods_network(world, joined)
}

fn a_socket_of_the_node_made_before_joining_the_pod(world: &mut World) -> Result<()> {
    of_the_nodes_network(world, joined)
}

fn a_socket_received_from_outside(world: &mut World) -> Result<()> {
    of_the_pods_network(world, passed)
}

fn a_socket_of_the_node_received_from_outside(world: &mut World) -> Result<()> {
    of_the_nodes_network(world, passed)
}

fn a_pods_socket_used_outside(world: &mut World) -> Result<()> {
    let pod = Stand::pod(&world.pod("agents", "worker")?)?;
    let outside = Stand::node(world);
    prove(
        world,
        &[Guard::Connect, Guard::SendMsg, Guard::Egress, Guard::Interface],
        Verdict::Redirected,
        |world, way| passed(world, &pod, &outside, way),
    )
}

/// Nothing but its cgroup tells that the socket is a pod's, and its packets carry that.
fn a_hosted_pods_socket_used_outside(world: &mut World) -> Result<()> {
    let pod = Stand::pod(&world.pod("agents", "hosted")?)?;
    let outside = Stand::node(world);
    prove(world, &[Guard::Egress], Verdict::Nothing, |world, way| {
        passed(world, &pod, &outside, way)
    })
}

/// A cgroup of the test's, which goes when it is dropped.
struct Cgroup(PathBuf);

impl Cgroup {
    fn make(path: PathBuf) -> Result<Self> {
        fs::create_dir_all(&path).with_context(|| format!("make {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        for _ in 0..100 {
            // Its last process has ended, but the kernel may not have finished with it.
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
}

/// Dials from a pod after a move into another cgroup.
fn moved(world: &World, pod: &Stand, cgroup: &Path, way: &str) -> Result<Report> {
    world.dial(pod, &[way, &endpoint(), "--join", &cgroup.display().to_string()])
}

fn a_child_cgroup(world: &mut World) -> Result<()> {
    for name in ["worker", "hosted"] {
        let pod = Stand::pod(&world.pod("agents", name)?)?;
        let child = Cgroup::make(pod.cgroup.join("child"))?;
        let guards = [Guard::Connect, Guard::SendMsg, Guard::Egress, Guard::Interface];
        prove(world, &guards, Verdict::Redirected, |world, way| {
            moved(world, &pod, &child.0, way)
        })
        .context(name)?;
    }
    Ok(())
}

/// Out of the pod, but not out of its network namespace: below the folder of pods it is one that nobody knows, elsewhere its
/// socket tells whose it is.
fn a_sibling_cgroup(world: &mut World) -> Result<()> {
    let pod = Stand::pod(&world.pod("agents", "worker")?)?;
    for (folder, wanted) in [
        ("kubepods/besteffort/aside", Verdict::Forbidden),
        ("aside", Verdict::Redirected),
    ] {
        let sibling = Cgroup::make(world.cluster.node().cgroup.join(folder))?;
        let guards = [Guard::Connect, Guard::SendMsg, Guard::Interface];
        prove(world, &guards, wanted, |world, way| {
            moved(world, &pod, &sibling.0, way)
        })
        .context(folder)?;
    }
    Ok(())
}

/// What looks like a pod that nobody knows is closed.
fn a_made_up_pods_cgroup(world: &mut World) -> Result<()> {
    let pod = Stand::pod(&world.pod("agents", "hosted")?)?;
    let uid = fs::read_to_string("/proc/sys/kernel/random/uuid")?;
    let folder = format!("kubepods/besteffort/pod{}", uid.trim());
    let made_up = Cgroup::make(world.cluster.node().cgroup.join(folder))?;
    prove(
        world,
        &[Guard::Connect, Guard::SendMsg],
        Verdict::Forbidden,
        |world, way| moved(world, &pod, &made_up.0, way),
    )
}

fn a_new_network_namespace_with_an_old_socket(world: &mut World) -> Result<()> {
    let pod = Stand::pod(&world.pod("agents", "worker")?)?;
    let guards = [Guard::Connect, Guard::SendMsg, Guard::Egress, Guard::Interface];
    prove(world, &guards, Verdict::Redirected, |world, way| {
        world.dial(&pod, &[way, &endpoint(), "--new-net"])
    })
}

/// A namespace made in the pod whose interface is a twig of the pod's own. There is no listener in it, so what is dialled there is
/// refused.
fn a_new_network_namespace_with_a_way_out(world: &mut World) -> Result<()> {
    let pod = Stand::pod(&world.pod("agents", "worker")?)?;
    let inner = Inner::make(world, &pod)?;
    let within = pod.in_netns(&inner.path);
    let guards = [Guard::Connect, Guard::SendMsg, Guard::Egress, Guard::Interface];
    prove(world, &guards, Verdict::Forbidden, |world, way| {
        world.dial(&within, &[way, &endpoint()])
    })
}

struct Inner {
    name: String,
    path: PathBuf,
}

impl Inner {
    fn make(world: &World, pod: &Stand) -> Result<Self> {
        // The cluster's prefix, so that what a crash leaves is found.
        let name = format!(
            "{}-inner",
            world
                .cluster
                .outer_netns()
                .file_name()
                .context("no name")?
                .to_string_lossy()
        );
        net::create(&name)?;
        let inner = Self {
            path: net::path(&name),
            name,
        };
        net::ip(
            pod.netns(),
            &format!(
                "link add twig0 link eth0 type macvlan mode bridge\nlink set twig0 netns {}\n",
                inner.name
            ),
        )?;
        net::ip(
            &inner.path,
            "addr add 10.244.1.250/24 dev twig0\nlink set twig0 up\nroute add default via 10.244.1.1\n",
        )?;
        Ok(inner)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let _ = net::delete(&self.name);
    }
}

fn a_new_user_namespace(world: &mut World) -> Result<()> {
    let pod = Stand::pod(&world.pod("agents", "worker")?)?;
    let guards = [Guard::Connect, Guard::SendMsg, Guard::Egress, Guard::Interface];
    prove(world, &guards, Verdict::Redirected, |world, way| {
        world.dial(&pod, &[way, &endpoint(), "--new-user"])
    })?;
    // Whoever makes both namespaces has every right in them; the kinds of sockets stay forbidden.
    let report = world.dial(&pod, &["raw-icmp", &endpoint(), "--new-user", "--new-net"])?;
    ensure!(report.verdict() != Verdict::Reached, "{report}");
    Ok(())
}

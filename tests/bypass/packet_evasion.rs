//! What a pod that administers its own network makes of it: addresses that its rules rewrite, packets of a device of its own,
//! routes by further hops.

use std::io::{Seek as _, Write as _};
use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};
use picket_tests::net;
use picket_tests::output::Done;
use picket_tests::sys::Placement;
use picket_tests::tests;

use crate::Test;
use crate::dial::{Stand, Verdict};
use crate::guards::{Guard, without};
use crate::target::{ENDPOINT, HOST, HOST6};
use crate::world::World;

pub(crate) const TESTS: &[Test] = tests! {
    a_pods_rules_rewrite_where_it_dials,
    a_device_of_a_pods_own_sends_packets,
    a_pods_routes_take_packets_by_further_hops,
};

/// Addresses that are no protected endpoints, and that nobody has.
const ELSEWHERE: &str = "10.250.0.77";
const ELSEWHERE6: &str = "fd00:250::77";

/// The first node as the pods of its bridge see it.
const HOP: &str = "fd00:244::1";

/// Runs in the namespace what reads its orders from its input.
fn order(netns: &Path, argv: &[&str], orders: &str) -> Result<()> {
    let mut input = tempfile::tempfile()?;
    input.write_all(orders.as_bytes())?;
    input.rewind()?;
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={}", netns.display())).args(argv);
    Done::from(command.stdin(input).output()?).good().map(drop)
}

/// A dial that must not arrive while `guards` are in force, and that does without them.
fn prove(world: &mut World, pod: &Stand, guards: &[Guard], way: &str, address: &str) -> Result<()> {
    world.arrived()?;
    let report = world.dial(pod, &[way, address])?;
    let arrived = world.arrived()?;
    ensure!(
        arrived.is_empty() && report.verdict() != Verdict::Reached,
        "{way} {address} arrived: {arrived:?}; {report}"
    );
    without(world, guards, |world| {
        world.arrived()?;
        let report = world.dial(pod, &[way, address])?;
        ensure!(
            !world.arrived()?.is_empty(),
            "without {guards:?} {way} {address} does not arrive either: {report}"
        );
        Ok(())
    })
}

fn a_pods_rules_rewrite_where_it_dials(world: &mut World) -> Result<()> {
    for name in ["worker", "hosted"] {
        let pod = Stand::pod(&world.pod("agents", name)?)?;
        let to = |family: &str, from: &str, to: &str| {
            let rule = |protocol: &str| {
                format!("{family} daddr {from} {protocol} dport 80 dnat {family} to {to}:{ENDPOINT}\n")
            };
            rule("tcp") + &rule("udp")
        };
        let rules = format!(
            "table inet forged {{\nchain out {{\ntype nat hook output priority -100;\n{}{}}}\n}}\n",
            to("ip", ELSEWHERE, HOST),
            to("ip6", ELSEWHERE6, &format!("[{HOST6}]"))
        );
        order(pod.netns(), &["nft", "-f", "-"], &rules)?;
        let guards: &[Guard] = match name {
            "worker" => &[Guard::Egress, Guard::Interface],
            _ => &[Guard::Egress],
        };
        let addresses = [format!("{ELSEWHERE}:80"), format!("[{ELSEWHERE6}]:80")];
        let outcome = addresses.iter().try_for_each(|address| {
            ["tcp", "udp-sendto"]
                .iter()
                .try_for_each(|way| prove(world, &pod, guards, way, address))
        });
        order(pod.netns(), &["nft", "-f", "-"], "delete table inet forged\n")?;
        outcome?;
    }
    Ok(())
}

/// Writes a datagram for a protected endpoint to a TUN device, and has the namespace forward it.
const TUN: &str = r#"
import fcntl, os, socket, struct, subprocess, sys, time
def checksum(data):
    total = sum(struct.unpack("!%dH" % (len(data) // 2), data))
    while total >> 16: total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff
target, port = sys.argv[1], int(sys.argv[2])
tun = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(tun, 0x400454ca, struct.pack("16sH", b"own0", 0x1001))
for what in (["link", "set", "own0", "up"], ["addr", "add", "10.99.0.1/24", "dev", "own0"]):
    subprocess.check_call(["ip"] + what)
for device in ("own0", "eth0"):
    open("/proc/sys/net/ipv4/conf/%s/forwarding" % device, "w").write("1")
for device in ("own0", "all"):
    open("/proc/sys/net/ipv4/conf/%s/rp_filter" % device, "w").write("0")
data = struct.pack("!HHHH", 4000, port, 16, 0) + b"forged!!"
ends = socket.inet_aton("10.99.0.7") + socket.inet_aton(target)
head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(data), 7, 0, 64, 17, 0)
head = head[:10] + struct.pack("!H", checksum(head + ends)) + ends
os.write(tun, head + data)
time.sleep(0.3)
"#;

/// Such a packet passes no socket, and so no hook but that of the pod's interface.
fn a_device_of_a_pods_own_sends_packets(world: &mut World) -> Result<()> {
    let pod = Stand::pod(&world.pod("agents", "worker")?)?;
    let send = |world: &World| {
        world.arrived()?;
        let mut command = Command::new("python3");
        command.args(["-c", TUN, HOST, &ENDPOINT.to_string()]);
        Placement::new()
            .net(pod.netns())
            .cgroup(&pod.cgroup)
            .apply(&mut command)?;
        Done::from(command.output()?).good()?;
        world.arrived()
    };
    let arrived = send(world)?;
    ensure!(arrived.is_empty(), "arrived: {arrived:?}");
    without(world, &[Guard::Interface], |world| {
        ensure!(!send(world)?.is_empty(), "it does not arrive either");
        Ok(())
    })
}

fn a_pods_routes_take_packets_by_further_hops(world: &mut World) -> Result<()> {
    let pod = Stand::pod(&world.pod("agents", "worker")?)?;
    let (node, outer) = (world.cluster.node().netns.clone(), world.cluster.outer_netns());
    let segments = |interface: &str| format!("ipv6/conf/{interface}/seg6_enabled");
    for (netns, interface) in [(&node, "all"), (&node, "cni0"), (&outer, "all"), (&outer, "br0")] {
        net::sysctls(netns, &[(&segments(interface), "1")])?;
    }
    let sockets = [Guard::Connect, Guard::SendMsg, Guard::Egress, Guard::Interface];
    let packets = [Guard::Egress, Guard::Interface];
    for (to, how, guards) in [
        // The protected endpoint is a hop on the way to elsewhere, and no call names it.
        (ELSEWHERE6, format!("seg6 mode inline segs {HOST6}"), &packets[..]),
        (HOST6, format!("seg6 mode inline segs {HOP}"), &sockets[..]),
        (HOST6, format!("seg6 mode encap segs {HOP}"), &sockets[..]),
        (HOST6, format!("ip6 id 7 dst {HOP}"), &sockets[..]),
    ] {
        let route = |verb: &str| format!("route {verb} {to}/128 encap {how} via {HOP} dev eth0\n");
        order(pod.netns(), &["ip", "-6", "-batch", "-"], &route("add"))?;
        let outcome = prove(world, &pod, guards, "tcp", &format!("[{to}]:{ENDPOINT}"));
        order(
            pod.netns(),
            &["ip", "-6", "-batch", "-"],
            &format!("route del {to}/128\n"),
        )?;
        outcome?;
    }
    Ok(())
}

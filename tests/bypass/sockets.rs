//! Every kind of socket, dialled at a protected endpoint from a pod.
//!
//! For each kind: what must come of it, and the counter-measures that see to it. With all of them on nothing arrives; with any one of
//! them alone nothing arrives; with none of them the same attack arrives.

use anyhow::{Context, Result, ensure};
use picket_tests::tests;

use crate::Test;
use crate::dial::{Attacker, Stand, Verdict};
use crate::guards::{Guard, without};
use crate::target::{DNS, ENDPOINT, HOST, HOST6};
use crate::world::World;

pub(crate) const TESTS: &[Test] = tests! {
    connections_are_redirected,
    datagrams_are_refused,
    raw_sockets_are_not_made,
    raw_icmp_sockets_send_nothing_else,
    packet_sockets_send_nothing,
    other_families_lead_nowhere,
    dns_and_ping_are_unharmed,
    what_the_client_sees_is_what_it_dialled,
};

/// A kind of socket, and whether it exists for version 4 and version 6.
type Case = (&'static str, &'static [Family]);

#[derive(Debug, Clone, Copy)]
enum Family {
    Four,
    Six,
}

impl Family {
    fn endpoint(self) -> String {
        match self {
            Self::Four => format!("{HOST}:{ENDPOINT}"),
            Self::Six => format!("[{HOST6}]:{ENDPOINT}"),
        }
    }
}

const BOTH: &[Family] = &[Family::Four, Family::Six];
const FOUR: &[Family] = &[Family::Four];
const SIX: &[Family] = &[Family::Six];

/// Kinds of sockets with the same counter-measures, which must all end the same way.
struct Group {
    cases: &'static [Case],
    verdict: Verdict,
    guards: &'static [Guard],
}

impl Group {
    fn prove(&self, world: &mut World) -> Result<()> {
        self.hold(world)?;
        for &alone in self.guards.iter().filter(|_| self.guards.len() > 1) {
            let others: Vec<Guard> = self
                .guards
                .iter()
                .copied()
                .filter(|&guard| guard != alone)
                .collect();
            without(world, &others, |world| self.send_nothing(world))
                .with_context(|| format!("with {alone:?} alone"))?;
        }
        without(world, self.guards, |world| self.arrive(world)).context("with no guard")
    }

    /// Nothing arrives, and the verdict comes of each.
    fn hold(&self, world: &World) -> Result<()> {
        let worker = Stand::pod(&world.pod("agents", "worker")?)?;
        world.arrived()?;
        let mut wrong = Vec::new();
        self.each(|way, endpoint| {
            let what = format!("{way} to {endpoint}");
            let report = world.expecting(self.verdict, |world| world.dial(&worker, &[way, endpoint]))?;
            if let Err(error) = report.expect(&what, self.verdict) {
                wrong.push(error.to_string());
            }
            let arrived = world.arrived()?;
            if !arrived.is_empty() {
                wrong.push(format!("{what} arrived: {arrived:?}"));
            }
            Ok(())
        })?;
        ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
        Ok(())
    }

    /// Nothing arrives, whatever comes of each. Most wait for as long as they may: all of them at once.
    fn send_nothing(&self, world: &World) -> Result<()> {
        let worker = Stand::pod(&world.pod("agents", "worker")?)?;
        world.arrived()?;
        let mut attackers = Vec::new();
        self.each(|way, endpoint| {
            attackers.push(Attacker::start(world, &worker, &["dial", way, endpoint])?);
            Ok(())
        })?;
        for attacker in attackers {
            attacker.report()?;
        }
        let arrived = world.arrived()?;
        ensure!(
            arrived.is_empty(),
            "of {:?} these arrived: {arrived:?}",
            self.ways()
        );
        Ok(())
    }

    fn ways(&self) -> Vec<&str> {
        self.cases.iter().map(|(way, _)| *way).collect()
    }

    /// Everything arrives.
    fn arrive(&self, world: &World) -> Result<()> {
        let worker = Stand::pod(&world.pod("agents", "worker")?)?;
        world.arrived()?;
        let mut lost = Vec::new();
        self.each(|way, endpoint| {
            let report = world.dial(&worker, &[way, endpoint])?;
            if world.arrived()?.is_empty() {
                lost.push(format!("{way} to {endpoint} does not arrive: {report}"));
            }
            Ok(())
        })?;
        ensure!(lost.is_empty(), "{}", lost.join("\n"));
        Ok(())
    }

    fn each(&self, mut act: impl FnMut(&str, &str) -> Result<()>) -> Result<()> {
        for (way, families) in self.cases {
            for family in *families {
                act(way, &family.endpoint())?;
            }
        }
        Ok(())
    }
}

fn connections_are_redirected(world: &mut World) -> Result<()> {
    let picket = world.picket_log();
    let group = Group {
        cases: &[
            ("tcp", BOTH),
            ("nonblocking", BOTH),
            ("mptcp", BOTH),
            ("fastopen-sendto", BOTH),
            ("fastopen-connect", BOTH),
            ("unspec", BOTH),
            ("uring", BOTH),
            ("uring-async", FOUR),
            ("uring-sqpoll", BOTH),
            ("uring-fastopen", FOUR),
        ],
        verdict: Verdict::Redirected,
        guards: &[Guard::Connect, Guard::Egress, Guard::Interface],
    };
    group.prove(world)?;
    // Redirected is more than a certificate: the request is on record.
    picket
        .wait("the attacker's request", |record| {
            record["userAgent"] == "picket-attack" && record["agent"]["pod"]["name"] == "worker"
        })
        .map(drop)
}

fn datagrams_are_refused(world: &mut World) -> Result<()> {
    let connected = Group {
        cases: &[("udp-connected", BOTH)],
        verdict: Verdict::Forbidden,
        guards: &[Guard::Connect, Guard::Egress, Guard::Interface],
    };
    connected.prove(world)?;
    let unconnected = Group {
        cases: &[
            ("udp-sendto", BOTH),
            ("udp-sendmsg", BOTH),
            ("udp-sendmmsg", FOUR),
            ("udp-reused", BOTH),
            ("uring-udp", FOUR),
            ("uring-udp-sqpoll", FOUR),
        ],
        verdict: Verdict::Forbidden,
        guards: &[Guard::SendMsg, Guard::Egress, Guard::Interface],
    };
    unconnected.prove(world)
}

fn raw_sockets_are_not_made(world: &mut World) -> Result<()> {
    let group = Group {
        cases: &[
            ("raw-tcp", FOUR),
            ("raw-udp", FOUR),
            ("raw-hdrincl", FOUR),
            ("raw-plain", FOUR),
            ("raw6", SIX),
            ("raw6-plain", SIX),
            ("uring-raw", FOUR),
            ("udp-lite", BOTH),
        ],
        verdict: Verdict::Forbidden,
        guards: &[Guard::Create, Guard::Egress, Guard::Interface],
    };
    group.prove(world)
}

/// They are made, since `ping` has them.
fn raw_icmp_sockets_send_nothing_else(world: &mut World) -> Result<()> {
    let group = Group {
        cases: &[
            ("raw-icmp", FOUR),
            ("raw-options", FOUR),
            ("raw-fragments", FOUR),
            ("raw6-extended", SIX),
        ],
        verdict: Verdict::Forbidden,
        guards: &[Guard::Egress, Guard::Interface],
    };
    group.prove(world)
}

fn packet_sockets_send_nothing(world: &mut World) -> Result<()> {
    let group = Group {
        cases: &[
            ("packet", FOUR),
            ("packet-tagged", FOUR),
            ("packet-dgram", FOUR),
            ("packet-syn", FOUR),
            ("xdp", FOUR),
        ],
        verdict: Verdict::Nothing,
        guards: &[Guard::Interface],
    };
    group.prove(world)
}

/// Which of them a kernel has differs; that none leads to a protected endpoint does not.
fn other_families_lead_nowhere(world: &mut World) -> Result<()> {
    let worker = Stand::pod(&world.pod("agents", "worker")?)?;
    world.arrived()?;
    let mut wrong = Vec::new();
    for way in ["sctp", "dccp", "smc", "smc-inet", "l2tp", "tipc", "rds", "vsock"] {
        let report = world.dial(&worker, &[way, &Family::Four.endpoint()])?;
        println!("{way}: {report}");
        // A virtual machine's sockets name no address of IP.
        if !matches!(
            (way, report.verdict()),
            (_, Verdict::Unsupported | Verdict::Forbidden) | ("vsock", Verdict::Made)
        ) {
            wrong.push(format!("{way}: {report}"));
        }
    }
    let arrived = world.arrived()?;
    ensure!(
        wrong.is_empty() && arrived.is_empty(),
        "{wrong:?}, and {arrived:?} arrived"
    );
    Ok(())
}

fn dns_and_ping_are_unharmed(world: &mut World) -> Result<()> {
    for pod in ["worker", "hosted"] {
        let pod = Stand::pod(&world.pod("agents", pod)?)?;
        for host in [HOST.to_owned(), format!("[{HOST6}]")] {
            for way in [
                "udp-connected",
                "udp-sendto",
                "udp-sendmsg",
                "udp-sendmmsg",
                "uring-udp",
                "tcp",
                "mptcp",
                "fastopen-sendto",
            ] {
                let address = format!("{host}:{DNS}");
                let wanted = Verdict::Reached;
                let report = world.expecting(wanted, |world| world.dial(&pod, &[way, &address]))?;
                report.expect(&format!("{way} to {address}"), wanted)?;
            }
        }
        let wanted = Verdict::Reached;
        let report = world.expecting(wanted, |world| {
            world.dial(&pod, &["ping", &Family::Four.endpoint()])
        })?;
        report.expect("a ping of a protected endpoint's host", wanted)?;
    }
    for pod in ["worker", "hosted"] {
        // As the ping of iputils does it in a pod without NET_RAW; the ping of BusyBox opens a raw socket.
        let line = format!(
            "import socket\n\
             with socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP) as one:\n \
             one.settimeout(5)\n \
             one.connect(('{HOST}', 0))\n \
             one.send(bytes([8, 0, 0, 0, 0, 0, 0, 1]) + b'picket')\n \
             print(one.recv(64)[0])\n"
        );
        let answer = world.run("agents", pod, &["python3", "-c", &line])?.good()?;
        // RFC 792: the type of an echo reply.
        ensure!(answer.trim() == "0", "{pod}: a ping is answered by {answer}");
    }
    Ok(())
}

fn what_the_client_sees_is_what_it_dialled(world: &mut World) -> Result<()> {
    let worker = Stand::pod(&world.pod("agents", "worker")?)?;
    // Not MPTCP: the hook sees its first subflow dial, and is asked about the connection above it.
    for way in ["tcp", "fastopen-sendto", "uring-sqpoll"] {
        for family in BOTH {
            let endpoint = family.endpoint();
            let report = world.expecting(Verdict::Redirected, |world| {
                world.dial(&worker, &[way, &endpoint])
            })?;
            ensure!(
                report.peer.as_deref() == Some(endpoint.as_str()),
                "{way}: {report}"
            );
        }
    }
    Ok(())
}

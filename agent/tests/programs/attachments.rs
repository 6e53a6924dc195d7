//! What holds an enforced pod besides its connects: its namespace, its packets, the kinds of its sockets, and that all of
//! it stays attached.
//!
//! Each guard is taken out once, and the same attempt then gets through.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd as _;
use std::os::unix::fs::symlink;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use picket::kernel::CgroupId;
use picket::kernel::{
    Class, Counter, DenyReason, FailMode, Hook, Ifindex, Kernel, KernelConfig, KernelError, LinkFault,
    NodeState, Program, ProtectedEndpoint, RepairedLink, netns_cookie,
};

use crate::foreign::bpf::detach_link;
use crate::testbed::{Dialled, Testbed};
use crate::{PATIENCE, soon};

const ENDPOINT: &str = "10.96.0.1:443";
const POD: u64 = 17;
/// An interface that every namespace has.
const LOOPBACK: u32 = 1;
/// Longer than a retransmission after a loss takes at first (200 ms), so that what would come has come.
const A_WHILE: Duration = Duration::from_millis(900);

fn load(testbed: &Testbed) -> Kernel {
    let kernel = Kernel::load(&KernelConfig {
        cgroup_root: testbed.cgroup.clone(),
        bpffs: testbed.bpffs.clone(),
    })
    .unwrap_or_else(|error| panic!("{error}"));
    let endpoints: BTreeSet<_> = [ProtectedEndpoint::redirect(ENDPOINT.parse().unwrap())].into();
    kernel.set_endpoints(&endpoints).unwrap();
    kernel
}

fn node(unclassified: FailMode) -> NodeState {
    NodeState {
        netns: 1,
        port: None,
        unclassified,
    }
}

/// Enforces the testbed's pod with a listener that says `p`.
fn enforce(testbed: &Testbed, kernel: &Kernel) -> Class {
    let (v4, v6) = testbed.inside(|| {
        let v4 = TcpListener::bind("127.0.0.1:0").unwrap();
        let v6 = TcpListener::bind(("::1", v4.local_addr().unwrap().port())).unwrap();
        (v4, v6)
    });
    let class = Class::Enforced {
        pod: POD,
        port: v4.local_addr().unwrap().port(),
        netns: netns_cookie(&v4).unwrap(),
    };
    kernel.mark_listener([v4.as_fd(), v6.as_fd()]).unwrap();
    for listener in [v4, v6] {
        // It ends with the process.
        thread::spawn(move || {
            for stream in listener.incoming() {
                let _ = stream.unwrap().write_all(b"p");
            }
        });
    }
    kernel
        .set_class(CgroupId::of(&testbed.pod).unwrap(), class)
        .unwrap();
    class
}

fn reached(byte: char) -> Dialled {
    Dialled::Reached {
        peer: ENDPOINT.parse().unwrap(),
        answer: byte,
    }
}

/// Removes a link's pin, which detaches it: nobody else holds it.
fn take_out(testbed: &Testbed, link: &str) {
    fs::remove_file(testbed.layout().join(format!("link_{link}"))).unwrap();
}

/// What had to be put back.
fn verified(kernel: &Kernel) -> Vec<RepairedLink> {
    let found = kernel.verify();
    assert!(found.failure.is_none(), "{found:?}");
    found.repaired
}

/// Waits until a dial comes out so: a link that lost its pin is detached a moment later.
fn eventually(testbed: &Testbed, how: &str, wanted: &Dialled) {
    let begun = Instant::now();
    loop {
        let outcome = testbed.dial(&testbed.container, how, ENDPOINT).outcome();
        if outcome == *wanted {
            return;
        }
        assert!(
            begun.elapsed() < PATIENCE,
            "{how}: {outcome:?} and not {wanted:?}"
        );
    }
}

#[test]
fn a_pods_socket_is_the_pods_whoever_uses_it() {
    let testbed = Testbed::new();
    let kernel = load(&testbed);
    let _server = testbed.serve(ENDPOINT);
    enforce(&testbed, &kernel);
    // The dialler runs in a cgroup that has no class, with a socket of the pod's namespace.
    let outside = testbed.cgroup.join("outside");
    fs::create_dir(&outside).unwrap();
    let dial = || testbed.dial(&outside, "tcp", ENDPOINT).outcome();
    assert_eq!(dial(), reached('p'));
    kernel
        .set_class(CgroupId::of(&outside).unwrap(), Class::Exempt)
        .unwrap();
    assert_eq!(dial(), reached('p'), "an exempt task with the pod's socket");
    let pod = CgroupId::of(&testbed.pod).unwrap();
    kernel.set_class(pod, Class::Pending).unwrap();
    assert_eq!(
        dial(),
        Dialled::failed("PermissionDenied"),
        "closed, and still the pod's"
    );
    // The guard taken out: the namespace leads to no pod any more.
    kernel.remove_class(CgroupId::of(&testbed.pod).unwrap()).unwrap();
    assert_eq!(dial(), reached('s'));
    let _ = fs::remove_dir(&outside);
}

#[test]
fn a_flow_goes_with_its_socket() {
    let testbed = Testbed::new();
    let kernel = load(&testbed);
    // Its listener takes no flow, so those of clients that are gone would stay for whoever has their ports next.
    enforce(&testbed, &kernel);
    let flows = || {
        let fill = kernel.map_usage().unwrap();
        fill.iter().find(|fill| fill.map == "flows").unwrap().entries
    };
    for _ in 0..3 {
        assert_eq!(
            testbed.dial(&testbed.container, "tcp", ENDPOINT).outcome(),
            reached('p')
        );
    }
    assert_eq!(kernel.counters().unwrap().get(Counter::FlowsWritten), 3);
    let begun = Instant::now();
    while flows() != 0 {
        assert!(begun.elapsed() < PATIENCE, "{} are left", flows());
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_socket_from_before_the_pod_is_the_pods() {
    let testbed = Testbed::new();
    let kernel = load(&testbed);
    let _server = testbed.serve(ENDPOINT);
    enforce(&testbed, &kernel);
    let late = || testbed.dial(&testbed.container, "late", ENDPOINT).outcome();
    assert_eq!(late(), reached('p'));
    take_out(&testbed, "connect4");
    eventually(&testbed, "late", &reached('s'));
}

#[test]
fn a_socket_of_another_namespace_goes_nowhere() {
    let testbed = Testbed::new();
    let kernel = load(&testbed);
    let _server = testbed.serve(ENDPOINT);
    enforce(&testbed, &kernel);
    let cgroup = CgroupId::of(&testbed.pod).unwrap();
    let elsewhere = Class::Enforced {
        pod: POD,
        port: 1,
        netns: 77,
    };
    kernel.set_class(cgroup, elsewhere).unwrap();
    let dial = testbed.dial(&testbed.container, "tcp", ENDPOINT);
    assert_eq!(dial.outcome(), Dialled::failed("PermissionDenied"));
    assert_eq!(kernel.counters().unwrap().get(Counter::DeniedNamespace), 1);
}

#[test]
fn the_nodes_listener_serves_sockets_of_the_nodes_namespace() {
    let testbed = Testbed::new();
    let kernel = load(&testbed);
    let _server = testbed.serve(ENDPOINT);
    let Class::Enforced { port, netns, .. } = enforce(&testbed, &kernel) else {
        panic!("not enforced");
    };
    // The testbed's namespace stands for the node's, and the pod's own is another one.
    let node = NodeState {
        netns,
        port: Some(port),
        unclassified: FailMode::Closed,
    };
    kernel.set_node(node).unwrap();
    let class = Class::Enforced {
        pod: POD,
        port: 1,
        netns: 77,
    };
    kernel
        .set_class(CgroupId::of(&testbed.pod).unwrap(), class)
        .unwrap();
    assert_eq!(
        testbed.dial(&testbed.container, "tcp", ENDPOINT).outcome(),
        reached('p')
    );
    // A loopback protected endpoint is one there.
    let _local = testbed.serve("127.0.0.1:6443");
    let endpoints =
        [ENDPOINT, "127.0.0.1:6443"].map(|endpoint| ProtectedEndpoint::redirect(endpoint.parse().unwrap()));
    kernel.set_endpoints(&endpoints.into()).unwrap();
    for spelling in [
        "127.0.0.1:6443",
        "127.9.9.9:6443",
        "0.0.0.0:6443",
        "[::ffff:127.0.0.1]:6443",
        "[::]:6443",
    ] {
        let Dialled::Reached { answer: 'p', .. } =
            testbed.dial(&testbed.container, "tcp", spelling).outcome()
        else {
            panic!("{spelling} is not taken to the listener");
        };
    }
    // In a pod's own namespace loopback is the pod's business.
    kernel.set_node(NodeState { netns: 1, ..node }).unwrap();
    let own = Class::Enforced {
        pod: POD,
        port,
        netns,
    };
    kernel
        .set_class(CgroupId::of(&testbed.pod).unwrap(), own)
        .unwrap();
    let outcome = testbed
        .dial(&testbed.container, "tcp", "127.0.0.1:6443")
        .outcome();
    assert!(
        matches!(outcome, Dialled::Reached { answer: 's', .. }),
        "{outcome:?}"
    );
}

#[test]
fn kinds_of_sockets_that_nobody_follows_are_not_made() {
    let testbed = Testbed::new();
    let kernel = load(&testbed);
    let make = |how: &str| testbed.dial(&testbed.container, how, ENDPOINT).outcome();
    let refused = Dialled::failed("PermissionDenied");
    assert_eq!(make("raw"), Dialled::Closed, "without a class");
    enforce(&testbed, &kernel);
    assert_eq!(make("raw"), refused);
    assert_eq!(make("raw6"), refused);
    assert_eq!(make("icmp"), Dialled::Closed, "ping needs it");
    let cgroup = CgroupId::of(&testbed.pod).unwrap();
    kernel.set_class(cgroup, Class::Pending).unwrap();
    assert_eq!(make("raw"), refused);
    assert_eq!(make("icmp"), refused);
    kernel.set_class(cgroup, Class::Exempt).unwrap();
    assert_eq!(make("raw"), Dialled::Closed);
    assert_eq!(kernel.counters().unwrap().get(Counter::DeniedSockets), 4);
    kernel.set_class(cgroup, Class::Pending).unwrap();
    take_out(&testbed, "sock_create");
    eventually(&testbed, "raw", &Dialled::Closed);
}

#[tokio::test]
async fn a_connection_from_before_carries_not_a_byte_more() {
    let testbed = Testbed::new();
    let kernel = load(&testbed);
    let bytes = Arc::new(AtomicU64::new(0));
    counting(&testbed, ENDPOINT, &bytes);
    let talking = testbed.dial(&testbed.container, "talk", ENDPOINT);
    let begun = Instant::now();
    while bytes.load(Ordering::Relaxed) == 0 {
        assert!(begun.elapsed() < PATIENCE, "it does not talk");
        thread::sleep(Duration::from_millis(5));
    }
    let cgroup = CgroupId::of(&testbed.pod).unwrap();
    enforce(&testbed, &kernel);
    let (still, begun) = (bytes.load(Ordering::Relaxed), Instant::now());
    while bytes.load(Ordering::Relaxed) == still {
        assert!(
            begun.elapsed() < PATIENCE,
            "an open connection is not the connect hooks' business"
        );
        thread::sleep(Duration::from_millis(5));
    }
    kernel.attach_egress_filter(&testbed.pod, cgroup, false).unwrap();
    let mut events = kernel.events().unwrap();
    // What was in the sockets before is read, however late.
    let mut held = bytes.load(Ordering::Relaxed);
    let begun = Instant::now();
    loop {
        thread::sleep(Duration::from_millis(500));
        let now = bytes.load(Ordering::Relaxed);
        if std::mem::replace(&mut held, now) == now {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "bytes get through");
    }
    thread::sleep(A_WHILE);
    assert_eq!(bytes.load(Ordering::Relaxed), held, "bytes got through");
    let event = soon(events.next()).await.unwrap();
    assert_eq!(
        (event.hook, event.reason),
        (Some(Hook::Egress), Some(DenyReason::Packet))
    );
    assert_eq!(event.origin, ENDPOINT.parse::<SocketAddr>().unwrap());
    assert_eq!((event.cgroup, event.pod, event.pid), (cgroup, POD, 0));
    assert!(kernel.counters().unwrap().get(Counter::DroppedPackets) > 0);
    // Released, the connection goes on where it stood.
    kernel.release(cgroup).unwrap();
    let begun = Instant::now();
    while bytes.load(Ordering::Relaxed) == held {
        assert!(
            begun.elapsed() < PATIENCE,
            "it was not the program that held them"
        );
        thread::sleep(Duration::from_millis(20));
    }
    talking.stop();
}

#[test]
fn pods_that_nobody_judged_are_open_only_where_the_operator_wants_it_and_no_agent_lives() {
    let testbed = Testbed::new();
    let kernel = load(&testbed);
    let _server = testbed.serve(ENDPOINT);
    let folder = CgroupId::of(&testbed.cgroup).unwrap();
    let dial = || testbed.dial(&testbed.container, "tcp", ENDPOINT).outcome();
    let refused = Dialled::failed("PermissionDenied");
    kernel.set_class(folder, Class::Unclassified).unwrap();
    kernel.set_node(node(FailMode::Closed)).unwrap();
    assert_eq!(dial(), refused, "closed, no agent");
    kernel.set_node(node(FailMode::Open)).unwrap();
    assert_eq!(dial(), reached('s'), "open, no agent");
    assert_eq!(kernel.counters().unwrap().get(Counter::AllowedUnclassified), 1);
    kernel.heartbeat().unwrap();
    assert_eq!(dial(), refused, "open, and the agent lives");
    kernel.set_class(folder, Class::Pending).unwrap();
    kernel.set_node(node(FailMode::Open)).unwrap();
    assert_eq!(dial(), refused, "a pod that was judged");
}

#[test]
fn a_link_that_is_lost_is_put_back() {
    let testbed = Testbed::new();
    let kernel = load(&testbed);
    let _server = testbed.serve(ENDPOINT);
    enforce(&testbed, &kernel);
    let cgroup = CgroupId::of(&testbed.pod).unwrap();
    kernel.attach_egress_filter(&testbed.pod, cgroup, false).unwrap();
    assert_eq!(verified(&kernel), vec![]);
    let pod_link = format!("pod_{}", cgroup.0);
    for (link, program) in [
        ("connect4", "connect4"),
        ("sock_ops", "sock_ops"),
        (&pod_link, "egress"),
    ] {
        take_out(&testbed, link);
        let repaired = verified(&kernel);
        let found: Vec<_> = repaired
            .iter()
            .map(|repaired| (repaired.program, repaired.link.as_str(), repaired.fault))
            .collect();
        assert_eq!(found, [(program, link, LinkFault::Unpinned)]);
        assert_eq!(verified(&kernel), vec![], "it stays back");
    }
    assert_eq!(
        testbed.dial(&testbed.container, "tcp", ENDPOINT).outcome(),
        reached('p')
    );
    kernel.release(cgroup).unwrap();
    assert_eq!(verified(&kernel), vec![], "what was released is not missed");
}

#[test]
fn a_link_that_is_detached_is_put_back() {
    let testbed = Testbed::new();
    let kernel = load(&testbed);
    enforce(&testbed, &kernel);
    let cgroup = CgroupId::of(&testbed.pod).unwrap();
    kernel.attach_egress_filter(&testbed.pod, cgroup, false).unwrap();
    testbed
        .inside(|| kernel.attach_interface_filter(Ifindex(LOOPBACK), cgroup))
        .unwrap();
    for link in [
        "connect4".to_owned(),
        format!("pod_{}", cgroup.0),
        format!("interface_{LOOPBACK}"),
    ] {
        detach_link(&testbed.layout().join(format!("link_{link}"))).unwrap();
        let repaired = testbed.inside(|| verified(&kernel));
        let found: Vec<_> = repaired
            .iter()
            .map(|repaired| (repaired.link.as_str(), repaired.fault))
            .collect();
        assert_eq!(found, [(link.as_str(), LinkFault::Detached)]);
        assert_eq!(testbed.inside(|| verified(&kernel)), vec![], "it stays back");
    }
}

#[test]
fn what_is_attached_late_to_a_pod_that_is_let_go_is_taken_away() {
    let testbed = Testbed::new();
    let kernel = load(&testbed);
    let class = enforce(&testbed, &kernel);
    let cgroup = CgroupId::of(&testbed.pod).unwrap();
    let link = format!("link_pod_{}", cgroup.0);
    let is_there = || testbed.layout().join(&link).exists();
    let hold = || kernel.attach_egress_filter(&testbed.pod, cgroup, false).unwrap();
    for kept in [Class::Pending, class] {
        kernel.set_class(cgroup, kept).unwrap();
        hold();
        assert_eq!(verified(&kernel), vec![]);
        assert!(is_there(), "{kept:?}");
    }
    kernel.set_class(cgroup, Class::Exempt).unwrap();
    kernel.release(cgroup).unwrap();
    hold();
    assert!(is_there());
    assert_eq!(verified(&kernel), vec![]);
    assert!(!is_there(), "the pod is exempt");
    kernel.remove_class(cgroup).unwrap();
    hold();
    assert_eq!(verified(&kernel), vec![]);
    assert!(!is_there(), "the pod is gone");
}

/// An agent that was to take over let a pod go that this one enforces. Once it is released here nothing of it stays.
#[test]
fn what_another_agent_let_go_is_held_again_and_then_released() {
    let testbed = Testbed::new();
    let kernel = load(&testbed);
    let class = enforce(&testbed, &kernel);
    let cgroup = CgroupId::of(&testbed.pod).unwrap();
    let links = [
        format!("link_pod_{}", cgroup.0),
        format!("link_interface_{LOOPBACK}"),
    ];
    let there = || links.each_ref().map(|link| testbed.layout().join(link).exists());
    let maintain = || {
        kernel.set_class(cgroup, class).unwrap();
        kernel.attach_egress_filter(&testbed.pod, cgroup, false).unwrap();
        testbed
            .inside(|| kernel.attach_interface_filter(Ifindex(LOOPBACK), cgroup))
            .unwrap();
    };
    maintain();
    assert_eq!(there(), [true, true]);
    for maintain_first in [true, false] {
        let other = load(&testbed);
        other.set_class(cgroup, Class::Exempt).unwrap();
        other.release(cgroup).unwrap();
        drop(other);
        assert_eq!(there(), [false, false]);
        if maintain_first {
            maintain();
        }
        testbed.inside(|| kernel.verify());
        if !maintain_first {
            maintain();
        }
        assert_eq!(there(), [true, true], "{maintain_first}");
        assert_eq!(testbed.inside(|| verified(&kernel)), vec![]);
    }
    kernel.set_class(cgroup, Class::Exempt).unwrap();
    kernel.release(cgroup).unwrap();
    assert_eq!(there(), [false, false], "the pod is exempt");
}

/// A pod has a new interface with each of its sandboxes.
#[test]
fn an_interface_that_is_gone_is_forgotten() {
    let testbed = Testbed::new();
    let kernel = load(&testbed);
    enforce(&testbed, &kernel);
    let cgroup = CgroupId::of(&testbed.pod).unwrap();
    let ip = |line: &str| {
        let done = Command::new("ip").args(line.split(' ')).status().unwrap();
        assert!(done.success(), "ip {line}");
    };
    let index = testbed.inside(|| {
        ip("link add pod0 type veth peer name pod1");
        let index = nix::net::if_::if_nametoindex("pod0").unwrap();
        kernel.attach_interface_filter(Ifindex(index), cgroup).unwrap();
        index
    });
    let link = testbed.layout().join(format!("link_interface_{index}"));
    assert_eq!(testbed.inside(|| verified(&kernel)), vec![]);
    assert!(link.exists());
    testbed.inside(|| ip("link del pod0"));
    assert_eq!(testbed.inside(|| verified(&kernel)), vec![]);
    assert!(!link.exists());
}

/// As where an agent with another layout of maps took this one's programs away, and then failed.
#[test]
fn links_come_back_though_their_folder_is_gone() {
    let testbed = Testbed::new();
    let kernel = load(&testbed);
    let _server = testbed.serve(ENDPOINT);
    enforce(&testbed, &kernel);
    kernel
        .attach_egress_filter(&testbed.pod, CgroupId::of(&testbed.pod).unwrap(), false)
        .unwrap();
    Kernel::unload(&testbed.bpffs).unwrap();
    eventually(&testbed, "tcp", &reached('s'));
    assert!(!verified(&kernel).is_empty());
    assert_eq!(verified(&kernel), vec![], "they stay");
    assert_eq!(
        testbed.dial(&testbed.container, "tcp", ENDPOINT).outcome(),
        reached('p')
    );
}

/// An agent was killed after it pinned a link and before it gave it its place.
#[test]
fn a_link_that_has_no_place_goes() {
    let testbed = Testbed::new();
    let kernel = load(&testbed);
    enforce(&testbed, &kernel);
    let cgroup = CgroupId::of(&testbed.pod).unwrap();
    kernel.attach_egress_filter(&testbed.pod, cgroup, false).unwrap();
    let link = testbed.layout().join(format!("link_pod_{}", cgroup.0));
    let unfinished = testbed.layout().join(format!("link_pod_{}_new", cgroup.0));
    fs::hard_link(&link, &unfinished).unwrap();
    assert_eq!(verified(&kernel), vec![]);
    assert!(link.exists() && !unfinished.exists());
}

/// An agent that was to take over has told the kernel of a node's listener that went with it.
#[test]
fn the_node_is_told_again() {
    let testbed = Testbed::new();
    let kernel = load(&testbed);
    let _server = testbed.serve(ENDPOINT);
    let folder = CgroupId::of(&testbed.cgroup).unwrap();
    kernel.set_class(folder, Class::Unclassified).unwrap();
    kernel.set_node(node(FailMode::Closed)).unwrap();
    load(&testbed).set_node(node(FailMode::Open)).unwrap();
    let dial = || testbed.dial(&testbed.container, "tcp", ENDPOINT).outcome();
    assert_eq!(dial(), reached('s'), "the other's word");
    kernel.verify();
    assert_eq!(dial(), Dialled::failed("PermissionDenied"));
}

#[test]
fn what_cannot_be_put_back_keeps_nothing_else_from_being() {
    let testbed = Testbed::new();
    let kernel = load(&testbed);
    let _server = testbed.serve(ENDPOINT);
    let folder = CgroupId::of(&testbed.cgroup).unwrap();
    kernel.set_class(folder, Class::Unclassified).unwrap();
    kernel.set_node(node(FailMode::Closed)).unwrap();
    load(&testbed).set_node(node(FailMode::Open)).unwrap();
    let place = testbed.layout().join("EVENTS");
    fs::remove_file(&place).unwrap();
    symlink("nowhere", &place).unwrap();
    take_out(&testbed, "connect4");
    let found = kernel.verify();
    assert!(
        matches!(found.failure, Some(KernelError::PinMap { map: "EVENTS", .. })),
        "{found:?}"
    );
    // The other's, but for the one that is gone.
    assert_eq!(found.repaired.len(), Program::ROOT.len(), "{found:?}");
    assert_eq!(
        testbed.dial(&testbed.container, "tcp", ENDPOINT).outcome(),
        Dialled::failed("PermissionDenied"),
        "the node was not told"
    );
    fs::remove_file(&place).unwrap();
    assert_eq!(verified(&kernel), vec![]);
}

#[test]
fn a_pod_that_tries_in_a_loop_is_heard_so_often_a_second() {
    let testbed = Testbed::new();
    let kernel = load(&testbed);
    kernel
        .set_class(CgroupId::of(&testbed.pod).unwrap(), Class::Pending)
        .unwrap();
    let tries = testbed.dial(&testbed.container, "thousand", ENDPOINT).outcome();
    assert_eq!(tries, Dialled::failed("PermissionDenied"));
    let counters = kernel.counters().unwrap();
    assert_eq!(counters.get(Counter::DeniedPending), 1000);
    // A thousand take some milliseconds, or two seconds on a machine that does much else.
    assert!(
        counters.get(Counter::EventsLimited) >= 1000 - 3 * 64,
        "{counters:?}"
    );
}

/// A server that counts what reaches it. It ends with the process.
fn counting(testbed: &Testbed, address: &str, bytes: &Arc<AtomicU64>) {
    let listener = testbed.inside(|| TcpListener::bind(address).unwrap());
    let bytes = Arc::clone(bytes);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, bytes) = (stream.unwrap(), Arc::clone(&bytes));
            thread::spawn(move || {
                let mut buffer = [0; 64];
                while let Ok(read @ 1..) = stream.read(&mut buffer) {
                    bytes.fetch_add(read as u64, Ordering::Relaxed);
                }
            });
        }
    });
}

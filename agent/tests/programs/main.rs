//! The kernel programs and the listener against the running kernel: real cgroups, real namespaces, real dials.
//!
//! Each test makes a cgroup, a network namespace without a way out and a BPF filesystem of its own, and takes them
//! down again. A dial is made by this very program, started again inside them. It all needs root.
#![cfg(target_os = "linux")]
#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on panics, in its helpers too"
)]

mod attachments;
mod destroy_sockets;
mod dialler;
mod foreign;
mod layouts;
mod listener_port;
mod node;
mod testbed;

use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use picket::kernel::CgroupId;
use picket::kernel::{Class, DenyReason, Hook, Kernel, KernelConfig, KernelError, ProtectedEndpoint};
use picket::listener::{Accepted, Arrival, InPodListener, Owner, Serving, Sockets, UnattributedCause};
use picket_common::{Counter, LEVELS_MAX};

use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};

use testbed::{Dialled, Testbed};

/// Addresses of the namespace itself, so that what passes reaches a server there.
const ENDPOINT4: &str = "10.96.0.1:443";
const ENDPOINT6: &str = "[fd00:10:96::1]:443";

/// The agent's number for the pod in these tests.
const POD: u64 = 17;

/// How long anything may take that takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(10);

/// Waits for what takes milliseconds.
async fn soon<T>(awaited: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, awaited)
        .await
        .expect("it does not come")
}

fn endpoints() -> BTreeSet<ProtectedEndpoint> {
    [ENDPOINT4, ENDPOINT6]
        .into_iter()
        .map(|endpoint| ProtectedEndpoint::redirect(endpoint.parse().unwrap()))
        .collect()
}

fn load(testbed: &Testbed) -> Arc<Kernel> {
    let kernel = Kernel::load(&config(testbed)).unwrap_or_else(|error| panic!("{error}"));
    kernel.set_endpoints(&endpoints()).unwrap();
    Arc::new(kernel)
}

fn config(testbed: &Testbed) -> KernelConfig {
    KernelConfig {
        cgroup_root: testbed.cgroup.clone(),
        bpffs: testbed.bpffs.clone(),
    }
}

/// A pod's listener at work; it answers each connection with one byte.
struct Pod {
    port: u16,
    netns: u64,
    arrivals: mpsc::Receiver<Arrival>,
    /// Has the listener close once nothing waits there.
    leave: CancellationToken,
    _cancel: DropGuard,
}

impl Pod {
    fn enforce(kernel: &Arc<Kernel>, testbed: &Testbed) -> Self {
        Self::limited(kernel, testbed, POD, 16)
    }

    /// With a listener that takes flows of the number `number`, and so many connections at once.
    fn limited(kernel: &Arc<Kernel>, testbed: &Testbed, number: u64, limit: usize) -> Self {
        let pod = Self::listening(kernel, testbed, &BTreeSet::new(), number, limit);
        kernel
            .set_class(
                CgroupId::of(&testbed.pod).unwrap(),
                Class::Enforced {
                    pod: POD,
                    port: pod.port,
                    netns: pod.netns,
                },
            )
            .unwrap();
        pod
    }

    /// A further listener, on another port, where nothing is redirected to yet.
    fn beside(kernel: &Arc<Kernel>, testbed: &Testbed, other: &Self) -> Self {
        Self::listening(kernel, testbed, &[other.port].into(), POD, 16)
    }

    fn listening(
        kernel: &Arc<Kernel>,
        testbed: &Testbed,
        reserved: &BTreeSet<u16>,
        number: u64,
        limit: usize,
    ) -> Self {
        let listener = InPodListener::open(&testbed.netns, reserved).unwrap();
        let (port, netns) = (listener.port(), listener.netns_cookie());
        kernel.mark_listener(listener.sockets()).unwrap();
        let (sink, arrivals) = mpsc::channel(16);
        let (cancel, leave) = (CancellationToken::new(), CancellationToken::new());
        let serving = Serving {
            kernel: Arc::clone(kernel),
            cgroup: CgroupId::of(&testbed.pod).unwrap(),
            number,
            owner: Owner {
                pod: Arc::new(ArcSwap::from_pointee(testbed::pod())),
                connections: Arc::new(tokio::sync::Semaphore::new(limit)),
                share: Arc::default(),
                released: CancellationToken::new(),
                seen: Arc::default(),
            },
            sink,
            cancel: cancel.clone(),
            leave: leave.clone(),
        };
        tokio::spawn(serving.run(Sockets::new(listener).unwrap()));
        Self {
            port,
            netns,
            arrivals,
            leave,
            _cancel: cancel.drop_guard(),
        }
    }

    async fn next(&mut self) -> Arrival {
        soon(self.arrivals.recv()).await.expect("the listener ended")
    }

    async fn accepted(&mut self) -> Accepted {
        match self.next().await {
            Arrival::Accepted(mut accepted) => {
                // It may have hung up.
                let _written = accepted.stream.write_all(b"p");
                *accepted
            }
            Arrival::UnattributedConnection(none) => panic!("no flow: {none:?}"),
        }
    }
}

/// What the child prints: the peer as getpeername tells it and the byte it was answered with.
fn reached(endpoint: &str, byte: char) -> Dialled {
    Dialled::Reached {
        peer: endpoint.parse().unwrap(),
        answer: byte,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_enforced_pods_dials_reach_its_listener_and_the_client_sees_what_it_dialled() {
    let testbed = Testbed::new();
    let kernel = load(&testbed);
    let mut pod = Pod::enforce(&kernel, &testbed);
    for (dialled, origin) in [
        (ENDPOINT4, ENDPOINT4),
        (ENDPOINT6, ENDPOINT6),
        ("[::ffff:10.96.0.1]:443", ENDPOINT4),
        ("[64:ff9b::10.96.0.1]:443", ENDPOINT4),
    ] {
        let dial = testbed.dial(&testbed.container, "tcp", dialled);
        let accepted = pod.accepted().await;
        assert_eq!(
            accepted.origin,
            origin.parse::<SocketAddr>().unwrap(),
            "{dialled}"
        );
        let process = accepted.process.as_ref().unwrap();
        assert_eq!(process.pid, dial.pid(), "{dialled}");
        assert_eq!(process.comm, "dialler::dialle", "{dialled}");
        assert_eq!(process.uid, 0, "{dialled}");
        assert_eq!(
            process.exe.as_deref(),
            std::env::current_exe().unwrap().to_str(),
            "{dialled}"
        );
        let cgroup = process.cgroup.as_deref().unwrap();
        assert!(
            testbed.container.ends_with(cgroup.trim_start_matches('/')),
            "{cgroup}"
        );
        // Taken is taken: the same flow serves no second connection.
        let local = accepted.stream.local_addr().unwrap();
        let cookie = InPodListener::open(&testbed.netns, &Default::default())
            .unwrap()
            .netns_cookie();
        assert_eq!(kernel.take_flow(cookie, local, accepted.peer).unwrap(), None);
        drop(accepted);
        assert_eq!(dial.outcome(), reached(dialled, 'p'), "{dialled}");
    }
    let counters = kernel.counters().unwrap();
    assert_eq!(counters.get(Counter::Redirected), 4);
    assert_eq!(counters.get(Counter::FlowsWritten), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_has_so_many_connections_and_the_next_waits_for_one_to_end() {
    let testbed = Testbed::new();
    let kernel = load(&testbed);
    let mut pod = Pod::limited(&kernel, &testbed, POD, 2);
    let dials: Vec<_> = (0..3)
        .map(|_| testbed.dial(&testbed.container, "tcp", ENDPOINT4))
        .collect();
    let (first, _second) = (pod.accepted().await, pod.accepted().await);
    let third = tokio::time::timeout(Duration::from_millis(300), pod.arrivals.recv()).await;
    assert!(third.is_err(), "a third connection was accepted beside two");
    drop(first);
    let _third = pod.accepted().await;
    for dial in dials {
        assert_eq!(dial.outcome(), reached(ENDPOINT4, 'p'));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flow_to_a_listener_before_this_one_is_not_taken() {
    let testbed = Testbed::new();
    let kernel = load(&testbed);
    let mut pod = Pod::limited(&kernel, &testbed, POD + 1, 2);
    let dial = testbed.dial(&testbed.container, "tcp", ENDPOINT4);
    let Arrival::UnattributedConnection(closed) = pod.next().await else {
        panic!("the class carries another number");
    };
    assert_eq!(closed.cause, UnattributedCause::OtherPod);
    assert!(!matches!(dial.outcome(), Dialled::Reached { .. }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pending_pod_is_refused_at_endpoints_alone_and_told_of() {
    let testbed = Testbed::new();
    let kernel = load(&testbed);
    let (_server, _other) = (testbed.serve(ENDPOINT4), testbed.serve("10.96.0.1:80"));
    kernel
        .set_class(CgroupId::of(&testbed.pod).unwrap(), Class::Pending)
        .unwrap();
    let mut events = kernel.events().unwrap();
    for (dialled, hook, protocol, how) in [
        (ENDPOINT4, Hook::Connect4, 6, "tcp"),
        ("[::ffff:10.96.0.1]:443", Hook::Connect6, 6, "tcp"),
        (ENDPOINT4, Hook::Connect4, 17, "udp"),
    ] {
        let dial = testbed.dial(&testbed.container, how, dialled);
        let pid = dial.pid();
        assert_eq!(dial.outcome(), Dialled::failed("PermissionDenied"), "{dialled}");
        let event = soon(events.next()).await.unwrap();
        assert_eq!(event.reason, Some(DenyReason::Pending));
        assert_eq!(event.hook, Some(hook));
        assert_eq!(event.origin, ENDPOINT4.parse::<SocketAddr>().unwrap());
        assert_eq!(event.protocol, protocol);
        assert_eq!(event.cgroup, CgroupId::of(&testbed.pod).unwrap());
        assert_eq!((event.pid, event.comm.as_str()), (pid, "dialler::dialle"));
    }
    assert_eq!(kernel.counters().unwrap().get(Counter::DeniedPending), 3);
    let other = testbed.dial(&testbed.container, "tcp", "10.96.0.1:80").outcome();
    assert_eq!(other, reached("10.96.0.1:80", 's'));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_nearest_class_decides_and_without_one_everything_passes() {
    let testbed = Testbed::new();
    let kernel = load(&testbed);
    let _server = testbed.serve(ENDPOINT4);
    let dial = || testbed.dial(&testbed.container, "tcp", ENDPOINT4).outcome();
    assert_eq!(dial(), reached(ENDPOINT4, 's'), "no class");
    kernel
        .set_class(CgroupId::of(&testbed.cgroup).unwrap(), Class::Pending)
        .unwrap();
    assert_eq!(dial(), Dialled::failed("PermissionDenied"), "pending above");
    kernel
        .set_class(CgroupId::of(&testbed.pod).unwrap(), Class::Exempt)
        .unwrap();
    assert_eq!(dial(), reached(ENDPOINT4, 's'), "exempt nearer");
    kernel.remove_class(CgroupId::of(&testbed.pod).unwrap()).unwrap();
    assert_eq!(dial(), Dialled::failed("PermissionDenied"), "pending again");
    kernel.remove_class(CgroupId::of(&testbed.pod).unwrap()).unwrap();
}

/// The folder of all pods is closed, and lies where the programs look: so a class of its own that they do not find opens nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_pod_deeper_than_the_programs_look_is_refused_by_the_class_of_the_folder_above() {
    let testbed = Testbed::new();
    let kernel = load(&testbed);
    let _server = testbed.serve(ENDPOINT4);
    let below: Vec<_> = (0..LEVELS_MAX)
        .scan(testbed.container.clone(), |folder, _| {
            folder.push("d");
            Some(folder.clone())
        })
        .collect();
    let deep = below.last().unwrap();
    std::fs::create_dir_all(deep).unwrap();
    let dial = || testbed.dial(deep, "tcp", ENDPOINT4).outcome();
    let unclassified = dial();
    let class = |path: &std::path::Path, class| kernel.set_class(CgroupId::of(path).unwrap(), class);
    class(&testbed.cgroup, Class::Unclassified).unwrap();
    let closed = dial();
    class(deep, Class::Exempt).unwrap();
    let exempt = dial();
    let begun = std::time::Instant::now();
    for folder in below.iter().rev() {
        // A child's exit reaches the cgroup a moment after it is waited for.
        while std::fs::remove_dir(folder).is_err() && begun.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    assert_eq!(unclassified, reached(ENDPOINT4, 's'), "no folder above is closed");
    assert_eq!(closed, Dialled::failed("PermissionDenied"));
    assert_eq!(
        exempt,
        Dialled::failed("PermissionDenied"),
        "its own class is not found"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_enforced_pod_has_no_other_way_to_an_endpoint() {
    let testbed = Testbed::new();
    let kernel = load(&testbed);
    let _pod = Pod::enforce(&kernel, &testbed);
    let mut events = kernel.events().unwrap();
    assert_eq!(
        testbed.dial(&testbed.pod, "udp", ENDPOINT4).outcome(),
        Dialled::failed("PermissionDenied")
    );
    let event = soon(events.next()).await.unwrap();
    assert_eq!((event.reason, event.pod), (Some(DenyReason::Protocol), POD));

    for (endpoint, hook) in [
        (ENDPOINT4, Hook::SendMsg4),
        (ENDPOINT6, Hook::SendMsg6),
        ("[::ffff:10.96.0.1]:443", Hook::SendMsg4),
    ] {
        assert_eq!(
            testbed.dial(&testbed.pod, "send", endpoint).outcome(),
            Dialled::failed("PermissionDenied")
        );
        let event = soon(events.next()).await.unwrap();
        assert_eq!(
            (event.reason, event.hook),
            (Some(DenyReason::Protocol), Some(hook)),
            "{endpoint}"
        );
    }
    assert_eq!(
        testbed.dial(&testbed.pod, "send", "10.96.0.1:53").outcome(),
        Dialled::Closed
    );

    let shut: BTreeSet<_> = [ProtectedEndpoint::deny(ENDPOINT4.parse().unwrap())].into();
    kernel.set_endpoints(&shut).unwrap();
    assert_eq!(
        testbed.dial(&testbed.pod, "tcp", ENDPOINT4).outcome(),
        Dialled::failed("PermissionDenied")
    );
    let event = soon(events.next()).await.unwrap();
    assert_eq!(event.reason, Some(DenyReason::DeniedEndpoint));
    // What is no protected endpoint any more is none.
    let _server = testbed.serve(ENDPOINT6);
    assert_eq!(
        testbed.dial(&testbed.pod, "tcp", ENDPOINT6).outcome(),
        reached(ENDPOINT6, 's')
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn who_dials_the_listener_itself_is_nobody() {
    let testbed = Testbed::new();
    let kernel = load(&testbed);
    let mut pod = Pod::enforce(&kernel, &testbed);
    for address in [format!("127.0.0.1:{}", pod.port), format!("[::1]:{}", pod.port)] {
        let dial = testbed.dial(&testbed.container, "tcp", &address);
        match pod.next().await {
            Arrival::UnattributedConnection(none) => {
                assert_eq!(none.cause, UnattributedCause::Unknown);
                assert_eq!(none.local, Some(address.parse::<SocketAddr>().unwrap()));
            }
            Arrival::Accepted(accepted) => panic!("served: {accepted:?}"),
        }
        assert_eq!(dial.outcome(), Dialled::Closed, "{address}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_hangs_up_at_once_is_no_alarm() {
    let testbed = Testbed::new();
    let kernel = load(&testbed);
    let mut pod = Pod::enforce(&kernel, &testbed);
    assert_eq!(
        testbed.dial(&testbed.pod, "brief", ENDPOINT4).outcome(),
        Dialled::Closed
    );
    // The last one is behind all others.
    let dial = testbed.dial(&testbed.pod, "tcp", ENDPOINT4);
    while pod.accepted().await.process.unwrap().pid != dial.pid() {}
    assert_eq!(dial.outcome(), reached(ENDPOINT4, 'p'));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_agent_the_endpoints_stay_shut_and_the_next_agent_carries_on() {
    let testbed = Testbed::new();
    let _server = testbed.serve(ENDPOINT4);
    let kernel = load(&testbed);
    let mut pod = Pod::enforce(&kernel, &testbed);
    let dial = testbed.dial(&testbed.pod, "tcp", ENDPOINT4);
    pod.accepted().await;
    assert_eq!(dial.outcome(), reached(ENDPOINT4, 'p'));
    let (port, netns) = (pod.port, pod.netns);
    drop(pod);
    let kernel = settle(kernel).await;
    drop(kernel);
    let gone = testbed.dial(&testbed.pod, "tcp", ENDPOINT4).outcome();
    assert_eq!(gone, Dialled::failed("ConnectionRefused"));

    let kernel = Arc::new(Kernel::load(&config(&testbed)).unwrap());
    let cgroup = CgroupId::of(&testbed.pod).unwrap();
    assert_eq!(
        kernel.classes().unwrap(),
        vec![(
            cgroup,
            Class::Enforced {
                pod: POD,
                port,
                netns
            }
        )]
    );
    let mut pod = Pod::enforce(&kernel, &testbed);
    let dial = testbed.dial(&testbed.pod, "tcp", ENDPOINT4);
    assert_eq!(
        pod.accepted().await.origin,
        ENDPOINT4.parse::<SocketAddr>().unwrap()
    );
    assert_eq!(dial.outcome(), reached(ENDPOINT4, 'p'));
    // One for each dial of this test: the programs of the first agent are gone, and its maps are not.
    assert_eq!(kernel.counters().unwrap().get(Counter::Redirected), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_replaces_the_programs_under_traffic_without_a_gap() {
    let testbed = Testbed::new();
    let _server = testbed.serve(ENDPOINT4);
    let kernel = load(&testbed);
    kernel
        .set_class(CgroupId::of(&testbed.pod).unwrap(), Class::Pending)
        .unwrap();
    let dial = testbed.dial(&testbed.pod, "tcp-repeat", ENDPOINT4);
    for _ in 0..5 {
        drop(Kernel::load(&config(&testbed)).unwrap());
    }
    // The child dials until it is told to stop or gets through.
    assert_eq!(dial.stop(), Dialled::failed("PermissionDenied"));
}

#[tokio::test(flavor = "multi_thread")]
async fn unloading_leaves_nothing() {
    let testbed = Testbed::new();
    let _server = testbed.serve(ENDPOINT4);
    let kernel = load(&testbed);
    kernel
        .set_class(CgroupId::of(&testbed.pod).unwrap(), Class::Pending)
        .unwrap();
    assert_eq!(
        testbed.dial(&testbed.pod, "tcp", ENDPOINT4).outcome(),
        Dialled::failed("PermissionDenied")
    );
    drop(settle(kernel).await);
    Kernel::unload(&testbed.bpffs).unwrap();
    assert!(!testbed.bpffs.exists());
    // The kernel detaches from a worker of its own, a moment later.
    let begun = std::time::Instant::now();
    while testbed.dial(&testbed.pod, "tcp", ENDPOINT4).outcome() != reached(ENDPOINT4, 's') {
        assert!(begun.elapsed() < PATIENCE, "still attached");
    }
    Kernel::unload(&testbed.bpffs).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn maps_of_another_shape_are_not_adopted() {
    let testbed = Testbed::new();
    drop(load(&testbed));
    let folder = testbed.layout();
    std::fs::rename(folder.join("CLASSES"), folder.join("ENDPOINTS")).unwrap();
    let error = Kernel::load(&config(&testbed)).unwrap_err();
    assert!(
        matches!(
            error,
            KernelError::Shape {
                property: "key size",
                ..
            }
        ),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn folders_of_the_wrong_kind_are_named() {
    let testbed = Testbed::new();
    let wrong = KernelConfig {
        bpffs: testbed.folder.join("plain"),
        ..config(&testbed)
    };
    let error = Kernel::load(&wrong).unwrap_err();
    assert!(matches!(error, KernelError::NotBpffs { .. }), "{error}");
    assert!(error.to_string().contains("mount -t bpf"), "{error}");
    let wrong = KernelConfig {
        cgroup_root: testbed.folder.clone(),
        ..config(&testbed)
    };
    let error = Kernel::load(&wrong).unwrap_err();
    assert!(matches!(error, KernelError::NotCgroup2 { .. }), "{error}");
}

/// Waits until the listener's task has let go of the kernel's handle.
async fn settle(kernel: Arc<Kernel>) -> Kernel {
    let mut kernel = kernel;
    for _ in 0..1000 {
        match Arc::try_unwrap(kernel) {
            Ok(kernel) => return kernel,
            Err(shared) => kernel = shared,
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the listener did not end");
}

/// A server that answers with `s`.
fn answer(listener: &TcpListener) {
    for stream in listener.incoming() {
        let _ = stream.map(|mut stream| stream.write_all(b"s"));
    }
}

#[tokio::test]
async fn as_many_endpoints_as_there_may_be_are_replaced_by_as_many_others() {
    let testbed = Testbed::new();
    let kernel = load(&testbed);
    for action in [ProtectedEndpoint::redirect, ProtectedEndpoint::deny] {
        for net in [10, 11] {
            let endpoints: BTreeSet<ProtectedEndpoint> = (0..picket_common::ENDPOINTS_MAX)
                .map(|number| {
                    let [_, a, b, c] = number.to_be_bytes();
                    action(SocketAddr::from(([net, a, b, c], 6443)))
                })
                .collect();
            kernel.set_endpoints(&endpoints).unwrap();
            assert!(
                kernel.endpoints().unwrap() == endpoints,
                "not all protected endpoints of {net}/8 are in force"
            );
        }
    }
}

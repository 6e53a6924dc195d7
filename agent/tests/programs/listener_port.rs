//! The listener's port: a program of the pod that binds it is reported, and gets it once the listener has left; redirected connections
//! come to no program of the pod, at no moment.

use std::io::Read as _;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, listen, setsockopt, socket, sockopt,
};
use picket::kernel::destroy_sockets::destroy_dials;
use picket::kernel::{CgroupId, Class, DenyReason, Hook, Kernel};
use picket::listener::Arrival;
use picket_common::Counter;

use crate::testbed::{Dialled, Testbed};
use crate::{ENDPOINT4, ENDPOINT6, POD, Pod, load, reached, soon};

/// How long nothing must come that must not come: longer than the kernel waits before it sends a first packet again.
const NEVER: Duration = Duration::from_millis(2500);

/// A port for a listener of the tests' own.
const PORT: u16 = 64_322;

fn held(kernel: &Kernel, testbed: &Testbed) -> CgroupId {
    let cgroup = CgroupId::of(&testbed.pod).unwrap();
    kernel.attach_egress_filter(&testbed.pod, cgroup, false).unwrap();
    cgroup
}

/// What a program at this listener is sent, until `NEVER` has passed.
fn received(listener: &TcpListener) -> Option<Vec<u8>> {
    listener.set_nonblocking(true).unwrap();
    let begun = Instant::now();
    while begun.elapsed() < NEVER {
        if let Ok((mut stream, _)) = listener.accept() {
            stream.set_nonblocking(false).unwrap();
            stream.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
            let mut heard = vec![0; 16];
            let length = stream.read(&mut heard).unwrap_or(0);
            heard.truncate(length);
            return Some(heard);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    None
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bind_to_the_listeners_port_is_reported_and_others_are_not() {
    let testbed = Testbed::new();
    let kernel = load(&testbed);
    let pod = Pod::enforce(&kernel, &testbed);
    let mut events = kernel.events().unwrap();
    let binds = |address: &str, port: u16| {
        // The programs see what happens below the cgroup that they are attached to.
        let order = SocketAddr::new(address.parse().unwrap(), port);
        testbed.dial(&testbed.container, "bind", &order.to_string())
    };
    for (address, hook) in [
        ("0.0.0.0", Hook::Bind4),
        ("127.0.0.1", Hook::Bind4),
        ("::", Hook::Bind6),
        ("::1", Hook::Bind6),
        ("::ffff:127.0.0.1", Hook::Bind6),
    ] {
        for (other, port) in [(address, pod.port + 1), ("127.0.0.7", pod.port)] {
            assert_eq!(binds(other, port).outcome(), Dialled::Closed, "{other} {port}");
        }
        let bound = binds(address, pod.port);
        let pid = bound.pid();
        assert_eq!(bound.outcome(), Dialled::failed("AddrInUse"), "{address}");
        let event = soon(events.next()).await.unwrap();
        assert_eq!(
            (event.reason, event.hook),
            (Some(DenyReason::ListenerPort), Some(hook)),
            "{address}"
        );
        assert_eq!((event.origin.port(), event.pod, event.pid), (pod.port, POD, pid));
        assert_eq!(event.cgroup, CgroupId::of(&testbed.pod).unwrap());
    }
    assert_eq!(kernel.counters().unwrap().get(Counter::DeniedListenerPorts), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_has_the_listeners_port_gets_no_redirected_connection() {
    let testbed = Testbed::new();
    let kernel = load(&testbed);
    let pod = Pod::enforce(&kernel, &testbed);
    let port = pod.port;
    // The agent dies, and its listeners with it.
    drop(pod);
    let servers = [
        SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
        SocketAddr::from((Ipv6Addr::LOCALHOST, port)),
    ];
    let begun = Instant::now();
    let _servers = servers.map(|address| {
        loop {
            // The listener's task closes it in its own time.
            match testbed.inside(|| TcpListener::bind(address)) {
                Ok(server) => break std::thread::spawn(move || crate::answer(&server)),
                Err(_) if begun.elapsed() < NEVER => std::thread::sleep(Duration::from_millis(10)),
                Err(error) => panic!("{error}"),
            }
        }
    });
    // The server does not read, so that whoever says something may be reset before the answer comes.
    let dial = |how: &str, endpoint: &str| testbed.dial(&testbed.container, how, endpoint).outcome();
    assert_eq!(
        dial("tcp", ENDPOINT4),
        reached(ENDPOINT4, 's'),
        "the attack arrives without the guard"
    );
    let _cgroup = held(&kernel, &testbed);
    let mut events = kernel.events().unwrap();
    for endpoint in [ENDPOINT4, ENDPOINT6] {
        assert_eq!(dial("says", endpoint), Dialled::failed("TimedOut"), "{endpoint}");
        let event = soon(events.next()).await.unwrap();
        assert_eq!(
            (event.reason, event.hook),
            (Some(DenyReason::Misdirected), Some(Hook::Egress)),
            "{endpoint}"
        );
        assert_eq!(event.origin, endpoint.parse::<SocketAddr>().unwrap());
        assert_eq!((event.pod, event.comm.as_str()), (POD, "dialler::dialle"));
        while let Ok(more) = tokio::time::timeout(Duration::from_millis(50), events.next()).await {
            assert_eq!(more.unwrap().reason, Some(DenyReason::Misdirected));
        }
    }
    // What the pod's own clients dial there themselves is their own business.
    let own = servers[0].to_string();
    assert_eq!(dial("tcp", &own), reached(&own, 's'));
}

/// The window: a first packet that a full queue did not take comes again, a second later, to whoever has the port by then.
#[tokio::test(flavor = "multi_thread")]
async fn a_dial_that_is_on_its_way_while_the_port_changes_hands_comes_to_nobody() {
    for (passes_first_check, moved, arrives) in
        [(false, true, false), (true, true, false), (true, false, true)]
    {
        let testbed = Testbed::new();
        let kernel = load(&testbed);
        let cgroup = held(&kernel, &testbed);
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
        let listener = testbed.inside(|| full(address));
        let netns = picket::kernel::netns_cookie(&listener).unwrap();
        kernel.mark_listener([listener.as_fd()]).unwrap();
        let class = Class::Enforced {
            pod: POD,
            port: PORT,
            netns,
        };
        kernel.set_class(cgroup, class).unwrap();
        let _filling = testbed.inside(|| fill(address));
        let dial = testbed.dial(&testbed.container, "says", ENDPOINT4);
        let begun = Instant::now();
        while kernel.counters().unwrap().get(Counter::Redirected) == 0 {
            assert!(begun.elapsed() < NEVER, "nothing is redirected");
            std::thread::sleep(Duration::from_millis(5));
        }
        std::thread::sleep(Duration::from_millis(100));
        if moved {
            assert!(kernel.move_listener(cgroup, POD, PORT, PORT + 1).unwrap());
            kernel.leave_port(cgroup, POD, PORT).unwrap();
        }
        drop(listener);
        let program = testbed.inside(|| TcpListener::bind(address).unwrap());
        if passes_first_check {
            // As where the packet was past the check when the listener closed.
            kernel.mark_listener([program.as_fd()]).unwrap();
        }
        let got = received(&program);
        assert_eq!(
            got.as_deref(),
            arrives.then_some(b"secret".as_slice()),
            "marked {passes_first_check}, moved {moved}"
        );
        assert!(!matches!(dial.outcome(), Dialled::Reached { .. }));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dial_that_nobody_has_answered_is_ended_before_the_listener_closes() {
    let testbed = Testbed::new();
    let kernel = load(&testbed);
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
    let listener = testbed.inside(|| full(address));
    let netns = picket::kernel::netns_cookie(&listener).unwrap();
    let class = Class::Enforced {
        pod: POD,
        port: PORT,
        netns,
    };
    kernel
        .set_class(CgroupId::of(&testbed.pod).unwrap(), class)
        .unwrap();
    let _filling = testbed.inside(|| fill(address));
    let dial = testbed.dial(&testbed.container, "says", ENDPOINT4);
    let begun = Instant::now();
    loop {
        let ended = destroy_dials(&testbed.netns, PORT).unwrap();
        if kernel.counters().unwrap().get(Counter::Redirected) == 1 && ended.destroyed > 0 {
            break;
        }
        assert!(begun.elapsed() < NEVER, "no dial waits");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(dial.outcome(), Dialled::failed("ConnectionAborted"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_moves_and_serves_before_during_and_after() {
    let testbed = Testbed::new();
    let kernel = load(&testbed);
    let cgroup = held(&kernel, &testbed);
    let mut first = Pod::enforce(&kernel, &testbed);
    let from = first.port;
    let before = testbed.dial(&testbed.container, "talk", ENDPOINT4);
    let mut kept = first.accepted().await;

    let mut second = Pod::beside(&kernel, &testbed, &first);
    assert!(kernel.move_listener(cgroup, POD, from, second.port).unwrap());
    assert!(
        !kernel.move_listener(cgroup, POD, from, PORT).unwrap(),
        "it has left that port"
    );
    let during = testbed.dial(&testbed.container, "tcp", ENDPOINT4);
    second.accepted().await;
    assert_eq!(during.outcome(), reached(ENDPOINT4, 'p'));
    // What is put in force again meanwhile leaves the former listener's connections alone.
    kernel
        .set_class(
            cgroup,
            Class::Enforced {
                pod: POD,
                port: second.port,
                netns: second.netns,
            },
        )
        .unwrap();
    kernel.leave_port(cgroup, POD, from).unwrap();
    first.leave.cancel();
    // What dials the port itself meanwhile is closed, as long as somebody takes it.
    tokio::spawn(async move { while first.arrivals.recv().await.is_some() {} });

    // A program that sets no option gets the port, though a connection of the listener's is still open there.
    let wanted = SocketAddr::from((Ipv6Addr::UNSPECIFIED, from));
    let program = testbed.dial(&testbed.container, "serve", &wanted.to_string());
    let own = SocketAddr::from((Ipv4Addr::LOCALHOST, from)).to_string();
    let begun = Instant::now();
    while testbed.dial(&testbed.container, "tcp", &own).outcome() != reached(&own, 's') {
        if begun.elapsed() > 4 * NEVER {
            panic!("the program does not get the port: {}", program.stop());
        }
    }

    let mut heard = [0; 1];
    kept.stream.set_nonblocking(false).unwrap();
    for _ in 0..10 {
        kept.stream.read_exact(&mut heard).unwrap();
    }
    for endpoint in [ENDPOINT4, ENDPOINT6] {
        let after = testbed.dial(&testbed.container, "tcp", endpoint);
        second.accepted().await;
        assert_eq!(after.outcome(), reached(endpoint, 'p'));
    }
    assert_eq!(before.stop(), Dialled::Closed);
    assert_eq!(program.stop(), Dialled::Closed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_that_closes_takes_what_waits_there() {
    let testbed = Testbed::new();
    let kernel = load(&testbed);
    let mut pod = Pod::limited(&kernel, &testbed, POD, 1);
    let dials: Vec<_> = (0..3)
        .map(|_| testbed.dial(&testbed.container, "tcp", ENDPOINT4))
        .collect();
    let begun = Instant::now();
    while kernel.counters().unwrap().get(Counter::FlowsWritten) < 3 {
        assert!(begun.elapsed() < NEVER, "they do not come");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    pod.leave.cancel();
    for _ in 0..3 {
        // Each has its place once the one before it has gone.
        drop(pod.accepted().await);
    }
    for dial in dials {
        assert_eq!(dial.outcome(), reached(ENDPOINT4, 'p'));
    }
    assert!(soon(pod.arrivals.recv()).await.is_none(), "it is closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_closes_though_the_pod_goes_on_dialling_its_port() {
    let testbed = Testbed::new();
    let kernel = load(&testbed);
    let mut pod = Pod::enforce(&kernel, &testbed);
    let port = SocketAddr::from((Ipv4Addr::LOCALHOST, pod.port));
    let over = Arc::new(AtomicBool::new(false));
    let flood = {
        let over = Arc::clone(&over);
        testbed.inside(|| {
            // Threads that start here are in the namespace too.
            std::thread::spawn(move || {
                let begun = Instant::now();
                while !over.load(Ordering::Relaxed) && begun.elapsed() < 4 * NEVER {
                    let _ = TcpStream::connect_timeout(&port, NEVER);
                }
            })
        })
    };
    let Arrival::UnattributedConnection(_) = pod.next().await else {
        panic!("it was not redirected");
    };
    pod.leave.cancel();
    let closes = async { while pod.arrivals.recv().await.is_some() {} };
    let closed = tokio::time::timeout(2 * NEVER, closes).await;
    over.store(true, Ordering::Relaxed);
    flood.join().unwrap();
    assert!(closed.is_ok(), "it is kept open");
}

/// A listener whose queue has room for one.
fn full(address: SocketAddr) -> TcpListener {
    // No child of the test may keep it open.
    let made = socket(
        AddressFamily::Inet,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )
    .unwrap();
    setsockopt(&made, sockopt::ReuseAddr, &true).unwrap();
    bind(made.as_raw_fd(), &SockaddrStorage::from(address)).unwrap();
    listen(&made, Backlog::new(0).unwrap()).unwrap();
    TcpListener::from(made)
}

/// Takes that room.
fn fill(address: SocketAddr) -> Vec<TcpStream> {
    let patience = Duration::from_millis(100);
    (0..3)
        .filter_map(|_| TcpStream::connect_timeout(&address, patience).ok())
        .collect()
}

/// Binds as a program does that sets no option, as soon as it may, and answers until standard input ends.
pub(crate) fn serves(address: SocketAddr) -> Dialled {
    let begun = Instant::now();
    let made = loop {
        // A new one for each try, as a program has that is started again.
        let made = socket(AddressFamily::Inet6, SockType::Stream, SockFlag::empty(), None).unwrap();
        match bind(made.as_raw_fd(), &SockaddrStorage::from(address)) {
            Ok(()) => break made,
            Err(error) if begun.elapsed() > NEVER => return Dialled::failed(&format!("{error:?}")),
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    listen(&made, Backlog::new(8).unwrap()).unwrap();
    let listener = TcpListener::from(made);
    std::thread::spawn(move || crate::answer(&listener));
    let _ended = std::io::stdin().read_to_end(&mut Vec::new());
    Dialled::Closed
}

/// Binds and listens where the order says; what came of it is told like a dial.
pub(crate) fn binds(address: SocketAddr) -> Dialled {
    match TcpListener::bind(address) {
        Ok(_) => Dialled::Closed,
        Err(error) => Dialled::failed(&format!("{:?}", error.kind())),
    }
}

//! The listener on the node's own loopback, for pods that share the node's network.

use std::io::Write as _;
use std::sync::Arc;

use arc_swap::ArcSwap;
use picket::kernel::CgroupId;
use picket::kernel::{Class, FailMode, Kernel, NodeState};
use picket::listener::{
    Arrival, InPodListener, NodeServing, Owner, Sockets, UnattributedCause, UnattributedConnection,
};

use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::testbed::{self, Dialled, Testbed};
use super::{ENDPOINT4, ENDPOINT6, POD, load, reached, soon};

/// The node's listener at work for one pod with so many places. The testbed's namespace stands for the node's.
struct Shared {
    port: u16,
    arrivals: mpsc::Receiver<Arrival>,
    _cancel: DropGuard,
}

impl Shared {
    fn enforce(kernel: &Arc<Kernel>, testbed: &Testbed, number: u64, limit: usize) -> Self {
        let listener = InPodListener::open(&testbed.netns, &Default::default()).unwrap();
        let (netns, port) = (listener.netns_cookie(), listener.port());
        kernel.mark_listener(listener.sockets()).unwrap();
        kernel
            .set_node(NodeState {
                netns,
                port: Some(port),
                unclassified: FailMode::Closed,
            })
            .unwrap();
        let pod = CgroupId::of(&testbed.pod).unwrap();
        let class = Class::Enforced {
            pod: POD,
            port,
            netns,
        };
        kernel.set_class(pod, class).unwrap();
        let owner = Owner {
            pod: Arc::new(ArcSwap::from_pointee(testbed::pod())),
            connections: Arc::new(Semaphore::new(limit)),
            share: Arc::default(),
            released: CancellationToken::new(),
            seen: Arc::default(),
        };
        let (sink, arrivals) = mpsc::channel(16);
        let cancel = CancellationToken::new();
        let serving = NodeServing {
            kernel: Arc::clone(kernel),
            find: Arc::new(move |cgroup, found| (cgroup == pod && found == number).then(|| owner.clone())),
            sink,
            cancel: cancel.clone(),
        };
        tokio::spawn(serving.run(Sockets::new(listener).unwrap()));
        Self {
            port,
            arrivals,
            _cancel: cancel.drop_guard(),
        }
    }

    async fn next(&mut self) -> Arrival {
        soon(self.arrivals.recv()).await.expect("the listener ended")
    }

    async fn closed(&mut self) -> UnattributedConnection {
        match self.next().await {
            Arrival::UnattributedConnection(closed) => closed,
            Arrival::Accepted(accepted) => panic!("accepted: {accepted:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_in_the_nodes_network_is_served_there_by_its_cgroup() {
    let testbed = Testbed::new();
    let kernel = load(&testbed);
    let mut shared = Shared::enforce(&kernel, &testbed, POD, 16);
    for endpoint in [ENDPOINT4, ENDPOINT6] {
        let dial = testbed.dial(&testbed.container, "tcp", endpoint);
        let Arrival::Accepted(mut accepted) = shared.next().await else {
            panic!("{endpoint} was closed");
        };
        assert_eq!(accepted.origin, endpoint.parse().unwrap());
        assert_eq!(accepted.workload.unwrap().load().name, "one");
        assert_eq!(accepted.process.unwrap().pid, dial.pid());
        accepted.stream.write_all(b"p").unwrap();
        assert_eq!(dial.outcome(), reached(endpoint, 'p'));
    }
    // A process of the node itself goes where it dials, beside the pod.
    let server = testbed.serve(ENDPOINT4);
    let dial = testbed.dial(&testbed.cgroup, "tcp", &server.to_string());
    assert_eq!(dial.outcome(), reached(ENDPOINT4, 's'));
}

#[tokio::test(flavor = "multi_thread")]
async fn at_the_nodes_listener_who_is_nobodys_is_closed() {
    let testbed = Testbed::new();
    let kernel = load(&testbed);
    let mut shared = Shared::enforce(&kernel, &testbed, POD, 16);
    // Anybody on the node can dial it.
    let direct = format!("127.0.0.1:{}", shared.port);
    let dial = testbed.dial(&testbed.cgroup, "tcp", &direct);
    let closed = shared.closed().await;
    assert_eq!(
        (closed.cause, closed.workload),
        (UnattributedCause::Unknown, None)
    );
    assert_eq!(dial.outcome(), Dialled::Closed);
    drop(shared);
    // A flow with the number of an earlier enforcement, or of a pod that is gone.
    let mut shared = Shared::enforce(&kernel, &testbed, POD + 1, 16);
    let dial = testbed.dial(&testbed.container, "tcp", ENDPOINT4);
    let closed = shared.closed().await;
    assert_eq!(
        (closed.cause, closed.workload),
        (UnattributedCause::OtherPod, None)
    );
    assert_eq!(dial.outcome(), Dialled::Closed);
}

#[tokio::test(flavor = "multi_thread")]
async fn at_the_nodes_listener_a_pod_has_so_many_connections() {
    let testbed = Testbed::new();
    let kernel = load(&testbed);
    let mut shared = Shared::enforce(&kernel, &testbed, POD, 1);
    let first = testbed.dial(&testbed.container, "tcp", ENDPOINT4);
    let Arrival::Accepted(mut accepted) = shared.next().await else {
        panic!("the first was closed");
    };
    accepted.stream.write_all(b"p").unwrap();
    let second = testbed.dial(&testbed.container, "tcp", ENDPOINT4);
    let closed = shared.closed().await;
    assert_eq!(closed.cause, UnattributedCause::Full);
    assert_eq!(closed.workload.unwrap().name, "one");
    assert_eq!(second.outcome(), Dialled::Closed);
    drop(accepted);
    assert_eq!(first.outcome(), reached(ENDPOINT4, 'p'));
    // Its place is free again.
    let third = testbed.dial(&testbed.container, "tcp", ENDPOINT4);
    let Arrival::Accepted(mut accepted) = shared.next().await else {
        panic!("the third was closed");
    };
    accepted.stream.write_all(b"p").unwrap();
    assert_eq!(third.outcome(), reached(ENDPOINT4, 'p'));
}

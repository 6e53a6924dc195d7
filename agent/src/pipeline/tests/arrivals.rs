//! What comes from the listeners: served, counted, and written down.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, StatusCode, header};
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::super::PipelineMetrics;
use super::super::arrivals::{DataPath, connections};
use super::shares::flood;
use super::world::World;
use crate::denied::{Denials, DeniedConnection, DeniedMetrics};
use crate::listener::{Arrival, UnattributedCause, UnattributedConnection};
use crate::metrics::MetricsRegistry;
use crate::runtime::drain::Drain;
use crate::runtime::workers::Workers;

/// Long enough for whatever is to happen on a busy machine.
const LIMIT: Duration = Duration::from_secs(20);

/// The task that takes what arrives, and all that it tells.
struct Node {
    arrivals: mpsc::Sender<Arrival>,
    denied: mpsc::Receiver<DeniedConnection>,
    metrics: MetricsRegistry,
    last: CancellationToken,
    done: CancellationToken,
}

impl Node {
    fn start(world: &World) -> Node {
        let metrics = MetricsRegistry::default();
        let (arrivals, arriving) = mpsc::channel(8);
        let (denials, denied) = Denials::channel(DeniedMetrics::register(&metrics), |_| None);
        let path = DataPath {
            pipeline: Arc::clone(&world.pipeline),
            workers: Workers::start(NonZeroUsize::MIN).expect("a thread"),
            drain: Drain::default(),
            metrics: PipelineMetrics::register(&metrics),
        };
        let (last, done) = (CancellationToken::new(), CancellationToken::new());
        tokio::spawn(connections(arriving, path, denials, last.clone(), done.clone()));
        Node {
            arrivals,
            denied,
            metrics,
            last,
            done,
        }
    }

    async fn arrives(&self, arrival: Arrival) {
        self.arrivals.send(arrival).await.expect("taken");
    }

    /// Waits until metrics say so.
    async fn says(&self, line: &str) {
        let told = async {
            while !self.metrics.encode().expect("text").contains(line) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let told = tokio::time::timeout(LIMIT, told).await;
        assert!(
            told.is_ok(),
            "{line} is missing in\n{}",
            self.metrics.encode().expect("text")
        );
    }
}

#[tokio::test]
async fn a_connection_that_no_flow_attributes_is_counted_and_on_record() {
    let world = World::new().await;
    let mut node = Node::start(&world);
    node.arrives(Arrival::UnattributedConnection(UnattributedConnection {
        workload: None,
        peer: "127.0.0.1:40000".parse().expect("an address"),
        local: "127.0.0.1:64320".parse().ok(),
        cause: UnattributedCause::Unknown,
    }))
    .await;
    let denied = tokio::time::timeout(LIMIT, node.denied.recv()).await;
    let denied = denied.expect("in time").expect("a record");
    assert_eq!(denied.cause().code(), "unattributed_connection");
    let line = "picket_unattributed_connections_total{cause=\"unattributed_connection\"} 1\n";
    node.says(line).await;
}

#[tokio::test]
async fn a_process_outside_its_pod_s_cgroup_is_counted_and_served_as_the_pod() {
    let world = World::new().await;
    let node = Node::start(&world);
    for outside in [false, true] {
        let (client, mut accepted) = world.accepted().await;
        accepted.process.as_mut().expect("of a pod").outside = outside;
        node.arrives(Arrival::Accepted(Box::new(accepted))).await;
        let stream = TokioIo::new(world.handshake(client, b"http/1.1").await);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.expect("HTTP");
        tokio::spawn(connection);
        let request = Request::get("/api/v1/namespaces/n/pods/x")
            .header(header::HOST, "kubernetes")
            .body(Empty::<bytes::Bytes>::new())
            .expect("a request");
        let answer = sender.send_request(request).await.expect("an answer");
        assert_eq!(answer.status(), StatusCode::OK);
        node.says(&format!("picket_cgroup_escapes_total {}\n", u8::from(outside)))
            .await;
    }
}

#[tokio::test]
async fn a_flood_is_counted() {
    let world = World::new().await;
    let node = Node::start(&world);
    let (client, accepted) = world.accepted().await;
    node.arrives(Arrival::Accepted(Box::new(accepted))).await;
    flood(world.handshake(client, b"h2").await).await;
    node.says("picket_flooded_connections_total 1\n").await;
}

#[tokio::test]
async fn what_arrived_before_the_end_is_served() {
    let world = World::new().await;
    let node = Node::start(&world);
    let (client, accepted) = world.accepted().await;
    node.arrives(Arrival::Accepted(Box::new(accepted))).await;
    node.last.cancel();
    let done = tokio::time::timeout(LIMIT, node.done.cancelled()).await;
    assert!(done.is_ok() && node.arrivals.is_closed());
    // It has its handshake, which only a connection that is served gets.
    let served = tokio::time::timeout(LIMIT, world.handshake(client, b"h2")).await;
    assert!(served.is_ok());
}

//! What one pod may have of the node: connections, tunnels, requests and frames.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use socket2::SockRef;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::sessions::exec;
use super::world::{BULK, BULK_FRAME, World, policies, target};
use crate::listener::{CONNECTIONS_PER_POD, TUNNELS_PER_POD};
use crate::session::SessionSelector;

const PODS: &str = "/api/v1/namespaces/n/pods/x";

/// Long enough for whatever is to happen on a busy machine.
const LIMIT: Duration = Duration::from_secs(20);

/// Long enough for what must not happen to be noticed.
const SETTLED: Duration = Duration::from_millis(300);

async fn until(holds: impl Fn() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LIMIT, waiting).await.expect("in time");
}

#[tokio::test]
async fn a_tunnel_counts_as_a_connection_on_both_sides_until_it_ends() {
    let world = World::new().await;
    let tunnel = exec(&world).await;
    tokio::time::sleep(SETTLED).await;
    assert_eq!(world.connections.available_permits(), CONNECTIONS_PER_POD - 1);
    assert_eq!(world.share.tunnels.available_permits(), TUNNELS_PER_POD - 1);
    assert_eq!(world.upstream.connections(), 1);
    world.sessions.kill(&SessionSelector::default(), "enough");
    tunnel.await.expect("no panic");
    until(|| world.connections.available_permits() == CONNECTIONS_PER_POD).await;
    until(|| world.upstream.connections() == 0).await;
    until(|| world.share.tunnels.available_permits() == TUNNELS_PER_POD).await;
}

#[tokio::test]
async fn a_pod_with_all_its_tunnels_gets_no_further_one_and_still_reads() {
    let world = World::new().await;
    let all = world
        .share
        .tunnels
        .clone()
        .try_acquire_many_owned(TUNNELS_PER_POD as u32);
    let all = all.expect("all are free");
    let upgrade = || {
        Request::get(target("/api/v1/namespaces/n/pods/x/exec?command=sh&stdout=1"))
            .header(header::CONNECTION, "Upgrade")
            .header(header::UPGRADE, "SPDY/3.1")
    };
    let answer = world.ask(upgrade(), "").await;
    assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(answer.headers[header::RETRY_AFTER], "1");
    assert_eq!(answer.json()["reason"], "TooManyRequests");
    let record = &world.ended(1).await[0];
    assert_eq!(record["decision"]["outcome"], "error");
    assert_eq!(world.kube_events(), [("ShareExceeded", "tunnels".to_owned())]);
    assert_eq!(
        world.ask(Request::get(target(PODS)), "").await.status,
        StatusCode::OK
    );
    drop(all);
}

#[tokio::test]
async fn a_request_beyond_its_pod_s_share_waits_for_its_turn() {
    let world = World::new().await;
    let requests = &world.share.requests;
    let all = requests
        .clone()
        .try_acquire_many_owned(requests.available_permits() as u32);
    let all = all.expect("all are free");
    let asking = world.ask(Request::get(target(PODS)), "");
    tokio::pin!(asking);
    assert!(tokio::time::timeout(SETTLED, asking.as_mut()).await.is_err());
    assert!(world.seen().is_empty());
    drop(all);
    let answer = tokio::time::timeout(LIMIT, asking).await.expect("in time");
    assert_eq!(answer.status, StatusCode::OK);
}

/// How many requests at once the next HTTP/2 connection may carry.
async fn streams(world: &World) -> usize {
    let stream = world.stream_of(b"h2").await;
    let (mut sender, mut connection) =
        http2::handshake::<_, _, Empty<Bytes>>(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .expect("HTTP/2");
    let request = Request::get(format!("https://kubernetes.default.svc{PODS}"))
        .body(Empty::new())
        .expect("a request");
    let answered = async {
        sender
            .send_request(request)
            .await
            .expect("an answer")
            .into_body()
            .collect()
            .await
    };
    tokio::select! {
        _ = &mut connection => panic!("the connection ended"),
        body = answered => drop(body.expect("a body")),
    }
    connection.current_max_send_streams()
}

#[tokio::test]
async fn connections_beyond_a_pod_s_share_carry_few_requests_at_once() {
    let world = World::new().await;
    assert_eq!(streams(&world).await, 250);
    until(|| world.connections.available_permits() == CONNECTIONS_PER_POD).await;
    let wide: Vec<_> = std::iter::from_fn(|| world.share.wide()).collect();
    assert!(!wide.is_empty());
    assert_eq!(streams(&world).await, 4);
}

/// Sends PINGs without end, until the connection is closed.
pub(super) async fn flood(mut client: TlsStream<TcpStream>) {
    client
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        .await
        .expect("sent");
    client
        .write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0])
        .await
        .expect("sent");
    let ping = [&[0, 0, 8, 6, 0, 0, 0, 0, 0][..], &[7; 8]].concat();
    let (mut reads, mut writes) = tokio::io::split(client);
    let flood = tokio::spawn(async move {
        while writes.write_all(&ping.repeat(10)).await.is_ok() {
            tokio::task::yield_now().await;
        }
    });
    let closed = async {
        let mut answers = vec![0; 1 << 16];
        while reads.read(&mut answers).await.is_ok_and(|read| read > 0) {}
    };
    let closed = tokio::time::timeout(LIMIT, closed).await;
    flood.abort();
    assert!(closed.is_ok(), "the flood goes on");
}

#[tokio::test]
async fn a_client_that_sends_control_frames_without_end_is_closed() {
    let world = World::new().await;
    flood(world.stream_of(b"h2").await).await;
    let mut events = Vec::new();
    while events.is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
        events = world.kube_events();
    }
    assert_eq!(events, [("ShareExceeded", "flood".to_owned())]);
}

#[tokio::test]
async fn a_silent_client_of_http1_is_given_up_after_two_minutes() {
    let world = World::new().await;
    let mut client = world.stream().await;
    client
        .write_all(b"GET /api/v1/pods HTTP/1.1\r\n")
        .await
        .expect("sent");
    tokio::time::pause();
    let began = tokio::time::Instant::now();
    let mut read = [0; 64];
    let closed = tokio::time::timeout(Duration::from_secs(1_000), client.read(&mut read)).await;
    assert!(closed.is_ok(), "it stays open");
    let took = began.elapsed();
    assert!(
        (Duration::from_secs(100)..Duration::from_secs(130)).contains(&took),
        "{took:?}"
    );
}

#[tokio::test]
async fn a_client_that_vanished_is_noticed_by_the_kernel() {
    let world = World::new().await;
    let (client, accepted) = world.accepted().await;
    let socket = accepted.stream.try_clone().expect("a descriptor");
    world.serve(accepted);
    let _client = world.handshake(client, b"h2").await;
    assert!(SockRef::from(&socket).keepalive().expect("an option"));
}

#[tokio::test]
async fn a_pod_whose_refusals_used_its_share_waits_with_its_next_request() {
    let world = World::new().await;
    let forbidden = || Request::delete(target(PODS));
    assert_eq!(world.ask(forbidden(), "").await.status, StatusCode::FORBIDDEN);
    // As if it had been refused for long.
    world.share.refused(64 << 20);
    let asking = world.ask(forbidden(), "");
    assert!(tokio::time::timeout(SETTLED, asking).await.is_err());
    assert_eq!(world.records().await.len(), 1);
}

#[tokio::test]
async fn a_request_has_its_place_until_its_end_and_a_refusal_is_noted() {
    let world = World::new().await;
    let places = || world.share.requests.available_permits();
    let all = places();
    let slow = world.ask(Request::get(target("/api/v1/namespaces/n/pods/x?slow=1")), "");
    let during = async {
        world.seen_are(1).await;
        places()
    };
    let (answer, during) = tokio::join!(slow, during);
    assert_eq!((answer.status, during), (StatusCode::OK, all - 1));
    until(|| places() == all).await;
    assert!(!world.share.has_refused());
    let refused = world.ask(Request::delete(target(PODS)), "").await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
    assert!(world.share.has_refused());
}

/// A list whose end does not come.
const LONG: &str = "/api/v1/namespaces/n/pods?long=1";

async fn stages(world: &World) -> Vec<String> {
    let records = world.records().await;
    let stage = |record: &serde_json::Value| record["stage"].as_str().unwrap_or_default().to_owned();
    records.iter().map(stage).collect()
}

#[tokio::test]
async fn a_read_that_goes_on_is_noted_once_and_ends_with_its_permission() {
    let world = World::new().await;
    let mut sender = world.connect().await;
    let request = Request::get(target(LONG))
        .header(header::HOST, "kubernetes.default.svc")
        .body(http_body_util::Full::new(Bytes::new()))
        .expect("a request");
    let mut body = sender.send_request(request).await.expect("an answer").into_body();
    body.frame().await.expect("a frame").expect("data");
    // The client waits for the API server, and so does not stand still.
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(world.pipeline.watched.stalled(Duration::from_millis(10)), 0);
    // Young ones are left alone.
    world.pipeline.check_bodies(LIMIT);
    assert!(stages(&world).await.is_empty());
    world.pipeline.check_bodies(Duration::ZERO);
    world.pipeline.check_bodies(Duration::ZERO);
    assert_eq!(stages(&world).await, ["ResponseStarted"]);
    world
        .store
        .replace_for_tests(policies("owner: team-a", "owner: team-a, state: Suspended"));
    world.sessions.sweep(std::time::Instant::now());
    world.pipeline.check_bodies(Duration::ZERO);
    assert!(
        body.frame().await.is_none_or(|frame| frame.is_err()),
        "it breaks off"
    );
    assert_eq!(world.ended(1).await.len(), 1);
}

/// An HTTP/2 client that lets nothing of an answer's body come.
async fn that_takes_nothing(world: &World) -> http2::SendRequest<Empty<Bytes>> {
    let stream = TokioIo::new(world.stream_of(b"h2").await);
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(0)
        .handshake::<_, Empty<Bytes>>(stream)
        .await
        .expect("HTTP/2");
    tokio::spawn(connection);
    sender
}

/// Asks for so many answers with this query over one HTTP/2 connection, and lets nothing of them come.
async fn ask_and_take_nothing(world: &World, count: usize, query: &str) -> Vec<hyper::body::Incoming> {
    let sender = that_takes_nothing(world).await;
    let mut bodies = Vec::new();
    for _ in 0..count {
        let uri = format!("https://kubernetes.default.svc/api/v1/namespaces/n/pods?{query}");
        let request = Request::get(uri).body(Empty::new()).expect("a request");
        let answer = sender.clone().send_request(request).await;
        bodies.push(answer.expect("an answer").into_body());
    }
    bodies
}

#[tokio::test]
async fn lists_that_nobody_takes_hold_so_much_of_the_node_s_memory_and_another_pod_s_goes_on() {
    const LARGE: usize = 64;
    const ALL: usize = 200;
    let world = World::new().await;
    let unread = ask_and_take_nothing(&world, ALL, "bulk=1").await;
    // Each has its window's worth, and what the API server holds ready.
    let most = LARGE * 256 * 1024 + (ALL - LARGE) * 16 * 1024 + ALL * 2 * BULK_FRAME;
    until(|| world.bulk() > most - ALL * 2 * BULK_FRAME).await;
    tokio::time::sleep(SETTLED).await;
    assert!(world.bulk() <= most, "{} of {most} bytes", world.bulk());
    // Another pod's list comes whole over the same connections.
    let (client, mut accepted) = world.accepted().await;
    accepted.share = std::sync::Arc::default();
    world.serve(accepted);
    let stream = TokioIo::new(world.handshake(client, b"http/1.1").await);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.expect("HTTP");
    tokio::spawn(connection);
    let request =
        Request::get("/api/v1/namespaces/n/pods?bulk=1").header(header::HOST, "kubernetes.default.svc");
    let request = request.body(Empty::<Bytes>::new()).expect("a request");
    let answer = sender.send_request(request).await.expect("an answer");
    let whole = tokio::time::timeout(LIMIT, answer.into_body().collect()).await;
    assert_eq!(whole.expect("in time").expect("a body").to_bytes().len(), BULK);
    // And the pod's own windows are free again once its clients have gone.
    drop(unread);
    until(|| {
        (0..=LARGE)
            .map_while(|_| world.share.large_window(false))
            .collect::<Vec<_>>()
            .len()
            == LARGE
    })
    .await;
}

#[tokio::test]
async fn watches_leave_large_windows_to_lists() {
    let world = World::new().await;
    let watches = ask_and_take_nothing(&world, 100, "watch=true").await;
    assert!(world.share.large_window(true).is_none());
    let unread = ask_and_take_nothing(&world, 1, "bulk=1").await;
    until(|| world.bulk() >= 256 * 1024).await;
    drop((watches, unread));
}

#[tokio::test]
async fn of_the_responses_that_nobody_takes_a_pod_keeps_so_many() {
    let world = World::new().await;
    let sender = that_takes_nothing(&world).await;
    let mut bodies = Vec::new();
    for _ in 0..131 {
        let request = Request::get(format!("https://kubernetes.default.svc{LONG}"));
        let request = request.body(Empty::new()).expect("a request");
        bodies.push(
            sender
                .clone()
                .send_request(request)
                .await
                .expect("an answer")
                .into_body(),
        );
    }
    until(|| world.pipeline.watched.stalled(Duration::from_millis(1)) == 131).await;
    world.pipeline.check_bodies(Duration::from_millis(1));
    // Their connections have not let them go yet.
    world.pipeline.check_bodies(Duration::from_millis(1));
    let ended = world.ended(3).await;
    assert_eq!(ended.len(), 3, "the first three");
    world.pipeline.check_bodies(Duration::from_millis(1));
    assert_eq!(world.ended(3).await.len(), 3, "the others are within the share");
}

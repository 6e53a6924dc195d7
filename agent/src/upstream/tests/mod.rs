//! What becomes of a request that the API server did not take: sent again where that is certain, and told otherwise.

pub(super) mod client;
mod server;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use http::{Method, Request, Version};
use http_body_util::BodyExt as _;
use socket2::SockRef;
use tokio::io::AsyncWriteExt as _;

use super::credential::ConnectionIdentity;
use super::outgoing::Outgoing;
use super::pool::PodKey;
use super::replay::{KEPT_PER_REQUEST, Replay, ReplayBudget};
use super::{RequestBody, SendError, retry};
use client::{listening, received};
use server::{Does, Got, Server};

/// Long enough for pieces of any size that a test sends.
const LIMIT: Duration = Duration::from_secs(20);

async fn send(server: &Server, method: Method, body: RequestBody) -> Result<u16, SendError> {
    send_within(server, method, body, &ReplayBudget::default()).await
}

async fn send_within(
    server: &Server,
    method: Method,
    body: RequestBody,
    budget: &ReplayBudget,
) -> Result<u16, SendError> {
    let request = Request::builder()
        .method(method)
        .uri("/api/v1/namespaces/n/configmaps");
    let (head, ()) = request.body(()).expect("a request").into_parts();
    let mut used = None;
    let sending = retry::send(
        &server.pool,
        PodKey(0),
        Outgoing::new(head),
        Replay::new(body, budget),
        &mut used,
    );
    let response = tokio::time::timeout(LIMIT, sending).await.expect("in time")?;
    Ok(response.status().as_u16())
}

/// A server whose first connections do this with a whole request, and whose further ones answer it.
async fn at_first(connections: usize, does: Does) -> Server {
    Server::http2(move |got: &Got| match got {
        got if !got.whole => Does::Nothing,
        got if got.connection < connections => does,
        _ => Does::Answer,
    })
    .await
}

fn got(connection: usize, stream: u32, body: &[u8]) -> Got {
    Got {
        connection,
        stream,
        body: body.to_vec(),
        trailers: false,
        whole: true,
    }
}

/// A stream above the GOAWAY's last one was not looked at, whatever was to be done.
#[tokio::test]
async fn a_goaway_below_the_stream_has_it_sent_again_byte_for_byte() {
    for method in [
        Method::POST,
        Method::PUT,
        Method::PATCH,
        Method::DELETE,
        Method::GET,
    ] {
        let server = at_first(1, Does::GoAway { last: 0 }).await;
        let body = received(&["abc", "defgh", "i"], None).await;
        assert_eq!(send(&server, method, body).await.expect("sent"), 200);
        assert_eq!(server.got(), [got(0, 1, b"abcdefghi"), got(1, 1, b"abcdefghi")]);
    }
    // Without a body there is nothing to keep.
    let server = at_first(1, Does::GoAway { last: 0 }).await;
    assert_eq!(
        send(&server, Method::DELETE, RequestBody::Empty)
            .await
            .expect("sent"),
        200
    );
    assert_eq!(server.got(), [got(0, 1, b""), got(1, 1, b"")]);
}

/// A trailer could name a user, as a header could.
#[tokio::test]
async fn the_client_s_rest_comes_with_the_second_try_and_its_trailers_with_none() {
    // Refused at its head, when the body has not been read to its end.
    let server = Server::http2(|got: &Got| match got {
        got if got.connection == 0 => Does::GoAway { last: 0 },
        got if got.whole => Does::Answer,
        _ => Does::Nothing,
    })
    .await;
    let body = received(&["abc", "def", "trailer:1"], None).await;
    assert_eq!(send(&server, Method::POST, body).await.expect("sent"), 200);
    assert_eq!(server.got().pop().expect("a request"), got(1, 1, b"abcdef"));

    let server = at_first(1, Does::GoAway { last: 0 }).await;
    let body = received(&["abc", "trailer:1"], None).await;
    assert_eq!(send(&server, Method::POST, body).await.expect("sent"), 200);
    assert_eq!(server.got(), [got(0, 1, b"abc"), got(1, 1, b"abc")]);
}

#[tokio::test]
async fn a_refused_stream_is_sent_again_over_the_same_connection() {
    let server = Server::http2(|got: &Got| match got {
        got if !got.whole => Does::Nothing,
        got if got.stream == 1 => Does::Refuse,
        _ => Does::Answer,
    })
    .await;
    let body = received(&["abc"], Some(3)).await;
    assert_eq!(send(&server, Method::POST, body).await.expect("sent"), 200);
    assert_eq!(server.got(), [got(0, 1, b"abc"), got(0, 3, b"abc")]);
}

/// At or below the last one of a GOAWAY, a stream goes on.
#[tokio::test]
async fn a_goaway_above_the_stream_changes_nothing_for_it() {
    let last_words = |does: Does| {
        move |got: &Got| match got {
            got if got.whole => does,
            got if got.body.is_empty() => Does::GoAway { last: 1 },
            _ => Does::Nothing,
        }
    };
    let server = Server::http2(last_words(Does::Answer)).await;
    let body = received(&["abc"], Some(3)).await;
    assert_eq!(send(&server, Method::POST, body).await.expect("sent"), 200);
    assert_eq!(server.got(), [got(0, 1, b"abc")]);
    // It may have been carried out before the connection broke.
    let server = Server::http2(last_words(Does::Close)).await;
    let body = received(&["abc"], Some(3)).await;
    let error = send(&server, Method::POST, body).await.expect_err("broken");
    assert!(matches!(error, SendError::Broken(_)), "{error}");
    assert_eq!(server.got(), [got(0, 1, b"abc")]);
}

#[tokio::test]
async fn a_write_whose_connection_broke_is_sent_once_and_a_read_is_repeated() {
    let server = at_first(1, Does::Close).await;
    for body in [RequestBody::Empty, received(&["abc"], Some(3)).await] {
        let server = at_first(1, Does::Close).await;
        let error = send(&server, Method::DELETE, body).await.expect_err("broken");
        assert!(matches!(error, SendError::Broken(_)), "{error}");
        assert_eq!(server.got().len(), 1);
    }
    assert_eq!(
        send(&server, Method::GET, RequestBody::Empty)
            .await
            .expect("sent"),
        200
    );
    let server = at_first(9, Does::Close).await;
    let error = send(&server, Method::GET, RequestBody::Empty)
        .await
        .expect_err("broken");
    assert!(matches!(error, SendError::Interrupted(_)), "{error}");
    assert_eq!(server.got().len(), 2);
}

/// Over a connection of its own, as for a target that is longer than a URI.
#[tokio::test]
async fn only_what_changes_nothing_is_said_to_have_changed_nothing_where_its_own_connection_broke() {
    for (method, upgrade, code) in [
        (Method::GET, false, "upstream_interrupted"),
        (Method::DELETE, false, "upstream_broken"),
        // An exec.
        (Method::GET, true, "upstream_broken"),
    ] {
        let server = Server::http1(|_| Does::Close).await;
        let request = Request::builder().method(&method).uri("/api/v1/pods");
        let (head, ()) = request.body(()).expect("a request").into_parts();
        let (outgoing, kind) = (Outgoing::new(head), (None, upgrade));
        let sent = super::send_own(&server.pool, outgoing, RequestBody::Empty, kind, &mut None).await;
        let error = sent.map(drop).expect_err("broken");
        assert_eq!(error.code(), code, "{method} {upgrade}: {error}");
    }
}

#[tokio::test]
async fn a_server_that_takes_nothing_is_asked_a_few_times_only() {
    for does in [Does::GoAway { last: 0 }, Does::Refuse] {
        let server = at_first(usize::MAX, does).await;
        let began = Instant::now();
        let error = send(&server, Method::POST, received(&["abc"], Some(3)).await)
            .await
            .expect_err("not taken");
        assert!(matches!(error, SendError::NotTaken(_)), "{error}");
        let tries = server.got().len();
        assert!((2..=7).contains(&tries), "{tries} tries");
        // The second retry waits for 10 ms, and each further one twice as long.
        let paused = Duration::from_millis((1 << tries.saturating_sub(2)) * 10 - 10);
        assert!(began.elapsed() >= paused, "{:?}", began.elapsed());
    }
}

#[tokio::test]
async fn a_large_body_is_sent_once_and_said_to_be_not_taken() {
    let large: &'static str = "x".repeat(KEPT_PER_REQUEST + 1).leak();
    let server = at_first(1, Does::GoAway { last: 0 }).await;
    let body = received(Box::leak(Box::new([large])), None).await;
    let error = send(&server, Method::POST, body).await.expect_err("not taken");
    assert!(matches!(error, SendError::NotTaken(_)), "{error}");
    assert_eq!(server.got().len(), 1);

    // As large as it may be.
    let server = at_first(1, Does::GoAway { last: 0 }).await;
    let body = received(Box::leak(Box::new([&large[1..]])), None).await;
    assert_eq!(send(&server, Method::POST, body).await.expect("sent"), 200);
    assert!(server.got().iter().all(|got| got.body == large.as_bytes()[1..]));
}

#[tokio::test]
async fn the_node_keeps_so_much_and_gets_it_back() {
    let budget = ReplayBudget::with(5);
    let server = at_first(1, Does::GoAway { last: 0 }).await;
    let body = received(&["abc", "def"], None).await;
    let error = send_within(&server, Method::POST, body, &budget)
        .await
        .expect_err("not kept");
    assert!(matches!(error, SendError::NotTaken(_)), "{error}");
    for _ in 0..2 {
        let server = at_first(1, Does::GoAway { last: 0 }).await;
        let body = received(&["abc", "de"], None).await;
        assert_eq!(
            send_within(&server, Method::POST, body, &budget)
                .await
                .expect("sent"),
            200
        );
    }
    assert_eq!(budget.left(), 5);
}

#[tokio::test]
async fn every_connection_is_one_on_which_the_kernel_looks_after_the_server() {
    let (http1, http2) = (
        Server::http1(|_| Does::Answer).await,
        at_first(0, Does::Answer).await,
    );
    for (server, upgradable) in [(http1, true), (http2, false)] {
        let session = server
            .pool
            .connector()
            .connect(ConnectionIdentity::Node, upgradable)
            .await
            .expect("a session");
        let socket = SockRef::from(session.stream.get_ref().0);
        assert!(socket.keepalive().expect("an option"));
        assert!(socket.tcp_user_timeout().expect("an option").is_some());
    }
}

#[tokio::test]
async fn a_try_that_is_superseded_gets_no_more_of_the_body() {
    let replay = Replay::new(received(&["abc", "def"], None).await, &ReplayBudget::default());
    let mut first = replay.first();
    assert!(first.frame().await.expect("a frame").is_ok());
    let second = replay.again().expect("all of it is kept");
    let error = first
        .frame()
        .await
        .expect("a frame")
        .expect_err("another try has it");
    assert!(error.to_string().contains("sent again"), "{error}");
    let whole = second.collect().await.expect("a body").to_bytes();
    assert_eq!(whole, "abcdef");
}

#[tokio::test]
async fn what_is_kept_is_given_back_with_the_answer_though_the_body_still_is_there() {
    let budget = ReplayBudget::with(100);
    let replay = Replay::new(received(&["abc", "def"], None).await, &budget);
    let mut body = replay.first();
    assert!(body.frame().await.expect("a frame").is_ok());
    assert!(budget.left() < 100);
    drop(replay);
    assert_eq!(budget.left(), 100);
    assert!(body.collect().await.is_ok(), "the rest goes on");
}

#[tokio::test]
async fn half_a_body_is_not_sent_again() {
    let (mut client, mut bodies) = listening();
    client
        .write_all(b"POST / HTTP/1.1\r\ncontent-length: 9\r\n\r\nabc")
        .await
        .expect("sent");
    let (body, loss) = RequestBody::of_client(bodies.recv().await.expect("a body"), Version::HTTP_11);
    let replay = Replay::new(body, &ReplayBudget::default());
    let mut first = replay.first();
    assert!(first.frame().await.expect("a frame").is_ok());
    drop(client);
    assert!(first.frame().await.expect("a frame").is_err() && loss.is_lost());
    assert!(replay.again().is_none());
}

#[tokio::test]
async fn a_request_that_was_not_permitted_once_is_not_sent_again_where_it_is_later() {
    let permitted = Arc::new(AtomicUsize::new(1));
    let asked = Arc::clone(&permitted);
    let body = received(&["abc"], Some(3)).await;
    let body = body.guarded(Arc::new(move || asked.load(Ordering::Relaxed) == 1));
    let replay = Replay::new(body, &ReplayBudget::default());
    let mut first = replay.first();
    permitted.store(0, Ordering::Relaxed);
    assert!(first.frame().await.expect("a frame").is_err());
    permitted.store(1, Ordering::Relaxed);
    assert!(replay.again().is_none(), "what was read of it may be incomplete");
}

#[tokio::test]
async fn a_request_that_is_no_longer_permitted_is_not_sent_again() {
    for body in [RequestBody::Empty, received(&["abc"], Some(3)).await] {
        let server = at_first(1, Does::GoAway { last: 0 }).await;
        let asked = Arc::new(AtomicUsize::new(0));
        let (count, empty) = (Arc::clone(&asked), matches!(body, RequestBody::Empty));
        // Permitted while it is sent for the first time: before its head, and a body with its frame.
        let first = 1 + usize::from(!empty);
        let body = body.guarded(Arc::new(move || count.fetch_add(1, Ordering::Relaxed) < first));
        let error = send(&server, Method::DELETE, body).await.expect_err("refused");
        assert!(matches!(error, SendError::NotTaken(_)), "{error}");
        assert_eq!((server.got().len(), server.connections()), (1, 1));
        assert_eq!(asked.load(Ordering::Relaxed), first + 1);
    }
}

#[tokio::test]
async fn what_is_no_longer_permitted_is_not_sent_over_either_version() {
    for version in ["h2", "http/1.1"] {
        let answers = |got: &Got| match got.whole {
            true => Does::Answer,
            false => Does::Nothing,
        };
        let server = match version {
            "h2" => Server::http2(answers).await,
            _ => Server::http1(answers).await,
        };
        for body in [RequestBody::Empty, received(&["abc"], Some(3)).await] {
            let error = send(&server, Method::POST, body.guarded(Arc::new(|| false)))
                .await
                .expect_err("refused");
            assert!(matches!(error, SendError::NoLongerPermitted), "{error}");
        }
        let body = RequestBody::Empty.guarded(Arc::new(|| true));
        assert_eq!(send(&server, Method::POST, body).await.expect("sent"), 200);
        assert_eq!(server.got().len(), 1, "{version}: {:?}", server.got());
    }
}

#[tokio::test]
async fn a_body_is_judged_again_with_each_frame_of_each_try() {
    let server = at_first(1, Does::GoAway { last: 0 }).await;
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    // The first head and frame, the second try and its head, and not its frame.
    let permitted = Arc::new(move || count.fetch_add(1, Ordering::Relaxed) < 4);
    let body = received(&["abc"], Some(3)).await.guarded(permitted);
    send(&server, Method::POST, body).await.expect_err("refused");
    assert_eq!(server.got(), [got(0, 1, b"abc")]);
}

/// Between requests a server may close: what follows goes over a new connection, whatever it is.
#[tokio::test]
async fn a_server_that_closes_gracefully_over_http1_costs_nothing() {
    let server = Server::http1(|got: &Got| match got.body.is_empty() {
        // A read, and the connection is closed with no answer to the second one.
        true if got.connection == 0 => Does::Close,
        _ => Does::Answer,
    })
    .await;
    let post = || received(&["abc"], Some(3));
    assert_eq!(
        send(&server, Method::POST, post().await).await.expect("sent"),
        200
    );
    assert_eq!(
        send(&server, Method::GET, RequestBody::Empty)
            .await
            .expect("sent"),
        200
    );
    assert_eq!(
        send(&server, Method::POST, post().await).await.expect("sent"),
        200
    );
    let over: Vec<_> = server
        .got()
        .into_iter()
        .map(|got| (got.connection, got.body.len()))
        .collect();
    assert_eq!(over, [(0, 3), (0, 0), (1, 0), (1, 3)]);

    let server = Server::http1(|_: &Got| Does::Close).await;
    let error = send(&server, Method::POST, post().await)
        .await
        .expect_err("broken");
    assert!(matches!(error, SendError::Broken(_)), "{error}");
    assert_eq!(server.got().len(), 1);
}

/// How many requests each of eight clients makes.
const MEETINGS: usize = 40;

/// Requests and the ends of their connections meet all the time: each request ends all the same.
#[tokio::test]
async fn no_request_is_lost_where_a_connection_ends() {
    let server = Server::http2(|got: &Got| match got.stream {
        stream if !got.whole || stream > 5 => Does::Nothing,
        5 => Does::GoAway { last: 3 },
        _ => Does::Answer,
    })
    .await;
    let server = Arc::new(server);
    let mut sending = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let server = Arc::clone(&server);
        sending.spawn(async move {
            for _ in 0..MEETINGS {
                // So many at once that a try may meet seven ends in a row.
                let _taken = send(&server, Method::DELETE, RequestBody::Empty).await;
            }
        });
    }
    while let Some(done) = sending.join_next().await {
        done.expect("each request ends");
    }
}

/// A crowd's connections open side by side: nobody waits for one handshake after another.
#[tokio::test]
async fn a_crowd_s_connections_open_side_by_side() {
    let server = Server::http2(|_: &Got| Does::Nothing).await;
    server.greets_after(Duration::from_secs(2));
    let began = Instant::now();
    let mut leases = tokio::task::JoinSet::new();
    for _ in 0..400 {
        let pool = Arc::clone(&server.pool);
        leases.spawn(async move { pool.lease(PodKey(1)).await });
    }
    let leases = leases.join_all().await;
    assert!(leases.iter().all(Result::is_ok));
    assert_eq!(server.connections(), 4);
    assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
}

/// A stream that comes free goes to who waits, another pod's request before a crowd's further ones.
#[tokio::test]
async fn a_stream_that_comes_free_goes_to_another_pod_first() {
    let server = Server::http2(|_: &Got| Does::Nothing).await;
    let pool = &server.pool;
    let mut taken = Vec::new();
    for _ in 0..super::STREAMS_PER_CONNECTION {
        taken.push(pool.lease(PodKey(1)).await.expect("a stream"));
    }
    // No further connection gets through its handshake.
    server.greets_after(LIMIT * 2);
    let ask = |pod| {
        let pool = Arc::clone(pool);
        tokio::spawn(async move { pool.lease(PodKey(pod)).await })
    };
    let crowd: Vec<_> = (0..50).map(|_| ask(1)).collect();
    tokio::task::yield_now().await;
    let other = ask(2);
    tokio::task::yield_now().await;
    taken.truncate(super::STREAMS_PER_CONNECTION - 2);
    let lease = tokio::time::timeout(Duration::from_secs(5), other).await;
    assert!(lease.expect("in time").expect("no panic").is_ok());
    assert!(crowd.iter().filter(|task| task.is_finished()).count() <= 1);
}

/// Over HTTP/1.1 a connection whose request was answered before its body had come serves nobody else.
#[tokio::test]
async fn a_connection_with_an_unfinished_body_serves_nobody_else() {
    let server = Server::http1(|got: &Got| match got.whole {
        _ if got.connection == 0 => Does::AnswerEarly,
        true => Does::Answer,
        false => Does::Nothing,
    })
    .await;
    let (mut near, mut bodies) = listening();
    let half = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nabc";
    near.write_all(half).await.expect("sent");
    let body = bodies.recv().await.expect("a body");
    let (body, _loss) = RequestBody::of_client(body, Version::HTTP_11);
    let request = Request::builder().method(Method::POST).uri("/api/v1/pods");
    let (head, ()) = request.body(()).expect("a request").into_parts();
    let replay = Replay::new(body, &ReplayBudget::default());
    let mut used = None;
    let sending = retry::send(&server.pool, PodKey(1), Outgoing::new(head), replay, &mut used);
    let early = sending.await.expect("an answer");
    // Its end gives the connection back, while the client still has two bytes to send.
    drop(early.into_body().collect().await);
    let second = send(&server, Method::GET, RequestBody::Empty).await;
    assert_eq!(second.expect("sent"), 200);
    assert_eq!(server.connections(), 2);
    drop(near);
}

/// Were all connections theirs, nobody else could send: no stream of theirs is for a response with a large window.
#[tokio::test]
async fn pods_with_many_responses_leave_connections_to_the_others() {
    let server = Server::http2(|_: &Got| Does::Answer).await;
    let mut held = Vec::new();
    for number in 0..16_000 {
        // Each pod has as many as one may have.
        let lease = tokio::time::timeout(LIMIT, server.small.lease(PodKey(number / 8192))).await;
        held.push(lease.expect("in time").expect("a stream"));
    }
    let further = tokio::time::timeout(LIMIT, server.small.lease(PodKey(2))).await;
    assert!(matches!(further.expect("in time"), Err(SendError::Exhausted)));
    let other = tokio::time::timeout(LIMIT, server.pool.lease(PodKey(99))).await;
    assert!(other.expect("in time").is_ok());
}

//! Sessions through the whole pipeline: what runs ends with what permitted it, and its client is told.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::{StreamExt as _, stream};
use http::{Request, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use picket_policy::PolicySet;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinHandle;

use super::world::{World, policies, target};
use crate::session::{self, SessionSelector};
use crate::workload::PodChanges;

/// A watch event as the API server writes it.
const EVENT: &str = "{\"type\":\"ADDED\",\"object\":{}}\n";

/// Events of which the second and third are about objects, one of them in namespace `pay`.
const EVENTS: &str = concat!(
    "{\"type\":\"BOOKMARK\",\"object\":{\"metadata\":{\"resourceVersion\":\"1\"}}}\n",
    "{\"type\":\"ADDED\",\"object\":{\"metadata\":{\"name\":\"b\",\"namespace\":\"pay\"},\"spec\":\"hush\"}}\n",
    "{\"type\":\"ADDED\",\"object\":{\"metadata\":{\"name\":\"a\",\"namespace\":\"shop\"}}}\n",
);

/// An event about an object without a name.
const NAMELESS: &str =
    "{\"type\":\"ADDED\",\"object\":{\"metadata\":{\"namespace\":\"pay\"},\"spec\":\"hush\"}}\n";

/// An unmasked WebSocket frame: `ok` on channel 1.
const FRAME: &[u8] = &[0x82, 3, 1, b'o', b'k'];

/// More than a client's kernel takes while the client does not read: empty frames.
const MUCH: usize = 1 << 20;

/// Another: `no` on channel 1, and the end.
const LAST_FRAME: &[u8] = &[0x82, 3, 1, b'n', b'o', 0x88, 0];

pub(super) const WATCH: &str = "/api/v1/namespaces/n/pods?watch=true";
const LOG: &str = "/api/v1/namespaces/n/pods/x/log?follow=true";
/// An exec whose command ends while its client still types.
const HEAD: &str = "/api/v1/namespaces/n/pods/x/exec?command=head&stdin=true&stdout=true";
const EXEC: &str = "/api/v1/namespaces/n/pods/x/exec?command=sh&stdout=true";

/// The goal from a change to the closed stream is 100 ms; a machine that runs many tests at once gets more.
const LIMIT: Duration = Duration::from_secs(10);

/// What the API server answers: a first message, and then nothing for as long as it is listened to. A watch from
/// resource version `late` is answered late.
pub(super) async fn begin(mut request: Request<Incoming>) -> Response<BoxBody<Bytes, Infallible>> {
    let query = request.uri().query().unwrap_or_default().to_owned();
    if request.uri().path().ends_with("/exec") {
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let Ok(upgraded) = upgrade.await else { return };
            let mut stream = TokioIo::new(upgraded);
            let _sent = stream.write_all(FRAME).await;
            let _read = stream.read(&mut [0; 16]).await;
            if query.contains("command=head") {
                let _sent = stream.write_all(&vec![0; MUCH]).await;
                let _sent = stream.write_all(LAST_FRAME).await;
                let _told = stream.shutdown().await;
                let mut unread = [0; 4096];
                while stream.read(&mut unread).await.is_ok_and(|read| read > 0) {}
            }
        });
        return Response::builder()
            .status(StatusCode::SWITCHING_PROTOCOLS)
            .header(header::CONNECTION, "Upgrade")
            .header(header::UPGRADE, "websocket")
            .header(header::SEC_WEBSOCKET_PROTOCOL, "v5.channel.k8s.io")
            .body(Empty::new().boxed())
            .expect("a response");
    }
    if query.contains("resourceVersion=late") {
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    let event = match query.split_once("items=") {
        Some((_, "events")) => EVENTS,
        Some(_) => NAMELESS,
        None => EVENT,
    };
    let first = stream::iter([Ok(Frame::data(Bytes::from_static(event.as_bytes())))]);
    let body = StreamBody::new(first.chain(stream::pending()));
    Response::builder()
        .header(header::CONTENT_TYPE, "application/json")
        .body(BodyExt::boxed(body))
        .expect("a response")
}

/// What a client saw: all that came after the first message, whether the stream ended in order, and when.
pub(super) struct Seen {
    pub(super) rest: Vec<u8>,
    in_order: bool,
    at: Instant,
}

/// Opens a watch or a log and takes its first message; what follows comes with the end.
async fn follow(world: &World, path: &'static str) -> JoinHandle<Seen> {
    let request = Request::get(target(path)).header(header::HOST, "kubernetes.default.svc");
    follow_as(world, request).await
}

/// A watch by this token.
pub(super) async fn watch(world: &World, token: &str) -> JoinHandle<Seen> {
    let request = Request::get(target(WATCH))
        .header(header::HOST, "kubernetes.default.svc")
        .header(header::AUTHORIZATION, format!("Bearer {token}"));
    follow_as(world, request).await
}

/// Likewise, by this request.
pub(super) async fn follow_as(world: &World, request: http::request::Builder) -> JoinHandle<Seen> {
    let mut sender = world.connect().await;
    let request = request.body(Full::new(Bytes::new())).expect("a request");
    let mut body = sender.send_request(request).await.expect("an answer").into_body();
    let first = body
        .frame()
        .await
        .expect("a frame")
        .expect("data")
        .into_data()
        .expect("data");
    assert!(first.starts_with(b"{\"type\":"), "{first:?}");
    tokio::spawn(async move {
        let _open = sender;
        let mut rest = Vec::new();
        loop {
            match body.frame().await {
                Some(Ok(frame)) => rest.extend_from_slice(&frame.into_data().expect("data")),
                end => {
                    return Seen {
                        rest,
                        in_order: end.is_none(),
                        at: Instant::now(),
                    };
                }
            }
        }
    })
}

/// Likewise, an exec over a WebSocket.
pub(super) async fn exec(world: &World) -> JoinHandle<Seen> {
    let mut stream = upgraded(world, EXEC).await;
    tokio::spawn(async move {
        let mut rest = Vec::new();
        let read = stream.read_to_end(&mut rest).await;
        Seen {
            rest,
            in_order: read.is_ok(),
            at: Instant::now(),
        }
    })
}

/// The client's end of an exec that has sent its first frame.
async fn upgraded(world: &World, path: &'static str) -> TokioIo<Upgraded> {
    let mut sender = world.connect().await;
    let request = Request::get(target(path))
        .header(header::HOST, "kubernetes.default.svc")
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
        .header(header::SEC_WEBSOCKET_PROTOCOL, "v5.channel.k8s.io")
        .body(Full::new(Bytes::new()))
        .expect("a request");
    let response = sender.send_request(request).await.expect("an answer");
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    let mut stream = TokioIo::new(hyper::upgrade::on(response).await.expect("upgraded"));
    let mut first = [0; FRAME.len()];
    stream.read_exact(&mut first).await.expect("a frame");
    assert_eq!(first, FRAME);
    stream
}

pub(super) async fn end(running: JoinHandle<Seen>, changed: Instant, kind: &str) -> Seen {
    // The change may be one that comes.
    let limit = LIMIT + changed.saturating_duration_since(Instant::now());
    let seen = tokio::time::timeout(limit, running).await;
    let seen = seen
        .unwrap_or_else(|_| panic!("the {kind} goes on"))
        .expect("no panic");
    println!("{kind}: closed {:?} after the change", seen.at - changed);
    seen
}

/// Has sessions judged again, as the agent does.
pub(super) fn rejudging(world: &World) -> PodChanges {
    let pods = PodChanges::default();
    let changes = world.store.changes();
    tokio::spawn(session::rejudge(world.sessions.clone(), changes, pods.clone()));
    pods
}

/// The records that sessions ended with: what was asked, how they ended and why.
pub(super) async fn ends(world: &World) -> Vec<[String; 3]> {
    let text = |record: &Value, at: &str| {
        record
            .pointer(at)
            .and_then(Value::as_str)
            .unwrap_or("-")
            .to_owned()
    };
    let records = world.records().await;
    let ended = records
        .iter()
        .filter(|record| record["stage"] == "ResponseComplete");
    let mut ends: Vec<_> = ended
        .map(|record| {
            ["/session/protocol", "/session/endReason", "/session/endCause"].map(|at| text(record, at))
        })
        .collect();
    ends.sort();
    ends
}

/// The records of this stage.
fn of_stage(records: &[Value], stage: &str) -> Vec<Value> {
    let of_stage = records.iter().filter(|record| record["stage"] == stage);
    of_stage.cloned().collect()
}

#[tokio::test]
async fn a_session_is_on_record_before_its_client_gets_a_byte() {
    let world = World::new().await;
    let _watch = follow(&world, WATCH).await;
    let _exec = exec(&world).await;
    let started = of_stage(&world.records().await, "ResponseStarted");
    let mut verbs: Vec<_> = started
        .iter()
        .map(|record| (&record["verb"], &record["session"]["protocol"]))
        .map(|(verb, protocol)| format!("{verb} {protocol}"))
        .collect();
    verbs.sort();
    assert_eq!(verbs, ["\"get\" \"websocket\"", "\"watch\" \"watch\""]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_still_types_gets_what_a_command_said_last() {
    let world = World::new().await;
    let (mut reads, mut writes) = tokio::io::split(upgraded(&world, HEAD).await);
    // Until the connection is closed.
    let typing = tokio::spawn(async move { while writes.write_all(&[7; 64 * 1024]).await.is_ok() {} });
    // Longer than a connection of requests would be waited for.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut rest = Vec::new();
    let read = reads.read_to_end(&mut rest).await;
    assert_eq!(
        (rest.len(), read.ok()),
        (MUCH + LAST_FRAME.len(), Some(rest.len()))
    );
    assert!(rest.ends_with(LAST_FRAME));
    typing.abort();
    drop(reads);
    let ended = of_stage(&world.ended(1).await, "ResponseComplete");
    assert_eq!(ended[0]["session"]["endReason"], "completed", "{:#}", ended[0]);
}

#[tokio::test]
async fn an_upgraded_stream_that_ends_with_the_agent_leaves_its_numbers() {
    let world = World::new().await;
    let _exec = exec(&world).await;
    assert!(world.pipeline.drain.drain(Duration::from_millis(10)).await > 0);
    let ended = of_stage(&world.ended(1).await, "ResponseComplete");
    let session = &ended[0]["session"];
    assert_eq!(session["endReason"], "terminated", "{session}");
    assert_eq!(session["bytes"]["toClient"], FRAME.len(), "{session}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_suspension_ends_what_runs_and_each_client_is_told_as_its_protocol_has_it() {
    let world = World::new().await;
    let _pods = rejudging(&world);
    let (watch, log, exec) = (
        follow(&world, WATCH).await,
        follow(&world, LOG).await,
        exec(&world).await,
    );
    assert_eq!(world.sessions.list(&SessionSelector::default()).len(), 3);
    // A change that takes nothing away ends nothing.
    world
        .store
        .replace_for_tests(policies("message: Ask SRE.", "message: Ask them."));
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(world.sessions.count(), 3);

    let changed = Instant::now();
    world
        .store
        .replace_for_tests(policies("owner: team-a", "owner: team-a, state: Suspended"));
    let seen = end(watch, changed, "watch").await;
    assert!(seen.in_order, "a whole body");
    let event: Value = serde_json::from_slice(&seen.rest).expect("one event");
    assert_eq!(
        (&event["type"], &event["object"]["code"]),
        (&"ERROR".into(), &403.into())
    );
    let message = event["object"]["message"].as_str().expect("a message");
    assert!(message.contains("agent fixer is suspended"), "{message}");
    let seen = end(log, changed, "log").await;
    assert!(!seen.in_order && seen.rest.is_empty(), "a log breaks off");
    let seen = end(exec, changed, "exec").await;
    let text = String::from_utf8_lossy(&seen.rest);
    assert!(
        text.contains("\"Forbidden\"") && text.contains("agent fixer is suspended"),
        "{text}"
    );
    assert_eq!(world.sessions.count(), 0);
    // An upgraded stream's record has the last word's bytes, so it comes after the close.
    while ends(&world).await.len() < 3 {
        assert!(changed.elapsed() < LIMIT, "{:?}", ends(&world).await);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let by = |protocol: &str| [protocol, "terminated", "identity_suspended"].map(str::to_owned);
    assert_eq!(ends(&world).await, [by("logs"), by("watch"), by("websocket")]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_change_ends_what_it_no_longer_permits_and_nothing_else() {
    for (from, to, cause) in [
        (
            "owner: team-a",
            "owner: team-a, state: Revoked",
            "identity_revoked",
        ),
        (
            "owner: team-a",
            "owner: team-a, expiresAt: 2020-01-01T00:00:00Z",
            "identity_expired",
        ),
        (
            "owner: team-a",
            "owner: team-a, reviewBy: 2020-01-01T00:00:00Z, whenOverdue: Suspend",
            "identity_overdue",
        ),
        ("resources: [pods, secrets", "resources: [secrets", "no_grant"),
        ("match: {verbs: [delete]}", "match: {verbs: [watch]}", "policy"),
        ("'agent:fixer'", "'agent:other'", "user_changed"),
    ] {
        let world = World::new().await;
        let _pods = rejudging(&world);
        let (watch, log) = (follow(&world, WATCH).await, follow(&world, LOG).await);
        let changed = Instant::now();
        world.store.replace_for_tests(policies(from, to));
        end(watch, changed, cause).await;
        if matches!(cause, "no_grant" | "policy") {
            tokio::time::sleep(Duration::from_millis(50)).await;
            assert!(!log.is_finished(), "{cause}");
        } else {
            end(log, changed, cause).await;
        }
        assert!(ends(&world).await.iter().all(|end| end[2] == cause), "{cause}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_changes_or_is_released_ends_what_it_runs() {
    let world = World::new().await;
    let pods = rejudging(&world);
    let watch = follow(&world, WATCH).await;
    let changed = Instant::now();
    world.set_pod(|pod| pod.service_account = "another".to_owned());
    pods.changed();
    end(watch, changed, "pod of another account").await;
    world.set_pod(|pod| pod.service_account = "fixer".to_owned());
    let watch = follow(&world, WATCH).await;
    let changed = Instant::now();
    world.released.cancel();
    pods.changed();
    end(watch, changed, "released pod").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_agents_end_breaks_off_is_no_clients_doing() {
    let world = World::new().await;
    let left = follow(&world, WATCH).await;
    left.abort();
    let ended = world.ended(1).await;
    assert_eq!(ended[0]["session"]["endReason"], "clientClosed");

    let (watch, exec) = (follow(&world, WATCH).await, exec(&world).await);
    world.drain.drain(Duration::ZERO).await;
    for running in [watch, exec] {
        end(running, Instant::now(), "session").await;
    }
    let ended = world.ended(3).await;
    for record in &ended[1..] {
        assert_eq!(record["session"]["endReason"], "terminated", "{record:#}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_moment_of_an_expiry_ends_what_runs() {
    let owner = |moment: jiff::Timestamp| {
        let expires = format!("owner: team-a, expiresAt: {moment}");
        policies("owner: team-a", &expires)
    };
    let grant = |fields: &str| policies("  upstream:", &format!("  {fields}\n  upstream:"));
    let expiring = |moment: jiff::Timestamp| grant(&format!("expiresAt: {moment}"));
    let hours = |moment: jiff::Timestamp| {
        let to = moment.strftime("%H:%M:%S");
        let from = (moment - Duration::from_secs(12 * 3600)).strftime("%H:%M:%S");
        grant(&format!(
            "window: {{daily: {{from: '{from}', to: '{to}', timezone: UTC}}}}"
        ))
    };
    let review = |moment: jiff::Timestamp| {
        let overdue = format!("owner: team-a, reviewBy: {moment}, whenOverdue: Suspend");
        policies("owner: team-a", &overdue)
    };
    let cases: [(&dyn Fn(jiff::Timestamp) -> PolicySet, &str); 4] = [
        (&owner, "identity_expired"),
        (&review, "identity_overdue"),
        (&expiring, "no_grant"),
        (&hours, "no_grant"),
    ];
    for (objects, cause) in cases {
        let world = World::new().await;
        let _pods = rejudging(&world);
        // Hours of the day end at a whole second.
        let second = jiff::Timestamp::now().as_second() + 4;
        let moment = jiff::Timestamp::from_second(second).expect("a moment");
        world.store.replace_for_tests(objects(moment));
        let watch = follow(&world, WATCH).await;
        let begun = Instant::now();
        let at = begun + moment.duration_since(jiff::Timestamp::now()).unsigned_abs();
        let seen = end(watch, at, "expiry").await;
        assert!(seen.at >= at, "{cause}: {:?} too early", at - seen.at);
        assert_eq!(ends(&world).await[0][2], cause);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_that_begins_while_policy_changes_is_judged_by_the_new_one() {
    let world = World::new().await;
    let _pods = rejudging(&world);
    let late = Request::get(target(
        "/api/v1/namespaces/n/pods?watch=true&resourceVersion=late",
    ));
    let asking = world.ask(late, "");
    let changing = async {
        // The request is permitted by now, and the API server has not answered: a sweep finds nothing to end.
        tokio::time::sleep(Duration::from_millis(100)).await;
        world
            .store
            .replace_for_tests(policies("owner: team-a", "owner: team-a, state: Suspended"));
    };
    let (answer, ()) = tokio::time::timeout(LIMIT, async { tokio::join!(asking, changing) })
        .await
        .expect("it goes on under the old policy");
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
    assert!(
        answer.json()["message"]
            .as_str()
            .is_some_and(|text| text.contains("suspended"))
    );
    assert_eq!(world.sessions.count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_reads_nothing_does_not_hold_its_session() {
    let world = World::new().await;
    let _pods = rejudging(&world);
    let mut sender = world.connect().await;
    let request = Request::get(target(WATCH))
        .header(header::HOST, "kubernetes.default.svc")
        .body(Full::new(Bytes::new()))
        .expect("a request");
    let _unread = sender.send_request(request).await.expect("an answer");
    assert_eq!(world.sessions.count(), 1);
    world
        .store
        .replace_for_tests(policies("owner: team-a", "owner: team-a, state: Suspended"));
    let changed = Instant::now();
    while world.sessions.count() > 0 {
        assert!(changed.elapsed() < LIMIT, "it runs on");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // The record comes just after the entry is gone.
    let ended = loop {
        if let [ended] = ends(&world).await.as_slice() {
            break ended.clone();
        }
        assert!(changed.elapsed() < LIMIT, "it has no record");
    };
    assert_eq!(ended[2], "identity_suspended");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_through_a_proxy_ends_with_what_permitted_it() {
    let world = World::new().await;
    let _pods = rejudging(&world);
    let proxied = "'pods/exec', 'services/proxy']}]
---
apiVersion: picket.dev/v1alpha1
kind: AgentPolicy
metadata: {name: proxied}
spec:
  subjects: {identities: [fixer]}
  exceptions: [builtin/services-proxy]";
    world.store.replace_for_tests(policies("'pods/exec']}]", proxied));
    let stream = follow(&world, "/api/v1/namespaces/n/services/s/proxy/events?follow=true").await;
    assert_eq!(world.sessions.count(), 1);
    let changed = Instant::now();
    world.store.replace_for_tests(policies("", ""));
    let seen = end(stream, changed, "proxied stream").await;
    assert!(!seen.in_order, "{:?}", seen.rest);
    assert_eq!(ends(&world).await[0][1..], ["terminated", "builtin"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_whose_body_is_held_back_does_not_outlive_what_permitted_it() {
    let world = World::new().await;
    let _pods = rejudging(&world);
    let head =
        "POST /api/v1/namespaces/n/configmaps HTTP/1.1\r\nhost: k\r\ncontent-length: 9\r\n\r\n{\"kept\":";
    for (before, suspended, arrives) in [(0, false, true), (1, true, false)] {
        let mut stream = world.stream().await;
        stream.write_all(head.as_bytes()).await.expect("sent");
        // It is permitted, and on its way.
        let received = |records: &[Value]| {
            let stages = records.iter().map(|record| &record["stage"]);
            stages.filter(|stage| *stage == "RequestReceived").count()
        };
        while received(&world.records().await) == before {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        if suspended {
            world
                .store
                .replace_for_tests(policies("owner: team-a", "owner: team-a, state: Suspended"));
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        stream.write_all(b"}").await.expect("sent");
        let mut answer = [0; 12];
        let _answered = tokio::time::timeout(LIMIT, stream.read_exact(&mut answer)).await;
        let whole = world
            .seen()
            .iter()
            .filter(|seen| seen.body == "{\"kept\":}")
            .count();
        assert_eq!(whole, 1, "suspended: {suspended}");
        assert_eq!(
            answer.starts_with(b"HTTP/1.1 200"),
            arrives,
            "{}",
            String::from_utf8_lossy(&answer)
        );
    }
}

/// Makes a write whose last byte comes `after` the rest, and says whether the API server got all of it.
async fn held_back(world: &World, after: Duration) -> bool {
    let head =
        "POST /api/v1/namespaces/n/configmaps HTTP/1.1\r\nhost: k\r\ncontent-length: 9\r\n\r\n{\"kept\":";
    let mut stream = world.stream().await;
    stream.write_all(head.as_bytes()).await.expect("sent");
    tokio::time::sleep(after).await;
    stream.write_all(b"}").await.expect("sent");
    let mut answer = [0; 12];
    let _answered = tokio::time::timeout(LIMIT, stream.read_exact(&mut answer)).await;
    let arrived = world.seen().iter().any(|seen| seen.body == "{\"kept\":}");
    assert_eq!(
        arrived,
        answer.starts_with(b"HTTP/1.1 200"),
        "{}",
        String::from_utf8_lossy(&answer)
    );
    arrived
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_whose_body_is_held_back_does_not_outlive_its_identity_or_grant() {
    for (lives, arrives) in [
        (Duration::from_millis(400), false),
        (Duration::from_secs(100), true),
    ] {
        for before in ["owner: team-a", "  upstream:"] {
            let world = World::new().await;
            // Nothing runs that the moment would wake a sweep for.
            let _pods = rejudging(&world);
            let moment = jiff::Timestamp::now() + lives;
            let expiring = match before {
                "  upstream:" => format!("  expiresAt: {moment}\n  upstream:"),
                owner => format!("{owner}, expiresAt: {moment}"),
            };
            world.store.replace_for_tests(policies(before, &expiring));
            assert_eq!(
                held_back(&world, Duration::from_millis(700)).await,
                arrives,
                "{lives:?} {before}"
            );
        }
    }
}

/// Between a decision and the sending lie the record's way to the disk and a connection's to the API server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_longer_permitted_when_it_could_be_sent_is_not_sent() {
    let read = || Request::get(target("/api/v1/namespaces/n/pods/x"));
    let write = || Request::put(target("/api/v1/namespaces/n/configmaps/x"));
    let exec = || {
        Request::get(target(EXEC))
            .header(header::CONNECTION, "Upgrade")
            .header(header::UPGRADE, "websocket")
    };
    let suspended = "owner: team-a, state: Suspended".to_owned();
    let expired = |lives| format!("owner: team-a, expiresAt: {}", jiff::Timestamp::now() + lives);
    for (request, kind) in [(read(), "read"), (write(), "write"), (exec(), "exec")] {
        let world = World::new().await;
        let _pods = rejudging(&world);
        let held = world.hold_server().await;
        let changing = async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            world
                .store
                .replace_for_tests(policies("owner: team-a", &suspended));
            tokio::time::sleep(Duration::from_millis(100)).await;
            drop(held);
        };
        let (answer, ()) = tokio::join!(world.ask(request, ""), changing);
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{kind}");
        let status = answer.json();
        let message = status["message"].as_str().expect("a message");
        assert!(message.contains("agent fixer is suspended"), "{kind}: {message}");
        assert!(world.seen().is_empty(), "{kind}: {:?}", world.seen());
        let records = world.ended(1).await;
        assert_eq!(
            records[0]["decision"]["outcome"], "deny",
            "{kind}: {}",
            records[0]
        );
        assert_eq!(records[0]["decision"]["reason"], "identity_suspended", "{kind}");
    }
    for request in [read(), exec()] {
        let world = World::new().await;
        world
            .store
            .replace_for_tests(policies("owner: team-a", &expired(Duration::from_millis(300))));
        let held = world.hold_server().await;
        let waiting = async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            drop(held);
        };
        let (answer, ()) = tokio::join!(world.ask(request, ""), waiting);
        assert_eq!(answer.status, StatusCode::FORBIDDEN);
        assert!(world.seen().is_empty(), "{:?}", world.seen());
    }
}

/// The sweep that a change has run may have to wait for the one before it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_longer_permitted_is_not_sent_though_no_sweep_has_begun() {
    let world = World::new().await;
    let held = world.hold_server().await;
    let changing = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        world
            .store
            .replace_for_tests(policies("owner: team-a", "owner: team-a, state: Suspended"));
        drop(held);
    };
    let read = Request::get(target("/api/v1/namespaces/n/pods/x"));
    let (answer, ()) = tokio::join!(world.ask(read, ""), changing);
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
    assert!(world.seen().is_empty(), "{:?}", world.seen());
}

//! Callers of the gateway before it is known who they are: they take nothing of what pods have, and each has one request and a
//! short time.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, StatusCode, header};
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use picket_policy::PolicySet;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::heads::{answer, frame, get, send, text};
use super::world::{Answer, World, ask_over, policies, target};
use crate::identity::jwt::testing::{TestIssuer, TestIssuers, TestKey};
use crate::listener::{Accepted, GatewayCallers, PodShare};

const PODS: &str = "/api/v1/namespaces/ns/pods";

/// The UID of a pod that the node enforces.
const ENFORCED: &str = "0d5a3c3e-7f3a-4a59-9a5b-0c6f4f0b8f11";

/// Long enough for whatever is to happen on a busy machine.
const LIMIT: Duration = Duration::from_secs(20);

/// The gateway, an issuer of tokens, and an agent that is known by these.
struct Bed {
    world: World,
    callers: GatewayCallers,
    issuer: TestIssuer,
    key: TestKey,
    issuers: TestIssuers,
}

fn objects(issuer: &TestIssuer) -> PolicySet {
    let jwt = format!("jwt: {{issuer: '{}', subject: ci}}", issuer.url());
    policies("pod: {namespace: ns, serviceAccount: fixer}", &jwt)
}

impl Bed {
    async fn new() -> Self {
        let key = TestKey::new("RS256");
        let issuer = TestIssuer::start(vec![key.published("k")]).await;
        let issuers = TestIssuers::of(&issuer);
        let world = World::with_issuers(issuers.issuers.clone()).await;
        world.store.replace_for_tests(objects(&issuer));
        Self {
            world,
            callers: GatewayCallers::beside_pod(ENFORCED),
            issuer,
            key,
            issuers,
        }
    }

    /// A connection from an address to the gateway, and its client's end.
    async fn accepted(&self, address: [u8; 4]) -> (TcpStream, Accepted) {
        let (client, mut accepted) = self.world.accepted().await;
        let (caller, share) = self.callers.stranger(IpAddr::from(address)).expect("a place");
        accepted.workload = None;
        accepted.process = None;
        accepted.permit = None;
        accepted.gateway = Some(caller);
        accepted.share = share;
        (client, accepted)
    }

    async fn stream(&self, address: [u8; 4], protocol: &[u8]) -> TlsStream<TcpStream> {
        let (client, accepted) = self.accepted(address).await;
        self.world.serve(accepted);
        self.world.handshake(client, protocol).await
    }

    async fn connect(&self, address: [u8; 4]) -> http1::SendRequest<Full<bytes::Bytes>> {
        let stream = self.stream(address, b"http/1.1").await;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.expect("HTTP");
        tokio::spawn(connection.with_upgrades());
        sender
    }

    fn claims(&self) -> Value {
        json!({
            "iss": self.issuer.url(), "sub": "ci", "aud": ["picket"], "exp": Timestamp::now().as_second() + 600,
        })
    }

    fn bearer(&self) -> String {
        self.bearer_of(&self.claims())
    }

    fn bearer_of(&self, claims: &Value) -> String {
        format!("Bearer {}", self.key.token("k", claims))
    }

    async fn ask(&self, sender: &mut http1::SendRequest<Full<bytes::Bytes>>, bearer: &str) -> Answer {
        let request = Request::get(target(PODS)).header(header::AUTHORIZATION, bearer);
        ask_over(sender, request, "").await
    }
}

/// The beginning of a long head whose end does not come.
fn half_a_head() -> Vec<u8> {
    format!("GET {PODS}?labelSelector={} HTTP/1.1\r\nx: ", "a".repeat(60_000)).into_bytes()
}

#[tokio::test]
async fn strangers_that_begin_long_heads_leave_the_pods_theirs() {
    let bed = Bed::new().await;
    let mut strangers = Vec::new();
    // So many as a node reads at once, and more.
    for number in 0..10 {
        let mut stream = bed.stream([192, 0, 2, number], b"http/1.1").await;
        send(&mut stream, &half_a_head()).await;
        strangers.push(stream);
    }
    let share = Arc::new(PodShare::default());
    let (client, mut accepted) = bed.world.accepted().await;
    accepted.share = Arc::clone(&share);
    bed.world.serve(accepted);
    let mut pod = bed.world.handshake(client, b"http/1.1").await;
    let long = get(&format!("{PODS}?labelSelector={}", "a".repeat(60_000)), "");
    send(&mut pod, &long).await;
    // Sooner than a stranger's time is over.
    let answered = tokio::time::timeout(Duration::from_secs(5), answer(&mut pod)).await;
    // The pod is nobody in this world; it was read, and that is what counts.
    assert_eq!(answered.expect("an answer in time").0, 403);
    drop(strangers);
}

#[tokio::test]
async fn a_known_caller_has_its_identity_s_share_and_holds_no_stranger_s_place() {
    let bed = Bed::new().await;
    let free = bed.callers.left_for_strangers();
    let mut sender = bed.connect([192, 0, 2, 1]).await;
    assert_eq!(bed.callers.left_for_strangers(), free - 1);
    let known = bed.ask(&mut sender, &bed.bearer()).await;
    assert_eq!(known.status, StatusCode::OK, "{:?}", known.body);
    assert!(
        !known.headers.contains_key(header::CONNECTION),
        "{:?}",
        known.headers
    );
    assert_eq!(bed.callers.left_for_strangers(), free);
    // It goes on, also after a refusal.
    let bad = bed.ask(&mut sender, "Bearer x").await;
    assert_eq!(bad.status, StatusCode::UNAUTHORIZED);
    assert!(!bad.headers.contains_key(header::CONNECTION), "{:?}", bad.headers);
    assert_eq!(bed.ask(&mut sender, &bed.bearer()).await.status, StatusCode::OK);
    // What the strangers at its address wrote of refusals is not its.
    let (_stranger, share) = bed.callers.stranger([192, 0, 2, 1].into()).expect("a place");
    share.refused(64 << 20);
    let asked = tokio::time::timeout(LIMIT, bed.ask(&mut sender, &bed.bearer())).await;
    assert_eq!(asked.expect("in time").status, StatusCode::OK);
}

#[tokio::test]
async fn a_long_first_head_counts_as_the_agent_s_once_the_agent_is_known() {
    let bed = Bed::new().await;
    let mut stream = bed.stream([192, 0, 2, 1], b"http/1.1").await;
    let target = format!("{PODS}?long=1&labelSelector={}", "a".repeat(600_000));
    let authorization = format!("authorization: {}\r\n", bed.bearer());
    send(&mut stream, &get(&target, &authorization)).await;
    bed.world.seen_are(1).await;
    // While it is under way.
    let (stranger, share) = bed.callers.stranger([192, 0, 2, 1].into()).expect("a place");
    assert_eq!(share.head_kilobytes.available_permits(), 2 * 1024);
    assert_eq!(share.requests.available_permits(), 64);
    let known = stranger.known_as(&Arc::from("fixer"));
    assert!(known.head_kilobytes.available_permits() < 8 * 1024);
    assert_eq!(known.requests.available_permits(), 8191);
}

#[tokio::test]
async fn a_refusal_is_the_last_answer_of_a_stranger() {
    let bed = Bed::new().await;
    let mut sender = bed.connect([192, 0, 2, 1]).await;
    let refused = bed.ask(&mut sender, "Bearer x").await;
    assert_eq!(refused.status, StatusCode::UNAUTHORIZED);
    assert_eq!(refused.headers[header::CONNECTION], "close");
    drop(sender);
    // Whether or not the client closes.
    let mut stream = bed.stream([192, 0, 2, 1], b"http/1.1").await;
    send(&mut stream, &get(PODS, "")).await;
    assert_eq!(answer(&mut stream).await.0, 401);
    let mut rest = Vec::new();
    let closed = tokio::time::timeout(LIMIT, stream.read_to_end(&mut rest)).await;
    assert!(closed.is_ok() && rest.is_empty());
}

/// A request of HTTP/2 with this in its `authorization`.
fn get2(stream: u32, authorization: &str) -> Vec<u8> {
    // :method GET, :scheme https, then a literal path, host and authorization.
    let mut block = vec![0x82, 0x87, 0x04];
    block.extend(text(PODS));
    block.push(0x01);
    block.extend(text("kubernetes"));
    block.extend([0x0f, 0x08]);
    block.extend(text(authorization));
    frame(1, 5, stream, &block)
}

fn preface() -> Vec<u8> {
    [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frame(4, 0, 0, &[])].concat()
}

/// Reads frames until this one has come: its kind, and its stream.
async fn until(stream: &mut TlsStream<TcpStream>, kind: u8, number: u32) {
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await.expect("a frame");
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        stream.read_exact(&mut payload).await.expect("a payload");
        let [.., a, b, c, d] = head;
        if head[3] == kind && u32::from_be_bytes([a, b, c, d]) == number {
            return;
        }
    }
}

#[tokio::test]
async fn a_stranger_of_http2_has_one_request_until_it_is_known() {
    let bed = Bed::new().await;
    let mut stream = bed.stream([192, 0, 2, 1], b"h2").await;
    let requests: Vec<u8> = (0..50)
        .flat_map(|number| get2(1 + 2 * number, "Bearer x"))
        .collect();
    send(&mut stream, &[preface(), requests].concat()).await;
    until(&mut stream, 1, 1).await;
    let mut rest = Vec::new();
    // The client does not close, and sends no acknowledgement.
    let closed = tokio::time::timeout(LIMIT, stream.read_to_end(&mut rest)).await;
    assert!(closed.is_ok(), "it stays open");
    assert_eq!(bed.world.ended(1).await.len(), 1);
    // Once it is known, all are answered.
    let mut stream = bed.stream([192, 0, 2, 1], b"h2").await;
    let requests: Vec<u8> = (0..50)
        .flat_map(|number| get2(1 + 2 * number, &bed.bearer()))
        .collect();
    send(&mut stream, &[preface(), requests].concat()).await;
    let all = tokio::time::timeout(LIMIT, bed.world.seen_are(50)).await;
    all.expect("all in time");
}

#[tokio::test]
async fn a_stranger_that_does_not_begin_or_does_not_go_on_is_closed_soon() {
    let bed = Bed::new().await;
    // No TLS.
    let (mut silent, accepted) = bed.accepted([192, 0, 2, 1]).await;
    bed.world.serve(accepted);
    // TLS and then nothing, or half a head, in both versions.
    let quiet = bed.stream([192, 0, 2, 1], b"http/1.1").await;
    let quiet2 = bed.stream([192, 0, 2, 1], b"h2").await;
    let mut half = bed.stream([192, 0, 2, 1], b"http/1.1").await;
    send(&mut half, b"GET /api HTTP/1.1\r\n").await;
    let mut half2 = bed.stream([192, 0, 2, 1], b"h2").await;
    send(&mut half2, &preface()).await;
    // Who is known stays.
    let mut known = bed.connect([192, 0, 2, 1]).await;
    assert_eq!(bed.ask(&mut known, &bed.bearer()).await.status, StatusCode::OK);
    tokio::time::pause();
    let began = tokio::time::Instant::now();
    let mut read = [0; 64];
    let _closed = tokio::time::timeout(LIMIT, silent.read(&mut read))
        .await
        .expect("no TLS");
    assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
    for mut stream in [quiet, quiet2, half, half2] {
        let mut read = Vec::new();
        let _closed = tokio::time::timeout(LIMIT, stream.read_to_end(&mut read))
            .await
            .expect("no request");
    }
    assert!(began.elapsed() < Duration::from_secs(12), "{:?}", began.elapsed());
    tokio::time::resume();
    assert_eq!(bed.ask(&mut known, &bed.bearer()).await.status, StatusCode::OK);
}

#[tokio::test]
async fn the_token_of_an_enforced_pod_is_refused_at_the_gateway_and_its_message_says_where_to_go() {
    let bed = Bed::new().await;
    let bound = |uid: &str, audiences: Value| {
        let mut claims = bed.claims();
        claims["aud"] = audiences;
        claims["kubernetes.io"] = json!({"namespace": "agents", "serviceaccount": {"name": "ci", "uid": "s"},
            "pod": {"name": "worker", "uid": uid}});
        bed.bearer_of(&claims)
    };
    for (bearer, reason) in [
        (bound(ENFORCED, json!(["picket"])), "jwt_enforced_pod"),
        // Of a pod on another node, which this agent does not know.
        (
            bound("another", json!(["picket", "picket.dev"])),
            "jwt_enforced_pod",
        ),
        (bound("another", json!(["picket"])), ""),
    ] {
        let before = bed.world.records().await.len();
        let mut sender = bed.connect([192, 0, 2, 1]).await;
        let answer = bed.ask(&mut sender, &bearer).await;
        if reason.is_empty() {
            assert_eq!(answer.status, StatusCode::OK);
            continue;
        }
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{reason}");
        let message = answer.json()["message"].as_str().expect("a message").to_owned();
        for word in ["pod agents/worker", "https://kubernetes.default.svc"] {
            assert!(message.contains(word), "{message}");
        }
        let records = bed.world.records().await;
        assert_eq!(records.len(), before + 1);
        assert_eq!(records[before]["decision"]["reason"], reason);
        assert_eq!(bed.issuers.failures(reason), before as u64 + 1);
    }
    assert_eq!(bed.world.seen().len(), 1);
}

//! Writes whose client leaves: the record has the write's result, or says that it is not known.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};

use super::outcome;
use super::world::World;

/// A ConfigMap's creation by hand; `length` is what it claims.
fn post(target: &str, body: &str, length: usize) -> Vec<u8> {
    format!("POST {target} HTTP/1.1\r\nhost: kubernetes\r\ncontent-length: {length}\r\n\r\n{body}")
        .into_bytes()
}

/// Waits until a write is on its way: from then on it has a record, whatever its client does.
async fn sending(world: &World) {
    while world.upstream.connections() == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

const CONFIGMAPS: &str = "/api/v1/namespaces/n/configmaps?slow=1";

#[tokio::test]
async fn a_write_whose_client_left_is_recorded_with_its_result() {
    let world = World::new().await;
    let mut client = world.stream().await;
    client.write_all(&post(CONFIGMAPS, "{}", 2)).await.expect("sent");
    world.seen_are(1).await;
    drop(client);
    let records = world.ended(1).await;
    let [record] = &records[..] else {
        panic!("{records:#?}")
    };
    assert_eq!(outcome(record)[..2], ["ResponseComplete", "allow"], "{record:#}");
    assert_eq!(record["responseStatus"]["code"], 200);
    assert_eq!(record["decision"]["reason"], Value::Null);
}

#[tokio::test]
async fn every_effect_of_clients_that_leave_at_any_moment_is_on_record() {
    let world = World::new().await;
    // From before the record is on disk to behind the answer.
    let leaving = (0..40).map(async |number| {
        let mut client = world.stream().await;
        let target = format!("{CONFIGMAPS}&n={number}");
        client.write_all(&post(&target, "{}", 2)).await.expect("sent");
        tokio::time::sleep(Duration::from_millis(number * 10)).await;
        drop(client);
    });
    futures::future::join_all(leaving).await;
    // Requests that came no further than the connection have no record at all, so the quiet tells the end.
    let mut records = world.records().await;
    loop {
        tokio::time::sleep(Duration::from_millis(600)).await;
        let more = world.records().await;
        if more.len() == records.len() {
            break;
        }
        records = more;
    }
    let seen = world.seen();
    assert!(!seen.is_empty(), "no write arrived at all");
    for effect in &seen {
        let found = records.iter().find(|record| {
            record["requestURI"] == effect.target.as_str() && record["stage"] == "ResponseComplete"
        });
        let record = found.unwrap_or_else(|| panic!("no record of {}: {records:#?}", effect.target));
        assert_eq!(outcome(record)[1], "allow", "{record:#}");
        assert_eq!(record["responseStatus"]["code"], 200);
    }
}

#[tokio::test]
async fn a_write_of_http2_that_was_reset_is_recorded_with_its_result() {
    let world = World::new().await;
    let stream = world.stream_of(b"h2").await;
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .expect("HTTP/2");
    tokio::spawn(connection);
    let request = Request::post(format!("https://kubernetes{CONFIGMAPS}"))
        .body(http_body_util::Full::new(Bytes::from_static(b"{}")))
        .expect("a request");
    let sending = tokio::spawn(sender.send_request(request));
    world.seen_are(1).await;
    // Dropping it resets the stream; the connection stays.
    sending.abort();
    let records = world.ended(1).await;
    assert_eq!(outcome(&records[0])[..2], ["ResponseComplete", "allow"]);
    assert_eq!(records[0]["responseStatus"]["code"], 200);
    drop(sender);
}

#[tokio::test]
async fn a_write_whose_body_did_not_come_whole_is_not_sent_on() {
    let world = World::new().await;
    let mut client = world.stream().await;
    client
        .write_all(&post(CONFIGMAPS, "{\"a\"", 10))
        .await
        .expect("sent");
    client.flush().await.expect("sent");
    sending(&world).await;
    drop(client);
    let records = world.ended(1).await;
    assert_eq!(outcome(&records[0])[..2], ["ResponseComplete", "error"]);
    assert_eq!(
        records[0]["decision"]["reason"], "body_incomplete",
        "{:#}",
        records[0]
    );
    assert!(world.seen().is_empty(), "{:?}", world.seen());
}

#[tokio::test]
async fn half_a_body_of_http2_does_not_pass_for_a_whole_one() {
    let world = World::new().await;
    let stream = world.stream_of(b"h2").await;
    let (client, connection) = h2::client::handshake(stream).await.expect("HTTP/2");
    tokio::spawn(async move { connection.await.ok() });
    let mut client = client.ready().await.expect("ready");
    let request = Request::post(format!("https://kubernetes{CONFIGMAPS}")).body(());
    let (_response, mut body) = client
        .send_request(request.expect("a request"), false)
        .expect("sent");
    body.send_data(Bytes::from_static(b"kind: ConfigMap\n"), false)
        .expect("sent");
    sending(&world).await;
    // hyper takes this for the body's end.
    body.send_reset(h2::Reason::NO_ERROR);
    let records = world.ended(1).await;
    assert_eq!(
        records[0]["decision"]["reason"], "body_incomplete",
        "{:#}",
        records[0]
    );
    assert!(world.seen().is_empty(), "{:?}", world.seen());
}

#[tokio::test]
async fn a_stream_that_is_reset_behind_its_last_byte_takes_nothing_back() {
    let world = World::new().await;
    let stream = world.stream_of(b"h2").await;
    let (client, connection) = h2::client::handshake(stream).await.expect("HTTP/2");
    tokio::spawn(async move { connection.await.ok() });
    let mut client = client.ready().await.expect("ready");
    let request = Request::post(format!("https://kubernetes{CONFIGMAPS}"))
        .header(http::header::CONTENT_LENGTH, 2)
        .body(());
    let (_response, mut body) = client
        .send_request(request.expect("a request"), false)
        .expect("sent");
    body.send_data(Bytes::from_static(b"{}"), false).expect("sent");
    sending(&world).await;
    // Before the frame that would have said that this was all.
    body.send_reset(h2::Reason::CANCEL);
    let records = world.ended(1).await;
    assert_eq!(
        outcome(&records[0])[..2],
        ["ResponseComplete", "allow"],
        "{:#}",
        records[0]
    );
    assert_eq!(world.seen()[0].body, "{}");
}

#[tokio::test]
async fn a_write_that_ends_with_the_agent_after_it_was_sent_is_unknown() {
    let world = World::new().await;
    let mut client = world.stream().await;
    client.write_all(&post(CONFIGMAPS, "{}", 2)).await.expect("sent");
    world.seen_are(1).await;
    world.drain.drain(Duration::ZERO).await;
    let records = world.ended(1).await;
    assert_eq!(
        outcome(&records[0])[..2],
        ["ResponseComplete", "unknown"],
        "{:#}",
        records[0]
    );
}

#[tokio::test]
async fn a_write_whose_answer_is_lost_is_unknown() {
    let world = World::new().await;
    let mut client = world.stream().await;
    client.write_all(&post(CONFIGMAPS, "{}", 2)).await.expect("sent");
    world.seen_are(1).await;
    world.break_off_server();
    let mut answer = [0; 12];
    client.read_exact(&mut answer).await.expect("an answer");
    assert_eq!(&answer, b"HTTP/1.1 502");
    let records = world.ended(1).await;
    assert_eq!(outcome(&records[0])[..2], ["ResponseComplete", "unknown"]);
    assert_eq!(
        records[0]["annotations"]["authorization.k8s.io/decision"],
        "allow"
    );
}

/// The head of the next answer, in lower case.
async fn head(client: &mut (impl AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await.expect("a head"));
    }
    String::from_utf8(head).expect("text").to_ascii_lowercase()
}

/// A client that is answered before it has sent its whole body learns from the answer that the connection closes. Without that
/// word its next request fails.
#[tokio::test]
async fn an_answer_before_the_end_of_the_body_says_that_the_connection_closes() {
    let mut world = World::new().await;
    // Refused by policy, and then where the body is let go together with the answer.
    for status in [403, 503] {
        if status == 503 {
            world.lose_server().await;
        }
        for (length, closes) in [(2, false), (3, true), (400_000, true)] {
            let mut client = world.stream().await;
            let denied = post("/api/v1/namespaces/n/pods/x", "{}", length);
            let denied = String::from_utf8(denied).expect("text").replace("POST", "DELETE");
            let request = match status {
                403 => denied.into_bytes(),
                _ => post("/api/v1/namespaces/n/configmaps", "{}", length),
            };
            client.write_all(&request).await.expect("sent");
            let head = head(&mut client).await;
            assert!(head.starts_with(&format!("http/1.1 {status}")), "{head}");
            assert_eq!(
                head.contains("\r\nconnection: close\r\n"),
                closes,
                "{length}: {head}"
            );
        }
    }
}

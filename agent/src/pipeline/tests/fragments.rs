//! A `#` in a target is refused, whatever stands before it on its connection.

use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};

use super::heads::{answer, answer2, connect2, frame, get, get2, send, text};
use super::world::World;

const CONFIGMAPS: &str = "/api/v1/namespaces/n/configmaps";
const SEED: &str = "/api/v1/namespaces/n/configmaps/seed";
const FRAGMENT: &str = "/api/v1/namespaces/n/configmaps/seed#x";

fn delete(target: &str) -> String {
    format!("DELETE {target} HTTP/1.1\r\nhost: kubernetes\r\n\r\n")
}

/// That the last of so many records, and nothing of the API server's, is the target with a fragment.
async fn is_refused(world: &World, records: usize, status: &str, shown: &str) {
    let status: Value = serde_json::from_str(status).unwrap_or_else(|_| panic!("no Status: {status}"));
    assert_eq!(status["code"], 400, "{status}");
    let records = world.ended(records).await;
    let unreadable = |record: &&Value| record["decision"]["reason"] == "unreadable";
    let record = records.iter().rfind(unreadable).expect("a record");
    assert_eq!(record["requestURI"], shown);
    let seen = world.seen();
    assert!(seen.iter().all(|seen| !seen.target.starts_with(SEED)), "{seen:?}");
}

/// That the connection ends, with nothing more.
async fn ends(stream: &mut (impl AsyncRead + Unpin)) {
    let mut more = [0; 16];
    let end = tokio::time::timeout(std::time::Duration::from_secs(5), stream.read(&mut more)).await;
    assert!(matches!(end, Ok(Ok(0) | Err(_))), "it goes on: {end:?}");
}

/// How many good answers come before the connection closes, and the `Status` among them.
async fn answers(stream: &mut (impl AsyncRead + Unpin)) -> (usize, String) {
    let mut read = Vec::new();
    stream.read_to_end(&mut read).await.ok();
    let read = String::from_utf8(read).expect("text");
    let status = read.find('{').zip(read.rfind('}'));
    let status = status.map_or("", |(begin, end)| &read[begin..=end]);
    (read.matches("HTTP/1.1 200").count(), status.to_owned())
}

#[tokio::test]
async fn behind_requests_and_bodies_in_one_write() {
    let world = World::new().await;
    let mut stream = world.stream().await;
    let post =
        format!("POST {CONFIGMAPS} HTTP/1.1\r\nhost: kubernetes\r\ncontent-length: 12\r\n\r\nhello world!");
    let first = String::from_utf8(get(&format!("{CONFIGMAPS}/a"), "")).expect("text");
    let last = String::from_utf8(get(&format!("{CONFIGMAPS}/a"), "connection: close\r\n")).expect("text");
    let all = [&first, &post, "\r\n", &first, &delete(FRAGMENT), &last].concat();
    send(&mut stream, all.as_bytes()).await;
    let (good, status) = answers(&mut stream).await;
    assert_eq!(good, 4);
    is_refused(&world, 5, &status, &FRAGMENT.replace('#', "%23")).await;
    assert_eq!(world.seen()[1].body, "hello world!");
}

#[tokio::test]
async fn behind_the_end_of_a_body_that_came_in_pieces() {
    let world = World::new().await;
    let mut stream = world.stream().await;
    let body = "b".repeat(100_000);
    let post =
        format!("POST {CONFIGMAPS} HTTP/1.1\r\nhost: kubernetes\r\ncontent-length: 100000\r\n\r\n{body}");
    let last = delete(FRAGMENT).replace("host:", "connection: close\r\nhost:");
    let all = format!("{post}{last}");
    for piece in all.as_bytes().chunks(70_001) {
        send(&mut stream, piece).await;
    }
    let (good, status) = answers(&mut stream).await;
    assert_eq!(good, 1);
    is_refused(&world, 2, &status, &FRAGMENT.replace('#', "%23")).await;
    assert!(world.seen()[0].body == body);
}

#[tokio::test]
async fn behind_a_chunked_body_no_request_is_read() {
    for together in [false, true] {
        let world = World::new().await;
        let mut stream = world.stream().await;
        let chunked = "transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n";
        let post = format!("POST {CONFIGMAPS} HTTP/1.1\r\nhost: kubernetes\r\n{chunked}");
        let more = if together { delete(FRAGMENT) } else { String::new() };
        send(&mut stream, format!("{post}{more}").as_bytes()).await;
        assert_eq!(answer(&mut stream).await, (200, "done".to_owned()));
        ends(&mut stream).await;
        let seen = world.seen();
        assert!(seen.len() == 1 && seen[0].body == "{}", "{seen:?}");
    }
}

#[tokio::test]
async fn behind_an_upgrade_that_is_refused_no_request_is_read() {
    let world = World::new().await;
    let mut stream = world.stream().await;
    let upgrade = get(
        &format!("{CONFIGMAPS}/a"),
        "connection: upgrade\r\nupgrade: unknown\r\n",
    );
    send(&mut stream, &[&upgrade[..], delete(FRAGMENT).as_bytes()].concat()).await;
    answer(&mut stream).await;
    ends(&mut stream).await;
    assert!(world.seen().iter().all(|seen| !seen.target.starts_with(SEED)));
}

/// HEADERS of a request, with these fields at their end.
fn headers(stream: u32, fields: &[u8]) -> Vec<u8> {
    let begin = [&[0x82, 0x87, 0x01][..], &text("kubernetes")].concat();
    frame(1, 5, stream, &[&begin, fields].concat())
}

#[tokio::test]
async fn a_path_whose_name_is_in_the_table_of_http2() {
    // With the name of an entry: without indexing, with it, and twice in a block so that the stream is malformed.
    let good = [&[0x44][..], &text("/api/v1/namespaces/n/configmaps/a")].concat();
    let named = |first: &[u8]| [first, &text(FRAGMENT)].concat();
    for fields in [named(&[0x0f, 0x2f]), named(&[0x7e]), named(b"\x40\x05:path")] {
        let world = World::new().await;
        let mut http2 = connect2(&world).await;
        send(&mut http2, &headers(1, &good)).await;
        assert_eq!(answer2(&mut http2, 1).await.1, "done");
        send(&mut http2, &headers(3, &fields)).await;
        let (_, status) = answer2(&mut http2, 3).await;
        is_refused(&world, 2, &status, &FRAGMENT.replace('#', "%23")).await;
        if fields[0] >= 0x40 {
            // As a whole.
            send(&mut http2, &headers(5, &[0xbe])).await;
            let (_, status) = answer2(&mut http2, 5).await;
            assert!(status.contains("400"), "{status}");
        }
        // A header that may hold one, by the name of an entry, and the connection's table.
        let header = [&[0x40][..], &text("x"), &text("/a#b"), &[0x7e], &text("/c#d")].concat();
        send(&mut http2, &headers(7, &[&good[..], &header].concat())).await;
        assert_eq!(answer2(&mut http2, 7).await.1, "done");
        send(&mut http2, &headers(9, &[0xc0, 0xbe, 0xbf])).await;
        assert_eq!(answer2(&mut http2, 9).await.1, "done");
        let seen = world.seen();
        for seen in &seen[1..] {
            let values: Vec<_> = seen
                .headers
                .get_all("x")
                .iter()
                .map(|value| value.as_bytes())
                .collect();
            assert_eq!(values.len(), 2);
            assert!(
                values.contains(&&b"/a#b"[..]) && values.contains(&&b"/c#d"[..]),
                "{values:?}"
            );
        }
        assert!(seen.iter().all(|seen| !seen.target.starts_with(SEED)), "{seen:?}");
    }
}

/// That a request by a reference to the newest entries does not reach the object.
async fn reaches_nothing(world: &World, mut http2: impl AsyncRead + AsyncWrite + Unpin, bytes: &[u8]) {
    send(&mut http2, bytes).await;
    let mut read = Vec::new();
    let reading = http2.read_to_end(&mut read);
    let _either = tokio::time::timeout(std::time::Duration::from_secs(1), reading).await;
    assert!(world.seen().is_empty(), "{:?}", world.seen());
}

#[tokio::test]
async fn a_block_that_h2_refuses_brings_nothing_into_the_table() {
    let field = [&[0x40][..], &text("x"), &text("y")].concat();
    let entry = [&[0x44][..], &text(FRAGMENT)].concat();
    let path = |first: &[u8]| headers(7, &[first, &text(FRAGMENT)].concat());
    let good = headers(1, &[&[0x44][..], &text("/nowhere")].concat());
    // A path twice: the stream is reset, and the second path is in the table.
    let twice = headers(1, &[&[0x44][..], &text("/nowhere"), &entry].concat());
    let own = [&[0, 0, 0, 5, 0][..], &[0x82, 0x87], &field].concat();
    let push = [&[0, 0, 0, 4, 0x82, 0x82][..], &field].concat();
    for bytes in [
        [twice, headers(3, &[0xbe])].concat(),
        // Streams that depend on themselves and promises are reset: h2 reads one block, and not the other.
        [good.clone(), frame(1, 0x25, 5, &own), path(&[0x0f, 0x2f])].concat(),
        [good, frame(5, 4, 1, &push), path(&[0x0f, 0x30])].concat(),
    ] {
        let world = World::new().await;
        let http2 = connect2(&world).await;
        reaches_nothing(&world, http2, &bytes).await;
    }
}

#[tokio::test]
async fn the_record_has_a_refused_target_as_it_was_sent() {
    for (target, shown) in [
        (
            "/api/v1/namespaces/n/configmaps/a<#x",
            "/api/v1/namespaces/n/configmaps/a%3C%23x",
        ),
        ("/a\\b#", "/a\\b%23"),
        ("/a b#c", "/a%20b%23c"),
        ("/a?b=<\"#", "/a?b=%3C%22%23"),
        ("*#", "/*%23"),
    ] {
        let world = World::new().await;
        let mut http1 = world.stream().await;
        send(&mut http1, &get(target, "")).await;
        let (_, status) = answer(&mut http1).await;
        is_refused(&world, 1, &status, shown).await;
        let mut http2 = connect2(&world).await;
        send(&mut http2, &get2(1, target, 0x44)).await;
        let (_, status) = answer2(&mut http2, 1).await;
        is_refused(&world, 2, &status, shown).await;
    }
}
